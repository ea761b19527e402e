/* Stored forms of KV and index rows. */
#include "num/num.h"
#include "ops/kv_decode.h"
#include "ops/ops.h"

#include <assert.h>
#include <string.h>

#include "base/mutant.h"

enum { INDEX_BLOCK = 32 };

static size_t round_up(size_t n, size_t to)
{
    return (n + to - 1) / to * to;
}

struct kv_dims kv_dims_of(enum kv_row_format f, int head_dim, int rope_dim, int index_dim)
{
    struct kv_dims d = {.format = f, .head_dim = head_dim, .rope_dim = rope_dim, .index_dim = index_dim};
    size_t hd = (size_t)head_dim, rd = (size_t)rope_dim, id = (size_t)index_dim;
    if (f == KV_F32) {
        d.row_bytes = hd * 4;
        d.index_bytes = id * 4;
    } else {
        size_t nd = hd - rd;
        d.row_bytes = round_up(nd + 2 * rd + (nd + KV_BLOCK - 1) / KV_BLOCK, 8);
        d.index_bytes = id / 2 + id / INDEX_BLOCK;
    }
    return d;
}

void kv_row_put(const struct kv_dims *d, const float *row, uint8_t *out)
{
    if (d->format == KV_F32) {
        memcpy(out, row, (size_t)d->head_dim * 4);
        return;
    }
    int nd = d->head_dim - d->rope_dim;
    uint8_t *rope = out + nd, *scale = rope + 2 * d->rope_dim;
    for (int i = 0; i < d->rope_dim; i++) {
        uint16_t h = bf16_from_f32(row[nd + i]);
        memcpy(rope + 2 * i, &h, 2);
    }
    for (int b = 0; b < nd; b += KV_BLOCK)
        scale[b / KV_BLOCK] = (uint8_t)(act_quant(row + b, nd - b < KV_BLOCK ? nd - b : KV_BLOCK, out + b) + 127);
}

void kv_row_get(const struct kv_dims *d, const uint8_t *in, float *row)
{
    kv_row_decode(d, in, row);
}

void kv_index_put(const struct kv_dims *d, const float *row, uint8_t *out)
{
    if (d->format == KV_F32) {
        memcpy(out, row, (size_t)d->index_dim * 4);
        return;
    }
    uint8_t *scale = out + d->index_dim / 2, codes[INDEX_BLOCK];
    for (int b = 0; b < d->index_dim; b += INDEX_BLOCK) {
        scale[b / INDEX_BLOCK] = (uint8_t)(fp4_quant(row + b, INDEX_BLOCK, codes) + 127);
        for (int i = 0; i < INDEX_BLOCK; i += 2)
            out[(b + i) / 2] = (uint8_t)(codes[i] | codes[i + 1] << 4);
    }
}

void kv_index_get(const struct kv_dims *d, const uint8_t *in, float *row)
{
    if (d->format == KV_F32) {
        memcpy(row, in, (size_t)d->index_dim * 4);
        return;
    }
    const uint8_t *scale = in + d->index_dim / 2;
    for (int b = 0; b < d->index_dim; b += INDEX_BLOCK) {
        /* Mutant 23: producer and consumer disagree about the order of the scales. */
        int i_scale = b / INDEX_BLOCK;
        float s = f32_from_e8m0(scale[MUTANT(23) ? d->index_dim / INDEX_BLOCK - 1 - i_scale : i_scale]);
        for (int i = b; i < b + INDEX_BLOCK; i += 2)
            memcpy(row + i, e2m1_pairs[in[i / 2]], sizeof e2m1_pairs[0]);
        for (int i = b; i < b + INDEX_BLOCK; i++)
            row[i] *= s;
    }
}
