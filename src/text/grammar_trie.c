/* The vocabulary as a trie of bytes in preorder, and its walk from a state: which tokens may come next. A subtree
 * whose first byte does not fit is skipped as a whole. */
#include "text/grammar_impl.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

enum { TOKEN_BYTES_MAX = 255 };

struct entry {
    const char *bytes;
    size_t n;
    int32_t id;
};

static int compare_entries(const void *a, const void *b)
{
    const struct entry *x = a, *y = b;
    int order = memcmp(x->bytes, y->bytes, x->n < y->n ? x->n : y->n);
    if (order != 0)
        return order;
    return x->n != y->n ? (x->n > y->n) - (x->n < y->n) : (x->id > y->id) - (x->id < y->id);
}

/* Control tokens are no text, and longer tokens than 255 bytes are never needed. */
static size_t collect(const struct tokenizer *t, int n_vocab, struct entry *to, size_t *n_bytes)
{
    size_t n = 0;
    for (int32_t id = 0; id < n_vocab; id++) {
        struct entry e = {.id = id};
        e.bytes = tokenizer_bytes(t, id, &e.n);
        if (e.n == 0 || e.n > TOKEN_BYTES_MAX || tokenizer_is_added(t, id))
            continue;
        *n_bytes += e.n;
        to[n++] = e;
    }
    return n;
}

static void add_nodes(struct vocab_trie *t, const struct entry *e, size_t shared)
{
    for (size_t d = shared; d < e->n; d++) {
        t->byte[t->n_nodes] = (unsigned char)e->bytes[d];
        t->depth[t->n_nodes] = (uint8_t)(d + 1);
        t->token[t->n_nodes++] = -1;
    }
    t->same[e->id] = t->token[t->n_nodes - 1];
    t->token[t->n_nodes - 1] = e->id;
}

/* The node after a node's subtree: the next one that is not deeper. */
static void find_skips(struct vocab_trie *t)
{
    int32_t open[TOKEN_BYTES_MAX + 2];
    int depth = 0;
    for (int32_t i = 0; i < t->n_nodes; i++) {
        while (depth >= t->depth[i])
            t->skip[open[depth--]] = i;
        open[++depth] = i;
    }
    while (depth > 0)
        t->skip[open[depth--]] = t->n_nodes;
}

struct vocab_trie *vocab_trie_open(const struct tokenizer *tokenizer, int n_vocab)
{
    struct vocab_trie *t = xcalloc(1, sizeof *t);
    struct entry *entries = xcalloc((size_t)n_vocab + 1, sizeof *entries);
    size_t n_bytes = 0, n = collect(tokenizer, n_vocab, entries, &n_bytes);
    qsort(entries, n, sizeof *entries, compare_entries);
    t->n_vocab = n_vocab;
    t->byte = xcalloc(n_bytes + 1, 1);
    t->depth = xcalloc(n_bytes + 1, 1);
    t->token = xcalloc(n_bytes + 1, sizeof *t->token);
    t->same = xcalloc((size_t)n_vocab, sizeof *t->same);
    for (size_t i = 0; i < n; i++) {
        size_t shared = 0;
        while (i > 0 && shared < entries[i].n && shared < entries[i - 1].n &&
               entries[i].bytes[shared] == entries[i - 1].bytes[shared])
            shared++;
        add_nodes(t, &entries[i], shared);
    }
    free(entries);
    t->byte = xrealloc(t->byte, (size_t)t->n_nodes + 1);
    t->depth = xrealloc(t->depth, (size_t)t->n_nodes + 1);
    t->token = xrealloc(t->token, ((size_t)t->n_nodes + 1) * sizeof *t->token);
    t->skip = xcalloc((size_t)t->n_nodes + 1, sizeof *t->skip);
    find_skips(t);
    return t;
}

void vocab_trie_close(struct vocab_trie **t)
{
    if (*t == NULL)
        return;
    free((*t)->byte);
    free((*t)->depth);
    free((*t)->skip);
    free((*t)->token);
    free((*t)->same);
    free(*t);
    *t = NULL;
}

/* ---------------------------------------------------------------- masks */

static void walk(struct grammar *g, int32_t state, uint64_t *bits)
{
    const struct vocab_trie *t = g->trie;
    int32_t at[TOKEN_BYTES_MAX + 1];
    at[0] = state;
    for (int32_t i = 0; i < t->n_nodes;) {
        int32_t to = state_after_byte(g, at[t->depth[i] - 1], t->byte[i]);
        if (to == 0) {
            i = t->skip[i];
            continue;
        }
        at[t->depth[i]] = to;
        for (int32_t id = t->token[i]; id >= 0; id = t->same[id])
            bits[id >> 6] |= (uint64_t)1 << (id & 63);
        i++;
    }
}

const uint64_t *state_mask(struct grammar *g, int32_t state)
{
    size_t n_words = ((size_t)g->trie->n_vocab + 63) / 64;
    if (g->states[state].mask >= 0)
        return g->masks[g->states[state].mask];
    uint64_t *bits = xcalloc(n_words, sizeof *bits);
    walk(g, state, bits);
    const struct state *s = &g->states[state];
    for (int32_t i = 0; i < s->n; i++) {
        const struct node *n = &g->nodes[g->places[s->first + (size_t)i].node];
        if (n->kind == NODE_TOKEN)
            bits[n->arg >> 6] |= (uint64_t)1 << (n->arg & 63);
    }
    if (g->n_masks == g->cap_masks) {
        g->cap_masks = g->cap_masks == 0 ? 16 : 2 * g->cap_masks;
        g->masks = xrealloc(g->masks, (size_t)g->cap_masks * sizeof *g->masks);
    }
    g->bytes += n_words * sizeof *bits;
    g->masks[g->n_masks] = bits;
    g->states[state].mask = g->n_masks++;
    return bits;
}
