/* The fast path of the CPU device: matrices packed when the model opens (il16.h), then linear and moe on the kernels of
 * fast_kern.h. Internal to ops/cpu. */
#ifndef HADAL_OPS_CPU_FAST_H
#define HADAL_OPS_CPU_FAST_H

#include "ops/cpu/cpu.h"

/* ops->prepare: packs w when the device has fast kernels and the layout fits it. Out of memory is the device's error. */
bool fast_prepare(struct dev *d, struct wmat *w);
void fast_store_free(struct fast_store *s);

/* Whether an operation's weights are packed in a shape that the fast path takes. */
bool fast_has_linear(const struct op_linear *o);
void fast_linear(struct cpu_dev *c, const struct op_linear *o);

/* A strip of w against x: nt tiles from tile0 into y [x->n][ldy], rounded to bf16 when asked. Thread scratch is used. */
void fast_strip(struct cpu_dev *c, int i_thread, const struct il16 *w, int tile0, int nt, const struct fast_x *x, bool round,
                float *y, size_t ldy);

#endif
