#include "engine/cache.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

/* ---------------------------------------------------------------- opening, closing, hashing */

void cache_open(struct cache *c, const struct runner *r)
{
    int32_t n = (int32_t)r->pages_total;
    uint64_t buckets = 16;
    while (buckets < 2 * (uint64_t)n)
        buckets *= 2;
    *c = (struct cache){.runner = *r, .n_nodes = n, .n_free = n, .mask = buckets - 1};
    c->nodes = xcalloc((size_t)n, sizeof *c->nodes);
    c->tokens = xcalloc((size_t)n * CACHE_PAGE, sizeof *c->tokens);
    c->free_list = xcalloc((size_t)n, sizeof *c->free_list);
    c->bucket = xcalloc(buckets, sizeof *c->bucket);
    memset(c->bucket, 0xff, buckets * sizeof *c->bucket);
    heap_open(&c->leaves, n);
    heap_open(&c->spare_tails, n);
    for (int32_t i = 0; i < n; i++)
        c->free_list[i] = n - 1 - i;
}

void cache_close(struct cache *c)
{
    while (cache_evict_page(c))
        ;
    assert(c->n_free == c->n_nodes);
    free(c->nodes);
    free(c->tokens);
    free(c->bucket);
    free(c->free_list);
    free(c->roots);
    heap_free(&c->leaves);
    heap_free(&c->spare_tails);
    *c = (struct cache){0};
}

uint64_t cache_bytes(const struct cache *c)
{
    uint64_t node = sizeof *c->nodes + CACHE_PAGE * sizeof *c->tokens + sizeof *c->free_list;
    return (uint64_t)c->n_nodes * node + (c->mask + 1) * sizeof *c->bucket + (uint64_t)c->n_roots * sizeof *c->roots +
           heap_bytes(&c->leaves, c->n_nodes) + heap_bytes(&c->spare_tails, c->n_nodes);
}

uint64_t cache_seed(int32_t user)
{
    return mix64((uint64_t)user + 1);
}

uint64_t cache_hash(uint64_t before, const int32_t *page_tokens)
{
    return XXH64(page_tokens, CACHE_PAGE * sizeof *page_tokens, before);
}

/* ---------------------------------------------------------------- finding */

static const int32_t *tokens_of(const struct cache *c, int32_t node)
{
    return c->tokens + (size_t)node * CACHE_PAGE;
}

int32_t cache_child(const struct cache *c, int32_t user, int32_t parent, uint64_t hash, const int32_t *tokens)
{
    for (int32_t i = c->bucket[hash & c->mask]; i != CACHE_NONE; i = c->nodes[i].hash_next) {
        const struct cache_node *n = &c->nodes[i];
        if (n->hash == hash && n->user == user && n->parent == parent &&
            memcmp(tokens_of(c, i), tokens, CACHE_PAGE * sizeof *tokens) == 0)
            return i;
    }
    return CACHE_NONE;
}

static int32_t first_child(const struct cache *c, int32_t user, int32_t node)
{
    if (node != CACHE_NONE)
        return c->nodes[node].child;
    return user < c->n_roots ? c->roots[user] : CACHE_NONE;
}

/* How many of the tokens after `node` the best of its children has. */
static int64_t common_below(const struct cache *c, int32_t user, int32_t node, const int32_t *tokens, int64_t n)
{
    int64_t best = 0;
    n = n < CACHE_PAGE ? n : CACHE_PAGE;
    for (int32_t i = first_child(c, user, node); i != CACHE_NONE; i = c->nodes[i].next) {
        int64_t k = 0;
        while (k < n && tokens_of(c, i)[k] == tokens[k])
            k++;
        best = k > best ? k : best;
    }
    return best;
}

struct cache_hit cache_find(const struct cache *c, int32_t user, const int32_t *tokens, int64_t n,
                            const uint64_t *hashes)
{
    struct cache_hit hit = {.deepest = CACHE_NONE, .node = CACHE_NONE, .differs_at = -1};
    int64_t at = 0;
    if (first_child(c, user, CACHE_NONE) == CACHE_NONE)
        return hit;
    for (; at + CACHE_PAGE <= n; at += CACHE_PAGE) {
        int32_t next = cache_child(c, user, hit.deepest, hashes[at / CACHE_PAGE], tokens + at);
        if (next == CACHE_NONE)
            break;
        hit.deepest = next;
        if (c->nodes[next].tail != CACHE_NONE)
            hit.node = next;
    }
    hit.differs_at = at + common_below(c, user, hit.deepest, tokens + at, n - at);
    return hit;
}

void cache_pages(const struct cache *c, int32_t node, int32_t *out)
{
    for (; node != CACHE_NONE; node = c->nodes[node].parent)
        out[c->nodes[node].depth - 1] = c->nodes[node].page;
}

/* ---------------------------------------------------------------- what goes first */

static uint64_t leaf_key(const void *cache, int32_t i)
{
    const struct cache_node *n = &((const struct cache *)cache)->nodes[i];
    return (uint64_t)n->pinned << 63 | n->last_use;
}

static void weigh_leaf(struct cache *c, int32_t i)
{
    if (c->nodes[i].n_children == 0 && c->nodes[i].n_active == 0)
        heap_put(&c->leaves, i, leaf_key(c, i));
    else
        heap_drop(&c->leaves, i);
}

/* What a tail is worth: where branches part and where chains end hits are likely; inside a chain the deeper a power of
 * two divides the depth the longer it stays, so that a thinned chain keeps points to go on from all along. */
static uint64_t tail_key(const void *cache, int32_t i)
{
    const struct cache_node *n = &((const struct cache *)cache)->nodes[i];
    uint64_t class = n->n_children == 1 ? 0 : n->n_children > 1 ? 1 : 2;
    uint64_t evenness = class == 0 ? (uint64_t)__builtin_ctz((unsigned)n->depth) : 0;
    return class << 62 | evenness << 56 | n->last_use;
}

static void weigh_tail(struct cache *c, int32_t i)
{
    if (c->nodes[i].tail != CACHE_NONE && !c->nodes[i].pinned)
        heap_put(&c->spare_tails, i, tail_key(c, i));
    else
        heap_drop(&c->spare_tails, i);
}

/* After its children, its state or its tail became others. */
static void weigh(struct cache *c, int32_t i)
{
    weigh_leaf(c, i);
    weigh_tail(c, i);
}

/* ---------------------------------------------------------------- standing on nodes */

static void stand_on(struct cache *c, int32_t i)
{
    if (c->nodes[i].n_active++ > 0)
        return;
    c->n_inactive--;
    heap_drop(&c->leaves, i);
}

static void stand_off(struct cache *c, int32_t i)
{
    if (--c->nodes[i].n_active > 0)
        return;
    c->n_inactive++;
    weigh_leaf(c, i);
}

int64_t cache_inactive_on_path(const struct cache *c, int32_t node)
{
    int64_t n = 0;
    for (; node != CACHE_NONE && c->nodes[node].n_active == 0; node = c->nodes[node].parent)
        n++;
    return n; /* above an active node all are active */
}

void cache_enter(struct cache *c, int32_t node)
{
    for (; node != CACHE_NONE; node = c->nodes[node].parent)
        stand_on(c, node);
}

void cache_leave(struct cache *c, int32_t node)
{
    for (; node != CACHE_NONE; node = c->nodes[node].parent)
        stand_off(c, node);
}

void cache_touch(struct cache *c, int32_t node)
{
    uint64_t now = ++c->clock;
    for (; node != CACHE_NONE; node = c->nodes[node].parent)
        c->nodes[node].last_use = now;
}

int32_t cache_step_up(struct cache *c, int32_t node)
{
    stand_off(c, node);
    return c->nodes[node].parent;
}

/* ---------------------------------------------------------------- adding and removing */

void cache_reserve_users(struct cache *c, int32_t n)
{
    if (n <= c->n_roots)
        return;
    c->roots = xrealloc(c->roots, (size_t)n * sizeof *c->roots);
    while (c->n_roots < n)
        c->roots[c->n_roots++] = CACHE_NONE;
}

static int32_t *head_of(struct cache *c, int32_t user, int32_t parent)
{
    if (parent != CACHE_NONE)
        return &c->nodes[parent].child;
    cache_reserve_users(c, user + 1);
    return &c->roots[user];
}

static int32_t add_node(struct cache *c, int32_t user, int32_t parent, uint64_t hash, const int32_t *tokens)
{
    assert(c->n_free > 0); /* as many nodes as pages, and each holds another page */
    int32_t i = c->free_list[--c->n_free], *head = head_of(c, user, parent);
    c->nodes[i] = (struct cache_node){.parent = parent, .child = CACHE_NONE, .next = *head, .prev = CACHE_NONE,
                                      .user = user, .tail = CACHE_NONE, .hash = hash, .used = true,
                                      .depth = parent == CACHE_NONE ? 1 : c->nodes[parent].depth + 1,
                                      .hash_next = c->bucket[hash & c->mask]};
    if (*head != CACHE_NONE)
        c->nodes[*head].prev = i;
    *head = i;
    c->bucket[hash & c->mask] = i;
    if (parent != CACHE_NONE) {
        c->nodes[parent].n_children++;
        weigh(c, parent);
    }
    memcpy(c->tokens + (size_t)i * CACHE_PAGE, tokens, CACHE_PAGE * sizeof *tokens);
    c->n_inactive++;
    return i;
}

int32_t cache_step_down(struct cache *c, int32_t user, int32_t parent, uint64_t hash, const int32_t *tokens,
                        int32_t page, int32_t tail)
{
    int32_t i = cache_child(c, user, parent, hash, tokens);
    if (i == CACHE_NONE) {
        i = add_node(c, user, parent, hash, tokens);
        c->runner.page_ref(c->runner.self, page);
        c->nodes[i].page = page;
    }
    c->nodes[i].last_use = ++c->clock;
    stand_on(c, i);
    cache_put_tail(c, i, tail);
    return i;
}

void cache_put_tail(struct cache *c, int32_t node, int32_t tail)
{
    struct cache_node *n = &c->nodes[node];
    if (n->tail == CACHE_NONE) {
        n->tail = tail;
        c->n_tails += tail != CACHE_NONE;
    } else if (tail != CACHE_NONE) {
        c->runner.tail_give(c->runner.self, tail);
    }
    weigh_tail(c, node);
}

void cache_replace_page(struct cache *c, int32_t node, int32_t page)
{
    int32_t old = c->nodes[node].page;
    if (old == page)
        return;
    c->runner.page_ref(c->runner.self, page);
    c->runner.page_unref(c->runner.self, old);
    c->nodes[node].page = page;
}

void cache_pin(struct cache *c, int32_t node)
{
    for (; node != CACHE_NONE && !c->nodes[node].pinned && c->n_pinned < c->n_nodes / 2; node = c->nodes[node].parent) {
        c->nodes[node].pinned = true;
        c->n_pinned++;
        weigh(c, node);
    }
}

static void remove_from_bucket(struct cache *c, int32_t i)
{
    int32_t *p = &c->bucket[c->nodes[i].hash & c->mask];
    while (*p != i)
        p = &c->nodes[*p].hash_next;
    *p = c->nodes[i].hash_next;
}

static void remove_node(struct cache *c, int32_t i)
{
    struct cache_node *n = &c->nodes[i];
    assert(n->n_children == 0 && n->n_active == 0);
    remove_from_bucket(c, i);
    *(n->prev == CACHE_NONE ? head_of(c, n->user, n->parent) : &c->nodes[n->prev].next) = n->next;
    if (n->next != CACHE_NONE)
        c->nodes[n->next].prev = n->prev;
    if (n->parent != CACHE_NONE) {
        c->nodes[n->parent].n_children--;
        weigh(c, n->parent);
    }
    heap_drop(&c->leaves, i);
    heap_drop(&c->spare_tails, i);
    if (n->tail != CACHE_NONE)
        c->runner.tail_give(c->runner.self, n->tail);
    c->runner.page_unref(c->runner.self, n->page);
    c->n_inactive--;
    c->n_pinned -= n->pinned;
    c->n_tails -= n->tail != CACHE_NONE;
    *n = (struct cache_node){0};
    c->free_list[c->n_free++] = i;
}

/* ---------------------------------------------------------------- eviction */

bool cache_evict_page(struct cache *c)
{
    int32_t i = heap_top(&c->leaves, leaf_key, c);
    if (i == HEAP_NONE)
        return false;
    if (c->leaving != NULL)
        c->leaving(c->leaving_arg, i, false);
    remove_node(c, i);
    c->n_evicted++;
    return true;
}

uint64_t cache_oldest_use(struct cache *c)
{
    int32_t i = heap_top(&c->leaves, leaf_key, c);
    return i == HEAP_NONE ? UINT64_MAX : c->nodes[i].last_use;
}

int32_t cache_take_tail(struct cache *c, bool evict)
{
    int32_t tail = c->runner.tail_take(c->runner.self);
    if (tail >= 0 || !evict)
        return tail >= 0 ? tail : CACHE_NONE;
    int32_t best = heap_top(&c->spare_tails, tail_key, c);
    if (best == HEAP_NONE)
        return CACHE_NONE;
    if (c->leaving != NULL)
        c->leaving(c->leaving_arg, best, true);
    tail = c->nodes[best].tail;
    c->nodes[best].tail = CACHE_NONE;
    heap_drop(&c->spare_tails, best);
    c->n_tails--;
    c->n_tails_evicted++;
    return tail;
}

/* ---------------------------------------------------------------- checks */

static void check_node(const struct cache *c, int32_t i)
{
    const struct cache_node *n = &c->nodes[i];
    int32_t n_children = 0, n_active = 0;
    for (int32_t k = n->child; k != CACHE_NONE; k = c->nodes[k].next, n_children++) {
        assert(c->nodes[k].used && c->nodes[k].parent == i && c->nodes[k].depth == n->depth + 1);
        assert(c->nodes[k].user == n->user);
        n_active += c->nodes[k].n_active;
    }
    assert(n->n_children == n_children && n->n_active >= n_active);
    assert((c->leaves.place[i] > 0) == (n_children == 0 && n->n_active == 0));
    assert((c->spare_tails.place[i] > 0) == (n->tail != CACHE_NONE && !n->pinned));
    assert(cache_child(c, n->user, n->parent, n->hash, tokens_of(c, i)) == i);
    uint64_t before = n->parent == CACHE_NONE ? cache_seed(n->user) : c->nodes[n->parent].hash;
    assert(n->hash == cache_hash(before, tokens_of(c, i)));
}

void cache_check(const struct cache *c)
{
    int32_t n_used = 0, n_inactive = 0, n_pinned = 0, n_tails = 0;
    for (int32_t i = 0; i < c->n_nodes; i++) {
        if (!c->nodes[i].used)
            continue;
        n_used++;
        n_inactive += c->nodes[i].n_active == 0;
        n_pinned += c->nodes[i].pinned;
        n_tails += c->nodes[i].tail != CACHE_NONE;
        check_node(c, i);
    }
    assert(n_used + c->n_free == c->n_nodes);
    assert(n_inactive == c->n_inactive && n_pinned == c->n_pinned && n_tails == c->n_tails);
}
