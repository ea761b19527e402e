/* Responses, on the way out: items of an answer, and the object around them. */
#include "serve/responses.h"

#include <string.h>

/* ---------------------------------------------------------------- items of the answer */

void responses_item_id(const struct api_answer *a, int index, enum api_part_kind kind, char *id)
{
    static const char *const prefix[] = {[PART_REASONING] = "rs_", [PART_TEXT] = "msg_", [PART_CALL] = "fc_"};
    size_t n = strlen(prefix[kind]);
    memcpy(id, prefix[kind], n);
    api_base62(id + n, mix64(a->random + (uint64_t)index), 32);
}

void responses_custom_input(const struct api_part *p, const char *key, struct buf *out)
{
    json_t *v = json_load_exact(p->text.len > 0 ? p->text.data : "", p->text.len, "arguments", false, NULL);
    const json_t *input = field_get(v, "input");
    if (field_is_text(input))
        out_text(out, key, json_string_value(input), json_string_length(input));
    else
        out_text(out, key, p->text.data, p->text.len);
    json_decref(v);
}

void responses_tokens(const struct buf *tokens, struct buf *out)
{
    out_open(out, "logprobs", '[');
    if (tokens != NULL && tokens->len > 0)
        buf_add(out, tokens->data, tokens->len);
    out_close(out, ']');
}

void responses_content(const struct api_answer *a, const struct api_part *p, const char *key, bool complete,
                          struct buf *out)
{
    bool reasoning = p->kind == PART_REASONING;
    out_open(out, key, '{');
    out_str(out, "type", reasoning ? "reasoning_text" : "output_text");
    if (!reasoning)
        out_raw(out, "annotations", "[]", 2);
    if (!reasoning && a->req->logprobs)
        responses_tokens(complete ? &p->tokens : NULL, out);
    out_text(out, "text", p->text.data, complete ? p->text.len : 0);
    out_close(out, '}');
}

void responses_item(const struct api_answer *a, int index, const struct api_part *p, const char *key, bool complete,
                       struct buf *out)
{
    char id[64];
    bool custom = p->kind == PART_CALL && responses_is_custom(a->req, p->name);
    responses_item_id(a, index, p->kind, id);
    out_open(out, key, '{');
    out_str(out, "id", id);
    out_str(out, "type", p->kind == PART_REASONING ? "reasoning"
                         : p->kind == PART_TEXT    ? "message"
                         : custom                  ? "custom_tool_call"
                                                   : "function_call");
    out_str(out, "status", complete ? "completed" : "in_progress");
    if (p->kind == PART_CALL) {
        out_str(out, "call_id", p->id);
        out_str(out, "name", p->name);
        if (custom && complete)
            responses_custom_input(p, "input", out);
        else
            out_text(out, custom ? "input" : "arguments", p->text.data, complete ? p->text.len : 0);
        out_close(out, '}');
        return;
    }
    if (p->kind == PART_TEXT) {
        out_str(out, "role", "assistant");
        out_str(out, "phase", "final_answer");
    } else
        out_raw(out, "summary", "[]", 2);
    out_open(out, "content", '[');
    if (complete)
        responses_content(a, p, NULL, true, out);
    out_close(out, ']');
    out_close(out, '}');
}

/* ---------------------------------------------------------------- the response object */

static void write_echo(const struct api_answer *a, const char *key, const char *otherwise, struct buf *out)
{
    struct buf json = {0};
    const json_t *v = json_object_get(a->req->echo, key);
    if (v != NULL)
        json_dump_python(v, &json);
    else
        buf_str(&json, otherwise);
    out_raw(out, key, json.data, json.len);
    buf_free(&json);
}

static void write_usage(const struct api_answer *a, struct buf *out)
{
    const struct gen_usage *u = &a->usage;
    out_open(out, "usage", '{');
    out_int(out, "input_tokens", u->prompt_tokens);
    out_open(out, "input_tokens_details", '{');
    out_int(out, "cached_tokens", u->reused_tokens);
    out_int(out, "cache_write_tokens", 0);
    out_close(out, '}');
    out_int(out, "output_tokens", u->completion_tokens);
    out_open(out, "output_tokens_details", '{');
    out_int(out, "reasoning_tokens", u->reasoning_tokens);
    out_close(out, '}');
    out_int(out, "total_tokens", u->prompt_tokens + u->completion_tokens);
    api_usage_extras(a, out);
    out_close(out, '}');
}

const char *responses_state(const struct api_answer *a, bool failed)
{
    if (failed)
        return "failed";
    if (a->finish == FINISH_NONE)
        return "in_progress";
    return a->finish == FINISH_STOP || a->finish == FINISH_TOOL_CALLS ? "completed" : "incomplete";
}

static void write_error(const char *key, const char *code, const char *message, struct buf *out)
{
    out_open(out, key, '{');
    out_str(out, "code", code);
    out_str(out, "message", message);
    out_close(out, '}');
}

static void write_output(const struct api_answer *a, struct buf *out)
{
    int index = 0;
    out_open(out, "output", '[');
    for (int i = 0; i < a->n_parts && a->finish != FINISH_NONE; i++, index++)
        if (!a->parts[i].broken)
            responses_item(a, index, &a->parts[i], NULL, true, out);
    out_close(out, ']');
}

void responses_object(const struct api_answer *a, const char *key, const char *code, const char *message,
                           struct buf *out)
{
    const char *status = responses_state(a, code != NULL);
    out_open(out, key, '{');
    out_str(out, "id", a->id);
    out_str(out, "object", "response");
    out_int(out, "created_at", a->created);
    out_str(out, "status", status);
    if (code != NULL)
        write_error("error", code, message, out);
    else
        out_null(out, "error");
    if (strcmp(status, "incomplete") == 0)
        out_raw(out, "incomplete_details", "{\"reason\":\"max_output_tokens\"}", 30);
    else
        out_null(out, "incomplete_details");
    write_echo(a, "instructions", "null", out);
    write_echo(a, "max_output_tokens", "null", out);
    out_str(out, "model", a->env->model);
    write_output(a, out);
    write_echo(a, "parallel_tool_calls", "true", out);
    out_null(out, "previous_response_id");
    write_echo(a, "reasoning", "{\"effort\": \"high\", \"summary\": null}", out);
    out_bool(out, "store", false);
    write_echo(a, "temperature", "1.0", out);
    write_echo(a, "text", "{\"format\": {\"type\": \"text\"}}", out);
    write_echo(a, "tool_choice", "\"auto\"", out);
    write_echo(a, "tools", "[]", out);
    write_echo(a, "top_p", "1.0", out);
    out_str(out, "truncation", "disabled");
    if (a->finish == FINISH_NONE)
        out_null(out, "usage");
    else
        write_usage(a, out);
    write_echo(a, "user", "null", out);
    write_echo(a, "metadata", "{}", out);
    out_close(out, '}');
}

void responses_whole(const struct api_answer *a, struct buf *out)
{
    responses_object(a, NULL, NULL, NULL, out);
}
