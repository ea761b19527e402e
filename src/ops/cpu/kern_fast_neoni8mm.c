/* Fast kernels for NEON with i8mm and BF16: as neon-bf16, but digits, bytes and index scores of several rows by usmmla. */
#include <arm_neon.h>
#include <stdint.h>

#define KERN_NAME fast_kern_neoni8mm
#define KERN_TEXT "neon-i8mm"
#define MATRIX
#include "ops/cpu/fast_bf16_neon.h"

#include "ops/cpu/fast_tmpl.h"
