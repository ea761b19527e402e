/* Which tensors a synthetic checkpoint has: the tables of the released shapes and the official naming. */
#include "model/synth.h"

#include "model/shape.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { DRAFT_STAGES = 3 };

static const char *const shape_names[] = {[SYNTH_TINY] = "tiny", [SYNTH_FLASH] = "flash", [SYNTH_PRO] = "pro"};

/* Small enough for a unit test, and every block size of the formats divides it. */
static const struct config tiny = {
    .vocab_size = 384, .hidden_size = 256, .n_heads = 8, .head_dim = 128, .rope_dim = 64, .q_lora_rank = 128,
    .o_groups = 2, .o_lora_rank = 128, .window = 128, .n_experts = 12, .n_experts_per_tok = 4, .n_shared_experts = 1,
    .expert_dim = 128, .n_hash_layers = 1, .index_n_heads = 16, .index_head_dim = 128, .index_topk = 16, .hc_mult = 4,
    .hc_sinkhorn_iters = 20, .max_positions = 65536, .compress_ratio = {0, 4}, .rms_norm_eps = 1e-6f, .hc_eps = 1e-6f,
    .rope_theta = 10000, .compress_rope_theta = 160000, .routed_scaling_factor = 1.5f, .swiglu_limit = 5,
    .yarn = {16, 32, 1, 65536}, .eos_id = 1, .weight_block = 128,
};

static struct config config_of(enum synth_shape shape, bool dspark)
{
    struct config c = tiny;
    if (shape != SYNTH_TINY) {
        config_shape(&c, shape_names[shape], dspark, NULL); /* these names exist */
    } else if (dspark) {
        c.dspark_block = 5;
        c.dspark_noise_id = 382;
        c.dspark_markov_rank = 32;
    }
    return c;
}

int synth_shape_parse(const char *name, enum synth_shape *shape, struct err *e)
{
    for (size_t i = 0; i < COUNT_OF(shape_names); i++)
        if (strcmp(shape_names[i], name) == 0) {
            *shape = (enum synth_shape)i;
            return HD_OK;
        }
    return err_set(e, HD_EARG, "shape \"%s\" is not known, expected flash, pro or tiny", name);
}

static void make_config(struct config *c, const struct synth_options *o)
{
    bool dspark = o->drafter == DRAFTER_DSPARK;
    *c = config_of(o->shape, dspark);
    c->n_layers = o->n_layers;
    c->vocab_size = o->vocab_size != 0 ? o->vocab_size : c->vocab_size;
    c->n_experts = o->n_experts != 0 ? o->n_experts : c->n_experts;
    c->n_hash_layers = c->n_hash_layers < o->n_layers ? c->n_hash_layers : o->n_layers;
    c->n_nextn = o->drafter != DRAFTER_NONE;
    c->n_compress_ratios = o->n_layers + (dspark ? DRAFT_STAGES : 1);
    /* Layers 0 and 1 as the shape has them, then 4 and 128 in turn, then the drafter's window layers. */
    int even = o->shape == SYNTH_TINY ? 128 : 4, odd = even == 4 ? 128 : 4;
    for (int l = 0; l < LAYERS_MAX; l++)
        c->compress_ratio[l] = l >= o->n_layers ? 0 : l < 2 ? c->compress_ratio[l] : l % 2 == 0 ? even : odd;
    if (!dspark)
        return;
    c->dspark_noise_id = c->dspark_noise_id < c->vocab_size ? c->dspark_noise_id : c->vocab_size - 1;
    c->n_dspark_targets = o->n_layers < 3 ? o->n_layers : 3;
    for (int i = 0; i < c->n_dspark_targets; i++)
        c->dspark_target[i] = o->n_layers - c->n_dspark_targets + i;
}

/* ---------------------------------------------------------------- the list */

/* Where tensors go while the list is made. */
struct cursor {
    struct synth_plan *p;
    int i_shard;
    char prefix[64];
};

static void add(struct cursor *k, const char *name, enum synth_kind kind, enum dtype dtype, int64_t rows, int64_t cols,
                float sigma)
{
    struct synth_plan *p = k->p;
    char full[192];
    int n = snprintf(full, sizeof full, "%s%s", k->prefix, name);
    if (p->n_items == p->cap_items) {
        p->cap_items = p->cap_items * 2 + 256;
        p->items = xrealloc(p->items, (size_t)p->cap_items * sizeof *p->items);
    }
    struct synth_item item = {.name = name_store(&p->names, full, (size_t)n), .kind = kind, .dtype = dtype,
                              .n_dims = cols == 0 ? 1 : 2, .i_shard = k->i_shard, .rows = rows,
                              .cols = cols == 0 ? 1 : cols, .sigma = sigma};
    item.bytes = (uint64_t)(item.rows * item.cols) * (uint64_t)dtype_bytes(dtype);
    p->items[p->n_items++] = item;
    p->bytes += item.bytes;
}

static void add_f32(struct cursor *k, const char *name, int64_t rows, int64_t cols, float sigma)
{
    add(k, name, SYNTH_F32, DT_F32, rows, cols, sigma);
}

static void add_norm(struct cursor *k, const char *name, int64_t n)
{
    add(k, name, SYNTH_NORM, DT_BF16, n, 0, 0.1f);
}

/* gain is the rms of the outputs for inputs of rms 1. */
static void add_linear(struct cursor *k, const char *name, enum dtype dtype, int64_t rows, int64_t cols, float gain)
{
    char weight[96], scale[96];
    float sigma = gain / sqrtf((float)cols);
    snprintf(weight, sizeof weight, "%s.weight", name);
    snprintf(scale, sizeof scale, "%s.scale", name);
    if (dtype == DT_I8) {
        add(k, weight, SYNTH_FP4, DT_I8, rows, cols / 2, sigma);
        add(k, scale, SYNTH_FP4_SCALE, DT_F8_E8M0, rows, cols / 32, sigma);
    } else if (dtype == DT_F8_E4M3) {
        add(k, weight, SYNTH_FP8, DT_F8_E4M3, rows, cols, sigma);
        add(k, scale, SYNTH_FP8_SCALE, DT_F8_E8M0, (rows + 127) / 128, (cols + 127) / 128, sigma);
    } else {
        add(k, weight, SYNTH_BF16, DT_BF16, rows, cols, sigma);
    }
}

static void add_mixer(struct cursor *k, const char *which, int n_out)
{
    const struct config *c = &k->p->cfg;
    char name[64];
    int64_t width = c->hc_mult * c->hidden_size;
    snprintf(name, sizeof name, "%s_fn", which);
    add_f32(k, name, n_out, width, 1 / sqrtf((float)width));
    snprintf(name, sizeof name, "%s_base", which);
    add(k, name, SYNTH_MIX_BASE, DT_F32, n_out, 0, 0.5f);
    snprintf(name, sizeof name, "%s_scale", which);
    add_f32(k, name, n_out == c->hc_mult ? 1 : 3, 0, 0.5f);
}

static void add_head(struct cursor *k)
{
    add_mixer(k, "hc_head", k->p->cfg.hc_mult);
    add_norm(k, "norm.weight", k->p->cfg.hidden_size);
}

static void add_compressor(struct cursor *k, const char *which, int ratio, int dim)
{
    char name[64];
    int64_t width = ratio == 4 ? 2 * dim : dim, hidden = k->p->cfg.hidden_size;
    snprintf(name, sizeof name, "%s.wkv", which);
    add_linear(k, name, DT_BF16, width, hidden, 1);
    snprintf(name, sizeof name, "%s.wgate", which);
    add_linear(k, name, DT_BF16, width, hidden, 1.5f);
    snprintf(name, sizeof name, "%s.ape", which);
    add_f32(k, name, ratio, width, 1);
    snprintf(name, sizeof name, "%s.norm.weight", which);
    add_norm(k, name, dim);
}

static void add_attention(struct cursor *k, int ratio)
{
    const struct config *c = &k->p->cfg;
    int n_out = c->n_heads * c->head_dim, n_low = c->o_groups * c->o_lora_rank;
    add_linear(k, "attn.wq_a", DT_F8_E4M3, c->q_lora_rank, c->hidden_size, 1);
    add_norm(k, "attn.q_norm.weight", c->q_lora_rank);
    add_linear(k, "attn.wq_b", DT_F8_E4M3, n_out, c->q_lora_rank, 1);
    add_linear(k, "attn.wkv", DT_F8_E4M3, c->head_dim, c->hidden_size, 1);
    add_norm(k, "attn.kv_norm.weight", c->head_dim);
    add_linear(k, "attn.wo_a", DT_F8_E4M3, n_low, n_out / c->o_groups, 2);
    add_linear(k, "attn.wo_b", DT_F8_E4M3, c->hidden_size, n_low, 1);
    add_f32(k, "attn.attn_sink", c->n_heads, 0, 1);
    if (ratio != 0)
        add_compressor(k, "attn.compressor", ratio, c->head_dim);
    if (ratio != 4)
        return;
    add_linear(k, "attn.indexer.wq_b", DT_F8_E4M3, c->index_n_heads * c->index_head_dim, c->q_lora_rank, 1);
    add_linear(k, "attn.indexer.weights_proj", DT_BF16, c->index_n_heads, c->hidden_size, 1);
    add_compressor(k, "attn.indexer.compressor", ratio, c->index_head_dim);
}

static void add_expert(struct cursor *k, const char *which, enum dtype dtype)
{
    const struct config *c = &k->p->cfg;
    char name[64];
    float gain = c->swiglu_limit / 5; /* the clamp lies five deviations out, within reach of the tails */
    snprintf(name, sizeof name, "%s.w1", which);
    add_linear(k, name, dtype, c->expert_dim, c->hidden_size, gain);
    snprintf(name, sizeof name, "%s.w3", which);
    add_linear(k, name, dtype, c->expert_dim, c->hidden_size, gain);
    snprintf(name, sizeof name, "%s.w2", which);
    add_linear(k, name, dtype, c->hidden_size, c->expert_dim, 0.5f);
}

static void add_block(struct cursor *k, int ratio, bool hash)
{
    const struct config *c = &k->p->cfg;
    int n_mix = (2 + c->hc_mult) * c->hc_mult;
    char which[48];
    add_mixer(k, "hc_attn", n_mix);
    add_mixer(k, "hc_ffn", n_mix);
    add_norm(k, "attn_norm.weight", c->hidden_size);
    add_norm(k, "ffn_norm.weight", c->hidden_size);
    add_attention(k, ratio);
    add(k, "ffn.gate.weight", SYNTH_ROUTER, DT_BF16, c->n_experts, c->hidden_size, 2 / sqrtf((float)c->hidden_size));
    if (hash)
        add(k, "ffn.gate.tid2eid", SYNTH_HASH, DT_I64, c->vocab_size, c->n_experts_per_tok, 0);
    else
        add_f32(k, "ffn.gate.bias", c->n_experts, 0, 0.2f);
    for (int i = 0; i < c->n_experts; i++) {
        snprintf(which, sizeof which, "ffn.experts.%d", i);
        add_expert(k, which, DT_I8);
    }
    add_expert(k, "ffn.shared_experts", DT_F8_E4M3);
}

static void add_mtp(struct cursor *k)
{
    int hidden = k->p->cfg.hidden_size;
    snprintf(k->prefix, sizeof k->prefix, "mtp.0.");
    add_block(k, 0, false);
    add_norm(k, "enorm.weight", hidden);
    add_norm(k, "hnorm.weight", hidden);
    add_linear(k, "e_proj", DT_F8_E4M3, hidden, hidden, 0.7f);
    add_linear(k, "h_proj", DT_F8_E4M3, hidden, hidden, 0.7f);
    add_head(k);
    k->i_shard++;
}

static void add_dspark(struct cursor *k)
{
    const struct config *c = &k->p->cfg;
    for (int s = 0; s < DRAFT_STAGES; s++, k->i_shard++) {
        snprintf(k->prefix, sizeof k->prefix, "mtp.%d.", s);
        add_block(k, 0, false);
        if (s == 0) {
            add_linear(k, "main_proj", DT_F8_E4M3, c->hidden_size, c->n_dspark_targets * c->hidden_size, 1);
            add_norm(k, "main_norm.weight", c->hidden_size);
        }
    }
    k->i_shard--;
    add_head(k);
    add_linear(k, "markov_head.markov_w1", DT_BF16, c->vocab_size, c->dspark_markov_rank, 1);
    add_linear(k, "markov_head.markov_w2", DT_BF16, c->vocab_size, c->dspark_markov_rank, 1);
    add_linear(k, "confidence_head.proj", DT_BF16, 1, c->hidden_size + c->dspark_markov_rank, 1);
    k->i_shard++;
}

static void add_all(struct cursor *k)
{
    const struct config *c = &k->p->cfg;
    add(k, "embed.weight", SYNTH_EMBED, DT_BF16, c->vocab_size, c->hidden_size, 1);
    k->i_shard++;
    for (int l = 0; l < c->n_layers; l++, k->i_shard++) {
        snprintf(k->prefix, sizeof k->prefix, "layers.%d.", l);
        add_block(k, c->compress_ratio[l], l < c->n_hash_layers);
    }
    k->prefix[0] = '\0';
    add_linear(k, "head", DT_BF16, c->vocab_size, c->hidden_size, 2);
    add_head(k);
    k->i_shard++;
    if (k->p->drafter == DRAFTER_MTP)
        add_mtp(k);
    else if (k->p->drafter == DRAFTER_DSPARK)
        add_dspark(k);
    k->p->n_shards = k->i_shard;
}

static int in_file_order(const void *a, const void *b)
{
    const struct synth_item *x = a, *y = b;
    if (x->i_shard != y->i_shard)
        return x->i_shard - y->i_shard;
    if (dtype_bytes(x->dtype) != dtype_bytes(y->dtype))
        return dtype_bytes(y->dtype) - dtype_bytes(x->dtype);
    if (x->dtype != y->dtype)
        return x->dtype < y->dtype ? 1 : -1;
    return strcmp(x->name, y->name);
}

int synth_plan_make(struct synth_plan *p, const struct synth_options *o, struct err *e)
{
    *p = (struct synth_plan){.seed = o->seed, .drafter = o->drafter};
    if (o->n_layers < 1 || o->n_layers > LAYERS_MAX - DRAFT_STAGES - 1)
        return err_set(e, HD_EARG, "the number of layers is %d, expected 1 to %d", o->n_layers,
                       LAYERS_MAX - DRAFT_STAGES - 1);
    int least = config_of(o->shape, false).n_experts_per_tok;
    if (o->n_experts != 0 && (o->n_experts < least || o->n_experts > 4096))
        return err_set(e, HD_EARG, "the number of experts is %d, expected %d to 4096", o->n_experts, least);
    if (o->vocab_size != 0 && (o->vocab_size < 16 || o->vocab_size > 1 << 20))
        return err_set(e, HD_EARG, "the size of the vocabulary is %d, expected 16 to %d", o->vocab_size, 1 << 20);
    make_config(&p->cfg, o);
    struct cursor k = {.p = p};
    add_all(&k);
    qsort(p->items, (size_t)p->n_items, sizeof *p->items, in_file_order);
    for (int64_t i = 1; i < p->n_items; i++)
        if (p->items[i].i_shard == p->items[i - 1].i_shard)
            p->items[i].offset = p->items[i - 1].offset + p->items[i - 1].bytes;
    return HD_OK;
}

void synth_plan_free(struct synth_plan *p)
{
    free(p->items);
    names_free(&p->names);
    *p = (struct synth_plan){0};
}

/* ---------------------------------------------------------------- config.json */

static void print_ints(struct buf *out, const int *x, int n)
{
    for (int i = 0; i < n; i++)
        buf_printf(out, "%s%d", i ? ", " : "", x[i]);
}

static void print_dspark(struct buf *out, const struct config *c)
{
    if (c->dspark_block == 0)
        return;
    buf_printf(out,
               ",\n  \"dspark_block_size\": %d,\n  \"dspark_noise_token_id\": %d,\n  \"dspark_target_layer_ids\": [",
               c->dspark_block, c->dspark_noise_id);
    print_ints(out, c->dspark_target, c->n_dspark_targets);
    buf_printf(out, "],\n  \"dspark_markov_rank\": %d", c->dspark_markov_rank);
}

void synth_config_json(const struct synth_plan *p, struct buf *out)
{
    const struct config *c = &p->cfg;
    const struct {
        const char *key;
        int value;
    } ints[] = {
        {"bos_token_id", c->bos_id}, {"eos_token_id", c->eos_id}, {"hc_mult", c->hc_mult},
        {"hc_sinkhorn_iters", c->hc_sinkhorn_iters}, {"head_dim", c->head_dim}, {"hidden_size", c->hidden_size},
        {"index_head_dim", c->index_head_dim}, {"index_n_heads", c->index_n_heads}, {"index_topk", c->index_topk},
        {"max_position_embeddings", c->max_positions}, {"moe_intermediate_size", c->expert_dim},
        {"n_routed_experts", c->n_experts}, {"n_shared_experts", c->n_shared_experts},
        {"num_attention_heads", c->n_heads}, {"num_experts_per_tok", c->n_experts_per_tok},
        {"num_hidden_layers", c->n_layers}, {"num_hash_layers", c->n_hash_layers}, {"num_key_value_heads", 1},
        {"num_nextn_predict_layers", c->n_nextn}, {"o_groups", c->o_groups}, {"o_lora_rank", c->o_lora_rank},
        {"q_lora_rank", c->q_lora_rank}, {"qk_rope_head_dim", c->rope_dim}, {"sliding_window", c->window},
        {"vocab_size", c->vocab_size},
    };
    buf_str(out, "{\n  \"architectures\": [\"DeepseekV4ForCausalLM\"],\n  \"model_type\": \"deepseek_v4\",\n"
                 "  \"attention_bias\": false,\n  \"hidden_act\": \"silu\",\n  \"norm_topk_prob\": true,\n"
                 "  \"scoring_func\": \"sqrtsoftplus\",\n  \"topk_method\": \"noaux_tc\",\n"
                 "  \"tie_word_embeddings\": false,\n  \"torch_dtype\": \"bfloat16\",\n  \"expert_dtype\": \"fp4\",\n");
    for (size_t i = 0; i < COUNT_OF(ints); i++)
        buf_printf(out, "  \"%s\": %d,\n", ints[i].key, ints[i].value);
    buf_printf(out, "  \"hc_eps\": 1e-06,\n  \"rms_norm_eps\": 1e-06,\n  \"rope_theta\": %g,\n"
                    "  \"compress_rope_theta\": %.0f,\n  \"routed_scaling_factor\": %g,\n  \"swiglu_limit\": %g,\n",
               (double)c->rope_theta, (double)c->compress_rope_theta, (double)c->routed_scaling_factor,
               (double)c->swiglu_limit);
    buf_str(out, "  \"quantization_config\": {\"activation_scheme\": \"dynamic\", \"fmt\": \"e4m3\", "
                 "\"quant_method\": \"fp8\", \"scale_fmt\": \"ue8m0\", \"weight_block_size\": [128, 128]},\n");
    buf_printf(out, "  \"rope_scaling\": {\"type\": \"yarn\", \"factor\": %g, \"beta_fast\": %g, \"beta_slow\": %g, "
                    "\"original_max_position_embeddings\": %d},\n  \"compress_ratios\": [",
               (double)c->yarn.factor, (double)c->yarn.beta_fast, (double)c->yarn.beta_slow, c->yarn.original_len);
    print_ints(out, c->compress_ratio, c->n_compress_ratios);
    buf_char(out, ']');
    print_dspark(out, c);
    buf_str(out, "\n}\n");
}
