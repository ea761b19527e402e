/* weights: tensors of a checkpoint bound to the places of the V4 forward pass, checked for dtype, shape and scales.
 * The decode path is chosen per tensor by its dtype. Data stay in the checkpoint's mapping (nothing is copied). */
#ifndef HADAL_MODEL_WEIGHTS_H
#define HADAL_MODEL_WEIGHTS_H

#include "model/config.h"
#include "model/safetensors.h"

/* A matrix [rows = outputs, cols = inputs], row-major, in its stored format:
 *   DT_F32, DT_BF16, DT_F16          plain, scale NULL
 *   DT_F8_E4M3                       scale [ceil(rows/128), ceil(cols/128)]
 *   DT_I8 (two e2m1 codes a byte, low nibble = even column; data is [rows, cols/2])   scale [rows, cols/32]
 * scale_dtype is DT_F8_E8M0 or DT_F32. */
struct matrix {
    const void *data;
    const void *scale;
    enum dtype dtype, scale_dtype;
    int rows, cols;
    const char *name; /* of the tensor, for errors; owned by the checkpoint */
    const void *packed; /* the device's own layout of it (ops->adopt), or NULL; owned by the device */
};

/* n fp32 values: F32 tensors stay in the mapping, BF16 and F16 (small) are widened and owned by struct weights. */
struct vec {
    const float *data; /* NULL when absent */
    int n;
};

struct hc_weights { /* hyper-connection mixer: fn [(2+S)*S, S*D] fp32, base [(2+S)*S], scale [3] */
    const float *fn;
    struct vec base, scale;
};

struct compressor_weights { /* c = 2 for ratio 4, 1 for ratio 128; dim = head_dim or index_head_dim */
    struct matrix wkv, wgate; /* [c*dim, D] */
    struct vec ape;           /* [ratio, c*dim] */
    struct vec norm;          /* [dim] */
};

struct expert_weights {
    struct matrix w1, w2, w3; /* [I, D], [D, I], [I, D] */
};

struct layer_weights {
    enum layer_kind kind;
    int ratio;
    struct hc_weights hc_attn, hc_ffn;
    struct vec attn_norm, ffn_norm;
    struct matrix wq_a, wq_b, wkv, wo_a /* [G*o_lora, H*hd/G], grouped */, wo_b;
    struct vec q_norm, kv_norm, attn_sink;
    struct compressor_weights compressor;      /* ratio > 0 */
    struct matrix index_wq_b, index_weights;   /* ratio 4 */
    struct compressor_weights index_compressor;
    struct matrix gate;            /* [E, D] */
    struct vec gate_bias;          /* [E]; data NULL in hash layers */
    const int64_t *tid2eid;        /* [V, k] or NULL */
    const int32_t *tid2eid32;      /* the same when stored as I32 */
    struct expert_weights *experts; /* [E] */
    struct expert_weights shared;
};

struct head_weights { /* hc_head + final norm */
    const float *hc_fn; /* [S, S*D] fp32 */
    struct vec hc_base, hc_scale, norm;
};

struct mtp_weights {
    struct layer_weights layer; /* a whole SWA block */
    struct vec enorm, hnorm;
    struct matrix e_proj, h_proj;
    struct head_weights head;
};

struct dspark_weights {
    int n_stages;
    struct layer_weights *stages;
    struct matrix main_proj;    /* [D, n_targets*D] */
    struct vec main_norm;
    struct head_weights head;   /* of the last stage */
    struct matrix markov_w1, markov_w2; /* [V, rank] */
    struct matrix confidence;   /* [1, D+rank] */
};

enum drafter_kind { DRAFTER_NONE, DRAFTER_MTP, DRAFTER_DSPARK };

struct weights {
    struct checkpoint ckpt;
    struct config cfg;
    struct matrix embed, head;
    struct head_weights out;
    struct layer_weights *layers; /* [cfg.n_layers] */
    enum drafter_kind drafter;
    struct mtp_weights mtp;
    struct dspark_weights dspark;
    char **ignored; /* names of tensors that are not part of the text model (vision, bias_vl, ...) */
    int64_t n_ignored;
    void *arena;    /* owner of widened vectors */
};

/* Opens config.json and the tensors of DIR and binds them. Checks (model specification 2.6): every weight present with
 * the right shape and dtype, every FP8/FP4 weight with its scale of the right shape (.scale or the weight_scale_inv
 * spelling), no NaN code in scales (E8M0 255, F32 non-finite), in e4m3 weights (up to 64 GB of them; beyond lie only the
 * Base checkpoints) and in vectors, tid2eid within [0,E) and distinct within a row, hash layers with tid2eid and the
 * others with bias; unknown names are listed in `ignored`. BF16, F16 and F32 matrices are not read.
 * check_data false skips the checks that read tensor data. Errors name file, tensor and what was expected. */
int weights_open(struct weights *w, const char *dir, bool check_data, const struct progress *p, struct err *e);
/* The same from headers only: structure, shapes and dtypes are checked, every data pointer is NULL. */
int weights_open_headers(struct weights *w, const char *dir, const struct progress *p, struct err *e);
void weights_close(struct weights *w);

/* Calls fn for every matrix that takes part in matrix products (so not the embeddings), in a fixed order: layers, head,
 * drafter. Stops at the first code that is not HD_OK and returns it. */
int weights_each_matrix(struct weights *w, int (*fn)(void *arg, struct matrix *m), void *arg);
/* Drops a matrix's pages of the checkpoint's mapping from this process's memory; reading it reads the file again. */
void matrix_forget(const struct matrix *m);

/* Row r of a matrix as fp32, scales applied (exact for every format). out [cols]. The scalar truth of decoding. */
void matrix_row(const struct matrix *m, int r, float *out);

#endif
