#include "ops/cpu/attn_kern.h"

const struct attn_kern *attn_kern_for(enum cpu_isa isa)
{
    const struct attn_kern *k = &attn_kern_ref;
#if defined(__x86_64__)
    if (isa >= ISA_AVX2)
        k = &attn_kern_avx2;
    if (isa >= ISA_AVX512)
        k = cpu_has_avx512_bf16() && cpu_has_avx512_vnni() ? &attn_kern_avx512bf16 : &attn_kern_avx512;
#elif defined(__aarch64__)
    if (isa >= ISA_NEON)
        k = &attn_kern_neon;
#endif
    (void)isa;
    return k;
}
