/* Messages, on the way in: blocks to messages in the form of the chat API, and the rest of a request. */
#include "serve/anthropic.h"

#include <string.h>

/* ---------------------------------------------------------------- content of messages */

struct reading {
    struct api_req *q;
    const struct api_env *env;
    struct api_error *e;
    json_t *messages; /* in the engine's form */
    json_t *calls;    /* ids of tool_use blocks so far, as keys */
    json_t *loaded;   /* names of tools that results refer to, as keys */
    bool asks_thinking; /* the request itself says whether to think, by field or by model name */
};

/* Clients put a line of accounting before their prompt that changes from request to request. */
static const char *skip_attribution(const char *text)
{
    static const char mark[] = "x-anthropic-billing-header";
    if (strncmp(text, mark, sizeof mark - 1) != 0)
        return text;
    const char *end = strchr(text, '\n');
    return end == NULL ? "" : end + 1;
}

static json_t *text_part(const json_t *text)
{
    return json_pack("{s:s, s:O}", "type", "text", "text", text);
}

/* A text block's text, NULL (and failed) for anything else. */
static const json_t *block_text(struct reading *r, size_t i, const json_t *block)
{
    const char *type = json_string_value(field_get(block, "type"));
    const json_t *text = field_get(block, "text");
    if (type != NULL && strcmp(type, "text") == 0 && field_is_text(text))
        return text;
    if (type == NULL || strcmp(type, "text") == 0)
        api_fail(r->e, API_BAD, "messages.%zu: a content block needs a type, and one of type text a text", i);
    else
        api_fail(r->e, API_BAD, "messages.%zu: content blocks of type '%.40s' are not supported by this model", i, type);
    return NULL;
}

/* A result that loads a deferred tool: its schema stands among the tools from then on. NULL: the block is something else. */
static json_t *reference_part(struct reading *r, const json_t *block)
{
    const char *type = json_string_value(field_get(block, "type"));
    const json_t *name = field_get(block, "tool_name");
    if (type == NULL || strcmp(type, "tool_reference") != 0 || !field_is_text(name))
        return NULL;
    json_object_set_new(r->loaded, json_string_value(name), json_true());
    return json_pack("{s:s, s:o}", "type", "text", "text", json_sprintf("Tool %s is loaded.", json_string_value(name)));
}

/* Text or text blocks to the parts of a message. */
static json_t *text_content(struct reading *r, size_t i, const json_t *content)
{
    json_t *parts, *block;
    size_t k;
    if (content == NULL)
        return json_string("");
    if (field_is_text(content))
        return json_incref((json_t *)(uintptr_t)content);
    if (!json_is_array(content)) {
        field_type_error(r->e, "content", content, "a string or an array of blocks");
        return NULL;
    }
    parts = json_array();
    json_array_foreach((json_t *)(uintptr_t)content, k, block) {
        json_t *part = reference_part(r, block);
        const json_t *text = part != NULL ? NULL : block_text(r, i, block);
        if (part == NULL && text == NULL) {
            json_decref(parts);
            return NULL;
        }
        json_array_append_new(parts, part != NULL ? part : text_part(text));
    }
    return parts;
}

static int add_result(struct reading *r, size_t i, const json_t *block)
{
    const json_t *id = field_get(block, "tool_use_id");
    if (!field_is_text(id))
        return api_fail(r->e, API_BAD, "messages.%zu: tool_result.tool_use_id: Field required", i);
    if (json_object_get(r->calls, json_string_value(id)) == NULL)
        return api_fail(r->e, API_BAD, "messages.%zu: unexpected `tool_use_id` found in `tool_result` blocks: %.80s. Each "
                        "`tool_result` block must have a corresponding `tool_use` block in the previous message.", i,
                        json_string_value(id));
    json_t *content = text_content(r, i, field_get(block, "content"));
    if (content == NULL)
        return -1;
    json_array_append_new(r->messages, json_pack("{s:s, s:O, s:o}", "role", "tool", "tool_call_id", id, "content", content));
    return 0;
}

/* Results become messages of their own; texts between them one message. */
static int read_user(struct reading *r, size_t i, const json_t *content)
{
    json_t *block, *parts = NULL;
    size_t k;
    json_array_foreach((json_t *)(uintptr_t)content, k, block) {
        const char *type = json_string_value(field_get(block, "type"));
        if (type != NULL && strcmp(type, "tool_result") == 0) {
            parts = NULL;
            if (add_result(r, i, block) != 0)
                return -1;
            continue;
        }
        const json_t *text = block_text(r, i, block);
        if (text == NULL)
            return -1;
        if (parts == NULL) {
            parts = json_array();
            json_array_append_new(r->messages, json_pack("{s:s, s:o}", "role", "user", "content", parts));
        }
        json_array_append_new(parts, text_part(text));
    }
    return 0;
}

static int read_tool_use(struct reading *r, size_t i, const json_t *block, json_t *calls)
{
    const json_t *id = field_get(block, "id"), *name = field_get(block, "name");
    json_t *input = field_get(block, "input");
    if (!field_is_text(id) || !field_is_text(name) || !json_is_object(input))
        return api_fail(r->e, API_BAD, "messages.%zu: a tool_use block needs the strings id and name and the object input",
                        i);
    json_object_set_new(r->calls, json_string_value(id), json_true());
    json_array_append_new(calls, json_pack("{s:O, s:s, s:{s:O, s:O}}", "id", id, "type", "function", "function", "name",
                                           name, "arguments", input));
    return 0;
}

static int read_assistant_block(struct reading *r, size_t i, const json_t *block, struct buf *text, struct buf *thinking,
                                json_t *calls, bool *has_thinking)
{
    const char *type = json_string_value(field_get(block, "type"));
    if (type != NULL && strcmp(type, "tool_use") == 0)
        return read_tool_use(r, i, block, calls);
    bool thinks = type != NULL && strcmp(type, "thinking") == 0;
    const json_t *words = thinks ? field_get(block, "thinking") : block_text(r, i, block);
    if (thinks && !field_is_text(words))
        return api_fail(r->e, API_BAD, "messages.%zu: thinking.thinking: Field required", i);
    if (words == NULL)
        return -1;
    *has_thinking |= thinks;
    buf_add(thinks ? thinking : text, json_string_value(words), json_string_length(words));
    return 0;
}

static int read_assistant(struct reading *r, size_t i, const json_t *content)
{
    struct buf text = {0}, thinking = {0};
    json_t *calls = json_array(), *block, *m;
    size_t k;
    bool has_thinking = false; /* its text is empty where the answer left it out */
    int rc = 0;
    json_array_foreach((json_t *)(uintptr_t)content, k, block) {
        if (rc == 0)
            rc = read_assistant_block(r, i, block, &text, &thinking, calls, &has_thinking);
    }
    m = json_pack("{s:s, s:o}", "role", "assistant", "content", json_stringn(text.len ? text.data : "", text.len));
    if (has_thinking)
        json_object_set_new(m, "reasoning_content", json_stringn(thinking.len ? thinking.data : "", thinking.len));
    if (json_array_size(calls) > 0)
        json_object_set(m, "tool_calls", calls);
    json_decref(calls);
    json_array_append_new(r->messages, m);
    buf_free(&text);
    buf_free(&thinking);
    return rc;
}

static int read_message(struct reading *r, size_t i, const json_t *m)
{
    const char *role = json_string_value(field_get(m, "role"));
    const json_t *content = field_get(m, "content");
    if (role == NULL || (strcmp(role, "user") != 0 && strcmp(role, "assistant") != 0 && strcmp(role, "system") != 0))
        return api_fail(r->e, API_BAD, "messages.%zu.role: must be user, assistant or system", i);
    if (!json_is_array(content) && !field_is_text(content))
        return api_fail(r->e, API_BAD, "messages.%zu.content: must be a string or an array of blocks", i);
    if (json_is_array(content) && strcmp(role, "user") == 0)
        return read_user(r, i, content);
    if (json_is_array(content) && strcmp(role, "assistant") == 0)
        return read_assistant(r, i, content);
    json_t *text = text_content(r, i, content);
    if (text == NULL)
        return -1;
    json_array_append_new(r->messages, json_pack("{s:s, s:o}", "role", role, "content", text));
    return 0;
}

static int read_system(struct reading *r, const json_t *body)
{
    const json_t *system = field_get(body, "system");
    json_t *content = text_content(r, 0, system), *part;
    size_t k;
    if (content == NULL)
        return -1;
    if (json_is_string(content)) {
        const char *kept = skip_attribution(json_string_value(content));
        json_t *rest = kept == json_string_value(content) ? json_incref(content) : json_string(kept);
        json_decref(content);
        content = rest;
    }
    json_array_foreach(content, k, part) {
        const json_t *text = json_object_get(part, "text");
        const char *kept = skip_attribution(json_string_value(text));
        if (kept != json_string_value(text))
            json_object_set_new(part, "text", json_string(kept));
    }
    if (json_array_size(content) > 0 &&
        json_string_length(json_object_get(json_array_get(content, 0), "text")) == 0)
        json_array_remove(content, 0);
    if (json_array_size(content) > 0 || json_string_length(content) > 0)
        json_array_append_new(r->messages, json_pack("{s:s, s:O}", "role", "system", "content", content));
    json_decref(content);
    return 0;
}

/* An assistant message at the end is a beginning that the reply continues. */
static void mark_prefix(struct reading *r)
{
    json_t *last = json_array_get(r->messages, json_array_size(r->messages) - 1);
    const char *role = json_string_value(json_object_get(last, "role"));
    if (role != NULL && strcmp(role, "assistant") == 0 && json_object_get(last, "tool_calls") == NULL)
        json_object_set_new(last, "prefix", json_true());
}

static int read_messages(struct reading *r, const json_t *body)
{
    json_t *list = field_get(body, "messages"), *m;
    size_t i;
    if (!json_is_array(list) || json_array_size(list) == 0)
        return api_fail(r->e, API_BAD, list == NULL ? "messages: Field required"
                                                    : "messages: at least one message is required");
    r->messages = json_array();
    json_object_set_new(r->q->gen, "messages", r->messages);
    if (read_system(r, body) != 0)
        return -1;
    json_array_foreach(list, i, m) {
        if (read_message(r, i, m) != 0)
            return -1;
    }
    rules_last_turn(r->messages);
    mark_prefix(r);
    return 0;
}

/* ---------------------------------------------------------------- the rest of a request */

/* How the thinking is shown: in full (there are no summaries), or as blocks with an empty text and their signature. */
static int read_display(struct reading *r, const json_t *thinking)
{
    const json_t *v = field_get(thinking, "display");
    const char *display = json_string_value(v);
    r->q->omits_thinking = display != NULL && strcmp(display, "omitted") == 0;
    if (v != NULL && !r->q->omits_thinking && (display == NULL || strcmp(display, "summarized") != 0))
        return api_fail(r->e, API_BAD, "thinking.display: must be summarized or omitted");
    return 0;
}

static int read_thinking(struct reading *r, const json_t *body, int think)
{
    const json_t *v = field_get(body, "thinking"), *config;
    if (field_object(body, "output_config", &config, r->e) != 0)
        return -1;
    const json_t *effort = field_get(config, "effort");
    const char *type = json_string_value(field_get(v, "type"));
    enum chat_effort level = EFFORT_HIGH;
    bool known = type != NULL && (strcmp(type, "enabled") == 0 || strcmp(type, "adaptive") == 0);
    if (v != NULL && !known && (type == NULL || strcmp(type, "disabled") != 0))
        return api_fail(r->e, API_BAD, "thinking.type: must be enabled, disabled or adaptive");
    if (effort != NULL && (!field_is_text(effort) || !chat_effort_parse(json_string_value(effort), &level)))
        return api_fail(r->e, API_BAD, "output_config.effort: must be low, medium, high, xhigh or max");
    if (read_display(r, v) != 0)
        return -1;
    r->asks_thinking = type != NULL || think != 0;
    r->q->thinking = (type == NULL ? think >= 0 : known) && level != EFFORT_NONE;
    json_object_set_new(r->q->gen, "thinking", json_pack("{s:s}", "type", r->q->thinking ? "enabled" : "disabled"));
    if (effort != NULL && r->q->thinking)
        json_object_set(r->q->gen, "reasoning_effort", (json_t *)(uintptr_t)effort);
    return 0;
}

static int read_format(struct reading *r, const json_t *body)
{
    const json_t *format = field_get(field_get(body, "output_config"), "format");
    const char *type = json_string_value(field_get(format, "type"));
    if (format == NULL)
        return 0;
    if (type == NULL || strcmp(type, "json_schema") != 0)
        return api_fail(r->e, API_BAD, "output_config.format.type: must be json_schema");
    return rules_schema(r->q, field_get(format, "schema"), "output_config.format.schema", r->e);
}

static int read_tool(struct reading *r, size_t i, const json_t *tool, json_t *to)
{
    bool strict = false;
    const json_t *type = field_get(tool, "type"), *schema = field_get(tool, "input_schema");
    if (type != NULL && (!json_is_string(type) || strcmp(json_string_value(type), "custom") != 0))
        return api_fail(r->e, API_BAD, "tools.%zu.type: tools that the service runs are not supported", i);
    if (!json_is_object(schema))
        return api_fail(r->e, API_BAD, "tools.%zu.input_schema: Field required", i);
    json_t *f = json_object();
    field_copy(f, "name", tool, "name");
    field_copy(f, "description", tool, "description");
    field_copy(f, "parameters", tool, "input_schema");
    if (field_bool(tool, "strict", &strict, r->e) != 0) {
        json_decref(f);
        return -1;
    }
    if (strict)
        json_object_set_new(f, "strict", json_true());
    json_array_append_new(to, json_pack("{s:s, s:o}", "type", "function", "function", f));
    return 0;
}

/* A forced call needs thinking off. Anthropic's own default is off, so a client that says nothing of thinking means that. */
static int force_call(struct reading *r, json_t *choice)
{
    if (!r->asks_thinking && r->q->thinking) {
        r->q->thinking = false;
        json_object_set_new(r->q->gen, "thinking", json_pack("{s:s}", "type", "disabled"));
        json_object_del(r->q->gen, "reasoning_effort");
    }
    return rules_forced_call(r->q, choice, r->e);
}

static int read_tool_choice(struct reading *r, const json_t *body, bool *none)
{
    const json_t *v = field_get(body, "tool_choice"), *name = field_get(v, "name");
    const char *type = json_string_value(field_get(v, "type"));
    bool single = false, forced = type != NULL && strcmp(type, "tool") == 0;
    *none = type != NULL && strcmp(type, "none") == 0;
    if (field_bool(v, "disable_parallel_tool_use", &single, r->e) != 0)
        return -1;
    if (single && r->q->has_tools && !*none)
        json_object_set_new(r->q->gen, "parallel_tool_calls", json_false());
    if (v == NULL || *none || (type != NULL && strcmp(type, "auto") == 0))
        return 0;
    if (type == NULL || (strcmp(type, "any") != 0 && !forced))
        return api_fail(r->e, API_BAD, "tool_choice.type: must be auto, any, tool or none");
    if (forced && !field_is_text(name))
        return api_fail(r->e, API_BAD, "tool_choice.name: Field required");
    json_t *choice = forced ? json_pack("{s:s, s:{s:O}}", "type", "function", "function", "name", name)
                            : json_string("required");
    return force_call(r, choice);
}

/* Such a tool is no part of the prompt until a result refers to it. */
static bool is_deferred(const struct reading *r, const json_t *tool)
{
    const json_t *name = field_get(tool, "name");
    return json_is_true(field_get(tool, "defer_loading")) && field_is_text(name) &&
           json_object_get(r->loaded, json_string_value(name)) == NULL;
}

static int read_tools(struct reading *r, const json_t *body)
{
    json_t *list = field_get(body, "tools"), *tool, *tools = json_array();
    size_t i;
    bool none = false;
    int rc = list != NULL && !json_is_array(list) ? api_fail(r->e, API_BAD, "tools: must be an array") : 0;
    json_array_foreach(list, i, tool) {
        if (rc == 0 && !is_deferred(r, tool))
            rc = read_tool(r, i, tool, tools);
    }
    if (rc == 0)
        rc = rules_tools(tools, r->e);
    r->q->has_tools = json_array_size(tools) > 0;
    if (rc == 0)
        rc = read_tool_choice(r, body, &none);
    r->q->has_tools = r->q->has_tools && !none;
    if (r->q->has_tools)
        json_object_set(r->q->gen, "tools", tools);
    json_decref(tools);
    if (rc == 0 && r->q->has_tools && r->q->thinking && r->env->strict_replay)
        rc = rules_replay(r->messages, "The `content[].thinking` in the thinking mode must be passed back to the API.",
                          r->e);
    return rc;
}

/* Clients put texts of many forms there; they stand under their hash. */
static int read_metadata(struct reading *r, const json_t *body)
{
    const json_t *metadata, *user;
    if (field_object(body, "metadata", &metadata, r->e) != 0 || field_text(metadata, "user_id", &user, r->e) != 0)
        return -1;
    if (user != NULL)
        rules_user_text(r->q, json_string_value(user), json_string_length(user));
    return 0;
}

int anthropic_read(struct api_req *q, const json_t *body, const struct api_env *env, struct api_error *e)
{
    struct reading r = {.q = q, .env = env, .e = e, .calls = json_object(),
                        .loaded = json_object()};
    int think;
    q->gen = json_object();
    int rc = rules_model(body, env, &think, e);
    if (rc == 0 && !q->for_count && field_get(body, "max_tokens") == NULL)
        rc = api_fail(e, API_BAD, "max_tokens: Field required");
    if (rc == 0 && (read_messages(&r, body) != 0 || read_thinking(&r, body, think) != 0 || read_tools(&r, body) != 0 ||
                    read_format(&r, body) != 0 ||
                    field_bool(body, "stream", &q->stream, e) != 0 ||
                    field_extras(body, q, e) != 0 || rules_sampling(q, body, env, e) != 0 ||
                    rules_max_tokens(q, body, "max_tokens", e) != 0 || rules_stop(q, body, "stop_sequences", e) != 0))
        rc = -1;
    if (rc == 0)
        rc = read_metadata(&r, body);
    json_decref(r.calls);
    json_decref(r.loaded);
    return rc;
}
