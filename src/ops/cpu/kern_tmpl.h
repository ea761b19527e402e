/* Body of every kern_<isa>.c: define KERN_NAME, KERN_TEXT and KERN_WIDTH (fp32 lanes of a register) before including.
 * See kern.h for the contract. */
#include "num/num.h"
#include "ops/cpu/kern.h"

#include "base/mutant.h"

enum { LANES = 16, BLOCK_K = 128 };

/* A register of the level, and a chain of 16 lanes made of such registers. Chains are passed by pointer only: by value their
 * ABI would depend on the instruction set. */
typedef float reg __attribute__((vector_size(KERN_WIDTH * sizeof(float)), aligned(4), may_alias));
typedef uint32_t ureg __attribute__((vector_size(KERN_WIDTH * sizeof(float)), aligned(4), may_alias));

enum { REGS = LANES / KERN_WIDTH };

struct chain {
    reg v[REGS];
};

static inline void mul_add(struct chain *acc, const float *x, const float *w)
{
    for (int r = 0; r < REGS; r++)
        acc->v[r] += *(const reg *)(x + r * KERN_WIDTH) * *(const reg *)(w + r * KERN_WIDTH);
}

/* The two chains of a sum, then a fixed tree over the 16 lanes. */
static inline float join(const struct chain *even, const struct chain *odd)
{
    float a[LANES];
    for (int r = 0; r < REGS; r++)
        *(reg *)(a + r * KERN_WIDTH) = even->v[r] + odd->v[r];
    for (int i = 0; i < 8; i++)
        a[i] += a[i + 8];
    for (int i = 0; i < 4; i++)
        a[i] += a[i + 4];
    return (a[0] + a[2]) + (a[1] + a[3]);
}

/* The last n < 16 elements, zero-filled: adding 0*0 to a lane changes nothing. */
static inline void mul_add_tail(struct chain *acc, const float *x, const float *w, int n)
{
    float xt[LANES] = {0}, wt[LANES] = {0};
    memcpy(xt, x, (size_t)n * sizeof(float));
    memcpy(wt, w, (size_t)n * sizeof(float));
    mul_add(acc, xt, wt);
}

static inline float dot_inline(const float *x, const float *w, int n)
{
    struct chain even = {{{0}}}, odd = {{{0}}};
    int i = 0;
    for (; i + 2 * LANES <= n; i += 2 * LANES) {
        mul_add(&even, x + i, w + i);
        mul_add(&odd, x + i + LANES, w + i + LANES);
    }
    if (i + LANES <= n) {
        mul_add(&even, x + i, w + i);
        i += LANES;
    }
    if (i < n)
        mul_add_tail(&even, x + i, w + i, n - i);
    return join(&even, &odd);
}

static float dot(const float *x, const float *w, int n)
{
    return dot_inline(x, w, n);
}

static inline void dot4(const float *x, size_t ldx, const float *w, int n, float *y, size_t ldy)
{
    const float *x1 = x + ldx, *x2 = x + 2 * ldx, *x3 = x + 3 * ldx;
    struct chain e0 = {{{0}}}, e1 = e0, e2 = e0, e3 = e0, o0 = e0, o1 = e0, o2 = e0, o3 = e0;
    int i = 0;
    for (; i + 2 * LANES <= n; i += 2 * LANES) {
        const float *w0 = w + i, *w1 = w0 + LANES;
        mul_add(&e0, x + i, w0);
        mul_add(&e1, x1 + i, w0);
        mul_add(&e2, x2 + i, w0);
        mul_add(&e3, x3 + i, w0);
        mul_add(&o0, x + i + LANES, w1);
        mul_add(&o1, x1 + i + LANES, w1);
        mul_add(&o2, x2 + i + LANES, w1);
        mul_add(&o3, x3 + i + LANES, w1);
    }
    for (; i < n; i += LANES) {
        int m = n - i < LANES ? n - i : LANES;
        mul_add_tail(&e0, x + i, w + i, m);
        mul_add_tail(&e1, x1 + i, w + i, m);
        mul_add_tail(&e2, x2 + i, w + i, m);
        mul_add_tail(&e3, x3 + i, w + i, m);
    }
    y[0] = join(&e0, &o0);
    y[ldy] = join(&e1, &o1);
    y[2 * ldy] = join(&e2, &o2);
    y[3 * ldy] = join(&e3, &o3);
}

static void dot_many(const float *x, size_t ldx, int nx, const float *w, int n, float *y, size_t ldy)
{
    int i = 0;
    for (; i + 4 <= nx; i += 4)
        dot4(x + (size_t)i * ldx, ldx, w, n, y + (size_t)i * ldy, ldy);
    for (; i < nx; i++)
        y[(size_t)i * ldy] = dot_inline(x + (size_t)i * ldx, w, n);
}

static float sum_squares(const float *x, int n)
{
    return dot_inline(x, x, n);
}

static void axpy(float a, const float *x, int n, float *y)
{
    for (int i = 0; i < n; i++)
        y[i] += a * x[i];
}

/* ---- decoding: exact for every format */

static inline float scale_at(const struct wmat *w, size_t i)
{
    if (!w->scale_f32)
        return f32_from_e8m0(((const uint8_t *)w->scale)[i]);
    float s;
    memcpy(&s, (const uint8_t *)w->scale + 4 * i, 4);
    return s;
}

/* e4m3 bits moved to fp32 bits are the value times 2^-120 (an fp32 subnormal for an e4m3 subnormal). */
static void decode_fp8(const uint8_t *in, int n, float s, float *out)
{
    for (int i = 0; i < n; i++) {
        uint32_t b = in[i];
        out[i] = f32_from_bits((b & 0x80) << 24 | (b & 0x7f) << 20) * 0x1p120f * s;
    }
}

static void decode_fp4(const uint8_t *in, int n, float s, float *out)
{
    for (int i = 0; i < n; i += 2) {
        uint8_t b = in[i / 2];
        if (MUTANT(17)) /* wrong nibble order */
            b = (uint8_t)(b << 4 | b >> 4);
        memcpy(out + i, e2m1_pairs[b], sizeof e2m1_pairs[b]);
    }
    for (int i = 0; i < n; i++)
        out[i] *= s;
}

static void decode_blocks(const struct wmat *w, int r, int c0, int n, float *out)
{
    bool fp8 = w->format == W_FP8;
    int block = fp8 ? BLOCK_K : 32, per_row = (w->cols + block - 1) / block;
    size_t scale_row = (size_t)(fp8 ? r / BLOCK_K : r) * (size_t)per_row;
    const uint8_t *in = (const uint8_t *)w->data + (size_t)r * (size_t)(fp8 ? w->cols : w->cols / 2);
    for (int i = 0; i < n; i += block) {
        int m = n - i < block ? n - i : block;
        float s = scale_at(w, scale_row + (size_t)((c0 + i) / block));
        if (fp8)
            decode_fp8(in + c0 + i, m, s, out + i);
        else
            decode_fp4(in + (c0 + i) / 2, m, s, out + i);
    }
}

static void decode(const struct wmat *w, int r, int c0, int n, float *out)
{
    size_t at = (size_t)r * (size_t)w->cols + (size_t)c0;
    if (w->format == W_FP8 || w->format == W_FP4) {
        decode_blocks(w, r, c0, n, out);
    } else if (w->format == W_F32) {
        memcpy(out, (const float *)w->data + at, (size_t)n * sizeof(float));
    } else {
        const uint16_t *h = (const uint16_t *)w->data + at;
        for (int i = 0; i < n; i++)
            out[i] = w->format == W_BF16 ? f32_from_bf16(h[i]) : f32_from_f16(h[i]);
    }
}

static void round_bf16(const float *x, size_t n, float *y)
{
    size_t i = 0;
    for (; i + KERN_WIDTH <= n; i += KERN_WIDTH) {
        ureg u = *(const ureg *)(x + i), r = (u + 0x7fffu + (u >> 16 & 1)) & 0xffff0000u;
        ureg nan = (ureg)((u & 0x7fffffffu) > 0x7f800000u);
        *(ureg *)(y + i) = (r & ~nan) | (u & nan);
    }
    for (; i < n; i++)
        y[i] = bf16_round(x[i]);
}

const struct kern KERN_NAME = {KERN_TEXT, dot, dot_many, sum_squares, axpy, decode, round_bf16};
