/* Part of fast_tmpl.h: FP8, BF16 and F32 weights with many rows. A block of columns of a few tiles, decoded into panels,
 * meets all rows, then comes the next block. */

enum { PANEL_TILES = 2 }; /* decoded at once: two panels stay in the first cache while all rows pass */

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

/* Rows of the tile that begins with row i. */
ALWAYS_INLINE int tile_rows(const struct fast_x *x, int i)
{
    return x->n - i < x->tile ? x->n - i : x->tile;
}

/* All rows against one decoded block (n steps from step `first`) of nt tiles. */
static void block_many(panel_rows_fn *const *rows_of, const float *panel, int n, int first, int b, const float *w_scale,
                       const struct fast_x *x, int nt, float *y, size_t ldy)
{
    float scale[X_TILE];
    size_t words = (size_t)(kind_has_pairs(x->kind) ? x->cols_padded / 2 : x->cols_padded);
    for (int i = 0; i < x->n; i += x->tile) {
        int m = tile_rows(x, i);
        const uint32_t *data = (const uint32_t *)x->data + (size_t)i * words + (size_t)first * (size_t)m;
        for (int t = 0; t < nt; t++) {
            for (int r = 0; r < m; r++)
                scale[r] = w_scale[t] * x_scale(x, i + r, b);
            struct panel_args a = {panel + t * 16 * IL16_BLOCK, data, n, scale, y + (size_t)i * ldy + t * 16, ldy};
            rows_of[m - 1](&a);
        }
    }
}

static void clear(int rows, int n_tiles, float *y, size_t ldy)
{
    for (int i = 0; i < rows; i++)
        memset(y + (size_t)i * ldy, 0, (size_t)n_tiles * 16 * sizeof *y);
}

/* The same for few sums, without a call: y [m][nt][16]. */
ALWAYS_INLINE void clear_few(const int m, const int nt, float *y, size_t ldy)
{
    UNROLL
    for (int i = 0; i < m * nt * HALVES; i++)
        vf_store(y + (size_t)(i % m) * ldy + i / m * LANES, vf_zero());
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

ALWAYS_INLINE void matmul(enum wformat f, const struct il16 *w, int tile0, int nt, const struct fast_x *x, float *y,
                          size_t ldy)
{
    _Alignas(64) float panel[PANEL_TILES * 16 * IL16_BLOCK];
    float w_scale[PANEL_TILES];
    int c = step_columns(f), a_line = c * steps_a_line(f);
    clear(x->n, nt, y, ldy);
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
