/* Body of kern_fast_<isa>.c: the fast kernels over vectors of LANES fp32 values, 16/LANES vectors a line.
 *
 * The including file defines LANES, X_TILE and D_TILE (activation rows held in registers by the value and the digit
 * kernels), FEW_TILES(m) (weight tiles whose sums with m rows fill the registers), the types vf (fp32 lanes), vi (the
 * same bits as bytes, words or double words) and the vf_ and vi_ functions used here. Loops over accumulators have
 * constant bounds and are unrolled, so accumulators live in registers.
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

#ifndef UNROLL /* the tests' emulation of AVX-512 compiles faster without */
#define UNROLL _Pragma("GCC unroll 32")
#endif
#define UNROLL_2 _Pragma("GCC unroll 2")
#define NO_UNROLL _Pragma("GCC unroll 1")
#define KEEP(v) __asm__ volatile("" : : "m"(v))
#define NO_INLINE __attribute__((noinline))
#define ALWAYS_INLINE static inline __attribute__((always_inline))

enum { HALVES = 16 / LANES, HALF_BYTES = 4 * LANES };

/* ---------------------------------------------------------------- decoding a line */

#ifdef PAIRS
/* Pairs of columns (0,1) and (2,3) of an FP8 line. */
ALWAYS_INLINE void fp8_steps(vi line, vf *w)
{
    vi_fp8_pairs(line, w);
}

ALWAYS_INLINE void bf16_steps(vi line, vf *w)
{
    w[0] = vf_from_bits(line);
}
#else
/* The four columns of an FP8 line, 2^-120 times their values. Even and odd bytes, times 16 as signed words, become 16-bit
 * patterns (the upper half of the fp32), whose low and high four of each 128 bits are columns 0, 1 and 2, 3 of the same
 * four rows. */
ALWAYS_INLINE void fp8_steps(vi line, vf *w)
{
    vi keep = vi_set32(0x87f087f0), zero = vi_set32(0);
    vi even = vi_and(vi_even_16(line), keep), odd = vi_and(vi_odd_16(line), keep);
    w[0] = vf_from_bits(vi_low16_pairs(zero, even));
    w[1] = vf_from_bits(vi_low16_pairs(zero, odd));
    w[2] = vf_from_bits(vi_high16_pairs(zero, even));
    w[3] = vf_from_bits(vi_high16_pairs(zero, odd));
}

ALWAYS_INLINE void bf16_steps(vi line, vf *w)
{
    w[0] = vf_from_bits(vi_sll32_16(line));
    w[1] = vf_from_bits(vi_and(line, vi_set32(0xffff0000)));
}
#endif

/* The steps of one line of a format into w. */
ALWAYS_INLINE void line_steps(enum wformat f, const uint8_t *line, vf *w)
{
    vi v = vi_load(line);
    if (f == W_FP8)
        fp8_steps(v, w);
    else if (f == W_BF16)
        bf16_steps(v, w);
    else
        w[0] = vf_from_bits(v);
}

ALWAYS_INLINE int step_columns(enum wformat f)
{
    return HAS_PAIRS != 0 && f != W_F32 ? 2 : 1;
}

ALWAYS_INLINE int steps_a_line(enum wformat f)
{
    return (f == W_FP8 ? 4 : f == W_BF16 ? 2 : 1) / step_columns(f);
}

/* acc + w x, or the dot products of pairs. */
ALWAYS_INLINE vf step(enum wformat f, vf w, vf x, vf acc)
{
#ifdef PAIRS
    if (f != W_F32)
        return vf_dot_pairs(w, x, acc);
#endif
    (void)f;
    return vf_fma(w, x, acc);
}

ALWAYS_INLINE vf set_word(uint32_t word)
{
    return vf_from_bits(vi_set32(word));
}

ALWAYS_INLINE float weight_scale(const struct il16 *w, int tile, int b, int n_blocks)
{
    return w->format == W_FP8 ? w->scale[(size_t)(tile / (IL16_BLOCK / 16)) * (size_t)n_blocks + (size_t)b] : 1.0f;
}

ALWAYS_INLINE float x_scale(const struct fast_x *x, int i, int b)
{
    return x->kind == FX_PLAIN || x->kind == FX_BF16 ? 1.0f : x->scale[(size_t)i * (size_t)x->n_blocks + (size_t)b];
}

/* ---------------------------------------------------------------- one row of activations */

/* What a tile's stream fetches early: the line `near` bytes on, and at its end the beginning of the tile that takes its
 * place in this thread's next strip, which the processor could not foresee. */
struct ahead {
    uintptr_t near, end, jump;
};

enum { AHEAD = 256 }; /* beside 512 and 1,024: better for FP4, the same within the noise for FP8 and BF16 */

ALWAYS_INLINE struct ahead ahead_of(const struct il16 *w, const struct fast_x *x)
{
    if (w->ahead != 0) /* lines made of a stored matrix: what is fetched early is the matrix itself */
        return (struct ahead){.near = w->ahead, .end = UINTPTR_MAX};
    return (struct ahead){AHEAD, w->tile_bytes, (uintptr_t)(x->next_strip - 1) * w->tile_bytes};
}

/* From the beginning of a tile. */
ALWAYS_INLINE uintptr_t place_ahead(const struct ahead *a, size_t at)
{
    uintptr_t to = at + a->near;
    return to >= a->end ? to + a->jump : to;
}

/* One block of nt tiles with one row: every tile is its own stream, so nt tiles give nt*HALVES independent chains. */
ALWAYS_INLINE void block_one(enum wformat f, const uint8_t *const *line, size_t at, const uint32_t *x, int n_lines, int nt,
                             const struct ahead *ahead, vf *acc)
{
    int s = steps_a_line(f);
    for (int l = 0; l < n_lines; l++, at += IL16_LINE, x += s) {
        uintptr_t early = place_ahead(ahead, at);
        UNROLL
        for (int t = 0; t < nt; t++) {
            UNROLL
            for (int h = 0; h < HALVES; h++) {
                vf w[4];
                if (h == 0)
                    __builtin_prefetch((const void *)((uintptr_t)line[t] + early), 0, 2);
                line_steps(f, line[t] + at + h * HALF_BYTES, w);
                UNROLL
                for (int j = 0; j < s; j++)
                    acc[t * HALVES + h] = step(f, w[j], set_word(x[j]), acc[t * HALVES + h]);
            }
        }
    }
}

ALWAYS_INLINE void matvec(enum wformat f, const struct il16 *w, int tile0, int nt, const struct fast_x *x, float *y)
{
    const uint8_t *line[FAST_STRIP];
    vf sum[FAST_STRIP * HALVES];
    for (int t = 0; t < nt; t++)
        line[t] = w->data + (size_t)(tile0 + t) * w->tile_bytes;
    UNROLL
    for (int i = 0; i < nt * HALVES; i++)
        sum[i] = x->resume ? vf_load(y + i * LANES) : vf_zero();
    int c = step_columns(f), a_line = c * steps_a_line(f);
    const struct ahead ahead = ahead_of(w, x);
    for (int b = 0; b < x->n_blocks; b++) {
        int first = b * IL16_BLOCK, n = w->cols_padded - first < IL16_BLOCK ? w->cols_padded - first : IL16_BLOCK;
        vf acc[FAST_STRIP * HALVES];
        UNROLL
        for (int i = 0; i < nt * HALVES; i++)
            acc[i] = vf_zero();
        block_one(f, line, (size_t)(first / a_line) * IL16_LINE, (const uint32_t *)x->data + first / c, n / a_line, nt,
                  &ahead, acc);
        UNROLL
        for (int i = 0; i < nt * HALVES; i++)
            sum[i] = vf_fma(vf_set(weight_scale(w, tile0 + i / HALVES, b, x->n_blocks) * x_scale(x, 0, b)), acc[i], sum[i]);
    }
    UNROLL
    for (int i = 0; i < nt * HALVES; i++)
        vf_store(y + i * LANES, sum[i]);
}

/* ---------------------------------------------------------------- tiles of rows */

/* n columns (one block) of a tile as steps of lanes: panel [n / step columns][16]. */
ALWAYS_INLINE void decode_panel(enum wformat f, const uint8_t *line, int n, float *panel)
{
    int s = steps_a_line(f), a_line = s * step_columns(f);
    for (int k = 0; k < n; k += a_line, line += IL16_LINE, panel += 16 * s) {
        UNROLL
        for (int h = 0; h < HALVES; h++) {
            vf w[4];
            line_steps(f, line + h * HALF_BYTES, w);
            UNROLL
            for (int j = 0; j < s; j++)
                vf_store(panel + 16 * j + LANES * h, w[j]);
        }
    }
}

struct panel_args {
    const float *panel; /* [n][16] */
    const uint32_t *x;  /* [n][m] */
    int n;              /* steps */
    const float *scale; /* [m] of this block */
    float *y;           /* 16 sums of row i at y + i*ldy */
    size_t ldy;
};

/* y_i = fma(scale_i, panel . x_i, y_i) for m rows. */
ALWAYS_INLINE void panel_rows(enum wformat f, const struct panel_args *a, const int m)
{
    vf acc[X_TILE * HALVES];
    const float *panel = a->panel;
    const uint32_t *x = a->x;
    UNROLL
    for (int i = 0; i < m * HALVES; i++)
        acc[i] = vf_zero();
    for (int k = 0; k < a->n; k++, panel += 16, x += m) {
        vf w[HALVES];
        UNROLL
        for (int h = 0; h < HALVES; h++)
            w[h] = vf_load(panel + h * LANES);
        UNROLL
        for (int i = 0; i < m; i++) {
            vf v = set_word(x[i]);
            UNROLL
            for (int h = 0; h < HALVES; h++)
                acc[i * HALVES + h] = step(f, w[h], v, acc[i * HALVES + h]);
        }
    }
    UNROLL
    for (int i = 0; i < m; i++) {
        vf s = vf_set(a->scale[i]);
        UNROLL
        for (int h = 0; h < HALVES; h++) {
            float *y = a->y + (size_t)i * a->ldy + h * LANES;
            vf_store(y, vf_fma(s, acc[i * HALVES + h], vf_load(y)));
        }
    }
}

typedef void panel_rows_fn(const struct panel_args *a);

#define PANEL_ROWS(m) \
    static NO_INLINE void panel_rows_##m(const struct panel_args *a) { panel_rows(W_F32, a, m); }
FOR_EACH_X_TILE(PANEL_ROWS)
#define PANEL_NAME(m) panel_rows_##m,
static panel_rows_fn *const panel_rows_of[] = {FOR_EACH_X_TILE(PANEL_NAME)};

#ifdef PAIRS
#define PAIR_ROWS(m) \
    static NO_INLINE void pair_rows_##m(const struct panel_args *a) { panel_rows(W_BF16, a, m); }
FOR_EACH_X_TILE(PAIR_ROWS)
#define PAIR_NAME(m) pair_rows_##m,
static panel_rows_fn *const pair_rows_of[] = {FOR_EACH_X_TILE(PAIR_NAME)};
#else
#define pair_rows_of panel_rows_of
#endif

/* All rows against one decoded block (n steps from step `first`) of nt tiles. */
static void block_many(panel_rows_fn *const *rows_of, const float *panel, int n, int first, int b, const float *w_scale,
                       const struct fast_x *x, int nt, float *y, size_t ldy)
{
    float scale[X_TILE];
    size_t words = (size_t)(kind_has_pairs(x->kind) ? x->cols_padded / 2 : x->cols_padded);
    for (int i = 0; i < x->n; i += X_TILE) {
        int m = x->n - i < X_TILE ? x->n - i : X_TILE;
        const uint32_t *data = (const uint32_t *)x->data + (size_t)i * words + (size_t)first * (size_t)m;
        for (int t = 0; t < nt; t++) {
            for (int r = 0; r < m; r++)
                scale[r] = w_scale[t] * x_scale(x, i + r, b);
            struct panel_args a = {panel + t * 16 * IL16_BLOCK, data, n, scale, y + (size_t)i * ldy + t * 16, ldy};
            rows_of[m - 1](&a);
        }
    }
}

static void clear(const struct fast_x *x, int n_tiles, float *y, size_t ldy)
{
    for (int i = 0; i < x->n; i++)
        memset(y + (size_t)i * ldy, 0, (size_t)n_tiles * 16 * sizeof *y);
}

ALWAYS_INLINE void matmul(enum wformat f, const struct il16 *w, int tile0, int nt, const struct fast_x *x, float *y,
                          size_t ldy)
{
    _Alignas(64) float panel[FAST_STRIP * 16 * IL16_BLOCK];
    float w_scale[FAST_STRIP];
    int c = step_columns(f), a_line = c * steps_a_line(f);
    clear(x, nt, y, ldy);
    for (int b = 0; b < x->n_blocks; b++) {
        int first = b * IL16_BLOCK, n = w->cols_padded - first < IL16_BLOCK ? w->cols_padded - first : IL16_BLOCK;
        for (int t = 0; t < nt; t++) {
            const uint8_t *tile = w->data + (size_t)(tile0 + t) * w->tile_bytes;
            decode_panel(f, tile + (size_t)(first / a_line) * IL16_LINE, n, panel + t * 16 * IL16_BLOCK);
            w_scale[t] = weight_scale(w, tile0 + t, b, x->n_blocks);
        }
        block_many(c == 2 ? pair_rows_of : panel_rows_of, panel, n / c, first / c, b, w_scale, x, nt, y, ldy);
    }
}

/* ---------------------------------------------------------------- few rows: lines decoded into registers */

/* Numbers of rows that have a kernel of their own: those of decoding a few sequences at once, or of speculation. */
#define FOR_EACH_FEW(M) M(2) M(3) M(4) M(5) M(6)
enum { FEW_MAX = 6, FEW_SUMS = 24 * (HALVES > 2 ? 2 : 1) };
_Static_assert(FEW_MAX <= X_TILE && FEW_MAX <= D_TILE, "few rows are one tile of packed activations");

/* One block of nt tiles with m rows: x [columns][m]. */
ALWAYS_INLINE void block_few(enum wformat f, const uint8_t *line, size_t tile_bytes, const uint32_t *x, int n_lines,
                             const int nt, const int m, vf *acc)
{
    int s = steps_a_line(f);
    for (int l = 0; l < n_lines; l++, line += IL16_LINE, x += s * m) {
        UNROLL
        for (int i = 0; i < nt * HALVES; i++) {
            vf w[4];
            line_steps(f, line + (size_t)(i / HALVES) * tile_bytes + i % HALVES * HALF_BYTES, w);
            UNROLL
            for (int j = 0; j < s * m; j++)
                acc[i * m + j % m] = step(f, w[j / m], set_word(x[j]), acc[i * m + j % m]);
        }
    }
}

/* nt tiles with all m = x->n rows; the sums of a row as in panel_rows. */
ALWAYS_INLINE void few(enum wformat f, const struct il16 *w, int tile0, const int nt, const struct fast_x *x, const int m,
                       float *y, size_t ldy)
{
    int c = step_columns(f), a_line = c * steps_a_line(f);
    clear(x, nt, y, ldy);
    for (int b = 0; b < x->n_blocks; b++) {
        int first = b * IL16_BLOCK, n = w->cols_padded - first < IL16_BLOCK ? w->cols_padded - first : IL16_BLOCK;
        vf acc[FEW_SUMS];
        UNROLL
        for (int i = 0; i < nt * HALVES * m; i++)
            acc[i] = vf_zero();
        block_few(f, w->data + (size_t)tile0 * w->tile_bytes + (size_t)(first / a_line) * IL16_LINE, w->tile_bytes,
                  (const uint32_t *)x->data + (size_t)(first / c) * (size_t)m, n / a_line, nt, m, acc);
        UNROLL
        for (int i = 0; i < nt * HALVES * m; i++) {
            float *at = y + (size_t)(i % m) * ldy + i / m * LANES;
            vf scale = vf_set(weight_scale(w, tile0 + i / m / HALVES, b, x->n_blocks) * x_scale(x, i % m, b));
            vf_store(at, vf_fma(scale, acc[i], vf_load(at)));
        }
    }
}

typedef void few_rows_fn(const struct il16 *w, int tile0, const struct fast_x *x, float *y, size_t ldy);

#define FEW_FP8(m)                                                                                                   \
    static NO_INLINE void few_fp8_##m(const struct il16 *w, int tile0, const struct fast_x *x, float *y, size_t ldy) \
    {                                                                                                                \
        few(W_FP8, w, tile0, FEW_TILES(m), x, m, y, ldy);                                                            \
    }
#define FEW_BF16(m)                                                                                                   \
    static NO_INLINE void few_bf16_##m(const struct il16 *w, int tile0, const struct fast_x *x, float *y, size_t ldy) \
    {                                                                                                                 \
        few(W_BF16, w, tile0, FEW_TILES(m), x, m, y, ldy);                                                            \
    }
FOR_EACH_FEW(FEW_FP8)
FOR_EACH_FEW(FEW_BF16)
#define FEW_FP8_NAME(m) few_fp8_##m,
#define FEW_BF16_NAME(m) few_bf16_##m,
static few_rows_fn *const few_fp8_of[] = {FOR_EACH_FEW(FEW_FP8_NAME)};
static few_rows_fn *const few_bf16_of[] = {FOR_EACH_FEW(FEW_BF16_NAME)};

/* A strip with few rows, as far as its tiles come in the number that the kernel takes; returns how many did. */
static int strip_few(few_rows_fn *const *few_of, const struct il16 *w, int tile0, int nt, const struct fast_x *x, float *y,
                     size_t ldy)
{
    int step_tiles = FEW_TILES(x->n), t = 0;
    for (; t + step_tiles <= nt; t += step_tiles)
        few_of[x->n - 2](w, tile0 + t, x, y + t * 16, ldy);
    return t;
}

/* ---------------------------------------------------------------- strips by format */

typedef void one_row_fn(const struct il16 *w, int tile0, const struct fast_x *x, float *y);
typedef void many_rows_fn(const struct il16 *w, int tile0, int nt, const struct fast_x *x, float *y, size_t ldy);

/* A strip by the number of rows: one row of four tiles or of a single tile, few rows, or blocks of rows. */
static inline void strip(one_row_fn *four, one_row_fn *single, few_rows_fn *const *few_of, many_rows_fn *many,
                         const struct il16 *w, int tile0, int nt, const struct fast_x *x, float *y, size_t ldy)
{
    if (x->n > 1) {
        int t = few_of != NULL && x->n <= FEW_MAX ? strip_few(few_of, w, tile0, nt, x, y, ldy) : 0;
        if (t < nt)
            many(w, tile0 + t, nt - t, x, y + t * 16, ldy);
        return;
    }
    if (nt == FAST_STRIP) {
        four(w, tile0, x, y);
        return;
    }
    for (int t = 0; t < nt; t++)
        single(w, tile0 + t, x, y + t * 16);
}

#define FORMAT_KERNELS(name, f, few_of)                                                                      \
    static NO_INLINE void name##_four(const struct il16 *w, int tile0, const struct fast_x *x, float *y)     \
    {                                                                                                        \
        matvec(f, w, tile0, FAST_STRIP, x, y);                                                               \
    }                                                                                                        \
    static NO_INLINE void name##_single(const struct il16 *w, int tile0, const struct fast_x *x, float *y)   \
    {                                                                                                        \
        matvec(f, w, tile0, 1, x, y);                                                                        \
    }                                                                                                        \
    static NO_INLINE void name##_many(const struct il16 *w, int tile0, int nt, const struct fast_x *x,       \
                                      float *y, size_t ldy)                                                  \
    {                                                                                                        \
        matmul(f, w, tile0, nt, x, y, ldy);                                                                  \
    }                                                                                                        \
    static void name##_matmul(const struct il16 *w, int tile0, int nt, const struct fast_x *x, float *y,     \
                              size_t ldy)                                                                    \
    {                                                                                                        \
        strip(name##_four, name##_single, few_of, name##_many, w, tile0, nt, x, y, ldy);                     \
    }
FORMAT_KERNELS(fp8, W_FP8, few_fp8_of)
FORMAT_KERNELS(bf16, W_BF16, few_bf16_of)
FORMAT_KERNELS(f32, W_F32, NULL)

/* ---------------------------------------------------------------- FP4 */

/* The code vectors of one line of one half: low nibbles, high nibbles, as 0..24. */
ALWAYS_INLINE void fp4_codes(const uint8_t *line, vi *code)
{
    vi table = vi_table16(fp4_offset_codes), low = vi_set32(0x0f0f0f0f), v = vi_load(line);
    code[0] = vi_lookup(table, vi_and(v, low));
    code[1] = vi_lookup(table, vi_and(vi_srl16_4(v), low));
}

/* The fp32 scales of 16 rows' e8m0 bytes (none of them 0), one half. */
ALWAYS_INLINE vf fp4_scales(const uint8_t *bytes)
{
    return vf_from_bits(vi_sll32_23(vi_widen8(bytes)));
}

/* The exact dots of a group with a rest from the sums of its digits: code vectors of four lines, `step` apart. */
ALWAYS_INLINE vi fp4_add_rest(vi total, const vi *code, int step, const int32_t *rest, const struct fast_group *g)
{
    vi acc = vi_set32((uint32_t)g->start[2]);
    NO_UNROLL
    for (int l = 0; l < 4; l++, code += step, rest += 2) {
        acc = vi_digit_add(acc, code[0], vi_set32((uint32_t)rest[0]));
        acc = vi_digit_add(acc, code[1], vi_set32((uint32_t)rest[1]));
    }
    return vi_add32(vi_sllv32(total, vi_set32((uint32_t)g->shift)), vi_digit_sum(acc));
}

/* The same from the lines of one half. Out of line: seldom needed, and its registers are not to be the others'. */
static NO_INLINE void fp4_line_rest(const uint8_t *line, const int32_t *rest, const struct fast_group *g, vi *total)
{
    vi code[8];
    for (int l = 0; l < 4; l++)
        fp4_codes(line + l * IL16_LINE, code + 2 * l);
    *total = fp4_add_rest(*total, code, 2, rest, g);
}

ALWAYS_INLINE vi fp4_half_rest(const uint8_t *line, vi total, const int32_t *rest, const struct fast_group *g)
{
    fp4_line_rest(line, rest, g, &total);
    return total;
}

/* One line's products with m rows: digit words x [m][d0, d1][2]. */
ALWAYS_INLINE void digit_line(const vi *code, const int32_t *x, const int m, vi *acc)
{
    UNROLL
    for (int i = 0; i < m * 2; i++) {
        acc[i] = vi_digit_add(acc[i], code[0], vi_set32((uint32_t)x[2 * i]));
        acc[i] = vi_digit_add(acc[i], code[1], vi_set32((uint32_t)x[2 * i + 1]));
    }
}

/* A group of one tile with one row: digit words x [4][d0, d1][2]. */
ALWAYS_INLINE void fp4_group(const uint8_t *line, const uint8_t *scale, const int32_t *x, const int32_t *rest,
                             const struct fast_group *g, uintptr_t early, vf *sum)
{
    vi acc[HALVES * 2], total[HALVES];
    UNROLL
    for (int i = 0; i < HALVES * 2; i++)
        acc[i] = vi_set32((uint32_t)g->start[i % 2]);
    UNROLL
    for (int l = 0; l < 4; l++, x += 4) {
        vi code[HALVES * 2];
        __builtin_prefetch((const void *)(early + (size_t)l * IL16_LINE), 0, 2);
        UNROLL
        for (int h = 0; h < HALVES; h++)
            fp4_codes(line + l * IL16_LINE + h * HALF_BYTES, code + 2 * h);
        UNROLL
        for (int p = 0; p < 2; p++) { /* a digit for both halves: few registers hold activations */
            vi low = vi_set32((uint32_t)x[2 * p]), high = vi_set32((uint32_t)x[2 * p + 1]);
            UNROLL
            for (int h = 0; h < HALVES; h++) {
                acc[2 * h + p] = vi_digit_add(acc[2 * h + p], code[2 * h], low);
                acc[2 * h + p] = vi_digit_add(acc[2 * h + p], code[2 * h + 1], high);
            }
        }
    }
    UNROLL
    for (int h = 0; h < HALVES; h++)
        total[h] = vi_digit_join(acc[2 * h], acc[2 * h + 1]);
    if (__builtin_expect(g->shift != 0, 0))
        for (int h = 0; h < HALVES; h++)
            fp4_line_rest(line + h * HALF_BYTES, rest, g, &total[h]);
    vf xs = vf_set(g->scale);
    UNROLL
    for (int h = 0; h < HALVES; h++)
        sum[h] = vf_fma(vf_mul(fp4_scales(scale + h * LANES), xs), vf_from_i32(total[h]), sum[h]);
}

ALWAYS_INLINE void fp4_one(const struct il16 *w, int tile, const int nt, const struct fast_x *x, float *y)
{
    int n_groups = w->cols_padded / 32;
    const uint8_t *tiles = w->data + (size_t)tile * w->tile_bytes, *line = tiles;
    const uint8_t *scale = w->scale8 + (size_t)tile * (size_t)n_groups * 16;
    const int32_t *digits = x->data, *rest = x->rest;
    const struct ahead ahead = ahead_of(w, x);
    vf sum[FAST_STRIP * HALVES];
    UNROLL
    for (int i = 0; i < nt * HALVES; i++)
        sum[i] = x->resume ? vf_load(y + i * LANES) : vf_zero();
    for (int b = 0; b < n_groups; b++, line += 4 * IL16_LINE, scale += 16, digits += 16, rest += 8) {
        uintptr_t early = (uintptr_t)tiles + place_ahead(&ahead, (size_t)b * 4 * IL16_LINE);
        NO_UNROLL /* one tile's group unrolled is as much as the registers and the decoded instructions have room for */
        for (int t = 0; t < nt; t++)
            fp4_group(line + (size_t)t * w->tile_bytes, scale + (size_t)t * (size_t)n_groups * 16, digits, rest,
                      &x->group[b], early + (size_t)t * w->tile_bytes, sum + t * HALVES);
    }
    UNROLL
    for (int i = 0; i < nt * HALVES; i++)
        vf_store(y + i * LANES, sum[i]);
}

static NO_INLINE void fp4_one_four(const struct il16 *w, int tile, const struct fast_x *x, float *y)
{
    fp4_one(w, tile, FAST_STRIP, x, y);
}

static NO_INLINE void fp4_one_single(const struct il16 *w, int tile, const struct fast_x *x, float *y)
{
    fp4_one(w, tile, 1, x, y);
}

/* One tile with all m = x->n rows, lines decoded into registers: a half after the other, to hold its sums in registers. */
ALWAYS_INLINE void fp4_few(const struct il16 *w, int tile, const struct fast_x *x, const int m, float *y, size_t ldy)
{
    int n_groups = w->cols_padded / 32;
    const uint8_t *line = w->data + (size_t)tile * w->tile_bytes;
    const uint8_t *scale = w->scale8 + (size_t)tile * (size_t)n_groups * 16;
    const int32_t *digits = x->data;
    clear(x, 1, y, ldy);
    for (int b = 0; b < n_groups; b++, line += 4 * IL16_LINE, scale += 16, digits += 16 * m) {
        NO_UNROLL
        for (int h = 0; h < HALVES; h++) {
            vi acc[D_TILE * 2], code[8];
            UNROLL
            for (int i = 0; i < m * 2; i++)
                acc[i] = vi_set32((uint32_t)x->group[(size_t)(i / 2) * (size_t)n_groups + (size_t)b].start[i % 2]);
            UNROLL
            for (int l = 0; l < 4; l++) {
                fp4_codes(line + l * IL16_LINE + h * HALF_BYTES, code + 2 * l);
                digit_line(code + 2 * l, digits + 4 * m * l, m, acc);
            }
            vf s = fp4_scales(scale + h * LANES);
            UNROLL
            for (int i = 0; i < m; i++) {
                size_t at = (size_t)i * (size_t)n_groups + (size_t)b;
                const struct fast_group *g = &x->group[at];
                vi total = vi_digit_join(acc[2 * i], acc[2 * i + 1]);
                if (__builtin_expect(g->shift != 0, 0))
                    total = fp4_half_rest(line + h * HALF_BYTES, total, x->rest + at * 8, g);
                float *out = y + (size_t)i * ldy + h * LANES;
                vf_store(out, vf_fma(vf_mul(s, vf_set(g->scale)), vf_from_i32(total), vf_load(out)));
            }
        }
    }
}

#define FP4_FEW(m)                                                                                                   \
    static NO_INLINE void fp4_few_##m(const struct il16 *w, int tile0, const struct fast_x *x, float *y, size_t ldy) \
    {                                                                                                                \
        for (int t = 0; t < FEW_TILES(x->n); t++)                                                                    \
            fp4_few(w, tile0 + t, x, m, y + t * 16, ldy);                                                            \
    }
FOR_EACH_FEW(FP4_FEW)
#define FP4_FEW_NAME(m) fp4_few_##m,
static few_rows_fn *const fp4_few_of[] = {FOR_EACH_FEW(FP4_FEW_NAME)};

/* A run of groups, decoded once and used for all rows. */
enum { RUN_GROUPS = IL16_BLOCK / 32 };

struct digit_args {
    const vi *code;    /* [groups][8] of this half */
    const vf *w_scale; /* [groups] */
    int n_groups;
    const int32_t *x;                       /* [groups][4][m][d0, d1][2] */
    const struct fast_group *group[D_TILE]; /* [groups] of each row */
    const int32_t *rest[D_TILE];            /* [groups][8] */
    float *y; /* LANES sums of row i at y + i*ldy */
    size_t ldy;
};

ALWAYS_INLINE void digit_rows(const struct digit_args *a, const int m)
{
    const int32_t *x = a->x;
    const vi *code = a->code;
    for (int b = 0; b < a->n_groups; b++, code += 8) {
        vi acc[D_TILE * 2];
        UNROLL
        for (int i = 0; i < m * 2; i++)
            acc[i] = vi_set32((uint32_t)a->group[i / 2][b].start[i % 2]);
        UNROLL
        for (int l = 0; l < 4; l++, x += 4 * m)
            digit_line(code + 2 * l, x, m, acc);
        UNROLL
        for (int i = 0; i < m; i++) {
            const struct fast_group *g = &a->group[i][b];
            vi total = vi_digit_join(acc[2 * i], acc[2 * i + 1]);
            if (__builtin_expect(g->shift != 0, 0))
                total = fp4_add_rest(total, code, 2, a->rest[i] + 8 * b, g);
            float *y = a->y + (size_t)i * a->ldy;
            vf_store(y, vf_fma(vf_mul(a->w_scale[b], vf_set(g->scale)), vf_from_i32(total), vf_load(y)));
        }
    }
}

#define DIGIT_ROWS(m) \
    static NO_INLINE void digit_rows_##m(const struct digit_args *a) { digit_rows(a, m); }
FOR_EACH_D_TILE(DIGIT_ROWS)
#define DIGIT_NAME(m) digit_rows_##m,
static void (*const digit_rows_of[])(const struct digit_args *) = {FOR_EACH_D_TILE(DIGIT_NAME)};

struct code_run {
    vi code[RUN_GROUPS][8];
    vf w_scale[RUN_GROUPS];
};

static void decode_run(const struct il16 *w, int tile, int h, int b0, int n, struct code_run *r)
{
    int n_groups = w->cols_padded / 32;
    const uint8_t *line = w->data + (size_t)tile * w->tile_bytes + (size_t)b0 * 4 * IL16_LINE + h * HALF_BYTES;
    for (int l = 0; l < 4 * n; l++)
        fp4_codes(line + l * IL16_LINE, &r->code[l / 4][2 * (l % 4)]);
    for (int b = 0; b < n; b++)
        r->w_scale[b] = fp4_scales(w->scale8 + ((size_t)tile * (size_t)n_groups + (size_t)(b0 + b)) * 16 + h * LANES);
}

/* Groups b0 .. b0+n-1 of nt tiles with every row. */
static NO_INLINE void fp4_run_many(const struct il16 *w, int tile0, int nt, int b0, int n, const struct fast_x *x, float *y,
                                   size_t ldy)
{
    struct code_run run[FAST_STRIP * HALVES];
    size_t n_groups = (size_t)(w->cols_padded / 32);
    for (int t = 0; t < nt * HALVES; t++)
        decode_run(w, tile0 + t / HALVES, t % HALVES, b0, n, &run[t]);
    for (int i = 0; i < x->n; i += D_TILE) {
        int m = x->n - i < D_TILE ? x->n - i : D_TILE;
        struct digit_args a = {.n_groups = n, .ldy = ldy};
        a.x = (const int32_t *)x->data + ((size_t)i * n_groups + (size_t)(b0 * m)) * 16;
        for (int r = 0; r < m; r++) {
            size_t at = (size_t)(i + r) * n_groups + (size_t)b0;
            a.group[r] = x->group + at;
            a.rest[r] = x->rest + at * 8;
        }
        for (int t = 0; t < nt * HALVES; t++) {
            a.code = run[t].code[0];
            a.w_scale = run[t].w_scale;
            a.y = y + (size_t)i * ldy + t * LANES;
            digit_rows_of[m - 1](&a);
        }
    }
}

static void fp4_many(const struct il16 *w, int tile0, int n_tiles, const struct fast_x *x, float *y, size_t ldy)
{
    clear(x, n_tiles, y, ldy);
    int n_groups = w->cols_padded / 32;
    for (int b = 0; b < n_groups; b += RUN_GROUPS)
        fp4_run_many(w, tile0, n_tiles, b, n_groups - b < RUN_GROUPS ? n_groups - b : RUN_GROUPS, x, y, ldy);
}

static void fp4_matmul(const struct il16 *w, int tile0, int n_tiles, const struct fast_x *x, float *y, size_t ldy)
{
    strip(fp4_one_four, fp4_one_single, fp4_few_of, fp4_many, w, tile0, n_tiles, x, y, ldy);
}

#include "ops/cpu/fast_int8_tmpl.h"

/* ---------------------------------------------------------------- the indexer */

enum { INDEX_DIM_MAX = 256, INDEX_GROUPS = 2 };

/* LANES keys, lanes being keys: code vectors [dim/8][2], block scales, 2^lowest. */
struct key_group {
    vi code[INDEX_DIM_MAX / 4];
    vi scale[INDEX_DIM_MAX / 32];
    float lowest[LANES];
};

/* Words d .. d+3 of four keys turned: words of the same place side by side. */
ALWAYS_INLINE void turn_words(const uint8_t *keys, size_t stride, uint32_t *words)
{
    typedef uint32_t quad __attribute__((vector_size(16)));
    quad k[4], ab, cd;
    UNROLL
    for (int i = 0; i < 4; i++)
        memcpy(&k[i], keys + (size_t)i * stride, sizeof k[i]);
    ab = __builtin_shufflevector(k[0], k[1], 0, 4, 1, 5);
    cd = __builtin_shufflevector(k[2], k[3], 0, 4, 1, 5);
    quad out0 = __builtin_shufflevector(ab, cd, 0, 1, 4, 5), out1 = __builtin_shufflevector(ab, cd, 2, 3, 6, 7);
    ab = __builtin_shufflevector(k[0], k[1], 2, 6, 3, 7);
    cd = __builtin_shufflevector(k[2], k[3], 2, 6, 3, 7);
    quad out2 = __builtin_shufflevector(ab, cd, 0, 1, 4, 5), out3 = __builtin_shufflevector(ab, cd, 2, 3, 6, 7);
    memcpy(words, &out0, sizeof out0);
    memcpy(words + LANES, &out1, sizeof out1);
    memcpy(words + 2 * LANES, &out2, sizeof out2);
    memcpy(words + 3 * LANES, &out3, sizeof out3);
}

/* Exponents of all keys side by side; those with blocks far apart one by one, since blocks of zeros do not count. */
ALWAYS_INLINE bool load_exponents(const uint8_t *keys, size_t stride, int dim, int *lowest, int (*distance)[LANES])
{
    int highest[LANES] = {0}, spread = 0;
    for (int i = 0; i < LANES; i++)
        lowest[i] = 255;
    for (int b = 0; b < dim / 32; b++) {
        for (int i = 0; i < LANES; i++)
            distance[b][i] = keys[(size_t)i * stride + (size_t)(dim / 2 + b)];
        for (int i = 0; i < LANES; i++) {
            int e = distance[b][i];
            lowest[i] = e < lowest[i] ? e : lowest[i];
            highest[i] = e > highest[i] ? e : highest[i];
        }
    }
    for (int i = 0; i < LANES; i++)
        spread = highest[i] - lowest[i] > spread ? highest[i] - lowest[i] : spread;
    for (int b = 0; b < dim / 32; b++)
        for (int i = 0; i < LANES; i++)
            distance[b][i] -= lowest[i];
    for (int i = 0; spread > FAST_KEY_SPREAD && i < LANES; i++) {
        int of_key[INDEX_DIM_MAX / 32];
        if (!key_exponents(keys + (size_t)i * stride, dim, &lowest[i], of_key))
            return false;
        for (int b = 0; b < dim / 32; b++)
            distance[b][i] = of_key[b];
    }
    return true;
}

static NO_INLINE bool load_keys(struct key_group *g, const uint8_t *keys, size_t stride, int dim)
{
    vi table = vi_table16(fp4_offset_codes), low = vi_set32(0x0f0f0f0f);
    uint32_t word[INDEX_DIM_MAX / 8 * LANES], scale[INDEX_DIM_MAX / 32][LANES];
    int lowest[LANES], distance[INDEX_DIM_MAX / 32][LANES];
    if (!load_exponents(keys, stride, dim, lowest, distance))
        return false;
    for (int i = 0; i < LANES; i++)
        g->lowest[i] = f32_from_e8m0((uint8_t)lowest[i]);
    for (int b = 0; b < dim / 32; b++)
        for (int i = 0; i < LANES; i++)
            scale[b][i] = vi_scale_word(distance[b][i]);
    for (int d = 0; d < dim / 8; d += 4)
        for (int i = 0; i < LANES; i += 4)
            turn_words(keys + (size_t)i * stride + (size_t)d * 4, stride, word + d * LANES + i);
    for (int b = 0; b < dim / 32; b++)
        g->scale[b] = vi_load(scale[b]);
    for (int d = 0; d < dim / 8; d++) {
        vi v = vi_load(word + d * LANES);
        g->code[2 * d] = vi_lookup(table, vi_and(v, low));
        g->code[2 * d + 1] = vi_lookup(table, vi_and(vi_srl16_4(v), low));
    }
    return true;
}

/* sum[i] + weight_h relu(D_h) of nh heads from h on, for every group i of keys. */
ALWAYS_INLINE void index_heads(const struct fast_query *q, const struct key_group *g, int h, const int nh, vf *sum)
{
    enum { MOST = INDEX_HEADS * INDEX_GROUPS };
    vi total[MOST];
    const int32_t *x = q->words + h, *start = q->start + h;
    const int n = nh * INDEX_GROUPS; /* sum i: head i / INDEX_GROUPS, group i % INDEX_GROUPS */
    UNROLL
    for (int i = 0; i < n; i++)
        total[i] = vi_set32(0);
    for (int b = 0, c = 0; b < q->dim / 32; b++, start += q->heads) {
        vi acc[MOST];
        UNROLL
        for (int i = 0; i < n; i++)
            acc[i] = vi_set32((uint32_t)start[i / INDEX_GROUPS]);
        UNROLL_2
        for (int l = 0; l < 8; l++, x += q->heads, c++) {
            vi code[INDEX_GROUPS];
            UNROLL
            for (int i = 0; i < INDEX_GROUPS; i++)
                code[i] = g[i].code[c];
            UNROLL
            for (int i = 0; i < n; i++)
                acc[i] = vi_digit_add(acc[i], code[i % INDEX_GROUPS], vi_set32((uint32_t)x[i / INDEX_GROUPS]));
        }
        UNROLL
        for (int i = 0; i < n; i++)
            total[i] = vi_add32(total[i], vi_scale_block(acc[i], g[i % INDEX_GROUPS].scale[b]));
    }
    UNROLL
    for (int i = 0; i < n; i++)
        sum[i % INDEX_GROUPS] = vf_fma(vf_from_i32(vi_max32(total[i], vi_set32(0))),
                                       vf_set(q->weight[h + i / INDEX_GROUPS]), sum[i % INDEX_GROUPS]);
}

static bool index_scores(const struct fast_query *q, const uint8_t *keys, size_t stride, float *score)
{
    struct key_group g[INDEX_GROUPS];
    vf sum[INDEX_GROUPS];
    for (int i = 0; i < INDEX_GROUPS; i++) {
        if (q->dim > INDEX_DIM_MAX || !load_keys(&g[i], keys + (size_t)(i * LANES) * stride, stride, q->dim))
            return false;
        sum[i] = vf_zero();
    }
    int h = 0;
    for (; h + INDEX_HEADS <= q->heads; h += INDEX_HEADS)
        index_heads(q, g, h, INDEX_HEADS, sum);
    for (; h < q->heads; h++)
        index_heads(q, g, h, 1, sum);
    for (int i = 0; i < INDEX_GROUPS; i++)
        vf_store(score + i * LANES, vf_mul(sum[i], vf_load(g[i].lowest)));
    return true;
}

/* ---------------------------------------------------------------- peak */

static NO_INLINE double burn(int turns)
{
    enum { CHAINS = 12 };
    vf acc[CHAINS], half = vf_set(0.5f);
    UNROLL
    for (int i = 0; i < CHAINS; i++)
        acc[i] = vf_set((float)i);
    for (int t = 0; t < turns; t++) {
        UNROLL
        for (int i = 0; i < CHAINS; i++)
            acc[i] = step(W_BF16, half, half, acc[i]);
    }
    UNROLL
    for (int i = 1; i < CHAINS; i++)
        acc[0] = vf_fma(half, acc[i], acc[0]);
    KEEP(acc[0]);
    return 2.0 * LANES * CHAINS * turns * step_columns(W_BF16);
}

static NO_INLINE double burn_bytes(int turns)
{
    enum { CHAINS = 8 };
    vi acc[CHAINS], code[CHAINS];
    UNROLL
    for (int i = 0; i < CHAINS; i++) {
        acc[i] = vi_set32(0);
        code[i] = vi_set32((uint32_t)i * 0x01010101u);
    }
    for (int t = 0; t < turns; t++) {
        UNROLL
        for (int i = 0; i < CHAINS; i++)
            acc[i] = vi_digit_add(acc[i], code[i], acc[i]);
    }
    UNROLL
    for (int i = 1; i < CHAINS; i++)
        acc[0] = vi_add32(acc[0], acc[i]);
    KEEP(acc[0]);
    return 2.0 * HALF_BYTES * CHAINS * turns;
}

static NO_INLINE void read_all(const void *p, size_t bytes)
{
    const uint8_t *at = p;
    size_t quarter = bytes / 4 / 64 * 64; /* four streams, as the kernels read */
    vi sum[4];
    UNROLL
    for (int i = 0; i < 4; i++)
        sum[i] = vi_set32(0);
    for (size_t k = 0; k < quarter; k += HALF_BYTES) {
        UNROLL
        for (int i = 0; i < 4; i++)
            sum[i] = vi_add32(sum[i], vi_load(at + (size_t)i * quarter + k));
    }
    sum[0] = vi_add32(vi_add32(sum[0], sum[1]), vi_add32(sum[2], sum[3]));
    KEEP(sum[0]);
}

const struct fast_kern KERN_NAME = {
    .name = KERN_TEXT, .tile = {X_TILE, X_TILE, X_TILE, X_TILE, D_TILE, X_TILE}, .x_bytes = X_BYTES, .pack = pack_rows,
    .pack_query = pack_query, .index_keys = LANES * INDEX_GROUPS, .index_scores = index_scores,
    .fp4 = fp4_matmul, .fp4_int8 = int8_matmul, .fp8 = fp8_matmul, .bf16 = bf16_matmul, .f32 = f32_matmul,
    .burn = burn, .burn_bytes = burn_bytes, .read = read_all,
};
