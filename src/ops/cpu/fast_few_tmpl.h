/* Part of fast_tmpl.h: FP8 and BF16 weights with up to FEW_ROWS rows; and the strip of any format, by its number of rows. */

/* ---------------------------------------------------------------- lines decoded into registers for every tile of rows */

enum { FEW_SUMS = 24 * (HALVES > 2 ? 2 : 1) };

/* How far ahead of the line in work what comes is asked for, all tiles at once together: a line lasts long with several
 * rows, and the processor's own fetching ends with each page. Best of 512 to 4,096 with one tile; four tiles at once of two
 * bytes a value pass so fast that the processor's own fetching is better. As far for activations, of which hundreds of rows
 * come from beyond the second cache. */
enum { FEW_AHEAD = 2048, FAR_ROWS = 64 };

/* One block of nt tiles with m rows: x [columns][m]. */
ALWAYS_INLINE void block_few(enum wformat f, const uint8_t *line, size_t tile_bytes, const struct ahead *ahead, size_t at,
                             const uint32_t *x, bool far, int n_lines, const int nt, const int m, vf *acc)
{
    int s = steps_a_line(f);
    for (int l = 0; l < n_lines; l++, at += IL16_LINE, x += s * m) {
        uintptr_t early = place_ahead(ahead, at);
        for (int i = 0; far && i < 4 * s * m; i += IL16_LINE)
            __builtin_prefetch((const uint8_t *)x + FEW_AHEAD + i, 0, 3);
        UNROLL
        for (int t = 0; t < nt; t++) {
            const uint8_t *tile = line + (size_t)t * tile_bytes;
            vf w[HALVES][4];
            if (nt == 1 || f == W_FP8)
                __builtin_prefetch((const void *)((uintptr_t)tile + early), 0, 3);
            UNROLL
            for (int h = 0; h < HALVES; h++)
                line_steps(f, tile + at + h * HALF_BYTES, w[h]);
            UNROLL
            for (int j = 0; j < s * m; j++) {
                vf v = set_word(x[j]);
                UNROLL
                for (int h = 0; h < HALVES; h++) {
                    vf *sum = &acc[(t * HALVES + h) * m + j % m];
                    *sum = step(f, w[h][j / m], v, *sum);
                }
            }
        }
    }
}

/* nt tiles with the m rows from row0 on, a tile of them; the sums of a row as in panel_rows. `step`: tiles from these to
 * the next ones in work. */
ALWAYS_INLINE void few(enum wformat f, const struct il16 *w, int tile0, int step, const int nt, const struct fast_x *x,
                       int row0, const int m, float *y, size_t ldy)
{
    int c = step_columns(f), a_line = c * steps_a_line(f);
    const uint32_t *data = (const uint32_t *)x->data + (size_t)row0 * (size_t)(w->cols_padded / c);
    const uint8_t *line = w->data + (size_t)tile0 * w->tile_bytes;
    const struct ahead ahead = ahead_by(w, (uintptr_t)(FEW_AHEAD / nt), step);
    bool far = x->n > FAR_ROWS;
    clear_few(m, nt, y, ldy);
    for (int b = 0; b < x->n_blocks; b++) {
        int first = b * IL16_BLOCK, n = w->cols_padded - first < IL16_BLOCK ? w->cols_padded - first : IL16_BLOCK;
        vf acc[FEW_SUMS];
        UNROLL
        for (int i = 0; i < nt * HALVES * m; i++)
            acc[i] = vf_zero();
        block_few(f, line, w->tile_bytes, &ahead, (size_t)(first / a_line) * IL16_LINE,
                  data + (size_t)(first / c) * (size_t)m, far, n / a_line, nt, m, acc);
        UNROLL
        for (int i = 0; i < nt * HALVES * m; i++) {
            float *at = y + (size_t)(i % m) * ldy + i / m * LANES;
            vf scale = vf_set(weight_scale(w, tile0 + i / m / HALVES, b, x->n_blocks) * x_scale(x, row0 + i % m, b));
            vf_store(at, vf_fma(scale, acc[i], vf_load(at)));
        }
    }
}

typedef void few_rows_fn(const struct il16 *w, int tile0, int step, const struct fast_x *x, int row0, float *y, size_t ldy);

#define FEW_KERNEL(name, f, m)                                                                                        \
    static NO_INLINE void name##_##m(const struct il16 *w, int tile0, int step, const struct fast_x *x, int row0,     \
                                     float *y, size_t ldy)                                                            \
    {                                                                                                                 \
        few(f, w, tile0, step, FEW_TILES(f, m), x, row0, m, y, ldy);                                                  \
    }
#define FEW_FP8(m) FEW_KERNEL(few_fp8, W_FP8, m)
#define FEW_BF16(m) FEW_KERNEL(few_bf16, W_BF16, m)
FOR_EACH_X_TILE(FEW_FP8)
FOR_EACH_X_TILE(FEW_BF16)
#define FEW_FP8_NAME(m) few_fp8_##m,
#define FEW_BF16_NAME(m) few_bf16_##m,
static few_rows_fn *const few_fp8_of[] = {FOR_EACH_X_TILE(FEW_FP8_NAME)};
static few_rows_fn *const few_bf16_of[] = {FOR_EACH_X_TILE(FEW_BF16_NAME)};

/* A strip with few rows, as far as its tiles come in the number that the kernels take (the last row tile's kernel takes the
 * most); returns how many did. */
static int strip_few(enum wformat f, few_rows_fn *const *few_of, const struct il16 *w, int tile0, int nt,
                     const struct fast_x *x, float *y, size_t ldy)
{
    (void)f; /* for most levels they do not depend on it */
    int most = FEW_TILES(f, tile_rows(x, (x->n - 1) / x->tile * x->tile)), whole = nt / most * most;
    for (int i = 0; i < x->n; i += x->tile) {
        int m = tile_rows(x, i), at_once = FEW_TILES(f, m);
        for (int t = 0; t < whole; t += at_once) {
            int step = t + at_once < nt ? at_once : x->next_strip - t;
            few_of[m - 1](w, tile0 + t, step, x, i, y + (size_t)i * ldy + t * 16, ldy);
        }
    }
    return whole;
}

/* ---------------------------------------------------------------- strips by format */

typedef void one_row_fn(const struct il16 *w, int tile0, const struct fast_x *x, float *y);
typedef void many_rows_fn(const struct il16 *w, int tile0, int nt, const struct fast_x *x, float *y, size_t ldy);

/* A strip by the number of rows: one row of four tiles or of a single tile, few rows, or blocks of rows. */
static inline void strip(one_row_fn *four, one_row_fn *single, few_rows_fn *const *few_of, many_rows_fn *many,
                         const struct il16 *w, int tile0, int nt, const struct fast_x *x, float *y, size_t ldy)
{
    if (x->n > 1) {
        int t = few_of != NULL && x->n <= FEW_ROWS ? strip_few(w->format, few_of, w, tile0, nt, x, y, ldy) : 0;
        if (t < nt)
            many(w, tile0 + t, nt - t, x, y + t * 16, ldy);
        return;
    }
    if (nt == FAST_STRIP) {
        four(w, tile0, x, y);
        return;
    }
    for (int t = 0; t < nt; t++)
        single(w, tile0 + t, x, y + t * 16);
}

#define FORMAT_KERNELS(name, f, few_of)                                                                      \
    static NO_INLINE void name##_four(const struct il16 *w, int tile0, const struct fast_x *x, float *y)     \
    {                                                                                                        \
        matvec(f, w, tile0, FAST_STRIP, x, y);                                                               \
    }                                                                                                        \
    static NO_INLINE void name##_single(const struct il16 *w, int tile0, const struct fast_x *x, float *y)   \
    {                                                                                                        \
        matvec(f, w, tile0, 1, x, y);                                                                        \
    }                                                                                                        \
    static NO_INLINE void name##_many(const struct il16 *w, int tile0, int nt, const struct fast_x *x,       \
                                      float *y, size_t ldy)                                                  \
    {                                                                                                        \
        matmul(f, w, tile0, nt, x, y, ldy);                                                                  \
    }                                                                                                        \
    static void name##_matmul(const struct il16 *w, int tile0, int nt, const struct fast_x *x, float *y,     \
                              size_t ldy)                                                                    \
    {                                                                                                        \
        strip(name##_four, name##_single, few_of, name##_many, w, tile0, nt, x, y, ldy);                     \
    }
FORMAT_KERNELS(fp8, W_FP8, few_fp8_of)
FORMAT_KERNELS(bf16, W_BF16, few_bf16_of)
FORMAT_KERNELS(f32, W_F32, NULL)
