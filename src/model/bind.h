/* bind: inside of weights.c - finds each tensor that the forward pass needs, checks dtype and shape, and remembers
 * which data have to be read for NaN codes. Errors are sticky: after the first one every call does nothing. */
#ifndef HADAL_MODEL_BIND_H
#define HADAL_MODEL_BIND_H

#include "model/weights.h"

enum check_kind {
    CHECK_E8M0, /* no byte 255 */
    CHECK_E4M3, /* no 0x7f, 0xff */
    CHECK_F32,  /* finite */
};

struct data_check {
    const struct tensor *tensor;
    enum check_kind kind;
};

struct binder {
    struct weights *w;
    struct err *e;
    int rc;
    bool check_data;
    bool *used;              /* [n_tensors] */
    char prefix[96];         /* "layers.3.": names below are relative to it */
    char name[TENSOR_NAME_MAX];
    struct data_check *checks;
    int64_t n_checks, cap_checks;
};

void weights_arena_free(struct weights *w);
/* Memory that lives as long as the weights; NULL sets the error. */
void *bind_alloc(struct binder *b, size_t bytes);

void bind_prefix(struct binder *b, const char *fmt, ...) PRINTF_LIKE(2, 3);
bool bind_has(struct binder *b, const char *name);

/* A linear layer: tensor name.weight [rows, cols] and, when quantised, name.scale. */
void bind_matrix(struct binder *b, struct matrix *m, const char *name, int rows, int cols);
/* A tensor of rows x cols fp32 values (cols 0: one dimension): F32 stays in the mapping, BF16 and F16 are widened. */
void bind_vec(struct binder *b, struct vec *v, const char *name, int rows, int cols);
/* The hash routing table [vocab, k] of a layer. */
void bind_tid2eid(struct binder *b, struct layer_weights *lw);
/* A whole block at the prefix; hash chooses the router. */
void bind_layer(struct binder *b, struct layer_weights *lw, int ratio, bool hash);

/* Reads the data of all checks: scales always, e4m3 weights up to 64 GB in total. */
int data_checks_run(struct binder *b, const struct progress *p, struct err *e);

#endif
