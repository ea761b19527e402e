#include "ops/cpu/attn_kern.h"

struct attn_kern attn_kern_for(enum cpu_isa isa)
{
    struct attn_kern k = {attn_block_ref, index_block_ref, kv_row_ref};
#if defined(__x86_64__)
    if (isa >= ISA_AVX2)
        k = (struct attn_kern){attn_block_avx2, index_block_avx2, kv_row_avx2};
    if (isa >= ISA_AVX512)
        k = (struct attn_kern){attn_block_avx512, index_block_avx512, kv_row_avx512};
#elif defined(__aarch64__)
    if (isa >= ISA_NEON)
        k = (struct attn_kern){attn_block_neon, index_block_neon, kv_row_neon};
#endif
    (void)isa;
    return k;
}
