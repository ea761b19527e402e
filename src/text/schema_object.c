/* Objects and arrays. Properties come in the order of the schema, those that are not required may be left out; other
 * keys, where they are allowed, follow. */
#include "text/grammar_impl.h"

#include <stdlib.h>
#include <string.h>

enum { ITEMS_MAX = 1024 };

const json_t *schema_extra(const json_t *schema)
{
    const json_t *v = json_object_get(schema, "additionalProperties");
    if (v != NULL)
        return json_is_true(v) ? NULL : v;
    return json_object_size(json_object_get(schema, "properties")) > 0 ? json_false() : NULL;
}

/* ---------------------------------------------------------------- keys */

/* The rest of a key behind the first `at` bytes that it shares with the names, to next behind its quote: any text
 * without escapes that is none of the names. names: sorted. */
static int32_t other_key(struct schema_reader *r, const struct buf *names, size_t n, size_t at, int32_t any, int32_t next)
{
    struct grammar *g = r->g;
    struct byte_set free_bytes = {0};
    set_add(&free_bytes, 0x20, 0x7F);
    set_remove(&free_bytes, '"');
    set_remove(&free_bytes, '\\');
    size_t i = 0;
    while (i < n && names[i].len == at)
        i++;
    int32_t node = i > 0 ? AT_FAIL : next; /* the quote, where this is no name */
    while (i < n) {
        size_t end = i;
        char c = names[i].data[at];
        while (end < n && names[end].data[at] == c)
            end++;
        if ((unsigned char)c < 0x80) { /* other bytes begin no free key of these */
            node = node_either(g, node, node_byte(g, c, other_key(r, names + i, end - i, at + 1, any, next)));
            set_remove(&free_bytes, (unsigned char)c);
        }
        i = end;
    }
    return node_either(g, node, node_bytes(g, &free_bytes, any));
}

static int compare_names(const void *a, const void *b)
{
    const struct buf *x = a, *y = b;
    size_t n = x->len < y->len ? x->len : y->len;
    int order = n == 0 ? 0 : memcmp(x->data, y->data, n);
    return order != 0 ? order : (x->len > y->len) - (x->len < y->len);
}

/* A key in quotes that is none of the names, then next. */
static int32_t extra_key(struct schema_reader *r, const char *const *names, size_t n, int32_t next)
{
    struct buf *sorted = xcalloc(n + 1, sizeof *sorted);
    struct byte_set any_bytes = {0};
    int32_t quote = node_byte(r->g, '"', next), any = node_hole(r->g);
    set_add(&any_bytes, 0x20, 0x7F);
    set_remove(&any_bytes, '"');
    set_remove(&any_bytes, '\\');
    int32_t wide = node_chars(r->g, 0x80, 0x10FFFF, any);
    node_fill(r->g, any, node_either(r->g, node_bytes(r->g, &any_bytes, any), wide), quote);
    for (size_t i = 0; i < n; i++)
        buf_str(&sorted[i], names[i]);
    qsort(sorted, n, sizeof *sorted, compare_names);
    int32_t node = node_byte(r->g, '"', other_key(r, sorted, n, 0, any, quote));
    for (size_t i = 0; i < n; i++)
        buf_free(&sorted[i]);
    free(sorted);
    return node;
}

static int32_t after_key(struct schema_reader *r, int32_t value, int32_t next)
{
    int32_t rest = node_call(r->g, value, next);
    return rest == AT_FAIL ? AT_FAIL : node_byte(r->g, ':', node_call(r->g, r->blank, rest));
}

static int32_t named_key(struct schema_reader *r, const char *name, int32_t rest)
{
    struct buf text = {0};
    buf_char(&text, '"');
    json_quote_python(name, strlen(name), &text);
    buf_char(&text, '"');
    int32_t node = rest == AT_FAIL ? AT_FAIL : node_text(r->g, text.data, text.len, rest);
    buf_free(&text);
    return node;
}

static int32_t comma(struct schema_reader *r, int32_t next)
{
    return next == AT_FAIL ? AT_FAIL : node_byte(r->g, ',', node_call(r->g, r->blank, next));
}

/* ---------------------------------------------------------------- objects */

struct property {
    const char *name;
    const json_t *schema; /* NULL: that of the other keys */
    bool required;
};

struct object {
    struct schema_reader *r;
    struct property *at;
    size_t n;
    const json_t *extra;
    int32_t first, later; /* what may come: nothing was written yet; something was */
};

static struct property *property_of(struct object *o, const char *name)
{
    for (size_t i = 0; i < o->n; i++)
        if (strcmp(o->at[i].name, name) == 0)
            return &o->at[i];
    return NULL;
}

static int collect(struct object *o, const json_t *schema)
{
    const json_t *properties = json_object_get(schema, "properties"), *required = json_object_get(schema, "required");
    const char *key;
    json_t *v;
    size_t i;
    if (properties != NULL && !json_is_object(properties))
        return schema_refuse(o->r, "properties must be an object");
    if (required != NULL && !json_is_array(required))
        return schema_refuse(o->r, "required must be an array of names");
    o->at = xcalloc(json_object_size(properties) + json_array_size(required) + 1, sizeof *o->at);
    json_object_foreach((json_t *)(uintptr_t)properties, key, v)
        o->at[o->n++] = (struct property){.name = key, .schema = v};
    json_array_foreach((json_t *)(uintptr_t)required, i, v) {
        if (!json_is_string(v) || json_exact_number(v) != NULL)
            return schema_refuse(o->r, "required must be an array of names");
        struct property *p = property_of(o, json_string_value(v));
        if (p == NULL) {
            p = &o->at[o->n++];
            *p = (struct property){.name = json_string_value(v), .schema = o->extra};
        }
        p->required = true;
    }
    return 0;
}

/* The end, and before it any number of other keys. */
static int32_t end_of(struct object *o)
{
    struct schema_reader *r = o->r;
    int32_t close = node_byte(r->g, '}', AT_RETURN);
    o->first = close;
    o->later = node_call(r->g, r->blank, close);
    if (json_is_false(o->extra))
        return 0;
    size_t mark = schema_enter(r, "additionalProperties");
    int32_t value = schema_rule(r, o->extra, TYPES_ALL, false);
    schema_leave(r, value < 0 ? r->path.len : mark);
    if (value < 0)
        return -1;
    const char **names = xcalloc(o->n + 1, sizeof *names);
    for (size_t i = 0; i < o->n; i++)
        names[i] = o->at[i].name;
    int32_t again = node_hole(r->g);
    int32_t pair = extra_key(r, names, o->n, after_key(r, value, again));
    free(names);
    node_fill(r->g, again, o->later, comma(r, pair));
    o->first = node_either(r->g, close, pair);
    o->later = again;
    return 0;
}

static int32_t add_property(struct object *o, const struct property *p)
{
    struct schema_reader *r = o->r;
    size_t mark = schema_enter(r, "properties");
    schema_enter(r, p->name);
    int32_t value = schema_rule(r, p->schema, TYPES_ALL, false);
    if (value < 0)
        return -1;
    schema_leave(r, mark);
    int32_t pair = named_key(r, p->name, after_key(r, value, o->later));
    o->first = node_either(r->g, pair, p->required ? AT_FAIL : o->first);
    o->later = node_either(r->g, comma(r, pair), p->required ? AT_FAIL : o->later);
    return 0;
}

int32_t schema_object(struct schema_reader *r, const json_t *schema)
{
    struct object o = {.r = r, .extra = schema_extra(schema)};
    int rc = collect(&o, schema);
    if (rc == 0)
        rc = end_of(&o);
    for (size_t i = o.n; i-- > 0 && rc == 0;)
        rc = add_property(&o, &o.at[i]);
    free(o.at);
    return rc != 0 ? -1 : node_byte(r->g, '{', node_call(r->g, r->blank, o.first));
}

/* ---------------------------------------------------------------- arrays */

static int read_count(struct schema_reader *r, const json_t *schema, const char *key, int64_t otherwise, int64_t *out)
{
    const json_t *v = json_object_get(schema, key);
    *out = otherwise;
    if (v == NULL)
        return 0;
    if (!json_is_integer(v) || json_integer_value(v) < 0 || json_integer_value(v) > ITEMS_MAX)
        return schema_refuse(r, "%s must be an integer from 0 to %d", key, ITEMS_MAX);
    *out = json_integer_value(v);
    return 0;
}

static int32_t item_rule(struct schema_reader *r, const json_t *schema, const json_t *prefix, int64_t i)
{
    const json_t *items = json_object_get(schema, "items");
    size_t mark = schema_enter(r, "items");
    int32_t node;
    if (i < (int64_t)json_array_size(prefix))
        node = schema_rule(r, json_array_get(prefix, (size_t)i), TYPES_ALL, false);
    else if (json_is_array(items))
        node = schema_refuse(r, "items must be a schema; for tuples use prefixItems");
    else
        node = schema_rule(r, items, TYPES_ALL, false);
    if (node >= 0)
        schema_leave(r, mark);
    return node;
}

int32_t schema_array(struct schema_reader *r, const json_t *schema)
{
    const json_t *prefix = json_object_get(schema, "prefixItems");
    int64_t least, most, n_prefix = (int64_t)json_array_size(prefix);
    struct grammar *g = r->g;
    if (read_count(r, schema, "minItems", 0, &least) != 0 || read_count(r, schema, "maxItems", -1, &most) != 0)
        return -1;
    int32_t close = node_call(g, r->blank, node_byte(g, ']', AT_RETURN)), rest = item_rule(r, schema, prefix, n_prefix);
    if (rest < 0)
        return -1;
    int64_t last = most >= 0 ? most : least > n_prefix ? least : n_prefix; /* items with a place of their own */
    if (most < 0 && last == 0)
        last = 1;
    int32_t after = last >= least ? close : AT_FAIL; /* behind item i */
    if (most < 0) {
        int32_t again = node_hole(g);
        node_fill(g, again, close, comma(r, node_call(g, rest, again)));
        after = again;
    }
    for (int64_t i = last - 1; i >= 1; i--) {
        int32_t item = item_rule(r, schema, prefix, i);
        if (item < 0)
            return -1;
        after = node_either(g, i >= least ? close : AT_FAIL, comma(r, node_call(g, item, after)));
    }
    int32_t first = last == 0 ? AT_FAIL : item_rule(r, schema, prefix, 0);
    if (first < 0)
        return -1;
    int32_t node = node_either(g, least == 0 ? node_byte(g, ']', AT_RETURN) : AT_FAIL, node_call(g, first, after));
    return node == AT_FAIL ? AT_FAIL : node_byte(g, '[', node_call(g, r->blank, node));
}
