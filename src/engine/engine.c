/* The engine's life: opening, the step thread, submitting, closing. */
#include "engine/job.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

/* ---------------------------------------------------------------- jobs in and out of the running list */

static void start_job(struct engine *e, struct job *j)
{
    struct err err = {0};
    struct gen_usage *u = generation_usage(j->gen);
    j->start_ns = now_ns();
    u->queue_ns = j->start_ns - j->submit_ns;
    u->prompt_tokens = j->n_prompt;
    if (kept_take(e, j, &err) != HD_OK) {
        generation_end(j->gen, FINISH_ERROR, err.msg);
        return;
    }
    u->reused_tokens = j->n_fed;
    struct gen_event ev = {.kind = GEN_PROMPT, .done = j->n_fed, .total = j->n_prompt, .reused = j->n_fed};
    job_push(j, &ev);
}

static void admit(struct engine *e, struct job *j)
{
    if (e->n_running == e->cap_running) { /* beyond max_running for cancelled jobs only */
        e->cap_running *= 2;
        e->running = xrealloc(e->running, (size_t)e->cap_running * sizeof *e->running);
    }
    e->running[e->n_running++] = j;
}

/* With the mutex held: moves waiting jobs over while there is room, and cancelled ones in any case. */
static int admit_waiting(struct engine *e)
{
    int n_before = e->n_running;
    for (struct job **p = &e->waiting; *p != NULL;) {
        struct job *j = *p;
        if (e->n_running >= e->max_running && !j->cancelled && !e->closing) {
            p = &j->next;
            continue;
        }
        *p = j->next;
        e->n_waiting--;
        admit(e, j);
    }
    for (e->waiting_end = &e->waiting; *e->waiting_end != NULL;)
        e->waiting_end = &(*e->waiting_end)->next;
    return n_before;
}

static void count_states(struct engine *e)
{
    e->stats.n_running = e->n_running;
    e->stats.n_kept = e->n_kept;
    e->stats.kept_tokens = 0;
    for (int i = 0; i < e->n_kept; i++)
        e->stats.kept_tokens += (int64_t)e->kept[i].tokens.n;
}

static void retire(struct engine *e, int i)
{
    struct job *j = e->running[i];
    e->n_running--;
    memmove(&e->running[i], &e->running[i + 1], (size_t)(e->n_running - i) * sizeof *e->running);
    kept_put(e, j);
    pthread_mutex_lock(&e->mutex);
    e->stats.reused_tokens += (uint64_t)generation_usage(j->gen)->reused_tokens;
    count_states(e);
    pthread_mutex_unlock(&e->mutex);
    job_retire(j);
}

static void retire_finished(struct engine *e)
{
    for (int i = 0; i < e->n_running;)
        if (generation_finish(e->running[i]->gen) == FINISH_NONE)
            i++;
        else
            retire(e, i);
}

static bool is_cancelled(struct job *j)
{
    pthread_mutex_lock(&j->engine->mutex);
    bool cancelled = j->cancelled || j->engine->closing;
    pthread_mutex_unlock(&j->engine->mutex);
    return cancelled;
}

static void end_cancelled(struct engine *e)
{
    for (int i = 0; i < e->n_running; i++)
        if (is_cancelled(e->running[i]))
            generation_end(e->running[i]->gen, FINISH_CANCELLED, "");
    retire_finished(e);
}

/* Waits for work; false when the engine closes and nothing is left. */
static bool next_round(struct engine *e, int *n_before)
{
    pthread_mutex_lock(&e->mutex);
    count_states(e);
    while (e->waiting == NULL && e->n_running == 0 && !e->closing)
        pthread_cond_wait(&e->work, &e->mutex);
    *n_before = admit_waiting(e);
    count_states(e);
    bool go = e->n_running > 0;
    pthread_mutex_unlock(&e->mutex);
    return go;
}

static void *step_thread(void *arg)
{
    struct engine *e = arg;
    int n_before;
    while (next_round(e, &n_before)) {
        for (int i = n_before; i < e->n_running; i++)
            if (!is_cancelled(e->running[i]))
                start_job(e, e->running[i]);
        end_cancelled(e);
        engine_step(e);
        retire_finished(e);
    }
    return NULL;
}

/* ---------------------------------------------------------------- opening and closing */

void engine_options_init(struct engine_options *o)
{
    *o = (struct engine_options){0};
    model_options_init(&o->model);
}

static int choose(int given, int otherwise)
{
    return given > 0 ? given : otherwise;
}

static void engine_free(struct engine *e)
{
    while (kept_drop_oldest(e))
        ;
    sampler_close(&e->sampler);
    if (e->runner.close != NULL)
        e->runner.close(e->runner.self);
    tokenizer_close(&e->tokenizer);
    free(e->running);
    free(e->items);
    free(e->item_job);
    free(e->kept);
    pthread_mutex_destroy(&e->mutex);
    pthread_cond_destroy(&e->work);
    free(e);
}

static struct engine *engine_alloc(struct runner r, const struct request_env *env, const struct engine_options *o)
{
    struct engine *e = xcalloc(1, sizeof *e);
    e->runner = r;
    e->env = *env;
    e->env.context_tokens = o->context_tokens > 0 && o->context_tokens < r.max_tokens ? o->context_tokens : r.max_tokens;
    e->max_running = choose(o->max_running, 16);
    if (e->max_running > r.max_rows) /* every decoding job has its row in every step */
        e->max_running = r.max_rows;
    e->max_waiting = choose(o->max_waiting, 256);
    e->max_kept = o->n_keep < 0 ? 0 : choose(o->n_keep, 8);
    e->cap_running = e->max_running;
    e->running = xcalloc((size_t)e->cap_running, sizeof *e->running);
    e->items = xcalloc((size_t)r.max_rows, sizeof *e->items);
    e->item_job = xcalloc((size_t)r.max_rows, sizeof *e->item_job);
    e->kept = xcalloc((size_t)e->max_kept + 1, sizeof *e->kept);
    e->waiting_end = &e->waiting;
    pthread_mutex_init(&e->mutex, NULL);
    pthread_cond_init(&e->work, NULL);
    return e;
}

int engine_open_runner(struct engine **out, struct runner r, const struct request_env *env, const int32_t *eos, int n_eos,
                       const struct engine_options *o, struct err *err)
{
    assert(n_eos <= EOS_IDS_MAX && r.max_rows >= 1);
    struct engine *e = engine_alloc(r, env, o);
    memcpy(e->eos, eos, (size_t)n_eos * sizeof *eos);
    e->n_eos = n_eos;
    int rc = sampler_open(&e->sampler, r.n_vocab, err);
    if (rc == HD_OK) {
        int errnum = pthread_create(&e->thread, NULL, step_thread, e);
        if (errnum != 0)
            rc = err_sys(err, errnum, "cannot start the engine's thread");
    }
    if (rc != HD_OK) {
        engine_free(e);
        return rc;
    }
    *out = e;
    return HD_OK;
}

void engine_close(struct engine **e)
{
    if (*e == NULL)
        return;
    pthread_mutex_lock(&(*e)->mutex);
    (*e)->closing = true;
    pthread_cond_signal(&(*e)->work);
    pthread_mutex_unlock(&(*e)->mutex);
    pthread_join((*e)->thread, NULL);
    engine_free(*e);
    *e = NULL;
}

const struct request_env *engine_env(const struct engine *e)
{
    return &e->env;
}

const struct model *engine_model(const struct engine *e)
{
    return e->model;
}

void engine_read_stats(struct engine *e, struct engine_stats *s)
{
    pthread_mutex_lock(&e->mutex);
    *s = e->stats;
    s->n_waiting = e->n_waiting;
    pthread_mutex_unlock(&e->mutex);
}

/* ---------------------------------------------------------------- submitting */

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

static struct job *job_of_request(struct engine *e, struct gen_request *r)
{
    struct job *j = xcalloc(1, sizeof *j);
    j->engine = e;
    j->gen = generation_open(e->env.tokenizer, e->runner.n_vocab, e->eos, e->n_eos, &r->params, job_on_event, j);
    j->user = r->user != NULL ? r->user : xstrdup("");
    j->tokens = r->prompt;
    j->n_prompt = (int64_t)r->prompt.n;
    j->submit_ns = now_ns();
    r->user = NULL;
    r->prompt = (struct ids){0};
    pthread_condattr_t a;
    pthread_condattr_init(&a);
    pthread_condattr_setclock(&a, CLOCK_MONOTONIC);
    pthread_cond_init(&j->more, &a);
    pthread_condattr_destroy(&a);
    return j;
}

static int enqueue(struct engine *e, struct job *j, struct err *err)
{
    int rc = HD_OK;
    pthread_mutex_lock(&e->mutex);
    if (e->n_waiting >= e->max_waiting) {
        rc = err_set(err, HD_ENOMEM, "%d requests are waiting already", e->n_waiting);
    } else {
        *e->waiting_end = j;
        e->waiting_end = &j->next;
        e->n_waiting++;
        pthread_cond_signal(&e->work);
    }
    pthread_mutex_unlock(&e->mutex);
    return rc;
}

int engine_submit(struct engine *e, struct gen_request *r, void (*notify)(void *arg), void *arg, struct job **out,
                  struct err *err)
{
    struct job *j = NULL;
    int rc = check_request(e, r, err);
    if (rc == HD_OK) {
        j = job_of_request(e, r);
        j->notify = notify;
        j->arg = arg;
        rc = enqueue(e, j, err);
    }
    gen_request_free(r);
    if (rc != HD_OK && j != NULL)
        job_free(j);
    if (rc == HD_OK)
        *out = j;
    return rc;
}
