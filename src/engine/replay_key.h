/* What a reply is known by, and how JSON values are compared. */
#ifndef HADAL_ENGINE_REPLAY_KEY_H
#define HADAL_ENGINE_REPLAY_KEY_H

#include "engine/replay.h"

struct digest {
    uint64_t low, high;
};

static inline bool digest_equal(struct digest a, struct digest b)
{
    return a.low == b.low && a.high == b.high;
}

struct replay_key {
    struct digest visible;   /* content and calls */
    struct digest reasoning; /* zero: none */
    uint64_t ids;            /* of the calls; 0: none */
};

/* of a reply that came in; of a turn in a prompt (false: its calls cannot be read) */
void replay_key_of_text(const struct replay_text *t, struct replay_key *k);
bool replay_key_of_turn(const struct chat_prompt *p, const struct chat_turn *t, struct replay_key *k);

/* Appends the value so that equal values give equal bytes: keys sorted, numbers by value. */
void json_normal(const json_t *v, struct buf *out);

#endif
