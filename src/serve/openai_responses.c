/* The dialect of OpenAI's Responses, as Codex and the openai SDKs speak it; stateless, like DeepSeek's own. */
#include "serve/api.h"

#include <stdio.h>
#include <string.h>

/* ---------------------------------------------------------------- input items */

struct reading {
    struct api_req *q;
    const struct api_env *env;
    struct api_error *e;
    json_t *messages;  /* in the engine's form */
    json_t *assistant; /* the assistant turn that items still join, borrowed; NULL: none */
    json_t *calls;     /* call ids so far, as keys */
};

static bool is(const char *a, const char *b)
{
    return a != NULL && strcmp(a, b) == 0;
}

/* Text or text parts; a new reference, NULL (and failed) otherwise. */
static json_t *read_text(struct reading *r, size_t i, const json_t *content)
{
    struct buf text = {0};
    json_t *part;
    size_t k;
    if (field_is_text(content))
        return json_incref((json_t *)(uintptr_t)content);
    if (content != NULL && !json_is_array(content)) {
        field_type_error(r->e, "input.content", content, "a string or an array of parts");
        return NULL;
    }
    json_array_foreach((json_t *)(uintptr_t)content, k, part) {
        const char *type = json_string_value(field_get(part, "type"));
        const json_t *v = field_get(part, is(type, "refusal") ? "refusal" : "text");
        bool known = is(type, "input_text") || is(type, "output_text") || is(type, "text") ||
                     is(type, "reasoning_text") || is(type, "refusal");
        if (!known || !field_is_text(v)) {
            api_fail(r->e, API_BAD, "input[%zu]: content of type '%.40s' is not supported: this model reads text only", i,
                     type == NULL ? "" : type);
            buf_free(&text);
            return NULL;
        }
        if (k > 0 && text.len > 0)
            buf_str(&text, "\n\n"); /* as the chat format joins parts */
        buf_add(&text, json_string_value(v), json_string_length(v));
    }
    json_t *joined = json_stringn(text.len > 0 ? text.data : "", text.len);
    buf_free(&text);
    return joined;
}

static json_t *assistant_turn(struct reading *r)
{
    if (r->assistant == NULL) {
        r->assistant = json_pack("{s:s, s:s}", "role", "assistant", "content", "");
        json_array_append_new(r->messages, r->assistant);
    }
    return r->assistant;
}

static int add_message(struct reading *r, size_t i, const json_t *item)
{
    const char *role = json_string_value(field_get(item, "role"));
    bool assistant = is(role, "assistant");
    if (!assistant && !is(role, "user") && !is(role, "system") && !is(role, "developer"))
        return api_fail(r->e, API_BAD, "input[%zu].role must be user, assistant, system or developer", i);
    json_t *text = read_text(r, i, field_get(item, "content"));
    if (text == NULL)
        return -1;
    if (!assistant) {
        r->assistant = NULL;
        json_array_append_new(r->messages, json_pack("{s:s, s:o}", "role", is(role, "developer") ? "user" : role,
                                                     "content", text));
        return 0;
    }
    json_t *turn = assistant_turn(r);
    if (json_string_length(json_object_get(turn, "content")) > 0 || json_object_get(turn, "tool_calls") != NULL) {
        r->assistant = NULL; /* a second message is a second turn */
        turn = assistant_turn(r);
    }
    json_object_set_new(turn, "content", text);
    return 0;
}

/* Reasoning opens a turn, unless one is open that has none yet. */
static int add_reasoning(struct reading *r, size_t i, const json_t *item)
{
    if (!json_is_array(field_get(item, "content")) || json_array_size(field_get(item, "content")) == 0)
        return 0; /* summaries and encrypted content are not read */
    json_t *text = read_text(r, i, field_get(item, "content"));
    if (text == NULL)
        return -1;
    r->assistant = NULL;
    json_object_set_new(assistant_turn(r), "reasoning_content", text);
    return 0;
}

static int add_call(struct reading *r, size_t i, const json_t *item, bool custom)
{
    const json_t *id = field_get(item, "call_id"), *name = field_get(item, "name");
    json_t *arguments = field_get(item, custom ? "input" : "arguments");
    if (!field_is_text(id) || !field_is_text(name) || !field_is_text(arguments))
        return api_fail(r->e, API_BAD, "input[%zu] needs the strings call_id, name and %s", i,
                        custom ? "input" : "arguments");
    json_t *turn = assistant_turn(r), *calls = json_object_get(turn, "tool_calls");
    if (calls == NULL) {
        calls = json_array();
        json_object_set_new(turn, "tool_calls", calls);
    }
    arguments = custom ? json_pack("{s:O}", "input", arguments) : json_incref(arguments);
    json_array_append_new(calls, json_pack("{s:O, s:s, s:{s:O, s:o}}", "id", id, "type", "function", "function", "name",
                                           name, "arguments", arguments));
    json_object_set_new(r->calls, json_string_value(id), json_true());
    return 0;
}

static int add_output(struct reading *r, size_t i, const json_t *item)
{
    const json_t *id = field_get(item, "call_id");
    if (!field_is_text(id))
        return api_fail(r->e, API_BAD, "input[%zu] needs the string call_id", i);
    if (json_object_get(r->calls, json_string_value(id)) == NULL)
        return api_fail(r->e, API_BAD, "input[%zu]: no tool call found for call_id %.80s: replay the full history", i,
                        json_string_value(id));
    json_t *text = read_text(r, i, field_get(item, "output"));
    if (text == NULL)
        return -1;
    r->assistant = NULL;
    json_array_append_new(r->messages, json_pack("{s:s, s:O, s:o}", "role", "tool", "tool_call_id", id, "content", text));
    return 0;
}

static int add_item(struct reading *r, size_t i, const json_t *item)
{
    const char *type = json_string_value(field_get(item, "type"));
    if (!json_is_object(item))
        return field_type_error(r->e, "input", item, "an array of objects");
    if (type == NULL || is(type, "message"))
        return add_message(r, i, item);
    if (is(type, "reasoning"))
        return add_reasoning(r, i, item);
    if (is(type, "function_call") || is(type, "custom_tool_call"))
        return add_call(r, i, item, type[0] == 'c');
    if (is(type, "function_call_output") || is(type, "custom_tool_call_output"))
        return add_output(r, i, item);
    return 0; /* unknown types are ignored, as the official service does */
}

static int read_input(struct reading *r, const json_t *body)
{
    json_t *input = field_get(body, "input"), *item;
    const json_t *instructions = NULL;
    size_t i;
    if (field_text(body, "instructions", &instructions, r->e) != 0)
        return -1;
    if (input == NULL)
        return field_missing(r->e, "", "input");
    if (!field_is_text(input) && !json_is_array(input))
        return field_type_error(r->e, "input", input, "a string or an array of items");
    r->messages = json_array();
    json_object_set_new(r->q->gen, "messages", r->messages);
    if (instructions != NULL && json_string_length(instructions) > 0)
        json_array_append_new(r->messages, json_pack("{s:s, s:O}", "role", "system", "content", instructions));
    if (json_is_string(input))
        json_array_append_new(r->messages, json_pack("{s:s, s:O}", "role", "user", "content", input));
    json_array_foreach(input, i, item) {
        if (add_item(r, i, item) != 0)
            return -1;
    }
    if (json_array_size(r->messages) == 0)
        return api_fail(r->e, API_BAD, "Empty input");
    rules_last_turn(r->messages);
    return 0;
}

/* ---------------------------------------------------------------- the rest of a request */

static bool is_custom(const struct api_req *q, const char *name)
{
    return json_object_get(json_object_get(q->echo, "custom"), name) != NULL;
}

/* The one free-form tool becomes a function with one text; on the way out its text is taken out again. */
static json_t *custom_function(const json_t *tool)
{
    json_t *f = json_object();
    field_copy(f, "name", tool, "name");
    field_copy(f, "description", tool, "description");
    json_object_set_new(f, "parameters", json_pack("{s:s, s:{s:{s:s}}, s:[s]}", "type", "object", "properties", "input",
                                                   "type", "string", "required", "input"));
    return f;
}

static int add_tool(struct reading *r, const json_t *tool, json_t *to)
{
    const char *type = json_string_value(field_get(tool, "type")), *name = json_string_value(field_get(tool, "name"));
    json_t *f;
    if (is(type, "custom")) {
        if (!is(name, "apply_patch"))
            return api_fail(r->e, API_BAD, "custom tools other than apply_patch are not supported");
        f = custom_function(tool);
        json_object_set_new(json_object_get(r->q->echo, "custom"), name, json_true());
    } else if (is(type, "function")) {
        f = json_object();
        field_copy(f, "name", tool, "name");
        field_copy(f, "description", tool, "description");
        field_copy(f, "parameters", tool, "parameters");
        if (json_is_true(field_get(tool, "strict")))
            json_object_set_new(f, "strict", json_true());
    } else
        return 0; /* tools that a service runs itself are ignored, as the official service does */
    json_array_append_new(to, json_pack("{s:s, s:o}", "type", "function", "function", f));
    return 0;
}

/* "required", or a function or custom tool by its name. */
static int read_tool_choice(struct reading *r, const json_t *choice)
{
    const char *mode = json_string_value(choice), *type = json_string_value(field_get(choice, "type"));
    const json_t *name = field_get(choice, "name");
    if (choice == NULL || is(mode, "auto") || is(mode, "none"))
        return 0;
    if (is(mode, "required"))
        return rules_forced_call(r->q, json_string(mode), r->e);
    if ((is(type, "function") || is(type, "custom")) && field_is_text(name))
        return rules_forced_call(r->q, json_pack("{s:s, s:{s:O}}", "type", "function", "function", "name", name), r->e);
    return api_fail(r->e, API_BAD, "tool_choice must be none, auto, required, or a function or custom tool by its name");
}

static int read_tools(struct reading *r, const json_t *body)
{
    bool parallel = true;
    json_t *list = field_get(body, "tools"), *tool, *tools = json_array();
    const json_t *choice = field_get(body, "tool_choice");
    const char *mode = json_string_value(choice);
    size_t i;
    int rc = list != NULL && !json_is_array(list) ? field_type_error(r->e, "tools", list, "a sequence") : 0;
    json_array_foreach(list, i, tool) {
        if (rc == 0)
            rc = add_tool(r, tool, tools);
    }
    if (rc == 0)
        rc = rules_tools(tools, r->e);
    r->q->has_tools = json_array_size(tools) > 0 && !is(mode, "none");
    if (rc == 0)
        rc = read_tool_choice(r, choice);
    if (rc == 0)
        rc = field_bool(body, "parallel_tool_calls", &parallel, r->e);
    if (r->q->has_tools)
        json_object_set(r->q->gen, "tools", tools);
    if (r->q->has_tools && !parallel)
        json_object_set_new(r->q->gen, "parallel_tool_calls", json_false());
    json_decref(tools);
    if (rc == 0 && r->q->has_tools && r->q->thinking && r->env->strict_replay)
        rc = rules_replay(r->messages, "The `reasoning_text` in the thinking mode must be passed back to the API.", r->e);
    return rc;
}

static int read_reasoning(struct reading *r, const json_t *body, int think)
{
    const json_t *effort = field_get(field_get(body, "reasoning"), "effort");
    enum chat_effort level = think < 0 ? EFFORT_NONE : EFFORT_HIGH;
    if (effort != NULL && (!field_is_text(effort) || !chat_effort_parse(json_string_value(effort), &level)))
        return api_fail(r->e, API_BAD, "reasoning.effort must be one of none, low, high, max");
    r->q->thinking = level != EFFORT_NONE;
    json_object_set_new(r->q->gen, "thinking", json_pack("{s:s}", "type", r->q->thinking ? "enabled" : "disabled"));
    if (effort != NULL && r->q->thinking)
        json_object_set(r->q->gen, "reasoning_effort", (json_t *)(uintptr_t)effort);
    return 0;
}

static int read_format(struct reading *r, const json_t *body)
{
    const json_t *format = field_get(field_get(body, "text"), "format");
    const char *type = json_string_value(field_get(format, "type"));
    if (type == NULL || is(type, "text"))
        return 0;
    if (is(type, "json_schema"))
        return rules_schema(r->q, field_get(format, "schema"), "text.format.schema", r->e);
    if (!is(type, "json_object"))
        return api_fail(r->e, API_BAD, "text.format of type '%.40s' is not supported by this server", type);
    json_object_set_new(r->q->gen, "response_format", json_pack("{s:s}", "type", "json_object"));
    return 0;
}

/* What would change the answer and is not done here is refused. */
static int read_refused(struct reading *r, const json_t *body)
{
    static const char *const state[] = {"previous_response_id", "conversation", "prompt"};
    for (size_t i = 0; i < COUNT_OF(state); i++)
        if (field_get(body, state[i]) != NULL)
            return api_fail(r->e, API_BAD, "%s is not supported: this server keeps no conversations, replay the full "
                            "history", state[i]);
    return 0;
}

/* Logprobs come when they are included, or when alternatives are asked for. */
static int read_logprobs(struct reading *r, const json_t *body)
{
    const json_t *include = field_get(body, "include"), *one;
    int64_t n = 0;
    bool given;
    size_t i;
    if (field_int(body, "top_logprobs", &n, &given, r->e) != 0)
        return -1;
    if (n < 0 || n > TOP_LOGPROBS_MAX)
        return api_fail(r->e, API_BAD, "Invalid top_logprobs value, the valid range of top_logprobs is [0, %d]",
                        TOP_LOGPROBS_MAX);
    r->q->logprobs = n > 0;
    json_array_foreach((json_t *)(uintptr_t)include, i, one)
        r->q->logprobs |= is(json_string_value(one), "message.output_text.logprobs");
    r->q->n_top_logprobs = (int)n;
    if (r->q->logprobs) {
        json_object_set_new(r->q->gen, "logprobs", json_true());
        json_object_set_new(r->q->gen, "top_logprobs", json_integer(n));
    }
    return 0;
}

static void keep_echo(struct reading *r, const json_t *body)
{
    static const char *const keys[] = {"instructions", "max_output_tokens", "metadata", "reasoning", "temperature",
                                       "text", "tool_choice", "tools", "top_p", "user", "parallel_tool_calls"};
    r->q->echo = json_pack("{s:{}}", "custom");
    for (size_t i = 0; i < COUNT_OF(keys); i++)
        field_copy(r->q->echo, keys[i], body, keys[i]);
}

static int responses_read(struct api_req *q, const json_t *body, const struct api_env *env, struct api_error *e)
{
    struct reading r = {.q = q, .env = env, .e = e, .calls = json_object()};
    const json_t *user = NULL;
    int think, rc;
    q->gen = json_object();
    keep_echo(&r, body);
    rc = rules_model(body, env, &think, e);
    if (rc == 0 && (read_refused(&r, body) != 0 || read_logprobs(&r, body) != 0 || read_input(&r, body) != 0 ||
                    read_reasoning(&r, body, think) != 0 || read_tools(&r, body) != 0 || read_format(&r, body) != 0 ||
                    field_bool(body, "stream", &q->stream, e) != 0 || rules_sampling(q, body, env, e) != 0 ||
                    rules_max_tokens(q, body, "max_output_tokens", e) != 0 || field_text(body, "user", &user, e) != 0))
        rc = -1;
    if (rc == 0)
        rc = rules_user(q, user, e);
    json_decref(r.calls);
    return rc;
}

/* ---------------------------------------------------------------- items of the answer */

static void responses_id(struct api_answer *a, const uint64_t random[2])
{
    memcpy(a->id, "resp_", 5);
    api_base62(a->id + 5, random[0], 32);
}

/* An item's id follows from its place, so that every event of it says the same. */
static void item_id(const struct api_answer *a, int index, enum api_part_kind kind, char *id)
{
    static const char *const prefix[] = {[PART_REASONING] = "rs_", [PART_TEXT] = "msg_", [PART_CALL] = "fc_"};
    size_t n = strlen(prefix[kind]);
    memcpy(id, prefix[kind], n);
    api_base62(id + n, mix64(a->random + (uint64_t)index), 32);
}

/* The text inside {"input": TEXT}. */
static void write_custom_input(const struct api_part *p, const char *key, struct buf *out)
{
    json_t *v = json_load_exact(p->text.len > 0 ? p->text.data : "", p->text.len, "arguments", false, NULL);
    const json_t *input = field_get(v, "input");
    if (field_is_text(input))
        out_text(out, key, json_string_value(input), json_string_length(input));
    else
        out_text(out, key, p->text.data, p->text.len);
    json_decref(v);
}

static void write_tokens(const struct buf *tokens, struct buf *out)
{
    out_open(out, "logprobs", '[');
    if (tokens != NULL && tokens->len > 0)
        buf_add(out, tokens->data, tokens->len);
    out_close(out, ']');
}

static void write_content(const struct api_answer *a, const struct api_part *p, const char *key, bool complete,
                          struct buf *out)
{
    bool reasoning = p->kind == PART_REASONING;
    out_open(out, key, '{');
    out_str(out, "type", reasoning ? "reasoning_text" : "output_text");
    if (!reasoning)
        out_raw(out, "annotations", "[]", 2);
    if (!reasoning && a->req->logprobs)
        write_tokens(complete ? &p->tokens : NULL, out);
    out_text(out, "text", p->text.data, complete ? p->text.len : 0);
    out_close(out, '}');
}

static void write_item(const struct api_answer *a, int index, const struct api_part *p, const char *key, bool complete,
                       struct buf *out)
{
    char id[64];
    bool custom = p->kind == PART_CALL && is_custom(a->req, p->name);
    item_id(a, index, p->kind, id);
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
            write_custom_input(p, "input", out);
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
        write_content(a, p, NULL, true, out);
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
    out_close(out, '}');
}

static const char *status_of(const struct api_answer *a, bool failed)
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
            write_item(a, index, &a->parts[i], NULL, true, out);
    out_close(out, ']');
}

static void write_response(const struct api_answer *a, const char *key, const char *code, const char *message,
                           struct buf *out)
{
    const char *status = status_of(a, code != NULL);
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

static void responses_whole(const struct api_answer *a, struct buf *out)
{
    write_response(a, NULL, NULL, NULL, out);
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
    write_response(a, "response", code, message, out);
    event_close(out);
}

/* Opens an event about the item under way. */
static void item_event(struct api_answer *a, const char *type, bool content, struct buf *out)
{
    char id[64];
    event_open(a, type, out);
    item_id(a, a->i_block, a->block, id);
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
    write_item(a, a->i_block, p, "item", complete, out);
    event_close(out);
}

static void part_event(struct api_answer *a, const char *type, const struct api_part *p, bool complete, struct buf *out)
{
    item_event(a, type, true, out);
    write_content(a, p, "part", complete, out);
    event_close(out);
}

static void delta_event(struct api_answer *a, const char *type, bool content, const struct api_event *ev, struct buf *out)
{
    item_event(a, type, content, out);
    out_text(out, "delta", ev->text, ev->n);
    if (content && a->block == PART_TEXT)
        write_tokens(ev->tokens, out);
    event_close(out);
}

static void text_close(struct api_answer *a, const struct api_part *p, struct buf *out)
{
    item_event(a, p->kind == PART_TEXT ? "response.output_text.done" : "response.reasoning_text.done", true, out);
    out_text(out, "text", p->text.data, p->text.len);
    if (p->kind == PART_TEXT)
        write_tokens(&p->tokens, out);
    event_close(out);
    part_event(a, "response.content_part.done", p, true, out);
}

static void call_close(struct api_answer *a, const struct api_part *p, struct buf *out)
{
    bool custom = is_custom(a->req, p->name);
    if (custom) {
        item_event(a, "response.custom_tool_call_input.delta", false, out);
        write_custom_input(p, "delta", out);
        event_close(out);
    }
    item_event(a, custom ? "response.custom_tool_call_input.done" : "response.function_call_arguments.done", false, out);
    if (custom)
        write_custom_input(p, "input", out);
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
        if (!is_custom(a->req, ev->part->name))
            delta_event(a, "response.function_call_arguments.delta", false, ev, out);
        break;
    case API_CALL_END:
    case API_CALL_BROKEN:
        item_close(a, out);
        break;
    case API_END:
        item_close(a, out);
        response_event(a, strcmp(status_of(a, false), "completed") == 0 ? "response.completed" : "response.incomplete",
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
    out_open(out, NULL, '{');
    out_open(out, "error", '{');
    out_str(out, "message", e->msg);
    out_str(out, "type", error_forms[e->kind].type);
    out_null(out, "param");
    out_str(out, "code", error_forms[e->kind].code);
    buf_str(out, "}}");
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
