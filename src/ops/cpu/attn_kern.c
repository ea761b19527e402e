#include "ops/cpu/attn_kern.h"

attn_block_fn *attn_block_for(enum cpu_isa isa)
{
    attn_block_fn *f = attn_block_ref;
#if defined(__x86_64__)
    if (isa >= ISA_AVX2)
        f = attn_block_avx2;
    if (isa >= ISA_AVX512)
        f = attn_block_avx512;
#elif defined(__aarch64__)
    if (isa >= ISA_NEON)
        f = attn_block_neon;
#endif
    (void)isa;
    return f;
}
