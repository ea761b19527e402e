/* tier: between the prefix cache and the disk. Complete pages go out when nobody works on them or when they are evicted; a
 * request whose beginning is longer on disk than in memory waits until it is in memory, others go on meanwhile.
 * Belongs to the step thread. */
#ifndef HADAL_ENGINE_TIER_H
#define HADAL_ENGINE_TIER_H

#include "engine/spill.h"

struct engine;
struct job;

struct tier {
    struct spill *spill; /* NULL: there is no disk tier; then nothing here does anything */
    struct spill_key *key;  /* of each node of the cache; 0, 0: not computed yet */
    int32_t *next, *before; /* nodes to be saved, in order */
    bool *queued, *wants_tail; /* wants_tail: was worth saving its tail when it was offered */
    int32_t first, last;
    uint64_t n_dropped, n_tokens_loaded;
};

/* What of a job's beginning is on its way from the disk. */
struct tier_load {
    struct spill_key *keys; /* of its pages; NULL: nothing is on its way */
    int64_t n_keys;
    int64_t from, depth, asked, target; /* pages: in memory before; by now; asked for; wanted */
    int32_t node;    /* it stands on, so that what came stays */
    bool tail_asked, tail_came, failed;
    bool was;        /* some of it came */
    int n_tries;
};

/* Over an engine with its cache open. fingerprint and sizes are the runner's. */
int tier_open(struct engine *e, const struct engine_options *o, struct err *err);
void tier_close(struct engine *e);          /* saves what memory still holds */
void tier_offer(struct engine *e, int32_t node); /* nobody works on the pages up to here for now */
/* True when the job now waits for pages from the disk (it is in nobody's list then; tier_ready says when it can start). */
bool tier_begin(struct engine *e, struct job *j);
void tier_end(struct engine *e, struct job *j); /* it has started, or will not: what came may be evicted again */
bool tier_ready(struct engine *e, struct job *j); /* all came that can; asks for more otherwise */
void tier_receive(struct engine *e); /* takes in what the disk has done */
void tier_send(struct engine *e);    /* saves of what was offered as much as goes at once */

#endif
