#include <immintrin.h>

#define KV_WIDEN(p) _mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i *)(const void *)(p)))
#define ATTN_NAME attn_kern_avx2
#define ATTN_TEXT "avx2"
#define ATTN_WIDTH 8
#include "ops/cpu/attn_tmpl.h"
#include "ops/cpu/attn_tile_tmpl.h"
