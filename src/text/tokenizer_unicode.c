/* Characters younger than the Unicode tables of PCRE2 (10.42, in Debian 12, knows Unicode 14). The patterns would take
 * them for unassigned and cut words elsewhere than the reference does, so the patterns see an older character of the
 * same general category and the same length in UTF-8 in their place. */
#include "text/tokenizer_impl.h"

#include <string.h>

struct young_range {
    uint32_t first, last;
    char category; /* first letter of the general category */
};

/* Unicode 16.0 against 14.0: what was Cn and is L, M, N, P or S. */
static const struct young_range young[] = {
    {0x897, 0x897, 'M'}, {0xcf3, 0xcf3, 'M'}, {0xece, 0xece, 'M'}, {0x1b4e, 0x1b4f, 'P'}, {0x1b7f, 0x1b7f, 'P'},
    {0x1c89, 0x1c8a, 'L'}, {0x2427, 0x2429, 'S'}, {0x2ffc, 0x2fff, 'S'}, {0x31e4, 0x31e5, 'S'}, {0x31ef, 0x31ef, 'S'},
    {0xa7cb, 0xa7cd, 'L'}, {0xa7da, 0xa7dc, 'L'}, {0x105c0, 0x105f3, 'L'}, {0x10d40, 0x10d49, 'N'},
    {0x10d4a, 0x10d65, 'L'}, {0x10d69, 0x10d6d, 'M'}, {0x10d6e, 0x10d6e, 'P'}, {0x10d6f, 0x10d85, 'L'},
    {0x10d8e, 0x10d8f, 'S'}, {0x10ec2, 0x10ec4, 'L'}, {0x10efc, 0x10eff, 'M'}, {0x1123f, 0x11240, 'L'},
    {0x11241, 0x11241, 'M'}, {0x11380, 0x11389, 'L'}, {0x1138b, 0x1138b, 'L'}, {0x1138e, 0x1138e, 'L'},
    {0x11390, 0x113b5, 'L'}, {0x113b7, 0x113b7, 'L'}, {0x113b8, 0x113c0, 'M'}, {0x113c2, 0x113c2, 'M'},
    {0x113c5, 0x113c5, 'M'}, {0x113c7, 0x113ca, 'M'}, {0x113cc, 0x113d0, 'M'}, {0x113d1, 0x113d1, 'L'},
    {0x113d2, 0x113d2, 'M'}, {0x113d3, 0x113d3, 'L'}, {0x113d4, 0x113d5, 'P'}, {0x113d7, 0x113d8, 'P'},
    {0x113e1, 0x113e2, 'M'}, {0x116d0, 0x116e3, 'N'}, {0x11b00, 0x11b09, 'P'}, {0x11bc0, 0x11be0, 'L'},
    {0x11be1, 0x11be1, 'P'}, {0x11bf0, 0x11bf9, 'N'}, {0x11f00, 0x11f01, 'M'}, {0x11f02, 0x11f02, 'L'},
    {0x11f03, 0x11f03, 'M'}, {0x11f04, 0x11f10, 'L'}, {0x11f12, 0x11f33, 'L'}, {0x11f34, 0x11f3a, 'M'},
    {0x11f3e, 0x11f42, 'M'}, {0x11f43, 0x11f4f, 'P'}, {0x11f50, 0x11f59, 'N'}, {0x11f5a, 0x11f5a, 'M'},
    {0x1342f, 0x1342f, 'L'}, {0x13440, 0x13440, 'M'}, {0x13441, 0x13446, 'L'}, {0x13447, 0x13455, 'M'},
    {0x13460, 0x143fa, 'L'}, {0x16100, 0x1611d, 'L'}, {0x1611e, 0x1612f, 'M'}, {0x16130, 0x16139, 'N'},
    {0x16d40, 0x16d6c, 'L'}, {0x16d6d, 0x16d6f, 'P'}, {0x16d70, 0x16d79, 'N'}, {0x18cff, 0x18cff, 'L'},
    {0x1b132, 0x1b132, 'L'}, {0x1b155, 0x1b155, 'L'}, {0x1cc00, 0x1ccef, 'S'}, {0x1ccf0, 0x1ccf9, 'N'},
    {0x1cd00, 0x1ceb3, 'S'}, {0x1d2c0, 0x1d2d3, 'N'}, {0x1df25, 0x1df2a, 'L'}, {0x1e030, 0x1e06d, 'L'},
    {0x1e08f, 0x1e08f, 'M'}, {0x1e4d0, 0x1e4eb, 'L'}, {0x1e4ec, 0x1e4ef, 'M'}, {0x1e4f0, 0x1e4f9, 'N'},
    {0x1e5d0, 0x1e5ed, 'L'}, {0x1e5ee, 0x1e5ef, 'M'}, {0x1e5f0, 0x1e5f0, 'L'}, {0x1e5f1, 0x1e5fa, 'N'},
    {0x1e5ff, 0x1e5ff, 'P'}, {0x1f6dc, 0x1f6dc, 'S'}, {0x1f774, 0x1f776, 'S'}, {0x1f77b, 0x1f77f, 'S'},
    {0x1f7d9, 0x1f7d9, 'S'}, {0x1f8b2, 0x1f8bb, 'S'}, {0x1f8c0, 0x1f8c1, 'S'}, {0x1fa75, 0x1fa77, 'S'},
    {0x1fa87, 0x1fa89, 'S'}, {0x1fa8f, 0x1fa8f, 'S'}, {0x1faad, 0x1faaf, 'S'}, {0x1fabb, 0x1fabf, 'S'},
    {0x1fac6, 0x1fac6, 'S'}, {0x1face, 0x1facf, 'S'}, {0x1fada, 0x1fadc, 'S'}, {0x1fadf, 0x1fadf, 'S'},
    {0x1fae8, 0x1fae9, 'S'}, {0x1faf7, 0x1faf8, 'S'}, {0x1fbcb, 0x1fbef, 'S'}, {0x2b739, 0x2b739, 'L'},
    {0x2ebf0, 0x2ee5d, 'L'}, {0x31350, 0x323af, 'L'},
};

static char young_category(uint32_t c)
{
    size_t low = 0, high = COUNT_OF(young);
    while (low < high) {
        size_t mid = (low + high) / 2;
        if (c > young[mid].last)
            low = mid + 1;
        else
            high = mid;
    }
    return low < COUNT_OF(young) && c >= young[low].first ? young[low].category : '\0';
}

/* The character of len bytes (3 or 4) at p. */
static uint32_t char_at(const char *p, size_t len)
{
    uint32_t c = len == 3 ? (unsigned char)p[0] & 0x0f : (unsigned char)p[0] & 0x07;
    for (size_t i = 1; i < len; i++)
        c = c << 6 | ((unsigned char)p[i] & 0x3f);
    return c;
}

/* The stand-ins are U+0E01 1DC0 2460 2E00 2600, and U+10000 20000 (Han) 10A01 10107 10100 1F600. */
static const char *stand_in(uint32_t c, char category, size_t len)
{
    switch (category) {
    case 'M': return len == 3 ? "\xe1\xb7\x80" : "\xf0\x90\xa8\x81";
    case 'N': return len == 3 ? "\xe2\x91\xa0" : "\xf0\x90\x84\x87";
    case 'P': return len == 3 ? "\xe2\xb8\x80" : "\xf0\x90\x84\x80";
    case 'S': return len == 3 ? "\xe2\x98\x80" : "\xf0\x9f\x98\x80";
    default: break;
    }
    if (len == 3)
        return "\xe0\xb8\x81";
    return c >= 0x20000 ? "\xf0\xa0\x80\x80" : "\xf0\x90\x80\x80";
}

/* Next young character at or behind `from` of valid UTF-8: its position, n when there is none. */
static size_t young_next(const char *text, size_t n, size_t from, size_t *len, char *category)
{
    for (size_t i = from; i < n; i++) {
        unsigned char lead = (unsigned char)text[i];
        if (lead < 0xe0)
            continue;
        *len = lead < 0xf0 ? 3 : 4;
        *category = young_category(char_at(text + i, *len));
        if (*category != '\0')
            return i;
    }
    return n;
}

bool unicode_is_young(const char *text, size_t n)
{
    size_t len;
    char category;
    return young_next(text, n, 0, &len, &category) < n;
}

void unicode_stand_in(char *text, size_t n)
{
    size_t len = 0;
    char category;
    for (size_t i = 0; (i = young_next(text, n, i, &len, &category)) < n; i += len)
        memcpy(text + i, stand_in(char_at(text + i, len), category, len), len);
}
