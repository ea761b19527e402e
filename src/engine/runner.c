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
        .close = close_model,
    };
}
