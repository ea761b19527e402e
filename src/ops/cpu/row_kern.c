#include "ops/cpu/row_kern.h"

const struct row_kern *row_kern_for(enum cpu_isa isa)
{
    const struct row_kern *k = &row_kern_ref;
#if defined(__x86_64__)
    if (isa >= ISA_AVX2)
        k = &row_kern_avx2;
    if (isa >= ISA_AVX512)
        k = &row_kern_avx512;
#elif defined(__aarch64__)
    if (isa >= ISA_NEON)
        k = &row_kern_neon;
#endif
    (void)isa;
    return k;
}
