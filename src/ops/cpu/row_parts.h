/* What the levels of row_kern.h share: constants of the exponential, order keys of scores, bins of their highest bits.
 *
 * e^x = 2^n p(r), n = round(x / ln 2), r = x - n ln 2 in two parts (Cody and Waite), p a polynomial of degree 7; relative
 * error below 2e-7, overflow to infinity, gradual underflow, NaN stays NaN. */
#ifndef HADAL_ROW_PARTS_H
#define HADAL_ROW_PARTS_H

#include "num/num.h"
#include "ops/cpu/row_kern.h"

#define EXP_LOW -104.0f /* below: 0 */
#define EXP_HIGH 89.0f  /* above: infinity */
#define EXP_LOG2E 1.44269504f
#define EXP_LN2_HIGH 0.693359375f
#define EXP_LN2_LOW -2.12194440e-4f
#define EXP_ROUND 0x1.8p23f /* added and taken away it leaves the nearest integer */
#define EXP_P7 1.9875691500e-4f
#define EXP_P6 1.3981999507e-3f
#define EXP_P5 8.3334519073e-3f
#define EXP_P4 4.1665795894e-2f
#define EXP_P3 1.6666665459e-1f
#define EXP_P2 5.0000001201e-1f

enum { BIN_SHIFT = 20, FINE_BITS = BIN_SHIFT / 2, FINE_BINS = 1 << FINE_BITS };

/* fp32 as an unsigned integer of the same order (-0 equals +0; a NaN sorts above or below everything, as its sign says). */
static inline uint32_t row_order_key(float x)
{
    uint32_t u = f32_bits(x + 0.0f);
    return u & 0x80000000u ? ~u : u | 0x80000000u;
}

/* The largest bin that at least *k values lie in or above; *k: how many of the bin's own are among the k. */
static inline uint32_t bin_of_kth(const int32_t *count, int n_bins, int64_t *k)
{
    int b = n_bins - 1;
    while (count[b] < *k)
        *k -= count[b--];
    return (uint32_t)b;
}

/* The order key of the k-th largest of the n_found keys that share the highest bits `bin`; *k as of bin_of_kth. */
static inline uint32_t key_of_kth(const uint32_t *found, int64_t n_found, uint32_t bin, int64_t *k)
{
    uint32_t prefix = bin << BIN_SHIFT;
    for (int shift = BIN_SHIFT - FINE_BITS; shift >= 0; shift -= FINE_BITS) {
        int32_t fine[FINE_BINS] = {0};
        for (int64_t i = 0; i < n_found; i++)
            if (found[i] >> (shift + FINE_BITS) == prefix >> (shift + FINE_BITS))
                fine[found[i] >> shift & (FINE_BINS - 1)]++;
        prefix |= bin_of_kth(fine, FINE_BINS, k) << shift;
    }
    return prefix;
}

#endif
