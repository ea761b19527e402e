/* Headers of safetensors files: one pass over the JSON, then the checks on the layout as a whole. */
#include "model/safetensors.h"

#include "model/jscan.h"
#include "model/names.h"

#include <stdlib.h>
#include <string.h>

static const struct {
    const char *name;
    int bytes;
} dtypes[DT_COUNT] = {
    [DT_NONE] = {"none", 0},       [DT_F32] = {"F32", 4},         [DT_BF16] = {"BF16", 2}, [DT_F16] = {"F16", 2},
    [DT_F8_E4M3] = {"F8_E4M3", 1}, [DT_F8_E8M0] = {"F8_E8M0", 1}, [DT_I8] = {"I8", 1},     [DT_I32] = {"I32", 4},
    [DT_I64] = {"I64", 8},         [DT_U8] = {"U8", 1},
};

const char *dtype_name(enum dtype t)
{
    return dtypes[t].name;
}

int dtype_bytes(enum dtype t)
{
    return dtypes[t].bytes;
}

static enum dtype dtype_parse(const char *name)
{
    for (int t = DT_NONE + 1; t < DT_COUNT; t++)
        if (strcmp(dtypes[t].name, name) == 0)
            return (enum dtype)t;
    return DT_NONE;
}

/* What is being parsed, for errors. */
struct source {
    const char *path, *tensor;
    uint64_t data_bytes;
    struct err *e;
};

static int bad_json(const struct source *s, const struct jscan *j)
{
    return err_set(s->e, HD_EFORMAT, "%s: the header is not valid JSON near byte %zu%s%s", s->path, jscan_at(j),
                   s->tensor != NULL ? ", tensor " : "", s->tensor != NULL ? s->tensor : "");
}

static int read_dtype(const struct source *s, struct jscan *j, struct tensor *t)
{
    char text[64];
    size_t n;
    if (!jscan_text(j, text, sizeof text, &n))
        return bad_json(s, j);
    t->dtype = dtype_parse(text);
    if (t->dtype == DT_NONE)
        return err_set(
            s->e, HD_EUNSUPPORTED,
            "%s: tensor %s has dtype \"%s\", expected F32, BF16, F16, F8_E4M3, F8_E8M0, I8, U8, I32 or I64", s->path,
            t->name, text);
    return HD_OK;
}

static int read_shape(const struct source *s, struct jscan *j, struct tensor *t)
{
    bool first = true;
    if (!jscan_char(j, '['))
        return bad_json(s, j);
    while (jscan_more(j, ']', &first)) {
        uint64_t d = 0;
        if (!jscan_u64(j, &d))
            return bad_json(s, j);
        if (t->n_dims == TENSOR_DIMS_MAX || d > INT64_MAX)
            return err_set(s->e, HD_EFORMAT, "%s: tensor %s has a shape that is too large (at most %d dimensions)",
                           s->path, t->name, TENSOR_DIMS_MAX);
        t->dim[t->n_dims++] = (int64_t)d;
    }
    return j->failed ? bad_json(s, j) : HD_OK;
}

static int read_offsets(const struct source *s, struct jscan *j, struct tensor *t)
{
    uint64_t end = 0;
    if (!jscan_char(j, '[') || !jscan_u64(j, &t->offset) || !jscan_char(j, ',') || !jscan_u64(j, &end) ||
        !jscan_char(j, ']'))
        return bad_json(s, j);
    if (end < t->offset)
        return err_set(s->e, HD_EFORMAT, "%s: tensor %s has its data_offsets in the wrong order", s->path, t->name);
    if (end > s->data_bytes)
        return err_set(s->e, HD_EFORMAT,
                       "%s: tensor %s ends at data byte %llu, but the file holds only %llu (truncated or damaged)",
                       s->path, t->name, (unsigned long long)end, (unsigned long long)s->data_bytes);
    t->bytes = end - t->offset;
    return HD_OK;
}

static int check_size(const struct source *s, const struct tensor *t)
{
    uint64_t n = (uint64_t)dtype_bytes(t->dtype);
    bool overflow = false;
    for (int i = 0; i < t->n_dims; i++)
        overflow |= __builtin_mul_overflow(n, (uint64_t)t->dim[i], &n);
    if (overflow)
        return err_set(s->e, HD_EFORMAT, "%s: tensor %s has a shape whose size overflows", s->path, t->name);
    if (n != t->bytes)
        return err_set(s->e, HD_EFORMAT, "%s: tensor %s takes %llu bytes, but its dtype and shape need %llu", s->path,
                       t->name, (unsigned long long)t->bytes, (unsigned long long)n);
    return HD_OK;
}

/* {"dtype": .., "shape": [..], "data_offsets": [..]} */
static int read_tensor(const struct source *s, struct jscan *j, struct tensor *t)
{
    enum { DTYPE = 1, SHAPE = 2, OFFSETS = 4, ALL = 7 };
    int seen = 0, rc = HD_OK;
    bool first = true;
    if (!jscan_char(j, '{'))
        return bad_json(s, j);
    while (rc == HD_OK && jscan_more(j, '}', &first)) {
        char key[32];
        size_t n;
        if (!jscan_text(j, key, sizeof key, &n) || !jscan_char(j, ':'))
            return bad_json(s, j);
        int field = strcmp(key, "dtype") == 0          ? DTYPE
                    : strcmp(key, "shape") == 0        ? SHAPE
                    : strcmp(key, "data_offsets") == 0 ? OFFSETS
                                                       : 0;
        if ((seen & field) != 0)
            return err_set(s->e, HD_EFORMAT, "%s: tensor %s gives \"%s\" twice", s->path, t->name, key);
        seen |= field;
        rc = field == DTYPE     ? read_dtype(s, j, t)
             : field == SHAPE   ? read_shape(s, j, t)
             : field == OFFSETS ? read_offsets(s, j, t)
             : jscan_skip(j)    ? HD_OK
                                : bad_json(s, j);
    }
    if (rc != HD_OK)
        return rc;
    if (j->failed)
        return bad_json(s, j);
    if (seen != ALL)
        return err_set(s->e, HD_EFORMAT, "%s: tensor %s lacks \"%s\"", s->path, t->name,
                       !(seen & DTYPE)   ? "dtype"
                       : !(seen & SHAPE) ? "shape"
                                         : "data_offsets");
    return check_size(s, t);
}

static struct tensor *tensor_append(struct checkpoint *c)
{
    if (c->n_tensors == c->cap_tensors) {
        int64_t cap = c->cap_tensors + c->cap_tensors / 2 + 1024;
        struct tensor *p = realloc(c->tensors, (size_t)cap * sizeof *p);
        if (p == NULL)
            return NULL;
        c->tensors = p;
        c->cap_tensors = cap;
    }
    struct tensor *t = &c->tensors[c->n_tensors++];
    *t = (struct tensor){0};
    return t;
}

static int by_offset(const void *a, const void *b)
{
    const struct tensor *x = a, *y = b;
    if (x->offset != y->offset)
        return x->offset < y->offset ? -1 : 1;
    return x->bytes < y->bytes ? -1 : x->bytes > y->bytes;
}

/* The tensors of one file must tile its data part: no overlap, no gap. */
static int check_layout(const struct source *s, struct tensor *t, int64_t n)
{
    uint64_t end = 0;
    bool sorted = true;
    for (int64_t i = 1; i < n && sorted; i++)
        sorted = by_offset(&t[i - 1], &t[i]) <= 0;
    if (!sorted)
        qsort(t, (size_t)n, sizeof *t, by_offset);
    for (int64_t i = 0; i < n; i++) {
        if (t[i].offset < end)
            return err_set(s->e, HD_EFORMAT, "%s: tensor %s begins at data byte %llu inside tensor %s", s->path,
                           t[i].name, (unsigned long long)t[i].offset, t[i - 1].name);
        if (t[i].offset > end)
            return err_set(s->e, HD_EFORMAT, "%s: the data before tensor %s, bytes %llu to %llu, belong to no tensor",
                           s->path, t[i].name, (unsigned long long)end, (unsigned long long)t[i].offset);
        end = t[i].offset + t[i].bytes;
    }
    if (end != s->data_bytes)
        return err_set(s->e, HD_EFORMAT, "%s: the data from byte %llu to %llu belong to no tensor", s->path,
                       (unsigned long long)end, (unsigned long long)s->data_bytes);
    return HD_OK;
}

int safetensors_parse_header(struct checkpoint *c, int i_shard, const char *json, size_t n, uint64_t data_bytes,
                             const char *path, struct err *e)
{
    struct source s = {path, NULL, data_bytes, e};
    struct jscan j;
    int64_t begin = c->n_tensors;
    bool first = true;
    jscan_init(&j, json, n);
    if (!jscan_char(&j, '{'))
        return bad_json(&s, &j);
    while (jscan_more(&j, '}', &first)) {
        char name[TENSOR_NAME_MAX];
        size_t len;
        if (!jscan_text(&j, name, sizeof name, &len) || !jscan_char(&j, ':'))
            return bad_json(&s, &j);
        if (strcmp(name, "__metadata__") == 0) {
            if (!jscan_skip(&j))
                return bad_json(&s, &j);
            continue;
        }
        struct tensor *t = tensor_append(c);
        if (t == NULL)
            return err_set(e, HD_ENOMEM, "%s: out of memory for the list of tensors", path);
        t->name = name_store(&c->names, name, name_canonical(name, len));
        t->i_shard = i_shard;
        s.tensor = t->name;
        int rc = read_tensor(&s, &j, t);
        if (rc != HD_OK)
            return rc;
    }
    s.tensor = NULL;
    if (j.failed || !jscan_at_end(&j))
        return bad_json(&s, &j);
    return check_layout(&s, c->tensors + begin, c->n_tensors - begin);
}
