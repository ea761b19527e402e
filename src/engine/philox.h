/* Philox4x32-10, the counter-based generator of Salmon, Moraes, Dror and Shaw, "Parallel random numbers: as easy as
 * 1, 2, 3" (SC 2011): 128 random bits as a fixed function of a 128-bit counter and a 64-bit key. */
#ifndef HADAL_ENGINE_PHILOX_H
#define HADAL_ENGINE_PHILOX_H

#include <stdint.h>

enum { PHILOX_ROUNDS = 10 };

/* Word i of the key in a round: a Weyl sequence of the golden ratio, and of sqrt(3) - 1. */
static inline uint32_t philox_key(const uint32_t key[2], int i, int round)
{
    return key[i] + (uint32_t)round * (i == 0 ? 0x9e3779b9u : 0xbb67ae85u);
}

static inline void philox_round(uint32_t *a, uint32_t *b, uint32_t *c, uint32_t *d, uint32_t k0, uint32_t k1)
{
    uint64_t p = (uint64_t)0xd2511f53u * *a;
    uint64_t q = (uint64_t)0xcd9e8d57u * *c;
    *a = (uint32_t)(q >> 32) ^ *b ^ k0;
    *b = (uint32_t)q;
    *c = (uint32_t)(p >> 32) ^ *d ^ k1;
    *d = (uint32_t)p;
}

static inline void philox4x32_10(const uint32_t counter[4], const uint32_t key[2], uint32_t out[4])
{
    for (int i = 0; i < 4; i++)
        out[i] = counter[i];
    for (int round = 0; round < PHILOX_ROUNDS; round++)
        philox_round(&out[0], &out[1], &out[2], &out[3], philox_key(key, 0, round), philox_key(key, 1, round));
}

#endif
