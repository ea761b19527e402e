/* hadal keys: who may use a server, and how much. */
#include "bin/bin.h"
#include "bin/model_args.h"
#include "serve/ledger.h"

#include <getopt.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

static const char help[] =
    "usage: hadal keys add NAME [LIMITS] --ledger FILE\n"
    "       hadal keys list --ledger FILE\n"
    "       hadal keys revoke NAME --ledger FILE\n"
    "       hadal keys limit NAME [DOLLARS|none] [LIMITS] --ledger FILE\n\n"
    "Keys of 'hadal serve --ledger FILE'. A new key is printed once; the file holds only its hash. A key that has used\n"
    "up its dollars, counted at the server's price table, is answered 402. Changes count at once, also for a running\n"
    "server.\n\n"
    "  --ledger FILE       where keys and usage are; made when missing\n"
    "  --limit DOLLARS     what the key may spend in all (default: no limit)\n"
    "  --requests N        its requests at the same time; more are answered 429 (default: 0, no limit)\n"
    "  --priority N        among waiting requests those of higher priority start first (default: 0)\n"
    "  --weight W          its share of the machine beside other keys that have work (default: 1)\n"
    "  --deadline SECONDS  a request that takes longer is ended (default: 0, none)\n"
    "  -h, --help          this text\n\n"
    "examples:\n"
    "  hadal keys add alice --limit 20 --ledger hadal.db\n"
    "  hadal keys limit alice 50 --requests 8 --weight 2 --ledger hadal.db\n"
    "  hadal keys revoke alice --ledger hadal.db\n";

enum { OPT_LEDGER = 256, OPT_LIMIT, OPT_REQUESTS, OPT_PRIORITY, OPT_WEIGHT, OPT_DEADLINE, OPT_LAST };

static const struct option long_options[] = {
    {"ledger", required_argument, NULL, OPT_LEDGER},
    {"limit", required_argument, NULL, OPT_LIMIT},
    {"requests", required_argument, NULL, OPT_REQUESTS},
    {"priority", required_argument, NULL, OPT_PRIORITY},
    {"weight", required_argument, NULL, OPT_WEIGHT},
    {"deadline", required_argument, NULL, OPT_DEADLINE},
    {"help", no_argument, NULL, 'h'},
    {NULL, 0, NULL, 0},
};

struct keys_args {
    const char *path;
    struct key_limits limits;
    bool given[OPT_LAST - OPT_LEDGER]; /* by option */
};

/* ---------------------------------------------------------------- options */

static bool take_dollars(const char *text, double *out)
{
    *out = -1;
    if (strcmp(text, "none") == 0)
        return true;
    if (!parse_real_arg("keys", "the limit", text, out))
        return false;
    if (*out >= 0)
        return true;
    usage_error("keys", "a limit is a number of dollars or none");
    return false;
}

static bool take_real(const char *option, const char *text, double least, double *out)
{
    if (!parse_real_arg("keys", option, text, out))
        return false;
    if (*out >= least)
        return true;
    usage_error("keys", "%s must be at least %g", option, least);
    return false;
}

static bool take_option(struct keys_args *a, int c, const char *arg)
{
    a->given[c - OPT_LEDGER] = true;
    switch (c) {
    case OPT_LEDGER:
        a->path = arg;
        return true;
    case OPT_LIMIT:
        return take_dollars(arg, &a->limits.dollars);
    case OPT_REQUESTS:
        return parse_int_arg("keys", "--requests", arg, 0, 1 << 20, &a->limits.requests);
    case OPT_PRIORITY:
        return parse_int_arg("keys", "--priority", arg, -1000, 1000, &a->limits.priority);
    case OPT_WEIGHT:
        return take_real("--weight", arg, 0.001, &a->limits.weight);
    default:
        return take_real("--deadline", arg, 0, &a->limits.deadline_s);
    }
}

/* ---------------------------------------------------------------- verbs */

static void print_key(void *arg, const struct ledger_key *k)
{
    char created[32], limit[32] = "none";
    struct tm tm;
    time_t t = (time_t)k->created;
    (void)arg;
    strftime(created, sizeof created, "%Y-%m-%d", gmtime_r(&t, &tm));
    if (k->limits.dollars >= 0)
        snprintf(limit, sizeof limit, "%.2f", k->limits.dollars);
    printf("%-24s %-14s %-10s %10.4f %10s %8" PRId64 " %8" PRId64 " %7g %9g  %s\n", k->name, k->hint, created, k->spent,
           limit, k->limits.requests, k->limits.priority, k->limits.weight, k->limits.deadline_s,
           k->revoked != 0 ? "revoked" : "");
}

static int list(struct ledger *l, struct err *e)
{
    printf("%-24s %-14s %-10s %10s %10s %8s %8s %7s %9s\n", "name", "key", "created", "spent $", "limit $", "requests",
           "priority", "weight", "deadline");
    return ledger_list(l, print_key, NULL, e);
}

static int add(struct ledger *l, const char *name, const struct key_limits *limits, struct err *e)
{
    char key[LEDGER_KEY_BYTES];
    int rc = ledger_add_key(l, name, limits, key, e);
    if (rc == HD_OK)
        printf("%s\n", key);
    return rc;
}

/* What was not given stays as it is. */
static int limit(struct ledger *l, const char *name, const struct keys_args *a, struct err *e)
{
    struct key_limits k;
    int rc = ledger_read_limits(l, name, &k, e);
    if (rc != HD_OK)
        return rc;
    if (a->given[OPT_LIMIT - OPT_LEDGER])
        k.dollars = a->limits.dollars;
    if (a->given[OPT_REQUESTS - OPT_LEDGER])
        k.requests = a->limits.requests;
    if (a->given[OPT_PRIORITY - OPT_LEDGER])
        k.priority = a->limits.priority;
    if (a->given[OPT_WEIGHT - OPT_LEDGER])
        k.weight = a->limits.weight;
    if (a->given[OPT_DEADLINE - OPT_LEDGER])
        k.deadline_s = a->limits.deadline_s;
    return ledger_set_limits(l, name, &k, e);
}

/* The words after the options: verb, name, amount. */
static int run(struct ledger *l, char **words, int n, const struct keys_args *a, struct err *e)
{
    if (strcmp(words[0], "list") == 0 && n == 1)
        return list(l, e);
    if (strcmp(words[0], "add") == 0 && n == 2)
        return add(l, words[1], &a->limits, e);
    if (strcmp(words[0], "revoke") == 0 && n == 2)
        return ledger_revoke(l, words[1], e);
    if (strcmp(words[0], "limit") == 0 && (n == 2 || n == 3))
        return limit(l, words[1], a, e);
    return err_set(e, HD_EARG, "use add NAME, list, revoke NAME or limit NAME [DOLLARS]");
}

int cmd_keys(int argc, char **argv)
{
    struct keys_args a = {0};
    struct ledger *l = NULL;
    struct err e = {0};
    int c;
    key_limits_init(&a.limits);
    optind = 1;
    while ((c = getopt_long(argc, argv, "h", long_options, NULL)) != -1) {
        if (c == 'h') {
            printf("%s", help);
            return EXIT_DONE;
        }
        if (c == '?')
            return usage_error("keys", "wrong option");
        if (!take_option(&a, c, optarg))
            return EXIT_USAGE;
    }
    if (a.path == NULL || optind >= argc)
        return usage_error("keys", a.path == NULL ? "give the file with --ledger" : "say add, list, revoke or limit");
    char **words = argv + optind;
    int n = argc - optind;
    if (n == 3 && strcmp(words[0], "limit") == 0 && !take_option(&a, OPT_LIMIT, words[2]))
        return EXIT_USAGE;
    int rc = ledger_open(&l, a.path, &e);
    if (rc == HD_OK)
        rc = run(l, words, n, &a, &e);
    ledger_close(&l);
    return rc == HD_OK ? EXIT_DONE : fail("keys", &e);
}
