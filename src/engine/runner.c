/* The model behind the engine. */
#include "engine/engine.h"

#include <stdlib.h>

static int seq_open(void *self, struct kv_seq **s, int64_t max_tokens, struct err *e)
{
    return kv_seq_open(s, self, max_tokens, e);
}

static void seq_close(void *self, struct kv_seq **s)
{
    (void)self;
    kv_seq_close(s);
}

static int seq_truncate(void *self, struct kv_seq *s, int64_t n_tokens, struct err *e)
{
    (void)self;
    return kv_seq_truncate(s, n_tokens, e);
}

static int seq_fork(void *self, struct kv_seq *s, const struct kv_seq *from, struct err *e)
{
    (void)self;
    return kv_seq_fork(s, from, e);
}

static int step(void *self, const struct step_item *items, int n_items, struct step_result *r, struct err *e)
{
    return model_step(self, items, n_items, r, e);
}

static int64_t pages_free(void *self)
{
    return model_pages_free(self);
}

static void seq_clear(void *self, struct kv_seq *s)
{
    (void)self;
    kv_seq_clear(s);
}

static int seq_resume(void *self, struct kv_seq *s, const int32_t *pages, int64_t n_pages, int32_t tail, struct err *e)
{
    (void)self;
    return kv_seq_resume(s, pages, n_pages, tail, e);
}

static int32_t seq_page(void *self, const struct kv_seq *s, int64_t i)
{
    (void)self;
    return kv_seq_page(s, i);
}

static void page_ref(void *self, int32_t page)
{
    kv_page_ref(self, page);
}

static void page_unref(void *self, int32_t page)
{
    kv_page_unref(self, page);
}

static int32_t tail_take(void *self)
{
    return kv_tail_take(self);
}

static void tail_give(void *self, int32_t tail)
{
    kv_tail_give(self, tail);
}

static int32_t page_take(void *self)
{
    return kv_page_take(self);
}

static uint8_t *page_at(void *self, int32_t page)
{
    return kv_page_at(self, page);
}

static uint8_t *tail_at(void *self, int32_t tail)
{
    return kv_tail_at(self, tail);
}

static int reserve(void *self, int n_logits, struct err *e)
{
    return model_reserve_logits(self, n_logits, e);
}

static uint64_t step_bytes(void *self)
{
    return model_step_bytes(self);
}

static uint64_t seq_bytes(void *self, int64_t max_tokens)
{
    return model_seq_bytes(self, max_tokens);
}

static void close_model(void *self)
{
    struct model *m = self;
    model_close(&m);
}

struct runner runner_of_model(struct model *m)
{
    const struct config *c = model_config(m);
    return (struct runner){
        .self = m,
        .n_vocab = c->vocab_size,
        .max_rows = model_max_rows(m),
        .rollback = KV_ROLLBACK,
        .max_tokens = c->max_positions,
        .seq_open = seq_open,
        .seq_close = seq_close,
        .seq_truncate = seq_truncate,
        .seq_fork = seq_fork,
        .step = step,
        .reserve = reserve,
        .step_bytes = step_bytes,
        .seq_bytes = seq_bytes,
        .close = close_model,
        .pages_total = model_pages_total(m),
        .tails_total = model_tails_total(m),
        .pages_free = pages_free,
        .seq_clear = seq_clear,
        .seq_resume = seq_resume,
        .seq_page = seq_page,
        .page_ref = page_ref,
        .page_unref = page_unref,
        .tail_take = tail_take,
        .tail_give = tail_give,
        .page_bytes = model_page_bytes(m),
        .tail_bytes = model_tails_total(m) > 0 ? model_tail_bytes(m) : 0,
        .fingerprint = model_fingerprint(m),
        .page_take = page_take,
        .page_at = page_at,
        .tail_at = tail_at,
    };
}
