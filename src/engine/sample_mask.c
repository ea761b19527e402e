/* Logits under a mask of tokens. */
#include "engine/sampler.h"

#include <string.h>

/* Words of 64 tokens of which none or all may come need no look at their bits. */
const float *sampler_mask(struct sampler *s, const float *logits, const uint64_t *mask)
{
    for (int i = 0; i < s->n_vocab; i += 64) {
        uint64_t bits = mask[i / 64];
        int n = s->n_vocab - i < 64 ? s->n_vocab - i : 64;
        if (bits == UINT64_MAX) {
            memcpy(s->masked + i, logits + i, (size_t)n * sizeof *logits);
            continue;
        }
        for (int k = 0; k < n; k++)
            s->masked[i + k] = -INFINITY;
        for (; bits != 0; bits &= bits - 1) {
            int k = __builtin_ctzll(bits);
            if (k < n)
                s->masked[i + k] = logits[i + k];
        }
    }
    return s->masked;
}
