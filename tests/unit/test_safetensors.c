/* safetensors headers, the shard index, and checkpoints that are damaged in every way that a download or a disk can. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "model/jscan.h"
#include "model/names.h"
#include "model/safetensors.h"
#include "scratch.h"

/* ---------------------------------------------------------------- headers as text */

#define A "\"a\":{\"dtype\":\"F32\",\"shape\":[2,3],\"data_offsets\":[0,24]}"
#define B "\"b\":{\"dtype\":\"BF16\",\"shape\":[4],\"data_offsets\":[24,32]}"

static const struct {
    const char *json;
    uint64_t data_bytes;
    const char *says; /* NULL: it is right */
} headers[] = {
    {"{" A "}", 24, NULL},
    {"{" A "," B "}", 32, NULL},
    {"{" B "," A "}   \n", 32, NULL},
    {"{\"__metadata__\":{\"format\":\"pt\",\"x\":[1,{\"y\":null}]}," A "}", 24, NULL},
    {"{ \"a\" : { \"shape\" : [ 2 , 3 ] , \"data_offsets\" : [ 0 , 24 ] , \"dtype\" : \"F32\" } }", 24, NULL},
    {"{\"a\":{\"dtype\":\"F8_E8M0\",\"shape\":[7],\"data_offsets\":[0,7],\"note\":{\"deep\":[[1]]}}}", 7, NULL},
    {"{\"a\":{\"dtype\":\"I64\",\"shape\":[],\"data_offsets\":[0,8]}}", 8, NULL},
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":[0,9],\"data_offsets\":[0,0]}}", 0, NULL},
    {"{}", 0, NULL},
    {"{\"\\u0061\\/b\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1]}}", 1, NULL},

    {"", 0, "not valid JSON"},
    {"[]", 0, "not valid JSON"},
    {"{" A, 24, "not valid JSON"},
    {"{" A ",}", 24, "not valid JSON"},
    {"{" A "} x", 24, "not valid JSON"},
    {"{" A "}{", 24, "not valid JSON"},
    {"{\"a\":7}", 0, "not valid JSON near byte 5, tensor a"},
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":[2,-3],\"data_offsets\":[0,24]}}", 24, "tensor a"},
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":[2,03],\"data_offsets\":[0,24]}}", 24, "tensor a"},
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":[2,3e0],\"data_offsets\":[0,24]}}", 24, "tensor a"},
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":[2,3],\"data_offsets\":[0,24,30]}}", 24, "tensor a"},
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":[2,3],\"data_offsets\":[0,99999999999999999999]}}", 24, "tensor a"},
    {"{\"a\nb\":{}}", 0, "not valid JSON"},
    {"{\"a\\u0000\":{}}", 0, "not valid JSON"},
    {"{\"a\\ud800\":{}}", 0, "not valid JSON"},
    {"{\"a\xc3\xa9\":{}}", 0, "not valid JSON"},

    {"{\"a\":{\"shape\":[2,3],\"data_offsets\":[0,24]}}", 24, "tensor a lacks \"dtype\""},
    {"{\"a\":{\"dtype\":\"F32\",\"data_offsets\":[0,24]}}", 24, "tensor a lacks \"shape\""},
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":[2,3]}}", 24, "tensor a lacks \"data_offsets\""},
    {"{\"a\":{\"dtype\":\"F32\",\"dtype\":\"F32\"}}", 24, "tensor a gives \"dtype\" twice"},
    {"{\"a\":{\"dtype\":\"F4\",\"shape\":[2,3],\"data_offsets\":[0,24]}}", 24, "tensor a has dtype \"F4\""},
    {"{\"a\":{\"dtype\":\"none\",\"shape\":[],\"data_offsets\":[0,0]}}", 0, "tensor a has dtype \"none\""},
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1,1,1,1,1,1,1],\"data_offsets\":[0,4]}}", 4, "tensor a has a shape"},
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":[4294967296,4294967296],\"data_offsets\":[0,0]}}", 0,
     "tensor a has a shape whose"},
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":[9223372036854775808],\"data_offsets\":[0,0]}}", 0, "tensor a has a shape"},
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":[2,4],\"data_offsets\":[0,24]}}", 24,
     "takes 24 bytes, but its dtype and shape need 32"},
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":[2,3],\"data_offsets\":[24,0]}}", 24, "wrong order"},
    {"{" A "," B "}", 31, "tensor b ends at data byte 32, but the file holds only 31"},
    {"{" A "}", 25, "from byte 24 to 25 belong to no tensor"},
    {"{" B "}", 32, "before tensor b, bytes 0 to 24"},
    {"{" A ",\"c\":{\"dtype\":\"BF16\",\"shape\":[4],\"data_offsets\":[20,28]}}", 28,
     "tensor c begins at data byte 20 inside tensor a"},
    {"{" A ",\"c\":{\"dtype\":\"F32\",\"shape\":[6],\"data_offsets\":[0,24]}}", 24, "inside tensor"},
};

static int parse(struct checkpoint *c, const char *json, uint64_t data_bytes, struct err *e)
{
    *c = (struct checkpoint){0};
    *e = (struct err){0};
    return safetensors_parse_header(c, 0, json, strlen(json), data_bytes, "x.safetensors", e);
}

static void test_headers(void **state)
{
    (void)state;
    for (size_t i = 0; i < COUNT_OF(headers); i++) {
        struct checkpoint c;
        struct err e;
        int rc = parse(&c, headers[i].json, headers[i].data_bytes, &e);
        bool right = headers[i].says == NULL;
        if ((rc == HD_OK) != right || (!right && strstr(e.msg, headers[i].says) == NULL))
            fail_msg("%s: code %d, \"%s\"", headers[i].json, rc, e.msg);
        if (!right)
            assert_non_null(strstr(e.msg, "x.safetensors"));
        checkpoint_close(&c);
    }
}

static void test_header_values(void **state)
{
    (void)state;
    struct checkpoint c;
    struct err e;
    assert_int_equal(parse(&c, "{" B "," A "}", 32, &e), HD_OK);
    assert_int_equal(c.n_tensors, 2);
    assert_string_equal(c.tensors[0].name, "a"); /* by offset */
    assert_int_equal(c.tensors[0].dtype, DT_F32);
    assert_int_equal(c.tensors[0].n_dims, 2);
    assert_int_equal(c.tensors[0].dim[0], 2);
    assert_int_equal(c.tensors[0].dim[1], 3);
    assert_int_equal(c.tensors[1].offset, 24);
    assert_int_equal(c.tensors[1].bytes, 8);
    checkpoint_close(&c);
}

static void test_deep_metadata(void **state)
{
    (void)state;
    struct buf b = {0};
    struct checkpoint c;
    struct err e;
    buf_str(&b, "{\"__metadata__\":");
    for (int i = 0; i < 1000000; i++)
        buf_char(&b, '[');
    assert_int_equal(parse(&c, b.data, 0, &e), HD_EFORMAT);
    checkpoint_close(&c);
    buf_free(&b);
}

static void test_long_name(void **state)
{
    (void)state;
    struct buf b = {0};
    struct checkpoint c;
    struct err e;
    buf_str(&b, "{\"");
    for (int i = 0; i < 5000; i++)
        buf_char(&b, 'n');
    buf_str(&b, "\":{\"dtype\":\"U8\",\"shape\":[],\"data_offsets\":[0,1]}}");
    assert_int_equal(parse(&c, b.data, 1, &e), HD_EFORMAT);
    checkpoint_close(&c);
    buf_free(&b);
}

/* Every prefix of a header, at its exact length, so that ASan sees a read past the end. */
static void test_every_prefix(void **state)
{
    (void)state;
    const char *whole = "{\"__metadata__\":{\"f\":\"\\u0041\"}," A "," B "}";
    for (size_t n = 0; n < strlen(whole); n++) {
        char *text = malloc(n + 1);
        memcpy(text, whole, n);
        struct checkpoint c = {0};
        struct err e = {0};
        char *exact = realloc(text, n ? n : 1);
        assert_int_equal(safetensors_parse_header(&c, 0, exact, n, 32, "x", &e), HD_EFORMAT);
        checkpoint_close(&c);
        free(exact);
    }
}

static void test_names(void **state)
{
    (void)state;
    static const char *const pairs[][2] = {
        {"model.layers.3.self_attn.wq_a.weight_scale_inv", "layers.3.attn.wq_a.scale"},
        {"layers.0.mlp.gate.e_score_correction_bias", "layers.0.ffn.gate.bias"},
        {"mtp.0.mlp.experts.7.w1.weight", "mtp.0.ffn.experts.7.w1.weight"},
        {"layers.0.attn.wq_a.weight", "layers.0.attn.wq_a.weight"},
        {"model.embed.weight", "embed.weight"},
        {"vision.blocks.0.mlp.w1.weight", "vision.blocks.0.mlp.w1.weight"},
        {"model.", ""},
        {"", ""},
    };
    for (size_t i = 0; i < COUNT_OF(pairs); i++) {
        char name[TENSOR_NAME_MAX];
        snprintf(name, sizeof name, "%s", pairs[i][0]);
        size_t n = name_canonical(name, strlen(name));
        assert_string_equal(name, pairs[i][1]);
        assert_int_equal(n, strlen(name));
    }
}

/* ---------------------------------------------------------------- files */

static void put(const char *name, const void *data, size_t n)
{
    FILE *f = fopen(scratch_path(name), "wb");
    assert_non_null(f);
    assert_int_equal(fwrite(data, 1, n, f), n);
    fclose(f);
}

/* A safetensors file with the header and data_bytes bytes 0, 1, 2 ... */
static void put_shard(const char *name, const char *json, size_t data_bytes)
{
    struct buf b = {0};
    uint64_t n = strlen(json);
    buf_add(&b, &n, 8);
    buf_str(&b, json);
    for (size_t i = 0; i < data_bytes; i++)
        buf_char(&b, (char)i);
    put(name, b.data, b.len);
    buf_free(&b);
}

static void put_index(const char *weight_map)
{
    struct buf b = {0};
    buf_printf(&b, "{\"metadata\": {\"total_size\": 32}, \"weight_map\": {%s}}", weight_map);
    put("model.safetensors.index.json", b.data, b.len);
    buf_free(&b);
}

static void refuse(const char *what, const char *file)
{
    for (int map = 0; map < 2; map++) {
        struct checkpoint c;
        struct err e = {0};
        int rc = checkpoint_open(&c, scratch_dir(), map, NULL, &e);
        if (rc == HD_OK || strstr(e.msg, what) == NULL || strstr(e.msg, file) == NULL)
            fail_msg("code %d, \"%s\", expected \"%s\" and \"%s\"", rc, e.msg, what, file);
    }
}

static void test_single_file(void **state)
{
    (void)state;
    struct checkpoint c;
    struct err e = {0};
    put_shard("model.safetensors", "{" A "," B "}", 32);
    assert_int_equal(checkpoint_open(&c, scratch_dir(), true, NULL, &e), HD_OK);
    assert_int_equal(c.total_bytes, 32);
    const struct tensor *t = checkpoint_find(&c, "b");
    assert_non_null(t);
    assert_int_equal(t->data[0], 24);
    assert_int_equal(t->data[7], 31);
    assert_ptr_equal(checkpoint_find(&c, "model.b"), t);
    assert_null(checkpoint_find(&c, "c"));
    checkpoint_close(&c);
    assert_int_equal(checkpoint_open(&c, scratch_dir(), false, NULL, &e), HD_OK);
    assert_null(checkpoint_find(&c, "a")->data);
    checkpoint_close(&c);
    assert_int_equal(checkpoint_open_file(&c, scratch_path("model.safetensors"), true, &e), HD_OK);
    assert_int_equal(c.n_tensors, 2);
    checkpoint_close(&c);
}

static void test_damaged_files(void **state)
{
    (void)state;
    refuse("holds neither model.safetensors nor", scratch_dir());
    put("model.safetensors", "", 0);
    refuse("0 bytes are too few", "model.safetensors");
    put("model.safetensors", "1234567", 7);
    refuse("7 bytes are too few", "model.safetensors");
    uint64_t huge[2] = {1u << 30, 0};
    put("model.safetensors", huge, sizeof huge);
    refuse("its header claims 1073741824 bytes, expected at most", "model.safetensors");
    huge[0] = UINT64_MAX;
    put("model.safetensors", huge, sizeof huge);
    refuse("its header claims 18446744073709551615 bytes", "model.safetensors");
    huge[0] = 9;
    put("model.safetensors", huge, sizeof huge);
    refuse("its header claims 9 bytes, but the file has 16", "model.safetensors");
    put_shard("model.safetensors", "{" A "," B "}", 31);
    refuse("tensor b ends at data byte 32, but the file holds only 31", "model.safetensors");
    put_shard("model.safetensors", "{" A "," A "}", 24);
    refuse("inside tensor a", "model.safetensors");
    put_shard("model.safetensors", "{\"z\":{\"dtype\":\"U8\",\"shape\":[0],\"data_offsets\":[0,0]},"
                                   "\"z\":{\"dtype\":\"U8\",\"shape\":[0],\"data_offsets\":[0,0]}}", 0);
    refuse("tensor z occurs twice", "model.safetensors");
}

#define B0 "\"b\":{\"dtype\":\"BF16\",\"shape\":[4],\"data_offsets\":[0,8]}"

static void test_shards(void **state)
{
    (void)state;
    struct checkpoint c;
    struct err e = {0};
    put_shard("1.safetensors", "{" A "}", 24);
    put_shard("2.safetensors", "{" B0 "}", 8);
    put_index("\"b\": \"2.safetensors\", \"model.a\": \"1.safetensors\"");
    assert_int_equal(checkpoint_open(&c, scratch_dir(), true, NULL, &e), HD_OK);
    assert_int_equal(c.n_shards, 2);
    assert_int_equal(c.n_tensors, 2);
    assert_int_equal(c.total_bytes, 32);
    assert_int_equal(checkpoint_find(&c, "b")->data[1], 1);
    checkpoint_close(&c);
}

static void test_wrong_index(void **state)
{
    (void)state;
    put_shard("1.safetensors", "{" A "}", 24);
    put_index("\"a\": \"1.safetensors\", \"b\": \"2.safetensors\"");
    refuse("does not exist", "2.safetensors");
    put_shard("2.safetensors", "{" B0 "}", 8);
    put_index("\"a\": \"1.safetensors\", \"b\": \"1.safetensors\"");
    refuse("expected tensor b", "1.safetensors");
    put_index("\"a\": \"2.safetensors\", \"b\": \"1.safetensors\"");
    refuse("expected tensor a", "2.safetensors");
    put_index("\"a\": \"1.safetensors\", \"b\": \"2.safetensors\", \"c\": \"2.safetensors\"");
    refuse("expected tensor c", "2.safetensors");
    put_shard("2.safetensors", "{" B0 ",\"c\":{\"dtype\":\"U8\",\"shape\":[],\"data_offsets\":[8,9]}}", 9);
    put_index("\"a\": \"1.safetensors\", \"b\": \"2.safetensors\"");
    refuse("holds tensor c, which", "2.safetensors");
    put_index("\"a\": \"1.safetensors\", \"a\": \"1.safetensors\"");
    refuse("twice", "index.json");
    put_shard("2.safetensors", "{" A "}", 24);
    put_index("\"a\": \"1.safetensors\", \"b\": \"2.safetensors\"");
    refuse("tensor a occurs twice", ".safetensors");
    put_index("\"a\": \"../1.safetensors\"");
    refuse("expected a name inside the folder", "index.json");
    put_index("\"a\": \"/etc/passwd\"");
    refuse("expected a name inside the folder", "index.json");
    put_index("");
    refuse("\"weight_map\" is missing or empty", "index.json");
    put_index("\"a\": 7");
    refuse("not valid JSON", "index.json");
    put("model.safetensors.index.json", "{}", 2);
    refuse("\"weight_map\" is missing", "index.json");
    put("model.safetensors.index.json", "{\"weight_map\"", 13);
    refuse("not valid JSON", "index.json");
}

static void test_folder_errors(void **state)
{
    (void)state;
    struct checkpoint c;
    struct err e = {0};
    assert_int_equal(checkpoint_open(&c, "no-such-folder", true, NULL, &e), HD_EIO);
    assert_non_null(strstr(e.msg, "no-such-folder: not a folder"));
    e = (struct err){0};
    assert_int_equal(checkpoint_open_file(&c, "tests", true, &e), HD_EIO);
    assert_non_null(strstr(e.msg, "tests"));
}

static void test_dtypes(void **state)
{
    (void)state;
    assert_string_equal(dtype_name(DT_F8_E8M0), "F8_E8M0");
    assert_int_equal(dtype_bytes(DT_I64), 8);
    assert_int_equal(dtype_bytes(DT_BF16), 2);
    assert_int_equal(dtype_bytes(DT_I8), 1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_headers),
        cmocka_unit_test(test_header_values),
        cmocka_unit_test(test_deep_metadata),
        cmocka_unit_test(test_long_name),
        cmocka_unit_test(test_every_prefix),
        cmocka_unit_test(test_names),
        cmocka_unit_test(test_dtypes),
        cmocka_unit_test(test_folder_errors),
        cmocka_unit_test_setup_teardown(test_single_file, scratch_make, scratch_remove),
        cmocka_unit_test_setup_teardown(test_damaged_files, scratch_make, scratch_remove),
        cmocka_unit_test_setup_teardown(test_shards, scratch_make, scratch_remove),
        cmocka_unit_test_setup_teardown(test_wrong_index, scratch_make, scratch_remove),
    };
    return cmocka_run_group_tests_name("safetensors", tests, NULL, NULL);
}
