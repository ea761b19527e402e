/* Inside of a model: what model.c, forward.c, mtp.c and kv.c share. */
#ifndef HADAL_MODEL_IMPL_H
#define HADAL_MODEL_IMPL_H

#include "model/kv.h"
#include "model/model.h"

/* A layer's weights as the operations take them. */
struct layer_ops {
    const struct layer_weights *w;
    int index; /* of the KV layout and of watch callbacks */
    struct wmat wq_a, wq_b, wkv, wo_a, wo_b, gate;
    struct wmat comp_kv, comp_gate, index_wq_b, index_weights, index_kv, index_gate;
    struct op_expert *experts;
    struct op_expert shared;
    const float *freq;
};

/* The rows of one pass through layers: the main step or the MTP block. Arrays are in the device's memory. */
struct rows {
    int n, n_seqs;
    int32_t *tokens, *pos; /* [max_rows] */
    struct op_seq *seqs;   /* kv filled per layer */
    struct kv_seq **owner; /* [n_seqs] */
    bool block;            /* a DSpark draft: every row sees all rows, and none goes into the window rings */
};

struct workspace {
    float *x, *x_mtp;                    /* streams [N][S*D] */
    float *y, *a, *out;                  /* [N][D] */
    float *post, *comb;                  /* [N][S], [N][S*S] */
    float *qa, *q, *kv, *o, *low;        /* [N][qr], [N][H*hd], [N][hd], [N][H*hd], [N][G*ol] */
    float *ckv, *cgate, *ikv, *igate;    /* [N][2*hd], [N][2*ID] */
    float *iq, *iw;                      /* [N][IH*ID], [N][IH] */
    float *z, *weights, *moe_h, *moe_out;
    float *mtp_h;                        /* [N][S*D] */
    int32_t *topk, *experts;
    float *head_x, *head_y;              /* [N][S*D], [N][D] rows whose logits are wanted */
    float *logits, *mtp_logits;          /* grown to the largest step that asked for them */
    size_t n_logits_cap, n_mtp_cap;
    uint64_t bytes;                      /* of all these but the logits, lists of rows included */
    int32_t *pick;                       /* row numbers */
};

struct model {
    struct weights w;
    struct dev *dev;
    struct file_map packed; /* the file of packed weights; size 0: none is used */
    enum numerics numerics;
    bool stays_stored; /* no weight is packed: the checkpoint is what runs */
    int max_rows;
    bool mtp;
    struct dspark *dspark; /* NULL: the checkpoint has no stages, or they were not asked for */
    int n_drafter;         /* drafter layers that are prepared, after the main ones */
    struct kv_layout kv;
    struct kv_pool pool, tails;
    uint8_t **tail_at; /* addresses of the tails of a step, [2 * max_rows] */
    int n_tail_at;
    uint64_t fingerprint;
    float *freq_main, *freq_compressed;
    struct layer_ops *layers; /* [n_layers + n_drafter] */
    struct wmat embed, head, mtp_e, mtp_h;
    struct workspace ws;
    struct rows rows, mtp_rows;
    int64_t *mtp_pos, *mtp_out_pos; /* of the MTP rows of a pass [max_rows]; of the step's results [2*max_rows] */
    int *mtp_item, *mtp_out_item;
    struct watch watch;
};

/* layers.c */
struct wmat wmat_of(const struct matrix *m);
void model_bind_layer(struct model *m, struct layer_ops *l, const struct layer_weights *w, int index);
/* f [rope_dim / 2]: base^(-2i/rd), in compressed layers blended by YaRN. */
void model_fill_freq(const struct config *c, bool compressed, float *f);
/* layout.c: every matrix into the device's own layout, in memory; then whether numerics int8 have all that they need. */
int model_pack_weights(struct model *m, const struct progress *p, struct err *e);
int model_check_int8(struct model *m, struct err *e);

/* forward.c: one sub-layer at a time over rows whose inputs are in the workspace. */
void forward_attention(struct model *m, const struct layer_ops *l, struct rows *r, const float *a, float *out);
void forward_moe(struct model *m, const struct layer_ops *l, const struct rows *r, const float *f, float *out);
/* a [n][D] = norm(hc_pre(x)); fills ws.post and ws.comb for the hc_post that follows. */
void forward_hc_pre(struct model *m, const struct hc_weights *hc, const struct vec *norm, int n, const float *x, float *a);
void forward_hc_post(struct model *m, int n, const float *o, float *x);
void forward_layer(struct model *m, const struct layer_ops *l, struct rows *r, float *x);
/* ws.kv [n][hd] = the window rows of r's rows, made from a [n][D]. */
void forward_window_rows(struct model *m, const struct layer_ops *l, struct rows *r, const float *a);
/* The two halves of forward_head: ws.head_y [n][D] = the streams' mix; logits = head(norm(ws.head_y)). */
void forward_hc_head(struct model *m, const struct head_weights *h, int n, const float *x);
void forward_unembed(struct model *m, const struct head_weights *h, int n, float *logits);
/* logits [n][V] of n streams x [n][S*D]. */
void forward_head(struct model *m, const struct head_weights *h, int n, const float *x, float *logits);
/* mtp.c: runs the MTP rows that this step makes possible; fills r->mtp_*. Streams of the step are in ws.x. */
int mtp_step(struct model *m, const struct step_item *items, int n_items, struct step_result *r, struct err *e);
int mtp_check(const struct model *m, const struct step_item *it, struct err *e);
/* dspark.c: stages are the bound layers. During a step: the streams after each layer are offered, then the stages' window
 * rows are stored for the items that ask for it. */
int dspark_open(struct model *m, struct layer_ops *stages, struct err *e);
void dspark_close(struct model *m);
void dspark_take_layer(struct model *m, int layer);
void dspark_step(struct model *m, const struct step_item *items, int n_items);
int dspark_check(const struct model *m, const struct step_item *it, struct err *e);
/* scratch.c: after the pools are open. */
int model_reserve_scratch(struct model *m, struct err *e);
/* What steps of this size would work in on dev, which keeps its part, the kernels' scratch memory. */
struct step_size {
    int rows, logits;
    int64_t tokens; /* of the pool of pages */
};
int model_count_step(uint64_t *bytes, const struct config *c, int n_stages, struct dev *dev, const struct step_size *size,
                     struct err *e);
/* workspace.c: m->ws and the lists of rows, for m->max_rows rows. */
int model_alloc_workspace(struct model *m, struct err *e);
void model_free_workspace(struct model *m);
/* Pages and tails within a budget, 0: as model_options has it. */
int model_open_pools(struct model *m, uint64_t budget_bytes, double tail_share, struct err *e);
/* Grows a logits buffer to n rows. */
int model_logits_room(struct model *m, float **buf, size_t *cap, size_t n, struct err *e);
void model_tell(struct model *m, enum watch_point p, int layer, const float *v, const int32_t *ints, int n, int dim);

#endif
