/* The fast path of linear and moe on the CPU device: it runs on packed and on stored weights, agrees with the portable path
 * within fp32 summation error (after rounding: one bf16 step), and gives the same bits in both layouts, alone, in a batch and
 * on any threads. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "num/num.h"
#include "ops/cpu/cpu.h"

enum layout { PORTABLE /* the kernels of `reference` */, STORED, PACKED };

static struct dev *open_device(enum layout l, int threads)
{
    struct dev_options o = {l == PORTABLE ? NUM_REFERENCE : NUM_FAST, threads, cpu_isa_best(), l == STORED};
    struct dev *d;
    struct err e = {0};
    assert_int_equal(dev_open_cpu(&d, &o, &e), HD_OK);
    return d;
}

static struct wmat make_matrix(struct rng *r, enum wformat f, int rows, int cols)
{
    size_t n = (size_t)rows * (size_t)cols;
    uint8_t *data = xcalloc(n, 4), *scale = xcalloc(n / 32 + 64, 1);
    for (size_t i = 0; i < n; i++) {
        float v = (float)rng_normal(r);
        uint16_t h = bf16_from_f32(v);
        if (f == W_F32)
            memcpy(data + 4 * i, &v, 4);
        else if (f == W_BF16)
            memcpy(data + 2 * i, &h, 2);
        else
            data[i] = f == W_FP8 ? e4m3_from_f32(v * 30) : (uint8_t)rng_below(r, 256);
    }
    for (size_t i = 0; i < n / 32 + 64; i++)
        scale[i] = (uint8_t)(118 + rng_below(r, 4));
    return (struct wmat){.format = f, .rows = rows, .cols = cols, .data = data, .scale = scale};
}

static void free_matrix(struct wmat *w)
{
    free((void *)(uintptr_t)w->data);
    free((void *)(uintptr_t)w->scale);
}

static float *make_rows(struct rng *r, size_t n)
{
    float *x = xcalloc(n, sizeof *x);
    for (size_t i = 0; i < n; i++)
        x[i] = bf16_round((float)rng_normal(r));
    return x;
}

/* Largest difference in units of the largest value. */
static double distance(const float *a, const float *b, size_t n)
{
    double top = 1e-30, d = 0;
    for (size_t i = 0; i < n; i++) {
        top = fmax(top, fabs((double)b[i]));
        d = fmax(d, fabs((double)a[i] - (double)b[i]));
    }
    return d / top;
}

struct linear_case {
    enum wformat f;
    int rows, cols, groups, n;
    bool keep_f32, no_act_quant;
};

static void run_linear(struct dev *d, const struct linear_case *t, const struct wmat *w, const float *x, int n, float *y)
{
    struct op_linear o = {.n = n, .groups = t->groups, .w = *w, .keep_f32 = t->keep_f32, .no_act_quant = t->no_act_quant,
                          .x = x, .y = y};
    d->ops->linear(d, &o);
}

static void check_linear(const struct linear_case *t)
{
    struct rng r = {7};
    struct wmat w = make_matrix(&r, t->f, t->rows, t->cols), packed = w, stored = w;
    size_t ldx = (size_t)t->cols * (size_t)t->groups, n_out = (size_t)t->n * (size_t)t->rows;
    float *x = make_rows(&r, (size_t)t->n * ldx), *y = xcalloc(n_out, sizeof *y), *z = xcalloc(n_out, sizeof *z);
    struct dev *portable = open_device(PORTABLE, 1), *fast = open_device(PACKED, 3), *native = open_device(STORED, 2);
    assert_false(portable->ops->prepare(portable, &w));
    assert_true(fast->ops->prepare(fast, &packed));
    assert_false(native->ops->prepare(native, &stored)); /* the stored form stays */
    run_linear(portable, t, &w, x, t->n, y);
    run_linear(fast, t, &packed, x, t->n, z);
    assert_int_equal(((struct cpu_dev *)fast)->n_fast, 1);
    assert_true(distance(z, y, n_out) < (t->keep_f32 ? 2e-6 : 0x1p-8));
    run_linear(native, t, &stored, x, t->n, y);
    assert_int_equal(((struct cpu_dev *)native)->n_fast, 1);
    assert_memory_equal(y, z, n_out * sizeof *y);
    for (int i = 0; i < t->n; i++) { /* one row alone */
        run_linear(fast, t, &packed, x + (size_t)i * ldx, 1, y);
        assert_memory_equal(y, z + (size_t)i * (size_t)t->rows, (size_t)t->rows * sizeof *y);
        run_linear(native, t, &stored, x + (size_t)i * ldx, 1, y);
        assert_memory_equal(y, z + (size_t)i * (size_t)t->rows, (size_t)t->rows * sizeof *y);
    }
    portable->ops->close(&portable);
    native->ops->close(&native);
    fast->ops->close(&fast);
    free_matrix(&w);
    free(x);
    free(y);
    free(z);
}

static void test_linear(void **state)
{
    (void)state;
    static const struct linear_case cases[] = {
        {W_FP8, 128, 256, 1, 1, false, false}, {W_FP8, 200, 384, 1, 9, true, false},  {W_FP8, 256, 128, 4, 5, false, true},
        {W_FP8, 480, 640, 5, 3, true, true}, /* groups of six tiles: strips across scale blocks */
        {W_FP8, 400, 640, 5, 2, true, false}, /* of five: pairs of tiles would be */
        {W_FP4, 96, 1056, 1, 7, true, false},   {W_BF16, 70, 100, 1, 13, true, false}, {W_F32, 24, 1000, 1, 3, true, false},
    };
    for (size_t i = 0; i < COUNT_OF(cases); i++)
        check_linear(&cases[i]);
}

/* Groups that are no whole tiles run on the portable path. */
static void test_odd_groups_fall_back(void **state)
{
    (void)state;
    struct rng r = {9};
    struct linear_case t = {W_BF16, 40, 32, 2, 1, true, false};
    struct wmat w = make_matrix(&r, t.f, t.rows, t.cols);
    float *x = make_rows(&r, 64), y[40];
    struct dev *fast = open_device(PACKED, 1);
    assert_true(fast->ops->prepare(fast, &w));
    run_linear(fast, &t, &w, x, 1, y);
    assert_int_equal(((struct cpu_dev *)fast)->n_fast, 0);
    fast->ops->close(&fast);
    free_matrix(&w);
    free(x);
}

enum { N_EXPERTS = 6, K = 2, DIM = 96, INTER = 160, ROWS = 11 };

struct moe_case {
    struct op_expert experts[N_EXPERTS + 1]; /* the shared one last, FP8 */
    float *x, weights[ROWS * K];
    int32_t ids[ROWS * K];
};

static void make_moe(struct moe_case *m, struct rng *r)
{
    for (int e = 0; e <= N_EXPERTS; e++) {
        enum wformat f = e == N_EXPERTS ? W_FP8 : W_FP4;
        m->experts[e] = (struct op_expert){make_matrix(r, f, INTER, DIM), make_matrix(r, f, DIM, INTER),
                                           make_matrix(r, f, INTER, DIM)};
    }
    m->x = make_rows(r, ROWS * DIM);
    for (int i = 0; i < ROWS; i++) {
        m->ids[i * K] = (int32_t)rng_below(r, 3);
        m->ids[i * K + 1] = 3 + (int32_t)rng_below(r, 3);
        m->weights[i * K] = 0.75f;
        m->weights[i * K + 1] = 0.5f;
    }
}

static void run_moe(struct dev *d, const struct moe_case *m, int first, int n, float *y)
{
    float *h = xcalloc((size_t)(n * (K + 1) * INTER), sizeof *h), *out = xcalloc((size_t)(n * (K + 1) * DIM), sizeof *out);
    struct op_moe o = {.n = n, .k = K, .n_experts = N_EXPERTS, .dim = DIM, .expert_dim = INTER, .limit = 10,
                       .x = m->x + first * DIM, .ids = m->ids + first * K, .weights = m->weights + first * K,
                       .experts = m->experts, .shared = &m->experts[N_EXPERTS], .h = h, .out = out, .y = y};
    d->ops->moe(d, &o);
    free(h);
    free(out);
}

static void test_moe(void **state)
{
    (void)state;
    struct rng r = {11};
    struct moe_case m;
    make_moe(&m, &r);
    struct dev *portable = open_device(PORTABLE, 1), *fast = open_device(PACKED, 2), *native = open_device(STORED, 2);
    float y[ROWS * DIM], z[ROWS * DIM], one[DIM];
    run_moe(portable, &m, 0, ROWS, y);
    struct moe_case stored = m;
    for (int e = 0; e <= N_EXPERTS; e++) {
        assert_false(native->ops->prepare(native, &stored.experts[e].w1));
        assert_false(native->ops->prepare(native, &stored.experts[e].w2));
        assert_false(native->ops->prepare(native, &stored.experts[e].w3));
    }
    for (int e = 0; e <= N_EXPERTS; e++) {
        assert_true(fast->ops->prepare(fast, &m.experts[e].w1));
        assert_true(fast->ops->prepare(fast, &m.experts[e].w2));
        assert_true(fast->ops->prepare(fast, &m.experts[e].w3));
    }
    run_moe(fast, &m, 0, ROWS, z);
    assert_int_equal(((struct cpu_dev *)fast)->n_fast, 1);
    assert_true(distance(z, y, ROWS * DIM) < 0x1p-6);
    run_moe(native, &stored, 0, ROWS, y);
    assert_int_equal(((struct cpu_dev *)native)->n_fast, 1);
    assert_memory_equal(y, z, sizeof y);
    for (int i = 0; i < ROWS; i++) {
        run_moe(fast, &m, i, 1, one);
        assert_memory_equal(one, z + i * DIM, sizeof one);
        run_moe(native, &stored, i, 1, one);
        assert_memory_equal(one, z + i * DIM, sizeof one);
    }
    portable->ops->close(&portable);
    native->ops->close(&native);
    fast->ops->close(&fast);
    for (int e = 0; e <= N_EXPERTS; e++) {
        free_matrix(&m.experts[e].w1);
        free_matrix(&m.experts[e].w2);
        free_matrix(&m.experts[e].w3);
    }
    free(m.x);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_linear),
        cmocka_unit_test(test_odd_groups_fall_back),
        cmocka_unit_test(test_moe),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
