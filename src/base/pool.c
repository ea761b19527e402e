/* Thread pool for data-parallel loops: one generation counter wakes the workers, one task counter hands out work.
 * A worker spins for SPIN_TURNS, then sleeps on a condition variable, so a busy machine is not burdened by waiters. */
#include "base/base.h"

#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { SPIN_TURNS = 4000, THREADS_MAX = 1024 };

struct worker {
    struct pool *pool;
    int i_thread;
    pthread_t thread;
};

struct pool {
    int n_threads;
    struct worker *workers; /* n_threads - 1: the caller is thread 0 */
    void (*fn)(void *, int, int);
    void *arg;
    int n_tasks;
    atomic_int i_next;         /* next task number */
    atomic_int n_busy;         /* workers that have not finished this generation */
    atomic_uint generation;    /* +1 for every pool_run; odd/even has no meaning */
    atomic_bool stop;
    pthread_mutex_t lock;
    pthread_cond_t wake;
};

static void cpu_relax(void)
{
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

static void work(struct pool *p, int i_thread)
{
    for (;;) {
        int i = atomic_fetch_add_explicit(&p->i_next, 1, memory_order_relaxed);
        if (i >= p->n_tasks)
            return;
        p->fn(p->arg, i, i_thread);
    }
}

/* Returns when the generation differs from `seen`: first by looking, then by sleeping. */
static unsigned wait_for_work(struct pool *p, unsigned seen)
{
    for (int turn = 0; turn < SPIN_TURNS; turn++) {
        unsigned g = atomic_load_explicit(&p->generation, memory_order_acquire);
        if (g != seen)
            return g;
        cpu_relax();
    }
    pthread_mutex_lock(&p->lock);
    unsigned g;
    while ((g = atomic_load_explicit(&p->generation, memory_order_acquire)) == seen)
        pthread_cond_wait(&p->wake, &p->lock);
    pthread_mutex_unlock(&p->lock);
    return g;
}

static void *worker_main(void *arg)
{
    struct worker *w = arg;
    struct pool *p = w->pool;
    unsigned seen = 0;
    for (;;) {
        seen = wait_for_work(p, seen);
        if (atomic_load(&p->stop))
            return NULL;
        work(p, w->i_thread);
        atomic_fetch_sub_explicit(&p->n_busy, 1, memory_order_acq_rel);
    }
}

static void next_generation(struct pool *p)
{
    pthread_mutex_lock(&p->lock);
    atomic_fetch_add_explicit(&p->generation, 1, memory_order_release);
    pthread_cond_broadcast(&p->wake);
    pthread_mutex_unlock(&p->lock);
}

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

int cpu_usable(void)
{
    cpu_set_t set;
    int n = sched_getaffinity(0, sizeof set, &set) == 0 ? CPU_COUNT(&set) : (int)sysconf(_SC_NPROCESSORS_ONLN);
    int quota = cpu_quota();
    if (quota > 0 && quota < n)
        n = quota;
    return n > 0 ? n : 1;
}

int pool_open(struct pool **out, int n_threads, struct err *e)
{
    *out = NULL;
    if (n_threads == 0)
        n_threads = cpu_usable();
    if (n_threads < 1 || n_threads > THREADS_MAX)
        return err_set(e, HD_EARG, "threads: %d is outside 1..%d", n_threads, THREADS_MAX);
    struct pool *p = xcalloc(1, sizeof *p);
    pthread_mutex_init(&p->lock, NULL);
    pthread_cond_init(&p->wake, NULL);
    p->workers = xcalloc((size_t)n_threads, sizeof *p->workers);
    p->n_threads = 1;
    for (int i = 1; i < n_threads; i++) {
        struct worker *w = &p->workers[i - 1];
        w->pool = p;
        w->i_thread = i;
        int errnum = pthread_create(&w->thread, NULL, worker_main, w);
        if (errnum != 0) {
            pool_close(&p);
            return err_sys(e, errnum, "cannot start thread %d of %d", i + 1, n_threads);
        }
        p->n_threads++;
    }
    *out = p;
    return HD_OK;
}

void pool_close(struct pool **pp)
{
    struct pool *p = *pp;
    if (p == NULL)
        return;
    atomic_store(&p->stop, true);
    next_generation(p);
    for (int i = 1; i < p->n_threads; i++)
        pthread_join(p->workers[i - 1].thread, NULL);
    pthread_cond_destroy(&p->wake);
    pthread_mutex_destroy(&p->lock);
    free(p->workers);
    free(p);
    *pp = NULL;
}

int pool_threads(const struct pool *p)
{
    return p == NULL ? 1 : p->n_threads;
}

void pool_run(struct pool *p, int n_tasks, void (*fn)(void *, int, int), void *arg)
{
    if (p == NULL || p->n_threads == 1 || n_tasks <= 1) {
        for (int i = 0; i < n_tasks; i++)
            fn(arg, i, 0);
        return;
    }
    p->fn = fn;
    p->arg = arg;
    p->n_tasks = n_tasks;
    atomic_store_explicit(&p->i_next, 0, memory_order_relaxed);
    atomic_store_explicit(&p->n_busy, p->n_threads - 1, memory_order_relaxed);
    next_generation(p);
    work(p, 0);
    /* Every task is handed out; wait for those still running. A descheduled worker must get the CPU: yield. */
    for (int turn = 0; atomic_load_explicit(&p->n_busy, memory_order_acquire) != 0; turn++) {
        if (turn < SPIN_TURNS)
            cpu_relax();
        else
            sched_yield();
    }
}
