/* Inside of the server. Everything here belongs to its one thread but the fields marked atomic. */
#ifndef HADAL_SERVE_SERVER_H
#define HADAL_SERVE_SERVER_H

#include "serve/api.h"
#include "serve/ledger.h"
#include "serve/prices.h"
#include "serve/serve.h"

#include <microhttpd.h>
#include <stdatomic.h>

enum { DAEMONS_MAX = 2 * SERVE_HOSTS_MAX + 1, OUT_BYTES_MAX = 256 << 10 };

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
    struct histogram ttft_s, tpot_s, e2e_s, queue_s;
    double cost;
};

struct exchange;
enum method { METHOD_GET, METHOD_POST };

struct route {
    enum method method;
    const char *path;          /* a trailing * takes the rest */
    const struct dialect *dialect; /* whose error bodies (and requests) these are */
    void (*run)(struct exchange *x); /* fills the exchange's reply or starts a job */
    bool open;                 /* needs no key */
};

enum exchange_state {
    X_READING, /* the body comes in */
    X_WAITING, /* a job runs, nothing was sent yet; the connection is suspended */
    X_SENDING, /* the response was queued */
};

struct exchange {
    struct server *server;
    struct MHD_Connection *connection; /* NULL once it is gone */
    const struct route *route;
    const char *rest;          /* what the * of the route stands for; valid while the connection is */
    enum exchange_state state;
    struct buf body;
    bool too_large, suspended, streams, whole; /* whole: out is complete */
    int fd;                    /* of the connection, in the server's epoll set; -1 when not */

    int status;
    const char *content_type;
    int retry_after_s;
    char request_id[40];
    struct buf out;
    size_t n_sent;

    struct job *job;
    atomic_bool woken;         /* set by the engine's step thread */
    bool begun, cancelled;
    struct api_req req;
    struct api_answer answer;
    int64_t key_id;            /* 0: the server has no keys */
    char *user;                /* user id of the request, owned */
    double start_s;            /* seconds since 1970 */
    uint64_t start_ns, first_ns, last_out_ns;
    struct exchange *prev, *next; /* of the server's list of exchanges with a job */
};

struct server {
    struct serve_options o;
    struct api_env env;
    char fingerprint[64];
    struct MHD_Daemon *daemons[DAEMONS_MAX];
    int n_daemons, port;
    int epoll_fd, wake_fd;
    _Atomic(struct engine *) engine;
    atomic_int loading_permille, stops;
    bool closing;
    struct exchange *running;
    int n_exchanges;
    uint64_t close_ns;
    struct metrics metrics;
    uint64_t n_requests;
};

/* http.c */
int http_listen(struct server *s, struct err *e);
void http_quiesce(struct server *s);
void http_close(struct server *s);
void http_turn(struct server *s);       /* lets the connections go on */
int http_timeout_ms(const struct server *s);
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
/* What the finished answer cost; writes its row before the last byte goes out. */
void account_finish(struct exchange *x);
void balance_run(struct exchange *x);

/* tokens.c */
void tokenize_run(struct exchange *x);
void detokenize_run(struct exchange *x);

#endif
