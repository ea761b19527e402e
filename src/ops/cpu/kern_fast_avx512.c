/* Fast kernels for AVX-512 (F, BW, DQ, VL): 16 lanes, 32 registers; byte products by vpmaddubsw. */
#include <immintrin.h>
#include <stdint.h>

#define KERN_NAME fast_kern_avx512
#define KERN_TEXT "avx512"
#include "ops/cpu/fast_avx512.h"

static inline __attribute__((always_inline)) vi vi_digit_add(vi acc, vi code, vi digit)
{
    vi p = _mm512_maddubs_epi16(code, digit);
#ifdef __AVX512F__ /* As written: gcc would add the products first and run out of registers. */
    __asm__("vpaddw %1, %0, %0" : "+v"(acc) : "v"(p));
#else /* emulated */
    acc = _mm512_add_epi16(acc, p);
#endif
    return acc;
}

static inline __attribute__((always_inline)) vi vi_digit_sum(vi acc)
{
    return _mm512_madd_epi16(acc, _mm512_set1_epi16(1));
}

static inline __attribute__((always_inline)) vi vi_digit_join(vi low, vi high)
{
    return _mm512_add_epi32(vi_digit_sum(low), _mm512_madd_epi16(high, _mm512_set1_epi16(256)));
}

/* An index block's 16-bit sums times 2^distance, joined to 32 bits. */
#define vi_scale_word(distance) (0x00010001u << (distance))
#define vi_scale_block(acc, scale) _mm512_madd_epi16(acc, scale)

#include "ops/cpu/fast_tmpl.h"
