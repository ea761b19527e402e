/* Part of fast_tmpl.h: FP8, BF16 and F32 weights, whose products are sums of fp32 (or bf16 pair) multiply-adds. */

/* ---------------------------------------------------------------- decoding a line */

#ifdef PAIRS
/* Pairs of columns (0,1) and (2,3) of an FP8 line. */
ALWAYS_INLINE void fp8_steps(vi line, vf *w)
{
    vi_fp8_pairs(line, w);
}

ALWAYS_INLINE void bf16_steps(vi line, vf *w)
{
    w[0] = vf_from_bits(line);
}
#else
/* The four columns of an FP8 line, 2^-120 times their values. Even and odd bytes, times 16 as signed words, become 16-bit
 * patterns (the upper half of the fp32), whose low and high four of each 128 bits are columns 0, 1 and 2, 3 of the same
 * four rows. */
ALWAYS_INLINE void fp8_steps(vi line, vf *w)
{
    vi keep = vi_set32(0x87f087f0), zero = vi_set32(0);
    vi even = vi_and(vi_even_16(line), keep), odd = vi_and(vi_odd_16(line), keep);
    w[0] = vf_from_bits(vi_low16_pairs(zero, even));
    w[1] = vf_from_bits(vi_low16_pairs(zero, odd));
    w[2] = vf_from_bits(vi_high16_pairs(zero, even));
    w[3] = vf_from_bits(vi_high16_pairs(zero, odd));
}

ALWAYS_INLINE void bf16_steps(vi line, vf *w)
{
    w[0] = vf_from_bits(vi_sll32_16(line));
    w[1] = vf_from_bits(vi_and(line, vi_set32(0xffff0000)));
}
#endif

/* The steps of one line of a format into w. */
ALWAYS_INLINE void line_steps(enum wformat f, const uint8_t *line, vf *w)
{
    vi v = vi_load(line);
    if (f == W_FP8)
        fp8_steps(v, w);
    else if (f == W_BF16)
        bf16_steps(v, w);
    else
        w[0] = vf_from_bits(v);
}

ALWAYS_INLINE int step_columns(enum wformat f)
{
    return HAS_PAIRS != 0 && f != W_F32 ? 2 : 1;
}

ALWAYS_INLINE int steps_a_line(enum wformat f)
{
    return (f == W_FP8 ? 4 : f == W_BF16 ? 2 : 1) / step_columns(f);
}

/* acc + w x, or the dot products of pairs. */
ALWAYS_INLINE vf step(enum wformat f, vf w, vf x, vf acc)
{
#ifdef PAIRS
    if (f != W_F32)
        return vf_dot_pairs(w, x, acc);
#endif
    (void)f;
    return vf_fma(w, x, acc);
}

ALWAYS_INLINE vf set_word(uint32_t word)
{
    return vf_from_bits(vi_set32(word));
}

ALWAYS_INLINE float weight_scale(const struct il16 *w, int tile, int b, int n_blocks)
{
    return w->format == W_FP8 ? w->scale[(size_t)(tile / (IL16_BLOCK / 16)) * (size_t)n_blocks + (size_t)b] : 1.0f;
}

ALWAYS_INLINE float x_scale(const struct fast_x *x, int i, int b)
{
    return x->kind == FX_PLAIN || x->kind == FX_BF16 ? 1.0f : x->scale[(size_t)i * (size_t)x->n_blocks + (size_t)b];
}

/* ---------------------------------------------------------------- one row of activations */

/* What a tile's stream fetches early: the line `near` bytes on, and at its end the beginning of the tile that takes its
 * place in this thread's next strip, which the processor could not foresee. */
struct ahead {
    uintptr_t near, end, jump;
};

enum { AHEAD = 256 }; /* beside 512 and 1,024: better for FP4, the same within the noise for FP8 and BF16 */

ALWAYS_INLINE struct ahead ahead_of(const struct il16 *w, const struct fast_x *x)
{
    if (w->ahead != 0) /* lines made of a stored matrix: what is fetched early is the matrix itself */
        return (struct ahead){.near = w->ahead, .end = UINTPTR_MAX};
    return (struct ahead){AHEAD, w->tile_bytes, (uintptr_t)(x->next_strip - 1) * w->tile_bytes};
}

/* From the beginning of a tile. */
ALWAYS_INLINE uintptr_t place_ahead(const struct ahead *a, size_t at)
{
    uintptr_t to = at + a->near;
    return to >= a->end ? to + a->jump : to;
}

/* One block of nt tiles with one row: every tile is its own stream, so nt tiles give nt*HALVES independent chains. */
ALWAYS_INLINE void block_one(enum wformat f, const uint8_t *const *line, size_t at, const uint32_t *x, int n_lines, int nt,
                             const struct ahead *ahead, vf *acc)
{
    int s = steps_a_line(f);
    for (int l = 0; l < n_lines; l++, at += IL16_LINE, x += s) {
        uintptr_t early = place_ahead(ahead, at);
        UNROLL
        for (int t = 0; t < nt; t++) {
            UNROLL
            for (int h = 0; h < HALVES; h++) {
                vf w[4];
                if (h == 0)
                    __builtin_prefetch((const void *)((uintptr_t)line[t] + early), 0, 3);
                line_steps(f, line[t] + at + h * HALF_BYTES, w);
                UNROLL
                for (int j = 0; j < s; j++)
                    acc[t * HALVES + h] = step(f, w[j], set_word(x[j]), acc[t * HALVES + h]);
            }
        }
    }
}

ALWAYS_INLINE void matvec(enum wformat f, const struct il16 *w, int tile0, int nt, const struct fast_x *x, float *y)
{
    const uint8_t *line[FAST_STRIP];
    vf sum[FAST_STRIP * HALVES];
    for (int t = 0; t < nt; t++)
        line[t] = w->data + (size_t)(tile0 + t) * w->tile_bytes;
    UNROLL
    for (int i = 0; i < nt * HALVES; i++)
        sum[i] = x->resume ? vf_load(y + i * LANES) : vf_zero();
    int c = step_columns(f), a_line = c * steps_a_line(f);
    const struct ahead ahead = ahead_of(w, x);
    for (int b = 0; b < x->n_blocks; b++) {
        int first = b * IL16_BLOCK, n = w->cols_padded - first < IL16_BLOCK ? w->cols_padded - first : IL16_BLOCK;
        vf acc[FAST_STRIP * HALVES];
        UNROLL
        for (int i = 0; i < nt * HALVES; i++)
            acc[i] = vf_zero();
        block_one(f, line, (size_t)(first / a_line) * IL16_LINE, (const uint32_t *)x->data + first / c, n / a_line, nt,
                  &ahead, acc);
        UNROLL
        for (int i = 0; i < nt * HALVES; i++)
            sum[i] = vf_fma(vf_set(weight_scale(w, tile0 + i / HALVES, b, x->n_blocks) * x_scale(x, 0, b)), acc[i], sum[i]);
    }
    UNROLL
    for (int i = 0; i < nt * HALVES; i++)
        vf_store(y + i * LANES, sum[i]);
}

/* ---------------------------------------------------------------- tiles of rows */

/* n columns (one block) of a tile as steps of lanes: panel [n / step columns][16]. */
ALWAYS_INLINE void decode_panel(enum wformat f, const uint8_t *line, int n, float *panel)
{
    int s = steps_a_line(f), a_line = s * step_columns(f);
    for (int k = 0; k < n; k += a_line, line += IL16_LINE, panel += 16 * s) {
        UNROLL
        for (int h = 0; h < HALVES; h++) {
            vf w[4];
            line_steps(f, line + h * HALF_BYTES, w);
            UNROLL
            for (int j = 0; j < s; j++)
                vf_store(panel + 16 * j + LANES * h, w[j]);
        }
    }
}

struct panel_args {
    const float *panel; /* [n][16] */
    const uint32_t *x;  /* [n][m] */
    int n;              /* steps */
    const float *scale; /* [m] of this block */
    float *y;           /* 16 sums of row i at y + i*ldy */
    size_t ldy;
};

/* y_i = fma(scale_i, panel . x_i, y_i) for m rows. */
ALWAYS_INLINE void panel_rows(enum wformat f, const struct panel_args *a, const int m)
{
    vf acc[X_TILE * HALVES];
    const float *panel = a->panel;
    const uint32_t *x = a->x;
    UNROLL
    for (int i = 0; i < m * HALVES; i++)
        acc[i] = vf_zero();
    UNROLL_4
    for (int k = 0; k < a->n; k++, panel += 16, x += m) {
        vf w[HALVES];
        UNROLL
        for (int h = 0; h < HALVES; h++)
            w[h] = vf_load(panel + h * LANES);
        UNROLL
        for (int i = 0; i < m; i++) {
            vf v = set_word(x[i]);
            UNROLL
            for (int h = 0; h < HALVES; h++)
                acc[i * HALVES + h] = step(f, w[h], v, acc[i * HALVES + h]);
        }
    }
    UNROLL
    for (int i = 0; i < m; i++) {
        vf s = vf_set(a->scale[i]);
        UNROLL
        for (int h = 0; h < HALVES; h++) {
            float *y = a->y + (size_t)i * a->ldy + h * LANES;
            vf_store(y, vf_fma(s, acc[i * HALVES + h], vf_load(y)));
        }
    }
}

typedef void panel_rows_fn(const struct panel_args *a);

#define PANEL_ROWS(m) \
    static NO_INLINE void panel_rows_##m(const struct panel_args *a) { panel_rows(W_F32, a, m); }
FOR_EACH_X_TILE(PANEL_ROWS)
#define PANEL_NAME(m) panel_rows_##m,
static panel_rows_fn *const panel_rows_of[] = {FOR_EACH_X_TILE(PANEL_NAME)};

#ifdef PAIRS
#define PAIR_ROWS(m) \
    static NO_INLINE void pair_rows_##m(const struct panel_args *a) { panel_rows(W_BF16, a, m); }
FOR_EACH_X_TILE(PAIR_ROWS)
#define PAIR_NAME(m) pair_rows_##m,
static panel_rows_fn *const pair_rows_of[] = {FOR_EACH_X_TILE(PAIR_NAME)};
#else
#define pair_rows_of panel_rows_of
#endif

/* All rows against one decoded block (n steps from step `first`) of nt tiles. */
static void block_many(panel_rows_fn *const *rows_of, const float *panel, int n, int first, int b, const float *w_scale,
                       const struct fast_x *x, int nt, float *y, size_t ldy)
{
    float scale[X_TILE];
    size_t words = (size_t)(kind_has_pairs(x->kind) ? x->cols_padded / 2 : x->cols_padded);
    for (int i = 0; i < x->n; i += X_TILE) {
        int m = x->n - i < X_TILE ? x->n - i : X_TILE;
        const uint32_t *data = (const uint32_t *)x->data + (size_t)i * words + (size_t)first * (size_t)m;
        for (int t = 0; t < nt; t++) {
            for (int r = 0; r < m; r++)
                scale[r] = w_scale[t] * x_scale(x, i + r, b);
            struct panel_args a = {panel + t * 16 * IL16_BLOCK, data, n, scale, y + (size_t)i * ldy + t * 16, ldy};
            rows_of[m - 1](&a);
        }
    }
}

static void clear(const struct fast_x *x, int n_tiles, float *y, size_t ldy)
{
    for (int i = 0; i < x->n; i++)
        memset(y + (size_t)i * ldy, 0, (size_t)n_tiles * 16 * sizeof *y);
}

/* Asks for `bytes` of a tile from `at` on, which the processor would only wait for when they are decoded; at the end of
 * the tile for the first ones of the tile that takes its place in this thread's next strip. */
ALWAYS_INLINE void fetch_tile(const struct il16 *w, const struct fast_x *x, int tile, size_t at, size_t bytes)
{
    if (at >= w->tile_bytes) {
        tile += x->next_strip;
        at = 0;
    }
    uintptr_t line = (uintptr_t)w->data + (size_t)tile * w->tile_bytes + at;
    for (size_t l = 0; l < bytes; l += IL16_LINE)
        __builtin_prefetch((const void *)(line + l), 0, 2);
}

enum { PANEL_TILES = 2 }; /* decoded at once: two panels stay in the first cache while all rows pass */

ALWAYS_INLINE void matmul(enum wformat f, const struct il16 *w, int tile0, int nt, const struct fast_x *x, float *y,
                          size_t ldy)
{
    _Alignas(64) float panel[PANEL_TILES * 16 * IL16_BLOCK];
    float w_scale[PANEL_TILES];
    int c = step_columns(f), a_line = c * steps_a_line(f);
    clear(x, nt, y, ldy);
    for (int b = 0; b < x->n_blocks; b++) {
        int first = b * IL16_BLOCK, n = w->cols_padded - first < IL16_BLOCK ? w->cols_padded - first : IL16_BLOCK;
        size_t at = (size_t)(first / a_line) * IL16_LINE, bytes = (size_t)(IL16_BLOCK / a_line) * IL16_LINE;
        for (int t0 = 0; t0 < nt; t0 += PANEL_TILES) {
            int n_panels = nt - t0 < PANEL_TILES ? nt - t0 : PANEL_TILES;
            for (int t = 0; t < n_panels; t++) {
                int tile = tile0 + t0 + t;
                decode_panel(f, w->data + (size_t)tile * w->tile_bytes + at, n, panel + t * 16 * IL16_BLOCK);
                w_scale[t] = weight_scale(w, tile, b, x->n_blocks);
                fetch_tile(w, x, tile, at + bytes, bytes);
            }
            block_many(c == 2 ? pair_rows_of : panel_rows_of, panel, n / c, first / c, b, w_scale, x, n_panels,
                       y + t0 * 16, ldy);
        }
    }
}
