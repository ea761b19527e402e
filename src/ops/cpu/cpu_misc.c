/* Row operations: embedding, norms, rotation, quantisers, small data movement. */
#include "ops/cpu/cpu.h"

#include <assert.h>
#include <math.h>
#include <string.h>

#include "base/mutant.h"
#include "num/num.h"
#include "ops/kv_decode.h"

/* ---------------------------------------------------------------- one row */

void cpu_rmsnorm_row(const struct cpu_dev *c, const float *x, const float *w, int dim, float eps, float *y)
{
    float r = 1.0f / sqrtf(c->kern->sum_squares(x, dim) / (float)dim + eps);
    c->row->scale(x, w, r, dim, cpu_rounds(&c->base), y);
}

enum { ROPE_DIMS_MAX = 256 };

/* Cosine (twice), -sine and sine of every pair of values at one position, shared by the heads of a row. */
struct rotation {
    float co[ROPE_DIMS_MAX], si[ROPE_DIMS_MAX];
};

static void rotation_at(struct rotation *t, int rd, int64_t pos, const float *freq, bool inverse)
{
    assert(rd <= ROPE_DIMS_MAX);
    for (int i = 0; i < rd / 2; i++) {
        /* The official code rounds the angle to fp32 before taking sine and cosine. */
        double angle = (double)((float)pos * freq[i]);
        float si = (float)sin(angle);
        t->co[2 * i] = t->co[2 * i + 1] = (float)cos(angle);
        t->si[2 * i] = inverse ? si : -si;
        t->si[2 * i + 1] = -t->si[2 * i];
    }
}

/* Mutant 5: rotate_half pairs instead of interleaved ones. */
static void rotate_half(float *v, int rd, const struct rotation *t)
{
    for (int i = 0; i < rd / 2; i++) {
        float a = v[i], b = v[i + rd / 2];
        v[i] = a * t->co[2 * i] + b * t->si[2 * i];
        v[i + rd / 2] = b * t->co[2 * i] + a * t->si[2 * i + 1];
    }
}

static void rotate(const struct cpu_dev *c, float *x, int dim, int rd, const struct rotation *t)
{
    float *v = x + dim - rd;
    if (MUTANT(5)) {
        rotate_half(v, rd, t);
        cpu_round(c, v, (size_t)rd);
    } else {
        c->row->rotate(v, t->co, t->si, rd, cpu_rounds(&c->base));
    }
}

void cpu_rope_row(const struct cpu_dev *c, float *x, int dim, int rd, int64_t pos, const float *freq, bool inverse)
{
    struct rotation t;
    rotation_at(&t, rd, pos, freq, inverse);
    rotate(c, x, dim, rd, &t);
}

void cpu_hadamard_fp4(const struct cpu_dev *c, float *x, int n)
{
    if (MUTANT(11))
        return;
    c->row->hadamard(x, n);
    if (!cpu_rounds(&c->base))
        return;
    cpu_round(c, x, (size_t)n);
    c->row->fp4_sim(x, n);
}

void cpu_kv_quant_row(const struct cpu_dev *c, float *x, int dim, int rd)
{
    if (cpu_rounds(&c->base))
        c->row->fp8_sim(x, dim - rd, KV_BLOCK);
}

void cpu_act_quant_row(const struct cpu_dev *c, const float *x, int n, float *out)
{
    if (out != x)
        memcpy(out, x, (size_t)n * sizeof *out);
    c->row->fp8_sim(out, n, 128);
}

void cpu_kv_row_put(const struct cpu_dev *c, const struct kv_dims *d, const float *row, uint8_t *out)
{
    if (d->format == KV_F32) {
        kv_row_put(d, row, out);
        return;
    }
    int nd = d->head_dim - d->rope_dim;
    uint8_t *rope = out + nd;
    for (int i = 0; i < d->rope_dim; i++) {
        uint16_t h = bf16_from_f32(row[nd + i]);
        memcpy(rope + 2 * i, &h, 2);
    }
    c->row->fp8_put(row, nd, KV_BLOCK, out, rope + 2 * d->rope_dim);
}

void cpu_kv_index_put(const struct cpu_dev *c, const struct kv_dims *d, const float *row, uint8_t *out)
{
    if (d->format == KV_F32)
        kv_index_put(d, row, out);
    else
        c->row->fp4_put(row, d->index_dim, out, out + d->index_dim / 2);
}

/* ---------------------------------------------------------------- loops over rows */

struct rows_job {
    struct cpu_dev *c;
    const void *o;
};

void cpu_embed(struct dev *d, const struct op_embed *o)
{
    struct cpu_dev *c = cpu_of(d);
    for (int i = 0; i < o->n; i++) {
        float *x = o->x + (size_t)i * (size_t)o->streams * (size_t)o->dim;
        c->kern->decode(&o->table, o->tokens[i], 0, o->dim, x);
        cpu_round(c, x, (size_t)o->dim);
        for (int s = 1; s < o->streams; s++)
            memcpy(x + (size_t)s * (size_t)o->dim, x, (size_t)o->dim * sizeof *x);
    }
}

static void rmsnorm_task(void *arg, int i, int i_thread)
{
    (void)i_thread;
    const struct rows_job *j = arg;
    const struct op_rmsnorm *o = j->o;
    size_t at = (size_t)i * (size_t)o->dim;
    cpu_rmsnorm_row(j->c, o->x + at, o->w, o->dim, o->eps, o->y + at);
}

void cpu_rmsnorm(struct dev *d, const struct op_rmsnorm *o)
{
    struct rows_job j = {cpu_of(d), o};
    cpu_run(j.c, o->n, (double)o->n * o->dim, rmsnorm_task, &j);
}

/* In the reference every step of this norm is a bf16 operation (square, mean, + eps, rsqrt, multiply). */
static float head_factor_bf16(const float *x, int dim, float eps)
{
    double sum = 0;
    for (int i = 0; i < dim; i++)
        sum += (double)bf16_round(x[i] * x[i]);
    float mean = bf16_round((float)(sum / dim));
    return bf16_round(1.0f / sqrtf(bf16_round(mean + eps)));
}

static void head_rms_task(void *arg, int i, int i_thread)
{
    (void)i_thread;
    const struct rows_job *j = arg;
    const struct op_head_rms *o = j->o;
    for (int h = 0; h < o->heads; h++) {
        float *x = o->x + ((size_t)i * (size_t)o->heads + (size_t)h) * (size_t)o->dim;
        float r = j->c->base.numerics == NUM_REFERENCE
                      ? head_factor_bf16(x, o->dim, o->eps)
                      : 1.0f / sqrtf(j->c->kern->sum_squares(x, o->dim) / (float)o->dim + o->eps);
        j->c->row->scale(x, NULL, r, o->dim, cpu_rounds(&j->c->base), x);
    }
}

void cpu_head_rms(struct dev *d, const struct op_head_rms *o)
{
    if (MUTANT(6))
        return;
    struct rows_job j = {cpu_of(d), o};
    cpu_run(j.c, o->n, (double)o->n * o->heads * o->dim, head_rms_task, &j);
}

static void rope_task(void *arg, int i, int i_thread)
{
    (void)i_thread;
    const struct rows_job *j = arg;
    const struct op_rope *o = j->o;
    struct rotation t;
    rotation_at(&t, o->rope_dim, o->pos[i], o->freq, o->inverse);
    for (int h = 0; h < o->heads; h++)
        rotate(j->c, o->x + ((size_t)i * (size_t)o->heads + (size_t)h) * (size_t)o->dim, o->dim, o->rope_dim, &t);
}

void cpu_rope(struct dev *d, const struct op_rope *o)
{
    if (MUTANT(4) && o->inverse)
        return;
    struct rows_job j = {cpu_of(d), o};
    cpu_run(j.c, o->n, (double)o->n * o->heads * o->rope_dim * 20, rope_task, &j);
}

static void kv_quant_task(void *arg, int i, int i_thread)
{
    (void)i_thread;
    const struct rows_job *j = arg;
    const struct op_kv_quant *o = j->o;
    cpu_kv_quant_row(j->c, o->x + (size_t)i * (size_t)o->dim, o->dim, o->rope_dim);
}

void cpu_kv_quant(struct dev *d, const struct op_kv_quant *o)
{
    struct rows_job j = {cpu_of(d), o};
    cpu_run(j.c, o->n, (double)o->n * o->dim * 10, kv_quant_task, &j);
}

/* Window rows of the W positions before page end `end`, in stored form, oldest first (positions before 0: untouched). */
static void put_tail_window(const struct cpu_dev *c, const struct op_kv_put *o, const struct op_seq *s, int64_t end,
                            uint8_t *tail)
{
    size_t bytes = o->dims.row_bytes;
    uint8_t *out = tail + s->kv.tail_at.window;
    for (int64_t pos = end - o->window; pos < end; pos++, out += bytes) {
        if (pos < 0)
            continue;
        if (pos < s->pos0)
            memcpy(out, s->kv.ring + (size_t)(pos % s->kv.ring_rows) * bytes, bytes);
        else
            cpu_kv_row_put(c, &o->dims, o->kv + (size_t)(s->first_row + (pos - s->pos0)) * (size_t)o->dims.head_dim, out);
    }
}

void cpu_kv_put(struct dev *d, const struct op_kv_put *o)
{
    const struct cpu_dev *c = cpu_of(d);
    for (int i = 0; i < o->n_seqs; i++) {
        const struct op_seq *s = &o->seqs[i];
        int64_t end = (s->pos0 / KV_PAGE_TOKENS + 1) * KV_PAGE_TOKENS;
        for (int k = 0; s->tails != NULL && end <= s->pos0 + s->n_rows; k++, end += KV_PAGE_TOKENS)
            if (s->tails[k] != NULL) /* before the ring is overwritten */
                put_tail_window(c, o, s, end, s->tails[k]);
        int first = s->n_rows > s->kv.ring_rows ? s->n_rows - s->kv.ring_rows : 0;
        for (int r = first; r < s->n_rows; r++) {
            size_t slot = (size_t)((s->pos0 + r) % s->kv.ring_rows);
            cpu_kv_row_put(c, &o->dims, o->kv + (size_t)(s->first_row + r) * (size_t)o->dims.head_dim,
                           s->kv.ring + slot * o->dims.row_bytes);
        }
    }
}

static void index_query_task(void *arg, int i, int i_thread)
{
    (void)i_thread;
    const struct rows_job *j = arg;
    const struct op_index_query *o = j->o;
    for (int h = 0; h < o->heads; h++)
        cpu_hadamard_fp4(j->c, o->q + ((size_t)i * (size_t)o->heads + (size_t)h) * (size_t)o->dim, o->dim);
}

void cpu_index_query(struct dev *d, const struct op_index_query *o)
{
    struct rows_job j = {cpu_of(d), o};
    cpu_run(j.c, o->n, (double)o->n * o->heads * o->dim * 20, index_query_task, &j);
}

void cpu_add_rows(struct dev *d, const struct op_add_rows *o)
{
    size_t dim = (size_t)o->dim, streams = (size_t)o->streams;
    for (size_t i = 0; i < (size_t)o->n; i++)
        for (size_t s = 0; s < streams; s++)
            for (size_t k = 0; k < dim; k++)
                o->y[(i * streams + s) * dim + k] = o->a[i * dim + k] + o->b[(i * streams + s) * dim + k];
    cpu_round(cpu_of(d), o->y, (size_t)o->n * streams * dim);
}

void cpu_stream_mean(struct dev *d, const struct op_stream_mean *o)
{
    size_t dim = (size_t)o->dim, streams = (size_t)o->streams;
    for (size_t i = 0; i < (size_t)o->n; i++) {
        float *y = o->y + i * (size_t)o->stride;
        for (size_t k = 0; k < dim; k++) {
            float sum = 0;
            for (size_t s = 0; s < streams; s++)
                sum += o->x[(i * streams + s) * dim + k];
            y[k] = sum / (float)streams;
        }
        cpu_round(cpu_of(d), y, dim);
    }
}

void cpu_gather(struct dev *d, const struct op_gather *o)
{
    (void)d;
    size_t dim = (size_t)o->dim;
    for (int i = 0; i < o->n; i++)
        memcpy(o->y + (size_t)i * dim, o->x + (size_t)o->rows[i] * dim, dim * sizeof *o->y);
}
