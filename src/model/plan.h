/* plan: what a model asks of a machine - bytes of weights and KV, bytes and FLOPs per decoded token - from its
 * configuration alone. docs/NUMERICS.md describes the formats whose bytes are counted here.
 *
 * Idea: walk the tensors that a checkpoint of this configuration has, once, and keep sums per part of the model:
 * resident bytes, bytes read for one decoded token, parameters active in one token (each one multiply-accumulate).
 * Everything else is arithmetic on these sums and on the number of visible rows.
 *
 * "context" is the number of tokens a query sees, itself included. FLOPs count a multiply-accumulate as two.
 */
#ifndef HADAL_MODEL_PLAN_H
#define HADAL_MODEL_PLAN_H

#include "model/config.h"
#include "model/safetensors.h"

enum plan_part {
    PART_EXPERTS,
    PART_WQ_B,
    PART_WO_A,
    PART_WO_B,
    PART_SHARED,
    PART_HEAD,
    PART_COMPRESSOR,
    PART_WQ_A,
    PART_INDEX_WQ_B,
    PART_HC,
    PART_WKV,
    PART_ROUTER,
    PART_INDEX_COMPRESSOR,
    PART_SMALL, /* index head weights, norms, sinks */
    PART_EMBED,
    PART_HASH,  /* expert tables of the hash-routed layers */
    PART_DRAFTER,
    PART_COUNT
};
const char *plan_part_name(enum plan_part p); /* "routed experts", ... */

/* Stored formats; a matrix in DT_F8_E4M3 or DT_I8 (packed FP4) has scales of dtype `scale`. */
struct plan_formats {
    enum dtype linear, expert, scale, plain; /* plain: embedding, head, norms, compressors, router */
};
extern const struct plan_formats plan_formats_released; /* FP8, FP4, E8M0, BF16 */

struct plan_sum {
    uint64_t params; /* logical elements, scales not counted */
    uint64_t bytes;  /* resident */
    uint64_t read_bytes, active; /* by one decoded token: bytes, parameters; 0 for the drafter */
};

struct plan {
    struct config cfg;
    struct plan_formats formats;
    int n_stages; /* drafter layers: 1 for MTP, one per DSpark stage, 0 for none */
    int n_swa, n_csa, n_hca;
    struct plan_sum part[PART_COUNT];
    size_t row_bytes, index_bytes;  /* of one cached KV row and one index row */
    uint64_t step_bytes;            /* what steps work in (model_plan_step); 0 until the caller sets it */
    size_t page_bytes, block_bytes; /* as the engine lays them out: KV_PAGE_TOKENS tokens, the rest of a sequence */
};

/* Drafter layers that a configuration announces (the tensors of a checkpoint have the last word). */
int plan_stages_of(const struct config *c);
/* Formats and drafter layers of an open checkpoint (headers suffice). */
void plan_inspect(const struct checkpoint *ckpt, struct plan_formats *f, int *n_stages);

void plan_init(struct plan *p, const struct config *c, const struct plan_formats *f, int n_stages);
struct plan_sum plan_total(const struct plan *p, bool drafter);

/* ---------------------------------------------------------------- one decoded token, batch 1 */

uint64_t plan_visible_rows(const struct plan *p, int64_t context); /* over all layers */
double plan_linear_flops(const struct plan *p);
double plan_attn_flops(const struct plan *p, int64_t context);
double plan_index_flops(const struct plan *p, int64_t context);    /* also where every entry is selected anyway */
double plan_flops(const struct plan *p, int64_t context);          /* the three together */
uint64_t plan_kv_read_bytes(const struct plan *p, int64_t context);
/* FLOPs of a whole prompt of n tokens, the output head left out. */
double plan_prefill_flops(const struct plan *p, int64_t n);
/* FLOPs of n tokens after `depth` others, the head once, the indexer's in *index (0 where all entries are selected). */
double plan_chunk_flops(const struct plan *p, int64_t depth, int64_t n, double *index);

/* ---------------------------------------------------------------- a step of several sequences */

/* Expected number of different experts that `batch` tokens choose in one layer: E (1 - (1 - k/E)^batch). */
double plan_distinct_experts(const struct plan *p, int batch);
/* Bytes read in one step of `batch` sequences at the same context: shared weights once, the distinct experts, and each
 * sequence's KV. */
double plan_step_bytes(const struct plan *p, int batch, int64_t context);

/* ---------------------------------------------------------------- KV memory */

/* What the format itself needs: compressed and index rows, per token in the long run and of `context` tokens. */
double plan_kv_bytes_per_token(const struct plan *p);
uint64_t plan_kv_bytes(const struct plan *p, int64_t context);
/* The constant part of a sequence: window rings and fp32 compressor inputs, `spare` rows more than attention needs. */
uint64_t plan_ring_bytes(const struct plan *p, int spare);
uint64_t plan_state_bytes(const struct plan *p, int spare);
/* All of one sequence as the engine keeps it: whole pages, their table, rings and state (without the drafter's). */
uint64_t plan_seq_bytes(const struct plan *p, int64_t context);

/* ---------------------------------------------------------------- does it fit */

struct plan_fit {
    uint64_t memory_bytes, weight_bytes, kv_bytes, need_bytes; /* weights without the drafter; kv of all sequences;
                                                                    need: with step_bytes too */
    bool fits;
    bool drafter_fits;          /* together with the drafter too */
    bool rest_fits;             /* everything but the routed experts */
    int64_t context_max;        /* largest context of `batch` sequences, at most max_positions; 0: none */
    int64_t batch_max;          /* largest batch at `context`; 0: none */
};
struct plan_fit plan_fit(const struct plan *p, uint64_t memory_bytes, int64_t context, int batch);

/* HD_ENOMEM, with bytes by component and what would fit, when weights, one sequence of plan_refuse_context tokens and
 * step_bytes are more than memory_bytes. `name` is the checkpoint. */
enum { REFUSE_CONTEXT = 4096 };
int64_t plan_refuse_context(const struct plan *p); /* REFUSE_CONTEXT, or the model's own limit */
int plan_refuse(const struct plan *p, const char *name, uint64_t memory_bytes, struct err *e);
/* Bytes with three digits that count: "156 GB". Returns out. */
const char *plan_bytes_text(char out[24], double bytes);

/* ---------------------------------------------------------------- DeepSeek-V3.2, the yardstick of the technical report */

/* Single-token "equivalent FP8 FLOPs": bf16 attention counts double, the FP4 indexer half, the rest once. */
double plan_equivalent_flops(const struct plan *p, int64_t context);
double v32_equivalent_flops(int64_t context);
double v32_kv_bytes_per_token(void);

#endif
