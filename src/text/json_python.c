/* json.dumps(value, ensure_ascii=False) of Python: the model was trained on exactly this spelling. */
#include "text/text.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void json_quote_python(const char *text, size_t n, struct buf *out)
{
    static const char escaped[] = "\b\t\n\f\r\"\\", letters[] = "btnfr\"\\";
    size_t run = 0;
    for (size_t i = 0; i < n; i++) {
        unsigned char c = (unsigned char)text[i];
        if (c >= 0x20 && c != '"' && c != '\\')
            continue;
        buf_add(out, text + run, i - run);
        run = i + 1;
        const char *at = c != 0 ? strchr(escaped, c) : NULL;
        if (at != NULL) {
            buf_char(out, '\\');
            buf_char(out, letters[at - escaped]);
        } else {
            buf_printf(out, "\\u%04x", c);
        }
    }
    buf_add(out, text + run, n - run);
}

static void dump_string(const char *s, size_t n, struct buf *out)
{
    buf_char(out, '"');
    json_quote_python(s, n, out);
    buf_char(out, '"');
}

/* Adds one to the last digit of a "%.*e" text; false when that would carry into a new digit position. */
static bool bump_last_digit(char *text)
{
    char *e = strchr(text, 'e');
    for (char *p = e - 1; p >= text && *p != '-'; p--) {
        if (*p == '.')
            continue;
        if (*p != '9') {
            (*p)++;
            return true;
        }
        *p = '0';
    }
    return false;
}

/* The shortest digits that read back as v, in the form d.ddde+XX. At a power of two the doubles below are closer
 * together than those above, so the nearest n-digit decimal may fail where its upper neighbour still reads back. */
static void shortest_digits(double v, char text[static 40])
{
    for (int n = 0; n <= 16; n++) {
        snprintf(text, 40, "%.*e", n, v);
        if (strtod(text, NULL) == v)
            return;
        int exponent;
        if (frexp(fabs(v), &exponent) == 0.5 && bump_last_digit(text) && strtod(text, NULL) == v)
            return;
    }
}

/* repr(float): positional for exponents -4..15, otherwise scientific with at least two exponent digits. */
static void dump_real(double v, struct buf *out)
{
    char text[40];
    shortest_digits(v, text);
    char *e = strchr(text, 'e');
    int exponent = (int)strtol(e + 1, NULL, 10);
    char digits[24];
    int n = 0;
    for (char *p = text; p < e; p++)
        if (*p != '.' && *p != '-')
            digits[n++] = *p;
    if (signbit(v))
        buf_char(out, '-');
    if (exponent < -4 || exponent >= 16) {
        buf_char(out, digits[0]);
        if (n > 1)
            buf_printf(out, ".%.*s", n - 1, digits + 1);
        buf_printf(out, "e%c%02d", exponent < 0 ? '-' : '+', abs(exponent));
    } else if (exponent < 0) {
        buf_printf(out, "0.%.*s%.*s", -exponent - 1, "000", n, digits);
    } else if (n <= exponent + 1) {
        buf_printf(out, "%.*s%.*s.0", n, digits, exponent + 1 - n, "000000000000000");
    } else {
        buf_printf(out, "%.*s.%.*s", exponent + 1, digits, n - exponent - 1, digits + exponent + 1);
    }
}

static void dump_array(const json_t *value, struct buf *out)
{
    size_t n = json_array_size(value);
    buf_char(out, '[');
    for (size_t i = 0; i < n; i++) {
        if (i != 0)
            buf_str(out, ", ");
        json_dump_python(json_array_get(value, i), out);
    }
    buf_char(out, ']');
}

static void dump_object(const json_t *value, struct buf *out)
{
    json_t *object = (json_t *)(uintptr_t)value; /* jansson's iterators take no const */
    buf_char(out, '{');
    for (void *it = json_object_iter(object), *first = it; it != NULL; it = json_object_iter_next(object, it)) {
        if (it != first)
            buf_str(out, ", ");
        dump_string(json_object_iter_key(it), json_object_iter_key_len(it), out);
        buf_str(out, ": ");
        json_dump_python(json_object_iter_value(it), out);
    }
    buf_char(out, '}');
}

void json_dump_python(const json_t *value, struct buf *out)
{
    switch (json_typeof(value)) {
    case JSON_OBJECT: dump_object(value, out); break;
    case JSON_ARRAY: dump_array(value, out); break;
    case JSON_STRING:
        if (json_exact_number(value) != NULL)
            buf_str(out, json_exact_number(value));
        else
            dump_string(json_string_value(value), json_string_length(value), out);
        break;
    case JSON_INTEGER: buf_printf(out, "%" JSON_INTEGER_FORMAT, json_integer_value(value)); break;
    case JSON_REAL: dump_real(json_real_value(value), out); break;
    case JSON_TRUE: buf_str(out, "true"); break;
    case JSON_FALSE: buf_str(out, "false"); break;
    case JSON_NULL: buf_str(out, "null"); break;
    }
}
