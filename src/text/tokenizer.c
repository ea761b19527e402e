/* The tokenizer's calls: opening, encoding, decoding, looking up. */
#include "text/tokenizer_impl.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

/* ---------------------------------------------------------------- opening and closing */

void tokenizer_close(struct tokenizer **t)
{
    if (*t == NULL)
        return;
    for (int i = 0; i < (*t)->n_steps; i++)
        split_step_close(&(*t)->steps[i]);
    for (size_t i = 0; i < COUNT_OF((*t)->added); i++)
        trie_free(&(*t)->added[i]);
    vocab_free(&(*t)->vocab);
    merges_free(&(*t)->merges);
    free((*t)->whole);
    free((*t)->warning);
    free(*t);
    *t = NULL;
}

const char *tokenizer_warning(const struct tokenizer *t)
{
    return t->warning;
}

int tokenizer_index(struct tokenizer *t, const char *path, struct err *e)
{
    int missing = vocab_index(&t->vocab);
    if (missing >= 0)
        return err_set(e, HD_EFORMAT, "%s: the vocabulary has no token for byte 0x%02x (in the byte-level alphabet)", path,
                       (unsigned)missing);
    t->whole = xcalloc((size_t)t->vocab.n, sizeof *t->whole);
    return HD_OK;
}

int tokenizer_add(struct tokenizer *t, int64_t id, const char *text, size_t n, bool special, bool normalized,
                  const char *path, const char *field, struct err *e)
{
    if (id < 0 || id > TOKEN_ID_MAX)
        return err_set(e, HD_EFORMAT, "%s: %s: the id is not within 0 to %d", path, field, TOKEN_ID_MAX);
    struct vocab *v = &t->vocab;
    if (vocab_has(v, id) && (v->tokens[id].flags & TOKEN_ADDED) != 0)
        return err_set(e, HD_EFORMAT, "%s: %s: another added token has id %d", path, field, (int)id);
    if (vocab_has(v, id) && (v->tokens[id].n != n || memcmp(vocab_bytes(v, (int32_t)id), text, n) != 0))
        return err_set(e, HD_EFORMAT, "%s: %s: another token of the vocabulary has id %d", path, field, (int)id);
    size_t len = 0;
    if (trie_match(&t->added[!normalized], text, n, &len) >= 0 && len == n)
        return err_set(e, HD_EFORMAT, "%s: %s: another added token has the same content", path, field);
    if (!trie_add(&t->added[normalized], text, n, (int32_t)id))
        return err_set(e, HD_EFORMAT, "%s: %s: the content is empty or that of another added token", path, field);
    uint32_t flags = TOKEN_ADDED | (special ? TOKEN_SPECIAL : 0);
    /* A token of the vocabulary stays one that merges may reach. */
    if (vocab_has(v, id))
        v->tokens[id].flags |= flags;
    else
        vocab_put(v, (int32_t)id, text, n, flags | TOKEN_LITERAL);
    return HD_OK;
}

int tokenizer_parse(struct tokenizer **t, const char *json, size_t n, const char *path, struct err *e)
{
    *t = xcalloc(1, sizeof **t);
    int rc = tokenizer_read_json(*t, json, n, path, e);
    if (rc != HD_OK)
        tokenizer_close(t);
    return rc;
}

static int json_file_open(struct tokenizer **t, const char *path, struct err *e)
{
    struct file_map map;
    int rc = file_map(&map, path, e);
    if (rc != HD_OK)
        return rc;
    rc = tokenizer_parse(t, (const char *)map.data, map.size, path, e);
    file_unmap(&map);
    return rc;
}

/* The first character that is no space tells a JSON object from a rank file. */
static int is_json(bool *json, const char *path, struct err *e)
{
    struct file_map map;
    int rc = file_map(&map, path, e);
    if (rc != HD_OK)
        return rc;
    size_t i = 0;
    while (i < map.size && strchr(" \t\r\n", map.data[i]) != NULL && map.data[i] != '\0')
        i++;
    *json = i == map.size || map.data[i] == '{';
    file_unmap(&map);
    return HD_OK;
}

int tokenizer_open(struct tokenizer **t, const char *path, struct err *e)
{
    *t = NULL;
    if (file_is_dir(path)) {
        char *inside = path_join(path, "tokenizer.json");
        int rc = json_file_open(t, inside, e);
        free(inside);
        return rc;
    }
    bool json;
    int rc = is_json(&json, path, e);
    if (rc != HD_OK)
        return rc;
    if (json)
        return json_file_open(t, path, e);
    *t = xcalloc(1, sizeof **t);
    rc = tokenizer_read_ranks(*t, path, e);
    if (rc != HD_OK)
        tokenizer_close(t);
    return rc;
}

/* ---------------------------------------------------------------- encoding */

struct encoder {
    const struct tokenizer *t;
    struct split_work split;
    struct bpe_work bpe;
    const char *seen, *real; /* the text as the patterns see it, and as it is (tokenizer_unicode.c) */
    struct ids *out;
    struct err *e;
};

static int piece_encode(void *arg, const char *piece, size_t n)
{
    struct encoder *s = arg;
    return bpe_encode(s->t, &s->bpe, s->real + (piece - s->seen), n, s->out, s->e);
}

/* Valid UTF-8 without added tokens. */
static int valid_encode(struct encoder *s, const char *text, size_t n)
{
    s->real = s->seen = text;
    char *copy = NULL;
    if (unicode_is_young(text, n)) {
        copy = malloc(n);
        if (copy == NULL)
            return err_set(s->e, HD_ENOMEM, "tokenizer: no memory for a text of %zu bytes", n);
        memcpy(copy, text, n);
        unicode_stand_in(copy, n);
        s->seen = copy;
    }
    int rc = split_text(s->t->steps, s->t->n_steps, &s->split, s->seen, n, piece_encode, s, s->e);
    free(copy);
    return rc;
}

/* Text without added tokens. Bytes that are no UTF-8 stand alone: no pattern sees them. */
static int plain_encode(struct encoder *s, const char *text, size_t n)
{
    int rc = HD_OK;
    for (size_t i = 0; i < n && rc == HD_OK;) {
        size_t valid = utf8_valid_prefix(text + i, n - i);
        rc = valid_encode(s, text + i, valid);
        i += valid;
        size_t len;
        while (rc == HD_OK && i < n && utf8_next(text + i, n - i, &len) != UTF8_CHAR)
            ids_add(s->out, s->t->vocab.byte_id[(unsigned char)text[i++]]);
    }
    return rc;
}

/* Cuts the text at the added tokens of one trie after the other, the leftmost first, the longest of those. */
static int added_encode(struct encoder *s, size_t i_trie, const char *text, size_t n)
{
    if (i_trie == COUNT_OF(s->t->added))
        return plain_encode(s, text, n);
    const struct trie *trie = &s->t->added[i_trie];
    size_t done = 0;
    for (size_t i = 0; i < n;) {
        size_t len = 0;
        int32_t id = trie_match(trie, text + i, n - i, &len);
        if (id < 0) {
            i++;
            continue;
        }
        int rc = added_encode(s, i_trie + 1, text + done, i - done);
        if (rc != HD_OK)
            return rc;
        ids_add(s->out, id);
        i += len;
        done = i;
    }
    return added_encode(s, i_trie + 1, text + done, n - done);
}

int tokenizer_encode(const struct tokenizer *t, const char *text, size_t n, bool match_added, struct ids *out,
                     struct err *e)
{
    if (n > INT32_MAX)
        return err_set(e, HD_EARG, "text: %zu bytes are more than the tokenizer takes at once (2 GiB)", n);
    struct encoder s = {.t = t, .out = out, .e = e};
    int rc = split_work_open(&s.split, n, e);
    if (rc != HD_OK)
        return rc;
    rc = match_added ? added_encode(&s, 0, text, n) : plain_encode(&s, text, n);
    split_work_close(&s.split);
    bpe_work_free(&s.bpe);
    return rc;
}

/* ---------------------------------------------------------------- looking up, decoding */

const char *tokenizer_bytes(const struct tokenizer *t, int32_t id, size_t *n)
{
    *n = 0;
    if (!vocab_has(&t->vocab, id))
        return "";
    *n = t->vocab.tokens[id].n;
    return vocab_bytes(&t->vocab, id);
}

int32_t tokenizer_id(const struct tokenizer *t, const char *token)
{
    size_t n = strlen(token), len = 0;
    for (size_t i = 0; i < COUNT_OF(t->added); i++) {
        int32_t id = trie_match(&t->added[i], token, n, &len);
        if (id >= 0 && len == n)
            return id;
    }
    return n != 0 ? vocab_find(&t->vocab, token, n) : -1;
}

bool tokenizer_is_added(const struct tokenizer *t, int32_t id)
{
    return vocab_has(&t->vocab, id) && (t->vocab.tokens[id].flags & TOKEN_ADDED) != 0;
}

bool tokenizer_is_special(const struct tokenizer *t, int32_t id)
{
    return vocab_has(&t->vocab, id) && (t->vocab.tokens[id].flags & TOKEN_SPECIAL) != 0;
}

int tokenizer_n_vocab(const struct tokenizer *t)
{
    return t->vocab.n;
}

void tokenizer_decode(const struct tokenizer *t, const int32_t *ids, size_t n, bool skip_special, struct buf *out)
{
    for (size_t i = 0; i < n; i++) {
        if (skip_special && tokenizer_is_special(t, ids[i]))
            continue;
        size_t len;
        const char *bytes = tokenizer_bytes(t, ids[i], &len);
        buf_add(out, bytes, len);
    }
}
