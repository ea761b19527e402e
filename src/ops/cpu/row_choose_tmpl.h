/* Part of row_tmpl.h: the largest of many: experts of a token, selected entries. */

/* ---------------------------------------------------------------- choosing */

/* Order keys with the sign bit turned: the order of signed integers. */
ALWAYS_INLINE ivec order_keys(vec x)
{
    ivec u = (ivec)(x + 0.0f);
    return u ^ ((u >> 31) & 0x7fffffff);
}

ALWAYS_INLINE int32_t largest_key(const int32_t *key, int n)
{
    ivec top = *(const ivec *)key;
    for (int i = W; i < n; i += W) {
        ivec v = *(const ivec *)(key + i), more = v > top;
        top = (more & v) | (~more & top);
    }
    int32_t most = top[0];
    for (int i = 1; i < W; i++)
        most = top[i] > most ? top[i] : most;
    return most;
}

static void top_experts(const float *score, const float *bias, int n, int k, int32_t *ids)
{
    if (n > ROW_EXPERTS_MAX) {
        row_kern_ref.top_experts(score, bias, n, k, ids);
        return;
    }
    int32_t key[ROW_EXPERTS_MAX + W];
    bool chosen[ROW_EXPERTS_MAX] = {false};
    for (int i = 0; i < n; i += W) {
        int part = n - i < W ? n - i : W;
        vec v = part < W ? load_part(score + i, part) : LOAD(score + i);
        if (bias != NULL)
            v += part < W ? load_part(bias + i, part) : LOAD(bias + i);
        *(ivec *)(key + i) = order_keys(v);
    }
    for (int i = n; i < n + W; i++)
        key[i] = INT32_MIN;
    for (int j = 0; j < k; j++) {
        int32_t top = largest_key(key, n), i = 0;
        while (key[i] != top || chosen[i])
            i++;
        ids[j] = i;
        chosen[i] = true;
        key[i] = INT32_MIN;
    }
}

enum { COUNTED = 32 };

ALWAYS_INLINE void keys_of(const float *score, uint32_t *key)
{
    UNROLL
    for (int i = 0; i < COUNTED; i += W)
        *(uvec *)(key + i) = (uvec)order_keys(LOAD(score + i)) ^ 0x80000000u;
}

static void count_scores(const float *score, int64_t n, int32_t *count)
{
    uint32_t key[COUNTED];
    int64_t i = 0;
    for (; i + COUNTED <= n; i += COUNTED) {
        keys_of(score + i, key);
        for (int k = 0; k < COUNTED; k++)
            count[key[k] >> BIN_SHIFT]++;
    }
    for (; i < n; i++)
        count[row_order_key(score[i]) >> BIN_SHIFT]++;
}

/* Does one of COUNTED keys lie in low .. high? */
ALWAYS_INLINE bool any_between(const uint32_t *key, uint32_t low, uint32_t high)
{
    ivec any = {0};
    UNROLL
    for (int i = 0; i < COUNTED; i += W) {
        uvec v = *(const uvec *)(key + i);
        any |= (ivec)(v - low <= high - low);
    }
    uint64_t parts[W / 2], all = 0;
    memcpy(parts, &any, sizeof parts);
    UNROLL
    for (int i = 0; i < W / 2; i++)
        all |= parts[i];
    return all != 0;
}

static int64_t find_in_bin(const float *score, int64_t n, uint32_t bin, uint32_t *found)
{
    uint32_t key[COUNTED], low = bin << BIN_SHIFT, high = low | ((1u << BIN_SHIFT) - 1);
    int64_t n_found = 0, i = 0;
    for (; i + COUNTED <= n; i += COUNTED) {
        keys_of(score + i, key);
        if (!any_between(key, low, high))
            continue;
        for (int k = 0; k < COUNTED; k++) {
            found[n_found] = key[k];
            n_found += key[k] >> BIN_SHIFT == bin;
        }
    }
    for (; i < n; i++)
        if (row_order_key(score[i]) >> BIN_SHIFT == bin)
            found[n_found++] = row_order_key(score[i]);
    return n_found;
}

static void top_k(const float *score, int64_t n, int k, const int32_t *count, uint32_t *found, int32_t *ids)
{
    int64_t n_equal = k;
    uint32_t bin = bin_of_kth(count, ROW_BINS, &n_equal), keys[COUNTED];
    int64_t n_found = find_in_bin(score, n, bin, found);
    uint32_t cut = key_of_kth(found, n_found, bin, &n_equal);
    int out = 0;
    for (int64_t i = 0; i < n && out < k; i++) {
        if (i % COUNTED == 0 && n - i >= COUNTED) {
            keys_of(score + i, keys);
            if (!any_between(keys, cut, UINT32_MAX)) {
                i += COUNTED - 1;
                continue;
            }
        }
        uint32_t u = row_order_key(score[i]);
        if (u > cut || (u == cut && n_equal-- > 0))
            ids[out++] = (int32_t)i;
    }
    assert(out == k);
}
