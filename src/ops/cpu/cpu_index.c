/* Lightning indexer: scores of all visible entries of a ratio-4 layer for one query, and the exact top-k of them. */
#include "ops/cpu/cpu.h"

#include <assert.h>
#include <string.h>

#include "base/mutant.h"
#include "num/num.h"

enum { INDEX_RATIO = 4, KEYS_PER_TASK = 256, KEYS_PER_BLOCK = 32, HEADS_MAX = 256 };

struct index_job {
    struct cpu_dev *c;
    const struct op_index_select *o;
    const struct op_seq *s;
    int row;         /* of the step, when one row's keys are shared out among threads */
    int64_t n;       /* visible entries */
    float *score;    /* [n] */
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

/* key: scratch for KEYS_PER_BLOCK decoded keys. */
static void score_keys(const struct index_job *j, int row, int64_t first, int64_t last, float *key, float *score)
{
    const struct op_index_select *o = j->o;
    const struct kv_view *v = &j->s->kv;
    int per_page = KV_PAGE_TOKENS / INDEX_RATIO;
    const float *q = o->q + (size_t)row * (size_t)o->heads * (size_t)o->dim;
    float w[HEADS_MAX];
    assert(o->heads <= HEADS_MAX);
    for (int h = 0; h < o->heads; h++)
        w[h] = o->weights[(size_t)row * (size_t)o->heads + (size_t)h] * o->weight_scale;
    cpu_round(j->c, w, (size_t)o->heads);
    bool tiles = j->c->base.numerics == NUM_FAST && o->heads % ATTN_HEADS == 0 && o->dim % 32 == 0;
    for (int64_t g = first; g < last;) {
        int n = 0;
        for (; n < KEYS_PER_BLOCK && g + n < last; n++) {
            const uint8_t *page = v->pages[(g + n) / per_page];
            kv_index_get(&o->dims, page + v->index_offset + (size_t)((g + n) % per_page) * o->dims.index_bytes,
                         key + n * o->dim);
        }
        if (tiles)
            j->c->tile.index_block(q, w, o->heads, key, n, o->dim, score + g);
        for (int k = 0; k < n && !tiles; k++)
            score[g + k] = score_key(j->c, q, w, key + k * o->dim, o->heads, o->dim);
        g += n;
    }
}

/* fp32 as an unsigned integer of the same order (-0 equals +0; a NaN would sort above everything). */
static uint32_t order_key(float x)
{
    uint32_t u = f32_bits(x + 0.0f);
    return u & 0x80000000u ? ~u : u | 0x80000000u;
}

/* Value of the k-th largest key by four byte-wise counting passes, and how many keys equal to it belong to the top k. */
static uint32_t kth_largest(const float *score, int64_t n, int64_t k, int64_t *n_equal)
{
    uint32_t prefix = 0, mask = 0;
    for (int shift = 24; shift >= 0; shift -= 8) {
        int64_t count[256] = {0};
        for (int64_t i = 0; i < n; i++) {
            uint32_t u = order_key(score[i]);
            if ((u & mask) == prefix)
                count[u >> shift & 255]++;
        }
        int b = 255;
        while (count[b] < k)
            k -= count[b--];
        prefix |= (uint32_t)b << shift;
        mask |= 255u << shift;
    }
    *n_equal = k;
    return prefix;
}

/* The k entries of highest score, ties to the lower number, ids ascending. */
static void top_k(const float *score, int64_t n, int k, int32_t *ids)
{
    int64_t n_equal;
    uint32_t cut = kth_largest(score, n, k, &n_equal);
    int out = 0;
    for (int64_t i = 0; i < n && out < k; i++) {
        uint32_t u = order_key(score[i]);
        if (u > cut || (u == cut && n_equal-- > 0))
            ids[out++] = (int32_t)i;
    }
    assert(out == k);
}

static void select_all(int32_t *ids, int64_t n, int topk)
{
    for (int i = 0; i < topk; i++)
        ids[i] = i < n ? i : -1;
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
    float *key = cpu_scratch(j->c, i_thread, KEYS_PER_BLOCK * (size_t)o->dim + (size_t)n);
    float *score = key + KEYS_PER_BLOCK * o->dim;
    score_keys(j, row, 0, n, key, score);
    top_k(score, n, o->topk, ids);
}

static void keys_task(void *arg, int i, int i_thread)
{
    const struct index_job *j = arg;
    int64_t first = (int64_t)i * KEYS_PER_TASK, last = first + KEYS_PER_TASK < j->n ? first + KEYS_PER_TASK : j->n;
    score_keys(j, j->row, first, last, cpu_scratch(j->c, i_thread, KEYS_PER_BLOCK * (size_t)j->o->dim),
               j->score);
}

/* Few rows: the keys of each row are shared out. Same arithmetic per key, so the same bits. */
static void select_by_keys(struct index_job *j)
{
    const struct op_index_select *o = j->o;
    for (int i = 0; i < j->s->n_rows; i++) {
        j->row = j->s->first_row + i;
        j->n = (j->s->pos0 + i + 1) / INDEX_RATIO;
        int32_t *ids = o->ids + (size_t)j->row * (size_t)o->topk;
        if (j->n <= o->topk) {
            select_all(ids, j->n, o->topk);
            continue;
        }
        j->score = cpu_shared_scratch(j->c, (size_t)j->n);
        int n_tasks = (int)((j->n + KEYS_PER_TASK - 1) / KEYS_PER_TASK);
        cpu_run(j->c, n_tasks, (double)j->n * o->heads * o->dim, keys_task, j);
        top_k(j->score, j->n, o->topk, ids);
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
