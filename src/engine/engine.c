/* The engine's life: opening, the step thread, closing. */
#include "engine/job.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

/* ---------------------------------------------------------------- jobs in and out */

static bool user_has_pages(void *engine, int user)
{
    const struct cache *c = &((struct engine *)engine)->cache;
    return user < c->n_roots && c->roots[user] != CACHE_NONE;
}

static void take_in(struct engine *e)
{
    pthread_mutex_lock(&e->mutex);
    struct job *j = e->incoming, *next;
    e->incoming = NULL;
    e->incoming_end = &e->incoming;
    e->n_waiting += e->n_incoming;
    e->n_incoming = 0;
    pthread_mutex_unlock(&e->mutex);
    for (; j != NULL; j = next) {
        next = j->next;
        j->next = NULL;
        if (j->is_fork)
            job_join(e, j);
        j->user = users_take(&e->users, &j->user_of_list, user_has_pages, e);
        users_begin_job(&e->users, j->user);
        generation_usage(j->gen)->prompt_tokens = j->n_prompt;
        state_hash(j);
        job_list_add(&e->waiting, j);
    }
}

static void count_memory(const struct engine *e, struct engine_memory *m)
{
    const struct runner *r = &e->runner;
    uint64_t n_seqs = (uint64_t)(e->running.n + e->n_kept + e->n_idle);
    m->kv = (uint64_t)r->pages_total * r->page_bytes + (uint64_t)r->tails_total * r->tail_bytes;
    m->sequences = r->seq_bytes == NULL ? 0 : n_seqs * r->seq_bytes(r->self, e->env.context_tokens);
    m->step = r->step_bytes == NULL ? 0 : r->step_bytes(r->self);
    m->cache = engine_shares(e) ? cache_bytes(&e->cache) : 0;
}

static void publish(struct engine *e)
{
    struct engine_stats *s = &e->counts;
    count_memory(e, &s->memory);
    s->n_running = e->running.n;
    s->n_kept = e->n_kept;
    s->steps = e->n_steps;
    s->kept_tokens = 0;
    for (int i = 0; i < e->n_kept; i++)
        s->kept_tokens += (int64_t)e->kept[i].tokens.n;
    s->pages_total = e->runner.pages_total;
    s->pages_free = engine_shares(e) ? e->runner.pages_free(e->runner.self) : 0;
    s->pages_cached = e->cache.n_nodes - e->cache.n_free;
    s->tails_cached = e->cache.n_tails;
    s->pages_evicted = e->cache.n_evicted;
    s->tails_evicted = e->cache.n_tails_evicted;
    if (e->tier.spill != NULL)
        spill_read_stats(e->tier.spill, &s->disk);
    s->disk.dropped = e->tier.n_dropped;
    s->disk.tokens_loaded = e->tier.n_tokens_loaded;
    pthread_mutex_lock(&e->mutex);
    e->stats = *s;
    e->n_waiting = e->waiting.n;
    pthread_mutex_unlock(&e->mutex);
}

/* The counts are published before the job's consumer hears of its end. */
static void retire(struct engine *e, struct job *j)
{
    tier_end(e, j);
    state_keep(e, j);
    engine_leave_queue(e, j);
    users_end_job(&e->users, j->user);
    users_drop(&e->users, j->user);
    e->n_retired++;
    publish(e);
    job_retire(j);
}

static void retire_finished(struct engine *e, struct job_list *l)
{
    for (int i = 0; i < l->n;) {
        struct job *j = l->at[i];
        if (generation_finish(j->gen) == FINISH_NONE) {
            i++;
            continue;
        }
        job_list_remove(l, i);
        retire(e, j);
    }
}

static void end_stopped(struct engine *e, struct job_list *l, uint64_t now)
{
    for (int i = 0; i < l->n; i++) {
        struct job *j = l->at[i];
        pthread_mutex_lock(&e->mutex);
        bool cancelled = j->cancelled || e->closing, starved = j->starved;
        pthread_mutex_unlock(&e->mutex);
        if (cancelled)
            generation_end(j->gen, FINISH_CANCELLED, "");
        else if (starved)
            generation_end(j->gen, FINISH_ERROR, "no memory for the part of the reply that its reader has not taken yet");
        else if (j->deadline_ns != 0 && now >= j->deadline_ns)
            generation_end(j->gen, FINISH_ERROR, "the request's deadline has passed");
    }
    retire_finished(e, l);
}

void engine_round(struct engine *e)
{
    take_in(e);
    uint64_t now = now_ns();
    end_stopped(e, &e->waiting, now);
    end_stopped(e, &e->running, now);
    end_stopped(e, &e->loading, now);
    tier_receive(e);
    sched_start_loaded(e);
    sched_admit(e);
    sched_start_loaded(e); /* asks the disk for what was just admitted */
    publish(e);
    engine_step(e);
    retire_finished(e, &e->running);
    tier_send(e);
    publish(e);
}

/* Waits for work; false when the engine closes and nothing is left. */
static bool has_work(struct engine *e)
{
    bool any = e->waiting.n > 0 || e->running.n > 0 || e->loading.n > 0;
    bool busy = e->loading.n > 0 ? e->running.n > 0 : any;
    pthread_mutex_lock(&e->mutex);
    while (e->incoming == NULL && !busy && !e->closing && !e->disk_done)
        pthread_cond_wait(&e->work, &e->mutex);
    bool go = e->incoming != NULL || any || (e->disk_done && !e->closing);
    e->disk_done = false;
    pthread_mutex_unlock(&e->mutex);
    return go;
}

static void *step_thread(void *arg)
{
    struct engine *e = arg;
    while (has_work(e))
        engine_round(e);
    return NULL;
}

/* ---------------------------------------------------------------- opening and closing */

#define REPLAY_BYTES (INT64_C(64) << 20)

void engine_options_init(struct engine_options *o)
{
    *o = (struct engine_options){0};
    model_options_init(&o->model);
}

enum { STEP_MS = 50 };

static int choose(int given, int otherwise)
{
    return given > 0 ? given : otherwise;
}

void engine_destroy(struct engine *e)
{
    assert(e->waiting.n == 0 && e->running.n == 0 && e->loading.n == 0);
    tier_close(e);
    states_free(e);
    sampler_close(&e->sampler);
    replay_close(&e->env.replay);
    grammar_store_close(&e->env.grammars);
    if (e->runner.close != NULL)
        e->runner.close(e->runner.self);
    tokenizer_close(&e->tokenizer);
    for (struct queue_part *p = e->parts, *next; p != NULL; p = next) {
        next = p->next;
        free(p->user);
        free(p);
    }
    free(e->waiting.at);
    free(e->running.at);
    free(e->loading.at);
    free(e->items);
    free(e->item_job);
    free(e->tails);
    free(e->path);
    pthread_mutex_destroy(&e->mutex);
    pthread_cond_destroy(&e->work);
    free(e);
}

/* Every decoding job has its row in every step, and half of the rows are left for prompts. A single sequence must fit
 * into all pages, so that a request can always be finished. */
static void set_limits(struct engine *e, const struct engine_options *o)
{
    int rows = e->runner.max_rows, half = rows > 1 ? rows / 2 : 1;
    int64_t context = o->context_tokens > 0 ? o->context_tokens : e->runner.max_tokens;
    if (context > e->runner.max_tokens)
        context = e->runner.max_tokens;
    if (engine_shares(e) && context > e->runner.pages_total * CACHE_PAGE)
        context = e->runner.pages_total * CACHE_PAGE;
    e->env.context_tokens = context;
    e->max_running = choose(o->max_running, 16);
    if (e->max_running > half)
        e->max_running = half;
    e->max_waiting = choose(o->max_waiting, 256);
    e->max_waiting_user = choose(o->max_waiting_user, e->max_waiting);
    budget_init(&e->budget, choose(o->prefill_rows, half), o->max_step_ms < 0 ? 0 : choose(o->max_step_ms, STEP_MS));
    e->max_kept = o->n_keep < 0 ? 0 : choose(o->n_keep, 8);
}

/* All that wait, run or are kept, and all that have pages, may be of different users. */
static void reserve_lists(struct engine *e)
{
    int n_jobs = e->max_waiting + 2 * e->max_running, n_users = n_jobs + e->max_kept + (int)e->runner.pages_total + 1;
    job_list_reserve(&e->waiting, n_jobs);
    job_list_reserve(&e->running, n_jobs);
    job_list_reserve(&e->loading, n_jobs);
    users_init(&e->users, n_users);
    if (engine_shares(e)) {
        cache_open(&e->cache, &e->runner);
        cache_reserve_users(&e->cache, n_users);
    }
}

static struct engine *engine_alloc(struct runner r, const struct request_env *env, const struct engine_options *o)
{
    struct engine *e = xcalloc(1, sizeof *e);
    e->runner = r;
    e->env = *env;
    e->env.grammars = grammar_store_open(env->tokenizer, r.n_vocab);
    if (o->no_cache)
        e->runner.pages_total = 0;
    set_limits(e, o);
    e->cap_idle = e->max_running + e->max_kept + 1; /* a copy is made before the oldest one goes */
    e->items = xcalloc((size_t)r.max_rows, sizeof *e->items);
    e->item_job = xcalloc((size_t)r.max_rows, sizeof *e->item_job);
    e->tails = xcalloc(2 * (size_t)r.max_rows, sizeof *e->tails);
    e->path = xcalloc((size_t)e->runner.pages_total + 1, sizeof *e->path);
    e->kept = xcalloc((size_t)e->max_kept + 1, sizeof *e->kept);
    for (int i = 0; i < e->max_kept; i++)
        ids_reserve(&e->kept[i].tokens, (size_t)e->env.context_tokens);
    e->idle_seqs = xcalloc((size_t)e->cap_idle, sizeof *e->idle_seqs);
    e->incoming_end = &e->incoming;
    reserve_lists(e);
    pthread_mutex_init(&e->mutex, NULL);
    pthread_cond_init(&e->work, NULL);
    return e;
}

/* Replies are remembered in memory, and in a file where there is a folder for state. */
static int open_replay(struct engine *e, const struct engine_options *o, struct err *err)
{
    char *warning = NULL, *in_cache = NULL;
    if (o->replay_path == NULL && o->cache_dir != NULL) {
        if (mkdir(o->cache_dir, 0700) != 0 && errno != EEXIST)
            return err_sys(err, errno, "%s: cannot be made", o->cache_dir);
        in_cache = path_join(o->cache_dir, "replies");
    }
    int rc = replay_open(&e->env.replay, e->env.tokenizer, o->replay_bytes > 0 ? o->replay_bytes : REPLAY_BYTES,
                         o->replay_path != NULL ? o->replay_path : in_cache, &warning, err);
    if (warning != NULL && o->log != NULL)
        o->log(o->log_arg, warning);
    free(warning);
    free(in_cache);
    return rc;
}

int engine_create(struct engine **out, struct runner r, const struct request_env *env, const int32_t *eos, int n_eos,
                  const struct engine_options *o, struct err *err)
{
    assert(n_eos <= EOS_IDS_MAX && r.max_rows >= 1);
    struct engine *e = engine_alloc(r, env, o);
    if (n_eos > 0)
        memcpy(e->eos, eos, (size_t)n_eos * sizeof *eos);
    e->n_eos = n_eos;
    int rc = sampler_open(&e->sampler, r.n_vocab, err);
    if (rc == HD_OK && r.reserve != NULL)
        rc = r.reserve(r.self, e->max_running, err);
    if (rc == HD_OK)
        rc = tier_open(e, o, err);
    if (rc == HD_OK && o->replay_bytes >= 0)
        rc = open_replay(e, o, err);
    if (rc != HD_OK) {
        engine_destroy(e);
        return rc;
    }
    states_reserve(e);
    *out = e;
    return HD_OK;
}

int engine_open_runner(struct engine **out, struct runner r, const struct request_env *env, const int32_t *eos, int n_eos,
                       const struct engine_options *o, struct err *err)
{
    struct engine *e;
    int rc = engine_create(&e, r, env, eos, n_eos, o, err);
    if (rc != HD_OK)
        return rc;
    int errnum = pthread_create(&e->thread, NULL, step_thread, e);
    if (errnum != 0) {
        engine_destroy(e);
        return err_sys(err, errnum, "cannot start the engine's thread");
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
    engine_destroy(*e);
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
    s->n_waiting = e->n_waiting + e->n_incoming;
    pthread_mutex_unlock(&e->mutex);
    if (e->env.replay != NULL)
        replay_read_stats(e->env.replay, &s->replay);
}
