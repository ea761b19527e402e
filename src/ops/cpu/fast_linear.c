/* linear on the fast kernels: activations packed once per group, then strips of 64 matrix rows shared out among threads.
 * A matrix as stored gets its lines strip by strip. */
#include <string.h>

#include "ops/cpu/fast.h"

enum { STRIP_ROWS = FAST_STRIP * IL16_ROWS, GROUPS_MAX = 64 };

struct fast_job {
    struct cpu_dev *c;
    const struct op_linear *o;
    const struct il16 *w;
    struct fast_x x[GROUPS_MAX];
    int groups, rows, strips; /* per group: matrix rows, strips of them */
    int packs;                /* row tiles of a group */
};

bool fast_has_linear(const struct op_linear *o)
{
    int groups = o->groups > 1 ? o->groups : 1;
    return o->w.packed != NULL && groups <= GROUPS_MAX && (groups == 1 || o->w.rows / groups % IL16_ROWS == 0) &&
           !(o->w.format == W_FP4 && o->no_act_quant);
}

static fast_stored_fn *stored_of(const struct fast_kern *k, enum wformat f, enum fast_x_kind kind)
{
    if (f == W_FP4)
        return kind == FX_INT8 ? k->int8_stored : k->fp4_stored;
    return f == W_FP8 ? k->fp8_stored : f == W_BF16 ? k->bf16_stored : k->f32_stored;
}

int fast_stored_strip(const struct fast_kern *k, fast_matmul_fn *fn, const struct il16 *w, int tile0, int nt,
                      const struct fast_x *x, void *mem, float *y, size_t ldy)
{
    fast_stored_fn *stored = stored_of(k, w->format, x->kind);
    int whole = x->n == 1 && stored != NULL ? il16_whole_tiles(w, tile0, nt) : 0;
    for (int t = 0; t < (x->n > 1 ? nt : tile0 < x->next_strip ? 1 : 0); t++)
        il16_fetch(w, tile0 + t); /* later strips of a row were fetched with the one before */
    if (whole > 0)
        stored(w, tile0, whole, x, mem, y);
    if (whole < nt) {
        struct il16 lines;
        int at = il16_strip(w, tile0 + whole, nt - whole, mem, &lines);
        fn(&lines, at, nt - whole, x, y + whole * IL16_ROWS, ldy);
    }
    return whole;
}

void fast_strip_sums(struct cpu_dev *c, int i_thread, const struct il16 *w, int tile0, int nt, const struct fast_x *x,
                     float *y, size_t ldy)
{
    fast_matmul_fn *fn = fast_matmul_of(c->fast, w->format, x->kind);
    if (w->stored == NULL)
        fn(w, tile0, nt, x, y, ldy);
    else
        fast_stored_strip(c->fast, fn, w, tile0, nt, x, cpu_strip_scratch(c, i_thread, il16_strip_bytes(w)), y, ldy);
}

void fast_strip(struct cpu_dev *c, int i_thread, const struct il16 *w, int tile0, int nt, const struct fast_x *x, bool round,
                float *y, size_t ldy)
{
    int left = w->rows - tile0 * IL16_ROWS, n = left < nt * IL16_ROWS ? left : nt * IL16_ROWS;
    if (x->n == 1 && n == nt * IL16_ROWS) {
        fast_strip_sums(c, i_thread, w, tile0, nt, x, y, ldy);
        if (round)
            c->kern->round_bf16(y, (size_t)n, y);
        return;
    }
    /* Sums of a block-wise product are read and written per block: kept together, not at the stride of the result. */
    float *sum = cpu_scratch(c, i_thread, (size_t)x->n * STRIP_ROWS);
    fast_strip_sums(c, i_thread, w, tile0, nt, x, sum, STRIP_ROWS);
    for (int i = 0; i < x->n; i++, y += ldy, sum += STRIP_ROWS) {
        if (round)
            c->kern->round_bf16(sum, (size_t)n, y);
        else
            memcpy(y, sum, (size_t)n * sizeof *y);
    }
}

static void pack_task(void *arg, int i_task, int i_thread)
{
    (void)i_thread;
    struct fast_job *j = arg;
    int g = i_task / j->packs;
    size_t cols = (size_t)j->o->w.cols;
    j->c->fast->pack(&j->x[g], j->o->x + (size_t)g * cols, cols * (size_t)j->groups, NULL, i_task % j->packs);
}

static void strip_task(void *arg, int i_task, int i_thread)
{
    const struct fast_job *j = arg;
    int g = i_task / j->strips, s = i_task % j->strips, tiles = (j->rows + IL16_ROWS - 1) / IL16_ROWS;
    int nt = tiles - s * FAST_STRIP < FAST_STRIP ? tiles - s * FAST_STRIP : FAST_STRIP;
    float *y = j->o->y + (size_t)g * (size_t)j->rows + (size_t)s * STRIP_ROWS;
    fast_strip(j->c, i_thread, j->w, g * tiles + s * FAST_STRIP, nt, &j->x[g], !j->o->keep_f32, y, (size_t)j->o->w.rows);
}

void fast_linear(struct cpu_dev *c, const struct op_linear *o)
{
    struct fast_job j = {.c = c, .o = o, .w = o->w.packed, .groups = o->groups > 1 ? o->groups : 1};
    j.rows = o->w.rows / j.groups;
    j.strips = (j.rows + STRIP_ROWS - 1) / STRIP_ROWS;
    enum fast_x_kind kind = fast_x_kind_of(c->base.numerics, o->w.format, o->no_act_quant);
    size_t bytes = fast_x_bytes(c->fast, kind, o->n, o->w.cols);
    uint8_t *mem = cpu_packed_scratch(c, bytes * (size_t)j.groups);
    for (int g = 0; g < j.groups; g++) {
        fast_x_init(&j.x[g], c->fast, kind, o->n, o->w.cols, mem + (size_t)g * bytes);
        j.x[g].in_order = j.w->in_order;
        j.x[g].next_strip = FAST_STRIP * pool_threads(c->pool);
    }
    j.packs = fast_x_tiles(&j.x[0]);
    double values = (double)o->n * o->w.cols * j.groups;
    c->n_fast++;
    cpu_run(c, j.groups * j.packs, values * 10, pack_task, &j);
    cpu_run(c, j.groups * j.strips, values * j.rows, strip_task, &j);
}
