/* Connections. libmicrohttpd parses HTTP in its epoll mode, driven by the server's own loop; a connection that waits for
 * the model is suspended, so that it costs nothing until there is something to send. */
#include "serve/server.h"

#include <errno.h>
#include <inttypes.h>
#include <netdb.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

/* ---------------------------------------------------------------- sending */

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
        http_wake(x); /* the engine may have more already: its events wait while the client is slow */
        return 0;
    }
    n = n < n_max ? n : n_max;
    memcpy(to, x->out.data + x->n_sent, n);
    x->n_sent += n;
    if (x->n_sent == x->out.len) {
        buf_clear(&x->out);
        x->n_sent = 0;
    }
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
    if (x->whole)
        r = MHD_create_response_from_buffer(x->out.len, x->out.len > 0 ? x->out.data : "", MHD_RESPMEM_MUST_COPY);
    else
        r = MHD_create_response_from_callback(MHD_SIZE_UNKNOWN, 16384, send_more, x, NULL);
    if (r == NULL)
        return MHD_NO;
    add_headers(x, r);
    x->state = X_SENDING;
    x->server->metrics.responses[x->status / 100 % 6]++;
    enum MHD_Result ok = MHD_queue_response(x->connection, (unsigned)x->status, r);
    MHD_destroy_response(r);
    return ok;
}

void http_wake(struct exchange *x)
{
    bool more = x->out.len > x->n_sent || x->whole;
    if (x->job != NULL && !more)
        atomic_store(&x->woken, true);
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

/* The request line and headers are here; the body is not. True when the answer is already known. */
static bool begin(struct exchange *x, const char *method, const char *url)
{
    struct api_error e = {0};
    x->route = route_find(method, url, &x->rest, &e);
    if (strcmp(method, "OPTIONS") == 0)
        answer_options(x);
    else if (e.kind != API_FINE)
        exchange_fail(x, &e);
    else if (announced_bytes(x) > x->server->o.body_bytes_max)
        fail(x, API_TOO_LARGE, "The request body is too large.");
    else if (!x->route->open && account_check(x, &e) != 0)
        exchange_fail(x, &e);
    return x->whole;
}

static void take_body(struct exchange *x, const char *data, size_t n)
{
    if (x->too_large || (int64_t)(x->body.len + n) > x->server->o.body_bytes_max) {
        x->too_large = true;
        buf_free(&x->body);
        return;
    }
    buf_add(&x->body, data, n);
}

static enum MHD_Result finish_request(struct exchange *x)
{
    if (x->state == X_READING && !x->whole) {
        if (x->too_large)
            fail(x, API_TOO_LARGE, "The request body is too large.");
        else
            x->route->run(x);
    }
    if (x->whole || x->out.len > 0)
        return send_response(x);
    x->state = X_WAITING;
    x->suspended = true;
    MHD_suspend_connection(x->connection);
    http_wake(x);
    return MHD_YES;
}

static enum MHD_Result on_request(void *server, struct MHD_Connection *c, const char *url, const char *method,
                                  const char *version, const char *data, size_t *n_data, void **context)
{
    struct exchange *x = *context;
    (void)version;
    if (x == NULL) {
        *context = x = exchange_open(server);
        x->connection = c;
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

static void on_completed(void *server, struct MHD_Connection *c, void **context, enum MHD_RequestTerminationCode code)
{
    struct exchange *x = *context;
    (void)server;
    (void)c;
    (void)code;
    *context = NULL;
    if (x == NULL)
        return;
    if (x->fd >= 0)
        epoll_ctl(x->server->epoll_fd, EPOLL_CTL_DEL, x->fd, NULL);
    x->fd = -1;
    x->connection = NULL;
    exchange_gone(x);
}

/* Nothing is read from a suspended connection, so libmicrohttpd cannot see it close; the server's own epoll set does. */
void http_watch(struct exchange *x)
{
    const union MHD_ConnectionInfo *info = MHD_get_connection_info(x->connection, MHD_CONNECTION_INFO_CONNECTION_FD);
    struct epoll_event ev = {.events = EPOLLRDHUP | EPOLLONESHOT, .data.ptr = x};
    if (info != NULL && epoll_ctl(x->server->epoll_fd, EPOLL_CTL_ADD, info->connect_fd, &ev) == 0)
        x->fd = info->connect_fd;
}

/* ---------------------------------------------------------------- sockets */

static int add_daemon(struct server *s, int fd, struct err *e)
{
    struct MHD_OptionItem tls[] = {{MHD_OPTION_HTTPS_MEM_CERT, 0, (void *)(uintptr_t)s->o.tls_cert},
                                   {MHD_OPTION_HTTPS_MEM_KEY, 0, (void *)(uintptr_t)s->o.tls_key},
                                   {MHD_OPTION_END, 0, NULL}};
    if (s->o.tls_cert == NULL)
        tls[0] = (struct MHD_OptionItem){MHD_OPTION_END, 0, NULL};
    unsigned flags = MHD_USE_EPOLL | MHD_ALLOW_SUSPEND_RESUME | (s->o.tls_cert != NULL ? MHD_USE_TLS : 0u);
    struct MHD_Daemon *d = MHD_start_daemon(
        flags, 0, NULL, NULL, on_request, s, MHD_OPTION_LISTEN_SOCKET, fd, MHD_OPTION_NOTIFY_COMPLETED, on_completed, s,
        MHD_OPTION_CONNECTION_TIMEOUT, (unsigned)s->o.keep_alive_s, MHD_OPTION_CONNECTION_LIMIT,
        (unsigned)s->o.max_connections, MHD_OPTION_CONNECTION_MEMORY_LIMIT, (size_t)128 << 10, MHD_OPTION_ARRAY, tls,
        MHD_OPTION_END);
    if (d == NULL) {
        close(fd);
        return err_set(e, HD_EIO, s->o.tls_cert != NULL ? "the server could not start: certificate or key is not usable"
                                                        : "the server could not start");
    }
    s->daemons[s->n_daemons++] = d;
    struct epoll_event ev = {.events = EPOLLIN, .data.ptr = s}; /* any daemon: all get their turn */
    if (epoll_ctl(s->epoll_fd, EPOLL_CTL_ADD, MHD_get_daemon_info(d, MHD_DAEMON_INFO_EPOLL_FD)->epoll_fd, &ev) != 0)
        return err_sys(e, errno, "the server could not start");
    return HD_OK;
}

static bool is_loopback(const struct sockaddr *a)
{
    if (a->sa_family == AF_INET)
        return (ntohl(((const struct sockaddr_in *)(const void *)a)->sin_addr.s_addr) >> 24) == 127;
    return a->sa_family == AF_INET6 && IN6_IS_ADDR_LOOPBACK(&((const struct sockaddr_in6 *)(const void *)a)->sin6_addr);
}

static int port_of(int fd)
{
    struct sockaddr_storage a;
    socklen_t n = sizeof a;
    if (getsockname(fd, (struct sockaddr *)(void *)&a, &n) != 0)
        return -1;
    in_port_t port = a.ss_family == AF_INET6 ? ((struct sockaddr_in6 *)(void *)&a)->sin6_port
                                             : ((struct sockaddr_in *)(void *)&a)->sin_port;
    return ntohs(port);
}

/* A listening socket; -1 with errno. */
static int open_tcp(const struct addrinfo *a)
{
    int on = 1, fd = socket(a->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0)
        return -1;
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    if (a->ai_family == AF_INET6)
        setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &on, sizeof on);
    if (bind(fd, a->ai_addr, a->ai_addrlen) == 0 && listen(fd, 1024) == 0)
        return fd;
    int why = errno;
    close(fd);
    errno = why;
    return -1;
}

static int listen_address(struct server *s, const char *host, const struct addrinfo *a, bool optional, struct err *e)
{
    if (!is_loopback(a->ai_addr) && s->o.ledger == NULL && !s->o.no_auth)
        return err_set(e, HD_EARG, "%s is not a loopback address: everyone who reaches it could use the model; give keys "
                       "(--ledger) or say --no-auth", host);
    int fd = open_tcp(a);
    if (fd < 0 && optional)
        return HD_OK;
    if (fd < 0)
        return err_sys(e, errno, "cannot listen on %s port %d", host, s->o.port);
    if (s->port < 0)
        s->port = port_of(fd);
    return add_daemon(s, fd, e);
}

static int listen_host(struct server *s, const char *host, bool optional, struct err *e)
{
    char port[16];
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_PASSIVE}, *list;
    snprintf(port, sizeof port, "%d", s->port >= 0 ? s->port : s->o.port);
    int bad = getaddrinfo(host, port, &hints, &list), rc = HD_OK;
    if (bad != 0)
        return optional ? HD_OK : err_set(e, HD_EARG, "cannot listen on %s: %s", host, gai_strerror(bad));
    for (const struct addrinfo *a = list; a != NULL && rc == HD_OK; a = a->ai_next) {
        if (s->n_daemons + 1 >= DAEMONS_MAX)
            rc = err_set(e, HD_EARG, "too many addresses to listen on");
        else
            rc = listen_address(s, host, a, optional, e);
    }
    freeaddrinfo(list);
    return rc;
}

/* Only this user may connect, so no key is needed. A socket left behind by a dead server is replaced. */
static int listen_unix(struct server *s, struct err *e)
{
    struct sockaddr_un a = {.sun_family = AF_UNIX};
    const char *path = s->o.unix_path;
    struct stat st;
    if (strlen(path) >= sizeof a.sun_path)
        return err_set(e, HD_EARG, "%s: the path of a socket has at most %zu bytes", path, sizeof a.sun_path - 1);
    memcpy(a.sun_path, path, strlen(path) + 1);
    if (stat(path, &st) == 0 && S_ISSOCK(st.st_mode))
        unlink(path);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    mode_t old = umask(077);
    bool ok = fd >= 0 && bind(fd, (struct sockaddr *)(void *)&a, sizeof a) == 0 && listen(fd, 1024) == 0;
    int why = errno;
    umask(old);
    if (!ok) {
        if (fd >= 0)
            close(fd);
        return err_sys(e, why, "cannot listen on %s", path);
    }
    return add_daemon(s, fd, e);
}

int http_listen(struct server *s, struct err *e)
{
    int rc = HD_OK;
    s->port = -1;
    for (int i = 0; i < s->o.n_hosts && rc == HD_OK && s->o.port >= 0; i++)
        rc = listen_host(s, s->o.hosts[i], false, e);
    if (s->o.n_hosts == 0 && s->o.port >= 0 && (rc = listen_host(s, "127.0.0.1", false, e)) == HD_OK)
        rc = listen_host(s, "::1", true, e);
    if (rc == HD_OK && s->o.unix_path != NULL)
        rc = listen_unix(s, e);
    if (rc == HD_OK && s->n_daemons == 0)
        rc = err_set(e, HD_EARG, "there is no address to listen on");
    return rc;
}

void http_quiesce(struct server *s)
{
    for (int i = 0; i < s->n_daemons; i++) {
        int fd = MHD_quiesce_daemon(s->daemons[i]);
        if (fd >= 0)
            close(fd);
    }
}

void http_close(struct server *s)
{
    for (int i = 0; i < s->n_daemons; i++)
        MHD_stop_daemon(s->daemons[i]);
    s->n_daemons = 0;
    if (s->o.unix_path != NULL)
        unlink(s->o.unix_path);
}

void http_turn(struct server *s)
{
    for (int i = 0; i < s->n_daemons; i++)
        MHD_run(s->daemons[i]);
}

int http_timeout_ms(const struct server *s)
{
    MHD_UNSIGNED_LONG_LONG ms, least = 1000;
    for (int i = 0; i < s->n_daemons; i++)
        if (MHD_get_timeout(s->daemons[i], &ms) == MHD_YES && ms < least)
            least = ms;
    return (int)least;
}
