/* Added tokens: a byte trie, children of a node in a linked list. */
#include "text/tokenizer_impl.h"

#include <stdlib.h>

static int32_t node_add(struct trie *t, unsigned char byte, int32_t sibling)
{
    if (t->n == t->cap) {
        t->cap = t->cap ? t->cap * 2 : 256;
        t->nodes = xrealloc(t->nodes, (size_t)t->cap * sizeof *t->nodes);
    }
    if (t->n == 0) /* node 0 means none */
        t->nodes[t->n++] = (struct trie_node){0, 0, -1, 0};
    t->nodes[t->n] = (struct trie_node){0, sibling, -1, byte};
    return t->n++;
}

static int32_t node_child(const struct trie *t, int32_t node, unsigned char byte)
{
    int32_t i = t->nodes[node].child;
    while (i != 0 && t->nodes[i].byte != byte)
        i = t->nodes[i].sibling;
    return i;
}

bool trie_add(struct trie *t, const char *text, size_t n, int32_t id)
{
    if (n == 0)
        return false;
    const unsigned char *p = (const unsigned char *)text;
    if (t->first[p[0]] == 0)
        t->first[p[0]] = node_add(t, p[0], 0);
    int32_t node = t->first[p[0]];
    for (size_t i = 1; i < n; i++) {
        int32_t child = node_child(t, node, p[i]);
        if (child == 0) {
            child = node_add(t, p[i], t->nodes[node].child);
            t->nodes[node].child = child;
        }
        node = child;
    }
    if (t->nodes[node].id >= 0)
        return false;
    t->nodes[node].id = id;
    return true;
}

int32_t trie_match(const struct trie *t, const char *text, size_t n, size_t *len)
{
    int32_t best = -1;
    const unsigned char *p = (const unsigned char *)text;
    int32_t node = n != 0 ? t->first[p[0]] : 0;
    for (size_t i = 1; node != 0; i++) {
        if (t->nodes[node].id >= 0) {
            best = t->nodes[node].id;
            *len = i;
        }
        if (i == n)
            break;
        node = node_child(t, node, p[i]);
    }
    return best;
}

void trie_free(struct trie *t)
{
    free(t->nodes);
}
