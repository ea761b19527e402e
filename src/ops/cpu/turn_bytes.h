/* 16 x 16 bytes, rows and columns exchanged: four rounds of interleaving halves, in the compiler's own vectors. */
#ifndef HADAL_OPS_CPU_TURN_BYTES_H
#define HADAL_OPS_CPU_TURN_BYTES_H

#include <stdint.h>
#include <string.h>

typedef uint8_t bytes16 __attribute__((vector_size(16)));

/* in: rows `stride` bytes apart; out: 256 bytes. */
static inline void turn_bytes(const uint8_t *in, size_t stride, uint8_t *out)
{
    bytes16 a[16], b[16];
    for (int i = 0; i < 16; i++)
        memcpy(&a[i], in + (size_t)i * stride, 16);
    for (int round = 0; round < 4; round++) {
        for (int i = 0; i < 8; i++) {
            b[2 * i] = __builtin_shufflevector(a[i], a[i + 8], 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
            b[2 * i + 1] =
                __builtin_shufflevector(a[i], a[i + 8], 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31);
        }
        memcpy(a, b, sizeof a);
    }
    memcpy(out, a, sizeof a);
}

#endif
