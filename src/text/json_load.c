/* JSON text to json_t without losing numbers.
 *
 * jansson's own decoder refuses integers beyond 64 bits and reals beyond double range, while the reference encoder (Python)
 * prints such integers digit for digit. This one builds the same json_t values and keeps a number that no C type holds as
 * a string value whose first byte is 0xFF: no UTF-8 text starts so, hence no request can forge one. */
#include "base/mutant.h"
#include "text/text.h"

#include <assert.h>
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/mutant.h"

struct loader {
    const char *p, *end, *start;
    const char *name;
    bool python;
    struct buf scratch; /* the decoded text of the string that is being read */
    struct err *e;
};

static json_t *load_value(struct loader *l, int depth);

static void *refuse(struct loader *l, const char *what)
{
    err_set(l->e, HD_EARG, "%s: byte %zu: %s", l->name, (size_t)(l->p - l->start), what);
    return NULL;
}

static void skip_space(struct loader *l)
{
    while (l->p < l->end && (*l->p == ' ' || *l->p == '\n' || *l->p == '\r' || *l->p == '\t'))
        l->p++;
}

static int hex4(const char *s)
{
    int v = 0;
    for (int i = 0; i < 4; i++) {
        int c = (unsigned char)s[i];
        int d = c >= '0' && c <= '9' ? c - '0' : (c | 32) >= 'a' && (c | 32) <= 'f' ? (c | 32) - 'a' + 10 : -1;
        if (d < 0)
            return -1;
        v = v * 16 + d;
    }
    return v;
}

static void add_utf8(struct buf *b, int c)
{
    if (c < 0x80) {
        buf_char(b, (char)c);
        return;
    }
    int n_more = c < 0x800 ? 1 : c < 0x10000 ? 2 : 3;
    static const int lead[] = {0, 0xC0, 0xE0, 0xF0};
    buf_char(b, (char)(lead[n_more] | (c >> (6 * n_more))));
    while (n_more-- > 0)
        buf_char(b, (char)(0x80 | ((c >> (6 * n_more)) & 0x3F)));
}

/* After "\u": one code point, from one escape or a surrogate pair. */
static bool load_unicode(struct loader *l)
{
    int c = l->end - l->p >= 4 ? hex4(l->p) : -1;
    if (c < 0)
        return refuse(l, "\\u needs four hexadecimal digits"), false;
    l->p += 4;
    if (c >= 0xD800 && c < 0xDC00 && l->end - l->p >= 6 && l->p[0] == '\\' && l->p[1] == 'u') {
        int low = hex4(l->p + 2);
        if (low >= 0xDC00 && low < 0xE000) {
            c = 0x10000 + ((c - 0xD800) << 10) + (low - 0xDC00);
            l->p += 6;
        }
    }
    if (c >= 0xD800 && c < 0xE000)
        return refuse(l, "half of a surrogate pair"), false;
    add_utf8(&l->scratch, c);
    return true;
}

static bool load_escape(struct loader *l)
{
    static const char from[] = "\"\\/bfnrt", to[] = "\"\\/\b\f\n\r\t";
    if (l->p == l->end)
        return refuse(l, "the text ends inside a string"), false;
    char c = *l->p++;
    if (c == 'u')
        return load_unicode(l);
    const char *at = c != '\0' ? strchr(from, c) : NULL;
    if (at == NULL)
        return refuse(l, "unknown escape in a string"), false;
    buf_char(&l->scratch, to[at - from]);
    return true;
}

/* The text between quotes into scratch; l->p is after the opening quote. */
static bool load_text(struct loader *l)
{
    buf_clear(&l->scratch);
    for (;;) {
        const char *run = l->p;
        while (l->p < l->end && *l->p != '"' && *l->p != '\\' && (unsigned char)*l->p >= 0x20) {
            size_t size = 1;
            if ((unsigned char)*l->p >= 0x80 && utf8_next(l->p, (size_t)(l->end - l->p), &size) != UTF8_CHAR)
                return refuse(l, "invalid UTF-8 in a string"), false;
            l->p += size;
        }
        buf_add(&l->scratch, run, (size_t)(l->p - run));
        if (l->p == l->end)
            return refuse(l, "the text ends inside a string"), false;
        if ((unsigned char)*l->p < 0x20)
            return refuse(l, "a control character in a string must be escaped"), false;
        if (*l->p++ == '"')
            return true;
        if (!load_escape(l))
            return false;
    }
}

static json_t *exact_number(const char *text, size_t n)
{
    char *marked = xcalloc(n + 1, 1);
    marked[0] = (char)0xFF;
    memcpy(marked + 1, text, n);
    json_t *v = json_stringn_nocheck(marked, n + 1);
    free(marked);
    return v;
}

const char *json_exact_number(const json_t *value)
{
    const char *s = json_string_value(value);
    return s != NULL && (unsigned char)s[0] == 0xFF ? s + 1 : NULL;
}

static const char *skip_digits(const char *p, const char *end)
{
    while (p < end && *p >= '0' && *p <= '9')
        p++;
    return p;
}

static json_t *make_integer(const char *text, size_t n)
{
    char small[24];
    if (n < sizeof small) {
        memcpy(small, text, n);
        small[n] = '\0';
        errno = 0;
        long long v = strtoll(small, NULL, 10);
        if (errno == 0)
            return json_integer(v);
    }
    return exact_number(text, n);
}

static json_t *make_real(const char *text, size_t n)
{
    char *copy = xstrndup(text, n);
    double v = strtod(copy, NULL);
    free(copy);
    if (isfinite(v))
        return json_real(v);
    return v > 0 ? exact_number("Infinity", 8) : exact_number("-Infinity", 9);
}

static json_t *load_number(struct loader *l)
{
    const char *start = l->p, *p = l->p;
    if (p < l->end && *p == '-')
        p++;
    const char *digits = p;
    p = skip_digits(p, l->end);
    if (p == digits || (*digits == '0' && p - digits > 1))
        return refuse(l, "not a JSON value");
    bool is_real = false;
    if (p + 1 < l->end && *p == '.' && p[1] >= '0' && p[1] <= '9') {
        is_real = true;
        p = skip_digits(p + 1, l->end);
    }
    if (p < l->end && (*p | 32) == 'e') {
        const char *q = p + 1;
        if (q < l->end && (*q == '+' || *q == '-'))
            q++;
        const char *end = skip_digits(q, l->end);
        if (end != q) {
            is_real = true;
            p = end;
        }
    }
    l->p = p;
    size_t n = (size_t)(p - start);
    return is_real ? make_real(start, n) : make_integer(start, n);
}

static json_t *load_array(struct loader *l, int depth)
{
    json_t *a = json_array();
    skip_space(l);
    if (l->p < l->end && *l->p == ']') {
        l->p++;
        return a;
    }
    for (;;) {
        json_t *v = load_value(l, depth);
        if (v == NULL)
            break;
        json_array_append_new(a, v);
        skip_space(l);
        if (l->p < l->end && *l->p == ',') {
            l->p++;
            continue;
        }
        if (l->p < l->end && *l->p == ']') {
            l->p++;
            return a;
        }
        refuse(l, "expected ',' or ']' in an array");
        break;
    }
    json_decref(a);
    return NULL;
}

/* "key": value, where a repeated key keeps its first place and takes the last value, as in Python. */
static bool load_member(struct loader *l, json_t *object, int depth)
{
    skip_space(l);
    if (l->p == l->end || *l->p != '"')
        return refuse(l, "expected a key in double quotes"), false;
    l->p++;
    if (!load_text(l))
        return false;
    size_t n = l->scratch.len;
    char *key = xstrndup(n != 0 ? l->scratch.data : "", n);
    skip_space(l);
    bool ok = false;
    if (l->p < l->end && *l->p == ':') {
        l->p++;
        json_t *v = load_value(l, depth);
        ok = v != NULL && json_object_setn_new_nocheck(object, key, n, v) == 0;
    } else {
        refuse(l, "expected ':' after a key");
    }
    free(key);
    return ok;
}

static json_t *load_object(struct loader *l, int depth)
{
    json_t *o = json_object();
    skip_space(l);
    if (l->p < l->end && *l->p == '}') {
        l->p++;
        return o;
    }
    while (load_member(l, o, depth)) {
        skip_space(l);
        if (l->p < l->end && *l->p == ',') {
            l->p++;
            continue;
        }
        if (l->p < l->end && *l->p == '}') {
            l->p++;
            return o;
        }
        refuse(l, "expected ',' or '}' in an object");
        break;
    }
    json_decref(o);
    return NULL;
}

static bool take_word(struct loader *l, const char *word)
{
    size_t n = strlen(word);
    if ((size_t)(l->end - l->p) < n || memcmp(l->p, word, n) != 0)
        return false;
    l->p += n;
    return true;
}

static json_t *load_word(struct loader *l)
{
    if (take_word(l, "null"))
        return json_null();
    if (take_word(l, "true"))
        return json_true();
    if (take_word(l, "false"))
        return json_false();
    static const char *const words[] = {"NaN", "Infinity", "-Infinity"};
    for (size_t i = 0; l->python && i < COUNT_OF(words); i++)
        if (take_word(l, words[i]))
            return exact_number(words[i], strlen(words[i]));
    return load_number(l);
}

static json_t *load_value(struct loader *l, int depth)
{
    skip_space(l);
    if (l->p == l->end)
        return refuse(l, "the text ends where a value is expected");
    if (*l->p != '[' && *l->p != '{' && *l->p != '"')
        return load_word(l);
    char c = *l->p++;
    if (c == '"')
        return load_text(l) ? json_stringn_nocheck(l->scratch.len ? l->scratch.data : "", l->scratch.len) : NULL;
    if (depth == JSON_DEPTH_MAX && !MUTANT(27)) {
        err_set(l->e, HD_EUNSUPPORTED, "%s: byte %zu: nested deeper than %d levels", l->name,
                (size_t)(l->p - 1 - l->start), JSON_DEPTH_MAX);
        return NULL;
    }
    return c == '[' ? load_array(l, depth + 1) : load_object(l, depth + 1);
}

json_t *json_load_exact(const char *text, size_t n, const char *name, bool python, struct err *e)
{
    struct loader l = {.p = text, .end = text + n, .start = text, .name = name, .python = python, .e = e};
    json_t *v = load_value(&l, 0);
    skip_space(&l);
    if (v != NULL && l.p != l.end) {
        refuse(&l, "more text after the value");
        json_decref(v);
        v = NULL;
    }
    buf_free(&l.scratch);
    return v;
}

/* Levels of arrays and objects of a value; stops counting beyond limit. */
static int depth_up_to(const json_t *value, int limit)
{
    int deepest = 0;
    size_t i;
    json_t *child;
    const char *key;
    if (!json_is_array(value) && !json_is_object(value))
        return 0;
    if (limit == 0)
        return 1;
    json_t *open = (json_t *)(uintptr_t)value; /* jansson's iterators take no const */
    json_array_foreach(open, i, child) {
        int d = depth_up_to(child, limit - 1);
        deepest = d > deepest ? d : deepest;
    }
    json_object_foreach(open, key, child) {
        int d = depth_up_to(child, limit - 1);
        deepest = d > deepest ? d : deepest;
    }
    return deepest + 1;
}

bool json_depth_over(const json_t *value, int limit)
{
    return depth_up_to(value, limit) > limit;
}
