/* The HTTP server over a model without mathematics: it answers what a script says. Tests start it; see server.py.
 *
 *   scripted_server --tokenizer PATH --script FILE [--context N] [--running N] [--waiting N] [--grace N] [--strict]
 *                   [--ledger FILE] [--unix PATH] [--body-max N] [--bodies-max N] [--stream-max N] [--loading MS]
 *                   [--ping SECONDS] [--head SECONDS] [--body SECONDS] [--write SECONDS] [--log 1|2] [--host ADDRESS]
 *                   [--keep N] [--replies FILE]
 *
 * The script is a JSON array of {"when": TEXT, "reply": TEXT or [TOKEN, ...], "delay_ms": N}: the first entry whose
 * `when` is in the prompt's text answers it, with its reply and an end token. A TOKEN is the array of its bytes. */
#include "engine/engine.h"
#include "serve/ledger.h"
#include "serve/serve.h"

#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { EOS = 1, ROWS_MAX = 64 };

struct script {
    const json_t *entries;
    const struct tokenizer *tokenizer;
    int n_vocab;
    float *logits; /* [ROWS_MAX * n_vocab] */
};

struct kv_seq {
    struct ids tokens;
    struct ids reply;
    int64_t n_prompt; /* 0: the reply is not chosen yet */
    int delay_ms;
};

static void die(const char *what)
{
    fprintf(stderr, "scripted_server: %s\n", what);
    exit(1);
}

/* ---------------------------------------------------------------- the script */

static int32_t token_of(const struct script *s, const json_t *bytes)
{
    char text[256];
    size_t n = json_array_size(bytes), n_token;
    for (size_t i = 0; i < n && i < sizeof text; i++)
        text[i] = (char)json_integer_value(json_array_get(bytes, i));
    for (int32_t id = 0; id < s->n_vocab; id++) {
        const char *token = tokenizer_bytes(s->tokenizer, id, &n_token);
        if (n_token == n && memcmp(token, text, n) == 0)
            return id;
    }
    die("a token of the script is not in the vocabulary");
    return -1;
}

static void read_reply(const struct script *s, const json_t *reply, struct ids *out)
{
    size_t i;
    json_t *token;
    if (json_is_string(reply) && tokenizer_encode(s->tokenizer, json_string_value(reply), json_string_length(reply), true,
                                                  out, NULL) != HD_OK)
        die("a reply of the script cannot be encoded");
    json_array_foreach((json_t *)(uintptr_t)reply, i, token)
        ids_add(out, token_of(s, token));
    ids_add(out, EOS);
}

static void choose_reply(const struct script *s, struct kv_seq *q)
{
    struct buf prompt = {0};
    size_t i;
    json_t *entry, *found = NULL;
    tokenizer_decode(s->tokenizer, q->tokens.data, q->tokens.n, false, &prompt);
    json_array_foreach((json_t *)(uintptr_t)s->entries, i, entry) {
        if (found == NULL && strstr(prompt.data, json_string_value(json_object_get(entry, "when"))) != NULL)
            found = entry;
    }
    q->n_prompt = (int64_t)q->tokens.n;
    q->delay_ms = (int)json_integer_value(json_object_get(found, "delay_ms"));
    read_reply(s, json_object_get(found, "reply"), &q->reply);
    buf_free(&prompt);
}

/* ---------------------------------------------------------------- the runner */

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
    if (*q == NULL)
        return;
    ids_free(&(*q)->tokens);
    ids_free(&(*q)->reply);
    free(*q);
    *q = NULL;
}

static int seq_truncate(void *self, struct kv_seq *q, int64_t n_tokens, struct err *e)
{
    (void)self;
    (void)e;
    q->tokens.n = (size_t)n_tokens;
    q->reply.n = 0;
    q->n_prompt = 0;
    return HD_OK;
}

static int seq_fork(void *self, struct kv_seq *q, const struct kv_seq *from, struct err *e)
{
    (void)self;
    (void)e;
    for (size_t i = 0; i < from->tokens.n; i++)
        ids_add(&q->tokens, from->tokens.data[i]);
    return HD_OK;
}

static int32_t next_of(const struct script *s, struct kv_seq *q)
{
    if (q->n_prompt == 0)
        choose_reply(s, q);
    size_t at = q->tokens.n - (size_t)q->n_prompt;
    return at < q->reply.n ? q->reply.data[at] : EOS;
}

static int step(void *self, const struct step_item *items, int n_items, struct step_result *r, struct err *e)
{
    struct script *s = self;
    int n_logits = 0, delay_ms = 0;
    (void)e;
    for (int i = 0; i < n_items; i++) {
        struct kv_seq *q = items[i].seq;
        for (int t = 0; t < items[i].n_tokens; t++)
            ids_add(&q->tokens, items[i].tokens[t]);
        if (items[i].n_logits == 0)
            continue;
        float *row = s->logits + (size_t)n_logits++ * (size_t)s->n_vocab;
        memset(row, 0, (size_t)s->n_vocab * sizeof *row);
        row[next_of(s, q)] = 200;
        delay_ms = q->delay_ms > delay_ms ? q->delay_ms : delay_ms;
    }
    struct timespec delay = {delay_ms / 1000, delay_ms % 1000 * 1000000L};
    nanosleep(&delay, NULL);
    *r = (struct step_result){.logits = s->logits, .n_logits = n_logits};
    return HD_OK;
}

static struct engine *open_engine(struct script *s, const struct engine_options *o)
{
    struct engine *e;
    struct err err = {0};
    struct request_env env = {.tokenizer = s->tokenizer, .n_vocab = s->n_vocab, .context_tokens = o->context_tokens};
    struct runner r = {.self = s, .n_vocab = s->n_vocab, .max_rows = ROWS_MAX, .rollback = 1 << 20,
                       .max_tokens = o->context_tokens, .seq_open = seq_open, .seq_close = seq_close,
                       .seq_truncate = seq_truncate, .seq_fork = seq_fork, .step = step};
    const int32_t eos[1] = {EOS};
    sampling_init(&env.defaults);
    s->logits = xcalloc((size_t)ROWS_MAX * (size_t)s->n_vocab, sizeof(float));
    if (engine_open_runner(&e, r, &env, eos, 1, o, &err) != HD_OK)
        die(err.msg);
    return e;
}

/* ---------------------------------------------------------------- the program */

static struct server *the_server;

static void on_signal(int sig)
{
    (void)sig;
    server_stop(the_server);
}

struct later {
    struct engine *engine;
    int ms;
};

/* Stands for the time that a model takes to load. */
static void *ready_later(void *arg)
{
    struct later *l = arg;
    struct timespec t = {l->ms / 1000, l->ms % 1000 * 1000000L};
    server_loading(the_server, "weights", 1, 4);
    nanosleep(&t, NULL);
    server_ready(the_server, l->engine);
    return NULL;
}

static const char *option(int argc, char **argv, const char *name, const char *otherwise)
{
    for (int i = 1; i + 1 < argc; i++)
        if (strcmp(argv[i], name) == 0)
            return argv[i + 1];
    return otherwise;
}

static int number(int argc, char **argv, const char *name, const char *otherwise)
{
    return (int)strtol(option(argc, argv, name, otherwise), NULL, 10);
}

int main(int argc, char **argv)
{
    struct err e = {0};
    struct tokenizer *t;
    struct serve_options o;
    struct engine_options engine;
    json_error_t why;
    pthread_t thread;
    const char *ledger = option(argc, argv, "--ledger", NULL);
    serve_options_init(&o);
    o.port = 0;
    o.model = "deepseek-v4-flash";
    o.unix_path = option(argc, argv, "--unix", NULL);
    o.ping_s = number(argc, argv, "--ping", "10");
    o.grace_s = number(argc, argv, "--grace", "30");
    o.head_s = number(argc, argv, "--head", "60");
    o.body_s = number(argc, argv, "--body", "300");
    o.write_s = number(argc, argv, "--write", "120");
    o.log = number(argc, argv, "--log", "0") > 0;
    o.log_text = number(argc, argv, "--log", "0") > 1;
    o.bodies_bytes_max = number(argc, argv, "--bodies-max", "536870912");
    o.stream_bytes_max = number(argc, argv, "--stream-max", "8388608");
    o.hosts[0] = option(argc, argv, "--host", NULL);
    o.n_hosts = o.hosts[0] != NULL;
    o.strict_replay = number(argc, argv, "--strict", "0") != 0;
    if (ledger != NULL && ledger_open(&o.ledger, ledger, &e) != HD_OK)
        die(e.msg);
    o.body_bytes_max = number(argc, argv, "--body-max", "50331648");
    if (tokenizer_open(&t, option(argc, argv, "--tokenizer", ""), &e) != HD_OK)
        die(e.msg);
    struct script s = {.entries = json_load_file(option(argc, argv, "--script", ""), 0, &why), .tokenizer = t,
                       .n_vocab = tokenizer_n_vocab(t)};
    if (s.entries == NULL)
        die(why.text);
    engine_options_init(&engine);
    engine.context_tokens = number(argc, argv, "--context", "65536");
    engine.max_running = number(argc, argv, "--running", "16");
    engine.max_waiting = number(argc, argv, "--waiting", "256");
    engine.n_keep = number(argc, argv, "--keep", "-1");
    engine.replay_path = option(argc, argv, "--replies", NULL);
    struct later later = {open_engine(&s, &engine), number(argc, argv, "--loading", "0")};
    if (server_open(&the_server, &o, &e) != HD_OK)
        die(e.msg);
    signal(SIGPIPE, SIG_IGN);
    signal(SIGTERM, on_signal);
    printf("%d\n", server_port(the_server));
    fflush(stdout);
    if (pthread_create(&thread, NULL, ready_later, &later) != 0)
        die("no thread");
    server_run(the_server);
    pthread_join(thread, NULL);
    signal(SIGTERM, SIG_IGN); /* a late one must not reach for the server */
    server_close(&the_server);
    engine_close(&later.engine);
    ledger_close(&o.ledger);
    tokenizer_close(&t);
    json_decref((json_t *)(uintptr_t)s.entries);
    free(s.logits);
    return 0;
}
