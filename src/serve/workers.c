/* The threads that read bodies: JSON, the dialect's rules, the tokenizer. One takes any body in order of arrival, the
 * other only small ones, so that no large body stands before all others. */
#include "serve/server.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <unistd.h>

enum { N_WORKERS = 2, SMALL_BYTES = 1 << 20 };

struct list {
    struct exchange *head, **end;
};

struct workers {
    pthread_t thread[N_WORKERS];
    int n_threads, wake_fd;
    pthread_mutex_t mutex;
    pthread_cond_t more;
    struct list small, large, done; /* guarded, like closing */
    bool closing;
};

struct worker {
    struct workers *workers;
    bool takes_large;
};

static void list_add(struct list *l, struct exchange *x)
{
    x->queue_next = NULL;
    *l->end = x;
    l->end = &x->queue_next;
}

static struct exchange *list_take(struct list *l)
{
    struct exchange *x = l->head;
    if (x == NULL)
        return NULL;
    l->head = x->queue_next;
    if (l->head == NULL)
        l->end = &l->head;
    return x;
}

/* With the mutex held. */
static struct exchange *next_of(struct worker *k)
{
    struct exchange *x = k->takes_large ? list_take(&k->workers->large) : NULL;
    return x != NULL ? x : list_take(&k->workers->small);
}

static void *worker_thread(void *arg)
{
    struct worker *k = arg;
    struct workers *w = k->workers;
    pthread_mutex_lock(&w->mutex);
    for (;;) {
        struct exchange *x = NULL;
        while (!w->closing && (x = next_of(k)) == NULL)
            pthread_cond_wait(&w->more, &w->mutex);
        if (x == NULL)
            break;
        pthread_mutex_unlock(&w->mutex);
        x->work(x);
        pthread_mutex_lock(&w->mutex);
        list_add(&w->done, x);
        uint64_t one = 1;
        if (write(w->wake_fd, &one, sizeof one) < 0)
            continue; /* the counter is full: the loop is awake */
    }
    pthread_mutex_unlock(&w->mutex);
    free(k);
    return NULL;
}

int workers_open(struct workers **out, int wake_fd, struct err *e)
{
    struct workers *w = xcalloc(1, sizeof *w);
    int bad = 0;
    w->wake_fd = wake_fd;
    w->small.end = &w->small.head;
    w->large.end = &w->large.head;
    w->done.end = &w->done.head;
    pthread_mutex_init(&w->mutex, NULL);
    pthread_cond_init(&w->more, NULL);
    for (int i = 0; i < N_WORKERS && bad == 0; i++) {
        struct worker *k = xcalloc(1, sizeof *k);
        *k = (struct worker){w, i == 0};
        bad = pthread_create(&w->thread[i], NULL, worker_thread, k);
        if (bad == 0)
            w->n_threads++;
        else
            free(k);
    }
    if (bad != 0) {
        workers_close(&w);
        return err_sys(e, bad, "the server could not start a thread");
    }
    *out = w;
    return HD_OK;
}

void workers_close(struct workers **out)
{
    struct workers *w = *out;
    *out = NULL;
    if (w == NULL)
        return;
    pthread_mutex_lock(&w->mutex);
    w->closing = true;
    pthread_cond_broadcast(&w->more);
    pthread_mutex_unlock(&w->mutex);
    for (int i = 0; i < w->n_threads; i++)
        pthread_join(w->thread[i], NULL);
    pthread_mutex_destroy(&w->mutex);
    pthread_cond_destroy(&w->more);
    free(w);
}

void workers_give(struct workers *w, struct exchange *x)
{
    pthread_mutex_lock(&w->mutex);
    list_add(x->body.len > SMALL_BYTES ? &w->large : &w->small, x);
    pthread_cond_broadcast(&w->more); /* the one that sleeps may be the one that does not take large bodies */
    pthread_mutex_unlock(&w->mutex);
}

struct exchange *workers_take(struct workers *w)
{
    pthread_mutex_lock(&w->mutex);
    struct exchange *x = list_take(&w->done);
    pthread_mutex_unlock(&w->mutex);
    return x;
}
