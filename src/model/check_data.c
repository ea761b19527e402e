/* Reading tensor data for NaN codes. Scales are always read: one bad byte poisons a block of weights. e4m3 weights
 * are read up to a total: beyond it lie only the Base checkpoints, whose routed experts would cost minutes of disk
 * time. */
#include "model/bind.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define CHECK_E4M3_BYTES_MAX ((uint64_t)64 << 30)

/* Index of the first byte with all of 0x7f set, or n. */
static size_t find_e4m3_nan(const uint8_t *p, size_t n)
{
    enum { BLOCK = 4096 };
    for (size_t i = 0; i < n; i += BLOCK) {
        size_t end = n - i < BLOCK ? n : i + BLOCK;
        unsigned bad = 0;
        for (size_t k = i; k < end; k++)
            bad |= (p[k] & 0x7f) == 0x7f;
        for (size_t k = i; bad != 0 && k < end; k++)
            if ((p[k] & 0x7f) == 0x7f)
                return k;
    }
    return n;
}

static size_t find_f32_bad(const uint8_t *p, size_t n)
{
    for (size_t i = 0; i < n; i += 4) {
        float x;
        memcpy(&x, p + i, 4);
        if (!isfinite(x))
            return i;
    }
    return n;
}

static int check_one(const struct checkpoint *c, const struct data_check *d, struct err *e)
{
    const struct tensor *t = d->tensor;
    size_t n = (size_t)t->bytes, at = n;
    if (d->kind == CHECK_E8M0) {
        const uint8_t *bad = memchr(t->data, 255, n);
        at = bad == NULL ? n : (size_t)(bad - t->data);
    } else {
        at = d->kind == CHECK_E4M3 ? find_e4m3_nan(t->data, n) : find_f32_bad(t->data, n);
    }
    if (at == n)
        return HD_OK;
    return err_set(e, HD_EFORMAT, "%s: tensor %s holds %s at element %zu, expected %s", c->shards[t->i_shard].path,
                   t->name, d->kind == CHECK_F32 ? "a NaN or an infinity" : "a NaN",
                   at / (size_t)dtype_bytes(t->dtype),
                   d->kind == CHECK_E8M0 ? "scale bytes 0 to 254" : "finite values");
}

/* Checks are handed out in runs of about RUN_BYTES; of several bad tensors the first in binding order is reported, so
 * that the sentence does not depend on the number of threads. */
enum { RUN_BYTES = 2 << 20, BATCH_RUNS = 64, POOL_FROM_BYTES = 16 << 20 };

struct check_run {
    int64_t begin, end;
};

struct checker {
    const struct binder *b;
    struct check_run runs[BATCH_RUNS];
    struct err errors[BATCH_RUNS];
};

static void check_one_run(void *arg, int i_task, int i_thread)
{
    struct checker *k = arg;
    (void)i_thread;
    for (int64_t i = k->runs[i_task].begin; i < k->runs[i_task].end; i++)
        if (check_one(&k->b->w->ckpt, &k->b->checks[i], &k->errors[i_task]) != HD_OK)
            return;
}

/* Drops the e4m3 weights beyond the limit from the list; returns the bytes that are left to read. */
static uint64_t limit_checks(struct binder *b)
{
    uint64_t total = 0, e4m3_bytes = 0;
    int64_t n = 0;
    for (int64_t i = 0; i < b->n_checks; i++) {
        const struct data_check *d = &b->checks[i];
        if (d->kind == CHECK_E4M3 && (e4m3_bytes += d->tensor->bytes) > CHECK_E4M3_BYTES_MAX)
            continue;
        total += d->tensor->bytes;
        b->checks[n++] = *d;
    }
    b->n_checks = n;
    return total;
}

/* One batch of runs from check number i on; moves i and done forward. */
static int check_batch(struct checker *k, struct pool *pool, int64_t *i, uint64_t *done, struct err *e)
{
    int n = 0;
    for (; n < BATCH_RUNS && *i < k->b->n_checks; n++) {
        k->runs[n].begin = *i;
        for (uint64_t bytes = 0; bytes < RUN_BYTES && *i < k->b->n_checks; ++*i) {
            bytes += k->b->checks[*i].tensor->bytes;
            *done += k->b->checks[*i].tensor->bytes;
        }
        k->runs[n].end = *i;
    }
    pool_run(pool, n, check_one_run, k);
    for (int r = 0; r < n; r++)
        if (k->errors[r].code != HD_OK)
            return err_set(e, k->errors[r].code, "%s", k->errors[r].msg);
    return HD_OK;
}

int data_checks_run(struct binder *b, const struct progress *p, struct err *e)
{
    struct checker *k = xcalloc(1, sizeof *k);
    struct pool *pool = NULL;
    uint64_t total = limit_checks(b), done = 0;
    int rc = total < POOL_FROM_BYTES ? HD_OK : pool_open(&pool, 0, e);
    k->b = b;
    for (int64_t i = 0; i < b->n_checks && rc == HD_OK;) {
        rc = check_batch(k, pool, &i, &done, e);
        if (rc == HD_OK && progress_tell(p, "checking weights", done, total) != HD_OK)
            rc = err_set(e, HD_ECANCELLED, "%s: stopped while checking weights", b->w->ckpt.dir);
    }
    pool_close(&pool);
    free(k);
    return rc;
}
