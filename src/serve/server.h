/* Inside of the server. Everything here belongs to its one thread but the fields marked atomic. */
#ifndef HADAL_SERVE_SERVER_H
#define HADAL_SERVE_SERVER_H

#include "serve/api.h"
#include "serve/ledger.h"
#include "serve/prices.h"
#include "serve/serve.h"

#include <microhttpd.h>
#include <stdatomic.h>

/* Twice as many as there can be addresses: after a new certificate the daemons of the old one end with their
 * connections. */
enum { DAEMONS_MAX = 2 * (2 * SERVE_HOSTS_MAX + 1) };

/* What a metric line needs, counted by the thread itself. */
enum { HISTOGRAM_BUCKETS = 16 };
struct histogram {
    uint64_t count[HISTOGRAM_BUCKETS + 1], n;
    double sum;
};
struct metrics {
    uint64_t requests_by_finish[8]; /* enum finish */
    uint64_t responses[6];          /* by hundreds of the status */
    uint64_t prompt_tokens, cached_tokens, completion_tokens, reasoning_tokens;
    uint64_t dropped_slow;          /* requests whose client did not read */
    uint64_t refused_memory, refused_key; /* "busy" for want of memory for bodies, and by limits of keys */
    struct histogram ttft_s, tpot_s, e2e_s, queue_s, prefill_s, decode_s, prompt_n, completion_n;
    double cost;
};

struct exchange;
enum method { METHOD_GET, METHOD_POST, METHOD_ANY };

struct route {
    enum method method;
    const char *path;          /* a trailing * takes the rest */
    const struct dialect *dialect; /* whose error bodies (and requests) these are */
    void (*run)(struct exchange *x); /* fills the exchange's reply or starts a job */
    bool open;                 /* needs no key */
};

enum exchange_state {
    X_READING, /* the body comes in */
    X_WAITING, /* with a worker, or a job runs; nothing was sent yet; the connection is suspended */
    X_SENDING, /* the response was queued */
};

/* A connection, from the moment it is accepted. */
struct conn {
    struct server *server;
    struct MHD_Connection *connection;
    struct exchange *exchange; /* the request that is being read or answered, NULL between requests */
    uint64_t since_ns;         /* when the first, or the current, headers began */
    bool in_head;              /* they are not complete */
    struct conn *prev, *next;
};

struct exchange {
    struct server *server;
    struct MHD_Connection *connection; /* NULL once it is gone */
    const struct route *route;
    const char *rest;          /* what the * of the route stands for; valid while the connection is */
    enum exchange_state state;
    struct buf body;
    struct buf kept_body;      /* for the log, when it shows texts */
    int64_t body_bytes;        /* counted in server.bodies_bytes */
    enum api_kind body_refused; /* why the rest of the body is thrown away; API_FINE: it is not */
    bool suspended, streams, whole; /* whole: out is complete */
    bool linked;               /* in the server's list */
    int fd;                    /* of the connection, in the server's epoll set; -1 when not */

    int status;
    const char *content_type;
    int retry_after_s;
    char request_id[40];
    struct buf out;
    size_t n_sent;

    /* of the workers */
    bool with_worker;
    void (*work)(struct exchange *x);    /* in a worker */
    void (*go_on)(struct exchange *x);   /* back in the server's thread */
    struct exchange *queue_next;
    struct gen_request gen;
    struct api_error refusal;

    struct job *job;
    /* Set by the engine's step thread only, which then wakes the loop: whoever else set it would make it believe that the
     * loop knows already. */
    atomic_bool woken;
    bool begun, cancelled;
    struct api_req req;
    struct api_answer answer;
    int64_t key_id;            /* 0: the server has no keys */
    struct key_limits limits;  /* of the key */
    char *user;                /* user id of the request, owned */
    double start_s;            /* seconds since 1970 */
    uint64_t start_ns, first_ns, last_out_ns;
    char method[8];
    struct exchange *prev, *next; /* of the server's list of exchanges with a worker or a job */
};

struct workers;

struct server {
    struct serve_options o;
    struct api_env env;
    char fingerprint[64];
    struct MHD_Daemon *daemons[DAEMONS_MAX];
    bool retired[DAEMONS_MAX]; /* has the certificate of before and takes no connections */
    int n_daemons, port;
    int epoll_fd, wake_fd;
    _Atomic(struct engine *) engine;
    atomic_int loading_permille, stops;
    atomic_bool reload;
    int64_t bodies_bytes;      /* that requests hold */
    bool closing;
    struct workers *workers;
    struct prices *prices;
    struct conn *conns;
    int n_conns;
    struct exchange *running;
    int n_exchanges;
    uint64_t close_ns, swept_ns;
    struct metrics metrics;
    uint64_t n_requests;
};

/* server.c */
void server_turn(struct server *s, int timeout_ms); /* one turn of the loop, which sleeps so long at most */

/* listen.c */
int http_listen(struct server *s, struct err *e);
void http_quiesce(struct server *s);
void http_close(struct server *s);
void http_turn(struct server *s);       /* lets the connections go on */
int http_timeout_ms(const struct server *s);

/* http.c */
/* The callbacks of libmicrohttpd. */
enum MHD_Result http_on_request(void *server, struct MHD_Connection *c, const char *url, const char *method,
                                const char *version, const char *data, size_t *n_data, void **context);
void http_on_completed(void *server, struct MHD_Connection *c, void **context, enum MHD_RequestTerminationCode code);
void http_on_connection(void *server, struct MHD_Connection *c, void **socket_context,
                        enum MHD_ConnectionNotificationCode code);
void *http_on_uri(void *server, const char *uri, struct MHD_Connection *c);
void http_sweep(struct server *s);      /* ends connections that take too long or have left; call it often */
void http_drop(struct exchange *x);     /* ends the connection */
void http_wake(struct exchange *x);     /* there is something to send */
void http_watch(struct exchange *x);    /* a connection that goes away is noticed from here on */
const char *http_header(const struct exchange *x, const char *name);
const char *http_argument(const struct exchange *x, const char *name); /* of the query string */

/* exchange.c */
struct exchange *exchange_open(struct server *s);
void exchange_free(struct exchange *x);
void exchange_generate(struct exchange *x);     /* a route's run: the body is a request of its dialect */
void exchange_count(struct exchange *x);        /* the body is a request of its dialect: how many prompt tokens */
void exchange_fail(struct exchange *x, const struct api_error *e);
/* Gives the body to a worker, which fills the whole reply. */
void exchange_work(struct exchange *x, void (*work)(struct exchange *x));
void exchange_worked(struct exchange *x); /* it is back from its worker */
bool exchange_ready(struct exchange *x, struct api_error *e); /* the engine is there and takes requests */
void exchange_drop_body(struct exchange *x);
void exchange_reply_json(struct exchange *x);   /* out holds the body */
void exchange_drain(struct exchange *x);        /* takes what the engine has */
void exchange_tick(struct exchange *x);         /* keep-alive while nothing comes */
void exchange_gone(struct exchange *x);         /* the client went away */
/* The JSON object in the body, NULL (and failed) when it is none. */
json_t *exchange_json(struct exchange *x, struct api_error *e);
/* From a body to what the engine runs; for_count: the prompt may be longer than the context. False with *e filled. */
bool exchange_read(struct exchange *x, const json_t *body, struct gen_request *g, bool for_count, struct api_error *e);

/* routes.c */
/* The route of a request; when there is none *e says why and the result gives the form of the error. */
const struct route *route_find(const char *method, const char *path, const char **rest, struct api_error *e);

/* workers.c */
int workers_open(struct workers **w, int wake_fd, struct err *e);
void workers_close(struct workers **w); /* what is being read is read, the rest stays as it is */
void workers_give(struct workers *w, struct exchange *x); /* x->work will be called */
struct exchange *workers_take(struct workers *w);         /* the next one that is done, NULL: none */

/* log.c */
void log_request(const struct exchange *x);

/* metrics.c */
void metrics_finish(struct server *s, const struct exchange *x);
void metrics_run(struct exchange *x);
void histogram_add(struct histogram *h, double v, const double *bounds);

/* models.c */
void models_run(struct exchange *x);
void models_one_run(struct exchange *x);

/* account.c */
/* Whose request this is; 0, or -1 with *e filled. */
int account_check(struct exchange *x, struct api_error *e);
/* Whether the key may have one more request at the same time; 0, or -1 with *e filled. */
int account_room(struct exchange *x, struct api_error *e);
/* What the finished answer cost; writes its row before the last byte goes out. */
void account_finish(struct exchange *x);
void balance_run(struct exchange *x);

/* tokens.c */
void tokenize_run(struct exchange *x);
void detokenize_run(struct exchange *x);

#endif
