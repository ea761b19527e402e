/* Byte-pair merging: of all neighbouring pairs that a rule merges, the one of lowest rank goes first, the leftmost among
 * equals. A linked list of symbols and a queue of candidate pairs keep it near linear for a piece of any length. */
#include "text/tokenizer_impl.h"

#include <stdlib.h>
#include <string.h>

/* ---------------------------------------------------------------- the table of rules */

static uint64_t pair_key(int32_t left, int32_t right)
{
    return (uint64_t)(uint32_t)left << 32 | (uint32_t)right;
}

/* The slot that holds the pair or the empty one where it would go. */
static struct merge *merge_slot(const struct merges *m, uint64_t pair)
{
    size_t i = (size_t)mix64(pair) & m->mask;
    while (m->slots[i].pair != pair && m->slots[i].pair != MERGE_NONE)
        i = (i + 1) & m->mask;
    return &m->slots[i];
}

static void merges_grow(struct merges *m)
{
    struct merges old = *m;
    size_t n_old = old.slots != NULL ? old.mask + 1 : 0;
    size_t size = n_old != 0 ? n_old * 2 : 1024;
    m->slots = xcalloc(size, sizeof *m->slots);
    m->mask = size - 1;
    for (size_t i = 0; i < size; i++)
        m->slots[i].pair = MERGE_NONE;
    for (size_t i = 0; i < n_old; i++)
        if (old.slots[i].pair != MERGE_NONE)
            *merge_slot(m, old.slots[i].pair) = old.slots[i];
    free(old.slots);
}

void merges_put(struct merges *m, int32_t left, int32_t right, int32_t rank, int32_t id)
{
    if (m->slots == NULL || m->n * 2 > m->mask)
        merges_grow(m);
    struct merge *slot = merge_slot(m, pair_key(left, right));
    if (slot->pair == MERGE_NONE)
        m->n++;
    *slot = (struct merge){pair_key(left, right), rank, id};
    if ((size_t)rank >= m->n_ranks)
        m->n_ranks = (size_t)rank + 1;
}

const struct merge *merges_find(const struct merges *m, int32_t left, int32_t right)
{
    if (m->slots == NULL)
        return NULL;
    const struct merge *slot = merge_slot(m, pair_key(left, right));
    return slot->pair != MERGE_NONE ? slot : NULL;
}

void merges_free(struct merges *m)
{
    free(m->slots);
}

/* ---------------------------------------------------------------- symbols and candidates */

#define NODE_END UINT32_MAX
/* Pieces longer than this queue by rank: measured, the two ways cost the same at about this length. */
enum { LONG_PIECE_BYTES = 4096 };

struct bpe_node {
    int32_t id; /* -1: merged into the node before */
    uint32_t prev, next;
};

void bpe_work_free(struct bpe_work *w)
{
    free(w->nodes);
    queue_free(&w->queue);
}

/* The rule for the symbol at `at` and its right neighbour. */
static const struct merge *merge_at(const struct merges *m, const struct bpe_work *w, uint32_t at)
{
    const struct bpe_node *node = &w->nodes[at];
    if (node->id < 0 || node->next == NODE_END)
        return NULL;
    return merges_find(m, node->id, w->nodes[node->next].id);
}

static int candidate_push(const struct merges *m, struct bpe_work *w, uint32_t at)
{
    const struct merge *rule = merge_at(m, w, at);
    return rule == NULL ? HD_OK : queue_push(&w->queue, (uint32_t)rule->rank, at);
}

static int nodes_fill(const struct tokenizer *t, struct bpe_work *w, const char *piece, size_t n)
{
    if (n > w->cap_nodes) {
        struct bpe_node *nodes = realloc(w->nodes, n * sizeof *nodes);
        if (nodes == NULL)
            return HD_ENOMEM;
        w->nodes = nodes;
        w->cap_nodes = n;
    }
    for (uint32_t i = 0; i < n; i++)
        w->nodes[i] = (struct bpe_node){t->vocab.byte_id[(unsigned char)piece[i]], i - 1, i + 1};
    w->nodes[0].prev = NODE_END;
    w->nodes[n - 1].next = NODE_END;
    if (queue_start(&w->queue, n > LONG_PIECE_BYTES, t->merges.n_ranks) != HD_OK)
        return HD_ENOMEM;
    for (uint32_t i = 0; i + 1 < n; i++)
        if (candidate_push(&t->merges, w, i) != HD_OK)
            return HD_ENOMEM;
    return HD_OK;
}

/* Joins the symbol at `at` with its right neighbour and offers the two new pairs. */
static int node_merge(const struct merges *m, struct bpe_work *w, uint32_t at, int32_t id)
{
    struct bpe_node *node = &w->nodes[at];
    struct bpe_node *gone = &w->nodes[node->next];
    node->id = id;
    node->next = gone->next;
    gone->id = -1;
    if (node->next != NODE_END)
        w->nodes[node->next].prev = at;
    if (candidate_push(m, w, at) != HD_OK)
        return HD_ENOMEM;
    return node->prev == NODE_END ? HD_OK : candidate_push(m, w, node->prev);
}

static int piece_merge(const struct tokenizer *t, struct bpe_work *w, const char *piece, size_t n, struct ids *out)
{
    if (nodes_fill(t, w, piece, n) != HD_OK)
        return HD_ENOMEM;
    uint32_t rank, at;
    int rc;
    while ((rc = queue_pop(&w->queue, &rank, &at)) == 1) {
        /* Stale when a neighbour changed since: the pair of today then has another rank or none. */
        const struct merge *rule = merge_at(&t->merges, w, at);
        if (rule != NULL && (uint32_t)rule->rank == rank && node_merge(&t->merges, w, at, rule->id) != HD_OK)
            return HD_ENOMEM;
    }
    if (rc != 0)
        return rc;
    for (uint32_t i = 0; i != NODE_END; i = w->nodes[i].next)
        ids_add(out, w->nodes[i].id);
    return HD_OK;
}

int bpe_encode(const struct tokenizer *t, struct bpe_work *w, const char *piece, size_t n, struct ids *out,
               struct err *e)
{
    int32_t id = vocab_find(&t->vocab, piece, n);
    unsigned char whole = WHOLE_NO;
    if (id >= 0)
        whole = t->ignore_merges ? WHOLE_YES : atomic_load_explicit(&t->whole[id], memory_order_relaxed);
    if (whole == WHOLE_YES) {
        ids_add(out, id);
        return HD_OK;
    }
    size_t start = out->n;
    if (piece_merge(t, w, piece, n, out) != HD_OK)
        return err_set(e, HD_ENOMEM, "tokenizer: no memory to merge a word of %zu bytes", n);
    if (whole == WHOLE_UNKNOWN)
        atomic_store_explicit(&t->whole[id], out->n - start == 1 ? WHOLE_YES : WHOLE_NO, memory_order_relaxed);
    return HD_OK;
}
