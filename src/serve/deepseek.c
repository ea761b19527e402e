/* The dialect of DeepSeek's chat completions, which is also what OpenAI's chat clients speak. */
#include "serve/api.h"

#include <string.h>

/* ---------------------------------------------------------------- messages */

struct reading {
    struct api_req *q;
    const struct api_env *env;
    struct api_error *e;
    json_t *messages; /* in the engine's form */
};

static int bad_message(struct reading *r, size_t i, const char *what)
{
    return api_fail(r->e, API_TYPE, "Failed to deserialize the JSON body into the target type: messages[%zu]: %s", i,
                    what);
}

/* Text, or parts of which all are text. */
static int read_content(struct reading *r, size_t i, const json_t *m, json_t *to)
{
    json_t *content = field_get(m, "content"), *part;
    size_t k;
    if (content == NULL || field_is_text(content)) {
        json_object_set_new(to, "content", content == NULL ? json_string("") : json_incref(content));
        return 0;
    }
    if (!json_is_array(content))
        return bad_message(r, i, "data did not match any variant of untagged enum ChatCompletionRequestContent");
    json_array_foreach(content, k, part) {
        const char *type = json_string_value(field_get(part, "type"));
        if (type == NULL)
            return bad_message(r, i, "missing field `type`");
        if (strcmp(type, "text") != 0)
            return api_fail(r->e, API_BAD, "messages[%zu]: content of type '%.40s' is not supported: this model reads "
                            "text only", i, type);
        if (!field_is_text(field_get(part, "text")))
            return bad_message(r, i, "missing field `text`");
    }
    json_object_set(to, "content", content);
    return 0;
}

static int read_calls(struct reading *r, size_t i, const json_t *m, json_t *to)
{
    json_t *calls = field_get(m, "tool_calls"), *call;
    size_t k;
    if (calls == NULL)
        return 0;
    if (!json_is_array(calls))
        return bad_message(r, i, "tool_calls: expected a sequence");
    json_array_foreach(calls, k, call) {
        const json_t *f = field_get(call, "function");
        if (!field_is_text(field_get(call, "id")) || !field_is_text(field_get(f, "name")) ||
            !field_is_text(field_get(f, "arguments")))
            return bad_message(r, i, "tool_calls: each needs the strings `id`, `function.name` and "
                               "`function.arguments`");
    }
    if (json_array_size(calls) > 0)
        json_object_set(to, "tool_calls", calls);
    return 0;
}

static int read_assistant(struct reading *r, size_t i, const json_t *m, json_t *to)
{
    const json_t *reasoning = NULL;
    bool prefix = false;
    if (read_calls(r, i, m, to) != 0)
        return -1;
    if (field_get(m, "content") == NULL && json_object_get(to, "tool_calls") == NULL)
        return api_fail(r->e, API_BAD, "Invalid assistant message: content or tool_calls must be set");
    if (field_text(m, "reasoning_content", &reasoning, r->e) != 0 ||
        (reasoning == NULL && field_text(m, "reasoning", &reasoning, r->e) != 0) ||
        field_bool(m, "prefix", &prefix, r->e) != 0)
        return -1;
    if (reasoning != NULL)
        json_object_set(to, "reasoning_content", (json_t *)(uintptr_t)reasoning);
    if (prefix)
        json_object_set_new(to, "prefix", json_true());
    return 0;
}

static int read_message(struct reading *r, size_t i, const json_t *m)
{
    const char *role = json_string_value(field_get(m, "role"));
    if (!json_is_object(m))
        return bad_message(r, i, "expected a map");
    if (role == NULL)
        return bad_message(r, i, "missing field `role`");
    bool known = strcmp(role, "system") == 0 || strcmp(role, "user") == 0 || strcmp(role, "assistant") == 0 ||
                 strcmp(role, "tool") == 0 || strcmp(role, "developer") == 0;
    if (!known)
        return bad_message(r, i, "role: unknown variant, expected one of `system`, `user`, `assistant`, `tool`");
    json_t *to = json_pack("{s:s}", "role", strcmp(role, "developer") == 0 ? "system" : role);
    json_array_append_new(r->messages, to);
    if (strcmp(role, "assistant") == 0 && read_assistant(r, i, m, to) != 0)
        return -1;
    if (strcmp(role, "assistant") != 0 && field_get(m, "content") == NULL)
        return bad_message(r, i, "missing field `content`");
    if (strcmp(role, "tool") == 0) {
        if (!field_is_text(field_get(m, "tool_call_id")))
            return bad_message(r, i, "missing field `tool_call_id`");
        json_object_set(to, "tool_call_id", json_object_get(m, "tool_call_id"));
    }
    return read_content(r, i, m, to);
}

static int check_prefix(struct reading *r)
{
    size_t i, n = json_array_size(r->messages);
    json_t *m;
    json_array_foreach(r->messages, i, m) {
        if (json_object_get(m, "prefix") != NULL && i + 1 < n)
            return api_fail(r->e, API_BAD, "Invalid messages: `prefix` is only allowed on the last message");
    }
    return 0;
}

static int read_messages(struct reading *r, const json_t *body)
{
    json_t *list = field_get(body, "messages"), *m;
    size_t i;
    if (list == NULL)
        return field_missing(r->e, "", "messages");
    if (!json_is_array(list))
        return field_type_error(r->e, "messages", list, "a sequence");
    if (json_array_size(list) == 0)
        return api_fail(r->e, API_BAD, "Empty input messages");
    r->messages = json_array();
    json_object_set_new(r->q->gen, "messages", r->messages);
    json_array_foreach(list, i, m) {
        if (read_message(r, i, m) != 0)
            return -1;
    }
    if (check_prefix(r) != 0 || rules_pairing(r->messages, r->e) != 0)
        return -1;
    rules_last_turn(r->messages);
    return 0;
}

/* ---------------------------------------------------------------- thinking, tools, format */

static int read_thinking(struct reading *r, const json_t *body, int think)
{
    const json_t *v = field_get(body, "thinking"), *effort = NULL;
    const char *type = json_string_value(field_get(v, "type"));
    enum chat_effort level = EFFORT_HIGH;
    if (v != NULL && !json_is_object(v))
        return field_type_error(r->e, "thinking", v, "struct ThinkingOptions");
    if (v != NULL && (type == NULL || (strcmp(type, "enabled") != 0 && strcmp(type, "disabled") != 0)))
        return api_fail(r->e, API_TYPE, "Failed to deserialize the JSON body into the target type: thinking.type: "
                        "unknown variant, expected `enabled` or `disabled`");
    if (field_text(body, "reasoning_effort", &effort, r->e) != 0)
        return -1;
    if (effort != NULL && !chat_effort_parse(json_string_value(effort), &level))
        return api_fail(r->e, API_TYPE, "Failed to deserialize the JSON body into the target type: reasoning_effort: "
                        "unknown variant, expected one of `none`, `low`, `high`, `max`");
    r->q->thinking = level != EFFORT_NONE && (type != NULL ? type[0] == 'e' : think >= 0);
    json_object_set_new(r->q->gen, "thinking", json_pack("{s:s}", "type", r->q->thinking ? "enabled" : "disabled"));
    if (effort != NULL && r->q->thinking)
        json_object_set(r->q->gen, "reasoning_effort", (json_t *)(uintptr_t)effort);
    return 0;
}

/* none: the schemas are no part of the prompt. */
static int read_tool_choice(struct reading *r, const json_t *body, bool *none)
{
    const json_t *v = field_get(body, "tool_choice");
    const char *s = json_string_value(v);
    bool named = json_is_object(v) && field_is_text(field_get(field_get(v, "function"), "name"));
    *none = s != NULL && strcmp(s, "none") == 0;
    if (v == NULL || *none || (s != NULL && strcmp(s, "auto") == 0))
        return 0;
    const json_t *some = field_get(v, "allowed_tools");
    if (some != NULL)
        return rules_allowed_tools(r->q, json_string_value(field_get(some, "mode")), json_incref(field_get(some, "tools")),
                                   r->e);
    if (!named && (s == NULL || strcmp(s, "required") != 0))
        return api_fail(r->e, API_TYPE, "Failed to deserialize the JSON body into the target type: tool_choice: expected "
                        "`none`, `auto`, `required` or a named function");
    return rules_forced_call(r->q, json_incref((json_t *)(uintptr_t)v), r->e);
}

static int read_tools(struct reading *r, const json_t *body)
{
    json_t *tools = field_get(body, "tools");
    bool none, parallel = true;
    if (tools != NULL && !json_is_array(tools))
        return field_type_error(r->e, "tools", tools, "a sequence");
    r->q->has_tools = json_array_size(tools) > 0;
    if (rules_tools(tools, r->e) != 0 || read_tool_choice(r, body, &none) != 0 ||
        field_bool(body, "parallel_tool_calls", &parallel, r->e) != 0)
        return -1;
    r->q->has_tools = r->q->has_tools && !none;
    if (r->q->has_tools)
        json_object_set(r->q->gen, "tools", tools);
    if (r->q->has_tools && !parallel)
        json_object_set_new(r->q->gen, "parallel_tool_calls", json_false());
    if (r->q->has_tools && r->q->thinking && r->env->strict_replay)
        return rules_replay(r->messages, "The `reasoning_content` in the thinking mode must be passed back to the API.",
                            r->e);
    return 0;
}

static bool mentions_json(const json_t *messages)
{
    size_t i, k;
    json_t *m, *part;
    json_array_foreach((json_t *)(uintptr_t)messages, i, m) {
        const json_t *content = json_object_get(m, "content");
        if (json_is_string(content) && strcasestr(json_string_value(content), "json") != NULL)
            return true;
        json_array_foreach((json_t *)(uintptr_t)content, k, part) {
            if (strcasestr(json_string_value(json_object_get(part, "text")), "json") != NULL)
                return true;
        }
    }
    return false;
}

static int read_format(struct reading *r, const json_t *body)
{
    const json_t *v = field_get(body, "response_format");
    const char *type = json_string_value(field_get(v, "type"));
    if (v == NULL)
        return 0;
    if (!json_is_object(v) || type == NULL)
        return field_type_error(r->e, "response_format", v, "struct ResponseFormat");
    if (strcmp(type, "text") == 0)
        return 0;
    if (strcmp(type, "json_schema") == 0)
        return rules_schema(r->q, field_get(field_get(v, "json_schema"), "schema"), "response_format.json_schema.schema",
                            r->e);
    if (strcmp(type, "json_object") != 0)
        return api_fail(r->e, API_BAD, "This response_format type is unavailable now");
    if (!mentions_json(r->messages))
        return api_fail(r->e, API_BAD, "Prompt must contain the word 'json' in some form to use 'response_format' of type "
                        "'json_object'.");
    json_object_set_new(r->q->gen, "response_format", json_pack("{s:s}", "type", "json_object"));
    return 0;
}

/* ---------------------------------------------------------------- the rest of a request */

static int read_logprobs(struct reading *r, const json_t *body)
{
    int64_t n = 0;
    bool given;
    if (field_bool(body, "logprobs", &r->q->logprobs, r->e) != 0 ||
        field_int(body, "top_logprobs", &n, &given, r->e) != 0)
        return -1;
    if (given && (n < 0 || n > TOP_LOGPROBS_MAX))
        return api_fail(r->e, API_BAD, "Invalid top_logprobs value, the valid range of top_logprobs is [0, %d]",
                        TOP_LOGPROBS_MAX);
    if (given && !r->q->logprobs)
        return api_fail(r->e, API_BAD, "Invalid top_logprobs: logprobs must be true when top_logprobs is used");
    r->q->n_top_logprobs = (int)n;
    if (r->q->logprobs)
        json_object_set_new(r->q->gen, "logprobs", json_true());
    if (n > 0)
        json_object_set_new(r->q->gen, "top_logprobs", json_integer(n));
    return 0;
}

static int read_stream(struct reading *r, const json_t *body)
{
    const json_t *o = field_get(body, "stream_options");
    if (field_bool(body, "stream", &r->q->stream, r->e) != 0)
        return -1;
    if (o != NULL && !json_is_object(o))
        return field_type_error(r->e, "stream_options", o, "struct StreamOptions");
    if (o != NULL && !r->q->stream)
        return api_fail(r->e, API_BAD, "stream_options should be set along with stream = true");
    return field_bool(o, "include_usage", &r->q->include_usage, r->e);
}

/* What would change the answer and is not done here is refused. */
static int read_refused(struct reading *r, const json_t *body)
{
    int64_t n = 1;
    bool given;
    if (field_int(body, "n", &n, &given, r->e) != 0)
        return -1;
    if (n != 1)
        return api_fail(r->e, API_BAD, "Invalid n value (currently only n = 1 is supported)");
    if (rules_penalties(body, r->e) != 0)
        return -1;
    if (json_object_size(field_get(body, "logit_bias")) > 0)
        return api_fail(r->e, API_BAD, "logit_bias is not supported");
    if (json_array_size(field_get(body, "functions")) > 0)
        return api_fail(r->e, API_BAD, "functions is not supported: use tools");
    return 0;
}

static int read_user(struct reading *r, const json_t *body)
{
    const json_t *user = NULL;
    if (field_text(body, "user_id", &user, r->e) != 0)
        return -1;
    return rules_user(r->q, user, r->e);
}

static int deepseek_read(struct api_req *q, const json_t *body, const struct api_env *env, struct api_error *e)
{
    struct reading r = {.q = q, .env = env, .e = e};
    int think;
    const char *limit = field_get(body, "max_tokens") != NULL ? "max_tokens" : "max_completion_tokens";
    q->gen = json_object();
    if (rules_model(body, env, &think, e) != 0 || read_messages(&r, body) != 0 || read_thinking(&r, body, think) != 0 ||
        read_tools(&r, body) != 0 || read_format(&r, body) != 0 || read_stream(&r, body) != 0 ||
        read_refused(&r, body) != 0 || read_logprobs(&r, body) != 0 || rules_sampling(q, body, env, e) != 0 ||
        rules_max_tokens(q, body, limit, e) != 0 || rules_stop(q, body, "stop", e) != 0)
        return -1;
    return read_user(&r, body) != 0 ? -1 : field_extras(body, q, e);
}

/* ---------------------------------------------------------------- the answer */

static const char *finish_reason(const struct api_answer *a)
{
    switch (a->finish) {
    case FINISH_LENGTH:
        return "length";
    case FINISH_TOOL_CALLS:
        return "tool_calls";
    case FINISH_ERROR:
        return "insufficient_system_resource";
    case FINISH_CANCELLED:
        return "aborted";
    case FINISH_NONE:
    case FINISH_STOP:
        break;
    }
    return "stop";
}

static void write_logprobs(const struct api_answer *a, const struct buf *content, const struct buf *reasoning,
                           struct buf *out)
{
    if (!a->req->logprobs || (content == NULL && reasoning == NULL)) {
        out_null(out, "logprobs");
        return;
    }
    out_open(out, "logprobs", '{');
    out_open(out, "content", '[');
    if (content != NULL)
        buf_add(out, content->len > 0 ? content->data : "", content->len);
    out_close(out, ']');
    if (reasoning != NULL) {
        out_open(out, "reasoning_content", '[');
        buf_add(out, reasoning->len > 0 ? reasoning->data : "", reasoning->len);
        out_close(out, ']');
    }
    out_close(out, '}');
}

static void write_calls(const struct api_answer *a, struct buf *out)
{
    int n = 0;
    if (a->n_calls == 0)
        return;
    out_open(out, "tool_calls", '[');
    for (int i = 0; i < a->n_parts; i++) {
        const struct api_part *p = &a->parts[i];
        if (p->kind != PART_CALL || p->broken)
            continue;
        out_open(out, NULL, '{');
        out_int(out, "index", n++);
        out_str(out, "id", p->id);
        out_str(out, "type", "function");
        out_open(out, "function", '{');
        out_str(out, "name", p->name);
        out_text(out, "arguments", p->text.data, p->text.len);
        buf_str(out, "}}");
    }
    out_close(out, ']');
}

static void write_message(const struct api_answer *a, struct buf *out)
{
    struct buf text = {0};
    out_open(out, "message", '{');
    out_str(out, "role", "assistant");
    api_answer_text(a, PART_TEXT, &text);
    out_text(out, "content", text.data, text.len);
    buf_free(&text);
    if (a->req->thinking) {
        api_answer_text(a, PART_REASONING, &text);
        out_text(out, "reasoning_content", text.data, text.len);
        buf_free(&text);
    }
    write_calls(a, out);
    out_close(out, '}');
}

static void deepseek_whole(const struct api_answer *a, struct buf *out)
{
    out_open(out, NULL, '{');
    out_str(out, "id", a->id);
    out_str(out, "object", "chat.completion");
    out_int(out, "created", a->created);
    out_str(out, "model", a->env->model);
    out_open(out, "choices", '[');
    out_open(out, NULL, '{');
    out_int(out, "index", 0);
    write_message(a, out);
    write_logprobs(a, &a->tokens[0], a->req->thinking ? &a->tokens[1] : NULL, out);
    out_str(out, "finish_reason", finish_reason(a));
    buf_str(out, "}]");
    form_usage(a, out);
    out_str(out, "system_fingerprint", a->env->fingerprint);
    out_close(out, '}');
}

/* ---------------------------------------------------------------- the stream */

static void write_delta_text(const struct api_answer *a, bool reasoning, const char *text, size_t n, struct buf *out)
{
    if (reasoning) {
        out_null(out, "content");
        out_text(out, "reasoning_content", text, n);
        return;
    }
    out_text(out, "content", text, n);
    if (a->req->thinking)
        out_null(out, "reasoning_content");
}

static void write_delta_call(const struct api_event *ev, struct buf *out)
{
    bool begins = ev->kind == API_CALL_BEGIN;
    out_open(out, "tool_calls", '[');
    out_open(out, NULL, '{');
    out_int(out, "index", ev->part->i_call);
    if (begins) {
        out_str(out, "id", ev->part->id);
        out_str(out, "type", "function");
    }
    out_open(out, "function", '{');
    if (begins)
        out_str(out, "name", ev->part->name);
    out_text(out, "arguments", ev->text, begins ? 0 : ev->n);
    buf_str(out, "}}]");
}

static void write_delta(const struct api_answer *a, const struct api_event *ev, struct buf *out)
{
    out_open(out, "delta", '{');
    switch (ev->kind) {
    case API_BEGIN:
        out_str(out, "role", "assistant");
        write_delta_text(a, a->req->thinking, "", 0, out);
        break;
    case API_CALL_BEGIN:
    case API_CALL_ARGS:
        write_delta_call(ev, out);
        break;
    default:
        write_delta_text(a, ev->kind == API_REASONING, ev->text, ev->n, out);
    }
    out_close(out, '}');
}

/* The last chunk brings what no text has taken along. */
static void write_event_logprobs(const struct api_answer *a, const struct api_event *ev, struct buf *out)
{
    if (ev->kind == API_END)
        write_logprobs(a, a->tokens[0].len > 0 ? &a->tokens[0] : NULL, a->tokens[1].len > 0 ? &a->tokens[1] : NULL, out);
    else
        write_logprobs(a, ev->tokens_reasoning ? NULL : ev->tokens, ev->tokens_reasoning ? ev->tokens : NULL, out);
}

static void deepseek_event(struct api_answer *a, const struct api_event *ev, struct buf *out)
{
    if (ev->kind == API_CALL_END || ev->kind == API_CALL_BROKEN) /* neither has a chunk */
        return;
    struct buf one = {0};
    out_open(&one, NULL, '{');
    out_str(&one, "id", a->id);
    out_str(&one, "object", "chat.completion.chunk");
    out_int(&one, "created", a->created);
    out_str(&one, "model", a->env->model);
    out_str(&one, "system_fingerprint", a->env->fingerprint);
    out_open(&one, "choices", '[');
    out_open(&one, NULL, '{');
    out_int(&one, "index", 0);
    write_delta(a, ev, &one);
    write_event_logprobs(a, ev, &one);
    if (ev->kind == API_END)
        out_str(&one, "finish_reason", finish_reason(a));
    else
        out_null(&one, "finish_reason");
    buf_str(&one, "}]");
    if (ev->kind == API_END)
        form_usage(a, &one);
    else if (a->req->include_usage)
        out_null(&one, "usage");
    out_close(&one, '}');
    buf_str(out, "data: ");
    buf_add(out, one.data, one.len);
    buf_str(out, ev->kind == API_END ? "\n\ndata: [DONE]\n\n" : "\n\n");
    buf_free(&one);
}

const struct dialect dialect_deepseek = {
    .name = "chat",
    .read = deepseek_read,
    .make_id = form_id,
    .event = deepseek_event,
    .whole = deepseek_whole,
    .status = form_status,
    .error = form_error,
    .error_event = form_error_event,
    .ping = ": keep-alive\n\n",
    .knows_aborted = true,
};
