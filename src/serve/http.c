/* Connections. libmicrohttpd parses HTTP in its epoll mode, driven by the server's own loop; a connection that waits for
 * the model is suspended, so that it costs nothing until there is something to send. */
#include "serve/server.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>

enum { COMPACT_BYTES = 64 << 10 };

/* ---------------------------------------------------------------- sending */

/* What was sent needs no memory; a client that is always a little behind must not make the buffer grow for ever. */
static void forget_sent(struct exchange *x)
{
    size_t left = x->out.len - x->n_sent;
    if (left > 0 && (x->n_sent < COMPACT_BYTES || x->n_sent < left))
        return;
    if (left > 0)
        memmove(x->out.data, x->out.data + x->n_sent, left);
    x->out.len = left;
    x->n_sent = 0;
}

static ssize_t send_more(void *arg, uint64_t pos, char *to, size_t n_max)
{
    struct exchange *x = arg;
    (void)pos;
    size_t n = x->out.len - x->n_sent;
    if (n == 0 && x->whole)
        return MHD_CONTENT_READER_END_OF_STREAM;
    if (n == 0) {
        x->suspended = true;
        MHD_suspend_connection(x->connection);
        return 0;
    }
    n = n < n_max ? n : n_max;
    memcpy(to, x->out.data + x->n_sent, n);
    x->n_sent += n;
    forget_sent(x);
    return (ssize_t)n;
}

static void add_headers(struct exchange *x, struct MHD_Response *r)
{
    char retry[24];
    MHD_add_response_header(r, "Content-Type", x->content_type);
    MHD_add_response_header(r, "request-id", x->request_id);
    MHD_add_response_header(r, "x-request-id", x->request_id);
    if (x->streams)
        MHD_add_response_header(r, "Cache-Control", "no-cache");
    if (x->retry_after_s > 0) {
        snprintf(retry, sizeof retry, "%d", x->retry_after_s);
        MHD_add_response_header(r, "Retry-After", retry);
    }
    if (x->server->o.cors != NULL) {
        MHD_add_response_header(r, "Access-Control-Allow-Origin", x->server->o.cors);
        MHD_add_response_header(r, "Access-Control-Allow-Headers", "*, Authorization");
        MHD_add_response_header(r, "Access-Control-Allow-Methods", "GET, POST, OPTIONS");
    }
}

static enum MHD_Result send_response(struct exchange *x)
{
    struct MHD_Response *r;
    if (x->whole && !x->streams) /* a stream has the same frame however early its end is known */
        r = MHD_create_response_from_buffer(x->out.len, x->out.len > 0 ? x->out.data : "", MHD_RESPMEM_MUST_COPY);
    else
        r = MHD_create_response_from_callback(MHD_SIZE_UNKNOWN, 16384, send_more, x, NULL);
    if (r == NULL)
        return MHD_NO;
    add_headers(x, r);
    x->state = X_SENDING;
    MHD_set_connection_option(x->connection, MHD_CONNECTION_OPTION_TIMEOUT, (unsigned)x->server->o.write_s);
    x->server->metrics.responses[x->status / 100 % 6]++;
    enum MHD_Result ok = MHD_queue_response(x->connection, (unsigned)x->status, r);
    MHD_destroy_response(r);
    return ok;
}

void http_wake(struct exchange *x)
{
    bool more = x->out.len > x->n_sent || x->whole;
    if (x->connection == NULL || !x->suspended || !more)
        return;
    x->suspended = false;
    MHD_resume_connection(x->connection);
}

/* ---------------------------------------------------------------- receiving */

const char *http_header(const struct exchange *x, const char *name)
{
    return MHD_lookup_connection_value(x->connection, MHD_HEADER_KIND, name);
}

const char *http_argument(const struct exchange *x, const char *name)
{
    return MHD_lookup_connection_value(x->connection, MHD_GET_ARGUMENT_KIND, name);
}

static int64_t announced_bytes(const struct exchange *x)
{
    const char *v = http_header(x, "Content-Length");
    return v == NULL ? 0 : strtoll(v, NULL, 10);
}

static void fail(struct exchange *x, enum api_kind kind, const char *text)
{
    struct api_error e = {0};
    api_fail(&e, kind, "%s", text);
    exchange_fail(x, &e);
}

static void answer_options(struct exchange *x)
{
    x->status = 204;
    x->content_type = "text/plain";
    x->whole = true;
}

static void fail_body(struct exchange *x, enum api_kind why)
{
    if (why == API_TOO_LARGE) {
        fail(x, why, "The request body is too large.");
        return;
    }
    x->server->metrics.refused_memory++;
    fail(x, why, "The server is busy: the requests that are being read need all memory for bodies. Please retry later.");
}

/* The request line and headers are here; the body is not. True when the answer is already known. */
static bool begin(struct exchange *x, const char *method, const char *url)
{
    struct api_error e = {0};
    x->route = route_find(method, url, &x->rest, &e);
    if (strcmp(method, "OPTIONS") == 0)
        answer_options(x);
    else if (e.kind != API_FINE)
        exchange_fail(x, &e);
    else if (!x->route->open && account_check(x, &e) != 0)
        exchange_fail(x, &e);
    else if (announced_bytes(x) > x->server->o.body_bytes_max)
        fail_body(x, API_TOO_LARGE);
    else if (announced_bytes(x) + x->server->bodies_bytes > x->server->o.bodies_bytes_max)
        fail_body(x, API_BUSY);
    return x->whole;
}

static void refuse_body(struct exchange *x, enum api_kind why)
{
    x->body_refused = why;
    exchange_drop_body(x);
}

static void take_body(struct exchange *x, const char *data, size_t n)
{
    const struct serve_options *o = &x->server->o;
    if (x->body_refused != API_FINE)
        return;
    if ((int64_t)(x->body.len + n) > o->body_bytes_max)
        refuse_body(x, API_TOO_LARGE);
    else if (x->server->bodies_bytes + (int64_t)n > o->bodies_bytes_max)
        refuse_body(x, API_BUSY);
    else {
        buf_add(&x->body, data, n);
        x->body_bytes += (int64_t)n;
        x->server->bodies_bytes += (int64_t)n;
    }
}

static enum MHD_Result finish_request(struct exchange *x)
{
    if (x->state == X_READING && !x->whole) {
        if (x->body_refused != API_FINE)
            fail_body(x, x->body_refused);
        else
            x->route->run(x);
    }
    if (!x->with_worker && (x->whole || x->out.len > 0))
        return send_response(x);
    x->state = X_WAITING;
    x->suspended = true;
    MHD_suspend_connection(x->connection);
    if (!x->with_worker)
        http_wake(x);
    return MHD_YES;
}

/* ---------------------------------------------------------------- callbacks of libmicrohttpd */

static struct conn *conn_of(struct MHD_Connection *c)
{
    const union MHD_ConnectionInfo *info = MHD_get_connection_info(c, MHD_CONNECTION_INFO_SOCKET_CONTEXT);
    return info == NULL ? NULL : info->socket_context;
}

static int fd_of(struct MHD_Connection *c)
{
    const union MHD_ConnectionInfo *info = MHD_get_connection_info(c, MHD_CONNECTION_INFO_CONNECTION_FD);
    return info == NULL ? -1 : info->connect_fd;
}

void http_on_connection(void *server, struct MHD_Connection *c, void **socket_context,
                        enum MHD_ConnectionNotificationCode code)
{
    struct server *s = server;
    struct conn *k = *socket_context;
    if (code == MHD_CONNECTION_NOTIFY_STARTED) {
        k = xcalloc(1, sizeof *k);
        *k = (struct conn){.server = s, .connection = c, .since_ns = now_ns(), .in_head = true, .next = s->conns};
        if (k->next != NULL)
            k->next->prev = k;
        s->conns = k;
        s->n_conns++;
        *socket_context = k;
        return;
    }
    *socket_context = NULL;
    *(k->prev != NULL ? &k->prev->next : &s->conns) = k->next;
    if (k->next != NULL)
        k->next->prev = k->prev;
    s->n_conns--;
    free(k);
}

/* A request line is complete; its headers are not yet. */
void *http_on_uri(void *server, const char *uri, struct MHD_Connection *c)
{
    struct conn *k = conn_of(c);
    (void)server;
    (void)uri;
    if (k != NULL && !k->in_head) {
        k->in_head = true;
        k->since_ns = now_ns();
    }
    return NULL;
}

static struct exchange *begin_exchange(struct server *s, struct MHD_Connection *c, const char *method)
{
    struct exchange *x = exchange_open(s);
    struct conn *k = conn_of(c);
    x->connection = c;
    snprintf(x->method, sizeof x->method, "%s", method);
    if (k != NULL) {
        k->in_head = false;
        k->exchange = x;
    }
    return x;
}

enum MHD_Result http_on_request(void *server, struct MHD_Connection *c, const char *url, const char *method,
                                const char *version, const char *data, size_t *n_data, void **context)
{
    struct exchange *x = *context;
    (void)version;
    if (x == NULL) {
        *context = x = begin_exchange(server, c, method);
        /* Answering now spares the upload; without a body libmicrohttpd wants the second call first. */
        return begin(x, method, url) && announced_bytes(x) > 0 ? send_response(x) : MHD_YES;
    }
    if (*n_data > 0) {
        if (!x->whole)
            take_body(x, data, *n_data);
        *n_data = 0;
        return MHD_YES;
    }
    return finish_request(x);
}

void http_on_completed(void *server, struct MHD_Connection *c, void **context, enum MHD_RequestTerminationCode code)
{
    struct exchange *x = *context;
    struct conn *k = conn_of(c);
    struct server *s = server;
    (void)code;
    *context = NULL;
    if (k != NULL) {
        k->exchange = NULL;
        k->in_head = false;
    }
    MHD_set_connection_option(c, MHD_CONNECTION_OPTION_TIMEOUT, (unsigned)s->o.keep_alive_s);
    if (x == NULL)
        return;
    if (x->fd >= 0)
        epoll_ctl(s->epoll_fd, EPOLL_CTL_DEL, x->fd, NULL);
    x->fd = -1;
    x->connection = NULL;
    exchange_gone(x);
}

/* ---------------------------------------------------------------- clients that go away, and those that do nothing */

/* Nothing is read from a suspended connection, so libmicrohttpd cannot see it close; the server's own epoll set does. */
void http_watch(struct exchange *x)
{
    struct epoll_event ev = {.events = EPOLLRDHUP | EPOLLONESHOT, .data.ptr = x};
    int fd = fd_of(x->connection);
    if (fd >= 0 && epoll_ctl(x->server->epoll_fd, EPOLL_CTL_ADD, fd, &ev) == 0)
        x->fd = fd;
}

/* libmicrohttpd finds the connection closed and lets go of it. */
void http_drop(struct exchange *x)
{
    if (x->connection != NULL)
        shutdown(fd_of(x->connection), SHUT_RDWR);
}

static bool is_late(const struct conn *k, uint64_t now)
{
    const struct serve_options *o = &k->server->o;
    const struct exchange *x = k->exchange;
    if (k->in_head)
        return now - k->since_ns > (uint64_t)o->head_s * UINT64_C(1000000000);
    return x != NULL && x->state == X_READING && now - x->start_ns > (uint64_t)o->body_s * UINT64_C(1000000000);
}

/* Where data and the end of a connection come together, libmicrohttpd reads the data and never asks again: its epoll is
 * edge-triggered. So whatever waits for the client is asked here; suspended connections have http_watch. */
static bool has_left(const struct conn *k)
{
    char c;
    bool waits = k->exchange == NULL || k->exchange->state == X_READING;
    return waits && recv(fd_of(k->connection), &c, 1, MSG_PEEK | MSG_DONTWAIT) == 0;
}

void http_sweep(struct server *s)
{
    uint64_t now = now_ns();
    if (now - s->swept_ns < UINT64_C(500000000))
        return;
    s->swept_ns = now;
    for (struct conn *k = s->conns; k != NULL; k = k->next)
        if (is_late(k, now) || has_left(k))
            shutdown(fd_of(k->connection), SHUT_RDWR);
}
