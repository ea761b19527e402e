/* Hyper-connections: mixing weights with Sinkhorn, the weighted sums before and after a sub-layer, the final collapse. */
#include "ops/cpu/cpu.h"

#include <assert.h>
#include <math.h>

#include "base/mutant.h"

enum { S_MAX = 8 };

struct hc_job {
    struct cpu_dev *c;
    const void *o;
};

static float sigmoid(float x)
{
    return 1.0f / (1.0f + expf(-x));
}

/* m[k] = (fn_k . v) * rsqrt(mean(v^2) + eps), the dot product first. */
static void mix(const struct cpu_dev *c, const float *v, int len, const float *fn, int n_out, float eps, float *m)
{
    float r = 1.0f / sqrtf(c->kern->sum_squares(v, len) / (float)len + eps);
    for (int k = 0; k < n_out; k++)
        m[k] = c->kern->dot(fn + (size_t)k * (size_t)len, v, len) * r;
}

static void normalise_rows(float *m, int s, float eps)
{
    for (int j = 0; j < s; j++) {
        float sum = 0;
        for (int k = 0; k < s; k++)
            sum += m[j * s + k];
        for (int k = 0; k < s; k++)
            m[j * s + k] /= sum + eps;
    }
}

static void normalise_columns(float *m, int s, float eps)
{
    for (int k = 0; k < s; k++) {
        float sum = 0;
        for (int j = 0; j < s; j++)
            sum += m[j * s + k];
        for (int j = 0; j < s; j++)
            m[j * s + k] /= sum + eps;
    }
}

/* Softmax over each row plus eps, one column pass, then iters-1 times a row and a column pass: it ends on columns. */
static void sinkhorn(float *m, int s, int iters, float eps)
{
    for (int j = 0; j < s; j++) {
        float *row = m + j * s, top = row[0], sum = 0;
        for (int k = 1; k < s; k++)
            top = row[k] > top ? row[k] : top;
        for (int k = 0; k < s; k++)
            sum += row[k] = expf(row[k] - top);
        for (int k = 0; k < s; k++)
            row[k] = row[k] / sum + (MUTANT(15) ? 0 : eps);
    }
    for (int i = 0; i < iters; i++) {
        if (i > 0 || MUTANT(15))
            normalise_rows(m, s, eps);
        if (i > 0 || !MUTANT(15))
            normalise_columns(m, s, eps);
    }
}

/* y = sum_h w[h] x[h], rounded once. */
static void collapse(const struct cpu_dev *c, const float *x, const float *w, int s, int dim, float *y)
{
    for (int k = 0; k < dim; k++)
        y[k] = w[0] * x[k];
    for (int h = 1; h < s; h++)
        c->kern->axpy(w[h], x + (size_t)h * (size_t)dim, dim, y);
    cpu_round(c, y, (size_t)dim);
}

static void hc_pre_task(void *arg, int i, int i_thread)
{
    (void)i_thread;
    const struct hc_job *j = arg;
    const struct op_hc_pre *o = j->o;
    int s = o->streams, len = s * o->dim;
    float m[(2 + S_MAX) * S_MAX], pre[S_MAX];
    assert(s <= S_MAX);
    const float *x = o->x + (size_t)i * (size_t)len;
    mix(j->c, x, len, o->fn, (2 + s) * s, o->eps, m);
    float *post = o->post + (size_t)i * (size_t)s, *comb = o->comb + (size_t)i * (size_t)(s * s);
    for (int h = 0; h < s; h++) {
        pre[h] = sigmoid(m[h] * o->scale[0] + o->base[h]) + o->hc_eps;
        post[h] = 2.0f * sigmoid(m[s + h] * o->scale[1] + o->base[s + h]);
    }
    for (int k = 0; k < s * s; k++)
        comb[k] = m[2 * s + k] * o->scale[2] + o->base[2 * s + k];
    sinkhorn(comb, s, o->sinkhorn_iters, o->hc_eps);
    collapse(j->c, x, pre, s, o->dim, o->y + (size_t)i * (size_t)o->dim);
}

void cpu_hc_pre(struct dev *d, const struct op_hc_pre *o)
{
    struct hc_job j = {cpu_of(d), o};
    cpu_run(j.c, o->n, (double)o->n * o->dim * o->streams * (2 + o->streams) * o->streams, hc_pre_task, &j);
}

static void hc_post_task(void *arg, int i, int i_thread)
{
    const struct hc_job *job = arg;
    const struct op_hc_post *o = job->o;
    int s = o->streams;
    size_t dim = (size_t)o->dim;
    const float *post = o->post + (size_t)i * (size_t)s, *comb = o->comb + (size_t)i * (size_t)(s * s);
    const float *out = o->o + (size_t)i * dim;
    float *x = o->x + (size_t)i * (size_t)s * dim;
    float *y = cpu_scratch(job->c, i_thread, (size_t)s * dim);
    for (int k = 0; k < s; k++) {
        float *yk = y + (size_t)k * dim;
        for (size_t e = 0; e < dim; e++)
            yk[e] = post[k] * out[e];
        for (int j = 0; j < s; j++)
            job->c->kern->axpy(comb[j * s + k], x + (size_t)j * dim, o->dim, yk);
    }
    for (size_t e = 0; e < (size_t)s * dim; e++)
        x[e] = y[e];
    cpu_round(job->c, x, (size_t)s * dim);
}

void cpu_hc_post(struct dev *d, const struct op_hc_post *o)
{
    struct hc_job j = {cpu_of(d), o};
    cpu_run(j.c, o->n, (double)o->n * o->dim * o->streams * (o->streams + 1), hc_post_task, &j);
}

static void hc_head_task(void *arg, int i, int i_thread)
{
    (void)i_thread;
    const struct hc_job *j = arg;
    const struct op_hc_head *o = j->o;
    int s = o->streams, len = s * o->dim;
    float w[S_MAX];
    assert(s <= S_MAX);
    const float *x = o->x + (size_t)i * (size_t)len;
    mix(j->c, x, len, o->fn, s, o->eps, w);
    for (int h = 0; h < s; h++)
        w[h] = sigmoid(w[h] * o->scale[0] + o->base[h]) + o->hc_eps;
    collapse(j->c, x, w, s, o->dim, o->y + (size_t)i * (size_t)o->dim);
}

void cpu_hc_head(struct dev *d, const struct op_hc_head *o)
{
    struct hc_job j = {cpu_of(d), o};
    cpu_run(j.c, o->n, (double)o->n * o->dim * o->streams * o->streams, hc_head_task, &j);
}
