#include "num/num.h"

#include <math.h>

/* Value of an e4m3 code: (8+m) * 2^(e-10), subnormals m * 2^-9. */
#define E4M3_POS(e, m) ((e) == 0 ? (float)(m) * 0x1p-9f : (float)(8 + (m)) * (float)(1 << (e)) * 0x1p-10f)
#define E4M3_ROW(e) E4M3_POS(e, 0), E4M3_POS(e, 1), E4M3_POS(e, 2), E4M3_POS(e, 3), \
                    E4M3_POS(e, 4), E4M3_POS(e, 5), E4M3_POS(e, 6), E4M3_POS(e, 7)
#define E4M3_NEG_ROW(e) -E4M3_POS(e, 0), -E4M3_POS(e, 1), -E4M3_POS(e, 2), -E4M3_POS(e, 3), \
                        -E4M3_POS(e, 4), -E4M3_POS(e, 5), -E4M3_POS(e, 6), -E4M3_POS(e, 7)

const float e4m3_table[256] = {
    E4M3_ROW(0), E4M3_ROW(1), E4M3_ROW(2), E4M3_ROW(3), E4M3_ROW(4), E4M3_ROW(5), E4M3_ROW(6), E4M3_ROW(7),
    E4M3_ROW(8), E4M3_ROW(9), E4M3_ROW(10), E4M3_ROW(11), E4M3_ROW(12), E4M3_ROW(13), E4M3_ROW(14),
    E4M3_POS(15, 0), E4M3_POS(15, 1), E4M3_POS(15, 2), E4M3_POS(15, 3),
    E4M3_POS(15, 4), E4M3_POS(15, 5), E4M3_POS(15, 6), NAN,
    E4M3_NEG_ROW(0), E4M3_NEG_ROW(1), E4M3_NEG_ROW(2), E4M3_NEG_ROW(3), E4M3_NEG_ROW(4), E4M3_NEG_ROW(5),
    E4M3_NEG_ROW(6), E4M3_NEG_ROW(7), E4M3_NEG_ROW(8), E4M3_NEG_ROW(9), E4M3_NEG_ROW(10), E4M3_NEG_ROW(11),
    E4M3_NEG_ROW(12), E4M3_NEG_ROW(13), E4M3_NEG_ROW(14),
    -E4M3_POS(15, 0), -E4M3_POS(15, 1), -E4M3_POS(15, 2), -E4M3_POS(15, 3),
    -E4M3_POS(15, 4), -E4M3_POS(15, 5), -E4M3_POS(15, 6), -NAN,
};

const float e2m1_table[16] = {0, .5f, 1, 1.5f, 2, 3, 4, 6, -0.f, -.5f, -1, -1.5f, -2, -3, -4, -6};

#define E2M1_MAG(c) ((c) < 2 ? (c) * 0.5f : (2 + ((c) & 1)) * 0.25f * (float)(1 << ((c) >> 1)))
#define E2M1(c) ((c) & 8 ? -E2M1_MAG((c) & 7) : E2M1_MAG((c) & 7))
#define E2M1_PAIR(b) {E2M1((b) & 15), E2M1((b) >> 4)}
#define E2M1_4(b) E2M1_PAIR(b), E2M1_PAIR((b) + 1), E2M1_PAIR((b) + 2), E2M1_PAIR((b) + 3)
#define E2M1_16(b) E2M1_4(b), E2M1_4((b) + 4), E2M1_4((b) + 8), E2M1_4((b) + 12)
#define E2M1_64(b) E2M1_16(b), E2M1_16((b) + 16), E2M1_16((b) + 32), E2M1_16((b) + 48)

const float e2m1_pairs[256][2] = {E2M1_64(0), E2M1_64(64), E2M1_64(128), E2M1_64(192)};

float f32_from_f16(uint16_t h)
{
    uint32_t sign = (uint32_t)(h & 0x8000u) << 16, e = h >> 10 & 31, m = h & 1023;
    if (e == 31)
        return f32_from_bits(sign | 0x7f800000u | m << 13);
    if (e != 0)
        return f32_from_bits(sign | (e + 112) << 23 | m << 13);
    float v = (float)m * 0x1p-24f;
    return sign != 0 ? -v : v;
}

float f32_from_e8m0(uint8_t byte)
{
    if (byte == 255)
        return NAN;
    return byte == 0 ? 0x1p-127f : f32_from_bits((uint32_t)byte << 23);
}

uint8_t e4m3_from_f32(float x)
{
    uint32_t u = f32_bits(x);
    uint8_t sign = (uint8_t)(u >> 24 & 0x80);
    u &= 0x7fffffffu;
    if (u > 0x7f800000u)
        return 0x7f;
    if (u >= 0x43e00000u) /* 448 and above */
        return sign | 0x7e;
    if (u < 0x3c800000u) { /* below 2^-6: subnormal, step 2^-9; adding 1.5*2^14 rounds at that step, ties to even */
        float r = f32_from_bits(u) + 0x1.8p14f;
        return sign | (uint8_t)(f32_bits(r) & 15);
    }
    u += 0x7ffffu + (u >> 20 & 1); /* round the 23-bit mantissa to 3 bits */
    return sign | (uint8_t)((u >> 20) - (120u << 3));
}

uint8_t e2m1_from_f32(float x)
{
    uint8_t sign = (uint8_t)(f32_bits(x) >> 28 & 8);
    float a = fabsf(x);
    /* Midpoints .25 .75 1.25 1.75 2.5 3.5 5: a tie goes to the even code. */
    int c = a <= .25f ? 0 : a < .75f ? 1 : a <= 1.25f ? 2 : a < 1.75f ? 3 : a <= 2.5f ? 4 : a < 3.5f ? 5 : a <= 5 ? 6 : 7;
    return (uint8_t)(sign | c);
}

int act_quant_exponent(float amax)
{
    if (!(amax > 1e-4f))
        amax = 1e-4f;
    /* ceil(log2(amax/448)): amax = 1.m * 2^x and 448 = 1.75 * 2^8. */
    uint32_t u = f32_bits(amax);
    int x = (int)(u >> 23) - 127;
    return (u & 0x7fffffu) <= 0x600000u ? x - 8 : x - 7;
}

int fp4_quant_exponent(float amax)
{
    if (!(amax > 0x1.8p-124f)) /* 6 * 2^-126 */
        amax = 0x1.8p-124f;
    uint32_t u = f32_bits(amax);
    int x = (int)(u >> 23) - 127;
    return (u & 0x7fffffu) <= 0x400000u ? x - 2 : x - 1;
}

static float abs_max(const float *x, int n)
{
    float m = 0;
    for (int i = 0; i < n; i++) {
        float a = fabsf(x[i]);
        m = a > m ? a : m;
    }
    return m;
}

/* x / 2^e without overflow or a subnormal reciprocal: e is in -126..127 after the floors above, -e may be 126. */
static float scale_down(float x, int e)
{
    return e >= -126 && e <= 126 ? x * pow2f(-e) : ldexpf(x, -e);
}

float int8_quant(const float *x, int n, int8_t *codes)
{
    float amax = 0;
    for (int i = 0; i < n; i++)
        amax = isfinite(x[i]) ? fmaxf(amax, fabsf(x[i])) : INFINITY;
    int in_range = amax >= 0x1p-100f && isfinite(amax);
    for (int i = 0; i < n; i++)
        codes[i] = in_range ? (int8_t)rintf(x[i] * (127.0f / amax)) : 0;
    return in_range ? amax / 127.0f : amax < 1 ? 0 : NAN;
}

int act_quant(const float *x, int n, uint8_t *codes)
{
    int e = act_quant_exponent(abs_max(x, n));
    for (int i = 0; codes != NULL && i < n; i++)
        codes[i] = e4m3_from_f32(scale_down(x[i], e));
    return e;
}

void act_quant_sim(float *x, int n)
{
    int e = act_quant_exponent(abs_max(x, n));
    for (int i = 0; i < n; i++)
        x[i] = ldexpf(e4m3_table[e4m3_from_f32(scale_down(x[i], e))], e);
}

int fp4_quant(const float *x, int n, uint8_t *codes)
{
    int e = fp4_quant_exponent(abs_max(x, n));
    for (int i = 0; codes != NULL && i < n; i++)
        codes[i] = e2m1_from_f32(scale_down(x[i], e));
    return e;
}

void fp4_quant_sim(float *x, int n)
{
    int e = fp4_quant_exponent(abs_max(x, n));
    for (int i = 0; i < n; i++)
        x[i] = ldexpf(e2m1_table[e2m1_from_f32(scale_down(x[i], e))], e);
}
