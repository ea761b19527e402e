/* Keys and usage in SQLite. */
#include "serve/ledger.h"
#include "serve/api.h"
#include "serve/sha256.h"

#include <fcntl.h>
#include <sqlite3.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <time.h>
#include <unistd.h>

enum { RANDOM_WORDS = 4 };

struct key {
    struct ledger_key row; /* its texts are owned */
    uint8_t hash[SHA256_BYTES];
};

struct ledger {
    sqlite3 *db;
    char *path;
    struct key *keys; /* as they were at data_version */
    size_t n_keys;
    int64_t data_version;
    sqlite3_stmt *add_row, *version;
};

static const char schema[] =
    "PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL;"
    "CREATE TABLE IF NOT EXISTS keys (id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, hint TEXT NOT NULL,"
    " hash BLOB NOT NULL, limit_usd REAL NOT NULL, created INTEGER NOT NULL, revoked INTEGER NOT NULL DEFAULT 0);"
    "CREATE TABLE IF NOT EXISTS usage (id INTEGER PRIMARY KEY, request TEXT NOT NULL UNIQUE, key_id INTEGER NOT NULL,"
    " user TEXT NOT NULL, model TEXT NOT NULL, api TEXT NOT NULL, hit INTEGER NOT NULL, miss INTEGER NOT NULL,"
    " completion INTEGER NOT NULL, reasoning INTEGER NOT NULL, cost REAL NOT NULL, started REAL NOT NULL,"
    " ended REAL NOT NULL, finish TEXT NOT NULL);"
    "CREATE INDEX IF NOT EXISTS usage_by_key ON usage (key_id);";

/* Columns that files of earlier versions do not have. */
static const char *const later_columns[] = {
    "requests_max INTEGER NOT NULL DEFAULT 0", "priority INTEGER NOT NULL DEFAULT 0", "weight REAL NOT NULL DEFAULT 1",
    "deadline_s REAL NOT NULL DEFAULT 0",
};

static int failed(struct ledger *l, struct err *e)
{
    return err_set(e, HD_EIO, "%s: %s", l->path, sqlite3_errmsg(l->db));
}

static int prepare(struct ledger *l, const char *sql, sqlite3_stmt **s, struct err *e)
{
    return sqlite3_prepare_v2(l->db, sql, -1, s, NULL) == SQLITE_OK ? HD_OK : failed(l, e);
}

static int add_columns(struct ledger *l, struct err *e)
{
    sqlite3_stmt *s;
    if (sqlite3_prepare_v2(l->db, "SELECT deadline_s FROM keys", -1, &s, NULL) == SQLITE_OK) {
        sqlite3_finalize(s);
        return HD_OK;
    }
    int rc = sqlite3_exec(l->db, "BEGIN IMMEDIATE", NULL, NULL, NULL);
    for (size_t i = 0; i < COUNT_OF(later_columns) && rc == SQLITE_OK; i++) {
        char *sql = xasprintf("ALTER TABLE keys ADD COLUMN %s", later_columns[i]);
        rc = sqlite3_exec(l->db, sql, NULL, NULL, NULL);
        free(sql);
    }
    if (rc == SQLITE_OK)
        rc = sqlite3_exec(l->db, "COMMIT", NULL, NULL, NULL);
    return rc == SQLITE_OK ? HD_OK : failed(l, e);
}

int ledger_open(struct ledger **out, const char *path, struct err *e)
{
    struct ledger *l = xcalloc(1, sizeof *l);
    l->path = xstrdup(path);
    l->data_version = -1;
    int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (fd >= 0)
        close(fd);
    int rc = HD_OK;
    if (fd < 0 || sqlite3_open_v2(path, &l->db, SQLITE_OPEN_READWRITE, NULL) != SQLITE_OK)
        rc = err_set(e, HD_EIO, "%s: the ledger cannot be opened", path);
    if (rc == HD_OK) {
        sqlite3_busy_timeout(l->db, 10000);
        if (sqlite3_exec(l->db, schema, NULL, NULL, NULL) != SQLITE_OK)
            rc = failed(l, e);
    }
    if (rc == HD_OK)
        rc = add_columns(l, e);
    if (rc == HD_OK)
        rc = prepare(l, "INSERT INTO usage (request, key_id, user, model, api, hit, miss, completion, reasoning, cost,"
                     " started, ended, finish) VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?)", &l->add_row, e);
    if (rc == HD_OK)
        rc = prepare(l, "PRAGMA data_version", &l->version, e);
    if (rc != HD_OK)
        ledger_close(&l);
    *out = l;
    return rc;
}

static void forget_keys(struct ledger *l)
{
    for (size_t i = 0; i < l->n_keys; i++) {
        free((char *)(uintptr_t)l->keys[i].row.name);
        free((char *)(uintptr_t)l->keys[i].row.hint);
    }
    free(l->keys);
    l->keys = NULL;
    l->n_keys = 0;
}

void ledger_close(struct ledger **out)
{
    struct ledger *l = *out;
    *out = NULL;
    if (l == NULL)
        return;
    forget_keys(l);
    sqlite3_finalize(l->add_row);
    sqlite3_finalize(l->version);
    sqlite3_close(l->db);
    free(l->path);
    free(l);
}

/* ---------------------------------------------------------------- keys */

void key_limits_init(struct key_limits *k)
{
    *k = (struct key_limits){.dollars = -1, .weight = 1};
}

#define LIMIT_COLUMNS "limit_usd, requests_max, priority, weight, deadline_s"

static struct key_limits read_limits(sqlite3_stmt *s, int column)
{
    return (struct key_limits){.dollars = sqlite3_column_double(s, column), .requests = sqlite3_column_int64(s, column + 1),
                               .priority = sqlite3_column_int64(s, column + 2),
                               .weight = sqlite3_column_double(s, column + 3),
                               .deadline_s = sqlite3_column_double(s, column + 4)};
}

/* The values of LIMIT_COLUMNS as parameters 1 to 5. */
static void bind_limits(sqlite3_stmt *s, const struct key_limits *k)
{
    sqlite3_bind_double(s, 1, k->dollars);
    sqlite3_bind_int64(s, 2, k->requests);
    sqlite3_bind_int64(s, 3, k->priority);
    sqlite3_bind_double(s, 4, k->weight);
    sqlite3_bind_double(s, 5, k->deadline_s);
}

static struct key read_key(sqlite3_stmt *s)
{
    struct key k = {.row = {.id = sqlite3_column_int64(s, 0),
                            .name = xstrdup((const char *)sqlite3_column_text(s, 1)),
                            .hint = xstrdup((const char *)sqlite3_column_text(s, 2)),
                            .created = sqlite3_column_int64(s, 4),
                            .revoked = sqlite3_column_int64(s, 5),
                            .spent = sqlite3_column_double(s, 6),
                            .limits = read_limits(s, 7)}};
    if (sqlite3_column_bytes(s, 3) == SHA256_BYTES)
        memcpy(k.hash, sqlite3_column_blob(s, 3), SHA256_BYTES);
    return k;
}

/* The keys as the file has them now; those of before stay when it cannot be read. */
static int load_keys(struct ledger *l, struct err *e)
{
    sqlite3_stmt *s;
    struct ledger now = {0};
    int rc = prepare(l, "SELECT id, name, hint, hash, created, revoked,"
                     " (SELECT COALESCE(SUM(cost), 0) FROM usage WHERE key_id = keys.id), " LIMIT_COLUMNS
                     " FROM keys ORDER BY id", &s, e);
    if (rc != HD_OK)
        return rc;
    while ((rc = sqlite3_step(s)) == SQLITE_ROW) {
        now.keys = xrealloc(now.keys, (now.n_keys + 1) * sizeof *now.keys);
        now.keys[now.n_keys++] = read_key(s);
    }
    sqlite3_finalize(s);
    if (rc != SQLITE_DONE) {
        forget_keys(&now);
        return failed(l, e);
    }
    forget_keys(l);
    l->keys = now.keys;
    l->n_keys = now.n_keys;
    return HD_OK;
}

static bool refresh(struct ledger *l)
{
    struct err e = {0};
    sqlite3_reset(l->version);
    int64_t version = sqlite3_step(l->version) == SQLITE_ROW ? sqlite3_column_int64(l->version, 0) : -2;
    sqlite3_reset(l->version);
    if (version == l->data_version)
        return true;
    if (version == -2 || load_keys(l, &e) != HD_OK)
        return false;
    l->data_version = version;
    return true;
}

int ledger_reload(struct ledger *l, struct err *e)
{
    return load_keys(l, e);
}

size_t ledger_n_keys(const struct ledger *l)
{
    return l->n_keys;
}

bool ledger_find(struct ledger *l, const char *key, struct ledger_key *out)
{
    uint8_t hash[SHA256_BYTES];
    bool found = false;
    if (!refresh(l))
        return false;
    sha256(key, strlen(key), hash);
    for (size_t i = 0; i < l->n_keys; i++) { /* all of them: the time tells nothing */
        bool equal = sha256_equal(hash, l->keys[i].hash);
        if (equal && l->keys[i].row.revoked == 0) {
            *out = l->keys[i].row;
            found = true;
        }
    }
    return found;
}

int ledger_list(struct ledger *l, void (*fn)(void *arg, const struct ledger_key *k), void *arg, struct err *e)
{
    int rc = load_keys(l, e);
    for (size_t i = 0; rc == HD_OK && i < l->n_keys; i++)
        fn(arg, &l->keys[i].row);
    return rc;
}

int ledger_add_key(struct ledger *l, const char *name, const struct key_limits *k, char *key, struct err *e)
{
    uint64_t random[RANDOM_WORDS];
    uint8_t hash[SHA256_BYTES];
    char hint[16];
    sqlite3_stmt *s;
    if (getrandom(random, sizeof random, 0) != (ssize_t)sizeof random)
        return err_set(e, HD_EIO, "the operating system gave no random key");
    memcpy(key, "sk-", 3);
    for (int i = 0; i < RANDOM_WORDS; i++)
        api_base62(key + 3 + 10 * i, random[i], 10);
    sha256(key, strlen(key), hash);
    snprintf(hint, sizeof hint, "%.5s...%s", key, key + strlen(key) - 4);
    int rc = prepare(l, "INSERT INTO keys (" LIMIT_COLUMNS ", name, hint, hash, created) VALUES (?,?,?,?,?,?,?,?,?)", &s, e);
    if (rc != HD_OK)
        return rc;
    bind_limits(s, k);
    sqlite3_bind_text(s, 6, name, -1, SQLITE_STATIC);
    sqlite3_bind_text(s, 7, hint, -1, SQLITE_STATIC);
    sqlite3_bind_blob(s, 8, hash, sizeof hash, SQLITE_STATIC);
    sqlite3_bind_int64(s, 9, time(NULL));
    rc = sqlite3_step(s);
    sqlite3_finalize(s);
    if (rc == SQLITE_CONSTRAINT)
        return err_set(e, HD_EARG, "there is a key named '%s' already", name);
    return rc == SQLITE_DONE ? HD_OK : failed(l, e);
}

static int no_such_key(const char *name, struct err *e)
{
    return err_set(e, HD_EARG, "there is no key named '%s'", name);
}

static int change(struct ledger *l, sqlite3_stmt *s, const char *name, struct err *e)
{
    int rc = sqlite3_step(s);
    sqlite3_finalize(s);
    if (rc != SQLITE_DONE)
        return failed(l, e);
    return sqlite3_changes(l->db) > 0 ? HD_OK : no_such_key(name, e);
}

int ledger_revoke(struct ledger *l, const char *name, struct err *e)
{
    sqlite3_stmt *s;
    int rc = prepare(l, "UPDATE keys SET revoked = ? WHERE name = ? AND revoked = 0", &s, e);
    if (rc != HD_OK)
        return rc;
    sqlite3_bind_int64(s, 1, time(NULL));
    sqlite3_bind_text(s, 2, name, -1, SQLITE_STATIC);
    return change(l, s, name, e);
}

int ledger_read_limits(struct ledger *l, const char *name, struct key_limits *k, struct err *e)
{
    sqlite3_stmt *s;
    int rc = prepare(l, "SELECT " LIMIT_COLUMNS " FROM keys WHERE name = ?", &s, e);
    if (rc != HD_OK)
        return rc;
    sqlite3_bind_text(s, 1, name, -1, SQLITE_STATIC);
    rc = sqlite3_step(s);
    if (rc == SQLITE_ROW)
        *k = read_limits(s, 0);
    sqlite3_finalize(s);
    if (rc == SQLITE_ROW)
        return HD_OK;
    return rc == SQLITE_DONE ? no_such_key(name, e) : failed(l, e);
}

int ledger_set_limits(struct ledger *l, const char *name, const struct key_limits *k, struct err *e)
{
    sqlite3_stmt *s;
    int rc = prepare(l, "UPDATE keys SET limit_usd = ?, requests_max = ?, priority = ?, weight = ?, deadline_s = ?"
                     " WHERE name = ?", &s, e);
    if (rc != HD_OK)
        return rc;
    bind_limits(s, k);
    sqlite3_bind_text(s, 6, name, -1, SQLITE_STATIC);
    return change(l, s, name, e);
}

/* ---------------------------------------------------------------- usage */

int ledger_add_row(struct ledger *l, const struct ledger_row *r, struct err *e)
{
    const char *const texts[] = {r->user, r->model, r->api};
    const int64_t counts[] = {r->hit, r->miss, r->completion, r->reasoning};
    const double reals[] = {r->cost, r->started, r->ended};
    sqlite3_stmt *s = l->add_row;
    sqlite3_bind_text(s, 1, r->request, -1, SQLITE_STATIC);
    sqlite3_bind_int64(s, 2, r->key_id);
    for (int i = 0; i < 3; i++)
        sqlite3_bind_text(s, 3 + i, texts[i], -1, SQLITE_STATIC);
    for (int i = 0; i < 4; i++)
        sqlite3_bind_int64(s, 6 + i, counts[i]);
    for (int i = 0; i < 3; i++)
        sqlite3_bind_double(s, 10 + i, reals[i]);
    sqlite3_bind_text(s, 13, r->finish, -1, SQLITE_STATIC);
    int rc = sqlite3_step(s);
    sqlite3_reset(s);
    sqlite3_clear_bindings(s);
    if (rc != SQLITE_DONE)
        return failed(l, e);
    for (size_t i = 0; i < l->n_keys; i++)
        if (l->keys[i].row.id == r->key_id)
            l->keys[i].row.spent += r->cost;
    return HD_OK;
}

int ledger_rows(struct ledger *l, void (*fn)(void *arg, const struct ledger_row *r), void *arg, struct err *e)
{
    sqlite3_stmt *s;
    int rc = prepare(l, "SELECT hit, miss, completion, reasoning, cost, started, ended FROM usage ORDER BY id", &s, e);
    if (rc != HD_OK)
        return rc;
    while ((rc = sqlite3_step(s)) == SQLITE_ROW) {
        struct ledger_row r = {.hit = sqlite3_column_int64(s, 0), .miss = sqlite3_column_int64(s, 1),
                               .completion = sqlite3_column_int64(s, 2), .reasoning = sqlite3_column_int64(s, 3),
                               .cost = sqlite3_column_double(s, 4), .started = sqlite3_column_double(s, 5),
                               .ended = sqlite3_column_double(s, 6)};
        fn(arg, &r);
    }
    sqlite3_finalize(s);
    return rc == SQLITE_DONE ? HD_OK : failed(l, e);
}

int ledger_sums(struct ledger *l, const char *by, void (*fn)(void *arg, const struct ledger_sum *s), void *arg,
                struct err *e)
{
    static const char *const groups[][2] = {
        {"key", "COALESCE((SELECT name FROM keys WHERE keys.id = key_id), '-')"},
        {"day", "date(ended, 'unixepoch')"},
        {"model", "model"},
        {"user", "CASE user WHEN '' THEN '-' ELSE user END"},
    };
    size_t i = 0;
    sqlite3_stmt *s;
    while (i < COUNT_OF(groups) && strcmp(groups[i][0], by) != 0)
        i++;
    if (i == COUNT_OF(groups))
        return err_set(e, HD_EARG, "usage is grouped by key, day, model or user, not by '%s'", by);
    char *sql = xasprintf("SELECT %s AS g, COUNT(*), SUM(hit), SUM(miss), SUM(completion), SUM(reasoning), SUM(cost)"
                          " FROM usage GROUP BY g ORDER BY g", groups[i][1]);
    int rc = prepare(l, sql, &s, e);
    free(sql);
    if (rc != HD_OK)
        return rc;
    while ((rc = sqlite3_step(s)) == SQLITE_ROW) {
        struct ledger_sum sum = {(const char *)sqlite3_column_text(s, 0), sqlite3_column_int64(s, 1),
                                 sqlite3_column_int64(s, 2), sqlite3_column_int64(s, 3), sqlite3_column_int64(s, 4),
                                 sqlite3_column_int64(s, 5), sqlite3_column_double(s, 6)};
        fn(arg, &sum);
    }
    sqlite3_finalize(s);
    return rc == SQLITE_DONE ? HD_OK : failed(l, e);
}
