/* Fast kernels for AVX2 and FMA: 8 lanes, 16 registers. */
#include <immintrin.h>
#include <stdint.h>

#define KERN_NAME fast_kern_avx2
#define KERN_TEXT "avx2"
#define LANES 8
#define X_TILE 6
#define FOR_EACH_X_TILE(M) M(1) M(2) M(3) M(4) M(5) M(6)
#define D_TILE 6
#define FOR_EACH_D_TILE(M) M(1) M(2) M(3) M(4) M(5) M(6)
#define INT8_TILE X_TILE
#define INDEX_HEADS 4
#define FEW_TILES(f, m) ((m) == 2 ? 4 : 1)
#define FEW_ROWS X_TILE
#define REST_INLINE static NO_INLINE
#define GROUP_UNROLL NO_UNROLL /* as much as the registers and the decoded instructions have room for */

typedef __m256 vf;
typedef __m256i vi;

static const int8_t fp4_offset_codes[16] = {12, 13, 14, 15, 16, 18, 20, 24, 12, 11, 10, 9, 8, 6, 4, 0};

#define vf_zero() _mm256_setzero_ps()
#define vf_set(x) _mm256_set1_ps(x)
#define vf_load(p) _mm256_loadu_ps(p)
#define vf_store(p, v) _mm256_storeu_ps(p, v)
#define vf_fma(a, b, c) _mm256_fmadd_ps(a, b, c)
#define vf_mul(a, b) _mm256_mul_ps(a, b)
#define vf_from_bits(v) _mm256_castsi256_ps(v)
#define vf_from_i32(v) _mm256_cvtepi32_ps(v)
#define vi_load(p) _mm256_loadu_si256((const __m256i *)(const void *)(p))
#define vi_set32(x) _mm256_set1_epi32((int)(x))
#define vi_and(a, b) _mm256_and_si256(a, b)
#define vi_add32(a, b) _mm256_add_epi32(a, b)
#define vi_sub32(a, b) _mm256_sub_epi32(a, b)
#define vi_max32(a, b) _mm256_max_epi32(a, b)
#define vi_sll32_16(v) _mm256_slli_epi32(v, 16)
#define vi_sllv32(v, n) _mm256_sllv_epi32(v, n)
#define vi_sll32_23(v) _mm256_slli_epi32(v, 23)
#define vi_srl16_4(v) _mm256_srli_epi16(v, 4)
/* 16 times the even or the odd signed bytes, as words. Products, because shifts would compete with the unpacking. */
#define vi_even_16(v) _mm256_maddubs_epi16(_mm256_set1_epi16(0x0010), v)
#define vi_odd_16(v) _mm256_maddubs_epi16(_mm256_set1_epi16(0x1000), v)
/* 16-bit values of a and b alternating, from the low or the high half of each 128 bits */
#define vi_low16_pairs(a, b) _mm256_unpacklo_epi16(a, b)
#define vi_high16_pairs(a, b) _mm256_unpackhi_epi16(a, b)
/* 32-bit and 64-bit values of a and b alternating, in the same way */
#define vi_low32_pairs(a, b) _mm256_unpacklo_epi32(a, b)
#define vi_high32_pairs(a, b) _mm256_unpackhi_epi32(a, b)
#define vi_low64_pairs(a, b) _mm256_unpacklo_epi64(a, b)
#define vi_high64_pairs(a, b) _mm256_unpackhi_epi64(a, b)
/* 16 bytes at p and 16 at p + step */
#define vi_load_rows(p, step) \
    _mm256_loadu2_m128i((const __m128i *)(const void *)((p) + (step)), (const __m128i *)(const void *)(p))
#define vi_lookup(table, index) _mm256_shuffle_epi8(table, index)
#define vi_table16(p) _mm256_broadcastsi128_si256(_mm_loadu_si128((const __m128i *)(const void *)(p)))
#define vi_widen8(p) _mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *)(const void *)(p)))

#define vi_digit_first(code, digit) _mm256_maddubs_epi16(code, digit)

/* Halves g of two vectors become vector g. */
static inline __attribute__((always_inline)) void vi_turn_quarters(vi *v)
{
    vi low = _mm256_permute2x128_si256(v[0], v[1], 0x20);
    v[1] = _mm256_permute2x128_si256(v[0], v[1], 0x31);
    v[0] = low;
}

/* Products of code bytes and one digit's bytes, pairs summed in 16 bits; such sums in 32 bits; and those of two digits
 * weighted by 1 and 256. */
static inline __attribute__((always_inline)) vi vi_digit_add(vi acc, vi code, vi digit)
{
    vi p = _mm256_maddubs_epi16(code, digit);
    /* As written: gcc would add the products first and run out of registers. */
    __asm__("vpaddw %1, %0, %0" : "+x"(acc) : "x"(p));
    return acc;
}

static inline __attribute__((always_inline)) vi vi_digit_sum(vi acc)
{
    return _mm256_madd_epi16(acc, _mm256_set1_epi16(1));
}

static inline __attribute__((always_inline)) vi vi_digit_join(vi low, vi high)
{
    return _mm256_add_epi32(vi_digit_sum(low), _mm256_madd_epi16(high, _mm256_set1_epi16(256)));
}

/* An index block's 16-bit sums times 2^distance, joined to 32 bits. */
#define vi_scale_word(distance) (0x00010001u << (distance))
#define vi_scale_block(acc, scale) _mm256_madd_epi16(acc, scale)

#include "ops/cpu/fast_tmpl.h"
