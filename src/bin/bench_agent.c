/* An agent that sends its whole conversation back in every turn: with replies of the model and made-up results, or a
 * recorded one. */
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

/* Of all turns. */
struct tally {
    int n;
    double prompts, hits, last; /* tokens; last: of the last prompt */
};

static void count(struct tally *t, const struct gen_usage *u)
{
    t->n++;
    t->last = (double)u->prompt_tokens;
    t->prompts += (double)u->prompt_tokens;
    t->hits += (double)u->reused_tokens;
}

/* Submits the conversation so far and waits; what the model says goes to reply (NULL: nowhere). */
static int ask(struct serving *s, const json_t *body, struct buf *reply, struct gen_usage *u, struct err *e)
{
    struct gen_request r;
    struct gen_event ev;
    struct job *j;
    int rc = request_parse(&r, body, engine_env(s->engine), e);
    if (rc == HD_OK)
        rc = engine_submit(s->engine, &r, NULL, NULL, &j, e);
    if (rc != HD_OK)
        return rc;
    while (engine_next(j, &ev, -1) == 1) {
        if (reply != NULL && (ev.kind == GEN_CONTENT || ev.kind == GEN_TOOL_BROKEN))
            buf_add(reply, ev.text, ev.n);
        if (ev.kind == GEN_END)
            *u = ev.usage;
        if (ev.kind == GEN_END && ev.finish == FINISH_ERROR)
            rc = err_set(e, HD_EIO, "%s", ev.text);
    }
    engine_release(&j);
    return rc;
}

/* A turn: the request goes in as JSON text, the reply goes back as its visible text, then a result of the tool. */
static int turn(struct serving *s, json_t *body, struct gen_usage *u, struct err *e)
{
    json_t *messages = json_object_get(body, "messages");
    struct buf reply = {0}, result = {0};
    int rc = ask(s, body, &reply, u, e);
    if (rc == HD_OK) {
        add_message(messages, "assistant", reply.len > 0 ? reply.data : "", reply.len);
        add_words(&s->rng, &result, RESULT_WORDS);
        add_message(messages, "tool", result.data, result.len);
    }
    buf_free(&reply);
    buf_free(&result);
    return rc;
}

/* A file {"messages": [...], "tools": [...]} as a client would have sent it at the end of its work. */
static json_t *read_conversation(const char *path, struct err *e)
{
    json_error_t why;
    json_t *o = json_load_file(path, JSON_REJECT_DUPLICATES, &why);
    if (o == NULL)
        err_set(e, HD_EFORMAT, "%s: line %d: %s", path, why.line, why.text);
    else if (!json_is_array(json_object_get(o, "messages"))) {
        err_set(e, HD_EFORMAT, "%s: messages is not an array", path);
        json_decref(o);
        return NULL;
    }
    return o;
}

/* Before each recorded reply the conversation up to it is sent; the model's own reply is cut short and left out. */
static int replay(struct serving *s, const char *path, struct tally *t, struct err *e)
{
    json_t *recorded = read_conversation(path, e), *sent = json_array(), *message;
    json_t *body = json_pack("{s:o, s:{s:s}, s:i}", "messages", sent, "thinking", "type", "disabled", "max_tokens", 2);
    size_t i;
    int rc = recorded == NULL ? e->code : HD_OK;
    if (json_object_get(recorded, "tools") != NULL)
        json_object_set(body, "tools", json_object_get(recorded, "tools"));
    json_array_foreach(json_object_get(recorded, "messages"), i, message) {
        const char *role = json_string_value(json_object_get(message, "role"));
        struct gen_usage u;
        if (rc == HD_OK && role != NULL && strcmp(role, "assistant") == 0 && (rc = ask(s, body, NULL, &u, e)) == HD_OK)
            count(t, &u);
        json_array_append(sent, message);
    }
    json_decref(body);
    json_decref(recorded);
    return rc;
}

/* The model's own replies go back, with made-up results. */
static int converse(struct serving *s, struct tally *t, struct err *e)
{
    json_t *body = begin_conversation(s);
    int rc = HD_OK;
    for (int i = 0; i < TURNS && rc == HD_OK; i++) {
        struct gen_usage u;
        if ((rc = turn(s, body, &u, e)) == HD_OK)
            count(t, &u);
    }
    json_decref(body);
    return rc;
}

int serving_agent(struct serving *s, struct err *e)
{
    struct tally t = {0};
    int rc = s->b->conversation != NULL ? replay(s, s->b->conversation, &t, e) : converse(s, &t, e);
    if (rc != HD_OK)
        return rc;
    if (t.n == 0)
        return err_set(e, HD_EFORMAT, "%s: no message is an assistant's", s->b->conversation);
    serving_row(s->b, "turns", (double)t.n, "serving agent, turns", 0);
    serving_row(s->b, "tokens", t.last, "serving agent, last prompt", 0);
    serving_row(s->b, "of prompts", t.hits / t.prompts, "serving agent, hits", 0);
    return HD_OK;
}
