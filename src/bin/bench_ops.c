/* The two operations whose cost grows with the context, alone, on random rows of the model's widths: the indexer over
 * its keys, and attention over all compressed entries of a ratio-128 layer. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "bin/bench.h"

enum { RATIO_INDEX = 4, RATIO_DENSE = 128 };

struct op_job {
    struct dev *d;
    struct op_seq seq;
    struct op_index_select select;
    struct op_attn attn;
    uint8_t *page_mem, **pages, *ring;
    float *q, *weights, *kv, *sink, *o;
    int32_t *ids;
};

static int select_call(void *arg, struct err *e)
{
    struct op_job *j = arg;
    j->d->ops->index_select(j->d, &j->select);
    return j->d->ops->sync(j->d, e);
}

static int attn_call(void *arg, struct err *e)
{
    struct op_job *j = arg;
    j->d->ops->attn(j->d, &j->attn);
    return j->d->ops->sync(j->d, e);
}

static float *random_values(struct rng *r, size_t n)
{
    float *x = xcalloc(n, sizeof *x);
    for (size_t i = 0; i < n; i++)
        x[i] = (float)rng_normal(r);
    return x;
}

/* n stored rows of one kind in one run of pages; the first 64 rows repeat. */
static int make_pages(struct op_job *j, const struct kv_dims *dims, int64_t n, int ratio, bool index, struct err *e)
{
    size_t bytes = index ? dims->index_bytes : dims->row_bytes, per_page = (size_t)(KV_PAGE_TOKENS / ratio);
    size_t n_pages = ((size_t)n + per_page - 1) / per_page, dim = (size_t)(index ? dims->index_dim : dims->head_dim);
    j->page_mem = try_alloc(n_pages * per_page * bytes);
    if (j->page_mem == NULL)
        return err_set(e, HD_ENOMEM, "no memory for %lld rows of %zu bytes", (long long)n, bytes);
    j->pages = xcalloc(n_pages, sizeof *j->pages);
    struct rng r = {5};
    float *row = random_values(&r, dim * 64);
    for (size_t i = 0; i < n_pages * per_page; i++) {
        if (index)
            kv_index_put(dims, row + i % 64 * dim, j->page_mem + i * bytes);
        else
            kv_row_put(dims, row + i % 64 * dim, j->page_mem + i * bytes);
    }
    for (size_t i = 0; i < n_pages; i++)
        j->pages[i] = j->page_mem + i * per_page * bytes;
    free(row);
    return HD_OK;
}

static void free_job(struct op_job *j)
{
    free(j->page_mem);
    free(j->pages);
    free(j->ring);
    free(j->q);
    free(j->weights);
    free(j->kv);
    free(j->sink);
    free(j->o);
    free(j->ids);
    j->d->ops->close(&j->d);
}

static int indexer_row(struct bench *b, const struct config *c, int64_t keys, struct err *e)
{
    struct dev_options o = {NUM_FAST, b->args.model.n_threads, b->args.model.isa, false};
    struct op_job j = {0};
    struct rng r = {3};
    int rc = dev_open_cpu(&j.d, &o, e);
    if (rc != HD_OK)
        return rc;
    size_t heads = (size_t)c->index_n_heads, dim = (size_t)c->index_head_dim;
    struct kv_dims dims = kv_dims_of(KV_FP8, c->head_dim, c->rope_dim, c->index_head_dim);
    rc = make_pages(&j, &dims, keys, RATIO_INDEX, true, e);
    j.q = random_values(&r, heads * dim);
    j.weights = random_values(&r, heads);
    j.ids = xcalloc((size_t)c->index_topk, sizeof *j.ids);
    struct op_index_query query = {.n = 1, .heads = (int)heads, .dim = (int)dim, .q = j.q};
    j.d->ops->index_query(j.d, &query);
    j.seq = (struct op_seq){.n_rows = 1, .pos0 = keys * RATIO_INDEX - 1, .kv = {.pages = j.pages}};
    j.select = (struct op_index_select){.n_seqs = 1, .heads = (int)heads, .dim = (int)dim, .topk = c->index_topk,
                                        .seqs = &j.seq, .dims = dims, .q = j.q, .weights = j.weights, .weight_scale = 1,
                                        .ids = j.ids};
    struct bench_work w = {.bytes = (double)keys * (double)dims.index_bytes,
                           .index_flops = 2.0 * (double)keys * (double)(heads * dim)};
    struct bench_task t = {.unit = "keys/s", .per_call = (double)keys, .work = w, .fn = select_call, .arg = &j};
    snprintf(t.name, sizeof t.name, "indexer.keys%lld", (long long)keys);
    if (rc == HD_OK)
        rc = bench_time(b, &t, e);
    free_job(&j);
    return rc;
}

static int attention_row(struct bench *b, const struct config *c, int64_t context, struct err *e)
{
    struct dev_options o = {NUM_FAST, b->args.model.n_threads, b->args.model.isa, false};
    struct op_job j = {0};
    struct rng r = {4};
    int rc = dev_open_cpu(&j.d, &o, e);
    if (rc != HD_OK)
        return rc;
    size_t heads = (size_t)c->n_heads, hd = (size_t)c->head_dim, rows = (size_t)context / RATIO_DENSE;
    struct kv_dims dims = kv_dims_of(KV_FP8, c->head_dim, c->rope_dim, c->index_head_dim);
    rc = make_pages(&j, &dims, (int64_t)rows, RATIO_DENSE, false, e);
    j.q = random_values(&r, heads * hd);
    j.kv = random_values(&r, hd);
    j.sink = random_values(&r, heads);
    j.o = xcalloc(heads * hd, sizeof *j.o);
    int ring_rows = c->window + KV_ROLLBACK;
    j.ring = xcalloc((size_t)ring_rows, dims.row_bytes);
    j.seq = (struct op_seq){.n_rows = 1, .pos0 = context - 1,
                            .kv = {.ring = j.ring, .ring_rows = ring_rows, .pages = j.pages}};
    j.attn = (struct op_attn){.n_seqs = 1, .heads = (int)heads, .window = c->window, .ratio = RATIO_DENSE,
                              .seqs = &j.seq, .dims = dims, .scale = 1.0f / sqrtf((float)hd), .q = j.q, .kv = j.kv,
                              .sink = j.sink, .o = j.o};
    double visible = (double)(rows + (size_t)c->window);
    struct bench_work w = {.bytes = visible * (double)dims.row_bytes, .flops = 4.0 * visible * (double)(heads * hd)};
    struct bench_task t = {.unit = "rows/s", .per_call = visible, .work = w, .fn = attn_call, .arg = &j};
    snprintf(t.name, sizeof t.name, "attention.ratio128.ctx%lld", (long long)context);
    if (rc == HD_OK)
        rc = bench_time(b, &t, e);
    free_job(&j);
    return rc;
}

int bench_ops(struct bench *b, const struct config *c, struct err *e)
{
    const int64_t keys = 250000, context = 1048576;
    int rc = bench_wants(b, "indexer") ? indexer_row(b, c, keys, e) : HD_OK;
    return rc == HD_OK && bench_wants(b, "attention") ? attention_row(b, c, context, e) : rc;
}
