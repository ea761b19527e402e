/* One request: from its body to a job of the engine, from the engine's events to the dialect's bytes. */
#include "serve/server.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

struct exchange *exchange_open(struct server *s)
{
    struct exchange *x = xcalloc(1, sizeof *x);
    uint64_t random;
    struct timespec now;
    x->server = s;
    x->fd = -1;
    x->limits = (struct key_limits){.dollars = -1, .weight = 1};
    x->start_ns = now_ns();
    clock_gettime(CLOCK_REALTIME, &now);
    x->start_s = (double)now.tv_sec + (double)now.tv_nsec / 1e9;
    api_random(&random, 1);
    memcpy(x->request_id, "req_", 4);
    api_base62(x->request_id + 4, random, 24);
    s->n_exchanges++;
    return x;
}

void exchange_free(struct exchange *x)
{
    if (x->server->o.log)
        log_request(x);
    x->server->n_exchanges--;
    exchange_drop_body(x);
    buf_free(&x->kept_body);
    buf_free(&x->out);
    free(x->user);
    api_answer_free(&x->answer);
    api_req_free(&x->req);
    free(x);
}

void exchange_drop_body(struct exchange *x)
{
    buf_free(&x->body);
    x->server->bodies_bytes -= x->body_bytes;
    x->body_bytes = 0;
}

static void link_running(struct exchange *x)
{
    struct server *s = x->server;
    x->next = s->running;
    if (x->next != NULL)
        x->next->prev = x;
    s->running = x;
    x->linked = true;
}

static void unlink_running(struct exchange *x)
{
    if (!x->linked)
        return;
    *(x->prev != NULL ? &x->prev->next : &x->server->running) = x->next;
    if (x->next != NULL)
        x->next->prev = x->prev;
    x->prev = x->next = NULL;
    x->linked = false;
}

/* ---------------------------------------------------------------- replies without a job */

void exchange_reply_json(struct exchange *x)
{
    if (x->status == 0)
        x->status = 200;
    x->content_type = "application/json";
    x->whole = true;
}

/* How long until one more request could start: those that wait take their turns, each as long as requests have taken so
 * far, as many at a time as run now. */
static int queue_s(const struct server *s)
{
    enum { MOST_S = 60 };
    struct engine_stats st = {0};
    const struct histogram *h = &s->metrics.e2e_s;
    if (atomic_load(&s->engine) == NULL || h->n == 0)
        return 1;
    engine_read_stats(atomic_load(&s->engine), &st);
    double each = h->sum / (double)h->n, all = each * (st.n_waiting + 1) / (st.n_running > 0 ? st.n_running : 1);
    return all < 1 ? 1 : all > MOST_S ? MOST_S : (int)(all + 0.5);
}

void exchange_fail(struct exchange *x, const struct api_error *e)
{
    const struct dialect *d = x->route->dialect;
    bool under_way = x->state == X_SENDING || x->out.len > 0; /* the status is out already */
    if (e != &x->refusal)
        x->refusal = *e;
    if (e->kind == API_BUSY || e->kind == API_LOADING || e->kind == API_CLOSING)
        x->retry_after_s = e->kind == API_LOADING ? 10 : e->kind == API_BUSY ? queue_s(x->server) : 1;
    if (under_way && x->streams) {
        d->error_event(&x->answer, e, &x->out);
    } else {
        d->error(e, x->request_id, &x->out);
        x->content_type = "application/json";
        x->streams = false;
    }
    if (!under_way)
        x->status = d->status(e);
    x->whole = true;
}

/* ---------------------------------------------------------------- reading */

json_t *exchange_json(struct exchange *x, struct api_error *e)
{
    struct err why = {0};
    json_t *body = json_load_exact(x->body.len > 0 ? x->body.data : "", x->body.len, "body", false, &why);
    if (body == NULL)
        api_fail(e, API_SYNTAX, "Failed to parse the request body as JSON: %s", why.msg);
    else if (!json_is_object(body)) {
        json_decref(body);
        body = NULL;
        api_fail(e, API_TYPE, "Failed to deserialize the JSON body into the target type: expected a map");
    }
    if (x->server->o.log_text)
        x->kept_body = x->body;
    else
        buf_free(&x->body);
    x->body = (struct buf){0};
    return body;
}

static int fit(struct gen_request *g, int64_t context, struct api_error *e)
{
    int64_t n = (int64_t)g->prompt.n;
    e->n_tokens = n;
    e->max_tokens = context;
    if (n >= context)
        return api_fail(e, API_OVERFLOW,
                        "This model's maximum context length is %" PRId64 " tokens. However, you requested %" PRId64
                        " tokens (%" PRId64 " in the messages, %" PRId64 " in the completion). Please reduce the length of "
                        "the messages or completion.", context, n + g->params.max_tokens, n, g->params.max_tokens);
    if (g->params.max_tokens > context - n)
        g->params.max_tokens = context - n;
    return 0;
}

bool exchange_ready(struct exchange *x, struct api_error *e)
{
    struct server *s = x->server;
    if (s->closing)
        api_fail(e, API_CLOSING, "The server is shutting down.");
    else if (atomic_load(&s->engine) == NULL)
        api_fail(e, API_LOADING, "The model is loading: %.1f %%.", atomic_load(&s->loading_permille) / 10.0);
    return e->kind == API_FINE;
}

bool exchange_read(struct exchange *x, const json_t *body, struct gen_request *g, bool for_count, struct api_error *e)
{
    struct err why = {0};
    x->req.for_count = for_count;
    if (x->route->dialect->read(&x->req, body, &x->server->env, e) != 0)
        return false;
    struct request_env env = *engine_env(atomic_load(&x->server->engine));
    int64_t context = env.context_tokens;
    char scope[32] = ""; /* state is shared among requests of one key and one user id */
    if (x->key_id != 0)
        snprintf(scope, sizeof scope, "%" PRId64 "/", x->key_id);
    env.user_scope = scope;
    env.context_tokens = INT64_MAX / 2; /* a prompt that is too long is counted, and refused below with both numbers */
    int rc = request_parse(g, x->req.gen, &env, &why);
    if (rc != HD_OK) {
        api_fail(e, rc == HD_EARG || rc == HD_EUNSUPPORTED ? API_BAD : API_INTERNAL, "%s", why.msg);
        return false;
    }
    json_decref(x->req.gen); /* the texts are tokens now */
    x->req.gen = NULL;
    if (!for_count && fit(g, context, e) != 0) {
        gen_request_free(g);
        return false;
    }
    free(x->user);
    x->user = xstrdup(g->user + strlen(scope));
    return true;
}

/* ---------------------------------------------------------------- running */

/* In the engine's step thread. */
static void on_notify(void *arg)
{
    struct exchange *x = arg;
    uint64_t one = 1;
    if (!atomic_exchange(&x->woken, true) && write(x->server->wake_fd, &one, sizeof one) < 0)
        return; /* the counter is full: the loop is awake */
}

static void answer_begin(struct exchange *x)
{
    uint64_t random[3];
    struct timespec now;
    api_random(random, 3);
    clock_gettime(CLOCK_REALTIME, &now);
    api_answer_init(&x->answer, &x->server->env, &x->req);
    x->answer.random = random[2];
    x->answer.created = now.tv_sec;
    x->route->dialect->make_id(&x->answer, random);
}

/* What the key says about its requests. */
static void apply_limits(const struct exchange *x, struct gen_request *g)
{
    g->priority = (int)x->limits.priority;
    g->weight = x->limits.weight;
    if (x->limits.deadline_s > 0)
        g->deadline_ns = x->start_ns + (uint64_t)(x->limits.deadline_s * 1e9);
}

static void submit(struct exchange *x, struct api_error *e)
{
    struct err why = {0};
    answer_begin(x);
    apply_limits(x, &x->gen);
    x->streams = x->req.stream;
    x->status = 200;
    x->content_type = x->streams ? "text/event-stream; charset=utf-8" : "application/json";
    x->last_out_ns = now_ns();
    int rc = engine_submit(atomic_load(&x->server->engine), &x->gen, on_notify, x, &x->job, &why);
    if (rc != HD_OK) {
        x->streams = false;
        api_fail(e, rc == HD_ENOMEM ? API_BUSY : API_BAD, "%s", rc == HD_ENOMEM ? "The server is busy: too many requests "
                 "are waiting. Please retry later." : why.msg);
        return;
    }
    http_watch(x);
}

/* ---------------------------------------------------------------- with a worker */

static void give(struct exchange *x, void (*work)(struct exchange *x), void (*go_on)(struct exchange *x))
{
    x->work = work;
    x->go_on = go_on;
    x->with_worker = true;
    link_running(x);
    workers_give(x->server->workers, x);
}

/* In a worker. */
static void read_request(struct exchange *x)
{
    json_t *body = exchange_json(x, &x->refusal);
    if (body != NULL)
        exchange_read(x, body, &x->gen, false, &x->refusal);
    json_decref(body);
}

static void submit_read(struct exchange *x)
{
    struct api_error *e = &x->refusal;
    if (e->kind == API_FINE && exchange_ready(x, e))
        submit(x, e);
    gen_request_free(&x->gen);
    if (e->kind != API_FINE)
        exchange_fail(x, e);
}

void exchange_generate(struct exchange *x)
{
    struct api_error e = {0};
    if (!exchange_ready(x, &e) || account_room(x, &e) != 0)
        exchange_fail(x, &e);
    else
        give(x, read_request, submit_read);
}

void exchange_work(struct exchange *x, void (*work)(struct exchange *x))
{
    give(x, work, NULL);
}

void exchange_worked(struct exchange *x)
{
    x->with_worker = false;
    exchange_drop_body(x);
    if (x->connection == NULL) {
        gen_request_free(&x->gen);
        unlink_running(x);
        exchange_free(x);
        return;
    }
    if (x->go_on != NULL)
        x->go_on(x);
    if (x->job == NULL)
        unlink_running(x);
    http_wake(x);
}

/* In a worker. */
static void count(struct exchange *x)
{
    json_t *body = exchange_json(x, &x->refusal);
    if (body != NULL && exchange_read(x, body, &x->gen, true, &x->refusal)) {
        out_open(&x->out, NULL, '{');
        out_int(&x->out, "input_tokens", (int64_t)x->gen.prompt.n);
        out_close(&x->out, '}');
        gen_request_free(&x->gen);
        exchange_reply_json(x);
    } else
        exchange_fail(x, &x->refusal);
    json_decref(body);
}

void exchange_count(struct exchange *x)
{
    struct api_error e = {0};
    if (!exchange_ready(x, &e))
        exchange_fail(x, &e);
    else
        exchange_work(x, count);
}

/* ---------------------------------------------------------------- the end */

static void write_end(struct exchange *x)
{
    if (x->answer.finish == FINISH_ERROR) {
        struct api_error e = {0};
        if (x->limits.deadline_s > 0 && (double)(now_ns() - x->start_ns) >= x->limits.deadline_s * 1e9)
            api_fail(&e, API_TIMEOUT, "The request took longer than %g seconds, the limit of its key.",
                     x->limits.deadline_s);
        else
            api_fail(&e, API_INTERNAL, "The model could not finish this request.");
        exchange_fail(x, &e);
    } else if (x->answer.finish == FINISH_CANCELLED && !x->route->dialect->knows_aborted) {
        struct api_error e = {0};
        api_fail(&e, API_CLOSING, "The server is shutting down.");
        exchange_fail(x, &e);
    } else if (x->streams)
        api_answer_end(&x->answer, x->route->dialect->event, &x->out);
    else
        x->route->dialect->whole(&x->answer, &x->out);
    x->whole = true;
}

static void finish(struct exchange *x)
{
    engine_release(&x->job);
    unlink_running(x);
    account_finish(x);
    metrics_finish(x->server, x);
    write_end(x);
}

/* A client that reads slower than the model writes may fall behind by so much; then its request ends, since what waits
 * for it is memory that others need. */
static void drop_slow(struct exchange *x)
{
    x->server->metrics.dropped_slow++;
    exchange_gone(x);
    http_drop(x);
}

void exchange_drain(struct exchange *x)
{
    struct gen_event ev;
    bool ended = false;
    if (x->job == NULL || !atomic_exchange(&x->woken, false))
        return;
    size_t before = x->out.len;
    const struct tokenizer *t = engine_env(atomic_load(&x->server->engine))->tokenizer;
    while (!ended && engine_next(x->job, &ev, 0) == 1) {
        if (x->first_ns == 0 && ev.kind != GEN_PROMPT)
            x->first_ns = now_ns();
        ended = api_answer_take(&x->answer, &ev, t, x->streams ? x->route->dialect->event : NULL, &x->out);
        if (ev.kind == GEN_TOOL_START)
            engine_name_call(x->job, x->answer.parts[x->answer.n_parts - 1].id);
        if (x->cancelled)
            buf_clear(&x->out); /* nobody reads it */
    }
    if (ended)
        finish(x);
    if (x->out.len > before)
        x->last_out_ns = now_ns();
    if (x->whole && x->connection == NULL)
        exchange_free(x);
    else if (!ended && !x->cancelled && (int64_t)(x->out.len - x->n_sent) > x->server->o.stream_bytes_max)
        drop_slow(x);
    else if (x->out.len > x->n_sent || x->whole)
        http_wake(x);
}

void exchange_tick(struct exchange *x)
{
    if (x->connection == NULL || x->job == NULL || x->cancelled ||
        now_ns() - x->last_out_ns < (uint64_t)x->server->o.ping_s * UINT64_C(1000000000))
        return;
    bool begun = x->answer.usage.prompt_tokens > 0;
    buf_str(&x->out, !x->streams ? "\n" : begun ? x->route->dialect->ping : ": keep-alive\n\n");
    x->last_out_ns = now_ns();
    http_wake(x);
}

void exchange_gone(struct exchange *x)
{
    if (x->with_worker)
        return;
    if (x->job == NULL) {
        if (x->connection == NULL)
            exchange_free(x);
        return;
    }
    if (!x->cancelled)
        engine_cancel(x->job);
    x->cancelled = true;
    buf_clear(&x->out); /* nobody reads it */
    x->n_sent = 0;
}
