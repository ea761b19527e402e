/* The bytes of synthetic tensors. Every format is a table from 16 random bits to a value, so that one 64-bit random
 * word makes four entries: more than 1 GB/s a thread. A chunk's bytes depend on seed, tensor name and chunk number
 * only. */
#include "model/synth.h"

#include "num/num.h"

#include <assert.h>
#include <math.h>
#include <string.h>

#include <xxhash.h>

/* Spread of the stored codes: tails reach the largest e4m3 (448) once in 10,000 values, the largest e2m1 (6) often.
 */
static const float FP8_SPREAD = 40, FP4_SPREAD = 1.7f;

enum { CHUNK_BYTES = 1 << 20, OUTLIER_EVERY = 128, HOT_ROW_EVERY = 32 };

/* wyrand (Wang Yi): one multiplication a word, and inline - the generator of base costs twice as much here. */
static inline uint64_t next(uint64_t *state)
{
    *state += 0xa0761d6478bd642fu;
    unsigned __int128 x = (unsigned __int128)*state * (*state ^ 0xe7037ed1a0b428dbu);
    return (uint64_t)(x >> 64) ^ (uint64_t)x;
}

/* Quantile of Student's t with four degrees of freedom (closed form), scaled to variance 1. */
static double t4_quantile(double u)
{
    double a = 4 * u * (1 - u), q = cos(acos(sqrt(a)) / 3) / sqrt(a);
    return (u < 0.5 ? -1 : 1) * 2 * sqrt(q - 1) / sqrt(2);
}

void synth_tables_init(struct synth_tables *t)
{
    for (int i = 0; i < 65536; i++) {
        float x = (float)t4_quantile((i + 0.5) / 65536);
        t->t4[i] = x;
        t->fp8[i] = e4m3_from_f32(x * FP8_SPREAD);
    }
    for (int i = 0; i < 65536; i++) { /* two codes from 8 bits each, the middle of 256 quantiles */
        uint8_t low = e2m1_from_f32(t->t4[(i & 255) * 256 + 128] * FP4_SPREAD);
        uint8_t high = e2m1_from_f32(t->t4[(i >> 8) * 256 + 128] * FP4_SPREAD);
        t->fp4[i] = (uint8_t)(low | high << 4);
    }
}

uint64_t synth_chunk_bytes(const struct synth_item *item)
{
    if (item->kind != SYNTH_HASH)
        return CHUNK_BYTES;
    uint64_t row = (uint64_t)item->cols * 8; /* whole rows: ids are distinct within one */
    return CHUNK_BYTES / row * row;
}

/* ---------------------------------------------------------------- codes */

static void fill_codes(const uint8_t *table, uint64_t *r, uint8_t *out, size_t n)
{
    size_t i = 0;
    for (; i + 4 <= n; i += 4) {
        uint64_t x = next(r);
        out[i] = table[x & 0xffff];
        out[i + 1] = table[x >> 16 & 0xffff];
        out[i + 2] = table[x >> 32 & 0xffff];
        out[i + 3] = table[x >> 48];
    }
    for (; i < n; i++)
        out[i] = table[next(r) & 0xffff];
}

/* Around the byte that makes the weights' size sigma: mostly -1, 0 or +1 steps, one in 1024 tiny. */
static void fill_scales(float sigma, float spread, uint64_t *r, uint8_t *out, size_t n)
{
    int middle = 127 + (int)lrintf(log2f(sigma / spread));
    for (size_t i = 0; i < n; i++) {
        uint64_t x = next(r);
        int step = (int)(x & 3) == 0 ? -1 : (int)(x & 7) == 1 ? 1 : 0;
        if ((x >> 32 & 1023) == 0)
            step = -12 - (int)(x >> 48 & 15);
        int byte = middle + step;
        out[i] = (uint8_t)(byte < 0 ? 0 : byte > 254 ? 254 : byte);
    }
}

/* ---------------------------------------------------------------- numbers */

static bool is_outlier(uint64_t seed, int64_t channel)
{
    return mix64(seed ^ (uint64_t)channel * 0x9e3779b97f4a7c15u) % OUTLIER_EVERY == 0;
}

static bool is_hot_row(uint64_t seed, int64_t row)
{
    return mix64(seed + 1 + (uint64_t)row) % HOT_ROW_EVERY == 0;
}

static void store_bf16(uint8_t *out, size_t i, float x)
{
    uint16_t h = bf16_from_f32(x);
    memcpy(out + 2 * i, &h, 2);
}

static void scale_bf16(uint8_t *out, size_t i, float factor)
{
    uint16_t h;
    memcpy(&h, out + 2 * i, 2);
    store_bf16(out, i, f32_from_bf16(h) * factor);
}

static void fill_bf16(const float *t4, float sigma, uint64_t *r, uint8_t *out, size_t n)
{
    uint16_t table[65536]; /* rounding 65,536 values costs less than rounding the half million of a chunk */
    for (size_t i = 0; i < 65536; i++)
        table[i] = bf16_from_f32(t4[i] * sigma);
    size_t i = 0;
    for (; i + 4 <= n; i += 4) {
        uint64_t x = next(r);
        uint16_t h[4] = {table[x & 0xffff], table[x >> 16 & 0xffff], table[x >> 32 & 0xffff], table[x >> 48]};
        memcpy(out + 2 * i, h, 8);
    }
    for (; i < n; i++)
        memcpy(out + 2 * i, &table[next(r) & 0xffff], 2);
}

/* Outlier channels: a few columns of the embedding are 8 times larger, and the norms of that width do not undo it. */
static void raise_outliers(const struct synth_plan *p, const struct synth_item *item, int64_t first, uint8_t *out,
                           size_t n)
{
    for (int64_t col = 0; col < item->cols; col++) {
        if (!is_outlier(p->seed, col))
            continue;
        int64_t i = (col - first % item->cols + item->cols) % item->cols;
        for (; i < (int64_t)n; i += item->cols)
            scale_bf16(out, (size_t)i, 8);
    }
}

static void heat_rows(const struct synth_plan *p, const struct synth_item *item, int64_t first, uint8_t *out,
                      size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (is_hot_row(p->seed, (first + (int64_t)i) / item->cols))
            scale_bf16(out, i, 4);
}

static void fill_norm(const struct synth_plan *p, const float *t4, const struct synth_item *item, uint64_t *r,
                      uint8_t *out, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        float x = 1 + item->sigma * t4[next(r) & 0xffff];
        store_bf16(out, i, is_outlier(p->seed, (int64_t)i) ? 2 * x : x);
    }
}

static void fill_f32(const float *t4, float sigma, uint64_t *r, uint8_t *out, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        float x = t4[next(r) & 0xffff] * sigma;
        memcpy(out + 4 * i, &x, 4);
    }
}

/* Entries: pre [S], post [S], mixing matrix [S][S] (or pre alone in a head). */
static void fill_mix_base(const struct synth_plan *p, const float *t4, const struct synth_item *item, uint64_t *r,
                          uint8_t *out, size_t n)
{
    size_t s = (size_t)p->cfg.hc_mult;
    for (size_t i = 0; i < n; i++) {
        uint64_t bits = next(r);
        float x = t4[bits & 0xffff] * item->sigma;
        if (i >= 2 * s)
            x += (i - 2 * s) % (s + 1) == 0 ? 2.f : -1.f;
        else if ((bits >> 32) % 16 == 0)
            x = bits >> 63 ? 12.f : -12.f; /* a sigmoid that is shut or open */
        memcpy(out + 4 * i, &x, 4);
    }
}

static void fill_hash(const struct config *c, uint64_t *r, uint8_t *out, size_t n_rows)
{
    size_t k = (size_t)c->n_experts_per_tok;
    for (size_t row = 0; row < n_rows; row++) {
        int64_t ids[256];
        for (size_t i = 0; i < k; i++) {
            bool fresh = false;
            while (!fresh) {
                ids[i] = (int64_t)(next(r) % (uint64_t)c->n_experts);
                fresh = true;
                for (size_t j = 0; j < i; j++)
                    fresh &= ids[j] != ids[i];
            }
        }
        memcpy(out + row * k * 8, ids, k * 8);
    }
}

void synth_fill(const struct synth_plan *p, const struct synth_tables *t, const struct synth_item *item, uint64_t at,
                size_t n, uint8_t *out)
{
    uint64_t chunk = at / synth_chunk_bytes(item);
    assert(at % synth_chunk_bytes(item) == 0 && n <= synth_chunk_bytes(item));
    uint64_t r = mix64(XXH3_64bits_withSeed(item->name, strlen(item->name), p->seed) + chunk);
    size_t size = (size_t)dtype_bytes(item->dtype), count = n / size;
    int64_t first = (int64_t)(at / size);
    switch (item->kind) {
    case SYNTH_FP4:
        fill_codes(t->fp4, &r, out, n);
        break;
    case SYNTH_FP8:
        fill_codes(t->fp8, &r, out, n);
        break;
    case SYNTH_FP4_SCALE:
        fill_scales(item->sigma, FP4_SPREAD, &r, out, n);
        break;
    case SYNTH_FP8_SCALE:
        fill_scales(item->sigma, FP8_SPREAD, &r, out, n);
        break;
    case SYNTH_BF16:
    case SYNTH_EMBED:
    case SYNTH_ROUTER:
        fill_bf16(t->t4, item->sigma, &r, out, count);
        if (item->kind == SYNTH_EMBED)
            raise_outliers(p, item, first, out, count);
        else if (item->kind == SYNTH_ROUTER)
            heat_rows(p, item, first, out, count);
        break;
    case SYNTH_NORM:
        fill_norm(p, t->t4, item, &r, out, count);
        break;
    case SYNTH_F32:
        fill_f32(t->t4, item->sigma, &r, out, count);
        break;
    case SYNTH_MIX_BASE:
        fill_mix_base(p, t->t4, item, &r, out, count);
        break;
    case SYNTH_HASH:
        fill_hash(&p->cfg, &r, out, count / (size_t)item->cols);
        break;
    }
}
