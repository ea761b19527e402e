/* Peak measurements. See fast_peak.h. */
#include "ops/cpu/fast_peak.h"

#include <time.h>

#include "ops/cpu/fast_decl.h"

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

/* The level's table that multiplies fp32 where its best one multiplies bf16. */
static const struct fast_kern *fp32_table(enum cpu_isa isa)
{
#if defined(__x86_64__)
    if (isa >= ISA_AVX512)
        return &fast_kern_avx512;
#endif
    return fast_kern_for(isa);
}

static double sum_of(const double *v)
{
    double sum = 0;
    for (int i = 0; i < BURN_TASKS; i++)
        sum += v[i];
    return sum;
}

static double burn_rate(struct pool *p, struct peak_job *j, void (*fn)(void *, int, int))
{
    double turns_per_s = rate_of(p, j, BURN_TASKS, fn);
    return turns_per_s * sum_of(j->work);
}

struct fast_peaks fast_peaks_measure(struct pool *p, enum cpu_isa isa, const void *mem, size_t bytes)
{
    struct peak_job j = {.k = fast_kern_for(isa), .mem = mem};
    struct fast_peaks r;
    int parts = (int)(bytes / READ_PART);
    r.read = (double)parts * READ_PART * rate_of(p, &j, parts, read_task);
    r.flops = burn_rate(p, &j, flops_task);
    r.int8_ops = burn_rate(p, &j, bytes_task);
    j.k = fp32_table(isa);
    r.fp32_flops = j.k == fast_kern_for(isa) ? r.flops : burn_rate(p, &j, flops_task);
    return r;
}
