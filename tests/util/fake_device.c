#include "fake_device.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

enum { POISON = -7 };

/* ---------------------------------------------------------------- what the model "computes" */

static uint64_t mix_token(uint64_t state, int32_t token)
{
    return mix64(state ^ (uint64_t)(uint32_t)token);
}

static int32_t token_of(uint64_t from_state, uint64_t from_pages)
{
    uint64_t h = mix64(from_state ^ (from_pages << 1));
    return h % 701 == 0 ? FAKE_EOS : 10 + (int32_t)((h >> 8) % (FAKE_VOCAB - 10));
}

int32_t fake_next(const int32_t *tokens, int64_t n)
{
    uint64_t h = 1;
    for (int64_t i = 0; i < n; i++)
        h = mix_token(h, tokens[i]);
    return token_of(h, h);
}

static uint64_t *state_at(struct kv_seq *s, int64_t n_tokens)
{
    return &s->state[n_tokens % (FAKE_ROLLBACK + 1)];
}

static uint64_t hash_pages(const struct kv_seq *s)
{
    uint64_t h = 1;
    for (int64_t i = 0; i < s->n_tokens; i++)
        h = mix_token(h, s->device->pages[s->pages[i / KV_PAGE_TOKENS]].tokens[i % KV_PAGE_TOKENS]);
    return h;
}

/* ---------------------------------------------------------------- pages and tails */

static int32_t take_page(struct fake_device *d)
{
    for (int32_t i = 0; i < d->n_pages; i++)
        if (d->pages[i].n_refs == 0) {
            d->pages[i].n_refs = 1;
            d->n_free--;
            return i;
        }
    abort(); /* the caller has counted */
}

static void page_ref(void *self, int32_t page)
{
    struct fake_device *d = self;
    assert(page >= 0 && page < d->n_pages && d->pages[page].n_refs > 0);
    d->pages[page].n_refs++;
}

static void page_unref(void *self, int32_t page)
{
    struct fake_device *d = self;
    assert(page >= 0 && page < d->n_pages && d->pages[page].n_refs > 0);
    if (--d->pages[page].n_refs > 0)
        return;
    d->n_free++;
    for (int i = 0; i < KV_PAGE_TOKENS; i++)
        d->pages[page].tokens[i] = POISON;
}

static int64_t pages_free(void *self)
{
    return ((struct fake_device *)self)->n_free;
}

static int32_t tail_take(void *self)
{
    struct fake_device *d = self;
    for (int32_t i = 0; i < d->n_tails; i++)
        if (!d->tails[i].taken) {
            d->tails[i] = (struct fake_tail){.taken = true};
            d->n_tails_free--;
            return i;
        }
    return -1;
}

static void tail_give(void *self, int32_t tail)
{
    struct fake_device *d = self;
    assert(tail >= 0 && tail < d->n_tails && d->tails[tail].taken);
    d->tails[tail] = (struct fake_tail){0};
    d->n_tails_free++;
}

/* ---------------------------------------------------------------- pages and tails from elsewhere */

static int32_t page_take(void *self)
{
    struct fake_device *d = self;
    return d->n_free == 0 ? -1 : take_page(d);
}

static uint8_t *page_at(void *self, int32_t page)
{
    struct fake_device *d = self;
    assert(page >= 0 && page < d->n_pages && d->pages[page].n_refs > 0);
    return (uint8_t *)d->pages[page].tokens;
}

static uint8_t *tail_at(void *self, int32_t tail)
{
    struct fake_device *d = self;
    assert(tail >= 0 && tail < d->n_tails && d->tails[tail].taken);
    return (uint8_t *)&d->tails[tail];
}

/* ---------------------------------------------------------------- sequences */

static int seq_open(void *self, struct kv_seq **s, int64_t max_tokens, struct err *e)
{
    struct fake_device *d = self;
    (void)e;
    assert(max_tokens <= (int64_t)FAKE_PAGES_MAX * KV_PAGE_TOKENS);
    *s = xcalloc(1, sizeof **s);
    (*s)->device = d;
    (*s)->max_tokens = max_tokens;
    (*s)->state[0] = 1;
    d->n_open++;
    return HD_OK;
}

static void release_after(struct kv_seq *s, int64_t n_tokens)
{
    while (s->n_pages > (n_tokens + KV_PAGE_TOKENS - 1) / KV_PAGE_TOKENS)
        page_unref(s->device, s->pages[--s->n_pages]);
}

static void seq_clear(void *self, struct kv_seq *s)
{
    (void)self;
    release_after(s, 0);
    s->n_tokens = s->n_high = s->n_floor = 0;
    memset(s->state, 0, sizeof s->state);
    s->state[0] = 1;
}

static void seq_close(void *self, struct kv_seq **s)
{
    struct fake_device *d = self;
    if (*s == NULL)
        return;
    seq_clear(d, *s);
    free(*s);
    *s = NULL;
    d->n_open--;
}

static int seq_truncate(void *self, struct kv_seq *s, int64_t n, struct err *e)
{
    (void)self;
    if (n < s->n_floor || n > s->n_tokens || n < s->n_high - FAKE_ROLLBACK)
        return err_set(e, HD_EARG, "cannot go back that far");
    s->n_tokens = n;
    release_after(s, n);
    return HD_OK;
}

static int seq_resume(void *self, struct kv_seq *s, const int32_t *pages, int64_t n_pages, int32_t tail, struct err *e)
{
    struct fake_device *d = self;
    (void)e;
    assert(s->n_pages == 0 && s->n_tokens == 0 && n_pages >= 1);
    assert(tail >= 0 && tail < d->n_tails && d->tails[tail].taken && d->tails[tail].filled);
    for (int64_t i = 0; i < n_pages; i++) {
        page_ref(d, pages[i]);
        s->pages[i] = pages[i];
    }
    s->n_pages = n_pages;
    s->n_tokens = s->n_high = s->n_floor = n_pages * KV_PAGE_TOKENS;
    assert(d->tails[tail].n_tokens == s->n_tokens);
    *state_at(s, s->n_tokens) = d->tails[tail].state;
    return HD_OK;
}

static bool copies_page(const struct kv_seq *s)
{
    int64_t i = s->n_tokens / KV_PAGE_TOKENS;
    return i < s->n_pages && s->device->pages[s->pages[i]].n_refs > 1;
}

static void own_next_page(struct kv_seq *s)
{
    struct fake_device *d = s->device;
    if (!copies_page(s))
        return;
    int64_t i = s->n_tokens / KV_PAGE_TOKENS;
    int32_t copy = take_page(d);
    memcpy(d->pages[copy].tokens, d->pages[s->pages[i]].tokens, sizeof d->pages[copy].tokens);
    page_unref(d, s->pages[i]);
    s->pages[i] = copy;
}

static int seq_fork(void *self, struct kv_seq *s, const struct kv_seq *from, struct err *e)
{
    struct fake_device *d = self;
    bool partial = from->n_tokens % KV_PAGE_TOKENS != 0;
    assert(s->n_pages == 0 && s->n_tokens == 0);
    if (partial && d->n_free == 0)
        return err_set(e, HD_ENOMEM, "no page for a copy");
    for (int64_t i = 0; i < from->n_pages; i++)
        page_ref(d, from->pages[i]);
    int64_t max_tokens = s->max_tokens;
    *s = *from;
    s->max_tokens = max_tokens;
    if (partial)
        own_next_page(s);
    return HD_OK;
}

static int32_t seq_page(void *self, const struct kv_seq *s, int64_t i)
{
    (void)self;
    assert(i < s->n_pages);
    return s->pages[i];
}

/* ---------------------------------------------------------------- steps */

static int64_t pages_needed(const struct step_item *it)
{
    return (it->seq->n_tokens + it->n_tokens + KV_PAGE_TOKENS - 1) / KV_PAGE_TOKENS - it->seq->n_pages +
           copies_page(it->seq);
}

static void append(struct kv_seq *s, int32_t token)
{
    struct fake_device *d = s->device;
    int64_t i = s->n_tokens / KV_PAGE_TOKENS;
    if (i == s->n_pages)
        s->pages[s->n_pages++] = take_page(d);
    assert(d->pages[s->pages[i]].n_refs == 1);
    d->pages[s->pages[i]].tokens[s->n_tokens % KV_PAGE_TOKENS] = token;
    uint64_t next = mix_token(*state_at(s, s->n_tokens), token);
    *state_at(s, ++s->n_tokens) = next;
    s->n_high = s->n_tokens > s->n_high ? s->n_tokens : s->n_high;
}

static void fill_tail(struct kv_seq *s, int32_t tail)
{
    struct fake_device *d = s->device;
    if (tail < 0)
        return;
    assert(tail < d->n_tails && d->tails[tail].taken);
    d->tails[tail] = (struct fake_tail){.taken = true, .filled = true, .state = *state_at(s, s->n_tokens),
                                        .n_tokens = s->n_tokens};
}

static void run_item(struct fake_device *d, const struct step_item *it, struct step_result *r)
{
    struct kv_seq *s = it->seq;
    int n_ends = 0;
    own_next_page(s);
    for (int k = 0; k < it->n_tokens; k++) {
        append(s, it->tokens[k]);
        if (s->n_tokens % KV_PAGE_TOKENS == 0 && it->tails != NULL)
            fill_tail(s, it->tails[n_ends++]);
    }
    assert(s->n_tokens <= s->max_tokens);
    if (it->n_logits == 0)
        return;
    float *z = d->logits + (size_t)r->n_logits++ * FAKE_VOCAB;
    memset(z, 0, FAKE_VOCAB * sizeof *z);
    z[token_of(*state_at(s, s->n_tokens), hash_pages(s))] = 10;
}

static int step(void *self, const struct step_item *items, int n_items, struct step_result *r, struct err *e)
{
    struct fake_device *d = self;
    int64_t need = 0, rows = 0;
    int fail = d->fail_code;
    d->fail_code = 0;
    if (fail != 0)
        return err_set(e, fail, "the fake device fails as told");
    for (int i = 0; i < n_items; i++) {
        assert(items[i].n_tokens >= 1 && items[i].n_logits >= 0 && items[i].n_logits <= 1);
        need += pages_needed(&items[i]);
        rows += items[i].n_tokens;
    }
    assert(rows <= d->max_rows);
    if (need > d->n_free) {
        d->n_out_of_pages++;
        return err_set(e, HD_ENOMEM, "%lld pages are needed, %d are free", (long long)need, d->n_free);
    }
    *r = (struct step_result){.logits = d->logits};
    for (int i = 0; i < n_items; i++)
        run_item(d, &items[i], r);
    d->n_steps++;
    d->n_rows += (uint64_t)rows;
    return HD_OK;
}

static void close_device(void *self)
{
    struct fake_device *d = self;
    assert(d->n_open == 0 && d->n_free == d->n_pages && d->n_tails_free == d->n_tails);
    d->closed = true;
}

/* ---------------------------------------------------------------- the runner */

void fake_device_init(struct fake_device *d, int n_pages, int n_tails, int max_rows)
{
    assert(n_pages <= FAKE_PAGES_MAX && n_tails <= FAKE_PAGES_MAX);
    memset(d, 0, sizeof *d);
    d->n_pages = d->n_free = n_pages;
    d->n_tails = d->n_tails_free = n_tails;
    d->max_rows = max_rows;
    d->logits = xcalloc((size_t)max_rows * FAKE_VOCAB, sizeof *d->logits);
}

void fake_device_free(struct fake_device *d)
{
    free(d->logits);
    d->logits = NULL;
}

struct runner fake_runner(struct fake_device *d, int64_t max_tokens)
{
    return (struct runner){
        .self = d, .n_vocab = FAKE_VOCAB, .max_rows = d->max_rows, .rollback = FAKE_ROLLBACK, .max_tokens = max_tokens,
        .seq_open = seq_open, .seq_close = seq_close, .seq_truncate = seq_truncate, .seq_fork = seq_fork, .step = step,
        .close = close_device, .pages_total = d->n_pages, .tails_total = d->n_tails, .pages_free = pages_free,
        .seq_clear = seq_clear, .seq_resume = seq_resume, .seq_page = seq_page, .page_ref = page_ref,
        .page_unref = page_unref, .tail_take = tail_take, .tail_give = tail_give,
        .page_bytes = sizeof d->pages[0].tokens, .tail_bytes = d->n_tails > 0 ? sizeof d->tails[0] : 0,
        .fingerprint = 7, .page_take = page_take, .page_at = page_at, .tail_at = tail_at,
    };
}
