/* Part of fast_tmpl.h: scores of stored index rows by byte products. A group of keys is turned, so that lanes are keys, and
 * meets all heads. Where the keys' block exponents are close (near), 2^distance goes into the key codes and a head's sum
 * runs over all blocks at once; else every block is summed, scaled and joined to 32 bits by itself. Both are exact. */

enum { INDEX_DIM_MAX = 256, INDEX_GROUPS = 2, INDEX_KEYS = INDEX_GROUPS * LANES };

/* INDEX_KEYS keys: their codes, for blocks apart 2^distance too, 2^lowest. */
struct turned_keys {
    vi code[INDEX_DIM_MAX / 4][INDEX_GROUPS]; /* of columns 0,2,4,6 and 1,3,5,7 of every eight */
    vi scale[INDEX_DIM_MAX / 32][INDEX_GROUPS];
    float lowest[INDEX_KEYS];
};

struct key_scales {
    int lowest[INDEX_KEYS], distance[INDEX_DIM_MAX / 32][INDEX_KEYS];
    int farthest; /* the largest distance */
};

/* Those of one key whose blocks are far apart, since blocks of zeros do not count. */
static bool load_far_scales(struct key_scales *s, int i, const uint8_t *key, int dim)
{
    int distance[INDEX_DIM_MAX / 32];
    bool fits = key_exponents(key, dim, &s->lowest[i], distance);
    for (int b = 0; b < dim / 32; b++)
        s->distance[b][i] = distance[b];
    return fits;
}

ALWAYS_INLINE int smaller(int a, int b)
{
    return a < b ? a : b;
}

ALWAYS_INLINE int larger(int a, int b)
{
    return a > b ? a : b;
}

/* Of keys with four blocks (dim 128), in one pass of vectors. */
ALWAYS_INLINE void load_four_scales(struct key_scales *s, const uint8_t *exponents, size_t stride)
{
    uint32_t four[INDEX_KEYS];
    int farthest = 0;
    UNROLL
    for (int i = 0; i < INDEX_KEYS; i++)
        memcpy(&four[i], exponents + (size_t)i * stride, sizeof four[i]);
    for (int i = 0; i < INDEX_KEYS; i++) {
        int e0 = four[i] & 255, e1 = four[i] >> 8 & 255, e2 = four[i] >> 16 & 255, e3 = (int)(four[i] >> 24);
        int low = smaller(smaller(e0, e1), smaller(e2, e3)), high = larger(larger(e0, e1), larger(e2, e3));
        s->lowest[i] = low;
        s->distance[0][i] = e0 - low;
        s->distance[1][i] = e1 - low;
        s->distance[2][i] = e2 - low;
        s->distance[3][i] = e3 - low;
        farthest = larger(farthest, high - low);
    }
    s->farthest = farthest;
}

ALWAYS_INLINE void load_all_scales(struct key_scales *s, const uint8_t *exponents, size_t stride, int n_blocks)
{
    s->farthest = 0;
    for (int i = 0; i < INDEX_KEYS; i++) {
        const uint8_t *e = exponents + (size_t)i * stride;
        int low = 255, high = 0;
        for (int b = 0; b < n_blocks; b++) {
            low = smaller(low, e[b]);
            high = larger(high, e[b]);
        }
        for (int b = 0; b < n_blocks; b++)
            s->distance[b][i] = e[b] - low;
        s->lowest[i] = low;
        s->farthest = larger(s->farthest, high - low);
    }
}

/* 2^(e - 127) of all keys: f32_from_e8m0, in vectors. */
ALWAYS_INLINE void load_lowest(struct turned_keys *t, const struct key_scales *s)
{
    for (int i = 0; i < INDEX_KEYS; i++) {
        uint32_t e = (uint32_t)s->lowest[i], bits = e == 0 ? 0x00400000u : e << 23;
        t->lowest[i] = f32_from_bits(e == 255 ? 0x7fc00000u : bits);
    }
}

ALWAYS_INLINE bool load_scales(struct key_scales *s, const uint8_t *keys, size_t stride, int dim)
{
    bool fits = true;
    if (dim == 128)
        load_four_scales(s, keys + dim / 2, stride);
    else
        load_all_scales(s, keys + dim / 2, stride, dim / 32);
    for (int i = 0; s->farthest > FAST_KEY_SPREAD && i < INDEX_KEYS; i++)
        fits = load_far_scales(s, i, keys + (size_t)i * stride, dim) && fits;
    return fits;
}

/* 16 bytes of LANES keys turned: word w of all keys in out[w]. */
ALWAYS_INLINE void turn_words(const uint8_t *keys, size_t stride, vi *out)
{
    vi k[4];
    UNROLL
    for (int i = 0; i < 4; i++)
        k[i] = vi_load_rows(keys + (size_t)i * stride, 4 * stride);
    vi low01 = vi_low32_pairs(k[0], k[1]), low23 = vi_low32_pairs(k[2], k[3]);
    vi high01 = vi_high32_pairs(k[0], k[1]), high23 = vi_high32_pairs(k[2], k[3]);
    out[0] = vi_low64_pairs(low01, low23);
    out[1] = vi_high64_pairs(low01, low23);
    out[2] = vi_low64_pairs(high01, high23);
    out[3] = vi_high64_pairs(high01, high23);
}

/* Block b of group i. Near: 2^distance 2 e2m1 + INDEX_OFFSET, so that the offset is the same for all keys. */
ALWAYS_INLINE void load_block(struct turned_keys *t, const struct key_scales *s, const uint8_t *keys, size_t stride, int b,
                              int i, const bool near)
{
    vi word[4], distance = vi_load(s->distance[b] + i * LANES), offset;
    if (near)
        offset = vi_sub32(vi_set32(INDEX_OFFSET * 0x01010101u), vi_sllv32(vi_set32(12 * 0x01010101u), distance));
    turn_words(keys + (size_t)(i * LANES) * stride + (size_t)(16 * b), stride, word);
    UNROLL
    for (int k = 0; k < 8; k += 2) {
        vi code[2] = {vi_nibble_codes(word[k / 2]), vi_high_codes(word[k / 2])};
        UNROLL
        for (int p = 0; p < 2; p++)
            code[p] = near ? vi_add32(vi_sllv32(code[p], distance), offset) : code[p];
        pair_codes(&code[0], &code[1]);
        t->code[8 * b + k][i] = code[0];
        t->code[8 * b + k + 1][i] = code[1];
    }
}

ALWAYS_INLINE void load_keys(struct turned_keys *t, const struct key_scales *s, const uint8_t *keys, size_t stride, int dim,
                             const bool near)
{
    load_lowest(t, s);
    for (int b = 0; b < dim / 32; b++)
        for (int i = 0; i < INDEX_GROUPS; i++)
            load_block(t, s, keys, stride, b, i, near);
    for (int b = 0; !near && b < dim / 32; b++) {
        uint32_t scale[INDEX_KEYS];
        for (int i = 0; i < INDEX_KEYS; i++)
            scale[i] = vi_scale_word(s->distance[b][i]);
        for (int i = 0; i < INDEX_GROUPS; i++)
            t->scale[b][i] = vi_load(scale + i * LANES);
    }
}

enum { INDEX_SUMS = INDEX_HEADS * INDEX_GROUPS }; /* sum i: head i / INDEX_GROUPS, group i % INDEX_GROUPS */

/* The products of one block. A loop of constant length, so that its unrolling needs no remainder. */
ALWAYS_INLINE void add_block(const vi (*code)[INDEX_GROUPS], const int32_t *x, int heads, const int nh, vi *acc)
{
    UNROLL_2
    for (int c = 0; c < 8; c += 2, x += 2 * heads)
        add_paired(code[c], x, nh, INDEX_GROUPS, acc);
}

ALWAYS_INLINE vi head_sum(const vi *acc, const int i)
{
    return sum_of(acc, i / INDEX_GROUPS, i % INDEX_GROUPS, INDEX_GROUPS);
}

/* sum[i] + weight_h relu(total) of the n sums' heads from h on. */
ALWAYS_INLINE void add_heads(const struct fast_query *q, int h, const vi *total, const int n, vf *sum)
{
    UNROLL
    for (int i = 0; i < n; i++)
        sum[i % INDEX_GROUPS] = vf_fma(vf_from_i32(vi_max32(total[i], vi_set32(0))),
                                       vf_set(q->weight[h + i / INDEX_GROUPS]), sum[i % INDEX_GROUPS]);
}

/* nh heads from h on. */
ALWAYS_INLINE void index_heads(const struct fast_query *q, const struct turned_keys *t, int h, const int nh, const bool near,
                               vf *sum)
{
    vi total[INDEX_SUMS], acc[INDEX_SUMS];
    const int n = nh * INDEX_GROUPS;
    const int32_t *x = q->words + 2 * h;
    begin_sums(q->near_start + h, nh, INDEX_GROUPS, acc);
    UNROLL
    for (int i = 0; i < n; i++)
        total[i] = vi_set32(0);
    for (int b = 0; b < q->dim / 32; b++, x += 8 * q->heads) {
        if (!near)
            begin_sums(q->start + b * q->heads + h, nh, INDEX_GROUPS, acc);
        add_block(t->code + 8 * b, x, q->heads, nh, acc);
        UNROLL
        for (int i = 0; !near && i < n; i++)
            total[i] = vi_add32(total[i], vi_scale_block(head_sum(acc, i), t->scale[b][i % INDEX_GROUPS]));
    }
    UNROLL
    for (int i = 0; near && i < n; i++)
        total[i] = vi_digit_sum(head_sum(acc, i));
    add_heads(q, h, total, n, sum);
}

/* The two ways as functions of their own, so that each has the registers for itself. */
ALWAYS_INLINE void score_turned(const struct fast_query *q, const struct key_scales *s, const uint8_t *keys, size_t stride,
                                const bool near, float *score)
{
    struct turned_keys t;
    vf sum[INDEX_GROUPS];
    load_keys(&t, s, keys, stride, q->dim, near);
    for (int i = 0; i < INDEX_GROUPS; i++)
        sum[i] = vf_zero();
    int h = 0;
    for (; h + INDEX_HEADS <= q->heads; h += INDEX_HEADS)
        index_heads(q, &t, h, INDEX_HEADS, near, sum);
    for (; h < q->heads; h++)
        index_heads(q, &t, h, 1, near, sum);
    for (int i = 0; i < INDEX_GROUPS; i++)
        vf_store(score + i * LANES, vf_mul(sum[i], vf_load(t.lowest + i * LANES)));
}

static NO_INLINE void score_near(const struct fast_query *q, const struct key_scales *s, const uint8_t *keys, size_t stride,
                                 float *score)
{
    score_turned(q, s, keys, stride, true, score);
}

static NO_INLINE void score_blocks(const struct fast_query *q, const struct key_scales *s, const uint8_t *keys,
                                   size_t stride, float *score)
{
    score_turned(q, s, keys, stride, false, score);
}

static enum index_way index_scores(const struct fast_query *q, const uint8_t *keys, size_t stride, float *score)
{
    struct key_scales s;
    if (q->dim > INDEX_DIM_MAX || !load_scales(&s, keys, stride, q->dim))
        return INDEX_REFUSED;
    if (s.farthest > q->near) {
        score_blocks(q, &s, keys, stride, score);
        return INDEX_BLOCKS;
    }
    score_near(q, &s, keys, stride, score);
    return INDEX_NEAR;
}
