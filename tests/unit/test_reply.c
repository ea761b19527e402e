/* The reply parser: what models write, well formed and not, in every split. */
#include "text/text.h"

#include <stdarg.h>
#include <setjmp.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#define D "｜DSML｜"
#define EOS "<｜end▁of▁sentence｜>"
#define OPEN "\n\n<" D "tool_calls>\n"
#define CLOSE "</" D "tool_calls>"
#define INVOKE(name) "<" D "invoke name=\"" name "\">\n"
#define END_INVOKE "</" D "invoke>\n"
#define STRING(key, value) "<" D "parameter name=\"" key "\" string=\"true\">" value "</" D "parameter>\n"
#define JSON(key, value) "<" D "parameter name=\"" key "\" string=\"false\">" value "</" D "parameter>\n"

/* Events as one text: |R:reasoning |C:content |S0:name |A0:arguments |E0 |B0:markup |. with pieces joined. */
struct trace {
    struct buf text;
    int last; /* kind of the last event, -1 at first */
    int i_call;
    struct buf args;
};

static void check_args(const struct trace *t, bool is_complete)
{
    struct err e = {0};
    json_t *v = json_load_exact(t->args.data, t->args.len, "arguments", false, &e);
    if (is_complete != json_is_object(v))
        fail_msg("arguments %s of a call that is %scomplete", t->args.data, is_complete ? "" : "not ");
    json_decref(v);
}

static void on_event(void *arg, const struct reply_event *ev)
{
    struct trace *t = arg;
    static const char letters[] = "RCSAEB.";
    bool joins = ev->kind == REPLY_REASONING || ev->kind == REPLY_CONTENT || ev->kind == REPLY_TOOL_ARGS;
    assert_int_equal(utf8_valid_prefix(ev->text, ev->n), ev->n);
    if (joins)
        assert_true(ev->n != 0);
    if (!joins || t->last != (int)ev->kind) {
        buf_printf(&t->text, "|%c", letters[ev->kind]);
        if (ev->i_call >= 0)
            buf_printf(&t->text, "%d", ev->i_call);
        if (ev->kind != REPLY_END && ev->kind != REPLY_TOOL_END)
            buf_char(&t->text, ':');
    }
    buf_add(&t->text, ev->text, ev->n);
    t->last = (int)ev->kind;
    if (ev->kind == REPLY_TOOL_START)
        buf_clear(&t->args);
    if (ev->kind == REPLY_TOOL_ARGS)
        buf_add(&t->args, ev->text, ev->n);
    if (ev->kind == REPLY_TOOL_END || ev->kind == REPLY_TOOL_BROKEN)
        check_args(t, ev->kind == REPLY_TOOL_END);
}

/* Feeds text in pieces of at most `piece` bytes after a first one of `first`; each in its own block for ASan. */
static void run(struct trace *t, const char *text, size_t n, bool in_thinking, size_t first, size_t piece)
{
    t->last = -1;
    buf_clear(&t->text);
    struct reply_parser *p = reply_open(in_thinking, on_event, t);
    for (size_t i = 0; i < n;) {
        size_t k = i == 0 ? first : piece;
        k = k == 0 ? 1 : k > n - i ? n - i : k;
        char *copy = malloc(k);
        memcpy(copy, text + i, k);
        reply_add(p, copy, k);
        free(copy);
        i += k;
    }
    reply_end(p);
    reply_close(&p);
}

static void trace_free(struct trace *t)
{
    buf_free(&t->text);
    buf_free(&t->args);
}

/* Whole, cut in two at every byte, and byte by byte. */
static void check(const char *what, const char *text, size_t n, bool in_thinking, const char *want)
{
    struct trace t = {0};
    run(&t, text, n, in_thinking, n, n);
    struct buf whole = t.text;
    t.text = (struct buf){0};
    if (want != NULL && strcmp(whole.data, want) != 0)
        fail_msg("%s:\n  got  %s\n  want %s", what, whole.data, want);
    for (size_t cut = 0; cut < n; cut++) {
        run(&t, text, n, in_thinking, cut == 0 ? 1 : cut, cut == 0 ? 1 : n);
        if (strcmp(whole.data, t.text.data) != 0)
            fail_msg("%s, cut at %zu:\n  got  %s\n  want %s", what, cut, t.text.data, whole.data);
    }
    buf_free(&whole);
    trace_free(&t);
}

struct reply_case {
    const char *what, *text, *want;
    bool in_thinking;
};

static void check_cases(const struct reply_case *cases, size_t n)
{
    for (size_t i = 0; i < n; i++)
        check(cases[i].what, cases[i].text, strlen(cases[i].text), cases[i].in_thinking, cases[i].want);
}

static void test_text(void **state)
{
    (void)state;
    static const struct reply_case cases[] = {
        {"nothing", "", "|.", false},
        {"content", "Hi\n\nthere <b>\n", "|C:Hi\n\nthere <b>\n|.", false},
        {"thinking", "r1\n<x></thin</think>a", "|R:r1\n<x></thin|C:a|.", true},
        {"no thinking", "</think>a", "|C:a|.", true},
        {"thinking without end", "r </thi", "|R:r </thi|.", true},
        {"repeated start of thinking", "<think>r</think>a", "|R:r|C:a|.", true},
        {"thinking where none was asked for", "<think>r</think>a", "|R:r|C:a|.", false},
        {"<think> later is text", "a<think>b</think>", "|C:a<think>b</think>|.", false},
        {"half a start of thinking", "<thin", "|C:<thin|.", false},
        {"end token", "a" EOS, "|C:a|.", false},
        {"end token in thinking", "a" EOS, "|R:a|.", true},
        {"end token in the middle", "a" EOS "b", "|C:a" EOS "b|.", false},
        {"half an end token", "a<｜end▁of", "|C:a<｜end▁of|.", false},
        {"newlines at the end", "a\n\n\n", "|C:a\n\n\n|.", false},
        {"tags of other kinds", "<tool_calls><|x|></｜DSM｜y></" D "invoke>",
         "|C:<tool_calls><|x|></｜DSM｜y></" D "invoke>|.", false},
        {"a call without a block", INVOKE("f") END_INVOKE, "|C:" INVOKE("f") END_INVOKE "|.", false},
        {"calls in thinking are reasoning", "r" OPEN INVOKE("f") END_INVOKE CLOSE "</think>a",
         "|R:r" OPEN INVOKE("f") END_INVOKE CLOSE "|C:a|.", true},
        {"calls in unclosed thinking too", "r" OPEN INVOKE("f") END_INVOKE CLOSE EOS,
         "|R:r" OPEN INVOKE("f") END_INVOKE CLOSE "|.", true},
    };
    check_cases(cases, COUNT_OF(cases));
}

static void test_calls(void **state)
{
    (void)state;
    static const struct reply_case cases[] = {
        {"one call",
         "a" OPEN INVOKE("get") STRING("city", "深圳\n\"x\"\\ <b></p>") JSON("n", "[1, {\"a\": 1.50}]")
             END_INVOKE CLOSE EOS,
         "|C:a|S0:get|A0:{\"city\": \"深圳\\n\\\"x\\\"\\\\ <b></p>\", \"n\": [1, {\"a\": 1.50}]}|E0|.", false},
        {"after thinking", "r</think>" OPEN INVOKE("f") STRING("a", "b") END_INVOKE CLOSE,
         "|R:r|S0:f|A0:{\"a\": \"b\"}|E0|.", true},
        {"two calls", OPEN INVOKE("f") JSON("a", "1") END_INVOKE INVOKE("g") JSON("b", "null") END_INVOKE CLOSE,
         "|S0:f|A0:{\"a\": 1}|E0|S1:g|A1:{\"b\": null}|E1|.", false},
        {"no parameters", OPEN INVOKE("f") END_INVOKE CLOSE, "|S0:f|A0:{}|E0|.", false},
        {"an empty line for no parameters", OPEN INVOKE("f") "\n" END_INVOKE CLOSE, "|S0:f|A0:{}|E0|.", false},
        {"empty string", OPEN INVOKE("f") STRING("a", "") END_INVOKE CLOSE, "|S0:f|A0:{\"a\": \"\"}|E0|.", false},
        {"markup in a value",
         OPEN INVOKE("f") STRING("a", "<" D "invoke name=\"x\">\n</think><think>" OPEN "</parameter>") END_INVOKE CLOSE,
         "|S0:f|A0:{\"a\": \"<" D "invoke name=\\\"x\\\">\\n</think><think>\\n\\n<" D
         "tool_calls>\\n</parameter>\"}|E0|.",
         false},
        {"quote in a key", OPEN INVOKE("f") STRING("k\"x>", "v") END_INVOKE CLOSE, "|S0:f|A0:{\"k\\\"x>\": \"v\"}|E0|.",
         false},
        {"value ends in a newline", OPEN INVOKE("f") STRING("a", "x\n") END_INVOKE CLOSE,
         "|S0:f|A0:{\"a\": \"x\\n\"}|E0|.", false},
        {"three newlines before the block", "a\n" OPEN INVOKE("f") END_INVOKE CLOSE, "|C:a\n|S0:f|A0:{}|E0|.", false},
        {"two blocks", OPEN INVOKE("f") END_INVOKE CLOSE OPEN INVOKE("g") END_INVOKE CLOSE,
         "|S0:f|A0:{}|E0|S1:g|A1:{}|E1|.", false},
    };
    check_cases(cases, COUNT_OF(cases));
}

#define D2 "｜｜DSML｜｜"

/* Deviations that are read as if they were well formed. */
static void test_tolerated(void **state)
{
    (void)state;
#define F_A_B "|S0:f|A0:{\"a\": \"b\"}|E0"
#define PARAM_A STRING("a", "b")
    static const struct reply_case cases[] = {
        {"one newline before the block", "x\n<" D "tool_calls>\n" INVOKE("f") PARAM_A END_INVOKE CLOSE,
         "|C:x" F_A_B "|.", false},
        {"no newline before the block", "x<" D "tool_calls>\n" INVOKE("f") PARAM_A END_INVOKE CLOSE, "|C:x" F_A_B "|.",
         false},
        {"doubled bars, curly quotes",
         "<" D2 "tool_calls>\n<" D2 "invoke name=“f”>\n<" D2 "parameter name=“a” string=“true”>b</" D2
         "parameter>\n</" D2 "invoke>\n</" D2 "tool_calls>",
         F_A_B "|.", false},
        {"ASCII bars, a space",
         "<|DSML|tool_calls>\n<|DSML| invoke name='f'>\n<|DSML| parameter name='a' string='true'>b</|DSML| parameter>\n"
         "</|DSML| invoke>\n</|DSML|tool_calls>",
         F_A_B "|.", false},
        {"missing leading bar",
         "<DSML｜tool_calls>\n<DSML｜invoke name=\"f\">\n<DSML｜parameter name=\"a\" "
         "string=\"true\">b</DSML｜parameter>\n"
         "</DSML｜invoke>\n</DSML｜tool_calls>",
         F_A_B "|.", false},
        {"no line breaks",
         "<" D "tool_calls><" D "invoke name=\"f\"><" D "parameter name=\"a\" string=\"true\">b</" D "parameter></" D
         "invoke></" D "tool_calls>",
         F_A_B "|.", false},
        {"more white space",
         OPEN "\n  "
              "<" D "invoke  name = \"f\" >\r\n <" D "parameter\tname=\"a\"  string = \"true\" >b</" D
              "parameter >\n\n" END_INVOKE CLOSE,
         F_A_B "|.", false},
        {"shortened closing tags",
         OPEN INVOKE("f") "<" D "parameter name=\"a\" string=\"true\">b</" D "param>\n</" D "inv>\n</" D "tool>",
         F_A_B "|.", false},
        {"nameless closing tags",
         OPEN INVOKE("f") "<" D "parameter name=\"a\" string=\"true\">b</" D ">\n</" D ">\n</" D ">", F_A_B "|.",
         false},
        {"closing tags without >",
         OPEN INVOKE("f") "<" D "parameter name=\"a\" string=\"true\">b</" D "parameter\n</" D "invoke\n</" D
                          "tool_calls",
         F_A_B "|.", false},
        {"closing tags without the token",
         OPEN INVOKE("f") "<" D "parameter name=\"a\" string=\"true\">b</parameter>\n</" D "invoke>\n</tool_calls>",
         F_A_B "|.", false},
        {"parameter not closed", OPEN INVOKE("f") "<" D "parameter name=\"a\" string=\"true\">b\n" END_INVOKE CLOSE,
         F_A_B "|.", false},
        {"JSON parameter not closed", OPEN INVOKE("f") "<" D "parameter name=\"a\" string=\"false\">1\n" CLOSE,
         "|S0:f|A0:{\"a\": 1}|E0|.", false},
        {"invoke not closed before the next", OPEN INVOKE("f") PARAM_A INVOKE("g") END_INVOKE CLOSE,
         F_A_B "|S1:g|A1:{}|E1|.", false},
        {"invoke not closed before the end", OPEN INVOKE("f") PARAM_A CLOSE, F_A_B "|.", false},
        {"invoke tag twice", OPEN INVOKE("f") INVOKE("f") PARAM_A END_INVOKE END_INVOKE CLOSE, F_A_B "|.", false},
        {"the same call twice is two calls", OPEN INVOKE("f") PARAM_A END_INVOKE INVOKE("f") PARAM_A END_INVOKE CLOSE,
         F_A_B "|S1:f|A1:{\"a\": \"b\"}|E1|.", false},
        {"the same name again, the first not closed", OPEN INVOKE("f") PARAM_A INVOKE("f") PARAM_A END_INVOKE CLOSE,
         F_A_B "|S1:f|A1:{\"a\": \"b\"}|E1|.", false},
        {"two names without parameters", OPEN INVOKE("f") INVOKE("g") END_INVOKE CLOSE,
         "|S0:f|A0:{}|E0|S1:g|A1:{}|E1|.", false},
        {"block tag twice", OPEN "<" D "tool_calls>\n" INVOKE("f") PARAM_A END_INVOKE CLOSE "\n" CLOSE, F_A_B "|.",
         false},
        {"stray closing tags", OPEN END_INVOKE INVOKE("f") PARAM_A "</" D "parameter>" END_INVOKE END_INVOKE CLOSE,
         F_A_B "|.", false},
        {"block without end", OPEN INVOKE("f") PARAM_A END_INVOKE, F_A_B "|.", false},
        {"block without end, end token", OPEN INVOKE("f") PARAM_A END_INVOKE EOS, F_A_B "|.", false},
        {"end cut off", OPEN INVOKE("f") PARAM_A END_INVOKE "</" D "tool_c", F_A_B "|.", false},
        {"invoke end cut off", OPEN INVOKE("f") PARAM_A "</" D "inv", F_A_B "|.", false},
        {"older block names", "<" D "function_calls>\n" INVOKE("f") PARAM_A END_INVOKE "</" D "function_calls>",
         F_A_B "|.", false},
        {"newer block names", "<" D " calls>\n" INVOKE("f") PARAM_A END_INVOKE "</" D " calls>", F_A_B "|.", false},
        {"miswritten block name", "<" D "toolcalls>\n" INVOKE("f") PARAM_A END_INVOKE "</" D "toolcalls>", F_A_B "|.",
         false},
        {"white space after the block", OPEN INVOKE("f") PARAM_A END_INVOKE CLOSE "\n \n", F_A_B "|.", false},
        {"empty block", "a" OPEN CLOSE "b", "|C:ab|.", false},
        {"text after the block", OPEN INVOKE("f") PARAM_A END_INVOKE CLOSE "\nmore", F_A_B "|C:\nmore|.", false},
        {"text between calls", OPEN INVOKE("f") PARAM_A END_INVOKE "and\n" INVOKE("g") END_INVOKE CLOSE EOS,
         F_A_B "|C:\nand|S1:g|A1:{}|E1|.", false},
    };
    check_cases(cases, COUNT_OF(cases));
}

static void test_values(void **state)
{
    (void)state;
    static const struct reply_case cases[] = {
        {"no JSON becomes a string", OPEN INVOKE("f") JSON("a", "it's\n") END_INVOKE CLOSE,
         "|S0:f|A0:{\"a\": \"it's\\n\"}|E0|.", false},
        {"empty is no JSON", OPEN INVOKE("f") JSON("a", "") END_INVOKE CLOSE, "|S0:f|A0:{\"a\": \"\"}|E0|.", false},
        {"Python's values are no JSON", OPEN INVOKE("f") JSON("a", "True") JSON("b", "NaN") END_INVOKE CLOSE,
         "|S0:f|A0:{\"a\": \"True\", \"b\": \"NaN\"}|E0|.", false},
        {"number text stays",
         OPEN INVOKE("f") JSON("a", "1.50") JSON("b", "123456789012345678901234567890") JSON("c", " 1e5\n")
             END_INVOKE CLOSE,
         "|S0:f|A0:{\"a\": 1.50, \"b\": 123456789012345678901234567890, \"c\":  1e5\n}|E0|.", false},
        {"a string that says it is none", OPEN INVOKE("f") JSON("a", "\"b\"") END_INVOKE CLOSE,
         "|S0:f|A0:{\"a\": \"b\"}|E0|.", false},
        {"no type, JSON", OPEN INVOKE("f") "<" D "parameter name=\"a\">7</" D "parameter>\n" END_INVOKE CLOSE,
         "|S0:f|A0:{\"a\": 7}|E0|.", false},
        {"no type, text", OPEN INVOKE("f") "<" D "parameter name=\"a\">x</" D "parameter>\n" END_INVOKE CLOSE,
         "|S0:f|A0:{\"a\": \"x\"}|E0|.", false},
        {"unknown type",
         OPEN INVOKE("f") "<" D "parameter name=\"a\" string=\"maybe\">x</" D "parameter>\n" END_INVOKE CLOSE,
         "|S0:f|A0:{\"a\": \"x\"}|E0|.", false},
        {"True", OPEN INVOKE("f") "<" D "parameter name=\"a\" string=\"True\">1</" D "parameter>\n" END_INVOKE CLOSE,
         "|S0:f|A0:{\"a\": \"1\"}|E0|.", false},
        {"a parameter twice", OPEN INVOKE("f") JSON("a", "1") JSON("a", "2") END_INVOKE CLOSE,
         "|S0:f|A0:{\"a\": 1, \"a\": 2}|E0|.", false},
        {"invalid UTF-8",
         "\xFF"
         "a\xE6\xB7" OPEN INVOKE("f\xE6") STRING("\xC0", "\xE6\xB7") JSON("b", "\"\xFF\"") END_INVOKE CLOSE "\xF0\x9F",
         "|C:\uFFFD"
         "a\uFFFD|S0:f\uFFFD|A0:{\"\uFFFD\": \"\uFFFD\", \"b\": \"\\\"\uFFFD\\\"\"}|E0|C:\uFFFD|.",
         false},
        {"control characters", OPEN INVOKE("f") STRING("a", "\x01\t\x7f") END_INVOKE CLOSE,
         "|S0:f|A0:{\"a\": \"\\u0001\\t\x7f\"}|E0|.", false},
    };
    check_cases(cases, COUNT_OF(cases));
}

/* Arguments are JSON that the encoder takes back later: what would nest too deeply becomes a string. */
static void test_deep_value(void **state)
{
    (void)state;
    static const int depths[] = {JSON_DEPTH_MAX - 1, JSON_DEPTH_MAX, 3000};
    for (size_t i = 0; i < COUNT_OF(depths); i++) {
        struct buf text = {0};
        buf_str(&text, OPEN INVOKE("f") "<" D "parameter name=\"a\" string=\"false\">");
        for (int k = 0; k < depths[i]; k++)
            buf_char(&text, '[');
        for (int k = 0; k < depths[i]; k++)
            buf_char(&text, ']');
        buf_str(&text, "</" D "parameter>\n" END_INVOKE CLOSE);
        struct trace t = {0};
        run(&t, text.data, text.len, false, text.len, 1);
        assert_non_null(strstr(t.text.data, i == 0 ? "|A0:{\"a\": [[[" : "|A0:{\"a\": \"[[["));
        assert_non_null(strstr(t.text.data, "}|E0|."));
        trace_free(&t);
        buf_free(&text);
    }
}

/* Markup that cannot be read comes back: before a call was announced as content, after that as a broken call. */
static void test_malformed(void **state)
{
    (void)state;
#define BACK(text)                                                                                                     \
    {                                                                                                                  \
        "given back: " text, text, "|C:" text "|.", false                                                              \
    }
    static const struct reply_case back[] = {
        BACK("a" OPEN "hello"),
        BACK("a\n<" D "tool_calls>\nhello\n" CLOSE),
        BACK("a" OPEN STRING("a", "b") CLOSE),
        BACK("a" OPEN "<" D "invoke name=f>\n" END_INVOKE CLOSE),
        BACK("a" OPEN "<" D "invoke>\n" END_INVOKE CLOSE),
        BACK("a" OPEN "<" D "invoke title=\"f\">\n" END_INVOKE CLOSE),
        BACK("a" OPEN "<" D "invoke name=\"f\" string=\"true\">\n" END_INVOKE CLOSE),
        BACK("a" OPEN INVOKE("f") "hello" END_INVOKE CLOSE),
        BACK("a" OPEN INVOKE("f") "<" D "parameter name=a>b</" D "parameter>\n" END_INVOKE CLOSE),
        BACK("a" OPEN INVOKE("f") "<b>" END_INVOKE CLOSE),
        BACK("a" OPEN "<" D "other>" CLOSE),
        BACK("a\n\n<" D "tool_calls"),
        BACK("a\n\n<" D "tool_calls x>"),
        BACK("a\n\n<" D "tool_"),
        BACK("a\n\n<｜DS"),
        BACK("a\n\n<"),
        BACK("a" OPEN),
        BACK("a" OPEN "<" D "inv"),
        BACK("a" OPEN "<" D "invoke name=\"f"),
        BACK("a" OPEN INVOKE("f")),
        BACK("a" OPEN INVOKE("f") "<" D "parameter name=\"a\" str"),
    };
    check_cases(back, COUNT_OF(back));
    static const struct reply_case broken[] = {
        {"cut off in a string", OPEN INVOKE("f") "<" D "parameter name=\"a\" string=\"true\">b\n",
         "|S0:f|A0:{\"a\": \"b\\n|B0:" OPEN INVOKE("f") "<" D "parameter name=\"a\" string=\"true\">b\n|.", false},
        {"cut off in JSON", OPEN INVOKE("f") JSON("x", "1") "<" D "parameter name=\"a\" string=\"false\">[1",
         "|S0:f|A0:{\"x\": 1, \"a\": |B0:" OPEN INVOKE("f") JSON("x", "1") "<" D
                                                                           "parameter name=\"a\" string=\"false\">[1|.",
         false},
        {"cut off between parameters", OPEN INVOKE("f") JSON("x", "1") EOS,
         "|S0:f|A0:{\"x\": 1|B0:" OPEN INVOKE("f") JSON("x", "1") "|.", false},
        {"cut off in a tag", OPEN INVOKE("f") JSON("x", "1") "<" D "para",
         "|S0:f|A0:{\"x\": 1|B0:" OPEN INVOKE("f") JSON("x", "1") "<" D "para|.", false},
        {"text between parameters", OPEN INVOKE("f") JSON("x", "1") "oops" JSON("y", "2") END_INVOKE CLOSE,
         "|S0:f|A0:{\"x\": 1|B0:" OPEN INVOKE("f") JSON("x", "1") "|C:oops" JSON("y", "2") END_INVOKE CLOSE "|.",
         false},
        {"the second call breaks", OPEN INVOKE("f") END_INVOKE INVOKE("g") JSON("x", "1") "oops" END_INVOKE CLOSE "z",
         "|S0:f|A0:{}|E0|S1:g|A1:{\"x\": 1|B1:\n" INVOKE("g") JSON("x", "1") "|C:oops</" D "invoke>z|.", false},
        {"the second call breaks before it is announced",
         OPEN INVOKE("f") END_INVOKE INVOKE("g") "oops" END_INVOKE CLOSE,
         "|S0:f|A0:{}|E0|C:\n" INVOKE("g") "oops</" D "invoke>|.", false},
        {"a block after a broken one", OPEN INVOKE("f") JSON("x", "1") "oops" OPEN INVOKE("g") END_INVOKE CLOSE,
         "|S0:f|A0:{\"x\": 1|B0:" OPEN INVOKE("f") JSON("x", "1") "|C:oops|S1:g|A1:{}|E1|.", false},
    };
    check_cases(broken, COUNT_OF(broken));
}

/* A tag that never ends is not waited for without limit. */
static void test_long_head(void **state)
{
    (void)state;
    struct buf text = {0};
    buf_str(&text, OPEN "<" D "invoke name=\"");
    for (int i = 0; i < 5000; i++)
        buf_char(&text, 'n');
    struct trace t = {0};
    t.last = -1;
    struct reply_parser *p = reply_open(false, on_event, &t);
    reply_add(p, text.data, text.len);
    assert_true(t.text.len > 4000);
    reply_end(p);
    reply_close(&p);
    buf_free(&text);
    trace_free(&t);
}

static void test_counts(void **state)
{
    (void)state;
    struct trace t = {.last = -1};
    struct reply_parser *p = reply_open(false, on_event, &t);
    const char *text = OPEN INVOKE("f") END_INVOKE INVOKE("g") JSON("x", "1");
    assert_int_equal(reply_n_calls(p), 0);
    reply_add(p, text, strlen(text));
    assert_int_equal(reply_n_calls(p), 1);
    reply_end(p);
    assert_int_equal(reply_n_calls(p), 1); /* the one that was cut off does not count */
    reply_close(&p);
    assert_null(p);
    reply_close(&p);
    trace_free(&t);
}

/* String arguments are passed on while they grow; what could be a tag is all that is held back. */
static void test_streaming(void **state)
{
    (void)state;
    struct trace t = {.last = -1};
    struct reply_parser *p = reply_open(true, on_event, &t);
    static const struct {
        const char *add, *want;
    } steps[] = {
        {"th", "|R:th"},
        {"ink</th", "ink"},
        {"ink>Hel", "|C:Hel"},
        {"lo\n\n", "lo"},
        {"<" D "tool_calls>\n<" D "invoke name=\"f\">\n", ""},
        {"<" D "parameter name=\"a\" string=\"true\">", "|S0:f|A0:{\"a\": \""},
        {"one ", "one "},
        {"two</", "two"},
        {D "parameter>\n", "\""},
        {"</" D "invoke>", "}|E0"},
    };
    size_t at = 0;
    for (size_t i = 0; i < COUNT_OF(steps); i++) {
        reply_add(p, steps[i].add, strlen(steps[i].add));
        assert_string_equal(t.text.len != 0 ? t.text.data + at : "", steps[i].want);
        at = t.text.len;
    }
    reply_end(p);
    reply_close(&p);
    trace_free(&t);
}

/* Random texts from what confuses: the same events for any split, complete arguments are JSON, broken ones are not. */
static void test_random(void **state)
{
    (void)state;
    static const char *const pieces[] = {
        OPEN,
        CLOSE,
        INVOKE("f"),
        INVOKE("g"),
        END_INVOKE,
        "<" D "parameter name=\"p\" string=\"true\">",
        JSON("q", "[1]"),
        "<" D "parameter name=\"p\" string=\"false\">",
        "</" D "parameter>",
        "\n",
        "\n\n",
        " ",
        "x",
        "1",
        "{}",
        "<think>",
        "</think>",
        EOS,
        D,
        "<",
        "</",
        "<" D,
        "</" D,
        "</parameter>",
        "</invoke>",
        "”",
        "\"",
        ">",
        "<|DSML|",
        "<｜｜DSML｜｜invoke name=“h”>",
        "\xE6",
        "深",
    };
    struct rng r = {20260424};
    struct buf text = {0};
    struct trace t = {0};
    for (int round = 0; round < 3000; round++) {
        buf_clear(&text);
        for (uint32_t i = rng_below(&r, 24); i-- > 0;)
            buf_str(&text, pieces[rng_below(&r, COUNT_OF(pieces))]);
        if (text.len == 0)
            continue;
        bool in_thinking = round % 4 == 0;
        run(&t, text.data, text.len, in_thinking, text.len, 1);
        struct buf whole = t.text;
        t.text = (struct buf){0};
        for (size_t piece = 1; piece < 8; piece += 3) {
            run(&t, text.data, text.len, in_thinking, 1 + rng_below(&r, (uint32_t)text.len), piece);
            if (strcmp(whole.data, t.text.data) != 0)
                fail_msg("round %d, pieces of %zu: %s\n  got  %s\n  want %s", round, piece, text.data, t.text.data,
                         whole.data);
        }
        buf_free(&whole);
    }
    buf_free(&text);
    trace_free(&t);
}

/* A megabyte in one value, byte by byte: what is not linear takes minutes here. */
static void test_size(void **state)
{
    (void)state;
    struct buf text = {0};
    buf_str(&text, OPEN INVOKE("f") "<" D "parameter name=\"a\" string=\"true\">");
    while (text.len < 1000000)
        buf_str(&text, "\n</<｜ word \n\n");
    buf_str(&text, "</parameter>");
    while (text.len < 1200000)
        buf_char(&text, ' ');
    buf_str(&text, "</" D "parameter>\n" JSON("b", "1") END_INVOKE CLOSE);
    while (text.len < 2000000)
        buf_str(&text, "\n\n<｜DSML");
    struct trace t = {0};
    run(&t, text.data, text.len, false, 1, 1);
    assert_non_null(strstr(t.text.data, "\", \"b\": 1}|E0|C:"));
    buf_free(&text);
    trace_free(&t);
}

/* ---------------------------------------------------------------- recorded streams */

static void expect_stream(const json_t *stream, struct buf *want)
{
    const json_t *output = json_object_get(stream, "expected_output"), *call;
    const char *reasoning = json_string_value(json_object_get(output, "reasoning_content"));
    const char *content = json_string_value(json_object_get(output, "normal_content"));
    buf_printf(want, "|R:%s", reasoning);
    if (content[0] != '\0')
        buf_printf(want, "|C:%s", content);
    size_t i;
    json_array_foreach(json_object_get(output, "tool_calls"), i, call)
    {
        const json_t *f = json_object_get(call, "function");
        buf_printf(want, "|S%zu:%s|A%zu:%s|E%zu", i, json_string_value(json_object_get(f, "name")), i,
                   json_string_value(json_object_get(f, "arguments")), i);
    }
    buf_str(want, "|.");
}

static void check_stream(const char *path)
{
    struct buf file = {0}, text = {0}, want = {0};
    struct err e = {0};
    if (file_read(&file, path, 1 << 20, &e) != HD_OK)
        fail_msg("%s", e.msg);
    json_t *stream = json_load_exact(file.data, file.len, path, false, &e), *chunk;
    assert_non_null(stream);
    size_t i;
    json_array_foreach(json_object_get(stream, "input_stream"), i, chunk)
    {
        const json_t *choices = json_object_get(json_object_get(chunk, "data"), "choices");
        const char *piece =
            json_string_value(json_object_get(json_object_get(json_array_get(choices, 0), "delta"), "content"));
        if (piece != NULL)
            buf_str(&text, piece);
    }
    expect_stream(stream, &want);
    check(path, text.data, text.len, false, want.data);
    json_decref(stream);
    buf_free(&file);
    buf_free(&text);
    buf_free(&want);
}

static void test_streams(void **state)
{
    (void)state;
    check_stream("tests/data/streams/chat_completion_stream_content_before_tool.json");
    check_stream("tests/data/streams/chat_completion_stream_mixed_param_types.json");
    check_stream("tests/data/streams/chat_completion_stream_multi_tool.json");
    check_stream("tests/data/streams/chat_completion_stream_no_tool.json");
    check_stream("tests/data/streams/chat_completion_stream_tool.json");
}

/* Held thinking ends where the call says, with whatever was held back; tags that its text spells are text. */
static void test_held_thinking(void **state)
{
    (void)state;
    static const struct {
        const char *thought, *rest, *want;
    } cases[] = {
        {"a</think>b", "c", "|R:a</think>b|C:c|."},
        {"a</thi", "nk>c", "|R:a</thi|C:nk>c|."},
        {"<thi", "c", "|R:<thi|C:c|."},
        {"<think>a", "</think>c", "|R:a|C:</think>c|."},
        {"", "<think>c", "|C:<think>c|."},
        {"a<｜end▁of▁sentence｜>", "c", "|R:a<｜end▁of▁sentence｜>|C:c|."},
        {"a\xe6", "\xb7" "c", "|R:a\xef\xbf\xbd|C:\xef\xbf\xbd" "c|."},
    };
    for (size_t i = 0; i < COUNT_OF(cases); i++) {
        for (size_t piece = 1; piece < 40; piece += 38) {
            struct trace t = {.last = -1};
            struct reply_parser *p = reply_open(true, on_event, &t);
            reply_hold_thinking(p);
            const char *s = cases[i].thought;
            for (size_t at = 0, n = strlen(s); at < n; at += piece)
                reply_add(p, s + at, piece < n - at ? piece : n - at);
            reply_end_thinking(p);
            reply_add(p, cases[i].rest, strlen(cases[i].rest));
            reply_end(p);
            reply_close(&p);
            assert_string_equal(t.text.data, cases[i].want);
            trace_free(&t);
        }
    }
    struct trace t = {.last = -1}; /* cut off in its thinking */
    struct reply_parser *p = reply_open(true, on_event, &t);
    reply_hold_thinking(p);
    reply_add(p, "a</think>b</th", 14);
    reply_end(p);
    assert_string_equal(t.text.data, "|R:a</think>b</th|.");
    reply_close(&p);
    trace_free(&t);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_text),   cmocka_unit_test(test_calls),     cmocka_unit_test(test_tolerated),
        cmocka_unit_test(test_values), cmocka_unit_test(test_malformed), cmocka_unit_test(test_long_head),
        cmocka_unit_test(test_counts), cmocka_unit_test(test_streaming), cmocka_unit_test(test_random),
        cmocka_unit_test(test_size),   cmocka_unit_test(test_streams),   cmocka_unit_test(test_deep_value),
        cmocka_unit_test(test_held_thinking),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
