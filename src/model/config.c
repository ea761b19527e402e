/* config.json: one table row per key, then the checks that need several keys. */
#include "model/config.h"

#include <jansson.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/mutant.h"

enum { CONFIG_BYTES_MAX = 4 << 20, COUNT_MAX = 1 << 24 };

struct int_key {
    const char *key;
    size_t at;
    int min, max;
};

#define INT(key, field, min, max) {key, offsetof(struct config, field), min, max}
static const struct int_key int_keys[] = {
    INT("vocab_size", vocab_size, 1, COUNT_MAX),
    INT("hidden_size", hidden_size, 1, 1 << 17),
    INT("num_hidden_layers", n_layers, 1, LAYERS_MAX),
    INT("num_attention_heads", n_heads, 1, 4096),
    INT("head_dim", head_dim, 1, 1 << 14),
    INT("qk_rope_head_dim", rope_dim, 2, 1 << 14),
    INT("q_lora_rank", q_lora_rank, 1, 1 << 17),
    INT("o_groups", o_groups, 1, 4096),
    INT("o_lora_rank", o_lora_rank, 1, 1 << 16),
    INT("sliding_window", window, 1, 1 << 20),
    INT("n_routed_experts", n_experts, 1, 1 << 16),
    INT("num_experts_per_tok", n_experts_per_tok, 1, 256),
    INT("n_shared_experts", n_shared_experts, 0, 64),
    INT("moe_intermediate_size", expert_dim, 1, 1 << 17),
    INT("num_hash_layers", n_hash_layers, 0, LAYERS_MAX),
    INT("index_n_heads", index_n_heads, 1, 4096),
    INT("index_head_dim", index_head_dim, 1, 1 << 14),
    INT("index_topk", index_topk, 1, COUNT_MAX),
    INT("hc_mult", hc_mult, 1, HC_MAX),
    INT("hc_sinkhorn_iters", hc_sinkhorn_iters, 1, 1000),
    INT("max_position_embeddings", max_positions, 1, 1 << 30),
    INT("bos_token_id", bos_id, 0, COUNT_MAX),
    INT("eos_token_id", eos_id, 0, COUNT_MAX),
};

struct float_key {
    const char *key;
    size_t at;
    double min, max;
};

#define FLOAT(key, field, min, max) {key, offsetof(struct config, field), min, max}
static const struct float_key float_keys[] = {
    FLOAT("rms_norm_eps", rms_norm_eps, 1e-37, 1),
    FLOAT("hc_eps", hc_eps, 0, 1),
    FLOAT("rope_theta", rope_theta, 1, 1e30),
    FLOAT("compress_rope_theta", compress_rope_theta, 1, 1e30),
    FLOAT("routed_scaling_factor", routed_scaling_factor, 1e-6, 1e6),
    FLOAT("swiglu_limit", swiglu_limit, 0, 1e30),
};

/* Keys with one legal value: the forward pass implements this value and no other. */
struct fixed_key {
    const char *key, *value; /* JSON text */
};

static const struct fixed_key fixed_keys[] = {
    {"hidden_act", "\"silu\""},   {"scoring_func", "\"sqrtsoftplus\""}, {"topk_method", "\"noaux_tc\""},
    {"norm_topk_prob", "true"},   {"tie_word_embeddings", "false"},     {"attention_bias", "false"},
    {"num_key_value_heads", "1"},
};

/* What is being parsed, for errors. */
struct source {
    const char *path;
    const char *scope; /* "rope_scaling." inside that object, otherwise "" */
    struct err *e;
};

static const json_t *require(const struct source *s, const json_t *object, const char *key)
{
    const json_t *v = json_object_get(object, key);
    if (v == NULL && MUTANT(24)) /* a class default in place of the missing key */
        return json_real(40000);
    if (v == NULL)
        err_set(s->e, HD_EFORMAT, "%s: the key \"%s%s\" is missing", s->path, s->scope, key);
    return v;
}

static int read_int(const struct source *s, const json_t *object, const char *key, int min, int max, int *out)
{
    const json_t *v = require(s, object, key);
    if (v == NULL)
        return HD_EFORMAT;
    if (!json_is_integer(v))
        return err_set(s->e, HD_EFORMAT, "%s: \"%s%s\" must be an integer", s->path, s->scope, key);
    json_int_t n = json_integer_value(v);
    if (n < min || n > max)
        return err_set(s->e, HD_EFORMAT, "%s: \"%s%s\" is %lld, expected %d to %d", s->path, s->scope, key,
                       (long long)n, min, max);
    *out = (int)n;
    return HD_OK;
}

static int read_float(const struct source *s, const json_t *object, const struct float_key *k, float *out)
{
    const json_t *v = require(s, object, k->key);
    if (v == NULL)
        return HD_EFORMAT;
    if (!json_is_number(v))
        return err_set(s->e, HD_EFORMAT, "%s: \"%s%s\" must be a number", s->path, s->scope, k->key);
    double x = json_number_value(v);
    if (!(x >= k->min && x <= k->max))
        return err_set(s->e, HD_EFORMAT, "%s: \"%s%s\" is %g, expected %g to %g", s->path, s->scope, k->key,
                       x, k->min, k->max);
    *out = (float)x;
    return HD_OK;
}

static int check_fixed(const struct source *s, const json_t *root, const struct fixed_key *k)
{
    const json_t *v = require(s, root, k->key);
    if (v == NULL)
        return HD_EFORMAT;
    char *text = json_dumps(v, JSON_ENCODE_ANY | JSON_COMPACT);
    bool same = text != NULL && strcmp(text, k->value) == 0;
    free(text);
    if (!same)
        return err_set(s->e, HD_EUNSUPPORTED, "%s: \"%s\" must be %s; no other value is implemented", s->path, k->key,
                       k->value);
    return HD_OK;
}

static int check_model_type(const struct source *s, const json_t *root)
{
    const json_t *v = require(s, root, "model_type");
    if (v == NULL)
        return HD_EFORMAT;
    const char *type = json_string_value(v);
    if (type == NULL)
        return err_set(s->e, HD_EFORMAT, "%s: \"model_type\" must be a string", s->path);
    if (strcmp(type, "deepseek_v4") == 0)
        return HD_OK;
    return err_set(s->e, HD_EUNSUPPORTED, "%s: model_type is \"%.100s\"%s, but only \"deepseek_v4\" can be run",
                   s->path, type,
                   strcmp(type, "deepseek_v41") == 0 ? " (DeepSeek-V4.1 is another architecture)" : "");
}

static int read_ratios(const struct source *s, const json_t *root, struct config *c)
{
    const json_t *list = require(s, root, "compress_ratios");
    if (list == NULL)
        return HD_EFORMAT;
    if (!json_is_array(list))
        return err_set(s->e, HD_EFORMAT, "%s: \"compress_ratios\" must be an array", s->path);
    size_t n = json_array_size(list);
    if (n < (size_t)c->n_layers || n > LAYERS_MAX)
        return err_set(s->e, HD_EFORMAT, "%s: \"compress_ratios\" has %zu entries, expected %d (one a layer) to %d",
                       s->path, n, c->n_layers, LAYERS_MAX);
    for (size_t i = 0; i < n; i++) {
        const json_t *v = json_array_get(list, i);
        json_int_t r = json_is_integer(v) ? json_integer_value(v) : -1;
        if (r != 0 && r != 4 && r != 128)
            return err_set(s->e, HD_EFORMAT, "%s: \"compress_ratios\"[%zu] must be 0, 4 or 128", s->path, i);
        c->compress_ratio[i] = (int)r;
    }
    c->n_compress_ratios = (int)n;
    return HD_OK;
}

static int read_yarn(const struct source *s, const json_t *root, struct config *c)
{
    c->yarn = (struct yarn){1, 32, 1, c->max_positions};
    const json_t *y = require(s, root, "rope_scaling");
    if (y == NULL)
        return HD_EFORMAT;
    if (json_is_null(y))
        return HD_OK;
    if (!json_is_object(y))
        return err_set(s->e, HD_EFORMAT, "%s: \"rope_scaling\" must be an object or null", s->path);
    const json_t *v = json_object_get(y, "rope_type");
    const char *type = json_string_value(v != NULL ? v : json_object_get(y, "type"));
    if (type == NULL)
        return err_set(s->e, HD_EFORMAT, "%s: the key \"rope_scaling.type\" is missing", s->path);
    if (strcmp(type, "yarn") != 0)
        return err_set(s->e, HD_EUNSUPPORTED, "%s: \"rope_scaling.type\" is \"%.100s\", expected \"yarn\"", s->path,
                       type);
    static const struct float_key keys[] = {{"factor", 0, 1, 1e6},
                                            {"beta_fast", 0, 1e-3, 1e6},
                                            {"beta_slow", 0, 1e-3, 1e6}};
    struct source in = {s->path, "rope_scaling.", s->e};
    if (read_float(&in, y, &keys[0], &c->yarn.factor) || read_float(&in, y, &keys[1], &c->yarn.beta_fast) ||
        read_float(&in, y, &keys[2], &c->yarn.beta_slow))
        return HD_EFORMAT;
    return read_int(&in, y, "original_max_position_embeddings", 1, 1 << 30, &c->yarn.original_len);
}

static int read_quantization(const struct source *s, const json_t *root, struct config *c)
{
    const json_t *q = json_object_get(root, "quantization_config");
    if (q == NULL || json_is_null(q))
        return HD_OK;
    const char *method = json_string_value(json_object_get(q, "quant_method"));
    const char *fmt = json_string_value(json_object_get(q, "fmt"));
    if (method == NULL || strcmp(method, "fp8") != 0 || (fmt != NULL && strcmp(fmt, "e4m3") != 0))
        return err_set(s->e, HD_EUNSUPPORTED,
                       "%s: \"quantization_config\" must have quant_method \"fp8\" and fmt \"e4m3\"", s->path);
    struct source in = {s->path, "quantization_config.", s->e};
    const json_t *block = require(&in, q, "weight_block_size");
    if (block == NULL)
        return HD_EFORMAT;
    for (size_t i = 0; i < 2; i++)
        if (json_array_size(block) != 2 || json_integer_value(json_array_get(block, i)) != 128)
            return err_set(s->e, HD_EUNSUPPORTED, "%s: \"weight_block_size\" must be [128, 128]", s->path);
    c->weight_block = 128;
    return HD_OK;
}

static int read_dspark(const struct source *s, const json_t *root, struct config *c)
{
    if (json_object_get(root, "dspark_block_size") == NULL)
        return HD_OK;
    if (read_int(s, root, "dspark_block_size", 1, 64, &c->dspark_block) ||
        read_int(s, root, "dspark_noise_token_id", 0, c->vocab_size - 1, &c->dspark_noise_id) ||
        read_int(s, root, "dspark_markov_rank", 1, 1 << 16, &c->dspark_markov_rank))
        return HD_EFORMAT;
    const json_t *list = require(s, root, "dspark_target_layer_ids");
    if (list == NULL)
        return HD_EFORMAT;
    size_t n = json_array_size(list);
    if (n < 1 || n > DSPARK_TARGETS_MAX)
        return err_set(s->e, HD_EFORMAT, "%s: \"dspark_target_layer_ids\" must be an array of 1 to %d layers",
                       s->path, DSPARK_TARGETS_MAX);
    for (size_t i = 0; i < n; i++) {
        const json_t *v = json_array_get(list, i);
        json_int_t l = json_is_integer(v) ? json_integer_value(v) : -1;
        if (l < 0 || l >= c->n_layers)
            return err_set(s->e, HD_EFORMAT, "%s: \"dspark_target_layer_ids\"[%zu] must be a layer, 0 to %d", s->path,
                           i, c->n_layers - 1);
        c->dspark_target[i] = (int)l;
    }
    c->n_dspark_targets = (int)n;
    return HD_OK;
}

static int check_combination(const struct source *s, const struct config *c)
{
    const struct {
        bool bad;
        const char *what;
    } rules[] = {
        {c->rope_dim % 2 != 0, "\"qk_rope_head_dim\" must be even"},
        {c->rope_dim > c->head_dim, "\"qk_rope_head_dim\" is larger than \"head_dim\""},
        {c->rope_dim > c->index_head_dim, "\"qk_rope_head_dim\" is larger than \"index_head_dim\""},
        {(c->index_head_dim & (c->index_head_dim - 1)) != 0, "\"index_head_dim\" must be a power of two (Hadamard)"},
        {c->n_heads % c->o_groups != 0, "\"num_attention_heads\" must be a multiple of \"o_groups\""},
        {c->n_experts_per_tok > c->n_experts, "\"num_experts_per_tok\" is larger than \"n_routed_experts\""},
        {c->n_hash_layers > c->n_layers, "\"num_hash_layers\" is larger than \"num_hidden_layers\""},
        {c->n_shared_experts != 1, "\"n_shared_experts\" must be 1"},
        {c->bos_id >= c->vocab_size, "\"bos_token_id\" is outside the vocabulary"},
        {c->eos_id >= c->vocab_size, "\"eos_token_id\" is outside the vocabulary"},
        {c->yarn.beta_fast < c->yarn.beta_slow, "\"rope_scaling.beta_fast\" is smaller than \"beta_slow\""},
    };
    for (size_t i = 0; i < COUNT_OF(rules); i++)
        if (rules[i].bad)
            return err_set(s->e, HD_EFORMAT, "%s: %s", s->path, rules[i].what);
    return HD_OK;
}

static int read_all(const struct source *s, const json_t *root, struct config *c)
{
    int rc = json_is_object(root) ? check_model_type(s, root)
                                  : err_set(s->e, HD_EFORMAT, "%s: must hold a JSON object", s->path);
    for (size_t i = 0; rc == HD_OK && i < COUNT_OF(int_keys); i++) {
        const struct int_key *k = &int_keys[i];
        rc = read_int(s, root, k->key, k->min, k->max, (int *)((char *)c + k->at));
    }
    for (size_t i = 0; rc == HD_OK && i < COUNT_OF(float_keys); i++)
        rc = read_float(s, root, &float_keys[i], (float *)((char *)c + float_keys[i].at));
    for (size_t i = 0; rc == HD_OK && i < COUNT_OF(fixed_keys); i++)
        rc = check_fixed(s, root, &fixed_keys[i]);
    if (rc == HD_OK && json_object_get(root, "num_nextn_predict_layers") != NULL)
        rc = read_int(s, root, "num_nextn_predict_layers", 0, LAYERS_MAX, &c->n_nextn);
    if (rc == HD_OK)
        rc = read_ratios(s, root, c);
    if (rc == HD_OK)
        rc = read_yarn(s, root, c);
    if (rc == HD_OK)
        rc = read_quantization(s, root, c);
    if (rc == HD_OK)
        rc = read_dspark(s, root, c);
    return rc == HD_OK ? check_combination(s, c) : rc;
}

int config_parse(struct config *c, const char *text, size_t n, const char *path, struct err *e)
{
    *c = (struct config){0};
    json_error_t je;
    json_t *root = json_loadb(text, n, JSON_REJECT_DUPLICATES, &je);
    if (root == NULL)
        return err_set(e, HD_EFORMAT, "%s: not valid JSON at line %d, column %d (%s)", path, je.line, je.column,
                       je.text);
    struct source s = {path, "", e};
    int rc = read_all(&s, root, c);
    json_decref(root);
    return rc;
}

int config_load(struct config *c, const char *dir, struct err *e)
{
    char *path = path_join(dir, "config.json");
    struct buf text = {0};
    int rc = file_read(&text, path, CONFIG_BYTES_MAX, e);
    if (rc == HD_OK)
        rc = config_parse(c, text.data, text.len, path, e);
    buf_free(&text);
    free(path);
    return rc;
}

enum layer_kind config_layer_kind(const struct config *c, int l)
{
    return c->compress_ratio[l] == 0 ? LAYER_SWA : c->compress_ratio[l] == 4 ? LAYER_CSA : LAYER_HCA;
}

const char *layer_kind_name(enum layer_kind k)
{
    static const char *const names[] = {"SWA", "CSA", "HCA"};
    return names[k];
}
