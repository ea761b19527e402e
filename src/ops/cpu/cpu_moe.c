/* Routing and the experts. Rows are grouped by expert, so that an expert's weights are decoded once per step. */
#include "ops/cpu/cpu_moe.h"

#include <math.h>
#include <string.h>

#include "base/mutant.h"

enum { ROWS_PER_TASK = 16 };

/* ---------------------------------------------------------------- router */

static float softplus(float z) /* torch: linear above 20 */
{
    return z > 20 ? z : log1pf(expf(z));
}

static void sort_ids(int32_t *ids, int k)
{
    for (int i = 1; i < k; i++)
        for (int j = i; j > 0 && ids[j - 1] > ids[j]; j--) {
            int32_t t = ids[j];
            ids[j] = ids[j - 1];
            ids[j - 1] = t;
        }
}

struct route_job {
    struct cpu_dev *c;
    const struct op_route *o;
};

static void route_task(void *arg, int i, int i_thread)
{
    const struct route_job *r = arg;
    const struct op_route *o = r->o;
    float *score = cpu_scratch(r->c, i_thread, (size_t)o->experts);
    const float *z = o->z + (size_t)i * (size_t)o->experts;
    int32_t *ids = o->ids + (size_t)i * (size_t)o->k;
    float *w = o->weights + (size_t)i * (size_t)o->k, sum = 0;
    for (int e = 0; e < o->experts; e++)
        score[e] = sqrtf(softplus(z[e]));
    size_t row = (size_t)o->tokens[i] * (size_t)o->k;
    bool hash = (o->tid2eid != NULL || o->tid2eid32 != NULL) && !MUTANT(18);
    for (int j = 0; hash && j < o->k; j++)
        ids[j] = o->tid2eid != NULL ? (int32_t)o->tid2eid[row + (size_t)j] : o->tid2eid32[row + (size_t)j];
    if (!hash)
        r->c->row->top_experts(score, o->bias, o->experts, o->k, ids);
    sort_ids(ids, o->k);
    for (int j = 0; j < o->k; j++) {
        w[j] = score[ids[j]] + (MUTANT(13) && o->bias != NULL ? o->bias[ids[j]] : 0);
        sum += w[j];
    }
    for (int j = 0; j < o->k; j++) /* scores that all underflow to 0 would give 0/0: share equally */
        w[j] = (sum > 0 ? w[j] / sum : 1.0f / (float)o->k) * o->scale;
}

void cpu_route(struct dev *d, const struct op_route *o)
{
    struct route_job r = {cpu_of(d), o};
    cpu_run(r.c, o->n, (double)o->n * o->experts * 50, route_task, &r);
}

/* ---------------------------------------------------------------- experts */

const struct op_expert *moe_expert(const struct op_moe *o, int32_t e)
{
    return e == o->n_experts ? o->shared : &o->experts[e];
}

float moe_swiglu(float g, float u, float limit)
{
    if (limit > 0) {
        g = g < limit ? g : limit;
        u = u < -limit ? -limit : u > limit ? limit : u;
    }
    return g / (1.0f + expf(-g)) * u;
}

/* One block of rows of w1 and w3 for all pairs of one expert: h = silu(g) u weight. */
static void hidden_task(void *arg, int i_task, int i_thread)
{
    const struct moe_job *j = arg;
    const struct op_moe *o = j->o;
    int g = i_task / j->tasks_h, first = i_task % j->tasks_h * ROWS_PER_TASK;
    int last = first + ROWS_PER_TASK < o->expert_dim ? first + ROWS_PER_TASK : o->expert_dim;
    int start = j->group_start[g], n = j->group_start[g + 1] - start;
    const struct op_expert *ex = moe_expert(o, j->group_expert[g]);
    float limit = MUTANT(14) && ex == o->shared ? 0 : o->limit;
    float *w1 = cpu_scratch(j->c, i_thread, 2 * (size_t)o->dim + 2), *w3 = w1 + o->dim, *gu = w3 + o->dim;
    for (int r = first; r < last; r++) {
        j->c->kern->decode(&ex->w1, r, 0, o->dim, w1);
        j->c->kern->decode(&ex->w3, r, 0, o->dim, w3);
        for (int p = start; p < start + n; p++) {
            const float *x = j->x + (size_t)j->pair_row[p] * (size_t)o->dim;
            gu[0] = j->c->kern->dot(x, w1, o->dim);
            gu[1] = j->c->kern->dot(x, w3, o->dim);
            cpu_round(j->c, gu, 2);
            float h = moe_swiglu(gu[0], gu[1], limit);
            o->h[(size_t)p * (size_t)o->expert_dim + (size_t)r] = h * j->pair_weight[p];
        }
    }
}

static void quantise_task(void *arg, int p, int i_thread)
{
    (void)i_thread;
    const struct moe_job *j = arg;
    float *h = j->o->h + (size_t)p * (size_t)j->o->expert_dim;
    cpu_round(j->c, h, (size_t)j->o->expert_dim);
    cpu_act_quant_row(j->c, h, j->o->expert_dim, h);
}

static void out_task(void *arg, int i_task, int i_thread)
{
    const struct moe_job *j = arg;
    const struct op_moe *o = j->o;
    int g = i_task / j->tasks_d, first = i_task % j->tasks_d * ROWS_PER_TASK;
    int last = first + ROWS_PER_TASK < o->dim ? first + ROWS_PER_TASK : o->dim;
    int start = j->group_start[g], n = j->group_start[g + 1] - start;
    const struct op_expert *ex = moe_expert(o, j->group_expert[g]);
    size_t dim = (size_t)o->dim, hdim = (size_t)o->expert_dim;
    float *w2 = cpu_scratch(j->c, i_thread, hdim);
    for (int r = first; r < last; r++) {
        j->c->kern->decode(&ex->w2, r, 0, o->expert_dim, w2);
        j->c->kern->dot_many(o->h + (size_t)start * hdim, hdim, n, w2, o->expert_dim,
                             o->out + (size_t)start * dim + (size_t)r, dim);
    }
}

/* fp32 sum of the rounded expert outputs in ascending expert id, then the shared expert, rounded once. */
static void combine_task(void *arg, int i, int i_thread)
{
    (void)i_thread;
    const struct moe_job *j = arg;
    const struct op_moe *o = j->o;
    size_t dim = (size_t)o->dim;
    int slots = o->k + (o->shared != NULL ? 1 : 0);
    j->c->row->sum_rows(o->out, j->pair_of + i * slots, slots, o->dim, cpu_rounds(&j->c->base), o->y + (size_t)i * dim);
}

static int count_pairs(const struct op_moe *o, int32_t *start)
{
    memset(start, 0, ((size_t)o->n_experts + 2) * sizeof *start);
    for (int i = 0; i < o->n * o->k; i++)
        start[o->ids[i] + 1]++;
    if (o->shared != NULL)
        start[o->n_experts + 1] = o->n;
    for (int e = 0; e <= o->n_experts; e++)
        start[e + 1] += start[e];
    return start[o->n_experts + 1];
}

/* Groups pairs by expert with a counting sort over ids in row order. Scratch is carved from `mem` (int32 and float have
 * one size). */
static void plan_groups(struct moe_job *j, int32_t *mem)
{
    const struct op_moe *o = j->o;
    int slots = o->k + (o->shared != NULL ? 1 : 0), n_exp = o->n_experts + 1;
    int32_t *start = mem, *next = start + n_exp + 1, *experts = next + n_exp, *starts = experts + n_exp;
    int32_t *row = starts + n_exp + 1, *of = row + o->n * slots;
    float *weight = (float *)(of + o->n * slots);
    int n_pairs = count_pairs(o, start);
    memcpy(next, start, (size_t)n_exp * sizeof *next);
    for (int i = 0; i < o->n; i++)
        for (int s = 0; s < slots; s++) {
            int32_t e = s < o->k ? o->ids[i * o->k + s] : o->n_experts, p = next[e]++;
            row[p] = i;
            of[i * slots + s] = p;
            weight[p] = s < o->k ? o->weights[i * o->k + s] : 1; /* times 1 is exact: the shared expert has none */
        }
    for (int e = 0; e < n_exp; e++)
        if (start[e + 1] > start[e]) {
            experts[j->n_groups] = e;
            starts[j->n_groups++] = start[e];
        }
    starts[j->n_groups] = n_pairs;
    j->group_expert = experts;
    j->group_start = starts;
    j->pair_row = row;
    j->pair_of = of;
    j->pair_weight = weight;
}

static void quantise_input_task(void *arg, int i, int i_thread)
{
    (void)i_thread;
    const struct moe_job *j = arg;
    size_t at = (size_t)i * (size_t)j->o->dim;
    cpu_act_quant_row(j->c, j->o->x + at, j->o->dim, (float *)(uintptr_t)j->x + at);
}

static bool is_quantised(enum wformat f)
{
    return f == W_FP8 || f == W_FP4;
}

static void portable_moe(struct moe_job *j, int n_pairs, float *quantised)
{
    const struct op_moe *o = j->o;
    bool quantise = cpu_rounds(&j->c->base) && is_quantised(o->experts[0].w1.format);
    double work = (double)n_pairs * o->dim * o->expert_dim;
    if (quantise) {
        j->x = quantised;
        cpu_run(j->c, o->n, (double)o->n * o->dim * 10, quantise_input_task, j);
    }
    cpu_run(j->c, j->n_groups * j->tasks_h, work * 2, hidden_task, j);
    if (quantise)
        cpu_run(j->c, n_pairs, (double)n_pairs * o->expert_dim * 10, quantise_task, j);
    cpu_run(j->c, j->n_groups * j->tasks_d, work, out_task, j);
}

void cpu_moe(struct dev *d, const struct op_moe *o)
{
    struct cpu_dev *c = cpu_of(d);
    int slots = o->k + (o->shared != NULL ? 1 : 0);
    struct moe_job j = {.c = c, .o = o, .x = o->x};
    j.tasks_h = (o->expert_dim + ROWS_PER_TASK - 1) / ROWS_PER_TASK;
    j.tasks_d = (o->dim + ROWS_PER_TASK - 1) / ROWS_PER_TASK;
    size_t n_ints = 4 * ((size_t)o->n_experts + 4) + 3 * (size_t)o->n * (size_t)slots;
    size_t n_x = (size_t)o->n * (size_t)o->dim;
    float *mem = cpu_shared_scratch(c, n_ints + n_x);
    plan_groups(&j, (int32_t *)mem);
    int n_pairs = o->n * slots;
    if (fast_has_moe(o))
        fast_moe(&j);
    else
        portable_moe(&j, n_pairs, mem + n_ints);
    cpu_run(c, o->n, (double)n_pairs * o->dim, combine_task, &j);
}
