/* Rules of requests that every dialect shares. Sentences in the words of the official service where they are known. */
#include "serve/api.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

enum { TOOLS_MAX = 128, TOOL_NAME_MAX = 128, USER_BYTES_MAX = 512, OUTPUT_TOKENS_MAX = 393216 };

int rules_model(const json_t *body, const struct api_env *env, int *think, struct api_error *e)
{
    const json_t *name = NULL;
    *think = 0;
    if (field_text(body, "model", &name, e) != 0)
        return -1;
    if (name == NULL)
        return field_missing(e, "", "model");
    if (!api_model_known(env, json_string_value(name), think))
        return api_fail(e, API_BAD, "Model Not Exist");
    return 0;
}

/* ---------------------------------------------------------------- tools */

static bool is_name(const json_t *v, size_t bytes_max)
{
    size_t n = json_string_length(v);
    static const char letters[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    return field_is_text(v) && n >= 1 && n <= bytes_max && strspn(json_string_value(v), letters) == n;
}

static int check_tool(size_t i, const json_t *tool, json_t *seen, struct api_error *e)
{
    const json_t *f = field_get(tool, "function"), *name = field_get(f, "name"), *schema = field_get(f, "parameters");
    const char *type = json_string_value(field_get(tool, "type"));
    bool strict;
    if (type == NULL || strcmp(type, "function") != 0 || !json_is_object(f))
        return api_fail(e, API_TYPE, "Failed to deserialize the JSON body into the target type: tools[%zu]: expected "
                        "an object of type `function`", i);
    if (name == NULL || !field_is_text(name))
        return api_fail(e, API_TYPE, "Failed to deserialize the JSON body into the target type: tools[%zu].function: %s", i,
                        name == NULL ? "missing field `name`" : "name: expected a string");
    if (!is_name(name, TOOL_NAME_MAX))
        return api_fail(e, API_BAD, "Invalid 'tools[%zu].function.name': expected 1 to %d characters of a-z, A-Z, 0-9, "
                        "'-' and '_'.", i, TOOL_NAME_MAX);
    if (json_object_get(seen, json_string_value(name)) != NULL)
        return api_fail(e, API_BAD, "Invalid 'tools[%zu].function.name': tool names must be unique.", i);
    if (schema != NULL && !json_is_object(schema))
        return api_fail(e, API_BAD, "Invalid 'tools[%zu].function.parameters': expected an object.", i);
    json_object_set_new(seen, json_string_value(name), json_true());
    return field_bool(f, "strict", &strict, e);
}

int rules_tools(const json_t *tools, struct api_error *e)
{
    size_t i;
    json_t *tool, *seen = json_object();
    int rc = 0;
    if (json_array_size(tools) > TOOLS_MAX)
        rc = api_fail(e, API_BAD, "Invalid 'tools': at most %d tools are supported.", TOOLS_MAX);
    json_array_foreach((json_t *)(uintptr_t)tools, i, tool) {
        if (rc == 0)
            rc = check_tool(i, tool, seen, e);
    }
    json_decref(seen);
    return rc;
}

/* ---------------------------------------------------------------- messages */

static bool has_role(const json_t *message, const char *role)
{
    const char *r = json_string_value(json_object_get(message, "role"));
    return r != NULL && strcmp(r, role) == 0;
}

void rules_last_turn(json_t *messages)
{
    size_t n = json_array_size(messages), end = n;
    while (end > 0 && has_role(json_array_get(messages, end - 1), "system"))
        end--;
    size_t turn = end;
    while (turn > 0 && (has_role(json_array_get(messages, turn - 1), "user") ||
                        has_role(json_array_get(messages, turn - 1), "tool")))
        turn--;
    for (size_t i = 0; turn < end && end + i < n; i++) {
        json_t *m = json_incref(json_array_get(messages, end + i));
        json_array_remove(messages, end + i);
        json_array_insert_new(messages, turn + i, m);
    }
}

/* The calls of an assistant message that still wait for results, as keys of an object. */
static json_t *open_calls(const json_t *message)
{
    json_t *open = json_object(), *call;
    size_t i;
    json_array_foreach(field_get(message, "tool_calls"), i, call) {
        const char *id = json_string_value(field_get(call, "id"));
        if (id != NULL)
            json_object_set_new(open, id, json_true());
    }
    return open;
}

static int check_result(const json_t *message, json_t *open, struct api_error *e)
{
    const char *id = json_string_value(json_object_get(message, "tool_call_id"));
    if (id == NULL || json_object_get(open, id) == NULL)
        return api_fail(e, API_BAD, "Messages with role 'tool' must be a response to a preceding message with "
                        "'tool_calls'");
    json_object_del(open, id);
    return 0;
}

int rules_pairing(const json_t *messages, struct api_error *e)
{
    json_t *open = json_object(), *m;
    size_t i;
    int rc = 0;
    json_array_foreach((json_t *)(uintptr_t)messages, i, m) {
        if (rc != 0)
            break;
        if (has_role(m, "tool"))
            rc = check_result(m, open, e);
        else if (json_object_size(open) > 0)
            rc = api_fail(e, API_BAD, "An assistant message with 'tool_calls' must be followed by tool messages "
                          "responding to each 'tool_call_id'. (insufficient tool messages following tool_calls message)");
        else if (has_role(m, "assistant")) {
            json_decref(open);
            open = open_calls(m);
        }
    }
    if (rc == 0 && json_object_size(open) > 0)
        rc = api_fail(e, API_BAD, "An assistant message with 'tool_calls' must be followed by tool messages "
                      "responding to each 'tool_call_id'. (insufficient tool messages following tool_calls message)");
    json_decref(open);
    return rc;
}

int rules_replay(const json_t *messages, const char *text, struct api_error *e)
{
    size_t i;
    json_t *m;
    json_array_foreach((json_t *)(uintptr_t)messages, i, m) {
        if (has_role(m, "assistant") && field_get(m, "reasoning_content") == NULL)
            return api_fail(e, API_BAD, "%s", text);
    }
    return 0;
}

int rules_forced_call(struct api_req *q, json_t *choice, struct api_error *e)
{
    json_object_set_new(q->gen, "tool_choice", choice);
    if (q->thinking)
        return api_fail(e, API_BAD, "Thinking mode does not support this tool_choice");
    if (!q->has_tools)
        return api_fail(e, API_BAD, "Invalid tool_choice: a call is forced, but there are no tools");
    return 0;
}

int rules_allowed_tools(struct api_req *q, const char *mode, json_t *tools, struct api_error *e)
{
    bool required = mode != NULL && strcmp(mode, "required") == 0;
    if (json_array_size(tools) == 0 || (!required && (mode == NULL || strcmp(mode, "auto") != 0))) {
        json_decref(tools);
        return api_fail(e, API_BAD, "Invalid tool_choice: allowed_tools needs a mode, auto or required, and a list of "
                        "tools");
    }
    json_t *choice = json_pack("{s:s, s:{s:s, s:o}}", "type", "allowed_tools", "allowed_tools", "mode", mode, "tools",
                               tools);
    if (required)
        return rules_forced_call(q, choice, e);
    json_object_set_new(q->gen, "tool_choice", choice);
    if (!q->has_tools)
        return api_fail(e, API_BAD, "Invalid tool_choice: tools are allowed, but there are none");
    return 0;
}

int rules_schema(struct api_req *q, const json_t *schema, const char *where, struct api_error *e)
{
    if (!json_is_object(schema))
        return field_type_error(e, where, schema, "a JSON schema");
    json_object_set_new(q->gen, "response_format", json_pack("{s:s, s:{s:O}}", "type", "json_schema", "json_schema",
                                                             "schema", schema));
    return 0;
}

/* ---------------------------------------------------------------- numbers and texts */

static int check_real(const json_t *body, const char *key, double low, bool low_in, double high, const char *range,
                      double *out, bool *given, struct api_error *e)
{
    if (field_real(body, key, out, given, e) != 0)
        return -1;
    if (*given && !((low_in ? *out >= low : *out > low) && *out <= high))
        return api_fail(e, API_BAD, "Invalid %s value, the valid range of %s is %s", key, key, range);
    return 0;
}

/* The official service samples a thinking reply at temperature 1 and top_p >= 0.95, another one at top_p 1. */
int rules_sampling(struct api_req *q, const json_t *body, const struct api_env *env, struct api_error *e)
{
    double temperature = 1, top_p = 1, min_p = 0;
    int64_t top_k = 0, seed = 0;
    bool has_t, has_p, has_m, has_k, has_seed;
    if (check_real(body, "temperature", 0, true, 2, "[0, 2]", &temperature, &has_t, e) != 0 ||
        check_real(body, "top_p", 0, false, 1, "(0, 1]", &top_p, &has_p, e) != 0 ||
        check_real(body, "min_p", 0, true, 1, "[0, 1]", &min_p, &has_m, e) != 0 ||
        field_int(body, "top_k", &top_k, &has_k, e) != 0 || field_int(body, "seed", &seed, &has_seed, e) != 0)
        return -1;
    if (has_k && (top_k < -1 || top_k > INT32_MAX)) /* -1 is off for many clients */
        return api_fail(e, API_BAD, "Invalid top_k value, the valid range of top_k is [-1, %d]", INT32_MAX);
    if (!env->free_sampling) {
        has_t = has_t && !q->thinking;
        has_p = has_p && q->thinking;
        top_p = top_p < 0.95 ? 0.95 : top_p;
    }
    if (has_t)
        json_object_set_new(q->gen, "temperature", json_real(temperature));
    if (has_p)
        json_object_set_new(q->gen, "top_p", json_real(top_p));
    if (has_m)
        json_object_set_new(q->gen, "min_p", json_real(min_p));
    if (has_k)
        json_object_set_new(q->gen, "top_k", json_integer(top_k < 0 ? 0 : top_k));
    if (has_seed)
        json_object_set_new(q->gen, "seed", json_integer(seed));
    return 0;
}

int rules_max_tokens(struct api_req *q, const json_t *body, const char *key, struct api_error *e)
{
    int64_t n = 0;
    bool given;
    if (field_int(body, key, &n, &given, e) != 0)
        return -1;
    if (!given)
        return 0;
    if (n < 1 || n > OUTPUT_TOKENS_MAX)
        return api_fail(e, API_BAD, "Invalid %s value, the valid range of %s is [1, %d]", key, key, OUTPUT_TOKENS_MAX);
    json_object_set_new(q->gen, "max_tokens", json_integer(n));
    return 0;
}

static bool is_stop(const json_t *v)
{
    size_t n = json_string_length(v);
    return field_is_text(v) && n >= 1 && n <= STOP_BYTES_MAX && strlen(json_string_value(v)) == n;
}

int rules_stop(struct api_req *q, const json_t *body, const char *key, struct api_error *e)
{
    json_t *v = field_get(body, key), *one;
    size_t i;
    if (v == NULL)
        return 0;
    if (!json_is_string(v) && !json_is_array(v))
        return field_type_error(e, key, v, "a string or an array of strings");
    if (json_array_size(v) > STOP_STRINGS_MAX)
        return api_fail(e, API_BAD, "Invalid %s value, at most %d stop sequences are supported", key, STOP_STRINGS_MAX);
    if (json_is_string(v) && !is_stop(v))
        return api_fail(e, API_BAD, "Invalid %s value, a stop sequence has 1 to %d bytes", key, STOP_BYTES_MAX);
    json_array_foreach(v, i, one) {
        if (!is_stop(one))
            return api_fail(e, API_BAD, "Invalid %s[%zu] value, a stop sequence is a string of 1 to %d bytes", key, i,
                            STOP_BYTES_MAX);
    }
    json_object_set(q->gen, "stop", v);
    return 0;
}

int rules_user(struct api_req *q, const json_t *user, struct api_error *e)
{
    if (user == NULL)
        return 0;
    if (json_string_length(user) > 0 && !is_name(user, USER_BYTES_MAX))
        return api_fail(e, API_BAD, "Invalid user_id: expected at most %d characters of a-z, A-Z, 0-9, '-' and '_'.",
                        USER_BYTES_MAX);
    json_object_set_new(q->gen, "user_id", json_string(json_string_value(user)));
    return 0;
}

void rules_user_text(struct api_req *q, const char *user, size_t n)
{
    uint64_t h = 0;
    for (size_t i = 0; i < n; i++)
        h = mix64(h ^ (unsigned char)user[i]);
    json_object_set_new(q->gen, "user_id", json_sprintf("m-%016" PRIx64, h));
}

int rules_penalties(const json_t *body, struct api_error *e)
{
    double value;
    bool given;
    if (field_real(body, "frequency_penalty", &value, &given, e) != 0)
        return -1;
    return field_real(body, "presence_penalty", &value, &given, e);
}
