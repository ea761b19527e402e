/* Hyper-connections: mixing weights with Sinkhorn, the weighted sums before and after a sub-layer, the final collapse. */
#include "ops/cpu/cpu.h"

#include <assert.h>
#include <math.h>

#include "base/mutant.h"

enum { S_MAX = ROW_STREAMS_MAX, MIX_AT_ONCE = 4 };

struct hc_job {
    struct cpu_dev *c;
    const void *o;
    float *mixes; /* [n][n_out + 1]: fn . v of every row, then sum of v^2 */
};

/* What the products with fn are made of. */
struct mix_job {
    struct cpu_dev *c;
    const float *x, *fn; /* [n][len], [n_out][len] */
    int n, n_out, len, parts;
    float *mixes;
};

static float sigmoid(float x)
{
    return 1.0f / (1.0f + expf(-x));
}

/* Few rows: a task is MIX_AT_ONCE of fn's rows against one token, the last one the sum of squares. */
static void mix_part_task(void *arg, int i_task, int i_thread)
{
    (void)i_thread;
    const struct mix_job *j = arg;
    int i = i_task / j->parts, first = i_task % j->parts * MIX_AT_ONCE, left = j->n_out - first;
    int n = left < MIX_AT_ONCE ? left : MIX_AT_ONCE;
    size_t len = (size_t)j->len;
    const float *v = j->x + (size_t)i * len;
    float *m = j->mixes + (size_t)i * (size_t)(j->n_out + 1);
    if (left <= 0)
        m[j->n_out] = j->c->kern->sum_squares(v, j->len);
    else
        j->c->kern->dot_many(j->fn + (size_t)first * len, len, n, v, j->len, m + first, 1);
}

/* Many: each of fn's rows is read once for MIX_AT_ONCE tokens. */
static void mix_rows_task(void *arg, int i_task, int i_thread)
{
    (void)i_thread;
    const struct mix_job *j = arg;
    int first = i_task * MIX_AT_ONCE, n = j->n - first < MIX_AT_ONCE ? j->n - first : MIX_AT_ONCE;
    size_t len = (size_t)j->len, row = (size_t)j->n_out + 1;
    const float *v = j->x + (size_t)first * len;
    float *m = j->mixes + (size_t)first * row;
    for (int k = 0; k < j->n_out; k++)
        j->c->kern->dot_many(v, len, n, j->fn + (size_t)k * len, j->len, m + k, row);
    for (int i = 0; i < n; i++)
        m[(size_t)i * row + (size_t)j->n_out] = j->c->kern->sum_squares(v + (size_t)i * len, j->len);
}

/* Scratch with the products of all rows; the same bits either way. */
static float *mix_all(struct cpu_dev *c, const float *x, int n, int len, const float *fn, int n_out)
{
    struct mix_job j = {c, x, fn, n, n_out, len, (n_out + MIX_AT_ONCE - 1) / MIX_AT_ONCE + 1, NULL};
    double work = (double)n * len * n_out;
    j.mixes = cpu_shared_scratch(c, cpu_hc_floats(n, n_out));
    if (n < 2 * MIX_AT_ONCE)
        cpu_run(c, n * j.parts, work, mix_part_task, &j);
    else
        cpu_run(c, (n + MIX_AT_ONCE - 1) / MIX_AT_ONCE, work, mix_rows_task, &j);
    return j.mixes;
}

size_t cpu_hc_floats(int n, int n_out)
{
    return (size_t)n * ((size_t)n_out + 1);
}

/* Row i of the products times rsqrt(mean(v^2) + eps), in place: the mixes m of one token. */
static float *mix_of(const struct hc_job *j, int i, int n_out, int len, float eps)
{
    float *m = j->mixes + (size_t)i * (size_t)(n_out + 1), r = 1.0f / sqrtf(m[n_out] / (float)len + eps);
    for (int k = 0; k < n_out; k++)
        m[k] *= r;
    return m;
}

/* Mutant 15: started with rows. */
static void transpose(float *m, int s)
{
    for (int j = 0; j < s; j++)
        for (int k = 0; k < j; k++) {
            float t = m[j * s + k];
            m[j * s + k] = m[k * s + j];
            m[k * s + j] = t;
        }
}

/* Softmax over each row plus eps, one column pass, then iters-1 times a row and a column pass: it ends on columns. */
static void sinkhorn(const struct cpu_dev *c, float *m, int s, int iters, float eps)
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
    if (MUTANT(15))
        transpose(m, s);
    c->row->sinkhorn(m, s, iters, eps);
    if (MUTANT(15))
        transpose(m, s);
}

static void hc_pre_task(void *arg, int i, int i_thread)
{
    (void)i_thread;
    const struct hc_job *j = arg;
    const struct op_hc_pre *o = j->o;
    int s = o->streams, len = s * o->dim;
    float pre[S_MAX];
    const float *x = o->x + (size_t)i * (size_t)len, *m = mix_of(j, i, (2 + s) * s, len, o->eps);
    float *post = o->post + (size_t)i * (size_t)s, *comb = o->comb + (size_t)i * (size_t)(s * s);
    for (int h = 0; h < s; h++) {
        pre[h] = sigmoid(m[h] * o->scale[0] + o->base[h]) + o->hc_eps;
        post[h] = 2.0f * sigmoid(m[s + h] * o->scale[1] + o->base[s + h]);
    }
    for (int k = 0; k < s * s; k++)
        comb[k] = m[2 * s + k] * o->scale[2] + o->base[2 * s + k];
    sinkhorn(j->c, comb, s, o->sinkhorn_iters, o->hc_eps);
    j->c->row->collapse(x, pre, s, o->dim, cpu_rounds(&j->c->base), o->y + (size_t)i * (size_t)o->dim);
}

void cpu_hc_pre(struct dev *d, const struct op_hc_pre *o)
{
    int s = o->streams;
    assert(s <= S_MAX);
    struct hc_job j = {cpu_of(d), o, mix_all(cpu_of(d), o->x, o->n, s * o->dim, o->fn, (2 + s) * s)};
    cpu_run(j.c, o->n, (double)o->n * o->dim * s, hc_pre_task, &j);
}

static void hc_post_task(void *arg, int i, int i_thread)
{
    (void)i_thread;
    const struct hc_job *j = arg;
    const struct op_hc_post *o = j->o;
    size_t s = (size_t)o->streams, dim = (size_t)o->dim, at = (size_t)i;
    j->c->row->mix_streams(o->o + at * dim, o->post + at * s, o->comb + at * s * s, o->streams, o->dim,
                           cpu_rounds(&j->c->base), o->x + at * s * dim);
}

void cpu_hc_post(struct dev *d, const struct op_hc_post *o)
{
    struct hc_job j = {cpu_of(d), o, NULL};
    cpu_run(j.c, o->n, (double)o->n * o->dim * o->streams * (o->streams + 1), hc_post_task, &j);
}

static void hc_head_task(void *arg, int i, int i_thread)
{
    (void)i_thread;
    const struct hc_job *j = arg;
    const struct op_hc_head *o = j->o;
    int s = o->streams, len = s * o->dim;
    float w[S_MAX];
    const float *x = o->x + (size_t)i * (size_t)len, *m = mix_of(j, i, s, len, o->eps);
    for (int h = 0; h < s; h++)
        w[h] = sigmoid(m[h] * o->scale[0] + o->base[h]) + o->hc_eps;
    j->c->row->collapse(x, w, s, o->dim, cpu_rounds(&j->c->base), o->y + (size_t)i * (size_t)o->dim);
}

void cpu_hc_head(struct dev *d, const struct op_hc_head *o)
{
    assert(o->streams <= S_MAX);
    struct hc_job j = {cpu_of(d), o, mix_all(cpu_of(d), o->x, o->n, o->streams * o->dim, o->fn, o->streams)};
    cpu_run(j.c, o->n, (double)o->n * o->dim * o->streams, hc_head_task, &j);
}
