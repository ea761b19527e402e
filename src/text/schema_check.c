/* What a schema says besides the values it describes: keywords that are not enforced, the types it allows, and
 * whether two schemas exclude each other. */
#include "text/grammar_impl.h"

#include <stdlib.h>
#include <string.h>

/* Which kind of value a keyword speaks of. ANNOTATION: changes nothing; OWN: handled where it stands. */
enum { ANNOTATION = 0, OWN = 1 << 8, REFUSED = 1 << 9 };

static const struct keyword {
    const char *name;
    unsigned kind;
} keywords[] = {
    {"type", OWN}, {"nullable", OWN}, {"$ref", OWN}, {"anyOf", OWN}, {"oneOf", OWN}, {"allOf", OWN}, {"enum", OWN},
    {"const", OWN},
    {"properties", TYPE_OBJ}, {"required", TYPE_OBJ}, {"additionalProperties", TYPE_OBJ},
    {"items", TYPE_ARR}, {"prefixItems", TYPE_ARR}, {"minItems", TYPE_ARR}, {"maxItems", TYPE_ARR},
    {"minLength", TYPE_STR}, {"maxLength", TYPE_STR}, {"pattern", TYPE_STR}, {"format", TYPE_STR},
    {"minimum", TYPE_NUM}, {"maximum", TYPE_NUM}, {"exclusiveMinimum", TYPE_NUM}, {"exclusiveMaximum", TYPE_NUM},
    {"not", REFUSED}, {"if", REFUSED}, {"then", REFUSED}, {"else", REFUSED}, {"dependentSchemas", REFUSED},
    {"dependentRequired", REFUSED}, {"dependencies", REFUSED}, {"patternProperties", REFUSED},
    {"propertyNames", REFUSED}, {"minProperties", REFUSED}, {"maxProperties", REFUSED},
    {"unevaluatedProperties", REFUSED}, {"unevaluatedItems", REFUSED}, {"additionalItems", REFUSED},
    {"contains", REFUSED}, {"minContains", REFUSED}, {"maxContains", REFUSED}, {"uniqueItems", REFUSED},
    {"multipleOf", REFUSED}, {"$dynamicRef", REFUSED}, {"$recursiveRef", REFUSED},
    {"contentEncoding", REFUSED}, {"contentMediaType", REFUSED}, {"contentSchema", REFUSED},
};

/* Keywords that JSON Schema does not know are annotations, as it says itself. */
static unsigned kind_of(const char *name)
{
    for (size_t i = 0; i < COUNT_OF(keywords); i++)
        if (strcmp(name, keywords[i].name) == 0)
            return keywords[i].kind;
    return ANNOTATION;
}

/* The keyword that decides alone, so that assertions beside it would be lost. */
static const char *deciding(const json_t *schema)
{
    static const char *const names[] = {"$ref", "allOf", "anyOf", "oneOf", "enum", "const"};
    for (size_t i = 0; i < COUNT_OF(names); i++)
        if (json_object_get(schema, names[i]) != NULL)
            return names[i];
    return NULL;
}

static int check_keyword(struct schema_reader *r, const char *key, const json_t *v, const char *decides)
{
    unsigned kind = kind_of(key);
    if (kind == REFUSED && !(strcmp(key, "uniqueItems") == 0 && json_is_false(v)))
        return schema_refuse(r, "the keyword '%s' is not supported", key);
    if (decides == NULL || kind == ANNOTATION || kind == REFUSED || strcmp(key, decides) == 0)
        return 0;
    if (strcmp(decides, "$ref") != 0 && (strcmp(key, "type") == 0 || strcmp(key, "nullable") == 0))
        return 0;
    return schema_refuse(r, "the keyword '%s' beside '%s' is not supported", key, decides);
}

int schema_check(struct schema_reader *r, const json_t *schema)
{
    const char *key, *decides = deciding(schema);
    json_t *v;
    json_object_foreach((json_t *)(uintptr_t)schema, key, v) {
        if (check_keyword(r, key, v, decides) != 0)
            return -1;
    }
    if (decides != NULL && strcmp(decides, "allOf") == 0 && json_array_size(json_object_get(schema, "allOf")) != 1)
        return schema_refuse(r, "allOf with another number than one schema is not supported");
    if (decides != NULL && strcmp(decides, "enum") == 0 && json_array_size(json_object_get(schema, "enum")) == 0)
        return schema_refuse(r, "enum must be an array of values");
    return 0;
}

/* ---------------------------------------------------------------- types */

static unsigned type_by_name(const json_t *v)
{
    static const struct {
        const char *name;
        unsigned type;
    } names[] = {{"null", TYPE_NULL},    {"boolean", TYPE_BOOL}, {"integer", TYPE_INT}, {"number", TYPE_NUM | TYPE_INT},
                 {"string", TYPE_STR},   {"array", TYPE_ARR},    {"object", TYPE_OBJ}};
    for (size_t i = 0; json_is_string(v) && i < COUNT_OF(names); i++)
        if (strcmp(json_string_value(v), names[i].name) == 0)
            return names[i].type;
    return 0;
}

/* A schema without a type that speaks of one kind of value means that kind. */
static unsigned types_spoken_of(const json_t *schema)
{
    unsigned types = 0;
    const char *key;
    json_t *v;
    if (deciding(schema) != NULL)
        return TYPES_ALL;
    json_object_foreach((json_t *)(uintptr_t)schema, key, v) {
        unsigned kind = kind_of(key);
        if (kind < OWN)
            types |= kind == TYPE_NUM ? (unsigned)(TYPE_NUM | TYPE_INT) : kind;
    }
    return types == 0 ? TYPES_ALL : types;
}

unsigned schema_types(struct schema_reader *r, const json_t *schema)
{
    const json_t *v = json_object_get(schema, "type");
    unsigned types = 0;
    size_t i;
    json_t *one;
    if (v == NULL)
        types = types_spoken_of(schema);
    else if (json_is_string(v))
        types = type_by_name(v);
    json_array_foreach((json_t *)(uintptr_t)v, i, one)
        types |= type_by_name(one);
    if (types == 0)
        schema_refuse(r, "type must be one of null, boolean, integer, number, string, array, object, or an array of these");
    else if (json_is_true(json_object_get(schema, "nullable")))
        types |= TYPE_NULL;
    return types;
}

/* ---------------------------------------------------------------- schemas that exclude each other */

/* The values that a schema lists, as a new array; NULL when it lists none. */
static json_t *listed(struct schema_reader *r, const json_t *schema)
{
    schema = schema_resolve(r, schema);
    const json_t *one = json_object_get(schema, "const");
    if (one != NULL)
        return json_pack("[O]", one);
    return json_incref(json_object_get(schema, "enum"));
}

static bool lists_disjoint(struct schema_reader *r, const json_t *a, const json_t *b)
{
    json_t *x = listed(r, a), *y = listed(r, b), *v, *w;
    bool disjoint = x != NULL && y != NULL;
    size_t i, k;
    json_array_foreach(x, i, v) {
        json_array_foreach(y, k, w) {
            bool numbers = json_is_number(v) && json_is_number(w);
            if (json_equal(v, w) || (numbers && json_number_value(v) == json_number_value(w)))
                disjoint = false;
        }
    }
    json_decref(x);
    json_decref(y);
    return disjoint;
}

static bool requires(const json_t *schema, const char *key)
{
    size_t i;
    json_t *name;
    json_array_foreach(json_object_get(schema, "required"), i, name) {
        if (json_is_string(name) && strcmp(json_string_value(name), key) == 0)
            return true;
    }
    return false;
}

bool schema_disjoint(struct schema_reader *r, const json_t *a, const json_t *b)
{
    const char *key;
    json_t *v;
    a = schema_resolve(r, a);
    b = schema_resolve(r, b);
    if (!json_is_object(a) || !json_is_object(b))
        return false;
    if (deciding(a) == NULL && deciding(b) == NULL) {
        unsigned x = schema_types(r, a), y = schema_types(r, b);
        if ((x & y) == 0)
            return true;
        if (x != TYPE_OBJ || y != TYPE_OBJ)
            return false;
    } else
        return lists_disjoint(r, a, b);
    const json_t *mine = json_object_get(a, "properties"), *other = json_object_get(b, "properties");
    json_object_foreach((json_t *)(uintptr_t)mine, key, v) {
        if (json_object_get(other, key) != NULL && requires(a, key) && requires(b, key) &&
            lists_disjoint(r, v, json_object_get(other, key)))
            return true;
    }
    return false;
}
