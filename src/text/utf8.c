/* UTF-8: stepping over characters, and the stream that never emits half of one. */
#include "text/text.h"

#include <assert.h>
#include <string.h>

/* Table 3-7 of the Unicode standard: the lead byte fixes the length and the range of the second byte. */
struct lead {
    size_t len;
    unsigned char low, high;
};

static struct lead lead_of(unsigned char c)
{
    if (c >= 0xc2 && c <= 0xdf)
        return (struct lead){2, 0x80, 0xbf};
    if (c >= 0xe0 && c <= 0xef)
        return (struct lead){3, c == 0xe0 ? 0xa0 : 0x80, c == 0xed ? 0x9f : 0xbf};
    if (c >= 0xf0 && c <= 0xf4)
        return (struct lead){4, c == 0xf0 ? 0x90 : 0x80, c == 0xf4 ? 0x8f : 0xbf};
    return (struct lead){0, 0, 0};
}

enum utf8_kind utf8_next(const char *bytes, size_t n, size_t *len)
{
    assert(n > 0);
    const unsigned char *p = (const unsigned char *)bytes;
    *len = 1;
    if (p[0] < 0x80)
        return UTF8_CHAR;
    struct lead lead = lead_of(p[0]);
    if (lead.len == 0)
        return UTF8_BAD;
    if (n > 1 && (p[1] < lead.low || p[1] > lead.high))
        return UTF8_BAD;
    for (size_t i = 1; i < lead.len; i++) {
        *len = i;
        if (i == n)
            return UTF8_SHORT;
        if ((p[i] & 0xc0) != 0x80)
            return UTF8_BAD;
    }
    *len = lead.len;
    return UTF8_CHAR;
}

size_t utf8_valid_prefix(const char *bytes, size_t n)
{
    size_t i = 0;
    while (i < n) {
        uint64_t word;
        if (n - i >= sizeof word) {
            memcpy(&word, bytes + i, sizeof word);
            if ((word & UINT64_C(0x8080808080808080)) == 0) {
                i += sizeof word;
                continue;
            }
        }
        size_t len;
        if (utf8_next(bytes + i, n - i, &len) != UTF8_CHAR)
            break;
        i += len;
    }
    return i;
}

static void replacement_add(struct buf *out)
{
    buf_add(out, "\xef\xbf\xbd", 3);
}

/* Gives out what is decided of the held bytes. */
static void held_settle(struct utf8_stream *s, struct buf *out)
{
    while (s->n_held > 0) {
        size_t len;
        enum utf8_kind kind = utf8_next((const char *)s->held, (size_t)s->n_held, &len);
        if (kind == UTF8_SHORT)
            return;
        if (kind == UTF8_CHAR)
            buf_add(out, s->held, len);
        else
            replacement_add(out);
        s->n_held -= (int)len;
        memmove(s->held, s->held + len, (size_t)s->n_held);
    }
}

void utf8_stream_add(struct utf8_stream *s, const char *bytes, size_t n, struct buf *out)
{
    for (size_t i = 0; i < n;) {
        if (s->n_held == 0) {
            size_t valid = utf8_valid_prefix(bytes + i, n - i);
            buf_add(out, bytes + i, valid);
            i += valid;
            if (i == n)
                return;
        }
        s->held[s->n_held++] = (unsigned char)bytes[i++];
        held_settle(s, out);
    }
}

void utf8_stream_flush(struct utf8_stream *s, struct buf *out)
{
    if (s->n_held > 0)
        replacement_add(out);
    s->n_held = 0;
}
