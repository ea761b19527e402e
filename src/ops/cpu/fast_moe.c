/* The experts on packed weights: rows packed per expert, then strips of all active experts shared out among threads. */
#include <string.h>

#include "ops/cpu/cpu_moe.h"
#include "ops/cpu/fast.h"

enum { STRIP_ROWS = FAST_STRIP * IL16_ROWS };

struct fast_moe_job {
    struct moe_job *j;
    struct fast_x *x;       /* [groups] packed rows of each expert; one shared by all when the step has one row */
    int *tile0;             /* [groups+1] row tiles before a group's first */
    int strips_h, strips_d; /* of one expert */
};

static bool is_packed(const struct op_expert *e)
{
    return e->w1.packed != NULL && e->w2.packed != NULL && e->w3.packed != NULL;
}

bool fast_has_moe(const struct op_moe *o)
{
    /* All experts are stored alike; the shared one may differ in format but not in being packed. */
    return is_packed(&o->experts[0]) && (o->shared == NULL || is_packed(o->shared));
}

static int group_rows(const struct moe_job *j, int g)
{
    return j->group_start[g + 1] - j->group_start[g];
}

static const struct il16 *matrix_of(const struct fast_moe_job *f, int g, bool hidden)
{
    const struct op_expert *e = moe_expert(f->j->o, f->j->group_expert[g]);
    return hidden ? e->w2.packed : e->w1.packed;
}

static enum fast_x_kind kind_of(const struct fast_moe_job *f, int g, bool hidden)
{
    return fast_x_kind_of(f->j->c->base.numerics, matrix_of(f, g, hidden)->format, false);
}

/* Places the packed rows of every group in scratch: inputs [D], or hidden values [I]. */
static void place_rows(struct fast_moe_job *f, bool hidden)
{
    struct cpu_dev *c = f->j->c;
    int cols = hidden ? f->j->o->expert_dim : f->j->o->dim, n_groups = f->j->n_groups;
    size_t bytes = (size_t)n_groups * (sizeof *f->x + sizeof *f->tile0) + sizeof *f->tile0;
    size_t at = bytes = (bytes + 63) / 64 * 64;
    for (int g = 0; g < n_groups; g++)
        bytes += fast_x_bytes(c->fast, kind_of(f, g, hidden), group_rows(f->j, g), cols);
    uint8_t *mem = cpu_packed_scratch(c, bytes);
    f->x = (struct fast_x *)(void *)mem;
    f->tile0 = (int *)(void *)(f->x + n_groups);
    f->tile0[0] = 0;
    for (int g = 0; g < n_groups; g++) {
        const struct il16 *w = matrix_of(f, g, hidden);
        enum fast_x_kind kind = kind_of(f, g, hidden);
        fast_x_init(&f->x[g], c->fast, kind, group_rows(f->j, g), cols, mem + at);
        f->x[g].in_order = w->in_order;
        f->x[g].next_strip = FAST_STRIP * pool_threads(c->pool);
        at += fast_x_bytes(c->fast, kind, group_rows(f->j, g), cols);
        f->tile0[g + 1] = f->tile0[g] + fast_x_tiles(&f->x[g]);
    }
}

static int group_of_tile(const struct fast_moe_job *f, int tile)
{
    int g = 0;
    while (f->tile0[g + 1] <= tile)
        g++;
    return g;
}

/* A row tile of the step's rows, gathered into the order of the group's pairs. */
static void pack_input_task(void *arg, int tile, int i_thread)
{
    (void)i_thread;
    const struct fast_moe_job *f = arg;
    const struct moe_job *j = f->j;
    int g = group_of_tile(f, tile);
    const int32_t *rows = j->pair_row + j->group_start[g];
    j->c->fast->pack(&f->x[g], j->o->x, (size_t)j->o->dim, rows, tile - f->tile0[g]);
}

/* One row: every routed expert takes the same packed activations, so they are packed once a format. */
static void share_one_row(struct fast_moe_job *f)
{
    int first[FX_KINDS];
    for (int i = 0; i < FX_KINDS; i++)
        first[i] = -1;
    for (int g = 0; g < f->j->n_groups; g++) {
        enum fast_x_kind kind = f->x[g].kind;
        if (first[kind] < 0) {
            first[kind] = g;
            pack_input_task(f, f->tile0[g], 0);
        } else {
            f->x[g] = f->x[first[kind]];
        }
    }
}

static int strip_tiles(const struct il16 *w, int s)
{
    int left = w->n_tiles - s * FAST_STRIP;
    return left < FAST_STRIP ? left : FAST_STRIP;
}

/* A strip of w1 and w3 of one expert: h = silu(g) u weight, g, u and h rounded. */
static void hidden_task(void *arg, int i_task, int i_thread)
{
    const struct fast_moe_job *f = arg;
    const struct moe_job *j = f->j;
    const struct op_moe *o = j->o;
    int g = i_task / f->strips_h, s = i_task % f->strips_h, start = j->group_start[g], n = f->x[g].n;
    const struct op_expert *e = moe_expert(o, j->group_expert[g]);
    int nt = strip_tiles(e->w1.packed, s), first = s * STRIP_ROWS;
    int rows = o->expert_dim - first < nt * IL16_ROWS ? o->expert_dim - first : nt * IL16_ROWS;
    float *h = o->h + (size_t)start * (size_t)o->expert_dim + first;
    float *gate = cpu_scratch(j->c, i_thread, 2 * (size_t)n * STRIP_ROWS), *up = gate + (size_t)n * STRIP_ROWS;
    fast_strip_sums(j->c, i_thread, e->w3.packed, s * FAST_STRIP, nt, &f->x[g], up, STRIP_ROWS);
    fast_strip_sums(j->c, i_thread, e->w1.packed, s * FAST_STRIP, nt, &f->x[g], gate, STRIP_ROWS);
    for (int i = 0; i < n; i++, h += o->expert_dim, gate += STRIP_ROWS, up += STRIP_ROWS) {
        j->c->kern->round_bf16(gate, (size_t)rows, gate);
        j->c->kern->round_bf16(up, (size_t)rows, up);
        j->c->row->swiglu(gate, up, rows, o->limit, j->pair_weight[start + i], gate);
        j->c->kern->round_bf16(gate, (size_t)rows, h);
    }
}

/* A row tile of the hidden values, packed for w2. */
static void pack_hidden_task(void *arg, int tile, int i_thread)
{
    (void)i_thread;
    const struct fast_moe_job *f = arg;
    const struct moe_job *j = f->j;
    int g = group_of_tile(f, tile);
    size_t dim = (size_t)j->o->expert_dim;
    const float *h = j->o->h + (size_t)j->group_start[g] * dim;
    j->c->fast->pack(&f->x[g], h, dim, NULL, tile - f->tile0[g]);
}

static void out_task(void *arg, int i_task, int i_thread)
{
    const struct fast_moe_job *f = arg;
    const struct moe_job *j = f->j;
    int g = i_task / f->strips_d, s = i_task % f->strips_d;
    const struct il16 *w2 = moe_expert(j->o, j->group_expert[g])->w2.packed;
    size_t dim = (size_t)j->o->dim;
    float *out = j->o->out + (size_t)j->group_start[g] * dim + (size_t)s * STRIP_ROWS;
    fast_strip(j->c, i_thread, w2, s * FAST_STRIP, strip_tiles(w2, s), &f->x[g], false, out, dim);
}

void fast_moe(struct moe_job *j)
{
    const struct op_moe *o = j->o;
    struct fast_moe_job f = {.j = j};
    int n_pairs = j->group_start[j->n_groups];
    f.strips_h = (o->expert_dim + STRIP_ROWS - 1) / STRIP_ROWS;
    f.strips_d = (o->dim + STRIP_ROWS - 1) / STRIP_ROWS;
    double work = (double)n_pairs * o->dim * o->expert_dim;
    j->c->n_fast++;
    place_rows(&f, false);
    if (o->n == 1)
        share_one_row(&f);
    else
        cpu_run(j->c, f.tile0[j->n_groups], (double)n_pairs * o->dim * 10, pack_input_task, &f);
    cpu_run(j->c, j->n_groups * f.strips_h, work * 2, hidden_task, &f);
    place_rows(&f, true);
    cpu_run(j->c, f.tile0[j->n_groups], (double)n_pairs * o->expert_dim * 10, pack_hidden_task, &f);
    cpu_run(j->c, j->n_groups * f.strips_d, work, out_task, &f);
}
