/* A job's event queue and its consumer's side. */
#include "engine/job.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

/* Progress that nobody has looked at yet is replaced by newer progress. */
static bool merge_progress(struct job *j, const struct gen_event *ev)
{
    if (ev->kind != GEN_PROMPT || j->tail == NULL || j->tail->ev.kind != GEN_PROMPT)
        return false;
    j->tail->ev.done = ev->done;
    return true;
}

/* Without the lock, but engine_release waits for it: the consumer's argument stays valid during the call. */
static void call_notify(struct job *j)
{
    j->notify(j->arg);
    pthread_mutex_lock(&j->engine->mutex);
    j->notifying = false;
    pthread_cond_broadcast(&j->more);
    pthread_mutex_unlock(&j->engine->mutex);
}

static struct queued_event *new_event(size_t cap)
{
    struct queued_event *q = malloc(sizeof *q + cap + 1);
    if (q != NULL)
        q->cap = cap;
    return q;
}

bool job_reserve_events(struct job *j)
{
    for (int i = 0; i < EVENTS_SPARE; i++) {
        struct queued_event *q = new_event(EVENT_TEXT);
        if (q == NULL)
            return false;
        q->next = j->spare;
        j->spare = q;
    }
    j->end = new_event(STOP_BYTES_MAX); /* a stop string or a sentence */
    return j->end != NULL;
}

/* With the mutex held. */
static void put_spare(struct job *j, struct queued_event *q)
{
    if (q == NULL || q->cap != EVENT_TEXT) {
        free(q);
        return;
    }
    q->next = j->spare;
    j->spare = q;
}

static void fill_event(struct queued_event *q, const struct gen_event *ev)
{
    assert(ev->n <= q->cap);
    q->next = NULL;
    q->ev = *ev;
    q->text[ev->n] = 0;
    if (ev->n > 0)
        memcpy(q->text, ev->text, ev->n);
    q->ev.text = q->text;
}

/* With the mutex held. NULL: no memory; the engine ends the job before its next step. */
static struct queued_event *copy_event(struct job *j, const struct gen_event *ev)
{
    struct queued_event *q = ev->n <= EVENT_TEXT ? j->spare : NULL;
    if (q != NULL)
        j->spare = q->next;
    else
        q = new_event(ev->n > EVENT_TEXT ? ev->n : EVENT_TEXT);
    if (q != NULL)
        fill_event(q, ev);
    j->starved |= q == NULL;
    return q;
}

/* With the mutex held; takes q over. True when the consumer is to be notified. */
static bool append(struct job *j, struct queued_event *q)
{
    if (q == NULL || j->released || merge_progress(j, &q->ev)) {
        put_spare(j, q);
        return false;
    }
    *(j->tail == NULL ? &j->head : &j->tail->next) = q;
    j->tail = q;
    pthread_cond_broadcast(&j->more);
    return j->notifying = j->notify != NULL;
}

void job_push(struct job *j, const struct gen_event *ev)
{
    pthread_mutex_lock(&j->engine->mutex);
    bool notify = append(j, copy_event(j, ev));
    pthread_mutex_unlock(&j->engine->mutex);
    if (notify)
        call_notify(j);
}

void job_on_event(void *job, const struct gen_event *ev)
{
    struct job *j = job;
    if (ev->kind != GEN_END) {
        job_push(j, ev);
        return;
    }
    pthread_mutex_lock(&j->engine->mutex);
    fill_event(j->end, ev);
    pthread_mutex_unlock(&j->engine->mutex);
}

void job_retire(struct job *j)
{
    pthread_mutex_lock(&j->engine->mutex);
    bool notify = append(j, j->end), released = j->released;
    j->end = NULL;
    j->retired = true;
    pthread_mutex_unlock(&j->engine->mutex);
    if (notify)
        call_notify(j);
    if (released) /* otherwise the consumer frees it */
        job_free(j);
}

static void free_events(struct queued_event *q)
{
    for (struct queued_event *next; q != NULL; q = next) {
        next = q->next;
        free(q);
    }
}

void job_free(struct job *j)
{
    assert(j->seq == NULL);
    free_events(j->head);
    free_events(j->spare);
    free(j->taken);
    free(j->end);
    pthread_cond_destroy(&j->more);
    generation_close(&j->gen);
    ids_free(&j->tokens);
    replay_text_free(&j->seen);
    free(j->hashes);
    free(j->user_name);
    free(j->user_of_list);
    free(j);
}

static struct timespec deadline_after_ms(int timeout_ms)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    t.tv_sec += timeout_ms / 1000;
    t.tv_nsec += (long)(timeout_ms % 1000) * 1000000;
    if (t.tv_nsec >= 1000000000) {
        t.tv_sec++;
        t.tv_nsec -= 1000000000;
    }
    return t;
}

/* With the mutex held: until there is an event, the last one was taken, or the time is over. */
static void wait_for_event(struct job *j, int timeout_ms)
{
    bool ended = j->taken != NULL && j->taken->ev.kind == GEN_END;
    struct timespec deadline = deadline_after_ms(timeout_ms < 0 ? 0 : timeout_ms);
    while (j->head == NULL && !ended && timeout_ms != 0) {
        if (timeout_ms < 0)
            pthread_cond_wait(&j->more, &j->engine->mutex);
        else if (pthread_cond_timedwait(&j->more, &j->engine->mutex, &deadline) == ETIMEDOUT)
            return;
    }
}

/* In the consumer's thread; the job has retired, its tokens are nobody else's. */
static void remember(struct job *j, const struct gen_event *end)
{
    struct replay *r = j->engine->env.replay;
    bool whole = end->finish == FINISH_TOOL_CALLS || end->finish == FINISH_LENGTH ||
                 (end->finish == FINISH_STOP && end->n == 0); /* with a stop string more was generated than shown */
    if (r != NULL && whole && !j->raw && !j->is_fork) /* the reader of a fork saw a part of the reply */
        replay_add(r, j->user_name, &j->seen, j->tokens.data, (size_t)j->n_prompt, j->tokens.n);
}

int engine_next(struct job *j, struct gen_event *ev, int timeout_ms)
{
    pthread_mutex_lock(&j->engine->mutex);
    wait_for_event(j, timeout_ms);
    struct queued_event *q = j->head;
    if (q != NULL) {
        j->head = q->next;
        if (j->head == NULL)
            j->tail = NULL;
        put_spare(j, j->taken);
        j->taken = q;
        *ev = q->ev;
    }
    pthread_mutex_unlock(&j->engine->mutex);
    if (q != NULL && !j->raw)
        replay_text_add(&j->seen, ev);
    if (q != NULL && ev->kind == GEN_END)
        remember(j, ev);
    return q != NULL;
}

void engine_cancel(struct job *j)
{
    pthread_mutex_lock(&j->engine->mutex);
    j->cancelled = true;
    pthread_cond_signal(&j->engine->work);
    pthread_mutex_unlock(&j->engine->mutex);
}

void engine_name_call(struct job *j, const char *id)
{
    replay_text_id(&j->seen, id);
}

void engine_release(struct job **j)
{
    struct job *p = *j;
    if (p == NULL)
        return;
    *j = NULL;
    struct engine *e = p->engine;
    pthread_mutex_lock(&e->mutex);
    while (p->notifying)
        pthread_cond_wait(&p->more, &e->mutex);
    bool retired = p->retired;
    p->released = p->cancelled = true;
    pthread_cond_signal(&e->work);
    pthread_mutex_unlock(&e->mutex);
    if (retired) /* otherwise the step thread frees it */
        job_free(p);
}
