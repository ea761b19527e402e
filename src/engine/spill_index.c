/* Entries and slots of the disk tier. */
#include "engine/spill_impl.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

/* ---------------------------------------------------------------- opening */

bool spill_index_open(struct spill *s)
{
    int64_t slots = s->part[SPILL_PAGE].cap_slots;
    int64_t n = 2 * slots + 64; /* pages, and places between them whose own page is gone */
    n = n > INT32_MAX / 2 ? INT32_MAX / 2 : n;
    uint64_t buckets = 16;
    while (buckets < (uint64_t)n)
        buckets *= 2;
    s->mask = buckets - 1;
    s->cap_entries = (int32_t)n;
    s->entries = calloc((size_t)n, sizeof *s->entries);
    s->bucket = calloc(buckets, sizeof *s->bucket);
    s->unused = calloc((size_t)n, sizeof *s->unused);
    bool ok = s->entries != NULL && s->bucket != NULL && s->unused != NULL;
    for (int k = 0; k < SPILL_KINDS && ok; k++) {
        struct spill_part *p = &s->part[k];
        p->free = calloc((size_t)p->cap_slots + 1, sizeof *p->free);
        ok = p->free != NULL;
    }
    return ok && heap_init(&s->leaves, s->cap_entries) && heap_init(&s->tails, s->cap_entries);
}

void spill_index_free(struct spill *s)
{
    free(s->entries);
    free(s->bucket);
    free(s->unused);
    for (int k = 0; k < SPILL_KINDS; k++)
        free(s->part[k].free);
    heap_free(&s->leaves);
    heap_free(&s->tails);
}

/* ---------------------------------------------------------------- entries */

int32_t spill_find(const struct spill *s, struct spill_key key)
{
    int32_t i = s->bucket[key.low & s->mask] - 1;
    while (i != SPILL_NONE && !spill_key_equal(s->entries[i].key, key))
        i = s->entries[i].hash_next - 1;
    return i;
}

static uint64_t key_of(const void *arg, int32_t i)
{
    return ((const struct spill *)arg)->entries[i].last_use;
}

static bool busy(const struct spill_entry *x)
{
    return x->n_readers > 0 || x->saving[SPILL_PAGE] || x->saving[SPILL_TAIL];
}

void spill_entry_weigh(struct spill *s, int32_t i)
{
    const struct spill_entry *x = &s->entries[i];
    if (x->used && x->n_children == 0 && !busy(x))
        heap_put(&s->leaves, i, x->last_use);
    else
        heap_drop(&s->leaves, i);
    if (x->used && x->slot[SPILL_TAIL].file != SPILL_NONE && !busy(x))
        heap_put(&s->tails, i, x->last_use);
    else
        heap_drop(&s->tails, i);
}

static void entry_free(struct spill *s, int32_t i)
{
    struct spill_entry *x = &s->entries[i];
    int32_t *p = &s->bucket[x->key.low & s->mask];
    while (*p - 1 != i)
        p = &s->entries[*p - 1].hash_next;
    *p = x->hash_next;
    *x = (struct spill_entry){0};
    spill_entry_weigh(s, i);
    s->unused[s->n_unused++] = i;
}

void spill_entry_tidy(struct spill *s, int32_t i)
{
    while (i != SPILL_NONE) {
        struct spill_entry *x = &s->entries[i];
        int32_t parent = x->parent;
        bool empty = x->slot[SPILL_PAGE].file == SPILL_NONE && x->slot[SPILL_TAIL].file == SPILL_NONE;
        if (!empty || x->n_children > 0 || busy(x)) {
            spill_entry_weigh(s, i);
            return;
        }
        entry_free(s, i);
        if (parent != SPILL_NONE)
            s->entries[parent].n_children--;
        i = parent;
    }
}

static void free_slot(struct spill *s, int32_t i, enum spill_kind kind)
{
    struct spill_entry *x = &s->entries[i];
    if (x->slot[kind].file == SPILL_NONE)
        return;
    spill_slot_give(s, kind, x->slot[kind]);
    x->slot[kind].file = SPILL_NONE;
    s->part[kind].n_stored -= !x->saving[kind];
}

void spill_drop_record(struct spill *s, int32_t i, enum spill_kind kind)
{
    free_slot(s, i, kind);
    spill_entry_tidy(s, i);
}

/* The entry used least recently on which nothing builds, page and tail. */
static bool evict_entry(struct spill *s)
{
    int32_t i = heap_top(&s->leaves, key_of, s);
    if (i == HEAP_NONE)
        return false;
    free_slot(s, i, SPILL_TAIL);
    spill_drop_record(s, i, SPILL_PAGE);
    s->stats.evicted++;
    return true;
}

static bool evict_tail(struct spill *s)
{
    int32_t i = heap_top(&s->tails, key_of, s);
    if (i == HEAP_NONE)
        return false;
    spill_drop_record(s, i, SPILL_TAIL);
    s->stats.evicted++;
    return true;
}

int32_t spill_entry_get(struct spill *s, struct spill_key key, int32_t depth)
{
    int32_t i = spill_find(s, key);
    if (i != SPILL_NONE)
        return i;
    while (s->n_unused == 0 && s->n_fresh == s->cap_entries)
        if (!evict_entry(s))
            return SPILL_NONE;
    i = s->n_unused > 0 ? s->unused[--s->n_unused] : s->n_fresh++;
    int32_t *head = &s->bucket[key.low & s->mask];
    s->entries[i] = (struct spill_entry){.key = key, .parent = SPILL_NONE, .hash_next = *head, .depth = depth,
                                         .slot = {{SPILL_NONE, 0}, {SPILL_NONE, 0}}, .used = true};
    *head = i + 1;
    return i;
}

void spill_entry_link(struct spill *s, int32_t i, int32_t parent)
{
    if (s->entries[i].parent != SPILL_NONE || parent == SPILL_NONE)
        return;
    s->entries[i].parent = parent;
    s->entries[parent].n_children++;
    spill_entry_weigh(s, parent);
}

/* ---------------------------------------------------------------- slots */

bool spill_slot_take(struct spill *s, enum spill_kind kind, bool evict, struct spill_slot *slot)
{
    struct spill_part *p = &s->part[kind];
    while (p->n_free == 0)
        if (!evict || !(kind == SPILL_PAGE ? evict_entry(s) : evict_tail(s)))
            return false;
    *slot = p->free[--p->n_free];
    return true;
}

void spill_slot_give(struct spill *s, enum spill_kind kind, struct spill_slot slot)
{
    struct spill_part *p = &s->part[kind];
    assert(p->n_free < p->n_slots);
    p->free[p->n_free++] = slot;
}

void spill_file_add(struct spill *s, const struct spill_file *f)
{
    struct spill_part *p = &s->part[f->head.kind];
    assert(s->n_files < s->cap_files);
    s->files[s->n_files++] = *f;
    p->n_slots += f->head.n_slots;
    p->taken_bytes += spill_segment_bytes(f->head.n_slots, f->head.payload_bytes);
    assert(p->n_slots <= p->cap_slots);
}

/* ---------------------------------------------------------------- checks */

static void check_entry(const struct spill *s, int32_t i, int32_t *n_children, int64_t *n_stored)
{
    const struct spill_entry *x = &s->entries[i];
    assert(spill_find(s, x->key) == i);
    if (x->parent != SPILL_NONE) {
        assert(s->entries[x->parent].used && s->entries[x->parent].depth == x->depth - 1);
        n_children[x->parent]++;
    }
    for (int k = 0; k < SPILL_KINDS; k++)
        n_stored[k] += x->slot[k].file != SPILL_NONE && !x->saving[k];
    assert((s->leaves.place[i] > 0) == (x->n_children == 0 && !busy(x)));
    assert((s->tails.place[i] > 0) == (x->slot[SPILL_TAIL].file != SPILL_NONE && !busy(x)));
}

void spill_check(const struct spill *s)
{
    int32_t *n_children = xcalloc((size_t)s->n_fresh + 1, sizeof *n_children);
    int64_t n_stored[SPILL_KINDS] = {0}, n_saving[SPILL_KINDS] = {0};
    for (int32_t i = 0; i < s->n_fresh; i++) {
        if (!s->entries[i].used)
            continue;
        check_entry(s, i, n_children, n_stored);
        for (int k = 0; k < SPILL_KINDS; k++)
            n_saving[k] += s->entries[i].saving[k];
    }
    for (int32_t i = 0; i < s->n_fresh; i++)
        assert(!s->entries[i].used || s->entries[i].n_children == n_children[i]);
    for (int k = 0; k < SPILL_KINDS; k++) {
        const struct spill_part *p = &s->part[k];
        assert(p->n_stored == n_stored[k] && p->n_free + n_stored[k] + n_saving[k] == p->n_slots);
        assert(p->taken_bytes <= p->share_bytes);
    }
    free(n_children);
}
