/* The parts of an automaton, made from the end to the beginning. */
#include "text/grammar_impl.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

static int32_t node_add(struct grammar *g, enum node_kind kind, int32_t next, int32_t arg)
{
    if (g->n_nodes == NODES_MAX) {
        g->too_large = true;
        return AT_FAIL;
    }
    if (g->n_nodes == g->cap_nodes) {
        g->cap_nodes = g->cap_nodes == 0 ? 256 : 2 * g->cap_nodes;
        g->nodes = xrealloc(g->nodes, (size_t)g->cap_nodes * sizeof *g->nodes);
    }
    g->nodes[g->n_nodes] = (struct node){.kind = (uint8_t)kind, .next = next, .arg = arg, .need = NEED_NEVER};
    return g->n_nodes++;
}

struct grammar *grammar_new(const struct tokenizer *t, const struct vocab_trie *trie)
{
    struct grammar *g = xcalloc(1, sizeof *g);
    atomic_init(&g->n_refs, 1);
    g->tokenizer = t;
    g->trie = trie;
    node_add(g, NODE_RETURN, 0, 0);
    node_add(g, NODE_FAIL, 0, 0);
    return g;
}

int32_t node_bytes(struct grammar *g, const struct byte_set *set, int32_t next)
{
    int32_t i = 0;
    if ((set->w[0] | set->w[1] | set->w[2] | set->w[3]) == 0)
        return AT_FAIL;
    while (i < g->n_sets && memcmp(&g->sets[i], set, sizeof *set) != 0)
        i++;
    if (i == g->cap_sets) {
        g->cap_sets = g->cap_sets == 0 ? 64 : 2 * g->cap_sets;
        g->sets = xrealloc(g->sets, (size_t)g->cap_sets * sizeof *g->sets);
    }
    if (i == g->n_sets)
        g->sets[g->n_sets++] = *set;
    return node_add(g, NODE_BYTES, next, i);
}

int32_t node_range(struct grammar *g, unsigned char lo, unsigned char hi, int32_t next)
{
    struct byte_set s = {0};
    set_add(&s, lo, hi);
    return node_bytes(g, &s, next);
}

int32_t node_byte(struct grammar *g, char c, int32_t next)
{
    return node_range(g, (unsigned char)c, (unsigned char)c, next);
}

int32_t node_text(struct grammar *g, const char *text, size_t n, int32_t next)
{
    while (n > 0)
        next = node_byte(g, text[--n], next);
    return next;
}

int32_t node_str(struct grammar *g, const char *text, int32_t next)
{
    return node_text(g, text, strlen(text), next);
}

int32_t node_either(struct grammar *g, int32_t a, int32_t b)
{
    return a == AT_FAIL || a == b ? b : b == AT_FAIL ? a : node_add(g, NODE_EITHER, a, b);
}

int32_t node_call(struct grammar *g, int32_t rule, int32_t next)
{
    if (rule == AT_FAIL || next == AT_FAIL)
        return AT_FAIL;
    return next == AT_RETURN ? rule : node_add(g, NODE_CALL, next, rule);
}

int32_t node_control(struct grammar *g, const char *token, int32_t next)
{
    int32_t id = tokenizer_id(g->tokenizer, token);
    if (id < 0 || !tokenizer_is_added(g->tokenizer, id))
        return node_str(g, token, next);
    return node_add(g, NODE_TOKEN, next, id);
}

int32_t node_hole(struct grammar *g)
{
    return node_add(g, NODE_EITHER, AT_FAIL, AT_FAIL);
}

void node_fill(struct grammar *g, int32_t hole, int32_t a, int32_t b)
{
    if (g->too_large)
        return;
    assert(g->nodes[hole].kind == NODE_EITHER && g->nodes[hole].next == AT_FAIL && g->nodes[hole].arg == AT_FAIL);
    g->nodes[hole].next = a;
    g->nodes[hole].arg = b;
}

/* ---------------------------------------------------------------- texts */

static int compare_texts(const void *a, const void *b)
{
    const struct buf *x = a, *y = b;
    size_t n = x->len < y->len ? x->len : y->len;
    int order = n == 0 ? 0 : memcmp(x->data, y->data, n);
    return order != 0 ? order : (x->len > y->len) - (x->len < y->len);
}

/* texts: sorted, with the same first `at` bytes. */
static int32_t texts_from(struct grammar *g, const struct buf *texts, size_t n, size_t at, int32_t next)
{
    int32_t node = AT_FAIL;
    size_t i = 0;
    while (i < n && texts[i].len == at)
        i++;
    if (i > 0)
        node = next;
    while (i < n) {
        size_t end = i;
        while (end < n && texts[end].data[at] == texts[i].data[at])
            end++;
        size_t same = at + 1; /* one text alone, or what all of them begin with, is a chain */
        while (same < texts[i].len && same < texts[end - 1].len && texts[i].data[same] == texts[end - 1].data[same])
            same++;
        int32_t rest = texts_from(g, texts + i, end - i, same, next);
        node = node_either(g, node_text(g, texts[i].data + at, same - at, rest), node);
        i = end;
    }
    return node;
}

int32_t node_texts(struct grammar *g, struct buf *texts, size_t n, int32_t next)
{
    if (n == 0)
        return AT_FAIL;
    qsort(texts, n, sizeof *texts, compare_texts);
    return texts_from(g, texts, n, 0, next);
}

/* ---------------------------------------------------------------- characters */

static int encode(uint32_t c, unsigned char *out)
{
    int n_more = c < 0x80 ? 0 : c < 0x800 ? 1 : c < 0x10000 ? 2 : 3;
    static const unsigned char lead[] = {0, 0xC0, 0xE0, 0xF0};
    out[0] = (unsigned char)(lead[n_more] | c >> 6 * n_more);
    for (int i = 1; i <= n_more; i++)
        out[i] = (unsigned char)(0x80 | (c >> 6 * (n_more - i) & 0x3F));
    return n_more + 1;
}

/* Characters of one length: bytes between those of lo and hi, digit by digit. */
static int32_t chars_of_length(struct grammar *g, const unsigned char *lo, const unsigned char *hi, int n, int32_t next)
{
    static const unsigned char least[3] = {0x80, 0x80, 0x80}, most[3] = {0xBF, 0xBF, 0xBF};
    if (n == 1)
        return node_range(g, lo[0], hi[0], next);
    if (lo[0] == hi[0])
        return node_range(g, lo[0], lo[0], chars_of_length(g, lo + 1, hi + 1, n - 1, next));
    int32_t node = node_range(g, lo[0], lo[0], chars_of_length(g, lo + 1, most, n - 1, next));
    node = node_either(g, node, node_range(g, hi[0], hi[0], chars_of_length(g, least, hi + 1, n - 1, next)));
    if (hi[0] - lo[0] > 1)
        node = node_either(g, node, node_range(g, (unsigned char)(lo[0] + 1), (unsigned char)(hi[0] - 1),
                                               chars_of_length(g, least, most, n - 1, next)));
    return node;
}

int32_t node_chars(struct grammar *g, uint32_t lo, uint32_t hi, int32_t next)
{
    static const uint32_t parts[][2] = {{0, 0x7F}, {0x80, 0x7FF}, {0x800, 0xD7FF}, {0xE000, 0xFFFF}, {0x10000, 0x10FFFF}};
    int32_t node = AT_FAIL;
    for (size_t i = 0; i < COUNT_OF(parts); i++) {
        uint32_t a = lo > parts[i][0] ? lo : parts[i][0], b = hi < parts[i][1] ? hi : parts[i][1];
        unsigned char from[4], to[4];
        if (a > b)
            continue;
        int n = encode(a, from);
        encode(b, to);
        node = node_either(g, chars_of_length(g, from, to, n, next), node);
    }
    return node;
}

/* ---------------------------------------------------------------- what can be finished */

static unsigned need_of(const struct grammar *g, const struct node *n)
{
    unsigned next = g->nodes[n->next].need, other = g->nodes[n->arg * (n->kind >= NODE_EITHER)].need;
    switch ((enum node_kind)n->kind) {
    case NODE_RETURN:
        return 0;
    case NODE_FAIL:
        return NEED_NEVER;
    case NODE_BYTES:
    case NODE_TOKEN:
        return next;
    case NODE_EITHER:
        return next < other ? next : other;
    case NODE_CALL:
        if (other >= STACK_MAX || next == NEED_NEVER)
            return NEED_NEVER;
        return other + 1 > next ? other + 1 : next;
    }
    return NEED_NEVER;
}

/* The least solution of equations that only grow: repeated until nothing changes. */
bool grammar_settle(struct grammar *g)
{
    bool changed = true;
    g->nodes[AT_RETURN].need = 0;
    while (changed) {
        changed = false;
        for (int32_t i = 0; i < g->n_nodes; i++) {
            unsigned need = need_of(g, &g->nodes[i]);
            changed |= need != g->nodes[i].need;
            g->nodes[i].need = (uint8_t)need;
        }
    }
    return g->nodes[g->start].need <= STACK_MAX;
}
