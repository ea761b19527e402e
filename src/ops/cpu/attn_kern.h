/* Kernels of attention and indexer in the fast numerics: tiles of heads against a block of keys. A level keeps queries and
 * keys in a form of its own; one source for fp32 (attn_tmpl.h, attn_tile_tmpl.h), one for bf16 pairs
 * (kern_attn_avx512bf16.c), with multiply-add contracted. A head's result does not depend on its neighbours in the tile. */
#ifndef HADAL_ATTN_KERN_H
#define HADAL_ATTN_KERN_H

#include "ops/ops.h"

enum { ATTN_HEADS = 4, ATTN_KEYS = 64, ATTN_TILES = 16 };

/* Running state of the tile's softmax: largest score and sum of numerators per head. */
struct attn_tile {
    float top[ATTN_HEADS], den[ATTN_HEADS];
};

/* Stored rows that the next block takes, n of `bytes` each. They lie apart and come from memory, so they are asked for while
 * this block is worked on, a few lines at a time: a processor drops most of what is asked for at once. */
struct attn_ahead {
    const uint8_t *row[ATTN_KEYS];
    int n;
    size_t bytes;
};

/* Query heads of a row and a block of ATTN_KEYS keys as the level keeps them, in memory of these sizes that begins with a
 * cache line. Fp32 keys lie ATTN_PAD values more apart than they are long, so they share no sets of the cache. */
enum { ATTN_PAD = 16 };
static inline size_t attn_query_floats(int hd)
{
    return (size_t)ATTN_TILES * ATTN_HEADS * (size_t)hd;
}
static inline size_t attn_keys_floats(int hd)
{
    return (size_t)ATTN_KEYS * ((size_t)hd + ATTN_PAD);
}

/* hd is a multiple of 32, n_tiles at most ATTN_TILES. */
struct attn_kern {
    const char *name;
    /* Values of n_tiles * ATTN_HEADS heads, whose scores will be multiplied by `scale`, into query. */
    void (*put_query)(const float *q, int n_tiles, int hd, float scale, void *query);
    /* Key number k of a block from hd values, and from a stored row (a level may round values that no stored row has). */
    void (*put_key)(const float *row, int hd, void *keys, int k);
    void (*put_stored)(const struct kv_dims *d, const uint8_t *in, void *keys, int k);
    /* acc [n_tiles][ATTN_HEADS][hd] and st [n_tiles] move on by keys 0 .. n-1 of the block. scale as put_query had it.
     * `ahead` changes speed only. */
    void (*block)(const void *query, int n_tiles, float scale, const void *keys, int n, int hd,
                  const struct attn_ahead *ahead, struct attn_tile *st, float *acc);
    /* score[k] = sum_h w[h] relu(q_h . key_k) for n keys [n][dim], heads a multiple of ATTN_HEADS, dim of 32; four
     * sums, each of every fourth head in order. */
    void (*index_block)(const float *q, const float *w, int heads, const float *keys, int n, int dim, float *score);
    /* kv_row_get of ops.h. */
    void (*kv_row)(const struct kv_dims *d, const uint8_t *in, float *row);
    bool pairs; /* queries, keys and numerators are rounded to bf16 */
};

/* The best table of a level on this machine. */
const struct attn_kern *attn_kern_for(enum cpu_isa isa);

/* Levels; internal. */
extern const struct attn_kern attn_kern_ref, attn_kern_avx2, attn_kern_avx512, attn_kern_avx512bf16, attn_kern_neon;

#endif
