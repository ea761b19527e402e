/* Body of every kern_row_<isa>.c but the reference: define KERN_NAME, KERN_TEXT and KERN_WIDTH (fp32 lanes of a register)
 * before including. See row_kern.h for the contract and kern_row_ref.c for the definitions. */
#include <assert.h>
#include <math.h>
#include <string.h>

#include "ops/cpu/row_parts.h"

typedef float vec __attribute__((vector_size(KERN_WIDTH * 4), aligned(4), may_alias));
typedef int32_t ivec __attribute__((vector_size(KERN_WIDTH * 4), aligned(4), may_alias));
typedef uint32_t uvec __attribute__((vector_size(KERN_WIDTH * 4), aligned(4), may_alias));

enum { W = KERN_WIDTH };

#define ALWAYS_INLINE static inline __attribute__((always_inline))
#define UNROLL _Pragma("GCC unroll 16")
#define AT(p) (*(vec *)(p))
#define LOAD(p) (*(const vec *)(p))

/* a where the mask says so, else b. */
ALWAYS_INLINE vec choose(ivec mask, vec a, vec b)
{
    return (vec)((mask & (ivec)a) | (~mask & (ivec)b));
}

ALWAYS_INLINE vec set(float x)
{
    vec zero = {0};
    return zero + x; /* never -0 */
}

/* n < W values, the rest 0; and back. */
ALWAYS_INLINE vec load_part(const float *p, int n)
{
    float v[W] = {0};
    memcpy(v, p, (size_t)n * sizeof *v);
    return AT(v);
}

ALWAYS_INLINE void store_part(float *p, vec v, int n)
{
    memcpy(p, &v, (size_t)n * sizeof *p);
}

ALWAYS_INLINE vec magnitude(vec x)
{
    return (vec)((ivec)x & 0x7fffffff);
}

ALWAYS_INLINE vec rounded_bf16(vec x)
{
    uvec u = (uvec)x, r = (u + 0x7fffu + (u >> 16 & 1)) & 0xffff0000u;
    return choose(x == x, (vec)r, x);
}

ALWAYS_INLINE vec rounded(vec x, bool round)
{
    return round ? rounded_bf16(x) : x;
}

/* Lane i of PARTNER(v, half) is lane i ^ half of v. */
#define AS_IS(b) b, b + 1, b + 2, b + 3
#define ORDER_1(b) b + 1, b, b + 3, b + 2
#define ORDER_2(b) b + 2, b + 3, b, b + 1
#if KERN_WIDTH == 4
#define OF_QUADS(order) order(0)
#elif KERN_WIDTH == 8
#define OF_QUADS(order) order(0), order(4)
#else
#define OF_QUADS(order) order(0), order(4), order(8), order(12)
#endif
#define PARTNER_1(v) __builtin_shufflevector(v, v, OF_QUADS(ORDER_1))
#define PARTNER_2(v) __builtin_shufflevector(v, v, OF_QUADS(ORDER_2))
#if KERN_WIDTH == 8
#define PARTNER_4(v) __builtin_shufflevector(v, v, AS_IS(4), AS_IS(0))
#elif KERN_WIDTH == 16
#define PARTNER_4(v) __builtin_shufflevector(v, v, AS_IS(4), AS_IS(0), AS_IS(12), AS_IS(8))
#define PARTNER_8(v) __builtin_shufflevector(v, v, AS_IS(8), AS_IS(12), AS_IS(0), AS_IS(4))
#endif

#include "ops/cpu/row_value_tmpl.h"
#include "ops/cpu/row_quant_tmpl.h"
#include "ops/cpu/row_stream_tmpl.h"
#include "ops/cpu/row_choose_tmpl.h"

const struct row_kern KERN_NAME = {KERN_TEXT, scale, rotate, fp8_sim, fp8_put, hadamard, fp4_sim, fp4_put, swiglu,
                                   sum_rows, mix_streams, collapse, sinkhorn, pool, top_experts, count_scores, top_k};
