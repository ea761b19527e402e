/* Lightning indexer: scores of all visible entries of a ratio-4 layer for one query, and the exact top-k of them. */
#include "ops/cpu/cpu.h"
#include "ops/cpu/fast.h"

#include <assert.h>
#include <string.h>

#include "base/base.h"
#include "base/mutant.h"
#include "num/num.h"

enum { INDEX_RATIO = 4, KEYS_PER_TASK = 256, KEYS_PER_BLOCK = KV_PAGE_TOKENS / INDEX_RATIO, HEADS_MAX = 256,
       COARSE_BINS = ROW_BINS };

struct index_row;

struct index_job {
    struct cpu_dev *c;
    const struct op_index_select *o;
    const struct op_seq *s;
    int64_t n;       /* visible entries */
    float *score;    /* [n] */
    int32_t *count;  /* [threads][COARSE_BINS]: how many scores each thread made by their highest bits */
    const struct index_row *shared; /* the prepared row whose keys are shared out */
};

/* score = sum_h w_h relu(q_h . k). In the reference the dot, the product and the sum are each rounded to bf16. */
static float score_key(const struct cpu_dev *c, const float *q, const float *w, const float *key, int heads, int dim)
{
    bool round = c->base.numerics == NUM_REFERENCE;
    float sum = 0;
    for (int h = 0; h < heads; h++) {
        float v = c->kern->dot(q + (size_t)h * (size_t)dim, key, dim);
        if (round)
            v = bf16_round(v);
        v = (v > 0 ? v : 0) * w[h];
        sum += round ? bf16_round(v) : v;
    }
    return round ? bf16_round(sum) : sum;
}

/* One row's query: its heads, their weights, and the integer form when the fast path takes it. */
struct index_row {
    const float *q;
    float w[HEADS_MAX];
    bool fast;
    struct fast_query query;
};

static void prepare_row(const struct index_job *j, int row, float *mem, struct index_row *r)
{
    const struct op_index_select *o = j->o;
    assert(o->heads <= HEADS_MAX);
    r->q = o->q + (size_t)row * (size_t)o->heads * (size_t)o->dim;
    for (int h = 0; h < o->heads; h++)
        r->w[h] = o->weights[(size_t)row * (size_t)o->heads + (size_t)h] * o->weight_scale;
    cpu_round(j->c, r->w, (size_t)o->heads);
    r->fast = fast_query_pack(j->c, &o->dims, o->heads, r->q, r->w, mem, &r->query);
}

/* n stored keys (at most KEYS_PER_BLOCK) in fp32; key: scratch for them decoded. */
static void score_decoded(const struct index_job *j, const struct index_row *r, const uint8_t *at, int n, float *key,
                          float *score)
{
    const struct op_index_select *o = j->o;
    bool tiles = numerics_fast(j->c->base.numerics) && o->heads % ATTN_HEADS == 0 && o->dim % 32 == 0;
    for (int i = 0; i < n; i++)
        kv_index_get(&o->dims, at + (size_t)i * o->dims.index_bytes, key + i * o->dim);
    if (tiles)
        j->c->tile->index_block(r->q, r->w, o->heads, key, n, o->dim, score);
    for (int i = 0; i < n && !tiles; i++)
        score[i] = score_key(j->c, r->q, r->w, key + i * o->dim, o->heads, o->dim);
}

/* Stored keys of the page that begins with entry `first`, NULL when it is not there. */
static const uint8_t *page_keys(const struct index_job *j, int64_t first)
{
    const struct kv_view *v = &j->s->kv;
    return first < (j->s->pos0 + 1) / INDEX_RATIO ? v->pages[first / KEYS_PER_BLOCK] + v->index_offset : NULL;
}

/* Entries first .. last-1, page by page; first begins a page. */
static void score_keys(const struct index_job *j, const struct index_row *r, int64_t first, int64_t last, float *key,
                       float *score)
{
    const struct kv_view *v = &j->s->kv;
    size_t bytes = j->o->dims.index_bytes;
    for (int64_t g = first; g < last; g += KEYS_PER_BLOCK) {
        const uint8_t *at = v->pages[g / KEYS_PER_BLOCK] + v->index_offset;
        int n = last - g < KEYS_PER_BLOCK ? (int)(last - g) : KEYS_PER_BLOCK;
        bool unset[KEYS_PER_BLOCK];
        if (!r->fast) {
            score_decoded(j, r, at, n, key, score + g);
            continue;
        }
        fast_score_keys(j->c, &r->query, at, bytes, n, page_keys(j, g + KEYS_PER_BLOCK), score + g, unset);
        for (int i = 0; i < n; i++)
            if (unset[i])
                score_decoded(j, r, at + (size_t)i * bytes, 1, key, score + g + i);
    }
}

/* MUTANT(29): any k of n entries, ids ascending. What the indexer is worth is what is lost by this (make eval-tiny). */
static void any_k(int64_t n, int k, int32_t *ids)
{
    struct rng r = {.state = mix64((uint64_t)n)};
    int out = 0;
    for (int64_t i = 0; i < n && out < k; i++)
        if ((int64_t)rng_below(&r, (uint32_t)(n - i)) < k - out)
            ids[out++] = (int32_t)i;
}

/* score [2n]: scores, then scratch. count: of count_scores. */
static void top_k(const struct cpu_dev *c, float *score, int64_t n, int k, const int32_t *count, int32_t *ids)
{
    if (MUTANT(29))
        any_k(n, k, ids);
    else
        c->row->top_k(score, n, k, count, (uint32_t *)(score + n), ids);
}

static void select_all(int32_t *ids, int64_t n, int topk)
{
    for (int i = 0; i < topk; i++)
        ids[i] = i < n ? i : -1;
}

/* The query, a block of keys, a score and an order key for each key, counts of every thread. */
size_t cpu_index_floats(const struct cpu_dev *c, int heads, int dim, int64_t keys)
{
    return fast_query_floats(heads, dim) + KEYS_PER_BLOCK * (size_t)dim + 2 * (size_t)keys +
           (size_t)pool_threads(c->pool) * COARSE_BINS;
}

static void row_task(void *arg, int i, int i_thread)
{
    const struct index_job *j = arg;
    const struct op_index_select *o = j->o;
    int row = j->s->first_row + i;
    int64_t n = (j->s->pos0 + i + 1) / INDEX_RATIO;
    int32_t *ids = o->ids + (size_t)row * (size_t)o->topk;
    if (n <= o->topk) {
        select_all(ids, n, o->topk);
        return;
    }
    struct index_row r;
    size_t query = fast_query_floats(o->heads, o->dim), keys = KEYS_PER_BLOCK * (size_t)o->dim;
    float *mem = cpu_scratch(j->c, i_thread, cpu_index_floats(j->c, o->heads, o->dim, n)), *score = mem + query + keys;
    int32_t *count = memset(score + 2 * n, 0, COARSE_BINS * sizeof *count);
    prepare_row(j, row, mem, &r);
    score_keys(j, &r, 0, n, mem + query, score);
    j->c->row->count_scores(score, n, count);
    top_k(j->c, score, n, o->topk, count, ids);
}

static void keys_task(void *arg, int i, int i_thread)
{
    const struct index_job *j = arg;
    int64_t first = (int64_t)i * KEYS_PER_TASK, last = first + KEYS_PER_TASK < j->n ? first + KEYS_PER_TASK : j->n;
    float *key = cpu_scratch(j->c, i_thread, KEYS_PER_BLOCK * (size_t)j->o->dim);
    score_keys(j, j->shared, first, last, key, j->score);
    j->c->row->count_scores(j->score + first, last - first, j->count + (size_t)i_thread * COARSE_BINS);
}

/* The counts of all threads into the first's. */
static void join_counts(int32_t *count, int n_threads)
{
    for (int t = 1; t < n_threads; t++)
        for (int i = 0; i < COARSE_BINS; i++)
            count[i] += count[t * COARSE_BINS + i];
}

/* Few rows: the keys of each row are shared out. Same arithmetic per key, so the same bits. */
static void select_by_keys(struct index_job *j)
{
    const struct op_index_select *o = j->o;
    for (int i = 0; i < j->s->n_rows; i++) {
        int row = j->s->first_row + i;
        j->n = (j->s->pos0 + i + 1) / INDEX_RATIO;
        int32_t *ids = o->ids + (size_t)row * (size_t)o->topk;
        if (j->n <= o->topk) {
            select_all(ids, j->n, o->topk);
            continue;
        }
        struct index_row r;
        size_t query = fast_query_floats(o->heads, o->dim);
        float *mem = cpu_shared_scratch(j->c, cpu_index_floats(j->c, o->heads, o->dim, j->n));
        size_t counts = (size_t)pool_threads(j->c->pool) * COARSE_BINS;
        prepare_row(j, row, mem, &r);
        j->shared = &r;
        j->score = mem + query;
        j->count = memset(j->score + 2 * j->n, 0, counts * sizeof *j->count);
        int n_tasks = (int)((j->n + KEYS_PER_TASK - 1) / KEYS_PER_TASK);
        cpu_run(j->c, n_tasks, (double)j->n * o->heads * o->dim, keys_task, j);
        join_counts(j->count, pool_threads(j->c->pool));
        top_k(j->c, j->score, j->n, o->topk, j->count, ids);
    }
}

void cpu_index_select(struct dev *d, const struct op_index_select *o)
{
    struct cpu_dev *c = cpu_of(d);
    for (int i = 0; i < o->n_seqs; i++) {
        struct index_job j = {.c = c, .o = o, .s = &o->seqs[i]};
        int64_t n = (j.s->pos0 + j.s->n_rows) / INDEX_RATIO;
        if (j.s->n_rows < 2 * pool_threads(c->pool))
            select_by_keys(&j);
        else
            cpu_run(c, j.s->n_rows, (double)j.s->n_rows * (double)n * o->heads * o->dim, row_task, &j);
    }
}
