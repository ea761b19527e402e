/* Fast kernels for NEON with the dot-product instruction: digits are summed in 32 bits at once. */
#include <arm_neon.h>
#include <stdint.h>

#define KERN_NAME fast_kern_neondot
#define KERN_TEXT "neon-dot"
#include "ops/cpu/fast_dot_neon.h"

#include "ops/cpu/fast_tmpl.h"
