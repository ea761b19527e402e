#include <immintrin.h>

#define KV_WIDEN(p) _mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i *)(const void *)(p)))
#define ATTN_NAME attn_block_avx2
#define INDEX_NAME index_block_avx2
#define ROW_NAME kv_row_avx2
#define ATTN_WIDTH 8
#include "ops/cpu/attn_tmpl.h"
