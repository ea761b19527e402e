/* Levels of the fast kernel table; internal to ops/cpu. */
#include "ops/cpu/fast_kern.h"

extern const struct fast_kern fast_kern_ref;
#if defined(__x86_64__)
extern const struct fast_kern fast_kern_avx2, fast_kern_avx512, fast_kern_avx512bf16;
#elif defined(__aarch64__)
extern const struct fast_kern fast_kern_neon, fast_kern_neondot, fast_kern_neonbf16, fast_kern_neoni8mm;
#endif
