/* tokenizer.json as a file: its variants, and what is refused by the name of the field. */
#include "text/text.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

/* A tokenizer.json of 256 bytes and a few merges; a part that is NULL has the text that works. */
struct parts {
    const char *top, *normalizer, *pre, *post, *decoder, *model, *vocab, *merges, *added;
};

static const struct parts good = {
    .top = "\"truncation\": null, \"padding\": null",
    .normalizer = "null",
    .pre = "{\"type\": \"Sequence\", \"pretokenizers\": [{\"type\": \"Split\", \"pattern\": {\"Regex\": \"\\\\s+\"}, "
           "\"behavior\": \"Isolated\", \"invert\": false}, "
           "{\"type\": \"ByteLevel\", \"add_prefix_space\": false, \"use_regex\": false}]}",
    .post = "null",
    .decoder = "{\"type\": \"ByteLevel\"}",
    .model = "\"type\": \"BPE\"",
    .vocab = "\"ab\": 256, \"abc\": 257, \"bc\": 258, \"\xc4\xa0" "a\": 259",
    .merges = "[\"a b\", \"ab c\", [\"b\", \"c\"], [\"\xc4\xa0\", \"a\"]]",
    .added = "[{\"id\": 300, \"content\": \"<x>\", \"special\": true}, {\"id\": 301, \"content\": \"<xy\"}]",
};

static void utf8_add(struct buf *out, int c)
{
    if (c >= 0x80)
        buf_char(out, (char)(0xc0 | c >> 6));
    buf_char(out, (char)(c >= 0x80 ? 0x80 | (c & 0x3f) : c));
}

/* "!": 33, ...: the byte-level alphabet, as GPT-2's code lists it. */
static void bytes_add(struct buf *out)
{
    for (int b = 0, next = 256; b < 256; b++) {
        bool printable = (b >= '!' && b <= '~') || (b >= 0xa1 && b <= 0xac) || b >= 0xae;
        buf_str(out, "\"");
        if (b == '"' || b == '\\')
            buf_char(out, '\\');
        utf8_add(out, printable ? b : next++);
        buf_printf(out, "\": %d, ", b);
    }
}

static const char *pick(const char *part, const char *otherwise)
{
    return part != NULL ? part : otherwise;
}

static void json_make(struct buf *out, const struct parts *p)
{
    buf_printf(out, "{%s, \"normalizer\": %s, \"pre_tokenizer\": %s, ", pick(p->top, good.top),
               pick(p->normalizer, good.normalizer), pick(p->pre, good.pre));
    buf_printf(out, "\"post_processor\": %s, \"decoder\": %s, ", pick(p->post, good.post), pick(p->decoder, good.decoder));
    buf_printf(out, "\"model\": {%s, \"vocab\": {", pick(p->model, good.model));
    bytes_add(out);
    buf_printf(out, "%s}, \"merges\": %s}, ", pick(p->vocab, good.vocab), pick(p->merges, good.merges));
    buf_printf(out, "\"added_tokens\": %s}", pick(p->added, good.added));
}

static int parts_open(struct tokenizer **t, const struct parts *p, struct err *e)
{
    struct buf json = {0};
    json_make(&json, p);
    int rc = tokenizer_parse(t, json.data, json.len, "t.json", e);
    buf_free(&json);
    return rc;
}

/* ids of text as "1 2 3". */
static void expect_ids(const struct parts *p, const char *text, bool match_added, const char *expected)
{
    struct tokenizer *t;
    struct err e = {0};
    assert_int_equal(parts_open(&t, p, &e), HD_OK);
    struct ids ids = {0};
    assert_int_equal(tokenizer_encode(t, text, strlen(text), match_added, &ids, &e), HD_OK);
    struct buf got = {0};
    for (size_t i = 0; i < ids.n; i++)
        buf_printf(&got, "%s%d", i ? " " : "", ids.data[i]);
    assert_string_equal(got.data ? got.data : "", expected);
    buf_free(&got);
    ids_free(&ids);
    tokenizer_close(&t);
}

/* ---------------------------------------------------------------- what works */

static void test_merges(void **state)
{
    (void)state;
    expect_ids(&good, "abc", false, "257");
    expect_ids(&good, "aabcbc", false, "97 257 258");
    expect_ids(&good, " a", false, "32 97"); /* the pattern cuts in between */
    expect_ids(&good, "", false, "");
}

/* The rule of lower rank goes first, even to the right of another. */
static void test_merge_order(void **state)
{
    (void)state;
    const struct parts p = {.vocab = "\"ab\": 256, \"bc\": 257", .merges = "[\"b c\", \"a b\"]"};
    expect_ids(&p, "abc", false, "97 257");
    expect_ids(&p, "abbc", false, "256 257");
    const struct parts same = {.vocab = "\"aa\": 256, \"aaaa\": 257", .merges = "[\"a a\", \"aa aa\"]"};
    expect_ids(&same, "aaaaaaa", false, "257 256 97");
}

/* A token that no rule makes is reached with ignore_merges only. */
static void test_ignore_merges(void **state)
{
    (void)state;
    struct parts p = {.vocab = "\"ab\": 256, \"xyz\": 257", .merges = "[\"a b\"]"};
    expect_ids(&p, "xyz", false, "120 121 122");
    p.model = "\"type\": \"BPE\", \"ignore_merges\": true";
    expect_ids(&p, "xyz", false, "257");
    expect_ids(&p, "xyzab", false, "120 121 122 256");
}

static void test_added(void **state)
{
    (void)state;
    expect_ids(&good, "a<x>b", true, "97 300 98");
    expect_ids(&good, "a<x>b", false, "97 60 120 62 98");
    expect_ids(&good, "<xy<x><x", true, "301 300 60 120");
    const struct parts longest = {.added = "[{\"id\": 300, \"content\": \"<x\"}, {\"id\": 301, \"content\": \"<xy>\"}]"};
    expect_ids(&longest, "<xy><xy", true, "301 300 121");
    /* Tokens that are not "normalized" take their text before all others. */
    const struct parts classes = {.added = "[{\"id\": 300, \"content\": \"xy\", \"normalized\": true}, "
                                           "{\"id\": 301, \"content\": \"yz\", \"normalized\": false}]"};
    expect_ids(&classes, "xyz", true, "120 301");
    expect_ids(&classes, "xyxyz", true, "300 120 301");
}

static void test_pre_tokenizers(void **state)
{
    (void)state;
    const struct parts alone = {.pre = "{\"type\": \"ByteLevel\", \"add_prefix_space\": false, \"use_regex\": false}"};
    expect_ids(&alone, "x a", false, "120 259");
    const struct parts gpt2 = {.pre = "{\"type\": \"ByteLevel\", \"add_prefix_space\": false, \"use_regex\": true}"};
    expect_ids(&gpt2, "ab a1bc", false, "256 259 49 258");
    const struct parts literal = {.pre = "{\"type\": \"Sequence\", \"pretokenizers\": [{\"type\": \"Split\", \"pattern\": "
                                         "{\"String\": \"b\"}, \"behavior\": \"Isolated\"}, {\"type\": \"ByteLevel\", "
                                         "\"add_prefix_space\": false, \"use_regex\": false}]}"};
    expect_ids(&literal, "abc", false, "97 98 99");
    /* An empty match cuts where it stands. */
    const struct parts ahead = {.pre = "{\"type\": \"Sequence\", \"pretokenizers\": [{\"type\": \"Split\", \"pattern\": "
                                       "{\"Regex\": \"(?=b)\"}, \"behavior\": \"Isolated\"}, {\"type\": \"ByteLevel\", "
                                       "\"add_prefix_space\": false, \"use_regex\": false}]}"};
    expect_ids(&ahead, "abcabc", false, "97 258 97 258");
}

static void test_no_added_tokens(void **state)
{
    (void)state;
    const struct parts p = {.added = "[]"};
    expect_ids(&p, "a<x>", true, "97 60 120 62");
}

/* A rule that makes no token: usable, with a warning. */
static void test_damaged_rule(void **state)
{
    (void)state;
    const struct parts p = {.vocab = "\"ab\": 256", .merges = "[\"a b\", \"ab c\"]"};
    struct tokenizer *t;
    struct err e = {0};
    assert_int_equal(parts_open(&t, &p, &e), HD_OK);
    assert_non_null(tokenizer_warning(t));
    assert_non_null(strstr(tokenizer_warning(t), "model.merges[1]"));
    tokenizer_close(&t);
    expect_ids(&p, "abc", false, "256 99");
    assert_int_equal(parts_open(&t, &good, &e), HD_OK);
    assert_null(tokenizer_warning(t));
    tokenizer_close(&t);
}

/* ---------------------------------------------------------------- what is refused */

#define SPLIT(fields) "{\"type\": \"Sequence\", \"pretokenizers\": [{\"type\": \"Split\", " fields "}, " \
                      "{\"type\": \"ByteLevel\", \"add_prefix_space\": false, \"use_regex\": false}]}"
#define REGEX(text) SPLIT("\"behavior\": \"Isolated\", \"pattern\": {\"Regex\": \"" text "\"}")

static const struct {
    struct parts p;
    int code;
    const char *named; /* what the sentence must hold */
} refused[] = {
    {{.top = "\"truncation\": {\"max_length\": 5}"}, HD_EUNSUPPORTED, "truncation"},
    {{.top = "\"padding\": {\"strategy\": \"BatchLongest\"}"}, HD_EUNSUPPORTED, "padding"},
    {{.normalizer = "{\"type\": \"NFC\"}"}, HD_EUNSUPPORTED, "normalizer.type: 'NFC'"},
    {{.normalizer = "{\"type\": \"Sequence\", \"normalizers\": [{\"type\": \"NFC\"}]}"}, HD_EUNSUPPORTED, "normalizer"},
    {{.pre = "null"}, HD_EUNSUPPORTED, "pre_tokenizer"},
    {{.pre = "{\"type\": \"Metaspace\"}"}, HD_EUNSUPPORTED, "'Metaspace'"},
    {{.pre = "{\"type\": \"Sequence\", \"pretokenizers\": []}"}, HD_EFORMAT, "pre_tokenizer.pretokenizers"},
    {{.pre = SPLIT("\"behavior\": \"Removed\", \"pattern\": {\"String\": \"x\"}")}, HD_EUNSUPPORTED, "[0].behavior"},
    {{.pre = SPLIT("\"behavior\": \"Isolated\", \"invert\": true")}, HD_EUNSUPPORTED, "[0].invert"},
    {{.pre = SPLIT("\"behavior\": \"Isolated\"")}, HD_EFORMAT, "[0].pattern"},
    {{.pre = REGEX("(")}, HD_EFORMAT, "[0].pattern"},
    {{.pre = REGEX("\\\\w+")}, HD_EUNSUPPORTED, "'\\w'"},
    {{.pre = REGEX("[a[b]]")}, HD_EUNSUPPORTED, "[0].pattern"},
    {{.pre = REGEX("[a&&b]")}, HD_EUNSUPPORTED, "[0].pattern"},
    {{.pre = "{\"type\": \"ByteLevel\", \"add_prefix_space\": true}"}, HD_EUNSUPPORTED, "add_prefix_space"},
    {{.post = "{\"type\": \"TemplateProcessing\"}"}, HD_EUNSUPPORTED, "post_processor"},
    {{.decoder = "null"}, HD_EUNSUPPORTED, "decoder"},
    {{.decoder = "{\"type\": \"Metaspace\"}"}, HD_EUNSUPPORTED, "decoder.type"},
    {{.model = "\"type\": \"Unigram\""}, HD_EUNSUPPORTED, "model.type: 'Unigram'"},
    {{.model = "\"type\": \"BPE\", \"byte_fallback\": true"}, HD_EUNSUPPORTED, "model.byte_fallback"},
    {{.model = "\"type\": \"BPE\", \"dropout\": 0.1"}, HD_EUNSUPPORTED, "model.dropout"},
    {{.model = "\"type\": \"BPE\", \"end_of_word_suffix\": \"</w>\""}, HD_EUNSUPPORTED, "model.end_of_word_suffix"},
    {{.model = "\"type\": \"BPE\", \"continuing_subword_prefix\": \"##\""}, HD_EUNSUPPORTED, "continuing_subword_prefix"},
    {{.vocab = "\"ab\": -1"}, HD_EFORMAT, "model.vocab[\"ab\"]"},
    {{.vocab = "\"ab\": 99999999"}, HD_EFORMAT, "model.vocab[\"ab\"]"},
    {{.vocab = "\"ab\": \"x\""}, HD_EFORMAT, "model.vocab[\"ab\"]"},
    {{.vocab = "\"ab\": 65"}, HD_EFORMAT, "has id 65"},
    {{.vocab = "\"a\": 256"}, HD_EFORMAT, "not JSON"}, /* the key is there twice */
    {{.merges = "[\"ab\"]"}, HD_EFORMAT, "model.merges[0]"},
    {{.merges = "[\"a b\", [\"a\"]]"}, HD_EFORMAT, "model.merges[1]"},
    {{.merges = "[\"a b\", 3]"}, HD_EFORMAT, "model.merges[1]"},
    {{.merges = "[\"zz b\"]"}, HD_EFORMAT, "'zz' is not in model.vocab"},
    {{.merges = "[\"a \"]"}, HD_EFORMAT, "model.merges[0]"},
    {{.merges = "{}"}, HD_EFORMAT, "model.merges"},
    {{.added = "{}"}, HD_EFORMAT, "added_tokens"},
    {{.added = "[{\"id\": 300}]"}, HD_EFORMAT, "added_tokens[0]"},
    {{.added = "[{\"id\": 300, \"content\": \"\"}]"}, HD_EFORMAT, "added_tokens[0]"},
    {{.added = "[{\"id\": -3, \"content\": \"<x>\"}]"}, HD_EFORMAT, "added_tokens[0]"},
    {{.added = "[{\"id\": 5000000000, \"content\": \"<x>\"}]"}, HD_EFORMAT, "added_tokens[0]"},
    {{.added = "[{\"id\": 65, \"content\": \"<x>\"}]"}, HD_EFORMAT, "added_tokens[0].id"},
    {{.added = "[{\"id\": 300, \"content\": \"ab\"}]"}, HD_EFORMAT, "added_tokens[0].id"},
    {{.added = "[{\"id\": 300, \"content\": \"<x>\"}, {\"id\": 300, \"content\": \"<y>\"}]"}, HD_EFORMAT, "[1]"},
    {{.added = "[{\"id\": 300, \"content\": \"<x>\"}, {\"id\": 301, \"content\": \"<x>\", \"normalized\": true}]"},
     HD_EFORMAT, "[1]"},
    {{.added = "[{\"id\": 300, \"content\": \"<x>\", \"lstrip\": true}]"}, HD_EUNSUPPORTED, "added_tokens[0].lstrip"},
    {{.added = "[{\"id\": 300, \"content\": \"<x>\", \"single_word\": true}]"}, HD_EUNSUPPORTED, "single_word"},
};

static void test_refused(void **state)
{
    (void)state;
    for (size_t i = 0; i < COUNT_OF(refused); i++) {
        struct tokenizer *t;
        struct err e = {0};
        int rc = parts_open(&t, &refused[i].p, &e);
        if (rc != refused[i].code || strstr(e.msg, refused[i].named) == NULL || strstr(e.msg, "t.json") == NULL)
            fail_msg("case %zu (%s): code %d, '%s'", i, refused[i].named, rc, e.msg);
        assert_null(t);
    }
}

static void expect_refused(const char *json, const char *named)
{
    struct tokenizer *t;
    struct err e = {0};
    assert_int_equal(tokenizer_parse(&t, json, strlen(json), "t.json", &e) < 0, true);
    assert_null(t);
    if (strstr(e.msg, named) == NULL)
        fail_msg("'%s' does not name %s", e.msg, named);
}

static void test_no_tokenizer(void **state)
{
    (void)state;
    expect_refused("", "not JSON");
    expect_refused("{", "not JSON");
    expect_refused("[]", "t.json");
    expect_refused("{}", "model");
    expect_refused("{\"model\": {\"type\": \"BPE\"}}", "decoder");
    /* A vocabulary that cannot write every byte. */
    expect_refused("{\"model\": {\"type\": \"BPE\", \"vocab\": {\"a\": 0}, \"merges\": []}, \"decoder\": {\"type\": "
                   "\"ByteLevel\"}, \"pre_tokenizer\": {\"type\": \"ByteLevel\", \"add_prefix_space\": false}}",
                   "byte 0x00");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_merges),         cmocka_unit_test(test_merge_order),
        cmocka_unit_test(test_ignore_merges),  cmocka_unit_test(test_added),
        cmocka_unit_test(test_pre_tokenizers), cmocka_unit_test(test_no_added_tokens),
        cmocka_unit_test(test_damaged_rule),   cmocka_unit_test(test_refused),
        cmocka_unit_test(test_no_tokenizer),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
