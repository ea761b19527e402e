/* Fast kernels for AVX-512 with BF16 and VNNI: FP8 and BF16 weights by vdpbf16ps, FP4 digits by vpdpbusd.
 *
 * vdpbf16ps takes subnormal bf16 inputs as zero; e4m3 values (the smallest is 2^-9) and e4m3 activations are far above. */
#include <immintrin.h>
#include <stdint.h>

#define KERN_NAME fast_kern_avx512bf16
#define KERN_TEXT "avx512 bf16"
#define PAIRS
#define WIDE_DIGITS
#include "ops/cpu/fast_avx512.h"
#include "ops/cpu/fast_fp8_bf16.h"

static inline __attribute__((always_inline)) vi vi_digit_add(vi acc, vi code, vi digit)
{
    return _mm512_dpbusd_epi32(acc, code, digit);
}

/* The same with a word from memory. As written: gcc 12 would broadcast it by an instruction of its own. */
static inline __attribute__((always_inline)) vi vi_digit_word(vi acc, vi code, const int32_t *digit)
{
#ifdef __AVX512VNNI__
    __asm__("vpdpbusd %2%{1to16%}, %1, %0" : "+v"(acc) : "v"(code), "m"(*digit));
    return acc;
#else /* the tests' emulation */
    return _mm512_dpbusd_epi32(acc, code, _mm512_set1_epi32(*digit));
#endif
}
#define vi_digit_word vi_digit_word

static inline __attribute__((always_inline)) vi vi_digit_join(vi low, vi high)
{
    return _mm512_add_epi32(low, _mm512_slli_epi32(high, 8));
}

#define vi_digit_sum(acc) (acc)

static inline __attribute__((always_inline)) vf vf_dot_pairs(vf w, vf x, vf acc)
{
    return _mm512_dpbf16_ps(acc, (__m512bh)w, (__m512bh)x);
}

/* Bytes become bf16 values by two table look-ups; the line's byte order makes low and high halves the pairs of columns. */
static inline __attribute__((always_inline)) void vi_fp8_pairs(vi line, vf *w)
{
    vi low = _mm512_permutex2var_epi8(_mm512_loadu_si512(fp8_low), line, _mm512_loadu_si512(fp8_low + 64));
    vi high = _mm512_permutex2var_epi8(_mm512_loadu_si512(fp8_high), line, _mm512_loadu_si512(fp8_high + 64));
    high = _mm512_or_si512(high, _mm512_and_si512(line, _mm512_set1_epi8((char)0x80)));
    w[0] = _mm512_castsi512_ps(_mm512_unpacklo_epi8(low, high));
    w[1] = _mm512_castsi512_ps(_mm512_unpackhi_epi8(low, high));
}

/* An index block's sums times 2^distance. */
#define vi_scale_word(distance) ((uint32_t)(distance))
#define vi_scale_block(acc, scale) _mm512_sllv_epi32(acc, scale)

#include "ops/cpu/fast_tmpl.h"
