/* Sampling as a race. With weights w_i = exp((z_i - z_max) / T) and independent exponential times E_i, the token with the
 * least E_i / w_i is a draw from w / sum(w); -log E_i is Gumbel noise, so this is the argmax of z_i / T + Gumbel. E_i
 * is computed from (seed, position, i), never drawn in sequence. Filters (sample_filter.c) give a cut in the order of
 * the tokens; those beyond it do not run. */
#include "engine/philox.h"
#include "engine/sampler.h"

#include <assert.h>
#include <float.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

struct race {
    const float *z;
    const struct sampling *sampling;
    int64_t position;
    float top; /* highest logit */
    struct cut cut;
    double best; /* E / w of the leader */
    int32_t leader;
};

void sampling_init(struct sampling *s)
{
    *s = (struct sampling){.temperature = 1, .top_p = 1};
}

int sampling_check(const struct sampling *s, struct err *e)
{
    if (!(s->temperature >= 0 && s->temperature <= 100))
        return err_set(e, HD_EARG, "temperature %g is not between 0 and 100", s->temperature);
    if (!(s->top_p > 0 && s->top_p <= 1))
        return err_set(e, HD_EARG, "top_p %g is not above 0 and at most 1", s->top_p);
    if (!(s->min_p >= 0 && s->min_p <= 1))
        return err_set(e, HD_EARG, "min_p %g is not between 0 and 1", s->min_p);
    if (s->top_k < 0)
        return err_set(e, HD_EARG, "top_k %d is negative", s->top_k);
    return HD_OK;
}

int sampler_open(struct sampler **s, int n_vocab, struct err *e)
{
    assert(n_vocab > 0);
    struct sampler *p = xcalloc(1, sizeof *p);
    p->n_vocab = n_vocab;
    p->keys = try_alloc((size_t)n_vocab * sizeof *p->keys);
    p->masked = try_alloc((size_t)n_vocab * sizeof *p->masked);
    if (p->keys == NULL || p->masked == NULL) {
        free(p->keys);
        free(p->masked);
        free(p);
        return err_set(e, HD_ENOMEM, "no memory for sampling from %d tokens", n_vocab);
    }
    *s = p;
    return HD_OK;
}

void sampler_close(struct sampler **s)
{
    if (*s == NULL)
        return;
    free((*s)->keys);
    free((*s)->masked);
    free(*s);
    *s = NULL;
}

/* First token of the highest logit, -1 when all are NaN or minus infinity. */
static int32_t argmax(const float *z, int n)
{
    int32_t best = -1;
    float top = -INFINITY;
    for (int i = 0; i < n; i++)
        if (z[i] > top) { /* false for NaN */
            top = z[i];
            best = i;
        }
    return best;
}

/* ---------------------------------------------------------------- the race */

double sampler_weight(float z, float top, double temperature)
{
    return exp(((double)z - (double)top) / temperature); /* NaN stays NaN and is never > 0 */
}

/* Uniform in (0, 1), exact in double: one Philox block serves tokens 2 i and 2 i + 1. */
static double uniform_of(const struct race *r, int32_t id)
{
    uint64_t seed = r->sampling->seed, position = (uint64_t)r->position;
    uint32_t counter[4] = {(uint32_t)id >> 1, (uint32_t)position, (uint32_t)(position >> 32), 0};
    uint32_t key[2] = {(uint32_t)seed, (uint32_t)(seed >> 32)}, out[4];
    philox4x32_10(counter, key, out);
    const uint32_t *lane = out + 2 * (id & 1);
    uint64_t bits = (uint64_t)lane[1] << 32 | lane[0];
    return ((double)(bits >> 12) + 0.5) * 0x1p-52;
}

/* -log1p(-u) is a standard exponential that resolves small times, which are the ones that win. */
static void enter(struct race *r, int32_t id)
{
    double w = sampler_weight(r->z[id], r->top, r->sampling->temperature);
    if (!(w > 0) || w < r->sampling->min_p || !cut_keeps(r->cut, r->z[id], id))
        return;
    double t = -log1p(-uniform_of(r, id)) / w;
    if (t < r->best || (t == r->best && id < r->leader)) {
        r->best = t;
        r->leader = id;
    }
}

/* ---------------------------------------------------------------- who cannot win */

/* A token can lead only if its time is below best * w, and its time is never below u. So blocks of tokens are compared
 * with bounds that vector units compute: the upper 24 bits of u, and a weight that is never too small. Few tokens are
 * left for enter(). The bounds decide about work, not about the result. */
enum { BLOCK = 64 };

/* Upper 24 bits of the uniforms of tokens first .. first + BLOCK - 1 (first is even). */
static void uniforms_below(const struct race *r, int32_t first, float u[BLOCK])
{
    uint64_t seed = r->sampling->seed, position = (uint64_t)r->position;
    uint32_t a[BLOCK / 2], b[BLOCK / 2], c[BLOCK / 2], d[BLOCK / 2];
    for (int i = 0; i < BLOCK / 2; i++) {
        a[i] = ((uint32_t)first >> 1) + (uint32_t)i;
        b[i] = (uint32_t)position;
        c[i] = (uint32_t)(position >> 32);
        d[i] = 0;
    }
    uint32_t key[2] = {(uint32_t)seed, (uint32_t)(seed >> 32)};
    for (int round = 0; round < PHILOX_ROUNDS; round++)
        for (int i = 0; i < BLOCK / 2; i++)
            philox_round(&a[i], &b[i], &c[i], &d[i], philox_key(key, 0, round), philox_key(key, 1, round));
    for (int i = 0; i < BLOCK / 2; i++) {
        u[2 * i] = (float)(int32_t)(b[i] >> 8) * 0x1p-24f;
        u[2 * i + 1] = (float)(int32_t)(d[i] >> 8) * 0x1p-24f;
    }
}

/* exp(x) <= 2^floor(y) (1 + y - floor(y)), y = x log2(e): the chord lies above a convex function. Those are the bits of a
 * float with exponent floor(y); one part in a thousand covers every rounding. */
static void weights_above(const float *z, float top, float per_logit, float w[BLOCK])
{
    for (int i = 0; i < BLOCK; i++) {
        float y = (z[i] - top) * per_logit;
        y = y > -126 ? y : -126; /* NaN too */
        union {
            int32_t bits;
            float value;
        } u = {.bits = (int32_t)((y + 127) * 0x1p23f)};
        w[i] = u.value * 1.001f;
    }
}

static void race_block(struct race *r, int32_t first, const float *z, int n, float per_logit)
{
    float u[BLOCK], w[BLOCK];
    weights_above(z, r->top, per_logit, w);
    uniforms_below(r, first, u);
    for (int i = 0; i < n; i++)
        if ((double)u[i] <= r->best * (double)w[i])
            enter(r, first + i);
}

static int32_t race_run(struct race *r, int n)
{
    float tail[BLOCK];
    double per_logit = 1.4426950408889634 / r->sampling->temperature;
    enter(r, r->leader); /* the favourite first: a good leader leaves little to do */
    if (!(per_logit < 1e4)) { /* bounds in float need a temperature that is not tiny */
        for (int32_t i = 0; i < n; i++)
            enter(r, i);
        return r->leader;
    }
    int whole = n / BLOCK * BLOCK;
    for (int32_t i = 0; i < whole; i += BLOCK)
        race_block(r, i, r->z + i, BLOCK, (float)per_logit);
    memset(tail, 0, sizeof tail);
    memcpy(tail, r->z + whole, (size_t)(n - whole) * sizeof *tail);
    race_block(r, whole, tail, n - whole, (float)per_logit);
    return r->leader;
}

int32_t sampler_choose(struct sampler *s, const float *logits, const uint64_t *mask, const struct sampling *p,
                       int64_t position)
{
    assert(position >= 0);
    if (mask != NULL)
        logits = sampler_mask(s, logits, mask);
    int32_t favourite = argmax(logits, s->n_vocab);
    if (favourite < 0 || p->temperature == 0 || isinf(logits[favourite]))
        return favourite;
    struct race r = {.z = logits, .sampling = p, .position = position, .top = logits[favourite], .best = INFINITY,
                     .leader = favourite, .cut = sampler_cut(s, logits, p, favourite)};
    return race_run(&r, s->n_vocab);
}

/* ---------------------------------------------------------------- log-probabilities */

static void top_insert(struct token_logprob *top, int *n, int n_top, int32_t id, float z)
{
    int i = *n < n_top ? (*n)++ : n_top - 1;
    while (i > 0 && top[i - 1].logprob < z) {
        top[i] = top[i - 1];
        i--;
    }
    top[i] = (struct token_logprob){id, z};
}

static float log_floor(double x)
{
    return x > -9999 ? (float)fmin(x, 0) : -9999.0f; /* NaN and minus infinity become the floor */
}

float logprobs_of(const float *logits, int n_vocab, int32_t id, struct token_logprob *top, int n_top)
{
    assert(n_top <= TOP_LOGPROBS_MAX && n_top <= n_vocab && id >= 0 && id < n_vocab);
    int32_t best = argmax(logits, n_vocab);
    double max = best < 0 ? 0 : isinf(logits[best]) ? (double)FLT_MAX : (double)logits[best], sum = 0;
    int n = 0;
    for (int32_t i = 0; i < n_vocab; i++) {
        float z = logits[i] == logits[i] ? logits[i] : -INFINITY;
        sum += exp(fmin((double)z - max, 0));
        if (n < n_top || (n_top > 0 && z > top[n_top - 1].logprob))
            top_insert(top, &n, n_top, i, z);
    }
    double log_sum = max + log(sum);
    for (int i = 0; i < n; i++)
        top[i].logprob = log_floor((double)top[i].logprob - log_sum);
    return log_floor((double)logits[id] - log_sum);
}
