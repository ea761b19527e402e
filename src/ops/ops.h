/* ops: THE table of operations that a forward pass is made of, and the state formats they share.
 *
 * Idea: forward.c fills one small descriptor per operation and calls the table; it never asks which device runs it. An
 * operation returns nothing: a device keeps its first error and sync() returns it. Every operation works on N rows
 * (tokens), possibly of several sequences; a row's result depends on that row's inputs and its own sequence only and is
 * summed in an order fixed by the row's position. That is what makes results bit-identical for any chunking, batch and
 * thread count.
 *
 * Activations are fp32 arrays in the device's memory. In the `reference` numerics their values are bf16-representable
 * wherever the official recipe rounds to bf16 (docs/NUMERICS.md lists every rounding point).
 *
 * Shapes: N rows, S streams (hc_mult), D hidden, H heads, hd head_dim, rd rope_dim, nd = hd - rd, E experts, K experts per
 * token, I expert dim, W window, IH index heads, ID index head dim. Row-major, last index fastest.
 */
#ifndef HADAL_OPS_H
#define HADAL_OPS_H

#include "base/base.h"

/* ---------------------------------------------------------------- numerics */

enum numerics {
    NUM_EXACT,     /* fp32 throughout, no activation quantisation, fp32 caches */
    NUM_REFERENCE, /* every bf16 rounding point and FP8/FP4 simulation of the official code */
    NUM_FAST,      /* as reference, but fp32 softmax numerators, per-head q RMS and index scores; fast kernels */
    NUM_INT8,      /* as fast, but FP4 weights meet activations of 8-bit integers: faster, not the official numbers */
};
/* Whether the kernels on packed weights run. */
static inline bool numerics_fast(enum numerics n)
{
    return n == NUM_FAST || n == NUM_INT8;
}
const char *numerics_name(enum numerics n);
int numerics_parse(const char *name, enum numerics *out, struct err *e);

/* ---------------------------------------------------------------- weights as operations see them */

/* Stored format of a matrix [rows = outputs, cols = inputs]; see model/weights.h for the files' side. */
enum wformat { W_F32, W_BF16, W_F16, W_FP8 /* 128x128 scales */, W_FP4 /* 1x32 scales, two codes a byte, low first */ };

struct wmat {
    enum wformat format;
    bool scale_f32;     /* scales are fp32 instead of e8m0 */
    int rows, cols;
    const void *data;
    const void *scale;
    const void *packed; /* the device's own copy in its own layout (ops->prepare), or NULL */
};

/* ---------------------------------------------------------------- KV state formats */

enum kv_row_format {
    KV_F32, /* [hd] fp32 (exact); index rows [ID] fp32 */
    KV_FP8, /* nd e4m3 codes, rd bf16, nd/64 e8m0 scales, padded to 8: 584 bytes at hd 512; index rows: ID/2 bytes of
               e2m1 codes, ID/32 e8m0 scales: 68 bytes at ID 128 */
};

struct kv_dims {
    enum kv_row_format format;
    int head_dim, rope_dim, index_dim;
    size_t row_bytes, index_bytes;
};
struct kv_dims kv_dims_of(enum kv_row_format f, int head_dim, int rope_dim, int index_dim);

/* One row to and from its stored form. In KV_FP8 put is lossless when the row went through the FP8 simulation. */
void kv_row_put(const struct kv_dims *d, const float *row /* [hd] */, uint8_t *out);
void kv_row_get(const struct kv_dims *d, const uint8_t *in, float *row);
void kv_index_put(const struct kv_dims *d, const float *row /* [ID] */, uint8_t *out);
void kv_index_get(const struct kv_dims *d, const uint8_t *in, float *row);

enum { KV_PAGE_TOKENS = 128, KV_ROLLBACK = 8 };

/* A tail is what a sequence needs besides its pages to go on from a page end P: per layer the window rows of positions
 * P-W .. P-1, and in ratio-4 layers the first halves of the compressor inputs of P-4 .. P-1 (values then logits, [4][hd]
 * each; the indexer's likewise). Ratio-128 layers have an empty window at a page end. */
struct tail_offsets {
    size_t window, state, istate; /* of this layer, bytes */
};

/* Where one layer of one sequence keeps its state. Pages hold the compressed entries of 128 token positions: entry g of
 * a ratio-r layer is row g % (128/r) of page g / (128/r). Rings are addressed by position % rows. */
struct kv_view {
    uint8_t *ring;           /* window rows [ring_rows][row_bytes]: the last ring_rows positions */
    int ring_rows;           /* W + KV_ROLLBACK */
    uint8_t *const *pages;
    size_t rows_offset;      /* of this layer's entries in a page */
    size_t index_offset;
    float *state_kv, *state_gate;   /* compressor inputs of the last state_rows positions [state_rows][c*hd] */
    float *istate_kv, *istate_gate; /* the indexer's [state_rows][c*ID] */
    int state_rows;          /* (ratio 4: 8, ratio 128: 128) + KV_ROLLBACK */
    struct tail_offsets tail_at;
};

/* One sequence's share of a step: rows first_row .. first_row+n_rows-1 at positions pos0, pos0+1, ... */
struct op_seq {
    int first_row, n_rows;
    int64_t pos0;
    struct kv_view kv; /* of the layer at hand */
    uint8_t *const *tails; /* where to keep the tail at each page end in (pos0, pos0 + n_rows], NULL entries: nowhere */
};

/* ---------------------------------------------------------------- descriptors */

struct op_embed { /* x[n][s] = table[token[n]] for every stream s */
    int n, streams, dim;
    const int32_t *tokens;
    struct wmat table;
    float *x; /* [N][S][D] */
};

/* Hyper-connection mixing. m = (fn . v) * rsqrt(mean(v^2)+eps), v the flattened streams;
 * pre = sigmoid(m*scale0+base)+hc_eps, post = 2 sigmoid(m*scale1+base), comb = Sinkhorn(m*scale2+base);
 * y = sum_h pre[h] x[h]. */
struct op_hc_pre {
    int n, streams, dim, sinkhorn_iters;
    float eps, hc_eps;
    const float *x;                 /* [N][S][D] */
    const float *fn, *base, *scale; /* [(2+S)S][SD], [(2+S)S], [3] */
    float *y;                       /* [N][D] */
    float *post, *comb;             /* [N][S], [N][S][S] */
};

struct op_hc_post { /* x[k] = post[k] o + sum_j comb[j][k] x[j], in place */
    int n, streams, dim;
    const float *o, *post, *comb;
    float *x;
};

struct op_hc_head { /* y = sum_h (sigmoid(m scale + base) + hc_eps)[h] x[h] */
    int n, streams, dim;
    float eps, hc_eps;
    const float *x, *fn, *base, *scale; /* fn [S][SD], base [S], scale [1] */
    float *y;
};

struct op_rmsnorm { /* y = w * x rsqrt(mean(x^2)+eps) over the last dim; y may be x */
    int n, dim;
    float eps;
    const float *x, *w;
    float *y;
};

struct op_head_rms { /* per-head query norm without weight: x[n][h] *= rsqrt(mean(x^2)+eps) */
    int n, heads, dim;
    float eps;
    float *x;
};

struct op_linear { /* y = x W^T; groups > 1: W [G*r][c], x [N][G*c], y[n][g*r+i] = W[g*r+i] . x[n][g*c ...] */
    int n, groups;
    struct wmat w;
    bool keep_f32;     /* result stays fp32 (gate, compressor projections, logits) */
    bool no_act_quant; /* activations are not quantised even though the weight is FP8 (wo_a) */
    const float *x;
    float *y;
};

/* Rotation of interleaved pairs of the last rd dims of each of `heads` vectors of `dim` per row. The angle is the fp32
 * product position * freq. inverse negates the sine. */
struct op_rope {
    int n, heads, dim, rope_dim;
    bool inverse;
    const int32_t *pos; /* [N] */
    const float *freq;  /* [rd/2] */
    float *x;
};

struct op_kv_quant { /* FP8 simulation of the first nd dims in blocks of 64 (not in exact), in place */
    int n, dim, rope_dim;
    float *x;
};

struct op_kv_put { /* the last rows of the step into the window rings, window rows before each page end into its tail */
    int n_seqs, window;
    const struct op_seq *seqs;
    struct kv_dims dims;
    const float *kv; /* [N][hd] */
};

/* Entries completed by this step's rows, from the projections of this step and the state rings: softmax over the window's
 * slots per channel, weighted sum, norm, rotation at the window's first position, quantise, store to the pages; then the
 * last rows go into the state rings. index: Hadamard + FP4 instead of FP8, index rows and istate. */
struct op_compress {
    int n_seqs, ratio, dim, rope_dim;
    bool index;
    float eps;
    const struct op_seq *seqs;
    struct kv_dims dims;
    float *kv, *gate; /* [N][c*dim] projections; ape is added to gate in place */
    const float *ape;       /* [ratio][c*dim] */
    const float *norm;      /* [dim] */
    const float *freq;
};

struct op_index_query { /* Hadamard then FP4 simulation of [N][IH][ID], in place (after rotation) */
    int n, heads, dim;
    float *q;
};

/* For every row the min(topk, visible) entries of highest score sum_h w_h relu(q_h . k), ties to the lower entry;
 * ids ascending, padded with -1. visible = floor((pos+1)/4). */
struct op_index_select {
    int n_seqs, heads, dim, topk;
    const struct op_seq *seqs;
    struct kv_dims dims;
    const float *q;       /* [N][IH][ID] */
    const float *weights; /* [N][IH]; w_h = weights * weight_scale, rounded */
    float weight_scale;   /* ID^-.5 IH^-.5 */
    int32_t *ids;         /* [N][topk] */
};

/* Attention of every head over window rows and compressed entries with one K = V row for all heads and a sink per head in
 * the denominator. Window rows of this step are read from kv, earlier ones from the ring; entries from the pages.
 * ids NULL: all visible entries (ratio 128) or none (ratio 0). */
struct op_attn {
    int n_seqs, heads, window, ratio, topk;
    bool block;          /* every row sees all rows of its share and the window - n_rows rows before the first */
    const struct op_seq *seqs;
    struct kv_dims dims;
    float scale;
    const float *q;      /* [N][H][hd] */
    const float *kv;     /* [N][hd] */
    const int32_t *ids;  /* [N][topk], -1 padded */
    const float *sink;   /* [H] */
    float *o;            /* [N][H][hd] */
};

/* Router: s = sqrt(softplus(z)); the k experts of highest s + bias (ties to the lower id), or the hash table's; weights
 * s / sum(s) * scale. ids ascending per row. */
struct op_route {
    int n, experts, k;
    float scale;
    const float *z, *bias;    /* [N][E], [E] or NULL */
    const int64_t *tid2eid;   /* [V][k] or NULL */
    const int32_t *tid2eid32;
    const int32_t *tokens;
    int32_t *ids;             /* [N][k] */
    float *weights;           /* [N][k] */
};

struct op_expert { /* w1 gate, w3 up, w2 down */
    struct wmat w1, w2, w3;
};

/* y = sum over the row's experts of w2(silu(min(w1 x, lim)) clamp(w3 x, lim) weight), ascending id, plus the shared
 * expert (no weight). limit 0: no clamp. */
struct op_moe {
    int n, k, n_experts, dim, expert_dim;
    float limit;
    const float *x;             /* [N][D] */
    const int32_t *ids;         /* [N][k] ascending */
    const float *weights;       /* [N][k] */
    const struct op_expert *experts;
    const struct op_expert *shared; /* NULL: none */
    float *h;                   /* scratch [N*(k+1)][I] */
    float *out;                 /* scratch [N*(k+1)][D] */
    float *y;                   /* [N][D] */
};

struct op_add_rows { /* y[n][s] = a[n] + b[n][s], rounded: the MTP input */
    int n, streams, dim;
    const float *a, *b;
    float *y;
};

struct op_stream_mean { /* y[n * stride ...] = mean over s of x[n][s], rounded */
    int n, streams, dim, stride;
    const float *x;
    float *y;
};

struct op_gather { /* y[i] = x[rows[i]] */
    int n, dim;
    const int32_t *rows;
    const float *x;
    float *y;
};

/* ---------------------------------------------------------------- the table */

struct dev;

/* The largest operations that a model will ask for: what scratch memory is sized by. */
struct op_linear_size {
    int n, cols, groups;
};
struct op_limits {
    int rows;             /* of a step */
    int heads, head_dim, keys; /* keys: most window rows and compressed entries of one query */
    int index_heads, index_dim;
    int64_t index_keys;   /* most that an indexer looks at */
    int streams, dim;
    int experts, experts_per_row, expert_dim; /* without the shared one */
    const struct op_linear_size *linear;
    int n_linear;
};

struct ops {
    const char *name;
    void (*close)(struct dev **d);
    /* Device memory, zeroed, 64-byte aligned; NULL when it is gone. */
    void *(*alloc)(struct dev *d, size_t bytes);
    void (*release)(struct dev *d, void *p);
    void (*upload)(struct dev *d, void *to, const void *from, size_t bytes);
    void (*download)(struct dev *d, void *to, const void *from, size_t bytes);
    /* Waits for everything; the first error of the device since it was opened. */
    int (*sync)(struct dev *d, struct err *e);

    /* Once, before the first operation: takes all scratch memory that operations within these limits need, so that none of
     * them takes any. HD_ENOMEM says how much was asked for. scratch_bytes: what the device holds of it. */
    int (*reserve)(struct dev *d, const struct op_limits *l, struct err *e);
    uint64_t (*scratch_bytes)(const struct dev *d);

    /* Once per matrix, before its first use: the device may keep a copy in a layout of its own (w->packed), after which
     * linear and moe read only that. true: it did, and the caller may drop the stored form from memory; false: the stored
     * form is read (w->packed may describe it). */
    bool (*prepare)(struct dev *d, struct wmat *w);
    /* The same in steps, for packed forms that live in a file. packed_bytes: of the device's layout of w, from its shape
     * alone; 0: w runs as it is stored. pack: writes that form into mem (64-byte aligned); false: w has a value that the
     * layout cannot hold, and runs as it is stored. adopt: w->packed = a form that pack once left in mem, which stays the
     * caller's and mapped; w's values are not read. A file made with another layout_version does not fit. */
    size_t (*packed_bytes)(struct dev *d, const struct wmat *w);
    bool (*pack)(struct dev *d, const struct wmat *w, void *mem);
    bool (*adopt)(struct dev *d, struct wmat *w, const void *mem); /* false: out of memory, the device's error */
    uint32_t layout_version;

    void (*embed)(struct dev *d, const struct op_embed *o);
    void (*hc_pre)(struct dev *d, const struct op_hc_pre *o);
    void (*hc_post)(struct dev *d, const struct op_hc_post *o);
    void (*hc_head)(struct dev *d, const struct op_hc_head *o);
    void (*rmsnorm)(struct dev *d, const struct op_rmsnorm *o);
    void (*head_rms)(struct dev *d, const struct op_head_rms *o);
    void (*linear)(struct dev *d, const struct op_linear *o);
    void (*rope)(struct dev *d, const struct op_rope *o);
    void (*kv_quant)(struct dev *d, const struct op_kv_quant *o);
    void (*kv_put)(struct dev *d, const struct op_kv_put *o);
    void (*compress)(struct dev *d, const struct op_compress *o);
    void (*index_query)(struct dev *d, const struct op_index_query *o);
    void (*index_select)(struct dev *d, const struct op_index_select *o);
    void (*attn)(struct dev *d, const struct op_attn *o);
    void (*route)(struct dev *d, const struct op_route *o);
    void (*moe)(struct dev *d, const struct op_moe *o);
    void (*add_rows)(struct dev *d, const struct op_add_rows *o);
    void (*stream_mean)(struct dev *d, const struct op_stream_mean *o);
    void (*gather)(struct dev *d, const struct op_gather *o);
};

/* A device: its table first, then whatever the back end keeps. */
struct dev {
    const struct ops *ops;
    enum numerics numerics;
};

struct dev_options {
    enum numerics numerics;
    int n_threads;     /* 0: all usable */
    enum cpu_isa isa;  /* level of the CPU kernels */
    bool native;       /* run the stored layout as it is: prepare keeps no copies */
};

int dev_open_cpu(struct dev **d, const struct dev_options *o, struct err *e);

#endif
