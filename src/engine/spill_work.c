#include "engine/spill_work.h"

#include <assert.h>
#include <errno.h>
#include <string.h>

enum { BATCH = SPILL_TRANSFERS_MAX / 2 };

/* ---------------------------------------------------------------- doing it */

static struct spill_transfer head_of(const struct spill_op *op, bool write)
{
    return (struct spill_transfer){op->file, write, op->record, SPILL_ALIGN, op->head_at, 0};
}

static struct spill_transfer data_of(const struct spill_op *op, bool write)
{
    return (struct spill_transfer){op->file, write, op->data, op->data_bytes, op->data_at, 0};
}

static void run_loads(struct spill_disk *d, struct spill_op **op, int n)
{
    struct spill_transfer t[SPILL_TRANSFERS_MAX];
    for (int i = 0; i < n; i++) {
        t[2 * i] = head_of(op[i], false);
        t[2 * i + 1] = data_of(op[i], false);
    }
    d->transfer(d->self, t, 2 * n);
    for (int i = 0; i < n; i++) {
        op[i]->error = t[2 * i].error != 0 ? t[2 * i].error : t[2 * i + 1].error;
        op[i]->damaged = op[i]->error == 0 && !spill_record_is(op[i]->record, &op[i]->want, op[i]->data);
    }
}

/* Payloads first; the header that makes a record valid only after its payload is there. */
static void run_saves(struct spill_disk *d, struct spill_op **op, int n)
{
    struct spill_transfer t[SPILL_TRANSFERS_MAX];
    int n_heads = 0, of[SPILL_TRANSFERS_MAX];
    for (int i = 0; i < n; i++) {
        spill_record_seal(op[i]->record, op[i]->data);
        t[i] = data_of(op[i], true);
    }
    d->transfer(d->self, t, n);
    for (int i = 0; i < n; i++)
        if ((op[i]->error = t[i].error) == 0)
            of[n_heads++] = i;
    for (int i = 0; i < n_heads; i++)
        t[i] = head_of(op[of[i]], true);
    d->transfer(d->self, t, n_heads);
    for (int i = 0; i < n_heads; i++)
        op[of[i]]->error = t[i].error;
}

static void run_grow(struct spill_disk *d, struct spill_op *op)
{
    uint64_t bytes = spill_segment_bytes(op->segment.n_slots, op->segment.payload_bytes);
    if (op->remove[0] != '\0')
        d->remove(d->self, op->remove); /* when it cannot be, it is left beyond the limit */
    op->error = d->open(d->self, op->name, true, &bytes, &op->file);
    if (op->error != 0)
        return;
    memset(op->record, 0, SPILL_ALIGN);
    memcpy(op->record, &op->segment, sizeof op->segment);
    struct spill_transfer t = {op->file, true, op->record, SPILL_ALIGN, 0, 0};
    d->transfer(d->self, &t, 1);
    op->error = t.error;
    if (op->error == 0)
        return;
    d->close_file(d->self, op->file);
    d->remove(d->self, op->name);
}

/* ---------------------------------------------------------------- queues */

static void append(struct spill_op **queue, struct spill_op *op)
{
    while (*queue != NULL)
        queue = &(*queue)->next;
    *queue = op;
    op->next = NULL;
}

/* The oldest operations of one act, loads first. */
static int take_batch(struct spill_work *w, struct spill_op **op)
{
    struct spill_op **queue = w->loads != NULL ? &w->loads : &w->saves;
    int n = 0;
    while (*queue != NULL && n < BATCH && (n == 0 || ((*queue)->act == op[0]->act && op[0]->act != SPILL_GROW))) {
        op[n++] = *queue;
        *queue = (*queue)->next;
    }
    return n;
}

/* With the mutex held on entry and exit. False when there was nothing to do. */
static bool run_batch(struct spill_work *w)
{
    struct spill_op *op[BATCH];
    int n = take_batch(w, op);
    if (n == 0)
        return false;
    pthread_mutex_unlock(&w->mutex);
    if (op[0]->act == SPILL_LOAD)
        run_loads(w->disk, op, n);
    else if (op[0]->act == SPILL_SAVE)
        run_saves(w->disk, op, n);
    else
        run_grow(w->disk, op[0]);
    pthread_mutex_lock(&w->mutex);
    for (int i = 0; i < n; i++)
        append(&w->done, op[i]);
    return true;
}

static void *work_thread(void *arg)
{
    struct spill_work *w = arg;
    pthread_mutex_lock(&w->mutex);
    for (;;) {
        while (!w->stop && w->loads == NULL && w->saves == NULL)
            pthread_cond_wait(&w->more, &w->mutex);
        if (!run_batch(w))
            break;
        pthread_cond_signal(&w->less);
        if (w->wake != NULL) {
            pthread_mutex_unlock(&w->mutex);
            w->wake(w->wake_arg);
            pthread_mutex_lock(&w->mutex);
        }
    }
    pthread_mutex_unlock(&w->mutex);
    return NULL;
}

int spill_work_open(struct spill_work *w, struct spill_disk *disk, bool threaded, void (*wake)(void *arg), void *arg,
                    struct err *e)
{
    *w = (struct spill_work){.disk = disk, .threaded = threaded, .wake = wake, .wake_arg = arg};
    pthread_mutex_init(&w->mutex, NULL);
    pthread_cond_init(&w->more, NULL);
    pthread_cond_init(&w->less, NULL);
    int error = threaded ? pthread_create(&w->thread, NULL, work_thread, w) : 0;
    return error == 0 ? HD_OK : err_sys(e, error, "cannot start the thread of the cache folder %s", disk->dir);
}

void spill_work_close(struct spill_work *w)
{
    if (w->threaded) {
        pthread_mutex_lock(&w->mutex);
        w->stop = true;
        pthread_cond_signal(&w->more);
        pthread_mutex_unlock(&w->mutex);
        pthread_join(w->thread, NULL);
    }
    pthread_mutex_destroy(&w->mutex);
    pthread_cond_destroy(&w->more);
    pthread_cond_destroy(&w->less);
}

void spill_work_add(struct spill_work *w, struct spill_op *op)
{
    assert(!op->out);
    pthread_mutex_lock(&w->mutex);
    op->out = true;
    op->error = 0;
    op->damaged = false;
    append(op->act == SPILL_LOAD ? &w->loads : &w->saves, op);
    w->n_out++;
    pthread_cond_signal(&w->more);
    pthread_mutex_unlock(&w->mutex);
}

struct spill_op *spill_work_done(struct spill_work *w, bool wait)
{
    pthread_mutex_lock(&w->mutex);
    if (!w->threaded && (wait || w->disk->ready == NULL || w->disk->ready(w->disk->self)))
        run_batch(w);
    while (w->threaded && wait && w->done == NULL && w->n_out > 0)
        pthread_cond_wait(&w->less, &w->mutex);
    struct spill_op *list = w->done;
    w->done = NULL;
    for (struct spill_op *op = list; op != NULL; op = op->next) {
        op->out = false;
        w->n_out--;
    }
    pthread_mutex_unlock(&w->mutex);
    return list;
}
