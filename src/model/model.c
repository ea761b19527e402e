/* Opening a model: weights, device, frequency tables, workspace, KV pool. */
#include "model/model.h"

#include <assert.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>
#include <xxhash.h>

#include "hadal.h"
#include "model/model_impl.h"
#include "model/packed.h"
#include "model/plan.h"

#include "base/mutant.h"

enum { INDEX_HEADS_MAX = 256 };

void model_options_init(struct model_options *o)
{
    *o = (struct model_options){.numerics = NUM_FAST, .isa = cpu_isa_best(), .max_rows = MODEL_ROWS_DEFAULT,
                                .check_data = true, .drafter = true};
}

/* ---------------------------------------------------------------- weights to operations */

struct wmat wmat_of(const struct matrix *m)
{
    static const enum wformat formats[DT_COUNT] = {[DT_F32] = W_F32, [DT_BF16] = W_BF16, [DT_F16] = W_F16,
                                                   [DT_F8_E4M3] = W_FP8, [DT_I8] = W_FP4};
    return (struct wmat){.format = formats[m->dtype], .scale_f32 = m->scale_dtype == DT_F32, .rows = m->rows,
                         .cols = m->cols, .data = m->data, .scale = m->scale, .packed = m->packed};
}

static struct op_expert expert_of(const struct expert_weights *e)
{
    return (struct op_expert){wmat_of(&e->w1), wmat_of(&e->w2), wmat_of(&e->w3)};
}

static void bind_layer(struct model *m, struct layer_ops *l, const struct layer_weights *w, int index)
{
    const struct config *c = &m->w.cfg;
    l->w = w;
    l->index = index;
    l->wq_a = wmat_of(&w->wq_a);
    l->wq_b = wmat_of(&w->wq_b);
    l->wkv = wmat_of(&w->wkv);
    l->wo_a = wmat_of(&w->wo_a);
    l->wo_b = wmat_of(&w->wo_b);
    l->gate = wmat_of(&w->gate);
    if (w->ratio > 0) {
        l->comp_kv = wmat_of(&w->compressor.wkv);
        l->comp_gate = wmat_of(&w->compressor.wgate);
    }
    if (w->ratio == 4) {
        l->index_wq_b = wmat_of(&w->index_wq_b);
        l->index_weights = wmat_of(&w->index_weights);
        l->index_kv = wmat_of(&w->index_compressor.wkv);
        l->index_gate = wmat_of(&w->index_compressor.wgate);
    }
    l->experts = xcalloc((size_t)c->n_experts, sizeof *l->experts);
    for (int i = 0; i < c->n_experts; i++)
        l->experts[i] = expert_of(&w->experts[i]);
    l->shared = expert_of(&w->shared);
    bool compressed = w->ratio > 0;
    l->freq = compressed || MUTANT(1) ? m->freq_compressed : m->freq_main;
    /* Mutant 19: the drafter's layer takes the kind of layer 1, as if every model began like Flash. */
    if (MUTANT(19) && index == c->n_layers)
        l->freq = m->layers[1].freq;
}

/* ---------------------------------------------------------------- rotary frequencies */

/* base^(-2i/rd), in compressed layers blended by YaRN between the plain and the 1/factor frequencies (docs/NUMERICS.md,
 * rotary positions). No magnitude scale anywhere. */
static void fill_freq(const struct config *c, bool compressed, float *f)
{
    const struct yarn *y = &c->yarn;
    double base = compressed ? c->compress_rope_theta : c->rope_theta;
    double pi = 3.14159265358979323846, rd = c->rope_dim;
    bool yarn = compressed && y->factor > 1 && y->original_len > 0;
    double lo = 0, hi = 0;
    if (yarn) {
        lo = floor(rd * log(y->original_len / (y->beta_fast * 2 * pi)) / (2 * log(base)));
        hi = ceil(rd * log(y->original_len / (y->beta_slow * 2 * pi)) / (2 * log(base)));
        lo = lo < 0 ? 0 : lo;
        hi = hi > rd - 1 ? rd - 1 : hi;
    }
    for (int i = 0; i < c->rope_dim / 2; i++) {
        double b = pow(base, -2.0 * i / rd);
        double ramp = yarn ? (i - lo) / (hi != lo ? hi - lo : 0.001) : 0;
        ramp = ramp < 0 ? 0 : ramp > 1 ? 1 : ramp;
        f[i] = (float)(yarn ? b / y->factor * ramp + b * (1 - ramp) : b);
    }
}

/* ---------------------------------------------------------------- memory */

static void *room(struct model *m, size_t n, size_t size, uint64_t *total)
{
    *total += (uint64_t)n * size;
    return m->dev->ops->alloc(m->dev, n * size);
}

struct need {
    void **at;
    size_t n; /* 4-byte elements */
};

int model_alloc_workspace(struct model *m, struct err *e)
{
    const struct config *c = &m->w.cfg;
    struct workspace *w = &m->ws;
    size_t N = (size_t)m->max_rows, S = (size_t)c->hc_mult, D = (size_t)c->hidden_size, hd = (size_t)c->head_dim;
    size_t H = (size_t)c->n_heads, K = (size_t)c->n_experts_per_tok, pairs = N * (K + 1);
    size_t id = (size_t)c->index_head_dim, ih = (size_t)c->index_n_heads;
    size_t mtp = m->mtp ? N * S * D : 1;
    const struct need needs[] = {
        {(void **)&w->x, N * S * D},        {(void **)&w->x_mtp, mtp},
        {(void **)&w->mtp_h, mtp},          {(void **)&w->y, N * D},
        {(void **)&w->a, N * D},            {(void **)&w->out, N * D},
        {(void **)&w->post, N * S},         {(void **)&w->comb, N * S * S},
        {(void **)&w->qa, N * (size_t)c->q_lora_rank},
        {(void **)&w->q, N * H * hd},       {(void **)&w->kv, N * hd},
        {(void **)&w->o, N * H * hd},       {(void **)&w->low, N * (size_t)c->o_groups * (size_t)c->o_lora_rank},
        {(void **)&w->ckv, N * 2 * hd},     {(void **)&w->cgate, N * 2 * hd},
        {(void **)&w->ikv, N * 2 * id},     {(void **)&w->igate, N * 2 * id},
        {(void **)&w->iq, N * ih * id},     {(void **)&w->iw, N * ih},
        {(void **)&w->z, N * (size_t)c->n_experts},
        {(void **)&w->weights, N * K},      {(void **)&w->moe_h, pairs * (size_t)c->expert_dim},
        {(void **)&w->moe_out, pairs * D},  {(void **)&w->topk, N * (size_t)c->index_topk},
        {(void **)&w->experts, N * K},      {(void **)&w->head_x, N * S * D},
        {(void **)&w->head_y, N * D},       {(void **)&w->pick, N},
        {(void **)&m->rows.tokens, N},      {(void **)&m->rows.pos, N},
        {(void **)&m->mtp_rows.tokens, N},  {(void **)&m->mtp_rows.pos, N},
    };
    uint64_t total = 0;
    for (size_t i = 0; i < COUNT_OF(needs); i++) {
        *needs[i].at = room(m, needs[i].n, sizeof(float), &total);
        if (*needs[i].at == NULL)
            return err_set(e, HD_ENOMEM, "no memory for a workspace of %d rows (more than %llu bytes)", m->max_rows,
                           (unsigned long long)total);
    }
    w->bytes = total + N * (2 * sizeof *m->rows.seqs + 2 * sizeof *m->rows.owner + sizeof *m->mtp_pos + sizeof *m->mtp_item +
                            2 * (sizeof *m->mtp_out_pos + sizeof *m->mtp_out_item + sizeof *m->tail_at));
    m->rows.seqs = xcalloc(N, sizeof *m->rows.seqs);
    m->rows.owner = xcalloc(N, sizeof *m->rows.owner);
    m->mtp_rows.seqs = xcalloc(N, sizeof *m->mtp_rows.seqs);
    m->mtp_rows.owner = xcalloc(N, sizeof *m->mtp_rows.owner);
    m->mtp_pos = xcalloc(N, sizeof *m->mtp_pos);
    m->mtp_item = xcalloc(N, sizeof *m->mtp_item);
    m->mtp_out_pos = xcalloc(2 * N, sizeof *m->mtp_out_pos);
    m->mtp_out_item = xcalloc(2 * N, sizeof *m->mtp_out_item);
    m->tail_at = xcalloc(2 * N, sizeof *m->tail_at);
    return HD_OK;
}

void model_free_workspace(struct model *m)
{
    struct workspace *w = &m->ws;
    void *all[] = {w->x, w->x_mtp, w->mtp_h, w->y, w->a, w->out, w->post, w->comb, w->qa, w->q, w->kv, w->o, w->low,
                   w->ckv, w->cgate, w->ikv, w->igate, w->iq, w->iw, w->z, w->weights, w->moe_h, w->moe_out, w->topk,
                   w->experts, w->head_x, w->head_y, w->pick, m->rows.tokens, m->rows.pos, m->mtp_rows.tokens,
                   m->mtp_rows.pos, w->logits, w->mtp_logits, m->freq_main, m->freq_compressed};
    for (size_t i = 0; i < COUNT_OF(all); i++)
        m->dev->ops->release(m->dev, all[i]);
    free(m->rows.seqs);
    free(m->rows.owner);
    free(m->mtp_rows.seqs);
    free(m->mtp_rows.owner);
    free(m->mtp_pos);
    free(m->mtp_item);
    free(m->mtp_out_pos);
    free(m->mtp_out_item);
    free(m->tail_at);
}

/* Pages for max_positions tokens once, at most half of the machine's memory, or what the caller's budget holds. A budget
 * is shared between pages and tails: the tails get their share first, whole tails only. */
static int open_pools(struct model *m, uint64_t budget_bytes, double tail_share, struct err *e)
{
    int64_t once = ((int64_t)m->w.cfg.max_positions + KV_PAGE_TOKENS - 1) / KV_PAGE_TOKENS;
    uint64_t ram = (uint64_t)sysconf(_SC_PHYS_PAGES) * (uint64_t)sysconf(_SC_PAGE_SIZE);
    uint64_t budget = budget_bytes != 0 ? budget_bytes : ram / 2;
    int64_t n_tails = (int64_t)((double)budget * tail_share / (double)m->kv.tail_bytes);
    int64_t n = (int64_t)((budget - (uint64_t)n_tails * m->kv.tail_bytes) / m->kv.page_bytes);
    if (budget_bytes == 0 && n > once) { /* tails keep their share of what is left */
        n = once;
        double tail_bytes = (double)n * (double)m->kv.page_bytes * tail_share / (1 - tail_share);
        n_tails = (int64_t)(tail_bytes / (double)m->kv.tail_bytes);
    }
    if (n < 1 || n > INT32_MAX || n_tails > INT32_MAX)
        return err_set(e, HD_EARG, "a KV budget of %llu bytes does not hold one page of %zu bytes",
                       (unsigned long long)budget, m->kv.page_bytes);
    int rc = kv_pool_init(&m->pool, m->kv.page_bytes, n, e);
    return rc != HD_OK || n_tails == 0 ? rc : kv_pool_init(&m->tails, m->kv.tail_bytes, n_tails, e);
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
    fill_freq(c, false, m->freq_main);
    fill_freq(c, true, m->freq_compressed);
    m->n_drafter = !o->drafter || m->w.drafter == DRAFTER_NONE ? 0 : m->mtp ? 1 : m->w.dspark.n_stages;
    m->layers = xcalloc((size_t)(c->n_layers + m->n_drafter), sizeof *m->layers);
    for (int i = 0; i < c->n_layers; i++)
        bind_layer(m, &m->layers[i], &m->w.layers[i], i);
    m->embed = wmat_of(&m->w.embed);
    m->head = wmat_of(&m->w.head);
    if (m->mtp) {
        bind_layer(m, &m->layers[c->n_layers], &m->w.mtp.layer, c->n_layers);
        m->mtp_e = wmat_of(&m->w.mtp.e_proj);
        m->mtp_h = wmat_of(&m->w.mtp.h_proj);
    }
    int n_stages = m->mtp ? 0 : m->n_drafter;
    for (int i = 0; i < n_stages; i++)
        bind_layer(m, &m->layers[c->n_layers + i], &m->w.dspark.stages[i], c->n_layers + i);
    int rc = check_shapes(m, e);
    if (rc == HD_OK && n_stages > 0)
        rc = dspark_open(m, m->layers + c->n_layers, e);
    if (rc != HD_OK)
        return rc;
    kv_layout_init(&m->kv, c, m->numerics == NUM_EXACT ? KV_F32 : KV_FP8, m->n_drafter, m->mtp);
    m->fingerprint = fingerprint_of(m, o);
    rc = model_alloc_workspace(m, e);
    if (rc == HD_OK)
        rc = open_pools(m, o->kv_budget_bytes, o->tail_share, e);
    return rc != HD_OK ? rc : model_reserve_scratch(m, e);
}

/* ---------------------------------------------------------------- the device's own layout */

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
static int pack_weights(struct model *m, const struct progress *p, struct err *e)
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
static int check_int8(struct model *m, struct err *e)
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

/* Weights bound, in the layout that the device runs: from a file, or left for pack_weights to repack in memory. Headers are
 * read first, since they decide; data are checked unless a file of packed weights was made from checked ones. */
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
        rc = pack_weights(m, p, e);
    if (rc == HD_OK)
        rc = check_int8(m, e);
    if (rc != HD_OK) {
        model_close(&m);
        return rc;
    }
    *out = m;
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

void model_warm(const struct model *m)
{
    warm(&m->packed);
    bool stored = m->w.head.packed == NULL && m->stays_stored; /* nothing was packed: the checkpoint is what runs */
    for (int i = 0; stored && i < m->w.ckpt.n_shards; i++)
        warm(&m->w.ckpt.shards[i].map);
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

int model_logits_room(struct model *m, float **buf, size_t *cap, size_t n, struct err *e)
{
    if (n <= *cap)
        return HD_OK;
    size_t bytes = n * (size_t)m->w.cfg.vocab_size * sizeof(float);
    m->dev->ops->release(m->dev, *buf);
    *buf = m->dev->ops->alloc(m->dev, bytes);
    *cap = *buf == NULL ? 0 : n;
    return *buf != NULL ? HD_OK : err_set(e, HD_ENOMEM, "no memory for %zu rows of logits (%zu bytes)", n, bytes);
}

int model_reserve_logits(struct model *m, int n, struct err *e)
{
    return model_logits_room(m, &m->ws.logits, &m->ws.n_logits_cap, (size_t)n, e);
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
