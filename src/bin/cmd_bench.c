/* `hadal bench`: how fast this machine runs a model, and how much of the machine that is. */
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>

#include "bin/bench.h"
#include "bin/bin.h"

static const char help[] =
    "usage: hadal bench [-m MODEL] [OPTIONS]\n"
    "\n"
    "Measures read bandwidth and bf16, int8 and fp32 peaks of this machine, then decode at context frontiers and batch\n"
    "sizes, prefill by chunk and depth, and the indexer and attention alone. The peaks are measured again between the\n"
    "rounds of a row; its roofline is the least time that the highest of them allow for its bytes and operations, over\n"
    "the time it took (median of rounds, the fastest of up to five calls within a quarter of a second in each). Contexts\n"
    "are filled with made-up KV state instead of a prefill. A slice of a released width also gets the speed of the full\n"
    "depth at the same fraction of its own roofline. Without a model a small slice of Flash's widths is made (1.1 GB in\n"
    "$TMPDIR, removed at the end); 'hadal synth' makes others. Compare ratios, not absolute speeds, of machines that do\n"
    "other work.\n"
    "\n"
    "  --quick             few rows, three rounds, at most one after half a minute\n"
    "  --ctx LIST          contexts of decode, e.g. 4K,64K,1M (default 2K,4K, ... 1M; --quick: 4K)\n"
    "  --batch LIST        sequences decoded together at the first context (default 2,4, ... 64; --quick: 4)\n"
    "  --chunk LIST        rows of a prefill step (default 128,512; --quick: 128)\n"
    "  --depth LIST        tokens before that step; it begins a sequence in any case (default 32K; --quick: none)\n"
    "  --rounds N          timings of each row, the median counts (default 5; --quick: 3)\n"
    "  --only PREFIX       only rows whose name begins so: machine, open, kv, decode, prefill, indexer, attention\n"
    "                      (with --serving: serving decode, swarm, hit, beside, agent, fresh, disk)\n"
    "  --serving           the engine instead: replies together, a swarm over one prefix of --ctx tokens, a prompt\n"
    "                      beside a reply, an agent of 40 turns, a conversation resumed from disk\n"
    "  --conversation FILE a recorded conversation for that agent: {\"messages\": [...], \"tools\": [...]}\n"
    "  --http              the HTTP server instead: what it adds to a request and a token, streams at the same time\n"
    "  --json              a JSON array of rows: name, value, unit, roofline, seconds, bytes, flops, ...\n"
    "  --csv               the same as CSV\n"
    "  --svg FILE          also draws decode speed by context and by batch, with the rooflines\n";

static const char examples[] =
    "\n"
    "examples:\n"
    "  hadal bench --quick --json\n"
    "  hadal bench -m /models/flash4 --ctx 4K,64K --batch 1,16 --csv > speed.csv\n";

enum {
    OPT_QUICK = 1, OPT_CTX_LIST, OPT_BATCH, OPT_CHUNK, OPT_DEPTH, OPT_ROUNDS, OPT_ONLY, OPT_JSON, OPT_CSV, OPT_SVG,
    OPT_SERVING, OPT_CONVERSATION, OPT_HTTP,
};
enum format { OUT_TABLE, OUT_JSON, OUT_CSV };

struct output {
    enum format format;
    const char *svg; /* NULL: no plot */
};

/* Comma-separated counts with an optional K or M (1024 and 1024^2). */
static bool read_list(const char *text, int64_t max, int64_t *out, int *n)
{
    *n = 0;
    for (const char *at = text;; at++) {
        char *end;
        long long v = strtoll(at, &end, 10);
        int shift = *end == 'K' ? 10 : *end == 'M' ? 20 : 0;
        if (end == at || v < 1 || v > max >> shift || *n == BENCH_LIST_MAX - 1)
            return false;
        out[(*n)++] = (int64_t)v << shift;
        at = end + (shift != 0);
        if (*at == '\0')
            return true;
        if (*at != ',')
            return false;
    }
}

/* -1 to go on, otherwise the exit code. */
static int take_option(struct bench *b, struct output *o, int c)
{
    int64_t n;
    bool good = true;
    switch (c) {
    case OPT_QUICK: b->quick = true; return -1;
    case OPT_SERVING: b->serving = true; return -1;
    case OPT_HTTP: b->http = true; return -1;
    case OPT_SVG: o->svg = optarg; return -1;
    case OPT_CONVERSATION: b->conversation = optarg; return -1;
    case OPT_ONLY: b->only = optarg; return -1;
    case OPT_JSON: o->format = OUT_JSON; return -1;
    case OPT_CSV: o->format = OUT_CSV; return -1;
    case OPT_CTX_LIST: good = read_list(optarg, (int64_t)1 << 30, b->contexts, &b->n_contexts); break;
    case OPT_BATCH: good = read_list(optarg, 256, b->batches, &b->n_batches); break;
    case OPT_CHUNK: good = read_list(optarg, 1 << 16, b->chunks, &b->n_chunks); break;
    case OPT_DEPTH: good = read_list(optarg, (int64_t)1 << 30, b->depths, &b->n_depths); break;
    case OPT_ROUNDS:
        if (!parse_int_arg("bench", "--rounds", optarg, 1, BENCH_ROUNDS_MAX, &n))
            return EXIT_USAGE;
        b->rounds = (int)n;
        return -1;
    case 'h':
        printf("%s%s%s", help, model_args_help, examples);
        return EXIT_DONE;
    default:
        if (model_args_take(&b->args, "bench", c, optarg) > 0)
            return -1;
        if (c == '?')
            fprintf(stderr, "Try 'hadal bench --help'.\n");
        return EXIT_USAGE;
    }
    return good ? -1 : usage_error("bench", "'%s' is no list of counts for this option", optarg);
}

static void powers(int64_t *list, int *n, int64_t from, int64_t to)
{
    for (*n = 0; from <= to; from *= 2)
        list[(*n)++] = from;
}

/* What a first step of a sequence is: depth 0, before the others. */
static void add_depth_0(struct bench *b)
{
    for (int i = b->n_depths++; i > 0; i--)
        b->depths[i] = b->depths[i - 1];
    b->depths[0] = 0;
}

static void defaults(struct bench *b)
{
    bool quick = b->quick;
    if (b->n_contexts == 0)
        powers(b->contexts, &b->n_contexts, quick ? 4096 : 2048, quick || b->serving ? 4096 : 1048576);
    if (b->n_batches == 0)
        powers(b->batches, &b->n_batches, quick ? 4 : 2, quick ? 4 : 64);
    if (b->n_chunks == 0) {
        b->chunks[b->n_chunks++] = 128;
        b->chunks[b->n_chunks] = 512;
        b->n_chunks += !quick;
    }
    if (b->n_depths == 0 && !quick)
        b->depths[b->n_depths++] = 32768;
    add_depth_0(b);
    if (b->rounds == 0)
        b->rounds = quick ? 3 : 5;
    for (int i = 0; i < b->n_chunks; i++)
        if (b->chunks[i] > b->args.model.max_rows)
            b->args.model.max_rows = (int)b->chunks[i];
}

static int measure(struct bench *b, struct err *e)
{
    if (b->http)
        return bench_http(b, e);
    if (b->serving)
        return bench_serving(b, e);
    int rc = bench_open(b, e);
    return rc == HD_OK ? bench_model(b, e) : rc;
}

static int print(const struct bench *b, const struct output *o, struct err *e)
{
    if (o->format == OUT_JSON)
        bench_print_json(b);
    else if (o->format == OUT_CSV)
        bench_print_csv(b);
    else
        bench_print_table(b);
    return o->svg == NULL ? HD_OK : bench_write_svg(b, o->svg, e);
}

static int run(struct bench *b, const struct output *o)
{
    struct err e = {0};
    bool slice = b->args.dir == NULL && getenv("HADAL_MODEL") == NULL && !b->serving && !b->http;
    char *dir = slice ? bench_slice_make(b->args.model.n_threads, &e) : model_find(b->args.dir, &e);
    if (dir == NULL)
        return fail("bench", &e);
    b->dir = dir;
    b->args.model.pack_in_memory |= slice; /* it is used once */
    defaults(b);
    int rc = measure(b, &e);
    if (rc == HD_OK)
        rc = print(b, o, &e);
    bench_close(b);
    if (slice)
        bench_slice_remove(dir);
    else
        free(dir);
    return rc == HD_OK ? EXIT_DONE : fail("bench", &e);
}

int cmd_bench(int argc, char **argv)
{
    static const struct option options[] = {
        MODEL_OPTIONS,
        {"quick", no_argument, NULL, OPT_QUICK},
        {"ctx", required_argument, NULL, OPT_CTX_LIST},
        {"batch", required_argument, NULL, OPT_BATCH},
        {"chunk", required_argument, NULL, OPT_CHUNK},
        {"rounds", required_argument, NULL, OPT_ROUNDS},
        {"only", required_argument, NULL, OPT_ONLY},
        {"serving", no_argument, NULL, OPT_SERVING},
        {"conversation", required_argument, NULL, OPT_CONVERSATION},
        {"http", no_argument, NULL, OPT_HTTP},
        {"json", no_argument, NULL, OPT_JSON},
        {"csv", no_argument, NULL, OPT_CSV},
        {"depth", required_argument, NULL, OPT_DEPTH},
        {"svg", required_argument, NULL, OPT_SVG},
        {"help", no_argument, NULL, 'h'},
        {NULL, 0, NULL, 0},
    };
    static struct bench b;
    struct output out = {0};
    int rc = -1;
    model_args_init(&b.args);
    optind = 1;
    for (int c; rc < 0 && (c = getopt_long(argc, argv, "m:h", options, NULL)) != -1;)
        rc = take_option(&b, &out, c);
    if (rc < 0 && optind < argc)
        rc = usage_error("bench", "'%s' is not an option", argv[optind]);
    if (rc < 0 && b.conversation != NULL && !b.serving)
        rc = usage_error("bench", "--conversation is for --serving");
    return rc < 0 ? run(&b, &out) : rc;
}
