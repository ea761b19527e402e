/* Micro-kernels of the fast path (NUM_FAST, NUM_INT8): matrices in the il16 layout times activations, one table a level.
 *
 * The result is defined here, not by a level: for every output
 *
 *     y = 0; for each block b of columns in ascending order:  y = fma(scale_b, dot_b, y)
 *
 * FP8, BF16, F32: a block is 128 columns and dot_b an fp32 chain of fused multiply-adds in ascending column order.
 * FP4: a block is 32 columns and dot_b the exact integer sum of (2 e2m1) x (512 e4m3), rounded once to fp32.
 * FP4 in numerics int8: a block is 32 columns and dot_b the exact integer sum of (2 e2m1) x (int8 code).
 * scale_b is the weight scale times the activation scale. So every level but the bf16 dot-product ones gives the same
 * bits, and a row's result does not depend on the other rows, on the tile it falls in, or on threads. A bf16 level sums
 * dot_b in pairs, in the same order for any number of rows.
 */
#ifndef HADAL_OPS_CPU_FAST_KERN_H
#define HADAL_OPS_CPU_FAST_KERN_H

#include "ops/cpu/il16.h"

/* How activations are prepared for a weight format. */
enum fast_x_kind {
    FX_PLAIN,  /* F32 weights: fp32 as given */
    FX_BF16,   /* BF16 weights: values that bf16 holds */
    FX_CODES,  /* FP8 weights: e4m3 codes of blocks of 128 (act_quant), times 2^118 in the fp32 levels */
    FX_SCALED, /* FP8 weights without activation quantisation: bf16 values, scaled in blocks in the fp32 levels */
    FX_DIGITS, /* FP4 weights: e4m3 codes times 512 as two signed bytes, and a rest where they do not suffice */
    FX_INT8,   /* FP4 weights in numerics int8: codes of int8_quant in blocks of 32 columns, a signed byte each */
    FX_KINDS,
};

/* FX_DIGITS, 32 columns of one row: an e4m3 code times 512 is an integer v of 18 bits and a sign, but rarely are its
 * lowest bits in use where its highest are. v = 2^s (d0 + 256 d1) + rest, s (0..3) the smallest that lets d0 and d1 be
 * signed bytes; rest is 0..7. When no column has one, 2^s goes into the scale and shift is 0, else shift is s. Weight codes
 * are stored with offset 12, so sums begin at start: -12 times the sum of d0, d1 or rest, as the level adds. */
struct fast_group {
    float scale; /* of the block of 128; FX_INT8: half of that of the 32 columns, whose only digit is the code */
    int32_t start[3];
    int32_t shift;
};

/* Rows are grouped in tiles of `tile` rows, as few tiles as the level's most by kind allows; the last one is narrower,
 * m = what is left. */
struct fast_x {
    enum fast_x_kind kind;
    int n, cols, cols_padded, n_blocks; /* n_blocks of 128 columns */
    int tile;
    bool in_order; /* for weights that are: the digit words are of columns 0,2,4,6 and 1,3,5,7; set before packing */
    /* fp32: [tiles][cols_padded][m]. FX_DIGITS: 32-bit words [tiles][cols_padded/8][m][d0, d1][2]: of columns
     * 0,4,1,5 and 2,6,3,7 of the eight. FX_INT8: the same [tiles][cols_padded/8][m][2]. The bf16 level:
     * bf16 pairs [tiles][cols_padded/2][m]. */
    void *data;
    float *scale; /* [n][n_blocks] of the block; unused in FX_PLAIN, FX_BF16, FX_DIGITS and FX_INT8 */
    struct fast_group *group; /* FX_DIGITS, FX_INT8 [n][cols_padded/32] */
    int32_t *rest;            /* FX_DIGITS [n][cols_padded/8][2], set where the group has a shift */
    int next_strip; /* tiles from a strip to the one that the same thread likely takes next; only speed depends on it */
};

/* y[i*ldy + j] for every row i of x and the 16 n_tiles matrix rows j of a strip of 1..FAST_STRIP tiles from tile0 on,
 * padding rows too. */
typedef void fast_matmul_fn(const struct il16 *w, int tile0, int n_tiles, const struct fast_x *x, float *y, size_t ldy);

/* The same for one row and whole tiles (no padding rows) of a matrix as stored whose rows are a multiple of IL16_LINE bytes
 * long: the same bits. mem (il16_strip_bytes, 64-byte aligned) is the kernel's. */
typedef void fast_stored_fn(const struct il16 *w, int tile0, int n_tiles, const struct fast_x *x, void *mem, float *y);

enum { FAST_STRIP = IL16_STRIP };

/* The indexer's query heads in the integers of its FP4 values, for index rows as stored (KV_FP8): with a head's block
 * exponents within 3 of each other its values 2 e2m1 2^(e - lowest e) fit a signed byte. Key codes enter as 2 e2m1 + 12,
 * so a block starts at minus 12 times its sum. The score of a key is
 *
 *     2^(lowest key exponent) sum_h weight_h relu(D_h),  D_h = sum_b 2^(key exponent_b - lowest) (exact block dot)
 *
 * heads in ascending order by fused multiply-adds: the same bits at every level.
 *
 * Keys whose exponents are near each other take a short cut to the same integers: codes 2^distance 2 e2m1 + INDEX_OFFSET,
 * which still are bytes, and one sum over all blocks. In 16 bits its end must fit: a head's values in the low (or high)
 * halves of its words, magnitudes summed, times 12 2^distance stay below 2^15. */
enum { INDEX_NEAR_MAX = 2, INDEX_OFFSET = 12 << INDEX_NEAR_MAX };
struct fast_query {
    int heads, dim;
    int32_t *words;   /* [dim/8][heads][2]: of columns 0,2,4,6 and 1,3,5,7 of the eight */
    int32_t *start;   /* [dim/32][heads]: two 16-bit parts or one 32-bit sum, as the level adds */
    int32_t *near_start; /* [heads]: of the sum over all blocks */
    float *weight;    /* [heads]: the head's weight times 2^(lowest e) / 4 */
    int near;         /* keys with distances up to this take the short cut; -1: none */
};
enum { FAST_KEY_SPREAD = 12 /* largest difference of a key's block exponents that stays exact in 32 bits */ };
/* How a group of keys was scored; only speed depends on it, and tests look. */
enum index_way { INDEX_REFUSED, INDEX_BLOCKS, INDEX_NEAR };

struct fast_kern {
    const char *name;
    int tile[FX_KINDS];    /* activation rows in a tile at most, by fast_x_kind */
    int x_bytes[FX_KINDS]; /* of a column in fast_x.data */
    /* Quantises, scales or copies the rows of one row tile into out (whose memory and sizes fast_x_init set). Row i is the
     * row-major x's row i, or index[i] where there is an index. Rows are independent, tiles may be packed at once. */
    void (*pack)(struct fast_x *out, const float *x, size_t ldx, const int32_t *index, int tile);
    fast_matmul_fn *fp4, *fp8, *bf16, *f32;
    fast_matmul_fn *fp4_int8; /* FP4 weights, FX_INT8 */
    /* Query heads [heads][dim] of FP4 values and their weights into q, whose arrays the caller placed. False: a head's
     * exponents are too far apart, q is unusable. dim is a multiple of 32. */
    bool (*pack_query)(struct fast_query *q, const float *values, const float *weights);
    /* Scores of index_keys stored index rows, `stride` bytes apart. Refused: a key's exponents are too far apart, there is
     * no score. */
    int index_keys;
    enum index_way (*index_scores)(const struct fast_query *q, const uint8_t *keys, size_t stride, float *score);
    fast_stored_fn *fp4_stored, *fp8_stored, *bf16_stored, *f32_stored, *int8_stored;
    /* Runs `turns` rounds of independent fused multiply-adds in registers; returns how many FLOPs that were. */
    double (*burn)(int turns);
    /* The same for the byte products of the level. */
    double (*burn_bytes)(int turns);
    /* Reads the bytes once (64-byte aligned, a multiple of 256). */
    void (*read)(const void *p, size_t bytes);
};

/* The best table of a level on this machine. */
const struct fast_kern *fast_kern_for(enum cpu_isa isa);

/* Shapes `x` for n rows of `cols` columns and places it in mem (64-byte aligned, fast_x_bytes long). */
size_t fast_x_bytes(const struct fast_kern *k, enum fast_x_kind kind, int n, int cols);
void fast_x_init(struct fast_x *x, const struct fast_kern *k, enum fast_x_kind kind, int n, int cols, void *mem);
/* How many row tiles there are to pack. */
int fast_x_tiles(const struct fast_x *x);
/* The kind of activations that weights of a format take, and the product of both. */
enum fast_x_kind fast_x_kind_of(enum numerics n, enum wformat f, bool no_act_quant);
fast_matmul_fn *fast_matmul_of(const struct fast_kern *k, enum wformat f, enum fast_x_kind kind);

#endif
