/* hadal keys: who may use a server. */
#include "bin/bin.h"
#include "bin/model_args.h"
#include "serve/ledger.h"

#include <getopt.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

static const char help[] =
    "usage: hadal keys add NAME [--limit DOLLARS] --ledger FILE\n"
    "       hadal keys list --ledger FILE\n"
    "       hadal keys revoke NAME --ledger FILE\n"
    "       hadal keys limit NAME DOLLARS|none --ledger FILE\n\n"
    "Keys of 'hadal serve --ledger FILE'. A new key is printed once; the file holds only its hash. A key that has used up\n"
    "its limit, counted at the official prices, is answered 402. Changes count at once, also for a running server.\n\n"
    "  --ledger FILE       where keys and usage are; made when missing\n"
    "  --limit DOLLARS     what a new key may spend (default: no limit)\n"
    "  -h, --help          this text\n\n"
    "examples:\n"
    "  hadal keys add alice --limit 20 --ledger hadal.db\n"
    "  hadal keys revoke alice --ledger hadal.db\n";

enum { OPT_LEDGER = 256, OPT_LIMIT };

static const struct option long_options[] = {
    {"ledger", required_argument, NULL, OPT_LEDGER},
    {"limit", required_argument, NULL, OPT_LIMIT},
    {"help", no_argument, NULL, 'h'},
    {NULL, 0, NULL, 0},
};

static void print_key(void *arg, const struct ledger_key *k)
{
    char created[32], limit[32] = "none";
    struct tm tm;
    time_t t = (time_t)k->created;
    (void)arg;
    strftime(created, sizeof created, "%Y-%m-%d", gmtime_r(&t, &tm));
    if (k->limit >= 0)
        snprintf(limit, sizeof limit, "%.2f", k->limit);
    printf("%-24s %-14s %-10s %10.4f %10s  %s\n", k->name, k->hint, created, k->spent, limit,
           k->revoked != 0 ? "revoked" : "");
}

static int add(struct ledger *l, const char *name, double limit, struct err *e)
{
    char key[LEDGER_KEY_BYTES];
    int rc = ledger_add_key(l, name, limit, key, e);
    if (rc == HD_OK)
        printf("%s\n", key);
    return rc;
}

/* The words after the options: verb, name, amount. */
static int run(struct ledger *l, char **words, int n, double limit, struct err *e)
{
    const char *verb = words[0];
    double amount = -1;
    if (strcmp(verb, "list") == 0 && n == 1) {
        printf("%-24s %-14s %-10s %10s %10s\n", "name", "key", "created", "spent $", "limit $");
        return ledger_list(l, print_key, NULL, e);
    }
    if (strcmp(verb, "add") == 0 && n == 2)
        return add(l, words[1], limit, e);
    if (strcmp(verb, "revoke") == 0 && n == 2)
        return ledger_revoke(l, words[1], e);
    if (strcmp(verb, "limit") == 0 && n == 3) {
        if (strcmp(words[2], "none") != 0 && (!parse_real_arg("keys", "the limit", words[2], &amount) || amount < 0))
            return err_set(e, HD_EARG, "a limit is a number of dollars or none");
        return ledger_limit(l, words[1], amount, e);
    }
    return err_set(e, HD_EARG, "use add NAME, list, revoke NAME or limit NAME DOLLARS");
}

int cmd_keys(int argc, char **argv)
{
    const char *path = NULL;
    double limit = -1;
    struct ledger *l = NULL;
    struct err e = {0};
    int c;
    optind = 1;
    while ((c = getopt_long(argc, argv, "h", long_options, NULL)) != -1) {
        if (c == 'h') {
            printf("%s", help);
            return EXIT_DONE;
        }
        if (c == '?')
            return usage_error("keys", "wrong option");
        if (c == OPT_LEDGER)
            path = optarg;
        else if (!parse_real_arg("keys", "--limit", optarg, &limit))
            return EXIT_USAGE;
    }
    if (path == NULL || optind >= argc)
        return usage_error("keys", path == NULL ? "give the file with --ledger" : "say add, list, revoke or limit");
    int rc = ledger_open(&l, path, &e);
    if (rc == HD_OK)
        rc = run(l, argv + optind, argc - optind, limit, &e);
    ledger_close(&l);
    return rc == HD_OK ? EXIT_DONE : fail("keys", &e);
}
