/* A reply collected from its events. */
#include "bin/talk.h"

#include <stdio.h>
#include <string.h>

static json_t *text_json(const struct buf *b)
{
    return json_stringn(b->data == NULL ? "" : b->data, b->len);
}

static json_t *token_json(const struct tokenizer *t, int32_t id, float logprob)
{
    size_t n;
    const char *bytes = tokenizer_bytes(t, id, &n);
    struct utf8_stream utf8 = {0};
    struct buf text = {0};
    utf8_stream_add(&utf8, bytes, n, &text);
    utf8_stream_flush(&utf8, &text);
    json_t *list = json_array();
    for (size_t i = 0; i < n; i++)
        json_array_append_new(list, json_integer((unsigned char)bytes[i]));
    json_t *o = json_pack("{s:o, s:i, s:f, s:o}", "token", text_json(&text), "id", (int)id, "logprob", (double)logprob,
                          "bytes", list);
    buf_free(&text);
    return o;
}

static void add_token(struct talk_reply *r, const struct gen_event *ev, const struct tokenizer *t)
{
    json_t *o = token_json(t, ev->token, ev->logprob), *top = json_array();
    for (int i = 0; i < ev->n_top; i++)
        json_array_append_new(top, token_json(t, ev->top[i].id, ev->top[i].logprob));
    json_object_set_new(o, "top_logprobs", top);
    if (r->logprobs == NULL)
        r->logprobs = json_array();
    json_array_append_new(r->logprobs, o);
}

static void start_call(struct talk_reply *r, const struct gen_event *ev)
{
    char id[32];
    snprintf(id, sizeof id, "call_%02d", ev->i_call);
    if (r->calls == NULL)
        r->calls = json_array();
    buf_clear(&r->call_args);
    json_array_append_new(r->calls, json_pack("{s:s, s:s, s:{s:o, s:s}}", "id", id, "type", "function", "function", "name",
                                              json_stringn(ev->text, ev->n), "arguments", ""));
}

static void end_call(struct talk_reply *r)
{
    json_t *call = json_array_get(r->calls, json_array_size(r->calls) - 1);
    json_object_set_new(json_object_get(call, "function"), "arguments", text_json(&r->call_args));
}

void talk_reply_add(struct talk_reply *r, const struct gen_event *ev, const struct tokenizer *t)
{
    switch (ev->kind) {
    case GEN_PROMPT:
        break;
    case GEN_REASONING:
        buf_add(&r->reasoning, ev->text, ev->n);
        break;
    case GEN_CONTENT:
        buf_add(&r->content, ev->text, ev->n);
        break;
    case GEN_TOOL_START:
        start_call(r, ev);
        break;
    case GEN_TOOL_ARGS:
        buf_add(&r->call_args, ev->text, ev->n);
        break;
    case GEN_TOOL_END:
        end_call(r);
        break;
    case GEN_TOOL_BROKEN: /* no call after all: what the model wrote is content */
        json_array_remove(r->calls, json_array_size(r->calls) - 1);
        buf_add(&r->content, ev->text, ev->n);
        break;
    case GEN_TOKEN:
        add_token(r, ev, t);
        break;
    case GEN_END:
        r->finish = ev->finish;
        r->usage = ev->usage;
        buf_add(&r->error, ev->text, ev->n);
        break;
    }
}

void talk_reply_free(struct talk_reply *r)
{
    buf_free(&r->content);
    buf_free(&r->reasoning);
    buf_free(&r->error);
    buf_free(&r->call_args);
    json_decref(r->calls);
    json_decref(r->logprobs);
    *r = (struct talk_reply){0};
}

json_t *talk_reply_message(const struct talk_reply *r)
{
    json_t *m = json_pack("{s:s, s:o}", "role", "assistant", "content", text_json(&r->content));
    if (r->reasoning.len > 0)
        json_object_set_new(m, "reasoning_content", text_json(&r->reasoning));
    if (json_array_size(r->calls) > 0)
        json_object_set_new(m, "tool_calls", json_deep_copy(r->calls));
    return m;
}

static json_t *usage_json(const struct gen_usage *u)
{
    return json_pack("{s:I, s:I, s:I, s:I, s:f, s:f}", "prompt_tokens", (json_int_t)u->prompt_tokens, "reused_tokens",
                     (json_int_t)u->reused_tokens, "completion_tokens", (json_int_t)u->completion_tokens,
                     "reasoning_tokens", (json_int_t)u->reasoning_tokens, "prompt_seconds", (double)u->prompt_ns * 1e-9,
                     "completion_seconds", (double)u->completion_ns * 1e-9);
}

json_t *talk_reply_json(const struct talk_reply *r, uint64_t seed)
{
    json_t *o = talk_reply_message(r);
    json_object_set_new(o, "finish_reason", json_string(finish_name(r->finish)));
    json_object_set_new(o, "seed", json_integer((json_int_t)seed));
    json_object_set_new(o, "usage", usage_json(&r->usage));
    if (r->logprobs != NULL)
        json_object_set(o, "logprobs", r->logprobs);
    return o;
}
