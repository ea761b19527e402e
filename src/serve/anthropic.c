/* The dialect of Anthropic's Messages, as Claude Code and the anthropic SDKs speak it. Here the answer;
 * anthropic_read.c reads requests. */
#include "serve/anthropic.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

/* ---------------------------------------------------------------- the answer */

static void anthropic_id(struct api_answer *a, const uint64_t random[2])
{
    memcpy(a->id, "msg_", 4);
    api_base62(a->id + 4, random[0], 24);
}

/* Whoever sends the thinking back sends this along; nothing is made of it here. */
static void write_signature(const struct api_part *p, struct buf *out)
{
    uint64_t h = 0;
    char text[65];
    for (size_t i = 0; i < p->text.len; i++)
        h = mix64(h ^ (unsigned char)p->text.data[i]);
    api_base62(text, h, 64);
    out_str(out, "signature", text);
}

static void write_usage(const struct api_answer *a, struct buf *out)
{
    out_open(out, "usage", '{');
    out_int(out, "input_tokens", a->usage.prompt_tokens - a->usage.reused_tokens);
    out_int(out, "cache_creation_input_tokens", 0);
    out_int(out, "cache_read_input_tokens", a->usage.reused_tokens);
    out_int(out, "output_tokens", a->usage.completion_tokens);
    out_str(out, "service_tier", "standard");
    api_usage_extras(a, out);
    out_close(out, '}');
}

static void write_stop(const struct api_answer *a, struct buf *out)
{
    bool by_string = a->finish == FINISH_STOP && a->stop != NULL;
    if (a->finish == FINISH_NONE) {
        out_null(out, "stop_reason");
        out_null(out, "stop_sequence");
        return;
    }
    out_str(out, "stop_reason", by_string                          ? "stop_sequence"
                                : a->finish == FINISH_STOP         ? "end_turn"
                                : a->finish == FINISH_TOOL_CALLS   ? "tool_use"
                                                                   : "max_tokens");
    if (by_string)
        out_str(out, "stop_sequence", a->stop);
    else
        out_null(out, "stop_sequence");
}

static void write_part(const struct api_answer *a, const struct api_part *p, struct buf *out)
{
    out_open(out, NULL, '{');
    if (p->kind == PART_REASONING) {
        out_str(out, "type", "thinking");
        out_text(out, "thinking", p->text.data, a->req->omits_thinking ? 0 : p->text.len);
        write_signature(p, out);
    } else if (p->kind == PART_TEXT) {
        out_str(out, "type", "text");
        out_text(out, "text", p->text.data, p->text.len);
    } else {
        out_str(out, "type", "tool_use");
        out_str(out, "id", p->id);
        out_str(out, "name", p->name);
        out_raw(out, "input", p->text.len > 0 ? p->text.data : "{}", p->text.len > 0 ? p->text.len : 2);
    }
    out_close(out, '}');
}

static void write_message(const struct api_answer *a, const char *key, bool begins, struct buf *out)
{
    out_open(out, key, '{');
    out_str(out, "id", a->id);
    out_str(out, "type", "message");
    out_str(out, "role", "assistant");
    out_str(out, "model", a->env->model);
    out_open(out, "content", '[');
    for (int i = 0; i < a->n_parts && !begins; i++)
        if (!a->parts[i].broken)
            write_part(a, &a->parts[i], out);
    out_close(out, ']');
    write_stop(a, out);
    write_usage(a, out);
    out_close(out, '}');
}

static void anthropic_whole(const struct api_answer *a, struct buf *out)
{
    write_message(a, NULL, false, out);
}

/* ---------------------------------------------------------------- the stream */

static void event_open(struct buf *out, const char *type)
{
    buf_printf(out, "event: %s\ndata: ", type);
    buf_char(out, '{');
    out_str(out, "type", type);
}

static void event_close(struct buf *out)
{
    buf_str(out, "}\n\n");
}

static void block_delta(const struct api_answer *a, const char *type, const char *key, const char *text, size_t n,
                        struct buf *out)
{
    event_open(out, "content_block_delta");
    out_int(out, "index", a->i_block);
    out_open(out, "delta", '{');
    out_str(out, "type", type);
    out_text(out, key, text, n);
    out_close(out, '}');
    event_close(out);
}

static const struct api_part *last_part(const struct api_answer *a, enum api_part_kind kind)
{
    for (int i = a->n_parts; i-- > 0;)
        if (a->parts[i].kind == kind)
            return &a->parts[i];
    return NULL;
}

static void block_close(struct api_answer *a, struct buf *out)
{
    if (!a->in_block)
        return;
    a->in_block = false;
    if (a->block == PART_REASONING) {
        event_open(out, "content_block_delta");
        out_int(out, "index", a->i_block);
        out_open(out, "delta", '{');
        out_str(out, "type", "signature_delta");
        write_signature(last_part(a, PART_REASONING), out);
        out_close(out, '}');
        event_close(out);
    }
    event_open(out, "content_block_stop");
    out_int(out, "index", a->i_block);
    event_close(out);
}

static void block_open(struct api_answer *a, const struct api_part *p, struct buf *out)
{
    if (a->in_block && a->block == p->kind && p->kind != PART_CALL)
        return;
    block_close(a, out);
    a->in_block = true;
    a->block = p->kind;
    a->i_block++;
    event_open(out, "content_block_start");
    out_int(out, "index", a->i_block);
    out_open(out, "content_block", '{');
    if (p->kind == PART_CALL) {
        out_str(out, "type", "tool_use");
        out_str(out, "id", p->id);
        out_str(out, "name", p->name);
        out_raw(out, "input", "{}", 2);
    } else {
        out_str(out, "type", p->kind == PART_TEXT ? "text" : "thinking");
        out_str(out, p->kind == PART_TEXT ? "text" : "thinking", "");
        if (p->kind == PART_REASONING)
            out_str(out, "signature", "");
    }
    out_close(out, '}');
    event_close(out);
}

static void message_end(struct api_answer *a, struct buf *out)
{
    block_close(a, out);
    event_open(out, "message_delta");
    out_open(out, "delta", '{');
    write_stop(a, out);
    out_close(out, '}');
    write_usage(a, out);
    event_close(out);
    event_open(out, "message_stop");
    event_close(out);
}

static void anthropic_event(struct api_answer *a, const struct api_event *ev, struct buf *out)
{
    switch (ev->kind) {
    case API_BEGIN:
        event_open(out, "message_start");
        write_message(a, "message", true, out);
        event_close(out);
        break;
    case API_REASONING:
        block_open(a, ev->part, out);
        if (!a->req->omits_thinking)
            block_delta(a, "thinking_delta", "thinking", ev->text, ev->n, out);
        break;
    case API_TEXT:
        block_open(a, ev->part, out);
        block_delta(a, "text_delta", "text", ev->text, ev->n, out);
        break;
    case API_CALL_BEGIN:
        block_open(a, ev->part, out);
        break;
    case API_CALL_ARGS:
        block_delta(a, "input_json_delta", "partial_json", ev->text, ev->n, out);
        break;
    case API_CALL_END:
    case API_CALL_BROKEN:
        block_close(a, out);
        break;
    case API_END:
        message_end(a, out);
        break;
    }
}

/* ---------------------------------------------------------------- errors */

static const struct error_form {
    int status;
    const char *type;
} error_forms[] = {
    [API_BAD] = {400, "invalid_request_error"},   [API_SYNTAX] = {400, "invalid_request_error"},
    [API_TYPE] = {400, "invalid_request_error"},  [API_OVERFLOW] = {400, "invalid_request_error"},
    [API_KEY] = {401, "authentication_error"},    [API_BALANCE] = {402, "billing_error"},
    [API_NOT_FOUND] = {404, "not_found_error"},   [API_METHOD] = {405, "invalid_request_error"},
    [API_TOO_LARGE] = {413, "request_too_large"}, [API_BUSY] = {529, "overloaded_error"},
    [API_LOADING] = {529, "overloaded_error"},    [API_CLOSING] = {529, "overloaded_error"},
    [API_TIMEOUT] = {504, "timeout_error"},       [API_INTERNAL] = {500, "api_error"},
};

static int anthropic_status(const struct api_error *e)
{
    return error_forms[e->kind].status;
}

static void write_error(const struct api_error *e, struct buf *out)
{
    out_open(out, NULL, '{');
    out_str(out, "type", "error");
    out_open(out, "error", '{');
    out_str(out, "type", error_forms[e->kind].type);
    if (e->kind == API_OVERFLOW) { /* clients shorten the conversation when they read this */
        char text[96];
        snprintf(text, sizeof text, "prompt is too long: %" PRId64 " tokens > %" PRId64 " maximum", e->n_tokens,
                 e->max_tokens);
        out_str(out, "message", text);
    } else
        out_str(out, "message", e->msg);
    out_close(out, '}');
}

static void anthropic_error(const struct api_error *e, const char *request_id, struct buf *out)
{
    write_error(e, out);
    out_str(out, "request_id", request_id);
    out_close(out, '}');
}

static void anthropic_error_event(struct api_answer *a, const struct api_error *e, struct buf *out)
{
    (void)a;
    struct buf body = {0};
    write_error(e, &body);
    buf_str(out, "event: error\ndata: ");
    buf_add(out, body.data, body.len);
    buf_free(&body);
    buf_str(out, "}\n\n");
}

const struct dialect dialect_anthropic = {
    .name = "messages",
    .read = anthropic_read,
    .make_id = anthropic_id,
    .event = anthropic_event,
    .whole = anthropic_whole,
    .status = anthropic_status,
    .error = anthropic_error,
    .error_event = anthropic_error_event,
    .ping = "event: ping\ndata: {\"type\":\"ping\"}\n\n",
};
