/* The fast matrix kernels against their definition and against exact arithmetic. */
#include "check.h"

#include "ops/cpu/fast.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Rows cross the 16-row tile, the strip of four tiles and the 128-row scale block; columns cross the 8-column padding, the
 * 32- and 128-column blocks; row counts cross every register tile. */
static const int weight_shapes[][2] = {{16, 32},   {64, 128},  {80, 160},  {48, 96},    {112, 1056},
                                       {272, 416}, {33, 64},   {17, 2080}, {128, 4096}, {7, 1024}, {150, 1152}};
static const int odd_columns[] = {1, 7, 8, 9, 33, 127, 129, 200, 255};
/* Every width of a row tile up to the widest (16), alone or as what a larger number is cut into; and so
 * many rows that activations too are asked for ahead (FAR_ROWS). */
static const int batches[] = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 16, 25, 29, 66};

struct product {
    const struct fast_kern *k;
    fast_matmul_fn *fn;
    struct wmat w;
    struct il16 packed, stored;
    bool as_stored;      /* the product of `stored` */
    bool other_way;      /* whole tiles were not the stored kernel's, or others were */
    void *strip;
    enum fast_x_kind kind;
    int n, tile0, n_tiles;
    const float *x;      /* [n][cols] */
    struct guarded weight_mem, x_mem, y_mem;
    size_t ldy;
    const char *why; /* of a failure */
    char text[240];
};

static const char *kernel_name(enum wformat f, enum fast_x_kind kind)
{
    if (f == W_FP4)
        return kind == FX_INT8 ? "fp4 with int8 activations" : "fp4";
    return f == W_FP8 ? (kind == FX_CODES ? "fp8" : "fp8 without activation quantisation")
                              : f == W_BF16 ? "bf16" : "f32";
}

/* Tiles that the kernel for stored ones takes: a single row's whole tiles, where rows are whole lines of 64 bytes. */
static int stored_tiles(const struct product *p)
{
    int whole = p->w.rows / 16 - p->tile0;
    size_t row_bytes = matrix_bytes(&p->w) / (size_t)p->w.rows;
    return p->n > 1 || p->k == levels[0].fast || row_bytes % 64 != 0 ? 0 : whole < p->n_tiles ? whole : p->n_tiles;
}

static void call_product(void *arg)
{
    struct product *p = arg;
    struct fast_x x;
    fast_x_init(&x, p->k, p->kind, p->n, p->w.cols, p->x_mem.data);
    float *y = (float *)(void *)p->y_mem.data + p->tile0 * 16;
    x.in_order = p->as_stored;
    for (int t = 0; t < fast_x_tiles(&x); t++)
        p->k->pack(&x, p->x, (size_t)p->w.cols, NULL, t);
    if (p->as_stored)
        p->other_way |= fast_stored_strip(p->k, p->fn, &p->stored, p->tile0, p->n_tiles, &x, p->strip, y, p->ldy) !=
                        stored_tiles(p);
    else
        p->fn(&p->packed, p->tile0, p->n_tiles, &x, y, p->ldy);
}

/* y [n][all tiles' rows] of one level into `out`, strip by strip as the driver does; false after a crash or when bytes
 * outside the strip changed. */
static bool run_product(struct product *p, const struct fast_kern *k, enum guard_side side, float *out)
{
    int rows = p->packed.n_tiles * 16;
    p->k = k;
    p->fn = fast_matmul_of(k, p->w.format, p->kind);
    p->ldy = (size_t)rows;
    guard_open(&p->x_mem, fast_x_bytes(k, p->kind, p->n, p->w.cols), side);
    guard_open(&p->y_mem, (size_t)p->n * (size_t)rows * sizeof(float), side);
    bool ok = true;
    for (int t = 0; ok && t < p->packed.n_tiles; t += FAST_STRIP) {
        p->tile0 = t;
        p->n_tiles = p->packed.n_tiles - t < FAST_STRIP ? p->packed.n_tiles - t : FAST_STRIP;
        ok = run_caught(call_product, p);
        p->why = !ok ? "crashed" : p->other_way ? "not the kernel for stored tiles, or wrongly it" : p->why;
        ok = ok && !p->other_way;
        for (int i = 0; ok && i < p->n; i++)
            for (int r = (t + p->n_tiles) * 16; ok && r < rows; r++)
                if (f32_bits(((float *)(void *)p->y_mem.data)[i * rows + r]) != 0x99999999u) {
                    p->why = "wrote outside its tiles";
                    ok = false;
                }
    }
    memcpy(out, p->y_mem.data, p->y_mem.bytes);
    guard_close(&p->x_mem);
    guard_close(&p->y_mem);
    return ok;
}

/* The activation as the recipe wants it: quantised in blocks of 128 for FP8 and FP4 weights, of 32 in numerics int8. */
static void recipe_activations(const struct product *p, int i, float *x)
{
    memcpy(x, p->x + (size_t)i * (size_t)p->w.cols, (size_t)p->w.cols * sizeof *x);
    for (int b = 0; b < p->w.cols && (p->kind == FX_CODES || p->kind == FX_DIGITS); b += 128)
        act_quant_sim(x + b, p->w.cols - b < 128 ? p->w.cols - b : 128);
    for (int b = 0; b < p->w.cols && p->kind == FX_INT8; b += 32) {
        int8_t codes[32];
        float scale = int8_quant(x + b, 32, codes);
        for (int k = 0; k < 32; k++)
            x[b + k] = (float)codes[k] * scale;
    }
}

/* Every output within the error of its own sum: an fp32 sum of K products errs by at most (K+1) 2^-24 sum|w x| (Higham,
 * lemma 3.1, first order); blocks add one rounding each and the bf16 level one more a pair. The absolute term is for
 * products below the normal range. */
static bool within_bound(struct product *p, const float *y)
{
    int cols = p->w.cols, rows = p->packed.n_tiles * 16;
    float *x = xcalloc((size_t)cols, sizeof *x);
    bool ok = true;
    for (int i = 0; ok && i < p->n; i += 5) {
        recipe_activations(p, i, x);
        for (int r = 0; ok && r < p->w.rows; r++) {
            double sum = 0, size = 0;
            for (int k = 0; k < cols; k++) {
                double v = (double)il16_get(&p->packed, r, k) * (double)x[k];
                sum += v;
                size += fabs(v);
            }
            double bound = (double)(cols + 16) * 0x1p-24 * size + (double)cols * 0x1p-125;
            double error = fabs((double)y[i * rows + r] - sum);
            if (!(error <= bound)) {
                snprintf(p->text, sizeof p->text, "%dx%d, %d rows: y[%d][%d] = %.9g, exact %.9g, error %.3g, bound %.3g",
                         p->w.rows, cols, p->n, i, r, (double)y[i * rows + r], sum, error, bound);
                p->why = p->text;
                ok = false;
            }
        }
    }
    free(x);
    return ok;
}

static bool equal_bits(struct product *p, const float *y, const float *other, int n, const char *what)
{
    int rows = p->packed.n_tiles * 16;
    for (int i = 0; i < n; i++)
        for (int r = 0; r < p->w.rows; r++)
            if (f32_bits(y[i * rows + r]) != f32_bits(other[i * rows + r])) {
                snprintf(p->text, sizeof p->text, "%dx%d, %d rows: y[%d][%d] = %.9g, %s %.9g", p->w.rows, p->w.cols, p->n,
                         i, r, (double)y[i * rows + r], what, (double)other[i * rows + r]);
                p->why = p->text;
                return false;
            }
    return true;
}

/* Row i computed alone has the bits it has in the batch. */
static bool alone_equals_batch(struct product *p, const struct fast_kern *k, const float *y)
{
    int rows = p->packed.n_tiles * 16, n = p->n;
    float *one = xcalloc((size_t)rows, sizeof *one);
    const float *x = p->x;
    bool ok = true;
    p->n = 1;
    for (int i = 0; ok && i < n; i += n > 6 ? 3 : 1) {
        p->x = x + (size_t)i * (size_t)p->w.cols;
        ok = run_product(p, k, GUARD_AFTER, one) && equal_bits(p, one, y + (size_t)i * (size_t)rows, 1, "in the batch");
    }
    p->x = x;
    p->n = n;
    free(one);
    return ok;
}

/* Integers are summed exactly, in any order: FP4 products have the same bits at every level. */
static bool has_one_result(const struct product *p, const struct level *l)
{
    return l->same_bits || p->w.format == W_FP4;
}

static bool level_passes(struct product *p, const struct level *l, const float *truth, float *y)
{
    for (int side = GUARD_AFTER; side <= GUARD_BEFORE; side++) {
        if (!run_product(p, l->fast, (enum guard_side)side, y))
            return false;
        if (has_one_result(p, l) && !equal_bits(p, y, truth, p->n, "by definition"))
            return false;
    }
    /* What has the reference level's bits is within its bound too. */
    bool bounded = (has_one_result(p, l) && l != &levels[0]) || within_bound(p, y);
    return bounded && alone_equals_batch(p, l->fast, y);
}

struct case_spec {
    enum wformat f;
    bool as_stored;
    enum fast_x_kind kind;
    int rows, cols, n;
    enum data_kind data;
};

/* One shape on one level; the packed weights are guarded too. */
static bool check_case(const struct case_spec *s, const struct level *l, struct rng *r, char *why, size_t why_bytes)
{
    struct product p = {.kind = s->kind, .n = s->n, .why = ""};
    p.w = matrix_random(r, s->data, s->f, s->rows, s->cols);
    float *x = xcalloc((size_t)s->n * (size_t)s->cols, sizeof *x);
    fill_activations(r, s->data, x, s->n * s->cols);
    p.x = x;
    struct guarded stored;
    guard_open(&p.weight_mem, il16_bytes(&p.w), GUARD_AFTER);
    il16_pack(&p.packed, &p.w, p.weight_mem.data);
    size_t bytes = matrix_bytes(&p.w);
    guard_open(&stored, bytes, GUARD_AFTER);
    memcpy(stored.data, p.w.data, bytes);
    il16_describe(&p.stored, &p.w);
    p.stored.stored = stored.data;
    p.strip = try_alloc(il16_strip_bytes(&p.stored));
    size_t n_out = (size_t)s->n * (size_t)p.packed.n_tiles * 16;
    float *truth = xcalloc(n_out, sizeof *truth), *y = xcalloc(n_out, sizeof *y);
    bool ok = run_product(&p, levels[0].fast, GUARD_AFTER, truth);
    p.as_stored = s->as_stored;
    ok = ok && level_passes(&p, l, truth, y);
    if (!ok)
        snprintf(why, why_bytes, "%s data: %s", data_names[s->data], p.why);
    free(truth);
    free(y);
    free(x);
    free(p.strip);
    guard_close(&stored);
    guard_close(&p.weight_mem);
    matrix_free(&p.w);
    return ok;
}

/* A quick run takes each shape but the largest once, with one kind of data after the other. */
static bool left_out(size_t i_shape, int data)
{
    enum { QUICK_VALUES = 200000 };
    const int *shape = weight_shapes[i_shape];
    return check_quick && ((int)i_shape % N_DATA_KINDS != data || shape[0] * shape[1] > QUICK_VALUES);
}

static void check_kernel(enum wformat f, enum fast_x_kind kind, bool as_stored, const struct level *l)
{
    struct rng r = {check_seed};
    char why[320] = "";
    bool ok = true;
    for (size_t i = 0; ok && i < COUNT_OF(weight_shapes); i++)
        for (int d = 0; ok && d < N_DATA_KINDS; d++) {
            int n = batches[rng_below(&r, COUNT_OF(batches))];
            if (left_out(i, d))
                continue;
            struct case_spec s = {f, as_stored, kind, weight_shapes[i][0], weight_shapes[i][1], n, (enum data_kind)d};
            ok = check_case(&s, l, &r, why, sizeof why);
        }
    for (size_t i = 0; ok && i < COUNT_OF(batches); i++) {
        struct case_spec s = {f, as_stored, kind, check_quick ? 48 : 80, 160, batches[i], DATA_HEAVY};
        ok = check_case(&s, l, &r, why, sizeof why);
    }
    for (size_t i = 0; ok && f != W_FP4 && i < COUNT_OF(odd_columns); i++) {
        struct case_spec s = {f, as_stored, kind, 20, odd_columns[i], 1 + (int)i % 3, DATA_NORMAL};
        ok = check_case(&s, l, &r, why, sizeof why);
    }
    char name[64];
    snprintf(name, sizeof name, "%s%s", kernel_name(f, kind), as_stored ? " as stored" : "");
    report(ok, name, l->name, why);
}

void check_fast_kernels(void)
{
    static const struct { enum wformat f; enum fast_x_kind kind; } kernels[] = {
        {W_FP4, FX_DIGITS}, {W_FP4, FX_INT8}, {W_FP8, FX_CODES}, {W_FP8, FX_SCALED}, {W_BF16, FX_BF16}, {W_F32, FX_PLAIN}};
    for (int l = 0; l < n_levels; l++)
        for (size_t i = 0; i < COUNT_OF(kernels); i++)
            if (l == 0 || fast_matmul_of(levels[l].fast, kernels[i].f, kernels[i].kind) !=
                              fast_matmul_of(levels[l - 1].fast, kernels[i].f, kernels[i].kind)) {
                check_kernel(kernels[i].f, kernels[i].kind, false, &levels[l]);
                check_kernel(kernels[i].f, kernels[i].kind, true, &levels[l]);
            }
}
