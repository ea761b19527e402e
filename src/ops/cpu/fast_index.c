/* Index scores on integers: groups of stored keys against a packed query. Same score for a key whatever its group. */
#include <string.h>

#include "ops/cpu/fast.h"
#include "ops/cpu/fast_decl.h"

enum { GROUP_MAX = 32, KEY_BYTES_MAX = 256 };

size_t fast_query_floats(int heads, int dim)
{
    size_t h = (size_t)heads;
    return h * (size_t)(dim / 4) + h * (size_t)(dim / 32) + 2 * h;
}

bool fast_query_pack(const struct cpu_dev *c, const struct kv_dims *dims, int heads, const float *values,
                     const float *weights, float *mem, struct fast_query *q)
{
    int dim = dims->index_dim;
    if (c->fast == NULL || dims->format != KV_FP8 || dim % 32 != 0 || dims->index_bytes > KEY_BYTES_MAX)
        return false;
    int32_t *words = (int32_t *)mem, *start = words + heads * (dim / 4), *near_start = start + heads * (dim / 32);
    *q = (struct fast_query){heads, dim, words, start, near_start, (float *)(near_start + heads), INDEX_NEAR_MAX};
    return c->fast->pack_query(q, values, weights);
}

/* Key by key, where the group's kernel refused; unset[i] stays true for keys that only fp32 can score. */
static void score_singly(const struct fast_query *q, const uint8_t *keys, size_t stride, int n, float *score, bool *unset)
{
    for (int i = 0; i < n; i++)
        unset[i] = fast_kern_ref.index_scores(q, keys + (size_t)i * stride, stride, &score[i]) == INDEX_REFUSED;
}

/* Asked for a group at a time: a processor drops most of what is asked for at once. */
static void fetch(const uint8_t *keys, size_t bytes)
{
    enum { LINE = 64 };
    for (size_t i = 0; i < bytes; i += LINE)
        __builtin_prefetch(keys + i, 0, 2);
}

void fast_score_keys(const struct cpu_dev *c, const struct fast_query *q, const uint8_t *keys, size_t stride, int n,
                     const uint8_t *next, float *score, bool *unset)
{
    int group = c->fast->index_keys;
    uint8_t padded[GROUP_MAX * KEY_BYTES_MAX];
    float out[GROUP_MAX];
    memset(unset, 0, (size_t)n * sizeof *unset);
    for (int i = 0; i < n; i += group) {
        const uint8_t *at = keys + (size_t)i * stride;
        int m = n - i < group ? n - i : group;
        if (next != NULL)
            fetch(next + (size_t)i * stride, (size_t)m * stride);
        for (int k = 0; m < group && k < group; k++) /* rows after the last visible one are not there yet */
            memcpy(padded + (size_t)k * stride, at + (size_t)(k < m ? k : 0) * stride, stride);
        if (c->fast->index_scores(q, m < group ? padded : at, stride, out) != INDEX_REFUSED)
            memcpy(score + i, out, (size_t)m * sizeof *score);
        else
            score_singly(q, at, stride, m, score + i, unset + i);
    }
}
