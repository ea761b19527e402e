/* Weights in the device's own layout: packed in memory, asked about, read in before a measurement. */
#include <sys/mman.h>

#include "model/model_impl.h"

typedef void matrix_fn(void *arg, struct wmat *w);

static void pack(void *arg, struct wmat *w)
{
    struct model *m = arg;
    if (w->data == NULL || !m->dev->ops->prepare(m->dev, w))
        return;
    size_t values = (size_t)w->rows * (size_t)w->cols;
    static const int bits[] = {[W_F32] = 32, [W_BF16] = 16, [W_F16] = 16, [W_FP8] = 8, [W_FP4] = 4};
    file_map_forget(w->data, values * (size_t)bits[w->format] / 8);
}

static void each_of_layer(const struct model *m, struct layer_ops *l, matrix_fn *fn, void *arg)
{
    struct wmat *all[] = {&l->wq_a, &l->wq_b, &l->wkv, &l->wo_a, &l->wo_b, &l->gate, &l->comp_kv, &l->comp_gate,
                          &l->index_wq_b, &l->index_weights, &l->index_kv, &l->index_gate,
                          &l->shared.w1, &l->shared.w2, &l->shared.w3};
    for (size_t i = 0; i < COUNT_OF(all); i++)
        fn(arg, all[i]);
    for (int i = 0; i < m->w.cfg.n_experts; i++) {
        fn(arg, &l->experts[i].w1);
        fn(arg, &l->experts[i].w2);
        fn(arg, &l->experts[i].w3);
    }
}

/* Every matrix but the embedding (whose rows are looked up) through ops->prepare; a packed one leaves the mapping. */
int model_pack_weights(struct model *m, const struct progress *p, struct err *e)
{
    int n = m->w.cfg.n_layers + m->n_drafter;
    for (int i = 0; i < n; i++) {
        if (progress_tell(p, "preparing weights", (uint64_t)i, (uint64_t)n + 1) != 0)
            return err_set(e, HD_ECANCELLED, "%s: opening was cancelled", m->w.ckpt.dir);
        each_of_layer(m, &m->layers[i], pack, m);
    }
    pack(m, &m->head);
    pack(m, &m->mtp_e);
    pack(m, &m->mtp_h);
    progress_tell(p, "preparing weights", (uint64_t)n + 1, (uint64_t)n + 1);
    return m->dev->ops->sync(m->dev, e);
}

struct fp4_count {
    int all, unpacked;
};

static void count_fp4(void *arg, struct wmat *w)
{
    struct fp4_count *n = arg;
    n->all += w->format == W_FP4;
    n->unpacked += w->format == W_FP4 && w->packed == NULL;
}

/* Numerics int8 are those of the kernels on the device's layout: a model that would run without them is refused, rather
 * than run as if it had been asked for other numerics. */
int model_check_int8(struct model *m, struct err *e)
{
    struct fp4_count n = {0};
    if (m->numerics != NUM_INT8)
        return HD_OK;
    for (int i = 0; i < m->w.cfg.n_layers + m->n_drafter; i++)
        each_of_layer(m, &m->layers[i], count_fp4, &n);
    if (n.all == 0)
        return err_set(e, HD_EUNSUPPORTED, "%s: numerics int8 is for FP4 weights, and no layer of this model has any; use "
                       "fast", m->w.ckpt.dir);
    if (n.unpacked > 0)
        return err_set(e, HD_EUNSUPPORTED, "%s: numerics int8 needs FP4 weights with E8M0 scales above 2^-127, and %d "
                       "%s others; use fast", m->w.ckpt.dir, n.unpacked, n.unpacked == 1 ? "matrix has" : "matrices have");
    return HD_OK;
}

static void warm(const struct file_map *map)
{
#ifdef MADV_POPULATE_READ
    if (map->size == 0 || madvise((void *)(uintptr_t)map->data, map->size, MADV_POPULATE_READ) == 0)
        return;
#endif
    volatile uint8_t sum = 0; /* older kernels: a byte of every page */
    for (size_t i = 0; i < map->size; i += 4096)
        sum = (uint8_t)(sum + map->data[i]);
}

/* What runs: the packed file, or the checkpoint itself. */
void model_warm(const struct model *m)
{
    warm(&m->packed);
    for (int i = 0; m->stays_stored && i < m->w.ckpt.n_shards; i++)
        warm(&m->w.ckpt.shards[i].map);
}
