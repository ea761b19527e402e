#include "model/jscan.h"

#include <string.h>

void jscan_init(struct jscan *j, const char *text, size_t n)
{
    *j = (struct jscan){text, text, text + n, false};
}

size_t jscan_at(const struct jscan *j)
{
    return (size_t)(j->p - j->start);
}

static bool refuse(struct jscan *j)
{
    j->failed = true;
    return false;
}

static void skip_space(struct jscan *j)
{
    while (j->p < j->end && (*j->p == ' ' || *j->p == '\n' || *j->p == '\t' || *j->p == '\r'))
        j->p++;
}

bool jscan_char(struct jscan *j, char c)
{
    skip_space(j);
    if (j->failed || j->p >= j->end || *j->p != c)
        return refuse(j);
    j->p++;
    return true;
}

bool jscan_u64(struct jscan *j, uint64_t *out)
{
    skip_space(j);
    if (j->failed || j->p >= j->end || *j->p < '0' || *j->p > '9')
        return refuse(j);
    const char *begin = j->p;
    uint64_t v = 0;
    for (; j->p < j->end && *j->p >= '0' && *j->p <= '9'; j->p++) {
        uint64_t digit = (uint64_t)(*j->p - '0');
        if (__builtin_mul_overflow(v, (uint64_t)10, &v) || __builtin_add_overflow(v, digit, &v))
            return refuse(j);
    }
    if (*begin == '0' && j->p - begin > 1)
        return refuse(j);
    *out = v;
    return true;
}

static int hex_digit(char c)
{
    return c >= '0' && c <= '9'   ? c - '0'
           : c >= 'a' && c <= 'f' ? c - 'a' + 10
           : c >= 'A' && c <= 'F' ? c - 'A' + 10
                                  : -1;
}

/* After a backslash: the character meant, or -1 when it is no escape or not printable ASCII. */
static int read_escape(struct jscan *j)
{
    if (j->p >= j->end)
        return -1;
    char c = *j->p++;
    if (c == '"' || c == '\\' || c == '/')
        return c;
    if (c != 'u' || j->end - j->p < 4)
        return -1;
    int v = 0;
    for (int i = 0; i < 4; i++) {
        int d = hex_digit(*j->p++);
        if (d < 0)
            return -1;
        v = v << 4 | d;
    }
    return v >= 0x20 && v < 0x7f ? v : -1;
}

bool jscan_text(struct jscan *j, char *out, size_t cap, size_t *len)
{
    size_t n = 0;
    if (!jscan_char(j, '"'))
        return false;
    for (;;) {
        if (j->p >= j->end || n + 1 >= cap)
            return refuse(j);
        int c = (unsigned char)*j->p++;
        if (c == '"')
            break;
        if (c == '\\')
            c = read_escape(j);
        if (c < 0x20 || c >= 0x7f)
            return refuse(j);
        out[n++] = (char)c;
    }
    out[n] = '\0';
    *len = n;
    return true;
}

static bool skip_string(struct jscan *j)
{
    if (!jscan_char(j, '"'))
        return false;
    for (; j->p < j->end && *j->p != '"'; j->p++) {
        if ((unsigned char)*j->p < 0x20)
            return refuse(j);
        if (*j->p == '\\' && ++j->p >= j->end)
            return refuse(j);
    }
    return jscan_char(j, '"');
}

/* Numbers and words: enough to step over them; what they mean does not matter here. */
static bool skip_scalar(struct jscan *j)
{
    const char *begin = j->p;
    while (j->p < j->end && memchr(",]} \n\t\r:\"[{", *j->p, 11) == NULL)
        j->p++;
    return j->p > begin ? true : refuse(j);
}

static bool skip_at(struct jscan *j, int depth)
{
    skip_space(j);
    if (j->failed || j->p >= j->end || depth > JSCAN_DEPTH_MAX)
        return refuse(j);
    if (*j->p == '"')
        return skip_string(j);
    if (*j->p != '{' && *j->p != '[')
        return skip_scalar(j);
    bool is_object = *j->p++ == '{', first = true;
    while (jscan_more(j, is_object ? '}' : ']', &first))
        if ((is_object && (!skip_string(j) || !jscan_char(j, ':'))) || !skip_at(j, depth + 1))
            return false;
    return !j->failed;
}

bool jscan_skip(struct jscan *j)
{
    return skip_at(j, 0);
}

bool jscan_at_end(struct jscan *j)
{
    skip_space(j);
    return !j->failed && j->p == j->end;
}

bool jscan_more(struct jscan *j, char close, bool *first)
{
    skip_space(j);
    if (j->failed || j->p >= j->end)
        return refuse(j);
    if (*j->p == close) {
        j->p++;
        return false;
    }
    bool ok = *first || jscan_char(j, ',');
    *first = false;
    return ok;
}
