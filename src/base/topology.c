/* Where the CPUs of this process sit: cores, hardware threads and memory nodes, as the kernel tells under /sys. */
#include "base/base.h"

#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { PATH_BYTES = 512, LIST_BYTES = 4096 };

static bool read_text(const char *path, char *text, size_t bytes)
{
    FILE *f = fopen(path, "r");
    if (f == NULL)
        return false;
    size_t n = fread(text, 1, bytes - 1, f);
    text[n] = '\0';
    fclose(f);
    return n > 0;
}

static int read_number(const char *sys, int cpu, const char *name, int otherwise)
{
    char path[PATH_BYTES], text[32], *end = text;
    snprintf(path, sizeof path, "%s/cpu/cpu%d/topology/%s", sys, cpu, name);
    long v = read_text(path, text, sizeof text) ? strtol(text, &end, 10) : 0;
    return end != text ? (int)v : otherwise;
}

/* The next range of a list like "0-3,8,10-11"; false at its end. */
static bool next_range(const char **list, int *first, int *last)
{
    char *end;
    long a = strtol(*list, &end, 10), b = a;
    if (end == *list)
        return false;
    if (*end == '-')
        b = strtol(end + 1, &end, 10);
    *list = *end == ',' ? end + 1 : end;
    *first = (int)a;
    *last = (int)b;
    return true;
}

static void set_nodes(const char *sys, struct cpu_place *p, int n)
{
    char path[PATH_BYTES], online[LIST_BYTES], cpus[LIST_BYTES];
    snprintf(path, sizeof path, "%s/node/online", sys);
    if (!read_text(path, online, sizeof online))
        return;
    const char *nodes = online;
    for (int first, last; next_range(&nodes, &first, &last);) {
        for (int node = first; node <= last; node++) {
            snprintf(path, sizeof path, "%s/node/node%d/cpulist", sys, node);
            const char *list = cpus;
            for (int a, b; read_text(path, cpus, sizeof cpus) && next_range(&list, &a, &b);)
                for (int i = 0; i < n; i++)
                    if (p[i].cpu >= a && p[i].cpu <= b)
                        p[i].node = node;
        }
    }
}

/* Ranks: which hardware thread of its core, and how many of that rank come before it on its node. */
static void set_ranks(struct cpu_place *p, int n)
{
    for (int i = 0; i < n; i++)
        for (int k = 0; k < i; k++)
            p[i].thread += p[k].package == p[i].package && p[k].core == p[i].core;
    for (int i = 0; i < n; i++)
        for (int k = 0; k < i; k++)
            p[i].turn += p[k].thread == p[i].thread && p[k].node == p[i].node;
}

static int compare(const void *a, const void *b)
{
    const struct cpu_place *x = a, *y = b;
    if (x->thread != y->thread)
        return x->thread < y->thread ? -1 : 1;
    if (x->turn != y->turn)
        return x->turn < y->turn ? -1 : 1;
    return x->node != y->node ? (x->node < y->node ? -1 : 1) : (x->cpu > y->cpu) - (x->cpu < y->cpu);
}

int cpu_places(const char *sys, const int *cpus, int n, struct cpu_place *out)
{
    int cores = 0;
    for (int i = 0; i < n; i++) {
        out[i] = (struct cpu_place){.cpu = cpus[i]};
        out[i].package = read_number(sys, cpus[i], "physical_package_id", 0);
        out[i].core = read_number(sys, cpus[i], "core_id", cpus[i]);
    }
    set_nodes(sys, out, n);
    set_ranks(out, n);
    qsort(out, (size_t)n, sizeof *out, compare);
    for (int i = 0; i < n; i++)
        cores += out[i].thread == 0;
    return cores;
}

int cpu_places_here(struct cpu_place *out, int max, int *n_cores)
{
    cpu_set_t set;
    int *cpus = xcalloc((size_t)max, sizeof *cpus), n = 0;
    if (sched_getaffinity(0, sizeof set, &set) == 0)
        for (int i = 0; i < CPU_SETSIZE && n < max; i++)
            if (CPU_ISSET((size_t)i, &set))
                cpus[n++] = i;
    *n_cores = cpu_places("/sys/devices/system", cpus, n, out);
    free(cpus);
    return n;
}

bool memory_interleave(void *p, size_t bytes)
{
    enum { MAX_NODES = 64, INTERLEAVE = 3 /* MPOL_INTERLEAVE of the kernel's interface */ };
    struct cpu_place places[1024];
    unsigned long mask = 0;
    int cores, n = cpu_places_here(places, (int)COUNT_OF(places), &cores);
    for (int i = 0; i < n; i++)
        mask |= places[i].node < MAX_NODES ? 1ul << places[i].node : 0;
    if ((mask & (mask - 1)) == 0)
        return false;
    return syscall(SYS_mbind, p, bytes, INTERLEAVE, &mask, (unsigned long)MAX_NODES + 1, 0u) == 0;
}
