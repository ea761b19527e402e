/* A heap of numbered things: the one of the lowest key in O(log n), without a search.
 *
 * Keys may be stale when they only grew: the owner compares the top's key with what it is now and puts it back. So using a
 * thing costs nothing, and each use moves it at most once, when it comes up. */
#ifndef HADAL_ENGINE_HEAP_H
#define HADAL_ENGINE_HEAP_H

#include <stdbool.h>
#include <stdint.h>

enum { HEAP_NONE = -1 };

struct heap {
    int32_t *item;  /* [n] numbers, in heap order */
    int32_t *place; /* of each number in item, plus 1; 0: not in the heap */
    uint64_t *key;  /* of each number */
    int32_t n;
};

/* For numbers 0 .. n_max-1; false without memory. */
bool heap_init(struct heap *h, int32_t n_max);
void heap_open(struct heap *h, int32_t n_max); /* the same at start-up, where missing memory ends the process */
uint64_t heap_bytes(const struct heap *h, int32_t n_max);
void heap_free(struct heap *h);
void heap_put(struct heap *h, int32_t i, uint64_t key); /* adds it, or gives it another key */
void heap_drop(struct heap *h, int32_t i);              /* nothing when it is not there */
/* The number of the lowest key as key_of says now, HEAP_NONE when empty. A key must not have sunk since it was put. */
int32_t heap_top(struct heap *h, uint64_t (*key_of)(const void *arg, int32_t i), const void *arg);

#endif
