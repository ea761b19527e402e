/* One generation fed with scripted tokens: what a reply's text becomes as events, when it stops, what is counted. */
#include "engine/engine.h"
#include "text/grammar.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

enum { EOS = 1 };

static struct tokenizer *tokenizer;

static int open_tokenizer(void **state)
{
    (void)state;
    struct err e = {0};
    if (tokenizer_open(&tokenizer, "models/tiny", &e) == HD_OK)
        return 0;
    printf("# %s\n", e.msg);
    return -1;
}

static int close_tokenizer(void **state)
{
    (void)state;
    tokenizer_close(&tokenizer);
    return 0;
}

/* ---------------------------------------------------------------- events as one line of text */

struct log {
    struct buf text; /* "R:..." "C:..." "S0:name" "A0:..." "E0" "B0:..." "END stop"; neighbours of a kind joined */
    enum gen_event_kind last;
    int n_tokens, n_reasoning_tokens, n_ends;
    struct gen_usage usage;
    float logprob_sum;
};

static void log_text(struct log *l, const struct gen_event *ev, const char *mark)
{
    bool joins = l->text.len > 0 && l->last == ev->kind && ev->kind != GEN_TOOL_START;
    if (!joins && l->text.len > 0)
        buf_str(&l->text, "|");
    if (!joins)
        buf_str(&l->text, mark);
    if (!joins && mark[0] != 'R' && mark[0] != 'C')
        buf_printf(&l->text, "%d", ev->i_call);
    if (!joins && ev->kind != GEN_TOOL_END)
        buf_str(&l->text, ":");
    buf_add(&l->text, ev->text, ev->n);
    l->last = ev->kind;
}

static void on_event(void *arg, const struct gen_event *ev)
{
    static const char *const marks[] = {[GEN_REASONING] = "R",  [GEN_CONTENT] = "C",  [GEN_TOOL_START] = "S",
                                        [GEN_TOOL_ARGS] = "A",  [GEN_TOOL_END] = "E", [GEN_TOOL_BROKEN] = "B"};
    struct log *l = arg;
    assert_int_equal(l->n_ends, 0);
    if (ev->kind == GEN_TOKEN) {
        l->n_tokens++;
        l->n_reasoning_tokens += ev->reasoning;
        l->logprob_sum += ev->logprob;
        return;
    }
    if (ev->kind == GEN_END) {
        l->n_ends++;
        l->usage = ev->usage;
        buf_printf(&l->text, "%sEND %s", l->text.len > 0 ? "|" : "", finish_name(ev->finish));
        buf_add(&l->text, ev->text, ev->n);
        return;
    }
    log_text(l, ev, marks[ev->kind]);
}

static struct gen_params params(void)
{
    struct gen_params p = {.max_tokens = 1000};
    sampling_init(&p.sampling);
    return p;
}

/* Feeds the text's tokens, then the end token, as far as the generation goes on. */
static void run_text(struct log *l, const char *text, const struct gen_params *p)
{
    struct ids ids = {0};
    const int32_t eos[1] = {EOS};
    float *logits = xcalloc((size_t)tokenizer_n_vocab(tokenizer), sizeof *logits);
    assert_int_equal(tokenizer_encode(tokenizer, text, strlen(text), true, &ids, NULL), HD_OK);
    ids_add(&ids, EOS);
    *l = (struct log){0};
    struct generation *g = generation_open(tokenizer, tokenizer_n_vocab(tokenizer), eos, 1, p, on_event, l);
    bool more = true;
    for (size_t i = 0; i < ids.n && more; i++)
        more = generation_accept(g, ids.data[i], logits);
    assert_false(more);
    assert_int_equal(l->n_ends, 1);
    generation_end(g, FINISH_CANCELLED, "too late"); /* an ended generation stays as it is */
    generation_close(&g);
    ids_free(&ids);
    free(logits);
}

static void expect(const char *text, const struct gen_params *p, const char *wanted)
{
    struct log l;
    run_text(&l, text, p);
    assert_string_equal(l.text.data, wanted);
    buf_free(&l.text);
}

/* ---------------------------------------------------------------- one that goes on from another */

/* At every token of the text: a second generation that follows says what the first one says from there on. */
static void follow_everywhere(const char *text, const struct gen_params *p)
{
    struct ids ids = {0};
    const int32_t eos[1] = {EOS};
    assert_int_equal(tokenizer_encode(tokenizer, text, strlen(text), true, &ids, NULL), HD_OK);
    ids_add(&ids, EOS);
    for (size_t k = 0; k < ids.n; k++) {
        struct log a = {0}, b = {0};
        struct generation *g = generation_open(tokenizer, tokenizer_n_vocab(tokenizer), eos, 1, p, on_event, &a), *h;
        bool more = true;
        for (size_t i = 0; i < k && more; i++)
            more = generation_accept(g, ids.data[i], NULL);
        if (more) {
            h = generation_again(g, 9, 1000, on_event, &b);
            generation_follow(h, ids.data, (int64_t)k, 1000);
            assert_int_equal(b.text.len, 0);
            buf_free(&a.text);
            a = (struct log){0};
            for (size_t i = k; i < ids.n && more; i++) {
                more = generation_accept(g, ids.data[i], NULL);
                assert_int_equal(generation_accept(h, ids.data[i], NULL), more);
            }
            assert_string_equal(a.text.data, b.text.data);
            assert_int_equal(a.usage.completion_tokens, b.usage.completion_tokens + (int64_t)k);
            generation_close(&h);
        }
        generation_close(&g);
        buf_free(&a.text);
        buf_free(&b.text);
    }
    ids_free(&ids);
}

static void test_follow(void **state)
{
    (void)state;
    static char *stops[] = {"END", "caf\xc3\xa9 au"};
    struct gen_params p = params();
    follow_everywhere("Hello caf\xc3\xa9 \xf0\x9f\x98\x80!", &p);
    follow_everywhere("Hi.\n\n<\uff5cDSML\uff5ctool_calls>\n<\uff5cDSML\uff5cinvoke name=\"f\">\n"
                      "<\uff5cDSML\uff5cparameter name=\"a\" string=\"true\">x < y</\uff5cDSML\uff5cparameter>\n"
                      "</\uff5cDSML\uff5cinvoke>\n</\uff5cDSML\uff5ctool_calls>", &p);
    p.stop = stops;
    p.n_stop = 2;
    follow_everywhere("one caf\xc3\xa9 a, two ENE, and END of it", &p);
    p.in_thinking = true;
    follow_everywhere("first END thought</think>then EN", &p);
}

/* ---------------------------------------------------------------- cases */

static void test_content(void **state)
{
    (void)state;
    struct gen_params p = params();
    expect("Hello, world.", &p, "C:Hello, world.|END stop");
    expect("caf\xc3\xa9 \xf0\x9f\x98\x80!", &p, "C:caf\xc3\xa9 \xf0\x9f\x98\x80!|END stop");
    expect("", &p, "END stop");
}

static void test_thinking(void **state)
{
    (void)state;
    struct gen_params p = params();
    p.in_thinking = true;
    p.logprobs = true;
    struct log l;
    run_text(&l, "Let me see.</think>It is 4.", &p);
    assert_string_equal(l.text.data, "R:Let me see.|C:It is 4.|END stop");
    assert_int_equal(l.n_tokens, l.usage.completion_tokens);
    assert_int_equal(l.n_reasoning_tokens, l.usage.reasoning_tokens + 1); /* </think> is shown, not counted */
    assert_in_range(l.usage.reasoning_tokens, 3, 12);
    assert_true(l.usage.completion_tokens > l.usage.reasoning_tokens + 1);
    float each = -logf((float)tokenizer_n_vocab(tokenizer)); /* of equal logits */
    assert_true(fabsf(l.logprob_sum / (float)l.n_tokens - each) < 1e-3f);
    buf_free(&l.text);
}

/* Spelled in ordinary tokens, the end of thinking is text: for the events, the counts, and a grammar, which begins behind
 * the control token. */
static void test_spelled_end(void **state)
{
    (void)state;
    struct gen_params p = params();
    struct grammar_store *store = grammar_store_open(tokenizer, tokenizer_n_vocab(tokenizer));
    const struct grammar_spec spec = {.json_object = true};
    const int32_t eos[1] = {EOS};
    struct err e;
    assert_int_equal(grammar_take(store, &spec, &p.grammar, &e), HD_OK);
    p.in_thinking = true;
    struct ids ids = {0};
    static const char spelled[] = "so </think> it", json[] = "{}";
    assert_int_equal(tokenizer_encode(tokenizer, spelled, strlen(spelled), false, &ids, NULL), HD_OK);
    size_t n_thought = ids.n;
    ids_add(&ids, tokenizer_id(tokenizer, "</think>"));
    assert_int_equal(tokenizer_encode(tokenizer, json, strlen(json), false, &ids, NULL), HD_OK);
    float *logits = xcalloc((size_t)tokenizer_n_vocab(tokenizer), sizeof *logits);
    struct log l = {0};
    struct generation *g = generation_open(tokenizer, tokenizer_n_vocab(tokenizer), eos, 1, &p, on_event, &l);
    for (size_t i = 0; i < ids.n; i++)
        assert_int_equal(generation_accept(g, ids.data[i], logits), i + 1 < ids.n);
    assert_string_equal(l.text.data, "R:so </think> it|C:{}|END stop");
    assert_int_equal(l.usage.reasoning_tokens, n_thought);
    generation_close(&g);
    grammar_release(&p.grammar);
    grammar_store_close(&store);
    buf_free(&l.text);
    ids_free(&ids);
    free(logits);
}

static const char CALL[] = "\n\n<\uff5cDSML\uff5ctool_calls>\n<\uff5cDSML\uff5cinvoke name=\"add\">\n"
                           "<\uff5cDSML\uff5cparameter name=\"a\" string=\"false\">1</\uff5cDSML\uff5cparameter>\n"
                           "</\uff5cDSML\uff5cinvoke>\n</\uff5cDSML\uff5ctool_calls>";

static void test_tools(void **state)
{
    (void)state;
    struct gen_params p = params();
    char *text = xasprintf("I add.%s", CALL), *cut = xasprintf("I add.%.*s", (int)strlen(CALL) - 60, CALL);
    expect(text, &p, "C:I add.|S0:add|A0:{\"a\": 1}|E0|END tool_calls");
    struct log l;
    run_text(&l, cut, &p); /* ends inside the call: no call, hence an ordinary stop */
    assert_non_null(strstr(l.text.data, "END stop"));
    assert_null(strstr(l.text.data, "|E0"));
    buf_free(&l.text);
    p.raw = true; /* nothing is parsed */
    char *raw = xasprintf("C:I add.%s|END stop", CALL);
    expect(text, &p, raw);
    free(raw);
    free(cut);
    free(text);
}

static void test_stop(void **state)
{
    (void)state;
    struct gen_params p = params();
    char *stops[2] = {(char *)"world", (char *)"never"};
    p.stop = stops;
    p.n_stop = 2;
    expect("Hello, world. More.", &p, "C:Hello, |END stopworld");
    expect("Hello, worl", &p, "C:Hello, worl|END stop"); /* held back, then shown */
    p.in_thinking = true; /* reasoning may hold a stop string */
    expect("the world</think>the world", &p, "R:the world|C:the |END stopworld");
    p.in_thinking = false;
    char *text = xasprintf("a wor%s", CALL); /* what was held back comes before the call */
    expect(text, &p, "C:a wor|S0:add|A0:{\"a\": 1}|E0|END tool_calls");
    free(text);
    p.raw = true;
    expect("<think>the world", &p, "C:<think>the |END stopworld");
}

static void test_length(void **state)
{
    (void)state;
    struct gen_params p = params();
    p.max_tokens = 3;
    struct log l;
    run_text(&l, "one two three four five six seven", &p);
    assert_int_equal(l.usage.completion_tokens, 3);
    assert_non_null(strstr(l.text.data, "|END length"));
    buf_free(&l.text);
    p.max_tokens = 1;
    run_text(&l, "", &p); /* the end token does not count */
    assert_string_equal(l.text.data, "END stop");
    buf_free(&l.text);
}

/* An end from outside shows what was held back: an unfinished character, a tag's beginning, a stop string's. */
static void test_end_from_outside(void **state)
{
    (void)state;
    struct gen_params p = params();
    char *stops[1] = {(char *)"xyz"};
    p.stop = stops;
    p.n_stop = 1;
    const int32_t eos[1] = {EOS};
    static const char text[] = "ab xy";
    struct ids ids = {0};
    struct log l = {0};
    assert_int_equal(tokenizer_encode(tokenizer, text, strlen(text), false, &ids, NULL), HD_OK);
    struct generation *g = generation_open(tokenizer, tokenizer_n_vocab(tokenizer), eos, 1, &p, on_event, &l);
    for (size_t i = 0; i < ids.n; i++)
        assert_true(generation_accept(g, ids.data[i], NULL));
    assert_int_equal(generation_finish(g), FINISH_NONE);
    generation_end(g, FINISH_ERROR, " because");
    assert_int_equal(generation_finish(g), FINISH_ERROR);
    assert_string_equal(l.text.data, "C:ab xy|END error because");
    generation_close(&g);
    buf_free(&l.text);
    ids_free(&ids);
}

/* ---------------------------------------------------------------- requests */

static struct request_env request_env(void)
{
    struct request_env env = {.tokenizer = tokenizer, .n_vocab = tokenizer_n_vocab(tokenizer), .context_tokens = 500};
    sampling_init(&env.defaults);
    env.defaults.top_p = 0.9;
    return env;
}

static int parse(struct gen_request *r, const char *text, struct err *e)
{
    struct request_env env = request_env();
    *e = (struct err){0};
    json_t *body = json_load_exact(text, strlen(text), "request", false, e);
    assert_non_null(body);
    int rc = request_parse(r, body, &env, e);
    json_decref(body);
    return rc;
}

#define HELLO "\"messages\": [{\"role\": \"user\", \"content\": \"Hello\"}]"

static void test_request(void **state)
{
    (void)state;
    struct gen_request r;
    struct err e;
    assert_int_equal(parse(&r, "{" HELLO ", \"temperature\": 0.5, \"seed\": -1, \"stop\": [\"a\", \"b\"], \"top_k\": 7,"
                               "\"max_tokens\": 12, \"logprobs\": true, \"top_logprobs\": 3, \"user_id\": \"u\","
                               "\"min_p\": null, \"thinking\": {\"type\": \"disabled\"}}", &e), HD_OK);
    assert_true(r.params.sampling.temperature == 0.5 && r.params.sampling.top_p == 0.9 && r.params.sampling.top_k == 7);
    assert_true(r.params.sampling.seed == UINT64_MAX && r.params.n_stop == 2 && r.params.max_tokens == 12);
    assert_true(r.params.logprobs && r.params.n_top_logprobs == 3 && !r.params.in_thinking && !r.params.raw);
    assert_string_equal(r.params.stop[1], "b");
    assert_string_equal(r.user, "u");
    assert_true(r.priority == 0 && r.deadline_ns == 0);
    gen_request_free(&r);

    uint64_t now = now_ns();
    assert_int_equal(parse(&r, "{" HELLO ", \"priority\": -7, \"timeout_ms\": 60000}", &e), HD_OK);
    assert_int_equal(r.priority, -7);
    assert_true(r.deadline_ns >= now + 60000000000 && r.deadline_ns <= now_ns() + 60000000000);
    gen_request_free(&r);

    assert_int_equal(parse(&r, "{" HELLO "}", &e), HD_OK); /* thinking is the default, and max_tokens fits the context */
    assert_true(r.params.in_thinking);
    assert_int_equal(r.params.max_tokens, 500 - (int64_t)r.prompt.n);
    uint64_t seed = r.params.sampling.seed;
    gen_request_free(&r);
    assert_int_equal(parse(&r, "{" HELLO "}", &e), HD_OK);
    assert_true(r.params.sampling.seed != seed); /* drawn anew */
    gen_request_free(&r);

    assert_int_equal(parse(&r, "{\"tokens\": [0, 5, 7], \"max_tokens\": 1}", &e), HD_OK);
    assert_true(r.params.raw && r.prompt.n == 3 && r.prompt.data[2] == 7);
    gen_request_free(&r);
    assert_int_equal(parse(&r, "{\"prompt\": \"<think>x\", \"match_added_tokens\": true}", &e), HD_OK);
    assert_true(r.params.raw && !r.params.in_thinking && r.prompt.data[0] == tokenizer_id(tokenizer, "<think>"));
    gen_request_free(&r);
}

static void test_request_tools(void **state)
{
    (void)state;
    static const char with[] = "{" HELLO ", \"tools\": [{\"type\": \"function\", \"function\": {\"name\": \"f\"}}]%s}";
    struct gen_request a, b;
    struct err e;
    char *all = xasprintf(with, ""), *none = xasprintf(with, ", \"tool_choice\": \"none\"");
    assert_int_equal(parse(&a, all, &e), HD_OK);
    assert_int_equal(parse(&b, none, &e), HD_OK);
    assert_true(a.prompt.n > b.prompt.n + 50); /* the schemas are in the prompt, or not */
    gen_request_free(&a);
    gen_request_free(&b);
    free(all);
    free(none);
}

static void test_request_refusals(void **state)
{
    (void)state;
    static const struct {
        const char *body, *names;
    } cases[] = {
        {"[]", "object"},
        {"{}", "messages"},
        {"{" HELLO ", \"priority\": 101}", "priority"},
        {"{" HELLO ", \"timeout_ms\": 0}", "timeout_ms"},
        {"{" HELLO ", \"prompt\": \"x\"}", "one of"},
        {"{" HELLO ", \"frequency_penalty\": 1}", "frequency_penalty"},
        {"{\"messages\": []}", "messages"},
        {"{\"messages\": [{\"role\": \"wizard\", \"content\": \"x\"}]}", "role"},
        {"{" HELLO ", \"temperature\": \"1\"}", "temperature"},
        {"{" HELLO ", \"temperature\": -1}", "temperature"},
        {"{" HELLO ", \"top_p\": 0}", "top_p"},
        {"{" HELLO ", \"top_p\": 1e999}", "top_p"},
        {"{" HELLO ", \"top_k\": -1}", "top_k"},
        {"{" HELLO ", \"top_k\": 1.5}", "top_k"},
        {"{" HELLO ", \"min_p\": 2}", "min_p"},
        {"{" HELLO ", \"max_tokens\": 0}", "max_tokens"},
        {"{" HELLO ", \"max_tokens\": 123456789012345678901234567890}", "max_tokens"},
        {"{" HELLO ", \"seed\": 1.5}", "seed"},
        {"{" HELLO ", \"stop\": \"\"}", "stop"},
        {"{" HELLO ", \"stop\": [1]}", "stop"},
        {"{" HELLO ", \"stop\": \"a\\u0000b\"}", "stop"},
        {"{" HELLO ", \"stop\": [\"1\",\"2\",\"3\",\"4\",\"5\",\"6\",\"7\",\"8\",\"9\",\"a\",\"b\",\"c\",\"d\",\"e\","
         "\"f\",\"g\",\"h\"]}", "stop"},
        {"{" HELLO ", \"logprobs\": 1}", "logprobs"},
        {"{" HELLO ", \"top_logprobs\": 3}", "logprobs"},
        {"{" HELLO ", \"logprobs\": true, \"top_logprobs\": 21}", "top_logprobs"},
        {"{" HELLO ", \"tool_choice\": \"required\"}", "tool_choice"},
        {"{" HELLO ", \"response_format\": {\"type\": \"xml\"}}", "response_format"},
        {"{" HELLO ", \"thinking\": true}", "thinking"},
        {"{" HELLO ", \"reasoning_effort\": \"enormous\"}", "reasoning_effort"},
        {"{" HELLO ", \"profile\": \"v5\"}", "profile"},
        {"{" HELLO ", \"user_id\": 7}", "user_id"},
        {"{\"tokens\": [0, 99999999]}", "tokens[1]"},
        {"{\"tokens\": []}", "no tokens"},
        {"{\"tokens\": [0], \"match_added_tokens\": true}", "match_added_tokens"},
        {"{\"prompt\": \"x\", \"reasoning_effort\": \"low\"}", "reasoning_effort"},
        {"{\"prompt\": \"x\", \"tools\": []}", "tools"},
    };
    for (size_t i = 0; i < COUNT_OF(cases); i++) {
        struct gen_request r;
        struct err e;
        if (parse(&r, cases[i].body, &e) != HD_EARG || strstr(e.msg, cases[i].names) == NULL)
            fail_msg("%s gave \"%s\", which does not name %s", cases[i].body, e.msg, cases[i].names);
        assert_null(r.prompt.data);
    }
    struct buf big = {0};
    buf_str(&big, "{\"tokens\": [0");
    for (int i = 1; i < 500; i++)
        buf_str(&big, ", 0");
    buf_str(&big, "]}");
    struct gen_request r;
    struct err e;
    assert_int_equal(parse(&r, big.data, &e), HD_EARG);
    assert_non_null(strstr(e.msg, "500"));
    buf_free(&big);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_content),
        cmocka_unit_test(test_follow),
        cmocka_unit_test(test_thinking),
        cmocka_unit_test(test_spelled_end),
        cmocka_unit_test(test_tools),
        cmocka_unit_test(test_stop),
        cmocka_unit_test(test_length),
        cmocka_unit_test(test_end_from_outside),
        cmocka_unit_test(test_request),
        cmocka_unit_test(test_request_tools),
        cmocka_unit_test(test_request_refusals),
    };
    return cmocka_run_group_tests(tests, open_tokenizer, close_tokenizer);
}
