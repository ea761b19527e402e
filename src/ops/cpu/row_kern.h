/* Micro-kernels of the operations on single rows: norm, rotation, quantisers, Hadamard, gated activation, hyper-connections,
 * pooling of the compressor, choice of experts, top-k. kern_row_ref.c defines each of them in scalar C on the functions of
 * num/; row_tmpl.h does the same in vectors, compiled once per level. All levels give the same bits: multiply and add stay
 * apart, and every sum has one order. */
#ifndef HADAL_ROW_KERN_H
#define HADAL_ROW_KERN_H

#include "ops/ops.h"

enum { ROW_STREAMS_MAX = 8, ROW_EXPERTS_MAX = 1024, ROW_BINS = 4096 /* of count_scores */ };

struct row_slot { /* value and logit of one token for an entry of the compressor */
    const float *kv, *gate;
};

struct row_kern {
    const char *name;
    /* y[i] = w[i] (x[i] r), without w (NULL) x[i] r; rounded to bf16 when asked; y may be x. */
    void (*scale)(const float *x, const float *w, float r, int n, bool round, float *y);
    /* The n / 2 pairs (v[2i], v[2i+1]) turned by an angle: co [n] holds each cosine twice, si [n] -sine and sine; rounded to
     * bf16 when asked. */
    void (*rotate)(float *v, const float *co, const float *si, int n, bool round);
    /* act_quant_sim over blocks of `block` values (64 or 128), the last one as long as what is left. */
    void (*fp8_sim)(float *x, int n, int block);
    /* The same as codes [n] and a scale byte for each block. */
    void (*fp8_put)(const float *x, int n, int block, uint8_t *codes, uint8_t *scales);
    /* Hadamard transform in natural order, n a power of two, times n^-0.5. */
    void (*hadamard)(float *x, int n);
    /* fp4_quant_sim over blocks of 32, n a multiple of 32; and as codes [n/2], low nibble first, with scale bytes [n/32]. */
    void (*fp4_sim)(float *x, int n);
    void (*fp4_put)(const float *x, int n, uint8_t *codes, uint8_t *scales);
    /* h[i] = silu(min(g[i], limit)) clamp(u[i], limit) weight; limit 0: no clamp; h may be g or u. The exponential is
     * the polynomial of row_parts.h (relative error below 2e-7). */
    void (*swiglu)(const float *g, const float *u, int n, float limit, float weight, float *h);
    /* y = 0 + the m rows x[row[.]] of n values, in order; they and the sum rounded to bf16 when asked. */
    void (*sum_rows)(const float *x, const int32_t *row, int m, int n, bool round, float *y);
    /* Streams x [s][dim] in place: x[k] = post[k] o + sum_j comb[j][k] x[j], j ascending; rounded to bf16 when asked. */
    void (*mix_streams)(const float *o, const float *post, const float *comb, int s, int dim, bool round, float *x);
    /* y = sum_h w[h] x[h], h ascending; rounded to bf16 when asked. */
    void (*collapse)(const float *x, const float *w, int s, int dim, bool round, float *y);
    /* The passes of Sinkhorn after the softmax, over m [s][s]: columns divided by (sum + eps), then iters - 1 times rows and
     * columns. */
    void (*sinkhorn)(float *m, int s, int iters, float eps);
    /* e[d] = sum_s softmax_s(gate_s[d]) kv_s[d] over n slots, per channel. libm: its expf, else that of swiglu. */
    void (*pool)(const struct row_slot *slots, int n, int dim, bool libm, float *e);
    /* The k experts of highest score + bias (bias may be NULL), highest first; a tie goes to the lower id. More than
     * ROW_EXPERTS_MAX are chosen from by the definition itself. */
    void (*top_experts)(const float *score, const float *bias, int n, int k, int32_t *ids);
    /* count [ROW_BINS] += how many scores have which highest bits (of row_order_key). */
    void (*count_scores)(const float *score, int64_t n, int32_t *count);
    /* The k <= n entries of highest score, ties to the lower number, ids ascending. count: of count_scores over all n;
     * found: scratch [n]. */
    void (*top_k)(const float *score, int64_t n, int k, const int32_t *count, uint32_t *found, int32_t *ids);
};

const struct row_kern *row_kern_for(enum cpu_isa isa);

/* Levels; internal. */
extern const struct row_kern row_kern_ref, row_kern_avx2, row_kern_avx512, row_kern_neon;

#endif
