/* Candidates of merging, smallest rank first, the leftmost among equals.
 *
 * For a short piece they lie in one heap of (rank, position). For a long one that heap would miss the cache at each
 * step; there each rank has a list of positions and the heap holds ranks only. A merge makes pairs of higher rank in
 * every sane set of rules, so a whole list is taken, sorted and worked off from left to right; should a smaller rank
 * turn up meanwhile, the rest of the list goes back. */
#include "text/tokenizer_impl.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

struct queue_entry {
    uint32_t at;
    uint32_t below; /* next entry of the list + 1, 0: the last */
};

void queue_free(struct bpe_queue *q)
{
    free(q->heap);
    free(q->head);
    free(q->entries);
    free(q->batch);
}

/* Makes room for n elements of size_bytes; HD_ENOMEM when there is none. */
static int array_grow(void **data, size_t *cap, size_t n, size_t size_bytes)
{
    if (n <= *cap)
        return HD_OK;
    size_t more = *cap + *cap / 2 + 256;
    if (more < n)
        more = n;
    void *p = realloc(*data, more * size_bytes);
    if (p == NULL)
        return HD_ENOMEM;
    *data = p;
    *cap = more;
    return HD_OK;
}

/* ---------------------------------------------------------------- the heap */

static int heap_push(struct bpe_queue *q, uint64_t key)
{
    if (array_grow((void **)&q->heap, &q->cap_heap, q->n_heap + 1, sizeof *q->heap) != HD_OK)
        return HD_ENOMEM;
    size_t i = q->n_heap++;
    while (i > 0 && q->heap[(i - 1) / 2] > key) {
        q->heap[i] = q->heap[(i - 1) / 2];
        i = (i - 1) / 2;
    }
    q->heap[i] = key;
    return HD_OK;
}

static uint64_t heap_pop(struct bpe_queue *q)
{
    uint64_t top = q->heap[0], moved = q->heap[--q->n_heap];
    size_t i = 0;
    for (;;) {
        size_t k = 2 * i + 1;
        if (k + 1 < q->n_heap && q->heap[k + 1] < q->heap[k])
            k++;
        if (k >= q->n_heap || q->heap[k] >= moved)
            break;
        q->heap[i] = q->heap[k];
        i = k;
    }
    q->heap[i] = moved;
    return top;
}

/* ---------------------------------------------------------------- lists by rank */

static int list_push(struct bpe_queue *q, uint32_t rank, uint32_t at)
{
    assert(rank < q->n_head);
    uint32_t entry = q->unused;
    if (entry != 0) {
        q->unused = q->entries[entry - 1].below;
    } else {
        if (array_grow((void **)&q->entries, &q->cap_entries, q->n_entries + 1, sizeof *q->entries) != HD_OK)
            return HD_ENOMEM;
        entry = (uint32_t)++q->n_entries;
    }
    bool first = q->head[rank] == 0;
    q->entries[entry - 1] = (struct queue_entry){at, q->head[rank]};
    q->head[rank] = entry;
    return first ? heap_push(q, rank) : HD_OK;
}

static int position_order(const void *a, const void *b)
{
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    return x < y ? -1 : x > y;
}

static void batch_sort(struct bpe_queue *q)
{
    size_t n = q->n_batch, i = 1;
    while (i < n && q->batch[i - 1] > q->batch[i])
        i++;
    if (i < n) {
        qsort(q->batch, n, sizeof *q->batch, position_order);
        return;
    }
    /* The usual case: pushed from left to right, so the list runs from right to left. */
    for (size_t a = 0, b = n - 1; a < b; a++, b--) {
        uint32_t swap = q->batch[a];
        q->batch[a] = q->batch[b];
        q->batch[b] = swap;
    }
}

/* Takes the list of the smallest rank. */
static int batch_take(struct bpe_queue *q)
{
    q->rank = (uint32_t)heap_pop(q);
    q->i_batch = q->n_batch = 0;
    for (uint32_t entry = q->head[q->rank], below; entry != 0; entry = below) {
        if (array_grow((void **)&q->batch, &q->cap_batch, q->n_batch + 1, sizeof *q->batch) != HD_OK)
            return HD_ENOMEM;
        q->batch[q->n_batch++] = q->entries[entry - 1].at;
        below = q->entries[entry - 1].below;
        q->entries[entry - 1].below = q->unused;
        q->unused = entry;
    }
    q->head[q->rank] = 0;
    batch_sort(q);
    return HD_OK;
}

static int batch_put_back(struct bpe_queue *q)
{
    while (q->i_batch < q->n_batch)
        if (list_push(q, q->rank, q->batch[q->i_batch++]) != HD_OK)
            return HD_ENOMEM;
    return HD_OK;
}

/* ---------------------------------------------------------------- both */

int queue_start(struct bpe_queue *q, bool by_rank, size_t n_ranks)
{
    q->by_rank = by_rank;
    q->n_heap = q->n_entries = q->i_batch = q->n_batch = 0;
    q->unused = 0;
    if (!by_rank || q->n_head == n_ranks)
        return HD_OK;
    q->head = calloc(n_ranks, sizeof *q->head);
    q->n_head = q->head != NULL ? n_ranks : 0;
    return q->head != NULL ? HD_OK : HD_ENOMEM;
}

int queue_push(struct bpe_queue *q, uint32_t rank, uint32_t at)
{
    return q->by_rank ? list_push(q, rank, at) : heap_push(q, (uint64_t)rank << 32 | at);
}

int queue_pop(struct bpe_queue *q, uint32_t *rank, uint32_t *at)
{
    if (!q->by_rank) {
        if (q->n_heap == 0)
            return 0;
        uint64_t key = heap_pop(q);
        *rank = (uint32_t)(key >> 32);
        *at = (uint32_t)key;
        return 1;
    }
    if (q->i_batch < q->n_batch && q->n_heap != 0 && q->heap[0] < q->rank && batch_put_back(q) != HD_OK)
        return HD_ENOMEM;
    if (q->i_batch == q->n_batch) {
        if (q->n_heap == 0)
            return 0;
        if (batch_take(q) != HD_OK)
            return HD_ENOMEM;
    }
    *rank = q->rank;
    *at = q->batch[q->i_batch++];
    return 1;
}
