/* What the row kernels should give, in double or by sorting, and how far off fp32 may be. */
#include "check_row.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define UNIT 0x1p-24 /* of an fp32 rounding */
#define TINY 0x1p-148
#define UNIT_BF16 0x1p-8

static bool close_to(float y, double truth, double bound)
{
    return fabs((double)y - truth) <= bound + TINY || (fabs(truth) > 0x1.fp127 && isinf(y));
}

static const float *floats_of(const uint8_t *out)
{
    return (const float *)(const void *)out;
}

/* Error of a result t that is rounded to bf16 at the end. */
static double rounding_of(const struct row_case *c, double t)
{
    return c->round ? UNIT_BF16 * 1.01 * fabs(t) + 0x1p-133 : 0;
}

/* An input as the operation takes it. */
static double taken(const struct row_case *c, float x)
{
    return (double)(c->round ? bf16_round(x) : x);
}

bool true_scale(const struct row_case *c, const uint8_t *out)
{
    for (int i = 0; i < c->n; i++) {
        double w = c->param > 0 ? (double)c->in[1][i] : 1, t = w * ((double)c->in[0][i] * (double)ROW_FACTOR);
        if (!close_to(floats_of(out)[i], t, 2.1 * UNIT * fabs(t) + fabs(w) * TINY + rounding_of(c, t)))
            return false;
    }
    return true;
}

bool true_rotate(const struct row_case *c, const uint8_t *out)
{
    for (int i = 0; i < c->n; i += 2) {
        double a = (double)c->in[0][i], b = (double)c->in[0][i + 1], co = (double)c->in[1][i], si = (double)c->in[2][i + 1];
        double bound = 2.1 * UNIT * (fabs(a) + fabs(b)) + rounding_of(c, fabs(a) + fabs(b));
        if (!close_to(floats_of(out)[i], a * co - b * si, bound) || !close_to(floats_of(out)[i + 1], a * si + b * co, bound))
            return false;
    }
    return true;
}

/* Largest magnitude of the block that value i is in. */
static double block_top(const struct row_case *c, int i, int block)
{
    double top = 0;
    for (int k = i / block * block; k < c->n && k < (i / block + 1) * block; k++)
        top = fmax(top, fabs((double)c->in[0][k]));
    return top;
}

/* e4m3 with the block's scale: the smallest power of two that lets the top be 448, half a step off at most. */
static bool near_fp8(const struct row_case *c, int i, int block, double y)
{
    double scale = exp2(ceil(log2(fmax(block_top(c, i, block), (double)1e-4f) / 448))), x = (double)c->in[0][i];
    return fabs(y - x) <= fmax(fabs(x) / 16, scale * 0x1p-10) && fabs(y) <= 448 * scale;
}

bool true_fp8(const struct row_case *c, const uint8_t *out)
{
    for (int i = 0; i < c->n; i++)
        if (!near_fp8(c, i, c->m, (double)floats_of(out)[i]))
            return false;
    return true;
}

bool true_fp8_put(const struct row_case *c, const uint8_t *out)
{
    for (int i = 0; i < c->n; i++)
        if (!near_fp8(c, i, c->m, ldexp((double)e4m3_table[out[i]], out[c->n + i / c->m] - 127)))
            return false;
    return true;
}

/* e2m1: steps of half up to 2, of 1 up to 4, then 2. */
static bool near_fp4(const struct row_case *c, int i, double y)
{
    double scale = exp2(ceil(log2(fmax(block_top(c, i, 32), 0x1.8p-124) / 6))), x = (double)c->in[0][i], a = fabs(x) / scale;
    return fabs(y - x) <= scale * (a <= 2 ? .25 : a <= 4 ? .5 : 1) && fabs(y) <= 6 * scale;
}

bool true_fp4(const struct row_case *c, const uint8_t *out)
{
    for (int i = 0; i < c->n; i++)
        if (!near_fp4(c, i, (double)floats_of(out)[i]))
            return false;
    return true;
}

bool true_fp4_put(const struct row_case *c, const uint8_t *out)
{
    for (int i = 0; i < c->n; i++)
        if (!near_fp4(c, i, ldexp((double)e2m1_table[out[i / 2] >> i % 2 * 4 & 15], out[c->n / 2 + i / 32] - 127)))
            return false;
    return true;
}

bool true_hadamard(const struct row_case *c, const uint8_t *out)
{
    double norm = 1 / sqrt(c->n);
    for (int i = 0; i < c->n; i++) {
        double sum = 0, size = 0;
        for (int k = 0; k < c->n; k++) {
            double x = (double)c->in[0][k];
            sum += __builtin_parity((unsigned)(i & k)) != 0 ? -x : x;
            size += fabs(x);
        }
        if (!close_to(floats_of(out)[i], sum * norm, (__builtin_ctz((unsigned)c->n) + 3) * UNIT * size * norm))
            return false;
    }
    return true;
}

bool true_swiglu(const struct row_case *c, const uint8_t *out)
{
    for (int i = 0; i < c->n; i++) {
        double g = (double)c->in[0][i], u = (double)c->in[1][i], limit = (double)c->param;
        if (limit > 0) {
            g = fmin(g, limit);
            u = fmax(-limit, fmin(u, limit));
        }
        double t = g / (1 + exp(-g)) * u * (double)ROW_FACTOR;
        double lost = g < -88 ? fabs(t) : 0; /* e^-g is more than fp32 holds: 0 is as near as the formula comes */
        if (!close_to(floats_of(out)[i], t, 9 * UNIT * fabs(t) + lost + fabs(u) * TINY))
            return false;
    }
    return true;
}

bool true_sum(const struct row_case *c, const uint8_t *out)
{
    for (int i = 0; i < c->n; i++) {
        double t = 0, size = 0;
        for (int k = 0; k < c->m; k++) {
            double v = taken(c, c->in[0][row_summed(k, c->m) * c->n + i]);
            t += v;
            size += fabs(v);
        }
        double error = (c->m + 1) * UNIT * size;
        if (!close_to(floats_of(out)[i], t, error + rounding_of(c, fabs(t) + error)))
            return false;
    }
    return true;
}

bool true_mix(const struct row_case *c, const uint8_t *out)
{
    const float *post = c->in[2], *comb = c->in[2] + c->m;
    for (int i = 0; i < c->n * c->m; i++) {
        int k = i / c->n, e = i % c->n;
        double t = (double)post[k] * (double)c->in[1][e], size = fabs(t);
        for (int j = 0; j < c->m; j++) {
            double term = (double)comb[j * c->m + k] * (double)c->in[0][j * c->n + e];
            t += term;
            size += fabs(term);
        }
        if (!close_to(floats_of(out)[i], t, (c->m + 2) * (UNIT * size + TINY) + rounding_of(c, size)))
            return false;
    }
    return true;
}

bool true_collapse(const struct row_case *c, const uint8_t *out)
{
    for (int i = 0; i < c->n; i++) {
        double t = 0, size = 0;
        for (int h = 0; h < c->m; h++) {
            double term = (double)c->in[1][h] * (double)c->in[0][h * c->n + i];
            t += term;
            size += fabs(term);
        }
        if (!close_to(floats_of(out)[i], t, (c->m + 2) * (UNIT * size + TINY) + rounding_of(c, size)))
            return false;
    }
    return true;
}

static void divide(double *m, int s, int next, int step)
{
    for (int i = 0; i < s; i++) {
        double sum = 1e-6;
        for (int k = 0; k < s; k++)
            sum += m[i * next + k * step];
        for (int k = 0; k < s; k++)
            m[i * next + k * step] /= sum;
    }
}

/* All values are positive, so every pass adds a few roundings relative to each of them. */
bool true_sinkhorn(const struct row_case *c, const uint8_t *out)
{
    double m[ROW_STREAMS_MAX * ROW_STREAMS_MAX];
    for (int i = 0; i < c->n; i++)
        m[i] = (double)c->in[0][i];
    for (int i = 0; i < ROW_ITERS; i++) {
        if (i > 0)
            divide(m, c->m, c->m, 1);
        divide(m, c->m, 1, c->m);
    }
    for (int i = 0; i < c->n; i++)
        if (!close_to(floats_of(out)[i], m[i], 2 * ROW_ITERS * (c->m + 3) * UNIT * m[i]))
            return false;
    return true;
}

bool true_pool(const struct row_case *c, const uint8_t *out)
{
    for (int d = 0; d < c->n; d++) {
        double top = -INFINITY, sum = 0, value = 0, size = 0, rough = 0;
        for (int s = 0; s < c->m; s++)
            top = fmax(top, (double)c->in[1][s * c->n + d]);
        for (int s = 0; s < c->m; s++) {
            double x = (double)c->in[1][s * c->n + d] - top, w = exp(x), v = w * (double)c->in[0][s * c->n + d];
            sum += w;
            value += v;
            size += fabs(v);
            rough += fabs(v) * fmin(fabs(x), 104) * UNIT; /* the difference of the logits is rounded before the power */
        }
        if (!close_to(floats_of(out)[d], value / sum, ((c->m + 12) * UNIT * size + 3 * rough) / sum))
            return false;
    }
    return true;
}

/* ---------------------------------------------------------------- choices */

static const float *sort_score, *sort_bias;

static int higher(const void *a, const void *b)
{
    int32_t x = *(const int32_t *)a, y = *(const int32_t *)b;
    float sx = sort_score[x] + (sort_bias != NULL ? sort_bias[x] : 0), sy = sort_score[y];
    sy += sort_bias != NULL ? sort_bias[y] : 0;
    return sx != sy ? (sx > sy ? -1 : 1) : x - y;
}

static int lower_id(const void *a, const void *b)
{
    return *(const int32_t *)a - *(const int32_t *)b;
}

static bool chosen_right(const struct row_case *c, const float *bias, bool by_id, const uint8_t *out)
{
    int32_t *ids = xcalloc((size_t)c->n, sizeof *ids);
    for (int i = 0; i < c->n; i++)
        ids[i] = i;
    sort_score = c->in[0];
    sort_bias = bias;
    qsort(ids, (size_t)c->n, sizeof *ids, higher);
    if (by_id)
        qsort(ids, (size_t)c->m, sizeof *ids, lower_id);
    bool same = memcmp(ids, out, (size_t)c->m * sizeof *ids) == 0;
    free(ids);
    return same;
}

bool true_experts(const struct row_case *c, const uint8_t *out)
{
    return chosen_right(c, c->in[1], false, out);
}

bool true_top_k(const struct row_case *c, const uint8_t *out)
{
    return chosen_right(c, NULL, true, out);
}
