/* topology: the order in which threads take CPUs, where they and memory go, on made-up machines (hwloc's synthetic ones). */
#include "base/base.h"

#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cmocka.h>

static struct topology *machine(const char *text, const char *cpus)
{
    struct topology *t;
    struct err e = {0};
    assert_int_equal(topology_open(&t, text, cpus, &e), HD_OK);
    return t;
}

static void expect_order(const char *text, const char *cpus, const int *want, int n, int want_cores)
{
    struct topology *t = machine(text, cpus);
    assert_int_equal(t->n_places, n);
    assert_int_equal(t->n_cores, want_cores);
    for (int i = 0; i < n; i++)
        assert_int_equal(t->places[i].cpu, want[i]);
    topology_close(&t);
    assert_null(t);
}

/* Hardware threads numbered next to each other (0,1 a core) or half a machine apart: cores first either way. */
static void cores_before_hardware_threads(void **state)
{
    (void)state;
    expect_order("core:2 pu:2", NULL, (int[]){0, 2, 1, 3}, 4, 2);
    expect_order("core:2 pu:2(indexes=0,2,1,3)", NULL, (int[]){0, 1, 2, 3}, 4, 2);
}

/* Two sockets whose cores have the same numbers; cores are taken from both in turn, then their second threads. */
static void nodes_in_turn(void **state)
{
    (void)state;
    expect_order("numa:2 core:2 pu:2(indexes=0,4,1,5,2,6,3,7)", NULL, (int[]){0, 2, 1, 3, 4, 6, 5, 7}, 8, 4);
}

/* Of a core only the second thread may be used: it is that core's first for us. */
static void affinity_counts(void **state)
{
    (void)state;
    const char *text = "core:4 pu:2(indexes=0,4,1,5,2,6,3,7)";
    expect_order(text, "1,5-6", (int[]){1, 6, 5}, 3, 2);
    expect_order(text, "7,12-99", (int[]){7}, 1, 1);
    expect_order(text, "12", NULL, 0, 0);
}

static void cores_not_known(void **state)
{
    (void)state;
    expect_order("pu:10", "3-4,9", (int[]){3, 4, 9}, 3, 3);
}

/* All that is told of every place of a machine with two nodes of four cores of two threads. */
static void two_nodes(void **state)
{
    (void)state;
    struct topology *t = machine("pack:2 numa:1 core:4 pu:2", NULL);
    assert_int_equal(t->n_places, 16);
    assert_int_equal(t->n_cores, 8);
    assert_true(cpu_usable(t) >= 1 && cpu_usable(t) <= 8);
    for (int i = 0; i < 16; i++) {
        const struct cpu_place *p = &t->places[i];
        int thread = i / 8, turn = i % 8 / 2, node = i % 2, core = 4 * node + turn;
        assert_int_equal(p->thread, thread);
        assert_int_equal(p->turn, turn);
        assert_int_equal(p->node, node);
        assert_int_equal(p->core, core);
        assert_int_equal(p->cpu, 2 * core + thread);
    }
    topology_close(&t);
}

/* Fast memory beside the ordinary one: the CPUs belong to the ordinary node. Four nodes below two sockets: all in turn. */
static void other_nodes(void **state)
{
    (void)state;
    struct topology *t = machine("pack:2 [numa] [numa] core:2 pu:1", NULL);
    for (int i = 0; i < 4; i++)
        assert_int_equal(t->places[i].node, i % 2 * 2);
    topology_close(&t);
    t = machine("pack:2 numa:2 core:1 pu:1", NULL);
    for (int i = 0; i < 4; i++)
        assert_int_equal(t->places[i].node, i);
    topology_close(&t);
}

static void nonsense_is_refused(void **state)
{
    (void)state;
    struct topology *t = NULL;
    struct err e = {0};
    assert_true(topology_open(&t, "core:many", NULL, &e) < 0);
    assert_null(t);
    assert_non_null(strstr(e.msg, "core:many"));
}

/* This machine, whatever it is: the CPUs of our affinity once each, no more threads than cores by default. */
static void this_machine(void **state)
{
    (void)state;
    cpu_set_t set;
    struct topology *t = machine(NULL, NULL);
    assert_int_equal(sched_getaffinity(0, sizeof set, &set), 0);
    assert_int_equal(t->n_places, CPU_COUNT(&set));
    assert_true(t->n_cores >= 1 && cpu_usable(t) >= 1 && cpu_usable(t) <= t->n_cores);
    for (int i = 0; i < t->n_places; i++) {
        assert_true((i < t->n_cores) == (t->places[i].thread == 0));
        assert_true(CPU_ISSET((size_t)t->places[i].cpu, &set));
        CPU_CLR((size_t)t->places[i].cpu, &set);
    }
    topology_close(&t);
}

/* The thread that asks is bound to one CPU: that is the machine. */
static void this_affinity(void **state)
{
    (void)state;
    struct topology *all = machine(NULL, NULL);
    int cpu = all->places[all->n_places - 1].cpu;
    cpu_set_t before, one;
    CPU_ZERO(&one);
    CPU_SET((size_t)cpu, &one);
    assert_int_equal(sched_getaffinity(0, sizeof before, &before), 0);
    assert_int_equal(sched_setaffinity(0, sizeof one, &one), 0);
    struct topology *t = machine(NULL, NULL);
    sched_setaffinity(0, sizeof before, &before);
    assert_int_equal(t->n_places, 1);
    assert_int_equal(t->places[0].cpu, cpu);
    assert_int_equal(cpu_usable(t), 1);
    topology_close(&all);
    topology_close(&t);
}

/* ---------------------------------------------------------------- what the kernel is told */

enum { MEMORY_BYTES = 1 << 20, POLICY_INTERLEAVE = 3, POLICY_OF_ADDRESS = 2, POLICY_NONE = -1 };

/* POLICY_NONE where the kernel has no memory policies. */
static int policy_of(const void *p)
{
    int mode = POLICY_NONE;
    return syscall(SYS_get_mempolicy, &mode, NULL, 0, p, POLICY_OF_ADDRESS) == 0 ? mode : POLICY_NONE;
}

/* hwloc takes the made-up machine for this one: what it would do there is done here. A node that does not exist is left
 * out by the kernel, so that one with a single node keeps the policy too. */
static void memory_is_interleaved(void **state)
{
    (void)state;
    setenv("HWLOC_THISSYSTEM", "1", 1);
    struct topology *one = machine("pack:2 core:4 pu:2", NULL), *two = machine("pack:2 numa:1 core:4 pu:2", NULL);
    struct topology *half = machine("pack:2 numa:1 core:4 pu:2", "8-15");
    void *p = mmap(NULL, MEMORY_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    assert_true(p != MAP_FAILED);
    int before = policy_of(p);
    assert_false(topology_interleave(one, p, MEMORY_BYTES));
    assert_false(topology_interleave(half, p, MEMORY_BYTES));
    assert_int_equal(policy_of(p), before);
    assert_int_equal(topology_interleave(two, p, MEMORY_BYTES), before != POLICY_NONE);
    assert_int_equal(policy_of(p), before != POLICY_NONE ? POLICY_INTERLEAVE : POLICY_NONE);
    munmap(p, MEMORY_BYTES);
    topology_close(&one);
    topology_close(&two);
    topology_close(&half);
    unsetenv("HWLOC_THISSYSTEM");
}

/* On two nodes of one CPU each, threads go to the CPUs in turn (where this process may use them); on one node nowhere. */
static void threads_stay_on_their_node(void **state)
{
    (void)state;
    cpu_set_t before, now;
    assert_int_equal(sched_getaffinity(0, sizeof before, &before), 0);
    setenv("HWLOC_THISSYSTEM", "1", 1);
    struct topology *one = machine("core:2 pu:1", NULL), *two = machine("numa:2 core:1 pu:1", NULL);
    unsetenv("HWLOC_THISSYSTEM");
    topology_stay(one, 1);
    assert_int_equal(sched_getaffinity(0, sizeof now, &now), 0);
    assert_true(CPU_EQUAL(&now, &before));
    for (int i = 0; i < 4; i++) {
        size_t cpu = (size_t)(i % 2);
        topology_stay(two, i);
        assert_int_equal(sched_getaffinity(0, sizeof now, &now), 0);
        if (CPU_ISSET(cpu, &before))
            assert_true(CPU_COUNT(&now) == 1 && CPU_ISSET(cpu, &now));
        sched_setaffinity(0, sizeof before, &before);
    }
    topology_close(&one);
    topology_close(&two);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(cores_before_hardware_threads),
        cmocka_unit_test(nodes_in_turn),
        cmocka_unit_test(affinity_counts),
        cmocka_unit_test(cores_not_known),
        cmocka_unit_test(two_nodes),
        cmocka_unit_test(other_nodes),
        cmocka_unit_test(nonsense_is_refused),
        cmocka_unit_test(this_machine),
        cmocka_unit_test(this_affinity),
        cmocka_unit_test(memory_is_interleaved),
        cmocka_unit_test(threads_stay_on_their_node),
    };
    return cmocka_run_group_tests_name("topology", tests, NULL, NULL);
}
