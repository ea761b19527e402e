/* Decoding of a stored KV row, as a body that every instruction-set level compiles for itself. Exact, so all give the same
 * bits. */
#ifndef HADAL_KV_DECODE_H
#define HADAL_KV_DECODE_H

#include <string.h>

#include "num/num.h"
#include "ops/ops.h"

enum { KV_BLOCK = 64 };

/* kv_row_get of ops.h. */
static inline void kv_row_decode(const struct kv_dims *d, const uint8_t *in, float *row)
{
    if (d->format == KV_F32) {
        memcpy(row, in, (size_t)d->head_dim * 4);
        return;
    }
    int nd = d->head_dim - d->rope_dim;
    const uint8_t *rope = in + nd, *scale = rope + 2 * d->rope_dim;
    for (int b = 0; b < nd; b += KV_BLOCK) {
        float s = f32_from_e8m0(scale[b / KV_BLOCK]);
        int end = nd - b < KV_BLOCK ? nd : b + KV_BLOCK;
        for (int i = b; i < end; i++) { /* e4m3 bits moved to fp32 bits are the value times 2^-120 */
            uint32_t c = in[i];
            row[i] = f32_from_bits((c & 0x80) << 24 | (c & 0x7f) << 20) * 0x1p120f * s;
        }
    }
    for (int i = 0; i < d->rope_dim; i++) {
        uint16_t h;
        memcpy(&h, rope + 2 * i, 2);
        row[nd + i] = f32_from_bf16(h);
    }
}

#endif
