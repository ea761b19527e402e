/* Part of fast_tmpl.h: byte products of weight codes with several vectors of activations: a row's two digits, rows of one
 * byte, an indexer's heads. Eight columns are two code vectors, of the columns in low nibbles and of those in high ones,
 * and two words of each activation vector. Codes are [2][width] vectors, words x [n][2], sums [n][width] vectors; n and
 * width are constants. */

#ifdef vi_digit_lane /* words are loaded four at once, not spread one by one */
ALWAYS_INLINE void add_words(const vi *code, const int32_t *x, const int n, const int width, vi *acc)
{
    UNROLL
    for (int i = 0; i < n; i += 2) {
        const int rows = i + 1 < n ? 2 : 1;
        vi words = rows == 2 ? vi_load(x + 2 * i) : vi_load_half(x + 2 * i);
        UNROLL
        for (int k = 0; k < 2 * rows * width; k++) {
            int p = k / width / rows, row = k / width % rows, at = (i + row) * width + k % width;
            acc[at] = vi_digit_lane(acc[at], code[p * width + k % width], words, 2 * row + p);
        }
    }
}
#else
#ifndef vi_digit_word
#define vi_digit_word(acc, code, digit) vi_digit_add(acc, code, vi_set32((uint32_t)*(digit)))
#endif

/* The two products of a sum follow each other, where a word has one use. */
ALWAYS_INLINE void add_words_once(const vi *code, const int32_t *x, const int n, vi *acc)
{
    UNROLL
    for (int i = 0; i < n; i++) {
        acc[i] = vi_digit_word(acc[i], code[0], x + 2 * i);
        acc[i] = vi_digit_word(acc[i], code[1], x + 2 * i + 1);
    }
}

ALWAYS_INLINE void add_words(const vi *code, const int32_t *x, const int n, const int width, vi *acc)
{
    if (width == 1) {
        add_words_once(code, x, n, acc);
        return;
    }
    UNROLL
    for (int i = 0; i < 2 * n; i++) {
        int p = i / n, row = i % n;
        UNROLL
        for (int v = 0; v < width; v++)
            acc[row * width + v] = vi_digit_word(acc[row * width + v], code[p * width + v], x + 2 * row + p);
    }
}
#endif

/* Where many activation vectors meet the same codes a level may keep codes and sums in an order of its own, with room for an
 * even number of vectors. Only these four functions know it. */
#ifdef MATRIX
#include "ops/cpu/fast_matrix_neon.h"
#else
enum { PRODUCTS = HALF_BYTES }; /* of an instruction */
#define vi_products(acc, code, words) vi_digit_add(acc, code, words)

ALWAYS_INLINE void pair_codes(vi *low, vi *high)
{
    (void)low;
    (void)high;
}

ALWAYS_INLINE void begin_sums(const int32_t *start, const int n, const int width, vi *acc)
{
    UNROLL
    for (int i = 0; i < n * width; i++)
        acc[i] = vi_set32((uint32_t)start[i / width]);
}

ALWAYS_INLINE void add_paired(const vi *code, const int32_t *x, const int n, const int width, vi *acc)
{
    add_words(code, x, n, width, acc);
}

/* Vector v of activation vector i's sums. */
ALWAYS_INLINE vi sum_of(const vi *acc, const int i, const int v, const int width)
{
    return acc[i * width + v];
}
#endif
