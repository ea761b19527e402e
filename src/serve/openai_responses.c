/* The dialect of OpenAI's Responses, as Codex and the openai SDKs speak it; stateless, like DeepSeek's own. Here the
 * events of a stream and the errors; responses_read.c and responses_write.c are the ways in and out. */
#include "serve/responses.h"

#include <string.h>

static void responses_id(struct api_answer *a, const uint64_t random[2])
{
    memcpy(a->id, "resp_", 5);
    api_base62(a->id + 5, random[0], 32);
}

/* ---------------------------------------------------------------- the stream */

static void event_open(struct api_answer *a, const char *type, struct buf *out)
{
    buf_printf(out, "event: %s\ndata: {", type);
    out_str(out, "type", type);
    out_int(out, "sequence_number", a->sequence++);
}

static void event_close(struct buf *out)
{
    buf_str(out, "}\n\n");
}

static void response_event(struct api_answer *a, const char *type, const char *code, const char *message, struct buf *out)
{
    event_open(a, type, out);
    responses_object(a, "response", code, message, out);
    event_close(out);
}

/* Opens an event about the item under way. */
static void item_event(struct api_answer *a, const char *type, bool content, struct buf *out)
{
    char id[64];
    event_open(a, type, out);
    responses_item_id(a, a->i_block, a->block, id);
    out_str(out, "item_id", id);
    out_int(out, "output_index", a->i_block);
    if (content)
        out_int(out, "content_index", 0);
}

static void whole_item_event(struct api_answer *a, const char *type, const struct api_part *p, bool complete,
                             struct buf *out)
{
    event_open(a, type, out);
    out_int(out, "output_index", a->i_block);
    responses_item(a, a->i_block, p, "item", complete, out);
    event_close(out);
}

static void part_event(struct api_answer *a, const char *type, const struct api_part *p, bool complete, struct buf *out)
{
    item_event(a, type, true, out);
    responses_content(a, p, "part", complete, out);
    event_close(out);
}

static void delta_event(struct api_answer *a, const char *type, bool content, const struct api_event *ev, struct buf *out)
{
    item_event(a, type, content, out);
    out_text(out, "delta", ev->text, ev->n);
    if (content && a->block == PART_TEXT)
        responses_tokens(ev->tokens, out);
    event_close(out);
}

static void text_close(struct api_answer *a, const struct api_part *p, struct buf *out)
{
    item_event(a, p->kind == PART_TEXT ? "response.output_text.done" : "response.reasoning_text.done", true, out);
    out_text(out, "text", p->text.data, p->text.len);
    if (p->kind == PART_TEXT)
        responses_tokens(&p->tokens, out);
    event_close(out);
    part_event(a, "response.content_part.done", p, true, out);
}

static void call_close(struct api_answer *a, const struct api_part *p, struct buf *out)
{
    bool custom = responses_is_custom(a->req, p->name);
    if (custom) {
        item_event(a, "response.custom_tool_call_input.delta", false, out);
        responses_custom_input(p, "delta", out);
        event_close(out);
    }
    item_event(a, custom ? "response.custom_tool_call_input.done" : "response.function_call_arguments.done", false, out);
    if (custom)
        responses_custom_input(p, "input", out);
    else {
        out_str(out, "name", p->name);
        out_text(out, "arguments", p->text.data, p->text.len);
    }
    event_close(out);
}

/* The item under way is always the answer's last part, or the one before when the next was just added. */
static void item_close(struct api_answer *a, struct buf *out)
{
    if (!a->in_block)
        return;
    const struct api_part *p = &a->parts[a->i_block];
    a->in_block = false;
    if (p->broken)
        return; /* an item without an end is not acted upon */
    if (p->kind == PART_CALL)
        call_close(a, p, out);
    else
        text_close(a, p, out);
    whole_item_event(a, "response.output_item.done", p, true, out);
}

static void item_open(struct api_answer *a, const struct api_part *p, struct buf *out)
{
    int index = (int)(p - a->parts);
    if (a->in_block && a->i_block == index)
        return;
    item_close(a, out);
    a->in_block = true;
    a->block = p->kind;
    a->i_block = index;
    whole_item_event(a, "response.output_item.added", p, false, out);
    if (p->kind != PART_CALL)
        part_event(a, "response.content_part.added", p, false, out);
}

static void responses_event(struct api_answer *a, const struct api_event *ev, struct buf *out)
{
    switch (ev->kind) {
    case API_BEGIN:
        response_event(a, "response.created", NULL, NULL, out);
        response_event(a, "response.in_progress", NULL, NULL, out);
        break;
    case API_REASONING:
        item_open(a, ev->part, out);
        delta_event(a, "response.reasoning_text.delta", true, ev, out);
        break;
    case API_TEXT:
        item_open(a, ev->part, out);
        delta_event(a, "response.output_text.delta", true, ev, out);
        break;
    case API_CALL_BEGIN:
        item_open(a, ev->part, out);
        break;
    case API_CALL_ARGS:
        if (!responses_is_custom(a->req, ev->part->name))
            delta_event(a, "response.function_call_arguments.delta", false, ev, out);
        break;
    case API_CALL_END:
    case API_CALL_BROKEN:
        item_close(a, out);
        break;
    case API_END:
        item_close(a, out);
        response_event(a, strcmp(responses_state(a, false), "completed") == 0 ? "response.completed" : "response.incomplete",
                       NULL, NULL, out);
    }
}

/* ---------------------------------------------------------------- errors */

static const struct error_form {
    int status;
    const char *type, *code;
} error_forms[] = {
    [API_BAD] = {400, "invalid_request_error", "invalid_request_error"},
    [API_SYNTAX] = {400, "invalid_request_error", "invalid_request_error"},
    [API_TYPE] = {422, "invalid_request_error", "invalid_request_error"},
    [API_OVERFLOW] = {400, "invalid_request_error", "context_length_exceeded"},
    [API_KEY] = {401, "authentication_error", "invalid_api_key"},
    [API_BALANCE] = {402, "insufficient_quota", "insufficient_quota"},
    [API_NOT_FOUND] = {404, "invalid_request_error", "not_found"},
    [API_METHOD] = {405, "invalid_request_error", "method_not_allowed"},
    [API_TOO_LARGE] = {413, "invalid_request_error", "invalid_request_error"},
    [API_BUSY] = {429, "rate_limit_error", "rate_limit_exceeded"},
    [API_LOADING] = {503, "service_unavailable_error", "model_loading"},
    [API_CLOSING] = {503, "service_unavailable_error", "shutting_down"},
    [API_TIMEOUT] = {504, "timeout_error", "deadline_exceeded"},
    [API_INTERNAL] = {500, "server_error", "server_error"},
};

static int responses_status(const struct api_error *e)
{
    return error_forms[e->kind].status;
}

static void responses_error(const struct api_error *e, const char *request_id, struct buf *out)
{
    (void)request_id; /* only in the header */
    form_error_body(e->msg, error_forms[e->kind].type, error_forms[e->kind].code, out);
}

static void responses_error_event(struct api_answer *a, const struct api_error *e, struct buf *out)
{
    response_event(a, "response.failed", error_forms[e->kind].code, e->msg, out);
}

const struct dialect dialect_responses = {
    .name = "responses",
    .read = responses_read,
    .make_id = responses_id,
    .event = responses_event,
    .whole = responses_whole,
    .status = responses_status,
    .error = responses_error,
    .error_event = responses_error_event,
    .ping = ": keep-alive\n\n",
};
