#include "engine/heap.h"

#include "base/base.h"

#include <stdlib.h>

bool heap_init(struct heap *h, int32_t n_max)
{
    size_t n = n_max > 0 ? (size_t)n_max : 1;
    *h = (struct heap){.item = calloc(n, sizeof *h->item), .place = calloc(n, sizeof *h->place),
                       .key = calloc(n, sizeof *h->key)};
    if (h->item != NULL && h->place != NULL && h->key != NULL)
        return true;
    heap_free(h);
    return false;
}

void heap_open(struct heap *h, int32_t n_max)
{
    size_t n = n_max > 0 ? (size_t)n_max : 1;
    *h = (struct heap){.item = xcalloc(n, sizeof *h->item), .place = xcalloc(n, sizeof *h->place),
                       .key = xcalloc(n, sizeof *h->key)};
}

uint64_t heap_bytes(const struct heap *h, int32_t n_max)
{
    return (uint64_t)n_max * (sizeof *h->item + sizeof *h->place + sizeof *h->key);
}

void heap_free(struct heap *h)
{
    free(h->item);
    free(h->place);
    free(h->key);
    *h = (struct heap){0};
}

static void set(struct heap *h, int32_t at, int32_t i)
{
    h->item[at] = i;
    h->place[i] = at + 1;
}

static void move_up(struct heap *h, int32_t at)
{
    int32_t i = h->item[at];
    for (; at > 0 && h->key[h->item[(at - 1) / 2]] > h->key[i]; at = (at - 1) / 2)
        set(h, at, h->item[(at - 1) / 2]);
    set(h, at, i);
}

static void move_down(struct heap *h, int32_t at)
{
    int32_t i = h->item[at];
    for (int32_t k; (k = 2 * at + 1) < h->n; at = k) {
        if (k + 1 < h->n && h->key[h->item[k + 1]] < h->key[h->item[k]])
            k++;
        if (h->key[h->item[k]] >= h->key[i])
            break;
        set(h, at, h->item[k]);
    }
    set(h, at, i);
}

void heap_put(struct heap *h, int32_t i, uint64_t key)
{
    if (h->place[i] == 0)
        set(h, h->n++, i);
    h->key[i] = key;
    move_up(h, h->place[i] - 1);
    move_down(h, h->place[i] - 1);
}

void heap_drop(struct heap *h, int32_t i)
{
    int32_t at = h->place[i] - 1;
    if (at < 0)
        return;
    h->place[i] = 0;
    int32_t last = h->item[--h->n];
    if (last == i)
        return;
    set(h, at, last);
    move_up(h, at);
    move_down(h, h->place[last] - 1);
}

int32_t heap_top(struct heap *h, uint64_t (*key_of)(const void *arg, int32_t i), const void *arg)
{
    while (h->n > 0) {
        int32_t i = h->item[0];
        uint64_t now = key_of(arg, i);
        if (now == h->key[i])
            return i;
        heap_put(h, i, now);
    }
    return HEAP_NONE;
}
