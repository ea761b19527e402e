/* What the HTTP server adds to the engine. Every round asks the engine itself and the server over it, on loopback, the
 * same things one after the other. How many streams stay as fast as one is measured over a device that needs the same
 * time for any step: there only the server can be in the way. */
#include <arpa/inet.h>
#include <errno.h>
#include <inttypes.h>
#include <netinet/in.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "bin/bench.h"
#include "engine/engine.h"
#include "serve/serve.h"

enum { LONG = 96, STREAMS_MAX = 256, STREAM_TOKENS = 48, STEP_MS = 20, HTTP_ROUNDS = 9, DEVICE_ROWS = 2 * STREAMS_MAX };

struct http_bench {
    struct bench *b;
    struct engine *engine;
    struct server *server;
    struct serve_options options;
    pthread_t thread;
    int port;
};

/* ---------------------------------------------------------------- a device of constant speed */

struct device {
    float *logits; /* [DEVICE_ROWS * n_vocab], all of them the same choice */
    int n_vocab;
};

/* The engine only passes it on. */
struct kv_seq {
    int64_t n;
};

static int device_open(void *self, struct kv_seq **q, int64_t max_tokens, struct err *e)
{
    (void)self;
    (void)max_tokens;
    (void)e;
    *q = xcalloc(1, sizeof **q);
    return HD_OK;
}

static void device_close(void *self, struct kv_seq **q)
{
    (void)self;
    free(*q);
    *q = NULL;
}

static int device_truncate(void *self, struct kv_seq *q, int64_t n_tokens, struct err *e)
{
    (void)self;
    (void)e;
    q->n = n_tokens;
    return HD_OK;
}

static int device_step(void *self, const struct step_item *items, int n_items, struct step_result *r, struct err *e)
{
    const struct device *d = self;
    struct timespec t = {0, STEP_MS * 1000000L};
    int n_logits = 0;
    (void)e;
    for (int i = 0; i < n_items; i++) {
        items[i].seq->n += items[i].n_tokens;
        n_logits += items[i].n_logits;
    }
    nanosleep(&t, NULL);
    *r = (struct step_result){.logits = d->logits, .n_logits = n_logits};
    return HD_OK;
}

static int device_engine(struct device *d, const struct request_env *env, struct engine **out, struct err *e)
{
    struct engine_options o;
    struct ids one = {0};
    const int32_t no_end[1] = {env->n_vocab - 1};
    struct runner r = {.self = d, .n_vocab = env->n_vocab, .max_rows = DEVICE_ROWS, .rollback = 1 << 20,
                       .max_tokens = 1 << 16, .seq_open = device_open, .seq_close = device_close,
                       .seq_truncate = device_truncate, .step = device_step};
    if (tokenizer_encode(env->tokenizer, "a", 1, false, &one, e) != HD_OK)
        return e->code;
    d->n_vocab = env->n_vocab;
    d->logits = xcalloc((size_t)DEVICE_ROWS * (size_t)env->n_vocab, sizeof *d->logits);
    for (int i = 0; i < DEVICE_ROWS; i++)
        d->logits[(size_t)i * (size_t)env->n_vocab + (size_t)one.data[0]] = 200;
    ids_free(&one);
    engine_options_init(&o);
    o.max_running = STREAMS_MAX;
    o.n_keep = -1;
    o.prefill_rows = STREAMS_MAX;
    struct request_env own = *env;
    own.context_tokens = 1 << 16;
    own.replay = NULL;
    return engine_open_runner(out, r, &own, no_end, 1, &o, e);
}

/* ---------------------------------------------------------------- asking */

static void write_body(struct buf *out, int64_t max_tokens, uint64_t seed, bool http)
{
    buf_printf(out, "{%s\"messages\":[{\"role\":\"user\",\"content\":\"Please count to one hundred.\"}],"
               "\"max_tokens\":%" PRId64 ",\"temperature\":0,\"seed\":%" PRIu64 ",\"thinking\":{\"type\":\"disabled\"}}",
               http ? "\"model\":\"deepseek-chat\",\"stream\":true," : "", max_tokens, seed);
}

struct answer {
    double first_s, all_s;
    int64_t tokens;
};

static int ask_engine(struct engine *engine, int64_t max_tokens, uint64_t seed, struct answer *a, struct err *e)
{
    struct buf text = {0};
    struct gen_request r;
    struct job *j = NULL;
    struct gen_event ev = {0};
    write_body(&text, max_tokens, seed, false);
    uint64_t start = now_ns();
    json_t *body = json_loadb(text.data, text.len, 0, NULL);
    int rc = request_parse(&r, body, engine_env(engine), e);
    json_decref(body);
    buf_free(&text);
    if (rc == HD_OK)
        rc = engine_submit(engine, &r, NULL, NULL, &j, e);
    if (rc != HD_OK)
        return rc;
    *a = (struct answer){0};
    while (engine_next(j, &ev, -1) == 1)
        if (a->first_s == 0 && ev.kind != GEN_PROMPT)
            a->first_s = (double)(now_ns() - start) * 1e-9;
    a->all_s = (double)(now_ns() - start) * 1e-9;
    a->tokens = ev.usage.completion_tokens;
    engine_release(&j);
    return HD_OK;
}

/* A stream over HTTP. */
struct client {
    int fd;
    struct buf in;
    uint64_t start_ns, first_ns, end_ns;
};

static int client_open(struct client *c, int port, int64_t max_tokens, uint64_t seed, struct err *e)
{
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port),
                            .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    struct buf body = {0}, all = {0};
    write_body(&body, max_tokens, seed, true);
    buf_printf(&all, "POST /chat/completions HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: %zu\r\n\r\n%s",
               body.len, body.data);
    *c = (struct client){.fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), .start_ns = now_ns()};
    bool ok = c->fd >= 0 && connect(c->fd, (struct sockaddr *)(void *)&a, sizeof a) == 0 &&
              write(c->fd, all.data, all.len) == (ssize_t)all.len;
    buf_free(&body);
    buf_free(&all);
    return ok ? HD_OK : err_sys(e, errno, "the server cannot be asked");
}

/* Reads once; false at the end. */
static bool client_read(struct client *c)
{
    char piece[16384];
    ssize_t n = read(c->fd, piece, sizeof piece);
    if (n > 0) {
        buf_add(&c->in, piece, (size_t)n);
        const char *begin = c->first_ns != 0 ? NULL : strstr(c->in.data, "data: ");
        if (begin != NULL && strstr(begin + 1, "data: ") != NULL) /* the first chunk only says that an answer begins */
            c->first_ns = now_ns();
        return true;
    }
    close(c->fd);
    c->fd = -1;
    c->end_ns = now_ns();
    return false;
}

static int client_close(struct client *c, struct answer *a, struct err *e)
{
    static const char key[] = "\"completion_tokens\":";
    const char *found = c->in.len == 0 ? NULL : strstr(c->in.data, key);
    int rc = found != NULL ? HD_OK : err_set(e, HD_EIO, "the server's answer is none: %.100s",
                                             c->in.len > 0 ? c->in.data : "");
    if (rc == HD_OK)
        *a = (struct answer){(double)(c->first_ns - c->start_ns) * 1e-9, (double)(c->end_ns - c->start_ns) * 1e-9,
                             strtoll(found + sizeof key - 1, NULL, 10)};
    buf_free(&c->in);
    return rc;
}

static int ask_server(int port, int64_t max_tokens, uint64_t seed, struct answer *a, struct err *e)
{
    struct client c;
    int rc = client_open(&c, port, max_tokens, seed, e);
    if (rc != HD_OK)
        return rc;
    while (client_read(&c))
        ;
    return client_close(&c, a, e);
}

/* ---------------------------------------------------------------- the server in a thread */

static void *serve_thread(void *arg)
{
    server_run(arg);
    return NULL;
}

static int start_server(struct http_bench *h, struct engine *engine, struct err *e)
{
    serve_options_init(&h->options);
    h->options.port = 0;
    h->options.model = "bench";
    int rc = server_open(&h->server, &h->options, e);
    if (rc != HD_OK)
        return rc;
    h->port = server_port(h->server);
    server_ready(h->server, engine);
    int bad = pthread_create(&h->thread, NULL, serve_thread, h->server);
    if (bad != 0) {
        server_close(&h->server);
        return err_sys(e, bad, "cannot start a thread");
    }
    return HD_OK;
}

static void stop_server(struct http_bench *h)
{
    server_stop(h->server);
    pthread_join(h->thread, NULL);
    server_close(&h->server);
}

/* ---------------------------------------------------------------- measuring */

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return x < y ? -1 : x > y;
}

static double median(double *v, int n)
{
    qsort(v, (size_t)n, sizeof *v, by_value);
    return v[n / 2];
}

static void add_row(struct bench *b, const char *unit, double value, const char *name, int n)
{
    struct bench_row *r = &b->rows[b->n_rows++];
    *r = (struct bench_row){.unit = unit, .value = value, .roofline = -1};
    snprintf(r->name, sizeof r->name, n > 0 ? "%s%d" : "%s", name, n);
}

/* One request of one token, and one of many, by both ways; what differs is the server. */
static int measure_overhead(struct http_bench *h, struct err *e)
{
    double engine_first[HTTP_ROUNDS], http_first[HTTP_ROUNDS], request[HTTP_ROUNDS], token[HTTP_ROUNDS], ratio[HTTP_ROUNDS];
    struct answer one[2], many[2];
    for (int k = -1; k < HTTP_ROUNDS; k++) { /* the first round warms up */
        uint64_t seed = (uint64_t)k + 2;
        if (ask_engine(h->engine, 1, seed, &one[0], e) != HD_OK || ask_server(h->port, 1, seed, &one[1], e) != HD_OK ||
            ask_engine(h->engine, LONG, seed, &many[0], e) != HD_OK || ask_server(h->port, LONG, seed, &many[1], e) != HD_OK)
            return e->code;
        if (many[0].tokens != many[1].tokens)
            return err_set(e, HD_EFORMAT, "the server made %" PRId64 " tokens of the engine's %" PRId64, many[1].tokens,
                           many[0].tokens);
        if (k < 0)
            continue;
        engine_first[k] = one[0].first_s;
        http_first[k] = one[1].first_s;
        request[k] = one[1].all_s - one[0].all_s;
        token[k] = (many[1].all_s - one[1].all_s - (many[0].all_s - one[0].all_s)) / (double)(many[0].tokens);
        ratio[k] = many[1].all_s / many[0].all_s;
    }
    add_row(h->b, "ms", median(engine_first, HTTP_ROUNDS) * 1e3, "http first token, engine", 0);
    add_row(h->b, "ms", median(http_first, HTTP_ROUNDS) * 1e3, "http first token", 0);
    add_row(h->b, "us", median(request, HTTP_ROUNDS) * 1e6, "http adds to a request", 0);
    add_row(h->b, "us", median(token, HTTP_ROUNDS) * 1e6, "http adds to a token", 0);
    add_row(h->b, "x engine", median(ratio, HTTP_ROUNDS), "http reply of tokens ", LONG);
    return HD_OK;
}

/* Seconds a token takes in n streams at once, of the slowest one. */
static int run_streams(struct http_bench *h, int n, double *per_token, struct err *e)
{
    static struct client clients[STREAMS_MAX];
    static struct pollfd fds[STREAMS_MAX];
    int left = n;
    for (int i = 0; i < n; i++) {
        if (client_open(&clients[i], h->port, STREAM_TOKENS, 1, e) != HD_OK)
            return e->code;
        fds[i] = (struct pollfd){.fd = clients[i].fd, .events = POLLIN};
    }
    while (left > 0 && poll(fds, (nfds_t)n, -1) >= 0)
        for (int i = 0; i < n; i++)
            if (fds[i].fd >= 0 && fds[i].revents != 0 && !client_read(&clients[i])) {
                fds[i].fd = -1;
                left--;
            }
    *per_token = 0;
    for (int i = 0; i < n; i++) {
        struct answer a = {0};
        if (client_close(&clients[i], &a, e) != HD_OK)
            return e->code;
        double s = (a.all_s - a.first_s) / (double)(a.tokens - 1);
        *per_token = s > *per_token ? s : *per_token;
    }
    return HD_OK;
}

static int measure_streams(struct http_bench *h, struct err *e)
{
    static const int counts[] = {1, 16, 64, STREAMS_MAX};
    double seconds[COUNT_OF(counts)][HTTP_ROUNDS];
    int rounds = h->b->rounds < HTTP_ROUNDS ? h->b->rounds : HTTP_ROUNDS;
    for (int k = 0; k < rounds; k++)
        for (size_t i = 0; i < COUNT_OF(counts); i++)
            if (run_streams(h, counts[i], &seconds[i][k], e) != HD_OK)
                return e->code;
    add_row(h->b, "ms", STEP_MS, "http streams: a step of the device", 0);
    for (size_t i = 0; i < COUNT_OF(counts); i++)
        add_row(h->b, "ms a token", median(seconds[i], rounds) * 1e3, "http streams x", counts[i]);
    return HD_OK;
}

int bench_http(struct bench *b, struct err *e)
{
    struct http_bench h = {.b = b};
    struct engine_options o;
    struct engine *engine = NULL;
    struct device device = {0};
    engine_options_init(&o);
    o.model = b->args.model;
    o.no_cache = true; /* every round is a first one */
    o.n_keep = -1;
    int rc = engine_open(&h.engine, b->dir, &o, NULL, e);
    if (rc != HD_OK)
        return rc;
    if ((rc = start_server(&h, h.engine, e)) == HD_OK) {
        rc = measure_overhead(&h, e);
        stop_server(&h);
    }
    if (rc == HD_OK && (rc = device_engine(&device, engine_env(h.engine), &engine, e)) == HD_OK) {
        if ((rc = start_server(&h, engine, e)) == HD_OK) {
            rc = measure_streams(&h, e);
            stop_server(&h);
        }
        engine_close(&engine);
    }
    free(device.logits);
    engine_close(&h.engine);
    return rc;
}
