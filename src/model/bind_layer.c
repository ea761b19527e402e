/* Binding one transformer block: the table of model specification 2.2 in code. */
#include "model/bind.h"

#include <stdio.h>
#include <string.h>

/* Extends the prefix; the caller ends the extension with prefix[result] = 0. */
static size_t prefix_push(struct binder *b, const char *more)
{
    size_t at = strlen(b->prefix);
    snprintf(b->prefix + at, sizeof b->prefix - at, "%s", more);
    return at;
}

/* which is "hc_attn_" or "hc_ffn_". */
static void bind_hc(struct binder *b, struct hc_weights *hc, const char *which)
{
    const struct config *c = &b->w->cfg;
    int n = (2 + c->hc_mult) * c->hc_mult;
    struct vec fn;
    size_t at = prefix_push(b, which);
    bind_vec(b, &fn, "fn", n, c->hc_mult * c->hidden_size);
    hc->fn = fn.data;
    bind_vec(b, &hc->base, "base", n, 0);
    bind_vec(b, &hc->scale, "scale", 3, 0);
    b->prefix[at] = '\0';
}

static void bind_compressor(struct binder *b, struct compressor_weights *cw, const char *which, int ratio, int dim)
{
    int width = ratio == 4 ? 2 * dim : dim, hidden = b->w->cfg.hidden_size;
    size_t at = prefix_push(b, which);
    bind_matrix(b, &cw->wkv, "wkv", width, hidden);
    bind_matrix(b, &cw->wgate, "wgate", width, hidden);
    bind_vec(b, &cw->ape, "ape", ratio, width);
    bind_vec(b, &cw->norm, "norm.weight", dim, 0);
    b->prefix[at] = '\0';
}

static void bind_attention(struct binder *b, struct layer_weights *lw)
{
    const struct config *c = &b->w->cfg;
    int n_low = c->o_groups * c->o_lora_rank, n_out = c->n_heads * c->head_dim;
    bind_matrix(b, &lw->wq_a, "attn.wq_a", c->q_lora_rank, c->hidden_size);
    bind_vec(b, &lw->q_norm, "attn.q_norm.weight", c->q_lora_rank, 0);
    bind_matrix(b, &lw->wq_b, "attn.wq_b", n_out, c->q_lora_rank);
    bind_matrix(b, &lw->wkv, "attn.wkv", c->head_dim, c->hidden_size);
    bind_vec(b, &lw->kv_norm, "attn.kv_norm.weight", c->head_dim, 0);
    bind_matrix(b, &lw->wo_a, "attn.wo_a", n_low, n_out / c->o_groups);
    bind_matrix(b, &lw->wo_b, "attn.wo_b", c->hidden_size, n_low);
    bind_vec(b, &lw->attn_sink, "attn.attn_sink", c->n_heads, 0);
}

static void bind_compression(struct binder *b, struct layer_weights *lw)
{
    const struct config *c = &b->w->cfg;
    bind_compressor(b, &lw->compressor, "attn.compressor.", lw->ratio, c->head_dim);
    if (lw->kind != LAYER_CSA)
        return;
    bind_matrix(b, &lw->index_wq_b, "attn.indexer.wq_b", c->index_n_heads * c->index_head_dim, c->q_lora_rank);
    bind_matrix(b, &lw->index_weights, "attn.indexer.weights_proj", c->index_n_heads, c->hidden_size);
    bind_compressor(b, &lw->index_compressor, "attn.indexer.compressor.", lw->ratio, c->index_head_dim);
}

static void bind_expert(struct binder *b, struct expert_weights *x, const char *which)
{
    const struct config *c = &b->w->cfg;
    size_t at = prefix_push(b, which);
    bind_matrix(b, &x->w1, "w1", c->expert_dim, c->hidden_size);
    bind_matrix(b, &x->w2, "w2", c->hidden_size, c->expert_dim);
    bind_matrix(b, &x->w3, "w3", c->expert_dim, c->hidden_size);
    b->prefix[at] = '\0';
}

static void bind_moe(struct binder *b, struct layer_weights *lw, bool hash)
{
    const struct config *c = &b->w->cfg;
    bind_matrix(b, &lw->gate, "ffn.gate", c->n_experts, c->hidden_size);
    if (hash)
        bind_tid2eid(b, lw);
    else
        bind_vec(b, &lw->gate_bias, "ffn.gate.bias", c->n_experts, 0);
    lw->experts = xcalloc((size_t)c->n_experts, sizeof *lw->experts);
    for (int i = 0; i < c->n_experts && b->rc == HD_OK; i++) {
        char which[32];
        snprintf(which, sizeof which, "ffn.experts.%d.", i);
        bind_expert(b, &lw->experts[i], which);
    }
    bind_expert(b, &lw->shared, "ffn.shared_experts.");
}

void bind_layer(struct binder *b, struct layer_weights *lw, int ratio, bool hash)
{
    const struct config *c = &b->w->cfg;
    if (b->rc != HD_OK)
        return;
    lw->ratio = ratio;
    lw->kind = ratio == 0 ? LAYER_SWA : ratio == 4 ? LAYER_CSA : LAYER_HCA;
    bind_hc(b, &lw->hc_attn, "hc_attn_");
    bind_hc(b, &lw->hc_ffn, "hc_ffn_");
    bind_vec(b, &lw->attn_norm, "attn_norm.weight", c->hidden_size, 0);
    bind_vec(b, &lw->ffn_norm, "ffn_norm.weight", c->hidden_size, 0);
    bind_attention(b, lw);
    if (ratio != 0)
        bind_compression(b, lw);
    bind_moe(b, lw, hash);
}
