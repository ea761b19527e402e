/* Weights at open: described as they are stored, or packed into large huge-page chunks from which matrices are carved,
 * all threads packing tiles. */
#include <sys/mman.h>
#include <stdlib.h>

#include "ops/cpu/fast.h"

enum { CHUNK_BYTES = 64 << 20, HUGE_PAGE = 2 << 20, HEAD_BYTES = 128 };

struct chunk {
    struct chunk *next;
    uint8_t *at;
    size_t bytes, used;
};

struct fast_store {
    const struct topology *topology;
    struct chunk *chunks; /* the newest first; only it has room */
};

static struct chunk *chunk_open(const struct topology *t, size_t bytes)
{
    bytes = (bytes + HUGE_PAGE - 1) / HUGE_PAGE * HUGE_PAGE;
    uint8_t *p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (p == MAP_FAILED)
        return NULL;
    topology_interleave(t, p, bytes);
    madvise(p, bytes, MADV_HUGEPAGE); /* advice: without huge pages the same bytes are read, slower */
    struct chunk *c = xcalloc(1, sizeof *c);
    c->at = p;
    c->bytes = bytes;
    return c;
}

/* 64-byte aligned memory that lives as long as the device; NULL when there is none. */
static uint8_t *store_take(struct fast_store *s, size_t bytes)
{
    if (s->chunks == NULL || s->chunks->bytes - s->chunks->used < bytes) {
        struct chunk *c = chunk_open(s->topology, bytes > CHUNK_BYTES ? bytes : CHUNK_BYTES);
        if (c == NULL)
            return NULL;
        c->next = s->chunks;
        s->chunks = c;
    }
    uint8_t *p = s->chunks->at + s->chunks->used;
    s->chunks->used += bytes;
    return p;
}

void fast_store_free(struct fast_store *s)
{
    while (s != NULL && s->chunks != NULL) {
        struct chunk *c = s->chunks;
        s->chunks = c->next;
        munmap(c->at, c->bytes);
        free(c);
    }
    free(s);
}

struct pack_job {
    const struct il16 *m;
    const struct wmat *w;
};

static void pack_task(void *arg, int i, int i_thread)
{
    (void)i_thread;
    const struct pack_job *j = arg;
    il16_pack_tile(j->m, j->w, i);
}

size_t fast_packed_bytes(struct dev *d, const struct wmat *w)
{
    const struct cpu_dev *c = cpu_of(d);
    return c->fast != NULL && !c->native && il16_shape_fits(w) ? il16_bytes(w) : 0;
}

bool fast_pack(struct dev *d, const struct wmat *w, void *mem)
{
    struct il16 m;
    if (!il16_fits(w))
        return false;
    il16_begin(&m, w, mem);
    struct pack_job j = {&m, w};
    cpu_run(cpu_of(d), m.n_tiles, (double)w->rows * w->cols, pack_task, &j);
    return true;
}

/* Memory for a description and `bytes` behind it. */
static uint8_t *take(struct cpu_dev *c, const struct wmat *w, size_t bytes)
{
    _Static_assert(sizeof(struct il16) <= HEAD_BYTES, "the description precedes the lines");
    if (c->store == NULL) {
        c->store = xcalloc(1, sizeof *c->store);
        c->store->topology = pool_topology(c->pool);
    }
    uint8_t *mem = store_take(c->store, HEAD_BYTES + bytes);
    if (mem == NULL)
        err_set(&c->first_error, HD_ENOMEM, "no memory for a packed copy of a %dx%d matrix (%zu bytes)", w->rows, w->cols,
                bytes);
    return mem;
}

static void describe(struct wmat *w, uint8_t *head, const void *mem)
{
    il16_view((struct il16 *)(void *)head, w, mem);
    w->packed = head;
}

bool fast_adopt(struct dev *d, struct wmat *w, const void *mem)
{
    uint8_t *head = take(cpu_of(d), w, 0);
    if (head == NULL)
        return false;
    describe(w, head, mem);
    return true;
}

/* Every thread's strip of lines is as large as the widest matrix needs before the first operation. */
static void reserve_strips(struct cpu_dev *c, const struct il16 *m)
{
    for (int i = 0; i < pool_threads(c->pool); i++)
        cpu_strip_scratch(c, i, il16_strip_bytes(m));
}

bool fast_prepare(struct dev *d, struct wmat *w)
{
    struct cpu_dev *c = cpu_of(d);
    if (c->fast == NULL || w->data == NULL || !il16_fits(w))
        return false;
    uint8_t *mem = take(c, w, c->native ? 0 : il16_bytes(w));
    if (mem != NULL && c->native) {
        il16_describe((struct il16 *)(void *)mem, w);
        w->packed = mem;
        reserve_strips(c, w->packed);
        return false; /* the stored form is what runs */
    }
    if (mem == NULL || !fast_pack(d, w, mem + HEAD_BYTES))
        return false;
    describe(w, mem, mem + HEAD_BYTES);
    return true;
}
