/* Blocks of the KV cache. The range is reserved without memory behind it; the system backs what is touched. */
#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <sys/mman.h>

#include "model/kv.h"

int kv_pool_init(struct kv_pool *p, size_t block_bytes, int64_t n_blocks, struct err *e)
{
    *p = (struct kv_pool){.block_bytes = block_bytes, .n_blocks = n_blocks, .n_free = n_blocks};
    size_t bytes = block_bytes * (size_t)n_blocks;
    void *base = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (base == MAP_FAILED) {
        err_sys(e, errno, "cannot reserve %zu bytes for the KV cache", bytes);
        return HD_ENOMEM;
    }
    /* A wish. Blocks are taken in order, so large pages fill up; a step at a long context reads rows from all of them, and
     * the processor would look up an address for nearly every row. */
    madvise(base, bytes, MADV_HUGEPAGE);
    p->base = base;
    p->free_list = xcalloc((size_t)n_blocks, sizeof *p->free_list);
    p->n_refs = xcalloc((size_t)n_blocks, sizeof *p->n_refs);
    for (int64_t i = 0; i < n_blocks; i++)
        p->free_list[i] = (int32_t)(n_blocks - 1 - i);
    return HD_OK;
}

void kv_pool_free(struct kv_pool *p)
{
    if (p->base != NULL)
        munmap(p->base, p->block_bytes * (size_t)p->n_blocks);
    free(p->free_list);
    free(p->n_refs);
    *p = (struct kv_pool){0};
}

int32_t kv_pool_take(struct kv_pool *p)
{
    if (p->n_free == 0)
        return -1;
    int32_t id = p->free_list[--p->n_free];
    assert(p->n_refs[id] == 0);
    p->n_refs[id] = 1;
    return id;
}

void kv_pool_ref(struct kv_pool *p, int32_t id)
{
    assert(id >= 0 && id < p->n_blocks && p->n_refs[id] > 0);
    p->n_refs[id]++;
}

void kv_pool_unref(struct kv_pool *p, int32_t id)
{
    assert(id >= 0 && id < p->n_blocks && p->n_refs[id] > 0);
    if (--p->n_refs[id] == 0)
        p->free_list[p->n_free++] = id;
}

uint8_t *kv_pool_at(const struct kv_pool *p, int32_t id)
{
    assert(id >= 0 && id < p->n_blocks);
    return p->base + (size_t)id * p->block_bytes;
}
