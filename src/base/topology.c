/* Where threads and memory sit: cores, hardware threads and memory nodes, as hwloc finds them. */
#include "base/base.h"

#include <errno.h>
#include <hwloc.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

/* Ranks: which hardware thread of its core, and how many of that rank come before it on its node. */
static void set_ranks(struct cpu_place *p, int n)
{
    for (int i = 0; i < n; i++)
        for (int k = 0; k < i; k++)
            p[i].thread += p[k].core == p[i].core;
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

/* Without a core around it a CPU is one by itself. Of several nodes at a CPU (two kinds of memory) the first is its own. */
static struct cpu_place place_of(hwloc_topology_t hw, hwloc_obj_t pu)
{
    hwloc_obj_t core = hwloc_get_ancestor_obj_by_type(hw, HWLOC_OBJ_CORE, pu);
    int node = hwloc_bitmap_first(pu->nodeset);
    return (struct cpu_place){.cpu = (int)pu->os_index, .core = (int)(core != NULL ? core : pu)->logical_index,
                              .node = node > 0 ? node : 0};
}

static void find_places(struct topology *t, hwloc_const_bitmap_t cpus)
{
    int n = hwloc_bitmap_weight(cpus);
    t->places = xcalloc(n > 0 ? (size_t)n : 1, sizeof *t->places);
    for (int cpu = hwloc_bitmap_first(cpus); cpu >= 0; cpu = hwloc_bitmap_next(cpus, cpu))
        t->places[t->n_places++] = place_of(t->hwloc, hwloc_get_pu_obj_by_os_index(t->hwloc, (unsigned)cpu));
    set_ranks(t->places, t->n_places);
    qsort(t->places, (size_t)t->n_places, sizeof *t->places, compare);
    for (int i = 0; i < t->n_places; i++)
        t->n_cores += t->places[i].thread == 0;
}

/* Nothing but CPUs, cores and nodes is looked for (no caches, devices, distances), and no thread is moved to look. Groups
 * are what hwloc hangs nodes on. */
static int load(hwloc_topology_t hw, const char *machine)
{
    hwloc_topology_set_all_types_filter(hw, HWLOC_TYPE_FILTER_KEEP_NONE);
    hwloc_topology_set_type_filter(hw, HWLOC_OBJ_CORE, HWLOC_TYPE_FILTER_KEEP_ALL);
    hwloc_topology_set_type_filter(hw, HWLOC_OBJ_GROUP, HWLOC_TYPE_FILTER_KEEP_STRUCTURE);
    hwloc_topology_set_flags(hw, HWLOC_TOPOLOGY_FLAG_DONT_CHANGE_BINDING | HWLOC_TOPOLOGY_FLAG_NO_DISTANCES |
                                     HWLOC_TOPOLOGY_FLAG_NO_MEMATTRS | HWLOC_TOPOLOGY_FLAG_NO_CPUKINDS);
    if (machine != NULL && hwloc_topology_set_synthetic(hw, machine) != 0)
        return -1;
    return hwloc_topology_load(hw);
}

int topology_open(struct topology **out, const char *machine, const char *cpus, struct err *e)
{
    *out = NULL;
    struct topology *t = xcalloc(1, sizeof *t);
    if (hwloc_topology_init(&t->hwloc) != 0 || load(t->hwloc, machine) != 0) {
        int errnum = errno;
        topology_close(&t);
        return err_sys(e, errnum, "hwloc cannot tell cores and memory nodes of %s",
                       machine != NULL ? machine : "this machine");
    }
    hwloc_bitmap_t set = hwloc_bitmap_alloc();
    if (cpus != NULL)
        hwloc_bitmap_list_sscanf(set, cpus);
    else if (machine != NULL || hwloc_get_cpubind(t->hwloc, set, HWLOC_CPUBIND_THREAD) != 0)
        hwloc_bitmap_fill(set);
    hwloc_bitmap_and(set, set, hwloc_topology_get_topology_cpuset(t->hwloc));
    find_places(t, set);
    hwloc_bitmap_free(set);
    *out = t;
    return HD_OK;
}

void topology_close(struct topology **pt)
{
    struct topology *t = *pt;
    if (t == NULL)
        return;
    if (t->hwloc != NULL)
        hwloc_topology_destroy(t->hwloc);
    free(t->places);
    free(t);
    *pt = NULL;
}

void topology_stay(const struct topology *t, int i_thread)
{
    hwloc_bitmap_t set = hwloc_bitmap_alloc();
    int others = 0;
    for (int i = 0; i < t->n_places; i++) {
        if (t->places[i].node == t->places[i_thread % t->n_places].node)
            hwloc_bitmap_set(set, (unsigned)t->places[i].cpu);
        else
            others++;
    }
    if (others > 0)
        hwloc_set_cpubind(t->hwloc, set, HWLOC_CPUBIND_THREAD); /* advice: without it the kernel places the thread */
    hwloc_bitmap_free(set);
}

bool topology_interleave(const struct topology *t, void *p, size_t bytes)
{
    hwloc_bitmap_t nodes = hwloc_bitmap_alloc();
    for (int i = 0; i < t->n_places; i++)
        hwloc_bitmap_set(nodes, (unsigned)t->places[i].node);
    bool done = hwloc_bitmap_weight(nodes) > 1 &&
                hwloc_set_area_membind(t->hwloc, p, bytes, nodes, HWLOC_MEMBIND_INTERLEAVE, HWLOC_MEMBIND_BYNODESET) == 0;
    hwloc_bitmap_free(nodes);
    return done;
}

/* ---------------------------------------------------------------- threads worth having */

/* CPUs' worth of time that the cgroup grants, rounded up; 0 when there is no limit. */
static int cpu_quota(void)
{
    long quota = 0, period = 0;
    FILE *f = fopen("/sys/fs/cgroup/cpu.max", "r");
    if (f == NULL)
        return 0;
    int n = fscanf(f, "%ld %ld", &quota, &period); /* "max 100000" reads nothing */
    fclose(f);
    return n == 2 && quota > 0 && period > 0 ? (int)((quota + period - 1) / period) : 0;
}

int cpu_usable(const struct topology *t)
{
    int cores = t->n_cores > 0 ? t->n_cores : (int)sysconf(_SC_NPROCESSORS_ONLN), quota = cpu_quota();
    if (quota > 0 && quota < cores)
        cores = quota;
    return cores > 0 ? cores : 1;
}
