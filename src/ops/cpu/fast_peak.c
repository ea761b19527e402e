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
