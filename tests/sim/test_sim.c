/* The real scheduler, cache and job handling over a device without mathematics, in seeded worlds: random arrivals that
 * share beginnings, forks of running ones, conversations that go on, cancels, releases, deadlines, failing steps, few
 * pages, few tails; a disk tier over a disk that is slow, small, full, fails and forgets, restarts in order and by a kill.
 *
 * After every round: each page's references are those of sequences and cache nodes, no more and no fewer; tails belong to
 * one node each; no job is starved; idle sequences hold nothing. At each job's end: its tokens are those of greedy
 * decoding alone, its usage counts them, and it ended once. SEED=N STEPS=N repeats a failure (`make sim`). */
#include "engine/job.h"
#include "fake_device.h"
#include "fake_disk.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { JOBS_MAX = 24, N_TEXTS = 6, N_USERS = 4, TEXT_MAX = 1500, DRAIN_ROUNDS_MAX = 100000 };

struct watched {
    struct job *job; /* NULL: free place */
    struct ids prompt, got;
    int64_t max_tokens;
    bool cancelled, limited; /* may end early: by us; by a deadline */
    struct job *forked_from; /* until the next round, which takes the fork in */
};

struct world {
    struct rng rng;
    uint64_t seed, step;
    struct fake_device device;
    struct fake_disk disk;
    bool has_disk;
    int n_pages, n_tails, max_rows, damage; /* damage: one round in so many turns a bit on the disk; 0: none */
    struct engine_options options;
    struct engine *engine;
    struct watched jobs[JOBS_MAX];
    struct ids text[N_TEXTS]; /* what prompts begin with; replies extend them now and then */
    int64_t context;
    bool faults;
    int long_replies; /* one in so many */
    uint64_t n_submitted, n_ended, n_failed_steps, n_reused, n_refused, n_forks, n_forks_beside, n_forks_at_once;
    struct totals *totals;
};

/* Of all worlds. */
struct totals {
    uint64_t jobs, reused, put_back, evicted, failed, tails, restarts, disk_hits, loaded, saved, damaged, disk_errors;
    uint64_t forks, forks_beside, forks_at_once;
};

static struct tokenizer *tokenizer;

static void die(const struct world *w, const char *what)
{
    printf("not ok 1 - %s: SEED=%llu STEPS=%llu\n", what, (unsigned long long)w->seed, (unsigned long long)w->step + 1);
    exit(1);
}

#define MUST(w, cond) ((cond) ? (void)0 : die(w, #cond))

static int below(struct world *w, int n)
{
    return (int)rng_below(&w->rng, (uint32_t)n);
}

static void add_random(struct world *w, struct ids *v, int n)
{
    for (int i = 0; i < n; i++)
        ids_add(v, 10 + below(w, FAKE_VOCAB - 10));
}

/* ---------------------------------------------------------------- the world's events */

static void make_prompt(struct world *w, struct ids *p)
{
    const struct ids *t = &w->text[below(w, N_TEXTS)];
    int64_t n = below(w, 3) == 0 ? below(w, (int)t->n + 1) : (int64_t)t->n;
    if (below(w, 3) == 0)
        n = n / KV_PAGE_TOKENS * KV_PAGE_TOKENS + (below(w, 2) == 0 ? below(w, 9) - 4 : 0);
    n = n < 0 ? 0 : n < (int64_t)t->n ? n : (int64_t)t->n;
    for (int64_t i = 0; i < n && (int64_t)p->n < w->context - 2; i++)
        ids_add(p, t->data[i]);
    int more = below(w, 4) == 0 ? 0 : below(w, 5) == 0 ? below(w, 400) : below(w, 20);
    if ((int64_t)p->n + more > w->context - 2)
        more = 0;
    add_random(w, p, more);
    if (p->n == 0)
        add_random(w, p, 1);
}

static struct watched *free_place(struct world *w)
{
    for (int i = 0; i < JOBS_MAX; i++)
        if (w->jobs[i].job == NULL)
            return &w->jobs[i];
    return NULL;
}

static void submit(struct world *w)
{
    struct watched *x = free_place(w);
    if (x == NULL)
        return;
    char user[2] = {(char)('a' + below(w, N_USERS)), 0};
    struct gen_request r = {.user = xstrdup(user), .priority = below(w, 8) == 0, .weight = 1 + below(w, 3)};
    struct err e = {0};
    *x = (struct watched){.max_tokens = 1 + (below(w, w->long_replies) == 0 ? below(w, 900) : below(w, 40))};
    make_prompt(w, &x->prompt);
    for (size_t i = 0; i < x->prompt.n; i++)
        ids_add(&r.prompt, x->prompt.data[i]);
    r.params = (struct gen_params){.max_tokens = x->max_tokens, .raw = true, .logprobs = true};
    sampling_init(&r.params.sampling);
    r.params.sampling.temperature = 0;
    r.pin_tokens = below(w, 10) == 0 ? below(w, (int)x->prompt.n + 1) : 0;
    x->limited = below(w, 20) == 0;
    r.deadline_ns = x->limited ? now_ns() + (uint64_t)below(w, 400000) : 0;
    if (engine_submit(w->engine, &r, NULL, NULL, &x->job, &e) == HD_OK) {
        w->n_submitted++;
        return;
    }
    MUST(w, e.code == HD_ENOMEM);
    w->n_refused++;
    ids_free(&x->prompt);
    *x = (struct watched){0};
}

static void forget(struct watched *x)
{
    engine_release(&x->job);
    ids_free(&x->prompt);
    ids_free(&x->got);
    *x = (struct watched){0};
}

static struct watched *any_job(struct world *w)
{
    int n = 0, at[JOBS_MAX];
    for (int i = 0; i < JOBS_MAX; i++)
        if (w->jobs[i].job != NULL)
            at[n++] = i;
    return n == 0 ? NULL : &w->jobs[at[below(w, n)]];
}

/* Up to three that go on from where one is. Its events are all taken, so what it has is known. */
static void fork_some(struct world *w)
{
    const struct watched *from = any_job(w);
    if (from == NULL || from->forked_from != NULL)
        return;
    for (int n = 1 + below(w, 3); n > 0; n--) {
        struct watched *x = free_place(w);
        struct err e = {0};
        if (x == NULL)
            return;
        *x = (struct watched){.max_tokens = 1 + below(w, 60), .limited = from->limited, .forked_from = from->job};
        if (engine_fork(from->job, 0, x->max_tokens, NULL, NULL, &x->job, &e) != HD_OK) {
            MUST(w, e.code == HD_ENOMEM);
            w->n_refused++;
            *x = (struct watched){0};
            return;
        }
        for (size_t i = 0; i < from->prompt.n; i++)
            ids_add(&x->prompt, from->prompt.data[i]);
        for (size_t i = 0; i < from->got.n; i++)
            ids_add(&x->prompt, from->got.data[i]);
        w->n_submitted++;
        w->n_forks++;
    }
}

static void disturb(struct world *w)
{
    struct watched *x = any_job(w);
    if (x == NULL)
        return;
    if (below(w, 2) == 0) {
        engine_cancel(x->job);
        x->cancelled = true;
    } else {
        forget(x); /* without looking at its end */
        w->n_ended++;
    }
}

/* ---------------------------------------------------------------- what must be true of a job */

static void check_tokens(struct world *w, const struct watched *x, const struct gen_event *end)
{
    struct ids all = {0};
    for (size_t i = 0; i < x->prompt.n; i++)
        ids_add(&all, x->prompt.data[i]);
    for (size_t i = 0; i < x->got.n; i++) {
        MUST(w, x->got.data[i] == fake_next(all.data, (int64_t)all.n));
        ids_add(&all, x->got.data[i]);
    }
    int64_t room = w->context - (int64_t)x->prompt.n, most = x->max_tokens < room ? x->max_tokens : room;
    if (end->finish == FINISH_STOP)
        MUST(w, fake_next(all.data, (int64_t)all.n) == FAKE_EOS);
    else if (end->finish == FINISH_LENGTH)
        MUST(w, (int64_t)x->got.n == most);
    else if (end->finish == FINISH_CANCELLED)
        MUST(w, x->cancelled);
    else if (!x->limited && !w->faults)
        die(w, end->text);
    else
        MUST(w, end->finish == FINISH_ERROR && (x->limited || w->faults));
    if (below(w, 4) == 0 && all.n < TEXT_MAX) { /* the conversation goes on from here */
        int i = below(w, N_TEXTS);
        ids_free(&w->text[i]);
        w->text[i] = all;
        return;
    }
    ids_free(&all);
}

static void check_end(struct world *w, struct watched *x, const struct gen_event *end)
{
    const struct gen_usage *u = &end->usage;
    struct gen_event after;
    MUST(w, u->prompt_tokens == (int64_t)x->prompt.n);
    MUST(w, u->completion_tokens == (int64_t)x->got.n);
    MUST(w, u->reused_tokens >= 0 && u->reused_tokens < u->prompt_tokens);
    MUST(w, u->differs_at <= u->prompt_tokens);
    MUST(w, u->reused_tokens <= (u->differs_at < 0 ? 0 : u->differs_at));
    check_tokens(w, x, end);
    MUST(w, engine_next(x->job, &after, 0) == 0); /* once */
    w->n_reused += (uint64_t)u->reused_tokens;
    w->n_ended++;
    forget(x);
}

static void take_events(struct world *w)
{
    for (int i = 0; i < JOBS_MAX; i++) {
        struct watched *x = &w->jobs[i];
        struct gen_event ev;
        while (x->job != NULL && engine_next(x->job, &ev, 0) == 1) {
            if (ev.kind == GEN_TOKEN)
                ids_add(&x->got, ev.token);
            else if (ev.kind == GEN_END)
                check_end(w, x, &ev);
        }
    }
}

/* ---------------------------------------------------------------- what must be true of the engine */

static void count_seq(struct world *w, const struct kv_seq *s, int *refs)
{
    for (int64_t i = 0; i < s->n_pages; i++) {
        MUST(w, s->pages[i] >= 0 && s->pages[i] < w->device.n_pages);
        refs[s->pages[i]]++;
    }
}

static void check_pages(struct world *w)
{
    const struct engine *e = w->engine;
    int refs[FAKE_PAGES_MAX] = {0}, tails[FAKE_PAGES_MAX] = {0}, n_free = 0, n_tails = 0;
    for (int i = 0; i < e->running.n; i++)
        count_seq(w, e->running.at[i]->seq, refs);
    for (int i = 0; i < e->n_kept; i++)
        count_seq(w, e->kept[i].seq, refs);
    for (int i = 0; i < e->n_idle; i++)
        MUST(w, e->idle_seqs[i]->n_pages == 0);
    for (int i = 0; i < e->cache.n_nodes; i++) {
        const struct cache_node *n = &e->cache.nodes[i];
        if (!n->used)
            continue;
        MUST(w, n->page >= 0 && n->page < w->device.n_pages);
        refs[n->page]++;
        if (n->tail != CACHE_NONE)
            MUST(w, n->tail < w->device.n_tails && tails[n->tail]++ == 0);
        n_tails += n->tail != CACHE_NONE;
    }
    for (int i = 0; i < w->device.n_pages; i++) {
        MUST(w, refs[i] == w->device.pages[i].n_refs);
        n_free += refs[i] == 0;
    }
    MUST(w, n_free == w->device.n_free && n_tails == w->device.n_tails - w->device.n_tails_free);
    MUST(w, e->running.n + e->n_kept + e->n_idle == w->device.n_open);
}

static void check_job(struct world *w, const struct job *j, bool stepped)
{
    const struct engine *e = w->engine;
    uint64_t since = e->n_steps - j->last_step;
    MUST(w, j->seq != NULL && j->seq->n_tokens == j->n_fed);
    int64_t depth = j->node == CACHE_NONE ? 0 : e->cache.nodes[j->node].depth;
    MUST(w, depth == j->n_fed / KV_PAGE_TOKENS);
    for (int32_t i = j->node; i != CACHE_NONE; i = e->cache.nodes[i].parent)
        MUST(w, e->cache.nodes[i].user == j->user && e->cache.nodes[i].n_active > 0);
    if (job_decodes(j) && stepped)
        MUST(w, since == 0);
    MUST(w, since <= (uint64_t)e->max_running);
}

static void check_loading(struct world *w, const struct job *j)
{
    const struct engine *e = w->engine;
    const struct tier_load *l = &j->load;
    MUST(w, j->seq == NULL && l->keys != NULL && l->from <= l->depth && l->depth <= l->asked && l->asked <= l->target);
    MUST(w, l->depth == (l->node == CACHE_NONE ? 0 : e->cache.nodes[l->node].depth));
    for (int32_t i = l->node; i != CACHE_NONE; i = e->cache.nodes[i].parent)
        MUST(w, e->cache.nodes[i].user == j->user && e->cache.nodes[i].n_active > 0);
}

static void check_engine(struct world *w, bool stepped)
{
    const struct engine *e = w->engine;
    check_pages(w);
    cache_check(&e->cache);
    MUST(w, e->running.n + e->loading.n <= e->max_running);
    for (int i = 0; i < e->running.n; i++)
        check_job(w, e->running.at[i], stepped);
    for (int i = 0; i < e->loading.n; i++)
        check_loading(w, e->loading.at[i]);
    if (e->tier.spill != NULL)
        spill_check(e->tier.spill);
    int n_jobs = 0, n_refs = e->running.n + e->loading.n + e->waiting.n + e->n_kept;
    for (int i = 0; i < e->users.n; i++) {
        n_jobs += e->users.list[i].n_jobs;
        n_refs -= e->users.list[i].n_refs;
    }
    MUST(w, n_jobs == e->running.n + e->loading.n + e->waiting.n && n_refs == 0);
}

static bool runs(const struct engine *e, const struct job *j)
{
    for (int i = 0; i < e->running.n; i++)
        if (e->running.at[i] == j)
            return true;
    return false;
}

static bool is_shared(const struct engine *e, const struct job *j, int64_t i)
{
    for (int k = 0; k < e->running.n; k++) {
        const struct kv_seq *s = e->running.at[k]->seq;
        if (e->running.at[k] != j && s != NULL && i < s->n_pages && s->pages[i] == j->seq->pages[i])
            return true;
    }
    return false;
}

/* One that began beside the one it comes from has complete pages of that one (or of a third one with the same tokens) and its
 * own copy of the last one. `decoded`: that one was decoding before, so there was a state to copy. */
static void check_fork(struct world *w, struct watched *x, bool decoded)
{
    const struct engine *e = w->engine;
    const struct job *j = x->job, *from = x->forked_from;
    x->forked_from = NULL;
    if (!runs(e, j) || !runs(e, from) || !decoded)
        return;
    int64_t n = (int64_t)x->prompt.n - 1, n_own = 0;
    w->n_forks_beside++;
    MUST(w, j->n_prompt == n + 1 && j->tokens.n >= x->prompt.n);
    MUST(w, memcmp(j->tokens.data, x->prompt.data, x->prompt.n * sizeof *x->prompt.data) == 0);
    if (generation_usage(j->gen)->reused_tokens != n)
        return; /* no page was left for a copy: it goes on from the cache */
    for (int64_t i = 0; i < j->seq->n_pages; i++)
        n_own += !is_shared(e, j, i);
    MUST(w, n_own <= (n % KV_PAGE_TOKENS != 0) + pages_of(j->n_fed) - pages_of(n));
    w->n_forks_at_once++;
}

static void check_forks(struct world *w, const bool *decoded)
{
    for (int i = 0; i < JOBS_MAX; i++)
        if (w->jobs[i].job != NULL && w->jobs[i].forked_from != NULL)
            check_fork(w, &w->jobs[i], decoded[i]);
}

static void round_once(struct world *w)
{
    uint64_t before = w->engine->n_steps;
    bool decoded[JOBS_MAX];
    for (int i = 0; i < JOBS_MAX; i++) {
        const struct job *from = w->jobs[i].forked_from;
        decoded[i] = from != NULL && runs(w->engine, from) && job_decodes(from);
    }
    if (w->faults && below(w, 300) == 0)
        w->device.fail_code = below(w, 3) > 0 ? HD_ENOMEM : HD_EIO;
    w->n_failed_steps += w->device.fail_code != 0;
    if (w->damage > 0 && below(w, w->damage) == 0)
        fake_disk_damage(&w->disk);
    if (below(w, 8) == 0) /* as measured times may leave it */
        w->engine->budget.rows = below(w, 2) == 0 ? w->engine->budget.rows_max : 1 + below(w, w->engine->budget.rows_max);
    engine_round(w->engine);
    check_forks(w, decoded);
    take_events(w);
    check_engine(w, w->engine->n_steps > before);
}

/* ---------------------------------------------------------------- a life */

static void open_engine(struct world *w)
{
    static const int32_t eos[1] = {FAKE_EOS}; /* in one world of three it ends nothing: replies outgrow the pages */
    struct request_env env = {.tokenizer = tokenizer, .n_vocab = FAKE_VOCAB};
    struct err e = {0};
    fake_device_init(&w->device, w->n_pages, w->n_tails, w->max_rows);
    w->options.cache_disk = w->has_disk ? fake_disk_open(&w->disk) : NULL;
    if (engine_create(&w->engine, fake_runner(&w->device, w->context), &env, eos, w->seed % 3 > 0, &w->options, &e) != HD_OK)
        die(w, e.msg);
}

static void make_disk(struct world *w)
{
    fake_disk_init(&w->disk, w->seed);
    w->has_disk = below(w, 3) > 0;
    w->options.cache_disk_bytes = 50000 + (uint64_t)below(w, below(w, 2) == 0 ? 200000 : 4000000);
    w->disk.late_one_in = below(w, 4) == 0 ? 0 : 1 + (uint32_t)below(w, 4);
    w->disk.late_one_in = w->disk.late_one_in == 1 ? 2 : w->disk.late_one_in;
    w->disk.fail_one_in = below(w, 2) == 0 ? 0 : 5 + (uint32_t)below(w, 300);
    w->disk.capacity = below(w, 3) == 0 ? 20000 + (uint64_t)below(w, 500000) : 0;
    w->damage = below(w, 2) == 0 ? 0 : 1 + below(w, 100);
}

static void open_world(struct world *w, uint64_t seed, struct totals *totals)
{
    static const int row_counts[] = {1, 2, 8, 64, 200, 512};
    *w = (struct world){.rng = {seed}, .seed = seed, .totals = totals};
    w->n_pages = 4 + below(w, 80);
    w->n_tails = below(w, 3) == 0 ? below(w, 4) : below(w, 100);
    w->max_rows = row_counts[below(w, (int)COUNT_OF(row_counts))];
    w->context = w->n_pages * KV_PAGE_TOKENS;
    w->context = w->context < 2200 ? w->context : 2200;
    w->options = (struct engine_options){.max_running = 1 + below(w, 8), .max_waiting = 2 + below(w, 20),
                                         .n_keep = below(w, 4) - 1,
                                         .prefill_rows = below(w, 2) == 0 ? 0 : 1 + below(w, 64)};
    w->faults = below(w, 2) == 0;
    w->long_replies = 1 + below(w, 8);
    make_disk(w);
    open_engine(w);
    for (int i = 0; i < N_TEXTS; i++)
        add_random(w, &w->text[i], below(w, 3) == 0 ? KV_PAGE_TOKENS * (1 + below(w, 8)) : 1 + below(w, 1000));
}

static bool all_ended(const struct world *w)
{
    for (int i = 0; i < JOBS_MAX; i++)
        if (w->jobs[i].job != NULL)
            return false;
    return w->engine->running.n == 0 && w->engine->waiting.n == 0 && w->engine->loading.n == 0;
}

static void count(struct world *w)
{
    struct totals *t = w->totals;
    struct engine_stats s;
    engine_read_stats(w->engine, &s);
    t->put_back += s.put_back;
    t->evicted += s.pages_evicted;
    t->tails += s.tails_evicted;
    t->disk_hits += s.hits_disk;
    t->loaded += s.disk.pages_loaded;
    t->saved += s.disk.pages_saved;
    t->damaged += s.disk.damaged;
    t->disk_errors += s.disk.read_errors + s.disk.write_errors;
}

static void close_engine(struct world *w)
{
    for (int i = 0; !all_ended(w); i++) {
        if (i == DRAIN_ROUNDS_MAX)
            die(w, "some job never ends");
        round_once(w);
    }
    MUST(w, w->device.n_out_of_pages == 0);
    count(w);
    engine_destroy(w->engine);
    MUST(w, w->device.closed);
    fake_device_free(&w->device);
}

/* In order, or killed: then nothing reaches the disk from some write on, which is done by half. */
static void restart(struct world *w)
{
    if (below(w, 2) == 0)
        w->disk.writes_to_death = below(w, 8);
    for (int i = 0; i < JOBS_MAX; i++)
        if (w->jobs[i].job != NULL) {
            forget(&w->jobs[i]);
            w->n_ended++;
        }
    round_once(w); /* takes in what was just submitted */
    close_engine(w);
    w->disk.dead = false;
    w->disk.writes_to_death = -1;
    w->totals->restarts++;
    open_engine(w);
}

static void close_world(struct world *w)
{
    close_engine(w);
    MUST(w, w->n_submitted == w->n_ended);
    w->totals->jobs += w->n_submitted;
    w->totals->reused += w->n_reused;
    w->totals->failed += w->n_failed_steps;
    w->totals->forks += w->n_forks;
    w->totals->forks_beside += w->n_forks_beside;
    w->totals->forks_at_once += w->n_forks_at_once;
    fake_disk_free(&w->disk);
    for (int i = 0; i < N_TEXTS; i++)
        ids_free(&w->text[i]);
}

static void live(struct world *w, uint64_t steps)
{
    int rate = 1 + below(w, 12), trouble = 20 + below(w, 200), restarts = 200 + below(w, 2000);
    for (w->step = 0; w->step < steps; w->step++) {
        if (below(w, rate) == 0)
            submit(w);
        if (below(w, 2 * rate) == 0)
            fork_some(w);
        if (below(w, trouble) == 0)
            disturb(w);
        if (below(w, restarts) == 0)
            restart(w);
        round_once(w);
    }
    close_world(w);
}

/* ---------------------------------------------------------------- fair shares */

enum { FAIR_PROMPT = 300, FAIR_REPLY = 20, FAIR_JOBS = 4, FAIR_ROUNDS_MAX = 1000000 };

/* Two users who always have requests waiting, of different weights and habits. */
struct fair_user {
    struct watched jobs[FAIR_JOBS];
    double weight, served; /* rows that ended requests needed, by weight */
};

static void fair_submit(struct world *w, struct fair_user *u, char name, int prompt_max)
{
    for (int i = 0; i < FAIR_JOBS; i++) {
        if (u->jobs[i].job != NULL)
            continue;
        struct gen_request r = {.user = xstrndup(&name, 1), .weight = u->weight};
        struct err e = {0};
        r.params = (struct gen_params){.max_tokens = 1 + below(w, FAIR_REPLY), .raw = true};
        sampling_init(&r.params.sampling);
        add_random(w, &r.prompt, 1 + below(w, prompt_max));
        if (engine_submit(w->engine, &r, NULL, NULL, &u->jobs[i].job, &e) != HD_OK)
            die(w, e.msg);
    }
}

static void fair_take(struct fair_user *u)
{
    for (int i = 0; i < FAIR_JOBS; i++) {
        struct gen_event ev;
        while (u->jobs[i].job != NULL && engine_next(u->jobs[i].job, &ev, 0) == 1) {
            if (ev.kind != GEN_END)
                continue;
            int64_t rows = ev.usage.prompt_tokens - ev.usage.reused_tokens + ev.usage.completion_tokens;
            rows -= ev.finish == FINISH_LENGTH; /* the last token of such a reply is not run */
            u->served += (double)rows / u->weight;
            engine_release(&u->jobs[i].job);
        }
    }
}

/* What two busy users were served, each divided by its weight, never differs by more than the requests that can run at a
 * time: whoever has had less is next, and a request that has started goes on. */
static void live_fairly(struct world *w, uint64_t seed, uint64_t steps)
{
    static struct totals unused;
    struct fair_user a = {.weight = 1 + (double)(seed % 3)}, b = {.weight = 1};
    open_world(w, seed, &unused);
    int prompt_a = 10 + below(w, FAIR_PROMPT - 10), prompt_b = 10 + below(w, FAIR_PROMPT - 10);
    close_engine(w);
    w->has_disk = w->faults = false;
    w->n_pages = 64;
    w->context = 2000;
    w->options.max_running = 1 + below(w, 4);
    w->options.max_waiting = 100;
    w->options.prefill_rows = 0;
    open_engine(w);
    int largest = (prompt_a > prompt_b ? prompt_a : prompt_b) + FAIR_REPLY;
    double bound = 2.0 * (w->engine->max_running + 1) * largest;
    for (w->step = 0; a.served < 3 * bound || b.served < 3 * bound || w->step < steps; w->step++) {
        MUST(w, w->step < FAIR_ROUNDS_MAX);
        fair_submit(w, &a, 'a', prompt_a);
        fair_submit(w, &b, 'b', prompt_b);
        engine_round(w->engine);
        fair_take(&a);
        fair_take(&b);
        check_engine(w, false);
        double apart = a.served - b.served;
        MUST(w, apart < bound && apart > -bound);
    }
    for (int i = 0; i < FAIR_JOBS; i++) {
        engine_release(&a.jobs[i].job);
        engine_release(&b.jobs[i].job);
    }
    w->n_submitted = w->n_ended;
    close_world(w);
}

static uint64_t number_from(const char *name, uint64_t otherwise)
{
    const char *s = getenv(name);
    return s != NULL && *s != 0 ? strtoull(s, NULL, 10) : otherwise;
}

int main(void)
{
    enum { N_WORLDS = 100, N_FAIR = 10, STEPS = 2000 };
    uint64_t seed = number_from("SEED", 0), steps = number_from("STEPS", STEPS), n = seed == 0 ? N_WORLDS : 1;
    struct err e = {0};
    if (tokenizer_open(&tokenizer, "models/tiny", &e) != HD_OK) {
        printf("not ok 1 - %s\n", e.msg);
        return 1;
    }
    struct totals t = {0};
    static struct world w;
    for (uint64_t i = 0; i < (seed == 0 ? N_FAIR : 1); i++)
        live_fairly(&w, seed == 0 ? i + 1 : seed, steps);
    for (uint64_t i = 0; i < n; i++) {
        open_world(&w, seed == 0 ? i + 1 : seed, &t);
        live(&w, steps);
    }
    tokenizer_close(&tokenizer);
    printf("# %llu worlds of %llu rounds: %llu jobs, %llu tokens reused, %llu put back, %llu pages and %llu tails "
           "evicted, %llu steps failed\n", (unsigned long long)n, (unsigned long long)steps, (unsigned long long)t.jobs,
           (unsigned long long)t.reused, (unsigned long long)t.put_back, (unsigned long long)t.evicted,
           (unsigned long long)t.tails, (unsigned long long)t.failed);
    printf("# %llu forks, %llu began beside a decoding request, %llu of these at once from its pages\n",
           (unsigned long long)t.forks, (unsigned long long)t.forks_beside, (unsigned long long)t.forks_at_once);
    printf("# disk: %llu restarts, %llu pages saved, %llu loaded, %llu requests served from it, %llu records damaged, "
           "%llu operations failed\n", (unsigned long long)t.restarts, (unsigned long long)t.saved,
           (unsigned long long)t.loaded, (unsigned long long)t.disk_hits, (unsigned long long)t.damaged,
           (unsigned long long)t.disk_errors);
    bool all_seen = t.reused > 0 && t.put_back > 0 && t.evicted > 0 && t.tails > 0 && t.failed > 0 && t.restarts > 0 &&
                    t.disk_hits > 0 && t.damaged > 0 && t.disk_errors > 0 && t.forks_at_once > 100 &&
                    10 * t.forks_at_once > 9 * t.forks_beside;
    all_seen = all_seen || seed != 0;
    printf("%sok 1 - %s\n", all_seen ? "" : "not ", all_seen ? "simulated worlds" : "something never happened");
    return all_seen ? 0 : 1;
}
