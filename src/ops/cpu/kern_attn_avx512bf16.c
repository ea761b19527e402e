/* Attention for AVX-512 with BF16: scores and value sums by vdpbf16ps. Keys are bf16 values as stored (docs/NUMERICS.md);
 * queries and softmax numerators are rounded to bf16, statistics are fp32 and of the numerators before that.
 *
 * Scores: a lane is a head, so a query is turned over once and pairs of a key's dims are broadcast; a score is one chain
 * over the dims. Value sums: a lane is a dim, pairs of keys lie together and pairs of a head's numerators are broadcast.
 * Neither needs sums over lanes, and nothing depends on how many heads there are.
 *
 * vdpbf16ps takes subnormal inputs as zero and leaves no subnormal results. Codes times scales are above 2^-32
 * (act_quant_exponent is -22 at least); a rope value below 2^-126 counts as 0. */
#include <immintrin.h>

#define KV_WIDEN(p) _mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i *)(const void *)(p)))
#define ATTN_WIDTH 16
#include "ops/cpu/attn_tmpl.h"
#include "ops/cpu/fast_fp8_bf16.h"

/* A block of keys goes by strips of STRIP dims, [strip][key][STRIP], so that a key's neighbours are at constant distances; a
 * strip is a line longer than that, which keeps a key's strips out of each other's sets of the cache. The quads of each
 * 32 dims are in the order 0 4 1 5 2 6 3 7: two keys interleaved in halves of 128 bits then come out in natural order. */
enum { STRIP = 64, LINE_HALVES = 32, STRIP_HALVES = ATTN_KEYS * STRIP + LINE_HALVES };
enum { LANES = 16, HEADS_MAX = ATTN_TILES * ATTN_HEADS, PAIRS = ATTN_KEYS / 2 };
/* Tiles: keys times one or two registers of heads; heads times up to four registers of dims. */
enum { MANY_KEYS = 12, FEW_KEYS = 8, MANY_HEADS = 6, FEW_HEADS = 4, STRIP_REGS = STRIP / LANES };

#define LOAD(p) _mm512_loadu_si512((const void *)(p))
#define STORE(p, v) _mm512_storeu_si512((void *)(p), (__m512i)(v))
#define UNROLL_ALL _Pragma("GCC unroll 24")

ALWAYS_INLINE __m512 dot_pairs(__m512 sum, __m512i a, __m512i b)
{
    return _mm512_dpbf16_ps(sum, (__m512bh)a, (__m512bh)b);
}

/* ---------------------------------------------------------------- bf16 */

/* Both rounded to nearest, ties to even, one after the other. */
ALWAYS_INLINE __m512i two_rounded(vec a, vec b)
{
    return (__m512i)_mm512_cvtne2ps_pbh((__m512)b, (__m512)a);
}

/* 32 values as bf16 in the order of a block of keys. */
ALWAYS_INLINE __m512i block_order(__m512i v)
{
    static const int64_t order[8] = {0, 4, 1, 5, 2, 6, 3, 7};
    return _mm512_permutexvar_epi64(LOAD(order), v);
}

ALWAYS_INLINE __m512i block_of(const float *x)
{
    return block_order(two_rounded(AT(x), AT(x + LANES)));
}

ALWAYS_INLINE uint16_t *key_at(void *keys, int k, int dim)
{
    return (uint16_t *)keys + dim / STRIP * STRIP_HALVES + k * STRIP + dim % STRIP;
}

static void put_key(const float *row, int hd, void *keys, int k)
{
    for (int i = 0; i < hd; i += 32)
        STORE(key_at(keys, k, i), block_of(row + i));
}

/* 64 e4m3 codes times a scale that leaves every result a normal bf16. */
ALWAYS_INLINE void put_codes(const uint8_t *in, uint8_t scale, uint16_t *to)
{
    static const int32_t order[16] = {0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15};
    __m512i code = _mm512_permutexvar_epi32(LOAD(order), LOAD(in));
    __m512i low = _mm512_permutex2var_epi8(LOAD(fp8_low), code, LOAD(fp8_low + 64));
    __m512i high = _mm512_permutex2var_epi8(LOAD(fp8_high), code, LOAD(fp8_high + 64));
    high = _mm512_or_si512(high, _mm512_and_si512(code, _mm512_set1_epi8((char)0x80)));
    const __m512i up = _mm512_set1_epi16((int16_t)((scale - 127) * 128)), size = _mm512_set1_epi16(0x7fff);
    __m512i a = _mm512_unpacklo_epi8(low, high), b = _mm512_unpackhi_epi8(low, high);
    STORE(to, _mm512_mask_add_epi16(a, _mm512_test_epi16_mask(a, size), a, up));
    STORE(to + 32, _mm512_mask_add_epi16(b, _mm512_test_epi16_mask(b, size), b, up));
}

/* Scales that put_codes takes, as rows of kv_row_put have them (from 105 on): the smallest code is 2^-9, the largest below
 * 2^9. */
ALWAYS_INLINE bool scales_ordinary(const uint8_t *scale, int n)
{
    bool ok = true;
    for (int i = 0; i < n; i++)
        ok &= scale[i] >= 10 && scale[i] <= 246;
    return ok;
}

/* Any row, by way of fp32. */
static __attribute__((noinline)) void put_decoded(const struct kv_dims *d, const uint8_t *in, void *keys, int k)
{
    for (int i = 0; i < d->head_dim; i += 32) {
        float x[32] = {0};
        kv_part_decode(d, in, i, 32, x);
        STORE(key_at(keys, k, i), block_of(x));
    }
}

static void put_stored(const struct kv_dims *d, const uint8_t *in, void *keys, int k)
{
    int nd = d->head_dim - d->rope_dim;
    const uint8_t *rope = in + nd, *scale = rope + 2 * d->rope_dim;
    bool whole = d->format == KV_FP8 && nd % STRIP == 0 && d->rope_dim % 32 == 0;
    if (!whole || !scales_ordinary(scale, nd / STRIP)) {
        put_decoded(d, in, keys, k);
        return;
    }
    for (int i = 0; i < nd; i += STRIP)
        put_codes(in + i, scale[i / STRIP], key_at(keys, k, i));
    for (int i = 0; i < d->rope_dim; i += 32)
        STORE(key_at(keys, k, nd + i), block_order(LOAD(rope + 2 * i)));
}

/* ---------------------------------------------------------------- queries */

/* Heads of a query go by groups of two registers, the last one may be of one: [group][pair of dims][head of the group]. */
ALWAYS_INLINE int group_lanes(int heads, int first)
{
    return heads - first > LANES ? 2 * LANES : LANES;
}

/* 16 rows of 16 words become columns. */
ALWAYS_INLINE void turn(__m512i *r)
{
    __m512i a[16];
    UNROLL
    for (int i = 0; i < 16; i += 4) {
        __m512i lo = _mm512_unpacklo_epi32(r[i], r[i + 1]), hi = _mm512_unpackhi_epi32(r[i], r[i + 1]);
        __m512i lo2 = _mm512_unpacklo_epi32(r[i + 2], r[i + 3]), hi2 = _mm512_unpackhi_epi32(r[i + 2], r[i + 3]);
        a[i] = _mm512_unpacklo_epi64(lo, lo2);
        a[i + 1] = _mm512_unpackhi_epi64(lo, lo2);
        a[i + 2] = _mm512_unpacklo_epi64(hi, hi2);
        a[i + 3] = _mm512_unpackhi_epi64(hi, hi2);
    }
    UNROLL
    for (int i = 0; i < 4; i++) { /* a[4 j + i]: words i, 4 + i, 8 + i, 12 + i of rows 4 j .. 4 j + 3 */
        __m512i low = _mm512_shuffle_i32x4(a[i], a[4 + i], 0x44), high = _mm512_shuffle_i32x4(a[i], a[4 + i], 0xee);
        __m512i low2 = _mm512_shuffle_i32x4(a[8 + i], a[12 + i], 0x44);
        __m512i high2 = _mm512_shuffle_i32x4(a[8 + i], a[12 + i], 0xee);
        r[i] = _mm512_shuffle_i32x4(low, low2, 0x88);
        r[4 + i] = _mm512_shuffle_i32x4(low, low2, 0xdd);
        r[8 + i] = _mm512_shuffle_i32x4(high, high2, 0x88);
        r[12 + i] = _mm512_shuffle_i32x4(high, high2, 0xdd);
    }
}

static void put_query(const float *q, int n_tiles, int hd, float scale, void *query)
{
    (void)scale;
    uint32_t *to = query;
    for (int first = 0, heads = n_tiles * ATTN_HEADS, lanes; first < heads; first += lanes) {
        lanes = group_lanes(heads, first);
        for (int h0 = first; h0 < first + lanes; h0 += LANES)
            for (int i = 0; i < hd; i += 32) {
                __m512i row[LANES];
                for (int h = 0; h < LANES; h++)
                    row[h] = h0 + h < heads ? block_of(q + (size_t)(h0 + h) * (size_t)hd + i) : _mm512_setzero_si512();
                turn(row);
                for (int w = 0; w < LANES; w++)
                    STORE(to + (i / 2 + w) * lanes + (h0 - first), row[w]);
            }
        to += (size_t)lanes * (size_t)(hd / 2);
    }
}

/* ---------------------------------------------------------------- scores */

/* nk keys with nv registers of heads: s [nk][HEADS_MAX]. */
ALWAYS_INLINE void scores_of(const uint32_t *q, const uint16_t *key, int hd, float scale, const int nk, const int nv,
                             float *s)
{
    __m512 sum[MANY_KEYS * 2];
    UNROLL_ALL
    for (int i = 0; i < nk * nv; i++)
        sum[i] = _mm512_setzero_ps();
    for (int left = hd / 2; left > 0; left -= STRIP / 2, key += STRIP_HALVES) {
        const uint32_t *word = (const uint32_t *)(const void *)key;
        for (int n = left < STRIP / 2 ? left : STRIP / 2; n > 0; n--, word++, q += nv * LANES) {
            __m512i y[2];
            UNROLL_ALL
            for (int v = 0; v < nv; v++)
                y[v] = LOAD(q + v * LANES);
            UNROLL_ALL
            for (int k = 0; k < nk; k++) {
                __m512i x = _mm512_set1_epi32((int)word[k * (STRIP / 2)]);
                UNROLL_ALL
                for (int v = 0; v < nv; v++)
                    sum[k * nv + v] = dot_pairs(sum[k * nv + v], x, y[v]);
            }
        }
    }
    UNROLL_ALL
    for (int i = 0; i < nk * nv; i++)
        _mm512_storeu_ps(s + i / nv * HEADS_MAX + i % nv * LANES, _mm512_mul_ps(sum[i], _mm512_set1_ps(scale)));
}

/* Keys k0 .. k0+nk-1 of a block with all heads. */
ALWAYS_INLINE void score_keys(const uint32_t *q, const uint16_t *keys, int k0, int heads, int hd, float scale, const int nk,
                              float *s)
{
    for (int h = 0, lanes; h < heads; h += lanes) {
        lanes = group_lanes(heads, h);
        if (lanes == 2 * LANES)
            scores_of(q, keys + k0 * STRIP, hd, scale, nk, 2, s + k0 * HEADS_MAX + h);
        else
            scores_of(q, keys + k0 * STRIP, hd, scale, nk, 1, s + k0 * HEADS_MAX + h);
        q += (size_t)lanes * (size_t)(hd / 2);
    }
}

/* ---------------------------------------------------------------- softmax */

/* A register of heads: numerators of n keys [n][HEADS_MAX] from their scores, in pairs of keys p [pairs][HEADS_MAX] rounded
 * to bf16; an odd last key's partner has none. */
static void soften(const float *s, int n, float *top, float *den, float *back, uint32_t *p)
{
    static const uint16_t turns[32] = {0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23,
                                       8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31};
    vec most = AT(top), sum = {0}, factor;
    for (int k = 0; k < n; k++) {
        vec x = AT(s + k * HEADS_MAX);
        most = (vec)_mm512_max_ps((__m512)x, (__m512)most);
    }
    factor = exp_of(AT(top) - most);
    for (int k = 0; k < n; k += 2) {
        vec first = exp_of(AT(s + k * HEADS_MAX) - most), second = {0};
        if (k + 1 < n)
            second = exp_of(AT(s + (k + 1) * HEADS_MAX) - most);
        sum += first;
        sum += second;
        STORE(p + k / 2 * HEADS_MAX, _mm512_permutexvar_epi16(LOAD(turns), two_rounded(first, second)));
    }
    sum += AT(den) * factor;
    memcpy(den, &sum, sizeof sum);
    memcpy(top, &most, sizeof most);
    memcpy(back, &factor, sizeof factor);
}

/* ---------------------------------------------------------------- value sums */

/* A strip of nv registers of two keys in turns. */
ALWAYS_INLINE void interleave(const uint16_t *key, const uint16_t *partner, const int nv, __m512i *pair)
{
    UNROLL_ALL
    for (int v = 0; v < nv; v += 2) {
        __m512i a = LOAD(key + v * LANES), b = LOAD(partner + v * LANES);
        pair[v] = _mm512_unpacklo_epi16(a, b);
        pair[v + 1] = _mm512_unpackhi_epi16(a, b);
    }
}

/* acc = acc * back + p values for nh heads and a strip of nv registers. The first heads make the pairs from n keys. */
ALWAYS_INLINE void add_pairs(const uint32_t *p, const float *back, const uint16_t *key, __m512i *pair, int n, int hd,
                             const int nh, const int nv, const bool first, float *acc)
{
    __m512 a[MANY_HEADS * STRIP_REGS];
    UNROLL_ALL
    for (int i = 0; i < nh * nv; i++)
        a[i] = _mm512_mul_ps(_mm512_loadu_ps(acc + i / nv * hd + i % nv * LANES), _mm512_set1_ps(back[i / nv]));
    for (int k = 0; k < n; k += 2, pair += nv, p += HEADS_MAX) {
        __m512i x[STRIP_REGS];
        if (first)
            interleave(key + k * STRIP, key + (k + 1 < n ? k + 1 : k) * STRIP, nv, pair);
        UNROLL_ALL
        for (int v = 0; v < nv; v++)
            x[v] = pair[v];
        UNROLL_ALL
        for (int h = 0; h < nh; h++) {
            __m512i y = _mm512_set1_epi32((int)p[h]);
            UNROLL_ALL
            for (int v = 0; v < nv; v++)
                a[h * nv + v] = dot_pairs(a[h * nv + v], y, x[v]);
        }
    }
    UNROLL_ALL
    for (int i = 0; i < nh * nv; i++)
        _mm512_storeu_ps(acc + i / nv * hd + i % nv * LANES, a[i]);
}

/* A strip of all heads. */
ALWAYS_INLINE void add_strip(const uint32_t *p, const float *back, const uint16_t *strip, int n, int heads, int hd,
                             const int nv, float *acc)
{
    __m512i pair[PAIRS * STRIP_REGS];
    for (int h = 0, nh; h < heads; h += nh) { /* heads are a multiple of 4 */
        float *to = acc + (size_t)h * (size_t)hd;
        nh = heads - h >= MANY_HEADS && heads - h != 2 * FEW_HEADS ? MANY_HEADS : FEW_HEADS;
        if (h == 0 && nh == MANY_HEADS)
            add_pairs(p, back, strip, pair, n, hd, MANY_HEADS, nv, true, to);
        else if (h == 0)
            add_pairs(p, back, strip, pair, n, hd, FEW_HEADS, nv, true, to);
        else if (nh == MANY_HEADS)
            add_pairs(p + h, back + h, NULL, pair, n, hd, MANY_HEADS, nv, false, to);
        else
            add_pairs(p + h, back + h, NULL, pair, n, hd, FEW_HEADS, nv, false, to);
    }
}

/* ---------------------------------------------------------------- a block */

/* The state of all heads, and back. */
static void unpack_state(const struct attn_tile *st, int n_tiles, float *top, float *den)
{
    for (int t = 0; t < n_tiles; t++) {
        memcpy(top + t * ATTN_HEADS, st[t].top, sizeof st->top);
        memcpy(den + t * ATTN_HEADS, st[t].den, sizeof st->den);
    }
}

static void pack_state(struct attn_tile *st, int n_tiles, const float *top, const float *den)
{
    for (int t = 0; t < n_tiles; t++) {
        memcpy(st[t].top, top + t * ATTN_HEADS, sizeof st->top);
        memcpy(st[t].den, den + t * ATTN_HEADS, sizeof st->den);
    }
}

/* Scores of keys 0 .. n-1 with all heads, s [ATTN_KEYS][HEADS_MAX]; keys that fill up the last tile have any. */
static void score_block(const void *query, int heads, float scale, const uint16_t *keys, int n, int hd,
                        const struct attn_ahead *ahead, float *s)
{
    struct fetched f = {.of = ahead};
    for (int k = 0, end = (n + FEW_KEYS - 1) / FEW_KEYS * FEW_KEYS, nk; k < end; k += nk) {
        nk = end - k >= MANY_KEYS + FEW_KEYS || end - k == MANY_KEYS ? MANY_KEYS : FEW_KEYS;
        if (nk == MANY_KEYS)
            score_keys(query, keys, k, heads, hd, scale, MANY_KEYS, s);
        else
            score_keys(query, keys, k, heads, hd, scale, FEW_KEYS, s);
        fetch_until(&f, k + nk, end);
    }
}

static void block(const void *query, int n_tiles, float scale, const void *keys, int n, int hd,
                  const struct attn_ahead *ahead, struct attn_tile *st, float *acc)
{
    int heads = n_tiles * ATTN_HEADS;
    float s[ATTN_KEYS * HEADS_MAX], top[HEADS_MAX] = {0}, den[HEADS_MAX] = {0}, back[HEADS_MAX];
    uint32_t p[PAIRS * HEADS_MAX];
    unpack_state(st, n_tiles, top, den);
    score_block(query, heads, scale, keys, n, hd, ahead, s);
    for (int h = 0; h < heads; h += LANES)
        soften(s + h, n, top + h, den + h, back + h, p + h);
    for (int i = 0; i < hd; i += STRIP) {
        const uint16_t *strip = (const uint16_t *)keys + i / STRIP * STRIP_HALVES;
        if (hd - i >= STRIP)
            add_strip(p, back, strip, n, heads, hd, STRIP_REGS, acc + i);
        else /* hd is a multiple of 32 */
            add_strip(p, back, strip, n, heads, hd, STRIP_REGS / 2, acc + i);
    }
    pack_state(st, n_tiles, top, den);
}

const struct attn_kern attn_kern_avx512bf16 = {"avx512 bf16", put_query, put_key, put_stored, block,
                                               index_block, kv_row, true};
