/* The definition of the row kernels: scalar C, one value at a time, on the functions of num/. */
#include <assert.h>
#include <math.h>

#include "ops/cpu/row_parts.h"

static float rounded(float x, bool round)
{
    return round ? bf16_round(x) : x;
}

static void scale(const float *x, const float *w, float r, int n, bool round, float *y)
{
    for (int i = 0; i < n; i++)
        y[i] = rounded(w == NULL ? x[i] * r : w[i] * (x[i] * r), round);
}

static void rotate(float *v, const float *co, const float *si, int n, bool round)
{
    for (int i = 0; i < n; i += 2) {
        float a = v[i], b = v[i + 1];
        v[i] = rounded(a * co[i] + b * si[i], round);
        v[i + 1] = rounded(b * co[i + 1] + a * si[i + 1], round);
    }
}

static int length_of(int n, int at, int block)
{
    return n - at < block ? n - at : block;
}

static void fp8_sim(float *x, int n, int block)
{
    for (int b = 0; b < n; b += block)
        act_quant_sim(x + b, length_of(n, b, block));
}

static void fp8_put(const float *x, int n, int block, uint8_t *codes, uint8_t *scales)
{
    for (int b = 0; b < n; b += block)
        scales[b / block] = (uint8_t)(act_quant(x + b, length_of(n, b, block), codes + b) + 127);
}

static void hadamard(float *x, int n)
{
    for (int half = 1; half < n; half *= 2) {
        for (int i = 0; i < n; i += 2 * half) {
            for (int j = i; j < i + half; j++) {
                float a = x[j], b = x[j + half];
                x[j] = a + b;
                x[j + half] = a - b;
            }
        }
    }
    float s = 1.0f / sqrtf((float)n);
    for (int i = 0; i < n; i++)
        x[i] *= s;
}

static void fp4_sim(float *x, int n)
{
    for (int b = 0; b < n; b += 32)
        fp4_quant_sim(x + b, 32);
}

static void fp4_put(const float *x, int n, uint8_t *codes, uint8_t *scales)
{
    uint8_t one[32];
    for (int b = 0; b < n; b += 32) {
        scales[b / 32] = (uint8_t)(fp4_quant(x + b, 32, one) + 127);
        for (int i = 0; i < 32; i += 2)
            codes[(b + i) / 2] = (uint8_t)(one[i] | one[i + 1] << 4);
    }
}

static float exp_of(float x)
{
    float t = x < EXP_LOW ? EXP_LOW : x > EXP_HIGH ? EXP_HIGH : x;
    float n = (t * EXP_LOG2E + EXP_ROUND) - EXP_ROUND;
    float r = (t - n * EXP_LN2_HIGH) - n * EXP_LN2_LOW;
    float y = r * EXP_P7 + EXP_P6;
    y = y * r + EXP_P5;
    y = y * r + EXP_P4;
    y = y * r + EXP_P3;
    y = y * r + EXP_P2;
    y = y * r * r + r + 1.0f;
    int e = n != n ? 0 : (int)n, half = e >> 1; /* 2^e in two steps: it may be beyond what one fp32 holds */
    return y * pow2f(half) * pow2f(e - half);
}

static void swiglu(const float *g, const float *u, int n, float limit, float weight, float *h)
{
    for (int i = 0; i < n; i++) {
        float a = g[i], b = u[i];
        if (limit > 0) {
            a = a < limit ? a : limit;
            b = b < -limit ? -limit : b > limit ? limit : b;
        }
        h[i] = a / (1.0f + exp_of(-a)) * b * weight;
    }
}

static void sum_rows(const float *x, const int32_t *row, int m, int n, bool round, float *y)
{
    for (int i = 0; i < n; i++) {
        float sum = 0;
        for (int k = 0; k < m; k++)
            sum += rounded(x[(size_t)row[k] * (size_t)n + (size_t)i], round);
        y[i] = rounded(sum, round);
    }
}

static void mix_streams(const float *o, const float *post, const float *comb, int s, int dim, bool round, float *x)
{
    assert(s <= ROW_STREAMS_MAX);
    for (int i = 0; i < dim; i++) {
        float y[ROW_STREAMS_MAX];
        for (int k = 0; k < s; k++) {
            y[k] = post[k] * o[i];
            for (int j = 0; j < s; j++)
                y[k] += comb[j * s + k] * x[j * dim + i];
        }
        for (int k = 0; k < s; k++)
            x[k * dim + i] = rounded(y[k], round);
    }
}

static void collapse(const float *x, const float *w, int s, int dim, bool round, float *y)
{
    for (int i = 0; i < dim; i++) {
        float sum = w[0] * x[i];
        for (int h = 1; h < s; h++)
            sum += w[h] * x[h * dim + i];
        y[i] = round ? bf16_round(sum) : sum;
    }
}

/* Rows of m, or its columns: n sums of n values, `step` apart, at distances `next`. */
static void normalise(float *m, int n, int next, int step, float eps)
{
    for (int i = 0; i < n; i++) {
        float sum = 0;
        for (int k = 0; k < n; k++)
            sum += m[i * next + k * step];
        for (int k = 0; k < n; k++)
            m[i * next + k * step] /= sum + eps;
    }
}

static void sinkhorn(float *m, int s, int iters, float eps)
{
    for (int i = 0; i < iters; i++) {
        if (i > 0)
            normalise(m, s, s, 1, eps);
        normalise(m, s, 1, s, eps);
    }
}

static void pool(const struct row_slot *slots, int n, int dim, bool libm, float *e)
{
    for (int d = 0; d < dim; d++) {
        float top = slots[0].gate[d], sum = 0, value = 0;
        for (int s = 1; s < n; s++)
            top = slots[s].gate[d] > top ? slots[s].gate[d] : top;
        for (int s = 0; s < n; s++) {
            float x = slots[s].gate[d] - top, w = libm ? expf(x) : exp_of(x);
            sum += w;
            value += w * slots[s].kv[d];
        }
        e[d] = value / sum;
    }
}

static bool is_chosen(const int32_t *ids, int n, int32_t e)
{
    for (int i = 0; i < n; i++)
        if (ids[i] == e)
            return true;
    return false;
}

static void top_experts(const float *score, const float *bias, int n, int k, int32_t *ids)
{
    for (int j = 0; j < k; j++) {
        int32_t best = -1;
        uint32_t top = 0;
        for (int e = 0; e < n; e++) {
            uint32_t v = row_order_key(score[e] + (bias != NULL ? bias[e] : 0));
            if ((best < 0 || v > top) && !is_chosen(ids, j, e)) {
                best = e;
                top = v;
            }
        }
        ids[j] = best;
    }
}

static void count_scores(const float *score, int64_t n, int32_t *count)
{
    for (int64_t i = 0; i < n; i++)
        count[row_order_key(score[i]) >> BIN_SHIFT]++;
}

static void top_k(const float *score, int64_t n, int k, const int32_t *count, uint32_t *found, int32_t *ids)
{
    int64_t n_found = 0, n_equal = k;
    uint32_t bin = bin_of_kth(count, ROW_BINS, &n_equal);
    for (int64_t i = 0; i < n; i++)
        if (row_order_key(score[i]) >> BIN_SHIFT == bin)
            found[n_found++] = row_order_key(score[i]);
    uint32_t cut = key_of_kth(found, n_found, bin, &n_equal);
    int out = 0;
    for (int64_t i = 0; i < n; i++) {
        uint32_t u = row_order_key(score[i]);
        if (u > cut || (u == cut && n_equal-- > 0))
            ids[out++] = (int32_t)i;
    }
    assert(out == k);
}

const struct row_kern row_kern_ref = {"reference", scale, rotate, fp8_sim, fp8_put, hadamard, fp4_sim, fp4_put, swiglu,
                                      sum_rows, mix_streams, collapse, sinkhorn, pool, top_experts, count_scores, top_k};
