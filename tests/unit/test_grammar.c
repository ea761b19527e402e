/* Grammars of replies, without a model: bytes that fit and do not, text that never holds markup, calls that the reply parser
 * reads back, random words, and states that are forgotten on the way. */
#include "engine/sampler.h"
#include "text/grammar_impl.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define MARK "\xef\xbd\x9c" "DSML\xef\xbd\x9c"

static struct tokenizer *tokenizer;
static struct grammar_store *store;

static struct grammar *take(const char *spec_json)
{
    struct err e = {0};
    struct grammar *g;
    json_t *spec = json_load_exact(spec_json, strlen(spec_json), "spec", false, &e);
    assert_non_null(spec);
    struct grammar_spec s = {.schema = json_object_get(spec, "schema"), .tools = json_object_get(spec, "tools"),
                             .json_object = json_is_true(json_object_get(spec, "json_object")),
                             .must_call = json_is_true(json_object_get(spec, "must_call")),
                             .one_call = json_is_true(json_object_get(spec, "one_call"))};
    if (grammar_take(store, &s, &g, &e) != HD_OK)
        fail_msg("%s", e.msg);
    json_decref(spec);
    return g;
}

/* Whether bytes are a whole word; *n_fit: how many of them fit. */
static bool accepts(struct grammar *g, const char *text, size_t *n_fit)
{
    struct grammar_matcher *m = grammar_matcher_open(g);
    size_t i = 0, n = strlen(text);
    while (i < n && grammar_accept_byte(m, (unsigned char)text[i]))
        i++;
    bool whole = i == n && grammar_may_end(m);
    grammar_matcher_close(&m);
    if (n_fit != NULL)
        *n_fit = i;
    return whole;
}

/* The same for tokens: control tokens in the text are themselves. */
static bool accepts_tokens(struct grammar *g, const char *text)
{
    struct grammar_matcher *m = grammar_matcher_open(g);
    struct ids ids = {0};
    assert_int_equal(tokenizer_encode(tokenizer, text, strlen(text), true, &ids, NULL), HD_OK);
    bool fits = true;
    for (size_t i = 0; i < ids.n && fits; i++) {
        bool in_mask = grammar_mask(m)[ids.data[i] >> 6] >> (ids.data[i] & 63) & 1;
        fits = grammar_accept(m, ids.data[i]);
        assert_int_equal(fits, in_mask);
    }
    fits = fits && grammar_may_end(m);
    grammar_matcher_close(&m);
    ids_free(&ids);
    return fits;
}

static void test_utf8(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        bool good;
    } cases[] = {
        {"\"\xe2\x82\xac\"", true},      {"\"\xf0\x9f\x98\x80\"", true}, {"\"\xc3\xa9\"", true},   {"\"\xc0\x80\"", false},
        {"\"\xe0\x80\x80\"", false},     {"\"\xed\xa0\x80\"", false},    {"\"\xf5\x80\"", false},  {"\"\x80\"", false},
        {"\"\xe2\x82\"", false},         {"\"\xf4\x90\x80\x80\"", false}, {"\"a\nb\"", false},     {"\"\\ud83d\"", false},
        {"\"\\u00e9\\n\\/\\\"\"", true}, {"\"\\x\"", false},             {"\"\xef\xbd\x9c\"", true}, {"\"\xef\xbc\x8c\"", true},
    };
    struct grammar *g = take("{\"schema\": {\"type\": \"string\"}}");
    for (size_t i = 0; i < COUNT_OF(cases); i++)
        if (accepts(g, cases[i].text, NULL) != cases[i].good)
            fail_msg("case %zu: %s", i, cases[i].text);
    grammar_release(&g);
}

static void test_depth(void **state)
{
    (void)state;
    char deep[400];
    size_t n;
    struct grammar *g = take("{\"schema\": true}");
    memset(deep, '[', sizeof deep - 1);
    deep[sizeof deep - 1] = '\0';
    assert_false(accepts(g, deep, &n));
    assert_in_range(n, 60, STACK_MAX + 1);
    struct grammar_matcher *m = grammar_matcher_open(g);
    for (size_t i = 0; i < n; i++)
        assert_true(grammar_accept_byte(m, '['));
    assert_false(grammar_accept_byte(m, '['));
    grammar_matcher_close(&m);
    m = grammar_matcher_open(g); /* at the limit it goes on with what fits, and back */
    for (size_t i = 0; i < n; i++)
        grammar_accept_byte(m, '[');
    assert_true(grammar_accept_byte(m, '1'));
    for (size_t i = 0; i < n; i++)
        assert_true(grammar_accept_byte(m, ']'));
    assert_true(grammar_must_end(m));
    grammar_matcher_close(&m);
    grammar_release(&g);
}

#define STRICT "{\"tools\": [{\"type\": \"function\", \"function\": {\"name\": \"f\", \"strict\": true, \"parameters\": " \
    "{\"type\": \"object\", \"properties\": {\"s\": {\"type\": \"string\"}, \"n\": {\"type\": \"integer\"}, \"e\": " \
    "{\"anyOf\": [{\"enum\": [\"a\", \"b\"]}, {\"type\": \"null\"}]}}, \"required\": [\"s\", \"n\"], " \
    "\"additionalProperties\": false}}}, {\"type\": \"function\", \"function\": {\"name\": \"g\"}}]"
#define HEAD "<" MARK "tool_calls>\n<" MARK "invoke name=\""
#define PARAM(name, string, value) "<" MARK "parameter name=\"" name "\" string=\"" string "\">" value "</" MARK "parameter>\n"
#define INVOKE_END "</" MARK "invoke>\n"
#define END INVOKE_END "</" MARK "tool_calls>"

static void test_text(void **state)
{
    (void)state;
    static const char *const good[] = {"", "Hello.", "a < b", "<p>", "<thin>", "DSML", "a DSML b", "<D", "|DSM|", "<think",
                                       "x<think>", "\xef\xbd\x9c."};
    static const char *const bad[] = {"<DSML", "x</DSML|", "<|DSML", MARK, "<think>", "<" MARK "tool_calls>", "||DSML", "a\x01"};
    struct grammar *g = take(STRICT "}");
    for (size_t i = 0; i < COUNT_OF(good); i++)
        if (!accepts(g, good[i], NULL))
            fail_msg("refused: %s", good[i]);
    for (size_t i = 0; i < COUNT_OF(bad); i++)
        if (accepts(g, bad[i], NULL))
            fail_msg("accepted: %s", bad[i]);
    grammar_release(&g);
}

static void test_calls(void **state)
{
    (void)state;
    struct grammar *g = take(STRICT "}"), *must = take(STRICT ", \"must_call\": true}"),
                   *one = take(STRICT ", \"one_call\": true}");
    const char *call = "Now.\n\n" HEAD "f\">\n" PARAM("s", "true", "x <b> & \"") PARAM("n", "false", "-3") END;
    const char *two = "\n\n" HEAD "g\">\n" PARAM("any", "false", "[1, {\"k\": null}]") INVOKE_END "<" MARK "invoke name=\"g\">\n" END;
    assert_true(accepts_tokens(g, call));
    assert_false(accepts_tokens(must, call));
    assert_true(accepts_tokens(g, two));
    assert_true(accepts_tokens(must, two));
    assert_false(accepts_tokens(one, two));
    assert_false(accepts_tokens(must, "No."));
    assert_true(accepts_tokens(g, HEAD "f\">\n" PARAM("s", "true", "") PARAM("n", "false", "0") PARAM("e", "false", "null") END));
    assert_true(accepts_tokens(g, HEAD "f\">\n" PARAM("s", "true", "") PARAM("n", "false", "0") PARAM("e", "true", "b") END));
    assert_false(accepts_tokens(g, HEAD "f\">\n" PARAM("s", "true", "") PARAM("n", "false", "0") PARAM("e", "true", "c") END));
    assert_false(accepts_tokens(g, HEAD "f\">\n" PARAM("n", "false", "0") END));
    assert_false(accepts_tokens(g, HEAD "f\">\n" PARAM("s", "false", "1") PARAM("n", "false", "0") END));
    assert_false(accepts_tokens(g, HEAD "f\">\n" PARAM("s", "true", "x") PARAM("n", "false", "0.5") END));
    assert_false(accepts_tokens(g, HEAD "h\">\n" END));
    assert_false(accepts_tokens(g, HEAD "g\">\n" END "more"));
    grammar_release(&g);
    grammar_release(&must);
    grammar_release(&one);
}

/* ---------------------------------------------------------------- random words */

struct seen {
    int n_ended, n_started;
    bool leak;
    struct buf args, content;
};

static void on_event(void *arg, const struct reply_event *ev)
{
    struct seen *s = arg;
    if (ev->kind == REPLY_CONTENT)
        buf_add(&s->content, ev->text, ev->n);
    s->n_started += ev->kind == REPLY_TOOL_START;
    s->leak |= ev->kind == REPLY_TOOL_BROKEN || ev->kind == REPLY_REASONING;
    if (ev->kind == REPLY_TOOL_START)
        buf_clear(&s->args);
    if (ev->kind == REPLY_TOOL_ARGS)
        buf_add(&s->args, ev->text, ev->n);
    if (ev->kind == REPLY_TOOL_END) {
        json_t *v = json_load_exact(s->args.data, s->args.len, "arguments", false, NULL);
        s->n_ended++;
        assert_true(json_is_object(v));
        json_decref(v);
    }
}

static int32_t draw(struct grammar_matcher *m, struct rng *rng)
{
    const uint64_t *bits = grammar_mask(m);
    int n_words = (tokenizer_n_vocab(tokenizer) + 63) / 64, n = 0;
    for (int i = 0; i < n_words; i++)
        n += __builtin_popcountll(bits[i]);
    if (grammar_may_end(m) && (n == 0 || rng_below(rng, 20) == 0))
        return -1;
    assert_true(n > 0);
    int k = (int)rng_below(rng, (uint32_t)n);
    for (int32_t id = 0;; id++)
        if (bits[id >> 6] >> (id & 63) & 1 && k-- == 0)
            return id;
}

/* Every word of tokens, given to the reply parser piece by piece, is text without markup and complete calls. The grammar
 * forgets its states now and then. */
static void test_words(void **state)
{
    (void)state;
    struct grammar *g[2] = {take(STRICT "}"), take(STRICT ", \"must_call\": true}")};
    struct rng rng = {11};
    int n_whole = 0;
    for (int round = 0; round < 60; round++) {
        struct grammar *mine = g[round & 1];
        struct grammar_matcher *m = grammar_matcher_open(mine);
        struct seen seen = {0};
        struct reply_parser *p = reply_open(false, on_event, &seen);
        int32_t id = 0;
        for (int n = 0; n < 400 && (id = draw(m, &rng)) >= 0; n++) {
            size_t n_bytes;
            const char *bytes = tokenizer_bytes(tokenizer, id, &n_bytes);
            assert_true(grammar_accept(m, id));
            reply_add(p, bytes, n_bytes);
            if (rng_below(&rng, 50) == 0)
                states_forget(mine);
        }
        reply_end(p);
        if (id < 0) {
            n_whole++;
            assert_false(seen.leak);
            assert_int_equal(seen.n_started, seen.n_ended);
            assert_true(seen.content.len == 0 || memmem(seen.content.data, seen.content.len, MARK, sizeof MARK - 1) == NULL);
            assert_true(round % 2 == 0 || seen.n_ended > 0);
        }
        reply_close(&p);
        grammar_matcher_close(&m);
        buf_free(&seen.args);
        buf_free(&seen.content);
    }
    assert_in_range(n_whole, 10, 60);
    grammar_release(&g[0]);
    grammar_release(&g[1]);
}

/* ---------------------------------------------------------------- masks in the sampler */

static void test_sampler(void **state)
{
    (void)state;
    enum { N = 200 };
    float z[N], alone[N];
    uint64_t mask[(N + 63) / 64] = {0};
    struct sampler *s;
    struct sampling p;
    struct rng rng = {3};
    sampling_init(&p);
    assert_int_equal(sampler_open(&s, N, NULL), HD_OK);
    for (int round = 0; round < 200; round++) {
        memset(mask, 0, sizeof mask);
        for (int i = 0; i < N; i++) {
            z[i] = (float)rng_normal(&rng);
            if (rng_below(&rng, 4) == 0 || i == 77)
                mask[i / 64] |= (uint64_t)1 << i % 64;
            alone[i] = mask[i / 64] >> i % 64 & 1 ? z[i] : -INFINITY;
        }
        p.temperature = round % 3 == 0 ? 0 : 1;
        p.top_p = round % 2 == 0 ? 1 : 0.7;
        int32_t id = sampler_choose(s, z, mask, &p, round);
        assert_true(id >= 0 && (mask[id / 64] >> id % 64 & 1));
        assert_int_equal(id, sampler_choose(s, alone, NULL, &p, round));
    }
    memset(mask, 0, sizeof mask);
    assert_int_equal(sampler_choose(s, z, mask, &p, 0), -1);
    sampler_close(&s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_utf8), cmocka_unit_test(test_depth), cmocka_unit_test(test_text), cmocka_unit_test(test_calls),
        cmocka_unit_test(test_words), cmocka_unit_test(test_sampler),
    };
    if (tokenizer_open(&tokenizer, "models/tiny", NULL) != HD_OK)
        return 1;
    store = grammar_store_open(tokenizer, tokenizer_n_vocab(tokenizer));
    int rc = cmocka_run_group_tests(tests, NULL, NULL);
    grammar_store_close(&store);
    tokenizer_close(&tokenizer);
    return rc;
}
