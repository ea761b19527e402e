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
        fast_score_keys(&s->dev, &q, s->keys, s->dims.index_bytes, s->n, NULL, s->score, s->unset);
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

/* ---------------------------------------------------------------- which way a group goes */

enum { WAY_DIM = 128, WAY_HEADS = 5, GROUP_TOP = 32 };

/* A block of FP4 codes with exponent byte e, the largest magnitude in the first column. */
static void place_block(struct rng *r, uint8_t *key, int b, int e)
{
    for (int i = 0; i < 16; i++)
        key[16 * b + i] = (uint8_t)rng_below(r, 256);
    key[16 * b] |= 7;
    key[WAY_DIM / 2 + b] = (uint8_t)e;
}

/* A key whose every code has the largest magnitude and the sign of the query's value: the largest sum there is. All blocks
 * but one are 2^spread apart from that one. */
static void place_largest(uint8_t *key, const float *q, int spread)
{
    for (int c = 0; c < WAY_DIM; c++) {
        int code = q[c] < 0 ? 15 : 7;
        key[c / 2] = (uint8_t)(c % 2 == 0 ? code : key[c / 2] | code << 4);
    }
    for (int b = 0; b < WAY_DIM / 32; b++)
        key[WAY_DIM / 2 + b] = (uint8_t)(120 + (b == 0 ? 0 : spread));
}

/* The query's values: all of a head's are as large as FP4 has them, or small; the last blocks 2^spread larger. */
static void place_query(float *q, bool large, int spread, int n_blocks)
{
    for (int i = 0; i < WAY_HEADS * WAY_DIM; i++) {
        float v = i % 32 == 0 || large ? 6 : (float)(i % 3) * 0.5f;
        q[i] = (i * 7 % 5 < 2 ? -v : v) * (i % WAY_DIM >= WAY_DIM - 32 * n_blocks ? pow2f(spread) : 1);
    }
}

struct way_call {
    const struct fast_kern *k;
    struct fast_query *q;
    const uint8_t *keys;
    size_t stride;
    float *score;
    enum index_way way;
};

static void call_way(void *arg)
{
    struct way_call *c = arg;
    c->way = c->k->index_scores(c->q, c->keys, c->stride, c->score);
}

struct way_spec {
    bool large;
    int query_spread, n_blocks, key_spread;
    int near; /* what 16-bit sums allow */
};

/* One group whose last key alone has blocks `key_spread` apart: it goes the way that was asked for, and scores alike. */
static bool way_right(const struct level *l, const struct way_spec *t, struct rng *r, const char **why)
{
    struct cpu_dev dev = {.fast = l->fast};
    struct kv_dims dims = kv_dims_of(KV_FP8, 512, 64, WAY_DIM);
    struct fast_query q, q_ref;
    float values[WAY_HEADS * WAY_DIM], w[WAY_HEADS] = {1, -0.5f, 0.25f, 3, -1}, score[GROUP_TOP], truth[GROUP_TOP];
    float *mem = xcalloc(2 * fast_query_floats(WAY_HEADS, WAY_DIM), sizeof *mem);
    uint8_t keys[GROUP_TOP * (WAY_DIM / 2 + WAY_DIM / 32)];
    int n = l->fast->index_keys;
    for (int i = 0; i < n; i++)
        for (int b = 0; b < WAY_DIM / 32; b++)
            place_block(r, keys + (size_t)i * dims.index_bytes, b, 120);
    place_query(values, t->large, t->query_spread, t->n_blocks);
    place_largest(keys + (size_t)(n - 1) * dims.index_bytes, values, t->key_spread);
    bool ok = fast_query_pack(&dev, &dims, WAY_HEADS, values, w, mem, &q);
    dev.fast = levels[0].fast;
    ok = fast_query_pack(&dev, &dims, WAY_HEADS, values, w, mem + fast_query_floats(WAY_HEADS, WAY_DIM), &q_ref) && ok;
    *why = "the query is not packed";
    struct way_call c = {l->fast, &q, keys, dims.index_bytes, score, INDEX_REFUSED};
    ok = ok && run_caught(call_way, &c);
    bool wide = q.near == INDEX_NEAR_MAX && t->near < INDEX_NEAR_MAX; /* sums in 32 bits */
    enum index_way way = l->fast == levels[0].fast || t->key_spread > (wide ? INDEX_NEAR_MAX : t->near) ? INDEX_BLOCKS
                                                                                                        : INDEX_NEAR;
    if (ok && (c.way != way || (!wide && q.near != t->near))) {
        *why = "it went another way";
        ok = false;
    }
    for (int i = 0; ok && i < n; i++) {
        *why = "other scores than by definition";
        ok = levels[0].fast->index_scores(&q_ref, keys + (size_t)i * dims.index_bytes, dims.index_bytes, &truth[i]) &&
             f32_bits(truth[i]) == f32_bits(score[i]);
    }
    free(mem);
    return ok;
}

/* A block of large values has magnitudes of 192 2^spread in each half of its words; a head's, times 12 2^distance, must stay
 * below 2^15. */
static void check_index_ways(const struct level *l)
{
    static const struct way_spec ways[] = {
        {false, 0, 1, 0, 2}, {false, 0, 1, 1, 2}, {false, 0, 1, 2, 2}, {false, 0, 1, 3, 2}, {false, 0, 1, 12, 2},
        {false, 3, 1, 2, 2}, {true, 0, 1, 1, 1}, {true, 0, 1, 2, 1}, {true, 2, 1, 1, 1}, {true, 2, 1, 2, 1}, {true, 3, 1, 0, 0},
        {true, 3, 1, 1, 0}, {true, 3, 3, 0, -1},
    };
    struct rng r = {check_seed};
    const char *why = "";
    char text[160] = "";
    bool ok = true;
    for (int turn = 0; ok && turn < 20; turn++)
        for (size_t i = 0; ok && i < COUNT_OF(ways); i++) {
            ok = way_right(l, &ways[i], &r, &why);
            if (!ok)
                snprintf(text, sizeof text, "%s values, spreads %d and %d: %s", ways[i].large ? "large" : "small",
                         ways[i].query_spread, ways[i].key_spread, why);
        }
    report(ok, "index scores, which way", l->name, text);
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
        for (int turn = 0; ok && turn < (check_quick ? 1 : 5); turn++)
            for (size_t i = 0; ok && i < COUNT_OF(cases); i++) {
                ok = check_case(&cases[i], &levels[l], &r, &why);
                if (!ok)
                    snprintf(text, sizeof text, "%d heads of %d, %d keys, spreads %d and %d: %s", cases[i].heads,
                             cases[i].dim, cases[i].n, cases[i].q_spread, cases[i].key_spread, why);
            }
        report(ok, "index scores", levels[l].name, text);
        check_index_ways(&levels[l]);
    }
}
