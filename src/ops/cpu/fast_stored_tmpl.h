/* Part of fast_tmpl.h: one row times a matrix as checkpoints store it. Lines are made for a few columns of a few tiles, and
 * consumed while they are in the first cache. Every format keeps four bytes of each row in a line, so making them is one
 * transposition: of 32-bit words, or for FP8 of the 16-bit pairs that its lines are made of. A vector takes 16 bytes of
 * rows 0, 4, 8, ... of its half of the tile, in whose lanes the rows' words belong. */

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

/* 16 rows' bytes as lines. A vector's rows at once, not all: rows a power of two apart share a set of the first cache. */
ALWAYS_INLINE void turn_rows(const uint8_t *rows, size_t stride, size_t bytes, bool pairs, uint8_t *lines)
{
    for (int h = 0; h < HALVES; h++)
        for (size_t at = 0; at < bytes; at += IL16_LINE) {
            UNROLL
            for (int u = 0; u < 4; u++)
                turn_unit(rows + (size_t)(h * LANES) * stride + at + u * 16, stride, pairs,
                          lines + (at + (size_t)u * 16) * 16 + h * HALF_BYTES);
        }
}

/* ---------------------------------------------------------------- one row of activations */

enum { STORED_TILES = 2 }; /* tiles whose chains of sums run beside each other */

/* Columns of a part: some 256 bytes of each row, so that the lines stay in the first cache. */
ALWAYS_INLINE int part_columns(enum wformat f)
{
    return f == W_FP4 ? 512 : f == W_FP8 ? 256 : 128;
}

ALWAYS_INLINE size_t stored_bytes(enum wformat f, int cols)
{
    return (size_t)cols * (f == W_FP4 ? 4 : f == W_FP8 ? 8 : f == W_BF16 ? 16 : 32) / 8;
}

static void stored_scales_fp4(const struct il16 *w, int tile, int col, int groups, uint8_t *out)
{
    size_t stride = (size_t)(w->cols / 32);
    const uint8_t *in = (const uint8_t *)w->stored_scale + (size_t)tile * 16 * stride + col / 32;
    int b = 0;
    for (; b + 16 <= groups; b += 16)
        turn_bytes(in + b, stride, out + b * 16);
    for (; b < groups; b++)
        for (int r = 0; r < 16; r++)
            out[b * 16 + r] = in[(size_t)r * stride + (size_t)b];
}

static void stored_scales_fp8(const struct il16 *w, int tile, int col, int n, float *out)
{
    const uint8_t *bytes = w->stored_scale;
    const float *floats = w->stored_scale;
    size_t blocks = (size_t)((w->cols + IL16_BLOCK - 1) / IL16_BLOCK);
    size_t at = (size_t)(tile / (IL16_BLOCK / 16)) * blocks + (size_t)(col / IL16_BLOCK);
    for (int i = 0; i * IL16_BLOCK < n; i++, at++)
        out[i] = w->scale_f32 ? floats[at] : f32_from_e8m0(bytes[at]);
}

/* Lines and scales of n columns from col on of nt tiles, in mem. */
ALWAYS_INLINE void stored_part(enum wformat f, const struct il16 *w, int tile, const int nt, int col, int n,
                               uint8_t *mem, struct il16 *part)
{
    size_t stride = stored_bytes(f, w->cols);
    *part = (struct il16){.format = f, .rows = nt * 16, .cols = n, .n_tiles = nt, .cols_padded = n, .data = mem,
                          .tile_bytes = stored_bytes(f, n) * 16, .in_order = true};
    uint8_t *scales = mem + (size_t)nt * part->tile_bytes;
    UNROLL
    for (int t = 0; t < nt; t++) {
        turn_rows(w->stored + (size_t)(tile + t) * 16 * stride + stored_bytes(f, col), stride, stored_bytes(f, n),
                  f == W_FP8, mem + (size_t)t * part->tile_bytes);
        if (f == W_FP4)
            stored_scales_fp4(w, tile + t, col, n / 32, scales + t * n / 2);
    }
    if (f == W_FP4)
        part->scale8 = scales;
    if (f == W_FP8)
        stored_scales_fp8(w, tile, col, n, (float *)(void *)scales);
    part->scale = (const float *)(const void *)scales;
}

/* nt whole tiles; `next` is the tile whose bytes are fetched meanwhile, in their own order. */
ALWAYS_INLINE void stored_tiles(enum wformat f, bool one_digit, const struct il16 *w, int tile, const int nt, int next,
                                const struct fast_x *x, uint8_t *mem, float *y)
{
    uintptr_t early = (uintptr_t)w->stored + (size_t)next * 16 * stored_bytes(f, w->cols);
    for (int col = 0, step = part_columns(f); col < w->cols; col += step) {
        struct il16 part;
        struct fast_x px;
        int n = w->cols - col < step ? w->cols - col : step;
        stored_part(f, w, tile, nt, col, n, mem, &part);
        part.ahead = early - (uintptr_t)mem;
        early += (size_t)nt * part.tile_bytes;
        fast_x_columns(&px, &KERN_NAME, x, col, n);
        if (f != W_FP4)
            matvec(f, &part, 0, nt, &px, y);
        else if (one_digit)
            int8_one(&part, 0, nt, &px, y);
        else
            fp4_one(&part, 0, nt, &px, y);
    }
}

typedef void stored_tiles_fn(const struct il16 *w, int tile, int next, const struct fast_x *x, uint8_t *mem, float *y);

/* A pair of tiles does not reach across scale blocks. */
static void stored_strip(stored_tiles_fn *pair, stored_tiles_fn *single, const struct il16 *w, int tile0, int nt,
                         const struct fast_x *x, void *mem, float *y)
{
    for (int t = 0, n; t < nt; t += n) {
        int tile = tile0 + t;
        n = nt - t >= STORED_TILES && tile % (IL16_BLOCK / 16) != IL16_BLOCK / 16 - 1 ? STORED_TILES : 1;
        (n == 1 ? single : pair)(w, tile, t + n < nt ? tile + n : tile0 + x->next_strip, x, mem, y + t * 16);
    }
}

#define STORED_KERNEL(name, f, one_digit)                                                                            \
    static NO_INLINE void name##_stored_pair(const struct il16 *w, int tile, int next, const struct fast_x *x,       \
                                             uint8_t *mem, float *y)                                                 \
    {                                                                                                                \
        stored_tiles(f, one_digit, w, tile, STORED_TILES, next, x, mem, y);                                          \
    }                                                                                                                \
    static NO_INLINE void name##_stored_single(const struct il16 *w, int tile, int next, const struct fast_x *x,     \
                                               uint8_t *mem, float *y)                                               \
    {                                                                                                                \
        stored_tiles(f, one_digit, w, tile, 1, next, x, mem, y);                                                     \
    }                                                                                                                \
    static void name##_stored(const struct il16 *w, int tile0, int nt, const struct fast_x *x, void *mem, float *y)  \
    {                                                                                                                \
        stored_strip(name##_stored_pair, name##_stored_single, w, tile0, nt, x, mem, y);                             \
    }
STORED_KERNEL(fp4, W_FP4, false)
STORED_KERNEL(int8, W_FP4, true)
STORED_KERNEL(fp8, W_FP8, false)
STORED_KERNEL(bf16, W_BF16, false)
STORED_KERNEL(f32, W_F32, false)
