/* Token bytes by id and id by bytes; the byte-level alphabet. */
#include "text/tokenizer_impl.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

/* The byte-level alphabet of GPT-2 writes each byte as one printable character: printable Latin-1 bytes as themselves,
 * the 68 others as U+0100, U+0101, ... in order of their value. */
enum { ALPHABET_END = 256 + 68 };

static bool byte_is_printable(int byte)
{
    return (byte >= 0x21 && byte <= 0x7e) || (byte >= 0xa1 && byte <= 0xac) || byte >= 0xae;
}

static int alphabet_byte(uint32_t c)
{
    if (c < 256)
        return byte_is_printable((int)c) ? (int)c : -1;
    if (c >= ALPHABET_END)
        return -1;
    uint32_t k = c - 256;
    if (k < 0x21)
        return (int)k;
    return k - 0x21 + 0x7f <= 0xa0 ? (int)(k - 0x21 + 0x7f) : 0xad;
}

bool alphabet_decode(const char *text, size_t n, struct buf *out)
{
    size_t start = out->len;
    for (size_t i = 0; i < n;) {
        uint32_t c = (unsigned char)text[i++];
        if (c >= 0xc2 && c <= 0xdf && i < n && ((unsigned char)text[i] & 0xc0) == 0x80)
            c = (c & 0x1f) << 6 | ((unsigned char)text[i++] & 0x3f);
        else if (c >= 0x80)
            c = ALPHABET_END;
        int byte = alphabet_byte(c);
        if (byte < 0) {
            out->len = start;
            return false;
        }
        buf_char(out, (char)byte);
    }
    return true;
}

/* Makes room for id; ids in between stay unused. */
static struct token *vocab_slot(struct vocab *v, int32_t id)
{
    assert(id >= 0 && id <= TOKEN_ID_MAX);
    if (id >= v->cap) {
        int32_t cap = id + id / 2 + 1024;
        v->tokens = xrealloc(v->tokens, (size_t)cap * sizeof *v->tokens);
        memset(v->tokens + v->cap, 0, (size_t)(cap - v->cap) * sizeof *v->tokens);
        v->cap = cap;
    }
    if (id >= v->n)
        v->n = id + 1;
    return &v->tokens[id];
}

void vocab_put(struct vocab *v, int32_t id, const char *bytes, size_t n, uint32_t flags)
{
    assert(n <= UINT32_MAX);
    *vocab_slot(v, id) = (struct token){v->pool.len, (uint32_t)n, flags | TOKEN_USED};
    buf_add(&v->pool, bytes, n);
    if (n > v->longest_bytes)
        v->longest_bytes = n;
}

void vocab_put_mapped(struct vocab *v, int32_t id, const char *text, size_t n)
{
    size_t start = v->pool.len;
    if (!alphabet_decode(text, n, &v->pool)) {
        vocab_put(v, id, text, n, TOKEN_LITERAL);
        return;
    }
    size_t n_bytes = v->pool.len - start;
    *vocab_slot(v, id) = (struct token){start, (uint32_t)n_bytes, TOKEN_USED};
    if (n_bytes > v->longest_bytes)
        v->longest_bytes = n_bytes;
}

static size_t bytes_hash(const char *bytes, size_t n)
{
    return (size_t)XXH3_64bits(bytes, n);
}

int vocab_index(struct vocab *v)
{
    size_t size = 1024;
    while (size < (size_t)v->n * 2)
        size *= 2;
    v->slots = xrealloc(v->slots, size * sizeof *v->slots);
    memset(v->slots, 0xff, size * sizeof *v->slots);
    v->mask = size - 1;
    for (int32_t id = 0; id < v->n; id++) {
        const struct token *k = &v->tokens[id];
        if ((k->flags & (TOKEN_USED | TOKEN_LITERAL)) != TOKEN_USED || k->n == 0)
            continue;
        size_t i = bytes_hash(vocab_bytes(v, id), k->n) & v->mask;
        while (v->slots[i] >= 0)
            i = (i + 1) & v->mask;
        v->slots[i] = id;
    }
    for (int b = 0; b < 256; b++) {
        char byte = (char)b;
        v->byte_id[b] = vocab_find(v, &byte, 1);
        if (v->byte_id[b] < 0)
            return b;
    }
    return -1;
}

int32_t vocab_find(const struct vocab *v, const char *bytes, size_t n)
{
    if (n > v->longest_bytes)
        return -1;
    size_t i = bytes_hash(bytes, n) & v->mask;
    for (int32_t id; (id = v->slots[i]) >= 0; i = (i + 1) & v->mask)
        if (v->tokens[id].n == n && memcmp(vocab_bytes(v, id), bytes, n) == 0)
            return id;
    return -1;
}

void vocab_free(struct vocab *v)
{
    free(v->tokens);
    free(v->slots);
    buf_free(&v->pool);
}
