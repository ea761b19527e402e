/* Attention tiles and the indexer's fp32 scores: within the error of their sums at every level, a head whatever its
 * neighbours in the tile. Levels sum in the order of their registers, so their bits differ. */
#include "check.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { BLOCKS_MAX = 3 };
static const double EPS = 0x1p-23;

struct attn_case {
    int hd, n_blocks, n[BLOCKS_MAX]; /* keys of each block */
    float size;                      /* of scores: large ones leave one key, zero makes all alike */
};

struct attn_call {
    attn_block_fn *fn;
    const struct attn_case *t;
    const float *q;
    struct guarded keys[BLOCKS_MAX], acc;
    struct attn_tile st;
};

static void call_attn(void *arg)
{
    struct attn_call *c = arg;
    const struct attn_ahead none = {.n = 0};
    for (int b = 0; b < c->t->n_blocks; b++)
        c->fn(c->q, 1, (const float *)(const void *)c->keys[b].data, (size_t)c->t->hd, c->t->n[b], c->t->hd, &none, &c->st,
              (float *)(void *)c->acc.data);
}

static int total_keys(const struct attn_case *t)
{
    int n = 0;
    for (int b = 0; b < t->n_blocks; b++)
        n += t->n[b];
    return n;
}

/* out [ATTN_HEADS][hd] = sums over all blocks, divided by the denominators. */
static bool run_attn(attn_block_fn *fn, const struct attn_case *t, const float *q, const float *keys, enum guard_side side,
                     float *out)
{
    struct attn_call c = {.fn = fn, .t = t, .st = {.top = {-INFINITY, -INFINITY, -INFINITY, -INFINITY}}};
    struct guarded gq;
    size_t hd = (size_t)t->hd;
    guard_open(&gq, ATTN_HEADS * hd * sizeof(float), side);
    guard_open(&c.acc, ATTN_HEADS * hd * sizeof(float), side);
    memcpy(gq.data, q, gq.bytes);
    memset(c.acc.data, 0, c.acc.bytes);
    c.q = (const float *)(const void *)gq.data;
    for (int b = 0; b < t->n_blocks; b++) {
        guard_open(&c.keys[b], (size_t)t->n[b] * hd * sizeof(float), side);
        memcpy(c.keys[b].data, keys, c.keys[b].bytes);
        keys += (size_t)t->n[b] * hd;
    }
    bool ok = run_caught(call_attn, &c);
    for (int h = 0; h < ATTN_HEADS; h++)
        for (size_t e = 0; e < hd; e++)
            out[(size_t)h * hd + e] = ((float *)(void *)c.acc.data)[(size_t)h * hd + e] / c.st.den[h];
    guard_close(&gq);
    guard_close(&c.acc);
    for (int b = 0; b < t->n_blocks; b++)
        guard_close(&c.keys[b]);
    return ok;
}

/* Head h against softmax in double. A score errs by at most hd + 8 roundings of its sum's size, a numerator by twice the
 * largest such error, what rounding its argument loses and the error of exp (4 EPS); the value sum adds a rounding a key. */
static bool head_right(const struct attn_case *t, const float *q, const float *keys, const float *y)
{
    int n = total_keys(t), hd = t->hd;
    double *s = xcalloc((size_t)n, sizeof *s), top = -INFINITY, off = 0, far = 0, den = 0;
    bool ok = true;
    for (int k = 0; k < n; k++) {
        double size = 0;
        for (int e = 0; e < hd; e++) {
            s[k] += (double)q[e] * (double)keys[k * hd + e];
            size += fabs((double)q[e] * (double)keys[k * hd + e]);
        }
        off = fmax(off, (hd + 8) * EPS * size);
        top = fmax(top, s[k]);
    }
    for (int k = 0; k < n; k++) {
        far = fmax(far, fmin(top - s[k], 90));
        den += s[k] = exp(s[k] - top);
    }
    double relative = 2 * (2 * off + far * EPS + 4 * EPS) + (n + 8) * EPS;
    for (int e = 0; ok && e < hd; e++) {
        double sum = 0, size = 0;
        for (int k = 0; k < n; k++) {
            sum += s[k] * (double)keys[k * hd + e];
            size += s[k] * fabs((double)keys[k * hd + e]);
        }
        ok = fabs((double)y[e] - sum / den) <= relative * size / den + 1e-36;
    }
    free(s);
    return ok;
}

static bool attn_case_passes(const struct level *l, const struct attn_case *t, struct rng *r, const char **why)
{
    attn_block_fn *fn = l->attn.attn_block;
    size_t hd = (size_t)t->hd, n_q = ATTN_HEADS * hd, n = (size_t)total_keys(t);
    float *q = xcalloc(n_q, sizeof *q), *keys = xcalloc(n * hd, sizeof *keys), *y = xcalloc(2 * n_q, sizeof *y);
    for (size_t i = 0; i < n_q; i++)
        q[i] = (float)rng_normal(r) * t->size / sqrtf((float)t->hd);
    for (size_t i = 0; i < n * hd; i++)
        keys[i] = (float)rng_normal(r) * (rng_below(r, 100) == 0 ? 50.0f : 1.0f);
    bool ok = true;
    for (int side = GUARD_AFTER; ok && side <= GUARD_BEFORE; side++) {
        *why = "crashed";
        ok = run_attn(fn, t, q, keys, (enum guard_side)side, y);
        for (int h = 0; ok && h < ATTN_HEADS; h++) {
            *why = "outside the error of its sums";
            ok = head_right(t, q + (size_t)h * hd, keys, y + (size_t)h * hd);
        }
    }
    for (size_t i = hd; i < n_q; i++)
        q[i] = (float)rng_normal(r);
    ok = ok && run_attn(fn, t, q, keys, GUARD_AFTER, y + n_q);
    if (ok && memcmp(y, y + n_q, hd * sizeof *y) != 0) {
        *why = "a head depends on its neighbours";
        ok = false;
    }
    free(q);
    free(keys);
    free(y);
    return ok;
}

/* Several tiles at once over keys with room between them: each has the bits that it has alone. */
static bool tiles_alike(const struct level *l, struct rng *r, int n_tiles, int n, int hd)
{
    attn_block_fn *fn = l->attn.attn_block;
    size_t tile = ATTN_HEADS * (size_t)hd, ld = (size_t)hd + 16, n_q = (size_t)n_tiles * tile;
    float *q = xcalloc(n_q, sizeof *q), *keys = xcalloc((size_t)n * ld, sizeof *keys), *acc = xcalloc(2 * n_q, sizeof *acc);
    float *close = xcalloc((size_t)(n * hd), sizeof *close), *alone = acc + n_q;
    struct attn_tile st[ATTN_TILES], one[ATTN_TILES];
    for (int t = 0; t < n_tiles; t++)
        st[t] = one[t] = (struct attn_tile){.top = {-INFINITY, -INFINITY, -INFINITY, -INFINITY}};
    for (size_t i = 0; i < n_q; i++)
        q[i] = (float)rng_normal(r) * 0.2f;
    for (size_t i = 0; i < (size_t)n * ld; i++)
        keys[i] = i % ld < (size_t)hd ? (float)rng_normal(r) : NAN;
    for (int k = 0; k < n; k++)
        memcpy(close + k * hd, keys + (size_t)k * ld, (size_t)hd * sizeof *close);
    struct attn_ahead ahead = {.bytes = 583}, none = {.n = 0};
    for (; ahead.n < n; ahead.n++) /* wherever they are: asking reads nothing */
        ahead.row[ahead.n] = (const uint8_t *)(uintptr_t)(4096 + 64 * ahead.n);
    for (int turn = 0; turn < 2; turn++) {
        fn(q, n_tiles, keys, ld, n, hd, &ahead, st, acc);
        for (int t = 0; t < n_tiles; t++)
            fn(q + (size_t)t * tile, 1, close, (size_t)hd, n, hd, &none, &one[t], alone + (size_t)t * tile);
    }
    bool ok = memcmp(acc, alone, n_q * sizeof *acc) == 0 && memcmp(st, one, (size_t)n_tiles * sizeof *st) == 0;
    free(q);
    free(keys);
    free(acc);
    free(close);
    return ok;
}

struct row_call {
    kv_row_fn *fn;
    struct kv_dims dims;
    struct guarded in, out;
};

static void call_row(void *arg)
{
    struct row_call *c = arg;
    c->fn(&c->dims, c->in.data, (float *)(void *)c->out.data);
}

/* A stored row of any bytes, every code and scale but NaN among them, against kv_row_get. */
static bool row_passes(const struct level *l, struct rng *r, enum kv_row_format f, int hd, int rope, const char **why)
{
    bool ok = true;
    for (int side = GUARD_AFTER; ok && side <= GUARD_BEFORE; side++) {
        struct row_call c = {.fn = l->attn.kv_row, .dims = kv_dims_of(f, hd, rope, 128)};
        guard_open(&c.in, c.dims.row_bytes, (enum guard_side)side);
        guard_open(&c.out, (size_t)hd * sizeof(float), (enum guard_side)side);
        for (size_t i = 0; i < c.dims.row_bytes; i++)
            c.in.data[i] = (uint8_t)rng_below(r, 0x7f);
        float *want = xcalloc((size_t)hd, sizeof *want);
        kv_row_get(&c.dims, c.in.data, want);
        *why = "crashed";
        ok = run_caught(call_row, &c);
        if (ok && memcmp(c.out.data, want, c.out.bytes) != 0) {
            *why = "other bits than kv_row_get";
            ok = false;
        }
        free(want);
        guard_close(&c.in);
        guard_close(&c.out);
    }
    return ok;
}

static void check_rows(const struct level *l, struct rng *r)
{
    static const int shapes[][2] = {{512, 64}, {64, 32}, {128, 64}, {96, 8}, {32, 2}};
    const char *why = "";
    bool ok = true;
    for (size_t i = 0; ok && i < COUNT_OF(shapes); i++)
        ok = row_passes(l, r, KV_FP8, shapes[i][0], shapes[i][1], &why) &&
             row_passes(l, r, KV_F32, shapes[i][0], shapes[i][1], &why);
    report(ok, "rows decoded", l->name, why);
}

struct scores_call {
    index_block_fn *fn;
    int heads, n, dim;
    struct guarded q, w, keys, score;
};

static void call_scores(void *arg)
{
    struct scores_call *c = arg;
    c->fn((const float *)(const void *)c->q.data, (const float *)(const void *)c->w.data, c->heads,
          (const float *)(const void *)c->keys.data, c->n, c->dim, (float *)(void *)c->score.data);
}

static bool scores_right(const struct scores_call *c)
{
    const float *q = (const float *)(const void *)c->q.data, *w = (const float *)(const void *)c->w.data;
    const float *keys = (const float *)(const void *)c->keys.data, *score = (const float *)(const void *)c->score.data;
    for (int k = 0; k < c->n; k++) {
        double sum = 0, size = 0;
        for (int h = 0; h < c->heads; h++) {
            double dot = 0, part = 0;
            for (int e = 0; e < c->dim; e++) {
                dot += (double)q[h * c->dim + e] * (double)keys[k * c->dim + e];
                part += fabs((double)q[h * c->dim + e] * (double)keys[k * c->dim + e]);
            }
            sum += dot > 0 ? dot * (double)w[h] : 0;
            size += part * fabs((double)w[h]);
        }
        if (!(fabs((double)score[k] - sum) <= (c->dim + c->heads + 8) * EPS * size))
            return false;
    }
    return true;
}

static bool scores_pass(const struct level *l, int heads, int n, int dim, struct rng *r, const char **why)
{
    bool ok = true;
    for (int side = GUARD_AFTER; ok && side <= GUARD_BEFORE; side++) {
        struct scores_call c = {.fn = l->attn.index_block, .heads = heads, .n = n, .dim = dim};
        struct guarded *in[3] = {&c.q, &c.w, &c.keys};
        const int sizes[3] = {heads * dim, heads, n * dim};
        for (int i = 0; i < 3; i++) {
            guard_open(in[i], (size_t)sizes[i] * sizeof(float), (enum guard_side)side);
            for (int k = 0; k < sizes[i]; k++)
                ((float *)(void *)in[i]->data)[k] = rng_below(r, 9) == 0 ? 0 : (float)rng_normal(r);
        }
        guard_open(&c.score, (size_t)n * sizeof(float), (enum guard_side)side);
        *why = "crashed";
        ok = run_caught(call_scores, &c);
        if (ok && !scores_right(&c)) {
            *why = "a score is outside the error of its sum";
            ok = false;
        }
        for (int i = 0; i < 3; i++)
            guard_close(in[i]);
        guard_close(&c.score);
    }
    return ok;
}

void check_attn_kernels(void)
{
    static const struct attn_case cases[] = {
        {512, 3, {64, 64, 17}, 3}, {512, 1, {1}, 1}, {64, 2, {63, 64}, 30}, {32, 3, {5, 2, 64}, 1},
        {96, 2, {64, 3}, 0}, {512, 2, {64, 64}, 200}, {128, 1, {64}, 8}, {64, 1, {2}, 100},
    };
    static const int shapes[][3] = {{64, 32, 128}, {4, 1, 32}, {8, 7, 64}, {12, 31, 128}, {4, 2, 96}};
    for (int l = 0; l < n_levels; l++) {
        if (l > 0 && levels[l].attn.attn_block == levels[l - 1].attn.attn_block)
            continue;
        struct rng r = {check_seed};
        const char *why = "";
        bool ok = true;
        for (size_t i = 0; ok && i < COUNT_OF(cases); i++)
            ok = attn_case_passes(&levels[l], &cases[i], &r, &why);
        report(ok, "attention tiles", levels[l].name, why);
        ok = tiles_alike(&levels[l], &r, 3, 64, 512) && tiles_alike(&levels[l], &r, ATTN_TILES, 7, 96) &&
             tiles_alike(&levels[l], &r, 2, 1, 32);
        report(ok, "attention tiles together", levels[l].name, "a tile depends on its neighbours");
        check_rows(&levels[l], &r);
        ok = true;
        for (size_t i = 0; ok && i < COUNT_OF(shapes); i++)
            ok = scores_pass(&levels[l], shapes[i][0], shapes[i][1], shapes[i][2], &r, &why);
        report(ok, "index scores in fp32", levels[l].name, why);
    }
}
