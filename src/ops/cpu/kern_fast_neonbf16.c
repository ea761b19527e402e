/* Fast kernels for NEON with BF16 and the dot-product instruction: FP8 and BF16 weights by bfdot, digits as in neon-dot. */
#include <arm_neon.h>
#include <stdint.h>

#define KERN_NAME fast_kern_neonbf16
#define KERN_TEXT "neon-bf16"
#include "ops/cpu/fast_bf16_neon.h"

#include "ops/cpu/fast_tmpl.h"
