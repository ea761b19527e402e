/* Body of every kern_attn_<isa>.c: define ATTN_NAME, INDEX_NAME and ATTN_WIDTH (fp32 lanes of a
 * register) before including. */
#include "ops/cpu/attn_kern.h"

#include <math.h>
#include <string.h>

typedef float vec __attribute__((vector_size(ATTN_WIDTH * 4), aligned(4), may_alias));
typedef int32_t ivec __attribute__((vector_size(ATTN_WIDTH * 4), aligned(4), may_alias));

#define AT(p) (*(const vec *)(p))

static inline float sum_lanes(const vec *v)
{
    float a[ATTN_WIDTH], s = 0;
    memcpy(a, v, sizeof a);
    for (int i = 0; i < ATTN_WIDTH; i++)
        s += a[i];
    return s;
}

/* Scores of two keys for the four heads of the tile, head h at s[h * stride]. */
static inline void scores_2(const float *q, const float *k0, const float *k1, int hd, float *s, int stride)
{
    vec a0 = {0}, a1 = {0}, a2 = {0}, a3 = {0}, b0 = {0}, b1 = {0}, b2 = {0}, b3 = {0};
    const float *q1 = q + hd, *q2 = q1 + hd, *q3 = q2 + hd;
    for (int i = 0; i < hd; i += ATTN_WIDTH) {
        vec x = AT(k0 + i), y = AT(k1 + i);
        a0 += AT(q + i) * x;
        a1 += AT(q1 + i) * x;
        a2 += AT(q2 + i) * x;
        a3 += AT(q3 + i) * x;
        b0 += AT(q + i) * y;
        b1 += AT(q1 + i) * y;
        b2 += AT(q2 + i) * y;
        b3 += AT(q3 + i) * y;
    }
    s[0] = sum_lanes(&a0);
    s[stride] = sum_lanes(&a1);
    s[2 * stride] = sum_lanes(&a2);
    s[3 * stride] = sum_lanes(&a3);
    s[1] = sum_lanes(&b0);
    s[stride + 1] = sum_lanes(&b1);
    s[2 * stride + 1] = sum_lanes(&b2);
    s[3 * stride + 1] = sum_lanes(&b3);
}

/* e^x for x <= 0, relative error below 2e-7; 0 below -87. 2^n is put together from bits, the rest is a polynomial of the
 * reduced argument (Cody and Waite's two-part ln 2). */
static inline void exp_in_place(float *p)
{
    const float log2e = 1.44269504f, ln2_hi = 0.693359375f, ln2_lo = -2.12194440e-4f, magic = 0x1.8p23f;
    vec x = AT(p), limit = x - x - 87.0f;
    ivec keep = x > limit;
    vec n = (x * log2e + magic) - magic;
    vec r = (x - n * ln2_hi) - n * ln2_lo;
    vec y = r * 1.9875691500e-4f + 1.3981999507e-3f;
    y = y * r + 8.3334519073e-3f;
    y = y * r + 4.1665795894e-2f;
    y = y * r + 1.6666665459e-1f;
    y = y * r + 5.0000001201e-1f;
    y = y * r * r + r + 1.0f;
    ivec bits = (__builtin_convertvector(n, ivec) + 127) << 23;
    vec scale;
    memcpy(&scale, &bits, sizeof scale);
    y *= scale;
    ivec out;
    memcpy(&out, &y, sizeof out);
    out &= keep;
    memcpy(p, &out, sizeof out);
}

/* Numerators of one head in place, its running maximum and sum; returns the factor that earlier sums shrink by. */
static float soften(float *s, int n, float *top, float *den)
{
    float m = *top;
    for (int k = 0; k < n; k++)
        m = s[k] > m ? s[k] : m;
    for (int k = 0; k < n; k++)
        s[k] -= m;
    for (int k = n; k < ATTN_KEYS; k++)
        s[k] = -INFINITY;
    vec sum = {0};
    for (int k = 0; k < ATTN_KEYS; k += ATTN_WIDTH) {
        exp_in_place(s + k);
        sum += AT(s + k);
    }
    float back = expf(*top - m);
    *den = *den * back + sum_lanes(&sum);
    *top = m;
    return back;
}

/* acc = acc * back + p keys, a strip of two registers at a time. */
static void add_values(const float *p, const float *back, const float *keys, int n, int hd, float *acc)
{
    for (int i = 0; i < hd; i += 2 * ATTN_WIDTH) {
        float *o0 = acc + i, *o1 = o0 + hd, *o2 = o1 + hd, *o3 = o2 + hd;
        vec a0 = AT(o0) * back[0], a1 = AT(o1) * back[1], a2 = AT(o2) * back[2], a3 = AT(o3) * back[3];
        vec b0 = AT(o0 + ATTN_WIDTH) * back[0], b1 = AT(o1 + ATTN_WIDTH) * back[1];
        vec b2 = AT(o2 + ATTN_WIDTH) * back[2], b3 = AT(o3 + ATTN_WIDTH) * back[3];
        const float *key = keys + i;
        for (int k = 0; k < n; k++, key += hd) {
            vec x = AT(key), y = AT(key + ATTN_WIDTH);
            a0 += x * p[k];
            a1 += x * p[ATTN_KEYS + k];
            a2 += x * p[2 * ATTN_KEYS + k];
            a3 += x * p[3 * ATTN_KEYS + k];
            b0 += y * p[k];
            b1 += y * p[ATTN_KEYS + k];
            b2 += y * p[2 * ATTN_KEYS + k];
            b3 += y * p[3 * ATTN_KEYS + k];
        }
        memcpy(o0, &a0, sizeof a0);
        memcpy(o1, &a1, sizeof a1);
        memcpy(o2, &a2, sizeof a2);
        memcpy(o3, &a3, sizeof a3);
        memcpy(o0 + ATTN_WIDTH, &b0, sizeof b0);
        memcpy(o1 + ATTN_WIDTH, &b1, sizeof b1);
        memcpy(o2 + ATTN_WIDTH, &b2, sizeof b2);
        memcpy(o3 + ATTN_WIDTH, &b3, sizeof b3);
    }
}

void ATTN_NAME(const float *q, const float *keys, int n, int hd, struct attn_tile *st, float *acc)
{
    float s[ATTN_HEADS * ATTN_KEYS], back[ATTN_HEADS];
    for (int k = 0; k < n; k += 2) /* an odd last key is scored twice, the copy is dropped by soften */
        scores_2(q, keys + (size_t)k * (size_t)hd, keys + (size_t)(k + 1 < n ? k + 1 : k) * (size_t)hd, hd, s + k,
                 ATTN_KEYS);
    for (int h = 0; h < ATTN_HEADS; h++)
        back[h] = soften(s + h * ATTN_KEYS, n, &st->top[h], &st->den[h]);
    add_values(s, back, keys, n, hd, acc);
}

void INDEX_NAME(const float *q, const float *w, int heads, const float *keys, int n, int dim, float *score)
{
    for (int k = 0; k < n; k += 2) {
        const float *k0 = keys + (size_t)k * (size_t)dim, *k1 = k + 1 < n ? k0 + dim : k0;
        float sum0 = 0, sum1 = 0, s[2 * ATTN_HEADS];
        for (int h = 0; h < heads; h += ATTN_HEADS) {
            scores_2(q + (size_t)h * (size_t)dim, k0, k1, dim, s, 2);
            for (int i = 0; i < ATTN_HEADS; i++) {
                sum0 += (s[2 * i] > 0 ? s[2 * i] : 0) * w[h + i];
                sum1 += (s[2 * i + 1] > 0 ? s[2 * i + 1] : 0) * w[h + i];
            }
        }
        score[k] = sum0;
        if (k + 1 < n)
            score[k + 1] = sum1;
    }
}
