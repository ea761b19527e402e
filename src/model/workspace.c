/* Memory of steps and of sequences: one workspace of the model's rows, logits, pages and tails. */
#include <stdlib.h>
#include <unistd.h>

#include "model/model_impl.h"

static void *room(struct model *m, size_t n, size_t size, uint64_t *total)
{
    *total += (uint64_t)n * size;
    return m->dev->ops->alloc(m->dev, n * size);
}

struct need {
    void **at;
    size_t n; /* 4-byte elements */
};

int model_alloc_workspace(struct model *m, struct err *e)
{
    const struct config *c = &m->w.cfg;
    struct workspace *w = &m->ws;
    size_t N = (size_t)m->max_rows, S = (size_t)c->hc_mult, D = (size_t)c->hidden_size, hd = (size_t)c->head_dim;
    size_t H = (size_t)c->n_heads, K = (size_t)c->n_experts_per_tok, pairs = N * (K + 1);
    size_t id = (size_t)c->index_head_dim, ih = (size_t)c->index_n_heads;
    size_t mtp = m->mtp ? N * S * D : 1;
    const struct need needs[] = {
        {(void **)&w->x, N * S * D},        {(void **)&w->x_mtp, mtp},
        {(void **)&w->mtp_h, mtp},          {(void **)&w->y, N * D},
        {(void **)&w->a, N * D},            {(void **)&w->out, N * D},
        {(void **)&w->post, N * S},         {(void **)&w->comb, N * S * S},
        {(void **)&w->qa, N * (size_t)c->q_lora_rank},
        {(void **)&w->q, N * H * hd},       {(void **)&w->kv, N * hd},
        {(void **)&w->o, N * H * hd},       {(void **)&w->low, N * (size_t)c->o_groups * (size_t)c->o_lora_rank},
        {(void **)&w->ckv, N * 2 * hd},     {(void **)&w->cgate, N * 2 * hd},
        {(void **)&w->ikv, N * 2 * id},     {(void **)&w->igate, N * 2 * id},
        {(void **)&w->iq, N * ih * id},     {(void **)&w->iw, N * ih},
        {(void **)&w->z, N * (size_t)c->n_experts},
        {(void **)&w->weights, N * K},      {(void **)&w->moe_h, pairs * (size_t)c->expert_dim},
        {(void **)&w->moe_out, pairs * D},  {(void **)&w->topk, N * (size_t)c->index_topk},
        {(void **)&w->experts, N * K},      {(void **)&w->head_x, N * S * D},
        {(void **)&w->head_y, N * D},       {(void **)&w->pick, N},
        {(void **)&m->rows.tokens, N},      {(void **)&m->rows.pos, N},
        {(void **)&m->mtp_rows.tokens, N},  {(void **)&m->mtp_rows.pos, N},
    };
    uint64_t total = 0;
    for (size_t i = 0; i < COUNT_OF(needs); i++) {
        *needs[i].at = room(m, needs[i].n, sizeof(float), &total);
        if (*needs[i].at == NULL)
            return err_set(e, HD_ENOMEM, "no memory for a workspace of %d rows (more than %llu bytes)", m->max_rows,
                           (unsigned long long)total);
    }
    w->bytes = total + N * (2 * sizeof *m->rows.seqs + 2 * sizeof *m->rows.owner + sizeof *m->mtp_pos + sizeof *m->mtp_item +
                            2 * (sizeof *m->mtp_out_pos + sizeof *m->mtp_out_item + sizeof *m->tail_at));
    m->rows.seqs = xcalloc(N, sizeof *m->rows.seqs);
    m->rows.owner = xcalloc(N, sizeof *m->rows.owner);
    m->mtp_rows.seqs = xcalloc(N, sizeof *m->mtp_rows.seqs);
    m->mtp_rows.owner = xcalloc(N, sizeof *m->mtp_rows.owner);
    m->mtp_pos = xcalloc(N, sizeof *m->mtp_pos);
    m->mtp_item = xcalloc(N, sizeof *m->mtp_item);
    m->mtp_out_pos = xcalloc(2 * N, sizeof *m->mtp_out_pos);
    m->mtp_out_item = xcalloc(2 * N, sizeof *m->mtp_out_item);
    m->tail_at = xcalloc(2 * N, sizeof *m->tail_at);
    return HD_OK;
}

void model_free_workspace(struct model *m)
{
    struct workspace *w = &m->ws;
    void *all[] = {w->x, w->x_mtp, w->mtp_h, w->y, w->a, w->out, w->post, w->comb, w->qa, w->q, w->kv, w->o, w->low,
                   w->ckv, w->cgate, w->ikv, w->igate, w->iq, w->iw, w->z, w->weights, w->moe_h, w->moe_out, w->topk,
                   w->experts, w->head_x, w->head_y, w->pick, m->rows.tokens, m->rows.pos, m->mtp_rows.tokens,
                   m->mtp_rows.pos, w->logits, w->mtp_logits, m->freq_main, m->freq_compressed};
    for (size_t i = 0; i < COUNT_OF(all); i++)
        m->dev->ops->release(m->dev, all[i]);
    free(m->rows.seqs);
    free(m->rows.owner);
    free(m->mtp_rows.seqs);
    free(m->mtp_rows.owner);
    free(m->mtp_pos);
    free(m->mtp_item);
    free(m->mtp_out_pos);
    free(m->mtp_out_item);
    free(m->tail_at);
}

/* Pages for max_positions tokens once, at most half of the machine's memory, or what the caller's budget holds. A budget
 * is shared between pages and tails: the tails get their share first, whole tails only. */
int model_open_pools(struct model *m, uint64_t budget_bytes, double tail_share, struct err *e)
{
    int64_t once = ((int64_t)m->w.cfg.max_positions + KV_PAGE_TOKENS - 1) / KV_PAGE_TOKENS;
    uint64_t ram = (uint64_t)sysconf(_SC_PHYS_PAGES) * (uint64_t)sysconf(_SC_PAGE_SIZE);
    uint64_t budget = budget_bytes != 0 ? budget_bytes : ram / 2;
    int64_t n_tails = (int64_t)((double)budget * tail_share / (double)m->kv.tail_bytes);
    int64_t n = (int64_t)((budget - (uint64_t)n_tails * m->kv.tail_bytes) / m->kv.page_bytes);
    if (budget_bytes == 0 && n > once) { /* tails keep their share of what is left */
        n = once;
        double tail_bytes = (double)n * (double)m->kv.page_bytes * tail_share / (1 - tail_share);
        n_tails = (int64_t)(tail_bytes / (double)m->kv.tail_bytes);
    }
    if (n < 1 || n > INT32_MAX || n_tails > INT32_MAX)
        return err_set(e, HD_EARG, "a KV budget of %llu bytes does not hold one page of %zu bytes",
                       (unsigned long long)budget, m->kv.page_bytes);
    int rc = kv_pool_init(&m->pool, m->kv.page_bytes, n, e);
    return rc != HD_OK || n_tails == 0 ? rc : kv_pool_init(&m->tails, m->kv.tail_bytes, n_tails, e);
}

int model_logits_room(struct model *m, float **buf, size_t *cap, size_t n, struct err *e)
{
    if (n <= *cap)
        return HD_OK;
    size_t bytes = n * (size_t)m->w.cfg.vocab_size * sizeof(float);
    m->dev->ops->release(m->dev, *buf);
    *buf = m->dev->ops->alloc(m->dev, bytes);
    *cap = *buf == NULL ? 0 : n;
    return *buf != NULL ? HD_OK : err_set(e, HD_ENOMEM, "no memory for %zu rows of logits (%zu bytes)", n, bytes);
}

int model_reserve_logits(struct model *m, int n, struct err *e)
{
    return model_logits_room(m, &m->ws.logits, &m->ws.n_logits_cap, (size_t)n, e);
}
