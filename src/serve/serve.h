/* serve: the HTTP server above the engine.
 *
 * Idea: one thread. It runs libmicrohttpd's connections and the exchanges over them; the engine's step thread only sets
 * a flag and writes an eventfd. So nothing in this floor needs a lock.
 *
 *   http.c      connections: bodies in, bytes out, who has gone away
 *   exchange.c  one request: from its body to a job of the engine to the dialect's bytes
 *   routes.c    which path means what
 *   api.h       the neutral request and answer; a dialect is one file over it
 */
#ifndef HADAL_SERVE_SERVE_H
#define HADAL_SERVE_SERVE_H

#include "engine/engine.h"

enum { SERVE_HOSTS_MAX = 8 };

struct ledger;
struct prices;
struct server;

struct serve_options {
    const char *hosts[SERVE_HOSTS_MAX]; /* names or addresses; none: 127.0.0.1 and, where there is one, ::1 */
    int n_hosts;
    int port;                 /* 0: the system chooses */
    const char *unix_path;    /* also (or, with port -1, only) a socket in the file system */
    const char *model;        /* the name it serves under */
    const char *tls_cert, *tls_key; /* PEM text; both or neither */
    const char *cors;         /* value of Access-Control-Allow-Origin, NULL: none */
    int64_t body_bytes_max;   /* of one request */
    int64_t bodies_bytes_max; /* of all requests that are being read; more are answered "busy" */
    int64_t stream_bytes_max; /* of a reply that its client has not taken: beyond, the request is dropped */
    int keep_alive_s;         /* how long an idle connection stays open */
    int head_s, body_s;       /* how long a new connection may take for its first headers, a request for its body */
    int write_s;              /* how long a client may take nothing of what there is for it */
    int ping_s;               /* after so long without a byte something empty is sent */
    int grace_s;              /* how long running requests may go on at shutdown */
    int max_connections;
    bool no_auth;             /* other addresses than loopback without keys */
    bool strict_replay, free_sampling, any_model;
    bool log;                 /* one line of JSON a request on log_fd */
    bool log_text;            /* with the request's and the answer's text */
    int log_fd;
    struct ledger *ledger;    /* keys and usage; NULL: neither */
    struct prices *prices;    /* NULL: the official ones; the server's from server_open on */
    /* Called in the server's thread after server_reload, to read again what files hold; may be NULL. */
    void (*reload)(void *arg, struct server *s);
    void *reload_arg;
};
void serve_options_init(struct serve_options *o);

/* Opens the sockets; every request that needs a model is answered "loading" until server_ready. The options' texts must
 * outlive the server. Refuses other addresses than loopback when there are no keys. */
int server_open(struct server **s, const struct serve_options *o, struct err *e);
void server_close(struct server **s);
int server_port(const struct server *s); /* of the first TCP socket, -1 when there is none */

/* From another thread: the engine is there (it stays the caller's), or how far loading is. */
void server_ready(struct server *s, struct engine *e);
void server_loading(struct server *s, const char *what, uint64_t done, uint64_t total);
/* Runs until stopped, then lets running requests end. */
void server_run(struct server *s);
/* May be called from a signal handler: the first call shuts down gracefully, the second one cancels what runs. */
void server_stop(struct server *s);

/* May be called from a signal handler: options.reload is called soon. What it may use: */
void server_reload(struct server *s);
void server_set_prices(struct server *s, struct prices *p); /* takes p over */
/* New connections get this certificate; old ones keep theirs until they end. HD_EIO: the old one stays in use. */
int server_set_tls(struct server *s, const char *cert, const char *key, struct err *e);

#endif
