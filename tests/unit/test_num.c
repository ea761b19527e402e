/* num: every code of every format against its formula in double, every rounding midpoint, and the block quantisers over
 * every bf16 magnitude. */
#include "num/num.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>

#include <cmocka.h>

/* ---------------------------------------------------------------- the formulas, in double */

static double e4m3_formula(int code)
{
    int e = code >> 3 & 15, m = code & 7;
    double v = e == 0 ? ldexp(m, -9) : ldexp(8 + m, e - 10);
    return (code & 0x80) != 0 ? -v : v;
}

static double e2m1_formula(int code)
{
    int e = code >> 1 & 3, m = code & 1;
    double v = e == 0 ? 0.5 * m : ldexp(2 + m, e - 2);
    return (code & 8) != 0 ? -v : v;
}

static double f16_formula(int h)
{
    int e = h >> 10 & 31, m = h & 1023;
    double v = e == 0 ? ldexp(m, -24) : ldexp(1024 + m, e - 25);
    return (h & 0x8000) != 0 ? -v : v;
}

/* Equal as numbers and in the sign of zero. */
static void assert_same(double got, double want)
{
    if (!(got == want) || signbit(got) != signbit(want))
        fail_msg("got %a, expected %a", got, want);
}

/* ---------------------------------------------------------------- tables */

static void e4m3_all_codes(void **state)
{
    (void)state;
    for (int c = 0; c < 256; c++) {
        if ((c & 0x7f) == 0x7f)
            assert_true(isnan(e4m3_table[c]));
        else
            assert_same(e4m3_table[c], e4m3_formula(c));
    }
    assert_same(e4m3_table[0x7e], 448);
    assert_same(e4m3_table[0x01], 0x1p-9);
}

static void e2m1_all_codes(void **state)
{
    (void)state;
    for (int c = 0; c < 16; c++)
        assert_same(e2m1_table[c], e2m1_formula(c));
    assert_same(e2m1_table[7], 6);
    assert_true(signbit(e2m1_table[8]));
}

static void e8m0_all_bytes(void **state)
{
    (void)state;
    for (int b = 0; b < 255; b++)
        assert_same(f32_from_e8m0((uint8_t)b), ldexp(1, b - 127));
    assert_true(isnan(f32_from_e8m0(255)));
    for (int e = -126; e <= 127; e++)
        assert_same(pow2f(e), ldexp(1, e));
}

static void f16_all_codes(void **state)
{
    (void)state;
    for (int h = 0; h < 65536; h++) {
        float got = f32_from_f16((uint16_t)h);
        if ((h >> 10 & 31) != 31)
            assert_same(got, f16_formula(h));
        else if ((h & 1023) != 0)
            assert_true(isnan(got));
        else
            assert_same(got, h >> 15 ? -INFINITY : INFINITY);
    }
}

/* ---------------------------------------------------------------- rounding to bf16 */

static void bf16_round_trip(void **state)
{
    (void)state;
    for (uint32_t h = 0; h < 65536; h++) {
        float x = f32_from_bf16((uint16_t)h);
        if (isnan(x))
            assert_true(isnan(bf16_round(x)));
        else
            assert_int_equal(bf16_from_f32(x), h);
    }
    /* A NaN whose payload lies in the dropped half must not become an infinity. */
    assert_true(isnan(bf16_round(f32_from_bits(0x7f800001u))));
    assert_true(isnan(bf16_round(f32_from_bits(0xff800001u))));
}

/* Around every midpoint between neighbouring bf16 values: below goes down, above goes up, the tie to the even code. */
static void bf16_midpoints(void **state)
{
    (void)state;
    for (uint32_t h = 0; h < 0x7f80; h++) {
        uint32_t mid = h << 16 | 0x8000u, even = h + (h & 1);
        for (uint32_t sign = 0; sign <= 0x8000u; sign += 0x8000u) {
            assert_int_equal(bf16_from_f32(f32_from_bits(sign << 16 | (mid - 1))), sign | h);
            assert_int_equal(bf16_from_f32(f32_from_bits(sign << 16 | mid)), sign | even);
            assert_int_equal(bf16_from_f32(f32_from_bits(sign << 16 | (mid + 1))), sign | (h + 1));
        }
    }
}

/* ---------------------------------------------------------------- rounding to the small formats */

/* Checks a rounding function around code c and its upper neighbour, in both signs. Codes of a magnitude ascend. */
static void check_midpoint(uint8_t (*round_to)(float), double lower, double upper, int c, int sign_bit)
{
    float mid = (float)((lower + upper) / 2);
    int even = (c & 1) == 0 ? c : c + 1;
    assert_int_equal(round_to((float)lower), c);
    assert_int_equal(round_to(nextafterf(mid, 0)), c);
    assert_int_equal(round_to(mid), even);
    assert_int_equal(round_to(nextafterf(mid, INFINITY)), c + 1);
    assert_int_equal(round_to(-nextafterf(mid, 0)), c | sign_bit);
    assert_int_equal(round_to(-mid), even | sign_bit);
    assert_int_equal(round_to(-nextafterf(mid, INFINITY)), (c + 1) | sign_bit);
}

static void e4m3_midpoints(void **state)
{
    (void)state;
    for (int c = 0; c < 0x7e; c++)
        check_midpoint(e4m3_from_f32, e4m3_formula(c), e4m3_formula(c + 1), c, 0x80);
}

static void e2m1_midpoints(void **state)
{
    (void)state;
    for (int c = 0; c < 7; c++)
        check_midpoint(e2m1_from_f32, e2m1_formula(c), e2m1_formula(c + 1), c, 8);
}

static void saturation_and_nan(void **state)
{
    (void)state;
    static const float big[] = {448, 449, 464, 480, 1e6f, 3.4e38f, INFINITY};
    for (size_t i = 0; i < sizeof big / sizeof *big; i++) {
        assert_int_equal(e4m3_from_f32(big[i]), 0x7e);
        assert_int_equal(e4m3_from_f32(-big[i]), 0xfe);
        assert_int_equal(e2m1_from_f32(big[i]), 7);
        assert_int_equal(e2m1_from_f32(-big[i]), 15);
    }
    assert_int_equal(e4m3_from_f32(NAN), 0x7f);
    assert_int_equal(e4m3_from_f32(0), 0);
    assert_int_equal(e4m3_from_f32(-0.f), 0x80);
    assert_int_equal(e2m1_from_f32(-0.f), 8);
    assert_int_equal(e4m3_from_f32(0x1p-149f), 0);
}

static void e4m3_spot_values(void **state)
{
    (void)state;
    static const struct { float x; int code; } t[] = {
        {0x1p-10f, 0x00}, {0x1p-9f, 0x01}, {0x1.8p-9f, 0x02}, {1.0625f, 0x38}, {1.1875f, 0x3a}, {17, 0x58}, {19, 0x5a},
        {232, 0x76}, {248, 0x78}, {448, 0x7e}, {-3.3f, 0xc5},
    };
    for (size_t i = 0; i < sizeof t / sizeof *t; i++)
        assert_int_equal(e4m3_from_f32(t[i].x), t[i].code);
}

/* ---------------------------------------------------------------- block quantisers */

/* The smallest e with bound * 2^e >= amax, in double: exact for these magnitudes. */
static int exponent_formula(double amax, double floor, double bound)
{
    int e;
    if (amax < floor)
        amax = floor;
    double f = frexp(amax / bound, &e); /* f in [.5, 1): amax/bound = f 2^e */
    return f == 0.5 ? e - 1 : e;
}

static void act_quant_exponent_all_bf16(void **state)
{
    (void)state;
    for (uint32_t h = 0; h < 0x7f80; h++) {
        float amax = f32_from_bf16((uint16_t)h);
        assert_int_equal(act_quant_exponent(amax), exponent_formula(amax, (double)1e-4f, 448));
        assert_int_equal(fp4_quant_exponent(amax), exponent_formula(amax, 6 * 0x1p-126, 6));
    }
    assert_int_equal(act_quant_exponent(0), -22);
    assert_int_equal(fp4_quant_exponent(0), -126);
}

static void act_quant_vector(void **state)
{
    (void)state;
    static const uint8_t want[64] = {
        0xfd, 0xfd, 0xfc, 0xfc, 0xfb, 0xfb, 0xfb, 0xfa, 0xfa, 0xf9, 0xf9, 0xf8, 0xf8, 0xf7, 0xf6, 0xf6,
        0xf5, 0xf4, 0xf3, 0xf2, 0xf2, 0xf1, 0xf0, 0xee, 0xec, 0xeb, 0xe9, 0xe7, 0xe4, 0xe0, 0xda, 0xcd,
        0x4d, 0x5a, 0x60, 0x64, 0x67, 0x69, 0x6b, 0x6c, 0x6e, 0x70, 0x71, 0x72, 0x72, 0x73, 0x74, 0x75,
        0x76, 0x76, 0x77, 0x78, 0x78, 0x79, 0x79, 0x7a, 0x7a, 0x7b, 0x7b, 0x7b, 0x7c, 0x7c, 0x7d, 0x7d,
    };
    float x[64];
    uint8_t codes[64];
    for (int i = 0; i < 64; i++)
        x[i] = bf16_round((float)((i - 31.5) * 0.83));
    assert_int_equal(act_quant(x, 64, codes), -4);
    assert_memory_equal(codes, want, 64);
    assert_int_equal(act_quant(x, 64, NULL), -4);
    act_quant_sim(x, 64);
    for (int i = 0; i < 64; i++)
        assert_same(x[i], ldexp(e4m3_formula(want[i]), -4));
}

/* Ties to even, the ends of the range, blocks that have no scale. */
static void int8_quant_vector(void **state)
{
    (void)state;
    float x[6] = {127, -127, 0.5f, 1.5f, -2.5f, 0.49f};
    int8_t codes[6];
    static const int8_t want[6] = {127, -127, 0, 2, -2, 0}, zeros[6] = {0};
    assert_true(int8_quant(x, 6, codes) == 1);
    assert_memory_equal(codes, want, sizeof want);
    for (uint32_t i = 0; i < 190000; i++) { /* the largest magnitude is always 127 steps */
        float amax = f32_from_bits(0x0d800000u + i * 9973u), pair[2] = {amax, -amax};
        assert_true(int8_quant(pair, 2, codes) == amax / 127.0f);
        assert_true(codes[0] == 127 && codes[1] == -127);
    }
    x[0] = INFINITY;
    assert_true(isnan(int8_quant(x, 6, codes)));
    assert_memory_equal(codes, zeros, sizeof zeros);
    x[0] = NAN;
    assert_true(isnan(int8_quant(x, 6, codes)));
    float small[2] = {0x1p-101f, 0};
    assert_true(int8_quant(small, 2, codes) == 0 && codes[0] == 0);
}

static void fp4_quant_vector(void **state)
{
    (void)state;
    static const char want[] = "ffeeeeeddccbba980123344556666677";
    float x[32];
    uint8_t codes[32];
    for (int i = 0; i < 32; i++)
        x[i] = bf16_round((float)((i - 15.5) * 0.37));
    assert_int_equal(fp4_quant(x, 32, codes), 0);
    for (int i = 0; i < 32; i++)
        assert_int_equal("0123456789abcdef"[codes[i]], want[i]);
    fp4_quant_sim(x, 32);
    for (int i = 0; i < 32; i++)
        assert_same(x[i], e2m1_formula(codes[i]));
}

/* Every bf16 magnitude as the largest of a block: the simulation is a bf16 value, at most half a step away, and stays put
 * when simulated again. */
static void simulation_is_exact_in_bf16(void **state)
{
    (void)state;
    for (uint32_t h = 0; h < 0x7f00; h++) {
        float amax = f32_from_bf16((uint16_t)h);
        float x[4] = {amax, -amax, amax / 3, 0}, y[4];
        for (int i = 0; i < 4; i++)
            x[i] = y[i] = bf16_round(x[i]);
        int e = act_quant_exponent(amax);
        act_quant_sim(y, 4);
        for (int i = 0; i < 4; i++) {
            assert_same(bf16_round(y[i]), y[i]);
            double step = fmax(ldexp(1, e - 9), fabs((double)x[i]) / 8);
            assert_true(fabs((double)y[i] - (double)x[i]) <= step / 2);
        }
        float again[4] = {y[0], y[1], y[2], y[3]};
        act_quant_sim(again, 4);
        for (int i = 0; i < 4; i++)
            assert_same(again[i], y[i]);
        fp4_quant_sim(x, 4);
        assert_same(bf16_round(x[0]), x[0]);
        assert_same(x[1], -x[0]);
    }
}

/* Nothing finite becomes NaN; the very top of the range may round up to 2^128, an infinity (docs/NUMERICS.md). */
static void simulation_of_the_largest(void **state)
{
    (void)state;
    for (uint32_t h = 0x7f00; h < 0x7f80; h++) {
        float x[2] = {f32_from_bf16((uint16_t)h), 1};
        act_quant_sim(x, 2);
        assert_false(isnan(x[0]) || isnan(x[1]));
        assert_true(isfinite(x[0]) || h >= 0x7f78);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(e4m3_all_codes),
        cmocka_unit_test(e2m1_all_codes),
        cmocka_unit_test(e8m0_all_bytes),
        cmocka_unit_test(f16_all_codes),
        cmocka_unit_test(bf16_round_trip),
        cmocka_unit_test(bf16_midpoints),
        cmocka_unit_test(e4m3_midpoints),
        cmocka_unit_test(e2m1_midpoints),
        cmocka_unit_test(saturation_and_nan),
        cmocka_unit_test(e4m3_spot_values),
        cmocka_unit_test(act_quant_exponent_all_bf16),
        cmocka_unit_test(act_quant_vector),
        cmocka_unit_test(int8_quant_vector),
        cmocka_unit_test(fp4_quant_vector),
        cmocka_unit_test(simulation_is_exact_in_bf16),
        cmocka_unit_test(simulation_of_the_largest),
    };
    return cmocka_run_group_tests_name("num", tests, NULL, NULL);
}
