/* Kernels of attention and indexer in the fast numerics: tiles of heads against a block of keys. Same source at every level
 * (attn_tmpl.h), with multiply-add contracted; a head's result does not depend on its neighbours in the tile. */
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

/* acc [n_tiles][ATTN_HEADS][hd] and st [n_tiles] move on by n <= ATTN_KEYS keys of hd values, ld floats apart; q as acc
 * and already scaled. hd is a multiple of 32, n_tiles at most ATTN_TILES. An ld that is no multiple of 256 keeps keys out
 * of each other's cache lines. `ahead` changes speed only. */
typedef void attn_block_fn(const float *q, int n_tiles, const float *keys, size_t ld, int n, int hd,
                           const struct attn_ahead *ahead, struct attn_tile *st, float *acc);

/* score[k] = sum_h w[h] relu(q_h . key_k) for n keys [n][dim], heads a multiple of ATTN_HEADS, dim of 32; heads in order. */
typedef void index_block_fn(const float *q, const float *w, int heads, const float *keys, int n, int dim, float *score);

/* kv_row_get of ops.h. */
typedef void kv_row_fn(const struct kv_dims *d, const uint8_t *in, float *row);

extern attn_block_fn attn_block_ref, attn_block_avx2, attn_block_avx512, attn_block_neon;
extern index_block_fn index_block_ref, index_block_avx2, index_block_avx512, index_block_neon;
extern kv_row_fn kv_row_ref, kv_row_avx2, kv_row_avx512, kv_row_neon;

struct attn_kern {
    attn_block_fn *attn_block;
    index_block_fn *index_block;
    kv_row_fn *kv_row;
};
struct attn_kern attn_kern_for(enum cpu_isa isa);

#endif
