/* Decoding of a stored KV row, as a body that every instruction-set level compiles for itself. Exact, so all give the same
 * bits. */
#ifndef HADAL_KV_DECODE_H
#define HADAL_KV_DECODE_H

#include <string.h>

#include "num/num.h"
#include "ops/ops.h"

enum { KV_BLOCK = 64 };

/* n e4m3 codes times s: their bits moved to fp32 bits are the value times 2^-120, which joins the scale where both together
 * are an fp32 (powers of two, so the one rounding is the same). */
static inline void kv_decode_block(const uint8_t *in, int n, float s, float *row)
{
    float first = s <= 0x1p7f ? s * 0x1p120f : 0x1p120f, second = s <= 0x1p7f ? 1 : s;
    int i = 0;
#ifdef KV_WIDEN /* 8 signed bytes to 32 bits, where the compiler would go by way of 16 */
    for (; i + 8 <= n; i += 8) {
        typedef int32_t words __attribute__((vector_size(32)));
        typedef float floats __attribute__((vector_size(32)));
        floats v = (floats)((words)KV_WIDEN(in + i) << 20 & (int32_t)0x87f00000u) * first;
        memcpy(row + i, &v, sizeof v);
    }
#endif
    for (; i < n; i++) {
        uint32_t c = (uint32_t)(int32_t)(int8_t)in[i]; /* the sign in all upper bits */
        row[i] = f32_from_bits(c << 20 & 0x87f00000u) * first;
    }
    for (i = 0; second != 1 && i < n; i++)
        row[i] *= second;
}

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
        if (nd - b >= KV_BLOCK) /* a constant length */
            kv_decode_block(in + b, KV_BLOCK, s, row + b);
        else
            kv_decode_block(in + b, nd - b, s, row + b);
    }
    for (int i = 0; i < d->rope_dim; i++) {
        uint16_t h;
        memcpy(&h, rope + 2 * i, 2);
        row[nd + i] = f32_from_bf16(h);
    }
}

/* n values from value `from` on, which share a block. */
static inline void kv_part_decode(const struct kv_dims *d, const uint8_t *in, int from, int n, float *out)
{
    int nd = d->head_dim - d->rope_dim, codes = nd - from < n ? nd - from : n;
    if (d->format == KV_F32) {
        memcpy(out, in + 4 * (size_t)from, (size_t)n * 4);
        return;
    }
    codes = codes > 0 ? codes : 0;
    if (codes > 0)
        kv_decode_block(in + from, codes, f32_from_e8m0(in[nd + 2 * d->rope_dim + from / KV_BLOCK]), out);
    for (int i = codes; i < n; i++) {
        uint16_t h;
        memcpy(&h, in + nd + 2 * (from + i - nd), 2);
        out[i] = f32_from_bf16(h);
    }
}

#endif
