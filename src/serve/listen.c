/* Sockets, and a daemon of libmicrohttpd over each; certificates that change while it runs. */
#include "serve/server.h"

#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

/* ---------------------------------------------------------------- sockets */

/* HD_EIO leaves fd open. */
static int start_daemon(const struct server *s, int fd, struct MHD_Daemon **out, struct err *e)
{
    struct MHD_OptionItem tls[] = {{MHD_OPTION_HTTPS_MEM_CERT, 0, (void *)(uintptr_t)s->o.tls_cert},
                                   {MHD_OPTION_HTTPS_MEM_KEY, 0, (void *)(uintptr_t)s->o.tls_key},
                                   {MHD_OPTION_END, 0, NULL}};
    if (s->o.tls_cert == NULL)
        tls[0] = (struct MHD_OptionItem){MHD_OPTION_END, 0, NULL};
    unsigned flags = MHD_USE_EPOLL | MHD_ALLOW_SUSPEND_RESUME | (s->o.tls_cert != NULL ? MHD_USE_TLS : 0u);
    void *self = (void *)(uintptr_t)s;
    *out = MHD_start_daemon(
        flags, 0, NULL, NULL, http_on_request, self, MHD_OPTION_LISTEN_SOCKET, fd, MHD_OPTION_NOTIFY_COMPLETED,
        http_on_completed, self, MHD_OPTION_NOTIFY_CONNECTION, http_on_connection, self, MHD_OPTION_URI_LOG_CALLBACK,
        http_on_uri, self, MHD_OPTION_CONNECTION_TIMEOUT, (unsigned)s->o.keep_alive_s, MHD_OPTION_CONNECTION_LIMIT,
        (unsigned)s->o.max_connections, MHD_OPTION_CONNECTION_MEMORY_LIMIT, (size_t)128 << 10, MHD_OPTION_ARRAY, tls,
        MHD_OPTION_END);
    if (*out == NULL)
        return err_set(e, HD_EIO, s->o.tls_cert != NULL ? "the server could not start: certificate or key is not usable"
                                                        : "the server could not start");
    return HD_OK;
}

static int add_daemon(struct server *s, int fd, struct err *e)
{
    struct MHD_Daemon *d;
    if (start_daemon(s, fd, &d, e) != HD_OK) {
        close(fd);
        return HD_EIO;
    }
    s->retired[s->n_daemons] = false;
    s->daemons[s->n_daemons++] = d;
    struct epoll_event ev = {.events = EPOLLIN, .data.ptr = s}; /* any daemon: all get their turn */
    if (epoll_ctl(s->epoll_fd, EPOLL_CTL_ADD, MHD_get_daemon_info(d, MHD_DAEMON_INFO_EPOLL_FD)->epoll_fd, &ev) != 0)
        return err_sys(e, errno, "the server could not start");
    return HD_OK;
}

/* ---------------------------------------------------------------- certificates */

/* Daemons of an earlier certificate end when their last connection has. */
static void reap(struct server *s)
{
    for (int i = 0; i < s->n_daemons; i++) {
        struct MHD_Daemon *d = s->daemons[i];
        if (!s->retired[i] || MHD_get_daemon_info(d, MHD_DAEMON_INFO_CURRENT_CONNECTIONS)->num_connections > 0)
            continue;
        MHD_stop_daemon(d);
        s->n_daemons--;
        s->daemons[i] = s->daemons[s->n_daemons];
        s->retired[i] = s->retired[s->n_daemons];
        i--;
    }
}

/* A second daemon on the same socket, then the first one takes no more connections. */
static int renew(struct server *s, int i, struct err *e)
{
    int fd = fcntl(MHD_get_daemon_info(s->daemons[i], MHD_DAEMON_INFO_LISTEN_FD)->listen_fd, F_DUPFD_CLOEXEC, 0);
    if (fd < 0)
        return err_sys(e, errno, "the listening socket cannot be used again");
    int rc = add_daemon(s, fd, e);
    if (rc != HD_OK)
        return rc;
    int old = MHD_quiesce_daemon(s->daemons[i]);
    if (old >= 0)
        close(old);
    s->retired[i] = true;
    return HD_OK;
}

int server_set_tls(struct server *s, const char *cert, const char *key, struct err *e)
{
    const char *const before[] = {s->o.tls_cert, s->o.tls_key};
    int n = s->n_daemons, rc = HD_OK, n_active = 0;
    for (int i = 0; i < n; i++)
        n_active += !s->retired[i];
    if (n + n_active > DAEMONS_MAX)
        return err_set(e, HD_EIO, "connections of two earlier certificates are still open");
    s->o.tls_cert = cert;
    s->o.tls_key = key;
    for (int i = 0; i < n && rc == HD_OK; i++)
        if (!s->retired[i])
            rc = renew(s, i, e);
    if (rc != HD_OK) {
        s->o.tls_cert = before[0];
        s->o.tls_key = before[1];
    }
    return rc;
}

/* ---------------------------------------------------------------- addresses */

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
        if (2 * (s->n_daemons + 1) > DAEMONS_MAX)
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
        int fd = s->retired[i] ? -1 : MHD_quiesce_daemon(s->daemons[i]);
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
    reap(s);
}

int http_timeout_ms(const struct server *s)
{
    MHD_UNSIGNED_LONG_LONG ms, least = 1000;
    for (int i = 0; i < s->n_daemons; i++)
        if (MHD_get_timeout(s->daemons[i], &ms) == MHD_YES && ms < least)
            least = ms;
    return (int)least;
}
