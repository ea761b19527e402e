/* Whole steps of a model: decode at context frontiers and batch sizes, prefill by chunk. The state at a frontier is
 * synthetic (kv_seq_synthesise), since a real prefill of a long context would take hours. */
#include <stdio.h>
#include <stdlib.h>

#include "bin/bench.h"
#include "bin/bin.h"

enum { BATCH_MAX = 256 };

struct step_job {
    struct model *m;
    struct kv_seq *seq[BATCH_MAX];
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

static int prefill_call(void *arg, struct err *e)
{
    struct step_job *j = arg;
    struct step_result r;
    kv_seq_clear(j->seq[0]);
    new_tokens(j, j->chunk);
    struct step_item it = {.seq = j->seq[0], .tokens = j->tokens, .n_tokens = j->chunk, .n_logits = 1};
    return model_step(j->m, &it, 1, &r, e);
}

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

static int decode_row(struct bench *b, struct step_job *j, const struct plan *p, int batch, int64_t context, struct err *e)
{
    struct bench_work w = {.bytes = plan_step_bytes(p, batch, context),
                           .flops = batch * (plan_linear_flops(p) + plan_attn_flops(p, context)),
                           .index_flops = context > 4 * p->cfg.index_topk ? batch * plan_index_flops(p, context) : 0};
    char name[64];
    snprintf(name, sizeof name, "decode.ctx%lld.batch%d", (long long)context, batch);
    int rc = open_sequences(j, batch, context, e);
    if (rc == HD_OK)
        rc = bench_time(b, name, "tokens/s", batch, &w, decode_call, j, e);
    close_sequences(j);
    return rc;
}

static int prefill_row(struct bench *b, struct step_job *j, const struct plan *p, int chunk, struct err *e)
{
    struct bench_work w = {.bytes = plan_step_bytes(p, chunk, 1), .flops = plan_prefill_flops(p, chunk)};
    char name[64];
    snprintf(name, sizeof name, "prefill.chunk%d", chunk);
    j->chunk = chunk;
    int rc = kv_seq_open(&j->seq[0], j->m, chunk, e);
    if (rc == HD_OK)
        rc = bench_time(b, name, "tokens/s", chunk, &w, prefill_call, j, e);
    kv_seq_close(&j->seq[0]);
    return rc;
}

static int run_rows(struct bench *b, struct step_job *j, const struct plan *p, struct err *e)
{
    int rc = HD_OK, rows = model_max_rows(j->m);
    int64_t longest = model_config(j->m)->max_positions;
    for (int i = 0; i < b->n_contexts && rc == HD_OK; i++)
        if (b->contexts[i] <= longest)
            rc = decode_row(b, j, p, 1, b->contexts[i], e);
    for (int i = 0; i < b->n_batches && rc == HD_OK; i++)
        if (b->batches[i] > 1 && b->contexts[0] <= longest)
            rc = decode_row(b, j, p, (int)b->batches[i], b->contexts[0], e);
    for (int i = 0; i < b->n_chunks && rc == HD_OK; i++)
        if (b->chunks[i] <= rows && b->chunks[i] <= longest)
            rc = prefill_row(b, j, p, (int)b->chunks[i], e);
    return rc;
}

int bench_model(struct bench *b, struct err *e)
{
    struct step_job j = {.rng = {1}};
    struct progress bar = progress_bar();
    b->args.model.drafter = false;
    int rc = model_open(&j.m, b->dir, &b->args.model, &bar, e);
    if (rc != HD_OK)
        return rc;
    struct plan p;
    struct plan_formats f;
    int n_stages;
    plan_inspect(&model_weights(j.m)->ckpt, &f, &n_stages);
    plan_init(&p, model_config(j.m), &f, 0);
    int room = model_max_rows(j.m) > BATCH_MAX ? model_max_rows(j.m) : BATCH_MAX;
    j.tokens = xcalloc((size_t)room, sizeof *j.tokens);
    rc = run_rows(b, &j, &p, e);
    if (rc == HD_OK)
        rc = bench_ops(b, model_config(j.m), e);
    free(j.tokens);
    model_close(&j.m);
    return rc;
}
