/* pool: every task runs exactly once, whatever the thread count; thousands of short runs; bad counts are refused. */
#include "base/base.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <cmocka.h>

enum { TASKS_MAX = 1000 };

struct tally {
    atomic_int runs[TASKS_MAX];
    int n_threads;
    atomic_int bad_thread;
    uint64_t result[TASKS_MAX]; /* plain memory: the pool must publish it to the caller */
};

static void count_task(void *arg, int i_task, int i_thread)
{
    struct tally *t = arg;
    atomic_fetch_add(&t->runs[i_task], 1);
    if (i_thread < 0 || i_thread >= t->n_threads)
        atomic_store(&t->bad_thread, 1);
    t->result[i_task] = mix64((uint64_t)i_task);
}

static void run_and_check(struct pool *p, int n_tasks)
{
    struct tally *t = xcalloc(1, sizeof *t);
    t->n_threads = pool_threads(p);
    pool_run(p, n_tasks, count_task, t);
    for (int i = 0; i < TASKS_MAX; i++) {
        assert_int_equal(atomic_load(&t->runs[i]), i < n_tasks);
        assert_true(t->result[i] == (i < n_tasks ? mix64((uint64_t)i) : 0));
    }
    assert_int_equal(atomic_load(&t->bad_thread), 0);
    free(t);
}

static void every_task_runs_once(void **state)
{
    (void)state;
    static const int threads[] = {1, 2, 3, 4, 7, 16}, tasks[] = {0, 1, 2, 3, 15, 16, 17, 1000};
    for (size_t i = 0; i < COUNT_OF(threads); i++) {
        struct pool *p;
        struct err e = {0};
        assert_int_equal(pool_open(&p, threads[i], &e), HD_OK);
        assert_int_equal(pool_threads(p), threads[i]);
        for (size_t k = 0; k < COUNT_OF(tasks); k++)
            run_and_check(p, tasks[k]);
        pool_close(&p);
        assert_null(p);
    }
}

static void no_pool_runs_in_the_caller(void **state)
{
    (void)state;
    assert_int_equal(pool_threads(NULL), 1);
    run_and_check(NULL, 17);
    struct pool *none = NULL;
    pool_close(&none);
}

struct sum {
    const uint32_t *x;
    uint64_t part[8];
};

static void sum_part(void *arg, int i_task, int i_thread)
{
    (void)i_thread;
    struct sum *s = arg;
    s->part[i_task] = 0;
    for (int i = 0; i < 16; i++)
        s->part[i_task] += s->x[i_task * 16 + i];
}

/* Short runs back to back: each reads what the caller wrote just before, the caller reads what each task wrote. */
static void thousands_of_runs(void **state)
{
    (void)state;
    uint32_t x[8 * 16];
    for (int n_threads = 2; n_threads <= 4; n_threads++) {
        struct pool *p;
        struct err e = {0};
        assert_int_equal(pool_open(&p, n_threads, &e), HD_OK);
        struct rng r = {(uint64_t)n_threads};
        for (int run = 0; run < 3000; run++) {
            uint64_t want = 0, got = 0;
            for (size_t i = 0; i < COUNT_OF(x); i++)
                want += x[i] = rng_below(&r, 1000);
            struct sum s = {x, {0}};
            pool_run(p, 8, sum_part, &s);
            for (int i = 0; i < 8; i++)
                got += s.part[i];
            assert_true(got == want);
        }
        pool_close(&p);
    }
}

/* Workers that fell asleep between runs must wake up; a pool may be closed while they sleep or before they ran at all. */
static void sleeping_workers(void **state)
{
    (void)state;
    struct err e = {0};
    for (int i = 0; i < 50; i++) {
        struct pool *p;
        assert_int_equal(pool_open(&p, 3, &e), HD_OK);
        if (i % 2 == 0) {
            run_and_check(p, 5);
            nanosleep(&(struct timespec){.tv_nsec = 2000000}, NULL);
            run_and_check(p, 5);
        }
        pool_close(&p);
    }
}

static void counts_are_checked(void **state)
{
    (void)state;
    static const int bad[] = {-1, 1025, 1 << 30};
    for (size_t i = 0; i < COUNT_OF(bad); i++) {
        struct pool *p = NULL;
        struct err e = {0};
        assert_int_equal(pool_open(&p, bad[i], &e), HD_EARG);
        assert_null(p);
        assert_non_null(strstr(e.msg, "threads"));
    }
    struct pool *p;
    struct err e = {0};
    assert_int_equal(pool_open(&p, 0, &e), HD_OK);
    assert_int_equal(pool_threads(p), cpu_usable(pool_topology(p)));
    pool_close(&p);
}

static double thread_cpu_seconds(void)
{
    struct timespec t;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

/* Task 0 returns once another thread has task 1, which then sleeps: its thread has the last task, or the caller has. */
static void slow_task(void *arg, int i_task, int i_thread)
{
    atomic_int *begun = arg;
    atomic_fetch_or(begun, i_thread == 0 ? 1 << i_task : 4 << i_task);
    if (i_thread > 0)
        nanosleep(&(struct timespec){.tv_nsec = 300000000}, NULL);
    else
        while (atomic_load(begun) < 4)
            nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
}

/* A caller whose worker is away does not spin, or the worker might never get the CPU back. */
static void waiting_caller_sleeps(void **state)
{
    (void)state;
    struct pool *p;
    struct err e = {0};
    assert_int_equal(pool_open(&p, 2, &e), HD_OK);
    for (int i = 0; i < 2; i++) {
        atomic_int begun = 0;
        double t = thread_cpu_seconds();
        pool_run(p, 2, slow_task, &begun);
        assert_true(thread_cpu_seconds() - t < 0.15);
        assert_true(atomic_load(&begun) >= 4); /* the worker took part */
    }
    pool_close(&p);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_task_runs_once),
        cmocka_unit_test(no_pool_runs_in_the_caller),
        cmocka_unit_test(thousands_of_runs),
        cmocka_unit_test(sleeping_workers),
        cmocka_unit_test(counts_are_checked),
        cmocka_unit_test(waiting_caller_sleeps),
    };
    return cmocka_run_group_tests_name("pool", tests, NULL, NULL);
}
