/* Calls never leak: replies in random pieces, whole, cut anywhere or damaged, through the streams of every dialect. What a client
 * shows is the text around the calls and nothing of their markup; every frame is JSON. */
#include "serve/api.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define MARK "\xef\xbd\x9c" "DSML\xef\xbd\x9c"

static const struct dialect *const dialects[] = {&dialect_deepseek, &dialect_anthropic, &dialect_responses};
static struct tokenizer *tokenizer;

struct shown {
    const struct dialect *d;
    struct api_answer a;
    struct buf out;
    bool ended;
};

static void on_event(void *arg, const struct gen_event *ev)
{
    struct shown *s = arg;
    s->ended = api_answer_take(&s->a, ev, tokenizer, s->d->event, &s->out);
    if (s->ended)
        api_answer_end(&s->a, s->d->event, &s->out);
}

static void add_string(const json_t *v, struct buf *to)
{
    if (json_is_string(v))
        buf_add(to, json_string_value(v), json_string_length(v));
}

/* The visible text of one frame, whatever the dialect. */
static void read_frame(const char *data, size_t n, struct buf *text, int *n_calls)
{
    json_t *v = json_load_exact(data, n, "frame", false, NULL);
    const char *type = json_string_value(json_object_get(v, "type"));
    assert_non_null(v);
    const json_t *delta = json_object_get(json_array_get(json_object_get(v, "choices"), 0), "delta");
    add_string(json_object_get(delta, "content"), text);
    *n_calls += json_object_get(json_array_get(json_object_get(delta, "tool_calls"), 0), "id") != NULL;
    if (type != NULL && strcmp(type, "response.output_text.delta") == 0)
        add_string(json_object_get(v, "delta"), text);
    if (type != NULL && strcmp(type, "content_block_delta") == 0)
        add_string(json_object_get(json_object_get(v, "delta"), "text"), text);
    const json_t *block = json_object_get(v, "content_block"), *item = json_object_get(v, "item");
    const char *kind = json_string_value(json_object_get(block != NULL ? block : item, "type"));
    *n_calls += kind != NULL && (strcmp(kind, "tool_use") == 0 ||
                                 (strcmp(kind, "function_call") == 0 && strcmp(type, "response.output_item.added") == 0));
    json_decref(v);
}

static void read_stream(const struct buf *out, struct buf *text, int *n_calls)
{
    const char *at = out->data;
    while ((at = strstr(at, "data: ")) != NULL) {
        const char *end = strstr(at, "\n\n");
        assert_non_null(end);
        if (strncmp(at, "data: [DONE]", 12) != 0)
            read_frame(at + 6, (size_t)(end - at - 6), text, n_calls);
        at = end;
    }
}

/* A reply as tokens of random pieces of its text, to its end or cut off there. */
static void run(const struct dialect *d, const char *reply, size_t n, bool cut, struct rng *rng, struct buf *text, int *n_calls)
{
    static const int32_t eos[1] = {1};
    struct api_env env = {.model = "m", .fingerprint = "f"};
    struct api_req q = {.stream = true, .has_tools = true, .echo = json_pack("{s:{}}", "custom")};
    struct shown s = {.d = d};
    struct ids ids = {0};
    struct gen_params p = {.max_tokens = 1 << 20};
    sampling_init(&p.sampling);
    api_answer_init(&s.a, &env, &q);
    struct generation *g = generation_open(tokenizer, tokenizer_n_vocab(tokenizer), eos, 1, &p, on_event, &s);
    struct gen_event begin = {.kind = GEN_PROMPT, .total = 5};
    on_event(&s, &begin);
    for (size_t i = 0, k; i < n; i += k) {
        k = 1 + rng_below(rng, 9);
        k = k > n - i ? n - i : k;
        assert_int_equal(tokenizer_encode(tokenizer, reply + i, k, true, &ids, NULL), HD_OK);
    }
    for (size_t i = 0; i < ids.n; i++)
        assert_true(generation_accept(g, ids.data[i], NULL));
    if (cut)
        generation_end(g, FINISH_LENGTH, "");
    else
        generation_accept(g, eos[0], NULL);
    assert_true(s.ended);
    read_stream(&s.out, text, n_calls);
    generation_close(&g);
    ids_free(&ids);
    buf_free(&s.out);
    api_answer_free(&s.a);
    json_decref(q.echo);
}

/* Words, then calls whose values look like markup but are none. Returns the bytes of the words. */
static size_t make_reply(struct rng *rng, struct buf *reply, int *n_calls)
{
    static const char *const words[] = {"Hello ", "a < b ", "</p>\n", "\xe6\xb7\xb1\xe5\x9c\xb3", "{\"a\": 1}", "\n",
                                        "<|x|>", "\xef\xbd\x9c "};
    static const char *const values[] = {"x", "<b>", "</", "\n\n", "\xf0\x9f\x98\x80", "</invoke>", "| |", "DSM"};
    buf_str(reply, "."); /* so that no word begins with a tag of thinking */
    for (uint32_t i = rng_below(rng, 6); i > 0; i--)
        buf_str(reply, words[rng_below(rng, COUNT_OF(words))]);
    buf_str(reply, ".");
    size_t n = reply->len;
    *n_calls = (int)rng_below(rng, 3);
    if (*n_calls == 0)
        return n;
    buf_str(reply, "\n\n<" MARK "tool_calls>\n");
    for (int i = 0; i < *n_calls; i++)
        buf_printf(reply, "<" MARK "invoke name=\"f\">\n<" MARK "parameter name=\"k\" string=\"true\">%s%s</" MARK
                   "parameter>\n</" MARK "invoke>\n", values[rng_below(rng, COUNT_OF(values))],
                   values[rng_below(rng, COUNT_OF(values))]);
    buf_str(reply, "</" MARK "tool_calls>");
    return n;
}

static void test_whole(void **state)
{
    (void)state;
    struct rng rng = {5};
    for (int round = 0; round < 600; round++) {
        struct buf reply = {0}, text = {0};
        int wanted, n_calls = 0;
        size_t n = make_reply(&rng, &reply, &wanted);
        run(dialects[round % 3], reply.data, reply.len, false, &rng, &text, &n_calls);
        if (text.len != n || memcmp(text.data, reply.data, n) != 0 || n_calls != wanted)
            fail_msg("round %d: of %s\nshown is %s and %d calls", round, reply.data, text.data, n_calls);
        buf_free(&reply);
        buf_free(&text);
    }
}

/* Where a reply is cut, the words stand as far as they came, and of a tag nothing. */
static void test_cut(void **state)
{
    (void)state;
    struct rng rng = {6};
    for (int round = 0; round < 1500; round++) {
        struct buf reply = {0}, text = {0};
        int wanted, n_calls = 0;
        size_t n = make_reply(&rng, &reply, &wanted), at = rng_below(&rng, (uint32_t)reply.len) + 1;
        run(dialects[round % 3], reply.data, at, true, &rng, &text, &n_calls);
        bool good = n_calls <= wanted && text.len <= n + 2 && memcmp(text.data ? text.data : "", reply.data, text.len) == 0;
        if (at >= n) /* the newlines before a block that never came may show */
            good = good && text.len >= n;
        if (!good && memmem(text.data, text.len, "\xef\xbf\xbd", 3) == NULL) /* a character that is cut shows as U+FFFD */
            fail_msg("round %d: of %.*s\nshown is %s", round, (int)at, reply.data, text.data);
        if (text.len > 0 && memmem(text.data, text.len, "DSML", 4) != NULL)
            fail_msg("round %d: of %.*s\nshown is %s", round, (int)at, reply.data, text.data);
        buf_free(&reply);
        buf_free(&text);
    }
}

/* Pieces of tags in any order: malformed markup comes back as text, and whatever comes of it, every frame is JSON. */
static void test_damaged(void **state)
{
    (void)state;
    static const char *const pieces[] = {
        "<", "</", MARK, "tool_calls>", "\n", "invoke name=\"f\">", "parameter name=\"k\" string=\"true\">", "parameter>",
        "invoke>", "x", "\"", "<" MARK "tool_calls>\n", "<" MARK "invoke name=\"f\">\n", "</" MARK "invoke>\n", "<|DSML|",
        "\xef\xbd\x9c", "\xe6", "</" MARK "tool_calls>", "string=\"false\">", "<think>", "</think>"};
    struct rng rng = {7};
    for (int round = 0; round < 1500; round++) {
        struct buf reply = {0}, text = {0};
        int n_calls = 0;
        for (uint32_t i = 1 + rng_below(&rng, 25); i > 0; i--)
            buf_str(&reply, pieces[rng_below(&rng, COUNT_OF(pieces))]);
        run(dialects[round % 3], reply.data, reply.len, round % 2, &rng, &text, &n_calls);
        buf_free(&reply);
        buf_free(&text);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_whole), cmocka_unit_test(test_cut),
                                       cmocka_unit_test(test_damaged)};
    if (tokenizer_open(&tokenizer, "models/tiny", NULL) != HD_OK)
        return 1;
    int rc = cmocka_run_group_tests(tests, NULL, NULL);
    tokenizer_close(&tokenizer);
    return rc;
}
