/* Vectors of 512 bits for fast_tmpl.h: what both AVX-512 levels share. */
#define LANES 16
#define X_TILE 16
#define FOR_EACH_X_TILE(M) M(1) M(2) M(3) M(4) M(5) M(6) M(7) M(8) M(9) M(10) M(11) M(12) \
    M(13) M(14) M(15) M(16)
#define D_TILE 12
#define FOR_EACH_D_TILE(M) M(1) M(2) M(3) M(4) M(5) M(6) M(7) M(8) M(9) M(10) M(11) M(12)
#define INT8_TILE 12 /* 16 are 0.95 to 0.98 as fast */
#define INDEX_HEADS 8
#define FEW_TILES(f, m) ((m) <= ((f) == W_BF16 ? 6 : 4) ? 4 : (m) <= ((f) == W_BF16 ? 8 : 7) ? 2 : 1)
#define FEW_ROWS INT_MAX
#define REST_INLINE ALWAYS_INLINE
#define GROUP_UNROLL _Pragma("GCC unroll 4")

typedef __m512 vf;
typedef __m512i vi;

#define FP4_CODES 12, 13, 14, 15, 16, 18, 20, 24, 12, 11, 10, 9, 8, 6, 4, 0
static const int8_t fp4_offset_codes[64] = {FP4_CODES, FP4_CODES, FP4_CODES, FP4_CODES};
/* A table of 64, so that the two bits above a nibble need not be cleared. */
#define vi_nibble_codes(v) _mm512_permutexvar_epi8(v, _mm512_loadu_si512(fp4_offset_codes))

#define vf_zero() _mm512_setzero_ps()
#define vf_set(x) _mm512_set1_ps(x)
#define vf_load(p) _mm512_loadu_ps(p)
#define vf_store(p, v) _mm512_storeu_ps(p, v)
#define vf_fma(a, b, c) _mm512_fmadd_ps(a, b, c)
#define vf_mul(a, b) _mm512_mul_ps(a, b)
#define vf_from_bits(v) _mm512_castsi512_ps(v)
#define vf_from_i32(v) _mm512_cvtepi32_ps(v)
#define vi_load(p) _mm512_loadu_si512((const void *)(p))
#define vi_set32(x) _mm512_set1_epi32((int)(x))
#define vi_and(a, b) _mm512_and_si512(a, b)
#define vi_add32(a, b) _mm512_add_epi32(a, b)
#define vi_sub32(a, b) _mm512_sub_epi32(a, b)
#define vi_max32(a, b) _mm512_max_epi32(a, b)
#define vi_even_16(v) _mm512_srai_epi16(_mm512_slli_epi16(v, 8), 4)
#define vi_odd_16(v) _mm512_srai_epi16(v, 4)
#define vi_sll32_16(v) _mm512_slli_epi32(v, 16)
#define vi_sllv32(v, n) _mm512_sllv_epi32(v, n)
#define vi_sll32_23(v) _mm512_slli_epi32(v, 23)
#define vi_srl16_4(v) _mm512_srli_epi16(v, 4)
/* 16-bit values of a and b alternating, from the low or the high half of each 128 bits */
#define vi_low16_pairs(a, b) _mm512_unpacklo_epi16(a, b)
#define vi_high16_pairs(a, b) _mm512_unpackhi_epi16(a, b)
/* 32-bit and 64-bit values of a and b alternating, from the low or the high half of each 128 bits */
#define vi_low32_pairs(a, b) _mm512_unpacklo_epi32(a, b)
#define vi_high32_pairs(a, b) _mm512_unpackhi_epi32(a, b)
#define vi_low64_pairs(a, b) _mm512_unpacklo_epi64(a, b)
#define vi_high64_pairs(a, b) _mm512_unpackhi_epi64(a, b)
#define vi_lookup(table, index) _mm512_shuffle_epi8(table, index)
#define vi_table16(p) _mm512_broadcast_i32x4(_mm_loadu_si128((const __m128i *)(const void *)(p)))
#define vi_widen8(p) _mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i *)(const void *)(p)))

/* 16 bytes each at p, p + step, p + 2 step and p + 3 step */
static inline __attribute__((always_inline)) vi vi_load_rows(const uint8_t *p, size_t step)
{
    vi v = _mm512_castsi128_si512(_mm_loadu_si128((const __m128i *)(const void *)p));
    v = _mm512_inserti32x4(v, _mm_loadu_si128((const __m128i *)(const void *)(p + step)), 1);
    v = _mm512_inserti32x4(v, _mm_loadu_si128((const __m128i *)(const void *)(p + 2 * step)), 2);
    return _mm512_inserti32x4(v, _mm_loadu_si128((const __m128i *)(const void *)(p + 3 * step)), 3);
}

/* Quarters g of four vectors become vector g. */
static inline __attribute__((always_inline)) void vi_turn_quarters(vi *v)
{
    vi a = _mm512_shuffle_i32x4(v[0], v[1], 0x44), b = _mm512_shuffle_i32x4(v[2], v[3], 0x44);
    vi c = _mm512_shuffle_i32x4(v[0], v[1], 0xee), d = _mm512_shuffle_i32x4(v[2], v[3], 0xee);
    v[0] = _mm512_shuffle_i32x4(a, b, 0x88), v[1] = _mm512_shuffle_i32x4(a, b, 0xdd);
    v[2] = _mm512_shuffle_i32x4(c, d, 0x88), v[3] = _mm512_shuffle_i32x4(c, d, 0xdd);
}
