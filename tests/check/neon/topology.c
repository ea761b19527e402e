/* Stands in for base/topology.c in the harness for 64-bit ARM, so that it needs no hwloc of that architecture: nothing is
 * known of the machine, and threads and memory stay where they are. */
#include "base/base.h"

#include <stdlib.h>

int topology_open(struct topology **t, const char *machine, const char *cpus, struct err *e)
{
    *t = xcalloc(1, sizeof **t);
    return machine == NULL && cpus == NULL ? HD_OK : err_set(e, HD_EUNSUPPORTED, "no made-up machines here");
}

void topology_close(struct topology **t)
{
    free(*t);
    *t = NULL;
}

int cpu_usable(const struct topology *t)
{
    return t->n_places + 1;
}

void topology_stay(const struct topology *t, int i_thread)
{
    (void)t;
    (void)i_thread;
}

bool topology_interleave(const struct topology *t, void *p, size_t bytes)
{
    (void)t;
    (void)p;
    (void)bytes;
    return false;
}
