/* Stands in for <immintrin.h> when the AVX-512 kernels are compiled for a machine without AVX-512: SIMDe (Debian package
 * libsimde-dev) gives the intrinsics in portable C, so that the kernels' logic is checked on any machine. Below are those
 * that the packaged version lacks or does not fuse. */
#ifndef CHECK_EMULATE_IMMINTRIN_H
#define CHECK_EMULATE_IMMINTRIN_H

#define SIMDE_NO_NATIVE
#define SIMDE_ENABLE_NATIVE_ALIASES
#include <simde/x86/avx512.h>

static inline simde__m512 emulated_fmadd_ps(simde__m512 a, simde__m512 b, simde__m512 c)
{
    simde__m512_private x = simde__m512_to_private(a), y = simde__m512_to_private(b), z = simde__m512_to_private(c);
    for (int i = 0; i < 16; i++)
        z.f32[i] = __builtin_fmaf(x.f32[i], y.f32[i], z.f32[i]);
    return simde__m512_from_private(z);
}

static inline simde__m512i emulated_madd_epi16(simde__m512i a, simde__m512i b)
{
    simde__m512i_private x = simde__m512i_to_private(a), y = simde__m512i_to_private(b), r;
    for (int i = 0; i < 16; i++)
        r.i32[i] = x.i16[2 * i] * y.i16[2 * i] + x.i16[2 * i + 1] * y.i16[2 * i + 1];
    return simde__m512i_from_private(r);
}

static inline simde__m512i emulated_cvtepu8_epi32(simde__m128i a)
{
    simde__m128i_private x = simde__m128i_to_private(a);
    simde__m512i_private r;
    for (int i = 0; i < 16; i++)
        r.i32[i] = x.u8[i];
    return simde__m512i_from_private(r);
}

static inline simde__m512 emulated_cvtepi32_ps(simde__m512i a)
{
    simde__m512i_private x = simde__m512i_to_private(a);
    simde__m512_private r;
    for (int i = 0; i < 16; i++)
        r.f32[i] = (float)x.i32[i];
    return simde__m512_from_private(r);
}

static inline uint16_t emulated_bf16(float x)
{
    uint32_t u;
    __builtin_memcpy(&u, &x, 4);
    if ((u & 0x7f800000u) == 0) /* the instruction takes subnormal values as zero */
        return (uint16_t)(u >> 16 & 0x8000u);
    if ((u & 0x7fffffffu) > 0x7f800000u)
        return (uint16_t)(u >> 16 | 0x40);
    return (uint16_t)((u + 0x7fffu + (u >> 16 & 1)) >> 16);
}

static inline simde__m512i emulated_cvtne2ps_pbh(simde__m512 high, simde__m512 low)
{
    simde__m512_private h = simde__m512_to_private(high), l = simde__m512_to_private(low);
    simde__m512i_private r;
    for (int i = 0; i < 16; i++) {
        r.u16[i] = emulated_bf16(l.f32[i]);
        r.u16[16 + i] = emulated_bf16(h.f32[i]);
    }
    return simde__m512i_from_private(r);
}

#define _mm512_cvtne2ps_pbh(high, low) emulated_cvtne2ps_pbh(high, low)
#undef _mm512_fmadd_ps
#define _mm512_fmadd_ps(a, b, c) emulated_fmadd_ps(a, b, c)
#undef _mm512_madd_epi16
#define _mm512_madd_epi16(a, b) emulated_madd_epi16(a, b)
#undef _mm512_cvtepu8_epi32
#define _mm512_cvtepu8_epi32(a) emulated_cvtepu8_epi32(a)
#undef _mm512_cvtepi32_ps
#define _mm512_cvtepi32_ps(a) emulated_cvtepi32_ps(a)

#endif
