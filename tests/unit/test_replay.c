/* Remembered replies: a conversation sent back in another spelling becomes the tokens that were generated, and nothing that
 * says something else does. Replies here are tokenised byte by byte, so that no encoder makes the same tokens of them. */
#include "engine/engine.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

enum { EOS = 1, MEMORY = 1 << 20 };

#define DSML "<｜DSML｜"
#define CALL "\n\n" DSML "tool_calls>\n" DSML "invoke name=\"look\">\n" DSML "parameter name=\"n\" string=\"false\">1.50</｜DSML｜" \
    "parameter>\n" DSML "parameter name=\"at\" string=\"true\">Kö\"ln</｜DSML｜parameter>\n</｜DSML｜invoke>\n</｜DSML｜tool_calls>"

static struct tokenizer *tokenizer;

/* ---------------------------------------------------------------- a model and its client */

static struct request_env env_with(struct replay *r, const char *scope)
{
    struct request_env env = {.tokenizer = tokenizer, .n_vocab = tokenizer_n_vocab(tokenizer), .context_tokens = 100000,
                              .replay = r, .user_scope = scope};
    sampling_init(&env.defaults);
    return env;
}

static struct ids prompt_of(struct replay *r, const char *scope, const char *messages, const char *more)
{
    struct request_env env = env_with(r, scope);
    struct gen_request q;
    struct err e = {0};
    char *text = xasprintf("{\"messages\": [%s]%s}", messages, more);
    json_t *body = json_load_exact(text, strlen(text), "request", false, &e);
    if (body == NULL || request_parse(&q, body, &env, &e) != HD_OK)
        fail_msg("%s: %s", e.msg, text);
    struct ids prompt = q.prompt;
    q.prompt = (struct ids){0};
    gen_request_free(&q);
    json_decref(body);
    free(text);
    return prompt;
}

static void on_event(void *arg, const struct gen_event *ev)
{
    replay_text_add(arg, ev);
    if (ev->kind == GEN_TOOL_START)
        replay_text_id(arg, "call_a");
}

/* A token for each byte, control tokens as themselves. */
static void add_reply(struct ids *v, const char *text)
{
    static const char *const controls[] = {"<think>", "</think>", "｜DSML｜"};
    while (*text != 0) {
        size_t n = 1;
        for (size_t i = 0; i < COUNT_OF(controls); i++)
            if (strncmp(text, controls[i], strlen(controls[i])) == 0)
                n = strlen(controls[i]);
        struct err e = {0};
        assert_int_equal(tokenizer_encode(tokenizer, text, n, n > 1, v, &e), HD_OK);
        text += n;
    }
}

/* The model answers a prompt: its tokens are appended, and remembered as the engine does. */
static void generate(struct replay *r, const char *user, struct ids *tokens, const char *reply)
{
    struct replay_text seen = {0};
    struct gen_params p = {.max_tokens = 1000};
    const int32_t eos[1] = {EOS};
    size_t n = tokens->n;
    p.in_thinking = tokens->data[n - 1] == tokenizer_id(tokenizer, "<think>");
    add_reply(tokens, reply);
    struct generation *g = generation_open(tokenizer, tokenizer_n_vocab(tokenizer), eos, 1, &p, on_event, &seen);
    for (size_t i = n; i < tokens->n; i++)
        assert_true(generation_accept(g, tokens->data[i], NULL));
    generation_accept(g, EOS, NULL);
    generation_close(&g);
    replay_add(r, user, &seen, tokens->data, n, tokens->n);
    replay_text_free(&seen);
}

static struct replay *open_replay(int64_t bytes, const char *path, char **warning)
{
    struct replay *r;
    struct err e = {0};
    char *ignored = NULL;
    if (replay_open(&r, tokenizer, bytes, path, warning != NULL ? warning : &ignored, &e) != HD_OK)
        fail_msg("%s", e.msg);
    free(ignored);
    return r;
}

static size_t common(const struct ids *a, const struct ids *b)
{
    size_t n = 0;
    while (n < a->n && n < b->n && a->data[n] == b->data[n])
        n++;
    return n;
}

/* ---------------------------------------------------------------- what means the same */

#define USER "{\"role\": \"user\", \"content\": \"Hello\"}"
#define TOOLS ", \"tools\": [{\"type\": \"function\", \"function\": {\"name\": \"look\", \"parameters\": {}}}]"
#define RESULT ", {\"role\": \"tool\", \"tool_call_id\": \"call_a\", \"content\": \"17\"}"
#define ASSISTANT ", {\"role\": \"assistant\", "
#define CALLS(id, args) "\"tool_calls\": [{\"id\": \"" id "\", \"type\": \"function\", \"function\": {\"name\": \"look\", " \
    "\"arguments\": " args "}}]}"
#define ARGS "\"{\\\"n\\\": 1.50, \\\"at\\\": \\\"Kö\\\\\\\"ln\\\"}\""
#define THOUGHT "\"reasoning_content\": \"Let me look.\", "

static const struct variant {
    const char *name, *message;
    bool same;
} variants[] = {
    {"as it was shown", THOUGHT "\"content\": \"I look.\", " CALLS("call_a", ARGS), true},
    {"without reasoning", "\"content\": \"I look.\", " CALLS("call_a", ARGS), true},
    {"empty reasoning", "\"reasoning_content\": \"\", \"content\": \"I look.\", " CALLS("call_a", ARGS), true},
    {"another id, reasoning kept", THOUGHT "\"content\": \"I look.\", " CALLS("x", ARGS), true},
    {"spacing", "\"content\": \"I look.\", " CALLS("call_a", "\"{\\\"n\\\":1.50,\\\"at\\\":\\\"Kö\\\\\\\"ln\\\"}\""), true},
    {"key order", "\"content\": \"I look.\", " CALLS("call_a", "\"{\\\"at\\\":\\\"Kö\\\\\\\"ln\\\", \\\"n\\\":1.5}\""), true},
    {"escapes", "\"content\": \"I look.\", " CALLS("call_a", "\"{\\\"at\\\":\\\"K\\\\u00f6\\\\u0022ln\\\",\\\"n\\\":15e-1}\""), true},
    {"an object", "\"content\": \"I look.\", " CALLS("call_a", "{\"at\": \"Kö\\\"ln\", \"n\": 1.5}"), true},
    {"white space at the ends", "\"content\": \" I look.\\n\", " CALLS("call_a", ARGS), true},
    {"content in parts", "\"content\": [{\"type\": \"text\", \"text\": \"I look.\"}], " CALLS("call_a", ARGS), true},
    {"another number", THOUGHT "\"content\": \"I look.\", " CALLS("call_a", "{\"at\": \"Kö\\\"ln\", \"n\": 1.6}"), false},
    {"a number as text", THOUGHT "\"content\": \"I look.\", " CALLS("call_a", "{\"at\": \"Kö\\\"ln\", \"n\": \"1.5\"}"), false},
    {"another text", THOUGHT "\"content\": \"I look.\", " CALLS("call_a", "{\"at\": \"Kö\\\"ln \", \"n\": 1.5}"), false},
    {"a key more", THOUGHT "\"content\": \"I look.\", " CALLS("call_a", "{\"at\": \"Kö\\\"ln\", \"n\": 1.5, \"m\": 1}"), false},
    {"another content", THOUGHT "\"content\": \"I  look.\", " CALLS("call_a", ARGS), false},
    {"no content", THOUGHT "\"content\": null, " CALLS("call_a", ARGS), false},
    {"other reasoning", "\"reasoning_content\": \"Let me see.\", \"content\": \"I look.\", " CALLS("call_a", ARGS), false},
    {"no calls", THOUGHT "\"content\": \"I look.\"}", false},
};

static void check_variant(struct replay *r, const struct ids *generated, const struct variant *v)
{
    char *messages = xasprintf("%s%s%s%s", USER, ASSISTANT, v->message, RESULT);
    struct ids got = prompt_of(r, NULL, messages, TOOLS), plain = prompt_of(NULL, NULL, messages, TOOLS);
    size_t n = common(&got, generated);
    if ((n == generated->n && got.data[n] == EOS) != v->same)
        fail_msg("%s: %zu of %zu tokens are those that were generated", v->name, n, generated->n);
    if (!v->same) { /* then nothing changes */
        assert_int_equal(got.n, plain.n);
        assert_int_equal(common(&got, &plain), got.n);
    }
    ids_free(&got);
    ids_free(&plain);
    free(messages);
}

static void test_variants(void **state)
{
    (void)state;
    struct replay *r = open_replay(MEMORY, NULL, NULL);
    struct ids tokens = prompt_of(r, NULL, USER, TOOLS);
    size_t n = tokens.n;
    generate(r, "", &tokens, "Let me look.</think>I look." CALL);
    struct ids canonical = prompt_of(NULL, NULL, USER ASSISTANT THOUGHT "\"content\": \"I look.\", " CALLS("call_a", ARGS)
                                     RESULT, TOOLS);
    assert_true(common(&canonical, &tokens) <= n + 2); /* or the test proves nothing */
    for (size_t i = 0; i < COUNT_OF(variants); i++)
        check_variant(r, &tokens, &variants[i]);
    struct replay_stats s;
    replay_read_stats(r, &s);
    assert_true(s.n_replies == 1 && s.n_found == 10 && s.n_unknown == 8);
    ids_free(&canonical);
    ids_free(&tokens);
    replay_close(&r);
}

/* ---------------------------------------------------------------- thinking on, off, dropped */

static bool is_generated(struct replay *r, const char *messages, const char *more, const struct ids *want)
{
    struct ids got = prompt_of(r, NULL, messages, more);
    bool same = common(&got, want) == want->n;
    ids_free(&got);
    return same;
}

static void test_thinking(void **state)
{
    (void)state;
    static const char off[] = ", \"thinking\": {\"type\": \"disabled\"}";
    static const char next[] = USER ASSISTANT "\"content\": \"Fine.\"}, " USER;
    struct replay *r = open_replay(MEMORY, NULL, NULL);
    struct ids t = prompt_of(r, NULL, USER, off);
    generate(r, "", &t, "Fine.");
    assert_true(is_generated(r, next, off, &t));
    struct ids on = prompt_of(r, NULL, USER, "");
    struct ids plain = prompt_of(NULL, NULL, next, ", \"keep_thinking\": true"); /* opened by <think>: not the same reply */
    assert_true(is_generated(r, next, ", \"keep_thinking\": true", &plain));
    generate(r, "", &on, "Hm.</think>Fine.");
    assert_true(is_generated(r, next, ", \"keep_thinking\": true", &on));
    ids_free(&plain);
    ids_free(&on);
    ids_free(&t);
    replay_close(&r);
}

/* A conversation that drops reasoning gets the tokens after </think>. */
static void test_dropped(void **state)
{
    (void)state;
    static const char next[] = USER ASSISTANT THOUGHT "\"content\": \"Good.\"}, " USER;
    struct replay *r = open_replay(MEMORY, NULL, NULL);
    struct ids on = prompt_of(r, NULL, USER, ""), want = {0}, reply = {0};
    generate(r, "", &on, "Hm.</think>Good.");
    add_reply(&reply, "Good.");
    struct ids got = prompt_of(r, NULL, next, ""), plain = prompt_of(NULL, NULL, next, "");
    size_t n = common(&got, &plain); /* up to the reply */
    assert_true(n < plain.n && plain.data[n - 1] == tokenizer_id(tokenizer, "</think>"));
    for (size_t i = 0; i < n; i++)
        ids_add(&want, plain.data[i]);
    for (size_t i = 0; i < reply.n; i++)
        ids_add(&want, reply.data[i]);
    ids_add(&want, EOS);
    assert_int_equal(common(&got, &want), want.n);
    ids_free(&on);
    ids_free(&want);
    ids_free(&reply);
    ids_free(&got);
    ids_free(&plain);
    replay_close(&r);
}

/* Two replies that look the same: hidden reasoning goes with its context or with its ids, otherwise it stays away. */
static void test_hidden_reasoning(void **state)
{
    (void)state;
    static const char other[] = "{\"role\": \"user\", \"content\": \"Bye\"}";
    struct replay *r = open_replay(MEMORY, NULL, NULL);
    struct ids a = prompt_of(r, NULL, USER, TOOLS), b = prompt_of(r, NULL, other, TOOLS);
    generate(r, "", &a, "One.</think>Fine.");
    generate(r, "", &b, "Two.</think>Fine.");
    assert_true(is_generated(r, USER ASSISTANT "\"content\": \"Fine.\"}, " USER, TOOLS, &a));
    char *second = xasprintf("%s%s\"content\": \"Fine.\"}, %s", other, ASSISTANT, USER);
    assert_true(is_generated(r, second, TOOLS, &b));
    free(second);
    struct ids third = prompt_of(r, NULL, "{\"role\": \"user\", \"content\": \"Oh\"}" ASSISTANT "\"content\": \"Fine.\"}, " USER,
                                 TOOLS);
    struct ids plain = prompt_of(NULL, NULL, "{\"role\": \"user\", \"content\": \"Oh\"}" ASSISTANT
                                 "\"content\": \"Fine.\"}, " USER, TOOLS);
    assert_true(third.n == plain.n && common(&third, &plain) == third.n);
    ids_free(&third);
    ids_free(&plain);
    ids_free(&a);
    ids_free(&b);
    replay_close(&r);
}

static void test_not_remembered(void **state)
{
    (void)state;
    struct replay *r = open_replay(MEMORY, NULL, NULL);
    struct replay_stats s;
    static const char *const replies[] = {
        "Let me look.", /* cut while thinking; cut in a call */
        "Look.</think>" DSML "tool_calls>\n" DSML "invoke name=\"look\">\n" DSML "parameter name=\"a\" string=\"true\">b",
    };
    for (size_t i = 0; i < COUNT_OF(replies); i++) {
        struct ids t = prompt_of(r, NULL, USER, TOOLS);
        generate(r, "", &t, replies[i]);
        ids_free(&t);
    }
    replay_read_stats(r, &s);
    assert_int_equal(s.n_replies, 0);
    replay_close(&r);
}

/* ---------------------------------------------------------------- users, bounds */

static void test_users(void **state)
{
    (void)state;
    static const char next[] = USER ASSISTANT "\"content\": \"Fine.\"}, " USER;
    struct replay *r = open_replay(MEMORY, NULL, NULL);
    struct ids t = prompt_of(r, "7/", USER, ", \"user_id\": \"ann\"");
    generate(r, "7/ann", &t, "Hm.</think>Fine.");
    for (int i = 0; i < 4; i++) {
        static const char *const scopes[] = {"7/", "7/", "8/", NULL}, *const users[] = {"ann", "bob", "ann", "ann"};
        char *more = xasprintf(", \"keep_thinking\": true, \"user_id\": \"%s\"", users[i]);
        struct ids got = prompt_of(r, scopes[i], next, more);
        assert_int_equal(common(&got, &t) == t.n, i == 0);
        ids_free(&got);
        free(more);
    }
    ids_free(&t);
    replay_close(&r);
}

static void say(struct replay *r, int i)
{
    char *reply = xasprintf("Hm.</think>Reply %d.", i);
    struct ids t = prompt_of(r, NULL, USER, "");
    generate(r, "", &t, reply);
    ids_free(&t);
    free(reply);
}

static bool is_known(struct replay *r, int i)
{
    struct replay_stats before, after;
    replay_read_stats(r, &before);
    char *messages = xasprintf(USER ASSISTANT "\"content\": \"Reply %d.\"}, " USER, i);
    struct ids t = prompt_of(r, NULL, messages, "");
    replay_read_stats(r, &after);
    ids_free(&t);
    free(messages);
    assert_int_equal(after.n_found + after.n_unknown, before.n_found + before.n_unknown + 1);
    return after.n_found > before.n_found;
}

static void test_bound(void **state)
{
    (void)state;
    enum { BYTES = 4000, N = 100 };
    struct replay *r = open_replay(BYTES, NULL, NULL);
    struct replay_stats s;
    for (int i = 0; i < N; i++) {
        say(r, i);
        assert_true(is_known(r, i) && (i == 0 || is_known(r, 0))); /* what is used stays */
        replay_read_stats(r, &s);
        assert_true(s.bytes <= BYTES && s.n_replies > 0);
    }
    assert_true(s.n_replies < N && !is_known(r, 1) && is_known(r, N - 2));
    say(r, N - 1); /* again: is there already */
    struct replay_stats again;
    replay_read_stats(r, &again);
    assert_int_equal(again.n_replies, s.n_replies);
    replay_close(&r);
}

/* ---------------------------------------------------------------- the file */

static void write_file(const char *path, const struct buf *b, size_t n)
{
    FILE *f = fopen(path, "wb");
    assert_non_null(f);
    assert_int_equal(fwrite(b->data, 1, n, f), n);
    fclose(f);
}

/* Opens what is in the file; how many replies it gave. */
static int64_t replies_in(const char *path, bool warns)
{
    char *warning = NULL;
    struct replay_stats s;
    struct replay *r = open_replay(MEMORY, path, &warning);
    if ((warning != NULL) != warns)
        fail_msg("warning: %s", warning != NULL ? warning : "none");
    replay_read_stats(r, &s);
    replay_close(&r);
    free(warning);
    return s.n_replies;
}

static void check_damage(const char *path, const struct buf *whole)
{
    struct buf b = {0};
    for (size_t i = 0; i < whole->len; i += 7) { /* a byte changed: only whole records before it are used */
        buf_clear(&b);
        buf_add(&b, whole->data, whole->len);
        b.data[i] = (char)(b.data[i] ^ 0x10);
        write_file(path, &b, b.len);
        int64_t n = replies_in(path, i < 12 || i >= 16); /* the header's spare field says nothing */
        assert_true(i >= 12 && i < 16 ? n == 3 : n < 3);
        assert_int_equal(replies_in(path, false), n); /* repaired */
    }
    for (size_t n = 0; n < whole->len; n += 5) { /* truncated */
        write_file(path, whole, n);
        assert_true(replies_in(path, n > 0 && n != 24) < 3 || n > whole->len);
        assert_true(replies_in(path, false) < 3);
    }
    buf_free(&b);
}

static void test_file(void **state)
{
    (void)state;
    char path[] = "/tmp/hadal-replay-XXXXXX";
    struct buf whole = {0};
    struct stat st;
    int fd = mkstemp(path);
    assert_true(fd >= 0);
    close(fd);
    unlink(path);
    struct replay *r = open_replay(MEMORY, path, NULL);
    for (int i = 0; i < 3; i++)
        say(r, i);
    assert_int_equal(stat(path, &st), 0);
    assert_int_equal(st.st_mode & 0777, 0600);
    assert_int_equal(file_read(&whole, path, MEMORY, NULL), HD_OK); /* as a killed process leaves it */
    replay_close(&r);
    r = open_replay(MEMORY, path, NULL);
    for (int i = 0; i < 4; i++)
        assert_int_equal(is_known(r, i), i < 3);
    replay_close(&r);
    check_damage(path, &whole);
    unlink(path);
    buf_free(&whole);
    struct err e = {0};
    char *warning;
    assert_int_equal(replay_open(&r, tokenizer, MEMORY, "/nowhere/replies", &warning, &e), HD_EIO);
    assert_non_null(strstr(e.msg, "/nowhere/replies"));
}

/* The file stays within its bound. */
static void test_file_size(void **state)
{
    (void)state;
    enum { BYTES = 3000 };
    char path[] = "/tmp/hadal-replay-XXXXXX";
    int fd = mkstemp(path);
    close(fd);
    struct replay *r = open_replay(BYTES, path, NULL);
    for (int i = 0; i < 300; i++) {
        say(r, i);
        assert_true(file_size(path) <= 3 * BYTES);
    }
    replay_close(&r);
    assert_true(replies_in(path, false) > 3);
    unlink(path);
}

int main(void)
{
    struct err e = {0};
    if (tokenizer_open(&tokenizer, "models/tiny", &e) != HD_OK) {
        printf("not ok 1 - %s\n", e.msg);
        return 1;
    }
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_variants),         cmocka_unit_test(test_thinking),
        cmocka_unit_test(test_dropped),          cmocka_unit_test(test_hidden_reasoning),
        cmocka_unit_test(test_not_remembered),   cmocka_unit_test(test_users),
        cmocka_unit_test(test_bound),            cmocka_unit_test(test_file),
        cmocka_unit_test(test_file_size),
    };
    int rc = cmocka_run_group_tests(tests, NULL, NULL);
    tokenizer_close(&tokenizer);
    return rc;
}
