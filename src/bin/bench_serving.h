/* What the measurements of the engine share (bench_serving.c, bench_agent.c). */
#ifndef HADAL_BENCH_SERVING_H
#define HADAL_BENCH_SERVING_H

#include "bin/bench.h"
#include "engine/engine.h"

struct serving {
    struct bench *b;
    struct engine *engine;
    struct rng rng;
    struct ids prefix;
};

/* n > 0 is appended to the name. */
void serving_row(struct bench *b, const char *unit, double value, const char *name, int64_t n);
/* How an engine keeps state: not at all, whole pages, or as it does by default. */
enum serving_cache { SERVING_NONE, SERVING_PAGES, SERVING_ALL };
int serving_open(struct serving *s, enum serving_cache cache, struct err *e);
/* The first n tokens of the prefix and `more` random ones; NULL on an error. */
struct job *serving_submit(struct serving *s, size_t n, int more, int64_t max_tokens, struct err *e);
struct gen_usage serving_wait(struct job **j);
double serving_median(double *v, int n);

/* A conversation with tool results, sent back whole as JSON in every turn: the recorded one, or 40 made-up turns. */
int serving_agent(struct serving *s, struct err *e);

#endif
