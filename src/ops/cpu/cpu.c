/* The CPU device: opening, memory, the table. */
#include "ops/cpu/cpu.h"

#include "ops/cpu/fast.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Below this many multiply-adds (some ten microseconds) a loop runs in the caller: waking threads costs about as much. */
static const double WORK_MIN = 200000;

static void grow(struct scratch *s, size_t n)
{
    if (s->n >= n)
        return;
    free(s->data);
    s->n = n + n / 4;
    s->data = try_alloc(s->n * sizeof(float));
    if (s->data == NULL) {
        fprintf(stderr, "hadal: out of memory asking for %zu bytes of scratch\n", s->n * sizeof(float));
        abort();
    }
}

float *cpu_scratch(struct cpu_dev *c, int i_thread, size_t n)
{
    grow(&c->per_thread[i_thread], n);
    return c->per_thread[i_thread].data;
}

float *cpu_shared_scratch(struct cpu_dev *c, size_t n)
{
    grow(&c->shared, n);
    return c->shared.data;
}

uint8_t *cpu_packed_scratch(struct cpu_dev *c, size_t bytes)
{
    grow(&c->packed_x, (bytes + sizeof(float) - 1) / sizeof(float));
    return (uint8_t *)c->packed_x.data;
}

uint8_t *cpu_strip_scratch(struct cpu_dev *c, int i_thread, size_t bytes)
{
    grow(&c->per_strip[i_thread], (bytes + sizeof(float) - 1) / sizeof(float));
    return (uint8_t *)c->per_strip[i_thread].data;
}

void cpu_run(struct cpu_dev *c, int n_tasks, double work, void (*fn)(void *, int, int), void *arg)
{
    pool_run(work < WORK_MIN ? NULL : c->pool, n_tasks, fn, arg);
}

void cpu_round(const struct cpu_dev *c, float *x, size_t n)
{
    if (cpu_rounds(&c->base))
        c->kern->round_bf16(x, n, x);
}

static void cpu_close(struct dev **d)
{
    struct cpu_dev *c = cpu_of(*d);
    if (c == NULL)
        return;
    for (int i = 0; i < pool_threads(c->pool); i++) {
        free(c->per_thread[i].data);
        free(c->per_strip[i].data);
    }
    free(c->per_thread);
    free(c->per_strip);
    free(c->shared.data);
    free(c->packed_x.data);
    fast_store_free(c->store);
    pool_close(&c->pool);
    free(c);
    *d = NULL;
}

static void *cpu_alloc(struct dev *d, size_t bytes)
{
    (void)d;
    return try_alloc(bytes);
}

static void cpu_release(struct dev *d, void *p)
{
    (void)d;
    free(p);
}

static void cpu_copy(struct dev *d, void *to, const void *from, size_t bytes)
{
    (void)d;
    memcpy(to, from, bytes);
}

static int cpu_sync(struct dev *d, struct err *e)
{
    struct cpu_dev *c = cpu_of(d);
    if (c->first_error.code != HD_OK)
        return err_set(e, c->first_error.code, "%s", c->first_error.msg);
    return HD_OK;
}

static const struct ops cpu_ops = {
    .name = "cpu",
    .close = cpu_close,
    .alloc = cpu_alloc,
    .release = cpu_release,
    .upload = cpu_copy,
    .download = cpu_copy,
    .sync = cpu_sync,
    .reserve = cpu_reserve,
    .scratch_bytes = cpu_scratch_bytes,
    .prepare = fast_prepare,
    .packed_bytes = fast_packed_bytes,
    .pack = fast_pack,
    .adopt = fast_adopt,
    .layout_version = IL16_VERSION,
    .embed = cpu_embed,
    .hc_pre = cpu_hc_pre,
    .hc_post = cpu_hc_post,
    .hc_head = cpu_hc_head,
    .rmsnorm = cpu_rmsnorm,
    .head_rms = cpu_head_rms,
    .linear = cpu_linear,
    .rope = cpu_rope,
    .kv_quant = cpu_kv_quant,
    .kv_put = cpu_kv_put,
    .compress = cpu_compress,
    .index_query = cpu_index_query,
    .index_select = cpu_index_select,
    .attn = cpu_attn,
    .route = cpu_route,
    .moe = cpu_moe,
    .add_rows = cpu_add_rows,
    .stream_mean = cpu_stream_mean,
    .gather = cpu_gather,
};

int dev_open_cpu(struct dev **d, const struct dev_options *o, struct err *e)
{
    struct cpu_dev *c = xcalloc(1, sizeof *c);
    c->base.ops = &cpu_ops;
    c->base.numerics = o->numerics;
    c->kern = kern_for(o->isa);
    c->row = row_kern_for(o->isa);
    c->tile = attn_kern_for(o->isa);
    c->native = o->native;
    if (numerics_fast(o->numerics))
        c->fast = fast_kern_for(o->isa);
    int rc = pool_open(&c->pool, o->n_threads, e);
    if (rc != HD_OK) {
        free(c);
        *d = NULL;
        return rc;
    }
    c->per_thread = xcalloc((size_t)pool_threads(c->pool), sizeof *c->per_thread);
    c->per_strip = xcalloc((size_t)pool_threads(c->pool), sizeof *c->per_strip);
    *d = &c->base;
    return HD_OK;
}
