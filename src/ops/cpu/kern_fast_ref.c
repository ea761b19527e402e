/* The fast path's definition in scalar C: one output at a time, with the fused multiply-adds that fast_kern.h names. */
#include <math.h>

#include "ops/cpu/fast_decl.h"
#include "ops/cpu/fast_pack.h"

enum { TILE = 4 };

/* Prepared activation of row i, column k (fp32 kinds). */
static float x_at(const struct fast_x *x, int i, int k)
{
    int t = i / x->tile, left = x->n - t * x->tile, m = left < x->tile ? left : x->tile;
    size_t at = (size_t)t * (size_t)x->tile * (size_t)x->cols_padded + (size_t)k * (size_t)m + (size_t)(i % x->tile);
    return ((const float *)x->data)[at];
}

static const struct fast_group *group_of(const struct fast_x *x, int i, int k)
{
    return &x->group[(size_t)i * (size_t)(x->cols_padded / 32) + (size_t)(k / 32)];
}

/* Activation of row i, column k in units of its group's scale. */
static int32_t digit_sum(const struct fast_x *x, int i, int k)
{
    const struct fast_group *g = group_of(x, i, k);
    int bytes = x->kind == FX_INT8 ? 8 : 16; /* of eight columns of a row: one digit or two */
    int t = i / x->tile, left = x->n - t * x->tile, m = left < x->tile ? left : x->tile, j = k % 8;
    size_t at = (size_t)t * (size_t)x->tile * (size_t)(x->cols_padded / 8) + (size_t)(k / 8) * (size_t)m;
    const int8_t *word = (const int8_t *)x->data + (at + (size_t)(i % x->tile)) * (size_t)bytes;
    int place = x->in_order ? 4 * (j % 2) + j / 2 : 4 * (j % 4 / 2) + 2 * (j % 2) + j / 4;
    if (x->kind == FX_INT8)
        return word[place];
    int v = word[place] + 256 * word[8 + place];
    const int8_t *rest = (const int8_t *)(x->rest + ((size_t)i * (size_t)(x->cols_padded / 8) + (size_t)(k / 8)) * 2);
    return g->shift == 0 ? v : v * (1 << g->shift) + rest[place];
}

/* Weight as stored, without its block scale: FP8 codes times 2^-120. */
static float stored_at(const struct il16 *w, int row, int k)
{
    const uint8_t *tile = w->data + (size_t)(row / 16) * w->tile_bytes;
    int lane = row % 16, j = k % 4;
    if (w->format == W_FP8) {
        const uint8_t *line = tile + (size_t)(k / 4) * IL16_LINE;
        return e4m3_table[line[16 * (lane / 4) + 8 * (j / 2) + 2 * (lane % 4) + j % 2]] * 0x1p-120f;
    }
    return il16_get(w, row, k);
}

static void one_f32(const struct il16 *w, int row, const struct fast_x *x, int i, float *y)
{
    *y = 0;
    for (int b = 0; b < x->n_blocks; b++) {
        int end = (b + 1) * IL16_BLOCK < w->cols ? (b + 1) * IL16_BLOCK : w->cols;
        float dot = 0, scale = 1;
        for (int k = b * IL16_BLOCK; k < end; k++)
            dot = fmaf(row < w->rows ? stored_at(w, row, k) : 0, x_at(x, i, k), dot);
        if (w->format == W_FP8 && row < w->rows)
            scale = w->scale[(size_t)(row / IL16_BLOCK) * (size_t)x->n_blocks + (size_t)b] *
                    x->scale[(size_t)i * (size_t)x->n_blocks + (size_t)b];
        *y = fmaf(scale, dot, *y);
    }
}

static void one_fp4(const struct il16 *w, int row, const struct fast_x *x, int i, float *y)
{
    *y = 0;
    for (int b = 0; b < w->cols / 32; b++) {
        size_t at = ((size_t)(row / 16) * (size_t)(w->cols / 32) + (size_t)b) * 16 + (size_t)(row % 16);
        const uint8_t *tile = w->data + (size_t)(row / 16) * w->tile_bytes;
        int32_t dot = 0;
        for (int k = b * 32; k < b * 32 + 32; k++) {
            uint32_t word;
            memcpy(&word, tile + (size_t)(k / 8) * IL16_LINE + (size_t)(row % 16) * 4, 4);
            int code = (int)(word >> il16_fp4_shift(w, k) & 15);
            dot += (int32_t)(2 * e2m1_table[code]) * digit_sum(x, i, k);
        }
        float scale = f32_from_e8m0(w->scale8[at]) * group_of(x, i, 32 * b)->scale;
        *y = fmaf(scale, (float)dot, *y);
    }
}

static void matmul(const struct il16 *w, int tile0, int n_tiles, const struct fast_x *x, float *y, size_t ldy)
{
    for (int i = 0; i < x->n; i++)
        for (int j = 0; j < n_tiles * 16; j++) {
            float *out = &y[(size_t)i * ldy + (size_t)j];
            if (w->format == W_FP4)
                one_fp4(w, tile0 * 16 + j, x, i, out);
            else
                one_f32(w, tile0 * 16 + j, x, i, out);
        }
}

/* One key, integers throughout. */
static enum index_way index_scores(const struct fast_query *q, const uint8_t *key, size_t stride, float *score)
{
    int lowest, distance[32];
    (void)stride;
    if (q->dim > 256 || !key_exponents(key, q->dim, &lowest, distance))
        return INDEX_REFUSED;
    float sum = 0;
    for (int h = 0; h < q->heads; h++) {
        int64_t dot = 0;
        for (int k = 0; k < q->dim; k++) {
            int code = key[k / 2] >> 4 * (k % 2) & 15;
            int8_t v = ((const int8_t *)&q->words[(k / 8 * q->heads + h) * 2 + k % 2])[k % 8 / 2];
            dot += (int64_t)(2 * e2m1_table[code]) * v * ((int64_t)1 << distance[k / 32]);
        }
        sum = fmaf((float)(dot > 0 ? dot : 0), q->weight[h], sum);
    }
    *score = sum * f32_from_e8m0((uint8_t)lowest);
    return INDEX_BLOCKS;
}

static double burn(int turns)
{
    float v = 1;
    for (int i = 0; i < turns; i++)
        v = fmaf(v, 0.5f, 0.5f);
    __asm__ volatile("" : : "m"(v));
    return 2.0 * turns;
}

static void read_all(const void *p, size_t bytes)
{
    const uint8_t *at = p;
    uint64_t sum = 0;
    for (size_t i = 0; i + 8 <= bytes; i += 8) {
        uint64_t v;
        memcpy(&v, at + i, 8);
        sum += v;
    }
    __asm__ volatile("" : : "m"(sum));
}

const struct fast_kern fast_kern_ref = {
    .name = "reference", .tile = {TILE, TILE, TILE, TILE, TILE, TILE}, .x_bytes = X_BYTES, .pack = pack_rows,
    .pack_query = pack_query, .index_keys = 1, .index_scores = index_scores,
    .fp4 = matmul, .fp4_int8 = matmul, .fp8 = matmul, .bf16 = matmul, .f32 = matmul,
    .burn = burn, .burn_bytes = burn, .read = read_all,
};
