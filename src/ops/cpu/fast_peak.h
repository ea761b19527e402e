/* What this machine can do at most, measured: the denominators of every speed that the benchmarks print. Single-threaded
 * and short (milliseconds), so that they can be taken again between the things they are compared with. */
#ifndef HADAL_OPS_CPU_FAST_PEAK_H
#define HADAL_OPS_CPU_FAST_PEAK_H

#include "ops/ops.h"

/* Bytes/s of reading the bytes once (64-byte aligned, a multiple of 256). */
double fast_peak_read(enum cpu_isa isa, const void *p, size_t bytes);
/* fp32 fused multiply-add FLOP/s of a level: independent chains in registers. */
double fast_peak_flops(enum cpu_isa isa);

#endif
