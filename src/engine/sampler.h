/* Inside the sampler: its scratch, and the cut that filters make. */
#ifndef HADAL_ENGINE_SAMPLER_H
#define HADAL_ENGINE_SAMPLER_H

#include "engine/engine.h"

#include <math.h>

enum { CUT_BUCKETS = 2048 };

struct sampler {
    int n_vocab;
    uint64_t *keys; /* [n_vocab] tokens of one bucket, as sort keys */
    float *masked;  /* [n_vocab] logits under a mask */
    int count[CUT_BUCKETS];
    double mass[CUT_BUCKETS];
};

/* The last token that is kept, in the order "higher logit first, lower id first among equals". */
struct cut {
    float z;
    int32_t id;
};

static inline bool cut_keeps(struct cut c, float z, int32_t id)
{
    return z > c.z || (z == c.z && id <= c.id);
}

/* The logits of the tokens in the mask, minus infinity for the others; [s->n_vocab], until the next call. */
const float *sampler_mask(struct sampler *s, const float *logits, const uint64_t *mask);

/* exp((z - top) / temperature) */
double sampler_weight(float z, float top, double temperature);

/* Where top_k and top_p cut; favourite is the first token in the order. min_p needs no cut: it is a bound on the weight. */
struct cut sampler_cut(struct sampler *s, const float *z, const struct sampling *p, int32_t favourite);

#endif
