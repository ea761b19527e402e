/* Part of every kern_attn_<isa>.c: exponentials, rows ahead, index scores, stored rows. Define ATTN_WIDTH (fp32 lanes of a
 * register) before including. */
#include "ops/cpu/attn_kern.h"
#include "ops/kv_decode.h"

#include <math.h>
#include <string.h>

typedef float vec __attribute__((vector_size(ATTN_WIDTH * 4), aligned(4), may_alias));
typedef int32_t ivec __attribute__((vector_size(ATTN_WIDTH * 4), aligned(4), may_alias));

typedef float quad __attribute__((vector_size(16), aligned(4), may_alias)); /* a value of each head of a tile */
typedef int32_t iquad __attribute__((vector_size(16), aligned(4), may_alias));
enum { KEYS_AT_ONCE = ATTN_WIDTH == 16 ? 6 : 3 }; /* with as many registers */

#define UNROLL _Pragma("GCC unroll 16")
#define ALWAYS_INLINE static inline __attribute__((always_inline))
#define AT(p) (*(const vec *)(p))
#define QUAD(p) (*(const quad *)(p))

/* The sums of four vectors' lanes. */
ALWAYS_INLINE quad fold(vec v)
{
    quad part[ATTN_WIDTH / 4];
    memcpy(part, &v, sizeof part);
    UNROLL
    for (int n = ATTN_WIDTH / 8; n > 0; n /= 2)
        UNROLL
        for (int k = 0; k < n; k++)
            part[k] += part[k + n];
    return part[0];
}

/* In every four lanes: the first or the last two of a and b by turns, the lower or upper halves of a and b. */
#define LOW_TURNS(i) (i), ATTN_WIDTH + (i), (i) + 1, ATTN_WIDTH + (i) + 1
#define HIGH_TURNS(i) LOW_TURNS((i) + 2)
#define LOW_HALVES(i) (i), (i) + 1, ATTN_WIDTH + (i), ATTN_WIDTH + (i) + 1
#define HIGH_HALVES(i) LOW_HALVES((i) + 2)
#if ATTN_WIDTH == 4
#define OF_QUADS(order) order(0)
#elif ATTN_WIDTH == 8
#define OF_QUADS(order) order(0), order(4)
#else
#define OF_QUADS(order) order(0), order(4), order(8), order(12)
#endif
#define MIXED(a, b, order) __builtin_shufflevector(a, b, OF_QUADS(order))

ALWAYS_INLINE quad sum_lanes(vec a, vec b, vec c, vec d)
{
    vec ab = MIXED(a, b, LOW_TURNS) + MIXED(a, b, HIGH_TURNS), cd = MIXED(c, d, LOW_TURNS) + MIXED(c, d, HIGH_TURNS);
    return fold(MIXED(ab, cd, LOW_HALVES) + MIXED(ab, cd, HIGH_HALVES));
}

/* Scores of KEYS_AT_ONCE keys, n of them there, for the four heads of a tile. The loop takes 32 values at once: its end is
 * foreseen when it comes after few turns. */
ALWAYS_INLINE void scores(const float *q, const float *keys, size_t ld, int n, int hd, quad *s)
{
    vec sum[ATTN_HEADS][KEYS_AT_ONCE] = {{{0}}};
    const float *key[KEYS_AT_ONCE];
    UNROLL
    for (int k = 0; k < KEYS_AT_ONCE; k++)
        key[k] = keys + (k < n ? (size_t)k * ld : 0);
    for (int i = 0; i < hd; i += 32) {
        UNROLL
        for (int j = i; j < i + 32; j += ATTN_WIDTH) {
            vec x[KEYS_AT_ONCE];
            UNROLL
            for (int k = 0; k < KEYS_AT_ONCE; k++)
                x[k] = AT(key[k] + j);
            UNROLL
            for (int h = 0; h < ATTN_HEADS; h++) {
                vec y = AT(q + h * hd + j);
                UNROLL
                for (int k = 0; k < KEYS_AT_ONCE; k++)
                    sum[h][k] += y * x[k];
            }
        }
    }
    UNROLL
    for (int k = 0; k < KEYS_AT_ONCE; k++)
        s[k] = sum_lanes(sum[0][k], sum[1][k], sum[2][k], sum[3][k]);
}

/* e^x for x <= 0, relative error below 2e-7; 0 below -87. x / ln 2 is rounded to n by adding what leaves n in the lowest
 * bits; the rest is a polynomial of the reduced argument (Cody and Waite's two-part ln 2), whose exponent grows by n. */
ALWAYS_INLINE vec exp_of(vec x)
{
    const float log2e = 1.44269504f, ln2_hi = 0.693359375f, ln2_lo = -2.12194440e-4f, magic = 0x1.8p23f;
    vec zero = {0}, t = x * log2e + magic, n = t - magic;
    vec r = (x - n * ln2_hi) - n * ln2_lo;
    vec y = r * 1.9875691500e-4f + 1.3981999507e-3f;
    y = y * r + 8.3334519073e-3f;
    y = y * r + 4.1665795894e-2f;
    y = y * r + 1.6666665459e-1f;
    y = y * r + 5.0000001201e-1f;
    y = y * r * r + r + 1.0f;
    ivec keep = x > zero - 87.0f;
    return (vec)(((ivec)y + ((ivec)t << 23)) & keep);
}

/* How far the rows ahead are asked for. */
struct fetched {
    const struct attn_ahead *of;
    int row, n_lines;
    size_t byte;
};

static inline void fetch_until(struct fetched *f, int step, int n_steps)
{
    enum { LINE = 64 };
    int lines = f->of->n * (int)((f->of->bytes + LINE - 1) / LINE);
    for (int due = lines * step / n_steps; f->n_lines < due; f->n_lines++) {
        __builtin_prefetch(f->of->row[f->row] + f->byte, 0, 2);
        f->byte += LINE;
        if (f->byte >= f->of->bytes) {
            f->byte = 0;
            f->row++;
        }
    }
}

static void index_block(const float *q, const float *w, int heads, const float *keys, int n, int dim, float *score)
{
    for (int k = 0; k < n; k += KEYS_AT_ONCE) {
        int m = n - k < KEYS_AT_ONCE ? n - k : KEYS_AT_ONCE;
        quad sum[KEYS_AT_ONCE] = {{0}}, s[KEYS_AT_ONCE];
        for (int h = 0; h < heads; h += ATTN_HEADS) {
            scores(q + (size_t)h * (size_t)dim, keys + (size_t)k * (size_t)dim, (size_t)dim, m, dim, s);
            UNROLL
            for (int i = 0; i < KEYS_AT_ONCE; i++)
                sum[i] += (quad)((iquad)s[i] & (s[i] > 0)) * QUAD(w + h);
        }
        for (int i = 0; i < m; i++)
            score[k + i] = (sum[i][0] + sum[i][1]) + (sum[i][2] + sum[i][3]);
    }
}

static void kv_row(const struct kv_dims *d, const uint8_t *in, float *row)
{
    kv_row_decode(d, in, row);
}
