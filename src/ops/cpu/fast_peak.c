/* Peak measurements. See fast_peak.h. */
#include "ops/cpu/fast_peak.h"

#include <sched.h>
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

enum { BURN_TURNS = 15000, BURN_TASKS = 64, READ_PART = 4 << 20, RUNS = 5 };

struct peak_job {
    const struct fast_kern *k;
    const uint8_t *mem;
    double work[BURN_TASKS];
    const struct topology *topology; /* NULL: threads stay where they are */
};

/* Every thread on a CPU of its own: a run is too short for the kernel to part two threads that woke on the same one. */
static void take_place(const struct peak_job *j, int i_thread)
{
    cpu_set_t set;
    const struct topology *t = j->topology;
    int cpu = t != NULL && t->n_places > 0 ? t->places[i_thread % t->n_places].cpu : -1;
    if (cpu < 0 || sched_getcpu() == cpu)
        return;
    CPU_ZERO(&set);
    CPU_SET((size_t)cpu, &set);
    sched_setaffinity(0, sizeof set, &set);
}

static void read_task(void *arg, int i, int i_thread)
{
    const struct peak_job *j = arg;
    take_place(j, i_thread);
    j->k->read(j->mem + (size_t)i * READ_PART, READ_PART);
}

static void flops_task(void *arg, int i, int i_thread)
{
    struct peak_job *j = arg;
    take_place(j, i_thread);
    j->work[i] = j->k->burn(BURN_TURNS);
}

static void bytes_task(void *arg, int i, int i_thread)
{
    struct peak_job *j = arg;
    take_place(j, i_thread);
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
#elif defined(__aarch64__)
    if (isa >= ISA_NEON_BF16)
        return &fast_kern_neondot;
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

static struct fast_peaks measure_once(struct pool *p, enum cpu_isa isa, struct peak_job *j, size_t bytes)
{
    struct fast_peaks r;
    int parts = (int)(bytes / READ_PART);
    j->k = fast_kern_for(isa);
    r.read = (double)parts * READ_PART * rate_of(p, j, parts, read_task);
    r.flops = burn_rate(p, j, flops_task);
    r.int8_ops = burn_rate(p, j, bytes_task);
    j->k = fp32_table(isa);
    r.fp32_flops = j->k == fast_kern_for(isa) ? r.flops : burn_rate(p, j, flops_task);
    return r;
}

static double larger(double a, double b)
{
    return a > b ? a : b;
}

struct fast_peaks fast_peaks_max(struct fast_peaks a, struct fast_peaks b)
{
    return (struct fast_peaks){larger(a.read, b.read), larger(a.flops, b.flops), larger(a.int8_ops, b.int8_ops),
                               larger(a.fp32_flops, b.fp32_flops)};
}

struct fast_peaks fast_peaks_measure(struct pool *p, enum cpu_isa isa, const void *mem, size_t bytes)
{
    struct fast_peaks best = {0};
    struct peak_job j = {.mem = mem};
    cpu_set_t before;
    bool bound = sched_getaffinity(0, sizeof before, &before) == 0;
    j.topology = bound ? pool_topology(p) : NULL;
    for (int i = 0; i < RUNS; i++)
        best = fast_peaks_max(best, measure_once(p, isa, &j, bytes));
    if (bound)
        sched_setaffinity(0, sizeof before, &before);
    return best;
}
