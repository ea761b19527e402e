/* Part of row_tmpl.h: sums over several rows: streams of hyper-connections, pooled inputs of the compressor. */

/* ---------------------------------------------------------------- hyper-connections */

/* Lanes i .. of all streams; `part` < W values of them at the end of a row. */
ALWAYS_INLINE void mix_lanes(const float *o, const float *post, const float *comb, const int s, int dim, int i, int part,
                             bool round, float *x)
{
    vec in[ROW_STREAMS_MAX] = {{0}}, out = part < W ? load_part(o + i, part) : LOAD(o + i);
    UNROLL
    for (int j = 0; j < s; j++)
        in[j] = part < W ? load_part(x + j * dim + i, part) : LOAD(x + j * dim + i);
    UNROLL
    for (int k = 0; k < s; k++) {
        vec y = post[k] * out;
        UNROLL
        for (int j = 0; j < s; j++)
            y += comb[j * s + k] * in[j];
        y = rounded(y, round);
        if (part < W)
            store_part(x + k * dim + i, y, part);
        else
            AT(x + k * dim + i) = y;
    }
}

static void mix_streams(const float *o, const float *post, const float *comb, int s, int dim, bool round, float *x)
{
    assert(s <= ROW_STREAMS_MAX);
    int i = 0;
    if (s == 4) /* every released model */
        for (; i + W <= dim; i += W)
            mix_lanes(o, post, comb, 4, dim, i, W, round, x);
    for (; i < dim; i += W)
        mix_lanes(o, post, comb, s, dim, i, dim - i < W ? dim - i : W, round, x);
}

ALWAYS_INLINE vec collapsed(const float *x, const float *w, int s, int dim, int part, bool round)
{
    vec sum = w[0] * (part < W ? load_part(x, part) : LOAD(x));
    for (int h = 1; h < s; h++)
        sum += w[h] * (part < W ? load_part(x + h * dim, part) : LOAD(x + h * dim));
    return rounded(sum, round);
}

static void collapse(const float *x, const float *w, int s, int dim, bool round, float *y)
{
    int i = 0;
    for (; i + W <= dim; i += W)
        AT(y + i) = collapsed(x + i, w, s, dim, W, round);
    if (i < dim)
        store_part(y + i, collapsed(x + i, w, s, dim, dim - i, round), dim - i);
}

ALWAYS_INLINE vec summed(const float *x, const int32_t *row, int m, int n, int part, bool round)
{
    vec sum = {0};
    for (int k = 0; k < m; k++) {
        const float *p = x + (size_t)row[k] * (size_t)n;
        sum += rounded(part < W ? load_part(p, part) : LOAD(p), round);
    }
    return rounded(sum, round);
}

static void sum_rows(const float *x, const int32_t *row, int m, int n, bool round, float *y)
{
    int i = 0;
    for (; i + W <= n; i += W)
        AT(y + i) = summed(x + i, row, m, n, W, round);
    if (i < n)
        store_part(y + i, summed(x + i, row, m, n, n - i, round), n - i);
}

typedef float quad __attribute__((vector_size(16), aligned(4), may_alias));

/* A 4 x 4 matrix by rows becomes itself by columns. */
ALWAYS_INLINE void transpose(quad *m)
{
    quad a = __builtin_shufflevector(m[0], m[1], 0, 4, 1, 5), b = __builtin_shufflevector(m[0], m[1], 2, 6, 3, 7);
    quad c = __builtin_shufflevector(m[2], m[3], 0, 4, 1, 5), d = __builtin_shufflevector(m[2], m[3], 2, 6, 3, 7);
    m[0] = __builtin_shufflevector(a, c, 0, 1, 4, 5);
    m[1] = __builtin_shufflevector(a, c, 2, 3, 6, 7);
    m[2] = __builtin_shufflevector(b, d, 0, 1, 4, 5);
    m[3] = __builtin_shufflevector(b, d, 2, 3, 6, 7);
}

/* Each lane's four values divided by their sum + eps, summed in order. */
ALWAYS_INLINE void normalise_lanes(quad *m, float eps)
{
    quad sum = ((m[0] + m[1]) + m[2]) + m[3] + eps;
    UNROLL
    for (int i = 0; i < 4; i++)
        m[i] /= sum;
}

static void sinkhorn(float *m, int s, int iters, float eps)
{
    if (s != 4) {
        row_kern_ref.sinkhorn(m, s, iters, eps);
        return;
    }
    quad q[4];
    memcpy(q, m, sizeof q);
    for (int i = 0; i < iters; i++) {
        if (i > 0) {
            transpose(q);
            normalise_lanes(q, eps);
            transpose(q);
        }
        normalise_lanes(q, eps);
    }
    memcpy(m, q, sizeof q);
}

/* ---------------------------------------------------------------- the compressor */

/* expf of the C library, lane by lane: the numerics that promise its bits. */
ALWAYS_INLINE vec libm_exp(vec x)
{
    float v[W];
    AT(v) = x;
    for (int i = 0; i < W; i++)
        v[i] = expf(v[i]);
    return AT(v);
}

ALWAYS_INLINE vec channel(const float *row, int d, int part)
{
    return part < W ? load_part(row + d, part) : LOAD(row + d);
}

ALWAYS_INLINE vec pooled(const struct row_slot *slots, int n, int d, int part, const bool libm)
{
    vec top = channel(slots[0].gate, d, part), sum = {0}, value = {0};
    for (int s = 1; s < n; s++) {
        vec g = channel(slots[s].gate, d, part);
        top = choose(g > top, g, top);
    }
    for (int s = 0; s < n; s++) {
        vec x = channel(slots[s].gate, d, part) - top, w = libm ? libm_exp(x) : exp_of(x);
        sum += w;
        value += w * channel(slots[s].kv, d, part);
    }
    return value / sum;
}

ALWAYS_INLINE void pool_all(const struct row_slot *slots, int n, int dim, const bool libm, float *e)
{
    int d = 0;
    for (; d + W <= dim; d += W)
        AT(e + d) = pooled(slots, n, d, W, libm);
    if (d < dim)
        store_part(e + d, pooled(slots, n, d, dim - d, libm), dim - d);
}

static void pool(const struct row_slot *slots, int n, int dim, bool libm, float *e)
{
    if (libm)
        pool_all(slots, n, dim, true, e);
    else
        pool_all(slots, n, dim, false, e);
}
