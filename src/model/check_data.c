/* Reading tensor data for NaN codes. Scales are always read: one bad byte poisons a block of weights. e4m3 weights
 * are read up to a total: beyond it lie only the Base checkpoints, whose routed experts would cost minutes of disk
 * time. */
#include "model/bind.h"

#include <math.h>
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
    return err_set(e, HD_EFORMAT, "%s: tensor %s holds a NaN at element %zu, expected %s", c->shards[t->i_shard].path,
                   t->name, at / (size_t)dtype_bytes(t->dtype),
                   d->kind == CHECK_E8M0 ? "scale bytes 0 to 254" : "finite values");
}

int data_checks_run(const struct binder *b, const struct progress *p, struct err *e)
{
    uint64_t total = 0, done = 0, e4m3_bytes = 0;
    for (int64_t i = 0; i < b->n_checks; i++)
        total += b->checks[i].tensor->bytes;
    for (int64_t i = 0; i < b->n_checks; i++) {
        const struct data_check *d = &b->checks[i];
        done += d->tensor->bytes;
        if (d->kind == CHECK_E4M3 && (e4m3_bytes += d->tensor->bytes) > CHECK_E4M3_BYTES_MAX)
            continue;
        int rc = check_one(&b->w->ckpt, d, e);
        if (rc != HD_OK)
            return rc;
        if (progress_tell(p, "checking weights", done, total) != HD_OK)
            return err_set(e, HD_ECANCELLED, "%s: stopped while checking weights", b->w->ckpt.dir);
    }
    return HD_OK;
}
