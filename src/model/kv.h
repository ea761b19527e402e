/* kv: the state of a sequence - pages of compressed entries, window rings, compressor state. Internal to model.
 *
 * A page holds the compressed rows and index rows of KV_PAGE_TOKENS positions over all layers, so that one page number
 * means one stretch of text. Rings keep KV_ROLLBACK rows more than attention and compressor need: taking back up to 8 tokens
 * moves lengths and copies nothing. Every read is bounded by positions, so nothing has to be cleared for a new sequence. */
#ifndef HADAL_MODEL_KV_H
#define HADAL_MODEL_KV_H

#include "model/model.h"

struct kv_layer_layout {
    int ratio;
    size_t rows_offset, index_offset;                              /* in a page, bytes */
    size_t ring_offset;                                            /* in the sequence's block, bytes */
    size_t state_kv_offset, state_gate_offset, istate_kv_offset, istate_gate_offset;
    int state_rows;
    struct tail_offsets tail; /* in a tail, bytes */
};

struct kv_layout {
    struct kv_dims dims;
    int n_layers;    /* main layers, then the prepared drafter layers */
    int ring_rows;
    struct kv_layer_layout layer[LAYERS_MAX];
    size_t page_bytes, block_bytes, tail_bytes;
    size_t stream_offset; /* ring of the last streams (STREAM_RING rows of S*D fp32), for the MTP block */
    int stream_dim;       /* S*D, 0 without MTP */
};

enum { STREAM_RING = 16 };

void kv_layout_init(struct kv_layout *l, const struct config *c, enum kv_row_format f, int n_drafter, bool mtp);

/* Equal-sized blocks (pages, tails): one address range reserved at start, handed out by number, counted by reference. */
struct kv_pool {
    uint8_t *base;
    size_t block_bytes;
    int64_t n_blocks, n_free;
    int32_t *free_list;
    int32_t *n_refs;
};
int kv_pool_init(struct kv_pool *p, size_t block_bytes, int64_t n_blocks, struct err *e);
void kv_pool_free(struct kv_pool *p);
int32_t kv_pool_take(struct kv_pool *p);               /* with one reference; -1 when none is left */
void kv_pool_ref(struct kv_pool *p, int32_t id);
void kv_pool_unref(struct kv_pool *p, int32_t id);     /* the last one gives it back */
uint8_t *kv_pool_at(const struct kv_pool *p, int32_t id);

struct kv_seq {
    struct model *model;
    int64_t max_tokens, n_tokens;
    int64_t n_high;      /* most tokens ever processed: what the rings were written up to */
    int64_t n_floor;     /* the rings hold nothing from before this position minus the window: no going back below it */
    int64_t n_mtp;       /* positions the MTP block has processed */
    int64_t n_dspark;    /* positions whose rows the DSpark stages keep, when it equals n_tokens */
    int32_t mtp_next;    /* token id that the last MTP row assumed to follow, when n_mtp == n_tokens */
    uint8_t *block;
    uint8_t **pages;     /* addresses, [max_pages] */
    int32_t *page_ids;
    int64_t n_pages, max_pages;
};

/* Pages for positions < n_tokens, and the one that is written next unshared. On HD_ENOMEM nothing was taken. */
int kv_seq_reserve(struct kv_seq *s, int64_t n_tokens, struct err *e);
void kv_seq_release_after(struct kv_seq *s, int64_t n_tokens);
struct kv_view kv_seq_view(const struct kv_seq *s, int layer);
float *kv_seq_stream(const struct kv_seq *s, int64_t pos); /* slot of the stream ring */

#endif
