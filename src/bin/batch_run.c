/* A batch under way: requests sorted so that equal beginnings follow each other, a fixed number in the engine. */
#include "bin/batch.h"

#include <errno.h>
#include <semaphore.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

struct under_way {
    struct batch_line *line;
    struct job *job; /* NULL: free place */
    struct api_req req;
    struct api_answer answer;
};

struct runner_of_batch {
    struct batch *b;
    struct engine *engine;
    const struct api_env *env;
    struct under_way *at;
    int n_together, n_running;
    int n_before;          /* done before this run */
    uint64_t start_ns, drawn_ns;
    bool progress;
    sem_t events;
};

/* ---------------------------------------------------------------- requests */

static bool is_chat(const json_t *line)
{
    const char *url = json_string_value(json_object_get(line, "url"));
    const char *method = json_string_value(json_object_get(line, "method"));
    bool post = method == NULL || strcmp(method, "POST") == 0;
    return post && (url == NULL || strcmp(url, "/v1/chat/completions") == 0 || strcmp(url, "/chat/completions") == 0);
}

static int parse(const struct runner_of_batch *r, const struct batch_line *l, struct api_req *q, struct gen_request *g,
                 struct api_error *e)
{
    struct err why = {0};
    json_t *line = batch_line_json(r->b, l, &why);
    int rc = 0;
    if (line == NULL)
        rc = api_fail(e, API_SYNTAX, "%s", why.msg);
    else if (!is_chat(line))
        rc = api_fail(e, API_NOT_FOUND, "A batch takes POST requests to /v1/chat/completions only.");
    if (rc == 0)
        rc = dialect_deepseek.read(q, json_object_get(line, "body"), r->env, e);
    if (rc == 0 && q->stream)
        rc = api_fail(e, API_BAD, "stream: an answer in a batch cannot be streamed");
    if (rc == 0 && request_parse(g, q->gen, engine_env(r->engine), &why) != HD_OK)
        rc = api_fail(e, API_BAD, "%s", why.msg);
    json_decref(line);
    return rc;
}

static int refuse(struct runner_of_batch *r, struct batch_line *l, const struct api_error *why, struct err *e)
{
    struct buf body = {0};
    dialect_deepseek.error(why, "", &body);
    int rc = batch_write(r->b, l, dialect_deepseek.status(why), &body, e);
    buf_free(&body);
    return rc;
}

/* ---------------------------------------------------------------- order */

static void make_key(const struct runner_of_batch *r, struct batch_line *l)
{
    struct api_req q = {0};
    struct gen_request g = {0};
    struct api_error e = {0};
    if (parse(r, l, &q, &g, &e) == 0) {
        l->n_prompt = (int64_t)g.prompt.n;
        l->n_key = (int)(l->n_prompt / KV_PAGE_TOKENS);
        l->key = xcalloc((size_t)l->n_key + 1, sizeof *l->key);
        uint64_t h = 0;
        for (int64_t i = 0; i < (int64_t)l->n_key * KV_PAGE_TOKENS; i++) {
            h = mix64(h ^ (uint64_t)(uint32_t)g.prompt.data[i]);
            l->key[i / KV_PAGE_TOKENS] = h;
        }
    }
    gen_request_free(&g);
    api_req_free(&q);
}

static int by_key(const void *pa, const void *pb)
{
    const struct batch_line *a = pa, *b = pb;
    for (int i = 0; i < a->n_key && i < b->n_key; i++)
        if (a->key[i] != b->key[i])
            return a->key[i] < b->key[i] ? -1 : 1;
    if (a->n_key != b->n_key)
        return a->n_key < b->n_key ? -1 : 1;
    return a->number < b->number ? -1 : a->number > b->number;
}

static void sort_by_prefix(struct runner_of_batch *r)
{
    for (int i = 0; i < r->b->n; i++)
        if (!r->b->lines[i].done)
            make_key(r, &r->b->lines[i]);
    qsort(r->b->lines, (size_t)r->b->n, sizeof *r->b->lines, by_key);
}

/* ---------------------------------------------------------------- under way */

/* In the engine's step thread. */
static void on_event(void *arg)
{
    sem_post(arg);
}

static int start(struct runner_of_batch *r, struct batch_line *l, struct err *e)
{
    struct under_way *x = r->at;
    struct gen_request g = {0};
    struct api_error why = {0};
    struct err refused = {0};
    uint64_t random[3];
    while (x->job != NULL)
        x++;
    *x = (struct under_way){.line = l};
    if (parse(r, l, &x->req, &g, &why) == 0) {
        api_answer_init(&x->answer, r->env, &x->req);
        api_random(random, 3);
        x->answer.random = random[2];
        x->answer.created = time(NULL);
        dialect_deepseek.make_id(&x->answer, random);
        if (engine_submit(r->engine, &g, on_event, &r->events, &x->job, &refused) == HD_OK) {
            r->n_running++;
            return HD_OK;
        }
        api_answer_free(&x->answer);
        api_fail(&why, API_BAD, "%s", refused.msg);
    }
    gen_request_free(&g);
    api_req_free(&x->req);
    return refuse(r, l, &why, e);
}

static int finish(struct runner_of_batch *r, struct under_way *x, struct err *e)
{
    struct api_error why = {0};
    struct buf body = {0};
    int rc = HD_OK;
    if (x->answer.finish == FINISH_ERROR) {
        api_fail(&why, API_INTERNAL, "%s", x->answer.why);
        rc = refuse(r, x->line, &why, e);
    } else if (x->answer.finish != FINISH_CANCELLED) { /* cancelled: runs again next time */
        dialect_deepseek.whole(&x->answer, &body);
        rc = batch_write(r->b, x->line, 200, &body, e);
    }
    buf_free(&body);
    engine_release(&x->job);
    api_answer_free(&x->answer);
    api_req_free(&x->req);
    r->n_running--;
    return rc;
}

static int take_events(struct runner_of_batch *r, struct err *e)
{
    int rc = HD_OK;
    const struct tokenizer *t = engine_env(r->engine)->tokenizer;
    for (int i = 0; i < r->n_together && rc == HD_OK; i++) {
        struct under_way *x = &r->at[i];
        struct gen_event ev;
        bool end = false;
        while (x->job != NULL && !end && engine_next(x->job, &ev, 0) == 1)
            end = api_answer_take(&x->answer, &ev, t, NULL, NULL);
        if (end)
            rc = finish(r, x, e);
    }
    return rc;
}

/* ---------------------------------------------------------------- progress */

static double seconds_since(uint64_t ns)
{
    return (double)(now_ns() - ns) * 1e-9;
}

static void draw(struct runner_of_batch *r, bool last)
{
    struct engine_stats s;
    int done = r->b->n_done - r->n_before, left = r->b->n - r->b->n_done;
    if (!r->progress || (!last && seconds_since(r->drawn_ns) < 0.1))
        return;
    r->drawn_ns = now_ns();
    engine_read_stats(r->engine, &s);
    enum { WIDTH = 24 };
    double took = seconds_since(r->start_ns);
    int bar = (int)((int64_t)WIDTH * r->b->n_done / r->b->n);
    fprintf(stderr, "\r[%.*s%*s] %d/%d  %.0f tokens/s", bar, "########################", WIDTH - bar, "", r->b->n_done,
            r->b->n, (double)(s.completion_tokens + s.prompt_tokens) / took);
    if (done > 0 && left > 0) {
        int64_t eta = (int64_t)(took / done * left + 0.5);
        fprintf(stderr, "  ETA %lld:%02lld:%02lld", (long long)eta / 3600, (long long)eta / 60 % 60, (long long)eta % 60);
    }
    fprintf(stderr, "\033[K%s", last ? "\n" : "");
    fflush(stderr);
}

/* ---------------------------------------------------------------- the run */

static void wait_for_event(struct runner_of_batch *r)
{
    struct timespec t;
    clock_gettime(CLOCK_REALTIME, &t);
    t.tv_nsec += 200000000;
    t.tv_sec += t.tv_nsec / 1000000000;
    t.tv_nsec %= 1000000000;
    sem_timedwait(&r->events, &t);
    while (sem_trywait(&r->events) == 0)
        ;
}

static int run_all(struct runner_of_batch *r, const volatile int *stop, struct err *e)
{
    int next = 0, rc = HD_OK;
    while (rc == HD_OK && !*stop) {
        for (; next < r->b->n && r->n_running < r->n_together && rc == HD_OK; next++)
            if (!r->b->lines[next].done)
                rc = start(r, &r->b->lines[next], e);
        if (rc != HD_OK || r->n_running == 0)
            break;
        wait_for_event(r);
        rc = take_events(r, e);
        draw(r, false);
    }
    for (int i = 0; i < r->n_together; i++) { /* after a failure or a stop */
        if (r->at[i].job == NULL)
            continue;
        engine_release(&r->at[i].job);
        api_answer_free(&r->at[i].answer);
        api_req_free(&r->at[i].req);
    }
    if (rc == HD_OK && *stop)
        rc = err_set(e, HD_ECANCELLED, "stopped with %d of %d requests done; the same command goes on", r->b->n_done,
                     r->b->n);
    return rc;
}

int batch_run(struct batch *b, struct engine *engine, const struct api_env *env, int n_together, bool progress,
              const volatile int *stop, struct err *e)
{
    struct runner_of_batch r = {.b = b, .engine = engine, .env = env, .n_together = n_together, .n_before = b->n_done,
                                .start_ns = now_ns(), .progress = progress};
    r.at = xcalloc((size_t)n_together, sizeof *r.at);
    sem_init(&r.events, 0, 0);
    sort_by_prefix(&r);
    int rc = run_all(&r, stop, e);
    draw(&r, true);
    sem_destroy(&r.events);
    free(r.at);
    return rc;
}
