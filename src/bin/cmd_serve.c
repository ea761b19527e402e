/* hadal serve: the HTTP server. It listens at once and answers "loading" until the model is there. */
#include "bin/bin.h"
#include "bin/model_args.h"
#include "engine/engine.h"
#include "serve/ledger.h"
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
    "lets running requests end; a second signal cancels them.\n\n";

static const char help_rest[] =
    "  --host ADDRESS      name or address to listen on, may be given up to 8 times (default: 127.0.0.1 and ::1).\n"
    "                      Other addresses than loopback need --ledger or\n"
    "                      --no-auth\n"
    "  --port N            TCP port (default: 8000; 0: any free one, printed)\n"
    "  --unix PATH         listen on a socket in the file system (with --port none only there)\n"
    "  --ledger FILE       demand a key (see hadal keys) and count usage (see hadal usage) in FILE\n"
    "  --no-auth           let everyone who reaches the address use the model\n"
    "  --name NAME         the model's name in answers and lists (default: the name of its folder)\n"
    "  --any-model         take every model name in requests\n"
    "  --ctx N             longest sequence in tokens (default: what the model was made for)\n"
    "  --max-running N     requests stepped together (default: 16)\n"
    "  --max-waiting N     requests in the queue before others are turned away (default: 256)\n"
    "  --keep N            finished sequences whose state is kept for the next request (default: 4; -1: none)\n"
    "  --cors ORIGIN       let web pages of ORIGIN call the server (* for all)\n"
    "  --tls-cert FILE     serve HTTPS with this certificate chain (PEM); needs --tls-key\n"
    "  --tls-key FILE      its private key (PEM)\n"
    "  --keep-alive N      seconds until an idle connection is closed (default: 900)\n"
    "  --grace N           seconds that running requests get at shutdown (default: 60)\n"
    "  --strict-reasoning-replay   refuse histories without reasoning_content as the official service does\n"
    "  --free-sampling     temperature and top_p mean what they say in every mode (default: as the official service,\n"
    "                      which samples thinking at temperature 1)\n"
    "  --log               one line of JSON a request on standard error\n"
    "  -h, --help          this text\n\n"
    "examples:\n"
    "  hadal serve\n"
    "  hadal serve -m DIR --name deepseek-v4-flash --port 8080\n"
    "  curl http://127.0.0.1:8000/v1/chat/completions -d '{\"model\": \"deepseek-chat\",\n"
    "    \"messages\": [{\"role\": \"user\", \"content\": \"Hello\"}]}'\n";

enum {
    OPT_HOST = 256, OPT_PORT, OPT_UNIX, OPT_NO_AUTH, OPT_NAME, OPT_ANY_MODEL, OPT_RUNNING, OPT_WAITING, OPT_KEEP,
    OPT_CORS, OPT_CERT, OPT_KEY, OPT_KEEP_ALIVE, OPT_GRACE, OPT_STRICT, OPT_FREE, OPT_LOG, OPT_LEDGER,
};

static const struct option long_options[] = {
    MODEL_OPTIONS,
    CONTEXT_OPTION,
    {"host", required_argument, NULL, OPT_HOST},
    {"port", required_argument, NULL, OPT_PORT},
    {"unix", required_argument, NULL, OPT_UNIX},
    {"ledger", required_argument, NULL, OPT_LEDGER},
    {"no-auth", no_argument, NULL, OPT_NO_AUTH},
    {"name", required_argument, NULL, OPT_NAME},
    {"any-model", no_argument, NULL, OPT_ANY_MODEL},
    {"max-running", required_argument, NULL, OPT_RUNNING},
    {"max-waiting", required_argument, NULL, OPT_WAITING},
    {"keep", required_argument, NULL, OPT_KEEP},
    {"cors", required_argument, NULL, OPT_CORS},
    {"tls-cert", required_argument, NULL, OPT_CERT},
    {"tls-key", required_argument, NULL, OPT_KEY},
    {"keep-alive", required_argument, NULL, OPT_KEEP_ALIVE},
    {"grace", required_argument, NULL, OPT_GRACE},
    {"strict-reasoning-replay", no_argument, NULL, OPT_STRICT},
    {"free-sampling", no_argument, NULL, OPT_FREE},
    {"log", no_argument, NULL, OPT_LOG},
    {"help", no_argument, NULL, 'h'},
    {NULL, 0, NULL, 0},
};

struct serve_args {
    struct model_args model;
    struct engine_options engine;
    struct serve_options serve;
    const char *cert_path, *key_path, *ledger_path;
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
    case OPT_KEEP_ALIVE:
        return take_int("--keep-alive", arg, 1, 1 << 20, &a->serve.keep_alive_s);
    default:
        return take_int("--grace", arg, 0, 1 << 20, &a->serve.grace_s);
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
            printf("%s%s%s", help, model_args_help, help_rest);
            return -1;
        }
        if (c == '?')
            return usage_error("serve", "wrong option");
        int taken = model_args_take(&a->model, "serve", c, optarg);
        if (taken < 0 || (taken == 0 && !take_option(a, c, optarg)))
            return EXIT_USAGE;
    }
    if (optind < argc)
        return usage_error("serve", "'%s' is not an option", argv[optind]);
    if ((a->cert_path == NULL) != (a->key_path == NULL))
        return usage_error("serve", "--tls-cert and --tls-key go together");
    if (a->serve.port < 0 && a->serve.unix_path == NULL)
        return usage_error("serve", "--port none needs --unix");
    return EXIT_DONE;
}

/* ---------------------------------------------------------------- running */

static struct server *the_server; /* for the signal handler */

static void on_signal(int sig)
{
    (void)sig;
    server_stop(the_server);
}

static void catch_signals(struct server *s)
{
    struct sigaction stop = {.sa_handler = on_signal}, ignore = {.sa_handler = SIG_IGN};
    the_server = s;
    sigaction(SIGINT, &stop, NULL);
    sigaction(SIGTERM, &stop, NULL);
    sigaction(SIGPIPE, &ignore, NULL);
    sigaction(SIGHUP, &ignore, NULL); /* keys are read again whenever they change */
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
    if (server_port(s) >= 0)
        printf("listening on %s://%s:%d\n", o->tls_cert != NULL ? "https" : "http",
               o->n_hosts > 0 ? o->hosts[0] : "127.0.0.1", server_port(s));
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
        server_close(&l.server);
        return fail("serve", &l.err);
    }
    server_run(l.server);
    pthread_join(thread, NULL);
    server_close(&l.server);
    if (l.rc != HD_OK)
        return fail("serve", &l.err);
    engine_close(&l.engine);
    return EXIT_DONE;
}

static int read_pem(const char *path, struct buf *out, const char **text, struct err *e)
{
    if (path == NULL)
        return HD_OK;
    int rc = file_read(out, path, 1 << 20, e);
    *text = out->data;
    return rc;
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
    if (a.dir == NULL || read_pem(a.cert_path, &a.cert, &a.serve.tls_cert, &e) != HD_OK ||
        read_pem(a.key_path, &a.key, &a.serve.tls_key, &e) != HD_OK ||
        (a.ledger_path != NULL && ledger_open(&a.serve.ledger, a.ledger_path, &e) != HD_OK))
        rc = fail("serve", &e);
    else {
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
