/* Writing the pieces of a prompt: spans, content, tool schemas, tool calls. The texts are the format's, byte for byte. */
#include "text/chat_parts.h"

#include <stdlib.h>
#include <string.h>

static const char tools_head[] =
    "## Tools\n\n"
    "You have access to a set of tools to help answer the user's question. You can invoke tools by writing a "
    "\"<" TOKEN_DSML "tool_calls>\" block like the following:\n\n"
    "<" TOKEN_DSML "tool_calls>\n"
    "<" TOKEN_DSML "invoke name=\"$TOOL_NAME\">\n"
    "<" TOKEN_DSML "parameter name=\"$PARAMETER_NAME\" string=\"true|false\">$PARAMETER_VALUE</" TOKEN_DSML
    "parameter>\n"
    "...\n"
    "</" TOKEN_DSML "invoke>\n"
    "<" TOKEN_DSML "invoke name=\"$TOOL_NAME2\">\n"
    "...\n"
    "</" TOKEN_DSML "invoke>\n"
    "</" TOKEN_DSML "tool_calls>\n\n"
    "String parameters should be specified as is and set `string=\"true\"`. For all other types (numbers, booleans, "
    "arrays, objects), pass the value in JSON format and set `string=\"false\"`.\n\n"
    "If thinking_mode is enabled (triggered by " TOKEN_THINK "), you MUST output your complete reasoning inside "
    TOKEN_THINK "..." TOKEN_THINK_END " BEFORE any tool calls or final response.\n\n"
    "Otherwise, output directly after " TOKEN_THINK_END " with tool calls or final response.\n\n"
    "### Available Tool Schemas\n\n";

static const char tools_tail[] =
    "\n\nYou MUST strictly follow the above defined tool name and parameter schemas to invoke tool calls.\n";

static const char response_format_head[] =
    "## Response Format:\n\nYou MUST strictly adhere to the following schema to reply:\n";

static void put_span(struct chat_prompt *p, const char *text, size_t n, bool is_control)
{
    if (n == 0)
        return;
    struct chat_span *last = p->n_spans != 0 ? &p->spans[p->n_spans - 1] : NULL;
    if (last == NULL || is_control || last->is_control) {
        if (p->n_spans == p->cap_spans) {
            p->cap_spans = p->cap_spans * 2 + 16;
            p->spans = xrealloc(p->spans, p->cap_spans * sizeof *p->spans);
        }
        last = &p->spans[p->n_spans++];
        *last = (struct chat_span){.start = p->text.len, .is_control = is_control};
    }
    buf_add(&p->text, text, n);
    last->end = p->text.len;
}

void put_control(struct chat_prompt *p, const char *token)
{
    put_span(p, token, strlen(token), true);
}

void put_text(struct chat_prompt *p, const char *text, size_t n)
{
    put_span(p, text, n, false);
}

void put_str(struct chat_prompt *p, const char *text)
{
    put_text(p, text, strlen(text));
}

void put_template(struct chat_prompt *p, const char *text)
{
    static const char *const tokens[] = {TOKEN_DSML, TOKEN_THINK, TOKEN_THINK_END};
    for (;;) {
        const char *next = NULL, *token = NULL;
        for (size_t i = 0; i < COUNT_OF(tokens); i++) {
            const char *at = strstr(text, tokens[i]);
            if (at != NULL && (next == NULL || at < next)) {
                next = at;
                token = tokens[i];
            }
        }
        if (next == NULL)
            break;
        put_text(p, text, (size_t)(next - text));
        put_control(p, token);
        text = next + strlen(token);
    }
    put_str(p, text);
}

void put_json(struct chat_prompt *p, const json_t *value)
{
    struct buf text = {0};
    json_dump_python(value, &text);
    put_text(p, text.data, text.len);
    buf_free(&text);
}

/* ---------------------------------------------------------------- content */

static int put_part(struct chat_prompt *p, const json_t *part, size_t i_msg, size_t i_part, struct err *e)
{
    const json_t *type = json_object_get(part, "type"), *text = json_object_get(part, "text");
    if (!json_is_object(part) || (type != NULL && !json_is_string(type)))
        return err_set(e, HD_EARG, "messages[%zu].content[%zu]: must be an object with a string `type`", i_msg, i_part);
    const char *name = type != NULL ? json_string_value(type) : "None";
    if (strcmp(name, "text") != 0) {
        put_str(p, "[Unsupported ");
        put_str(p, name);
        put_str(p, "]");
        return HD_OK;
    }
    if (text != NULL && (!json_is_string(text) || json_exact_number(text) != NULL))
        return err_set(e, HD_EARG, "messages[%zu].content[%zu].text: must be a string", i_msg, i_part);
    put_text(p, json_string_value(text), json_string_length(text));
    return HD_OK;
}

int put_content(struct chat_prompt *p, const json_t *content, size_t i_msg, const char *if_null, struct err *e)
{
    if (json_is_string(content) && json_exact_number(content) == NULL) {
        put_text(p, json_string_value(content), json_string_length(content));
        return HD_OK;
    }
    if ((content == NULL || json_is_null(content)) && if_null != NULL) {
        put_str(p, if_null);
        return HD_OK;
    }
    if (!json_is_array(content))
        return err_set(e, HD_EARG, "messages[%zu].content: must be a string or an array of parts", i_msg);
    for (size_t i = 0; i < json_array_size(content); i++) {
        if (i != 0)
            put_str(p, "\n\n");
        int rc = put_part(p, json_array_get(content, i), i_msg, i, e);
        if (rc != HD_OK)
            return rc;
    }
    return HD_OK;
}

/* ---------------------------------------------------------------- tools */

int put_tools(struct chat_prompt *p, const json_t *tools, const char *where, struct err *e)
{
    put_template(p, tools_head);
    for (size_t i = 0; i < json_array_size(tools); i++) {
        const json_t *function = json_object_get(json_array_get(tools, i), "function");
        if (!json_is_object(function))
            return err_set(e, HD_EARG, "%s[%zu].function: must be an object", where, i);
        if (i != 0)
            put_str(p, "\n");
        put_json(p, function);
    }
    put_str(p, tools_tail);
    return HD_OK;
}

void put_response_format(struct chat_prompt *p, const json_t *format)
{
    put_str(p, response_format_head);
    put_json(p, format);
}

static void put_parameter(struct chat_prompt *p, const char *key, size_t n_key, const json_t *value)
{
    bool is_string = json_is_string(value) && json_exact_number(value) == NULL;
    put_template(p, "<" TOKEN_DSML "parameter name=\"");
    put_text(p, key, n_key);
    put_str(p, is_string ? "\" string=\"true\">" : "\" string=\"false\">");
    if (is_string)
        put_text(p, json_string_value(value), json_string_length(value));
    else
        put_json(p, value);
    put_template(p, "</" TOKEN_DSML "parameter>");
}

static void put_parameters(struct chat_prompt *p, const json_t *arguments)
{
    json_t *object = (json_t *)(uintptr_t)arguments;
    for (void *it = json_object_iter(object), *first = it; it != NULL; it = json_object_iter_next(object, it)) {
        if (it != first)
            put_str(p, "\n");
        put_parameter(p, json_object_iter_key(it), json_object_iter_key_len(it), json_object_iter_value(it));
    }
}

/* Arguments are JSON text; text that is no JSON becomes one parameter, as in the reference. Clients that send an object
 * mean its JSON text. */
static int put_arguments(struct chat_prompt *p, const json_t *arguments, const char *where, struct err *e)
{
    if (json_is_object(arguments)) {
        if (json_depth_over(arguments, JSON_DEPTH_MAX))
            return err_set(e, HD_EARG, "%s: nested too deeply", where);
        put_parameters(p, arguments);
        return HD_OK;
    }
    if (!json_is_string(arguments) || json_exact_number(arguments) != NULL)
        return err_set(e, HD_EARG, "%s: must be a string that holds a JSON object", where);
    struct err why = {0};
    json_t *value = json_load_exact(json_string_value(arguments), json_string_length(arguments), where, true, &why);
    int rc = HD_OK;
    if (value == NULL && why.code == HD_EUNSUPPORTED)
        rc = err_set(e, HD_EARG, "%s", why.msg);
    else if (value == NULL)
        put_parameter(p, "arguments", strlen("arguments"), arguments);
    else if (json_is_object(value))
        put_parameters(p, value);
    else
        rc = err_set(e, HD_EARG, "%s: must hold a JSON object", where);
    json_decref(value);
    return rc;
}

static int put_tool_call(struct chat_prompt *p, const json_t *call, const char *where, struct err *e)
{
    const json_t *function = json_object_get(call, "function");
    const json_t *name = json_object_get(function, "name");
    if (!json_is_string(name) || json_exact_number(name) != NULL)
        return err_set(e, HD_EARG, "%s.name: must be a string", where);
    put_template(p, "<" TOKEN_DSML "invoke name=\"");
    put_text(p, json_string_value(name), json_string_length(name));
    put_str(p, "\">\n");
    char *field = xasprintf("%s.arguments", where);
    int rc = put_arguments(p, json_object_get(function, "arguments"), field, e);
    free(field);
    put_template(p, "\n</" TOKEN_DSML "invoke>");
    return rc;
}

int put_tool_calls(struct chat_prompt *p, const json_t *calls, size_t i_msg, struct err *e)
{
    if (!json_is_array(calls))
        return err_set(e, HD_EARG, "messages[%zu].tool_calls: must be an array", i_msg);
    put_template(p, "\n\n<" TOKEN_DSML "tool_calls>\n");
    for (size_t i = 0; i < json_array_size(calls); i++) {
        if (i != 0)
            put_str(p, "\n");
        char *where = xasprintf("messages[%zu].tool_calls[%zu].function", i_msg, i);
        int rc = put_tool_call(p, json_array_get(calls, i), where, e);
        free(where);
        if (rc != HD_OK)
            return rc;
    }
    put_template(p, "\n</" TOKEN_DSML "tool_calls>");
    return HD_OK;
}
