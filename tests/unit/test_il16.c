/* il16: packing keeps every value of every format, for sizes that fill and do not fill tiles, lines and scale blocks. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "num/num.h"
#include "ops/cpu/il16.h"

static const int shapes[][2] = {{16, 32},  {1, 32},    {15, 64},   {17, 96},   {128, 128},
                                {144, 160}, {130, 1024}, {256, 384}, {33, 4096}};

static size_t row_bytes(enum wformat f, int cols)
{
    size_t n = (size_t)cols;
    return f == W_FP4 ? n / 2 : f == W_FP8 ? n : f == W_BF16 ? 2 * n : 4 * n;
}

/* Random finite bytes; scales around one. The caller frees data and scale. */
static struct wmat random_matrix(struct rng *r, enum wformat f, int rows, int cols, bool scale_f32)
{
    struct wmat w = {.format = f, .rows = rows, .cols = cols, .scale_f32 = scale_f32};
    size_t n = (size_t)rows * row_bytes(f, cols);
    uint8_t *data = xcalloc(1, n);
    for (size_t i = 0; i < n; i++)
        data[i] = (uint8_t)rng_below(r, 256);
    for (size_t i = 0; i < n; i++) {
        if (f == W_FP8 && (data[i] & 0x7f) == 0x7f)
            data[i] &= 0x80;
        if ((f == W_BF16 && i % 2 == 1) || (f == W_F32 && i % 4 == 3))
            data[i] &= 0xbf; /* exponent below the NaN range */
    }
    size_t blocks = (size_t)((rows + 127) / 128) * (size_t)((cols + 127) / 128);
    size_t n_scale = f == W_FP4 ? (size_t)rows * (size_t)(cols / 32) : blocks;
    uint8_t *scale = xcalloc(n_scale, 4);
    for (size_t i = 0; i < n_scale; i++) {
        float v = pow2f((int)rng_below(r, 30) - 20) * 1.25f;
        if (scale_f32)
            memcpy(scale + 4 * i, &v, 4);
        else
            scale[i] = (uint8_t)(1 + rng_below(r, 254));
    }
    w.data = data;
    w.scale = scale;
    return w;
}

static float value_of(const struct wmat *w, int row, int col)
{
    size_t at = (size_t)row * (size_t)w->cols + (size_t)col;
    const uint8_t *data = w->data, *s8 = w->scale;
    if (w->format == W_FP4) {
        uint8_t pair = data[at / 2];
        return e2m1_table[col % 2 != 0 ? pair >> 4 : pair & 15] * f32_from_e8m0(s8[at / 32]);
    }
    if (w->format == W_FP8) {
        size_t b = (size_t)(row / 128) * (size_t)((w->cols + 127) / 128) + (size_t)(col / 128);
        return e4m3_table[data[at]] * (w->scale_f32 ? ((const float *)w->scale)[b] : f32_from_e8m0(s8[b]));
    }
    float f;
    uint16_t h;
    if (w->format == W_F32)
        return memcpy(&f, data + 4 * at, 4), f;
    return memcpy(&h, data + 2 * at, 2), f32_from_bf16(h);
}

static void check_matrix(struct rng *r, enum wformat f, int rows, int cols, bool scale_f32)
{
    struct wmat w = random_matrix(r, f, rows, cols, scale_f32);
    assert_true(il16_fits(&w));
    size_t bytes = il16_bytes(&w);
    assert_int_equal(bytes % 64, 0);
    uint8_t *mem = try_alloc(bytes);
    assert_non_null(mem);
    memset(mem, 0x99, bytes);
    struct il16 m;
    il16_pack(&m, &w, mem);
    assert_int_equal(m.n_tiles, (rows + 15) / 16);
    for (int i = 0; i < rows; i++)
        for (int k = 0; k < cols; k++)
            if (f32_bits(il16_get(&m, i, k)) != f32_bits(value_of(&w, i, k)))
                fail_msg("format %d %dx%d at %d,%d: %g is not %g", f, rows, cols, i, k, (double)il16_get(&m, i, k),
                         (double)value_of(&w, i, k));
    for (int i = rows; i < m.n_tiles * 16; i++)
        for (int k = 0; k < cols && f != W_FP8; k++)
            assert_true(il16_get(&m, i, k) == 0);
    free(mem);
    free((void *)(uintptr_t)w.data);
    free((void *)(uintptr_t)w.scale);
}

static void test_every_value_survives(void **state)
{
    (void)state;
    struct rng r = {20260423};
    for (size_t i = 0; i < COUNT_OF(shapes); i++) {
        check_matrix(&r, W_FP4, shapes[i][0], shapes[i][1], false);
        check_matrix(&r, W_FP8, shapes[i][0], shapes[i][1], false);
        check_matrix(&r, W_FP8, shapes[i][0], shapes[i][1], true);
        check_matrix(&r, W_BF16, shapes[i][0], shapes[i][1], false);
        check_matrix(&r, W_F32, shapes[i][0], shapes[i][1], false);
    }
    check_matrix(&r, W_FP8, 20, 7, false);
    check_matrix(&r, W_BF16, 3, 9, false);
    check_matrix(&r, W_F32, 19, 1, false);
}

static void test_what_does_not_fit(void **state)
{
    (void)state;
    uint8_t codes[32] = {0}, scale[2] = {127, 0};
    struct wmat w = {.format = W_FP4, .rows = 2, .cols = 32, .data = codes, .scale = scale};
    assert_false(il16_fits(&w));
    scale[1] = 1;
    assert_true(il16_fits(&w));
    w.scale_f32 = true;
    assert_false(il16_fits(&w));
    w.format = W_F16;
    assert_false(il16_fits(&w));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_value_survives),
        cmocka_unit_test(test_what_does_not_fit),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
