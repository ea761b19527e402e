/* Packing into the interleaved layout of il16.h. */
#include "ops/cpu/il16.h"

#include <assert.h>
#include <string.h>

#include "num/num.h"

static int round_up(int n, int to)
{
    return (n + to - 1) / to * to;
}

static int line_cols(enum wformat f)
{
    return f == W_FP4 ? 8 : f == W_FP8 ? 4 : f == W_BF16 ? 2 : 1;
}

static int scale_blocks(int n)
{
    return round_up(n, IL16_BLOCK) / IL16_BLOCK;
}

/* Shape of the packed form; pointers are left to the caller. */
static struct il16 shape_of(const struct wmat *w)
{
    struct il16 m = {.format = w->format, .rows = w->rows, .cols = w->cols};
    m.n_tiles = round_up(w->rows, IL16_ROWS) / IL16_ROWS;
    m.cols_padded = round_up(w->cols, w->format == W_FP4 ? 32 : 8);
    m.tile_bytes = (size_t)(m.cols_padded / line_cols(w->format)) * IL16_LINE;
    return m;
}

static size_t scale_bytes(const struct il16 *m)
{
    size_t n = 0;
    if (m->format == W_FP4)
        n = (size_t)m->n_tiles * (size_t)(m->cols_padded / 32) * IL16_ROWS;
    else if (m->format == W_FP8)
        n = (size_t)scale_blocks(m->rows) * (size_t)scale_blocks(m->cols) * sizeof(float);
    return (n + 63) / 64 * 64;
}

bool il16_shape_fits(const struct wmat *w)
{
    return w->format != W_F16 && (w->format != W_FP4 || (!w->scale_f32 && w->cols % 32 == 0));
}

bool il16_fits(const struct wmat *w)
{
    return il16_shape_fits(w) && (w->format != W_FP4 ||
                                  memchr(w->scale, 0, (size_t)w->rows * (size_t)(w->cols / 32)) == NULL);
}

size_t il16_bytes(const struct wmat *w)
{
    struct il16 m = shape_of(w);
    return (size_t)m.n_tiles * m.tile_bytes + scale_bytes(&m);
}

/* One row's FP4 codes [cols/2 bytes] into word `lane` of the tile's lines. */
static void pack_fp4_row(uint8_t *tile, int lane, const uint8_t *codes, int cols)
{
    for (int k = 0; k < cols; k += 8) {
        uint32_t word = 0;
        for (int s = 0; s < 4; s++) {
            uint32_t pair = codes[k / 2 + s];
            word |= (pair & 15) << 4 * s | (pair >> 4) << (16 + 4 * s);
        }
        memcpy(tile + (size_t)(k / 8) * IL16_LINE + (size_t)lane * 4, &word, 4);
    }
}

static size_t fp8_place(int lane, int k)
{
    int j = k % 4;
    return (size_t)(k / 4) * IL16_LINE + (size_t)(16 * (lane / 4) + 8 * (j / 2) + 2 * (lane % 4) + j % 2);
}

/* Four rows at once, so that every line is written once: a quarter line is bytes (k0,k1) of the rows, then (k2,k3). */
static void pack_fp8_rows(uint8_t *tile, int lane, const uint8_t *codes, size_t stride, int rows, int cols)
{
    for (int k = 0; k < cols; k += 4) {
        int n = cols - k < 4 ? cols - k : 4;
        for (int r = 0; r < rows; r++)
            for (int j = 0; j < n; j++)
                tile[fp8_place(lane + r, k + j)] = codes[(size_t)r * stride + (size_t)(k + j)];
    }
}

static void pack_bf16_row(uint8_t *tile, int lane, const uint8_t *row, int cols)
{
    for (int k = 0; k < cols; k++)
        memcpy(tile + (size_t)(k / 2) * IL16_LINE + (size_t)(4 * lane + 2 * (k % 2)), row + (size_t)k * 2, 2);
}

static void pack_f32_row(uint8_t *tile, int lane, const uint8_t *row, int cols)
{
    for (int k = 0; k < cols; k++)
        memcpy(tile + (size_t)k * IL16_LINE + (size_t)lane * 4, row + (size_t)k * 4, 4);
}

void il16_pack_tile(const struct il16 *m, const struct wmat *w, int tile_number)
{
    uint8_t *tile = (uint8_t *)(uintptr_t)m->data + (size_t)tile_number * m->tile_bytes;
    const uint8_t *data = w->data;
    size_t cols = (size_t)w->cols;
    int row0 = tile_number * IL16_ROWS, n = w->rows - row0 < IL16_ROWS ? w->rows - row0 : IL16_ROWS;
    memset(tile, 0, m->tile_bytes);
    for (int r = 0; r < n; r++) {
        size_t row = (size_t)(row0 + r);
        switch (w->format) {
        case W_FP4: pack_fp4_row(tile, r, data + row * (cols / 2), w->cols); break;
        case W_BF16: pack_bf16_row(tile, r, data + row * cols * 2, w->cols); break;
        case W_F32: pack_f32_row(tile, r, data + row * cols * 4, w->cols); break;
        case W_FP8:
            if (r % 4 == 0)
                pack_fp8_rows(tile, r, data + row * cols, cols, n - r < 4 ? n - r : 4, w->cols);
            break;
        case W_F16: break; /* il16_fits refuses it */
        }
    }
}

static void pack_fp4_scales(uint8_t *out, const struct il16 *m, const uint8_t *scale)
{
    int blocks = m->cols / 32;
    for (int row = 0; row < m->rows; row++)
        for (int b = 0; b < blocks; b++)
            out[((size_t)(row / IL16_ROWS) * (size_t)blocks + (size_t)b) * IL16_ROWS + (size_t)(row % IL16_ROWS)] =
                scale[(size_t)row * (size_t)blocks + (size_t)b];
}

static void pack_fp8_scales(float *out, const struct il16 *m, const struct wmat *w)
{
    size_t n = (size_t)scale_blocks(m->rows) * (size_t)scale_blocks(m->cols);
    for (size_t i = 0; i < n; i++)
        out[i] = w->scale_f32 ? ((const float *)w->scale)[i] : f32_from_e8m0(((const uint8_t *)w->scale)[i]);
}

void il16_view(struct il16 *out, const struct wmat *w, const void *mem)
{
    *out = shape_of(w);
    const uint8_t *scale = (const uint8_t *)mem + (size_t)out->n_tiles * out->tile_bytes;
    out->data = mem;
    if (w->format == W_FP4)
        out->scale8 = scale;
    else if (w->format == W_FP8)
        out->scale = (const float *)(const void *)scale;
}

void il16_describe(struct il16 *out, const struct wmat *w)
{
    assert(il16_fits(w));
    *out = shape_of(w);
    out->in_order = true;
    out->scale_f32 = w->scale_f32;
    out->stored = w->data;
    out->stored_scale = w->scale;
}

void il16_begin(struct il16 *out, const struct wmat *w, void *mem)
{
    assert(il16_fits(w));
    il16_view(out, w, mem);
    uint8_t *scale = (uint8_t *)mem + (size_t)out->n_tiles * out->tile_bytes;
    memset(scale, w->format == W_FP4 ? 127 : 0, scale_bytes(out)); /* padding rows: any finite scale */
    if (w->format == W_FP4)
        pack_fp4_scales(scale, out, w->scale);
    else if (w->format == W_FP8)
        pack_fp8_scales((float *)(void *)scale, out, w);
}

void il16_pack(struct il16 *out, const struct wmat *w, void *mem)
{
    il16_begin(out, w, mem);
    for (int t = 0; t < out->n_tiles; t++)
        il16_pack_tile(out, w, t);
}

float il16_get(const struct il16 *m, int row, int col)
{
    const uint8_t *tile = m->data + (size_t)(row / IL16_ROWS) * m->tile_bytes;
    int lane = row % IL16_ROWS;
    const uint8_t *line = tile + (size_t)(col / line_cols(m->format)) * IL16_LINE;
    uint32_t word;
    memcpy(&word, line + (size_t)lane * 4, 4);
    switch (m->format) {
    case W_FP4: {
        size_t block = (size_t)(row / IL16_ROWS) * (size_t)(m->cols_padded / 32) + (size_t)(col / 32);
        return e2m1_table[word >> il16_fp4_shift(m, col) & 15] * f32_from_e8m0(m->scale8[block * IL16_ROWS + (size_t)lane]);
    }
    case W_FP8: {
        int scale_cols = scale_blocks(m->cols);
        return e4m3_table[tile[fp8_place(lane, col)]] *
               m->scale[(size_t)(row / IL16_BLOCK) * (size_t)scale_cols + (size_t)(col / IL16_BLOCK)];
    }
    case W_BF16:
        return f32_from_bf16((uint16_t)(col % 2 != 0 ? word >> 16 : word & 0xffff));
    default:
        return f32_from_bits(word);
    }
}
