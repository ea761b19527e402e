/* Saved sequences: header, sequence block, pages, checksum. Little-endian, as the machine that wrote it. */
#include <string.h>
#include <xxhash.h>

#include "model/kv.h"
#include "model/model_impl.h"

#include "base/mutant.h"

enum { SAVE_VERSION = 2 };
static const char save_magic[8] = "HADALKV";

struct save_header {
    char magic[8];
    uint32_t version, zero;
    uint64_t fingerprint;
    int64_t n_tokens, n_high, n_floor, n_mtp, mtp_next, n_pages;
    uint64_t block_bytes, page_bytes;
};

int kv_seq_save(const struct kv_seq *s, struct buf *out, struct err *e)
{
    (void)e;
    const struct model *m = s->model;
    struct save_header h = {.version = SAVE_VERSION, .fingerprint = m->fingerprint, .n_tokens = s->n_tokens,
                            .n_high = s->n_high, .n_floor = s->n_floor, .n_mtp = s->n_mtp,
                            .mtp_next = s->mtp_next, .n_pages = s->n_pages,
                            .block_bytes = m->kv.block_bytes, .page_bytes = m->kv.page_bytes};
    memcpy(h.magic, save_magic, sizeof h.magic);
    size_t start = out->len;
    buf_reserve(out, sizeof h + m->kv.block_bytes + (size_t)s->n_pages * m->kv.page_bytes + 8);
    buf_add(out, &h, sizeof h);
    buf_add(out, s->block, m->kv.block_bytes);
    for (int64_t i = 0; i < s->n_pages; i++)
        buf_add(out, s->pages[i], m->kv.page_bytes);
    uint64_t sum = XXH64(out->data + start, out->len - start, 0);
    buf_add(out, &sum, sizeof sum);
    return HD_OK;
}

static int check_header(const struct kv_seq *s, const struct save_header *h, size_t n, struct err *e)
{
    const struct model *m = s->model;
    if (memcmp(h->magic, save_magic, sizeof h->magic) != 0 || h->version != SAVE_VERSION)
        return err_set(e, HD_EFORMAT, "saved state: not a Hadal KV state of version %d", SAVE_VERSION);
    if (h->fingerprint != m->fingerprint)
        return err_set(e, HD_EFORMAT, "saved state: written by another model or with other numerics");
    bool sane = h->n_tokens >= 0 && h->n_tokens <= s->max_tokens && h->n_high >= h->n_tokens &&
                h->n_high - h->n_tokens <= KV_ROLLBACK && h->n_floor >= 0 && h->n_floor <= h->n_tokens &&
                h->n_mtp >= 0 && h->n_mtp <= h->n_tokens &&
                h->n_pages == (h->n_tokens + KV_PAGE_TOKENS - 1) / KV_PAGE_TOKENS &&
                h->block_bytes == m->kv.block_bytes && h->page_bytes == m->kv.page_bytes;
    if (!sane || n != sizeof *h + m->kv.block_bytes + (size_t)h->n_pages * m->kv.page_bytes + 8)
        return err_set(e, HD_EFORMAT, "saved state: %lld tokens and %zu bytes do not fit this sequence of at most %lld",
                       (long long)h->n_tokens, n, (long long)s->max_tokens);
    return HD_OK;
}

int kv_seq_load(struct kv_seq *s, const void *data, size_t n, struct err *e)
{
    struct save_header h;
    uint64_t sum;
    const uint8_t *p = data;
    kv_seq_clear(s);
    if (n < sizeof h + sizeof sum)
        return err_set(e, HD_EFORMAT, "saved state: truncated (%zu bytes)", n);
    memcpy(&h, p, sizeof h);
    int rc = check_header(s, &h, n, e);
    if (rc != HD_OK)
        return rc;
    memcpy(&sum, p + n - sizeof sum, sizeof sum);
    if (sum != XXH64(p, n - sizeof sum, 0))
        return err_set(e, HD_EFORMAT, "saved state: checksum does not match");
    rc = kv_seq_reserve(s, h.n_tokens, e);
    if (rc != HD_OK)
        return rc;
    p += sizeof h;
    /* Mutant 9: the second half of the block (the later layers' state) is not restored. */
    memcpy(s->block, p, MUTANT(9) ? s->model->kv.block_bytes / 2 : s->model->kv.block_bytes);
    p += s->model->kv.block_bytes;
    for (int64_t i = 0; i < h.n_pages; i++, p += s->model->kv.page_bytes)
        memcpy(s->pages[i], p, s->model->kv.page_bytes);
    s->n_tokens = h.n_tokens;
    s->n_high = h.n_high;
    s->n_floor = h.n_floor;
    s->n_mtp = h.n_mtp;
    s->n_dspark = 0; /* not part of the format: after loading there is no draft */
    s->mtp_next = (int32_t)h.mtp_next;
    return HD_OK;
}
