/* A layer as the operations take it: its weights as matrices, its rotary frequencies. */
#include <math.h>
#include <stdlib.h>

#include "base/mutant.h"
#include "model/model_impl.h"

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

void model_bind_layer(struct model *m, struct layer_ops *l, const struct layer_weights *w, int index)
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
void model_fill_freq(const struct config *c, bool compressed, float *f)
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
