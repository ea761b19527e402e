/* Opening a model: what it is made of, in order, and what is refused. */
#include "model/model.h"

#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#include "hadal.h"
#include "model/model_impl.h"
#include "model/packed.h"
#include "model/plan.h"

enum { INDEX_HEADS_MAX = 256 };

void model_options_init(struct model_options *o)
{
    *o = (struct model_options){.numerics = NUM_FAST, .isa = cpu_isa_best(), .max_rows = MODEL_ROWS_DEFAULT,
                                .check_data = true, .drafter = true};
}

/* ---------------------------------------------------------------- checks, fingerprint */

static bool quantised(enum wformat f)
{
    return f == W_FP8 || f == W_FP4;
}

static int check_shapes(const struct model *m, struct err *e)
{
    const struct config *c = &m->w.cfg;
    if (m->numerics != NUM_EXACT && ((c->head_dim - c->rope_dim) % 64 != 0 || c->index_head_dim % 32 != 0))
        return err_set(e, HD_EUNSUPPORTED,
                       "config.json: head_dim %d - qk_rope_head_dim %d must be a multiple of 64 and index_head_dim %d "
                       "of 32 for the FP8/FP4 caches of numerics %s; use exact",
                       c->head_dim, c->rope_dim, c->index_head_dim, numerics_name(m->numerics));
    if (c->index_n_heads > INDEX_HEADS_MAX || (c->index_head_dim & (c->index_head_dim - 1)) != 0)
        return err_set(e, HD_EUNSUPPORTED, "config.json: index_n_heads %d above %d or index_head_dim %d not a power of two",
                       c->index_n_heads, INDEX_HEADS_MAX, c->index_head_dim);
    for (int i = 0; i < c->n_layers; i++) {
        const struct layer_ops *l = &m->layers[i];
        if (quantised(l->experts[0].w1.format) != quantised(l->shared.w1.format))
            return err_set(e, HD_EUNSUPPORTED, "%s: layer %d mixes quantised and plain experts", m->w.ckpt.dir, i);
    }
    return HD_OK;
}

/* Config, numerics, kernels, KV layout and a sample of the weights: what the bits of a saved state depend on. The layout of
 * the weights is not among them: kernels give the same bits over packed and over stored ones. */
static uint64_t fingerprint_of(const struct model *m, const struct model_options *o)
{
    enum { SAMPLE_BYTES = 256, SAMPLES = 1024 };
    XXH64_state_t *st = XXH64_createState();
    XXH64_reset(st, m->numerics);
    XXH64_update(st, HADAL_VERSION, sizeof HADAL_VERSION);
    XXH64_update(st, &o->isa, sizeof o->isa);
    XXH64_update(st, &m->w.cfg, sizeof m->w.cfg);
    XXH64_update(st, &m->kv.dims, sizeof m->kv.dims);
    int64_t n = m->w.ckpt.n_tensors, step = n / SAMPLES + 1;
    for (int64_t i = 0; i < n; i += step) {
        const struct tensor *t = &m->w.ckpt.tensors[i];
        size_t bytes = t->bytes < SAMPLE_BYTES ? (size_t)t->bytes : SAMPLE_BYTES;
        XXH64_update(st, t->name, strlen(t->name));
        XXH64_update(st, (const char *)t->data + (t->bytes - bytes) / 2, bytes);
    }
    uint64_t h = XXH64_digest(st);
    XXH64_freeState(st);
    return h;
}

/* ---------------------------------------------------------------- everything but the weights */

static int prepare(struct model *m, const struct model_options *o, struct err *e)
{
    const struct config *c = &m->w.cfg;
    size_t half = (size_t)c->rope_dim / 2 * sizeof(float);
    m->mtp = o->drafter && m->w.drafter == DRAFTER_MTP;
    m->freq_main = m->dev->ops->alloc(m->dev, half);
    m->freq_compressed = m->dev->ops->alloc(m->dev, half);
    model_fill_freq(c, false, m->freq_main);
    model_fill_freq(c, true, m->freq_compressed);
    m->n_drafter = !o->drafter || m->w.drafter == DRAFTER_NONE ? 0 : m->mtp ? 1 : m->w.dspark.n_stages;
    m->layers = xcalloc((size_t)(c->n_layers + m->n_drafter), sizeof *m->layers);
    for (int i = 0; i < c->n_layers; i++)
        model_bind_layer(m, &m->layers[i], &m->w.layers[i], i);
    m->embed = wmat_of(&m->w.embed);
    m->head = wmat_of(&m->w.head);
    if (m->mtp) {
        model_bind_layer(m, &m->layers[c->n_layers], &m->w.mtp.layer, c->n_layers);
        m->mtp_e = wmat_of(&m->w.mtp.e_proj);
        m->mtp_h = wmat_of(&m->w.mtp.h_proj);
    }
    int n_stages = m->mtp ? 0 : m->n_drafter;
    for (int i = 0; i < n_stages; i++)
        model_bind_layer(m, &m->layers[c->n_layers + i], &m->w.dspark.stages[i], c->n_layers + i);
    int rc = check_shapes(m, e);
    if (rc == HD_OK && n_stages > 0)
        rc = dspark_open(m, m->layers + c->n_layers, e);
    if (rc != HD_OK)
        return rc;
    kv_layout_init(&m->kv, c, m->numerics == NUM_EXACT ? KV_F32 : KV_FP8, m->n_drafter, m->mtp);
    m->fingerprint = fingerprint_of(m, o);
    rc = model_alloc_workspace(m, e);
    if (rc == HD_OK)
        rc = model_open_pools(m, o->kv_budget_bytes, o->tail_share, e);
    return rc != HD_OK ? rc : model_reserve_scratch(m, e);
}

/* ---------------------------------------------------------------- open, close */

/* As little as a model can run with: one sequence, the logits of one row. */
static int refuse_if_too_large(const struct model *m, const struct model_options *o, struct err *e)
{
    struct plan p;
    struct plan_formats f = plan_formats_released;
    int n_stages;
    uint64_t memory = o->memory_bytes != 0 ? o->memory_bytes : memory_available_bytes();
    plan_inspect(&m->w.ckpt, &f, &n_stages);
    plan_init(&p, &m->w.cfg, &f, n_stages);
    const struct step_size size = {m->max_rows, 1, plan_refuse_context(&p)};
    int rc = memory == 0 ? HD_OK : model_count_step(&p.step_bytes, &m->w.cfg, o->drafter ? n_stages : 0, m->dev, &size, e);
    return rc != HD_OK || memory == 0 ? rc : plan_refuse(&p, m->w.ckpt.dir, memory, e);
}

/* Weights bound, in the layout that the device runs: from a file, or left for model_pack_weights to repack in memory.
 * Headers are read first, since they decide; data are checked unless a file of packed weights was made from checked ones. */
static int load(struct model *m, const char *dir, const struct model_options *o, const struct progress *p, struct err *e)
{
    if (o->packed_file != NULL && (o->native || o->pack_in_memory || !numerics_fast(o->numerics)))
        return err_set(e, HD_EARG, "%s: a file of packed weights is for fast and int8 numerics and the packed layout only",
                       o->packed_file);
    int rc = weights_open(&m->w, dir, false, p, e);
    if (rc == HD_OK)
        rc = refuse_if_too_large(m, o, e);
    if (rc != HD_OK)
        return rc;
    bool file = o->packed_file != NULL || (!o->pack_in_memory && m->w.ckpt.total_bytes >= PACKED_FROM_BYTES);
    if (file && numerics_fast(o->numerics) && !o->native)
        return packed_get(&m->packed, &m->w, m->dev, dir, o, p, e);
    if (!o->check_data)
        return HD_OK;
    weights_close(&m->w);
    return weights_open(&m->w, dir, true, p, e);
}

int model_open(struct model **out, const char *dir, const struct model_options *o, const struct progress *p,
               struct err *e)
{
    *out = NULL;
    struct model *m = xcalloc(1, sizeof *m);
    m->numerics = o->numerics;
    m->stays_stored = o->native || !numerics_fast(o->numerics);
    m->max_rows = o->max_rows > 0 ? o->max_rows : MODEL_ROWS_DEFAULT;
    struct dev_options d = {o->numerics, o->n_threads, o->isa, o->native};
    int rc = dev_open_cpu(&m->dev, &d, e);
    if (rc != HD_OK) {
        free(m);
        return rc;
    }
    rc = load(m, dir, o, p, e);
    if (rc == HD_OK)
        rc = prepare(m, o, e);
    if (rc == HD_OK && m->packed.size == 0)
        rc = model_pack_weights(m, p, e);
    if (rc == HD_OK)
        rc = model_check_int8(m, e);
    if (rc != HD_OK) {
        model_close(&m);
        return rc;
    }
    *out = m;
    return HD_OK;
}

void model_close(struct model **pm)
{
    struct model *m = *pm;
    if (m == NULL)
        return;
    model_free_workspace(m);
    dspark_close(m);
    for (int i = 0; m->layers != NULL && i < m->w.cfg.n_layers + m->n_drafter; i++)
        free(m->layers[i].experts);
    free(m->layers);
    kv_pool_free(&m->pool);
    kv_pool_free(&m->tails);
    weights_close(&m->w);
    m->dev->ops->close(&m->dev);
    file_unmap(&m->packed);
    free(m);
    *pm = NULL;
}

/* ---------------------------------------------------------------- what is known about a model */

const struct config *model_config(const struct model *m)
{
    return &m->w.cfg;
}

const struct weights *model_weights(const struct model *m)
{
    return &m->w;
}

enum numerics model_numerics(const struct model *m)
{
    return m->numerics;
}

int model_max_rows(const struct model *m)
{
    return m->max_rows;
}

bool model_has_mtp(const struct model *m)
{
    return m->mtp;
}

bool model_has_dspark(const struct model *m)
{
    return m->dspark != NULL;
}

uint64_t model_page_bytes(const struct model *m)
{
    return m->kv.page_bytes;
}

int64_t model_pages_total(const struct model *m)
{
    return m->pool.n_blocks;
}

int64_t model_pages_free(const struct model *m)
{
    return m->pool.n_free;
}

uint64_t model_seq_bytes(const struct model *m, int64_t max_tokens)
{
    uint64_t pages = (uint64_t)(max_tokens + KV_PAGE_TOKENS - 1) / KV_PAGE_TOKENS;
    return m->kv.block_bytes + pages * (sizeof(uint8_t *) + sizeof(int32_t));
}

uint64_t model_fingerprint(const struct model *m)
{
    return m->fingerprint;
}

void model_watch(struct model *m, struct watch w)
{
    m->watch = w;
}

void model_tell(struct model *m, enum watch_point p, int layer, const float *v, const int32_t *ints, int n, int dim)
{
    if (m->watch.fn == NULL)
        return;
    size_t bytes = (size_t)n * (size_t)dim * sizeof(float);
    void *copy = xcalloc(1, bytes);
    m->dev->ops->download(m->dev, copy, v != NULL ? (const void *)v : (const void *)ints, bytes);
    m->watch.fn(m->watch.arg, p, layer, v != NULL ? copy : NULL, v != NULL ? NULL : copy, n, dim);
    free(copy);
}
