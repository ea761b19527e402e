/* DeepSeek-V4's tokenizer against Hugging Face tokenizers on texts of our own (tests/data/tokenizer/make_vectors.py), from
 * tokenizer.json and from a rank file made of it. */
#include "text/text.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#define DATA "tests/data/tokenizer/"

static struct {
    char *dir; /* scratch folder: tokenizer.json, v4.rank, added_tokens.tsv */
    struct tokenizer *t, *ranks;
} world;

static char *scratch(const char *name)
{
    return path_join(world.dir, name);
}

/* ---------------------------------------------------------------- setting up */

static void shell(const char *command)
{
    FILE *f = popen(command, "r");
    assert_non_null(f);
    assert_int_equal(pclose(f), 0);
}

/* Bytes of text in base64. */
static void base64_add(struct buf *out, const char *text)
{
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    size_t n = strlen(text);
    for (size_t i = 0; i < n; i += 3) {
        unsigned bits = 0;
        for (size_t k = 0; k < 3; k++)
            bits = bits << 8 | (i + k < n ? (unsigned char)text[i + k] : 0);
        for (size_t k = 0; k < 4; k++)
            buf_char(out, i + k > n ? '=' : digits[bits >> (18 - 6 * k) & 63]);
    }
}

static void ranks_write(const json_t *root)
{
    struct buf ranks = {0}, added = {0};
    const char *key;
    json_t *value;
    json_object_foreach(json_object_get(json_object_get(root, "model"), "vocab"), key, value) {
        base64_add(&ranks, key);
        buf_printf(&ranks, " %d\n", (int)json_integer_value(value));
    }
    buf_str(&added, "#id\tcontent\tspecial\n");
    size_t i;
    json_array_foreach(json_object_get(root, "added_tokens"), i, value)
        buf_printf(&added, "%d\t%s\t%d\tnote\n", (int)json_integer_value(json_object_get(value, "id")),
                   json_string_value(json_object_get(value, "content")), json_is_true(json_object_get(value, "special")));
    char *path = scratch("v4.rank"), *path_added = scratch("added_tokens.tsv");
    assert_int_equal(file_write_atomic(path, ranks.data, ranks.len, NULL), HD_OK);
    assert_int_equal(file_write_atomic(path_added, added.data, added.len, NULL), HD_OK);
    free(path);
    free(path_added);
    buf_free(&ranks);
    buf_free(&added);
}

static int world_open(void **state)
{
    (void)state;
    world.dir = xstrdup("/tmp/hadal-tokenizer-XXXXXX");
    if (mkdtemp(world.dir) == NULL)
        return -1;
    char *command = xasprintf("gzip -dc " DATA "tokenizer.json.gz > %s/tokenizer.json", world.dir);
    shell(command);
    free(command);
    char *json = scratch("tokenizer.json"), *ranks = scratch("v4.rank");
    json_t *root = json_load_file(json, 0, NULL);
    assert_non_null(root);
    ranks_write(root);
    json_decref(root);
    struct err e = {0};
    /* One by the folder, one by the file. */
    if (tokenizer_open(&world.t, world.dir, &e) != HD_OK || tokenizer_open(&world.ranks, ranks, &e) != HD_OK)
        fail_msg("%s", e.msg);
    free(json);
    free(ranks);
    return 0;
}

static int world_close(void **state)
{
    (void)state;
    tokenizer_close(&world.t);
    tokenizer_close(&world.ranks);
    char *command = xasprintf("rm -r '%s'", world.dir);
    shell(command);
    free(command);
    free(world.dir);
    return 0;
}

/* ---------------------------------------------------------------- vectors */

static void expect_vector(const struct tokenizer *t, const json_t *text, bool match_added, const json_t *expected)
{
    struct ids ids = {0};
    struct err e = {0};
    const char *s = json_string_value(text);
    size_t n = json_string_length(text);
    assert_int_equal(tokenizer_encode(t, s, n, match_added, &ids, &e), HD_OK);
    bool same = ids.n == json_array_size(expected);
    for (size_t i = 0; same && i < ids.n; i++)
        same = ids.data[i] == json_integer_value(json_array_get(expected, i));
    if (!same)
        fail_msg("other ids than the reference (added tokens %s): '%.200s'", match_added ? "matched" : "plain", s);
    struct buf back = {0};
    tokenizer_decode(t, ids.data, ids.n, false, &back);
    assert_int_equal(back.len, n);
    if (n != 0)
        assert_memory_equal(back.data, s, n);
    buf_free(&back);
    ids_free(&ids);
}

static void expect_vectors(const struct tokenizer *t)
{
    FILE *f = fopen(DATA "vectors.jsonl", "r");
    assert_non_null(f);
    char *line = NULL;
    size_t cap = 0;
    int n = 0;
    for (; getline(&line, &cap, f) > 0; n++) {
        json_t *row = json_loads(line, JSON_ALLOW_NUL, NULL);
        assert_non_null(row);
        const json_t *text = json_object_get(row, "text"), *ids = json_object_get(row, "ids");
        const json_t *plain = json_object_get(row, "plain");
        expect_vector(t, text, true, ids);
        expect_vector(t, text, false, plain != NULL ? plain : ids);
        json_decref(row);
    }
    assert_true(n > 500);
    free(line);
    fclose(f);
}

static void test_vectors_json(void **state)
{
    (void)state;
    expect_vectors(world.t);
    expect_vectors(world.t); /* again, with the cache of whole tokens filled */
}

static void test_vectors_ranks(void **state)
{
    (void)state;
    expect_vectors(world.ranks);
}

/* ---------------------------------------------------------------- long texts */

/* Counts and hashes (FNV-1a over the ids' four bytes, low first) by Hugging Face tokenizers, make_vectors.py --long. */
static const struct {
    const char *unit; /* NULL: random letters */
    size_t n_bytes, n_ids;
    uint64_t hash;
} longs[] = {
    {"a", 1000000, 125000, UINT64_C(0x2656f201ca96a395)},
    {" ", 1000000, 7813, UINT64_C(0x3af519bc5f9dca1b)},
    {"\n", 200000, 12500, UINT64_C(0xd43c9ab28babca85)},
    {"7", 200000, 66667, UINT64_C(0x71b82f2e87742a1d)},
    {"!?", 200000, 100001, UINT64_C(0x5ad303e6e207ffd6)},
    {"中文", 600000, 100000, UINT64_C(0x57ffcd6effacfb25)},
    {"\xcc\x81", 400000, 200000, UINT64_C(0x7f24d1c1c4528ba5)},
    {"\n    ", 400000, 40001, UINT64_C(0x8d19f70a3f8a3749)},
    {"\001", 200000, 200000, UINT64_C(0x657489208901c725)},
    {"<｜", 200000, 100000, UINT64_C(0x871c5a1a02f9fe05)},
    {"the cat<think>", 200000, 42858, UINT64_C(0xb1879e74e7ef5d31)},
    {"🩷", 200000, 150000, UINT64_C(0x85f9fb21d979b285)},
    {NULL, 1000000, 537913, UINT64_C(0xd63aaf45ea5e0605)},
};

static uint64_t ids_hash(const struct ids *ids)
{
    uint64_t h = UINT64_C(0xcbf29ce484222325);
    for (size_t i = 0; i < ids->n; i++)
        for (int shift = 0; shift < 32; shift += 8)
            h = (h ^ ((uint32_t)ids->data[i] >> shift & 0xff)) * UINT64_C(0x100000001b3);
    return h;
}

static void long_make(struct buf *out, const char *unit, size_t n_bytes)
{
    uint32_t x = 1;
    while (out->len < n_bytes) {
        if (unit != NULL) {
            buf_str(out, unit);
            continue;
        }
        x = x * 1103515245 + 12345;
        buf_char(out, (char)('a' + (x >> 16) % 26));
    }
}

static void test_long(void **state)
{
    (void)state;
    for (size_t i = 0; i < COUNT_OF(longs); i++) {
        struct buf text = {0}, back = {0};
        struct ids ids = {0};
        struct err e = {0};
        long_make(&text, longs[i].unit, longs[i].n_bytes);
        assert_int_equal(tokenizer_encode(world.t, text.data, text.len, true, &ids, &e), HD_OK);
        assert_int_equal(ids.n, longs[i].n_ids);
        assert_true(ids_hash(&ids) == longs[i].hash);
        tokenizer_decode(world.t, ids.data, ids.n, false, &back);
        assert_int_equal(back.len, text.len);
        assert_memory_equal(back.data, text.data, text.len);
        buf_free(&text);
        buf_free(&back);
        ids_free(&ids);
    }
}

/* ---------------------------------------------------------------- many threads, one tokenizer */

enum { N_TASKS = 8 };

static void encode_task(void *arg, int i_task, int i_thread)
{
    (void)i_thread;
    struct ids *ids = (struct ids *)arg + i_task;
    struct buf text = {0};
    for (int i = 0; i < 300; i++)
        buf_printf(&text, "%x fathoms of <think> %c", (unsigned)i * 7919u, 'a' + i % 26);
    if (tokenizer_encode(world.t, text.data, text.len, true, ids, NULL) != HD_OK)
        ids->n = 0;
    buf_free(&text);
}

static void test_threads(void **state)
{
    (void)state;
    struct ids ids[N_TASKS] = {{0}};
    struct pool *pool;
    assert_int_equal(pool_open(&pool, 4, NULL), HD_OK);
    pool_run(pool, N_TASKS, encode_task, ids);
    pool_close(&pool);
    assert_true(ids[0].n > 2000);
    for (int i = 0; i < N_TASKS; i++) {
        assert_int_equal(ids[i].n, ids[0].n);
        assert_memory_equal(ids[i].data, ids[0].data, ids[0].n * sizeof *ids[0].data);
    }
    for (int i = 0; i < N_TASKS; i++)
        ids_free(&ids[i]);
}

/* ---------------------------------------------------------------- bytes that are no UTF-8 */

static void expect_round_trip(const char *text, size_t n, bool match_added)
{
    struct ids ids = {0};
    struct err e = {0};
    struct buf back = {0};
    assert_int_equal(tokenizer_encode(world.t, text, n, match_added, &ids, &e), HD_OK);
    tokenizer_decode(world.t, ids.data, ids.n, false, &back);
    assert_int_equal(back.len, n);
    if (n != 0)
        assert_memory_equal(back.data, text, n);
    buf_free(&back);
    ids_free(&ids);
}

static void test_invalid_utf8(void **state)
{
    (void)state;
    struct rng r = {20260102};
    char text[200];
    static const char bytes[] = "\xff\xc3\xa9\xe4\xb8\xad\xf0\x9f\x99\x82\xed\xa0<think> a1\n";
    for (int round = 0; round < 3000; round++) {
        size_t n = rng_below(&r, sizeof text);
        for (size_t i = 0; i < n; i++)
            text[i] = (char)(round % 2 ? rng_below(&r, 256) : (unsigned char)bytes[rng_below(&r, sizeof bytes - 1)]);
        expect_round_trip(text, n, round % 3 == 0);
    }
    /* Each bad byte alone, the text around it as ever. */
    struct ids ids = {0};
    struct err e = {0};
    assert_int_equal(tokenizer_encode(world.t, "The\xff\xe4\xb8 capital", 14, false, &ids, &e), HD_OK);
    assert_int_equal(ids.n, 5);
    assert_int_equal(ids.data[0], 671);
    assert_int_equal(ids.data[4], 6102);
    for (int i = 1; i < 4; i++) {
        size_t n;
        assert_int_equal((unsigned char)*tokenizer_bytes(world.t, ids.data[i], &n), "\0\xff\xe4\xb8"[i] & 0xff);
        assert_int_equal(n, 1);
    }
    ids_free(&ids);
}

/* ---------------------------------------------------------------- looking up */

static void test_lookup(void **state)
{
    (void)state;
    const struct tokenizer *both[] = {world.t, world.ranks};
    for (size_t i = 0; i < COUNT_OF(both); i++) {
        const struct tokenizer *t = both[i];
        assert_null(tokenizer_warning(t));
        assert_int_equal(tokenizer_n_vocab(t), 129280);
        assert_int_equal(tokenizer_id(t, "<｜begin▁of▁sentence｜>"), 0);
        assert_int_equal(tokenizer_id(t, "<｜User｜>"), 128803);
        assert_int_equal(tokenizer_id(t, "</think>"), 128822);
        assert_int_equal(tokenizer_id(t, "｜DSML｜"), 128825);
        assert_int_equal(tokenizer_id(t, " capital"), 6102);
        assert_int_equal(tokenizer_id(t, "no such token"), -1);
        assert_int_equal(tokenizer_id(t, ""), -1);
        assert_true(tokenizer_is_added(t, 128821) && !tokenizer_is_special(t, 128821));
        assert_true(tokenizer_is_added(t, 0) && tokenizer_is_special(t, 0));
        assert_false(tokenizer_is_added(t, 6102) || tokenizer_is_special(t, 6102));
        assert_false(tokenizer_is_added(t, -1) || tokenizer_is_special(t, 129280));
        size_t n;
        assert_memory_equal(tokenizer_bytes(t, 6102, &n), " capital", 8);
        assert_int_equal(n, 8);
        assert_memory_equal(tokenizer_bytes(t, 128821, &n), "<think>", 7);
        assert_int_equal(n, 7);
        const int32_t none[] = {-1, 129280, INT32_MAX, INT32_MIN};
        for (size_t k = 0; k < COUNT_OF(none); k++) {
            tokenizer_bytes(t, none[k], &n);
            assert_int_equal(n, 0);
        }
    }
}

static void test_skip_special(void **state)
{
    (void)state;
    const int32_t ids[] = {0, 671, 128821, 1, 6102, 500000};
    struct buf out = {0};
    tokenizer_decode(world.t, ids, COUNT_OF(ids), true, &out);
    assert_string_equal(out.data, "The<think> capital");
    buf_free(&out);
}

/* ---------------------------------------------------------------- files that are refused */

static void expect_refused(const char *content, const char *named)
{
    char *path = scratch("bad.rank");
    assert_int_equal(file_write_atomic(path, content, strlen(content), NULL), HD_OK);
    struct tokenizer *t;
    struct err e = {0};
    assert_int_equal(tokenizer_open(&t, path, &e), HD_EFORMAT);
    assert_null(t);
    if (strstr(e.msg, named) == NULL || strstr(e.msg, "bad.rank") == NULL)
        fail_msg("'%s' does not name %s", e.msg, named);
    free(path);
}

static void test_bad_files(void **state)
{
    (void)state;
    expect_refused("YQ== 1\nYg==\n", "line 2");
    expect_refused("YQ== 1\nYg== x\n", "line 2");
    expect_refused("Y*== 1\n", "line 1");
    expect_refused("YQ== -1\n", "line 1");
    expect_refused("YQ== 99999999999999999999\n", "line 1");
    expect_refused("YQ== 1\nYg== 1\n", "another token has id 1");
    expect_refused("YQ== 1\n", "byte 0x00");
    expect_refused("", "not JSON");
    expect_refused("hello\n", "line 1");
    struct tokenizer *t;
    struct err e = {0};
    assert_int_equal(tokenizer_open(&t, "/no/such/file", &e), HD_EIO);
    assert_non_null(strstr(e.msg, "/no/such/file"));
    e = (struct err){0};
    assert_int_equal(tokenizer_open(&t, "/", &e), HD_EIO);
    assert_non_null(strstr(e.msg, "/tokenizer.json"));
}

/* Without added tokens beside it a rank file has none; a bad line in them is named. */
static void test_rank_added(void **state)
{
    (void)state;
    char *path = scratch("added_tokens.tsv"), *ranks = scratch("v4.rank");
    struct tokenizer *t;
    struct err e = {0};
    assert_int_equal(unlink(path), 0);
    assert_int_equal(tokenizer_open(&t, ranks, &e), HD_OK);
    assert_int_equal(tokenizer_n_vocab(t), 128000);
    assert_int_equal(tokenizer_id(t, "<think>"), -1);
    tokenizer_close(&t);
    static const char *const bad[] = {"128821\t<think>\n", "x\t<think>\t0\n", "128821\t<think>\t\n", "7\t<think>\t0\n",
                                      "128821\t\t1\n", "128821\t<think>\t0\n128821\t<x>\t0\n"};
    for (size_t i = 0; i < COUNT_OF(bad); i++) {
        e = (struct err){0};
        assert_int_equal(file_write_atomic(path, bad[i], strlen(bad[i]), NULL), HD_OK);
        assert_int_equal(tokenizer_open(&t, ranks, &e), HD_EFORMAT);
        assert_non_null(strstr(e.msg, "added_tokens.tsv: line"));
    }
    free(path);
    free(ranks);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_vectors_json), cmocka_unit_test(test_vectors_ranks), cmocka_unit_test(test_long),
        cmocka_unit_test(test_threads),
        cmocka_unit_test(test_invalid_utf8), cmocka_unit_test(test_lookup),        cmocka_unit_test(test_skip_special),
        cmocka_unit_test(test_bad_files),    cmocka_unit_test(test_rank_added),
    };
    return cmocka_run_group_tests(tests, world_open, world_close);
}
