/* config.json: the released files, every key missing or wrong in turn, other architectures, hostile JSON. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <jansson.h>

#include "model/config.h"

#define CONFIGS "tests/data/configs/"

static json_t *released(const char *name)
{
    char path[256];
    snprintf(path, sizeof path, CONFIGS "%s.json", name);
    json_t *root = json_load_file(path, 0, NULL);
    assert_non_null(root);
    return root;
}

/* Parses root (taken) and keeps the sentence. */
static int parse_json(json_t *root, struct config *c, struct err *e)
{
    char *text = json_dumps(root, 0);
    *e = (struct err){0};
    int rc = config_parse(c, text, strlen(text), "config.json", e);
    free(text);
    json_decref(root);
    return rc;
}

static int parse_text(const char *text, struct err *e)
{
    struct config c;
    *e = (struct err){0};
    return config_parse(&c, text, strlen(text), "config.json", e);
}

static void test_flash(void **state)
{
    (void)state;
    struct config c;
    struct err e;
    assert_int_equal(parse_json(released("DeepSeek-V4-Flash"), &c, &e), HD_OK);
    assert_int_equal(c.vocab_size, 129280);
    assert_int_equal(c.hidden_size, 4096);
    assert_int_equal(c.n_layers, 43);
    assert_int_equal(c.n_heads, 64);
    assert_int_equal(c.head_dim, 512);
    assert_int_equal(c.rope_dim, 64);
    assert_int_equal(c.q_lora_rank, 1024);
    assert_int_equal(c.o_groups, 8);
    assert_int_equal(c.o_lora_rank, 1024);
    assert_int_equal(c.window, 128);
    assert_int_equal(c.n_experts, 256);
    assert_int_equal(c.n_experts_per_tok, 6);
    assert_int_equal(c.expert_dim, 2048);
    assert_int_equal(c.n_hash_layers, 3);
    assert_int_equal(c.index_n_heads, 64);
    assert_int_equal(c.index_head_dim, 128);
    assert_int_equal(c.index_topk, 512);
    assert_int_equal(c.hc_mult, 4);
    assert_int_equal(c.hc_sinkhorn_iters, 20);
    assert_int_equal(c.max_positions, 1048576);
    assert_int_equal(c.n_compress_ratios, 44);
    assert_int_equal(c.n_nextn, 1);
    assert_int_equal(c.eos_id, 1);
    assert_int_equal(c.weight_block, 128);
    assert_int_equal(c.dspark_block, 0);
    assert_true(c.rms_norm_eps == 1e-6f && c.hc_eps == 1e-6f && c.rope_theta == 1e4f);
    assert_true(c.compress_rope_theta == 160000.f && c.routed_scaling_factor == 1.5f && c.swiglu_limit == 10.f);
    assert_true(c.yarn.factor == 16 && c.yarn.beta_fast == 32 && c.yarn.beta_slow == 1);
    assert_int_equal(c.yarn.original_len, 65536);
}

static void check_kinds(const char *name, int swa, int csa, int hca)
{
    struct config c;
    struct err e;
    int n[3] = {0};
    assert_int_equal(parse_json(released(name), &c, &e), HD_OK);
    for (int l = 0; l < c.n_layers; l++)
        n[config_layer_kind(&c, l)]++;
    assert_int_equal(n[LAYER_SWA], swa);
    assert_int_equal(n[LAYER_CSA], csa);
    assert_int_equal(n[LAYER_HCA], hca);
}

static void test_kinds(void **state)
{
    (void)state;
    check_kinds("DeepSeek-V4-Flash", 2, 21, 20);
    check_kinds("DeepSeek-V4-Flash-0731", 2, 21, 20);
    check_kinds("DeepSeek-V4-Pro", 0, 30, 31);
    check_kinds("DeepSeek-V4-Pro-0813", 0, 30, 31);
    assert_string_equal(layer_kind_name(LAYER_CSA), "CSA");
}

static void test_dspark(void **state)
{
    (void)state;
    struct config c;
    struct err e;
    assert_int_equal(parse_json(released("DeepSeek-V4-Pro-0813"), &c, &e), HD_OK);
    assert_int_equal(c.dspark_block, 5);
    assert_int_equal(c.dspark_noise_id, 128799);
    assert_int_equal(c.dspark_markov_rank, 512);
    assert_int_equal(c.n_dspark_targets, 3);
    assert_int_equal(c.dspark_target[0], 58);
    assert_int_equal(c.dspark_target[2], 60);
    static const char *const keys[] = {"dspark_noise_token_id", "dspark_markov_rank", "dspark_target_layer_ids"};
    for (size_t i = 0; i < COUNT_OF(keys); i++) {
        json_t *root = released("DeepSeek-V4-Pro-0813");
        json_object_del(root, keys[i]);
        assert_int_equal(parse_json(root, &c, &e), HD_EFORMAT);
        assert_non_null(strstr(e.msg, keys[i]));
    }
}

/* Keys that other software wants; nothing here depends on them. */
static bool is_optional(const char *key)
{
    static const char *const keys[] = {
        "architectures", "attention_dropout",   "expert_dtype", "initializer_range",        "quantization_config",
        "torch_dtype",   "transformers_version", "use_cache",    "num_nextn_predict_layers",
    };
    for (size_t i = 0; i < COUNT_OF(keys); i++)
        if (strcmp(keys[i], key) == 0)
            return true;
    return false;
}

static void test_every_key_missing(void **state)
{
    (void)state;
    json_t *whole = released("DeepSeek-V4-Flash");
    const char *key;
    json_t *value;
    int n = 0;
    json_object_foreach(whole, key, value)
    {
        struct config c;
        struct err e;
        json_t *root = json_deep_copy(whole);
        json_object_del(root, key);
        int rc = parse_json(root, &c, &e);
        if (is_optional(key)) {
            assert_int_equal(rc, HD_OK);
            continue;
        }
        char quoted[64];
        snprintf(quoted, sizeof quoted, "\"%s\" is missing", key);
        assert_int_equal(rc, HD_EFORMAT);
        assert_non_null(strstr(e.msg, quoted));
        n++;
    }
    assert_true(n >= 35);
    json_decref(whole);
}

static void test_every_key_of_wrong_type(void **state)
{
    (void)state;
    json_t *whole = released("DeepSeek-V4-Flash-0731");
    const char *key;
    json_t *value;
    json_object_foreach(whole, key, value)
    {
        if (is_optional(key) && strcmp(key, "num_nextn_predict_layers") != 0)
            continue;
        struct config c;
        struct err e;
        json_t *root = json_deep_copy(whole);
        json_object_set_new(root, key, json_string("seven"));
        assert_int_not_equal(parse_json(root, &c, &e), HD_OK);
        assert_non_null(strstr(e.msg, key));
    }
    json_decref(whole);
}

/* One changed value, and what the sentence must name. */
static const struct {
    const char *key, *value; /* JSON */
    int rc;
    const char *says;
} changes[] = {
    {"model_type", "\"deepseek_v41\"", HD_EUNSUPPORTED, "DeepSeek-V4.1 is another architecture"},
    {"model_type", "\"llama\"", HD_EUNSUPPORTED, "\"llama\""},
    {"hidden_size", "-1", HD_EFORMAT, "\"hidden_size\" is -1"},
    {"hidden_size", "4096.5", HD_EFORMAT, "integer"},
    {"num_hidden_layers", "0", HD_EFORMAT, "num_hidden_layers"},
    {"num_hidden_layers", "1000000", HD_EFORMAT, "num_hidden_layers"},
    {"num_hidden_layers", "99999999999999999999", HD_EFORMAT, "not valid JSON"},
    {"num_hidden_layers", "60", HD_EFORMAT, "\"compress_ratios\" has 44 entries"},
    {"compress_ratios", "[0, 0, 4]", HD_EFORMAT, "\"compress_ratios\" has 3 entries"},
    {"compress_ratios", "5", HD_EFORMAT, "must be an array"},
    {"rms_norm_eps", "0", HD_EFORMAT, "rms_norm_eps"},
    {"rms_norm_eps", "1e-20", HD_OK, ""},
    {"swiglu_limit", "0", HD_OK, ""},
    {"rope_scaling", "null", HD_OK, ""},
    {"rope_scaling", "{}", HD_EFORMAT, "rope_scaling.type"},
    {"rope_scaling", "{\"type\": \"linear\", \"factor\": 2}", HD_EUNSUPPORTED, "\"linear\""},
    {"rope_scaling", "{\"rope_type\": \"yarn\", \"beta_fast\": 32, \"beta_slow\": 1}", HD_EFORMAT,
     "rope_scaling.factor"},
    {"rope_scaling", "{\"type\": \"yarn\", \"factor\": 16, \"beta_fast\": 32, \"beta_slow\": 1}", HD_EFORMAT,
     "rope_scaling.original_max_position_embeddings"},
    {"qk_rope_head_dim", "63", HD_EFORMAT, "even"},
    {"qk_rope_head_dim", "1024", HD_EFORMAT, "larger than \"head_dim\""},
    {"index_head_dim", "96", HD_EFORMAT, "power of two"},
    {"o_groups", "7", HD_EFORMAT, "multiple of \"o_groups\""},
    {"num_experts_per_tok", "255", HD_OK, ""},
    {"n_routed_experts", "5", HD_EFORMAT, "num_experts_per_tok"},
    {"n_shared_experts", "2", HD_EFORMAT, "n_shared_experts"},
    {"num_hash_layers", "44", HD_EFORMAT, "num_hash_layers"},
    {"eos_token_id", "129280", HD_EFORMAT, "eos_token_id"},
    {"scoring_func", "\"sigmoid\"", HD_EUNSUPPORTED, "\"scoring_func\" must be \"sqrtsoftplus\""},
    {"num_key_value_heads", "8", HD_EUNSUPPORTED, "num_key_value_heads"},
    {"tie_word_embeddings", "true", HD_EUNSUPPORTED, "tie_word_embeddings"},
    {"quantization_config", "null", HD_OK, ""},
    {"quantization_config", "{\"quant_method\": \"gptq\"}", HD_EUNSUPPORTED, "quant_method"},
    {"quantization_config", "{\"quant_method\": \"fp8\", \"weight_block_size\": [32, 32]}", HD_EUNSUPPORTED,
     "[128, 128]"},
    {"quantization_config", "{\"quant_method\": \"fp8\"}", HD_EFORMAT, "quantization_config.weight_block_size"},
    {"vision_config", "null", HD_OK, ""},
    {"dspark_block_size", "5", HD_EFORMAT, "dspark_noise_token_id"},
};

static void test_changes(void **state)
{
    (void)state;
    json_t *whole = released("DeepSeek-V4-Flash");
    for (size_t i = 0; i < COUNT_OF(changes); i++) {
        json_t *root = json_deep_copy(whole);
        json_object_del(root, changes[i].key);
        char *rest = json_dumps(root, 0);
        struct buf text = {0};
        buf_printf(&text, "{\"%s\": %s, %s", changes[i].key, changes[i].value, rest + 1);
        struct err e;
        int rc = parse_text(text.data, &e);
        if (rc != changes[i].rc || strstr(e.msg, changes[i].says) == NULL)
            fail_msg("%s = %s: code %d, \"%s\"", changes[i].key, changes[i].value, rc, e.msg);
        buf_free(&text);
        free(rest);
        json_decref(root);
    }
    json_decref(whole);
}

static void test_hostile_json(void **state)
{
    (void)state;
    struct err e;
    static const char *const texts[] = {"", "[]", "{", "null", "{\"model_type\": \"deepseek_v4\"}", "\xff\xfe{}"};
    for (size_t i = 0; i < COUNT_OF(texts); i++) {
        assert_int_equal(parse_text(texts[i], &e), HD_EFORMAT);
        assert_non_null(strstr(e.msg, "config.json"));
    }
    enum { DEEP = 100000 };
    char *deep = malloc(DEEP + 1);
    memset(deep, '[', DEEP);
    deep[DEEP] = '\0';
    assert_int_equal(parse_text(deep, &e), HD_EFORMAT);
    free(deep);
    assert_int_equal(parse_text("{\"model_type\": \"deepseek_v4\", \"model_type\": \"x\"}", &e), HD_EFORMAT);
}

static void test_missing_file(void **state)
{
    (void)state;
    struct config c;
    struct err e = {0};
    assert_int_equal(config_load(&c, "tests/data/no-such-folder", &e), HD_EIO);
    assert_non_null(strstr(e.msg, "config.json"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_flash),
        cmocka_unit_test(test_kinds),
        cmocka_unit_test(test_dspark),
        cmocka_unit_test(test_every_key_missing),
        cmocka_unit_test(test_every_key_of_wrong_type),
        cmocka_unit_test(test_changes),
        cmocka_unit_test(test_hostile_json),
        cmocka_unit_test(test_missing_file),
    };
    return cmocka_run_group_tests_name("config", tests, NULL, NULL);
}
