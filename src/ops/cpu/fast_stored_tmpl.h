/* Part of fast_tmpl.h: one row times FP8, BF16 or F32 weights as stored. Sums are chains in the order of the columns with a
 * lane for each row, so lines are made: of a few columns of a few tiles, consumed while they are in the first cache. Every
 * format keeps four bytes of each row in a line, so making them is one transposition: of 32-bit words, or for FP8 of the
 * 16-bit pairs that its lines are made of. A vector takes 16 bytes of rows 0, 4, 8, ... of its half of the tile, in whose
 * lanes the rows' words belong. */

/* 16 bytes of the rows of one half become four lines of it. */
ALWAYS_INLINE void turn_unit(const uint8_t *rows, size_t stride, bool pairs, uint8_t *lines)
{
    vi r[4], t[4], line[4];
    UNROLL
    for (int i = 0; i < 4; i++)
        r[i] = vi_load_rows(rows + (size_t)i * stride, 4 * stride);
    if (pairs) {
        t[0] = vi_low16_pairs(r[0], r[1]), t[1] = vi_low16_pairs(r[2], r[3]);
        t[2] = vi_high16_pairs(r[0], r[1]), t[3] = vi_high16_pairs(r[2], r[3]);
        line[0] = vi_low32_pairs(t[0], t[1]), line[1] = vi_high32_pairs(t[0], t[1]);
        line[2] = vi_low32_pairs(t[2], t[3]), line[3] = vi_high32_pairs(t[2], t[3]);
    } else {
        t[0] = vi_low32_pairs(r[0], r[1]), t[1] = vi_low32_pairs(r[2], r[3]);
        t[2] = vi_high32_pairs(r[0], r[1]), t[3] = vi_high32_pairs(r[2], r[3]);
        line[0] = vi_low64_pairs(t[0], t[1]), line[1] = vi_high64_pairs(t[0], t[1]);
        line[2] = vi_low64_pairs(t[2], t[3]), line[3] = vi_high64_pairs(t[2], t[3]);
    }
    UNROLL
    for (int i = 0; i < 4; i++)
        vf_store((float *)(void *)(lines + i * IL16_LINE), vf_from_bits(line[i]));
}

/* 16 rows' bytes as lines. A vector's rows at once, not all: rows a power of two apart share a set of the first cache. With
 * `fetch` as many bytes are asked for from `early` on, a few beside each line. */
ALWAYS_INLINE void turn_rows(const uint8_t *rows, size_t stride, size_t bytes, bool pairs, bool fetch, uintptr_t early,
                             uint8_t *lines)
{
    for (int h = 0; h < HALVES; h++)
        for (size_t at = 0; at < bytes; at += IL16_LINE) {
            UNROLL
            for (int i = 0; fetch && i < LANES; i++, early += IL16_LINE)
                __builtin_prefetch((const void *)early, 0, 2);
            UNROLL
            for (int u = 0; u < 4; u++)
                turn_unit(rows + (size_t)(h * LANES) * stride + at + u * 16, stride, pairs,
                          lines + (at + (size_t)u * 16) * 16 + h * HALF_BYTES);
        }
}

/* ---------------------------------------------------------------- one row of activations */

enum { STORED_TILES = 2 /* whose chains of sums run beside each other */, PAIR_ROW_BYTES = 4096 };

/* Columns of a part: some 256 bytes of each row, so that the lines stay in the first cache. */
ALWAYS_INLINE int part_columns(enum wformat f)
{
    return f == W_FP8 ? 256 : 128;
}

ALWAYS_INLINE size_t stored_bytes(enum wformat f, int cols)
{
    return (size_t)cols * (f == W_FP8 ? 1 : f == W_BF16 ? 2 : 4);
}

static void stored_scales(const struct il16 *w, int tile, int col, int n, float *out)
{
    const uint8_t *bytes = w->stored_scale;
    const float *floats = w->stored_scale;
    size_t blocks = (size_t)((w->cols + IL16_BLOCK - 1) / IL16_BLOCK);
    size_t at = (size_t)(tile / (IL16_BLOCK / 16)) * blocks + (size_t)(col / IL16_BLOCK);
    for (int i = 0; i * IL16_BLOCK < n; i++, at++)
        out[i] = w->scale_f32 ? floats[at] : f32_from_e8m0(bytes[at]);
}

/* Lines and scales of n columns from col on of nt tiles, in mem. What is fetched early is fetched by the products, or by
 * the making of lines where that takes the longer time. */
ALWAYS_INLINE void stored_part(enum wformat f, const struct il16 *w, int tile, const int nt, int col, int n,
                               uintptr_t early, uint8_t *mem, struct il16 *part)
{
    size_t stride = stored_bytes(f, w->cols), tile_bytes = stored_bytes(f, n) * 16;
    const uint8_t *rows = w->stored + (size_t)tile * 16 * stride + stored_bytes(f, col);
    float *scale = (float *)(void *)(mem + (size_t)nt * tile_bytes);
    *part = (struct il16){.format = f, .rows = nt * 16, .cols = n, .n_tiles = nt, .cols_padded = n, .data = mem,
                          .tile_bytes = tile_bytes, .scale = scale, .in_order = true};
    part->ahead = f == W_FP8 ? early - (uintptr_t)mem : 1; /* 1: the line itself */
    UNROLL
    for (int t = 0; t < nt; t++)
        turn_rows(rows + (size_t)t * 16 * stride, stride, stored_bytes(f, n), f == W_FP8, f != W_FP8,
                  early + (size_t)t * tile_bytes, mem + (size_t)t * tile_bytes);
    if (f == W_FP8)
        stored_scales(w, tile, col, n, scale);
}

/* nt whole tiles; `next` is the tile whose bytes are fetched meanwhile, in their own order. */
ALWAYS_INLINE void stored_tiles(enum wformat f, const struct il16 *w, int tile, const int nt, int next,
                                const struct fast_x *x, uint8_t *mem, float *y)
{
    uintptr_t early = (uintptr_t)w->stored + (size_t)next * 16 * stored_bytes(f, w->cols);
    for (int col = 0, step = part_columns(f); col < w->cols; col += step) {
        struct il16 part;
        struct fast_x px;
        int n = w->cols - col < step ? w->cols - col : step;
        stored_part(f, w, tile, nt, col, n, early, mem, &part);
        early += (size_t)nt * part.tile_bytes;
        fast_x_columns(&px, &KERN_NAME, x, col, n);
        matvec(f, &part, 0, nt, &px, y);
    }
}

typedef void stored_tiles_fn(const struct il16 *w, int tile, int next, const struct fast_x *x, uint8_t *mem, float *y);

/* A pair of tiles does not reach across scale blocks; and two pairs of wider rows, the one that is read and the one that is
 * fetched, would be too much for the second cache. */
static void stored_strip(enum wformat f, stored_tiles_fn *pair, stored_tiles_fn *single, const struct il16 *w, int tile0,
                         int nt, const struct fast_x *x, void *mem, float *y)
{
    bool wide = stored_bytes(f, w->cols) > PAIR_ROW_BYTES;
    for (int t = 0, n; t < nt; t += n) {
        int tile = tile0 + t;
        bool two = !wide && nt - t >= STORED_TILES && tile % (IL16_BLOCK / 16) != IL16_BLOCK / 16 - 1;
        n = two ? STORED_TILES : 1;
        (n == 1 ? single : pair)(w, tile, t + n < nt ? tile + n : tile0 + x->next_strip, x, mem, y + t * 16);
    }
}

#define STORED_KERNEL(name, f)                                                                                       \
    static NO_INLINE void name##_stored_pair(const struct il16 *w, int tile, int next, const struct fast_x *x,       \
                                             uint8_t *mem, float *y)                                                 \
    {                                                                                                                \
        stored_tiles(f, w, tile, STORED_TILES, next, x, mem, y);                                                     \
    }                                                                                                                \
    static NO_INLINE void name##_stored_single(const struct il16 *w, int tile, int next, const struct fast_x *x,     \
                                               uint8_t *mem, float *y)                                               \
    {                                                                                                                \
        stored_tiles(f, w, tile, 1, next, x, mem, y);                                                                \
    }                                                                                                                \
    static void name##_stored(const struct il16 *w, int tile0, int nt, const struct fast_x *x, void *mem, float *y)  \
    {                                                                                                                \
        stored_strip(f, name##_stored_pair, name##_stored_single, w, tile0, nt, x, mem, y);                          \
    }
STORED_KERNEL(fp8, W_FP8)
STORED_KERNEL(bf16, W_BF16)
STORED_KERNEL(f32, W_F32)
