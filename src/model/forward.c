/* The forward pass: steps over any mix of sequences, and the layer as the paper writes it. */
#include <assert.h>
#include <math.h>
#include <string.h>

#include "model/model_impl.h"

#include "base/mutant.h"

/* ---------------------------------------------------------------- sub-layers */

static void linear(struct model *m, int n, const struct wmat *w, const float *x, float *y)
{
    m->dev->ops->linear(m->dev, &(struct op_linear){.n = n, .w = *w, .x = x, .y = y});
}

static void linear_f32(struct model *m, int n, const struct wmat *w, const float *x, float *y)
{
    m->dev->ops->linear(m->dev, &(struct op_linear){.n = n, .w = *w, .keep_f32 = true, .x = x, .y = y});
}

static void norm(struct model *m, int n, const struct vec *w, const float *x, float *y)
{
    m->dev->ops->rmsnorm(m->dev, &(struct op_rmsnorm){.n = n, .dim = w->n, .eps = m->w.cfg.rms_norm_eps, .x = x,
                                                      .w = w->data, .y = y});
}

static void rope(struct model *m, const struct rows *r, const float *freq, int heads, int dim, bool inverse, float *x)
{
    m->dev->ops->rope(m->dev, &(struct op_rope){.n = r->n, .heads = heads, .dim = dim, .rope_dim = m->w.cfg.rope_dim,
                                                .inverse = inverse, .pos = r->pos, .freq = freq, .x = x});
}

void forward_hc_pre(struct model *m, const struct hc_weights *hc, const struct vec *w, int n, const float *x, float *a)
{
    const struct config *c = &m->w.cfg;
    m->dev->ops->hc_pre(m->dev, &(struct op_hc_pre){.n = n, .streams = c->hc_mult, .dim = c->hidden_size,
                                                    .sinkhorn_iters = c->hc_sinkhorn_iters, .eps = c->rms_norm_eps,
                                                    .hc_eps = c->hc_eps, .x = x, .fn = hc->fn, .base = hc->base.data,
                                                    .scale = hc->scale.data, .y = m->ws.y, .post = m->ws.post,
                                                    .comb = m->ws.comb});
    norm(m, n, w, m->ws.y, a);
}

void forward_hc_post(struct model *m, int n, const float *o, float *x)
{
    const struct config *c = &m->w.cfg;
    m->dev->ops->hc_post(m->dev, &(struct op_hc_post){.n = n, .streams = c->hc_mult, .dim = c->hidden_size, .o = o,
                                                      .post = m->ws.post, .comb = m->ws.comb, .x = x});
}

/* Queries: low-rank projection, norm of the latent (kept in ws.qa for the indexer), per-head norm, rotation. */
static void queries(struct model *m, const struct layer_ops *l, struct rows *r, const float *a)
{
    const struct config *c = &m->w.cfg;
    struct workspace *w = &m->ws;
    linear(m, r->n, &l->wq_a, a, w->qa);
    norm(m, r->n, &l->w->q_norm, w->qa, w->qa);
    linear(m, r->n, &l->wq_b, w->qa, w->q);
    m->dev->ops->head_rms(m->dev, &(struct op_head_rms){.n = r->n, .heads = c->n_heads, .dim = c->head_dim,
                                                        .eps = c->rms_norm_eps, .x = w->q});
    rope(m, r, l->freq, c->n_heads, c->head_dim, false, w->q);
}

/* The shared key = value row of each token. */
void forward_window_rows(struct model *m, const struct layer_ops *l, struct rows *r, const float *a)
{
    const struct config *c = &m->w.cfg;
    linear(m, r->n, &l->wkv, a, m->ws.kv);
    norm(m, r->n, &l->w->kv_norm, m->ws.kv, m->ws.kv);
    rope(m, r, l->freq, 1, c->head_dim, false, m->ws.kv);
    m->dev->ops->kv_quant(m->dev, &(struct op_kv_quant){.n = r->n, .dim = c->head_dim, .rope_dim = c->rope_dim,
                                                        .x = m->ws.kv});
}

static void compress(struct model *m, const struct layer_ops *l, struct rows *r, const float *a, bool index)
{
    const struct config *c = &m->w.cfg;
    struct workspace *w = &m->ws;
    const struct compressor_weights *cw = index ? &l->w->index_compressor : &l->w->compressor;
    float *kv = index ? w->ikv : w->ckv, *gate = index ? w->igate : w->cgate;
    linear_f32(m, r->n, index ? &l->index_kv : &l->comp_kv, a, kv);
    linear_f32(m, r->n, index ? &l->index_gate : &l->comp_gate, a, gate);
    m->dev->ops->compress(m->dev, &(struct op_compress){.n_seqs = r->n_seqs, .ratio = l->w->ratio,
                                                        .dim = index ? c->index_head_dim : c->head_dim,
                                                        .rope_dim = c->rope_dim, .index = index,
                                                        .eps = c->rms_norm_eps, .seqs = r->seqs, .dims = m->kv.dims,
                                                        .kv = kv, .gate = gate, .ape = cw->ape.data,
                                                        .norm = cw->norm.data, .freq = l->freq});
}

/* Chooses the compressed entries of a ratio-4 layer for every row. */
static void select_entries(struct model *m, const struct layer_ops *l, struct rows *r, const float *a)
{
    const struct config *c = &m->w.cfg;
    struct workspace *w = &m->ws;
    compress(m, l, r, a, true);
    linear(m, r->n, &l->index_wq_b, w->qa, w->iq);
    rope(m, r, l->freq, c->index_n_heads, c->index_head_dim, false, w->iq);
    m->dev->ops->index_query(m->dev, &(struct op_index_query){.n = r->n, .heads = c->index_n_heads,
                                                              .dim = c->index_head_dim, .q = w->iq});
    linear(m, r->n, &l->index_weights, a, w->iw);
    float scale = 1.0f / sqrtf((float)c->index_head_dim) / sqrtf((float)c->index_n_heads);
    m->dev->ops->index_select(m->dev, &(struct op_index_select){.n_seqs = r->n_seqs, .heads = c->index_n_heads,
                                                                .dim = c->index_head_dim, .topk = c->index_topk,
                                                                .seqs = r->seqs, .dims = m->kv.dims,
                                                                .weight_scale = scale, .q = w->iq, .weights = w->iw,
                                                                .ids = w->topk});
    model_tell(m, WATCH_TOPK, l->index, NULL, w->topk, r->n, c->index_topk);
}

void forward_attention(struct model *m, const struct layer_ops *l, struct rows *r, const float *a, float *out)
{
    const struct config *c = &m->w.cfg;
    struct workspace *w = &m->ws;
    for (int i = 0; i < r->n_seqs; i++)
        r->seqs[i].kv = kv_seq_view(r->owner[i], l->index);
    queries(m, l, r, a);
    forward_window_rows(m, l, r, a);
    if (l->w->ratio > 0)
        compress(m, l, r, a, false);
    if (l->w->ratio == 4)
        select_entries(m, l, r, a);
    int window = c->window + (r->block ? r->n : 0);
    m->dev->ops->attn(m->dev, &(struct op_attn){.n_seqs = r->n_seqs, .heads = c->n_heads, .window = window,
                                                .block = r->block, .ratio = l->w->ratio, .topk = c->index_topk,
                                                .seqs = r->seqs, .dims = m->kv.dims, .q = w->q, .kv = w->kv,
                                                .scale = 1.0f / sqrtf((float)c->head_dim),
                                                .ids = l->w->ratio == 4 ? w->topk : NULL,
                                                .sink = l->w->attn_sink.data, .o = w->o});
    if (!r->block)
        m->dev->ops->kv_put(m->dev, &(struct op_kv_put){.n_seqs = r->n_seqs, .window = c->window, .seqs = r->seqs,
                                                        .dims = m->kv.dims, .kv = w->kv});
    rope(m, r, l->freq, c->n_heads, c->head_dim, true, w->o);
    m->dev->ops->linear(m->dev, &(struct op_linear){.n = r->n, .groups = c->o_groups, .w = l->wo_a,
                                                    .no_act_quant = true, .x = w->o, .y = w->low});
    linear(m, r->n, &l->wo_b, w->low, out);
}

void forward_moe(struct model *m, const struct layer_ops *l, const struct rows *r, const float *f, float *out)
{
    const struct config *c = &m->w.cfg;
    struct workspace *w = &m->ws;
    linear_f32(m, r->n, &l->gate, f, w->z);
    m->dev->ops->route(m->dev, &(struct op_route){.n = r->n, .experts = c->n_experts, .k = c->n_experts_per_tok,
                                                  .scale = c->routed_scaling_factor, .z = w->z,
                                                  .bias = l->w->gate_bias.data, .tid2eid = l->w->tid2eid,
                                                  .tid2eid32 = l->w->tid2eid32, .tokens = r->tokens,
                                                  .ids = w->experts, .weights = w->weights});
    model_tell(m, WATCH_EXPERTS, l->index, NULL, w->experts, r->n, c->n_experts_per_tok);
    m->dev->ops->moe(m->dev, &(struct op_moe){.n = r->n, .k = c->n_experts_per_tok, .n_experts = c->n_experts,
                                              .dim = c->hidden_size, .expert_dim = c->expert_dim,
                                              .limit = c->swiglu_limit, .x = f, .ids = w->experts,
                                              .weights = w->weights, .experts = l->experts, .shared = &l->shared,
                                              .h = w->moe_h, .out = w->moe_out, .y = out});
}

void forward_layer(struct model *m, const struct layer_ops *l, struct rows *r, float *x)
{
    struct workspace *w = &m->ws;
    int dim = m->w.cfg.hidden_size;
    forward_hc_pre(m, &l->w->hc_attn, &l->w->attn_norm, r->n, x, w->a);
    model_tell(m, WATCH_ATTN_IN, l->index, w->a, NULL, r->n, dim);
    forward_attention(m, l, r, w->a, w->out);
    model_tell(m, WATCH_ATTN_OUT, l->index, w->out, NULL, r->n, dim);
    forward_hc_post(m, r->n, w->out, x);
    forward_hc_pre(m, &l->w->hc_ffn, &l->w->ffn_norm, r->n, x, w->a);
    model_tell(m, WATCH_FFN_IN, l->index, w->a, NULL, r->n, dim);
    forward_moe(m, l, r, w->a, w->out);
    model_tell(m, WATCH_FFN_OUT, l->index, w->out, NULL, r->n, dim);
    forward_hc_post(m, r->n, w->out, x);
    model_tell(m, WATCH_STREAM, l->index, x, NULL, r->n, dim * m->w.cfg.hc_mult);
}

void forward_hc_head(struct model *m, const struct head_weights *h, int n, const float *x)
{
    const struct config *c = &m->w.cfg;
    m->dev->ops->hc_head(m->dev, &(struct op_hc_head){.n = n, .streams = c->hc_mult, .dim = c->hidden_size,
                                                      .eps = c->rms_norm_eps, .hc_eps = c->hc_eps, .x = x,
                                                      .fn = h->hc_fn, .base = h->hc_base.data,
                                                      .scale = h->hc_scale.data, .y = m->ws.head_y});
}

void forward_unembed(struct model *m, const struct head_weights *h, int n, float *logits)
{
    norm(m, n, &h->norm, m->ws.head_y, m->ws.head_y);
    linear_f32(m, n, &m->head, m->ws.head_y, logits);
}

void forward_head(struct model *m, const struct head_weights *h, int n, const float *x, float *logits)
{
    forward_hc_head(m, h, n, x);
    forward_unembed(m, h, n, logits);
}

/* ---------------------------------------------------------------- a step */

static int check_item(const struct model *m, const struct step_item *it, struct err *e)
{
    const struct kv_seq *s = it->seq;
    if (it->n_tokens < 1 || it->n_logits < 0 || it->n_logits > it->n_tokens)
        return err_set(e, HD_EARG, "a step needs at least one token and 0..%d rows of logits (asked for %d)",
                       it->n_tokens, it->n_logits);
    if (s->n_tokens + it->n_tokens > s->max_tokens)
        return err_set(e, HD_EARG, "%lld tokens and %d more do not fit a context of %lld", (long long)s->n_tokens,
                       it->n_tokens, (long long)s->max_tokens);
    for (int i = 0; i < it->n_tokens; i++)
        if (it->tokens[i] < 0 || it->tokens[i] >= m->w.cfg.vocab_size)
            return err_set(e, HD_EARG, "token id %d at position %lld is outside the vocabulary of %d", it->tokens[i],
                           (long long)s->n_tokens + i, m->w.cfg.vocab_size);
    int rc = mtp_check(m, it, e);
    return rc != HD_OK ? rc : dspark_check(m, it, e);
}

/* Checks everything and takes pages; on an error no sequence has changed. */
static int begin(struct model *m, const struct step_item *items, int n_items, struct err *e)
{
    int64_t n_rows = 0;
    for (int i = 0; i < n_items; i++) {
        int rc = check_item(m, &items[i], e);
        if (rc != HD_OK)
            return rc;
        n_rows += items[i].n_tokens;
    }
    if (n_rows > m->max_rows)
        return err_set(e, HD_EARG, "a step of %lld rows is larger than the workspace of %d", (long long)n_rows,
                       m->max_rows);
    for (int i = 0; i < n_items; i++) {
        int rc = kv_seq_reserve(items[i].seq, items[i].seq->n_tokens + items[i].n_tokens, e);
        if (rc == HD_OK)
            continue;
        for (int k = 0; k < i; k++)
            kv_seq_release_after(items[k].seq, items[k].seq->n_tokens);
        return rc;
    }
    return HD_OK;
}

/* Addresses of the tails that an item asked for. Page ends of all items of a step are at most rows / 128 + items. */
static uint8_t *const *tail_pointers(struct model *m, const struct step_item *it)
{
    int64_t from = it->seq->n_tokens / KV_PAGE_TOKENS, to = (it->seq->n_tokens + it->n_tokens) / KV_PAGE_TOKENS;
    if (it->tails == NULL || to == from)
        return NULL;
    uint8_t **at = m->tail_at + m->n_tail_at;
    for (int64_t k = 0; k < to - from; k++)
        m->tail_at[m->n_tail_at++] = it->tails[k] < 0 ? NULL : kv_pool_at(&m->tails, it->tails[k]);
    return at;
}

static void lay_out_rows(struct model *m, const struct step_item *items, int n_items)
{
    struct rows *r = &m->rows;
    r->n = 0;
    r->n_seqs = n_items;
    m->n_tail_at = 0;
    for (int i = 0; i < n_items; i++) {
        const struct step_item *it = &items[i];
        r->owner[i] = it->seq;
        r->seqs[i] = (struct op_seq){.first_row = r->n, .n_rows = it->n_tokens, .pos0 = it->seq->n_tokens,
                                     .tails = tail_pointers(m, it)};
        for (int k = 0; k < it->n_tokens; k++, r->n++) {
            r->tokens[r->n] = it->tokens[k];
            r->pos[r->n] = (int32_t)(it->seq->n_tokens + k);
        }
    }
}

static int main_logits(struct model *m, const struct step_item *items, int n_items, struct step_result *res,
                       struct err *e)
{
    const struct config *c = &m->w.cfg;
    int n = 0;
    for (int i = 0; i < n_items; i++)
        for (int k = items[i].n_tokens - items[i].n_logits; k < items[i].n_tokens; k++)
            m->ws.pick[n++] = m->rows.seqs[i].first_row + k;
    res->n_logits = n;
    if (n == 0)
        return HD_OK;
    int rc = model_logits_room(m, &m->ws.logits, &m->ws.n_logits_cap, (size_t)n, e);
    if (rc != HD_OK)
        return rc;
    m->dev->ops->gather(m->dev, &(struct op_gather){.n = n, .dim = c->hc_mult * c->hidden_size, .rows = m->ws.pick,
                                                    .x = m->ws.x, .y = m->ws.head_x});
    forward_head(m, &m->w.out, n, m->ws.head_x, m->ws.logits);
    res->logits = m->ws.logits;
    return HD_OK;
}

static void advance(struct kv_seq *s, int n_tokens)
{
    s->n_tokens += n_tokens;
    s->n_high = s->n_tokens > s->n_high ? s->n_tokens : s->n_high;
}

int model_step(struct model *m, const struct step_item *items, int n_items, struct step_result *res, struct err *e)
{
    const struct config *c = &m->w.cfg;
    struct step_result ignored;
    res = res == NULL ? &ignored : res;
    *res = (struct step_result){0};
    int rc = begin(m, items, n_items, e);
    if (rc != HD_OK)
        return rc;
    lay_out_rows(m, items, n_items);
    m->dev->ops->embed(m->dev, &(struct op_embed){.n = m->rows.n, .streams = c->hc_mult, .dim = c->hidden_size,
                                                  .tokens = m->rows.tokens, .table = m->embed, .x = m->ws.x});
    for (int l = 0; l < c->n_layers; l++) {
        forward_layer(m, &m->layers[l], &m->rows, m->ws.x);
        dspark_take_layer(m, l);
    }
    dspark_step(m, items, n_items);
    rc = main_logits(m, items, n_items, res, e);
    if (rc == HD_OK)
        rc = mtp_step(m, items, n_items, res, e);
    if (rc == HD_OK)
        rc = m->dev->ops->sync(m->dev, e);
    for (int i = 0; i < n_items; i++) {
        if (rc == HD_OK)
            advance(items[i].seq, items[i].n_tokens);
        else
            kv_seq_release_after(items[i].seq, items[i].seq->n_tokens);
    }
    return rc;
}

int model_prefill(struct model *m, struct kv_seq *s, const int32_t *tokens, int64_t n, bool want_logits,
                  const struct progress *p, struct step_result *r, struct err *e)
{
    for (int64_t at = 0; at < n;) {
        int chunk = n - at < m->max_rows ? (int)(n - at) : m->max_rows;
        bool last = at + chunk == n;
        struct step_item it = {.seq = s, .tokens = tokens + at, .n_tokens = chunk,
                               .n_logits = last && want_logits ? 1 : 0, .next_token = -1};
        int rc = model_step(m, &it, 1, r, e);
        if (rc != HD_OK)
            return rc;
        at += chunk;
        rc = progress_tell(p, "prefill", (uint64_t)at, (uint64_t)n);
        if (rc != HD_OK)
            return err_set(e, rc, "stopped after %lld of %lld prompt tokens", (long long)at, (long long)n);
    }
    return HD_OK;
}
