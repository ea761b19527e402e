/* Where a job's KV state comes from and where it goes: the prefix cache for complete pages, and a few sequences kept as
 * they were at the end of a prompt or a reply, so that the next turn of a conversation does not compute the last partial
 * page again. */
#include "engine/job.h"

#include <assert.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---------------------------------------------------------------- sequences, opened once */

static void put_seq(struct engine *e, struct kv_seq **s)
{
    if (e->runner.seq_clear == NULL || e->n_idle == e->cap_idle) {
        e->runner.seq_close(e->runner.self, s);
        return;
    }
    e->runner.seq_clear(e->runner.self, *s);
    e->idle_seqs[e->n_idle++] = *s;
    *s = NULL;
}

static int get_seq(struct engine *e, struct kv_seq **s, struct err *err)
{
    for (;;) {
        struct err once = {0};
        if (e->n_idle > 0) {
            *s = e->idle_seqs[--e->n_idle];
            return HD_OK;
        }
        int rc = e->runner.seq_open(e->runner.self, s, e->env.context_tokens, &once);
        if (rc != HD_ENOMEM || !state_drop_kept(e))
            return rc == HD_OK ? rc : err_set(err, rc, "%s", once.msg);
    }
}

/* ---------------------------------------------------------------- kept sequences */

static struct kept kept_remove(struct engine *e, int i)
{
    struct kept k = e->kept[i];
    e->kept[i] = e->kept[--e->n_kept];
    e->kept[e->n_kept] = (struct kept){.tokens = k.tokens}; /* its memory is used again */
    users_drop(&e->users, k.user);
    return k;
}

static int oldest_kept(const struct engine *e)
{
    int oldest = e->n_kept - 1;
    for (int i = 0; i < e->n_kept; i++)
        if (e->kept[i].last_use < e->kept[oldest].last_use)
            oldest = i;
    return oldest;
}

bool state_drop_kept(struct engine *e)
{
    int i = oldest_kept(e);
    if (i < 0)
        return false;
    struct kept k = kept_remove(e, i);
    cache_leave(&e->cache, k.node);
    put_seq(e, &k.seq);
    return true;
}

/* Requests that computed the same page at the same time, or again because a tail was missing, hold it twice. Now the
 * cache takes the page of one of them, and its own is freed when nobody else uses it. */
static bool merge_pages(struct engine *e)
{
    int64_t before = e->runner.pages_free(e->runner.self);
    for (int i = 0; i < e->running.n; i++) {
        const struct job *j = e->running.at[i];
        for (int32_t k = j->node; k != CACHE_NONE; k = e->cache.nodes[k].parent)
            cache_replace_page(&e->cache, k, e->runner.seq_page(e->runner.self, j->seq, e->cache.nodes[k].depth - 1));
    }
    return e->runner.pages_free(e->runner.self) > before;
}

bool state_make_room(struct engine *e)
{
    int i = oldest_kept(e);
    if (i >= 0 && e->kept[i].last_use < cache_oldest_use(&e->cache))
        return state_drop_kept(e);
    return cache_evict_page(&e->cache) || (engine_shares(e) && merge_pages(e));
}

/* At least the last token is run again: its logits are needed. */
static int64_t common_tokens(const struct ids *kept, const struct job *j)
{
    int64_t most = (int64_t)j->tokens.n - 1, n = (int64_t)kept->n < most ? (int64_t)kept->n : most, i = 0;
    while (i < n && kept->data[i] == j->tokens.data[i])
        i++;
    return i;
}

/* Index of the state that saves most, -1 when none can be taken back far enough. */
static int kept_find(struct engine *e, const struct job *j, int64_t *reused, int64_t *differs_at)
{
    int best = -1;
    *reused = 0;
    for (int i = 0; i < e->n_kept; i++) {
        if (e->kept[i].user != j->user)
            continue;
        int64_t n = common_tokens(&e->kept[i].tokens, j);
        if (n > *differs_at)
            *differs_at = n;
        if (n > *reused && n >= (int64_t)e->kept[i].tokens.n - e->runner.rollback) {
            *reused = n;
            best = i;
        }
    }
    return best;
}

/* A copy of a sequence that stands on a node, or NULL when there is no memory for one. */
static struct kv_seq *copy_of(struct engine *e, const struct kv_seq *from, int32_t node)
{
    struct kv_seq *seq = NULL;
    if (e->n_idle > 0)
        seq = e->idle_seqs[--e->n_idle];
    else if (e->runner.seq_open(e->runner.self, &seq, e->env.context_tokens, NULL) != HD_OK)
        return NULL;
    if (e->runner.seq_fork(e->runner.self, seq, from, NULL) != HD_OK)
        put_seq(e, &seq);
    else
        cache_enter(&e->cache, node);
    return seq;
}

/* The job goes on from n tokens with a sequence that stands on a node, with more tokens perhaps. False when it cannot be
 * taken back; it is given back then. */
static bool stand_at(struct engine *e, struct job *j, struct kv_seq *seq, int32_t node, int64_t n)
{
    if (e->runner.seq_truncate(e->runner.self, seq, n, NULL) != HD_OK) {
        cache_leave(&e->cache, node);
        put_seq(e, &seq);
        return false;
    }
    while (node != CACHE_NONE && (int64_t)e->cache.nodes[node].depth * CACHE_PAGE > n) {
        node = cache_step_up(&e->cache, node);
        j->next_is_shared = true;
    }
    j->seq = seq;
    j->node = node;
    j->n_fed = n;
    cache_touch(&e->cache, node);
    return true;
}

/* The job gets a copy of a kept state, or without memory for one the state itself, taken back to n tokens. False when it
 * cannot be taken back. */
static bool kept_use(struct engine *e, struct job *j, int i, int64_t n)
{
    int32_t node = e->kept[i].node;
    struct kv_seq *seq = copy_of(e, e->kept[i].seq, node);
    if (seq != NULL)
        e->kept[i].last_use = ++e->cache.clock;
    else
        seq = kept_remove(e, i).seq;
    return stand_at(e, j, seq, node, n);
}

/* ---------------------------------------------------------------- forks of running sequences */

const struct job *state_running(const struct engine *e, const struct job *j, int64_t *n)
{
    const struct job *best = NULL;
    *n = 0;
    for (int i = 0; i < e->running.n && engine_shares(e); i++) {
        const struct job *r = e->running.at[i];
        const struct ids fed = {.data = r->tokens.data, .n = (size_t)r->n_fed};
        if (r == j || r->user != j->user || r->seq == NULL || (int64_t)j->tokens.n <= r->n_fed - e->runner.rollback)
            continue;
        int64_t common = common_tokens(&fed, j);
        if (common > *n && common >= r->n_fed - e->runner.rollback) {
            *n = common;
            best = r;
        }
    }
    return best;
}

/* The complete pages of the running one are shared, the last one is copied. */
static bool fork_running(struct engine *e, struct job *j, const struct job *from, int64_t n)
{
    if (from->n_fed % CACHE_PAGE != 0 && e->runner.pages_free(e->runner.self) == 0)
        cache_evict_page(&e->cache);
    struct kv_seq *seq = copy_of(e, from->seq, from->node);
    return seq != NULL && stand_at(e, j, seq, from->node, n);
}

/* ---------------------------------------------------------------- keeping */

/* To the disk tier. The same tokens again, if they are whole pages, start a page before their end. */
static void offer(struct engine *e, const struct job *j)
{
    if (j->node != CACHE_NONE && j->n_fed % CACHE_PAGE == 0)
        tier_offer(e, e->cache.nodes[j->node].parent);
    tier_offer(e, j->node);
}

static void put_kept(struct engine *e, struct kv_seq *seq, const struct job *j)
{
    if (e->n_kept == e->max_kept)
        state_drop_kept(e);
    e->users.list[j->user].n_refs++;
    cache_touch(&e->cache, j->node);
    struct kept *k = &e->kept[e->n_kept++];
    *k = (struct kept){seq, k->tokens, j->user, j->node, ++e->cache.clock};
    assert((size_t)j->n_fed <= k->tokens.cap);
    memcpy(k->tokens.data, j->tokens.data, (size_t)j->n_fed * sizeof *k->tokens.data);
    k->tokens.n = (size_t)j->n_fed;
}

static bool is_kept(struct engine *e, const struct job *j)
{
    for (int i = 0; i < e->n_kept; i++) {
        struct kept *k = &e->kept[i];
        if ((int64_t)k->tokens.n == j->n_fed && k->user == j->user &&
            memcmp(k->tokens.data, j->tokens.data, k->tokens.n * sizeof *k->tokens.data) == 0) {
            k->last_use = ++e->cache.clock;
            return true;
        }
    }
    return false;
}

void state_keep_prompt(struct engine *e, const struct job *j)
{
    offer(e, j);
    if (e->max_kept == 0 || is_kept(e, j))
        return;
    struct kv_seq *seq = copy_of(e, j->seq, j->node);
    if (seq == NULL)
        return;
    put_kept(e, seq, j);
}

void state_keep(struct engine *e, struct job *j)
{
    if (j->seq == NULL)
        return;
    assert(j->n_fed <= (int64_t)j->tokens.n);
    if (e->max_kept == 0 || j->n_fed == 0 || is_kept(e, j)) {
        state_drop(e, j);
        return;
    }
    offer(e, j);
    put_kept(e, j->seq, j);
    j->seq = NULL;
    j->node = CACHE_NONE;
}

/* ---------------------------------------------------------------- jobs */

void state_hash(struct job *j)
{
    int64_t n = (int64_t)j->tokens.n / CACHE_PAGE;
    assert(n <= j->cap_hashes);
    for (; j->n_hashes < n; j->n_hashes++) {
        uint64_t before = j->n_hashes == 0 ? cache_seed(j->user) : j->hashes[j->n_hashes - 1];
        j->hashes[j->n_hashes] = cache_hash(before, j->tokens.data + j->n_hashes * CACHE_PAGE);
    }
}

static void pin_prefix(struct engine *e, const struct job *j)
{
    int64_t depth = j->pin_tokens / CACHE_PAGE;
    int32_t i = j->node;
    while (i != CACHE_NONE && e->cache.nodes[i].depth > depth)
        i = e->cache.nodes[i].parent;
    if (i != CACHE_NONE && e->cache.nodes[i].depth == depth)
        cache_pin(&e->cache, i);
}

static int resume(struct engine *e, struct job *j, int32_t node, struct err *err)
{
    const struct cache_node *n = &e->cache.nodes[node];
    cache_pages(&e->cache, node, e->path);
    int rc = e->runner.seq_resume(e->runner.self, j->seq, e->path, n->depth, n->tail, err);
    if (rc != HD_OK)
        return rc;
    cache_enter(&e->cache, node);
    cache_touch(&e->cache, node);
    j->node = node;
    j->n_fed = (int64_t)n->depth * CACHE_PAGE;
    return HD_OK;
}

static int64_t tokens_at(const struct engine *e, int32_t node)
{
    return node == CACHE_NONE ? 0 : (int64_t)e->cache.nodes[node].depth * CACHE_PAGE;
}

int64_t state_have(struct engine *e, struct job *j)
{
    int64_t n_kept, differs_at = -1;
    kept_find(e, j, &n_kept, &differs_at);
    struct cache_hit hit = cache_find(&e->cache, j->user, j->tokens.data, (int64_t)j->tokens.n - 1, j->hashes);
    int64_t n_hit = tokens_at(e, hit.node), n_running;
    state_running(e, j, &n_running);
    n_hit = n_hit > n_running ? n_hit : n_running;
    return n_hit > n_kept ? n_hit : n_kept;
}

/* What is known of its tokens, told and remembered, and the best way to go on, but for the cache's. */
static bool take_copy(struct engine *e, struct job *j)
{
    int64_t n_kept, n_running, differs_at = -1, most = (int64_t)j->tokens.n - 1;
    int i = kept_find(e, j, &n_kept, &differs_at);
    const struct job *from = state_running(e, j, &n_running);
    struct cache_hit hit = cache_find(&e->cache, j->user, j->tokens.data, most, j->hashes);
    differs_at = hit.differs_at > differs_at ? hit.differs_at : differs_at;
    if (n_running > 0 && n_running > differs_at)
        differs_at = n_running;
    if (!j->put_back)
        generation_usage(j->gen)->differs_at = differs_at;
    j->match_depth = hit.deepest == CACHE_NONE ? 0 : e->cache.nodes[hit.deepest].depth;
    int64_t n_hit = tokens_at(e, hit.node);
    if (from != NULL && n_running >= n_kept && n_running >= n_hit)
        return fork_running(e, j, from, n_running);
    return i >= 0 && n_kept >= n_hit && kept_use(e, j, i, n_kept);
}

int state_take(struct engine *e, struct job *j, struct err *err)
{
    state_hash(j);
    j->next_is_shared = false;
    if (!take_copy(e, j)) { /* and it may have evicted what was found */
        int64_t most = (int64_t)j->tokens.n - 1;
        int32_t node = cache_find(&e->cache, j->user, j->tokens.data, most, j->hashes).node;
        j->node = CACHE_NONE;
        j->n_fed = 0;
        int rc = get_seq(e, &j->seq, err);
        if (rc == HD_OK && node != CACHE_NONE)
            rc = resume(e, j, node, err);
        if (rc != HD_OK)
            return rc;
    }
    pin_prefix(e, j);
    return HD_OK;
}

void state_pass(struct engine *e, struct job *j, const int32_t *tails)
{
    if (!engine_shares(e))
        return;
    state_hash(j);
    int64_t d = j->node == CACHE_NONE ? 0 : e->cache.nodes[j->node].depth;
    for (int k = 0; d < j->n_fed / CACHE_PAGE; d++, k++) {
        j->node = cache_step_down(&e->cache, j->user, j->node, j->hashes[d], j->tokens.data + d * CACHE_PAGE,
                                  e->runner.seq_page(e->runner.self, j->seq, d), tails[k]);
        if (d + 1 == j->pin_tokens / CACHE_PAGE)
            cache_pin(&e->cache, j->node);
    }
}

void state_drop(struct engine *e, struct job *j)
{
    if (j->seq == NULL)
        return;
    cache_touch(&e->cache, j->node);
    offer(e, j);
    cache_leave(&e->cache, j->node);
    j->node = CACHE_NONE;
    put_seq(e, &j->seq);
}

void states_reserve(struct engine *e)
{
    while (e->runner.seq_clear != NULL && e->n_idle < e->cap_idle) {
        struct kv_seq **s = &e->idle_seqs[e->n_idle];
        if (e->runner.seq_open(e->runner.self, s, e->env.context_tokens, NULL) != HD_OK)
            return; /* fewer requests run at a time, or fewer states are kept */
        e->n_idle++;
    }
}

void states_free(struct engine *e)
{
    while (state_drop_kept(e))
        ;
    for (int i = 0; i < e->max_kept; i++)
        ids_free(&e->kept[i].tokens);
    while (e->n_idle > 0)
        e->runner.seq_close(e->runner.self, &e->idle_seqs[--e->n_idle]);
    if (engine_shares(e))
        cache_close(&e->cache);
    free(e->idle_seqs);
    free(e->kept);
    users_free(&e->users);
}

void gen_usage_explain(const struct gen_usage *u, char *out, size_t n)
{
    int64_t could = u->differs_at / CACHE_PAGE * CACHE_PAGE;
    if (u->reused_tokens >= u->prompt_tokens - 1)
        snprintf(out, n, "all of the prompt was known");
    else if (u->differs_at < 0)
        snprintf(out, n, "no state of this user is kept");
    else if (u->reused_tokens < could)
        snprintf(out, n, "first differing token at position %" PRId64 "; the state before position %" PRId64
                 " was evicted", u->differs_at, could);
    else
        snprintf(out, n, "first differing token at position %" PRId64, u->differs_at);
}
