/* Any bytes on a connection of the real server, over an engine whose model ends every reply at once. Afterwards nothing of
 * them is left in it. The first byte says after how many bytes (of up to 255 each) the client pauses. */
#include "serve/server.h"

#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { ROWS = 64, CONTEXT = 4096, EOS = 1, TURNS_MAX = 20000 };

static float *logits; /* [ROWS * n_vocab] */

struct kv_seq {
    int64_t n;
};

static void require(bool ok)
{
    if (!ok)
        abort();
}

static int seq_open(void *self, struct kv_seq **q, int64_t max_tokens, struct err *e)
{
    (void)self;
    (void)max_tokens;
    (void)e;
    *q = xcalloc(1, sizeof **q);
    return HD_OK;
}

static void seq_close(void *self, struct kv_seq **q)
{
    (void)self;
    free(*q);
    *q = NULL;
}

static int seq_truncate(void *self, struct kv_seq *q, int64_t n_tokens, struct err *e)
{
    (void)self;
    (void)e;
    q->n = n_tokens;
    return HD_OK;
}

static int step(void *self, const struct step_item *items, int n_items, struct step_result *r, struct err *e)
{
    int n = 0;
    (void)self;
    (void)e;
    for (int i = 0; i < n_items; i++)
        n += items[i].n_logits;
    *r = (struct step_result){.logits = logits, .n_logits = n};
    return HD_OK;
}

static struct server *open_server(void)
{
    struct server *s;
    struct tokenizer *t;
    struct engine *engine;
    struct serve_options o;
    struct engine_options eo;
    struct err e = {0};
    require(tokenizer_open(&t, "models/tiny", &e) == HD_OK); /* fuzz programs run at the top of the tree */
    struct request_env env = {.tokenizer = t, .n_vocab = tokenizer_n_vocab(t), .context_tokens = CONTEXT};
    struct runner r = {.n_vocab = env.n_vocab, .max_rows = ROWS, .rollback = CONTEXT, .max_tokens = CONTEXT,
                       .seq_open = seq_open, .seq_close = seq_close, .seq_truncate = seq_truncate, .step = step};
    const int32_t eos[1] = {EOS};
    sampling_init(&env.defaults);
    engine_options_init(&eo);
    eo.n_keep = -1;
    logits = xcalloc((size_t)ROWS * (size_t)env.n_vocab, sizeof *logits);
    for (int i = 0; i < ROWS; i++)
        logits[i * env.n_vocab + EOS] = 100;
    require(engine_open_runner(&engine, r, &env, eos, 1, &eo, &e) == HD_OK);
    serve_options_init(&o);
    o.port = 0;
    o.body_bytes_max = 1 << 16;
    require(server_open(&s, &o, &e) == HD_OK);
    server_ready(s, engine);
    return s;
}

static void discard_answer(int fd)
{
    char piece[4096];
    while (recv(fd, piece, sizeof piece, MSG_DONTWAIT) > 0)
        continue;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct server *s;
    int fd[2], turns = 0;
    struct sockaddr unix_address = {.sa_family = AF_UNIX};
    if (s == NULL)
        s = open_server();
    if (size < 1)
        return 0;
    require(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, fd) == 0);
    require(MHD_add_connection(s->daemons[0], fd[0], &unix_address, sizeof unix_address) == MHD_YES);
    size_t pause = data[0] == 0 ? size : data[0];
    for (size_t at = 1; at < size; at += pause) {
        size_t n = size - at < pause ? size - at : pause;
        if (send(fd[1], data + at, n, MSG_NOSIGNAL) < 0)
            break; /* the server has closed it */
        server_turn(s, 0);
        discard_answer(fd[1]);
    }
    shutdown(fd[1], SHUT_WR);
    while ((s->n_conns > 0 || s->n_exchanges > 0) && turns++ < TURNS_MAX) {
        server_turn(s, 1);
        discard_answer(fd[1]);
    }
    close(fd[1]);
    require(s->n_conns == 0 && s->n_exchanges == 0 && s->running == NULL && s->bodies_bytes == 0);
    return 0;
}
