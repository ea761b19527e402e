#include "ops/cpu/kern.h"

#include "ops/cpu/kern_decl.h"

const struct kern *kern_for(enum cpu_isa isa)
{
    const struct kern *k = &kern_ref;
#if defined(__x86_64__)
    if (isa >= ISA_AVX2)
        k = &kern_avx2;
    if (isa >= ISA_AVX512)
        k = &kern_avx512;
#elif defined(__aarch64__)
    if (isa >= ISA_NEON)
        k = &kern_neon;
#endif
    (void)isa;
    return k;
}
