/* What the device is told about the largest step of a model, so that it takes its scratch memory at once; and how much that
 * is, for plans. */
#include "model/model_impl.h"

/* The most window rows and entries that a row attends to. */
static int keys_of(const struct config *c, int64_t max_tokens)
{
    int64_t entries = 0;
    for (int i = 0; i < c->n_layers; i++) {
        int64_t of_layer = c->compress_ratio[i] == 0 ? 0 : max_tokens / c->compress_ratio[i];
        if (config_layer_kind(c, i) == LAYER_CSA && of_layer > c->index_topk)
            of_layer = c->index_topk;
        entries = of_layer > entries ? of_layer : entries;
    }
    return c->window + (int)entries;
}

int model_reserve_scratch(struct model *m, struct err *e)
{
    const struct config *c = &m->w.cfg;
    int64_t in_pool = m->pool.n_blocks * KV_PAGE_TOKENS;
    int64_t max_tokens = in_pool < c->max_positions ? in_pool : c->max_positions;
    int n = m->max_rows, heads_per_group = c->n_heads / c->o_groups;
    const struct op_linear_size linear[] = {
        {n, c->hidden_size, 1},
        {n, c->q_lora_rank, 1},
        {n, heads_per_group * c->head_dim, c->o_groups},
        {n, c->o_groups * c->o_lora_rank, 1},
        {m->mtp ? n * c->hc_mult : 1, c->hidden_size, 1},
        {m->n_drafter > 0 && !m->mtp ? n : 1, c->n_dspark_targets * c->hidden_size, 1},
        {1, c->hidden_size + c->dspark_markov_rank, 1}, /* one row of a draft at a time */
    };
    const struct op_limits l = {
        .rows = n, .heads = c->n_heads, .head_dim = c->head_dim, .keys = keys_of(c, max_tokens),
        .index_heads = c->index_n_heads, .index_dim = c->index_head_dim, .index_keys = max_tokens / 4,
        .streams = c->hc_mult, .dim = c->hidden_size,
        .experts = c->n_experts, .experts_per_row = c->n_experts_per_tok, .expert_dim = c->expert_dim,
        .linear = linear, .n_linear = COUNT_OF(linear),
    };
    return m->dev->ops->reserve(m->dev, &l, e);
}

uint64_t model_step_bytes(const struct model *m)
{
    uint64_t logits = m->ws.n_logits_cap + m->ws.n_mtp_cap;
    return m->ws.bytes + logits * (uint64_t)m->w.cfg.vocab_size * sizeof(float) + model_scratch_bytes(m);
}

uint64_t model_scratch_bytes(const struct model *m)
{
    return m->dev->ops->scratch_bytes(m->dev);
}

/* ---------------------------------------------------------------- before there is a model */

static void *hand_out_nothing(struct dev *d, size_t bytes)
{
    static _Alignas(64) char place[64]; /* never looked into: only sizes are wanted */
    (void)d;
    (void)bytes;
    return place;
}

static void take_back_nothing(struct dev *d, void *p)
{
    (void)d;
    (void)p;
}

int model_count_step(uint64_t *bytes, const struct config *c, int n_stages, struct dev *dev, const struct step_size *size,
                     struct err *e)
{
    struct model m = {.w.cfg = *c, .dev = dev, .max_rows = size->rows, .n_drafter = n_stages,
                      .mtp = n_stages > 0 && c->dspark_block == 0};
    const struct ops *ops = dev->ops;
    struct ops counting = *ops;
    counting.alloc = hand_out_nothing;
    counting.release = take_back_nothing;
    dev->ops = &counting;
    m.pool.n_blocks = (size->tokens + KV_PAGE_TOKENS - 1) / KV_PAGE_TOKENS;
    m.ws.n_logits_cap = (size_t)size->logits;
    int rc = model_alloc_workspace(&m, e);
    if (rc == HD_OK)
        rc = model_reserve_scratch(&m, e); /* asks for memory, but touches none of it */
    *bytes = rc == HD_OK ? model_step_bytes(&m) : 0;
    model_free_workspace(&m);
    dev->ops = ops;
    return rc;
}

int model_plan_step(uint64_t *bytes, const struct config *c, int n_stages, int64_t max_tokens, int n_logits, int n_threads,
                    struct err *e)
{
    const struct dev_options o = {NUM_FAST, n_threads, cpu_isa_best(), false};
    const struct step_size size = {MODEL_ROWS_DEFAULT, n_logits, max_tokens};
    struct dev *dev;
    int rc = dev_open_cpu(&dev, &o, e);
    if (rc != HD_OK)
        return rc;
    rc = model_count_step(bytes, c, n_stages, dev, &size, e);
    dev->ops->close(&dev);
    return rc;
}
