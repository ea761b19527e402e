/* The prefix cache: which pages of KV state belong to which beginning of a token sequence.
 *
 * Idea: a tree in which a node is one page of 128 tokens after its parent's; the roots are the users, so that nobody can
 * find what another user's request left. A node holds a reference to its page and, where there was room, a tail: the
 * window and compressor state at its end. A sequence can go on from a node that has a tail. Nodes are found by a hash of
 * all tokens up to their end and then compared token by token: a hit is never a guess.
 *
 * A node is active while a sequence that runs or is kept stands on it or below it; only other nodes can be evicted, from
 * the leaves up, least recently used first, pinned ones last. All memory is taken when the cache opens: there are never
 * more nodes than pages. What to evict stands on top of a heap, so a full cache costs no search. Belongs to the step
 * thread. */
#ifndef HADAL_ENGINE_CACHE_H
#define HADAL_ENGINE_CACHE_H

#include "engine/engine.h"
#include "engine/heap.h"

enum { CACHE_PAGE = KV_PAGE_TOKENS, CACHE_NONE = -1 };

struct cache_node {
    int32_t parent; /* CACHE_NONE: the first page of a user */
    int32_t child, next, prev; /* first child; siblings */
    int32_t user, page, tail;  /* tail CACHE_NONE: none is stored */
    int32_t n_children, n_active, depth; /* depth: pages up to its end, 1 for a first page */
    int32_t hash_next;
    bool used, pinned;
    uint64_t hash, last_use;
};

struct cache {
    struct runner runner;
    struct cache_node *nodes;
    int32_t *tokens; /* [n_nodes * CACHE_PAGE] */
    int32_t *bucket; /* first node of a hash, [mask + 1] */
    int32_t *free_list;
    int32_t *roots;  /* first node of each user, grown with the user numbers */
    int32_t n_roots, n_nodes, n_free, n_inactive, n_pinned, n_tails;
    uint64_t mask, clock;
    struct heap leaves; /* that can be evicted, pinned ones last, by last use */
    struct heap spare_tails; /* nodes whose tail may be given to another node, by what it is worth */
    uint64_t n_evicted, n_tails_evicted;
    /* Told before a node goes, or (tail_only) before its tail goes to another one; may be NULL. */
    void (*leaving)(void *arg, int32_t node, bool tail_only);
    void *leaving_arg;
};

/* Over a runner that shares pages. */
void cache_open(struct cache *c, const struct runner *r);
void cache_reserve_users(struct cache *c, int32_t n); /* room for users 0 .. n - 1 */
void cache_close(struct cache *c); /* gives all pages and tails back; nothing may be active */

uint64_t cache_bytes(const struct cache *c); /* what it holds, pages and tails aside */

/* Hash of all tokens up to the end of a page, from that of the page before it (of the first page: cache_seed). */
uint64_t cache_seed(int32_t user);
uint64_t cache_hash(uint64_t before, const int32_t *page_tokens);

struct cache_hit {
    int32_t deepest;    /* last node that the tokens follow, CACHE_NONE: not even the first page */
    int32_t node;       /* last one of them with a tail, CACHE_NONE: start from nothing */
    int64_t differs_at; /* first token that no page of this user has at this place; -1: the user has no pages */
};
/* Looks for n tokens whose page hashes these are (n / CACHE_PAGE of them). Changes nothing. */
struct cache_hit cache_find(const struct cache *c, int32_t user, const int32_t *tokens, int64_t n,
                            const uint64_t *hashes);
/* The node of these tokens after a parent, CACHE_NONE when there is none. */
int32_t cache_child(const struct cache *c, int32_t user, int32_t parent, uint64_t hash, const int32_t *tokens);
/* Pages up to a node, in order, into out [depth]. */
void cache_pages(const struct cache *c, int32_t node, int32_t *out);
/* Nodes up to this one that would become active. */
int64_t cache_inactive_on_path(const struct cache *c, int32_t node);

/* A sequence stands on the node (it and all above become active), or leaves it. CACHE_NONE is allowed. */
void cache_enter(struct cache *c, int32_t node);
void cache_leave(struct cache *c, int32_t node);
void cache_touch(struct cache *c, int32_t node);
/* The sequence on `parent` has completed a page: it steps down to the node of these tokens, which is made when there is
 * none (taking a reference to the page). The tail, if any, belongs to the cache from here. */
int32_t cache_step_down(struct cache *c, int32_t user, int32_t parent, uint64_t hash, const int32_t *tokens,
                        int32_t page, int32_t tail);
/* The sequence on the node goes back to its parent. */
int32_t cache_step_up(struct cache *c, int32_t node);
void cache_replace_page(struct cache *c, int32_t node, int32_t page); /* by another one of the same contents */
void cache_put_tail(struct cache *c, int32_t node, int32_t tail); /* given back when the node has one */
void cache_pin(struct cache *c, int32_t node); /* it and all above, while half of all pages are not pinned */

/* Evicts the least recently used inactive leaf; false when there is none. */
bool cache_evict_page(struct cache *c);
uint64_t cache_oldest_use(struct cache *c); /* of that leaf; UINT64_MAX when there is none */
/* A tail to fill: a free one, or (when `evict`) that of another node: inside chains first, then branches, then leaves,
 * pinned ones never. CACHE_NONE when there is none. */
int32_t cache_take_tail(struct cache *c, bool evict);

/* Asserts that counts, links and references agree (tests). */
void cache_check(const struct cache *c);

#endif
