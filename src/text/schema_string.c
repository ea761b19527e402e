/* Strings: in quotes with JSON's escapes, or raw as the parameters of calls carry them. */
#include "text/grammar_impl.h"

#include <string.h>

enum { LENGTH_MAX = 1024 };

/* Formats that are enforced, as patterns. Digits of dates stay within what every calendar month has, so that a date
 * is one. */
static const struct {
    const char *name, *pattern;
} formats[] = {
    {"date", "^[0-9]{4}-(0[1-9]|1[0-2])-(0[1-9]|1[0-9]|2[0-8])$"},
    {"time", "^([01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](\\.[0-9]{1,6})?(Z|[+-]([01][0-9]|2[0-3]):[0-5][0-9])$"},
    {"date-time", "^[0-9]{4}-(0[1-9]|1[0-2])-(0[1-9]|1[0-9]|2[0-8])T([01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9]"
                  "(\\.[0-9]{1,6})?(Z|[+-]([01][0-9]|2[0-3]):[0-5][0-9])$"},
    {"uuid", "^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$"},
    {"ipv4", "^(25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])(\\.(25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])){3}$"},
    {"email", "^[A-Za-z0-9_+-]{1,32}(\\.[A-Za-z0-9_+-]{1,16}){0,2}@[A-Za-z0-9]{1,32}(\\.[A-Za-z]{2,16}){1,3}$"},
    {"hostname", "^[A-Za-z0-9]{1,32}(\\.[A-Za-z0-9]{1,32}){0,4}$"},
};

static const char *format_pattern(const char *name)
{
    for (size_t i = 0; i < COUNT_OF(formats); i++)
        if (strcmp(name, formats[i].name) == 0)
            return formats[i].pattern;
    return NULL;
}

static int read_length(struct schema_reader *r, const json_t *schema, const char *key, int64_t *to)
{
    const json_t *v = json_object_get(schema, key);
    if (v == NULL)
        return 0;
    if (!json_is_integer(v) || json_integer_value(v) < 0 || json_integer_value(v) > LENGTH_MAX)
        return schema_refuse(r, "%s must be an integer from 0 to %d", key, LENGTH_MAX);
    *to = json_integer_value(v);
    return 0;
}

/* least to most characters (most < 0: any number). */
static int32_t counted(struct schema_reader *r, int64_t least, int64_t most, bool raw)
{
    int32_t one = text_char(r->g, !raw, AT_RETURN);
    int32_t node = most < 0 ? text_rule(r->g, !raw, AT_FAIL, false) : AT_RETURN;
    for (int64_t i = most; i > least; i--)
        node = node_either(r->g, AT_RETURN, node_call(r->g, one, node));
    for (int64_t i = 0; i < least; i++)
        node = node_call(r->g, one, node);
    return node;
}

static int32_t body(struct schema_reader *r, const json_t *schema, bool raw)
{
    const json_t *pattern = json_object_get(schema, "pattern"), *format = json_object_get(schema, "format");
    int64_t least = 0, most = -1;
    if (read_length(r, schema, "minLength", &least) != 0 || read_length(r, schema, "maxLength", &most) != 0)
        return -1;
    bool bounded = least > 0 || most >= 0;
    if ((pattern != NULL) + (format != NULL) + bounded > 1)
        return schema_refuse(r, "only one of pattern, format and length bounds is supported in a schema");
    if (pattern != NULL && !json_is_string(pattern))
        return schema_refuse(r, "pattern must be a string");
    if (pattern != NULL)
        return pattern_rule(r, json_string_value(pattern), raw);
    if (format != NULL) {
        const char *known = json_is_string(format) ? format_pattern(json_string_value(format)) : NULL;
        if (known == NULL)
            return schema_refuse(r, "the format '%.40s' is not supported",
                                 json_is_string(format) ? json_string_value(format) : "");
        return pattern_rule(r, known, raw);
    }
    if (most >= 0 && most < least)
        return AT_FAIL;
    return bounded ? counted(r, least, most, raw) : text_rule(r->g, !raw, AT_FAIL, false);
}

int32_t schema_string(struct schema_reader *r, const json_t *schema, bool raw)
{
    int32_t rule = body(r, schema, raw);
    if (rule < 0 || rule == AT_FAIL || raw)
        return rule;
    return node_byte(r->g, '"', node_call(r->g, rule, node_byte(r->g, '"', AT_RETURN)));
}
