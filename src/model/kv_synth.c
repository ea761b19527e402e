/* A sequence that looks as if it had processed n tokens, for measurements at depths whose prefill would take hours. */
#include <assert.h>
#include <string.h>

#include "model/kv.h"
#include "model/model_impl.h"

enum { TEMPLATE_PAGES = 16, ROW_MAX = 1024 }; /* later pages repeat the first ones */

/* n random stored rows: values within +-1/2, so that nothing is NaN or large. */
static void fill_rows(struct rng *r, const struct kv_dims *d, uint8_t *at, int n, bool index)
{
    float row[ROW_MAX];
    int dim = index ? d->index_dim : d->head_dim;
    assert(dim <= ROW_MAX);
    for (int i = 0; i < n; i++, at += index ? d->index_bytes : d->row_bytes) {
        for (int k = 0; k < dim; k++)
            row[k] = (float)(rng_unit(r) - 0.5);
        if (index)
            kv_index_put(d, row, at);
        else
            kv_row_put(d, row, at);
    }
}

static void fill_page(const struct kv_layout *l, struct rng *r, uint8_t *page)
{
    for (int i = 0; i < l->n_layers; i++) {
        const struct kv_layer_layout *y = &l->layer[i];
        if (y->ratio == 0)
            continue;
        fill_rows(r, &l->dims, page + y->rows_offset, KV_PAGE_TOKENS / y->ratio, false);
        if (y->ratio == 4)
            fill_rows(r, &l->dims, page + y->index_offset, KV_PAGE_TOKENS / y->ratio, true);
    }
}

int kv_seq_synthesise(struct kv_seq *s, int64_t n_tokens, uint64_t seed, struct err *e)
{
    const struct kv_layout *l = &s->model->kv;
    struct rng r = {seed};
    kv_seq_clear(s);
    if (n_tokens > s->max_tokens)
        return err_set(e, HD_EARG, "%lld tokens do not fit a sequence of at most %lld", (long long)n_tokens,
                       (long long)s->max_tokens);
    int rc = kv_seq_reserve(s, n_tokens, e);
    if (rc != HD_OK)
        return rc;
    for (int64_t i = 0; i < s->n_pages; i++) {
        if (i < TEMPLATE_PAGES)
            fill_page(l, &r, s->pages[i]);
        else
            memcpy(s->pages[i], s->pages[i % TEMPLATE_PAGES], l->page_bytes);
    }
    for (int i = 0; i < l->n_layers; i++)
        fill_rows(&r, &l->dims, s->block + l->layer[i].ring_offset, l->ring_rows, false);
    s->n_tokens = s->n_high = n_tokens;
    s->n_mtp = n_tokens > 0 ? n_tokens - 1 : 0;
    return HD_OK;
}
