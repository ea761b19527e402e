/* Fast kernels for NEON: 4 lanes, 32 registers. */
#include <arm_neon.h>
#include <stdint.h>

#define KERN_NAME fast_kern_neon
#define KERN_TEXT "neon"
#include "ops/cpu/fast_neon.h"

/* Products of code bytes and one digit's bytes, pairs summed in 16 bits. */
static inline __attribute__((always_inline)) vi vi_digit_add(vi acc, vi code, vi digit)
{
    int16x8_t low = vmull_s8(vget_low_s8(AS_S8(code)), vget_low_s8(AS_S8(digit)));
    int16x8_t high = vmull_high_s8(AS_S8(code), AS_S8(digit));
    acc = OF_S16(vaddq_s16(AS_S16(acc), vpaddq_s16(low, high)));
    __asm__("" : "+w"(acc)); /* as written: gcc would add the products first and run out of registers */
    return acc;
}

/* Products of 16-bit values, pairs summed in 32 bits. */
static inline __attribute__((always_inline)) vi dot_words(vi a, vi b)
{
    int32x4_t low = vmull_s16(vget_low_s16(AS_S16(a)), vget_low_s16(AS_S16(b)));
    return vpaddq_s32(low, vmull_high_s16(AS_S16(a), AS_S16(b)));
}

#define vi_digit_sum(acc) dot_words(acc, vi_set32(0x00010001))

/* The sums of two digits weighted by 1 and 256. */
static inline __attribute__((always_inline)) vi vi_digit_join(vi low, vi high)
{
    return vaddq_s32(vi_digit_sum(low), dot_words(high, vi_set32(0x01000100)));
}

/* An index block's 16-bit sums times 2^distance, joined to 32 bits. */
#define vi_scale_word(distance) (0x00010001u << (distance))
#define vi_scale_block(acc, scale) dot_words(acc, scale)

#include "ops/cpu/fast_tmpl.h"
