/* Activation packing of the fast kernels, plain C compiled at every level (kern_fast_*.c include it). See fast_kern.h. */
#include <limits.h>
#include <math.h>
#include <string.h>

#include "num/num.h"
#include "ops/cpu/fast_kern.h"

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
static inline float block_amax(const float *x, int n)
{
    uint32_t top = 0;
    for (int i = 0; i < n; i++) {
        uint32_t u = f32_bits(x[i]) & 0x7fffffffu;
        top = u > top ? u : top;
    }
    return f32_from_bits(top);
}

/* v rounded to e4m3 as an fp32 value; |v| <= 448. Below 2^-6 the step is 2^-9: adding 1.5*2^14 rounds at that step. */
static inline float e4m3_rounded(float v)
{
    uint32_t u = f32_bits(v), a = u & 0x7fffffffu;
    uint32_t normal = (a + 0x7ffffu + (a >> 20 & 1)) & 0xfff00000u;
    uint32_t small = f32_bits((f32_from_bits(a) + 0x1.8p14f) - 0x1.8p14f);
    return f32_from_bits((u & 0x80000000u) | (a < 0x3c800000u ? small : normal));
}

/* One block (n <= 128 values) to codes as fp32 values; returns the scale exponent. */
static inline int block_codes(const float *x, int n, float *codes)
{
    int e = act_quant_exponent(block_amax(x, n));
    float inverse = pow2f(-e);
    for (int i = 0; i < n; i++)
        codes[i] = e4m3_rounded(x[i] * inverse);
    return e;
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

static inline bool kind_has_pairs(enum fast_x_kind k)
{
    return HAS_PAIRS != 0 && k != FX_PLAIN && k != FX_DIGITS && k != FX_INT8;
}

/* Codes, in fp32 levels times 2^118 with the exponent e+2: together with 2^-120 that is 2^e. */
static inline float block_fp8(const float *x, int n, float *out)
{
    int e = block_codes(x, n, out);
    if (HAS_PAIRS != 0)
        return pow2f(e);
    for (int i = 0; i < n; i++)
        out[i] *= 0x1p118f;
    return pow2f(e + 2);
}

/* x * 2^(120-E) and 2^E, E the exponent of the largest magnitude, at least -7 so that the factor is an fp32. */
static inline float block_scaled(const float *x, int n, float *out)
{
    int e = (int)(f32_bits(block_amax(x, n)) >> 23) - 127;
    e = e < -7 ? -7 : e;
    float factor = HAS_PAIRS != 0 ? 1.0f : pow2f(120 - e);
    for (int i = 0; i < n; i++)
        out[i] = x[i] * factor;
    return HAS_PAIRS != 0 ? 1.0f : pow2f(e);
}

/* Prepares block b of one row (all kinds but digits) into out [128]; columns beyond the row are 0. */
static inline void block_values(struct fast_x *x, const float *row, int i, int b, float *out)
{
    int first = b * IL16_BLOCK, n = x->cols - first < IL16_BLOCK ? x->cols - first : IL16_BLOCK;
    float *scale = &x->scale[(size_t)i * (size_t)x->n_blocks + (size_t)b];
    memset(out + n, 0, (size_t)(IL16_BLOCK - n) * sizeof *out);
    if (x->kind == FX_CODES)
        *scale = block_fp8(row + first, n, out);
    else if (x->kind == FX_SCALED)
        *scale = block_scaled(row + first, n, out);
    else
        memcpy(out, row + first, (size_t)n * sizeof *out);
}

/* Row i takes word j of every m words of its tile; in pairs a word is two columns. */
static inline void pack_values_row(struct fast_x *x, const float *row, int i)
{
    bool pairs = kind_has_pairs(x->kind);
    int t = i / x->tile, left = x->n - t * x->tile, m = left < x->tile ? left : x->tile;
    size_t words = (size_t)(pairs ? x->cols_padded / 2 : x->cols_padded);
    uint32_t *out = (uint32_t *)x->data + (size_t)t * (size_t)x->tile * words + i % x->tile;
    float block[IL16_BLOCK];
    for (int b = 0; b < x->n_blocks; b++) {
        block_values(x, row, i, b, block);
        int first = b * IL16_BLOCK, n = x->cols_padded - first < IL16_BLOCK ? x->cols_padded - first : IL16_BLOCK;
        for (int k = 0; k < n; k += pairs ? 2 : 1, out += m)
            *out = pairs ? bf16_from_f32(block[k]) | (uint32_t)bf16_from_f32(block[k + 1]) << 16 : f32_bits(block[k]);
    }
}

/* Splits the 32 integers v = 512 code of a group (fast_group): digit and rest bytes in the order of the columns. */
static inline void split_group(const float *codes, int e, struct fast_group *g, int8_t *d0, int8_t *d1, int8_t *rest)
{
    int32_t v[32], top = 0, left = 0, s = 0;
    for (int k = 0; k < 32; k++) {
        v[k] = (int32_t)(codes[k] * 512);
        int32_t size = v[k] < 0 ? -v[k] : v[k];
        top = size > top ? size : top;
    }
    while (top >> s > 127 * 256 + 127)
        s++;
    for (int k = 0; k < 32; k++) {
        int32_t high = v[k] >> s, low = ((high + 128) & 255) - 128;
        d0[k] = (int8_t)low;
        d1[k] = (int8_t)((high - low) / 256);
        rest[k] = (int8_t)(v[k] - high * (1 << s));
        left |= rest[k];
    }
    g->shift = left != 0 ? s : 0;
    g->scale = pow2f(e - 10 + (left != 0 ? 0 : s));
}

/* Bytes of 32 columns into the words of fast_x, `stride` bytes from eight columns to the next; returns the start. */
static inline int32_t place_group(const int8_t *d, const uint8_t *column, int8_t *out, size_t stride)
{
    int32_t low = 0, high = 0; /* halves of the words */
    for (int k = 0; k < 32; k += 8, out += stride) {
        for (int i = 0; i < 8; i++)
            out[i] = d[k + column[i]];
        low -= out[0] + out[1] + out[4] + out[5];
        high -= out[2] + out[3] + out[6] + out[7];
    }
    return index_start(12 * low, 12 * high);
}

/* Which column of eight is where in their two words: of lines as packed, and of lines in order. */
static const uint8_t column_of[2][8] = {{0, 4, 1, 5, 2, 6, 3, 7}, {0, 2, 4, 6, 1, 3, 5, 7}};

static inline void pack_digits_row(struct fast_x *x, const float *row, int i)
{
    int t = i / x->tile, left = x->n - t * x->tile, m = left < x->tile ? left : x->tile;
    size_t lines = (size_t)(x->cols_padded / 8), stride = (size_t)m * 16;
    int8_t *out = (int8_t *)x->data + ((size_t)t * (size_t)x->tile * lines + (size_t)(i % x->tile)) * 16;
    int8_t *rest_out = (int8_t *)(x->rest + (size_t)i * lines * 2);
    struct fast_group *g = x->group + (size_t)i * (lines / 4);
    const uint8_t *column = column_of[x->in_order];
    float codes[IL16_BLOCK];
    for (int first = 0; first < x->cols; first += IL16_BLOCK) {
        int n = x->cols - first < IL16_BLOCK ? x->cols - first : IL16_BLOCK, e = block_codes(row + first, n, codes);
        for (int k = 0; k < n; k += 32, g++, out += 4 * stride, rest_out += 32) {
            int8_t d0[32], d1[32], rest[32];
            split_group(codes + k, e, g, d0, d1, rest);
            g->start[0] = place_group(d0, column, out, stride);
            g->start[1] = place_group(d1, column, out + 8, stride);
            g->start[2] = g->shift != 0 ? place_group(rest, column, rest_out, 8) : 0;
        }
    }
}

/* int8_quant of num.h in vectors; a block without a scale, or with none that is finite, has codes 0. */
static inline float int8_codes(const float *x, int8_t *codes)
{
    float amax = block_amax(x, 32);
    bool in_range = amax >= 0x1p-100f && amax < INFINITY;
    float inverse = in_range ? 127.0f / amax : 0;
    for (int k = 0; k < 32; k++)
        codes[k] = (int8_t)(int32_t)rintf(in_range ? x[k] * inverse : 0);
    return in_range ? amax / 127.0f : amax < 1 ? 0 : NAN;
}

static inline void pack_int8_row(struct fast_x *x, const float *row, int i)
{
    int t = i / x->tile, left = x->n - t * x->tile, m = left < x->tile ? left : x->tile;
    size_t lines = (size_t)(x->cols_padded / 8), stride = (size_t)m * 8;
    int8_t *out = (int8_t *)x->data + ((size_t)t * (size_t)x->tile * lines + (size_t)(i % x->tile)) * 8;
    struct fast_group *g = x->group + (size_t)i * (lines / 4);
    for (int k = 0; k < x->cols; k += 32, g++, out += 4 * stride) {
        int8_t codes[32];
        *g = (struct fast_group){.scale = int8_codes(row + k, codes) * 0.5f};
        g->start[0] = place_group(codes, column_of[x->in_order], out, stride);
    }
}

static void pack_rows(struct fast_x *x, const float *rows, size_t ldx, int first, int last)
{
    for (int i = first; i < last; i++) {
        if (x->kind == FX_DIGITS)
            pack_digits_row(x, rows + (size_t)i * ldx, i);
        else if (x->kind == FX_INT8)
            pack_int8_row(x, rows + (size_t)i * ldx, i);
        else
            pack_values_row(x, rows + (size_t)i * ldx, i);
    }
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
            ((int8_t *)&q->words[(k / 8 * 2 + k % 2) * q->heads + h])[byte] = (int8_t)v;
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
