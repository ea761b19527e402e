/* config.json of a DeepSeek-V4 checkpoint. Every architecture key must be present: a missing one is an error that
 * names the key (no defaults - the class defaults of the official code are not the released values). */
#ifndef HADAL_MODEL_CONFIG_H
#define HADAL_MODEL_CONFIG_H

#include "base/base.h"

enum { LAYERS_MAX = 256, DSPARK_TARGETS_MAX = 8, HC_MAX = 8 };

/* What attends in a layer: the compress ratio names the kind (model structure, not a model name). */
enum layer_kind {
    LAYER_SWA, /* ratio 0: sliding window only */
    LAYER_CSA, /* ratio 4: window + compressed entries chosen by the indexer */
    LAYER_HCA, /* ratio 128: window + all compressed entries */
};

/* YaRN scaling of the compressed layers' rotary frequencies; factor 1 when rope_scaling is null. */
struct yarn {
    float factor, beta_fast, beta_slow;
    int original_len; /* original_max_position_embeddings */
};

struct config {
    int vocab_size, hidden_size, n_layers, n_heads, head_dim, rope_dim, q_lora_rank, o_groups, o_lora_rank;
    int window;                        /* sliding_window, tokens, the query included */
    int n_experts, n_experts_per_tok, n_shared_experts, expert_dim /* moe_intermediate_size */, n_hash_layers;
    int index_n_heads, index_head_dim, index_topk;
    int hc_mult, hc_sinkhorn_iters;
    int max_positions;                 /* max_position_embeddings */
    int compress_ratio[LAYERS_MAX];    /* main layers first, then drafter layers */
    int n_compress_ratios;             /* >= n_layers */
    float rms_norm_eps, hc_eps, rope_theta, compress_rope_theta, routed_scaling_factor;
    float swiglu_limit;                /* 0: no clamp */
    struct yarn yarn;
    int bos_id, eos_id;
    int n_nextn;                       /* num_nextn_predict_layers, 0 when absent; stages are counted from tensors */
    /* DSpark drafter (absent: block size 0) */
    int dspark_block, dspark_noise_id, dspark_markov_rank, n_dspark_targets, dspark_target[DSPARK_TARGETS_MAX];
    int weight_block;                  /* quantization_config.weight_block_size, 128; 0 when the file has none */
};

/* Parses the text of config.json. `path` only names it in errors. Checks every value's type and range and that the
 * combination is a V4 (model_type deepseek_v4; refuses deepseek_v41 and others by name).
 * Errors: HD_EFORMAT (bad JSON, missing or wrong key), HD_EUNSUPPORTED (another architecture). */
int config_parse(struct config *c, const char *text, size_t n, const char *path, struct err *e);
int config_load(struct config *c, const char *dir, struct err *e);

/* Kind of layer l (0 <= l < n_compress_ratios). */
enum layer_kind config_layer_kind(const struct config *c, int l);
const char *layer_kind_name(enum layer_kind k); /* "SWA" "CSA" "HCA" */

#endif
