/* The engine under many requests: decoding together, a swarm over one prefix, a long prompt beside a running reply.
 * Everything is a ratio within one run. Sampling at a temperature so high that replies do not end by themselves. */
#include "bin/bench_serving.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { SWARM = 32, TAIL = 64, REPLY = 8, DECODE_TOKENS = 64, QUICK_TOKENS = 16, PROMPT = 32, SEQUENCES_MAX = 64, FRESH = 2 };

void serving_row(struct bench *b, const char *unit, double value, const char *name, int64_t n)
{
    struct bench_row *r = &b->rows[b->n_rows++];
    *r = (struct bench_row){.unit = unit, .value = value, .roofline = -1};
    snprintf(r->name, sizeof r->name, "%s", name);
    if (n > 0)
        snprintf(r->name, sizeof r->name, "%s %" PRId64, name, n);
}

int serving_open(struct serving *s, enum serving_cache cache, struct err *e)
{
    struct engine_options o;
    engine_options_init(&o);
    o.model = s->b->args.model;
    o.no_cache = cache == SERVING_NONE;
    o.n_keep = cache == SERVING_ALL ? 0 : -1;
    o.max_running = SEQUENCES_MAX;
    return engine_open(&s->engine, s->b->dir, &o, NULL, e);
}

struct job *serving_submit(struct serving *s, size_t n, int more, int64_t max_tokens, struct err *e)
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

struct gen_usage serving_wait(struct job **j)
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

double serving_median(double *v, int n)
{
    qsort(v, (size_t)n, sizeof *v, by_value);
    return v[n / 2];
}

static int decode_tokens(const struct serving *s)
{
    return s->b->quick ? QUICK_TOKENS : DECODE_TOKENS;
}

/* Reply tokens per second of n sequences together. */
static int decode_rate(struct serving *s, int n, double *rate, struct err *e)
{
    struct job *jobs[SEQUENCES_MAX];
    int64_t tokens = 0;
    uint64_t longest = 1;
    for (int i = 0; i < n; i++)
        if ((jobs[i] = serving_submit(s, 0, PROMPT, decode_tokens(s), e)) == NULL)
            return e->code;
    for (int i = 0; i < n; i++) {
        struct gen_usage u = serving_wait(&jobs[i]);
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
        double rate = serving_median(rates[i], s->b->rounds);
        one = i == 0 ? rate : one;
        serving_row(s->b, "tokens/s", rate, "serving decode x", counts[i]);
        if (i > 0)
            serving_row(s->b, "x of one", rate / one, "serving decode gain x", counts[i]);
    }
    return HD_OK;
}

/* Milliseconds from the submission to the first token. */
static int first_token_ms(struct serving *s, size_t n_prefix, double *ms, struct err *e)
{
    struct job *j = serving_submit(s, n_prefix, TAIL, 1, e);
    if (j == NULL)
        return e->code;
    struct gen_usage u = serving_wait(&j);
    *ms = (double)(u.queue_ns + u.prompt_ns) * 1e-6;
    return HD_OK;
}

/* What the tail costs at its place in the prefix, without an engine: milliseconds for its rows and the first logits. The
 * engine's thread sleeps meanwhile, so its model is ours. */
static int tail_at_depth_ms(struct serving *s, double *ms, struct err *e)
{
    struct model *m = (struct model *)(uintptr_t)engine_model(s->engine);
    int64_t depth = (int64_t)s->prefix.n;
    struct kv_seq *seq;
    struct step_result r;
    int32_t tokens[TAIL];
    for (int i = 0; i < TAIL; i++)
        tokens[i] = (int32_t)rng_below(&s->rng, (uint32_t)engine_env(s->engine)->n_vocab);
    int rc = kv_seq_open(&seq, m, depth + TAIL, e);
    if (rc != HD_OK)
        return rc;
    rc = kv_seq_synthesise(seq, depth, 1, e);
    uint64_t from = now_ns();
    if (rc == HD_OK)
        rc = model_prefill(m, seq, tokens, TAIL, true, NULL, &r, e);
    *ms = (double)(now_ns() - from) * 1e-6;
    kv_seq_close(&seq);
    return rc;
}

/* The first token of a hit against its tail alone: from nothing, and at its place behind the prefix. */
static int measure_hit(struct serving *s, struct err *e)
{
    double hit[BENCH_ROUNDS_MAX], alone[BENCH_ROUNDS_MAX], deep[BENCH_ROUNDS_MAX];
    int n = s->b->rounds;
    if (first_token_ms(s, s->prefix.n, &hit[0], e) != HD_OK) /* now the prefix is there */
        return e->code;
    for (int k = 0; k < n; k++)
        if (first_token_ms(s, s->prefix.n, &hit[k], e) != HD_OK || first_token_ms(s, 0, &alone[k], e) != HD_OK ||
            tail_at_depth_ms(s, &deep[k], e) != HD_OK)
            return e->code;
    double ms = serving_median(hit, n);
    serving_row(s->b, "ms", ms, "serving hit, first token", 0);
    serving_row(s->b, "x of tail", ms / serving_median(deep, n), "serving hit, first token, tail at its depth", 0);
    serving_row(s->b, "x of tail", ms / serving_median(alone, n), "serving hit, first token, tail from nothing", 0);
    return HD_OK;
}

static int run_swarm(struct serving *s, int n, double *seconds, double *computed, struct err *e)
{
    struct job *jobs[SWARM];
    struct engine_stats before, after;
    uint64_t from = now_ns();
    engine_read_stats(s->engine, &before);
    for (int i = 0; i < n; i++)
        if ((jobs[i] = serving_submit(s, s->prefix.n, TAIL, REPLY, e)) == NULL)
            return e->code;
    for (int i = 0; i < n; i++)
        serving_wait(&jobs[i]);
    engine_read_stats(s->engine, &after);
    *seconds = (double)(now_ns() - from) * 1e-9;
    *computed = (double)(after.prompt_tokens - before.prompt_tokens);
    return HD_OK;
}

static int measure_swarm(struct serving *s, struct err *e)
{
    double seconds = 0, computed = 1;
    if (run_swarm(s, SWARM, &seconds, &computed, e) != HD_OK)
        return e->code;
    double all = (double)SWARM * (double)(s->prefix.n + TAIL);
    serving_row(s->b, "tokens", (double)s->prefix.n, "serving swarm prefix", 0);
    serving_row(s->b, "x less", all / computed, "serving swarm prefill work", 0);
    serving_row(s->b, "seconds", seconds, "serving swarm time", 0);
    return HD_OK;
}

/* Milliseconds a reply token takes, alone and while a long prompt is computed beside it. */
static int measure_beside(struct serving *s, struct err *e)
{
    struct job *j = serving_submit(s, 0, PROMPT, decode_tokens(s), e), *prompt;
    if (j == NULL)
        return e->code;
    struct gen_usage u = serving_wait(&j);
    double alone = (double)u.completion_ns * 1e-6 / (double)(u.completion_tokens - 1);
    struct gen_event ev = {0};
    if ((j = serving_submit(s, 0, PROMPT, 24, e)) == NULL)
        return e->code;
    while (ev.kind == GEN_PROMPT && ev.done < PROMPT && engine_next(j, &ev, -1) == 1)
        ;
    if ((prompt = serving_submit(s, 0, (int)s->prefix.n, 1, e)) == NULL) {
        engine_release(&j);
        return e->code;
    }
    u = serving_wait(&j);
    engine_release(&prompt);
    double beside = (double)u.completion_ns * 1e-6 / (double)(u.completion_tokens - 1);
    serving_row(s->b, "ms", alone, "serving beside, reply token alone", 0);
    serving_row(s->b, "ms", beside, "serving beside, reply token with a prompt", 0);
    serving_row(s->b, "ms", beside - alone, "serving beside, latency that the prompt adds", 0);
    return HD_OK;
}

/* A few requests of the swarm on an engine that keeps nothing. */
static int measure_fresh(struct serving *s, struct err *e)
{
    double seconds = 0, computed = 0;
    int rc = run_swarm(s, FRESH, &seconds, &computed, e);
    if (rc == HD_OK)
        serving_row(s->b, "seconds", seconds / FRESH, "serving fresh, one request without cache", 0);
    return rc;
}

/* Whether rows of names that begin so are asked for. */
static bool wants(const struct bench *b, const char *part)
{
    size_t n = b->only == NULL ? 0 : strlen(b->only);
    return strncmp(part, b->only == NULL ? "" : b->only, n < strlen(part) ? n : strlen(part)) == 0;
}

static void make_prefix(struct serving *s)
{
    while (s->prefix.n < (size_t)s->b->contexts[0])
        ids_add(&s->prefix, (int32_t)rng_below(&s->rng, (uint32_t)engine_env(s->engine)->n_vocab));
}

/* The parts that one engine serves, in order. */
struct part {
    const char *name;
    int (*measure)(struct serving *s, struct err *e);
};

static int measure_parts(struct serving *s, enum serving_cache cache, const struct part *parts, size_t n, struct err *e)
{
    int rc = HD_OK;
    for (size_t i = 0; i < n && rc == HD_OK; i++) {
        if (!wants(s->b, parts[i].name))
            continue;
        if (s->engine == NULL && (rc = serving_open(s, cache, e)) != HD_OK)
            return rc;
        make_prefix(s);
        rc = parts[i].measure(s, e);
    }
    engine_close(&s->engine);
    return rc;
}

int bench_serving(struct bench *b, struct err *e)
{
    static const struct part sharing[] = {{"serving decode", measure_decode}, {"serving swarm", measure_swarm},
                                          {"serving hit", measure_hit}, {"serving beside", measure_beside}};
    static const struct part agent[] = {{"serving agent", serving_agent}}, fresh[] = {{"serving fresh", measure_fresh}};
    struct serving s = {.b = b, .rng = {1}};
    int rc = measure_parts(&s, SERVING_PAGES, sharing, COUNT_OF(sharing), e);
    if (rc == HD_OK)
        rc = measure_parts(&s, SERVING_ALL, agent, COUNT_OF(agent), e);
    if (rc == HD_OK)
        rc = measure_parts(&s, SERVING_NONE, fresh, COUNT_OF(fresh), e);
    ids_free(&s.prefix);
    return rc == HD_OK && wants(b, "serving disk") ? bench_spill(b, e) : rc;
}
