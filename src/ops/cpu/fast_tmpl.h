/* Body of kern_fast_<isa>.c: the fast kernels over vectors of LANES fp32 values, 16/LANES vectors a line.
 *
 * The including file defines LANES; X_TILE, D_TILE and INT8_TILE (activation rows held in registers by the value, digit and
 * int8 kernels; the last at most X_TILE); FEW_ROWS (FP8 and BF16 lines are decoded into registers anew for every tile of up
 * to so many rows; with more, once into panels); FEW_TILES(f, m) (weight tiles at once with m rows); GROUP_UNROLL (of the
 * tiles of an FP4 group with one row), REST_INLINE; the types vf (fp32 lanes), vi (the same bits as bytes, words or double
 * words) and the vf_ and vi_ functions used here. Loops over accumulators have constant bounds and are unrolled, so
 * accumulators live in registers.
 *
 * A step multiplies one column, or with PAIRS (vf_dot_pairs: bf16 dot products) two columns of FP8 and BF16 weights.
 * FP8 without PAIRS: the bits of an e4m3 code moved under the exponent of an fp32 are its value times 2^-120 (an fp32
 * subnormal for an e4m3 subnormal, which fused multiply-adds take); fast_pack.h puts the 2^120 into the activations.
 * FP4: codes become 2 e2m1 + 12 = 0..24 by a byte shuffle; byte products with a digit are summed in 16 bits or at once in
 * 32 (vi_digit_add, vi_digit_join). The 16 bits begin at -12 times the digits' sum and may wrap on the way: the end is a
 * sum of 16 products of 12 * 128, below 2^15.
 */
#include "ops/cpu/fast_decl.h"
#include "ops/cpu/fast_pack.h"
#include "ops/cpu/turn_bytes.h"

#ifndef UNROLL /* the tests' emulation of AVX-512 compiles faster without */
#define UNROLL _Pragma("GCC unroll 32")
#endif
#define UNROLL_2 _Pragma("GCC unroll 2")
#define UNROLL_4 _Pragma("GCC unroll 4")
#define NO_UNROLL _Pragma("GCC unroll 1")
#define KEEP(v) __asm__ volatile("" : : "m"(v))
#define ALWAYS_INLINE static inline __attribute__((always_inline))

enum { HALVES = 16 / LANES, HALF_BYTES = 4 * LANES };
_Static_assert(X_TILE <= PACK_TILE_MAX && D_TILE <= PACK_TILE_MAX && INT8_TILE <= X_TILE, "a tile is packed at once");

#include "ops/cpu/fast_value_tmpl.h"
#include "ops/cpu/fast_many_tmpl.h"
#include "ops/cpu/fast_few_tmpl.h"
#include "ops/cpu/fast_words_tmpl.h"
#include "ops/cpu/fast_fp4_tmpl.h"
#include "ops/cpu/fast_int8_tmpl.h"
#include "ops/cpu/fast_index_tmpl.h"
#include "ops/cpu/fast_stored_tmpl.h"
#include "ops/cpu/fast_rows_tmpl.h"
#include "ops/cpu/fast_peak_tmpl.h"

const struct fast_kern KERN_NAME = {
    .name = KERN_TEXT, .tile = {X_TILE, X_TILE, X_TILE, X_TILE, D_TILE, INT8_TILE}, .x_bytes = X_BYTES, .pack = pack_rows,
    .pack_query = pack_query, .index_keys = INDEX_KEYS, .index_scores = index_scores,
    .fp4 = fp4_matmul, .fp4_int8 = int8_matmul, .fp8 = fp8_matmul, .bf16 = bf16_matmul, .f32 = f32_matmul,
    .fp4_stored = fp4_stored, .int8_stored = int8_stored, .fp8_stored = fp8_stored, .bf16_stored = bf16_stored,
    .f32_stored = f32_stored,
    .burn = burn, .burn_bytes = burn_bytes, .read = read_all,
};
