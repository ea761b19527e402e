/* hadal usage: what was used, and what it would have cost elsewhere. */
#include "bin/bin.h"
#include "bin/model_args.h"
#include "serve/ledger.h"
#include "serve/prices.h"

#include <getopt.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

static const char help[] =
    "usage: hadal usage --ledger FILE [OPTIONS]\n"
    "       hadal usage --print-prices\n\n"
    "Prints what a server's ledger counts. The cost of a request was fixed when it ended, at the price of the time it\n"
    "came.\n\n"
    "  --ledger FILE       the file of 'hadal serve --ledger'\n"
    "  --by NAME           one line a key (default), day, model or user\n"
    "  --compare           also what all these requests cost at other price lists, each at the time it came\n"
    "  --prices FILE       the price table of --compare (default: the official one)\n"
    "  --print-prices      print the official price table, in the form of a price file\n"
    "  --watts W           with --compare: power the machine draws, for its own cost\n"
    "  --kwh-price P       dollars per kilowatt-hour\n"
    "  --hardware D        dollars per hour for the hardware (default: 0)\n"
    "  --hardware-price D  dollars that the hardware cost, spread over --hardware-years (default: 4)\n"
    "  --hardware-years Y\n"
    "  --hours N           hours the machine ran (default: from the first request to the end of the last)\n"
    "  -h, --help          this text\n\n"
    "examples:\n"
    "  hadal usage --ledger hadal.db --by day\n"
    "  hadal usage --ledger hadal.db --compare --watts 800 --kwh-price 0.30 --hardware-price 9000\n";

enum {
    OPT_LEDGER = 256, OPT_BY, OPT_COMPARE, OPT_PRICES, OPT_PRINT, OPT_HOURS, OPT_WATTS, OPT_KWH, OPT_HARDWARE, OPT_BOUGHT,
    OPT_YEARS,
};

static const struct option long_options[] = {
    {"ledger", required_argument, NULL, OPT_LEDGER},
    {"by", required_argument, NULL, OPT_BY},
    {"compare", no_argument, NULL, OPT_COMPARE},
    {"prices", required_argument, NULL, OPT_PRICES},
    {"print-prices", no_argument, NULL, OPT_PRINT},
    {"hours", required_argument, NULL, OPT_HOURS},
    {"watts", required_argument, NULL, OPT_WATTS},
    {"kwh-price", required_argument, NULL, OPT_KWH},
    {"hardware", required_argument, NULL, OPT_HARDWARE},
    {"hardware-price", required_argument, NULL, OPT_BOUGHT},
    {"hardware-years", required_argument, NULL, OPT_YEARS},
    {"help", no_argument, NULL, 'h'},
    {NULL, 0, NULL, 0},
};

struct usage_args {
    const char *path, *by, *prices;
    bool compare, print;
    double hours, watts, kwh, hardware, bought, years;
};

static void print_sum(void *arg, const struct ledger_sum *s)
{
    (void)arg;
    printf("%-24s %9" PRId64 " %12" PRId64 " %12" PRId64 " %12" PRId64 " %12" PRId64 " %12.4f\n", s->group, s->requests,
           s->hit, s->miss, s->completion, s->reasoning, s->cost);
}

/* ---------------------------------------------------------------- elsewhere */

struct comparison {
    const struct prices *prices;
    double *dollars; /* of every line of the table */
    int64_t tokens;
    double first, last; /* seconds since 1970 */
};

static void add_row(void *arg, const struct ledger_row *r)
{
    struct comparison *c = arg;
    c->tokens += r->hit + r->miss + r->completion;
    c->first = c->first == 0 || r->started < c->first ? r->started : c->first;
    c->last = r->ended > c->last ? r->ended : c->last;
    for (int i = 0; i < prices_n_lines(c->prices); i++) {
        const struct price_line *l = prices_line(c->prices, i);
        struct price p = l->model == NULL ? l->fixed : prices_at(c->prices, l->model, (int64_t)r->started);
        c->dollars[i] += price_cost(p, r->hit, r->miss, r->completion);
    }
}

static void print_line(const char *name, double dollars, int64_t tokens)
{
    printf("  %-24s %14.4f $", name, dollars);
    if (tokens > 0)
        printf("  %10.4f $ per million tokens", dollars / (double)tokens * 1e6);
    printf("\n");
}

static void print_comparison(const struct usage_args *a, const struct comparison *c)
{
    double hours = a->hours > 0 ? a->hours : (c->last - c->first) / 3600;
    double per_hour = a->watts / 1000 * a->kwh + a->hardware + a->bought / (a->years * 365.25 * 24);
    printf("\nthese %" PRId64 " tokens, hits at the cache price, at the list of\n", c->tokens);
    for (int i = 0; i < prices_n_lines(c->prices); i++)
        print_line(prices_line(c->prices, i)->name, c->dollars[i], c->tokens);
    if (per_hour > 0) {
        print_line("this machine", hours * per_hour, c->tokens);
        printf("  (%.4f hours at %.4f $ an hour)\n", hours, per_hour);
    }
}

static int compare(const struct usage_args *a, struct ledger *l, struct err *e)
{
    struct prices *prices = NULL;
    int rc = a->prices != NULL ? prices_open(&prices, a->prices, e) : HD_OK;
    if (rc != HD_OK)
        return rc;
    if (prices == NULL)
        prices = prices_open_official();
    struct comparison c = {.prices = prices};
    c.dollars = xcalloc((size_t)prices_n_lines(prices) + 1, sizeof *c.dollars);
    rc = ledger_rows(l, add_row, &c, e);
    if (rc == HD_OK)
        print_comparison(a, &c);
    free(c.dollars);
    prices_close(&prices);
    return rc;
}

/* ---------------------------------------------------------------- options */

static bool take_amount(struct usage_args *a, int c, const char *arg)
{
    double *const to[] = {&a->hours, &a->watts, &a->kwh, &a->hardware, &a->bought, &a->years};
    double v;
    if (!parse_real_arg("usage", "the amount", arg, &v))
        return false;
    if (v < 0 || (c == OPT_YEARS && v == 0)) {
        usage_error("usage", "an amount must not be below 0, nor the years 0");
        return false;
    }
    *to[c - OPT_HOURS] = v;
    return true;
}

static bool take_option(struct usage_args *a, int c, const char *arg)
{
    switch (c) {
    case OPT_LEDGER:
        a->path = arg;
        return true;
    case OPT_BY:
        a->by = arg;
        return true;
    case OPT_COMPARE:
        return a->compare = true;
    case OPT_PRICES:
        a->prices = arg;
        return true;
    case OPT_PRINT:
        return a->print = true;
    default:
        return take_amount(a, c, arg);
    }
}

/* EXIT_DONE to go on, -1 after --help. */
static int parse(struct usage_args *a, int argc, char **argv)
{
    int c;
    optind = 1;
    while ((c = getopt_long(argc, argv, "h", long_options, NULL)) != -1) {
        if (c == 'h') {
            printf("%s", help);
            return -1;
        }
        if (c == '?')
            return usage_error("usage", "wrong option");
        if (!take_option(a, c, optarg))
            return EXIT_USAGE;
    }
    if (optind < argc)
        return usage_error("usage", "'%s' is not an option", argv[optind]);
    if (!a->compare && (a->prices != NULL || a->hours + a->watts + a->kwh + a->hardware + a->bought > 0))
        return usage_error("usage", "prices and amounts go with --compare");
    return a->path == NULL && !a->print ? usage_error("usage", "give the file with --ledger") : EXIT_DONE;
}

int cmd_usage(int argc, char **argv)
{
    struct usage_args a = {.by = "key", .years = 4};
    struct ledger *l = NULL;
    struct err e = {0};
    int rc = parse(&a, argc, argv);
    if (rc != EXIT_DONE)
        return rc < 0 ? EXIT_DONE : rc;
    if (a.print) {
        printf("%s", prices_official);
        return EXIT_DONE;
    }
    if (!file_exists(a.path)) {
        err_set(&e, HD_EARG, "%s: there is no such file", a.path);
        return fail("usage", &e);
    }
    rc = ledger_open(&l, a.path, &e);
    if (rc == HD_OK) {
        printf("%-24s %9s %12s %12s %12s %12s %12s\n", a.by, "requests", "cache hit", "cache miss", "output", "reasoning",
               "cost $");
        rc = ledger_sums(l, a.by, print_sum, NULL, &e);
    }
    if (rc == HD_OK && a.compare)
        rc = compare(&a, l, &e);
    ledger_close(&l);
    return rc == HD_OK ? EXIT_DONE : fail("usage", &e);
}
