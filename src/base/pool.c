/* Thread pool for data-parallel loops. One 64-bit ticket holds the number of tasks and the next task: taking a task is one
 * atomic addition, and whoever gets a valid number may read the job, which stays as it is until all its tasks are done. So
 * a worker that wakes late (or is kept off the CPU by other programs) never holds up a loop that others have finished.
 * Workers spin for a bounded time, then sleep; so does the caller when others still run the last tasks. */
#include "base/base.h"

#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdlib.h>

enum { SPIN_TURNS = 4000, YIELD_TURNS = 16, THREADS_MAX = 1024 };

struct worker {
    struct pool *pool;
    int i_thread;
    pthread_t thread;
};

struct pool {
    int n_threads;
    struct worker *workers; /* n_threads - 1: the caller is thread 0 */
    struct topology *topology;
    void (*fn)(void *, int, int);
    void *arg;
    atomic_uint_fast64_t ticket; /* n_tasks << 32 | next task */
    atomic_int n_done;           /* tasks finished */
    atomic_uint generation;      /* +1 for every pool_run: what idle workers watch */
    atomic_int n_asleep;
    atomic_bool stop;
    atomic_bool caller_waits;
    pthread_mutex_t lock;
    pthread_cond_t wake, finished;
};

static void cpu_relax(void)
{
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

static void tell_caller(struct pool *p)
{
    pthread_mutex_lock(&p->lock);
    pthread_cond_signal(&p->finished);
    pthread_mutex_unlock(&p->lock);
}

static void work(struct pool *p, int i_thread)
{
    for (;;) {
        uint_fast64_t t = atomic_fetch_add_explicit(&p->ticket, 1, memory_order_acquire);
        uint32_t i = (uint32_t)t, n = (uint32_t)(t >> 32);
        if (i >= n)
            return;
        p->fn(p->arg, (int)i, i_thread);
        atomic_fetch_add(&p->n_done, 1);
        if (i_thread > 0 && atomic_load(&p->caller_waits))
            tell_caller(p);
    }
}

static void sleep_until_changed(struct pool *p, unsigned seen)
{
    pthread_mutex_lock(&p->lock);
    atomic_fetch_add(&p->n_asleep, 1);
    while (atomic_load(&p->generation) == seen)
        pthread_cond_wait(&p->wake, &p->lock);
    atomic_fetch_sub(&p->n_asleep, 1);
    pthread_mutex_unlock(&p->lock);
}

/* Returns the new generation once it differs from `seen`: first by looking, then by sleeping. */
static unsigned wait_for_work(struct pool *p, unsigned seen)
{
    for (int turn = 0; turn < SPIN_TURNS; turn++) {
        if (atomic_load_explicit(&p->generation, memory_order_acquire) != seen)
            break;
        cpu_relax();
    }
    if (atomic_load_explicit(&p->generation, memory_order_acquire) == seen)
        sleep_until_changed(p, seen);
    return atomic_load_explicit(&p->generation, memory_order_acquire);
}

static void *worker_main(void *arg)
{
    struct worker *w = arg;
    struct pool *p = w->pool;
    unsigned seen = 0;
    topology_stay(p->topology, w->i_thread);
    for (;;) {
        seen = wait_for_work(p, seen);
        if (atomic_load(&p->stop))
            return NULL;
        work(p, w->i_thread);
    }
}

/* Both sides are sequentially consistent: a worker that has counted itself asleep sees the new generation, or we see it
 * asleep. */
static void next_generation(struct pool *p)
{
    atomic_fetch_add(&p->generation, 1);
    if (atomic_load(&p->n_asleep) == 0)
        return;
    pthread_mutex_lock(&p->lock);
    pthread_cond_broadcast(&p->wake);
    pthread_mutex_unlock(&p->lock);
}

static int start_workers(struct pool *p, int n_threads, struct err *e)
{
    p->workers = xcalloc((size_t)n_threads, sizeof *p->workers);
    for (int i = 1; i < n_threads; i++) {
        struct worker *w = &p->workers[i - 1];
        w->pool = p;
        w->i_thread = i;
        int errnum = pthread_create(&w->thread, NULL, worker_main, w);
        if (errnum != 0)
            return err_sys(e, errnum, "cannot start thread %d of %d", i + 1, n_threads);
        p->n_threads++;
    }
    return HD_OK;
}

int pool_open(struct pool **out, int n_threads, struct err *e)
{
    *out = NULL;
    if (n_threads < 0 || n_threads > THREADS_MAX)
        return err_set(e, HD_EARG, "threads: %d is outside 1..%d", n_threads, THREADS_MAX);
    struct topology *t;
    int rc = topology_open(&t, NULL, NULL, e);
    if (rc != HD_OK)
        return rc;
    struct pool *p = xcalloc(1, sizeof *p);
    p->topology = t;
    p->n_threads = 1;
    pthread_mutex_init(&p->lock, NULL);
    pthread_cond_init(&p->wake, NULL);
    pthread_cond_init(&p->finished, NULL);
    if (n_threads == 0)
        n_threads = cpu_usable(t) < THREADS_MAX ? cpu_usable(t) : THREADS_MAX;
    rc = start_workers(p, n_threads, e);
    if (rc != HD_OK)
        pool_close(&p);
    *out = p;
    return rc;
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
    pthread_cond_destroy(&p->finished);
    pthread_mutex_destroy(&p->lock);
    free(p->workers);
    topology_close(&p->topology);
    free(p);
    *pp = NULL;
}

int pool_threads(const struct pool *p)
{
    return p == NULL ? 1 : p->n_threads;
}

const struct topology *pool_topology(const struct pool *p)
{
    return p->topology;
}

/* Both sides are sequentially consistent, as in next_generation: whoever finishes the last task sees us waiting, or we see
 * it finished. */
static void sleep_until_done(struct pool *p, int n_tasks)
{
    pthread_mutex_lock(&p->lock);
    atomic_store(&p->caller_waits, true);
    while (atomic_load(&p->n_done) != n_tasks)
        pthread_cond_wait(&p->finished, &p->lock);
    atomic_store(&p->caller_waits, false);
    pthread_mutex_unlock(&p->lock);
}

/* Every task is handed out; waits for those still running. A descheduled worker must get the CPU. */
static void wait_for_done(struct pool *p, int n_tasks)
{
    for (int turn = 0; atomic_load_explicit(&p->n_done, memory_order_acquire) != n_tasks; turn++) {
        if (turn < SPIN_TURNS) {
            cpu_relax();
        } else if (turn < SPIN_TURNS + YIELD_TURNS) {
            sched_yield();
        } else {
            sleep_until_done(p, n_tasks);
            return;
        }
    }
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
    atomic_store_explicit(&p->n_done, 0, memory_order_relaxed);
    atomic_store_explicit(&p->ticket, (uint_fast64_t)n_tasks << 32, memory_order_release);
    next_generation(p);
    work(p, 0);
    wait_for_done(p, n_tasks);
}
