/* synth: checkpoints in the official format with made-up weights, of any depth, for tests and benchmarks.
 *
 * The weights are random but not tame: heavy tails (Student t, 4 degrees of freedom) that reach the largest codes of
 * FP8 and FP4, outlier channels, negative FP4 zeros, block scales that differ and are sometimes tiny, router rows so
 * hot that softplus turns linear, saturated mixing gates. Their sizes are chosen so that activations stay finite and the
 * SwiGLU clamp is hit now and then. The tokenizer has a token for each byte: such a model has no language.
 *
 * The bytes are a function of the options alone, whatever the number of threads. */
#ifndef HADAL_MODEL_SYNTH_H
#define HADAL_MODEL_SYNTH_H

#include "model/names.h"
#include "model/weights.h"

enum synth_shape { SYNTH_TINY, SYNTH_FLASH, SYNTH_PRO };

struct synth_options {
    enum synth_shape shape;
    int n_layers;  /* 1 .. LAYERS_MAX - 4; the layer kinds follow the shape's pattern */
    int n_experts; /* 0: the shape's own */
    int vocab_size; /* 0: the shape's own */
    uint64_t seed;
    enum drafter_kind drafter;
};

int synth_shape_parse(const char *name, enum synth_shape *shape, struct err *e);

/* How a tensor's bytes are made. */
enum synth_kind {
    SYNTH_FP4,       /* two e2m1 codes a byte */
    SYNTH_FP4_SCALE, /* e8m0 */
    SYNTH_FP8,
    SYNTH_FP8_SCALE,
    SYNTH_BF16,      /* heavy-tailed times sigma */
    SYNTH_EMBED,     /* the same with outlier columns */
    SYNTH_ROUTER,    /* the same with a few hot rows */
    SYNTH_NORM,      /* bf16 near 1, with outlier channels */
    SYNTH_F32,       /* heavy-tailed times sigma */
    SYNTH_MIX_BASE,  /* hc base: the mixing matrix leans to its diagonal, a few gates are saturated */
    SYNTH_HASH,      /* distinct expert ids in a row */
};

struct synth_item {
    const char *name;
    enum synth_kind kind;
    enum dtype dtype;
    int n_dims, i_shard;
    int64_t rows, cols; /* as stored; cols 1 when one-dimensional */
    float sigma;        /* of the values that the tensor stands for */
    uint64_t bytes, offset;
};

struct synth_plan {
    struct config cfg;
    enum drafter_kind drafter;
    uint64_t seed, bytes; /* bytes of tensor data */
    int n_shards;
    struct synth_item *items; /* in file order: by shard, then larger elements first, then by name */
    int64_t n_items, cap_items;
    struct name_block *names;
};

/* The list of tensors that the options ask for. Errors: HD_EARG. */
int synth_plan_make(struct synth_plan *p, const struct synth_options *o, struct err *e);
void synth_plan_free(struct synth_plan *p);
void synth_config_json(const struct synth_plan *p, struct buf *out);
/* tokenizer.json of 256 bytes and the control tokens (synth_text.c); false when the vocabulary has no room for them. */
bool synth_tokenizer_json(int vocab_size, struct buf *out);

/* Tables that turn 16 random bits into a value; a few hundred KB. */
struct synth_tables {
    float t4[65536]; /* variance 1, sorted */
    uint8_t fp8[65536], fp4[65536]; /* one e4m3 code; a byte of two e2m1 codes */
};
void synth_tables_init(struct synth_tables *t);

/* Bytes [at, at + n) of an item; at is a multiple of synth_chunk_bytes(item), n at most that. */
uint64_t synth_chunk_bytes(const struct synth_item *item);
void synth_fill(const struct synth_plan *p, const struct synth_tables *t, const struct synth_item *item, uint64_t at,
                size_t n, uint8_t *out);

/* Writes the checkpoint into DIR, which is made when missing and may not hold one already. Streams: memory is a
 * few MB a thread. On any error - a full disk, a stop asked for by the progress callback - the files written are removed. */
int synth_write(const struct synth_options *o, const char *dir, struct pool *pool, const struct progress *p,
                struct err *e);

#endif
