#include "model/shape.h"

#include <string.h>

struct shape {
    const char *name;
    int hidden_size, n_layers, n_heads, q_lora_rank, o_groups, n_experts, expert_dim, index_topk;
    int first_ratio; /* of layers 0 and 1; then 4 and 128 take turns */
    float routed_scaling_factor;
    int dspark_target, dspark_markov_rank; /* the first of three targets */
};

static const struct shape shapes[] = {
    {"flash", 4096, 43, 64, 1024, 8, 256, 2048, 512, 0, 1.5f, 40, 256},
    {"pro", 7168, 61, 128, 1536, 16, 384, 3072, 1024, 128, 2.5f, 58, 512},
};

/* What the releases share. */
static const struct config common = {
    .vocab_size = 129280,
    .head_dim = 512,
    .rope_dim = 64,
    .o_lora_rank = 1024,
    .window = 128,
    .n_experts_per_tok = 6,
    .n_shared_experts = 1,
    .n_hash_layers = 3,
    .index_n_heads = 64,
    .index_head_dim = 128,
    .hc_mult = 4,
    .hc_sinkhorn_iters = 20,
    .max_positions = 1048576,
    .rms_norm_eps = 1e-6f,
    .hc_eps = 1e-6f,
    .rope_theta = 10000,
    .compress_rope_theta = 160000,
    .swiglu_limit = 10,
    .yarn = {16, 32, 1, 65536},
    .bos_id = 0,
    .eos_id = 1,
    .n_nextn = 1,
    .weight_block = 128,
};

static void add_dspark(struct config *c, const struct shape *s)
{
    c->dspark_block = 5;
    c->dspark_noise_id = 128799;
    c->dspark_markov_rank = s->dspark_markov_rank;
    c->n_dspark_targets = 3;
    for (int i = 0; i < c->n_dspark_targets; i++)
        c->dspark_target[i] = s->dspark_target + i;
}

static void fill(struct config *c, const struct shape *s, bool dspark)
{
    *c = common;
    c->hidden_size = s->hidden_size;
    c->n_layers = s->n_layers;
    c->n_heads = s->n_heads;
    c->q_lora_rank = s->q_lora_rank;
    c->o_groups = s->o_groups;
    c->n_experts = s->n_experts;
    c->expert_dim = s->expert_dim;
    c->index_topk = s->index_topk;
    c->routed_scaling_factor = s->routed_scaling_factor;
    for (int l = 0; l < s->n_layers; l++)
        c->compress_ratio[l] = l < 2 ? s->first_ratio : l % 2 == 0 ? 4 : 128;
    c->n_compress_ratios = s->n_layers + (dspark ? 3 : 1); /* drafter layers: ratio 0 */
    if (dspark)
        add_dspark(c, s);
}

int config_shape(struct config *c, const char *name, bool dspark, struct err *e)
{
    for (size_t i = 0; i < COUNT_OF(shapes); i++)
        if (strcmp(name, shapes[i].name) == 0) {
            fill(c, &shapes[i], dspark);
            return HD_OK;
        }
    return err_set(e, HD_EARG, "shape: '%s' is not one of flash, pro", name);
}
