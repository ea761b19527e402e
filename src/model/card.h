/* card: what a checkpoint is made of - parameters, bytes by component, layers by kind. Counted from the tensors'
 * headers; no data are read. `hadal inspect` prints it, the memory plan starts from it. */
#ifndef HADAL_MODEL_CARD_H
#define HADAL_MODEL_CARD_H

#include "model/weights.h"

/* Parts of the model in the order in which a decoded token of V4-Flash pays for them. */
enum component {
    COMP_ROUTED,
    COMP_WQ_B,
    COMP_WO_A,
    COMP_WO_B,
    COMP_SHARED,
    COMP_HEAD,
    COMP_COMPRESSOR,
    COMP_WQ_A,
    COMP_INDEX_WQ_B,
    COMP_HC,
    COMP_WKV,
    COMP_ROUTER,
    COMP_INDEX_COMPRESSOR,
    COMP_SMALL, /* weights_proj, norms, sinks */
    COMP_EMBED,
    COMP_HASH_TABLE,
    COMP_DRAFTER,
    COMP_IGNORED, /* no part of the text model */
    COMP_COUNT,
};

const char *component_name(enum component k); /* "routed experts", ... */

struct component_size {
    uint64_t n_tensors, bytes; /* scales included */
    uint64_t params;           /* weights; scales and id tables count 0, a byte of packed FP4 counts 2 */
    uint64_t token_bytes, token_params; /* read for one decoded token, batch 1, without drafter */
};

struct card {
    struct component_size component[COMP_COUNT];
    uint64_t n_tensors, bytes;
    uint64_t params, drafter_params; /* of the main model; of the drafter */
    uint64_t active_params;          /* in a matrix product per token: all but embedding, unchosen experts, drafter */
    uint64_t token_bytes;
    struct {
        uint64_t n_tensors, bytes;
    } dtype[DT_COUNT];
    int n_layers[LAYER_HCA + 1]; /* by kind, main model */
    int n_hash_layers, n_drafter_stages;
    enum drafter_kind drafter;
};

void card_count(struct card *card, const struct weights *w);
const char *drafter_name(enum drafter_kind k); /* "none", "MTP", "DSpark" */

#endif
