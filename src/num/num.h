/* num: the number formats of the V4 checkpoints, one scalar function each - the truth that every kernel is held to.
 *
 * Source: OCP Microscaling Formats (MX) v1.0 for e8m0, e2m1; OCP FP8 for e4m3 (finite variant "e4m3fn");
 * DeepSeek-V4 inference/kernel.py act_quant and fp4_act_quant for the block quantisers. docs/NUMERICS.md has the rules.
 */
#ifndef HADAL_NUM_H
#define HADAL_NUM_H

#include <stdint.h>
#include <string.h>

static inline uint32_t f32_bits(float x)
{
    uint32_t u;
    memcpy(&u, &x, 4);
    return u;
}

static inline float f32_from_bits(uint32_t u)
{
    float x;
    memcpy(&x, &u, 4);
    return x;
}

/* ---- bf16: the upper half of an fp32. Rounding to nearest, ties to even; NaN stays NaN. */
static inline uint16_t bf16_from_f32(float x)
{
    uint32_t u = f32_bits(x);
    if ((u & 0x7fffffffu) > 0x7f800000u)
        return (uint16_t)(u >> 16 | 0x40);
    return (uint16_t)((u + 0x7fffu + (u >> 16 & 1)) >> 16);
}

static inline float f32_from_bf16(uint16_t h)
{
    return f32_from_bits((uint32_t)h << 16);
}

/* x rounded to bf16, kept in an fp32. */
static inline float bf16_round(float x)
{
    return f32_from_bf16(bf16_from_f32(x));
}

/* ---- fp16 (F16 tensors of third-party checkpoints): exact widening. */
float f32_from_f16(uint16_t h);

/* ---- e8m0: 2^(byte-127). 255 is NaN; 0 is 2^-127 (an fp32 subnormal). */
float f32_from_e8m0(uint8_t byte);
static inline float pow2f(int e) /* 2^e for e in -126..127 */
{
    return f32_from_bits((uint32_t)(e + 127) << 23);
}

/* ---- e4m3 (finite: max 448, no infinity, 0x7f and 0xff NaN, smallest subnormal 2^-9). */
extern const float e4m3_table[256];
uint8_t e4m3_from_f32(float x); /* nearest even, saturating at +-448; NaN gives 0x7f */

/* ---- e2m1: codes 0..7 = 0 .5 1 1.5 2 3 4 6, 8..15 the same negated (8 is -0). */
extern const float e2m1_table[16];
extern const float e2m1_pairs[256][2]; /* both values of a packed byte, low nibble first */
uint8_t e2m1_from_f32(float x); /* nearest even, saturating at +-6 */

/* ---- block quantisers. They return the scale exponent e; the scale is 2^e and the stored byte e+127. */

/* INT8 activation quantiser of numerics int8 (ours, not DeepSeek's): code = the integer nearest to x * (127 / amax), ties
 * to even, products in fp32; returns the scale amax / 127. amax below 2^-100: scale 0 and codes 0; a NaN or an infinity
 * among the values: scale NaN and codes 0. */
float int8_quant(const float *x, int n, int8_t *codes);

/* FP8 activation quantiser: amax = max(|x|, 1e-4), e = ceil(log2(amax/448)), code = e4m3(x / 2^e).
 * x is rounded to bf16 by the caller where the recipe says so. codes may be NULL. */
int act_quant_exponent(float amax);
int act_quant(const float *x, int n, uint8_t *codes);
/* The same, written back as values code * 2^e (the "simulation" form). n is one block. */
void act_quant_sim(float *x, int n);

/* FP4 quantiser of the indexer: amax = max(|x|, 6*2^-126), e = ceil(log2(amax/6)), code = e2m1(x / 2^e). */
int fp4_quant_exponent(float amax);
int fp4_quant(const float *x, int n, uint8_t *codes);
void fp4_quant_sim(float *x, int n);

#endif
