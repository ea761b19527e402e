/* hadal serve: the HTTP server. It listens at once and answers "loading" until the model is there. */
#include "bin/bin.h"
#include "bin/cache_args.h"
#include "bin/model_args.h"
#include "engine/engine.h"
#include "serve/ledger.h"
#include "serve/prices.h"
#include "serve/serve.h"

#include <getopt.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char help[] =
    "usage: hadal serve [-m DIR] [OPTIONS]\n\n"
    "Answers HTTP requests in the form of DeepSeek's and OpenAI's chat completions and OpenAI's Responses (base URL\n"
    "http://127.0.0.1:8000) and Anthropic's Messages (http://127.0.0.1:8000/anthropic). Runs until SIGINT or SIGTERM, then\n"
    "lets running requests end; a second signal cancels them. SIGHUP reads keys, prices and certificate again.\n\n";

static const char help_rest[] =
    "  --host ADDRESS      name or address to listen on, may be given up to 8 times (default: 127.0.0.1 and ::1).\n"
    "                      Other addresses than loopback need --ledger or\n"
    "                      --no-auth\n"
    "  --port N            TCP port (default: 8000; 0: any free one, printed)\n"
    "  --unix PATH         listen on a socket in the file system (with --port none only there)\n"
    "  --ledger FILE       demand a key (see hadal keys) and count usage (see hadal usage) in FILE\n"
    "  --prices FILE       what tokens cost (default: DeepSeek's list; see hadal usage --print-prices)\n"
    "  --no-auth           let everyone who reaches the address use the model\n"
    "  --name NAME         the model's name in answers and lists (default: the name of its folder)\n"
    "  --any-model         take every model name in requests\n"
    "  --ctx N             longest sequence in tokens (default: what the model was made for)\n"
    "  --max-running N     requests stepped together (default: 16)\n"
    "  --max-waiting N     requests in the queue before others are turned away (default: 256)\n"
    "  --max-waiting-user N   the same of one user (default: no fewer)\n"
    "  --max-step-ms N     how long a prompt may hold up the replies beside it, a step (default: 50; -1: no limit)\n"
    "  --keep N            finished sequences whose state is kept for the next request (default: 4; -1: none)\n"
    "  --cors ORIGIN       let web pages of ORIGIN call the server (* for all)\n"
    "  --tls-cert FILE     serve HTTPS with this certificate chain (PEM); needs --tls-key\n"
    "  --tls-key FILE      its private key (PEM)\n"
    "  --keep-alive N      seconds until an idle connection is closed (default: 900)\n"
    "  --max-connections N   connections at the same time, for each address (default: 4096)\n"
    "  --head-timeout N    seconds that a request's headers may take (default: 60)\n"
    "  --body-timeout N    seconds that its body may take (default: 300)\n"
    "  --write-timeout N   seconds that a client may take nothing of its answer (default: 120)\n"
    "  --stream-buffer MB  a client that falls so far behind its answer is dropped (default: 8)\n"
    "  --bodies-memory MB  requests being read may hold so much; others are turned away (default: 512)\n"
    "  --grace N           seconds that running requests get at shutdown (default: 60)\n"
    "  --strict-reasoning-replay   refuse histories without reasoning_content as the official service does\n"
    "  --free-sampling     temperature and top_p mean what they say in every mode (default: as the official service,\n"
    "                      which samples thinking at temperature 1)\n"
    "  --log               one line of JSON a request on standard error, without texts\n"
    "  --log-text          the same with the texts of requests and answers\n"
    "  -h, --help          this text\n\n"
    "examples:\n"
    "  hadal serve\n"
    "  hadal serve -m DIR --name deepseek-v4-flash --port 8080\n"
    "  curl http://127.0.0.1:8000/v1/chat/completions -d '{\"model\": \"deepseek-chat\",\n"
    "    \"messages\": [{\"role\": \"user\", \"content\": \"Hello\"}]}'\n";

enum {
    OPT_HOST = 256, OPT_PORT, OPT_UNIX, OPT_NO_AUTH, OPT_NAME, OPT_ANY_MODEL, OPT_RUNNING, OPT_WAITING, OPT_KEEP,
    OPT_CORS, OPT_CERT, OPT_KEY, OPT_KEEP_ALIVE, OPT_GRACE, OPT_STRICT, OPT_FREE, OPT_LOG, OPT_LEDGER, OPT_PRICES,
    OPT_LOG_TEXT, OPT_CONNECTIONS, OPT_HEAD, OPT_BODY, OPT_WRITE, OPT_STREAM, OPT_BODIES,
    OPT_WAITING_USER, OPT_STEP_MS,
};

static const struct option long_options[] = {
    MODEL_OPTIONS,
    CONTEXT_OPTION,
    CACHE_OPTIONS,
    {"host", required_argument, NULL, OPT_HOST},
    {"port", required_argument, NULL, OPT_PORT},
    {"unix", required_argument, NULL, OPT_UNIX},
    {"ledger", required_argument, NULL, OPT_LEDGER},
    {"prices", required_argument, NULL, OPT_PRICES},
    {"no-auth", no_argument, NULL, OPT_NO_AUTH},
    {"name", required_argument, NULL, OPT_NAME},
    {"any-model", no_argument, NULL, OPT_ANY_MODEL},
    {"max-running", required_argument, NULL, OPT_RUNNING},
    {"max-waiting", required_argument, NULL, OPT_WAITING},
    {"max-waiting-user", required_argument, NULL, OPT_WAITING_USER},
    {"max-step-ms", required_argument, NULL, OPT_STEP_MS},
    {"keep", required_argument, NULL, OPT_KEEP},
    {"cors", required_argument, NULL, OPT_CORS},
    {"tls-cert", required_argument, NULL, OPT_CERT},
    {"tls-key", required_argument, NULL, OPT_KEY},
    {"keep-alive", required_argument, NULL, OPT_KEEP_ALIVE},
    {"grace", required_argument, NULL, OPT_GRACE},
    {"strict-reasoning-replay", no_argument, NULL, OPT_STRICT},
    {"free-sampling", no_argument, NULL, OPT_FREE},
    {"log", no_argument, NULL, OPT_LOG},
    {"log-text", no_argument, NULL, OPT_LOG_TEXT},
    {"max-connections", required_argument, NULL, OPT_CONNECTIONS},
    {"head-timeout", required_argument, NULL, OPT_HEAD},
    {"body-timeout", required_argument, NULL, OPT_BODY},
    {"write-timeout", required_argument, NULL, OPT_WRITE},
    {"stream-buffer", required_argument, NULL, OPT_STREAM},
    {"bodies-memory", required_argument, NULL, OPT_BODIES},
    {"help", no_argument, NULL, 'h'},
    {NULL, 0, NULL, 0},
};

struct serve_args {
    struct model_args model;
    struct engine_options engine;
    struct serve_options serve;
    const char *cert_path, *key_path, *ledger_path, *prices_path;
    char *name, *dir; /* owned */
    struct buf cert, key;
};

/* ---------------------------------------------------------------- options */

static bool take_int(const char *option, const char *arg, int64_t min, int64_t max, int *out)
{
    int64_t n;
    if (!parse_int_arg("serve", option, arg, min, max, &n))
        return false;
    *out = (int)n;
    return true;
}

static bool take_megabytes(const char *option, const char *arg, int64_t *out)
{
    int64_t n;
    if (!parse_int_arg("serve", option, arg, 1, 1 << 20, &n))
        return false;
    *out = n << 20;
    return true;
}

/* Limits of what clients may take. */
static bool take_limit(struct serve_args *a, int c, const char *arg)
{
    switch (c) {
    case OPT_KEEP_ALIVE:
        return take_int("--keep-alive", arg, 1, 1 << 20, &a->serve.keep_alive_s);
    case OPT_CONNECTIONS:
        return take_int("--max-connections", arg, 1, 1 << 20, &a->serve.max_connections);
    case OPT_HEAD:
        return take_int("--head-timeout", arg, 1, 1 << 20, &a->serve.head_s);
    case OPT_BODY:
        return take_int("--body-timeout", arg, 1, 1 << 20, &a->serve.body_s);
    case OPT_WRITE:
        return take_int("--write-timeout", arg, 1, 1 << 20, &a->serve.write_s);
    case OPT_STREAM:
        return take_megabytes("--stream-buffer", arg, &a->serve.stream_bytes_max);
    case OPT_BODIES:
        return take_megabytes("--bodies-memory", arg, &a->serve.bodies_bytes_max);
    default:
        return take_int("--grace", arg, 0, 1 << 20, &a->serve.grace_s);
    }
}

static bool take_host(struct serve_args *a, const char *arg)
{
    if (a->serve.n_hosts == SERVE_HOSTS_MAX) {
        usage_error("serve", "--host may be given %d times", SERVE_HOSTS_MAX);
        return false;
    }
    a->serve.hosts[a->serve.n_hosts++] = arg;
    return true;
}

static bool take_port(struct serve_args *a, const char *arg)
{
    if (strcmp(arg, "none") != 0)
        return take_int("--port", arg, 0, 65535, &a->serve.port);
    a->serve.port = -1;
    return true;
}

/* Options with a value; false when refused (message printed). */
static bool take_value(struct serve_args *a, int c, const char *arg)
{
    switch (c) {
    case OPT_HOST:
        return take_host(a, arg);
    case OPT_PORT:
        return take_port(a, arg);
    case OPT_UNIX:
        a->serve.unix_path = arg;
        return true;
    case OPT_LEDGER:
        a->ledger_path = arg;
        return true;
    case OPT_NAME:
        a->serve.model = arg;
        return true;
    case OPT_RUNNING:
        return take_int("--max-running", arg, 1, 65536, &a->engine.max_running);
    case OPT_WAITING:
        return take_int("--max-waiting", arg, 1, 1 << 20, &a->engine.max_waiting);
    case OPT_WAITING_USER:
        return take_int("--max-waiting-user", arg, 1, 1 << 20, &a->engine.max_waiting_user);
    case OPT_STEP_MS:
        return take_int("--max-step-ms", arg, -1, 600000, &a->engine.max_step_ms);
    case OPT_KEEP:
        return take_int("--keep", arg, -1, 65536, &a->engine.n_keep);
    case OPT_CORS:
        a->serve.cors = arg;
        return true;
    case OPT_CERT:
        a->cert_path = arg;
        return true;
    case OPT_KEY:
        a->key_path = arg;
        return true;
    case OPT_PRICES:
        a->prices_path = arg;
        return true;
    default:
        return take_limit(a, c, arg);
    }
}

static bool take_option(struct serve_args *a, int c, const char *arg)
{
    switch (c) {
    case OPT_NO_AUTH:
        return a->serve.no_auth = true;
    case OPT_ANY_MODEL:
        return a->serve.any_model = true;
    case OPT_STRICT:
        return a->serve.strict_replay = true;
    case OPT_FREE:
        return a->serve.free_sampling = true;
    case OPT_LOG_TEXT:
        return a->serve.log = a->serve.log_text = true;
    case OPT_LOG:
        return a->serve.log = true;
    default:
        return take_value(a, c, arg);
    }
}

/* EXIT_DONE to go on, -1 after --help, EXIT_USAGE when refused. */
static int parse(struct serve_args *a, int argc, char **argv)
{
    int c;
    optind = 1;
    while ((c = getopt_long(argc, argv, "m:h", long_options, NULL)) != -1) {
        if (c == 'h') {
            printf("%s%s%s%s", help, model_args_help, cache_args_help, help_rest);
            return -1;
        }
        if (c == '?')
            return usage_error("serve", "wrong option");
        int taken = model_args_take(&a->model, "serve", c, optarg);
        if (taken == 0)
            taken = cache_args_take(&a->engine, "serve", c, optarg);
        if (taken < 0 || (taken == 0 && !take_option(a, c, optarg)))
            return EXIT_USAGE;
    }
    if (optind < argc)
        return usage_error("serve", "'%s' is not an option", argv[optind]);
    if (!cache_args_check(&a->engine, "serve"))
        return EXIT_USAGE;
    if ((a->cert_path == NULL) != (a->key_path == NULL))
        return usage_error("serve", "--tls-cert and --tls-key go together");
    if (a->serve.port < 0 && a->serve.unix_path == NULL)
        return usage_error("serve", "--port none needs --unix");
    return EXIT_DONE;
}

/* ---------------------------------------------------------------- files */

static int read_pem(const char *path, struct buf *out, const char **text, struct err *e)
{
    if (path == NULL)
        return HD_OK;
    int rc = file_read(out, path, 1 << 20, e);
    *text = out->data;
    return rc;
}

static int read_files(struct serve_args *a, struct err *e)
{
    int rc = read_pem(a->cert_path, &a->cert, &a->serve.tls_cert, e);
    if (rc == HD_OK)
        rc = read_pem(a->key_path, &a->key, &a->serve.tls_key, e);
    if (rc == HD_OK && a->prices_path != NULL)
        rc = prices_open(&a->serve.prices, a->prices_path, e);
    if (rc == HD_OK && a->ledger_path != NULL)
        rc = ledger_open(&a->serve.ledger, a->ledger_path, e);
    return rc;
}

static int reload_prices(const struct serve_args *a, struct server *s, struct err *e)
{
    struct prices *p = NULL;
    int rc = a->prices_path == NULL ? HD_OK : prices_open(&p, a->prices_path, e);
    if (p != NULL)
        server_set_prices(s, p);
    return rc;
}

static int reload_certificate(struct serve_args *a, struct server *s, struct err *e)
{
    struct buf cert = {0}, key = {0};
    const char *text;
    if (a->cert_path == NULL)
        return HD_OK;
    int rc = read_pem(a->cert_path, &cert, &text, e);
    if (rc == HD_OK)
        rc = read_pem(a->key_path, &key, &text, e);
    if (rc == HD_OK)
        rc = server_set_tls(s, cert.data, key.data, e);
    if (rc == HD_OK) {
        buf_free(&a->cert);
        buf_free(&a->key);
        a->cert = cert;
        a->key = key;
        return HD_OK;
    }
    buf_free(&cert);
    buf_free(&key);
    return rc;
}

/* SIGHUP. What cannot be read stays as it was; one line says what happened. */
static void reload(void *arg, struct server *s)
{
    struct serve_args *a = arg;
    struct err keys = {0}, prices = {0}, cert = {0};
    bool ok = a->serve.ledger == NULL || ledger_reload(a->serve.ledger, &keys) == HD_OK;
    ok &= reload_prices(a, s, &prices) == HD_OK;
    ok &= reload_certificate(a, s, &cert) == HD_OK;
    char n_keys[32] = "no";
    if (a->serve.ledger != NULL)
        snprintf(n_keys, sizeof n_keys, "%zu", ledger_n_keys(a->serve.ledger));
    if (ok)
        fprintf(stderr, "hadal serve: SIGHUP: %s keys, %s prices%s\n", n_keys,
                a->prices_path == NULL ? "official" : a->prices_path, a->cert_path == NULL ? "" : ", a new certificate");
    else
        fprintf(stderr, "hadal serve: SIGHUP: %s; the old one stays in use\n",
                keys.code != HD_OK ? keys.msg : prices.code != HD_OK ? prices.msg : cert.msg);
}

/* ---------------------------------------------------------------- running */

static struct server *the_server; /* for the signal handler */

static void on_signal(int sig)
{
    (void)sig;
    server_stop(the_server);
}

static void on_hangup(int sig)
{
    (void)sig;
    server_reload(the_server);
}

static void catch_signals(struct server *s)
{
    struct sigaction stop = {.sa_handler = on_signal}, ignore = {.sa_handler = SIG_IGN}, again = {.sa_handler = on_hangup};
    the_server = s;
    sigaction(SIGINT, &stop, NULL);
    sigaction(SIGTERM, &stop, NULL);
    sigaction(SIGPIPE, &ignore, NULL);
    sigaction(SIGHUP, &again, NULL);
}

/* Before the server goes: a late signal must not reach for it. What still ends (state goes to disk) is not to be cut. */
static void ignore_signals(void)
{
    const struct sigaction ignore = {.sa_handler = SIG_IGN};
    sigaction(SIGINT, &ignore, NULL);
    sigaction(SIGTERM, &ignore, NULL);
    sigaction(SIGHUP, &ignore, NULL);
}

struct loading {
    struct serve_args *args;
    struct server *server;
    struct engine *engine;
    struct progress bar;
    struct err err;
    int rc;
};

static int on_progress(void *arg, const char *what, uint64_t done, uint64_t total)
{
    struct loading *l = arg;
    server_loading(l->server, what, done, total);
    return progress_tell(&l->bar, what, done, total);
}

static void *load(void *arg)
{
    struct loading *l = arg;
    struct progress p = {on_progress, l};
    l->rc = engine_open(&l->engine, l->args->dir, &l->args->engine, &p, &l->err);
    if (l->rc == HD_OK)
        server_ready(l->server, l->engine);
    else
        server_stop(l->server);
    return NULL;
}

static void tell_address(const struct server *s, const struct serve_options *o)
{
    const char *host = o->n_hosts > 0 ? o->hosts[0] : "127.0.0.1";
    if (server_port(s) >= 0)
        printf("listening on %s://%s%s%s:%d\n", o->tls_cert != NULL ? "https" : "http", strchr(host, ':') != NULL ? "[" : "",
               host, strchr(host, ':') != NULL ? "]" : "", server_port(s));
    if (o->unix_path != NULL)
        printf("listening on %s\n", o->unix_path);
    fflush(stdout);
}

static int run(struct serve_args *a)
{
    struct loading l = {.args = a, .bar = progress_bar()};
    pthread_t thread;
    if (server_open(&l.server, &a->serve, &l.err) != HD_OK)
        return fail("serve", &l.err);
    catch_signals(l.server);
    tell_address(l.server, &a->serve);
    if (pthread_create(&thread, NULL, load, &l) != 0) {
        err_set(&l.err, HD_EIO, "cannot start a thread");
        ignore_signals();
        server_close(&l.server);
        return fail("serve", &l.err);
    }
    server_run(l.server);
    pthread_join(thread, NULL);
    ignore_signals();
    server_close(&l.server);
    if (l.rc != HD_OK)
        return fail("serve", &l.err);
    engine_close(&l.engine);
    return EXIT_DONE;
}

static void name_of_folder(struct serve_args *a)
{
    if (a->serve.model != NULL)
        return;
    size_t n = strlen(a->dir);
    while (n > 1 && a->dir[n - 1] == '/')
        n--;
    size_t from = n;
    while (from > 0 && a->dir[from - 1] != '/')
        from--;
    a->serve.model = a->name = xstrndup(a->dir + from, n - from);
}

int cmd_serve(int argc, char **argv)
{
    struct serve_args a = {0};
    struct err e = {0};
    model_args_init(&a.model);
    engine_options_init(&a.engine);
    serve_options_init(&a.serve);
    a.serve.model = NULL;
    int rc = parse(&a, argc, argv);
    if (rc != EXIT_DONE)
        return rc < 0 ? EXIT_DONE : rc;
    a.engine.model = a.model.model;
    a.engine.context_tokens = a.model.context_tokens;
    a.dir = model_find(a.model.dir, &e);
    a.serve.reload = reload;
    a.serve.reload_arg = &a;
    if (a.dir == NULL || read_files(&a, &e) != HD_OK) {
        prices_close(&a.serve.prices);
        rc = fail("serve", &e);
    } else {
        name_of_folder(&a);
        rc = run(&a);
    }
    ledger_close(&a.serve.ledger);
    free(a.name);
    free(a.dir);
    buf_free(&a.cert);
    buf_free(&a.key);
    return rc;
}
