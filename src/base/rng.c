/* Time, hashing, seeded randomness, progress. */
#include "base/base.h"

#include <math.h>
#include <time.h>

uint64_t now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

uint64_t mix64(uint64_t x)
{
    x += 0x9e3779b97f4a7c15u;
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
    return x ^ (x >> 31);
}

uint64_t rng_u64(struct rng *r)
{
    uint64_t x = mix64(r->state);
    r->state += 0x9e3779b97f4a7c15u;
    return x;
}

double rng_unit(struct rng *r)
{
    return (double)(rng_u64(r) >> 11) * 0x1p-53;
}

double rng_normal(struct rng *r)
{
    double u = 1 - rng_unit(r); /* (0, 1]: the logarithm is finite */
    double v = rng_unit(r);
    return sqrt(-2 * log(u)) * cos(6.283185307179586 * v);
}

uint32_t rng_below(struct rng *r, uint32_t n)
{
    return (uint32_t)(((rng_u64(r) >> 32) * n) >> 32);
}

int progress_tell(const struct progress *p, const char *what, uint64_t done, uint64_t total)
{
    if (p == NULL || p->fn == NULL)
        return HD_OK;
    return p->fn(p->arg, what, done, total) == 0 ? HD_OK : HD_ECANCELLED;
}
