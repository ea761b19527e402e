/* The block of calls, as the chat format writes it: names of the given tools only, parameters by the schema of a
 * strict tool or any parameters of another one, raw text for strings and JSON for everything else. */
#include "text/grammar_impl.h"

#include <stdlib.h>
#include <string.h>

static const char marker[] = "\xef\xbd\x9c" "DSML\xef\xbd\x9c";

struct calls {
    struct grammar *g;
    struct schema_reader r; /* of the tool at hand; without a schema for the parameters of the others */
    struct err *e;
    const char *where;
};

/* "<MARK name...": what comes after the '<'. */
static int32_t tag(struct calls *c, const char *text, int32_t next)
{
    return node_control(c->g, marker, node_str(c->g, text, next));
}

/* </MARK parameter>, a new line, then next. */
static int32_t parameter_end(struct calls *c, int32_t next)
{
    return node_str(c->g, "</", tag(c, "parameter>\n", next));
}

static int32_t parameter_kind(struct calls *c, const char *is_string, int32_t value, int32_t next)
{
    int32_t rest = node_call(c->g, value, parameter_end(c, next));
    return rest == AT_FAIL ? AT_FAIL : node_str(c->g, is_string, rest);
}

/* After the name: string="true"> and raw text, or string="false"> and JSON. -1 when the schema cannot be enforced. */
static int32_t parameter_value(struct calls *c, const json_t *schema, int32_t next)
{
    int32_t raw = schema_rule(&c->r, schema, TYPE_STR, true);
    int32_t json = raw < 0 ? -1 : schema_rule(&c->r, schema, TYPES_ALL & ~(unsigned)TYPE_STR, false);
    if (json < 0)
        return -1;
    int32_t node = parameter_kind(c, "true\">", raw, next);
    node = node_either(c->g, node, parameter_kind(c, "false\">", json, next));
    return node == AT_FAIL ? AT_FAIL : node_str(c->g, "\" string=\"", node);
}

/* A parameter by its name: from the tag's '<' on. */
static int32_t named_parameter(struct calls *c, const char *name, const json_t *schema, int32_t next)
{
    size_t mark = schema_enter(&c->r, "properties");
    schema_enter(&c->r, name);
    int32_t value = parameter_value(c, schema, next);
    if (value < 0 || value == AT_FAIL)
        return value;
    schema_leave(&c->r, mark);
    return node_byte(c->g, '<', tag(c, "parameter name=\"", node_str(c->g, name, value)));
}

/* Any number of parameters of any name, then next. */
static int32_t free_parameters(struct calls *c, const json_t *schema, int32_t next)
{
    enum { NAME_MAX_BYTES = 64 };
    struct byte_set s = {0};
    int32_t hole = node_hole(c->g), value = parameter_value(c, schema, hole), name = value;
    if (value < 0)
        return -1;
    for (const char *p = "AZ" "az" "09" "__" "--" ".." "$$"; *p != '\0'; p += 2)
        set_add(&s, (unsigned char)p[0], (unsigned char)p[1]);
    name = node_bytes(c->g, &s, value);
    for (int i = 1; i < NAME_MAX_BYTES && value != AT_FAIL; i++)
        name = node_bytes(c->g, &s, node_either(c->g, name, value));
    int32_t one = value == AT_FAIL ? AT_FAIL : node_byte(c->g, '<', tag(c, "parameter name=\"", name));
    node_fill(c->g, hole, one, next);
    return hole;
}

static bool is_required(const json_t *schema, const char *key)
{
    size_t i;
    json_t *name;
    json_array_foreach(json_object_get(schema, "required"), i, name) {
        if (json_is_string(name) && strcmp(json_string_value(name), key) == 0)
            return true;
    }
    return false;
}

/* The parameters of a strict tool, in the order of its schema, then next. Other parameters only where none are
 * listed: they could bear the name of a listed one. */
static int32_t strict_parameters(struct calls *c, const json_t *schema, int32_t next)
{
    const json_t *properties = json_object_get(schema, "properties"), *extra = schema_extra(schema);
    size_t n = json_object_size(properties), i = n;
    const char **names = xcalloc(n + 1, sizeof *names);
    const char *key;
    json_t *v;
    if (n > 0 && !json_is_false(extra)) {
        free(names);
        return schema_refuse(&c->r, "a strict tool takes additionalProperties false only");
    }
    int32_t node = json_is_false(extra) ? next : free_parameters(c, extra, next);
    json_object_foreach((json_t *)(uintptr_t)properties, key, v)
        names[--i] = key;
    for (i = 0; i < n && node >= 0; i++) {
        int32_t one = named_parameter(c, names[i], json_object_get(properties, names[i]), node);
        node = one < 0 ? -1 : is_required(schema, names[i]) ? one : node_either(c->g, one, node);
    }
    free(names);
    return node;
}

static int32_t parameters(struct calls *c, const json_t *function, int32_t next)
{
    const json_t *schema = json_object_get(function, "parameters");
    if (!json_is_true(json_object_get(function, "strict")))
        return free_parameters(c, NULL, next);
    schema = schema == NULL ? NULL : schema_resolve(&c->r, schema);
    if (schema == NULL)
        return c->e->code != HD_OK ? -1 : next;
    if (schema_check(&c->r, schema) != 0)
        return -1;
    if (schema_types(&c->r, schema) != TYPE_OBJ)
        return schema_refuse(&c->r, "the parameters of a strict tool must be of type object");
    return strict_parameters(c, schema, next);
}

/* invoke name="N">, its parameters, and next behind its end. */
static int32_t call_of(struct calls *c, const json_t *tool, int32_t next)
{
    const json_t *function = json_object_get(tool, "function");
    const char *name = json_string_value(json_object_get(function, "name"));
    int32_t end = node_str(c->g, "</", tag(c, "invoke>\n", next));
    char *where = xasprintf("tool '%.100s'", name);
    schema_reader_init(&c->r, c->g, json_object_get(function, "parameters"), where, c->e);
    int32_t node = parameters(c, function, end);
    if (node >= 0) /* without parameters an empty line may stand there */
        node = node_either(c->g, node, node == end ? node_byte(c->g, '\n', end) : AT_FAIL);
    schema_reader_free(&c->r);
    free(where);
    if (node < 0)
        return -1;
    return node_str(c->g, name, node_str(c->g, "\">\n", node));
}

int32_t calls_block(struct grammar *g, const struct grammar_spec *s, struct err *e)
{
    struct calls c = {.g = g, .e = e};
    size_t i;
    json_t *tool;
    int32_t again = node_hole(g), invokes = AT_FAIL;
    json_array_foreach((json_t *)(uintptr_t)s->tools, i, tool) {
        const char *name = json_string_value(json_object_get(json_object_get(tool, "function"), "name"));
        if (name == NULL || (s->forced != NULL && strcmp(name, s->forced) != 0))
            continue;
        int32_t one = call_of(&c, tool, again);
        if (one < 0)
            return -1;
        invokes = node_either(g, invokes, one);
    }
    int32_t first = node_byte(g, '<', tag(&c, "invoke name=\"", invokes));
    int32_t end = node_str(g, "</", tag(&c, "tool_calls>", AT_RETURN));
    node_fill(g, again, end, s->one_call ? AT_FAIL : first);
    return tag(&c, "tool_calls>\n", first);
}
