/* Activation packing of the fast kernels, plain C compiled at every level (kern_fast_*.c include it). See fast_kern.h. */
#include <limits.h>
#include <math.h>
#include <string.h>

#include "num/num.h"
#include "ops/cpu/fast_kern.h"

#define PACK_INLINE static inline __attribute__((always_inline))
#define NO_INLINE __attribute__((noinline))

/* The start of a block of byte products from the corrections of the columns in the low and the high half of each word:
 * both apart where products are summed in 16 bits (they wrap around and come back), together where in 32. */
static inline int32_t index_start(int32_t low, int32_t high)
{
#ifdef WIDE_DIGITS
    return low + high;
#else
    return (int32_t)((uint32_t)low & 0xffffu) | (int32_t)((uint32_t)high << 16);
#endif
}

/* Largest magnitude of n values, by bits: finite fp32 magnitudes order like integers. */
static inline float block_amax(const float *x, const int n)
{
    uint32_t top = 0;
    for (int i = 0; i < n; i++) {
        uint32_t u = f32_bits(x[i]) & 0x7fffffffu;
        top = u > top ? u : top;
    }
    return f32_from_bits(top);
}

/* v = 2^scale times a value of up to 448, rounded to 2^scale times an e4m3 value. One of exponent E has the step 2^(E-3),
 * from E = -6 on down 2^-9: adding 1.5*2^(E+20) rounds at that step, ties to even. */
static inline float e4m3_rounded(float v, const int scale)
{
    uint32_t u = f32_bits(v), e = u & 0x7f800000u, lowest = (uint32_t)(127 - 6 + scale) << 23;
    float big = f32_from_bits((e > lowest ? e : lowest) + (20u << 23 | 0x400000u));
    return f32_from_bits(f32_bits((v + big) - big) | (u & 0x80000000u));
}

/* One block to codes 2^scale as fp32 values, x 2^-e. */
static inline void block_codes(const float *x, int e, const int scale, float *codes)
{
    float factor = pow2f(scale - e);
    for (int i = 0; i < IL16_BLOCK; i++)
        codes[i] = e4m3_rounded(x[i] * factor, scale);
}

/* FX_CODES, FX_SCALED and FX_BF16 of a level that multiplies bf16 pairs (PAIRS) are the values themselves. The fp32 levels
 * take the 2^120 that a decoded FP8 weight lacks into the activations. */
#ifdef PAIRS
enum { HAS_PAIRS = 1 };
#define X_BYTES {4, 2, 2, 2, 2, 1}
#else
enum { HAS_PAIRS = 0 };
#define X_BYTES {4, 4, 4, 4, 2, 1}
#endif

/* ---------------------------------------------------------------- a tile of rows */

enum { PACK_TILE_MAX = 16 };

/* A row tile: where its m rows come from and which they are. */
struct pack_tile {
    const float *row[PACK_TILE_MAX];
    int m, first;
};

static inline void tile_open(struct pack_tile *p, const struct fast_x *x, const float *rows, size_t ldx,
                             const int32_t *index, int tile)
{
    p->first = tile * x->tile;
    p->m = x->n - p->first < x->tile ? x->n - p->first : x->tile;
    for (int i = 0; i < p->m; i++)
        p->row[i] = rows + (size_t)(index != NULL ? index[p->first + i] : p->first + i) * ldx;
}

/* The 128 columns of a block; where a row ends before, a copy with zeros. */
static inline const float *block_of(const struct fast_x *x, const float *row, int b, float *padded)
{
    int first = b * IL16_BLOCK, n = x->cols - first;
    if (n >= IL16_BLOCK)
        return row + first;
    memset(padded, 0, IL16_BLOCK * sizeof *padded);
    memcpy(padded, row + first, (size_t)n * sizeof *padded);
    return padded;
}

/* ---------------------------------------------------------------- values */

static inline bool kind_has_pairs(enum fast_x_kind k)
{
    return HAS_PAIRS != 0 && k != FX_PLAIN && k != FX_DIGITS && k != FX_INT8;
}

/* bf16 values in pairs; codes are such values already. */
static inline void block_pairs(const float *x, bool exact, uint32_t *out)
{
    if (exact) {
        for (int k = 0; k < IL16_BLOCK / 2; k++)
            out[k] = f32_bits(x[2 * k]) >> 16 | (f32_bits(x[2 * k + 1]) & 0xffff0000u);
    } else {
        for (int k = 0; k < IL16_BLOCK / 2; k++)
            out[k] = bf16_from_f32(x[2 * k]) | (uint32_t)bf16_from_f32(x[2 * k + 1]) << 16;
    }
}

static inline void block_scaled(const float *x, float factor, uint32_t *out)
{
    for (int k = 0; k < IL16_BLOCK; k++)
        out[k] = f32_bits(x[k] * factor);
}

/* Codes: in fp32 levels times 2^118 with the exponent e+2: together with 2^-120 that is 2^e. */
static inline float words_of_codes(const float *x, uint32_t *out)
{
    float codes[IL16_BLOCK];
    int e = act_quant_exponent(block_amax(x, IL16_BLOCK));
    block_codes(x, e, 0, codes);
    if (HAS_PAIRS != 0) {
        block_pairs(codes, true, out);
        return pow2f(e);
    }
    block_scaled(codes, 0x1p118f, out);
    return pow2f(e + 2);
}

/* In fp32 levels x * 2^(120-E) and 2^E, E the exponent of the largest magnitude, at least -7 so that the factor is an
 * fp32. */
static inline float words_of_scaled(const float *x, uint32_t *out)
{
    if (HAS_PAIRS != 0) {
        block_pairs(x, false, out);
        return 1;
    }
    int e = (int)(f32_bits(block_amax(x, IL16_BLOCK)) >> 23) - 127;
    e = e < -7 ? -7 : e;
    block_scaled(x, pow2f(120 - e), out);
    return pow2f(e);
}

/* The words of block b of row i, all kinds but digits: a column each, or in pairs two. */
static inline void block_words(struct fast_x *x, const float *row, int i, int b, uint32_t *out)
{
    float padded[IL16_BLOCK];
    const float *in = block_of(x, row, b, padded);
    float *scale = &x->scale[(size_t)i * (size_t)x->n_blocks + (size_t)b];
    if (x->kind == FX_CODES)
        *scale = words_of_codes(in, out);
    else if (x->kind == FX_SCALED)
        *scale = words_of_scaled(in, out);
    else if (kind_has_pairs(x->kind))
        block_pairs(in, false, out);
    else
        memcpy(out, in, IL16_BLOCK * sizeof *out);
}

typedef uint32_t quad __attribute__((vector_size(16), aligned(4), may_alias));

/* Words j .. j + 3 of the rows i .. i + 3, in out word by word, `stride` words apart. */
static inline void transpose_quads(const uint32_t (*in)[IL16_BLOCK], int i, int j, uint32_t *out, size_t stride)
{
    const quad *r0 = (const quad *)&in[i][j], *r1 = (const quad *)&in[i + 1][j];
    const quad *r2 = (const quad *)&in[i + 2][j], *r3 = (const quad *)&in[i + 3][j];
    quad a = __builtin_shufflevector(*r0, *r1, 0, 4, 1, 5), b = __builtin_shufflevector(*r0, *r1, 2, 6, 3, 7);
    quad c = __builtin_shufflevector(*r2, *r3, 0, 4, 1, 5), d = __builtin_shufflevector(*r2, *r3, 2, 6, 3, 7);
    *(quad *)out = __builtin_shufflevector(a, c, 0, 1, 4, 5);
    *(quad *)(out + stride) = __builtin_shufflevector(a, c, 2, 3, 6, 7);
    *(quad *)(out + 2 * stride) = __builtin_shufflevector(b, d, 0, 1, 4, 5);
    *(quad *)(out + 3 * stride) = __builtin_shufflevector(b, d, 2, 3, 6, 7);
}

/* Word j of all m rows, then word j + 1 ...: four rows and words at a time. Where m is no multiple of 4, the last rows go
 * first and what they write beyond their word is written again, but for the last word: it must not be the last in out. */
static inline void interleave_some(const uint32_t (*in)[IL16_BLOCK], int m, int first, int last, uint32_t *out)
{
    for (int j = first; j < last; j += 4, out += 4 * m)
        for (int i = (m - 1) / 4 * 4; i >= 0; i -= 4)
            transpose_quads(in, i, j, out + i, (size_t)m);
}

static inline void interleave(const uint32_t (*in)[IL16_BLOCK], int m, int n, uint32_t *out)
{
    uint32_t end[4 * PACK_TILE_MAX + 4];
    if (m == 1) {
        memcpy(out, in[0], (size_t)n * sizeof *out);
        return;
    }
    interleave_some(in, m, 0, n - 4, out);
    interleave_some(in, m, n - 4, n, end);
    memcpy(out + (n - 4) * m, end, (size_t)(4 * m) * sizeof *out);
}

static inline void pack_values(struct fast_x *x, const struct pack_tile *p)
{
    uint32_t words[PACK_TILE_MAX][IL16_BLOCK];
    int columns = kind_has_pairs(x->kind) ? 2 : 1; /* of a word */
    uint32_t *out = (uint32_t *)x->data + (size_t)p->first * (size_t)(x->cols_padded / columns);
    for (int b = 0; b < x->n_blocks; b++) {
        int left = x->cols_padded - b * IL16_BLOCK, n = (left < IL16_BLOCK ? left : IL16_BLOCK) / columns;
        for (int i = 0; i < p->m; i++)
            block_words(x, p->row[i], p->first + i, b, words[i]);
        interleave((const uint32_t (*)[IL16_BLOCK])words, p->m, n, out);
        out += n * p->m;
    }
}

/* ---------------------------------------------------------------- bytes of eight columns */

typedef float eight_floats __attribute__((vector_size(32), aligned(4), may_alias));
typedef int32_t eight __attribute__((vector_size(32)));
typedef uint16_t eight_halves __attribute__((vector_size(16)));
typedef uint8_t bytes16 __attribute__((vector_size(16), aligned(1), may_alias));

enum { CODE_BITS = 9 /* of an e4m3 code below 1 */ };

/* Which column of eight is where in their two words: of lines as packed, and of lines in order. */
static const uint8_t column_of[2][8] = {{0, 4, 1, 5, 2, 6, 3, 7}, {0, 2, 4, 6, 1, 3, 5, 7}};

/* The two lowest bytes of eight columns: the lower ones in column_of's order, then the others. */
PACK_INLINE void place_bytes(const eight *pairs, const bool in_order, uint8_t *out)
{
    bytes16 v = (bytes16)__builtin_convertvector(*pairs, eight_halves);
    if (in_order)
        *(bytes16 *)out = __builtin_shufflevector(v, v, 0, 4, 8, 12, 2, 6, 10, 14, 1, 5, 9, 13, 3, 7, 11, 15);
    else
        *(bytes16 *)out = __builtin_shufflevector(v, v, 0, 8, 2, 10, 4, 12, 6, 14, 1, 9, 3, 11, 5, 13, 7, 15);
}

/* From sums by column: of the columns in the low and in the high half of each word. */
PACK_INLINE void half_sums(const eight *sums, const bool in_order, int32_t *half)
{
    eight v = in_order ? __builtin_shufflevector(*sums, *sums, 0, 4, 1, 5, 2, 6, 3, 7) : *sums;
    quad q[2];
    memcpy(q, &v, sizeof q);
    q[0] += q[1];
    q[0] += __builtin_shufflevector(q[0], q[0], 2, 3, 0, 1);
    memcpy(half, q, 8);
}

PACK_INLINE int32_t group_start(const int32_t *half)
{
    return index_start(-12 * half[0], -12 * half[1]);
}

/* Rest bytes of 32 columns. */
static NO_INLINE int32_t place_rest(const eight *v, int32_t mask, bool in_order, int8_t *out)
{
    int32_t half[2] = {0, 0};
    for (int k = 0; k < 32; k++) {
        int32_t rest = v[k / 8][column_of[in_order][k % 8]] & mask;
        out[k] = (int8_t)rest;
        half[k % 4 / 2] += rest;
    }
    return group_start(half);
}

PACK_INLINE bool any_bits(const eight *v, int32_t mask)
{
    quad q[2];
    uint64_t u[2];
    memcpy(q, v, sizeof q);
    q[0] |= q[1];
    memcpy(u, q, sizeof u);
    return ((u[0] | u[1]) & ((uint64_t)mask << 32 | (uint64_t)mask)) != 0;
}

/* A group's 32 integers (fast_group), s bits too many for two digits; the words of eight columns `stride` bytes apart. */
PACK_INLINE void pack_digit_group(const float *integers, int e, int s, const bool in_order, struct fast_group *g,
                                  uint8_t *out, size_t stride, int32_t *rest)
{
    eight sums = {0}, next_sums = {0}, left = {0}, v[4];
    int32_t whole[2], next_half[2], mask = (1 << s) - 1;
    for (int l = 0; l < 4; l++, out += stride) {
        v[l] = __builtin_convertvector(*(const eight_floats *)(integers + 8 * l), eight);
        eight high = v[l] >> s, up = high + 128, both = (high & 0xff) | (up & 0xff00);
        left |= v[l];
        sums += high;
        next_sums += up >> 8;
        place_bytes(&both, in_order, out);
    }
    bool has_rest = any_bits(&left, mask);
    half_sums(&sums, in_order, whole);
    half_sums(&next_sums, in_order, next_half);
    int32_t half[2] = {whole[0] - 256 * next_half[0], whole[1] - 256 * next_half[1]};
    *g = (struct fast_group){pow2f(e - CODE_BITS - 1 + (has_rest ? 0 : s)), {group_start(half), group_start(next_half), 0},
                             has_rest ? s : 0};
    if (has_rest)
        g->start[2] = place_rest(v, mask, in_order, (int8_t *)rest);
}

/* The largest magnitudes of a block's four groups; returns the scale exponent. s: how many bits the largest integer of each
 * group has too many for two digits. */
PACK_INLINE int group_shifts(const float *x, int32_t *s)
{
    float top[4];
    for (int k = 0; k < 4; k++)
        top[k] = block_amax(x + 32 * k, 32);
    int e = act_quant_exponent(block_amax(top, 4));
    float factor = pow2f(CODE_BITS - e);
    for (int k = 0; k < 4; k++) { /* rounding keeps the order, so this is the largest integer */
        int32_t v = (int32_t)e4m3_rounded(top[k] * factor, CODE_BITS), most = 127 * 256 + 127;
        s[k] = (v > most) + (v >> 1 > most) + (v >> 2 > most);
    }
    return e;
}

PACK_INLINE void pack_digits(struct fast_x *x, const struct pack_tile *p, const bool in_order)
{
    size_t lines = (size_t)(x->cols_padded / 8), stride = (size_t)p->m * 16;
    uint8_t *out = (uint8_t *)x->data + (size_t)p->first * lines * 16;
    float integers[IL16_BLOCK], padded[IL16_BLOCK];
    for (int b = 0; b < x->n_blocks; b++) {
        int left = (x->cols_padded - b * IL16_BLOCK) / 32, n = left < IL16_BLOCK / 32 ? left : IL16_BLOCK / 32;
        for (int i = 0; i < p->m; i++) {
            const float *in = block_of(x, p->row[i], b, padded);
            int32_t s[4], e = group_shifts(in, s);
            size_t line = (size_t)(p->first + i) * lines + (size_t)(b * (IL16_BLOCK / 8));
            block_codes(in, e, CODE_BITS, integers);
            for (int k = 0; k < n; k++, line += 4)
                pack_digit_group(integers + 32 * k, e, s[k], in_order, &x->group[line / 4],
                                 out + 4 * (size_t)k * stride + 16 * i, stride, x->rest + line * 2);
        }
        out += 4 * (size_t)n * stride;
    }
}

/* int8_quant of num.h in vectors; a block without a scale, or with none that is finite, has codes 0. An integer of up to 22
 * bits is the lowest bits of its sum with 1.5*2^23, which rounds as rintf does. */
static inline float int8_codes(const float *x, eight *codes)
{
    float amax = block_amax(x, 32);
    bool in_range = amax >= 0x1p-100f && amax < INFINITY;
    float inverse = in_range ? 127.0f / amax : 0;
    for (int l = 0; l < 4; l++) {
        eight_floats v = *(const eight_floats *)(x + 8 * l) * inverse + 0x1.8p23f;
        codes[l] = in_range ? (eight)v - 0x4b400000 : (eight){0};
    }
    return in_range ? amax / 127.0f : amax < 1 ? 0 : NAN;
}

PACK_INLINE void pack_int8(struct fast_x *x, const struct pack_tile *p, const bool in_order)
{
    size_t groups = (size_t)(x->cols_padded / 32), stride = (size_t)p->m * 8;
    uint8_t *out = (uint8_t *)x->data + (size_t)p->first * groups * 32;
    for (size_t k = 0; k < groups; k++, out += 4 * stride)
        for (int i = 0; i < p->m; i++) {
            struct fast_group *g = &x->group[(size_t)(p->first + i) * groups + k];
            eight c[4];
            int32_t half[2];
            uint8_t two[2][16];
            *g = (struct fast_group){.scale = int8_codes(p->row[i] + 32 * k, c) * 0.5f};
            eight sums = (c[0] + c[1]) + (c[2] + c[3]);
            half_sums(&sums, in_order, half);
            g->start[0] = group_start(half);
            for (int l = 0; l < 2; l++) {
                eight both = (c[2 * l] & 0xff) | (c[2 * l + 1] & 0xff) << 8;
                place_bytes(&both, in_order, two[l]);
            }
            for (int l = 0; l < 4; l++)
                memcpy(out + (size_t)l * stride + 8 * i, two[l / 2] + l % 2 * 8, 8);
        }
}

static void pack_rows(struct fast_x *x, const float *rows, size_t ldx, const int32_t *index, int tile)
{
    struct pack_tile p;
    tile_open(&p, x, rows, ldx, index, tile);
    if (x->kind != FX_DIGITS && x->kind != FX_INT8)
        pack_values(x, &p);
    else if (x->kind == FX_DIGITS && x->in_order)
        pack_digits(x, &p, true);
    else if (x->kind == FX_DIGITS)
        pack_digits(x, &p, false);
    else if (x->in_order)
        pack_int8(x, &p, true);
    else
        pack_int8(x, &p, false);
}

/* ---------------------------------------------------------------- the indexer */

/* Exponent e of a block of FP4 values v = e2m1 2^e, and the codes 2 e2m1 as integers; a block of zeros has no exponent
 * (INT_MAX). The quantiser left the largest magnitude in (3, 6] 2^e. */
static inline int query_block(const float *v, int32_t *twice)
{
    float amax = block_amax(v, 32);
    if (amax == 0) {
        memset(twice, 0, 32 * sizeof *twice);
        return INT_MAX;
    }
    int e = fp4_quant_exponent(amax);
    float inverse = pow2f(-e) * 2;
    for (int i = 0; i < 32; i++)
        twice[i] = (int32_t)(v[i] * inverse);
    return e;
}

/* The largest distance up to INDEX_NEAR_MAX at which 16-bit sums of a head's values hold: magnitudes in the low and in the
 * high halves of the words. */
static inline int query_near(const int32_t *size)
{
#ifdef WIDE_DIGITS
    (void)size;
    return INDEX_NEAR_MAX;
#else
    int32_t most = 12 * (size[0] > size[1] ? size[0] : size[1]);
    int near = INDEX_NEAR_MAX;
    while (near >= 0 && most << near > INT16_MAX)
        near--;
    return near;
#endif
}

static inline bool query_head(struct fast_query *q, int h, const float *values, float weight)
{
    enum { BLOCKS_MAX = 32 };
    int32_t twice[BLOCKS_MAX * 32];
    int e[BLOCKS_MAX], blocks = q->dim / 32, lowest = INT_MAX;
    if (blocks > BLOCKS_MAX)
        return false;
    for (int b = 0; b < blocks; b++) {
        e[b] = query_block(values + b * 32, twice + b * 32);
        lowest = e[b] < lowest ? e[b] : lowest;
    }
    int32_t all[2] = {0, 0}, size[2] = {0, 0};
    q->weight[h] = lowest == INT_MAX ? 0 : weight * pow2f(lowest) * 0.25f;
    for (int b = 0; b < blocks; b++) {
        int shift = e[b] == INT_MAX ? 0 : e[b] - lowest;
        if (shift > 3)
            return false;
        int32_t part[2] = {0, 0};
        for (int k = b * 32; k < b * 32 + 32; k++) {
            int32_t v = twice[k] * (1 << shift);
            int byte = k % 8 / 2;
            ((int8_t *)&q->words[(k / 8 * q->heads + h) * 2 + k % 2])[byte] = (int8_t)v;
            part[byte / 2] -= v;
            size[byte / 2] += v < 0 ? -v : v;
        }
        q->start[b * q->heads + h] = index_start(12 * part[0], 12 * part[1]);
        all[0] += part[0];
        all[1] += part[1];
    }
    int near = query_near(size);
    q->near_start[h] = index_start(INDEX_OFFSET * all[0], INDEX_OFFSET * all[1]);
    q->near = near < q->near ? near : q->near;
    return true;
}

static bool pack_query(struct fast_query *q, const float *values, const float *weights)
{
    for (int h = 0; h < q->heads; h++)
        if (!query_head(q, h, values + (size_t)h * (size_t)q->dim, weights[h]))
            return false;
    return true;
}

/* Lowest exponent byte of a stored key's blocks and the others' distance from it, blocks of zeros left out. False: too
 * far apart. */
static inline bool key_exponents(const uint8_t *key, int dim, int *lowest, int *distance)
{
    const uint8_t *scale = key + dim / 2;
    int blocks = dim / 32, low = 255, high = 0;
    for (int b = 0; b < blocks; b++) {
        low = scale[b] < low ? scale[b] : low;
        high = scale[b] > high ? scale[b] : high;
    }
    *lowest = low;
    for (int b = 0; b < blocks; b++)
        distance[b] = scale[b] - low;
    if (high - low <= FAST_KEY_SPREAD)
        return true;
    low = 255;
    bool zero[32];
    for (int b = 0; b < blocks; b++) {
        uint64_t half[2];
        memcpy(half, key + b * 16, 16);
        zero[b] = ((half[0] | half[1]) & 0x7777777777777777u) == 0;
        low = !zero[b] && scale[b] < low ? scale[b] : low;
    }
    *lowest = low;
    for (int b = 0; b < blocks; b++) {
        distance[b] = zero[b] ? 0 : scale[b] - low;
        if (distance[b] > FAST_KEY_SPREAD)
            return false;
    }
    return true;
}
