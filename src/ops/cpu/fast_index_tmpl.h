/* Part of fast_tmpl.h: scores of stored index rows by byte products. */

enum { INDEX_DIM_MAX = 256, INDEX_GROUPS = 2 };

/* LANES keys, lanes being keys: code vectors [dim/8][2], block scales, 2^lowest. */
struct key_group {
    vi code[INDEX_DIM_MAX / 4];
    vi scale[INDEX_DIM_MAX / 32];
    float lowest[LANES];
};

/* Words d .. d+3 of four keys turned: words of the same place side by side. */
ALWAYS_INLINE void turn_words(const uint8_t *keys, size_t stride, uint32_t *words)
{
    typedef uint32_t quad __attribute__((vector_size(16)));
    quad k[4], ab, cd;
    UNROLL
    for (int i = 0; i < 4; i++)
        memcpy(&k[i], keys + (size_t)i * stride, sizeof k[i]);
    ab = __builtin_shufflevector(k[0], k[1], 0, 4, 1, 5);
    cd = __builtin_shufflevector(k[2], k[3], 0, 4, 1, 5);
    quad out0 = __builtin_shufflevector(ab, cd, 0, 1, 4, 5), out1 = __builtin_shufflevector(ab, cd, 2, 3, 6, 7);
    ab = __builtin_shufflevector(k[0], k[1], 2, 6, 3, 7);
    cd = __builtin_shufflevector(k[2], k[3], 2, 6, 3, 7);
    quad out2 = __builtin_shufflevector(ab, cd, 0, 1, 4, 5), out3 = __builtin_shufflevector(ab, cd, 2, 3, 6, 7);
    memcpy(words, &out0, sizeof out0);
    memcpy(words + LANES, &out1, sizeof out1);
    memcpy(words + 2 * LANES, &out2, sizeof out2);
    memcpy(words + 3 * LANES, &out3, sizeof out3);
}

/* Exponents of all keys side by side; those with blocks far apart one by one, since blocks of zeros do not count. */
ALWAYS_INLINE bool load_exponents(const uint8_t *keys, size_t stride, int dim, int *lowest, int (*distance)[LANES])
{
    int highest[LANES] = {0}, spread = 0;
    for (int i = 0; i < LANES; i++)
        lowest[i] = 255;
    for (int b = 0; b < dim / 32; b++) {
        for (int i = 0; i < LANES; i++)
            distance[b][i] = keys[(size_t)i * stride + (size_t)(dim / 2 + b)];
        for (int i = 0; i < LANES; i++) {
            int e = distance[b][i];
            lowest[i] = e < lowest[i] ? e : lowest[i];
            highest[i] = e > highest[i] ? e : highest[i];
        }
    }
    for (int i = 0; i < LANES; i++)
        spread = highest[i] - lowest[i] > spread ? highest[i] - lowest[i] : spread;
    for (int b = 0; b < dim / 32; b++)
        for (int i = 0; i < LANES; i++)
            distance[b][i] -= lowest[i];
    for (int i = 0; spread > FAST_KEY_SPREAD && i < LANES; i++) {
        int of_key[INDEX_DIM_MAX / 32];
        if (!key_exponents(keys + (size_t)i * stride, dim, &lowest[i], of_key))
            return false;
        for (int b = 0; b < dim / 32; b++)
            distance[b][i] = of_key[b];
    }
    return true;
}

static NO_INLINE bool load_keys(struct key_group *g, const uint8_t *keys, size_t stride, int dim)
{
    vi table = vi_table16(fp4_offset_codes), low = vi_set32(0x0f0f0f0f);
    uint32_t word[INDEX_DIM_MAX / 8 * LANES], scale[INDEX_DIM_MAX / 32][LANES];
    int lowest[LANES], distance[INDEX_DIM_MAX / 32][LANES];
    if (!load_exponents(keys, stride, dim, lowest, distance))
        return false;
    for (int i = 0; i < LANES; i++)
        g->lowest[i] = f32_from_e8m0((uint8_t)lowest[i]);
    for (int b = 0; b < dim / 32; b++)
        for (int i = 0; i < LANES; i++)
            scale[b][i] = vi_scale_word(distance[b][i]);
    for (int d = 0; d < dim / 8; d += 4)
        for (int i = 0; i < LANES; i += 4)
            turn_words(keys + (size_t)i * stride + (size_t)d * 4, stride, word + d * LANES + i);
    for (int b = 0; b < dim / 32; b++)
        g->scale[b] = vi_load(scale[b]);
    for (int d = 0; d < dim / 8; d++) {
        vi v = vi_load(word + d * LANES);
        g->code[2 * d] = vi_lookup(table, vi_and(v, low));
        g->code[2 * d + 1] = vi_lookup(table, vi_and(vi_srl16_4(v), low));
    }
    return true;
}

/* sum[i] + weight_h relu(D_h) of nh heads from h on, for every group i of keys. */
ALWAYS_INLINE void index_heads(const struct fast_query *q, const struct key_group *g, int h, const int nh, vf *sum)
{
    enum { MOST = INDEX_HEADS * INDEX_GROUPS };
    vi total[MOST];
    const int32_t *x = q->words + h, *start = q->start + h;
    const int n = nh * INDEX_GROUPS; /* sum i: head i / INDEX_GROUPS, group i % INDEX_GROUPS */
    UNROLL
    for (int i = 0; i < n; i++)
        total[i] = vi_set32(0);
    for (int b = 0, c = 0; b < q->dim / 32; b++, start += q->heads) {
        vi acc[MOST];
        UNROLL
        for (int i = 0; i < n; i++)
            acc[i] = vi_set32((uint32_t)start[i / INDEX_GROUPS]);
        UNROLL_2
        for (int l = 0; l < 8; l++, x += q->heads, c++) {
            vi code[INDEX_GROUPS];
            UNROLL
            for (int i = 0; i < INDEX_GROUPS; i++)
                code[i] = g[i].code[c];
            UNROLL
            for (int i = 0; i < n; i++)
                acc[i] = vi_digit_add(acc[i], code[i % INDEX_GROUPS], vi_set32((uint32_t)x[i / INDEX_GROUPS]));
        }
        UNROLL
        for (int i = 0; i < n; i++)
            total[i] = vi_add32(total[i], vi_scale_block(acc[i], g[i % INDEX_GROUPS].scale[b]));
    }
    UNROLL
    for (int i = 0; i < n; i++)
        sum[i % INDEX_GROUPS] = vf_fma(vf_from_i32(vi_max32(total[i], vi_set32(0))),
                                       vf_set(q->weight[h + i / INDEX_GROUPS]), sum[i % INDEX_GROUPS]);
}

static bool index_scores(const struct fast_query *q, const uint8_t *keys, size_t stride, float *score)
{
    struct key_group g[INDEX_GROUPS];
    vf sum[INDEX_GROUPS];
    for (int i = 0; i < INDEX_GROUPS; i++) {
        if (q->dim > INDEX_DIM_MAX || !load_keys(&g[i], keys + (size_t)(i * LANES) * stride, stride, q->dim))
            return false;
        sum[i] = vf_zero();
    }
    int h = 0;
    for (; h + INDEX_HEADS <= q->heads; h += INDEX_HEADS)
        index_heads(q, g, h, INDEX_HEADS, sum);
    for (; h < q->heads; h++)
        index_heads(q, g, h, 1, sum);
    for (int i = 0; i < INDEX_GROUPS; i++)
        vf_store(score + i * LANES, vf_mul(sum[i], vf_load(g[i].lowest)));
    return true;
}
