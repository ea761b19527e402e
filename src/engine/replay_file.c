/* The file behind the store of replies: a header, then records that are appended as replies end. Each record has its own
 * checksum, so a process that dies while writing loses that record only. Little-endian.
 *
 *   header   "HADALRPL", u32 version, u32 0, u64 vocabulary
 *   record   u64 XXH3 of all that follows, u32 bytes that follow this field; visible, reasoning (2 u64 each), ids,
 *            context (u64 each), opened, n_reasoning, n_user, n_tokens (u32 each); the user's name; the tokens (i32) */
#include "engine/replay_store.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <xxhash.h>

enum { VERSION = 1, HEADER_BYTES = 24, HEAD_BYTES = 12, FIXED_BYTES = 64, USER_BYTES_MAX = 4096 };

static const char magic[8] = {'H', 'A', 'D', 'A', 'L', 'R', 'P', 'L'};

/* ---------------------------------------------------------------- bytes */

static void put_int(struct buf *b, uint64_t v, int n_bytes)
{
    for (int i = 0; i < n_bytes; i++)
        buf_char(b, (char)(v >> 8 * i & 255));
}

static uint64_t get_int(const uint8_t *at, int n_bytes)
{
    uint64_t v = 0;
    for (int i = 0; i < n_bytes; i++)
        v |= (uint64_t)at[i] << 8 * i;
    return v;
}

/* Tokens mean nothing under another vocabulary. */
static uint64_t vocabulary_of(const struct tokenizer *t)
{
    uint64_t h = (uint64_t)tokenizer_n_vocab(t);
    for (int i = 0; i < tokenizer_n_vocab(t); i++) {
        size_t n;
        const char *bytes = tokenizer_bytes(t, i, &n);
        h = XXH3_64bits_withSeed(bytes, n, h + n);
    }
    return h;
}

static void put_header(const struct replay *r, struct buf *b)
{
    buf_add(b, magic, sizeof magic);
    put_int(b, VERSION, 4);
    put_int(b, 0, 4);
    put_int(b, r->vocabulary, 8);
}

static void put_record(struct buf *b, const struct reply *y)
{
    struct buf body = {0};
    put_int(&body, FIXED_BYTES + y->n_user + 4 * y->n_tokens, 4);
    put_int(&body, y->key.visible.low, 8);
    put_int(&body, y->key.visible.high, 8);
    put_int(&body, y->key.reasoning.low, 8);
    put_int(&body, y->key.reasoning.high, 8);
    put_int(&body, y->key.ids, 8);
    put_int(&body, y->context, 8);
    put_int(&body, y->opened, 4);
    put_int(&body, y->n_reasoning, 4);
    put_int(&body, y->n_user, 4);
    put_int(&body, y->n_tokens, 4);
    buf_add(&body, y->user, y->n_user);
    for (size_t i = 0; i < y->n_tokens; i++)
        put_int(&body, (uint32_t)y->tokens[i], 4);
    put_int(b, XXH3_64bits(body.data, body.len), 8);
    buf_add(b, body.data, body.len);
    buf_free(&body);
}

/* ---------------------------------------------------------------- reading */

static bool fields_agree(const struct reply *y, int n_vocab)
{
    bool good = y->n_reasoning <= y->n_tokens && (y->n_reasoning > 0) == y->opened &&
                memchr(y->user, 0, y->n_user) == NULL;
    for (size_t i = 0; i < y->n_tokens && good; i++)
        good = y->tokens[i] >= 0 && y->tokens[i] < n_vocab;
    return good;
}

/* Reads the record at `at`; returns its bytes, 0 when it is not whole. */
static size_t get_record(struct replay *r, const uint8_t *at, size_t n, int n_vocab)
{
    uint64_t bytes = n < HEAD_BYTES ? 0 : get_int(at + 8, 4);
    if (bytes < FIXED_BYTES || bytes > n - HEAD_BYTES || get_int(at, 8) != XXH3_64bits(at + 8, 4 + bytes))
        return 0;
    const uint8_t *f = at + HEAD_BYTES, *data = f + FIXED_BYTES;
    uint64_t n_user = get_int(f + 56, 4), n_tokens = get_int(f + 60, 4);
    if (n_user > USER_BYTES_MAX || FIXED_BYTES + n_user + 4 * n_tokens != bytes)
        return 0;
    struct reply *y = reply_alloc(n_user, n_tokens);
    if (y == NULL)
        return 0;
    y->key = (struct replay_key){{get_int(f, 8), get_int(f + 8, 8)}, {get_int(f + 16, 8), get_int(f + 24, 8)},
                                 get_int(f + 32, 8)};
    y->context = get_int(f + 40, 8);
    y->opened = get_int(f + 48, 4) != 0;
    y->n_reasoning = get_int(f + 52, 4);
    memcpy(y->user, data, n_user);
    for (size_t i = 0; i < n_tokens; i++)
        y->tokens[i] = (int32_t)get_int(data + n_user + 4 * i, 4);
    if (!fields_agree(y, n_vocab)) {
        free(y);
        return 0;
    }
    replay_insert(r, y);
    return HEAD_BYTES + bytes;
}

/* What can be used of the file; a sentence about the rest, or NULL. */
static char *read_all(struct replay *r, const struct file_map *m, const char *path, int n_vocab)
{
    if (m->size == 0)
        return NULL;
    if (m->size < HEADER_BYTES || memcmp(m->data, magic, sizeof magic) != 0)
        return xasprintf("%s: is no file of remembered replies; it is started anew", path);
    if (get_int(m->data + 8, 4) != VERSION)
        return xasprintf("%s: has version %llu, not %d; it is started anew", path,
                         (unsigned long long)get_int(m->data + 8, 4), VERSION);
    if (get_int(m->data + 16, 8) != r->vocabulary)
        return xasprintf("%s: was written with another vocabulary; it is started anew", path);
    size_t at = HEADER_BYTES, n = 1;
    while (at < m->size && n > 0)
        at += n = get_record(r, m->data + at, m->size - at, n_vocab);
    return at == m->size ? NULL : xasprintf("%s: is damaged at byte %zu; the %lld replies before it are used", path, at,
                                            (long long)r->n_replies);
}

/* ---------------------------------------------------------------- writing */

static bool write_all(int fd, const struct buf *b)
{
    size_t at = 0;
    while (at < b->len) {
        ssize_t n = write(fd, b->data + at, b->len - at);
        if (n < 0 && errno != EINTR)
            return false;
        at += n < 0 ? 0 : (size_t)n;
    }
    return true;
}

/* The file anew, with what the store holds, oldest first: beside it, then renamed over it. */
static int rewrite(struct replay *r, struct err *e)
{
    struct buf b = {0};
    char *beside = xasprintf("%s.new", r->path);
    put_header(r, &b);
    for (const struct reply *y = r->oldest; y != NULL; y = y->newer)
        put_record(&b, y);
    unlink(beside);
    int fd = open(beside, O_WRONLY | O_CREAT | O_EXCL | O_APPEND | O_CLOEXEC, 0600), rc = HD_OK;
    if (fd < 0 || !write_all(fd, &b) || rename(beside, r->path) != 0) {
        rc = err_sys(e, errno, "%s: cannot be written", r->path);
        if (fd >= 0)
            close(fd);
        unlink(beside);
    } else {
        if (r->fd >= 0)
            close(r->fd);
        r->fd = fd;
        r->file_bytes = (int64_t)b.len;
    }
    buf_free(&b);
    free(beside);
    return rc;
}

int replay_file_open(struct replay *r, const struct tokenizer *t, const char *path, char **warning, struct err *e)
{
    struct file_map m = {0};
    r->path = xstrdup(path);
    r->vocabulary = vocabulary_of(t);
    int rc = file_exists(path) ? file_map(&m, path, e) : HD_OK;
    if (rc == HD_OK) {
        *warning = read_all(r, &m, path, tokenizer_n_vocab(t));
        file_unmap(&m);
        rc = rewrite(r, e);
    }
    return rc;
}

void replay_file_append(struct replay *r, const struct reply *y)
{
    struct buf b = {0};
    if (r->fd < 0)
        return;
    if (r->file_bytes > 2 * r->bytes_max + HEADER_BYTES) {
        if (rewrite(r, NULL) != HD_OK)
            replay_file_close(r);
        return;
    }
    put_record(&b, y);
    if (write_all(r->fd, &b))
        r->file_bytes += (int64_t)b.len;
    else /* a full disk: from here on memory only; half a record is seen by its checksum */
        replay_file_close(r);
    buf_free(&b);
}

void replay_file_close(struct replay *r)
{
    if (r->fd >= 0)
        close(r->fd);
    r->fd = -1;
    free(r->path);
    r->path = NULL;
}
