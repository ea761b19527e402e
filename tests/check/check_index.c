/* The indexer's integer scores: every level gives the reference level's bits for any group of keys, within the rounding
 * of the sum over heads, and refuses what its integers cannot hold. */
#include "check.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "ops/cpu/cpu.h"
#include "ops/cpu/fast.h"

enum { KEYS = 40, HEADS_TOP = 65 };

struct scores_call {
    struct cpu_dev dev; /* only `fast` is used */
    struct kv_dims dims;
    int heads, n;
    const float *q, *w;
    const uint8_t *keys;
    float *mem, *score;
    bool packed, unset[KEYS];
};

static void call_scores(void *arg)
{
    struct scores_call *s = arg;
    struct fast_query q;
    s->packed = fast_query_pack(&s->dev, &s->dims, s->heads, s->q, s->w, s->mem, &q);
    if (s->packed)
        fast_score_keys(&s->dev, &q, s->keys, s->dims.index_bytes, s->n, s->score, s->unset);
}

/* A value of scale 2^spread and zeros now and then, so that blocks differ in exponent and some are empty. */
static void random_row(struct rng *r, float *x, int dim, int spread)
{
    for (int b = 0; b < dim; b += 32) {
        float scale = rng_below(r, 12) == 0 ? 0 : pow2f((int)rng_below(r, (uint32_t)spread + 1));
        for (int k = b; k < b + 32; k++)
            x[k] = rng_below(r, 40) == 0 ? scale * 6 : (float)rng_normal(r) * scale;
    }
}

static double exact_score(const struct scores_call *s, const float *key, double *size)
{
    double sum = 0;
    *size = 0;
    for (int h = 0; h < s->heads; h++) {
        double dot = 0;
        for (int k = 0; k < s->dims.index_dim; k++)
            dot += (double)s->q[h * s->dims.index_dim + k] * (double)key[k];
        dot = dot > 0 ? dot * (double)s->w[h] : 0;
        sum += dot;
        *size += fabs(dot);
    }
    return sum;
}

struct index_spec {
    int heads, dim, n, q_spread, key_spread;
};

static bool scores_right(struct scores_call *s, const char **why)
{
    float key[256];
    for (int i = 0; i < s->n; i++) {
        double size, exact;
        kv_index_get(&s->dims, s->keys + (size_t)i * s->dims.index_bytes, key);
        exact = exact_score(s, key, &size);
        if (!s->unset[i] && !(fabs((double)s->score[i] - exact) <= (s->heads + 4) * 0x1p-23 * size)) {
            *why = "a score is outside the rounding of its sum";
            return false;
        }
    }
    return true;
}

static bool run_scores(struct scores_call *s, const struct fast_kern *k, const uint8_t *keys, int first, int n,
                       enum guard_side side, float *out)
{
    struct guarded g, o;
    guard_open(&g, (size_t)n * s->dims.index_bytes, side);
    guard_open(&o, (size_t)n * sizeof(float), side);
    memcpy(g.data, keys + (size_t)first * s->dims.index_bytes, g.bytes);
    s->dev.fast = k;
    s->n = n;
    s->keys = g.data;
    s->score = (float *)(void *)o.data;
    bool ok = run_caught(call_scores, s);
    memcpy(out, o.data, o.bytes);
    s->keys = keys + (size_t)first * s->dims.index_bytes;
    s->score = out;
    guard_close(&g);
    guard_close(&o);
    return ok;
}

static bool check_case(const struct index_spec *t, const struct level *l, struct rng *r, const char **why)
{
    struct scores_call s = {.dims = kv_dims_of(KV_FP8, 512, 64, t->dim), .heads = t->heads};
    size_t n_q = (size_t)t->heads * (size_t)t->dim;
    float *q = xcalloc(n_q, sizeof *q), row[256], w[HEADS_TOP], truth[KEYS], y[KEYS], one[KEYS];
    uint8_t *keys = xcalloc(KEYS, s.dims.index_bytes);
    for (int h = 0; h < t->heads; h++) {
        random_row(r, q + h * t->dim, t->dim, t->q_spread);
        for (int b = 0; b < t->dim; b += 32)
            fp4_quant_sim(q + h * t->dim + b, 32);
        w[h] = bf16_round((float)rng_normal(r));
    }
    for (int i = 0; i < KEYS; i++) {
        random_row(r, row, t->dim, t->key_spread);
        kv_index_put(&s.dims, row, keys + (size_t)i * s.dims.index_bytes);
    }
    s.q = q;
    s.w = w;
    s.mem = xcalloc(fast_query_floats(t->heads, t->dim), sizeof(float));
    *why = "crashed";
    bool ok = run_scores(&s, levels[0].fast, keys, 0, t->n, GUARD_AFTER, truth), packed = s.packed;
    bool unset[KEYS];
    memcpy(unset, s.unset, sizeof unset);
    for (int side = GUARD_AFTER; ok && side <= GUARD_BEFORE; side++) {
        ok = run_scores(&s, l->fast, keys, 0, t->n, (enum guard_side)side, y);
        *why = "other scores or refusals than by definition";
        ok = ok && s.packed == packed && (!packed || (memcmp(unset, s.unset, (size_t)t->n) == 0));
        for (int i = 0; ok && packed && i < t->n; i++)
            ok = unset[i] || f32_bits(y[i]) == f32_bits(truth[i]);
    }
    ok = ok && (!packed || scores_right(&s, why));
    for (int i = 0; ok && packed && i < t->n; i += 7) {
        ok = run_scores(&s, l->fast, keys, i, 1, GUARD_AFTER, one) && (s.unset[0] || f32_bits(one[0]) == f32_bits(truth[i]));
        *why = ok ? *why : "a key alone has another score";
    }
    free(s.mem);
    free(keys);
    free(q);
    return ok;
}

void check_index_kernels(void)
{
    static const struct index_spec cases[] = {
        {64, 128, 40, 0, 0}, {64, 128, 32, 2, 3}, {64, 128, 17, 1, 11}, {3, 32, 9, 0, 2}, {65, 64, 33, 2, 8},
        {5, 256, 40, 1, 12}, {64, 128, 40, 2, 30}, {7, 128, 8, 9, 2},
    };
    for (int l = 0; l < n_levels; l++) {
        struct rng r = {check_seed};
        const char *why = "";
        char text[160] = "";
        bool ok = true;
        for (int turn = 0; ok && turn < 5; turn++)
            for (size_t i = 0; ok && i < COUNT_OF(cases); i++) {
                ok = check_case(&cases[i], &levels[l], &r, &why);
                if (!ok)
                    snprintf(text, sizeof text, "%d heads of %d, %d keys, spreads %d and %d: %s", cases[i].heads,
                             cases[i].dim, cases[i].n, cases[i].q_spread, cases[i].key_spread, why);
            }
        report(ok, "index scores", levels[l].name, text);
    }
}
