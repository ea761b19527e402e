/* Vectors of 128 bits for fast_tmpl.h: what all NEON levels share. vi is kept as four 32-bit lanes. */
#if defined(__GNUC__) && !defined(__clang__) /* gcc would move loads so far ahead of their uses that sums are spilled */
#pragma GCC optimize("no-schedule-insns")
#endif
#define LANES 4
#define X_TILE 6
#define FOR_EACH_X_TILE(M) M(1) M(2) M(3) M(4) M(5) M(6)
#define D_TILE 8
#define FOR_EACH_D_TILE(M) M(1) M(2) M(3) M(4) M(5) M(6) M(7) M(8)
#define INT8_TILE X_TILE
#define INDEX_HEADS 8
#define FEW_TILES(f, m) 1
#define FEW_ROWS X_TILE
#define REST_INLINE static NO_INLINE
#define GROUP_UNROLL NO_UNROLL /* as much as the registers and the decoded instructions have room for */

typedef float32x4_t vf;
typedef int32x4_t vi;

static const int8_t fp4_offset_codes[16] = {12, 13, 14, 15, 16, 18, 20, 24, 12, 11, 10, 9, 8, 6, 4, 0};

#define AS_S8(v) vreinterpretq_s8_s32(v)
#define AS_U8(v) vreinterpretq_u8_s32(v)
#define AS_S16(v) vreinterpretq_s16_s32(v)
#define AS_U16(v) vreinterpretq_u16_s32(v)
#define OF_U8(v) vreinterpretq_s32_u8(v)
#define OF_S16(v) vreinterpretq_s32_s16(v)
#define OF_U16(v) vreinterpretq_s32_u16(v)

#define vf_zero() vdupq_n_f32(0)
#define vf_set(x) vdupq_n_f32(x)
#define vf_load(p) vld1q_f32(p)
#define vf_store(p, v) vst1q_f32(p, v)
#define vf_fma(a, b, c) vfmaq_f32(c, a, b)
#define vf_mul(a, b) vmulq_f32(a, b)
#define vf_from_bits(v) vreinterpretq_f32_s32(v)
#define vf_from_i32(v) vcvtq_f32_s32(v)
#define vi_load(p) OF_U8(vld1q_u8((const uint8_t *)(const void *)(p)))
#define vi_set32(x) vdupq_n_s32((int32_t)(x))
#define vi_and(a, b) vandq_s32(a, b)
#define vi_add32(a, b) vaddq_s32(a, b)
#define vi_sub32(a, b) vsubq_s32(a, b)
#define vi_max32(a, b) vmaxq_s32(a, b)
#define vi_even_16(v) OF_S16(vshrq_n_s16(AS_S16(OF_U16(vshlq_n_u16(AS_U16(v), 8))), 4))
#define vi_odd_16(v) OF_S16(vshrq_n_s16(AS_S16(v), 4))
#define vi_sll32_16(v) vshlq_n_s32(v, 16)
#define vi_sllv32(v, n) vshlq_s32(v, n)
#define vi_sll32_23(v) vshlq_n_s32(v, 23)
#define vi_high_codes(v) vi_lookup(vi_table16(fp4_offset_codes), OF_U8(vshrq_n_u8(AS_U8(v), 4)))
/* 16-bit values of a and b alternating, from the low or the high half */
#define vi_low16_pairs(a, b) OF_U16(vzip1q_u16(AS_U16(a), AS_U16(b)))
#define vi_high16_pairs(a, b) OF_U16(vzip2q_u16(AS_U16(a), AS_U16(b)))
/* 32-bit and 64-bit values of a and b alternating, in the same way */
#define vi_low32_pairs(a, b) vzip1q_s32(a, b)
#define vi_high32_pairs(a, b) vzip2q_s32(a, b)
#define vi_low64_pairs(a, b) vreinterpretq_s32_s64(vzip1q_s64(vreinterpretq_s64_s32(a), vreinterpretq_s64_s32(b)))
#define vi_high64_pairs(a, b) vreinterpretq_s32_s64(vzip2q_s64(vreinterpretq_s64_s32(a), vreinterpretq_s64_s32(b)))
#define vi_load_rows(p, step) ((void)(step), vi_load(p))
#define vi_turn_quarters(v) ((void)(v)) /* a vector has one quarter */
#define vi_lookup(table, index) OF_U8(vqtbl1q_u8(AS_U8(table), AS_U8(index)))
#define vi_table16(p) vreinterpretq_s32_s8(vld1q_s8(p))

static inline __attribute__((always_inline)) vi vi_widen8(const uint8_t *p)
{
    uint32_t four;
    __builtin_memcpy(&four, p, 4);
    return vreinterpretq_s32_u32(vmovl_u16(vget_low_u16(vmovl_u8(vreinterpret_u8_u32(vdup_n_u32(four))))));
}
