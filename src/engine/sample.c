/* Sampling as a race. With weights w_i = exp((z_i - z_max) / T) and independent exponential times E_i, the token with the
 * least E_i / w_i is a draw from w / sum(w); -log E_i is Gumbel noise, so this is the argmax of z_i / T + Gumbel. E_i
 * is computed from (seed, position, i), never drawn in sequence. */
#include "engine/engine.h"
#include "engine/philox.h"

#include <assert.h>
#include <float.h>
#include <math.h>
#include <stdlib.h>

struct sampler {
    int n_vocab;
    int32_t *heap; /* [n_vocab] token ids */
};

struct race {
    double best; /* E / w of the leader */
    int32_t id;
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
    p->heap = try_alloc((size_t)n_vocab * sizeof *p->heap);
    if (p->heap == NULL) {
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
    free((*s)->heap);
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

/* ---------------------------------------------------------------- noise */

/* Uniform in (0, 1), exact in double, for tokens 2 i and 2 i + 1: one Philox block serves both. */
static void uniform_pair(uint64_t seed, int64_t position, uint32_t pair, double u[2])
{
    uint32_t counter[4] = {pair, (uint32_t)position, (uint32_t)((uint64_t)position >> 32), 0};
    uint32_t key[2] = {(uint32_t)seed, (uint32_t)(seed >> 32)}, r[4];
    philox4x32_10(counter, key, r);
    for (int i = 0; i < 2; i++) {
        uint64_t bits = (uint64_t)r[2 * i + 1] << 32 | r[2 * i];
        u[i] = ((double)(bits >> 12) + 0.5) * 0x1p-52;
    }
}

/* Enters a token of weight w > 0 and uniform u. -log1p(-u) is a standard exponential that resolves small times, which
 * are the ones that win; it is never less than u, so the logarithm is computed for possible leaders only. */
static void race_enter(struct race *r, int32_t id, double w, double u)
{
    if (u > r->best * w * (1 + 4 * DBL_EPSILON))
        return;
    double t = -log1p(-u) / w;
    if (t < r->best || (t == r->best && id < r->id)) {
        r->best = t;
        r->id = id;
    }
}

static double weight_of(float z, float top, double temperature)
{
    return exp(((double)z - (double)top) / temperature); /* NaN stays NaN and is never > 0 */
}

/* The favourite starts: the first leader is good, so nearly every other token is out after one comparison. */
static struct race race_start(const struct sampling *p, int64_t position, int32_t favourite)
{
    double u[2];
    uniform_pair(p->seed, position, (uint32_t)favourite >> 1, u);
    struct race r = {INFINITY, favourite};
    race_enter(&r, favourite, 1, u[favourite & 1]);
    return r;
}

static int32_t race_all(const float *z, int n, const struct sampling *p, int64_t position, int32_t favourite)
{
    struct race r = race_start(p, position, favourite);
    float top = z[favourite];
    for (int32_t i = 0; i < n; i += 2) {
        double w[2] = {weight_of(z[i], top, p->temperature),
                       i + 1 < n ? weight_of(z[i + 1], top, p->temperature) : 0};
        if (!(w[0] > 0) && !(w[1] > 0))
            continue;
        double u[2];
        uniform_pair(p->seed, position, (uint32_t)i >> 1, u);
        for (int j = 0; j < 2; j++)
            if (w[j] > 0)
                race_enter(&r, i + j, w[j], u[j]);
    }
    return r.id;
}

/* ---------------------------------------------------------------- filters */

static bool before(const float *z, int32_t a, int32_t b)
{
    return z[a] > z[b] || (z[a] == z[b] && a < b);
}

static void sift_down(int32_t *heap, int n, int i, const float *z)
{
    int32_t x = heap[i];
    for (int child; (child = 2 * i + 1) < n; i = child) {
        if (child + 1 < n && before(z, heap[child + 1], heap[child]))
            child++;
        if (!before(z, heap[child], x))
            break;
        heap[i] = heap[child];
    }
    heap[i] = x;
}

/* Takes the most likely token left; it lands behind the heap, so heap[n-1], heap[n-2], ... is the sorted order. */
static int32_t heap_take(int32_t *heap, int n, const float *z)
{
    int32_t x = heap[0];
    heap[0] = heap[n - 1];
    heap[n - 1] = x;
    sift_down(heap, n - 1, 0, z);
    return x;
}

static int heap_fill(int32_t *heap, const float *z, int n_vocab)
{
    int n = 0;
    for (int32_t i = 0; i < n_vocab; i++)
        if (z[i] > -INFINITY)
            heap[n++] = i;
    for (int i = n / 2 - 1; i >= 0; i--)
        sift_down(heap, n, i, z);
    return n;
}

/* Sum of the weights that top_p is a share of: of the top_k most likely tokens, or of all. The former are sorted into
 * place behind the heap; returns how many. */
static int top_k_sort(struct sampler *s, const float *z, const struct sampling *p, int n, double *total)
{
    float top = z[s->heap[0]];
    *total = 0;
    if (p->top_k == 0 || p->top_k >= n) {
        for (int i = 0; i < n; i++)
            *total += weight_of(z[s->heap[i]], top, p->temperature);
        return 0;
    }
    for (int i = 0; i < p->top_k; i++)
        *total += weight_of(z[heap_take(s->heap, n - i, z)], top, p->temperature);
    return p->top_k;
}

static int32_t race_kept(struct sampler *s, const float *z, const struct sampling *p, int64_t position, int32_t favourite)
{
    int n = heap_fill(s->heap, z, s->n_vocab);
    double total, sum = 0;
    int n_sorted = top_k_sort(s, z, p, n, &total);
    int limit = n_sorted > 0 ? n_sorted : n;
    struct race r = race_start(p, position, favourite);
    for (int i = 0; i < limit; i++) {
        int32_t id = i < n_sorted ? s->heap[n - 1 - i] : heap_take(s->heap, n - i, z);
        double w = weight_of(z[id], z[favourite], p->temperature);
        if (!(w > 0) || w < p->min_p)
            break;
        double u[2];
        uniform_pair(p->seed, position, (uint32_t)id >> 1, u);
        race_enter(&r, id, w, u[id & 1]);
        sum += w;
        if (p->top_p < 1 && sum >= p->top_p * total)
            break;
    }
    return r.id;
}

int32_t sampler_choose(struct sampler *s, const float *logits, const struct sampling *p, int64_t position)
{
    assert(position >= 0);
    int32_t favourite = argmax(logits, s->n_vocab);
    if (favourite < 0 || p->temperature == 0 || isinf(logits[favourite]))
        return favourite;
    bool filtered = p->top_p < 1 || p->min_p > 0 || (p->top_k > 0 && p->top_k < s->n_vocab);
    return filtered ? race_kept(s, logits, p, position, favourite)
                    : race_all(logits, s->n_vocab, p, position, favourite);
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
