/* Whole steps of a model: decode at context frontiers and batch sizes, prefill by chunk and depth. The state at a
 * frontier is synthetic (kv_seq_synthesise), since a real prefill of a long context would take hours. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "bin/bench.h"
#include "bin/bin.h"
#include "model/shape.h"

enum { BATCH_MAX = 256 };

struct step_job {
    struct model *m;
    struct plan plan, full; /* full.cfg.n_layers 0: no full-depth model of these widths is known */
    struct kv_seq *seq[BATCH_MAX], *base;
    struct step_item items[BATCH_MAX];
    int32_t *tokens;
    int n, chunk;
    struct rng rng;
};

static void new_tokens(struct step_job *j, int n)
{
    uint32_t vocab = (uint32_t)model_config(j->m)->vocab_size;
    for (int i = 0; i < n; i++)
        j->tokens[i] = (int32_t)rng_below(&j->rng, vocab);
}

/* ---------------------------------------------------------------- decode */

/* One token for every sequence, then taken back, so that the context stays. */
static int decode_call(void *arg, struct err *e)
{
    struct step_job *j = arg;
    struct step_result r;
    new_tokens(j, j->n);
    for (int i = 0; i < j->n; i++)
        j->items[i] = (struct step_item){.seq = j->seq[i], .tokens = &j->tokens[i], .n_tokens = 1, .n_logits = 1};
    int rc = model_step(j->m, j->items, j->n, &r, e);
    for (int i = 0; i < j->n && rc == HD_OK; i++)
        rc = kv_seq_truncate(j->seq[i], kv_seq_tokens(j->seq[i]) - 1, e);
    return rc;
}

/* Every sequence has state of its own, so that the rows of a batch are read apart. */
static int open_sequences(struct step_job *j, int n, int64_t context, struct err *e)
{
    int rc = HD_OK;
    for (j->n = 0; j->n < n && rc == HD_OK; j->n++) {
        rc = kv_seq_open(&j->seq[j->n], j->m, context + KV_ROLLBACK, e);
        if (rc != HD_OK)
            return rc;
        if (context > 1)
            rc = kv_seq_synthesise(j->seq[j->n], context - 1, (uint64_t)j->n + 1, e);
    }
    return rc;
}

static void close_sequences(struct step_job *j)
{
    for (int i = 0; i < j->n; i++)
        kv_seq_close(&j->seq[i]);
    j->n = 0;
}

/* In numerics int8 the routed experts' products are of bytes. */
static void count_int8(const struct step_job *j, const struct plan *p, int tokens, struct bench_work *w)
{
    if (model_numerics(j->m) != NUM_INT8)
        return;
    w->int8_flops = 2.0 * tokens * (double)p->part[PART_EXPERTS].active;
    w->flops -= w->int8_flops;
}

static struct bench_work decode_work(const struct step_job *j, const struct plan *p, int batch, int64_t context)
{
    if (p->cfg.n_layers == 0)
        return (struct bench_work){0};
    bool all = context / 4 <= p->cfg.index_topk; /* every entry is selected, so none is scored */
    struct bench_work w = {.bytes = plan_step_bytes(p, batch, context),
                           .flops = batch * (plan_linear_flops(p) + plan_attn_flops(p, context)),
                           .index_flops = all ? 0 : batch * plan_index_flops(p, context)};
    count_int8(j, p, batch, &w);
    return w;
}

static int decode_row(struct bench *b, struct step_job *j, int batch, int64_t context, struct err *e)
{
    struct bench_task t = {.unit = "tokens/s", .per_call = batch, .work = decode_work(j, &j->plan, batch, context),
                           .full = decode_work(j, &j->full, batch, context), .fn = decode_call, .arg = j,
                           .context = context, .batch = batch};
    snprintf(t.name, sizeof t.name, "decode.ctx%lld.batch%d", (long long)context, batch);
    if (!bench_wants(b, t.name))
        return HD_OK;
    int rc = open_sequences(j, batch, context, e);
    if (rc == HD_OK)
        rc = bench_time(b, &t, e);
    close_sequences(j);
    return rc;
}

/* ---------------------------------------------------------------- prefill */

static int prefill_reset(void *arg, struct err *e)
{
    struct step_job *j = arg;
    kv_seq_clear(j->seq[0]);
    new_tokens(j, j->chunk);
    return kv_seq_tokens(j->base) == 0 ? HD_OK : kv_seq_fork(j->seq[0], j->base, e);
}

static int prefill_call(void *arg, struct err *e)
{
    struct step_job *j = arg;
    struct step_result r;
    struct step_item it = {.seq = j->seq[0], .tokens = j->tokens, .n_tokens = j->chunk, .n_logits = 1};
    return model_step(j->m, &it, 1, &r, e);
}

static struct bench_work prefill_work(const struct step_job *j, const struct plan *p, int64_t depth, int chunk)
{
    struct bench_work w = {0};
    if (p->cfg.n_layers == 0)
        return w;
    w.bytes = plan_step_bytes(p, chunk, 1);
    w.flops = plan_chunk_flops(p, depth, chunk, &w.index_flops);
    count_int8(j, p, chunk, &w);
    return w;
}

static int prefill_row(struct bench *b, struct step_job *j, int chunk, int64_t depth, struct err *e)
{
    struct bench_task t = {.unit = "tokens/s", .per_call = chunk, .work = prefill_work(j, &j->plan, depth, chunk),
                           .full = prefill_work(j, &j->full, depth, chunk), .reset = prefill_reset, .fn = prefill_call,
                           .arg = j, .context = depth, .chunk = chunk};
    int n = snprintf(t.name, sizeof t.name, "prefill.chunk%d", chunk);
    if (depth > 0)
        snprintf(t.name + n, sizeof t.name - (size_t)n, ".depth%lld", (long long)depth);
    if (!bench_wants(b, t.name))
        return HD_OK;
    j->chunk = chunk;
    int rc = kv_seq_open(&j->base, j->m, depth + 1, e);
    if (rc == HD_OK && depth > 0)
        rc = kv_seq_synthesise(j->base, depth, 1, e);
    if (rc == HD_OK)
        rc = kv_seq_open(&j->seq[0], j->m, depth + chunk, e);
    if (rc == HD_OK)
        rc = bench_time(b, &t, e);
    kv_seq_close(&j->seq[0]);
    kv_seq_close(&j->base);
    return rc;
}

/* ---------------------------------------------------------------- all rows */

static int decode_rows(struct bench *b, struct step_job *j, int64_t longest, struct err *e)
{
    int rc = HD_OK;
    for (int i = 0; i < b->n_contexts && rc == HD_OK; i++)
        if (b->contexts[i] + KV_ROLLBACK <= longest)
            rc = decode_row(b, j, 1, b->contexts[i], e);
        else if (b->contexts[i] <= longest) /* the frontier itself: as close as a token fits */
            rc = decode_row(b, j, 1, longest - KV_ROLLBACK, e);
    for (int i = 0; i < b->n_batches && rc == HD_OK; i++)
        if (b->batches[i] > 1 && b->batches[i] <= model_max_rows(j->m) && b->contexts[0] + KV_ROLLBACK <= longest)
            rc = decode_row(b, j, (int)b->batches[i], b->contexts[0], e);
    return rc;
}

static int run_rows(struct bench *b, struct step_job *j, struct err *e)
{
    int rows = model_max_rows(j->m);
    int64_t longest = model_config(j->m)->max_positions;
    int rc = decode_rows(b, j, longest, e);
    for (int i = 0; i < b->n_depths; i++)
        for (int k = 0; k < b->n_chunks && rc == HD_OK; k++)
            if (b->chunks[k] <= rows && b->chunks[k] + b->depths[i] <= longest)
                rc = prefill_row(b, j, (int)b->chunks[k], b->depths[i], e);
    return rc;
}

/* The full-depth model of these widths, when it is one of the released ones. */
static void find_full(struct bench *b, struct step_job *j, const struct plan_formats *f)
{
    static const char *const names[] = {"flash", "pro"};
    const struct config *c = &j->plan.cfg;
    for (size_t i = 0; i < COUNT_OF(names); i++) {
        struct config full;
        if (config_shape(&full, names[i], false, NULL) != HD_OK || full.hidden_size != c->hidden_size ||
            full.n_layers <= c->n_layers)
            continue;
        plan_init(&j->full, &full, f, 0);
        snprintf(b->full, sizeof b->full, "%s with its %d layers", names[i], full.n_layers);
        bench_add(b, "kv.bytes_per_token.full_depth", "bytes", (double)j->full.page_bytes / KV_PAGE_TOKENS);
    }
}

/* The last part of the folder's path: tables and plots are shown to others, whom the rest does not concern. */
static const char *folder_name(const char *dir)
{
    const char *slash = strrchr(dir, '/');
    return slash == NULL || slash[1] == '\0' ? dir : slash + 1;
}

static void describe(struct bench *b, struct step_job *j)
{
    struct plan_formats f = plan_formats_released;
    int n_stages;
    const struct config *c = model_config(j->m);
    plan_inspect(&model_weights(j->m)->ckpt, &f, &n_stages);
    plan_init(&j->plan, c, &f, 0);
    snprintf(b->about, sizeof b->about, "%s: %d layers (%d SWA, %d CSA, %d HCA) of width %d, %d experts, vocabulary %d",
             b->args.dir == NULL ? "made-up slice of Flash's widths" : folder_name(b->args.dir), c->n_layers,
             j->plan.n_swa, j->plan.n_csa, j->plan.n_hca, c->hidden_size, c->n_experts, c->vocab_size);
    bench_add(b, "kv.bytes_per_token", "bytes", (double)model_page_bytes(j->m) / KV_PAGE_TOKENS);
    find_full(b, j, &f);
}

int bench_model(struct bench *b, struct err *e)
{
    struct step_job j = {.rng = {1}};
    struct progress bar = progress_bar();
    b->args.model.drafter = false;
    uint64_t start = now_ns();
    int rc = model_open(&j.m, b->dir, &b->args.model, &bar, e);
    if (rc != HD_OK)
        return rc;
    bench_add(b, "open", "s", (double)(now_ns() - start) * 1e-9);
    model_warm(j.m);
    describe(b, &j);
    int room = model_max_rows(j.m) > BATCH_MAX ? model_max_rows(j.m) : BATCH_MAX;
    j.tokens = xcalloc((size_t)room, sizeof *j.tokens);
    rc = run_rows(b, &j, e);
    if (rc == HD_OK)
        rc = bench_ops(b, model_config(j.m), e);
    free(j.tokens);
    model_close(&j.m);
    return rc;
}
