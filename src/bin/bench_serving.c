/* The engine under many requests: decoding together, a swarm over one prefix, a long prompt beside a running reply.
 * Everything is a ratio within one run. Sampling at a temperature so high that replies do not end by themselves. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "bin/bench.h"
#include "engine/engine.h"

enum { SWARM = 32, TAIL = 64, REPLY = 8, DECODE_TOKENS = 96, PROMPT = 32, SEQUENCES_MAX = 64, FRESH = 2 };

struct serving {
    struct bench *b;
    struct engine *engine;
    struct rng rng;
    struct ids prefix;
};

static void add_row(struct bench *b, const char *unit, double value, const char *fmt, int64_t n)
{
    struct bench_row *r = &b->rows[b->n_rows++];
    *r = (struct bench_row){.unit = unit, .value = value, .roofline = -1};
    snprintf(r->name, sizeof r->name, "%s", fmt);
    if (n > 0)
        snprintf(r->name, sizeof r->name, "%s %" PRId64, fmt, n);
}

static int open_serving(struct serving *s, bool cache, struct err *e)
{
    struct engine_options o;
    engine_options_init(&o);
    o.model = s->b->args.model;
    o.no_cache = !cache;
    o.n_keep = -1;
    o.max_running = SEQUENCES_MAX;
    return engine_open(&s->engine, s->b->dir, &o, NULL, e);
}

/* The first n tokens of the prefix and `more` random ones. */
static struct job *submit(struct serving *s, size_t n, int more, int64_t max_tokens, struct err *e)
{
    const struct request_env *env = engine_env(s->engine);
    struct gen_request r = {.params = {.max_tokens = max_tokens, .raw = true}};
    struct job *j = NULL;
    sampling_init(&r.params.sampling);
    r.params.sampling.temperature = 1000;
    r.params.sampling.seed = rng_u64(&s->rng);
    for (size_t i = 0; i < n; i++)
        ids_add(&r.prompt, s->prefix.data[i]);
    for (int i = 0; i < more; i++)
        ids_add(&r.prompt, (int32_t)rng_below(&s->rng, (uint32_t)env->n_vocab));
    engine_submit(s->engine, &r, NULL, NULL, &j, e);
    return j;
}

static struct gen_usage wait_end(struct job **j)
{
    struct gen_event ev = {0};
    while (engine_next(*j, &ev, -1) == 1)
        ;
    engine_release(j);
    return ev.usage;
}

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return x < y ? -1 : x > y;
}

static double median(double *v, int n)
{
    qsort(v, (size_t)n, sizeof *v, by_value);
    return v[n / 2];
}

/* Reply tokens per second of n sequences together. */
static int decode_rate(struct serving *s, int n, double *rate, struct err *e)
{
    struct job *jobs[SEQUENCES_MAX];
    int64_t tokens = 0;
    uint64_t longest = 1;
    for (int i = 0; i < n; i++)
        if ((jobs[i] = submit(s, 0, PROMPT, DECODE_TOKENS, e)) == NULL)
            return e->code;
    for (int i = 0; i < n; i++) {
        struct gen_usage u = wait_end(&jobs[i]);
        tokens += u.completion_tokens - 1; /* the first one belongs to the prompt */
        longest = u.completion_ns > longest ? u.completion_ns : longest;
    }
    *rate = (double)tokens / ((double)longest * 1e-9);
    return HD_OK;
}

static int measure_decode(struct serving *s, struct err *e)
{
    static const int counts[] = {1, 4, 16, 64};
    double rates[COUNT_OF(counts)][BENCH_ROUNDS_MAX];
    for (int k = 0; k < s->b->rounds; k++)
        for (size_t i = 0; i < COUNT_OF(counts); i++)
            if (decode_rate(s, counts[i], &rates[i][k], e) != HD_OK)
                return e->code;
    double one = 0;
    for (size_t i = 0; i < COUNT_OF(counts); i++) {
        double rate = median(rates[i], s->b->rounds);
        one = i == 0 ? rate : one;
        add_row(s->b, "tokens/s", rate, "serving decode x", counts[i]);
        if (i > 0)
            add_row(s->b, "x of one", rate / one, "serving decode gain x", counts[i]);
    }
    return HD_OK;
}

/* Milliseconds from the submission to the first token. */
static int first_token_ms(struct serving *s, size_t n_prefix, double *ms, struct err *e)
{
    struct job *j = submit(s, n_prefix, TAIL, 1, e);
    if (j == NULL)
        return e->code;
    struct gen_usage u = wait_end(&j);
    *ms = (double)(u.queue_ns + u.prompt_ns) * 1e-6;
    return HD_OK;
}

static int run_swarm(struct serving *s, int n, double *seconds, double *computed, struct err *e)
{
    struct job *jobs[SWARM];
    struct engine_stats before, after;
    uint64_t from = now_ns();
    engine_read_stats(s->engine, &before);
    for (int i = 0; i < n; i++)
        if ((jobs[i] = submit(s, s->prefix.n, TAIL, REPLY, e)) == NULL)
            return e->code;
    for (int i = 0; i < n; i++)
        wait_end(&jobs[i]);
    engine_read_stats(s->engine, &after);
    *seconds = (double)(now_ns() - from) * 1e-9;
    *computed = (double)(after.prompt_tokens - before.prompt_tokens);
    return HD_OK;
}

static int measure_swarm(struct serving *s, struct err *e)
{
    double seconds = 0, computed = 1, hit[BENCH_ROUNDS_MAX], alone[BENCH_ROUNDS_MAX];
    if (run_swarm(s, SWARM, &seconds, &computed, e) != HD_OK)
        return e->code;
    double all = (double)SWARM * (double)(s->prefix.n + TAIL);
    add_row(s->b, "tokens", (double)s->prefix.n, "serving swarm prefix", 0);
    add_row(s->b, "x less", all / computed, "serving swarm prefill work", 0);
    add_row(s->b, "seconds", seconds, "serving swarm time", 0);
    for (int k = 0; k < s->b->rounds; k++)
        if (first_token_ms(s, s->prefix.n, &hit[k], e) != HD_OK || first_token_ms(s, 0, &alone[k], e) != HD_OK)
            return e->code;
    double ms = median(hit, s->b->rounds), tail = median(alone, s->b->rounds);
    add_row(s->b, "ms", ms, "serving first token of a hit", 0);
    add_row(s->b, "x of tail", ms / tail, "serving first token of a hit", 0);
    return HD_OK;
}

/* Milliseconds a reply token takes, alone and while a long prompt is computed beside it. */
static int measure_beside(struct serving *s, struct err *e)
{
    struct job *j = submit(s, 0, PROMPT, DECODE_TOKENS, e), *prompt;
    if (j == NULL)
        return e->code;
    struct gen_usage u = wait_end(&j);
    double alone = (double)u.completion_ns * 1e-6 / (double)(u.completion_tokens - 1);
    struct gen_event ev = {0};
    if ((j = submit(s, 0, PROMPT, 24, e)) == NULL)
        return e->code;
    while (ev.kind == GEN_PROMPT && ev.done < PROMPT && engine_next(j, &ev, -1) == 1)
        ;
    if ((prompt = submit(s, 0, (int)s->prefix.n, 1, e)) == NULL) {
        engine_release(&j);
        return e->code;
    }
    u = wait_end(&j);
    engine_release(&prompt);
    double beside = (double)u.completion_ns * 1e-6 / (double)(u.completion_tokens - 1);
    add_row(s->b, "ms", alone, "serving reply token alone", 0);
    add_row(s->b, "ms", beside, "serving reply token, prompt beside", 0);
    return HD_OK;
}

/* A few requests of the swarm on an engine that keeps nothing. */
static int measure_fresh(struct serving *s, struct err *e)
{
    double seconds = 0, computed = 0;
    int rc = run_swarm(s, FRESH, &seconds, &computed, e);
    if (rc == HD_OK)
        add_row(s->b, "seconds", seconds / FRESH, "serving one request, no cache", 0);
    return rc;
}

int bench_serving(struct bench *b, struct err *e)
{
    struct serving s = {.b = b, .rng = {1}};
    if (b->only != NULL && strncmp(b->only, "serving disk", 12) == 0)
        return bench_spill(b, e);
    int rc = open_serving(&s, true, e);
    if (rc != HD_OK)
        return rc;
    for (int64_t i = 0; i < b->contexts[0]; i++)
        ids_add(&s.prefix, (int32_t)rng_below(&s.rng, (uint32_t)engine_env(s.engine)->n_vocab));
    rc = measure_decode(&s, e);
    if (rc == HD_OK)
        rc = measure_swarm(&s, e);
    if (rc == HD_OK)
        rc = measure_beside(&s, e);
    engine_close(&s.engine);
    if (rc == HD_OK)
        rc = open_serving(&s, false, e);
    if (rc == HD_OK) {
        rc = measure_fresh(&s, e);
        engine_close(&s.engine);
    }
    ids_free(&s.prefix);
    return rc != HD_OK ? rc : bench_spill(b, e);
}
