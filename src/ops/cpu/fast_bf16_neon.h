/* Vectors of 128 bits with BF16 and the dot-product instruction, for fast_tmpl.h: FP8 and BF16 weights by bfdot. What
 * neon-bf16 and neon-i8mm share.
 *
 * bfdot takes subnormal bf16 inputs as zero; e4m3 values (the smallest is 2^-9) and e4m3 activations are far above. */
#define PAIRS
#include "ops/cpu/fast_fp8_bf16.h"
#include "ops/cpu/fast_dot_neon.h"

static inline __attribute__((always_inline)) vf vf_dot_pairs(vf w, vf x, vf acc)
{
    return vbfdotq_f32(acc, vreinterpretq_bf16_f32(w), vreinterpretq_bf16_f32(x));
}

/* A table of 128 bytes by magnitude. */
static inline __attribute__((always_inline)) uint8x16_t look_up(const uint8_t *table, uint8x16_t magnitude)
{
    uint8x16_t low = vqtbl4q_u8(vld1q_u8_x4(table), magnitude);
    return vqtbx4q_u8(low, vld1q_u8_x4(table + 64), vsubq_u8(magnitude, vdupq_n_u8(64)));
}

/* Bytes become bf16 values by two table look-ups; the line's byte order makes low and high halves the pairs of columns. */
static inline __attribute__((always_inline)) void vi_fp8_pairs(vi line, vf *w)
{
    uint8x16_t code = AS_U8(line), magnitude = vandq_u8(code, vdupq_n_u8(0x7f)), low = look_up(fp8_low, magnitude);
    uint8x16_t high = vorrq_u8(look_up(fp8_high, magnitude), vandq_u8(code, vdupq_n_u8(0x80)));
    w[0] = vreinterpretq_f32_u8(vzip1q_u8(low, high));
    w[1] = vreinterpretq_f32_u8(vzip2q_u8(low, high));
}
