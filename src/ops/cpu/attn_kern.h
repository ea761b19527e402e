/* Kernels of attention in the fast numerics: one tile of heads against one block of keys. Same source at every level
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

extern attn_block_fn attn_block_ref, attn_block_avx2, attn_block_avx512, attn_block_neon;
attn_block_fn *attn_block_for(enum cpu_isa isa);

#endif
