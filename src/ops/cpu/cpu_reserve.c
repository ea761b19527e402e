/* Scratch memory for the largest operations of a model, taken once when it opens: the most that any operation asks for, for
 * each thread, for whole operations and for packed activations. */
#include "ops/cpu/fast.h"

#include <stdlib.h>

struct needs {
    size_t thread, shared; /* floats */
    size_t packed;         /* bytes */
};

static void most(size_t *have, size_t n)
{
    *have = n > *have ? n : *have;
}

static void need_attention(struct needs *n, const struct cpu_dev *c, const struct op_limits *l)
{
    size_t dim = (size_t)(l->head_dim > l->index_dim ? l->head_dim : l->index_dim);
    most(&n->thread, cpu_attn_floats(c, l->heads, l->head_dim, (size_t)l->keys, false));
    most(&n->shared, cpu_attn_floats(c, l->heads, l->head_dim, (size_t)l->keys, true));
    most(&n->thread, dim); /* compress */
    most(&n->thread, cpu_index_floats(c, l->index_heads, l->index_dim, l->index_keys));
    most(&n->shared, cpu_index_floats(c, l->index_heads, l->index_dim, l->index_keys));
    most(&n->shared, cpu_hc_floats(l->rows, (2 + l->streams) * l->streams));
}

/* Packed rows of any kind. */
static size_t packed_bytes(const struct cpu_dev *c, int n, int cols)
{
    size_t bytes = 0;
    for (int kind = 0; c->fast != NULL && kind < FX_KINDS; kind++)
        most(&bytes, fast_x_bytes(c->fast, (enum fast_x_kind)kind, n, cols));
    return bytes;
}

static void need_linear(struct needs *n, const struct cpu_dev *c, const struct op_linear_size *s)
{
    size_t strip = (size_t)s->n * FAST_STRIP * IL16_ROWS;
    most(&n->thread, (size_t)s->cols > strip ? (size_t)s->cols : strip);
    most(&n->shared, (size_t)s->n * (size_t)s->cols * (size_t)s->groups);
    most(&n->packed, packed_bytes(c, s->n, s->cols) * (size_t)s->groups);
}

/* Rows of experts add up to rows * (k + 1), packed expert by expert: each may round up as one row does. */
static void need_moe(struct needs *n, const struct cpu_dev *c, const struct op_limits *l)
{
    size_t slots = (size_t)l->experts_per_row + 1, pairs = (size_t)l->rows * slots, experts = (size_t)l->experts + 1;
    size_t groups = pairs < experts ? pairs : experts, widest = (size_t)(l->dim > l->expert_dim ? l->dim : l->expert_dim);
    most(&n->thread, 2 * (size_t)l->dim + 2);
    most(&n->thread, (size_t)l->expert_dim);
    most(&n->thread, 2 * (size_t)l->rows * FAST_STRIP * IL16_ROWS);
    most(&n->thread, experts);
    most(&n->shared, 4 * (experts + 3) + 3 * pairs + (size_t)l->rows * (size_t)l->dim);
    if (c->fast != NULL)
        most(&n->packed, groups * (sizeof(struct fast_x) + sizeof(int) + 4 * 64) + sizeof(int) + 64 +
                             packed_bytes(c, (int)pairs, (int)widest));
}

static int take(struct scratch *s, size_t floats, struct err *e)
{
    if (s->n >= floats)
        return HD_OK;
    free(s->data);
    s->data = try_alloc(floats * sizeof *s->data);
    s->n = s->data != NULL ? floats : 0;
    if (s->data == NULL)
        return err_set(e, HD_ENOMEM, "no memory for %zu bytes of kernel scratch", floats * sizeof *s->data);
    return HD_OK;
}

int cpu_reserve(struct dev *d, const struct op_limits *l, struct err *e)
{
    struct cpu_dev *c = cpu_of(d);
    struct needs n = {0};
    need_attention(&n, c, l);
    need_moe(&n, c, l);
    for (int i = 0; i < l->n_linear; i++)
        need_linear(&n, c, &l->linear[i]);
    int rc = take(&c->shared, n.shared, e);
    if (rc == HD_OK)
        rc = take(&c->packed_x, (n.packed + sizeof(float) - 1) / sizeof(float), e);
    for (int i = 0; i < pool_threads(c->pool) && rc == HD_OK; i++)
        rc = take(&c->per_thread[i], n.thread, e);
    return rc;
}

uint64_t cpu_scratch_bytes(const struct dev *d)
{
    const struct cpu_dev *c = (const struct cpu_dev *)d;
    uint64_t floats = c->shared.n + c->packed_x.n;
    for (int i = 0; i < pool_threads(c->pool); i++)
        floats += c->per_thread[i].n + c->per_strip[i].n;
    return floats * sizeof(float);
}
