/* The fast path of the CPU device: matrices packed when the model opens (il16.h), then linear and moe on the kernels of
 * fast_kern.h. Internal to ops/cpu. */
#ifndef HADAL_OPS_CPU_FAST_H
#define HADAL_OPS_CPU_FAST_H

#include "ops/cpu/cpu.h"

/* ops->prepare: packs w when the device has fast kernels and the layout fits it. Out of memory is the device's error. */
bool fast_prepare(struct dev *d, struct wmat *w);
/* ops->packed_bytes, pack, adopt. */
size_t fast_packed_bytes(struct dev *d, const struct wmat *w);
bool fast_pack(struct dev *d, const struct wmat *w, void *mem);
bool fast_adopt(struct dev *d, struct wmat *w, const void *mem);
void fast_store_free(struct fast_store *s);

/* Whether an operation's weights are packed in a shape that the fast path takes. */
bool fast_has_linear(const struct op_linear *o);
void fast_linear(struct cpu_dev *c, const struct op_linear *o);

/* The indexer: floats of memory for a query, and packing one row's heads [heads][dim] and weights [heads] into it. False:
 * the query, the device or the cache format asks for the portable path. */
size_t fast_query_floats(int heads, int dim);
bool fast_query_pack(const struct cpu_dev *c, const struct kv_dims *dims, int heads, const float *values,
                     const float *weights, float *mem, struct fast_query *q);
/* Scores of n stored keys, `stride` bytes apart; unset[i] where the integers do not suffice. next (or NULL): as many keys
 * that come after these, somewhere else; only speed depends on it. */
void fast_score_keys(const struct cpu_dev *c, const struct fast_query *q, const uint8_t *keys, size_t stride, int n,
                     const uint8_t *next, float *score, bool *unset);

/* A strip of w against x: nt tiles from tile0 into y [x->n][ldy], rounded to bf16 when asked. Thread scratch is used. */
void fast_strip(struct cpu_dev *c, int i_thread, const struct il16 *w, int tile0, int nt, const struct fast_x *x, bool round,
                float *y, size_t ldy);
/* The same, unrounded and whole tiles: padding rows are written too. */
void fast_strip_sums(struct cpu_dev *c, int i_thread, const struct il16 *w, int tile0, int nt, const struct fast_x *x,
                     float *y, size_t ldy);

/* The same, unrounded, of a matrix as stored: lines are made in mem (il16_strip_bytes). Returns how many tiles a single row
 * took by the level's kernel for stored tiles (fast_stored_fn); the others' lines were made first, whole. */
int fast_stored_strip(const struct fast_kern *k, fast_matmul_fn *fn, const struct il16 *w, int tile0, int nt,
                      const struct fast_x *x, void *mem, float *y, size_t ldy);

#endif
