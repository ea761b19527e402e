/* hadal usage: what was used, and what it would have cost elsewhere. */
#include "bin/bin.h"
#include "bin/model_args.h"
#include "serve/ledger.h"
#include "serve/prices.h"

#include <getopt.h>
#include <inttypes.h>
#include <stdio.h>
#include <time.h>

static const char help[] =
    "usage: hadal usage --ledger FILE [OPTIONS]\n\n"
    "Prints what a server's ledger counts. The cost of a request was fixed when it ended, at DeepSeek's official prices.\n\n"
    "  --ledger FILE       the file of 'hadal serve --ledger'\n"
    "  --by NAME           one line a key (default), day, model or user\n"
    "  --compare           also what all these tokens cost at other price lists\n"
    "  --hours N           with --compare: hours the machine ran, with the two below its own cost\n"
    "  --watts W           power it draws\n"
    "  --kwh-price P       dollars per kilowatt-hour\n"
    "  --hardware D        dollars per hour for the hardware (default: 0)\n"
    "  -h, --help          this text\n\n"
    "examples:\n"
    "  hadal usage --ledger hadal.db --by day\n"
    "  hadal usage --ledger hadal.db --compare --hours 100 --watts 800 --kwh-price 0.30\n";

enum { OPT_LEDGER = 256, OPT_BY, OPT_COMPARE, OPT_HOURS, OPT_WATTS, OPT_KWH, OPT_HARDWARE };

static const struct option long_options[] = {
    {"ledger", required_argument, NULL, OPT_LEDGER},
    {"by", required_argument, NULL, OPT_BY},
    {"compare", no_argument, NULL, OPT_COMPARE},
    {"hours", required_argument, NULL, OPT_HOURS},
    {"watts", required_argument, NULL, OPT_WATTS},
    {"kwh-price", required_argument, NULL, OPT_KWH},
    {"hardware", required_argument, NULL, OPT_HARDWARE},
    {"help", no_argument, NULL, 'h'},
    {NULL, 0, NULL, 0},
};

struct usage_args {
    const char *path, *by;
    bool compare;
    double hours, watts, kwh, hardware;
};

static void print_sum(void *arg, const struct ledger_sum *s)
{
    struct ledger_sum *all = arg;
    printf("%-24s %9" PRId64 " %12" PRId64 " %12" PRId64 " %12" PRId64 " %12" PRId64 " %12.4f\n", s->group, s->requests,
           s->hit, s->miss, s->completion, s->reasoning, s->cost);
    all->requests += s->requests;
    all->hit += s->hit;
    all->miss += s->miss;
    all->completion += s->completion;
    all->reasoning += s->reasoning;
    all->cost += s->cost;
}

static void compare(const struct usage_args *a, const struct ledger_sum *s)
{
    const struct {
        const char *name;
        struct price price;
    } lists[] = {
        {"DeepSeek V4-Flash, today", price_of("deepseek-v4-flash", time(NULL))},
        {"DeepSeek V4-Pro, today", price_of("deepseek-v4-pro", time(NULL))},
        {"GPT-5.4 (2.50 / 15.00)", {2.5, 2.5, 15}},
        {"Claude Opus 4.7 (5.00 / 25.00)", {5, 5, 25}},
    };
    int64_t tokens = s->hit + s->miss + s->completion;
    printf("\nthe same %" PRId64 " tokens at the price list of\n", tokens);
    for (size_t i = 0; i < COUNT_OF(lists); i++)
        printf("  %-32s %12.4f $\n", lists[i].name, price_cost(lists[i].price, s->hit, s->miss, s->completion));
    double own = a->hours * (a->watts / 1000 * a->kwh + a->hardware);
    if (a->hours > 0 && tokens > 0)
        printf("  %-32s %12.4f $, %.4f $ per million tokens\n", "this machine", own, own / (double)tokens * 1e6);
}

/* EXIT_DONE to go on, -1 after --help. */
static int parse(struct usage_args *a, int argc, char **argv)
{
    int c;
    optind = 1;
    while ((c = getopt_long(argc, argv, "h", long_options, NULL)) != -1) {
        double *to = c == OPT_HOURS ? &a->hours : c == OPT_WATTS ? &a->watts : c == OPT_KWH ? &a->kwh : &a->hardware;
        if (c == 'h') {
            printf("%s", help);
            return -1;
        }
        if (c == '?')
            return usage_error("usage", "wrong option");
        if (c == OPT_LEDGER)
            a->path = optarg;
        else if (c == OPT_BY)
            a->by = optarg;
        else if (c == OPT_COMPARE)
            a->compare = true;
        else if (!parse_real_arg("usage", "the amount", optarg, to))
            return EXIT_USAGE;
    }
    if (optind < argc)
        return usage_error("usage", "'%s' is not an option", argv[optind]);
    return a->path == NULL ? usage_error("usage", "give the file with --ledger") : EXIT_DONE;
}

int cmd_usage(int argc, char **argv)
{
    struct usage_args a = {.by = "key"};
    struct ledger *l = NULL;
    struct ledger_sum all = {0};
    struct err e = {0};
    int rc = parse(&a, argc, argv);
    if (rc != EXIT_DONE)
        return rc < 0 ? EXIT_DONE : rc;
    if (!file_exists(a.path)) {
        err_set(&e, HD_EARG, "%s: there is no such file", a.path);
        return fail("usage", &e);
    }
    rc = ledger_open(&l, a.path, &e);
    if (rc == HD_OK) {
        printf("%-24s %9s %12s %12s %12s %12s %12s\n", a.by, "requests", "cache hit", "cache miss", "output", "reasoning",
               "cost $");
        rc = ledger_sums(l, a.by, print_sum, &all, &e);
    }
    if (rc == HD_OK && a.compare)
        compare(&a, &all);
    ledger_close(&l);
    return rc == HD_OK ? EXIT_DONE : fail("usage", &e);
}
