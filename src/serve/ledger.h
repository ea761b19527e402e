/* Keys and usage, in one SQLite file (WAL). Of a key only its SHA-256 is stored; of a request its counts, never text.
 * Several processes may have it open: the server, `hadal keys`, `hadal usage`. */
#ifndef HADAL_SERVE_LEDGER_H
#define HADAL_SERVE_LEDGER_H

#include "base/base.h"

struct ledger;

int ledger_open(struct ledger **l, const char *path, struct err *e); /* makes the file (mode 600) when missing */
void ledger_close(struct ledger **l);

/* A new key; key needs LEDGER_KEY_BYTES and is not stored. limit < 0: none. */
enum { LEDGER_KEY_BYTES = 64 };
int ledger_add_key(struct ledger *l, const char *name, double limit, char *key, struct err *e);
int ledger_revoke(struct ledger *l, const char *name, struct err *e);
int ledger_limit(struct ledger *l, const char *name, double limit, struct err *e); /* dollars; < 0: none */

struct ledger_key {
    int64_t id; /* from 1 */
    const char *name, *hint; /* hint: the key's beginning and end */
    double limit, spent;     /* dollars; limit < 0: none */
    int64_t created, revoked; /* seconds since 1970; revoked 0: not */
};
/* text of the key -> its row; false when there is none or it was revoked. Takes as long whatever the key is. What other
 * processes changed is seen. */
bool ledger_find(struct ledger *l, const char *key, struct ledger_key *out);
int ledger_list(struct ledger *l, void (*fn)(void *arg, const struct ledger_key *k), void *arg, struct err *e);

struct ledger_row {
    const char *request, *user, *model, *api, *finish;
    int64_t key_id, hit, miss, completion, reasoning;
    double cost, started, ended; /* dollars; seconds since 1970 */
};
int ledger_add_row(struct ledger *l, const struct ledger_row *r, struct err *e); /* committed on return */

struct ledger_sum {
    const char *group;
    int64_t requests, hit, miss, completion, reasoning;
    double cost;
};
/* by: "key", "day", "model" or "user". */
int ledger_sums(struct ledger *l, const char *by, void (*fn)(void *arg, const struct ledger_sum *s), void *arg,
                struct err *e);

#endif
