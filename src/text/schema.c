/* JSON Schema to rules of a grammar. What a keyword asks for is enforced, or the schema is refused with a sentence
 * that names the place and the keyword; nothing that changes which values are valid is passed over. Every value that
 * the grammar lets through is valid; some valid values are not written (keys in another order, longer numbers). */
#include "text/grammar_impl.h"

#include <assert.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { REFS_MAX = 64, SCHEMA_DEPTH_MAX = 100 };

void schema_reader_init(struct schema_reader *r, struct grammar *g, const json_t *root, const char *name, struct err *e)
{
    *r = (struct schema_reader){.g = g, .root = root, .name = name, .e = e};
    r->blank = blank_rule(g);
}

void schema_reader_free(struct schema_reader *r)
{
    buf_free(&r->path);
    free(r->rules);
    *r = (struct schema_reader){0};
}

int schema_refuse(struct schema_reader *r, const char *fmt, ...)
{
    char what[512];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(what, sizeof what, fmt, ap);
    va_end(ap);
    err_set(r->e, HD_EARG, "%s: at '#%.200s': %s", r->name, r->path.len > 0 ? r->path.data : "", what);
    return -1;
}

size_t schema_enter(struct schema_reader *r, const char *segment)
{
    size_t mark = r->path.len;
    buf_printf(&r->path, "/%.100s", segment);
    return mark;
}

void schema_leave(struct schema_reader *r, size_t mark)
{
    r->path.len = mark;
    if (r->path.data != NULL)
        r->path.data[mark] = '\0';
}

/* ---------------------------------------------------------------- references */

/* One step of a JSON pointer; ~0 is ~ and ~1 is /. */
static const json_t *pointer_step(const json_t *at, const char *segment, size_t n)
{
    struct buf key = {0};
    for (size_t i = 0; i < n; i++) {
        bool escape = segment[i] == '~' && i + 1 < n && (segment[i + 1] == '0' || segment[i + 1] == '1');
        buf_char(&key, !escape ? segment[i] : segment[i + 1] == '0' ? '~' : '/');
        i += escape;
    }
    const char *text = key.len > 0 ? key.data : "";
    char *end;
    const json_t *found = json_object_get(at, text);
    if (json_is_array(at)) {
        unsigned long i = strtoul(text, &end, 10);
        found = *text != '\0' && *end == '\0' ? json_array_get(at, i) : NULL;
    }
    buf_free(&key);
    return found;
}

static const json_t *pointer_find(const json_t *root, const char *pointer)
{
    const json_t *at = root;
    while (at != NULL && *pointer == '/') {
        size_t n = strcspn(pointer + 1, "/");
        at = pointer_step(at, pointer + 1, n);
        pointer += 1 + n;
    }
    return *pointer == '\0' ? at : NULL;
}

const json_t *schema_resolve(struct schema_reader *r, const json_t *schema)
{
    for (int i = 0; i < REFS_MAX; i++) {
        const json_t *v = json_object_get(schema, "$ref");
        const char *ref = json_string_value(v);
        if (v == NULL)
            return schema;
        if (schema_check(r, schema) != 0)
            return NULL;
        if (ref == NULL || ref[0] != '#') {
            schema_refuse(r, "$ref '%.100s' points outside of the schema", ref == NULL ? "" : ref);
            return NULL;
        }
        schema = pointer_find(r->root, ref + 1);
        if (schema == NULL) {
            schema_refuse(r, "$ref '%.100s' points to nothing", ref);
            return NULL;
        }
    }
    schema_refuse(r, "$ref leads back to itself");
    return NULL;
}

/* ---------------------------------------------------------------- values of no schema */

static int32_t word(struct schema_reader *r, const char *text)
{
    return node_str(r->g, text, AT_RETURN);
}

/* The kinds of values of a schema without anyOf, $ref or enum; NULL: all values. */
static int32_t kinds(struct schema_reader *r, const json_t *schema, unsigned types, bool raw)
{
    int32_t node = AT_FAIL, part[7] = {AT_FAIL, AT_FAIL, AT_FAIL, AT_FAIL, AT_FAIL, AT_FAIL, AT_FAIL};
    if (types & TYPE_NULL)
        part[0] = word(r, "null");
    if (types & TYPE_BOOL)
        part[1] = node_either(r->g, word(r, "true"), word(r, "false"));
    if (types & (TYPE_NUM | TYPE_INT))
        part[2] = schema_number(r, schema, !(types & TYPE_NUM));
    if (types & TYPE_STR)
        part[3] = schema_string(r, schema, raw);
    if (types & TYPE_ARR)
        part[4] = schema_array(r, schema);
    if (types & TYPE_OBJ)
        part[5] = schema_object(r, schema);
    for (size_t i = 0; i < COUNT_OF(part); i++) {
        if (part[i] < 0)
            return -1;
        node = node_either(r->g, node, part[i]);
    }
    return node;
}

/* ---------------------------------------------------------------- given values */

static unsigned type_of(const json_t *v)
{
    if (json_exact_number(v) != NULL)
        return TYPE_NUM;
    switch (json_typeof(v)) {
    case JSON_OBJECT:
        return TYPE_OBJ;
    case JSON_ARRAY:
        return TYPE_ARR;
    case JSON_STRING:
        return TYPE_STR;
    case JSON_INTEGER:
        return TYPE_INT | TYPE_NUM;
    case JSON_REAL:
        return TYPE_NUM;
    case JSON_TRUE:
    case JSON_FALSE:
        return TYPE_BOOL;
    default:
        return TYPE_NULL;
    }
}

static int32_t given_values(struct schema_reader *r, const json_t *list, unsigned types, bool raw)
{
    size_t n = json_array_size(list), n_texts = 0, i;
    struct buf *texts = xcalloc(n + 1, sizeof *texts);
    json_t *v;
    json_array_foreach((json_t *)(uintptr_t)list, i, v) {
        if (!(type_of(v) & types))
            continue;
        struct buf *b = &texts[n_texts++];
        if (raw)
            buf_add(b, json_string_value(v), json_string_length(v));
        else
            json_dump_python(v, b);
    }
    int32_t node = node_texts(r->g, texts, n_texts, AT_RETURN);
    for (i = 0; i < n; i++)
        buf_free(&texts[i]);
    free(texts);
    return node;
}

/* ---------------------------------------------------------------- schemas of schemas */

static int32_t any_of(struct schema_reader *r, const json_t *list, const char *keyword, unsigned types, bool raw)
{
    size_t i, k, mark = schema_enter(r, keyword);
    json_t *one, *other;
    int32_t node = AT_FAIL;
    if (!json_is_array(list) || json_array_size(list) == 0)
        return schema_refuse(r, "expected an array of schemas");
    json_array_foreach((json_t *)(uintptr_t)list, i, one) {
        for (k = 0; k < i && keyword[0] == 'o'; k++) {
            other = json_array_get(list, k);
            if (!schema_disjoint(r, one, other))
                return schema_refuse(r, "schemas %zu and %zu may match the same value; use anyOf, or a property whose "
                                     "const or enum tells them apart", k, i);
        }
        int32_t part = schema_rule(r, one, types, raw);
        if (part < 0)
            return -1;
        node = node_either(r->g, node, part);
    }
    schema_leave(r, mark);
    return node;
}

static int32_t rule_body(struct schema_reader *r, const json_t *schema, unsigned types, bool raw)
{
    const json_t *v;
    if (schema == NULL || json_is_true(schema))
        return kinds(r, NULL, types, raw);
    if (json_is_false(schema))
        return AT_FAIL;
    if (!json_is_object(schema))
        return schema_refuse(r, "a schema must be an object, true or false");
    if (schema_check(r, schema) != 0)
        return -1;
    if (json_object_get(schema, "$ref") != NULL) {
        const json_t *target = schema_resolve(r, schema);
        return target == NULL ? -1 : schema_rule(r, target, types, raw);
    }
    unsigned own = schema_types(r, schema);
    if (own == 0)
        return -1;
    types &= own;
    if ((v = json_object_get(schema, "allOf")) != NULL)
        return schema_rule(r, json_array_get(v, 0), types, raw);
    if ((v = json_object_get(schema, "anyOf")) != NULL)
        return any_of(r, v, "anyOf", types, raw);
    if ((v = json_object_get(schema, "oneOf")) != NULL)
        return any_of(r, v, "oneOf", types, raw);
    if ((v = json_object_get(schema, "enum")) != NULL)
        return given_values(r, v, types, raw);
    if (json_object_get(schema, "const") != NULL) {
        json_t *one = json_pack("[O]", json_object_get(schema, "const"));
        int32_t node = given_values(r, one, types, raw);
        json_decref(one);
        return node;
    }
    return kinds(r, schema, types, raw);
}

int32_t schema_rule(struct schema_reader *r, const json_t *schema, unsigned types, bool raw)
{
    for (int i = 0; i < r->n_rules; i++)
        if (r->rules[i].schema == schema && r->rules[i].types == types && r->rules[i].raw == raw)
            return r->rules[i].node;
    if (r->depth == SCHEMA_DEPTH_MAX)
        return schema_refuse(r, "the schema is nested too deep");
    if (r->n_rules == r->cap_rules) {
        r->cap_rules = r->cap_rules == 0 ? 16 : 2 * r->cap_rules;
        r->rules = xrealloc(r->rules, (size_t)r->cap_rules * sizeof *r->rules);
    }
    int32_t hole = node_hole(r->g);
    int i_rule = r->n_rules++;
    r->rules[i_rule] = (struct schema_rule){schema, types, raw, hole};
    r->depth++;
    int32_t node = rule_body(r, schema, types, raw);
    r->depth--;
    if (node < 0)
        return -1;
    node_fill(r->g, hole, node, AT_FAIL);
    if (node == AT_FAIL) /* later uses see at once that there is nothing */
        r->rules[i_rule].node = AT_FAIL;
    return r->rules[i_rule].node;
}
