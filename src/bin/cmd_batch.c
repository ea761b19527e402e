/* hadal batch: requests from a file, answers into another. */
#include "bin/batch.h"
#include "bin/bin.h"
#include "bin/cache_args.h"
#include "bin/model_args.h"
#include "engine/engine.h"

#include <getopt.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const char help[] =
    "usage: hadal batch [-m DIR] -i REQUESTS -o RESULTS [OPTIONS]\n\n"
    "Runs the requests of a file in OpenAI's batch form, one JSON object a line:\n"
    "  {\"custom_id\": \"a\", \"method\": \"POST\", \"url\": \"/v1/chat/completions\",\n"
    "   \"body\": {\"model\": \"any\", \"messages\": [...]}}\n"
    "and appends a line with custom_id and response for each one that ends, in the order they end. Requests that\n"
    "begin alike run one after the other, so that their common part is computed once. After an interruption the same\n"
    "command goes on: what the results hold is not run again, a half written last line is. A refused request is a\n"
    "result too, with the status code that the server would give.\n\n"
    "  -i, --input FILE    the requests\n"
    "  -o, --output FILE   the results; appended to\n"
    "  --concurrency N     requests in the engine at a time (default: 16)\n";

static const char help_rest[] =
    "  --ctx N             longest sequence in tokens: 5000, 64K, 1M (default: what the model was made for)\n"
    "  -h, --help          this text\n\n"
    "examples:\n"
    "  hadal batch -i requests.jsonl -o results.jsonl\n"
    "  hadal batch -m DIR -i requests.jsonl -o results.jsonl --concurrency 64\n";

enum { OPT_CONCURRENCY = 256 };

static const struct option long_options[] = {
    MODEL_OPTIONS,
    CONTEXT_OPTION,
    CACHE_OPTIONS,
    {"input", required_argument, NULL, 'i'},
    {"output", required_argument, NULL, 'o'},
    {"concurrency", required_argument, NULL, OPT_CONCURRENCY},
    {"help", no_argument, NULL, 'h'},
    {NULL, 0, NULL, 0},
};

struct batch_args {
    struct model_args model;
    struct engine_options engine;
    const char *in, *out;
    int64_t concurrency;
};

static volatile int stop;

static void on_signal(int sig)
{
    (void)sig;
    stop = 1;
}

/* -1: help was shown. */
static int parse(struct batch_args *a, int argc, char **argv)
{
    int c;
    while ((c = getopt_long(argc, argv, "m:i:o:h", long_options, NULL)) != -1) {
        int taken = model_args_take(&a->model, "batch", c, optarg);
        if (taken == 0)
            taken = cache_args_take(&a->engine, "batch", c, optarg);
        if (taken < 0)
            return EXIT_USAGE;
        if (taken > 0)
            continue;
        if (c == 'h') {
            printf("%s%s%s%s", help, model_args_help, cache_args_help, help_rest);
            return -1;
        }
        if (c == 'i')
            a->in = optarg;
        else if (c == 'o')
            a->out = optarg;
        else if (c != OPT_CONCURRENCY)
            return usage_error("batch", "unknown option or missing value");
        else if (!parse_int_arg("batch", "--concurrency", optarg, 1, 4096, &a->concurrency))
            return EXIT_USAGE;
    }
    if (optind < argc)
        return usage_error("batch", "'%s' is not an option", argv[optind]);
    if (!cache_args_check(&a->engine, "batch"))
        return EXIT_USAGE;
    if (a->in == NULL || a->out == NULL)
        return usage_error("batch", "-i REQUESTS and -o RESULTS are needed");
    return EXIT_DONE;
}

static int open_engine(struct engine **engine, const struct batch_args *a, const char *dir, struct err *e)
{
    struct engine_options o = a->engine;
    struct progress p = progress_bar();
    o.model = a->model.model;
    o.context_tokens = a->model.context_tokens;
    o.max_running = o.max_waiting = (int)a->concurrency;
    if (o.model.max_rows == 0 && a->concurrency > 256) /* half of a step's rows can decode */
        o.model.max_rows = 2 * (int)a->concurrency;
    return engine_open(engine, dir, &o, &p, e);
}

static void print_summary(const struct batch *b, struct engine *engine, double seconds)
{
    struct engine_stats s;
    engine_read_stats(engine, &s);
    fprintf(stderr, "%d of %d requests done; %" PRIu64 " prompt tokens, %" PRIu64 " more from the cache, and %" PRIu64,
            b->n_done, b->n, s.prompt_tokens, s.reused_tokens, s.completion_tokens);
    fprintf(stderr, " reply tokens in %.1f s: %.1f reply tokens/s\n", seconds, (double)s.completion_tokens / seconds);
}

static int run(struct batch *b, const struct batch_args *a, const char *dir, struct err *e)
{
    struct engine *engine = NULL;
    int rc = open_engine(&engine, a, dir, e);
    if (rc != HD_OK)
        return rc;
    uint64_t from = now_ns();
    const char *slash = strrchr(dir, '/');
    struct api_env env = {.model = slash != NULL && slash[1] != '\0' ? slash + 1 : dir, .fingerprint = "fp_batch",
                          .any_model = true, .context_tokens = engine_env(engine)->context_tokens};
    rc = batch_run(b, engine, &env, (int)a->concurrency, isatty(STDERR_FILENO), &stop, e);
    print_summary(b, engine, (double)(now_ns() - from) * 1e-9);
    engine_close(&engine);
    return rc;
}

int cmd_batch(int argc, char **argv)
{
    struct batch_args a = {.concurrency = 16};
    struct batch b;
    struct err e = {0};
    model_args_init(&a.model);
    engine_options_init(&a.engine);
    int rc = parse(&a, argc, argv);
    if (rc != EXIT_DONE)
        return rc < 0 ? EXIT_DONE : rc;
    signal(SIGINT, on_signal);
    signal(SIGTERM, on_signal);
    char *dir = NULL;
    rc = batch_open(&b, a.in, &e);
    if (rc == HD_OK)
        rc = batch_resume(&b, a.out, &e);
    if (rc == HD_OK && b.n_done == b.n)
        fprintf(stderr, "all %d requests are done already\n", b.n);
    else if (rc == HD_OK)
        rc = (dir = model_find(a.model.dir, &e)) == NULL ? e.code : run(&b, &a, dir, &e);
    free(dir);
    batch_close(&b);
    if (rc == HD_ECANCELLED) {
        fprintf(stderr, "hadal batch: %s\n", e.msg);
        return 130;
    }
    return rc == HD_OK ? EXIT_DONE : fail("batch", &e);
}
