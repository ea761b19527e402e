/* Part of fast_tmpl.h: one row times FP8, BF16 or F32 weights as stored. Sums are chains in the order of the columns with a
 * lane for each row, so rows and columns change places: in registers, a vector of each of LANES rows at a time, which
 * become as many lines (of the rows' half or quarter of the tile) and are multiplied at once. Every format keeps four bytes
 * of each row in a line, so that is one transposition: of 32-bit words, or for FP8 of the 16-bit pairs that its lines are
 * made of. Whole vectors are read of a row, never parts: rows a power of two apart share a set of the first cache. */

enum { VECTOR_BYTES = 4 * LANES, CHAINS_MAX = 4 };

/* Blocks of columns whose sums run beside each other: no more than the chains' latency needs, since the processor foresees
 * rows that are read in ascending order best. */
ALWAYS_INLINE int stored_chains(enum wformat f)
{
    return f == W_F32 ? (HALVES + 1) / 2 : f == W_FP8 && HALVES == 1 ? 2 : HALVES;
}

/* Words 0 1 2 3 of four rows, in each 128 bits. */
ALWAYS_INLINE void turn_four(const vi *r, bool pairs, vi *word)
{
    vi t[4];
    if (pairs) {
        t[0] = vi_low16_pairs(r[0], r[1]), t[1] = vi_low16_pairs(r[2], r[3]);
        t[2] = vi_high16_pairs(r[0], r[1]), t[3] = vi_high16_pairs(r[2], r[3]);
        word[0] = vi_low32_pairs(t[0], t[1]), word[1] = vi_high32_pairs(t[0], t[1]);
        word[2] = vi_low32_pairs(t[2], t[3]), word[3] = vi_high32_pairs(t[2], t[3]);
    } else {
        t[0] = vi_low32_pairs(r[0], r[1]), t[1] = vi_low32_pairs(r[2], r[3]);
        t[2] = vi_high32_pairs(r[0], r[1]), t[3] = vi_high32_pairs(r[2], r[3]);
        word[0] = vi_low64_pairs(t[0], t[1]), word[1] = vi_high64_pairs(t[0], t[1]);
        word[2] = vi_low64_pairs(t[2], t[3]), word[3] = vi_high64_pairs(t[2], t[3]);
    }
}

/* A vector of each of LANES rows as lines; as many bytes are asked for from `early` on. */
ALWAYS_INLINE void turn_rows(const uint8_t *rows, size_t stride, bool pairs, uintptr_t early, vi *line)
{
    vi word[4][LANES / 4];
    UNROLL
    for (int g = 0; g < LANES / 4; g++, rows += 4 * stride) {
        vi r[4], w[4];
        __asm__("" : "+r"(rows)); /* as written: the compiler would keep all rows' addresses and run out of registers */
        UNROLL
        for (int i = 0; i < 4; i++)
            r[i] = vi_load(rows + (size_t)i * stride);
        UNROLL
        for (int i = 0; i < 4 * VECTOR_BYTES / IL16_LINE; i++, early += IL16_LINE)
            __builtin_prefetch((const void *)early, 0, 2);
        turn_four(r, pairs, w);
        UNROLL
        for (int i = 0; i < 4; i++)
            word[i][g] = w[i];
    }
    UNROLL
    for (int i = 0; i < 4; i++) {
        vi_turn_quarters(word[i]);
        UNROLL
        for (int g = 0; g < LANES / 4; g++)
            line[4 * g + i] = word[i][g];
    }
}

/* ---------------------------------------------------------------- one row of activations */

ALWAYS_INLINE size_t stored_bytes(enum wformat f, int cols)
{
    return (size_t)cols * (f == W_FP8 ? 1 : f == W_BF16 ? 2 : 4);
}

static float stored_scale(const struct il16 *w, int tile, int b)
{
    size_t blocks = (size_t)((w->cols + IL16_BLOCK - 1) / IL16_BLOCK);
    size_t at = (size_t)(tile / (IL16_BLOCK / 16)) * blocks + (size_t)b;
    return w->scale_f32 ? ((const float *)w->stored_scale)[at] : f32_from_e8m0(((const uint8_t *)w->stored_scale)[at]);
}

/* LANES rows of a tile, the activations, and what is asked for meanwhile. */
struct stored_rows {
    const uint8_t *rows;
    size_t stride;
    const uint32_t *x;
    uintptr_t early;
};

/* A vector of each row, `at` bytes into each of n blocks, to the blocks' sums. */
ALWAYS_INLINE void stored_vectors(enum wformat f, struct stored_rows *r, int b, size_t at, const int n, vf *acc)
{
    size_t block = stored_bytes(f, IL16_BLOCK), from = (size_t)b * block + at;
    int s = steps_a_line(f), words = IL16_BLOCK / step_columns(f);
    const uint32_t *x = r->x + from / 4 * (size_t)s;
    vi line[CHAINS_MAX][LANES];
    UNROLL
    for (int i = 0; i < n; i++, r->early += VECTOR_BYTES * LANES)
        turn_rows(r->rows + from + (size_t)i * block, r->stride, f == W_FP8, r->early, line[i]);
    UNROLL
    for (int l = 0; l < LANES; l++) {
        UNROLL
        for (int i = 0; i < n; i++) {
            vf w[4];
            steps_of(f, line[i][l], w);
            UNROLL
            for (int j = 0; j < s; j++)
                acc[i] = step(f, w[j], set_word(x[i * words + l * s + j]), acc[i]);
        }
    }
}

/* Dots of blocks b .. b+n-1. */
ALWAYS_INLINE void stored_blocks(enum wformat f, struct stored_rows *r, int b, const int n, vf *acc)
{
    size_t block = stored_bytes(f, IL16_BLOCK), left = r->stride - (size_t)b * block;
    UNROLL
    for (int i = 0; i < n; i++)
        acc[i] = vf_zero();
    NO_UNROLL
    for (size_t at = 0; at < block && at < left; at += VECTOR_BYTES)
        stored_vectors(f, r, b, at, n, acc);
}

ALWAYS_INLINE vf stored_sum(enum wformat f, const struct il16 *w, int tile, const struct fast_x *x, int b, const int n,
                            const vf *acc, vf sum)
{
    UNROLL
    for (int i = 0; i < n; i++) {
        float scale = f == W_FP8 ? stored_scale(w, tile, b + i) : 1.0f;
        sum = vf_fma(vf_set(scale * x_scale(x, 0, b + i)), acc[i], sum);
    }
    return sum;
}

/* nt whole tiles; the bytes of the tile after each are fetched meanwhile, in their own order. */
ALWAYS_INLINE void stored_strip(enum wformat f, const struct il16 *w, int tile0, int nt, const struct fast_x *x, float *y)
{
    const int n = stored_chains(f);
    int whole = w->cols / IL16_BLOCK / n * n;
    struct stored_rows r = {.stride = stored_bytes(f, w->cols), .x = x->data};
    for (int t = 0; t < nt; t++) {
        int tile = tile0 + t, next = t + 1 < nt ? tile + 1 : tile0 + x->next_strip;
        r.rows = w->stored + (size_t)tile * 16 * r.stride;
        r.early = (uintptr_t)w->stored + (size_t)next * 16 * r.stride;
        for (int h = 0; h < HALVES; h++, r.rows += LANES * r.stride, y += LANES) {
            vf acc[CHAINS_MAX], sum = vf_zero();
            for (int b = 0; b < whole; b += n) {
                stored_blocks(f, &r, b, n, acc);
                sum = stored_sum(f, w, tile, x, b, n, acc, sum);
            }
            for (int b = whole; b < x->n_blocks; b++) {
                stored_blocks(f, &r, b, 1, acc);
                sum = stored_sum(f, w, tile, x, b, 1, acc, sum);
            }
            vf_store(y, sum);
        }
    }
}

#define STORED_KERNEL(name, f)                                                                                       \
    static NO_INLINE void name##_stored(const struct il16 *w, int tile0, int nt, const struct fast_x *x, void *mem,  \
                                        float *y)                                                                    \
    {                                                                                                                \
        (void)mem;                                                                                                   \
        stored_strip(f, w, tile0, nt, x, y);                                                                         \
    }
STORED_KERNEL(fp8, W_FP8)
STORED_KERNEL(bf16, W_BF16)
STORED_KERNEL(f32, W_F32)
