/* Binding single tensors: find, check dtype and shape, align or widen. */
#include "model/bind.h"

#include "num/num.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* One allocation of the arena: a link, then the memory, 64-byte aligned. */
struct arena_block {
    struct arena_block *next;
    char pad[56];
};

void *bind_alloc(struct binder *b, size_t bytes)
{
    struct arena_block *block = try_alloc(sizeof *block + bytes);
    if (block == NULL) {
        b->rc = err_set(b->e, HD_ENOMEM, "%s: out of memory while loading %zu bytes of tensor %s", b->w->ckpt.dir,
                        bytes, b->name);
        return NULL;
    }
    block->next = b->w->arena;
    b->w->arena = block;
    return block + 1;
}

void weights_arena_free(struct weights *w)
{
    for (struct arena_block *p = w->arena, *next; p != NULL; p = next) {
        next = p->next;
        free(p);
    }
    w->arena = NULL;
}

void bind_prefix(struct binder *b, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(b->prefix, sizeof b->prefix, fmt, ap);
    va_end(ap);
}

static const struct tensor *find(struct binder *b, const char *name, const char *suffix)
{
    snprintf(b->name, sizeof b->name, "%s%s%s", b->prefix, name, suffix);
    return checkpoint_find(&b->w->ckpt, b->name);
}

bool bind_has(struct binder *b, const char *name)
{
    return find(b, name, "") != NULL;
}

static void take(struct binder *b, const struct tensor *t)
{
    b->used[t - b->w->ckpt.tensors] = true;
}

static const char *path_of(const struct binder *b, const struct tensor *t)
{
    return b->w->ckpt.shards[t->i_shard].path;
}

static void refuse_dtype(struct binder *b, const struct tensor *t, const char *expected)
{
    b->rc = err_set(b->e, HD_EFORMAT, "%s: tensor %s has dtype %s, expected %s", path_of(b, t), t->name,
                    dtype_name(t->dtype), expected);
}

static void print_shape(char *out, size_t cap, const int64_t *dim, int n)
{
    size_t at = 0;
    for (int i = 0; i < n && at < cap; i++)
        at += (size_t)snprintf(out + at, cap - at, "%s%lld", i ? ", " : "", (long long)dim[i]);
    if (n == 0)
        out[0] = '\0';
}

/* cols 0 means one dimension. */
static bool check_shape(struct binder *b, const struct tensor *t, int64_t rows, int64_t cols)
{
    int n = cols == 0 ? 1 : 2;
    if (t->n_dims == n && t->dim[0] == rows && (n == 1 || t->dim[1] == cols))
        return true;
    char have[160], want[64];
    print_shape(have, sizeof have, t->dim, t->n_dims);
    print_shape(want, sizeof want, (const int64_t[]){rows, cols}, n);
    b->rc =
        err_set(b->e, HD_EFORMAT, "%s: tensor %s has shape [%s], expected [%s]", path_of(b, t), t->name, have, want);
    return false;
}

static const struct tensor *need(struct binder *b, const char *name, const char *suffix, int64_t rows, int64_t cols)
{
    const struct tensor *t = find(b, name, suffix);
    if (t == NULL) {
        char want[64];
        print_shape(want, sizeof want, (const int64_t[]){rows, cols}, cols == 0 ? 1 : 2);
        b->rc =
            err_set(b->e, HD_EFORMAT, "%s: tensor %s is missing, expected shape [%s]", b->w->ckpt.dir, b->name, want);
        return NULL;
    }
    take(b, t);
    return t;
}

/* The tensor's data at its natural alignment: in the mapping, or copied when the file put it elsewhere. */
static const void *aligned_data(struct binder *b, const struct tensor *t)
{
    if (t->data == NULL || (uintptr_t)t->data % (uintptr_t)dtype_bytes(t->dtype) == 0)
        return t->data;
    void *copy = bind_alloc(b, t->bytes);
    return copy == NULL ? NULL : memcpy(copy, t->data, t->bytes);
}

static void check_later(struct binder *b, const struct tensor *t, enum check_kind kind)
{
    if (!b->check_data || t->data == NULL)
        return;
    if (b->n_checks == b->cap_checks) {
        b->cap_checks = b->cap_checks * 2 + 256;
        b->checks = xrealloc(b->checks, (size_t)b->cap_checks * sizeof *b->checks);
    }
    b->checks[b->n_checks++] = (struct data_check){t, kind};
}

static void bind_scale(struct binder *b, struct matrix *m, const char *name, int64_t rows, int64_t cols)
{
    const struct tensor *t = need(b, name, ".scale", rows, cols);
    if (t == NULL || !check_shape(b, t, rows, cols))
        return;
    if (t->dtype != DT_F8_E8M0 && t->dtype != DT_F32) {
        refuse_dtype(b, t, "F8_E8M0 or F32");
        return;
    }
    check_later(b, t, t->dtype == DT_F32 ? CHECK_F32 : CHECK_E8M0);
    m->scale = aligned_data(b, t);
    m->scale_dtype = t->dtype;
}

void bind_matrix(struct binder *b, struct matrix *m, const char *name, int rows, int cols)
{
    *m = (struct matrix){.rows = rows, .cols = cols};
    if (b->rc != HD_OK)
        return;
    const struct tensor *t = need(b, name, ".weight", rows, cols);
    if (t == NULL)
        return;
    bool fp4 = t->dtype == DT_I8, fp8 = t->dtype == DT_F8_E4M3;
    if (!fp4 && !fp8 && t->dtype != DT_F32 && t->dtype != DT_BF16 && t->dtype != DT_F16) {
        refuse_dtype(b, t, "F8_E4M3, I8 (packed FP4), BF16, F16 or F32");
        return;
    }
    if (fp4 && cols % 32 != 0) {
        b->rc = err_set(b->e, HD_EFORMAT,
                        "%s: tensor %s is packed FP4, expected a width that is a multiple of 32, not %d",
                        path_of(b, t), t->name, cols);
        return;
    }
    if (!check_shape(b, t, rows, fp4 ? cols / 2 : cols))
        return;
    m->name = t->name;
    m->dtype = t->dtype;
    m->data = aligned_data(b, t);
    if (fp8)
        check_later(b, t, CHECK_E4M3);
    if (fp8)
        bind_scale(b, m, name, (rows + 127) / 128, (cols + 127) / 128);
    else if (fp4)
        bind_scale(b, m, name, rows, cols / 32);
    else if (find(b, name, ".scale") != NULL)
        refuse_dtype(b, t, "F8_E4M3 or I8, because it has a scale");
}

/* ---------------------------------------------------------------- fp32 tensors, and small ones widened to it */

/* BF16 or F16 to fp32; whether all values are finite. */
static bool widen(enum dtype dtype, const uint8_t *data, size_t n, float *out)
{
    bool finite = true;
    for (size_t i = 0; i < n; i++) {
        uint16_t h;
        memcpy(&h, data + 2 * i, 2);
        out[i] = dtype == DT_BF16 ? f32_from_bf16(h) : f32_from_f16(h);
        finite &= isfinite(out[i]) != 0;
    }
    return finite;
}

void bind_vec(struct binder *b, struct vec *v, const char *name, int rows, int cols)
{
    *v = (struct vec){0};
    if (b->rc != HD_OK)
        return;
    const struct tensor *t = need(b, name, "", rows, cols);
    if (t == NULL)
        return;
    if (t->dtype != DT_F32 && t->dtype != DT_BF16 && t->dtype != DT_F16) {
        refuse_dtype(b, t, "F32, BF16 or F16");
        return;
    }
    if (!check_shape(b, t, rows, cols))
        return;
    v->n = rows * (cols == 0 ? 1 : cols);
    if (t->data == NULL)
        return;
    if (t->dtype == DT_F32) {
        v->data = aligned_data(b, t);
        check_later(b, t, CHECK_F32);
        return;
    }
    float *out = bind_alloc(b, (size_t)v->n * sizeof *out);
    if (out == NULL)
        return;
    if (!widen(t->dtype, t->data, (size_t)v->n, out) && b->check_data)
        b->rc = err_set(b->e, HD_EFORMAT, "%s: tensor %s holds a value that is not a finite number", path_of(b, t),
                        t->name);
    v->data = out;
}

/* ---------------------------------------------------------------- the hash routing table */

static int64_t table_id(const struct tensor *t, size_t i)
{
    if (t->dtype == DT_I64) {
        int64_t v;
        memcpy(&v, t->data + 8 * i, 8);
        return v;
    }
    int32_t v;
    memcpy(&v, t->data + 4 * i, 4);
    return v;
}

/* Ids within [0, E) and no id twice in a row: the reference adds each expert once. */
static void check_table(struct binder *b, const struct tensor *t)
{
    const struct config *c = &b->w->cfg;
    size_t k = (size_t)c->n_experts_per_tok;
    for (size_t row = 0; row < (size_t)c->vocab_size; row++)
        for (size_t i = 0; i < k; i++) {
            int64_t id = table_id(t, row * k + i);
            bool twice = false;
            for (size_t j = 0; j < i; j++)
                twice |= table_id(t, row * k + j) == id;
            if (id < 0 || id >= c->n_experts || twice) {
                b->rc = err_set(b->e, HD_EFORMAT,
                                "%s: tensor %s has expert %lld in row %zu%s, expected distinct ids 0 to %d",
                                path_of(b, t), t->name, (long long)id, row, twice ? " twice" : "", c->n_experts - 1);
                return;
            }
        }
}

void bind_tid2eid(struct binder *b, struct layer_weights *lw)
{
    const struct config *c = &b->w->cfg;
    if (b->rc != HD_OK)
        return;
    const struct tensor *t = need(b, "ffn.gate.tid2eid", "", c->vocab_size, c->n_experts_per_tok);
    if (t == NULL)
        return;
    if (t->dtype != DT_I64 && t->dtype != DT_I32) {
        refuse_dtype(b, t, "I64 or I32");
        return;
    }
    if (!check_shape(b, t, c->vocab_size, c->n_experts_per_tok))
        return;
    if (t->dtype == DT_I64)
        lw->tid2eid = aligned_data(b, t);
    else
        lw->tid2eid32 = aligned_data(b, t);
    if (b->check_data && t->data != NULL)
        check_table(b, t);
}
