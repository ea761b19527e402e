/* Responses, on the way in: items to messages, and the rest of a request. */
#include "serve/responses.h"

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
    else if (json_array_size(input) == 0) /* clients ask so whether a model answers */
        json_array_append_new(r->messages, json_pack("{s:s, s:s}", "role", "user", "content", ""));
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

bool responses_is_custom(const struct api_req *q, const char *name)
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
    if (!json_is_object(tool))
        return field_type_error(r->e, "tools", tool, "a sequence of maps");
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
        if (!json_is_false(field_get(tool, "strict")))
            field_copy(f, "strict", tool, "strict");
    } else
        return 0; /* tools that a service runs itself are ignored, as the official service does */
    json_array_append_new(to, json_pack("{s:s, s:o}", "type", "function", "function", f));
    return 0;
}

static json_t *choice_of(const json_t *name)
{
    return json_pack("{s:s, s:{s:O}}", "type", "function", "function", "name", name);
}

/* Tools that are ignored cannot be allowed either. */
static int read_allowed_tools(struct reading *r, const json_t *choice)
{
    size_t i;
    json_t *tool, *some = json_array();
    json_array_foreach(field_get(choice, "tools"), i, tool) {
        const char *type = json_string_value(field_get(tool, "type"));
        if ((is(type, "function") || is(type, "custom")) && field_is_text(field_get(tool, "name")))
            json_array_append_new(some, choice_of(field_get(tool, "name")));
    }
    return rules_allowed_tools(r->q, json_string_value(field_get(choice, "mode")), some, r->e);
}

/* "required", a function or custom tool by its name, or some of them. */
static int read_tool_choice(struct reading *r, const json_t *choice)
{
    const char *mode = json_string_value(choice), *type = json_string_value(field_get(choice, "type"));
    const json_t *name = field_get(choice, "name");
    if (choice == NULL || is(mode, "auto") || is(mode, "none"))
        return 0;
    if (is(mode, "required"))
        return rules_forced_call(r->q, json_string(mode), r->e);
    if ((is(type, "function") || is(type, "custom")) && field_is_text(name))
        return rules_forced_call(r->q, choice_of(name), r->e);
    if (is(type, "allowed_tools"))
        return read_allowed_tools(r, choice);
    return api_fail(r->e, API_BAD, "tool_choice must be none, auto, required, a function or custom tool by its name, or "
                    "allowed_tools");
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
    const json_t *reasoning;
    if (field_object(body, "reasoning", &reasoning, r->e) != 0)
        return -1;
    const json_t *effort = field_get(reasoning, "effort");
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
    const json_t *text, *format;
    if (field_object(body, "text", &text, r->e) != 0 || field_object(text, "format", &format, r->e) != 0)
        return -1;
    const char *type = json_string_value(field_get(format, "type"));
    if (format == NULL || is(type, "text"))
        return 0;
    if (type == NULL)
        return field_missing(r->e, "text.format", "type");
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

/* For OpenAI's clients a user is any text. */
static int read_user(struct reading *r, const json_t *user)
{
    struct api_error plain = {0};
    if (rules_user(r->q, user, &plain) != 0)
        rules_user_text(r->q, json_string_value(user), json_string_length(user));
    return 0;
}

int responses_read(struct api_req *q, const json_t *body, const struct api_env *env, struct api_error *e)
{
    struct reading r = {.q = q, .env = env, .e = e, .calls = json_object()};
    const json_t *user = NULL;
    int think, rc;
    q->gen = json_object();
    keep_echo(&r, body);
    rc = rules_model(body, env, &think, e);
    if (rc == 0 && (read_refused(&r, body) != 0 || read_logprobs(&r, body) != 0 || read_input(&r, body) != 0 ||
                    read_reasoning(&r, body, think) != 0 || read_tools(&r, body) != 0 || read_format(&r, body) != 0 ||
                    field_bool(body, "stream", &q->stream, e) != 0 ||
                    field_extras(body, q, e) != 0 || rules_sampling(q, body, env, e) != 0 ||
                    rules_max_tokens(q, body, "max_output_tokens", e) != 0 || field_text(body, "user", &user, e) != 0))
        rc = -1;
    if (rc == 0)
        rc = read_user(&r, user);
    json_decref(r.calls);
    return rc;
}
