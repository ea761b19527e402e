/* top_k and top_p without sorting the vocabulary: tokens are counted and weighed in buckets of their logit, and only the
 * bucket in which a cut falls is sorted. */
#include "engine/sampler.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

struct filter {
    struct sampler *s;
    const float *z;
    float top, per_bucket; /* bucket = (top - z) * per_bucket */
    double temperature;
    struct cut cut;
};

/* Beyond this many temperatures below the top a token weighs nothing; such tokens share the last bucket. */
enum { REACH = 40 };

static int bucket_of(const struct filter *f, float z)
{
    float x = (f->top - z) * f->per_bucket;
    return x < CUT_BUCKETS - 1 ? (int)x : CUT_BUCKETS - 1;
}

static float bucket_scale(const float *z, int n, float top, double temperature)
{
    float low = top;
    for (int i = 0; i < n; i++)
        if (z[i] < low && z[i] > -INFINITY)
            low = z[i];
    double range = fmin((double)top - (double)low, REACH * temperature);
    return range > 1e-30 ? (float)(CUT_BUCKETS / range) : 0;
}

static void fill_buckets(struct filter *f, bool weigh)
{
    struct sampler *s = f->s;
    memset(s->count, 0, sizeof s->count);
    memset(s->mass, 0, sizeof s->mass);
    for (int i = 0; i < s->n_vocab; i++) {
        if (!(f->z[i] > -INFINITY))
            continue;
        int b = bucket_of(f, f->z[i]);
        s->count[b]++;
        if (weigh)
            s->mass[b] += sampler_weight(f->z[i], f->top, f->temperature);
    }
}

/* Ascending keys are the order of the tokens: the logit's bits made monotonic and turned round, then the id. */
static uint64_t key_of(float z, int32_t id)
{
    union {
        float value;
        uint32_t bits;
    } u = {.value = z + 0.0f}; /* one zero */
    uint32_t ascending = u.bits ^ (u.bits >> 31 ? 0xffffffffu : 0x80000000u);
    return (uint64_t)~ascending << 32 | (uint32_t)id;
}

static int compare_keys(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return (x > y) - (x < y);
}

static int32_t id_of(uint64_t key)
{
    return (int32_t)(uint32_t)key;
}

/* The bucket's tokens within the cut, in order, in s->keys; returns how many. */
static int gather(const struct filter *f, int bucket)
{
    int n = 0;
    for (int32_t i = 0; i < f->s->n_vocab; i++)
        if (f->z[i] > -INFINITY && bucket_of(f, f->z[i]) == bucket && cut_keeps(f->cut, f->z[i], i))
            f->s->keys[n++] = key_of(f->z[i], i);
    qsort(f->s->keys, (size_t)n, sizeof *f->s->keys, compare_keys);
    return n;
}

static double weight_at(const struct filter *f, int i_key)
{
    return sampler_weight(f->z[id_of(f->s->keys[i_key])], f->top, f->temperature);
}

static struct cut cut_at(const struct filter *f, int i_key)
{
    int32_t id = id_of(f->s->keys[i_key]);
    return (struct cut){f->z[id], id};
}

/* Leaves k tokens in the buckets, when there are more. */
static void cut_top_k(struct filter *f, int k)
{
    struct sampler *s = f->s;
    int b = 0, n_before = 0;
    while (b < CUT_BUCKETS && n_before + s->count[b] < k)
        n_before += s->count[b++];
    if (b == CUT_BUCKETS)
        return;
    gather(f, b);
    f->cut = cut_at(f, k - n_before - 1);
    s->count[b] = k - n_before;
    s->mass[b] = 0;
    for (int i = 0; i < s->count[b]; i++)
        s->mass[b] += weight_at(f, i);
    memset(s->count + b + 1, 0, (size_t)(CUT_BUCKETS - b - 1) * sizeof *s->count);
    memset(s->mass + b + 1, 0, (size_t)(CUT_BUCKETS - b - 1) * sizeof *s->mass);
}

/* The shortest prefix of what is left whose weight is at least the share top_p of it. */
static void cut_top_p(struct filter *f, double top_p)
{
    struct sampler *s = f->s;
    double total = 0, sum = 0;
    for (int b = 0; b < CUT_BUCKETS; b++)
        total += s->mass[b];
    for (int b = 0; b < CUT_BUCKETS; b++) {
        if (s->count[b] == 0 || sum + s->mass[b] < top_p * total) {
            sum += s->mass[b];
            continue;
        }
        int n = gather(f, b);
        for (int i = 0; i < n; i++) {
            sum += weight_at(f, i);
            if (sum >= top_p * total) {
                f->cut = cut_at(f, i);
                return;
            }
        }
    }
}

struct cut sampler_cut(struct sampler *s, const float *z, const struct sampling *p, int32_t favourite)
{
    struct filter f = {.s = s, .z = z, .top = z[favourite], .temperature = p->temperature,
                       .cut = {-INFINITY, INT32_MAX}};
    bool by_k = p->top_k > 0 && p->top_k < s->n_vocab, by_p = p->top_p < 1;
    if (!by_k && !by_p)
        return f.cut;
    f.per_bucket = bucket_scale(z, s->n_vocab, f.top, p->temperature);
    fill_buckets(&f, by_p);
    if (by_k)
        cut_top_k(&f, p->top_k);
    if (by_p)
        cut_top_p(&f, p->top_p);
    return f.cut;
}
