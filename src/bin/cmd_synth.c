/* hadal synth: writes a checkpoint with made-up weights. */
#include "bin/bin.h"
#include "model/synth.h"

#include <errno.h>
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void print_help(void)
{
    puts(
        "hadal synth - writes a checkpoint in the official format with synthetic weights, for tests and benchmarks\n\n"
        "usage: hadal synth --shape SHAPE -o DIR [OPTIONS]\n\n"
        "  --shape SHAPE    flash, pro or tiny: the widths of that model\n"
        "  -o, --out DIR    the folder to write; may not hold a checkpoint yet\n"
        "  --layers N       depth (default 4); the layer kinds follow the shape's pattern\n"
        "  --seed S         same seed, same bytes (default 1)\n"
        "  --drafter KIND   mtp or dspark (default: none)\n"
        "  --experts N      experts per layer instead of the shape's own\n"
        "  --vocab N        vocabulary instead of the shape's own\n"
        "  --threads N      threads (default: one per usable core)\n"
        "  --help           show this text\n\n"
        "The tokenizer has a token for each byte and the control tokens of the chat format; a vocabulary too small for\n"
        "them goes without one: give such a model token ids, as in 'hadal logits --tokens 1,2,3'.\n\n"
        "examples:\n"
        "  hadal synth --shape tiny --drafter mtp -o /tmp/tiny\n"
        "  hadal synth --shape flash --layers 4 --seed 7 -o /tmp/flash4      (16.4 GB)\n"
        "  hadal synth --shape flash --layers 4 --experts 16 -o /tmp/flash4s (3.6 GB)");
}

static int parse_number(const char *text, int64_t min, int64_t max, int64_t *out)
{
    char *end;
    errno = 0;
    long long n = strtoll(text, &end, 10);
    if (end == text || *end != '\0' || errno != 0 || n < min || n > max)
        return -1;
    *out = n;
    return 0;
}

/* One option; 0, or the exit code of a usage error. */
static int take_option(int o, const char *value, struct synth_options *s, int *n_threads)
{
    struct err e = {0};
    int64_t n = 0;
    if (o == 's')
        return synth_shape_parse(value, &s->shape, &e) == HD_OK ? 0 : usage_error("synth", "%s", e.msg);
    if (o == 'd') {
        if (strcmp(value, "mtp") != 0 && strcmp(value, "dspark") != 0 && strcmp(value, "none") != 0)
            return usage_error("synth", "drafter \"%s\" is not known, expected mtp, dspark or none", value);
        s->drafter = value[0] == 'm' ? DRAFTER_MTP : value[0] == 'd' ? DRAFTER_DSPARK : DRAFTER_NONE;
        return 0;
    }
    if (parse_number(value, 0, o == 'S' ? INT64_MAX : 1 << 20, &n) != 0)
        return usage_error("synth", "\"%s\" is not a number in range", value);
    if (o == 'S')
        s->seed = (uint64_t)n;
    else
        *(o == 'l' ? &s->n_layers : o == 'e' ? &s->n_experts : o == 'v' ? &s->vocab_size : n_threads) = (int)n;
    return 0;
}

static int run_synth(const struct synth_options *s, const char *dir, int n_threads)
{
    struct err e = {0};
    struct pool *pool = NULL;
    struct progress p = progress_stoppable();
    int rc = pool_open(&pool, n_threads, &e);
    if (rc == HD_OK)
        rc = synth_write(s, dir, pool, &p, &e);
    pool_close(&pool);
    return rc == HD_OK ? EXIT_DONE : fail("synth", &e);
}

int cmd_synth(int argc, char **argv)
{
    static const struct option options[] = {
        {"shape", required_argument, NULL, 's'},   {"out", required_argument, NULL, 'o'},
        {"layers", required_argument, NULL, 'l'},  {"seed", required_argument, NULL, 'S'},
        {"drafter", required_argument, NULL, 'd'}, {"experts", required_argument, NULL, 'e'},
        {"vocab", required_argument, NULL, 'v'},   {"threads", required_argument, NULL, 't'},
        {"help", no_argument, NULL, 'h'},          {0},
    };
    struct synth_options s = {.n_layers = 4, .seed = 1, .drafter = DRAFTER_NONE};
    const char *dir = NULL;
    bool shape_given = false;
    int n_threads = 0;
    opterr = 0;
    for (int o; (o = getopt_long(argc, argv, "o:h", options, NULL)) != -1;) {
        if (o == 'h') {
            print_help();
            return EXIT_DONE;
        }
        if (o == '?')
            return usage_error("synth", "option %s is not known or lacks its value", argv[optind - 1]);
        shape_given |= o == 's';
        if (o == 'o') {
            dir = optarg;
            continue;
        }
        int rc = take_option(o, optarg, &s, &n_threads);
        if (rc != 0)
            return rc;
    }
    if (optind != argc)
        return usage_error("synth", "unexpected argument \"%s\"", argv[optind]);
    if (!shape_given || dir == NULL)
        return usage_error("synth", "%s is missing", shape_given ? "-o DIR" : "--shape");
    return run_synth(&s, dir, n_threads);
}
