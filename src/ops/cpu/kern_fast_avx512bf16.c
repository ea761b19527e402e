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

static inline __attribute__((always_inline)) vi vi_digit_add(vi acc, vi code, vi digit)
{
    return _mm512_dpbusd_epi32(acc, code, digit);
}

static inline __attribute__((always_inline)) vi vi_digit_join(vi low, vi high)
{
    return _mm512_add_epi32(low, _mm512_slli_epi32(high, 8));
}

#define vi_digit_sum(acc) (acc)

static inline __attribute__((always_inline)) vf vf_dot_pairs(vf w, vf x, vf acc)
{
    return _mm512_dpbf16_ps(acc, (__m512bh)w, (__m512bh)x);
}

/* e4m3 magnitudes 0..127 as bf16, low and high bytes apart. */
enum { SUB1 = 0x3b00, SUB2 = 0x3b80, SUB3 = 0x3bc0, SUB4 = 0x3c00, SUB5 = 0x3c20, SUB6 = 0x3c40, SUB7 = 0x3c60 };
#define ROW(m, B) B((m) + 0), B((m) + 1), B((m) + 2), B((m) + 3), B((m) + 4), B((m) + 5), B((m) + 6), B((m) + 7)
#define NORMAL_LOW(c) (uint8_t)(((c) << 4) & 0xff)
#define NORMAL_HIGH(c) (uint8_t)((((c) << 4) + (120 << 7)) >> 8)
static const uint8_t fp8_low[128] = {
    0, SUB1 & 0xff, SUB2 & 0xff, SUB3 & 0xff, SUB4 & 0xff, SUB5 & 0xff, SUB6 & 0xff, SUB7 & 0xff,
    ROW(8, NORMAL_LOW), ROW(16, NORMAL_LOW), ROW(24, NORMAL_LOW), ROW(32, NORMAL_LOW), ROW(40, NORMAL_LOW),
    ROW(48, NORMAL_LOW), ROW(56, NORMAL_LOW), ROW(64, NORMAL_LOW), ROW(72, NORMAL_LOW), ROW(80, NORMAL_LOW),
    ROW(88, NORMAL_LOW), ROW(96, NORMAL_LOW), ROW(104, NORMAL_LOW), ROW(112, NORMAL_LOW), ROW(120, NORMAL_LOW)};
static const uint8_t fp8_high[128] = {
    0, SUB1 >> 8, SUB2 >> 8, SUB3 >> 8, SUB4 >> 8, SUB5 >> 8, SUB6 >> 8, SUB7 >> 8,
    ROW(8, NORMAL_HIGH), ROW(16, NORMAL_HIGH), ROW(24, NORMAL_HIGH), ROW(32, NORMAL_HIGH), ROW(40, NORMAL_HIGH),
    ROW(48, NORMAL_HIGH), ROW(56, NORMAL_HIGH), ROW(64, NORMAL_HIGH), ROW(72, NORMAL_HIGH), ROW(80, NORMAL_HIGH),
    ROW(88, NORMAL_HIGH), ROW(96, NORMAL_HIGH), ROW(104, NORMAL_HIGH), ROW(112, NORMAL_HIGH), ROW(120, NORMAL_HIGH)};

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
