/* `hadal bench`: how fast this machine runs a model, and how much of the machine that is. */
#include <getopt.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "bin/bench.h"
#include "bin/bin.h"

static const char help[] =
    "usage: hadal bench [-m MODEL] [OPTIONS]\n"
    "\n"
    "Measures memory read bandwidth and arithmetic peaks of this machine, then decode and prefill of the model, and\n"
    "the indexer and attention alone. The peaks are measured again before every timing; a row's roofline is the least\n"
    "time that they allow for its bytes and operations over the time it took (median of rounds). Contexts are filled\n"
    "with random KV state instead of a prefill. Compare ratios, not absolute speeds, of machines that do other work.\n"
    "\n"
    "  --quick             few rounds and short contexts: under a minute\n"
    "  --ctx LIST          contexts of decode, e.g. 4K,64K,1M (default 4K,32K; --quick: 2K)\n"
    "  --batch LIST        sequences decoded together at the first context (default 4,16; --quick: 4)\n"
    "  --chunk LIST        rows of a prefill step (default 128,512; --quick: 128)\n"
    "  --rounds N          timings of each row, the median counts (default 5; --quick: 3)\n"
    "  --only PREFIX       only rows whose name begins so: decode, prefill, indexer, attention\n"
    "  --serving           the engine instead: replies together, a swarm over one prefix of --ctx tokens, a prompt\n"
    "                      beside a reply\n"
    "  --json              a JSON array of rows: name, value, unit, roofline, seconds, bytes, flops\n"
    "  --csv               the same as CSV\n";

static const char examples[] =
    "\n"
    "examples:\n"
    "  hadal bench --quick --json\n"
    "  hadal bench -m /models/flash4 --ctx 4K,64K --batch 1,16 --csv > speed.csv\n";

enum { OPT_QUICK = 1, OPT_CTX_LIST, OPT_BATCH, OPT_CHUNK, OPT_ROUNDS, OPT_ONLY, OPT_JSON, OPT_CSV, OPT_SERVING };
enum output { OUT_TABLE, OUT_JSON, OUT_CSV };

/* Comma-separated counts with an optional K or M (1024 and 1024^2). */
static bool read_list(const char *text, int64_t max, int64_t *out, int *n)
{
    *n = 0;
    for (const char *at = text;; at++) {
        char *end;
        long long v = strtoll(at, &end, 10);
        int shift = *end == 'K' ? 10 : *end == 'M' ? 20 : 0;
        if (end == at || v < 1 || v > max >> shift || *n == 16)
            return false;
        out[(*n)++] = (int64_t)v << shift;
        at = end + (shift != 0);
        if (*at == '\0')
            return true;
        if (*at != ',')
            return false;
    }
}

static void print_table(const struct bench *b)
{
    printf("%-32s %12s %-9s %9s %10s %9s %9s\n", "", "", "", "roofline", "ms", "GB/s", "GFLOP/s");
    for (int i = 0; i < b->n_rows; i++) {
        const struct bench_row *r = &b->rows[i];
        printf("%-32s %12.1f %-9s", r->name, r->value, r->unit);
        if (r->roofline >= 0)
            printf(" %8.2f  %10.3f %9.1f %9.1f", r->roofline, r->seconds * 1e3, r->bytes / r->seconds * 1e-9,
                   r->flops / r->seconds * 1e-9);
        printf("\n");
    }
}

static void print_csv(const struct bench *b)
{
    printf("name,value,unit,roofline,seconds,bytes,flops\n");
    for (int i = 0; i < b->n_rows; i++) {
        const struct bench_row *r = &b->rows[i];
        printf("%s,%.6g,%s,", r->name, r->value, r->unit);
        if (r->roofline >= 0)
            printf("%.4f,%.6g,%.0f,%.0f\n", r->roofline, r->seconds, r->bytes, r->flops);
        else
            printf(",,,\n");
    }
}

static json_t *row_json(const struct bench_row *r)
{
    if (r->roofline < 0)
        return json_pack("{s:s, s:f, s:s, s:n}", "name", r->name, "value", r->value, "unit", r->unit, "roofline");
    return json_pack("{s:s, s:f, s:s, s:f, s:f, s:f, s:f}", "name", r->name, "value", r->value, "unit", r->unit,
                     "roofline", r->roofline, "seconds", r->seconds, "bytes", r->bytes, "flops", r->flops);
}

static void print_json(const struct bench *b)
{
    json_t *rows = json_array();
    for (int i = 0; i < b->n_rows; i++)
        json_array_append_new(rows, row_json(&b->rows[i]));
    json_dumpf(rows, stdout, JSON_INDENT(1) | JSON_REAL_PRECISION(7));
    printf("\n");
    json_decref(rows);
}

/* -1 to go on, otherwise the exit code. */
static int take_option(struct bench *b, enum output *out, int c)
{
    int64_t n;
    bool good = true;
    switch (c) {
    case OPT_QUICK: b->quick = true; return -1;
    case OPT_SERVING: b->serving = true; return -1;
    case OPT_ONLY: b->only = optarg; return -1;
    case OPT_JSON: *out = OUT_JSON; return -1;
    case OPT_CSV: *out = OUT_CSV; return -1;
    case OPT_CTX_LIST: good = read_list(optarg, (int64_t)1 << 30, b->contexts, &b->n_contexts); break;
    case OPT_BATCH: good = read_list(optarg, 256, b->batches, &b->n_batches); break;
    case OPT_CHUNK: good = read_list(optarg, 1 << 16, b->chunks, &b->n_chunks); break;
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

static void defaults(struct bench *b)
{
    int64_t context = b->quick ? 2048 : 4096;
    if (b->n_contexts == 0) {
        b->contexts[b->n_contexts++] = context;
        b->contexts[b->n_contexts] = 32768;
        b->n_contexts += !b->quick;
    }
    if (b->n_batches == 0) {
        b->batches[b->n_batches++] = 4;
        b->batches[b->n_batches] = 16;
        b->n_batches += !b->quick;
    }
    if (b->n_chunks == 0) {
        b->chunks[b->n_chunks++] = 128;
        b->chunks[b->n_chunks] = 512;
        b->n_chunks += !b->quick;
    }
    if (b->rounds == 0)
        b->rounds = b->quick ? 3 : 5;
    for (int i = 0; i < b->n_chunks; i++)
        if (b->chunks[i] > b->args.model.max_rows)
            b->args.model.max_rows = (int)b->chunks[i];
}

static int run(struct bench *b, enum output out)
{
    struct err e = {0};
    char *dir = model_find(b->args.dir, &e);
    if (dir == NULL)
        return fail("bench", &e);
    b->dir = dir;
    defaults(b);
    int rc = b->serving ? bench_serving(b, &e) : bench_open(b, &e);
    if (rc == HD_OK && !b->serving)
        rc = bench_model(b, &e);
    bench_close(b);
    free(dir);
    if (rc != HD_OK)
        return fail("bench", &e);
    if (out == OUT_JSON)
        print_json(b);
    else if (out == OUT_CSV)
        print_csv(b);
    else
        print_table(b);
    return EXIT_DONE;
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
        {"json", no_argument, NULL, OPT_JSON},
        {"csv", no_argument, NULL, OPT_CSV},
        {"help", no_argument, NULL, 'h'},
        {NULL, 0, NULL, 0},
    };
    static struct bench b;
    enum output out = OUT_TABLE;
    int rc = -1;
    model_args_init(&b.args);
    optind = 1;
    for (int c; rc < 0 && (c = getopt_long(argc, argv, "m:h", options, NULL)) != -1;)
        rc = take_option(&b, &out, c);
    if (rc < 0 && optind < argc)
        rc = usage_error("bench", "'%s' is not an option", argv[optind]);
    return rc < 0 ? run(&b, out) : rc;
}
