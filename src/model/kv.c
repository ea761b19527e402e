#include "model/kv.h"

#include <stdlib.h>
#include <string.h>

#include "model/model_impl.h"

#include "base/mutant.h"

/* ---------------------------------------------------------------- layout */

static size_t align64(size_t n)
{
    return (n + 63) & ~(size_t)63;
}

static size_t take(size_t *at, size_t bytes)
{
    size_t here = *at;
    *at = align64(here + bytes);
    return here;
}

static void layout_layer(struct kv_layout *l, struct kv_layer_layout *y, const struct config *c, bool in_tail)
{
    y->ring_offset = take(&l->block_bytes, (size_t)l->ring_rows * l->dims.row_bytes);
    if (in_tail)
        y->tail.window = take(&l->tail_bytes, (size_t)c->window * l->dims.row_bytes);
    if (y->ratio == 0)
        return;
    size_t per_page = (size_t)(KV_PAGE_TOKENS / y->ratio), halves = y->ratio == 4 ? 2 : 1;
    y->rows_offset = take(&l->page_bytes, per_page * l->dims.row_bytes);
    y->state_rows = (y->ratio == 4 ? 8 : y->ratio) + KV_ROLLBACK;
    size_t state = (size_t)y->state_rows * halves * (size_t)c->head_dim * sizeof(float);
    y->state_kv_offset = take(&l->block_bytes, state);
    y->state_gate_offset = take(&l->block_bytes, state);
    if (y->ratio != 4)
        return;
    y->index_offset = take(&l->page_bytes, per_page * l->dims.index_bytes);
    size_t istate = (size_t)y->state_rows * halves * (size_t)c->index_head_dim * sizeof(float);
    y->istate_kv_offset = take(&l->block_bytes, istate);
    y->istate_gate_offset = take(&l->block_bytes, istate);
    y->tail.state = take(&l->tail_bytes, 2 * 4 * (size_t)c->head_dim * sizeof(float));
    y->tail.istate = take(&l->tail_bytes, 2 * 4 * (size_t)c->index_head_dim * sizeof(float));
}

void kv_layout_init(struct kv_layout *l, const struct config *c, enum kv_row_format f, int n_drafter, bool mtp)
{
    *l = (struct kv_layout){.dims = kv_dims_of(f, c->head_dim, c->rope_dim, c->index_head_dim)};
    l->ring_rows = c->window + KV_ROLLBACK;
    l->n_layers = c->n_layers + n_drafter;
    for (int i = 0; i < l->n_layers; i++) {
        l->layer[i].ratio = i < c->n_layers ? c->compress_ratio[i] : 0;
        layout_layer(l, &l->layer[i], c, i < c->n_layers);
    }
    l->page_bytes = l->page_bytes == 0 ? 64 : l->page_bytes; /* a model of window layers only still counts pages */
    if (mtp) {
        l->stream_dim = c->hc_mult * c->hidden_size;
        l->stream_offset = take(&l->block_bytes, (size_t)STREAM_RING * (size_t)l->stream_dim * sizeof(float));
    }
}

/* ---------------------------------------------------------------- sequences */

int kv_seq_open(struct kv_seq **out, struct model *m, int64_t max_tokens, struct err *e)
{
    *out = NULL;
    int64_t limit = m->w.cfg.max_positions;
    if (max_tokens < 1 || max_tokens > limit)
        return err_set(e, HD_EARG, "context of %lld tokens is outside 1..%lld (max_position_embeddings)",
                       (long long)max_tokens, (long long)limit);
    struct kv_seq *s = xcalloc(1, sizeof *s);
    s->model = m;
    s->max_tokens = max_tokens;
    s->max_pages = (max_tokens + KV_PAGE_TOKENS - 1) / KV_PAGE_TOKENS;
    s->block = try_alloc(m->kv.block_bytes);
    s->pages = try_alloc((size_t)s->max_pages * sizeof *s->pages);
    s->page_ids = try_alloc((size_t)s->max_pages * sizeof *s->page_ids);
    if (s->block == NULL || s->pages == NULL || s->page_ids == NULL) {
        kv_seq_close(&s);
        return err_set(e, HD_ENOMEM, "no memory for a sequence of %lld tokens (%llu bytes)", (long long)max_tokens,
                       (unsigned long long)model_seq_bytes(m, max_tokens));
    }
    *out = s;
    return HD_OK;
}

void kv_seq_close(struct kv_seq **ps)
{
    struct kv_seq *s = *ps;
    if (s == NULL)
        return;
    if (s->page_ids != NULL)
        kv_seq_release_after(s, 0);
    free(s->block);
    free(s->pages);
    free(s->page_ids);
    free(s);
    *ps = NULL;
}

void kv_seq_clear(struct kv_seq *s)
{
    kv_seq_release_after(s, 0);
    /* Mutant 28: the previous sequence's length survives, so stale state is taken for history. */
    s->n_tokens = MUTANT(28) && s->n_tokens > 0 ? 1 : 0;
    s->n_high = s->n_mtp = s->n_dspark = s->n_floor = 0;
}

int64_t kv_seq_tokens(const struct kv_seq *s)
{
    return s->n_tokens;
}

/* The page that the next token writes into must be this sequence's own: a shared one is copied first. */
static void own_next_page(struct kv_seq *s)
{
    struct kv_pool *pool = &s->model->pool;
    int64_t i = s->n_tokens / KV_PAGE_TOKENS;
    if (i >= s->n_pages || pool->n_refs[s->page_ids[i]] == 1)
        return;
    int32_t id = kv_pool_take(pool);
    memcpy(kv_pool_at(pool, id), s->pages[i], pool->block_bytes);
    kv_pool_unref(pool, s->page_ids[i]);
    s->page_ids[i] = id;
    s->pages[i] = kv_pool_at(pool, id);
}

int kv_seq_reserve(struct kv_seq *s, int64_t n_tokens, struct err *e)
{
    struct kv_pool *pool = &s->model->pool;
    int64_t i_next = s->n_tokens / KV_PAGE_TOKENS, last = (n_tokens + KV_PAGE_TOKENS - 1) / KV_PAGE_TOKENS;
    bool copies = i_next < s->n_pages && pool->n_refs[s->page_ids[i_next]] > 1;
    int64_t need = last - s->n_pages + copies;
    if (need > pool->n_free)
        return err_set(e, HD_ENOMEM, "the KV cache is full: %lld pages of %zu bytes are needed, %lld of %lld are free",
                       (long long)need, pool->block_bytes, (long long)pool->n_free, (long long)pool->n_blocks);
    own_next_page(s);
    for (; s->n_pages < last; s->n_pages++) {
        s->page_ids[s->n_pages] = kv_pool_take(pool);
        s->pages[s->n_pages] = kv_pool_at(pool, s->page_ids[s->n_pages]);
    }
    return HD_OK;
}

void kv_seq_release_after(struct kv_seq *s, int64_t n_tokens)
{
    int64_t keep = (n_tokens + KV_PAGE_TOKENS - 1) / KV_PAGE_TOKENS;
    while (s->n_pages > keep)
        kv_pool_unref(&s->model->pool, s->page_ids[--s->n_pages]);
}

int kv_seq_truncate(struct kv_seq *s, int64_t n_tokens, struct err *e)
{
    if (n_tokens < s->n_floor || n_tokens > s->n_tokens || n_tokens < s->n_high - KV_ROLLBACK)
        return err_set(e, HD_EARG, "cannot go back to %lld tokens: the sequence has %lld and keeps %d for going back, "
                       "not below %lld",
                       (long long)n_tokens, (long long)s->n_tokens, KV_ROLLBACK, (long long)s->n_floor);
    if (n_tokens == s->n_tokens)
        return HD_OK;
    s->n_tokens = MUTANT(10) ? s->n_tokens - 1 : n_tokens;
    kv_seq_release_after(s, s->n_tokens);
    if (s->n_mtp > n_tokens - 1)
        s->n_mtp = n_tokens > 0 ? n_tokens - 1 : 0;
    if (s->n_dspark > n_tokens)
        s->n_dspark = n_tokens;
    return HD_OK;
}

struct kv_view kv_seq_view(const struct kv_seq *s, int layer)
{
    const struct kv_layout *l = &s->model->kv;
    const struct kv_layer_layout *y = &l->layer[layer];
    return (struct kv_view){
        .ring = s->block + y->ring_offset,
        .ring_rows = l->ring_rows,
        .pages = s->pages,
        .rows_offset = y->rows_offset,
        .index_offset = y->index_offset,
        .state_kv = (float *)(s->block + y->state_kv_offset),
        .state_gate = (float *)(s->block + y->state_gate_offset),
        .istate_kv = (float *)(s->block + y->istate_kv_offset),
        .istate_gate = (float *)(s->block + y->istate_gate_offset),
        .state_rows = y->state_rows,
        .tail_at = y->tail,
    };
}

float *kv_seq_stream(const struct kv_seq *s, int64_t pos)
{
    const struct kv_layout *l = &s->model->kv;
    return (float *)(s->block + l->stream_offset) + (size_t)(pos % STREAM_RING) * (size_t)l->stream_dim;
}
