/* model: an opened checkpoint that computes logits. Weights, KV state, one forward pass over any mix of sequences.
 *
 * Idea: a model owns the weights, a device and one workspace; a sequence (struct kv_seq) owns its state; model_step() runs
 * token ranges of any number of sequences through all layers at once. After model_open and kv_seq_open a step allocates
 * nothing. What a row computes depends only on its own sequence, so chunking and batching never change a bit.
 *
 * Threads: one thread at a time may call into a model (the engine's step thread); a model has its own worker pool.
 */
#ifndef HADAL_MODEL_MODEL_H
#define HADAL_MODEL_MODEL_H

#include "model/weights.h"
#include "ops/ops.h"

struct model;
struct kv_seq;

/* ---------------------------------------------------------------- model */

enum { MODEL_ROWS_DEFAULT = 512 /* of a step */ };

struct model_options {
    enum numerics numerics;
    int n_threads;            /* 0: all usable CPUs */
    enum cpu_isa isa;
    /* Fast numerics run on weights in the device's own layout: in a file of packed weights (model/packed.h) that the
     * first open makes beside the checkpoint or in cache_dir, in memory for small checkpoints. */
    bool native;              /* run the stored layout instead: no file, starts at once, slower */
    bool pack_in_memory;      /* no file: repack at every open */
    const char *packed_file;  /* this file, which must fit; NULL: the usual places */
    const char *cache_dir;    /* for checkpoints in folders that cannot be written; NULL: none */
    uint64_t memory_bytes;    /* a model that needs more is refused; 0: what the machine has left */
    int max_rows;             /* rows (tokens) of the largest step; 0: 512 */
    bool check_data;          /* scan scales for NaN codes while opening */
    bool drafter;             /* also prepare the MTP block or the DSpark stages when the checkpoint has them */
    uint64_t kv_budget_bytes; /* memory for KV pages of all sequences; 0: what fits max_positions once, capped by RAM/2 */
    double tail_share;        /* part of the budget for tails (see below), 0..1; 0: none */
};
void model_options_init(struct model_options *o); /* fast, best ISA, 512 rows, checks on */

/* Opens DIR. Errors as weights_open and packed_get (model/packed.h), plus HD_ENOMEM with the plan when the model does
 * not fit into memory, before anything is loaded; also HD_ENOMEM naming the bytes, HD_EUNSUPPORTED for shapes that the
 * numerics cannot quantise (head_dim - rope_dim not a multiple of 64 outside exact). */
int model_open(struct model **m, const char *dir, const struct model_options *o, const struct progress *p,
               struct err *e);
void model_close(struct model **m);

const struct config *model_config(const struct model *m);
const struct weights *model_weights(const struct model *m);
enum numerics model_numerics(const struct model *m);
int model_max_rows(const struct model *m);
/* Memory for the logits of n rows (at most model_max_rows) in a step, so that steps need not take it. HD_ENOMEM. */
int model_reserve_logits(struct model *m, int n, struct err *e);
bool model_has_mtp(const struct model *m);
bool model_has_dspark(const struct model *m);

/* Reads the mapped weights in and maps every page, so that a measurement meets no page fault. */
void model_warm(const struct model *m);

/* ---------------------------------------------------------------- KV pages and sequences */

/* One pool of pages per model; a page holds the compressed entries of 128 positions over all layers. */
uint64_t model_page_bytes(const struct model *m);
int64_t model_pages_total(const struct model *m);
int64_t model_pages_free(const struct model *m);
/* Scratch memory of the device's operations: taken at open for the largest step and the deepest sequence. */
uint64_t model_scratch_bytes(const struct model *m);
/* All that steps work in: workspace, logits and that scratch memory. */
uint64_t model_step_bytes(const struct model *m);
/* The same for a model that is not open, at the default of rows a step, sequences of max_tokens, n_logits rows of logits and
 * fast numerics: what model_open and model_reserve_logits would take. n_stages: drafter layers, 0 for none. HD_ENOMEM. */
int model_plan_step(uint64_t *bytes, const struct config *c, int n_stages, int64_t max_tokens, int n_logits, int n_threads,
                    struct err *e);
/* Bytes of one sequence's constant part: window rings, compressor state, page table for max_tokens. */
uint64_t model_seq_bytes(const struct model *m, int64_t max_tokens);

/* A new, empty sequence of at most max_tokens (<= max_position_embeddings). Pages are taken as it grows. */
int kv_seq_open(struct kv_seq **s, struct model *m, int64_t max_tokens, struct err *e);
void kv_seq_close(struct kv_seq **s); /* gives its pages back */
void kv_seq_clear(struct kv_seq *s);  /* back to empty, pages given back */

int64_t kv_seq_tokens(const struct kv_seq *s); /* tokens processed */
/* Takes back the last tokens: n_tokens >= kv_seq_tokens - KV_ROLLBACK. Moves lengths, copies nothing. */
int kv_seq_truncate(struct kv_seq *s, int64_t n_tokens, struct err *e);

/* ---- sharing: what a prefix cache stands on. Pages are counted by reference; a page is written by a sequence only while it
 * holds the one reference to it (a shared page is copied before it is written). A tail holds the window and compressor
 * state at a page end, so that another sequence can go on from there with the same bits. */
uint64_t model_tail_bytes(const struct model *m);
int64_t model_tails_total(const struct model *m);
int64_t model_tails_free(const struct model *m);
int32_t kv_tail_take(struct model *m);             /* -1 when none is left; to be named in step_item.tails */
void kv_tail_give(struct model *m, int32_t tail);
int32_t kv_seq_page(const struct kv_seq *s, int64_t i); /* number of its i-th page */
void kv_page_ref(struct model *m, int32_t page);
void kv_page_unref(struct model *m, int32_t page); /* the last one gives the page back */
/* Pages and tails from elsewhere (a disk): a page with one reference to be filled, -1 when none is left; where the
 * model_page_bytes of a page, the model_tail_bytes of a tail lie. A complete page never changes while it is referenced. */
int32_t kv_page_take(struct model *m);
uint8_t *kv_page_at(const struct model *m, int32_t page);
uint8_t *kv_tail_at(const struct model *m, int32_t tail);
/* An empty sequence becomes the first 128 * n_pages tokens of the one whose pages and tail these are. It takes references;
 * it cannot go back below that point, and has no MTP or DSpark state. HD_EARG when it is not empty or too short. */
int kv_seq_resume(struct kv_seq *s, const int32_t *pages, int64_t n_pages, int32_t tail, struct err *e);
/* An empty sequence becomes a copy of another: complete pages are shared, the last partial one and the constant part are
 * copied. HD_ENOMEM when no page is left for it. */
int kv_seq_fork(struct kv_seq *s, const struct kv_seq *from, struct err *e);

/* Serialised state (little-endian, versioned, with the model's fingerprint and a checksum). load replaces the state of s;
 * bad input is refused and leaves s empty. */
int kv_seq_save(const struct kv_seq *s, struct buf *out, struct err *e);
int kv_seq_load(struct kv_seq *s, const void *data, size_t n, struct err *e);
/* Random but valid state, as if n_tokens had been processed: what a step costs at a depth without its prefill. */
int kv_seq_synthesise(struct kv_seq *s, int64_t n_tokens, uint64_t seed, struct err *e);
/* Identifies config, a sample of the weights, numerics, kernels and formats, whatever the layout of the weights: equal
 * fingerprints mean interchangeable saved states. */
uint64_t model_fingerprint(const struct model *m);

/* ---------------------------------------------------------------- steps */

/* One sequence's part of a step. */
struct step_item {
    struct kv_seq *seq;
    const int32_t *tokens; /* [n_tokens] appended at kv_seq_tokens(seq) */
    int n_tokens;
    int n_logits;          /* logits of the last n_logits rows (0..n_tokens) */
    bool mtp;              /* also run the MTP block (see step_mtp_rows) */
    int32_t next_token;    /* with mtp: the token after the last one, or -1 when not known yet */
    const int32_t *tails;  /* NULL, or for each page end that the step reaches a tail to fill (-1: none) */
    bool dspark;           /* also store what model_draft needs: from the sequence's first step on */
};

/* Results of a step, valid until the next one. */
struct step_result {
    const float *logits; /* [sum of n_logits][V], items in order */
    int n_logits;
    /* MTP rows: position t predicts token t+2 from the stream at t and the id of t+1. A row whose next token was not known
     * runs in the following step. mtp_logits[i] belongs to item mtp_item[i], position mtp_pos[i]; rows are returned
     * for the positions of the item's last n_logits rows and the one before them. */
    const float *mtp_logits;
    const int64_t *mtp_pos;
    const int *mtp_item;
    int n_mtp;
};

/* Runs all items (sum of n_tokens <= max_rows). HD_ENOMEM when KV pages run out, HD_EARG for a token id outside the
 * vocabulary or a sequence that would pass its max_tokens: then no sequence has advanced. */
int model_step(struct model *m, const struct step_item *items, int n_items, struct step_result *r, struct err *e);

/* A DSpark draft, valid until the next call: position i stands for the i-th token after next_token. */
struct draft {
    int n;
    const int32_t *ids;      /* [n] greedy */
    const float *logits;     /* [n][V] with the Markov term of the token before */
    const float *confidence; /* [n] logits */
};

/* Drafts the tokens after next_token, which follows what the sequence has processed (all of it with step_item.dspark; at
 * least one token). The sequence does not change. HD_EUNSUPPORTED without prepared stages, HD_EARG otherwise. */
int model_draft(struct model *m, struct kv_seq *s, int32_t next_token, struct draft *d, struct err *e);

/* Convenience: feeds n tokens in chunks of at most max_rows; logits of the last token in r (when want_logits). */
int model_prefill(struct model *m, struct kv_seq *s, const int32_t *tokens, int64_t n, bool want_logits,
                  const struct progress *p, struct step_result *r, struct err *e);

/* ---------------------------------------------------------------- watching a step (tests, `hadal logits`) */

enum watch_point {
    WATCH_ATTN_IN,  /* [N][D] after attn_norm */
    WATCH_ATTN_OUT, /* [N][D] */
    WATCH_FFN_IN,   /* [N][D] after ffn_norm */
    WATCH_FFN_OUT,  /* [N][D] */
    WATCH_STREAM,   /* [N][S*D] after the layer */
    WATCH_TOPK,     /* ints: [N][topk] selected entries, ascending, -1 padded (ratio-4 layers) */
    WATCH_EXPERTS,  /* ints: [N][k] ascending */
};
struct watch {
    void (*fn)(void *arg, enum watch_point point, int layer, const float *values, const int32_t *ints, int n, int dim);
    void *arg;
};
/* NULL fn stops watching. Layers from n_layers on are the MTP block or the DSpark stages. */
void model_watch(struct model *m, struct watch w);

#endif
