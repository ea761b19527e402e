/* Requests into the queue: checked, with all the memory that they will need, counted by user; forks of running ones. */
#include "engine/job.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

/* ---------------------------------------------------------------- a job and its memory */

static int check_request(const struct engine *e, struct gen_request *r, struct err *err)
{
    int64_t room = e->env.context_tokens - (int64_t)r->prompt.n;
    if (r->prompt.n == 0)
        return err_set(err, HD_EARG, "the prompt has no tokens");
    if (r->params.max_tokens < 1)
        return err_set(err, HD_EARG, "max_tokens is below 1");
    if (room < 1)
        return err_set(err, HD_EARG, "the prompt has %zu tokens and the context only %lld", r->prompt.n,
                       (long long)e->env.context_tokens);
    for (size_t i = 0; i < r->prompt.n; i++)
        if (r->prompt.data[i] < 0 || r->prompt.data[i] >= e->runner.n_vocab)
            return err_set(err, HD_EARG, "prompt token %zu has id %d; the model knows 0 to %d", i, r->prompt.data[i],
                           e->runner.n_vocab - 1);
    if (r->params.max_tokens > room)
        r->params.max_tokens = room;
    return HD_OK;
}

static char *copy_text(const char *s)
{
    size_t n = strlen(s) + 1;
    char *p = malloc(n);
    return p == NULL ? NULL : memcpy(p, s, n);
}

static struct job *job_new(struct engine *e)
{
    struct job *j = calloc(1, sizeof *j);
    if (j == NULL)
        return NULL;
    j->engine = e;
    j->node = CACHE_NONE;
    j->submit_ns = now_ns();
    pthread_condattr_t a;
    pthread_condattr_init(&a);
    pthread_condattr_setclock(&a, CLOCK_MONOTONIC);
    pthread_cond_init(&j->more, &a);
    pthread_condattr_destroy(&a);
    return j;
}

/* All that the job may need, so that the step thread takes no memory for it. What is never touched costs none. */
static bool reserve(struct job *j, const char *user)
{
    j->cap_hashes = j->most_tokens / CACHE_PAGE + 1;
    return (j->user_name = copy_text(user)) != NULL && (j->user_of_list = copy_text(user)) != NULL &&
           (j->hashes = malloc((size_t)j->cap_hashes * sizeof *j->hashes)) != NULL &&
           ids_try_reserve(&j->tokens, (size_t)j->most_tokens) && job_reserve_events(j);
}

static bool fill_job(struct job *j, struct gen_request *r)
{
    const struct engine *e = j->engine;
    j->gen = generation_open(e->env.tokenizer, e->runner.n_vocab, e->eos, e->n_eos, &r->params, job_on_event, j);
    j->tokens = r->prompt;
    j->n_prompt = j->n_before = (int64_t)r->prompt.n;
    j->max_tokens = r->params.max_tokens;
    j->most_tokens = j->n_prompt + j->max_tokens;
    j->pin_tokens = r->pin_tokens;
    j->raw = r->params.raw;
    j->priority = r->priority;
    j->weight = r->weight > 0 ? r->weight : 1;
    j->deadline_ns = r->deadline_ns;
    r->prompt = (struct ids){0};
    return j->gen != NULL && reserve(j, r->user != NULL ? r->user : "");
}

/* ---------------------------------------------------------------- the queue */

/* With the mutex held. NULL: no memory. */
static struct queue_part *part_of(struct engine *e, const char *user)
{
    struct queue_part *empty = NULL, *p = e->parts;
    for (; p != NULL && (p->user == NULL || strcmp(p->user, user) != 0); p = p->next)
        if (p->n == 0)
            empty = p;
    if (p != NULL)
        return p;
    if (empty == NULL) {
        empty = calloc(1, sizeof *empty);
        if (empty == NULL)
            return NULL;
        empty->next = e->parts;
        e->parts = empty;
    }
    free(empty->user);
    empty->user = copy_text(user);
    return empty->user == NULL ? NULL : empty;
}

void engine_leave_queue(struct engine *e, struct job *j)
{
    pthread_mutex_lock(&e->mutex);
    if (j->part != NULL)
        j->part->n--;
    j->part = NULL;
    pthread_mutex_unlock(&e->mutex);
}

static int no_memory(const struct job *j, struct err *err)
{
    if (j == NULL || j->most_tokens == 0)
        return err_set(err, HD_ENOMEM, "no memory for a request");
    return err_set(err, HD_ENOMEM, "no memory for a request of %lld prompt and %lld reply tokens",
                   (long long)(j->most_tokens - j->max_tokens), (long long)j->max_tokens);
}

static int enqueue(struct engine *e, struct job *j, struct err *err)
{
    int rc = HD_OK;
    pthread_mutex_lock(&e->mutex);
    struct queue_part *part = part_of(e, j->user_name);
    if (part == NULL) {
        rc = no_memory(j, err);
    } else if (e->n_waiting + e->n_incoming >= e->max_waiting) {
        rc = err_set(err, HD_ENOMEM, "%d requests are waiting already; the queue holds no more",
                     e->n_waiting + e->n_incoming);
    } else if (part->n >= e->max_waiting_user) {
        rc = err_set(err, HD_ENOMEM, "%d requests of this user are waiting already; the queue holds no more of one user",
                     part->n);
    } else {
        j->part = part;
        part->n++;
        *e->incoming_end = j;
        e->incoming_end = &j->next;
        e->n_incoming++;
        j->number = e->n_submitted++;
        pthread_cond_signal(&e->work);
    }
    pthread_mutex_unlock(&e->mutex);
    return rc;
}

/* complete: the job has all its memory. Without, or when the queue refuses, it is freed. */
static int submit(struct engine *e, struct job *j, bool complete, struct job **out, struct err *err)
{
    int rc = complete ? enqueue(e, j, err) : no_memory(j, err);
    if (rc == HD_OK)
        *out = j;
    else if (j != NULL)
        job_free(j);
    return rc;
}

int engine_submit(struct engine *e, struct gen_request *r, void (*notify)(void *arg), void *arg, struct job **out,
                  struct err *err)
{
    int rc = check_request(e, r, err);
    if (rc == HD_OK) {
        struct job *j = job_new(e);
        bool complete = j != NULL && fill_job(j, r);
        if (complete) {
            j->notify = notify;
            j->arg = arg;
        }
        rc = submit(e, j, complete, out, err);
    }
    gen_request_free(r);
    return rc;
}

/* ---------------------------------------------------------------- forks */

/* Of `from` only what never changes is read: the step thread may be at work on it. */
int engine_fork(struct job *from, uint64_t seed, int64_t max_tokens, void (*notify)(void *arg), void *arg,
                struct job **out, struct err *err)
{
    struct engine *e = from->engine;
    if (max_tokens < 1)
        return err_set(err, HD_EARG, "max_tokens is below 1");
    struct job *j = job_new(e);
    bool complete = false;
    if (j != NULL) {
        int64_t room = e->env.context_tokens - from->most_tokens;
        j->is_fork = true;
        j->fork_of = from->number;
        j->max_tokens = max_tokens;
        j->most_tokens = from->most_tokens + (max_tokens < room ? max_tokens : room);
        j->raw = from->raw;
        j->priority = from->priority;
        j->weight = from->weight;
        j->deadline_ns = from->deadline_ns;
        j->notify = notify;
        j->arg = arg;
        j->gen = generation_again(from->gen, seed, max_tokens, job_on_event, j);
        complete = j->gen != NULL && reserve(j, from->user_name);
    }
    return submit(e, j, complete, out, err);
}

static const struct job *by_number(const struct job_list *l, uint64_t number)
{
    for (int i = 0; i < l->n; i++)
        if (l->at[i]->number == number && generation_finish(l->at[i]->gen) == FINISH_NONE)
            return l->at[i];
    return NULL;
}

void job_join(struct engine *e, struct job *j)
{
    const struct job *from = by_number(&e->running, j->fork_of);
    if (from == NULL)
        from = by_number(&e->waiting, j->fork_of);
    if (from == NULL)
        from = by_number(&e->loading, j->fork_of);
    if (from == NULL) {
        generation_end(j->gen, FINISH_ERROR, "the request to go on from has ended");
        return;
    }
    int64_t n = (int64_t)from->tokens.n, room = e->env.context_tokens - n;
    assert(room > 0 && n <= (int64_t)j->tokens.cap);
    memcpy(j->tokens.data, from->tokens.data, (size_t)n * sizeof *j->tokens.data);
    j->tokens.n = (size_t)n;
    j->n_prompt = n;
    j->n_before = from->n_before;
    j->max_tokens = j->max_tokens < room ? j->max_tokens : room;
    generation_follow(j->gen, j->tokens.data + j->n_before, n - j->n_before, j->max_tokens);
}
