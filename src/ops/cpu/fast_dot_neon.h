/* Vectors of 128 bits with the dot-product instruction, for fast_tmpl.h: what neon-dot and neon-bf16 share. */
#define WIDE_DIGITS
#include "ops/cpu/fast_neon.h"

static inline __attribute__((always_inline)) vi vi_digit_add(vi acc, vi code, vi digit)
{
    return vdotq_s32(acc, AS_S8(code), AS_S8(digit));
}

static inline __attribute__((always_inline)) vi vi_digit_join(vi low, vi high)
{
    return vaddq_s32(low, vshlq_n_s32(high, 8));
}

#define vi_digit_sum(acc) (acc)

/* An index block's sums times 2^distance. */
#define vi_scale_word(distance) ((uint32_t)(distance))
#define vi_scale_block(acc, scale) vshlq_s32(acc, scale)
