/* Kernels of attention and indexer in the fast numerics: tiles of heads against a block of keys. Same source at every level
 * (attn_tmpl.h), with multiply-add contracted; a head's result does not depend on its neighbours in the tile. */
#ifndef HADAL_ATTN_KERN_H
#define HADAL_ATTN_KERN_H

#include "base/base.h"

enum { ATTN_HEADS = 4, ATTN_KEYS = 64 };

/* Running state of the tile's softmax: largest score and sum of numerators per head. */
struct attn_tile {
    float top[ATTN_HEADS], den[ATTN_HEADS];
};

/* acc [ATTN_HEADS][hd] and st move on by n <= ATTN_KEYS keys [n][hd]; q [ATTN_HEADS][hd] is already scaled. hd is a multiple
 * of 32. */
typedef void attn_block_fn(const float *q, const float *keys, int n, int hd, struct attn_tile *st, float *acc);

/* score[k] = sum_h w[h] relu(q_h . key_k) for n keys [n][dim], heads a multiple of ATTN_HEADS, dim of 32; heads in order. */
typedef void index_block_fn(const float *q, const float *w, int heads, const float *keys, int n, int dim, float *score);

extern attn_block_fn attn_block_ref, attn_block_avx2, attn_block_avx512, attn_block_neon;
extern index_block_fn index_block_ref, index_block_avx2, index_block_avx512, index_block_neon;

struct attn_kern {
    attn_block_fn *attn_block;
    index_block_fn *index_block;
};
struct attn_kern attn_kern_for(enum cpu_isa isa);

#endif
