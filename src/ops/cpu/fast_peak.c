/* Peak measurements. See fast_peak.h. */
#include "ops/cpu/fast_peak.h"

#include <time.h>

#include "ops/cpu/fast_kern.h"

static double cpu_seconds(void)
{
    struct timespec t;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

double fast_peak_read(enum cpu_isa isa, const void *p, size_t bytes)
{
    double t = cpu_seconds();
    fast_kern_for(isa)->read(p, bytes);
    return (double)bytes / (cpu_seconds() - t);
}

double fast_peak_flops(enum cpu_isa isa)
{
    const int turns = 200000;
    double t = cpu_seconds();
    double flops = fast_kern_for(isa)->burn(turns);
    return flops / (cpu_seconds() - t);
}

/* ---------------------------------------------------------------- all threads */

enum { BURN_TURNS = 30000, BURN_TASKS = 64, READ_PART = 4 << 20 };

struct peak_job {
    const struct fast_kern *k;
    const uint8_t *mem;
    double work[BURN_TASKS];
};

static void read_task(void *arg, int i, int i_thread)
{
    (void)i_thread;
    const struct peak_job *j = arg;
    j->k->read(j->mem + (size_t)i * READ_PART, READ_PART);
}

static void flops_task(void *arg, int i, int i_thread)
{
    (void)i_thread;
    struct peak_job *j = arg;
    j->work[i] = j->k->burn(BURN_TURNS);
}

static void bytes_task(void *arg, int i, int i_thread)
{
    (void)i_thread;
    struct peak_job *j = arg;
    j->work[i] = j->k->burn_bytes(BURN_TURNS);
}

static double rate_of(struct pool *p, struct peak_job *j, int n, void (*fn)(void *, int, int))
{
    uint64_t t = now_ns();
    pool_run(p, n, fn, j);
    return 1e9 / (double)(now_ns() - t);
}

struct fast_peaks fast_peaks_measure(struct pool *p, enum cpu_isa isa, const void *mem, size_t bytes)
{
    struct peak_job j = {.k = fast_kern_for(isa), .mem = mem};
    struct fast_peaks r;
    int parts = (int)(bytes / READ_PART);
    r.read = (double)parts * READ_PART * rate_of(p, &j, parts, read_task);
    double flops = rate_of(p, &j, BURN_TASKS, flops_task), sum = 0;
    for (int i = 0; i < BURN_TASKS; i++)
        sum += j.work[i];
    r.flops = flops * sum;
    double ops = rate_of(p, &j, BURN_TASKS, bytes_task);
    sum = 0;
    for (int i = 0; i < BURN_TASKS; i++)
        sum += j.work[i];
    r.int8_ops = ops * sum;
    return r;
}
