/* Keys and usage, in one SQLite file (WAL). Of a key only its SHA-256 is stored; of a request its counts, never text.
 * Several processes may have it open: the server, `hadal keys`, `hadal usage`. */
#ifndef HADAL_SERVE_LEDGER_H
#define HADAL_SERVE_LEDGER_H

#include "base/base.h"

struct ledger;

int ledger_open(struct ledger **l, const char *path, struct err *e); /* makes the file (mode 600) when missing */
void ledger_close(struct ledger **l);

/* What a key may do. */
struct key_limits {
    double dollars;    /* in all; < 0: no limit */
    int64_t requests;  /* at the same time; 0: no limit */
    int64_t priority;  /* of its requests among those that wait: higher first */
    double weight;     /* its share of the machine when several keys have work */
    double deadline_s; /* a request that takes longer is ended; 0: none */
};
void key_limits_init(struct key_limits *k); /* none of them, weight 1 */

/* A new key; key needs LEDGER_KEY_BYTES and is not stored. */
enum { LEDGER_KEY_BYTES = 64 };
int ledger_add_key(struct ledger *l, const char *name, const struct key_limits *k, char *key, struct err *e);
int ledger_revoke(struct ledger *l, const char *name, struct err *e);
/* What a key may do now; *k is filled or stored. HD_EARG: there is no such key. */
int ledger_read_limits(struct ledger *l, const char *name, struct key_limits *k, struct err *e);
int ledger_set_limits(struct ledger *l, const char *name, const struct key_limits *k, struct err *e);

struct ledger_key {
    int64_t id; /* from 1 */
    const char *name, *hint; /* hint: the key's beginning and end */
    struct key_limits limits;
    double spent;             /* dollars */
    int64_t created, revoked; /* seconds since 1970; revoked 0: not */
};
/* Reads the keys again; HD_EIO when that is not possible, the old ones hold then. */
int ledger_reload(struct ledger *l, struct err *e);
size_t ledger_n_keys(const struct ledger *l); /* as last read, revoked ones included */
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
/* Every row in order; only the counts and times of *r are filled. */
int ledger_rows(struct ledger *l, void (*fn)(void *arg, const struct ledger_row *r), void *arg, struct err *e);
/* by: "key", "day", "model" or "user". */
int ledger_sums(struct ledger *l, const char *by, void (*fn)(void *arg, const struct ledger_sum *s), void *arg,
                struct err *e);

#endif
