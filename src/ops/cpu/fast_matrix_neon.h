/* Part of fast_words_tmpl.h for NEON with i8mm: an instruction multiplies eight columns of two matrix rows and of two
 * activation vectors into four sums, where the dot product takes four columns of four rows and of one vector. Two code
 * vectors of four rows become one of rows 0 and 1 and one of rows 2 and 3. In the place of the sums of activation vector 2i
 * are those of rows 0 and 1 with vectors 2i and 2i+1, alternating, in the place of 2i+1 those of rows 2 and 3. */

enum { PRODUCTS = 2 * HALF_BYTES };
#define vi_products(acc, code, words) vusmmlaq_s32(acc, AS_U8(code), AS_S8(words))

ALWAYS_INLINE void pair_codes(vi *low, vi *high)
{
    vi a = *low, b = *high;
    *low = vi_low32_pairs(a, b);
    *high = vi_high32_pairs(a, b);
}

ALWAYS_INLINE void begin_sums(const int32_t *start, const int n, const int width, vi *acc)
{
    UNROLL
    for (int i = 0; i < n; i += 2) {
        int32x2_t two = i + 1 < n ? vld1_s32(start + i) : vdup_n_s32(start[i]);
        UNROLL
        for (int k = 0; k < 2 * width; k++)
            acc[i * width + k] = vcombine_s32(two, two);
    }
}

ALWAYS_INLINE void add_paired(const vi *code, const int32_t *x, const int n, const int width, vi *acc)
{
    UNROLL
    for (int i = 0; i < n; i += 2) {
        vi words = i + 1 < n ? vi_load(x + 2 * i) : vi_load_half(x + 2 * i);
        UNROLL
        for (int k = 0; k < 2 * width; k++)
            acc[i * width + k] = vi_products(acc[i * width + k], code[k], words);
    }
}

ALWAYS_INLINE vi sum_of(const vi *acc, const int i, const int v, const int width)
{
    vi first = acc[i / 2 * 2 * width + v], second = acc[i / 2 * 2 * width + width + v];
    return i % 2 == 0 ? vuzp1q_s32(first, second) : vuzp2q_s32(first, second);
}
