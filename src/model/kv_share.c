/* Sharing of KV state between sequences: pages by reference, tails, forks. */
#include <string.h>

#include "model/model_impl.h"

uint64_t model_tail_bytes(const struct model *m)
{
    return m->kv.tail_bytes;
}

int64_t model_tails_total(const struct model *m)
{
    return m->tails.n_blocks;
}

int64_t model_tails_free(const struct model *m)
{
    return m->tails.n_free;
}

int32_t kv_tail_take(struct model *m)
{
    return kv_pool_take(&m->tails);
}

void kv_tail_give(struct model *m, int32_t tail)
{
    kv_pool_unref(&m->tails, tail);
}

int32_t kv_seq_page(const struct kv_seq *s, int64_t i)
{
    return s->page_ids[i];
}

void kv_page_ref(struct model *m, int32_t page)
{
    kv_pool_ref(&m->pool, page);
}

void kv_page_unref(struct model *m, int32_t page)
{
    kv_pool_unref(&m->pool, page);
}

int32_t kv_page_take(struct model *m)
{
    return kv_pool_take(&m->pool);
}

uint8_t *kv_page_at(const struct model *m, int32_t page)
{
    return kv_pool_at(&m->pool, page);
}

uint8_t *kv_tail_at(const struct model *m, int32_t tail)
{
    return kv_pool_at(&m->tails, tail);
}

static void share_pages(struct kv_seq *s, const int32_t *pages, int64_t n)
{
    struct kv_pool *pool = &s->model->pool;
    for (int64_t i = 0; i < n; i++) {
        kv_pool_ref(pool, pages[i]);
        s->page_ids[i] = pages[i];
        s->pages[i] = kv_pool_at(pool, pages[i]);
    }
    s->n_pages = n;
}

static void restore_window(const struct kv_layout *l, const struct kv_view *v, int window, int64_t end,
                           const uint8_t *tail)
{
    const uint8_t *in = tail + v->tail_at.window;
    size_t bytes = l->dims.row_bytes;
    for (int64_t pos = end - window; pos < end; pos++, in += bytes)
        if (pos >= 0)
            memcpy(v->ring + (size_t)(pos % v->ring_rows) * bytes, in, bytes);
}

/* First halves of the last 4 positions; the rows of a state ring are [2 * dim]. */
static void restore_state(float *kv, float *gate, int rows, int dim, int64_t end, const uint8_t *in)
{
    size_t bytes = (size_t)dim * sizeof(float);
    for (int i = 0; i < 4; i++) {
        size_t at = (size_t)((end - 4 + i) % rows) * 2 * (size_t)dim;
        memcpy(kv + at, in + (size_t)i * bytes, bytes);
        memcpy(gate + at, in + (size_t)(4 + i) * bytes, bytes);
    }
}

int kv_seq_resume(struct kv_seq *s, const int32_t *pages, int64_t n_pages, int32_t tail, struct err *e)
{
    const struct model *m = s->model;
    const struct config *c = &m->w.cfg;
    int64_t end = n_pages * KV_PAGE_TOKENS;
    if (s->n_pages != 0 || s->n_tokens != 0 || n_pages < 1 || end > s->max_tokens)
        return err_set(e, HD_EARG, "cannot resume at %lld tokens a sequence that has %lld of at most %lld",
                       (long long)end, (long long)s->n_tokens, (long long)s->max_tokens);
    const uint8_t *t = kv_pool_at(&m->tails, tail);
    share_pages(s, pages, n_pages);
    for (int l = 0; l < c->n_layers; l++) {
        struct kv_view v = kv_seq_view(s, l);
        restore_window(&m->kv, &v, c->window, end, t);
        if (m->kv.layer[l].ratio != 4)
            continue;
        restore_state(v.state_kv, v.state_gate, v.state_rows, c->head_dim, end, t + v.tail_at.state);
        restore_state(v.istate_kv, v.istate_gate, v.state_rows, c->index_head_dim, end, t + v.tail_at.istate);
    }
    s->n_tokens = s->n_high = s->n_floor = end;
    s->n_mtp = s->n_dspark = 0;
    return HD_OK;
}

int kv_seq_fork(struct kv_seq *s, const struct kv_seq *from, struct err *e)
{
    struct model *m = s->model;
    if (s->n_pages != 0 || s->n_tokens != 0 || from->n_tokens > s->max_tokens)
        return err_set(e, HD_EARG, "cannot fork %lld tokens into a sequence that has %lld of at most %lld",
                       (long long)from->n_tokens, (long long)s->n_tokens, (long long)s->max_tokens);
    share_pages(s, from->page_ids, from->n_pages);
    s->n_tokens = from->n_tokens;
    int rc = kv_seq_reserve(s, s->n_tokens, e); /* copies a partial last page */
    if (rc != HD_OK) {
        kv_seq_clear(s);
        return rc;
    }
    memcpy(s->block, from->block, m->kv.block_bytes);
    s->n_high = from->n_high;
    s->n_floor = from->n_floor;
    s->n_mtp = from->n_mtp;
    s->n_dspark = from->n_dspark;
    s->mtp_next = from->mtp_next;
    return HD_OK;
}
