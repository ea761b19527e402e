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
    const struct attn_kern *k;
    const struct attn_case *t;
    const float *q, *rows;
    struct guarded query, keys, acc;
    struct attn_tile st;
};

static const float SCALE = 0.3f;

static void call_attn(void *arg)
{
    struct attn_call *c = arg;
    const struct attn_ahead none = {.n = 0};
    const float *row = c->rows;
    c->k->put_query(c->q, 1, c->t->hd, SCALE, c->query.data);
    for (int b = 0; b < c->t->n_blocks; b++) {
        memset(c->keys.data, 0xff, c->keys.bytes); /* NaN where no key is */
        for (int k = 0; k < c->t->n[b]; k++, row += c->t->hd)
            c->k->put_key(row, c->t->hd, c->keys.data, k);
        c->k->block(c->query.data, 1, SCALE, c->keys.data, c->t->n[b], c->t->hd, &none, &c->st,
                    (float *)(void *)c->acc.data);
    }
}

static int total_keys(const struct attn_case *t)
{
    int n = 0;
    for (int b = 0; b < t->n_blocks; b++)
        n += t->n[b];
    return n;
}

/* out [ATTN_HEADS][hd] = sums over all blocks, divided by the denominators. */
static bool run_attn(const struct attn_kern *k, const struct attn_case *t, const float *q, const float *keys,
                     enum guard_side side, float *out)
{
    struct attn_call c = {.k = k, .t = t, .rows = keys, .st = {.top = {-INFINITY, -INFINITY, -INFINITY, -INFINITY}}};
    struct guarded gq, *all[] = {&gq, &c.query, &c.keys, &c.acc};
    size_t hd = (size_t)t->hd;
    const size_t floats[] = {ATTN_HEADS * hd, attn_query_floats(t->hd), attn_keys_floats(t->hd), ATTN_HEADS * hd};
    for (size_t i = 0; i < COUNT_OF(all); i++)
        guard_open(all[i], floats[i] * sizeof(float), side);
    memcpy(gq.data, q, gq.bytes);
    memset(c.acc.data, 0, c.acc.bytes);
    c.q = (const float *)(const void *)gq.data;
    bool ok = run_caught(call_attn, &c);
    for (int h = 0; h < ATTN_HEADS; h++)
        for (size_t e = 0; e < hd; e++)
            out[(size_t)h * hd + e] = ((float *)(void *)c.acc.data)[(size_t)h * hd + e] / c.st.den[h];
    for (size_t i = 0; i < COUNT_OF(all); i++)
        guard_close(all[i]);
    return ok;
}

/* Head h against softmax in double. A score errs by at most hd + 8 roundings of its sum's size, a numerator by twice the
 * largest such error, what rounding its argument loses and the error of exp (4 EPS); the value sum adds a rounding a key.
 * A level of bf16 pairs rounds each numerator to 8 bits for the value sum, but not for the denominator. */
static bool head_right(const struct attn_case *t, bool pairs, const float *q, const float *keys, const float *y)
{
    int n = total_keys(t), hd = t->hd;
    double *s = xcalloc((size_t)n, sizeof *s), top = -INFINITY, off = 0, far = 0, den = 0;
    bool ok = true;
    for (int k = 0; k < n; k++) {
        double size = 0;
        for (int e = 0; e < hd; e++) {
            s[k] += (double)SCALE * (double)q[e] * (double)keys[k * hd + e];
            size += fabs((double)SCALE * (double)q[e] * (double)keys[k * hd + e]);
        }
        off = fmax(off, (hd + 8) * EPS * size);
        top = fmax(top, s[k]);
    }
    for (int k = 0; k < n; k++) {
        far = fmax(far, fmin(top - s[k], 90));
        den += s[k] = exp(s[k] - top);
    }
    double relative = 2 * (2 * off + far * EPS + 4 * EPS) + (n + 8) * EPS + (pairs ? 0x1p-8 : 0);
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

static void round_all(float *x, size_t n)
{
    for (size_t i = 0; i < n; i++)
        x[i] = bf16_round(x[i]);
}

/* A level of pairs gets values that bf16 does not hold, and is held to the rounded ones. */
static bool attn_case_passes(const struct level *l, const struct attn_case *t, struct rng *r, const char **why)
{
    size_t hd = (size_t)t->hd, n_q = ATTN_HEADS * hd, n = (size_t)total_keys(t), n_all = 2 * (n_q + n * hd);
    float *q = xcalloc(n_all, sizeof *q), *keys = q + n_q, *q_truth = keys + n * hd, *truth = q_truth + n_q;
    float *y = xcalloc(2 * n_q, sizeof *y);
    for (size_t i = 0; i < n_q; i++)
        q[i] = (float)rng_normal(r) * t->size / SCALE / sqrtf((float)t->hd);
    for (size_t i = 0; i < n * hd; i++)
        keys[i] = (float)rng_normal(r) * (rng_below(r, 100) == 0 ? 50.0f : 1.0f);
    memcpy(q_truth, q, n_all / 2 * sizeof *q);
    if (l->attn->pairs)
        round_all(q_truth, n_all / 2);
    bool ok = true;
    for (int side = GUARD_AFTER; ok && side <= GUARD_BEFORE; side++) {
        *why = "crashed";
        ok = run_attn(l->attn, t, q, keys, (enum guard_side)side, y);
        for (int h = 0; ok && h < ATTN_HEADS; h++) {
            *why = "outside the error of its sums";
            ok = head_right(t, l->attn->pairs, q_truth + (size_t)h * hd, truth, y + (size_t)h * hd);
        }
    }
    for (size_t i = hd; i < n_q; i++)
        q[i] = (float)rng_normal(r);
    ok = ok && run_attn(l->attn, t, q, keys, GUARD_AFTER, y + n_q);
    if (ok && memcmp(y, y + n_q, hd * sizeof *y) != 0) {
        *why = "a head depends on its neighbours";
        ok = false;
    }
    free(q);
    free(y);
    return ok;
}

static float *floats(size_t n)
{
    return xcalloc(n, sizeof(float));
}

/* Several tiles at once: each has the bits that it has alone. */
static bool tiles_alike(const struct level *l, struct rng *r, int n_tiles, int n, int hd)
{
    const struct attn_kern *k = l->attn;
    size_t tile = ATTN_HEADS * (size_t)hd, n_q = (size_t)n_tiles * tile;
    float *q = floats(n_q), *row = floats((size_t)hd), *acc = floats(2 * n_q), *alone = acc + n_q;
    float *query = floats(attn_query_floats(hd)), *keys = floats(attn_keys_floats(hd));
    struct attn_tile st[ATTN_TILES], one[ATTN_TILES];
    for (int t = 0; t < n_tiles; t++)
        st[t] = one[t] = (struct attn_tile){.top = {-INFINITY, -INFINITY, -INFINITY, -INFINITY}};
    for (size_t i = 0; i < n_q; i++)
        q[i] = (float)rng_normal(r) * 0.2f;
    memset(keys, 0xff, attn_keys_floats(hd) * sizeof *keys);
    for (int i = 0; i < n; i++) {
        for (int e = 0; e < hd; e++)
            row[e] = (float)rng_normal(r);
        k->put_key(row, hd, keys, i);
    }
    struct attn_ahead ahead = {.bytes = 583}, none = {.n = 0};
    for (; ahead.n < n; ahead.n++) /* wherever they are: asking reads nothing */
        ahead.row[ahead.n] = (const uint8_t *)(uintptr_t)(4096 + 64 * ahead.n);
    for (int turn = 0; turn < 2; turn++) {
        k->put_query(q, n_tiles, hd, 1, query);
        k->block(query, n_tiles, 1, keys, n, hd, &ahead, st, acc);
        for (int t = 0; t < n_tiles; t++) {
            k->put_query(q + (size_t)t * tile, 1, hd, 1, query);
            k->block(query, 1, 1, keys, n, hd, &none, &one[t], alone + (size_t)t * tile);
        }
    }
    bool ok = memcmp(acc, alone, n_q * sizeof *acc) == 0 && memcmp(st, one, (size_t)n_tiles * sizeof *st) == 0;
    float *all[] = {q, row, acc, query, keys};
    for (size_t i = 0; i < COUNT_OF(all); i++)
        free(all[i]);
    return ok;
}

struct row_call {
    const struct attn_kern *k;
    struct kv_dims dims;
    struct guarded in, out, keys;
};

enum { ROW_KEY = 5 };

static void call_row(void *arg)
{
    struct row_call *c = arg;
    c->k->kv_row(&c->dims, c->in.data, (float *)(void *)c->out.data);
    c->k->put_stored(&c->dims, c->in.data, c->keys.data, ROW_KEY);
}

/* Any codes and bf16 values but NaN; scales likewise, or such as rows really have. */
static void fill_row(struct rng *r, const struct kv_dims *d, uint8_t *row)
{
    size_t scales = (size_t)(d->head_dim + d->rope_dim);
    bool ordinary = rng_below(r, 2) == 0;
    for (size_t i = 0; i < d->row_bytes; i++) {
        row[i] = (uint8_t)(rng_below(r, 0x7f) | (i % 3 == 0 ? 0 : rng_below(r, 2) << 7));
        if (ordinary && d->format == KV_FP8 && i >= scales)
            row[i] = (uint8_t)(10 + rng_below(r, 237));
    }
}

/* bf16 values that products take as zero. */
static void flush_all(void *block, size_t bytes)
{
    uint16_t *h = block;
    for (size_t i = 0; i < bytes / sizeof *h; i++)
        h[i] &= (h[i] & 0x7f80) == 0 ? 0x8000 : 0xffff;
}

/* The block that put_stored made is the one that the decoded values make. */
static bool same_block(const struct row_call *c, const float *row)
{
    float *keys = floats(attn_keys_floats(c->dims.head_dim));
    memset(keys, 0x99, c->keys.bytes);
    c->k->put_key(row, c->dims.head_dim, keys, ROW_KEY);
    if (c->k->pairs) {
        flush_all(keys, c->keys.bytes);
        flush_all(c->keys.data, c->keys.bytes);
    }
    bool same = memcmp(keys, c->keys.data, c->keys.bytes) == 0;
    free(keys);
    return same;
}

/* A stored row of any bytes, every code and scale but NaN among them, against kv_row_get. */
static bool row_passes(const struct level *l, struct rng *r, enum kv_row_format f, int hd, int rope, const char **why)
{
    bool ok = true;
    for (int side = GUARD_AFTER; ok && side <= GUARD_BEFORE; side++) {
        struct row_call c = {.k = l->attn, .dims = kv_dims_of(f, hd, rope, 128)};
        guard_open(&c.in, c.dims.row_bytes, (enum guard_side)side);
        guard_open(&c.out, (size_t)hd * sizeof(float), (enum guard_side)side);
        guard_open(&c.keys, attn_keys_floats(hd) * sizeof(float), (enum guard_side)side);
        fill_row(r, &c.dims, c.in.data);
        float *want = xcalloc((size_t)hd, sizeof *want);
        kv_row_get(&c.dims, c.in.data, want);
        *why = "crashed";
        ok = run_caught(call_row, &c);
        if (ok && memcmp(c.out.data, want, c.out.bytes) != 0) {
            *why = "other bits than kv_row_get";
            ok = false;
        }
        if (ok && !same_block(&c, want)) {
            *why = "a stored row makes another key than its values";
            ok = false;
        }
        free(want);
        guard_close(&c.in);
        guard_close(&c.out);
        guard_close(&c.keys);
    }
    return ok;
}

static void check_rows(const struct level *l, struct rng *r)
{
    static const int shapes[][2] = {{512, 64}, {64, 32}, {128, 64}, {96, 8}, {32, 2}};
    const char *why = "";
    bool ok = true;
    for (size_t i = 0; ok && i < COUNT_OF(shapes) * 8; i++) {
        const int *shape = shapes[i / 8];
        ok = row_passes(l, r, KV_FP8, shape[0], shape[1], &why) && row_passes(l, r, KV_F32, shape[0], shape[1], &why);
    }
    report(ok, "rows decoded", l->name, why);
}

struct scores_call {
    const struct attn_kern *k;
    int heads, n, dim;
    struct guarded q, w, keys, score;
};

static void call_scores(void *arg)
{
    struct scores_call *c = arg;
    c->k->index_block((const float *)(const void *)c->q.data, (const float *)(const void *)c->w.data, c->heads,
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
        struct scores_call c = {.k = l->attn, .heads = heads, .n = n, .dim = dim};
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

/* The level that ran is the one that was meant: the tables of the fast kernels are another ladder. */
static void check_name(const struct level *l)
{
    bool same = strncmp(l->name, l->attn->name, strlen(l->attn->name)) == 0;
    bool pairs = strstr(l->name, "avx512 bf16") != NULL;
    report(same && l->attn->pairs == pairs, "attention of the level", l->name, l->attn->name);
}

void check_attn_kernels(void)
{
    static const struct attn_case cases[] = {
        {512, 3, {64, 64, 17}, 3}, {512, 1, {1}, 1}, {64, 2, {63, 64}, 30}, {32, 3, {5, 2, 64}, 1},
        {96, 2, {64, 3}, 0}, {512, 2, {64, 64}, 200}, {128, 1, {64}, 8}, {64, 1, {2}, 100},
    };
    static const int shapes[][3] = {{64, 32, 128}, {4, 1, 32}, {8, 7, 64}, {12, 31, 128}, {4, 2, 96}};
    for (int l = 0; l < n_levels; l++) {
        if (l > 0 && levels[l].attn == levels[l - 1].attn)
            continue;
        check_name(&levels[l]);
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
