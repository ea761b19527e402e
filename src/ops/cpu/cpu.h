/* The CPU device: one thread pool, one kernel level, scratch per thread. Internal to ops/cpu. */
#ifndef HADAL_CPU_H
#define HADAL_CPU_H

#include "ops/cpu/fast_kern.h"
#include "ops/cpu/attn_kern.h"
#include "ops/cpu/kern.h"
#include "ops/cpu/row_kern.h"
#include "ops/ops.h"

struct scratch {
    float *data;
    size_t n;
};

struct cpu_dev {
    struct dev base;
    struct pool *pool;
    const struct kern *kern;
    const struct row_kern *row;
    const struct attn_kern *tile; /* of the fast numerics */
    struct scratch *per_thread; /* [threads], sized by reserve; without it grown to the largest need seen */
    struct scratch shared;      /* whole-operation scratch, used by the calling thread to lay out work */
    struct err first_error;
    /* the fast path (NUM_FAST, NUM_INT8) */
    const struct fast_kern *fast; /* NULL: all operations run on the portable kernels */
    struct fast_store *store;     /* memory of the packed weights */
    struct scratch packed_x;      /* packed activations of an operation */
    bool native;                  /* weights stay as stored: strips of lines are made in per_strip */
    struct scratch *per_strip;    /* [threads], sized as weights are prepared */
    uint64_t n_fast;              /* operations that ran on the fast kernels */
};

static inline struct cpu_dev *cpu_of(struct dev *d)
{
    return (struct cpu_dev *)d;
}

/* Does this device round activations to bf16 (reference and fast)? */
static inline bool cpu_rounds(const struct dev *d)
{
    return d->numerics != NUM_EXACT;
}

/* Do exponentials come from the C library? The numerics that promise its bits; others take those of row_kern.h. */
static inline bool cpu_libm(const struct dev *d)
{
    return d->numerics == NUM_EXACT || d->numerics == NUM_REFERENCE;
}

/* At least n floats of the thread's (or the operation's) scratch; contents undefined. Memory that cannot be had is a
 * sticky device error and the process-wide fallback is impossible, so it aborts (sizes are bounded by the model). */
float *cpu_scratch(struct cpu_dev *c, int i_thread, size_t n);
float *cpu_shared_scratch(struct cpu_dev *c, size_t n);
/* The same for packed activations, in bytes. */
uint8_t *cpu_packed_scratch(struct cpu_dev *c, size_t bytes);
/* The same for a thread's strip of weights. */
uint8_t *cpu_strip_scratch(struct cpu_dev *c, int i_thread, size_t bytes);

/* ops->reserve and ops->scratch_bytes (cpu_reserve.c), and what single operations need, in floats. */
int cpu_reserve(struct dev *d, const struct op_limits *l, struct err *e);
uint64_t cpu_scratch_bytes(const struct dev *d);
size_t cpu_attn_floats(const struct cpu_dev *c, int heads, int head_dim, size_t keys, bool shared); /* or of a thread */
size_t cpu_hc_floats(int n, int n_out);
size_t cpu_index_floats(const struct cpu_dev *c, int heads, int dim, int64_t keys); /* of a thread, or shared */

/* pool_run, unless the whole work is too small (in multiply-adds) to be worth waking threads. */
void cpu_run(struct cpu_dev *c, int n_tasks, double work, void (*fn)(void *, int, int), void *arg);

/* x rounded to bf16 in place when the device rounds. */
void cpu_round(const struct cpu_dev *c, float *x, size_t n);

/* x [dim] = w x rsqrt(mean(x^2)+eps) rounded once; w may be NULL; y may be x. */
void cpu_rmsnorm_row(const struct cpu_dev *c, const float *x, const float *w, int dim, float eps, float *y);
/* Rotates the last rd of dim values by pos * freq; rounds. */
void cpu_rope_row(const struct cpu_dev *c, float *x, int dim, int rd, int64_t pos, const float *freq, bool inverse);
/* Hadamard (natural order, orthonormal) over n = 2^k values, rounded, then FP4 simulation when the device quantises. */
void cpu_hadamard_fp4(const struct cpu_dev *c, float *x, int n);
/* FP8 simulation of the first dim - rd values in blocks of 64 when the device quantises. */
void cpu_kv_quant_row(const struct cpu_dev *c, float *x, int dim, int rd);
/* FP8 activation simulation (blocks of 128) of one row, from x to out. */
void cpu_act_quant_row(const struct cpu_dev *c, const float *x, int n, float *out);
/* kv_row_put and kv_index_put of ops.h. */
void cpu_kv_row_put(const struct cpu_dev *c, const struct kv_dims *d, const float *row, uint8_t *out);
void cpu_kv_index_put(const struct cpu_dev *c, const struct kv_dims *d, const float *row, uint8_t *out);

void cpu_embed(struct dev *d, const struct op_embed *o);
void cpu_hc_pre(struct dev *d, const struct op_hc_pre *o);
void cpu_hc_post(struct dev *d, const struct op_hc_post *o);
void cpu_hc_head(struct dev *d, const struct op_hc_head *o);
void cpu_rmsnorm(struct dev *d, const struct op_rmsnorm *o);
void cpu_head_rms(struct dev *d, const struct op_head_rms *o);
void cpu_linear(struct dev *d, const struct op_linear *o);
void cpu_rope(struct dev *d, const struct op_rope *o);
void cpu_kv_quant(struct dev *d, const struct op_kv_quant *o);
void cpu_kv_put(struct dev *d, const struct op_kv_put *o);
void cpu_compress(struct dev *d, const struct op_compress *o);
void cpu_index_query(struct dev *d, const struct op_index_query *o);
void cpu_index_select(struct dev *d, const struct op_index_select *o);
void cpu_attn(struct dev *d, const struct op_attn *o);
void cpu_route(struct dev *d, const struct op_route *o);
void cpu_moe(struct dev *d, const struct op_moe *o);
void cpu_add_rows(struct dev *d, const struct op_add_rows *o);
void cpu_stream_mean(struct dev *d, const struct op_stream_mean *o);
void cpu_gather(struct dev *d, const struct op_gather *o);

#endif
