/* The first tokens of a reply with their logprobs and alternatives: two replies are equal when every bit of these is. */
#ifndef TESTS_UTIL_REPLY_BITS_H
#define TESTS_UTIL_REPLY_BITS_H

#include "engine/engine.h"
#include "engine/job.h"

enum { REPLY_BITS_TOKENS = 3, REPLY_BITS_TOP = 20 };

struct reply_bits {
    int n; /* tokens kept: at most REPLY_BITS_TOKENS */
    int32_t token[REPLY_BITS_TOKENS];
    float logprob[REPLY_BITS_TOKENS][1 + REPLY_BITS_TOP]; /* of the token, then of the alternatives, best first */
    int32_t top[REPLY_BITS_TOKENS][REPLY_BITS_TOP];
    int64_t reused; /* prompt tokens that came from the cache */
};

/* Waits for the end of the job, which was submitted with logprobs and n_top_logprobs = REPLY_BITS_TOP, and releases it. */
void reply_bits_take(struct job *j, struct reply_bits *r);

#endif
