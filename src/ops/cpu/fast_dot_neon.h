/* Vectors of 128 bits with the dot-product instruction, for fast_tmpl.h: what neon-dot and the levels above share. */
#define WIDE_DIGITS
#include "ops/cpu/fast_neon.h"

static inline __attribute__((always_inline)) vi vi_digit_add(vi acc, vi code, vi digit)
{
    return vdotq_s32(acc, AS_S8(code), AS_S8(digit));
}

/* The same with word `lane` of four. The intrinsic wants its lane written out. */
static inline __attribute__((always_inline)) vi dot_lane(vi acc, vi code, vi words, const int lane)
{
    switch (lane) {
    case 0: return vdotq_laneq_s32(acc, AS_S8(code), AS_S8(words), 0);
    case 1: return vdotq_laneq_s32(acc, AS_S8(code), AS_S8(words), 1);
    case 2: return vdotq_laneq_s32(acc, AS_S8(code), AS_S8(words), 2);
    default: return vdotq_laneq_s32(acc, AS_S8(code), AS_S8(words), 3);
    }
}
#define vi_digit_lane(acc, code, words, lane) dot_lane(acc, code, words, lane)
#define vi_load_half(p) vcombine_s32(vld1_s32(p), vdup_n_s32(0))

static inline __attribute__((always_inline)) vi vi_digit_join(vi low, vi high)
{
    return vaddq_s32(low, vshlq_n_s32(high, 8));
}

#define vi_digit_sum(acc) (acc)

/* An index block's sums times 2^distance. */
#define vi_scale_word(distance) ((uint32_t)(distance))
#define vi_scale_block(acc, scale) vshlq_s32(acc, scale)
