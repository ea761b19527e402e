/* Typed access to the fields of a body. The sentences are those of the official service, whose JSON layer names the
 * field, what came and what was expected. */
#include "serve/api.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/random.h>

int api_fail(struct api_error *e, enum api_kind kind, const char *fmt, ...)
{
    va_list ap;
    if (e->kind != API_FINE)
        return -1;
    e->kind = kind;
    va_start(ap, fmt);
    vsnprintf(e->msg, sizeof e->msg, fmt, ap);
    va_end(ap);
    e->msg[utf8_valid_prefix(e->msg, strlen(e->msg))] = '\0'; /* it may have been cut inside a character */
    return -1;
}

void api_req_free(struct api_req *q)
{
    json_decref(q->gen);
    json_decref(q->echo);
    *q = (struct api_req){0};
}

json_t *field_get(const json_t *o, const char *key)
{
    json_t *v = json_object_get(o, key);
    return json_is_null(v) ? NULL : v;
}

/* A number beyond C's types is a string for jansson (json_load_exact); it is no text. */
bool field_is_text(const json_t *v)
{
    return json_is_string(v) && json_exact_number(v) == NULL;
}

static const char *type_name(const json_t *v)
{
    if (json_is_object(v))
        return "map";
    if (json_is_array(v))
        return "sequence";
    if (json_is_boolean(v))
        return json_is_true(v) ? "boolean `true`" : "boolean `false`";
    if (json_is_integer(v))
        return "integer";
    if (json_is_real(v) || json_exact_number(v) != NULL)
        return "floating point";
    return json_is_string(v) ? "string" : "null";
}

int field_type_error(struct api_error *e, const char *path, const json_t *v, const char *expected)
{
    return api_fail(e, API_TYPE,
                    "Failed to deserialize the JSON body into the target type: %s: invalid type: %s, expected %s", path,
                    type_name(v), expected);
}

int field_missing(struct api_error *e, const char *path, const char *key)
{
    return api_fail(e, API_TYPE, "Failed to deserialize the JSON body into the target type: %s%smissing field `%s`", path,
                    path[0] == '\0' ? "" : ": ", key);
}

int field_bool(const json_t *o, const char *key, bool *out, struct api_error *e)
{
    const json_t *v = field_get(o, key);
    if (v == NULL)
        return 0;
    if (!json_is_boolean(v))
        return field_type_error(e, key, v, "a boolean");
    *out = json_is_true(v);
    return 0;
}

int field_extras(const json_t *body, struct api_req *q, struct api_error *e)
{
    if (field_bool(body, "include_cost", &q->include_cost, e) != 0)
        return -1;
    return field_bool(body, "include_cache_reason", &q->include_cache_reason, e);
}

int field_int(const json_t *o, const char *key, int64_t *out, bool *given, struct api_error *e)
{
    const json_t *v = field_get(o, key);
    *given = v != NULL;
    if (v == NULL)
        return 0;
    if (!json_is_integer(v))
        return field_type_error(e, key, v, "i64");
    *out = json_integer_value(v);
    return 0;
}

int field_real(const json_t *o, const char *key, double *out, bool *given, struct api_error *e)
{
    const json_t *v = field_get(o, key);
    *given = v != NULL;
    if (v == NULL)
        return 0;
    if (!json_is_number(v))
        return field_type_error(e, key, v, "f64");
    *out = json_number_value(v);
    return 0;
}

int field_text(const json_t *o, const char *key, const json_t **out, struct api_error *e)
{
    const json_t *v = field_get(o, key);
    if (v != NULL && !field_is_text(v))
        return field_type_error(e, key, v, "a string");
    *out = v;
    return 0;
}

int field_object(const json_t *o, const char *key, const json_t **out, struct api_error *e)
{
    const json_t *v = field_get(o, key);
    if (v != NULL && !json_is_object(v))
        return field_type_error(e, key, v, "a map");
    *out = v;
    return 0;
}

void field_copy(json_t *to, const char *to_key, const json_t *from, const char *key)
{
    json_t *v = field_get(from, key);
    if (v != NULL)
        json_object_set(to, to_key, v);
}

void api_random(uint64_t *out, int n)
{
    size_t bytes = (size_t)n * sizeof *out;
    if (getrandom(out, bytes, 0) == (ssize_t)bytes)
        return;
    for (int i = 0; i < n; i++) /* ids need to differ, not to be secret */
        out[i] = mix64(now_ns() + (uint64_t)i);
}

void api_base62(char *to, uint64_t random, int n)
{
    static const char digits[] = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
    for (int i = 0; i < n; i++) {
        if (i % 10 == 0) /* ten digits are nearly 60 bits */
            random = mix64(random + (uint64_t)i);
        uint64_t part = random;
        for (int k = 0; k < i % 10; k++)
            part /= 62;
        to[i] = digits[part % 62];
    }
    to[n] = '\0';
}
