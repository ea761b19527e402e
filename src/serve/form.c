/* Forms that the dialects of DeepSeek's own service share: ids, usage, errors. */
#include "serve/api.h"

#include <inttypes.h>
#include <string.h>

void form_id(struct api_answer *a, const uint64_t random[2])
{
    uint64_t hi = random[0], lo = random[1];
    struct buf b = {0};
    buf_printf(&b, "%08x-%04x-4%03x-%04x-%012" PRIx64, (unsigned)(hi >> 32), (unsigned)(hi >> 16) & 0xFFFF,
               (unsigned)hi & 0xFFF, ((unsigned)(lo >> 48) & 0x3FFF) | 0x8000, lo & 0xFFFFFFFFFFFF);
    memcpy(a->id, b.data, b.len + 1);
    buf_free(&b);
}

void form_usage(const struct api_answer *a, struct buf *out)
{
    const struct gen_usage *u = &a->usage;
    out_open(out, "usage", '{');
    out_int(out, "prompt_tokens", u->prompt_tokens);
    out_int(out, "completion_tokens", u->completion_tokens);
    out_int(out, "total_tokens", u->prompt_tokens + u->completion_tokens);
    out_open(out, "prompt_tokens_details", '{');
    out_int(out, "cached_tokens", u->reused_tokens);
    out_close(out, '}');
    if (a->req->thinking) {
        out_open(out, "completion_tokens_details", '{');
        out_int(out, "reasoning_tokens", u->reasoning_tokens);
        out_close(out, '}');
    }
    out_int(out, "prompt_cache_hit_tokens", u->reused_tokens);
    out_int(out, "prompt_cache_miss_tokens", u->prompt_tokens - u->reused_tokens);
    api_usage_extras(a, out);
    out_close(out, '}');
}

static const struct error_form {
    int status;
    const char *type, *code;
} error_forms[] = {
    [API_BAD] = {400, "invalid_request_error", "invalid_request_error"},
    [API_SYNTAX] = {400, "invalid_request_error", "invalid_request_error"},
    [API_TYPE] = {422, "invalid_request_error", "invalid_request_error"},
    [API_OVERFLOW] = {400, "invalid_request_error", "invalid_request_error"},
    [API_KEY] = {401, "authentication_error", "invalid_request_error"},
    [API_BALANCE] = {402, "unknown_error", "invalid_request_error"},
    [API_NOT_FOUND] = {404, "invalid_request_error", "not_found"},
    [API_METHOD] = {405, "invalid_request_error", "method_not_allowed"},
    [API_TOO_LARGE] = {413, "invalid_request_error", "invalid_request_error"},
    [API_BUSY] = {429, "rate_limit_error", "rate_limit_exceeded"},
    [API_LOADING] = {503, "service_unavailable_error", "model_loading"},
    [API_CLOSING] = {503, "service_unavailable_error", "shutting_down"},
    [API_TIMEOUT] = {504, "timeout_error", "deadline_exceeded"},
    [API_INTERNAL] = {500, "internal_error", "internal_error"},
};

int form_status(const struct api_error *e)
{
    return error_forms[e->kind].status;
}

void form_error_body(const char *message, const char *type, const char *code, struct buf *out)
{
    out_open(out, NULL, '{');
    out_open(out, "error", '{');
    out_str(out, "message", message);
    out_str(out, "type", type);
    out_null(out, "param");
    out_str(out, "code", code);
    buf_str(out, "}}");
}

void form_error(const struct api_error *e, const char *request_id, struct buf *out)
{
    (void)request_id; /* only in the header */
    form_error_body(e->msg, error_forms[e->kind].type, error_forms[e->kind].code, out);
}

void form_error_event(struct api_answer *a, const struct api_error *e, struct buf *out)
{
    (void)a;
    buf_str(out, "data: ");
    struct buf body = {0};
    form_error(e, "", &body);
    buf_add(out, body.data, body.len);
    buf_free(&body);
    buf_str(out, "\n\n");
}
