/* 16 x 16 bytes, rows and columns exchanged, in the compiler's own vectors: rows i and i + 8 are the halves of one. */
#ifndef HADAL_OPS_CPU_TURN_BYTES_H
#define HADAL_OPS_CPU_TURN_BYTES_H

#include <stdint.h>
#include <string.h>

typedef uint8_t bytes32 __attribute__((vector_size(32)));
typedef uint16_t pairs16 __attribute__((vector_size(32)));
typedef uint32_t words8 __attribute__((vector_size(32)));
typedef uint64_t quads4 __attribute__((vector_size(32)));
typedef uint64_t halves2 __attribute__((vector_size(16)));

/* Bytes, pairs and words of a and b alternating, from the low or the high half of each 128 bits. */
#define TURN_LOW_8(a, b)                                                                                           \
    __builtin_shufflevector(a, b, 0, 32, 1, 33, 2, 34, 3, 35, 4, 36, 5, 37, 6, 38, 7, 39, 16, 48, 17, 49, 18, 50, \
                            19, 51, 20, 52, 21, 53, 22, 54, 23, 55)
#define TURN_HIGH_8(a, b)                                                                                              \
    __builtin_shufflevector(a, b, 8, 40, 9, 41, 10, 42, 11, 43, 12, 44, 13, 45, 14, 46, 15, 47, 24, 56, 25, 57, 26, 58, \
                            27, 59, 28, 60, 29, 61, 30, 62, 31, 63)
#define TURN_LOW_16(a, b) __builtin_shufflevector(a, b, 0, 16, 1, 17, 2, 18, 3, 19, 8, 24, 9, 25, 10, 26, 11, 27)
#define TURN_HIGH_16(a, b) __builtin_shufflevector(a, b, 4, 20, 5, 21, 6, 22, 7, 23, 12, 28, 13, 29, 14, 30, 15, 31)
#define TURN_LOW_32(a, b) __builtin_shufflevector(a, b, 0, 8, 1, 9, 4, 12, 5, 13)
#define TURN_HIGH_32(a, b) __builtin_shufflevector(a, b, 2, 10, 3, 11, 6, 14, 7, 15)

/* in: rows `stride` bytes apart; out: 256 bytes. */
static inline void turn_bytes(const uint8_t *in, size_t stride, uint8_t *out)
{
    bytes32 row[8];
    pairs16 a[8];
    words8 b[8];
    for (int i = 0; i < 8; i++) {
        halves2 low, high;
        memcpy(&low, in + (size_t)i * stride, 16);
        memcpy(&high, in + (size_t)(i + 8) * stride, 16);
        row[i] = (bytes32)__builtin_shufflevector(low, high, 0, 1, 2, 3);
    }
    for (int i = 0; i < 4; i++) { /* rows 2i and 2i+1; columns 0..7, then 8..15 */
        a[i] = (pairs16)TURN_LOW_8(row[2 * i], row[2 * i + 1]);
        a[4 + i] = (pairs16)TURN_HIGH_8(row[2 * i], row[2 * i + 1]);
    }
    for (int i = 0; i < 4; i++) { /* four rows; columns 4i..4i+3 */
        b[2 * i] = (words8)TURN_LOW_16(a[i / 2 * 4], a[i / 2 * 4 + 1]);
        b[2 * i + 1] = (words8)TURN_LOW_16(a[i / 2 * 4 + 2], a[i / 2 * 4 + 3]);
        if (i % 2 != 0) {
            b[2 * i] = (words8)TURN_HIGH_16(a[i / 2 * 4], a[i / 2 * 4 + 1]);
            b[2 * i + 1] = (words8)TURN_HIGH_16(a[i / 2 * 4 + 2], a[i / 2 * 4 + 3]);
        }
    }
    for (int i = 0; i < 4; i++) { /* eight rows of two columns, those of rows 8..15 behind */
        quads4 low = (quads4)TURN_LOW_32(b[2 * i], b[2 * i + 1]), high = (quads4)TURN_HIGH_32(b[2 * i], b[2 * i + 1]);
        low = __builtin_shufflevector(low, low, 0, 2, 1, 3);
        high = __builtin_shufflevector(high, high, 0, 2, 1, 3);
        memcpy(out + i * 64, &low, 32);
        memcpy(out + i * 64 + 32, &high, 32);
    }
}

#endif
