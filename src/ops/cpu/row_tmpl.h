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

/* ---------------------------------------------------------------- norm and rotation */

static void scale(const float *x, const float *w, float r, int n, float *y)
{
    int i = 0;
    for (; i + W <= n; i += W)
        AT(y + i) = w == NULL ? LOAD(x + i) * r : LOAD(w + i) * (LOAD(x + i) * r);
    for (; i < n; i++)
        y[i] = w == NULL ? x[i] * r : w[i] * (x[i] * r);
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

ALWAYS_INLINE vec rotated(vec v, vec co, vec si)
{
    return v * co + PARTNER_1(v) * si;
}

static void rotate(float *v, const float *co, const float *si, int n)
{
    int i = 0;
    for (; i + W <= n; i += W)
        AT(v + i) = rotated(LOAD(v + i), LOAD(co + i), LOAD(si + i));
    if (i < n)
        store_part(v + i, rotated(load_part(v + i, n - i), load_part(co + i, n - i), load_part(si + i, n - i)), n - i);
}

/* ---------------------------------------------------------------- quantisers */

/* Largest magnitude, NaN passed over. */
ALWAYS_INLINE float largest(const float *x, int n)
{
    vec top = {0};
    int i = 0;
    for (; i + W <= n; i += W) {
        vec a = magnitude(LOAD(x + i));
        top = choose(a > top, a, top);
    }
    if (i < n) {
        vec a = magnitude(load_part(x + i, n - i));
        top = choose(a > top, a, top);
    }
    float v[W], most = 0;
    AT(v) = top;
    for (int k = 0; k < W; k++)
        most = v[k] > most ? v[k] : most;
    return most;
}

/* Magnitudes rounded to e4m3, saturating; NaN to NaN. */
ALWAYS_INLINE vec rounded_e4m3(vec a)
{
    uvec u = (uvec)a;
    vec normal = (vec)((u + 0x7ffffu + (u >> 20 & 1)) & 0xfff00000u), small = (a + 0x1.8p14f) - 0x1.8p14f;
    vec r = choose(a < set(0x1p-6f), small, normal);
    r = choose(a >= set(448), set(448), r);
    return choose(a == a, r, set(NAN));
}

ALWAYS_INLINE vec with_sign(vec magnitude_of, vec sign_of)
{
    return (vec)((ivec)magnitude_of | ((ivec)sign_of & INT32_MIN));
}

/* As the official code's table, which has one NaN for both signs. */
ALWAYS_INLINE vec simulated_e4m3(vec x, float down, float up)
{
    vec v = x * down, r = with_sign(rounded_e4m3(magnitude(v)), v);
    return choose(v == v, r, set(NAN)) * up;
}

static void fp8_sim(float *x, int n, int block)
{
    for (int b = 0; b < n; b += block) {
        int m = n - b < block ? n - b : block, e = act_quant_exponent(largest(x + b, m)), i = 0;
        float *p = x + b, down = pow2f(-e), up = pow2f(e);
        for (; i + W <= m; i += W)
            AT(p + i) = simulated_e4m3(LOAD(p + i), down, up);
        if (i < m)
            store_part(p + i, simulated_e4m3(load_part(p + i, m - i), down, up), m - i);
    }
}

/* Codes of e4m3: exponent and mantissa moved down, below 2^-6 the count of 2^-9. */
ALWAYS_INLINE ivec codes_e4m3(vec v)
{
    vec a = magnitude(v), r = rounded_e4m3(a);
    uvec normal = ((uvec)r >> 20) - (120u << 3), small = (uvec)(a + 0x1.8p14f) & 15u;
    ivec code = (ivec)choose(a < set(0x1p-6f), (vec)small, (vec)normal);
    code |= (ivec)((uvec)v >> 24) & 0x80;
    return (ivec)choose(v == v, (vec)code, (vec)((ivec)set(0) + 0x7f));
}

enum { BLOCK_MAX = 128, BLOCK_FP4 = 32 };

static void fp8_put(const float *x, int n, int block, uint8_t *codes, uint8_t *scales)
{
    assert(block <= BLOCK_MAX);
    int32_t code[BLOCK_MAX + W];
    for (int b = 0; b < n; b += block) {
        int m = n - b < block ? n - b : block, e = act_quant_exponent(largest(x + b, m)), i = 0;
        float down = pow2f(-e);
        for (; i + W <= m; i += W)
            *(ivec *)(code + i) = codes_e4m3(LOAD(x + b + i) * down);
        if (i < m)
            *(ivec *)(code + i) = codes_e4m3(load_part(x + b + i, m - i) * down);
        for (int k = 0; k < m; k++)
            codes[b + k] = (uint8_t)code[k];
        scales[b / block] = (uint8_t)(e + 127);
    }
}

/* Each lane and its partner: their sum in the lower one, lower minus higher in the higher one (lane & half). */
ALWAYS_INLINE vec butterfly(vec v, vec partner, ivec lane, int half)
{
    ivec higher = (lane & half) != 0;
    return partner + (vec)((ivec)v ^ (higher & INT32_MIN));
}

ALWAYS_INLINE ivec lane_numbers(void)
{
    ivec lane;
    UNROLL
    for (int i = 0; i < W; i++)
        lane[i] = i;
    return lane;
}

ALWAYS_INLINE vec hadamard_lanes(vec v, ivec lane)
{
    v = butterfly(v, PARTNER_1(v), lane, 1);
    v = butterfly(v, PARTNER_2(v), lane, 2);
#if KERN_WIDTH >= 8
    v = butterfly(v, PARTNER_4(v), lane, 4);
#endif
#if KERN_WIDTH == 16
    v = butterfly(v, PARTNER_8(v), lane, 8);
#endif
    return v;
}

static void hadamard(float *x, int n)
{
    if (n < W) {
        row_kern_ref.hadamard(x, n);
        return;
    }
    const ivec lane = lane_numbers();
    for (int i = 0; i < n; i += W)
        AT(x + i) = hadamard_lanes(LOAD(x + i), lane);
    for (int half = W; half < n; half *= 2)
        for (int i = 0; i < n; i += 2 * half)
            for (int j = i; j < i + half; j += W) {
                vec a = LOAD(x + j), b = LOAD(x + j + half);
                AT(x + j) = a + b;
                AT(x + j + half) = a - b;
            }
    float s = 1.0f / sqrtf((float)n);
    for (int i = 0; i < n; i += W)
        AT(x + i) *= s;
}

/* Code of e2m1 without its sign, which is how many midpoints lie below a (a tie goes to the even code; NaN to the top). */
ALWAYS_INLINE ivec steps_e2m1(vec a)
{
    return -(~(a <= set(.25f)) + ~(a < set(.75f)) + ~(a <= set(1.25f)) + ~(a < set(1.75f)) + ~(a <= set(2.5f)) +
             ~(a < set(3.5f)) + ~(a <= set(5)));
}

/* Its value: 0 .5 1 1.5 2 3 4 6 are step / 2, then two more for every step above 4, and once more for the last. */
ALWAYS_INLINE vec value_e2m1(ivec step)
{
    ivec halves = step + ((step > 4) & (step - 4)) + ((step > 6) & 2);
    return __builtin_convertvector(halves, vec) * 0.5f;
}

ALWAYS_INLINE float fp4_scale(const float *x, float *up, int *e)
{
    *e = fp4_quant_exponent(largest(x, BLOCK_FP4));
    *up = pow2f(*e);
    return pow2f(-*e);
}

static void fp4_sim(float *x, int n)
{
    for (int b = 0; b < n; b += BLOCK_FP4) {
        float up;
        int e;
        const float down = fp4_scale(x + b, &up, &e);
        for (int i = b; i < b + BLOCK_FP4; i += W) {
            vec v = LOAD(x + i) * down;
            AT(x + i) = with_sign(value_e2m1(steps_e2m1(magnitude(v))), v) * up;
        }
    }
}

static void fp4_put(const float *x, int n, uint8_t *codes, uint8_t *scales)
{
    int32_t code[BLOCK_FP4];
    for (int b = 0; b < n; b += BLOCK_FP4) {
        float up;
        int e;
        const float down = fp4_scale(x + b, &up, &e);
        for (int i = 0; i < BLOCK_FP4; i += W) {
            vec v = LOAD(x + b + i) * down;
            *(ivec *)(code + i) = steps_e2m1(magnitude(v)) | ((ivec)((uvec)v >> 28) & 8);
        }
        for (int i = 0; i < BLOCK_FP4; i += 2)
            codes[(b + i) / 2] = (uint8_t)(code[i] | code[i + 1] << 4);
        scales[b / BLOCK_FP4] = (uint8_t)(e + 127);
    }
}

/* ---------------------------------------------------------------- the gated activation */

ALWAYS_INLINE vec exp_of(vec x)
{
    vec t = choose(x < set(EXP_LOW), set(EXP_LOW), choose(x > set(EXP_HIGH), set(EXP_HIGH), x));
    vec n = (t * EXP_LOG2E + EXP_ROUND) - EXP_ROUND;
    vec r = (t - n * EXP_LN2_HIGH) - n * EXP_LN2_LOW;
    vec y = r * EXP_P7 + EXP_P6;
    y = y * r + EXP_P5;
    y = y * r + EXP_P4;
    y = y * r + EXP_P3;
    y = y * r + EXP_P2;
    y = y * r * r + r + 1.0f;
    ivec e = __builtin_convertvector(choose(n == n, n, set(0)), ivec), half = e >> 1;
    return y * (vec)((half + 127) << 23) * (vec)((e - half + 127) << 23);
}

ALWAYS_INLINE vec gated(vec g, vec u, float limit, float weight)
{
    if (limit > 0) {
        g = choose(g < set(limit), g, set(limit));
        u = choose(u < set(-limit), set(-limit), choose(u > set(limit), set(limit), u));
    }
    return g / (1.0f + exp_of(-g)) * u * weight;
}

static void swiglu(const float *g, const float *u, int n, float limit, float weight, float *h)
{
    int i = 0;
    for (; i + W <= n; i += W)
        AT(h + i) = gated(LOAD(g + i), LOAD(u + i), limit, weight);
    if (i < n)
        store_part(h + i, gated(load_part(g + i, n - i), load_part(u + i, n - i), limit, weight), n - i);
}

/* ---------------------------------------------------------------- hyper-connections */

/* Lanes i .. of all streams; `part` < W values of them at the end of a row. */
ALWAYS_INLINE void mix_lanes(const float *o, const float *post, const float *comb, const int s, int dim, int i, int part,
                             bool round, float *x)
{
    vec in[ROW_STREAMS_MAX] = {{0}}, out = part < W ? load_part(o + i, part) : LOAD(o + i);
    UNROLL
    for (int j = 0; j < s; j++)
        in[j] = part < W ? load_part(x + j * dim + i, part) : LOAD(x + j * dim + i);
    UNROLL
    for (int k = 0; k < s; k++) {
        vec y = post[k] * out;
        UNROLL
        for (int j = 0; j < s; j++)
            y += comb[j * s + k] * in[j];
        y = round ? rounded_bf16(y) : y;
        if (part < W)
            store_part(x + k * dim + i, y, part);
        else
            AT(x + k * dim + i) = y;
    }
}

static void mix_streams(const float *o, const float *post, const float *comb, int s, int dim, bool round, float *x)
{
    assert(s <= ROW_STREAMS_MAX);
    int i = 0;
    if (s == 4) /* every released model */
        for (; i + W <= dim; i += W)
            mix_lanes(o, post, comb, 4, dim, i, W, round, x);
    for (; i < dim; i += W)
        mix_lanes(o, post, comb, s, dim, i, dim - i < W ? dim - i : W, round, x);
}

ALWAYS_INLINE vec collapsed(const float *x, const float *w, int s, int dim, int part, bool round)
{
    vec sum = w[0] * (part < W ? load_part(x, part) : LOAD(x));
    for (int h = 1; h < s; h++)
        sum += w[h] * (part < W ? load_part(x + h * dim, part) : LOAD(x + h * dim));
    return round ? rounded_bf16(sum) : sum;
}

static void collapse(const float *x, const float *w, int s, int dim, bool round, float *y)
{
    int i = 0;
    for (; i + W <= dim; i += W)
        AT(y + i) = collapsed(x + i, w, s, dim, W, round);
    if (i < dim)
        store_part(y + i, collapsed(x + i, w, s, dim, dim - i, round), dim - i);
}

typedef float quad __attribute__((vector_size(16), aligned(4), may_alias));

/* A 4 x 4 matrix by rows becomes itself by columns. */
ALWAYS_INLINE void transpose(quad *m)
{
    quad a = __builtin_shufflevector(m[0], m[1], 0, 4, 1, 5), b = __builtin_shufflevector(m[0], m[1], 2, 6, 3, 7);
    quad c = __builtin_shufflevector(m[2], m[3], 0, 4, 1, 5), d = __builtin_shufflevector(m[2], m[3], 2, 6, 3, 7);
    m[0] = __builtin_shufflevector(a, c, 0, 1, 4, 5);
    m[1] = __builtin_shufflevector(a, c, 2, 3, 6, 7);
    m[2] = __builtin_shufflevector(b, d, 0, 1, 4, 5);
    m[3] = __builtin_shufflevector(b, d, 2, 3, 6, 7);
}

/* Each lane's four values divided by their sum + eps, summed in order. */
ALWAYS_INLINE void normalise_lanes(quad *m, float eps)
{
    quad sum = ((m[0] + m[1]) + m[2]) + m[3] + eps;
    UNROLL
    for (int i = 0; i < 4; i++)
        m[i] /= sum;
}

static void sinkhorn(float *m, int s, int iters, float eps)
{
    if (s != 4) {
        row_kern_ref.sinkhorn(m, s, iters, eps);
        return;
    }
    quad q[4];
    memcpy(q, m, sizeof q);
    for (int i = 0; i < iters; i++) {
        if (i > 0) {
            transpose(q);
            normalise_lanes(q, eps);
            transpose(q);
        }
        normalise_lanes(q, eps);
    }
    memcpy(m, q, sizeof q);
}

/* ---------------------------------------------------------------- the compressor */

/* expf of the C library, lane by lane: the numerics that promise its bits. */
ALWAYS_INLINE vec libm_exp(vec x)
{
    float v[W];
    AT(v) = x;
    for (int i = 0; i < W; i++)
        v[i] = expf(v[i]);
    return AT(v);
}

ALWAYS_INLINE vec channel(const float *row, int d, int part)
{
    return part < W ? load_part(row + d, part) : LOAD(row + d);
}

ALWAYS_INLINE vec pooled(const struct row_slot *slots, int n, int d, int part, const bool libm)
{
    vec top = channel(slots[0].gate, d, part), sum = {0}, value = {0};
    for (int s = 1; s < n; s++) {
        vec g = channel(slots[s].gate, d, part);
        top = choose(g > top, g, top);
    }
    for (int s = 0; s < n; s++) {
        vec x = channel(slots[s].gate, d, part) - top, w = libm ? libm_exp(x) : exp_of(x);
        sum += w;
        value += w * channel(slots[s].kv, d, part);
    }
    return value / sum;
}

ALWAYS_INLINE void pool_all(const struct row_slot *slots, int n, int dim, const bool libm, float *e)
{
    int d = 0;
    for (; d + W <= dim; d += W)
        AT(e + d) = pooled(slots, n, d, W, libm);
    if (d < dim)
        store_part(e + d, pooled(slots, n, d, dim - d, libm), dim - d);
}

static void pool(const struct row_slot *slots, int n, int dim, bool libm, float *e)
{
    if (libm)
        pool_all(slots, n, dim, true, e);
    else
        pool_all(slots, n, dim, false, e);
}

/* ---------------------------------------------------------------- choosing */

/* Order keys with the sign bit turned: the order of signed integers. */
ALWAYS_INLINE ivec order_keys(vec x)
{
    ivec u = (ivec)(x + 0.0f);
    return u ^ ((u >> 31) & 0x7fffffff);
}

ALWAYS_INLINE int32_t largest_key(const int32_t *key, int n)
{
    ivec top = *(const ivec *)key;
    for (int i = W; i < n; i += W) {
        ivec v = *(const ivec *)(key + i), more = v > top;
        top = (more & v) | (~more & top);
    }
    int32_t most = top[0];
    for (int i = 1; i < W; i++)
        most = top[i] > most ? top[i] : most;
    return most;
}

static void top_experts(const float *score, const float *bias, int n, int k, int32_t *ids)
{
    if (n > ROW_EXPERTS_MAX) {
        row_kern_ref.top_experts(score, bias, n, k, ids);
        return;
    }
    int32_t key[ROW_EXPERTS_MAX + W];
    bool chosen[ROW_EXPERTS_MAX] = {false};
    for (int i = 0; i < n; i += W) {
        int part = n - i < W ? n - i : W;
        vec v = part < W ? load_part(score + i, part) : LOAD(score + i);
        if (bias != NULL)
            v += part < W ? load_part(bias + i, part) : LOAD(bias + i);
        *(ivec *)(key + i) = order_keys(v);
    }
    for (int i = n; i < n + W; i++)
        key[i] = INT32_MIN;
    for (int j = 0; j < k; j++) {
        int32_t top = largest_key(key, n), i = 0;
        while (key[i] != top || chosen[i])
            i++;
        ids[j] = i;
        chosen[i] = true;
        key[i] = INT32_MIN;
    }
}

enum { COUNTED = 32 };

ALWAYS_INLINE void keys_of(const float *score, uint32_t *key)
{
    UNROLL
    for (int i = 0; i < COUNTED; i += W)
        *(uvec *)(key + i) = (uvec)order_keys(LOAD(score + i)) ^ 0x80000000u;
}

static void count_scores(const float *score, int64_t n, int32_t *count)
{
    uint32_t key[COUNTED];
    int64_t i = 0;
    for (; i + COUNTED <= n; i += COUNTED) {
        keys_of(score + i, key);
        for (int k = 0; k < COUNTED; k++)
            count[key[k] >> BIN_SHIFT]++;
    }
    for (; i < n; i++)
        count[row_order_key(score[i]) >> BIN_SHIFT]++;
}

/* Does one of COUNTED keys lie in low .. high? */
ALWAYS_INLINE bool any_between(const uint32_t *key, uint32_t low, uint32_t high)
{
    ivec any = {0};
    UNROLL
    for (int i = 0; i < COUNTED; i += W) {
        uvec v = *(const uvec *)(key + i);
        any |= (ivec)(v - low <= high - low);
    }
    uint64_t parts[W / 2], all = 0;
    memcpy(parts, &any, sizeof parts);
    UNROLL
    for (int i = 0; i < W / 2; i++)
        all |= parts[i];
    return all != 0;
}

static int64_t find_in_bin(const float *score, int64_t n, uint32_t bin, uint32_t *found)
{
    uint32_t key[COUNTED], low = bin << BIN_SHIFT, high = low | ((1u << BIN_SHIFT) - 1);
    int64_t n_found = 0, i = 0;
    for (; i + COUNTED <= n; i += COUNTED) {
        keys_of(score + i, key);
        if (!any_between(key, low, high))
            continue;
        for (int k = 0; k < COUNTED; k++) {
            found[n_found] = key[k];
            n_found += key[k] >> BIN_SHIFT == bin;
        }
    }
    for (; i < n; i++)
        if (row_order_key(score[i]) >> BIN_SHIFT == bin)
            found[n_found++] = row_order_key(score[i]);
    return n_found;
}

static void top_k(const float *score, int64_t n, int k, const int32_t *count, uint32_t *found, int32_t *ids)
{
    int64_t n_equal = k;
    uint32_t bin = bin_of_kth(count, ROW_BINS, &n_equal), keys[COUNTED];
    int64_t n_found = find_in_bin(score, n, bin, found);
    uint32_t cut = key_of_kth(found, n_found, bin, &n_equal);
    int out = 0;
    for (int64_t i = 0; i < n && out < k; i++) {
        if (i % COUNTED == 0 && n - i >= COUNTED) {
            keys_of(score + i, keys);
            if (!any_between(keys, cut, UINT32_MAX)) {
                i += COUNTED - 1;
                continue;
            }
        }
        uint32_t u = row_order_key(score[i]);
        if (u > cut || (u == cut && n_equal-- > 0))
            ids[out++] = (int32_t)i;
    }
    assert(out == k);
}

const struct row_kern KERN_NAME = {KERN_TEXT, scale, rotate, fp8_sim, fp8_put, hadamard, fp4_sim, fp4_put, swiglu,
                                   mix_streams, collapse, sinkhorn, pool, top_experts, count_scores, top_k};
