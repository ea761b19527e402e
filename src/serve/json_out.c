/* Writing JSON. */
#include "serve/json_out.h"
#include "text/text.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Whether a value or key that comes now needs a comma before it: the last byte tells. */
static void begin(struct buf *b, const char *key)
{
    char last = b->len == 0 ? '\0' : b->data[b->len - 1];
    if (last != '\0' && strchr("{[,: \n", last) == NULL)
        buf_char(b, ',');
    if (key == NULL)
        return;
    buf_char(b, '"');
    json_quote_python(key, strlen(key), b);
    buf_str(b, "\":");
}

void out_open(struct buf *b, const char *key, char bracket)
{
    begin(b, key);
    buf_char(b, bracket);
}

void out_close(struct buf *b, char bracket)
{
    buf_char(b, bracket);
}

void out_text(struct buf *b, const char *key, const char *text, size_t n)
{
    begin(b, key);
    buf_char(b, '"');
    if (n > 0)
        json_quote_python(text, n, b);
    buf_char(b, '"');
}

void out_str(struct buf *b, const char *key, const char *text)
{
    out_text(b, key, text, strlen(text));
}

void out_int(struct buf *b, const char *key, int64_t v)
{
    begin(b, key);
    buf_printf(b, "%" PRId64, v);
}

void out_bool(struct buf *b, const char *key, bool v)
{
    begin(b, key);
    buf_str(b, v ? "true" : "false");
}

void out_null(struct buf *b, const char *key)
{
    begin(b, key);
    buf_str(b, "null");
}

void out_real(struct buf *b, const char *key, double v)
{
    char text[40];
    begin(b, key);
    if (!isfinite(v)) { /* JSON has no word for it */
        buf_str(b, "null");
        return;
    }
    for (int digits = 6; digits <= 17; digits++) {
        snprintf(text, sizeof text, "%.*g", digits, v);
        if (strtod(text, NULL) == v)
            break;
    }
    buf_str(b, text);
    if (strpbrk(text, ".e") == NULL)
        buf_str(b, ".0");
}

void out_raw(struct buf *b, const char *key, const char *json, size_t n)
{
    begin(b, key);
    buf_add(b, json, n);
}
