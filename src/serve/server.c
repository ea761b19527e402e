/* The server's loop and its end. */
#include "serve/server.h"
#include "hadal.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

enum { TURN_MS = 1000 }; /* how long the loop sleeps at most */

void serve_options_init(struct serve_options *o)
{
    *o = (struct serve_options){.port = 8000, .model = "deepseek-v4", .body_bytes_max = 48 << 20,
                                .bodies_bytes_max = 512 << 20, .stream_bytes_max = 8 << 20, .keep_alive_s = 900,
                                .head_s = 60, .body_s = 300, .write_s = 120, .ping_s = 10, .grace_s = 60,
                                .max_connections = 4096, .log_fd = 2};
}

/* The same model and program have the same fingerprint, others another one. */
static void make_fingerprint(struct server *s, const char *version)
{
    uint64_t h = 0;
    for (const char *p = s->o.model; *p != '\0'; p++)
        h = mix64(h ^ (unsigned char)*p);
    for (const char *p = version; *p != '\0'; p++)
        h = mix64(h ^ (unsigned char)*p);
    struct buf b = {0};
    buf_printf(&b, "fp_%010llx_hadal_%s", (unsigned long long)(h >> 24), version);
    memcpy(s->fingerprint, b.data, b.len < sizeof s->fingerprint ? b.len + 1 : sizeof s->fingerprint - 1);
    buf_free(&b);
}

int server_open(struct server **out, const struct serve_options *o, struct err *e)
{
    struct server *s = xcalloc(1, sizeof *s);
    struct epoll_event ev = {.events = EPOLLIN};
    s->o = *o;
    make_fingerprint(s, HADAL_VERSION);
    s->env = (struct api_env){.model = o->model, .fingerprint = s->fingerprint, .strict_replay = o->strict_replay,
                              .free_sampling = o->free_sampling, .any_model = o->any_model, .created = time(NULL)};
    s->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    s->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    ev.data.ptr = &s->wake_fd;
    int rc = HD_OK;
    if (s->epoll_fd < 0 || s->wake_fd < 0 || epoll_ctl(s->epoll_fd, EPOLL_CTL_ADD, s->wake_fd, &ev) != 0)
        rc = err_sys(e, errno, "the server could not start");
    s->prices = s->o.prices != NULL ? s->o.prices : prices_open_official();
    if (rc == HD_OK)
        rc = workers_open(&s->workers, s->wake_fd, e);
    if (rc == HD_OK)
        rc = http_listen(s, e);
    if (rc != HD_OK) {
        server_close(&s);
        return rc;
    }
    *out = s;
    return HD_OK;
}

void server_close(struct server **s)
{
    if (*s == NULL)
        return;
    workers_close(&(*s)->workers);
    http_close(*s);
    prices_close(&(*s)->prices);
    if ((*s)->epoll_fd >= 0)
        close((*s)->epoll_fd);
    if ((*s)->wake_fd >= 0)
        close((*s)->wake_fd);
    free(*s);
    *s = NULL;
}

int server_port(const struct server *s)
{
    return s->port;
}

void server_ready(struct server *s, struct engine *e)
{
    s->env.context_tokens = engine_env(e)->context_tokens;
    s->env.tokenizer = engine_env(e)->tokenizer;
    atomic_store(&s->engine, e);
}

void server_loading(struct server *s, const char *what, uint64_t done, uint64_t total)
{
    (void)what;
    atomic_store(&s->loading_permille, total == 0 ? 0 : (int)((double)done / (double)total * 1000));
}

void server_stop(struct server *s)
{
    uint64_t one = 1;
    int before = errno;
    atomic_fetch_add(&s->stops, 1);
    if (write(s->wake_fd, &one, sizeof one) < 0)
        errno = before; /* the counter is full: the loop is awake */
}

void server_reload(struct server *s)
{
    uint64_t one = 1;
    int before = errno;
    atomic_store(&s->reload, true);
    if (write(s->wake_fd, &one, sizeof one) < 0)
        errno = before;
}

void server_set_prices(struct server *s, struct prices *p)
{
    prices_close(&s->prices);
    s->prices = p;
}

/* ---------------------------------------------------------------- the loop */

static void take_wakeups(const struct server *s)
{
    uint64_t n;
    while (read(s->wake_fd, &n, sizeof n) > 0)
        continue;
}

static void wait_events(struct server *s, int timeout_ms)
{
    struct epoll_event ev[64];
    int n = epoll_wait(s->epoll_fd, ev, (int)COUNT_OF(ev), timeout_ms);
    for (int i = 0; i < n; i++) {
        if (ev[i].data.ptr == &s->wake_fd)
            take_wakeups(s);
        else if (ev[i].data.ptr != s)
            exchange_gone(ev[i].data.ptr);
    }
}

static void turn_exchanges(struct server *s)
{
    for (struct exchange *x = s->running, *next; x != NULL; x = next) {
        next = x->next;
        exchange_tick(x);
        exchange_drain(x);
    }
}

static void take_read(struct server *s)
{
    struct exchange *x;
    while ((x = workers_take(s->workers)) != NULL)
        exchange_worked(x);
}

static void begin_close(struct server *s)
{
    s->closing = true;
    s->close_ns = now_ns();
    http_quiesce(s);
}

/* Whether running requests have had their time. */
static bool out_of_patience(const struct server *s)
{
    return atomic_load(&s->stops) > 1 || now_ns() - s->close_ns > (uint64_t)s->o.grace_s * UINT64_C(1000000000);
}

static void cancel_all(struct server *s)
{
    for (struct exchange *x = s->running; x != NULL; x = x->next) {
        if (!x->cancelled && x->job != NULL) {
            engine_cancel(x->job);
            x->cancelled = true;
        }
    }
}

/* After the last reply a client that does not read is waited for a second. */
static bool is_done(const struct server *s)
{
    return s->closing && s->running == NULL &&
           (s->n_exchanges == 0 || now_ns() - s->close_ns > (uint64_t)(s->o.grace_s + 1) * UINT64_C(1000000000));
}

void server_turn(struct server *s, int timeout_ms)
{
    int ms = http_timeout_ms(s);
    wait_events(s, ms < timeout_ms ? ms : timeout_ms);
    http_turn(s);
    take_read(s);
    turn_exchanges(s);
    http_turn(s);
    http_sweep(s);
    if (atomic_exchange(&s->reload, false) && s->o.reload != NULL)
        s->o.reload(s->o.reload_arg, s);
    if (!s->closing && atomic_load(&s->stops) > 0)
        begin_close(s);
    if (s->closing && out_of_patience(s))
        cancel_all(s);
}

void server_run(struct server *s)
{
    while (!is_done(s))
        server_turn(s, TURN_MS);
}
