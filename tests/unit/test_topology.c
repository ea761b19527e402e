/* topology: the order in which threads take CPUs, on made-up machines. */
#include "base/base.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

static char root[64];

static void put(const char *path, const char *text)
{
    char full[256];
    snprintf(full, sizeof full, "%s/%s", root, path);
    for (char *s = full + strlen(root) + 1; (s = strchr(s, '/')) != NULL; s++) {
        *s = '\0';
        mkdir(full, 0700);
        *s = '/';
    }
    FILE *f = fopen(full, "w");
    assert_non_null(f);
    fputs(text, f);
    fclose(f);
}

static void put_cpu(int cpu, int package, int core)
{
    char path[96], text[16];
    snprintf(path, sizeof path, "cpu/cpu%d/topology/physical_package_id", cpu);
    snprintf(text, sizeof text, "%d\n", package);
    put(path, text);
    snprintf(path, sizeof path, "cpu/cpu%d/topology/core_id", cpu);
    snprintf(text, sizeof text, "%d\n", core);
    put(path, text);
}

static int make_root(void **state)
{
    (void)state;
    snprintf(root, sizeof root, "/tmp/hadal-topology-XXXXXX");
    return mkdtemp(root) == NULL;
}

static int remove_root(void **state)
{
    (void)state;
    char command[96];
    snprintf(command, sizeof command, "rm -rf '%s'", root);
    return system(command);
}

static void expect_order(const int *cpus, int n, const int *want, int want_cores)
{
    struct cpu_place p[64];
    assert_int_equal(cpu_places(root, cpus, n, p), want_cores);
    for (int i = 0; i < n; i++)
        assert_int_equal(p[i].cpu, want[i]);
}

/* Hardware threads numbered next to each other (0,1 a core) or half a machine apart: cores first either way. */
static void cores_before_hardware_threads(void **state)
{
    (void)state;
    for (int i = 0; i < 4; i++)
        put_cpu(i, 0, i / 2);
    expect_order((int[]){0, 1, 2, 3}, 4, (int[]){0, 2, 1, 3}, 2);
    for (int i = 0; i < 4; i++)
        put_cpu(i, 0, i % 2);
    expect_order((int[]){0, 1, 2, 3}, 4, (int[]){0, 1, 2, 3}, 2);
}

/* Two sockets whose cores have the same numbers; cores are taken from both in turn, then their second threads. */
static void nodes_in_turn(void **state)
{
    (void)state;
    for (int i = 0; i < 8; i++)
        put_cpu(i, i / 2 % 2, i % 2);
    put("node/online", "0-1\n");
    put("node/node0/cpulist", "0-1,4-5\n");
    put("node/node1/cpulist", "2-3,6-7\n");
    expect_order((int[]){0, 1, 2, 3, 4, 5, 6, 7}, 8, (int[]){0, 2, 1, 3, 4, 6, 5, 7}, 4);
}

/* Of a core only the second thread may be used: it is that core's first for us. */
static void affinity_counts(void **state)
{
    (void)state;
    for (int i = 0; i < 8; i++)
        put_cpu(i, 0, i % 4);
    expect_order((int[]){1, 5, 6}, 3, (int[]){1, 6, 5}, 2);
}

static void nothing_known(void **state)
{
    (void)state;
    expect_order((int[]){3, 4, 9}, 3, (int[]){3, 4, 9}, 3);
}

/* This machine, whatever it is: every CPU once, at least one core, no more threads than cores by default. */
static void this_machine(void **state)
{
    (void)state;
    struct cpu_place p[1024];
    int cores, n = cpu_places_here(p, 1024, &cores);
    assert_true(n >= 1 && cores >= 1 && cores <= n);
    assert_true(cpu_usable() >= 1 && cpu_usable() <= cores);
    for (int i = 0; i < n; i++) {
        assert_true((i < cores) == (p[i].thread == 0));
        for (int k = 0; k < i; k++)
            assert_true(p[k].cpu != p[i].cpu);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(cores_before_hardware_threads, make_root, remove_root),
        cmocka_unit_test_setup_teardown(nodes_in_turn, make_root, remove_root),
        cmocka_unit_test_setup_teardown(affinity_counts, make_root, remove_root),
        cmocka_unit_test_setup_teardown(nothing_known, make_root, remove_root),
        cmocka_unit_test(this_machine),
    };
    return cmocka_run_group_tests_name("topology", tests, NULL, NULL);
}
