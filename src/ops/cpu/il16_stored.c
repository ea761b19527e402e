/* Strips of il16 lines made from a matrix as checkpoints store it. Every format keeps four bytes of each row in a line, so
 * the work is one transposition: of 32-bit words, or for FP8 of the 16-bit pairs that its lines are made of. Vectors of
 * 128 bits in the compiler's own notation: the instructions exist at every level. */
#include "ops/cpu/il16.h"

#include <assert.h>
#include <string.h>

#include "num/num.h"
#include "ops/cpu/turn_bytes.h"

typedef uint16_t pairs8 __attribute__((vector_size(16)));
typedef uint32_t words4 __attribute__((vector_size(16)));

#define NO_INLINE __attribute__((noinline))
#define ALWAYS_INLINE static inline __attribute__((always_inline))

enum { UNIT = 16, QUARTER_ROWS = 4, CHUNK = 64, BLOCK_TILES = IL16_BLOCK / IL16_ROWS };

static size_t row_bytes(const struct il16 *m)
{
    static const int bits[] = {[W_F32] = 32, [W_BF16] = 16, [W_FP8] = 8, [W_FP4] = 4};
    return (size_t)m->cols * (size_t)bits[m->format] / 8;
}

static int blocks_of(const struct il16 *m)
{
    return (m->cols + IL16_BLOCK - 1) / IL16_BLOCK;
}

/* A strip is put where its FP8 scale blocks begin: at tile 0, or further on when it reaches into a second block. */
static int first_tile(const struct il16 *m, int tile0, int n_tiles)
{
    return m->format == W_FP8 && tile0 % BLOCK_TILES + n_tiles > BLOCK_TILES ? tile0 % BLOCK_TILES : 0;
}

size_t il16_strip_bytes(const struct il16 *m)
{
    size_t tiles = IL16_STRIP + (m->format == W_FP8 ? BLOCK_TILES - 1 : 0);
    size_t scales = m->format == W_FP4 ? tiles * (size_t)(m->cols / 32) * IL16_ROWS
                                       : 2 * (size_t)blocks_of(m) * sizeof(float);
    return tiles * m->tile_bytes + (scales + 63) / 64 * 64;
}

static inline words4 load(const uint8_t *p)
{
    words4 v;
    memcpy(&v, p, sizeof v);
    return v;
}

/* 16 bytes of four rows become a quarter of four lines: the rows' words 0, 1, 2, 3 (FP8: pairs 0, then 1, of word 0 ...). */
ALWAYS_INLINE void transpose(words4 r0, words4 r1, words4 r2, words4 r3, bool pairs, words4 *line)
{
    if (pairs) {
        pairs8 p0 = (pairs8)r0, p1 = (pairs8)r1, p2 = (pairs8)r2, p3 = (pairs8)r3;
        words4 a = (words4)__builtin_shufflevector(p0, p1, 0, 8, 1, 9, 2, 10, 3, 11);
        words4 b = (words4)__builtin_shufflevector(p2, p3, 0, 8, 1, 9, 2, 10, 3, 11);
        words4 c = (words4)__builtin_shufflevector(p0, p1, 4, 12, 5, 13, 6, 14, 7, 15);
        words4 d = (words4)__builtin_shufflevector(p2, p3, 4, 12, 5, 13, 6, 14, 7, 15);
        line[0] = __builtin_shufflevector(a, b, 0, 4, 1, 5);
        line[1] = __builtin_shufflevector(a, b, 2, 6, 3, 7);
        line[2] = __builtin_shufflevector(c, d, 0, 4, 1, 5);
        line[3] = __builtin_shufflevector(c, d, 2, 6, 3, 7);
    } else {
        halves2 a = (halves2)__builtin_shufflevector(r0, r1, 0, 4, 1, 5);
        halves2 b = (halves2)__builtin_shufflevector(r2, r3, 0, 4, 1, 5);
        halves2 c = (halves2)__builtin_shufflevector(r0, r1, 2, 6, 3, 7);
        halves2 d = (halves2)__builtin_shufflevector(r2, r3, 2, 6, 3, 7);
        line[0] = (words4)__builtin_shufflevector(a, b, 0, 2);
        line[1] = (words4)__builtin_shufflevector(a, b, 1, 3);
        line[2] = (words4)__builtin_shufflevector(c, d, 0, 2);
        line[3] = (words4)__builtin_shufflevector(c, d, 1, 3);
    }
}

/* CHUNK bytes of four rows into a quarter of 16 lines. */
ALWAYS_INLINE void whole_quarter(const uint8_t *in, size_t stride, bool pairs, uint8_t *out)
{
    for (int u = 0; u < CHUNK; u += UNIT, out += (size_t)UNIT / 4 * IL16_LINE) {
        words4 line[4];
        transpose(load(in + u), load(in + stride + u), load(in + 2 * stride + u), load(in + 3 * stride + u), pairs, line);
        for (int i = 0; i < 4; i++)
            memcpy(out + (size_t)i * IL16_LINE, &line[i], sizeof line[i]);
    }
}

/* The same where rows or bytes are missing: what is not there is 0. */
static NO_INLINE void part_quarter(const uint8_t *in, size_t stride, int rows, size_t bytes, int n_lines, bool pairs,
                                   uint8_t *out)
{
    for (int l = 0; l < n_lines; l += UNIT / 4) {
        words4 row[QUARTER_ROWS] = {{0}}, line[4];
        size_t at = (size_t)l * 4, left = at < bytes ? bytes - at : 0;
        for (int r = 0; r < rows && left > 0; r++)
            memcpy(&row[r], in + (size_t)r * stride + at, left < UNIT ? left : UNIT);
        transpose(row[0], row[1], row[2], row[3], pairs, line);
        for (int i = 0; i < 4 && l + i < n_lines; i++)
            memcpy(out + (size_t)(l + i) * IL16_LINE, &line[i], sizeof line[i]);
    }
}

/* out's tile. CHUNK bytes of all rows after the other: rows a power of two apart would drive each other out of the cache. */
ALWAYS_INLINE void gather_tile(const struct il16 *m, int tile, bool pairs, uint8_t *out)
{
    size_t stride = row_bytes(m), lines = m->tile_bytes / IL16_LINE;
    const uint8_t *in = m->stored + (size_t)tile * IL16_ROWS * stride;
    int rows = m->rows - tile * IL16_ROWS < IL16_ROWS ? m->rows - tile * IL16_ROWS : IL16_ROWS;
    for (size_t at = 0; at < lines * 4; at += CHUNK) {
        size_t bytes = at >= stride ? 0 : stride - at < CHUNK ? stride - at : CHUNK;
        int n_lines = lines - at / 4 < CHUNK / 4 ? (int)(lines - at / 4) : CHUNK / 4;
        for (int q = 0; q < IL16_ROWS; q += QUARTER_ROWS) {
            int left = rows - q < 0 ? 0 : rows - q < QUARTER_ROWS ? rows - q : QUARTER_ROWS;
            const uint8_t *from = in + (size_t)(left > 0 ? q : 0) * stride + at;
            uint8_t *to = out + at / 4 * IL16_LINE + (size_t)q * 4;
            if (bytes == CHUNK && left == QUARTER_ROWS)
                whole_quarter(from, stride, pairs, to);
            else
                part_quarter(from, stride, left, bytes, n_lines, pairs, to);
        }
    }
}

static void gather_fp4_scales(const struct il16 *m, int tile, int groups, uint8_t *out)
{
    int b = 0, rows = m->rows - tile * IL16_ROWS;
    const uint8_t *in = (const uint8_t *)m->stored_scale + (size_t)tile * IL16_ROWS * (size_t)groups;
    for (; rows >= IL16_ROWS && b + 16 <= groups; b += 16)
        turn_bytes(in + b, (size_t)groups, out + (size_t)b * IL16_ROWS);
    for (; b < groups; b++)
        for (int r = 0; r < IL16_ROWS; r++) /* padding rows: any finite scale */
            out[(size_t)b * IL16_ROWS + (size_t)r] = r < rows ? in[(size_t)r * (size_t)groups + (size_t)b] : 127;
}

static void gather_fp8_scales(const struct il16 *m, int block_row, int n_rows, float *out)
{
    const uint8_t *bytes = m->stored_scale;
    const float *floats = m->stored_scale;
    size_t n = (size_t)blocks_of(m), at = (size_t)block_row * n;
    for (size_t end = at + (size_t)n_rows * n; at < end; at++)
        *out++ = m->scale_f32 ? floats[at] : f32_from_e8m0(bytes[at]);
}

static void gather_scales(const struct il16 *m, struct il16 *out, int tile0, int first, uint8_t *mem)
{
    if (m->format == W_FP4) {
        int groups = m->cols / 32;
        out->scale8 = mem;
        for (int t = first; t < out->n_tiles; t++, mem += (size_t)groups * IL16_ROWS)
            gather_fp4_scales(m, tile0 + t - first, groups, mem);
    } else if (m->format == W_FP8) {
        out->scale = (const float *)(const void *)mem;
        gather_fp8_scales(m, (tile0 - first) / BLOCK_TILES, first > 0 ? 2 : 1, (float *)(void *)mem);
    }
}

int il16_whole_tiles(const struct il16 *m, int tile0, int n_tiles)
{
    int whole = m->rows / IL16_ROWS - tile0;
    return row_bytes(m) % IL16_LINE != 0 ? 0 : whole < n_tiles ? whole : n_tiles;
}

void il16_fetch(const struct il16 *m, int tile)
{
    size_t bytes = row_bytes(m) * IL16_ROWS;
    uintptr_t p = (uintptr_t)m->stored + (size_t)tile * bytes;
    for (size_t i = 0; i < bytes; i += IL16_LINE)
        __builtin_prefetch((const void *)(p + i), 0, 2);
}

int il16_strip(const struct il16 *m, int tile0, int n_tiles, void *mem, struct il16 *out)
{
    assert(m->stored != NULL && n_tiles <= IL16_STRIP);
    int first = first_tile(m, tile0, n_tiles), end = first + n_tiles, rows = m->rows - (tile0 - first) * IL16_ROWS;
    *out = *m;
    out->stored = NULL;
    out->data = mem;
    out->n_tiles = end;
    out->rows = rows < end * IL16_ROWS ? rows : end * IL16_ROWS;
    uint8_t *lines = (uint8_t *)mem + (size_t)first * m->tile_bytes;
    for (int t = 0; t < n_tiles; t++) {
        if (m->format == W_FP8)
            gather_tile(m, tile0 + t, true, lines + (size_t)t * m->tile_bytes);
        else
            gather_tile(m, tile0 + t, false, lines + (size_t)t * m->tile_bytes);
    }
    gather_scales(m, out, tile0, first, (uint8_t *)mem + (size_t)end * m->tile_bytes);
    return first;
}
