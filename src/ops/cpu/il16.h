/* il16: the weight layout of the fast CPU kernels - 16 output rows interleaved in every 64-byte line.
 *
 * Idea: a matrix [rows, cols] is cut into tiles of 16 rows. A tile is one sequential stream of lines; a line holds the same
 * few input columns of all 16 rows, so that a vector lane is a row: no horizontal sums, block scales are one load for 16
 * rows, and activations enter as broadcasts. One layout serves batch 1 and large batches on every instruction set.
 *
 *   format  columns a line   place of row r, column k inside its line (r = 0..15, j = k modulo columns a line)
 *   FP4     8                32-bit word r: nibble j/2 (bits 4(j/2)..) of its low half (even j) or its high half (odd j)
 *   FP8     4                byte 16(r/4) + 8(j/2) + 2(r%4) + j%2: unpacking the low and the high 8 bytes of a 128-bit
 *                            quarter with another vector gives (k0,k1) and (k2,k3) pairs of its four rows
 *   BF16    2                32-bit word r: low half even column, high half odd column
 *   F32     1                32-bit word r
 *
 * Rows are padded to 16 and columns to 8 (FP4: 32) with zeros. FP4 scales: e8m0 bytes [tile][cols/32][16]; FP8 scales: fp32
 * [rows/128][cols/128], as in the checkpoint but widened.
 */
#ifndef HADAL_OPS_CPU_IL16_H
#define HADAL_OPS_CPU_IL16_H

#include "ops/ops.h"

enum { IL16_ROWS = 16, IL16_LINE = 64, IL16_BLOCK = 128 /* columns of an FP8 scale block */, IL16_STRIP = 4 };

struct il16 {
    enum wformat format;
    int rows, cols;         /* of the matrix */
    int n_tiles;            /* rows / 16, rounded up */
    int cols_padded;
    size_t tile_bytes;
    const uint8_t *data;    /* [n_tiles][tile_bytes], 64-byte aligned */
    const uint8_t *scale8;  /* FP4 [n_tiles][cols_padded/32][16] */
    const float *scale;     /* FP8 [rows/128][cols/128], rounded up */
    /* A matrix that stays as the checkpoint stores it has no lines (data is NULL); il16_strip makes some when they are
     * needed. Its FP4 words are the stored bytes: nibble k of word r is column k of the line. */
    bool in_order;
    bool scale_f32;
    const uint8_t *stored;
    const void *stored_scale;
};

/* Place of column k in the FP4 word of its line, in bits. */
static inline int il16_fp4_shift(const struct il16 *m, int k)
{
    return m->in_order ? 4 * (k % 8) : 4 * (k % 8 / 2) + 16 * (k % 2);
}

/* Of the layout above: files hold packed matrices, and must be made anew when a byte of it moves. */
enum { IL16_VERSION = 1 };

/* Whether the layout can hold the matrix exactly: not F16, and FP4 only with e8m0 scales none of which is 0 (2^-127). */
bool il16_fits(const struct wmat *w);
bool il16_shape_fits(const struct wmat *w); /* the part of it that reads no scale */
/* Bytes of memory that il16_pack needs for it (a multiple of 64). */
size_t il16_bytes(const struct wmat *w);
/* Packs `w` into mem (64-byte aligned, il16_bytes long; owned by the caller) and describes the result in out. */
void il16_pack(struct il16 *out, const struct wmat *w, void *mem);
/* The same in parts, for several threads: everything but the tiles, then each tile once, in any order. */
void il16_begin(struct il16 *out, const struct wmat *w, void *mem);
void il16_pack_tile(const struct il16 *m, const struct wmat *w, int tile);
/* Describes what il16_pack of a matrix of this shape and format once left in mem; reads no value. */
void il16_view(struct il16 *out, const struct wmat *w, const void *mem);
/* Describes a matrix that fits as one without lines; w's values stay the caller's. */
void il16_describe(struct il16 *out, const struct wmat *w);
/* Asks for a tile of such a matrix ahead of its use. */
void il16_fetch(const struct il16 *m, int tile);
/* How many of its n_tiles tiles from tile0 on have no padding row; 0 when rows are not a multiple of IL16_LINE bytes. */
int il16_whole_tiles(const struct il16 *m, int tile0, int n_tiles);
/* Tiles tile0 .. tile0 + n_tiles - 1 (at most IL16_STRIP) of such a matrix as lines in mem (64-byte aligned,
 * il16_strip_bytes long), described in out; returns which tile of `out` is the first of them. */
size_t il16_strip_bytes(const struct il16 *m);
int il16_strip(const struct il16 *m, int tile0, int n_tiles, void *mem, struct il16 *out);
/* The value at (row, col) of the packed matrix, scale included: the scalar truth of the layout. */
float il16_get(const struct il16 *m, int row, int col);

#endif
