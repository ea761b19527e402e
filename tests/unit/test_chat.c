/* The chat encoder: the official cases byte for byte, every rule of the format, every refusal. */
#include "text/text.h"

#include <stdarg.h>
#include <setjmp.h>
#include <stdlib.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <cmocka.h>

#define B "<｜begin▁of▁sentence｜>"
#define E "<｜end▁of▁sentence｜>"
#define U "<｜User｜>"
#define A "<｜Assistant｜>"
#define R "<｜latest_reminder｜>"
#define ON "<think>"
#define OFF "</think>"
#define D "｜DSML｜"
#define CALL(name, params) "<" D "invoke name=\"" name "\">\n" params "\n</" D "invoke>"
#define PARAM(key, is_string, value)                                                                                   \
    "<" D "parameter name=\"" key "\" string=\"" is_string "\">" value "</" D "parameter>"
#define CALLS(calls) "\n\n<" D "tool_calls>\n" calls "\n</" D "tool_calls>"

/* An encode request as the tests write it: messages, tools, response_format, thinking, effort, profile, keep, no_bos.
 */
static int encode(const char *request, struct chat_prompt *p, struct err *e)
{
    json_t *r = json_load_exact(request, strlen(request), "request", false, e);
    if (r == NULL)
        return e->code;
    struct chat_options o = {.thinking = json_is_true(json_object_get(r, "thinking")),
                             .keep_thinking = json_is_true(json_object_get(r, "keep")),
                             .no_bos = json_is_true(json_object_get(r, "no_bos"))};
    const char *effort = json_string_value(json_object_get(r, "effort"));
    const char *profile = json_string_value(json_object_get(r, "profile"));
    o.profile = profile != NULL && strcmp(profile, "official") == 0 ? CHAT_OFFICIAL : CHAT_PREVIEW;
    if (effort != NULL)
        assert_true(chat_effort_parse(effort, &o.effort));
    int rc = chat_encode(p, json_object_get(r, "messages"), json_object_get(r, "tools"),
                         json_object_get(r, "response_format"), &o, e);
    json_decref(r);
    return rc;
}

struct rule {
    const char *what, *request, *prompt; /* prompt NULL: refused, `error` is in the sentence */
    const char *error;
};

static void check_rules(const struct rule *rules, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        struct chat_prompt p = {0};
        struct err e = {0};
        int rc = encode(rules[i].request, &p, &e);
        if (rules[i].prompt != NULL) {
            if (rc != HD_OK || strcmp(p.text.data, rules[i].prompt) != 0)
                fail_msg("%s:\n  got  %s\n  want %s", rules[i].what, rc ? e.msg : p.text.data, rules[i].prompt);
        } else if (rc != HD_EARG || strstr(e.msg, rules[i].error) == NULL) {
            fail_msg("%s: got \"%s\", want \"%s\"", rules[i].what, rc ? e.msg : p.text.data, rules[i].error);
        }
        chat_prompt_free(&p);
    }
}

#define SYS(text) "{\"role\":\"system\",\"content\":\"" text "\"}"
#define USER(text) "{\"role\":\"user\",\"content\":\"" text "\"}"
#define ASSIST(text, reasoning)                                                                                        \
    "{\"role\":\"assistant\",\"content\":\"" text "\",\"reasoning_content\":\"" reasoning "\"}"
#define ASSIST_CALLS(calls) "{\"role\":\"assistant\",\"tool_calls\":[" calls "]}"
#define FUNC(id, name, args)                                                                                           \
    "{\"id\":\"" id "\",\"type\":\"function\",\"function\":{\"name\":\"" name "\",\"arguments\":" args "}}"
#define TOOL(id, text) "{\"role\":\"tool\",\"tool_call_id\":\"" id "\",\"content\":\"" text "\"}"
#define CHAT(messages) "{\"messages\":[" messages "]}"
#define THINK(messages) "{\"thinking\":true,\"messages\":[" messages "]}"

static void test_turns(void **state)
{
    (void)state;
    static const struct rule rules[] = {
        {"user only", CHAT(USER("hi")), B U "hi" A OFF, NULL},
        {"user only, thinking", THINK(USER("hi")), B U "hi" A ON, NULL},
        {"no messages", CHAT(""), B, NULL},
        {"no first token", "{\"no_bos\":true,\"messages\":[" USER("hi") "]}", U "hi" A OFF, NULL},
        {"system", CHAT(SYS("S") "," USER("hi")), B "S" U "hi" A OFF, NULL},
        {"null system", CHAT("{\"role\":\"system\",\"content\":null}," USER("hi")), B U "hi" A OFF, NULL},
        {"a last system message gets no header", CHAT(USER("a") "," ASSIST("b", "") "," SYS("S")),
         B U "a" A OFF "b" E "S", NULL},
        {"a user message before it gets none either", CHAT(USER("a") "," SYS("S")),
         B U "a"
             "S",
         NULL},
        {"system in mid conversation is bare", CHAT(USER("a") "," ASSIST("b", "") "," SYS("S") "," USER("c")),
         B U "a" A OFF "b" E "S" U "c" A OFF, NULL},
        {"begins with an assistant", CHAT(ASSIST("b", "r") "," USER("c")), B "b" E U "c" A OFF, NULL},
        {"the second of two assistants has no header", CHAT(USER("a") "," ASSIST("b", "") "," ASSIST("c", "")),
         B U "a" A OFF "b" E "c" E, NULL},
        {"two users are one turn", CHAT(USER("a") "," USER("b")), B U "a\n\nb" A OFF, NULL},
        {"developer", CHAT("{\"role\":\"developer\",\"content\":\"d\"}"), B U "d" A OFF, NULL},
        {"reminder before the user", CHAT("{\"role\":\"latest_reminder\",\"content\":\"r\"}," USER("a")),
         B R "r" U "a" A OFF, NULL},
        {"reminder after the user", CHAT(USER("a") ",{\"role\":\"latest_reminder\",\"content\":\"r\"}"),
         B U "a" A OFF R "r", NULL},
        {"null reminder", CHAT("{\"role\":\"latest_reminder\",\"content\":null}," USER("a")), B R "None" U "a" A OFF,
         NULL},
        {"user without content", CHAT("{\"role\":\"user\"}"), B U A OFF, NULL},
        {"parts",
         CHAT("{\"role\":\"user\",\"content\":[{\"type\":\"text\",\"text\":\"a\"},{\"type\":\"image_url\"},"
              "{\"type\":\"text\",\"text\":\"b\"}]}"),
         B U "a\n\n[Unsupported image_url]\n\nb" A OFF, NULL},
        {"system parts", CHAT("{\"role\":\"system\",\"content\":[{\"type\":\"text\",\"text\":\"S\"}]}"), B "S", NULL},
        {"wo_eos", CHAT(USER("a") ",{\"role\":\"assistant\",\"content\":\"b\",\"wo_eos\":true}"), B U "a" A OFF "b",
         NULL},
        {"prefix", CHAT(USER("a") ",{\"role\":\"assistant\",\"content\":\"b\",\"prefix\":true}"), B U "a" A OFF "b",
         NULL},
        {"prefix false", CHAT(USER("a") ",{\"role\":\"assistant\",\"content\":\"b\",\"prefix\":false}"),
         B U "a" A OFF "b" E, NULL},
        {"prefix with reasoning",
         THINK(USER("a") ",{\"role\":\"assistant\",\"content\":\"b\",\"reasoning_content\":\"r\",\"prefix\":true}"),
         B U "a" A ON "r" OFF "b", NULL},
        {"name and mask are no part of the prompt",
         CHAT("{\"role\":\"user\",\"content\":\"a\",\"name\":\"n\",\"mask\":1}"), B U "a" A OFF, NULL},
    };
    check_rules(rules, COUNT_OF(rules));
}

static void test_reasoning(void **state)
{
    (void)state;
    static const struct rule rules[] = {
        {"chat mode knows no reasoning", CHAT(USER("a") "," ASSIST("b", "r") "," USER("c")),
         B U "a" A OFF "b" E U "c" A OFF, NULL},
        {"earlier reasoning is dropped", THINK(USER("a") "," ASSIST("b", "r") "," USER("c")),
         B U "a" A OFF "b" E U "c" A ON, NULL},
        {"reasoning after the last user stays", THINK(USER("a") "," ASSIST("b", "r")), B U "a" A ON "r" OFF "b" E,
         NULL},
        {"missing reasoning", THINK(USER("a") ",{\"role\":\"assistant\",\"content\":\"b\"}"), B U "a" A ON OFF "b" E,
         NULL},
        {"kept when asked",
         "{\"thinking\":true,\"keep\":true,\"messages\":[" USER("a") "," ASSIST("b", "r") "," USER("c") "]}",
         B U "a" A ON "r" OFF "b" E U "c" A ON, NULL},
        {"a tool result is a user turn", THINK(USER("a") "," ASSIST("b", "r") "," TOOL("x", "t")),
         B U "a" A OFF "b" E U "<tool_result>t</tool_result>" A ON, NULL},
        {"developer before the last user goes",
         THINK("{\"role\":\"developer\",\"content\":\"d\"}," ASSIST("b", "r") "," USER("c")), B "b" E U "c" A ON, NULL},
        {"an unknown role before it too", THINK("{\"role\":\"x\"}," USER("c")), B U "c" A ON, NULL},
        {"chat mode keeps the developer",
         CHAT("{\"role\":\"developer\",\"content\":\"d\"}," ASSIST("b", "r") "," USER("c")),
         B U "d" A OFF "b" E U "c" A OFF, NULL},
        {"reminder stays",
         THINK("{\"role\":\"latest_reminder\",\"content\":\"r\"}," USER("a") "," ASSIST("b", "") "," USER("c")),
         B R "r" U "a" A OFF "b" E U "c" A ON, NULL},
    };
    check_rules(rules, COUNT_OF(rules));
}

static void test_tasks(void **state)
{
    (void)state;
    static const struct rule rules[] = {
        {"action", CHAT("{\"role\":\"user\",\"content\":\"a\",\"task\":\"action\"}"), B U "a" A OFF "<｜action｜>",
         NULL},
        {"action, thinking", THINK("{\"role\":\"user\",\"content\":\"a\",\"task\":\"action\"}"),
         B U "a" A ON "<｜action｜>", NULL},
        {"query", CHAT("{\"role\":\"user\",\"content\":\"a\",\"task\":\"query\"}"),
         B U "a"
             "<｜query｜>",
         NULL},
        {"authority", CHAT("{\"role\":\"user\",\"content\":\"a\",\"task\":\"authority\"}"),
         B U "a"
             "<｜authority｜>",
         NULL},
        {"domain", CHAT("{\"role\":\"user\",\"content\":\"a\",\"task\":\"domain\"}"),
         B U "a"
             "<｜domain｜>",
         NULL},
        {"read_url", CHAT("{\"role\":\"user\",\"content\":\"a\",\"task\":\"read_url\"}"),
         B U "a"
             "<｜read_url｜>",
         NULL},
        {"title", CHAT(USER("a") ",{\"role\":\"assistant\",\"content\":\"b\",\"task\":\"title\"}"),
         B U "a" A OFF "b" E "<｜title｜>", NULL},
        {"its answer has no thinking part",
         THINK("{\"role\":\"user\",\"content\":\"a\",\"task\":\"query\"}," ASSIST("b", "r")),
         B U "a"
             "<｜query｜>"
             "b" E,
         NULL},
        {"no task token where no answer follows",
         CHAT("{\"role\":\"user\",\"content\":\"a\",\"task\":\"query\"}," USER("b")), B U "a" U "b" A OFF, NULL},
        {"a tool result joins a user with a task",
         CHAT("{\"role\":\"user\",\"content\":\"a\",\"task\":\"query\"}," TOOL("x", "t")),
         B U "a\n\n<tool_result>t</tool_result>"
             "<｜query｜>",
         NULL},
        {"a task on the second of two users is lost",
         CHAT(USER("a") ",{\"role\":\"user\",\"content\":\"b\",\"task\":\"query\"}"), B U "a\n\nb" A OFF, NULL},
        {"null task", CHAT("{\"role\":\"user\",\"content\":\"a\",\"task\":null}"), B U "a" A OFF, NULL},
    };
    check_rules(rules, COUNT_OF(rules));
}

static void test_tool_results(void **state)
{
    (void)state;
#define TWO ASSIST_CALLS(FUNC("c1", "f", "\"{}\"") "," FUNC("c2", "g", "\"{}\""))
#define TWO_TEXT CALLS(CALL("f", "") "\n" CALL("g", "")) E
    static const struct rule rules[] = {
        {"in the order of the calls", CHAT(TWO "," TOOL("c2", "2") "," TOOL("c1", "1")),
         B TWO_TEXT U "<tool_result>1</tool_result>\n\n<tool_result>2</tool_result>" A OFF, NULL},
        {"texts keep their places", CHAT(TWO "," TOOL("c2", "2") "," USER("mid") "," TOOL("c1", "1")),
         B TWO_TEXT U "<tool_result>1</tool_result>\n\nmid\n\n<tool_result>2</tool_result>" A OFF, NULL},
        {"an unknown id counts as the first call",
         CHAT(TWO "," TOOL("c2", "2") "," TOOL("zz", "z") "," TOOL("c1", "1")),
         B TWO_TEXT U
         "<tool_result>z</tool_result>\n\n<tool_result>1</tool_result>\n\n<tool_result>2</tool_result>" A OFF,
         NULL},
        {"without ids the order stays",
         CHAT(ASSIST_CALLS(FUNC("", "f", "\"{}\"")) "," TOOL("b", "2") "," TOOL("a", "1")),
         B CALLS(CALL("f", "")) E U "<tool_result>2</tool_result>\n\n<tool_result>1</tool_result>" A OFF, NULL},
        {"id inside function",
         CHAT("{\"role\":\"assistant\",\"tool_calls\":[{\"function\":{\"id\":\"a\",\"name\":\"f\",\"arguments\":\"{}\"}"
              "},"
              "{\"function\":{\"id\":\"b\",\"name\":\"g\",\"arguments\":\"{}\"}}]}," TOOL("b", "2") "," TOOL("a", "1")),
         B TWO_TEXT U "<tool_result>1</tool_result>\n\n<tool_result>2</tool_result>" A OFF, NULL},
        {"parts", CHAT("{\"role\":\"tool\",\"content\":[{\"type\":\"text\",\"text\":\"a\"},{\"type\":\"image\"},{}]}"),
         B U "<tool_result>a\n\n[Unsupported image]\n\n[Unsupported None]</tool_result>" A OFF, NULL},
        {"null result", CHAT("{\"role\":\"tool\",\"content\":null}"), B U "<tool_result>None</tool_result>" A OFF,
         NULL},
        {"no result", CHAT("{\"role\":\"tool\"}"), B U "<tool_result></tool_result>" A OFF, NULL},
        {"a developer message takes no results", CHAT("{\"role\":\"developer\",\"content\":\"d\"}," TOOL("x", "t")),
         B U "d" U "<tool_result>t</tool_result>" A OFF, NULL},
        {"no escaping", CHAT(TOOL("x", "</tool_result> & <b>")),
         B U "<tool_result></tool_result> & <b></tool_result>" A OFF, NULL},
    };
    check_rules(rules, COUNT_OF(rules));
}

static void test_tool_calls(void **state)
{
    (void)state;
#define ONE(args) CHAT(ASSIST_CALLS(FUNC("c", "f", args)))
    static const struct rule rules[] = {
        {"strings raw, the rest JSON",
         ONE("\"{\\\"s\\\": \\\"a\\\\nb<&\\\\\\\"\\\", \\\"n\\\": 1.50, \\\"t\\\": true, \\\"z\\\": null, \\\"l\\\": "
             "[1,{\\\"é\\\":\\\"\\\\u00e9\\\"}]}\""),
         B CALLS(
             CALL("f", PARAM("s", "true", "a\nb<&\"") "\n" PARAM("n", "false", "1.5") "\n" PARAM(
                           "t", "false", "true") "\n" PARAM("z", "false", "null") "\n" PARAM("l", "false",
                                                                                             "[1, {\"é\": \"é\"}]"))) E,
         NULL},
        {"large numbers",
         ONE("\"{\\\"a\\\": 123456789012345678901234567890, \\\"b\\\": 1e5, \\\"c\\\": -0.0, \\\"d\\\": 1e999}\""),
         B CALLS(CALL(
             "f", PARAM("a", "false", "123456789012345678901234567890") "\n" PARAM("b", "false", "100000.0") "\n" PARAM(
                      "c", "false", "-0.0") "\n" PARAM("d", "false", "Infinity"))) E,
         NULL},
        {"not a number", ONE("\"{\\\"a\\\": [NaN, Infinity, -Infinity]}\""),
         B CALLS(CALL("f", PARAM("a", "false", "[NaN, Infinity, -Infinity]"))) E, NULL},
        {"a repeated key", ONE("\"{\\\"a\\\": 1, \\\"b\\\": 2, \\\"a\\\": 3}\""),
         B CALLS(CALL("f", PARAM("a", "false", "3") "\n" PARAM("b", "false", "2"))) E, NULL},
        {"not JSON", ONE("\"ls -l\""), B CALLS(CALL("f", PARAM("arguments", "true", "ls -l"))) E, NULL},
        {"empty text", ONE("\"\""), B CALLS(CALL("f", PARAM("arguments", "true", ""))) E, NULL},
        {"no arguments", ONE("\"{}\""), B CALLS(CALL("f", "")) E, NULL},
        {"an object instead of its text", ONE("{\"a\": \"b\"}"), B CALLS(CALL("f", PARAM("a", "true", "b"))) E, NULL},
        {"after content",
         CHAT(USER("a") ",{\"role\":\"assistant\",\"content\":\"b\",\"tool_calls\":[" FUNC("c", "f", "\"{}\"") "]}"),
         B U "a" A OFF "b" CALLS(CALL("f", "")) E, NULL},
        {"no calls", CHAT(USER("a") ",{\"role\":\"assistant\",\"content\":\"b\",\"tool_calls\":[]}"),
         B U "a" A OFF "b" E, NULL},
    };
    check_rules(rules, COUNT_OF(rules));
}

static void test_refusals(void **state)
{
    (void)state;
    static const struct rule rules[] = {
        {"no messages", "{}", NULL, "messages: must be an array"},
        {"message", CHAT("3"), NULL, "messages[0]: must be an object"},
        {"no role", CHAT(USER("a") ",{}"), NULL, "messages[1].role"},
        {"unknown role", CHAT("{\"role\":\"x\"}"), NULL, "messages[0].role: unknown role"},
        {"null content", CHAT("{\"role\":\"user\",\"content\":null}"), NULL, "messages[0].content"},
        {"number content", CHAT(USER("a") ",{\"role\":\"assistant\",\"content\":7}"), NULL, "messages[1].content"},
        {"huge number content", CHAT("{\"role\":\"user\",\"content\":123456789012345678901234567890}"), NULL,
         "messages[0].content"},
        {"index of a merged message", CHAT(USER("a") "," USER("b") ",{\"role\":\"user\",\"content\":1}"), NULL,
         "messages[2].content"},
        {"part", CHAT("{\"role\":\"user\",\"content\":[\"a\"]}"), NULL, "messages[0].content[0]"},
        {"part text", CHAT("{\"role\":\"user\",\"content\":[{\"type\":\"text\",\"text\":1}]}"), NULL,
         "content[0].text"},
        {"empty developer", CHAT("{\"role\":\"developer\",\"content\":\"\"}"), NULL,
         "messages[0].content: must not be empty"},
        {"task", CHAT("{\"role\":\"user\",\"content\":\"a\",\"task\":\"cook\"}"), NULL, "messages[0].task"},
        {"reasoning", THINK(USER("a") ",{\"role\":\"assistant\",\"reasoning_content\":1}"), NULL,
         "messages[1].reasoning_content"},
        {"prefix in the middle", CHAT("{\"role\":\"assistant\",\"content\":\"b\",\"prefix\":true}," USER("a")), NULL,
         "messages[0].prefix"},
        {"prefix of a user", CHAT("{\"role\":\"user\",\"content\":\"b\",\"prefix\":true}"), NULL, "messages[0].prefix"},
        {"prefix type", CHAT("{\"role\":\"assistant\",\"prefix\":\"yes\"}"), NULL, "messages[0].prefix"},
        {"tools", "{\"messages\":[],\"tools\":3}", NULL, "tools: must be an array"},
        {"tool", "{\"messages\":[],\"tools\":[{\"type\":\"function\"}]}", NULL, "tools[0].function"},
        {"message tools", CHAT("{\"role\":\"system\",\"tools\":[{}]}"), NULL, "messages[0].tools[0].function"},
        {"response_format", "{\"messages\":[],\"response_format\":\"json\"}", NULL,
         "response_format: must be an object"},
        {"tool_call_id", CHAT("{\"role\":\"tool\",\"tool_call_id\":1}"), NULL, "messages[0].tool_call_id"},
        {"tool_calls", CHAT("{\"role\":\"assistant\",\"tool_calls\":{\"a\":1}}"), NULL,
         "messages[0].tool_calls: must be"},
        {"call without a name", CHAT(USER("a") "," ASSIST_CALLS("{}")), NULL,
         "messages[1].tool_calls[0].function.name"},
        {"arguments missing", CHAT(ASSIST_CALLS("{\"function\":{\"name\":\"f\"}}")), NULL, "function.arguments"},
        {"arguments no object", CHAT(ASSIST_CALLS(FUNC("c", "f", "\"[1]\""))), NULL,
         "arguments: must hold a JSON object"},
    };
    check_rules(rules, COUNT_OF(rules));
}

/* ---------------------------------------------------------------- whole prompts */

static char *read_data(const char *name)
{
    struct buf b = {0};
    struct err e = {0};
    char *path = path_join("tests/data/encoding", name);
    if (file_read(&b, path, 1 << 20, &e) != HD_OK)
        fail_msg("%s", e.msg);
    free(path);
    return b.data;
}

static json_t *constants(void)
{
    char *text = read_data("constants.json");
    json_t *v = json_load_exact(text, strlen(text), "constants.json", false, NULL);
    free(text);
    assert_non_null(v);
    return v;
}

/* The official cases; since none names an effort, both profiles give the same bytes. */
static void test_official_cases(void **state)
{
    (void)state;
    for (int i = 1; i <= 4; i++) {
        for (int profile = CHAT_PREVIEW; profile <= CHAT_OFFICIAL; profile++) {
            char name[40];
            snprintf(name, sizeof name, "test_input_%d.json", i);
            char *input = read_data(name);
            snprintf(name, sizeof name, "test_output_%d.txt", i);
            char *want = read_data(name);
            json_t *v = json_load_exact(input, strlen(input), name, false, NULL);
            struct chat_options o = {.thinking = i != 4, .profile = (enum chat_profile)profile};
            struct chat_prompt p;
            struct err e = {0};
            const json_t *messages = json_is_array(v) ? v : json_object_get(v, "messages");
            assert_int_equal(chat_encode(&p, messages, json_object_get(v, "tools"), NULL, &o, &e), HD_OK);
            assert_string_equal(p.text.data, want);
            chat_prompt_free(&p);
            json_decref(v);
            free(input);
            free(want);
        }
    }
}

static void check_effort(const json_t *c, const char *profile, const char *effort, const char *key, bool thinking)
{
    struct buf want = {0}, request = {0};
    const json_t *texts = json_object_get(json_object_get(c, "effort"), profile);
    const char *text = key != NULL ? json_string_value(json_object_get(texts, key)) : "";
    assert_non_null(text);
    buf_printf(&want, B "%sS" U "a" A "%s", text, thinking ? ON : OFF);
    buf_printf(&request,
               "{\"thinking\":%s,\"effort\":\"%s\",\"profile\":\"%s\",\"messages\":[" SYS("S") "," USER("a") "]}",
               thinking ? "true" : "false", effort, profile);
    struct rule rule = {request.data, request.data, want.data, NULL};
    check_rules(&rule, 1);
    buf_free(&want);
    buf_free(&request);
}

static void test_efforts(void **state)
{
    (void)state;
    json_t *c = constants();
    check_effort(c, "preview", "max", "max", true);
    check_effort(c, "preview", "high", "high", true);
    check_effort(c, "preview", "low", "high", true); /* the preview took low for high */
    check_effort(c, "preview", "none", NULL, true);
    check_effort(c, "official", "low", "low", true);
    check_effort(c, "official", "high", "high", true);
    check_effort(c, "official", "max", "max", true);
    check_effort(c, "official", "none", NULL, true);
    check_effort(c, "official", "max", NULL, false);
    check_effort(c, "preview", "max", NULL, false);
    json_decref(c);
    static const struct rule rules[] = {
        {"nothing to put an effort before", "{\"thinking\":true,\"effort\":\"max\",\"messages\":[]}", B, NULL},
    };
    check_rules(rules, COUNT_OF(rules));
}

static void test_effort_names(void **state)
{
    (void)state;
    static const struct {
        const char *name;
        enum chat_effort effort;
    } names[] = {{"none", EFFORT_NONE}, {"minimal", EFFORT_LOW}, {"low", EFFORT_LOW},   {"medium", EFFORT_HIGH},
                 {"high", EFFORT_HIGH}, {"xhigh", EFFORT_HIGH},  {"ultra", EFFORT_MAX}, {"max", EFFORT_MAX}};
    enum chat_effort e;
    for (size_t i = 0; i < COUNT_OF(names); i++) {
        assert_true(chat_effort_parse(names[i].name, &e));
        assert_int_equal(e, names[i].effort);
    }
    assert_false(chat_effort_parse("Max", &e));
    assert_false(chat_effort_parse("", &e));
}

/* constants.json holds the reference's template with {..} where its tokens and the schemas stand. */
static char *fill_template(const json_t *c, const char *schemas)
{
    static const struct {
        const char *hole, *text;
    } holes[] = {
        {"{dsml_token}", D}, {"{thinking_start_token}", ON}, {"{thinking_end_token}", OFF}, {"{tool_schemas}", NULL}};
    struct buf out = {0};
    const char *s = json_string_value(json_object_get(c, "tools_template"));
    while (*s != '\0') {
        size_t i = 0;
        while (i < COUNT_OF(holes) && strncmp(s, holes[i].hole, strlen(holes[i].hole)) != 0)
            i++;
        if (i == COUNT_OF(holes)) {
            buf_char(&out, *s++);
            continue;
        }
        buf_str(&out, holes[i].text != NULL ? holes[i].text : schemas);
        s += strlen(holes[i].hole);
    }
    return out.data;
}

#define TOOLS_JSON                                                                                                     \
    "[{\"type\":\"function\",\"function\":{\"name\":\"f\",\"parameters\":{\"z\":1.50,\"a\":[1e5,\"é\\u00e9\\/"        \
    "\"],\"n\":18446744073709551616}}},"                                                                               \
    "{\"function\":{\"name\":\"g\"},\"type\":\"function\"}]"
#define TOOLS_LINES                                                                                                    \
    "{\"name\": \"f\", \"parameters\": {\"z\": 1.5, \"a\": [100000.0, \"éé/\"], \"n\": "                             \
    "18446744073709551616}}\n{\"name\": \"g\"}"

static void check_filled(const char *request, const char *before, const char *after)
{
    json_t *c = constants();
    char *block = fill_template(c, TOOLS_LINES);
    char *want = xasprintf("%s%s%s", before, block, after);
    struct rule rule = {request, request, want, NULL};
    check_rules(&rule, 1);
    free(want);
    free(block);
    json_decref(c);
}

static void test_tools(void **state)
{
    (void)state;
#define FORMAT "\n\n## Response Format:\n\nYou MUST strictly adhere to the following schema to reply:\n"
    check_filled("{\"tools\":" TOOLS_JSON ",\"messages\":[" SYS("S") "," USER("a") "]}", B "S\n\n", U "a" A OFF);
    check_filled("{\"tools\":" TOOLS_JSON ",\"messages\":[" USER("a") "]}", B "\n\n", U "a" A OFF);
    check_filled("{\"tools\":" TOOLS_JSON ",\"messages\":[" USER("a") "," SYS("S") "]}", B "\n\n", U "aS");
    check_filled("{\"messages\":[{\"role\":\"developer\",\"content\":\"d\",\"tools\":" TOOLS_JSON "}]}", B U "d\n\n",
                 A OFF);
    check_filled("{\"tools\":" TOOLS_JSON ",\"messages\":[{\"role\":\"system\",\"tools\":[{\"function\":{}}]}]}",
                 B "\n\n", "");
    check_filled("{\"tools\":" TOOLS_JSON
                 ",\"response_format\":{\"type\":\"json_object\"},\"messages\":[" SYS("S") "]}",
                 B "S\n\n", FORMAT "{\"type\": \"json_object\"}");
    /* with tools no reasoning is dropped, and a missing one is empty */
    check_filled("{\"thinking\":true,\"tools\":" TOOLS_JSON ",\"messages\":[" SYS("S") "," USER("a") "," ASSIST(
                     "b", "r") "," USER("c") ",{\"role\":\"assistant\",\"content\":\"d\"}," USER("e") "]}",
                 B "S\n\n", U "a" A ON "r" OFF "b" E U "c" A ON OFF "d" E U "e" A ON);
    static const struct rule rules[] = {
        {"response format", "{\"response_format\":{\"type\":\"json_object\"},\"messages\":[" SYS("S") "]}",
         B "S" FORMAT "{\"type\": \"json_object\"}", NULL},
        {"plain text is no format", "{\"response_format\":{\"type\":\"text\"},\"messages\":[" USER("a") "]}",
         B U "a" A OFF, NULL},
        {"no tools", "{\"tools\":[],\"messages\":[" USER("a") "]}", B U "a" A OFF, NULL},
        {"null tools", "{\"tools\":null,\"messages\":[" USER("a") "]}", B U "a" A OFF, NULL},
        {"tools of a user message are lost", CHAT("{\"role\":\"user\",\"content\":\"a\",\"tools\":" TOOLS_JSON "}"),
         B U "a" A OFF, NULL},
        {"format of a developer", CHAT("{\"role\":\"developer\",\"content\":\"d\",\"response_format\":{\"a\":1}}"),
         B U "d" FORMAT "{\"a\": 1}" A OFF, NULL},
    };
    check_rules(rules, COUNT_OF(rules));
}

/* ---------------------------------------------------------------- depth, spans, size */

static char *nested(const char *before, int depth, const char *after)
{
    struct buf b = {0};
    buf_str(&b, before);
    for (int i = 0; i < depth; i++)
        buf_char(&b, '[');
    for (int i = 0; i < depth; i++)
        buf_char(&b, ']');
    buf_str(&b, after);
    return b.data;
}

static void test_depth(void **state)
{
    (void)state;
    struct {
        const char *before, *after;
    } const places[] = {
        {"{\"messages\":[],\"tools\":", "}"},
        {"{\"messages\":[{\"role\":\"user\",\"content\":\"a\",\"ignored\":", "}]}"},
        {"{\"messages\":[{\"role\":\"assistant\",\"tool_calls\":[{\"function\":{\"name\":\"f\",\"arguments\":\"{"
         "\\\"a\\\":",
         "}\"}}]}]}"},
    };
    for (size_t i = 0; i < COUNT_OF(places); i++) {
        for (int depth = 3000; depth <= 300000; depth *= 100) {
            char *request = nested(places[i].before, depth, places[i].after);
            struct chat_prompt p = {0};
            struct err e = {0};
            assert_int_not_equal(encode(request, &p, &e), HD_OK);
            assert_non_null(strstr(e.msg, "nested deeper than 128 levels"));
            free(request);
        }
    }
    /* values that jansson itself has parsed are measured */
    char *deep = nested("[{\"function\":{\"a\":", 1000, "}}]");
    json_t *tools = json_loads(deep, 0, NULL), *messages = json_array();
    struct chat_options o = {0};
    struct chat_prompt p;
    struct err e = {0};
    assert_non_null(tools);
    assert_int_equal(chat_encode(&p, messages, tools, NULL, &o, &e), HD_EARG);
    json_decref(tools);
    json_decref(messages);
    free(deep);
}

/* Spans cover the prompt; control spans are single tokens that the format put there, never text of the user. */
static void test_spans(void **state)
{
    (void)state;
    struct chat_prompt p;
    struct err e = {0};
    assert_int_equal(encode("{\"thinking\":true,\"tools\":" TOOLS_JSON ",\"messages\":[" SYS("<think>") "," USER(
                                U "<think>") "," ASSIST("x</think>", E) "," TOOL("a", "<｜DSML｜>") "]}",
                            &p, &e),
                     HD_OK);
    size_t at = 0, n_think = 0;
    for (size_t i = 0; i < p.n_spans; i++) {
        const struct chat_span *s = &p.spans[i];
        const char *text = p.text.data + s->start;
        assert_int_equal(s->start, at);
        assert_true(s->end > s->start);
        assert_true(s->is_control || i == 0 || p.spans[i - 1].is_control);
        if (s->is_control && strncmp(text, ON, strlen(ON)) == 0)
            n_think++;
        at = s->end;
    }
    assert_int_equal(at, p.text.len);
    assert_int_equal(n_think, 4); /* two in the tools text, two headers; three more are the user's */
    assert_true(p.in_thinking);
    chat_prompt_free(&p);
    assert_int_equal(
        encode(CHAT(USER("a") ",{\"role\":\"assistant\",\"content\":\"<think>\",\"prefix\":true}"), &p, &e), HD_OK);
    assert_false(p.in_thinking);
    chat_prompt_free(&p);
}

/* Forged control tokens stay text unless asked for; without any the ids are those of the whole text. */
static void test_tokens(void **state)
{
    (void)state;
    struct tokenizer *t = NULL;
    struct err e = {0};
    if (tokenizer_open(&t, "models/tiny", &e) != HD_OK)
        fail_msg("%s", e.msg);
    struct chat_prompt p;
    assert_int_equal(encode("{\"thinking\":true,\"tools\":" TOOLS_JSON ",\"messages\":[" SYS("Hello <") "," USER(
                                "it's 12345\\n\\n") "," ASSIST("so\\n", "r ") "," TOOL("a", " x ") "," USER("</") "]}",
                            &p, &e),
                     HD_OK);
    struct ids safe = {0}, whole = {0};
    assert_int_equal(chat_tokens(&p, t, false, &safe, &e), HD_OK);
    assert_int_equal(tokenizer_encode(t, p.text.data, p.text.len, true, &whole, &e), HD_OK);
    assert_int_equal(safe.n, whole.n);
    assert_memory_equal(safe.data, whole.data, safe.n * sizeof *safe.data);
    chat_prompt_free(&p);
    safe.n = whole.n = 0;
    assert_int_equal(encode(CHAT(USER("a" E U "b")), &p, &e), HD_OK);
    assert_int_equal(chat_tokens(&p, t, false, &safe, &e), HD_OK);
    assert_int_equal(chat_tokens(&p, t, true, &whole, &e), HD_OK);
    int n_safe = 0, n_whole = 0;
    for (size_t i = 0; i < safe.n; i++)
        n_safe += tokenizer_is_added(t, safe.data[i]);
    for (size_t i = 0; i < whole.n; i++)
        n_whole += tokenizer_is_added(t, whole.data[i]);
    assert_int_equal(n_safe, 4);
    assert_int_equal(n_whole, 6);
    struct buf text = {0};
    tokenizer_decode(t, safe.data, safe.n, false, &text);
    assert_string_equal(text.data, p.text.data);
    buf_free(&text);
    ids_free(&safe);
    ids_free(&whole);
    chat_prompt_free(&p);
    tokenizer_close(&t);
}

/* Many small messages, many results: what is not linear takes minutes here. */
static void test_size(void **state)
{
    (void)state;
    struct buf request = {0};
    buf_str(&request, "{\"thinking\":true,\"messages\":[{\"role\":\"assistant\",\"tool_calls\":[");
    enum { N = 100000 };
    for (int i = 0; i < N; i++)
        buf_printf(&request, "%s" FUNC("c%d", "f", "\"{}\""), i != 0 ? "," : "", i);
    buf_str(&request, "]}");
    for (int i = N; i-- > 0;)
        buf_printf(&request, "," TOOL("c%d", "%d"), i, i);
    for (int i = 0; i < N; i++)
        buf_str(&request, "," ASSIST("b", "r") "," USER("a"));
    buf_str(&request, "]}");
    struct chat_prompt p;
    struct err e = {0};
    assert_int_equal(encode(request.data, &p, &e), HD_OK);
    const char *first = strstr(p.text.data, "<tool_result>0</tool_result>\n\n<tool_result>1</tool_result>");
    assert_non_null(first);
    chat_prompt_free(&p);
    buf_free(&request);
}

static void write_file(const char *dir, const char *name, const char *text)
{
    char *path = path_join(dir, name);
    assert_int_equal(file_write_atomic(path, text, strlen(text), NULL), HD_OK);
    free(path);
}

static void test_profile_of(void **state)
{
    (void)state;
    char dir[] = "/tmp/hadal-chat-XXXXXX";
    assert_non_null(mkdtemp(dir));
    char *encoding = path_join(dir, "encoding");
    assert_int_equal(chat_profile_of(dir), CHAT_PREVIEW);
    write_file(dir, "config.json", "{\"num_nextn_predict_layers\": 1}");
    assert_int_equal(chat_profile_of(dir), CHAT_PREVIEW);
    write_file(dir, "config.json", "{\"dspark_block_size\": 5}");
    assert_int_equal(chat_profile_of(dir), CHAT_OFFICIAL);
    assert_int_equal(mkdir(encoding, 0700), 0);
    write_file(encoding, "notes.txt", "REASONING_EFFORT_MAX");
    assert_int_equal(chat_profile_of(dir), CHAT_OFFICIAL);
    write_file(encoding, "encoding_dsv4.py", "REASONING_EFFORT_MAX = (\n");
    assert_int_equal(chat_profile_of(dir), CHAT_PREVIEW);
    write_file(encoding, "encoding_dsv4.py", "REASONING_EFFORT_PROMPTS = {\n");
    assert_int_equal(chat_profile_of(dir), CHAT_OFFICIAL);
    char *command = xasprintf("rm -r %s", dir);
    assert_int_equal(system(command), 0);
    free(command);
    free(encoding);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_turns),        cmocka_unit_test(test_reasoning),      cmocka_unit_test(test_tasks),
        cmocka_unit_test(test_tool_results), cmocka_unit_test(test_tool_calls),     cmocka_unit_test(test_refusals),
        cmocka_unit_test(test_efforts),      cmocka_unit_test(test_official_cases), cmocka_unit_test(test_effort_names),
        cmocka_unit_test(test_tools),        cmocka_unit_test(test_depth),          cmocka_unit_test(test_spans),
        cmocka_unit_test(test_tokens),       cmocka_unit_test(test_size),           cmocka_unit_test(test_profile_of),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
