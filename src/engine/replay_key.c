/* From the text of a reply to what it is known by. */
#include "engine/replay_key.h"

#include "engine/engine.h"

#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

/* ---------------------------------------------------------------- JSON values */

static int by_text(const void *a, const void *b)
{
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

static void normal_text(const char *text, size_t n, struct buf *out)
{
    buf_char(out, '"');
    json_quote_python(text, n, out);
    buf_char(out, '"');
}

static void normal_object(const json_t *v, struct buf *out)
{
    json_t *o = (json_t *)(uintptr_t)v, *value;
    const char *key, **keys = xcalloc(json_object_size(v) + 1, sizeof *keys);
    size_t n = 0;
    json_object_foreach(o, key, value)
        keys[n++] = key;
    qsort(keys, n, sizeof *keys, by_text);
    buf_char(out, '{');
    for (size_t i = 0; i < n; i++) {
        normal_text(keys[i], strlen(keys[i]), out);
        buf_char(out, ':');
        json_normal(json_object_get(v, keys[i]), out);
        buf_char(out, ',');
    }
    buf_char(out, '}');
    free(keys);
}

/* 1, 1.0 and 1e0 are one value: clients that read JSON into doubles write it in their own way. */
static void normal_real(double x, struct buf *out)
{
    if (x == floor(x) && fabs(x) < 9007199254740992.0)
        buf_printf(out, "%" PRId64, (int64_t)x);
    else
        buf_printf(out, "%.17g", x);
}

void json_normal(const json_t *v, struct buf *out)
{
    const char *exact = json_exact_number(v);
    if (exact != NULL)
        buf_str(out, exact);
    else if (json_is_object(v))
        normal_object(v, out);
    else if (json_is_array(v)) {
        buf_char(out, '[');
        for (size_t i = 0; i < json_array_size(v); i++) {
            json_normal(json_array_get(v, i), out);
            buf_char(out, ',');
        }
        buf_char(out, ']');
    } else if (json_is_string(v))
        normal_text(json_string_value(v), json_string_length(v), out);
    else if (json_is_real(v))
        normal_real(json_real_value(v), out);
    else if (json_is_integer(v))
        buf_printf(out, "%" JSON_INTEGER_FORMAT, json_integer_value(v));
    else
        buf_str(out, json_is_true(v) ? "true" : json_is_false(v) ? "false" : "null");
}

/* Arguments that are no JSON object are compared as text. */
static void add_call(struct buf *calls, const char *name, size_t n_name, const char *text, size_t n_text)
{
    json_t *value = json_load_exact(text, n_text, "arguments", true, NULL);
    normal_text(name, n_name, calls);
    if (json_is_object(value))
        json_normal(value, calls);
    else
        normal_text(text, n_text, calls);
    buf_char(calls, '\n');
    json_decref(value);
}

/* ---------------------------------------------------------------- digests */

static bool is_space(char c)
{
    return c == ' ' || c == '\n' || c == '\t' || c == '\r';
}

static struct digest digest_of(const char *text, size_t n, const struct buf *more)
{
    while (n > 0 && is_space(text[n - 1]))
        n--;
    while (n > 0 && is_space(*text)) {
        text++;
        n--;
    }
    XXH128_hash_t h = XXH3_128bits(n > 0 ? text : "", n);
    if (more != NULL && more->len > 0)
        h = XXH3_128bits_withSeed(more->data, more->len, h.low64 ^ mix64(h.high64));
    return (struct digest){h.low64, h.high64};
}

static struct digest reasoning_digest(const char *text, size_t n)
{
    struct digest none = digest_of("", 0, NULL), d = digest_of(text, n, NULL);
    return digest_equal(d, none) ? (struct digest){0, 0} : d;
}

static uint64_t ids_digest(const struct buf *ids)
{
    return ids->len == 0 ? 0 : XXH3_64bits(ids->data, ids->len) | 1;
}

/* ---------------------------------------------------------------- a reply that comes in */

void replay_text_add(struct replay_text *t, const struct gen_event *ev)
{
    switch (ev->kind) {
    case GEN_REASONING:
        buf_add(&t->reasoning, ev->text, ev->n);
        break;
    case GEN_CONTENT:
        buf_add(&t->content, ev->text, ev->n);
        break;
    case GEN_TOOL_START:
        buf_clear(&t->name);
        buf_clear(&t->arguments);
        buf_add(&t->name, ev->text, ev->n);
        t->in_call = true;
        break;
    case GEN_TOOL_ARGS:
        buf_add(&t->arguments, ev->text, ev->n);
        break;
    case GEN_TOOL_END:
        add_call(&t->calls, t->name.data, t->name.len, t->arguments.data, t->arguments.len);
        t->in_call = false;
        break;
    case GEN_TOOL_BROKEN:
        t->broken = true;
        break;
    case GEN_PROMPT:
    case GEN_TOKEN:
    case GEN_END:
        break;
    }
}

void replay_text_id(struct replay_text *t, const char *id)
{
    buf_str(&t->ids, id);
    buf_char(&t->ids, '\n');
}

void replay_text_free(struct replay_text *t)
{
    buf_free(&t->reasoning);
    buf_free(&t->content);
    buf_free(&t->calls);
    buf_free(&t->name);
    buf_free(&t->arguments);
    buf_free(&t->ids);
}

void replay_key_of_text(const struct replay_text *t, struct replay_key *k)
{
    k->visible = digest_of(t->content.data, t->content.len, &t->calls);
    k->reasoning = reasoning_digest(t->reasoning.data, t->reasoning.len);
    k->ids = ids_digest(&t->ids);
}

/* ---------------------------------------------------------------- a turn of a prompt */

static bool read_call(const json_t *call, struct buf *calls, struct buf *ids)
{
    const json_t *function = json_object_get(call, "function"), *name = json_object_get(function, "name");
    const json_t *arguments = json_object_get(function, "arguments"), *id = json_object_get(call, "id");
    if (!json_is_string(name))
        return false;
    if (json_is_object(arguments)) {
        normal_text(json_string_value(name), json_string_length(name), calls);
        json_normal(arguments, calls);
        buf_char(calls, '\n');
    } else if (json_is_string(arguments))
        add_call(calls, json_string_value(name), json_string_length(name), json_string_value(arguments),
                 json_string_length(arguments));
    else
        return false;
    if (json_is_string(id)) {
        buf_str(ids, json_string_value(id));
        buf_char(ids, '\n');
    }
    return true;
}

bool replay_key_of_turn(const struct chat_prompt *p, const struct chat_turn *t, struct replay_key *k)
{
    const json_t *list = json_object_get(t->message, "tool_calls");
    struct buf calls = {0}, ids = {0};
    bool good = true;
    size_t start = p->spans[t->first_span - 1].end;
    for (size_t i = 0; i < json_array_size(list) && good; i++)
        good = read_call(json_array_get(list, i), &calls, &ids);
    k->visible = digest_of(p->text.data + t->content_start, t->content_end - t->content_start, &calls);
    k->reasoning = reasoning_digest(p->text.data + start, t->reasoning_end - start);
    k->ids = ids_digest(&ids);
    buf_free(&calls);
    buf_free(&ids);
    return good;
}
