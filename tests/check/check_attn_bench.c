/* Speed of attention and indexer kernels, as steps call them: 64 heads on a block of keys that is in the cache, stored rows
 * and index keys that come from memory. Thread CPU time, medians over rounds in which the peak, the level and the
 * reference alternate. */
#include "check_row.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "ops/cpu/cpu.h"
#include "ops/cpu/fast.h"
#include "ops/cpu/fast_decl.h"
#include "ops/cpu/fast_peak.h"

enum { ROUNDS = 7, HEADS = 64, HEAD_DIM = 512, INDEX_DIM = 128, READ_BYTES = 64 << 20, PART = 1024 };

struct inputs {
    const struct level *level; /* whose kernel runs */
    struct kv_dims dims;
    float *q, *keys, *weights, *acc, *score, *query_mem;
    float *query, *block; /* in the level's form */
    uint8_t *rows, *index_rows; /* READ_BYTES at least of each: PART rows of them are taken in turn */
    size_t turn;
    bool unset[PART];
};

/* The next PART rows of `bytes` each. */
static const uint8_t *next_part(struct inputs *in, const uint8_t *rows, size_t bytes)
{
    size_t parts = READ_BYTES / (PART * bytes);
    return rows + in->turn++ % parts * PART * bytes;
}

static void run_tiles(struct inputs *in)
{
    static const struct attn_ahead none = {.n = 0};
    struct attn_tile st[ATTN_TILES];
    for (int t = 0; t < ATTN_TILES; t++)
        st[t] = (struct attn_tile){.top = {-INFINITY, -INFINITY, -INFINITY, -INFINITY}};
    in->level->attn->block(in->query, ATTN_TILES, 1, in->block, ATTN_KEYS, HEAD_DIM, &none, st, in->acc);
}

static void run_rows(struct inputs *in)
{
    const uint8_t *rows = next_part(in, in->rows, in->dims.row_bytes);
    for (size_t i = 0; i < PART; i++)
        in->level->attn->put_stored(&in->dims, rows + i * in->dims.row_bytes, in->block, (int)(i % ATTN_KEYS));
}

static void run_scores(struct inputs *in)
{
    in->level->attn->index_block(in->q, in->weights, HEADS, in->keys, ATTN_KEYS, INDEX_DIM, in->score);
}

static void run_integers(struct inputs *in)
{
    struct cpu_dev dev = {.fast = in->level->fast};
    struct fast_query q;
    if (!fast_query_pack(&dev, &in->dims, HEADS, in->q, in->weights, in->query_mem, &q)) {
        fprintf(stderr, "check: the query to be measured does not fit integers\n");
        exit(1);
    }
    fast_score_keys(&dev, &q, next_part(in, in->index_rows, in->dims.index_bytes), in->dims.index_bytes, PART, NULL,
                    in->score, in->unset);
}

static double peak_read(const struct level *l, const struct inputs *in)
{
    return fast_peak_read(l->isa, in->rows, READ_BYTES);
}

static double peak_flops(const struct level *l, const struct inputs *in)
{
    (void)in;
    double t = bench_seconds(), n = l->fast->burn(200000);
    return n / (bench_seconds() - t);
}

/* Of the fp32 arithmetic that a level with another has too. */
static double peak_fp32(const struct level *l, const struct inputs *in)
{
#if defined(__x86_64__)
    if (l->attn->pairs)
        return peak_flops(&(struct level){.fast = &fast_kern_avx512}, in);
#endif
    return peak_flops(l, in);
}

static double peak_bytes(const struct level *l, const struct inputs *in)
{
    (void)in;
    double t = bench_seconds(), n = l->fast->burn_bytes(15000);
    return n / (bench_seconds() - t);
}

struct block_op {
    const char *name, *unit, *of;
    void (*run)(struct inputs *in);
    double (*peak)(const struct level *l, const struct inputs *in);
    double work; /* of a run, in `unit` times 1e9; 0: the stored rows' bytes */
};
static const struct block_op ops[] = {
    {"attention, 64 heads", "GFLOP/s", "peak", run_tiles, peak_flops, 4.0 * HEADS * ATTN_KEYS * HEAD_DIM},
    {"rows decoded", "GB/s", "read", run_rows, peak_read, 0},
    {"index scores", "GOP/s", "int8 peak", run_integers, peak_bytes, 2.0 * HEADS * PART * INDEX_DIM},
    {"index scores in fp32", "GFLOP/s", "fp32 peak", run_scores, peak_fp32, 2.0 * HEADS * ATTN_KEYS * INDEX_DIM},
};

static double seconds_of(const struct block_op *o, struct inputs *in, const struct level *l, int times)
{
    in->level = l;
    l->attn->put_query(in->q, ATTN_TILES, HEAD_DIM, 1, in->query);
    for (int k = 0; k < ATTN_KEYS; k++)
        l->attn->put_key(in->keys + k * HEAD_DIM, HEAD_DIM, in->block, k);
    double t = bench_seconds();
    for (int i = 0; i < times; i++)
        o->run(in);
    return (bench_seconds() - t) / times;
}

static void bench_op(const struct block_op *o, const struct level *l, struct inputs *in)
{
    double t[ROUNDS], ref[ROUNDS], peak[ROUNDS], work = o->work > 0 ? o->work : (double)(PART * in->dims.row_bytes);
    int times = (int)(1 + 5e-3 / seconds_of(o, in, l, 2)), slow = (int)(1 + 5e-3 / seconds_of(o, in, &levels[0], 1));
    for (int i = 0; i < ROUNDS; i++) {
        peak[i] = o->peak(l, in) * 1e-9;
        t[i] = seconds_of(o, in, l, times);
        ref[i] = seconds_of(o, in, &levels[0], slow);
    }
    double time = bench_median(t, ROUNDS), top = bench_median(peak, ROUNDS), rate = work / time * 1e-9;
    printf("%-10s %-22s %7.1f %s (%.2f of %s %5.1f)  %8.1f us  %5.1f x reference\n", l->name, o->name, rate, o->unit,
           rate / top, o->of, top, time * 1e6, bench_median(ref, ROUNDS) / time);
    fflush(stdout);
}

static uint8_t *memory(size_t bytes)
{
    uint8_t *p = aligned_alloc((size_t)2 << 20, (bytes + ((size_t)2 << 20)) >> 21 << 21);
    if (p == NULL) {
        perror("check: bench memory");
        exit(1);
    }
    return p;
}

/* As a device's memory is. */
static float *aligned(size_t n)
{
    float *x = try_alloc(n * sizeof *x);
    if (x == NULL) {
        perror("check: bench memory");
        exit(1);
    }
    return x;
}

static float *normal(struct rng *r, size_t n)
{
    float *x = aligned(n);
    for (size_t i = 0; i < n; i++)
        x[i] = (float)rng_normal(r);
    return x;
}

/* Stored rows: PART of them made, the others copies. */
static void fill_rows(struct inputs *in, struct rng *r)
{
    float *x = normal(r, (size_t)PART * HEAD_DIM);
    size_t row = in->dims.row_bytes, index = in->dims.index_bytes;
    for (size_t i = 0; i < PART; i++) {
        kv_row_put(&in->dims, x + i * HEAD_DIM, in->rows + i * row);
        kv_index_put(&in->dims, x + i * HEAD_DIM, in->index_rows + i * index);
    }
    for (size_t i = PART; (i + PART) * row <= READ_BYTES; i += PART)
        memcpy(in->rows + i * row, in->rows, PART * row);
    for (size_t i = PART; (i + PART) * index <= READ_BYTES; i += PART)
        memcpy(in->index_rows + i * index, in->index_rows, PART * index);
    free(x);
}

void bench_attn(void)
{
    struct rng r = {1};
    struct inputs in = {.dims = kv_dims_of(KV_FP8, HEAD_DIM, 64, INDEX_DIM)};
    in.q = normal(&r, (size_t)HEADS * HEAD_DIM);
    for (int i = 0; i < HEADS * HEAD_DIM; i += 32) /* as the indexer rounds them */
        fp4_quant_sim(in.q + i, 32);
    in.keys = normal(&r, (size_t)ATTN_KEYS * HEAD_DIM);
    in.weights = normal(&r, HEADS);
    in.acc = aligned((size_t)HEADS * HEAD_DIM);
    in.query = aligned(attn_query_floats(HEAD_DIM));
    in.block = aligned(attn_keys_floats(HEAD_DIM));
    in.score = xcalloc(PART, sizeof(float));
    in.query_mem = xcalloc(fast_query_floats(HEADS, INDEX_DIM), sizeof(float));
    in.rows = memory(READ_BYTES);
    in.index_rows = memory(READ_BYTES);
    memset(in.rows, 0, READ_BYTES);
    fill_rows(&in, &r);
    for (int l = 1; l < n_levels; l++)
        for (size_t i = 0; i < COUNT_OF(ops); i++)
            if (ops[i].run == run_integers || levels[l].attn != levels[l - 1].attn)
                bench_op(&ops[i], &levels[l], &in);
    float *floats[] = {in.q, in.keys, in.weights, in.acc, in.score, in.query_mem, in.query, in.block};
    for (size_t i = 0; i < COUNT_OF(floats); i++)
        free(floats[i]);
    free(in.rows);
    free(in.index_rows);
}
