/* weights: the whole model bound to a checkpoint - main layers, head, drafter, and what is left over. */
#include "model/weights.h"

#include "model/bind.h"
#include "num/num.h"

#include <assert.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void bind_head(struct binder *b, struct head_weights *h)
{
    const struct config *c = &b->w->cfg;
    struct vec fn;
    bind_vec(b, &fn, "hc_head_fn", c->hc_mult, c->hc_mult * c->hidden_size);
    h->hc_fn = fn.data;
    bind_vec(b, &h->hc_base, "hc_head_base", c->hc_mult, 0);
    bind_vec(b, &h->hc_scale, "hc_head_scale", 1, 0);
    bind_vec(b, &h->norm, "norm.weight", c->hidden_size, 0);
}

/* ---------------------------------------------------------------- drafters */

/* Number of distinct mtp.N. prefixes; config.json does not tell (num_nextn_predict_layers is 1 with three stages). */
static int count_stages(const struct checkpoint *c)
{
    int n = 0;
    for (int64_t i = 0; i < c->n_tensors; i++)
        if (strncmp(c->tensors[i].name, "mtp.", 4) == 0) {
            long s = strtol(c->tensors[i].name + 4, NULL, 10);
            n = s >= n && s < LAYERS_MAX ? (int)s + 1 : n;
        }
    return n;
}

static void bind_mtp(struct binder *b, int n_stages)
{
    struct weights *w = b->w;
    int hidden = w->cfg.hidden_size;
    if (n_stages != 1) {
        b->rc = err_set(b->e, HD_EUNSUPPORTED, "%s: has %d MTP stages, expected one", w->ckpt.dir, n_stages);
        return;
    }
    w->drafter = DRAFTER_MTP;
    bind_prefix(b, "mtp.0.");
    bind_layer(b, &w->mtp.layer, 0, false);
    bind_vec(b, &w->mtp.enorm, "enorm.weight", hidden, 0);
    bind_vec(b, &w->mtp.hnorm, "hnorm.weight", hidden, 0);
    bind_matrix(b, &w->mtp.e_proj, "e_proj", hidden, hidden);
    bind_matrix(b, &w->mtp.h_proj, "h_proj", hidden, hidden);
    bind_head(b, &w->mtp.head);
}

static void bind_dspark(struct binder *b, int n_stages)
{
    struct weights *w = b->w;
    struct dspark_weights *d = &w->dspark;
    const struct config *c = &w->cfg;
    if (c->dspark_block == 0) {
        b->rc = err_set(b->e, HD_EFORMAT,
                        "%s/config.json: the key \"dspark_block_size\" is missing, but the checkpoint has "
                        "DSpark stages (mtp.0.main_proj.weight)",
                        w->ckpt.dir);
        return;
    }
    w->drafter = DRAFTER_DSPARK;
    d->stages = xcalloc((size_t)n_stages, sizeof *d->stages);
    d->n_stages = n_stages;
    for (int s = 0; s < n_stages; s++) {
        bind_prefix(b, "mtp.%d.", s);
        bind_layer(b, &d->stages[s], 0, false);
    }
    bind_head(b, &d->head);
    bind_matrix(b, &d->markov_w1, "markov_head.markov_w1", c->vocab_size, c->dspark_markov_rank);
    bind_matrix(b, &d->markov_w2, "markov_head.markov_w2", c->vocab_size, c->dspark_markov_rank);
    bind_matrix(b, &d->confidence, "confidence_head.proj", 1, c->hidden_size + c->dspark_markov_rank);
    bind_prefix(b, "mtp.0.");
    bind_matrix(b, &d->main_proj, "main_proj", c->hidden_size, c->n_dspark_targets * c->hidden_size);
    bind_vec(b, &d->main_norm, "main_norm.weight", c->hidden_size, 0);
}

static void bind_drafter(struct binder *b)
{
    struct weights *w = b->w;
    int n = count_stages(&w->ckpt);
    if (b->rc != HD_OK || n == 0)
        return;
    for (int l = w->cfg.n_layers; l < w->cfg.n_compress_ratios && l < w->cfg.n_layers + n; l++)
        if (w->cfg.compress_ratio[l] != 0)
            b->rc = err_set(b->e, HD_EUNSUPPORTED,
                            "%s/config.json: \"compress_ratios\"[%d] of a drafter layer is %d, expected 0",
                            w->ckpt.dir, l, w->cfg.compress_ratio[l]);
    bind_prefix(b, "mtp.0.");
    if (bind_has(b, "main_proj.weight"))
        bind_dspark(b, n);
    else
        bind_mtp(b, n);
}

/* ---------------------------------------------------------------- what is left over */

/* A tensor that this model's structure has no place for although its kind is known: config.json and checkpoint
 * disagree, and running would give wrong numbers. */
static const char *contradiction(const struct config *c, const char *name)
{
    static const struct {
        const char *infix, *what;
    } known[] = {
        {".attn.compressor.", "a layer without compressor"},
        {".attn.indexer.", "a layer without indexer"},
        {".ffn.gate.tid2eid", "a layer without hash routing"},
    };
    long l = strtol(name + strlen("layers."), NULL, 10);
    if (l >= c->n_layers)
        return "fewer layers";
    for (size_t i = 0; i < COUNT_OF(known); i++)
        if (strstr(name, known[i].infix) != NULL)
            return known[i].what;
    return NULL;
}

static void list_ignored(struct binder *b)
{
    struct weights *w = b->w;
    const struct checkpoint *c = &w->ckpt;
    for (int64_t i = 0; i < c->n_tensors && b->rc == HD_OK; i++) {
        const struct tensor *t = &c->tensors[i];
        if (b->used[i])
            continue;
        const char *what = strncmp(t->name, "layers.", 7) == 0 ? contradiction(&w->cfg, t->name) : NULL;
        if (what != NULL)
            b->rc = err_set(b->e, HD_EFORMAT, "%s: holds tensor %s, but by config.json this is %s",
                            c->shards[t->i_shard].path, t->name, what);
        w->ignored = xrealloc(w->ignored, (size_t)(w->n_ignored + 1) * sizeof *w->ignored);
        w->ignored[w->n_ignored++] = xstrdup(t->name);
    }
}

/* ---------------------------------------------------------------- open, close */

static void bind_all(struct binder *b)
{
    struct weights *w = b->w;
    const struct config *c = &w->cfg;
    bind_matrix(b, &w->embed, "embed", c->vocab_size, c->hidden_size);
    bind_matrix(b, &w->head, "head", c->vocab_size, c->hidden_size);
    bind_head(b, &w->out);
    w->layers = xcalloc((size_t)c->n_layers, sizeof *w->layers);
    for (int l = 0; l < c->n_layers; l++) {
        bind_prefix(b, "layers.%d.", l);
        bind_layer(b, &w->layers[l], c->compress_ratio[l], l < c->n_hash_layers);
    }
    bind_drafter(b);
    list_ignored(b);
}

static int open_all(struct weights *w, const char *dir, bool map_data, bool check_data, const struct progress *p,
                    struct err *e)
{
    *w = (struct weights){0};
    int rc = config_load(&w->cfg, dir, e);
    if (rc == HD_OK)
        rc = checkpoint_open(&w->ckpt, dir, map_data, p, e);
    if (rc != HD_OK)
        return rc;
    struct binder b = {.w = w, .e = e, .check_data = check_data};
    b.used = xcalloc((size_t)w->ckpt.n_tensors, sizeof *b.used);
    bind_all(&b);
    if (b.rc == HD_OK)
        b.rc = data_checks_run(&b, p, e);
    free(b.used);
    free(b.checks);
    if (b.rc != HD_OK)
        weights_close(w);
    return b.rc;
}

int weights_open(struct weights *w, const char *dir, bool check_data, const struct progress *p, struct err *e)
{
    return open_all(w, dir, true, check_data, p, e);
}

int weights_open_headers(struct weights *w, const char *dir, const struct progress *p, struct err *e)
{
    return open_all(w, dir, false, false, p, e);
}

void weights_close(struct weights *w)
{
    for (int l = 0; w->layers != NULL && l < w->cfg.n_layers; l++)
        free(w->layers[l].experts);
    for (int s = 0; s < w->dspark.n_stages; s++)
        free(w->dspark.stages[s].experts);
    for (int64_t i = 0; i < w->n_ignored; i++)
        free(w->ignored[i]);
    free(w->layers);
    free(w->dspark.stages);
    free(w->mtp.layer.experts);
    free(w->ignored);
    weights_arena_free(w);
    checkpoint_close(&w->ckpt);
    *w = (struct weights){0};
}

/* ---------------------------------------------------------------- every matrix */

struct visit {
    int (*fn)(void *arg, struct matrix *m);
    void *arg;
    int rc;
};

static void visit_one(struct visit *v, struct matrix *m)
{
    if (v->rc == HD_OK && m->name != NULL) /* absent ones have none */
        v->rc = v->fn(v->arg, m);
}

static void visit_expert(struct visit *v, struct expert_weights *x)
{
    visit_one(v, &x->w1);
    visit_one(v, &x->w3);
    visit_one(v, &x->w2);
}

static void visit_layer(struct visit *v, const struct config *c, struct layer_weights *l)
{
    struct matrix *all[] = {&l->wq_a, &l->wq_b, &l->wkv, &l->wo_a, &l->wo_b, &l->compressor.wkv, &l->compressor.wgate,
                            &l->index_wq_b, &l->index_weights, &l->index_compressor.wkv, &l->index_compressor.wgate,
                            &l->gate};
    for (size_t i = 0; i < COUNT_OF(all); i++)
        visit_one(v, all[i]);
    visit_expert(v, &l->shared);
    for (int i = 0; i < c->n_experts; i++)
        visit_expert(v, &l->experts[i]);
}

int weights_each_matrix(struct weights *w, int (*fn)(void *arg, struct matrix *m), void *arg)
{
    struct visit v = {fn, arg, HD_OK};
    for (int i = 0; i < w->cfg.n_layers; i++)
        visit_layer(&v, &w->cfg, &w->layers[i]);
    visit_one(&v, &w->head);
    if (w->drafter == DRAFTER_MTP) {
        visit_layer(&v, &w->cfg, &w->mtp.layer);
        visit_one(&v, &w->mtp.e_proj);
        visit_one(&v, &w->mtp.h_proj);
    }
    for (int i = 0; i < w->dspark.n_stages; i++)
        visit_layer(&v, &w->cfg, &w->dspark.stages[i]);
    if (w->drafter == DRAFTER_DSPARK) {
        visit_one(&v, &w->dspark.main_proj);
        visit_one(&v, &w->dspark.markov_w2);
        visit_one(&v, &w->dspark.confidence);
    }
    return v.rc;
}

void matrix_forget(const struct matrix *m)
{
    size_t values = (size_t)m->rows * (size_t)m->cols;
    file_map_forget(m->data, m->dtype == DT_I8 ? values / 2 : values * (size_t)dtype_bytes(m->dtype));
}

/* ---------------------------------------------------------------- decoding */

static float scale_at(const struct matrix *m, size_t i)
{
    return m->scale_dtype == DT_F32 ? ((const float *)m->scale)[i] : f32_from_e8m0(((const uint8_t *)m->scale)[i]);
}

void matrix_row(const struct matrix *m, int r, float *out)
{
    assert(m->data != NULL && r >= 0 && r < m->rows);
    size_t n = (size_t)m->cols, row = (size_t)r, at = row * n;
    const uint8_t *bytes = m->data;
    const uint16_t *half = m->data;
    const float *f32 = m->data;
    size_t n_blocks = (n + 127) / 128;
    for (size_t i = 0; i < n; i++)
        switch (m->dtype) {
        case DT_F32:
            out[i] = f32[at + i];
            break;
        case DT_BF16:
            out[i] = f32_from_bf16(half[at + i]);
            break;
        case DT_F16:
            out[i] = f32_from_f16(half[at + i]);
            break;
        case DT_F8_E4M3:
            out[i] = e4m3_table[bytes[at + i]] * scale_at(m, row / 128 * n_blocks + i / 128);
            break;
        default:
            assert(m->dtype == DT_I8);
            out[i] = e2m1_table[bytes[at / 2 + i / 2] >> (i % 2 * 4) & 15] * scale_at(m, row * (n / 32) + i / 32);
        }
}
