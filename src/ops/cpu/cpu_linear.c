/* y = x W^T for every stored weight format: a weight row is decoded to fp32 once and used for all rows of the step. */
#include "ops/cpu/cpu.h"
#include "ops/cpu/fast.h"

#include <string.h>

enum { ROWS_PER_TASK = 16 };

struct linear_job {
    struct cpu_dev *c;
    const struct op_linear *o;
    const float *x; /* activations after quantisation */
    size_t ldx, ldy;
    int rows_per_group;
};

static void quantise_task(void *arg, int i, int i_thread)
{
    (void)i_thread;
    const struct linear_job *j = arg;
    cpu_act_quant_row(j->c, j->o->x + (size_t)i * j->ldx, (int)j->ldx, (float *)(uintptr_t)j->x + (size_t)i * j->ldx);
}

static void linear_task(void *arg, int i_task, int i_thread)
{
    const struct linear_job *j = arg;
    const struct op_linear *o = j->o;
    int k = o->w.cols, first = i_task * ROWS_PER_TASK;
    int last = first + ROWS_PER_TASK < o->w.rows ? first + ROWS_PER_TASK : o->w.rows;
    float *w = cpu_scratch(j->c, i_thread, (size_t)k);
    for (int r = first; r < last; r++) {
        j->c->kern->decode(&o->w, r, 0, k, w);
        const float *x = j->x + (size_t)(r / j->rows_per_group) * (size_t)k;
        j->c->kern->dot_many(x, j->ldx, o->n, w, k, o->y + r, j->ldy);
    }
}

/* FP8 and FP4 weights meet activations quantised to FP8 in blocks of 128. */
static bool needs_act_quant(const struct cpu_dev *c, const struct op_linear *o)
{
    return cpu_rounds(&c->base) && !o->no_act_quant && (o->w.format == W_FP8 || o->w.format == W_FP4);
}

void cpu_linear(struct dev *d, const struct op_linear *o)
{
    struct cpu_dev *c = cpu_of(d);
    if (fast_has_linear(o)) {
        fast_linear(c, o);
        return;
    }
    int groups = o->groups > 1 ? o->groups : 1;
    struct linear_job j = {.c = c, .o = o, .x = o->x, .ldx = (size_t)o->w.cols * (size_t)groups,
                           .ldy = (size_t)o->w.rows, .rows_per_group = o->w.rows / groups};
    double work = (double)o->n * o->w.rows * o->w.cols;
    if (needs_act_quant(c, o)) {
        j.x = cpu_shared_scratch(c, (size_t)o->n * j.ldx);
        cpu_run(c, o->n, (double)o->n * o->w.cols * 10, quantise_task, &j);
    }
    cpu_run(c, (o->w.rows + ROWS_PER_TASK - 1) / ROWS_PER_TASK, work, linear_task, &j);
    if (!o->keep_f32)
        cpu_round(c, o->y, (size_t)o->n * j.ldy);
}
