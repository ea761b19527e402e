/* What this machine can do at most, measured: the denominators of every speed that the benchmarks print. Short
 * (milliseconds), so that they can be taken again between the things they are compared with. */
#ifndef HADAL_OPS_CPU_FAST_PEAK_H
#define HADAL_OPS_CPU_FAST_PEAK_H

#include "ops/ops.h"

/* One thread, by its CPU time: bytes/s of reading the bytes once (64-byte aligned, a multiple of 256), and FLOP/s of
 * independent fp32 fused multiply-adds in registers. */
double fast_peak_read(enum cpu_isa isa, const void *p, size_t bytes);
double fast_peak_flops(enum cpu_isa isa);

/* All threads of a pool, by the clock. */
struct fast_peaks {
    double read, flops, int8_ops; /* bytes/s, FLOP/s (bf16 where the level has it), byte multiply-add OP/s */
    double fp32_flops;
};
/* The best of a few runs of each, every thread on a CPU of its own (the workers of p stay there): what else happens on the
 * machine, and threads of another pool that still spin, make a run slower and never faster. mem: `bytes` of memory to
 * read, larger than the caches. */
struct fast_peaks fast_peaks_measure(struct pool *p, enum cpu_isa isa, const void *mem, size_t bytes);
/* The larger of each. */
struct fast_peaks fast_peaks_max(struct fast_peaks a, struct fast_peaks b);

#endif
