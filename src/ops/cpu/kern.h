/* Micro-kernels of the portable path: the one C source kern_tmpl.h compiled once per instruction-set level. All levels give
 * the same bits: sums run in two chains of 16 lanes (elements 0..15 of every 32 and 16..31) with separate multiply and add,
 * then a fixed tree joins them. `exact` and `reference` stand on these, so their results do not depend on the machine. */
#ifndef HADAL_KERN_H
#define HADAL_KERN_H

#include "ops/ops.h"

struct kern {
    const char *name;
    /* sum_i x[i] w[i] */
    float (*dot)(const float *x, const float *w, int n);
    /* y[i] = x_i . w for nx vectors x_i = x + i*ldx; same bits as dot. */
    void (*dot_many)(const float *x, size_t ldx, int nx, const float *w, int n, float *y, size_t ldy);
    float (*sum_squares)(const float *x, int n);
    /* y[i] += a * x[i] */
    void (*axpy)(float a, const float *x, int n, float *y);
    /* Row r of a stored matrix, columns c0 .. c0+n-1, as fp32 with scales applied. c0 a multiple of 128. */
    void (*decode)(const struct wmat *w, int r, int c0, int n, float *out);
    /* y[i] = x[i] rounded to bf16; y may be x */
    void (*round_bf16)(const float *x, size_t n, float *y);
};

const struct kern *kern_for(enum cpu_isa isa);

#endif
