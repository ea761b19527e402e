/* An agent that sends its whole conversation back in every turn. */
#include "bin/bench_serving.h"

#include <string.h>

enum { TURNS = 40, REPLY_TOKENS = 24, RESULT_WORDS = 60, SYSTEM_WORDS = 900 };

static void add_words(struct rng *rng, struct buf *b, int n)
{
    static const char *const words[] = {"the", "file", "has", "lines", "and", "a", "function", "returns", "one", "error",
                                        "in", "test", "of", "station", "open", "path", "with", "value", "seven", "not"};
    for (int i = 0; i < n; i++)
        buf_printf(b, "%s%s", words[rng_below(rng, COUNT_OF(words))], i % 12 == 11 ? ".\n" : " ");
}

static void add_message(json_t *messages, const char *role, const char *text, size_t n)
{
    json_array_append_new(messages, json_pack("{s:s, s:o}", "role", role, "content", json_stringn_nocheck(text, n)));
}

static json_t *begin_conversation(struct serving *s)
{
    static const char tools[] = "[{\"type\": \"function\", \"function\": {\"name\": \"read\", \"parameters\": "
                                "{\"type\": \"object\", \"properties\": {\"path\": {\"type\": \"string\"}}}}}]";
    struct buf text = {0};
    json_t *messages = json_array(), *body = json_object();
    add_words(&s->rng, &text, SYSTEM_WORDS);
    add_message(messages, "system", text.data, text.len);
    add_message(messages, "user", "Find the error.", strlen("Find the error."));
    json_object_set_new(body, "messages", messages);
    json_object_set_new(body, "tools", json_loads(tools, 0, NULL));
    json_object_set_new(body, "thinking", json_pack("{s:s}", "type", "disabled"));
    json_object_set_new(body, "max_tokens", json_integer(REPLY_TOKENS));
    buf_free(&text);
    return body;
}

/* A turn: the request goes in as JSON text, the reply goes back as its visible text, then a result of the tool. */
static int turn(struct serving *s, json_t *body, struct gen_usage *u, struct err *e)
{
    json_t *messages = json_object_get(body, "messages");
    struct gen_request r;
    struct gen_event ev;
    struct job *j;
    struct buf reply = {0}, result = {0};
    int rc = request_parse(&r, body, engine_env(s->engine), e);
    if (rc == HD_OK)
        rc = engine_submit(s->engine, &r, NULL, NULL, &j, e);
    if (rc != HD_OK)
        return rc;
    while (engine_next(j, &ev, -1) == 1) {
        if (ev.kind == GEN_CONTENT || ev.kind == GEN_TOOL_BROKEN)
            buf_add(&reply, ev.text, ev.n);
        if (ev.kind == GEN_END)
            *u = ev.usage;
    }
    engine_release(&j);
    add_message(messages, "assistant", reply.len > 0 ? reply.data : "", reply.len);
    add_words(&s->rng, &result, RESULT_WORDS);
    add_message(messages, "tool", result.data, result.len);
    buf_free(&reply);
    buf_free(&result);
    return HD_OK;
}

int serving_agent(struct serving *s, struct err *e)
{
    struct gen_usage u = {0};
    double prompts = 0, hits = 0;
    int rc = HD_OK;
    json_t *body = begin_conversation(s);
    for (int i = 0; i < TURNS && rc == HD_OK; i++) {
        rc = turn(s, body, &u, e);
        prompts += (double)u.prompt_tokens;
        hits += (double)u.reused_tokens;
    }
    json_decref(body);
    if (rc != HD_OK)
        return rc;
    serving_row(s->b, "tokens", (double)u.prompt_tokens, "serving agent, last prompt of turns", TURNS);
    serving_row(s->b, "of prompts", hits / prompts, "serving agent, hits", 0);
    return HD_OK;
}
