#include "engine/tier.h"
#include "engine/job.h"
#include "engine/spill_disk.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#define DISK_BYTES_DEFAULT ((uint64_t)16 << 30)
enum { TAIL_EVERY = 16, TRIES_MAX = 4 };

/* ---------------------------------------------------------------- what a node is the state of */

/* Its key and its parent's must be known. */
static struct spill_place place_of(const struct engine *e, int32_t node)
{
    const struct cache *c = &e->cache;
    const struct cache_node *n = &c->nodes[node];
    const char *user = e->users.list[n->user].name;
    return (struct spill_place){
        .key = e->tier.key[node],
        .parent = n->parent == CACHE_NONE ? spill_key_of_user(user) : e->tier.key[n->parent],
        .depth = n->depth,
        .user = user,
        .tokens = c->tokens + (size_t)node * CACHE_PAGE,
    };
}

/* Where conversations end or part, and now and then between. */
static bool tail_is_worth_it(const struct engine *e, int32_t node)
{
    const struct cache_node *n = &e->cache.nodes[node];
    return n->tail != CACHE_NONE &&
           (e->tier.wants_tail[node] || n->n_children != 1 || n->pinned || n->depth % TAIL_EVERY == 0);
}

/* ---------------------------------------------------------------- to the disk */

static void enqueue(struct tier *t, int32_t node)
{
    if (t->queued[node])
        return;
    t->queued[node] = true;
    t->next[node] = CACHE_NONE;
    t->before[node] = t->last;
    *(t->last == CACHE_NONE ? &t->first : &t->next[t->last]) = node;
    t->last = node;
}

static void unqueue(struct tier *t, int32_t node)
{
    if (!t->queued[node])
        return;
    t->queued[node] = false;
    *(t->before[node] == CACHE_NONE ? &t->first : &t->next[t->before[node]]) = t->next[node];
    *(t->next[node] == CACHE_NONE ? &t->last : &t->before[t->next[node]]) = t->before[node];
}

static bool is_named(const struct tier *t, int32_t node)
{
    return t->key[node].low != 0 || t->key[node].high != 0;
}

/* Keys of the nodes up to this one. They stay until the node goes. */
static void name_path(struct engine *e, int32_t node)
{
    int64_t n = 0;
    int32_t top = node;
    for (; top != CACHE_NONE && !is_named(&e->tier, top); top = e->cache.nodes[top].parent)
        e->path[n++] = top;
    struct spill_key key = top != CACHE_NONE ? e->tier.key[top]
                                             : spill_key_of_user(e->users.list[e->cache.nodes[node].user].name);
    while (n > 0) {
        int32_t i = e->path[--n];
        e->tier.key[i] = key = spill_key_next(key, e->cache.tokens + (size_t)i * CACHE_PAGE);
    }
}

void tier_offer(struct engine *e, int32_t node)
{
    struct tier *t = &e->tier;
    if (t->spill == NULL || node == CACHE_NONE)
        return;
    int64_t n = 0;
    name_path(e, node);
    for (int32_t i = node; i != CACHE_NONE; i = e->cache.nodes[i].parent)
        e->path[n++] = i;
    while (n > 0) { /* parents first: they are saved before what builds on them */
        int32_t i = e->path[--n];
        spill_touch(t->spill, t->key[i]);
        t->wants_tail[i] = i == node || tail_is_worth_it(e, i);
        if (spill_takes(t->spill, t->key[i], SPILL_PAGE) ||
            (tail_is_worth_it(e, i) && spill_takes(t->spill, t->key[i], SPILL_TAIL)))
            enqueue(t, i);
    }
}

static enum spill_answer save(struct engine *e, int32_t node, enum spill_kind kind)
{
    struct spill_place p = place_of(e, node);
    if (!spill_takes(e->tier.spill, p.key, kind))
        return SPILL_TAKEN;
    const struct cache_node *n = &e->cache.nodes[node];
    const void *data = kind == SPILL_PAGE ? e->runner.page_at(e->runner.self, n->page)
                                          : e->runner.tail_at(e->runner.self, n->tail);
    return spill_save(e->tier.spill, &p, kind, data);
}

static enum spill_answer save_node(struct engine *e, int32_t node)
{
    enum spill_answer a = save(e, node, SPILL_PAGE);
    return a == SPILL_TAKEN && tail_is_worth_it(e, node) ? save(e, node, SPILL_TAIL) : a;
}

void tier_send(struct engine *e)
{
    struct tier *t = &e->tier;
    while (t->spill != NULL && t->first != CACHE_NONE) {
        if (save_node(e, t->first) == SPILL_BUSY)
            return;
        unqueue(t, t->first); /* when the disk refuses: it will be offered again, or evicted */
    }
}

/* The last chance of a page, or of a tail that another node gets. */
static void on_leaving(void *engine, int32_t node, bool tail_only)
{
    struct engine *e = engine;
    struct tier *t = &e->tier;
    if (t->spill == NULL || (tail_only && !tail_is_worth_it(e, node)))
        return;
    name_path(e, node);
    if ((tail_only ? save(e, node, SPILL_TAIL) : save_node(e, node)) != SPILL_TAKEN)
        t->n_dropped++;
    if (tail_only)
        return;
    unqueue(t, node);
    t->wants_tail[node] = false;
    t->key[node] = (struct spill_key){0, 0};
}

/* ---------------------------------------------------------------- from the disk */

/* False: no memory; then nothing is looked for. */
static bool name_job(const struct engine *e, struct job *j, int64_t n)
{
    struct spill_key key = spill_key_of_user(e->users.list[j->user].name);
    j->load.keys = calloc((size_t)n, sizeof *j->load.keys);
    if (j->load.keys == NULL)
        return false;
    j->load.n_keys = n;
    for (int64_t i = 0; i < n; i++)
        j->load.keys[i] = key = spill_key_next(key, j->tokens.data + i * CACHE_PAGE);
    return true;
}

/* The deepest page end at which the disk has a tail and all pages are in memory (in_memory of them) or on disk. */
static int64_t depth_on_disk(const struct engine *e, const struct job *j, int64_t in_memory)
{
    int64_t deepest = 0;
    for (int64_t i = 0; i < j->load.n_keys; i++) {
        if (i >= in_memory && !spill_has(e->tier.spill, j->load.keys[i], SPILL_PAGE))
            break;
        if (spill_has(e->tier.spill, j->load.keys[i], SPILL_TAIL))
            deepest = i + 1;
    }
    return deepest;
}

static struct spill_place place_of_page(const struct engine *e, const struct job *j, int64_t i)
{
    const char *user = e->users.list[j->user].name;
    return (struct spill_place){j->load.keys[i], i == 0 ? spill_key_of_user(user) : j->load.keys[i - 1],
                                (int32_t)(i + 1), user, j->tokens.data + i * CACHE_PAGE};
}

bool tier_begin(struct engine *e, struct job *j)
{
    struct tier_load *l = &j->load;
    int64_t n = ((int64_t)j->tokens.n - 1) / CACHE_PAGE, have = state_have(e, j);
    int n_tries = l->n_tries;
    bool was = l->was;
    if (e->tier.spill == NULL || n == 0 || have / CACHE_PAGE >= n || n_tries == TRIES_MAX ||
        !name_job(e, j, n))
        return false;
    int32_t node = cache_find(&e->cache, j->user, j->tokens.data, n * CACHE_PAGE, j->hashes).deepest;
    int64_t in_memory = node == CACHE_NONE ? 0 : e->cache.nodes[node].depth, target = depth_on_disk(e, j, in_memory);
    if (target * CACHE_PAGE <= have) {
        free(l->keys);
        l->keys = NULL;
        return false;
    }
    while (node != CACHE_NONE && e->cache.nodes[node].depth > target)
        node = e->cache.nodes[node].parent;
    for (int64_t i = target; i > 0; i--)
        spill_touch(e->tier.spill, l->keys[i - 1]);
    int64_t from = in_memory < target ? in_memory : target;
    *l = (struct tier_load){.keys = l->keys, .n_keys = n, .from = from, .depth = from, .asked = from, .target = target,
                            .node = node, .was = was, .n_tries = n_tries + 1};
    cache_enter(&e->cache, node);
    return true;
}

void tier_end(struct engine *e, struct job *j)
{
    struct tier_load *l = &j->load;
    if (l->keys == NULL)
        return;
    spill_forget(e->tier.spill, j);
    cache_leave(&e->cache, l->node);
    free(l->keys);
    *l = (struct tier_load){.was = l->was, .n_tries = l->n_tries};
}

static int32_t take_page(struct engine *e)
{
    int32_t page;
    while ((page = e->runner.page_take(e->runner.self)) < 0)
        if (!state_make_room(e))
            return CACHE_NONE;
    return page;
}

static bool page_came(struct engine *e, struct job *j, const void *data)
{
    struct tier_load *l = &j->load;
    int32_t page = take_page(e);
    if (page == CACHE_NONE)
        return false;
    memcpy(e->runner.page_at(e->runner.self, page), data, (size_t)e->runner.page_bytes);
    l->node = cache_step_down(&e->cache, j->user, l->node, j->hashes[l->depth], j->tokens.data + l->depth * CACHE_PAGE,
                              page, CACHE_NONE);
    e->runner.page_unref(e->runner.self, page); /* the cache has its own reference */
    l->depth++;
    e->tier.n_tokens_loaded += CACHE_PAGE;
    return l->was = true;
}

static bool tail_came(struct engine *e, struct job *j, const void *data)
{
    int32_t tail = cache_take_tail(&e->cache, true);
    if (tail == CACHE_NONE)
        return false;
    memcpy(e->runner.tail_at(e->runner.self, tail), data, (size_t)e->runner.tail_bytes);
    cache_put_tail(&e->cache, j->load.node, tail);
    j->load.tail_came = true;
    return j->load.was = true;
}

static void on_loaded(void *engine, void *job, enum spill_kind kind, bool ok, const void *data)
{
    struct job *j = job;
    struct tier_load *l = &j->load;
    if (l->failed)
        return;
    l->failed = !ok || !(kind == SPILL_PAGE ? page_came(engine, j, data) : tail_came(engine, j, data));
}

/* Asks for what is missing, as far as buffers go. */
static void ask(struct engine *e, struct job *j)
{
    struct tier_load *l = &j->load;
    while (!l->failed && (l->asked < l->target || !l->tail_asked)) {
        bool page = l->asked < l->target;
        struct spill_place p = place_of_page(e, j, page ? l->asked : l->target - 1);
        if (!spill_has(e->tier.spill, p.key, page ? SPILL_PAGE : SPILL_TAIL))
            l->failed = true; /* evicted or found damaged meanwhile */
        else if (!spill_load(e->tier.spill, &p, page ? SPILL_PAGE : SPILL_TAIL, j))
            return;
        else if (page)
            l->asked++;
        else
            l->tail_asked = true;
    }
}

bool tier_ready(struct engine *e, struct job *j)
{
    struct tier_load *l = &j->load;
    ask(e, j);
    if (!l->failed)
        return l->depth == l->target && l->tail_came;
    tier_end(e, j);
    return !tier_begin(e, j); /* what is left may still be longer than what memory has */
}

void tier_receive(struct engine *e)
{
    if (e->tier.spill != NULL)
        spill_poll(e->tier.spill, false);
}

/* ---------------------------------------------------------------- opening and closing */

static void on_wake(void *engine)
{
    struct engine *e = engine;
    pthread_mutex_lock(&e->mutex);
    e->disk_done = true;
    pthread_cond_signal(&e->work);
    pthread_mutex_unlock(&e->mutex);
}

static struct spill_options options_of(struct engine *e, const struct engine_options *o)
{
    return (struct spill_options){
        .dir = o->cache_dir,
        .limit_bytes = o->cache_disk_bytes == 0 ? DISK_BYTES_DEFAULT : o->cache_disk_bytes,
        .fingerprint = e->runner.fingerprint, .page_bytes = e->runner.page_bytes, .tail_bytes = e->runner.tail_bytes,
        .log = o->log, .log_arg = o->log_arg, .wake = on_wake, .wake_arg = e, .loaded = on_loaded, .loaded_arg = e,
        .no_thread = o->cache_disk != NULL, .retry_ns = o->cache_disk != NULL ? 1 : 0,
    };
}

static void free_arrays(struct tier *t)
{
    free(t->key);
    free(t->next);
    free(t->before);
    free(t->queued);
    free(t->wants_tail);
    *t = (struct tier){0};
}

int tier_open(struct engine *e, const struct engine_options *o, struct err *err)
{
    struct tier *t = &e->tier;
    size_t n = (size_t)e->cache.n_nodes;
    if (o->cache_dir == NULL && o->cache_disk == NULL)
        return HD_OK;
    if (!engine_shares(e) || e->runner.page_bytes == 0)
        return err_set(err, HD_EARG, "a disk cache needs the prefix cache");
    *t = (struct tier){.key = calloc(n, sizeof *t->key), .next = calloc(n, sizeof *t->next),
                       .before = calloc(n, sizeof *t->before), .queued = calloc(n, sizeof *t->queued),
                       .wants_tail = calloc(n, sizeof *t->wants_tail),
                       .first = CACHE_NONE, .last = CACHE_NONE};
    int rc = HD_OK;
    if (t->key == NULL || t->next == NULL || t->before == NULL || t->queued == NULL || t->wants_tail == NULL)
        rc = err_set(err, HD_ENOMEM, "no memory for the disk cache");
    struct spill_options so = options_of(e, o);
    if (rc == HD_OK)
        rc = o->cache_disk != NULL ? spill_open_disk(&t->spill, &so, o->cache_disk, err) : spill_open(&t->spill, &so, err);
    if (rc != HD_OK) {
        free_arrays(t);
        return rc;
    }
    e->cache.leaving = on_leaving;
    e->cache.leaving_arg = e;
    return HD_OK;
}

void tier_close(struct engine *e)
{
    struct tier *t = &e->tier;
    if (t->spill == NULL)
        return;
    for (int32_t i = 0; i < e->cache.n_nodes; i++)
        if (e->cache.nodes[i].used && e->cache.nodes[i].n_children == 0)
            tier_offer(e, i);
    for (tier_send(e); t->first != CACHE_NONE; tier_send(e))
        spill_poll(t->spill, true);
    spill_close(&t->spill);
    e->cache.leaving = NULL;
    free_arrays(t);
}
