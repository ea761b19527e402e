/* Reads a rank file: "BASE64 ID" a line, BASE64 of the token in the byte-level alphabet. A pair merges when the two
 * together are a token, lower ids first. */
#include "text/tokenizer_impl.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { RANK_FILE_BYTES_MAX = 256 << 20 };

/* A rank file carries no pre-tokeniser: DeepSeek-V4's. */
#define REGEX_NUMBERS "\\p{N}{1,3}"
#define REGEX_CJK "[\xe4\xb8\x80-\xe9\xbe\xa5\xe3\x81\x80-\xe3\x82\x9f\xe3\x82\xa0-\xe3\x83\xbf]+" /* 4E00-9FA5 3040-30FF */
#define REGEX_WORDS                                                                                  \
    "[!\"#$%&'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+|[^\r\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+|" \
    " ?[\\p{P}\\p{S}]+[\r\n]*|\\s*[\r\n]+|\\s+(?!\\S)|\\s+"
static const char *const regex_deepseek[] = {REGEX_NUMBERS, REGEX_CJK, REGEX_WORDS};

static int base64_digit(char c)
{
    if (c >= 'A' && c <= 'Z')
        return c - 'A';
    if (c >= 'a' && c <= 'z')
        return c - 'a' + 26;
    if (c >= '0' && c <= '9')
        return c - '0' + 52;
    return c == '+' ? 62 : c == '/' ? 63 : -1;
}

static bool base64_decode(const char *text, size_t n, struct buf *out)
{
    while (n > 0 && text[n - 1] == '=')
        n--;
    uint32_t bits = 0;
    int n_bits = 0;
    for (size_t i = 0; i < n; i++) {
        int digit = base64_digit(text[i]);
        if (digit < 0)
            return false;
        bits = (bits << 6 | (uint32_t)digit) & 0xffff;
        n_bits += 6;
        if (n_bits >= 8) {
            n_bits -= 8;
            buf_char(out, (char)(bits >> n_bits & 0xff));
        }
    }
    return n_bits < 6 && n > 0;
}

/* Non-negative decimal of n digits, -1 when it is none or over TOKEN_ID_MAX. */
static int64_t id_parse(const char *s, size_t n)
{
    int64_t id = n != 0 ? 0 : -1;
    for (size_t i = 0; i < n; i++) {
        if (s[i] < '0' || s[i] > '9')
            return -1;
        id = id * 10 + (s[i] - '0');
        if (id > TOKEN_ID_MAX)
            return -1;
    }
    return id;
}

/* Next line of the text without its end; false behind the last. */
static bool line_next(const char **at, const char *end, const char **line, size_t *n)
{
    if (*at >= end)
        return false;
    const char *stop = memchr(*at, '\n', (size_t)(end - *at));
    *line = *at;
    *n = (size_t)((stop != NULL ? stop : end) - *at);
    *at += *n + 1;
    if (*n > 0 && (*line)[*n - 1] == '\r')
        --*n;
    return true;
}

static int rank_line_read(struct tokenizer *t, const char *line, size_t n, struct buf *scratch, const char *path,
                          int i_line, struct err *e)
{
    const char *space = memchr(line, ' ', n);
    size_t n_key = space != NULL ? (size_t)(space - line) : 0;
    int64_t id = space != NULL ? id_parse(space + 1, n - n_key - 1) : -1;
    buf_clear(scratch);
    if (id < 0 || !base64_decode(line, n_key, scratch))
        return err_set(e, HD_EFORMAT, "%s: line %d: expected a base64 token, a space and an id of 0 to %d", path,
                       i_line, TOKEN_ID_MAX);
    if (vocab_has(&t->vocab, id))
        return err_set(e, HD_EFORMAT, "%s: line %d: another token has id %d", path, i_line, (int)id);
    vocab_put_mapped(&t->vocab, (int32_t)id, scratch->data, scratch->len);
    return HD_OK;
}

static int ranks_read(struct tokenizer *t, const char *path, struct err *e)
{
    struct buf text = {0}, scratch = {0};
    int rc = file_read(&text, path, RANK_FILE_BYTES_MAX, e);
    const char *at = text.data, *end = text.data + text.len, *line;
    size_t n;
    for (int i_line = 1; rc == HD_OK && line_next(&at, end, &line, &n); i_line++)
        if (n != 0)
            rc = rank_line_read(t, line, n, &scratch, path, i_line, e);
    buf_free(&scratch);
    buf_free(&text);
    return rc;
}

/* Every way to cut a token in two tokens is a rule of the token's rank. */
static void merges_derive(struct tokenizer *t)
{
    const struct vocab *v = &t->vocab;
    for (int32_t id = 0; id < v->n; id++) {
        const struct token *k = &v->tokens[id];
        if ((k->flags & (TOKEN_USED | TOKEN_LITERAL)) != TOKEN_USED)
            continue;
        const char *bytes = vocab_bytes(v, id);
        for (uint32_t cut = 1; cut < k->n; cut++) {
            int32_t left = vocab_find(v, bytes, cut);
            int32_t right = left >= 0 ? vocab_find(v, bytes + cut, k->n - cut) : -1;
            if (right >= 0)
                merges_put(&t->merges, left, right, id, id);
        }
    }
}

/* ---------------------------------------------------------------- added tokens beside it */

/* "id TAB content TAB special[TAB ...]"; lines that start with '#' are comments. */
static int added_line_read(struct tokenizer *t, const char *line, size_t n, const char *path, int i_line, struct err *e)
{
    char field[32];
    snprintf(field, sizeof field, "line %d", i_line);
    const char *tab = memchr(line, '\t', n);
    const char *content = tab != NULL ? tab + 1 : NULL;
    const char *tab2 = content != NULL ? memchr(content, '\t', n - (size_t)(content - line)) : NULL;
    int64_t id = tab != NULL ? id_parse(line, (size_t)(tab - line)) : -1;
    const char *special = tab2 != NULL && tab2 + 1 < line + n ? tab2 + 1 : "";
    if (id < 0 || (*special != '0' && *special != '1'))
        return err_set(e, HD_EFORMAT, "%s: line %d: expected id, token text and 0 or 1 with tabs between", path, i_line);
    return tokenizer_add(t, id, content, (size_t)(tab2 - content), *special == '1', false, path, field, e);
}

static int added_read(struct tokenizer *t, const char *path, struct err *e)
{
    struct buf text = {0};
    int rc = file_read(&text, path, RANK_FILE_BYTES_MAX, e);
    const char *at = text.data, *end = text.data + text.len, *line;
    size_t n;
    for (int i_line = 1; rc == HD_OK && line_next(&at, end, &line, &n); i_line++)
        if (n != 0 && line[0] != '#')
            rc = added_line_read(t, line, n, path, i_line, e);
    buf_free(&text);
    return rc;
}

int tokenizer_read_ranks(struct tokenizer *t, const char *path, struct err *e)
{
    int rc = ranks_read(t, path, e);
    if (rc == HD_OK)
        rc = tokenizer_index(t, path, e);
    if (rc != HD_OK)
        return rc;
    merges_derive(t);
    for (size_t i = 0; i < COUNT_OF(regex_deepseek) && rc == HD_OK; i++) {
        rc = split_step_open(&t->steps[i], regex_deepseek[i], strlen(regex_deepseek[i]), path, "pre-tokeniser", e);
        t->n_steps += rc == HD_OK;
    }
    const char *slash = strrchr(path, '/');
    char *dir = xstrndup(path, slash != NULL ? (size_t)(slash - path) + 1 : 0);
    char *added = xasprintf("%sadded_tokens.tsv", dir);
    if (rc == HD_OK && file_exists(added))
        rc = added_read(t, added, e);
    free(added);
    free(dir);
    return rc;
}
