/* Part of fast_tmpl.h: FP8 and BF16 weights with a few rows at once; and the strip of any format, by its number of rows. */

/* ---------------------------------------------------------------- few rows: lines decoded into registers */

/* Numbers of rows that have a kernel of their own: those of decoding a few sequences at once, or of speculation. */
#define FOR_EACH_FEW(M) M(2) M(3) M(4) M(5) M(6)
enum { FEW_MAX = 6, FEW_SUMS = 24 * (HALVES > 2 ? 2 : 1) };
_Static_assert(FEW_MAX <= X_TILE, "few rows are one tile of packed activations");

/* One block of nt tiles with m rows: x [columns][m]. */
ALWAYS_INLINE void block_few(enum wformat f, const uint8_t *line, size_t tile_bytes, const uint32_t *x, int n_lines,
                             const int nt, const int m, vf *acc)
{
    int s = steps_a_line(f);
    for (int l = 0; l < n_lines; l++, line += IL16_LINE, x += s * m) {
        UNROLL
        for (int t = 0; t < nt; t++) {
            vf w[HALVES][4];
            UNROLL
            for (int h = 0; h < HALVES; h++)
                line_steps(f, line + (size_t)t * tile_bytes + h * HALF_BYTES, w[h]);
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

/* nt tiles with all m = x->n rows; the sums of a row as in panel_rows. */
ALWAYS_INLINE void few(enum wformat f, const struct il16 *w, int tile0, const int nt, const struct fast_x *x, const int m,
                       float *y, size_t ldy)
{
    int c = step_columns(f), a_line = c * steps_a_line(f);
    clear(x, nt, y, ldy);
    for (int b = 0; b < x->n_blocks; b++) {
        int first = b * IL16_BLOCK, n = w->cols_padded - first < IL16_BLOCK ? w->cols_padded - first : IL16_BLOCK;
        vf acc[FEW_SUMS];
        UNROLL
        for (int i = 0; i < nt * HALVES * m; i++)
            acc[i] = vf_zero();
        block_few(f, w->data + (size_t)tile0 * w->tile_bytes + (size_t)(first / a_line) * IL16_LINE, w->tile_bytes,
                  (const uint32_t *)x->data + (size_t)(first / c) * (size_t)m, n / a_line, nt, m, acc);
        UNROLL
        for (int i = 0; i < nt * HALVES * m; i++) {
            float *at = y + (size_t)(i % m) * ldy + i / m * LANES;
            vf scale = vf_set(weight_scale(w, tile0 + i / m / HALVES, b, x->n_blocks) * x_scale(x, i % m, b));
            vf_store(at, vf_fma(scale, acc[i], vf_load(at)));
        }
    }
}

typedef void few_rows_fn(const struct il16 *w, int tile0, const struct fast_x *x, float *y, size_t ldy);

#define FEW_FP8(m)                                                                                                   \
    static NO_INLINE void few_fp8_##m(const struct il16 *w, int tile0, const struct fast_x *x, float *y, size_t ldy) \
    {                                                                                                                \
        few(W_FP8, w, tile0, FEW_TILES(m), x, m, y, ldy);                                                            \
    }
#define FEW_BF16(m)                                                                                                   \
    static NO_INLINE void few_bf16_##m(const struct il16 *w, int tile0, const struct fast_x *x, float *y, size_t ldy) \
    {                                                                                                                 \
        few(W_BF16, w, tile0, FEW_TILES(m), x, m, y, ldy);                                                            \
    }
FOR_EACH_FEW(FEW_FP8)
FOR_EACH_FEW(FEW_BF16)
#define FEW_FP8_NAME(m) few_fp8_##m,
#define FEW_BF16_NAME(m) few_bf16_##m,
static few_rows_fn *const few_fp8_of[] = {FOR_EACH_FEW(FEW_FP8_NAME)};
static few_rows_fn *const few_bf16_of[] = {FOR_EACH_FEW(FEW_BF16_NAME)};

/* A strip with few rows, as far as its tiles come in the number that the kernel takes; returns how many did. */
static int strip_few(few_rows_fn *const *few_of, const struct il16 *w, int tile0, int nt, const struct fast_x *x, float *y,
                     size_t ldy)
{
    int step_tiles = FEW_TILES(x->n), t = 0;
    for (; t + step_tiles <= nt; t += step_tiles)
        few_of[x->n - 2](w, tile0 + t, x, y + t * 16, ldy);
    return t;
}

/* ---------------------------------------------------------------- strips by format */

typedef void one_row_fn(const struct il16 *w, int tile0, const struct fast_x *x, float *y);
typedef void many_rows_fn(const struct il16 *w, int tile0, int nt, const struct fast_x *x, float *y, size_t ldy);

/* A strip by the number of rows: one row of four tiles or of a single tile, few rows, or blocks of rows. */
static inline void strip(one_row_fn *four, one_row_fn *single, few_rows_fn *const *few_of, many_rows_fn *many,
                         const struct il16 *w, int tile0, int nt, const struct fast_x *x, float *y, size_t ldy)
{
    if (x->n > 1) {
        int t = few_of != NULL && x->n <= FEW_MAX ? strip_few(few_of, w, tile0, nt, x, y, ldy) : 0;
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
