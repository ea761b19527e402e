/* Part of fast_tmpl.h: FP4 weights times activations of one signed byte (numerics int8). As with digits, sums of 32 columns
 * begin at -12 times the codes' sum and end below 2^15. A digit instead of two leaves registers for all 16 rows of a tile
 * at once, so that a broadcast activation serves every vector of them. */

enum { CODES_A_LINE = 2 * HALVES };

/* One line's code vectors: low nibbles of every half, then high ones; for one row, or paired for several. */
ALWAYS_INLINE void int8_codes_of(const uint8_t *line, const bool paired, vi *code)
{
    UNROLL
    for (int h = 0; h < HALVES; h++) {
        vi pair[2];
        fp4_codes(line + h * HALF_BYTES, pair);
        if (paired)
            pair_codes(&pair[0], &pair[1]);
        code[h] = pair[0];
        code[HALVES + h] = pair[1];
    }
}

/* ---------------------------------------------------------------- one row */

/* A group of one tile: words x [4][2]. */
ALWAYS_INLINE void int8_group(const uint8_t *line, const uint8_t *scale, const int32_t *x, const struct fast_group *g,
                              uintptr_t early, vf *sum)
{
    vi acc[HALVES];
    UNROLL
    for (int h = 0; h < HALVES; h++)
        acc[h] = vi_set32((uint32_t)g->start[0]);
    UNROLL
    for (int l = 0; l < 4; l++, line += IL16_LINE, x += 2) {
        vi code[CODES_A_LINE];
        __builtin_prefetch((const void *)((uintptr_t)line + early), 0, 3);
        int8_codes_of(line, false, code);
        add_words(code, x, 1, HALVES, acc);
    }
    vf xs = vf_set(g->scale);
    UNROLL
    for (int h = 0; h < HALVES; h++)
        sum[h] = vf_fma(vf_mul(fp4_scales(scale + h * LANES), xs), vf_from_i32(vi_digit_sum(acc[h])), sum[h]);
}

ALWAYS_INLINE void int8_one(const struct il16 *w, int tile, const int nt, const struct fast_x *x, float *y)
{
    int n_groups = w->cols_padded / 32;
    const uint8_t *line = w->data + (size_t)tile * w->tile_bytes;
    const uint8_t *scale = w->scale8 + (size_t)tile * (size_t)n_groups * 16;
    const int32_t *words = x->data;
    const struct ahead ahead = ahead_of(w, x);
    vf sum[FAST_STRIP * HALVES];
    UNROLL
    for (int i = 0; i < nt * HALVES; i++)
        sum[i] = vf_zero();
    for (int b = 0; b < n_groups; b++, line += 4 * IL16_LINE, scale += 16, words += 8) {
        uintptr_t at = (uintptr_t)b * 4 * IL16_LINE, early = place_ahead(&ahead, at) - at;
        UNROLL
        for (int t = 0; t < nt; t++)
            int8_group(line + (size_t)t * w->tile_bytes, scale + (size_t)t * (size_t)n_groups * 16, words, &x->group[b],
                       early, sum + t * HALVES);
    }
    UNROLL
    for (int i = 0; i < nt * HALVES; i++)
        vf_store(y + i * LANES, sum[i]);
}

static NO_INLINE void int8_one_four(const struct il16 *w, int tile, const struct fast_x *x, float *y)
{
    int8_one(w, tile, FAST_STRIP, x, y);
}

static NO_INLINE void int8_one_single(const struct il16 *w, int tile, const struct fast_x *x, float *y)
{
    int8_one(w, tile, 1, x, y);
}

/* ---------------------------------------------------------------- tiles of rows */

/* A group's sums joined to those of its rows: y of row i at y + i*ldy, groups `stride` apart. */
ALWAYS_INLINE void int8_join(const vi *acc, const vf *w_scale, const struct fast_group *g, size_t stride, const int m,
                             float *y, size_t ldy)
{
    UNROLL
    for (int i = 0; i < m; i++, g += stride, y += ldy) {
        vf xs = vf_set(g->scale);
        UNROLL
        for (int h = 0; h < HALVES; h++) {
            vf dot = vf_from_i32(vi_digit_sum(sum_of(acc, i, h, HALVES))), old = vf_load(y + h * LANES);
            vf_store(y + h * LANES, vf_fma(vf_mul(w_scale[h], xs), dot, old));
        }
    }
}

ALWAYS_INLINE void int8_begin(const struct fast_group *g, size_t stride, const int m, vi *acc)
{
    int32_t start[X_TILE];
    UNROLL
    for (int i = 0; i < m; i++)
        start[i] = g[(size_t)i * stride].start[0];
    begin_sums(start, m, HALVES, acc);
}

/* One tile with all m = x->n rows, lines decoded into registers. */
ALWAYS_INLINE void int8_few(const struct il16 *w, int tile, int step, const struct fast_x *x, int row0, const int m,
                            float *y, size_t ldy)
{
    size_t n_groups = (size_t)(w->cols_padded / 32);
    const uint8_t *line = w->data + (size_t)tile * w->tile_bytes;
    const uint8_t *scale = w->scale8 + (size_t)tile * n_groups * 16;
    const int32_t *words = (const int32_t *)x->data + (size_t)row0 * n_groups * 8;
    const struct fast_group *group = x->group + (size_t)row0 * n_groups;
    clear_few(m, 1, y, ldy);
    const struct ahead ahead = ahead_by(w, FEW_AHEAD, step);
    for (size_t b = 0; b < n_groups; b++, scale += 16) {
        vi acc[X_TILE * HALVES];
        vf w_scale[HALVES];
        uintptr_t early = place_ahead(&ahead, b * 4 * IL16_LINE) - b * 4 * IL16_LINE;
        int8_begin(group + b, n_groups, m, acc);
        UNROLL
        for (int l = 0; l < 4; l++, line += IL16_LINE, words += 2 * m) {
            vi code[CODES_A_LINE];
            __builtin_prefetch((const void *)((uintptr_t)line + early), 0, 3);
            int8_codes_of(line, true, code);
            add_paired(code, words, m, HALVES, acc);
        }
        UNROLL
        for (int h = 0; h < HALVES; h++)
            w_scale[h] = fp4_scales(scale + h * LANES);
        int8_join(acc, w_scale, group + b, n_groups, m, y, ldy);
    }
}

#define INT8_FEW(m)                                                                                                   \
    static NO_INLINE void int8_few_##m(const struct il16 *w, int tile0, int step, const struct fast_x *x, int row0,   \
                                       float *y, size_t ldy)                                                          \
    {                                                                                                                 \
        for (int t = 0; t < FEW_TILES(W_FP4, m); t++)                                                                 \
            int8_few(w, tile0 + t, t + 1 < FEW_TILES(W_FP4, m) ? 1 : step - t, x, row0, m, y + t * 16, ldy);          \
    }
FOR_EACH_X_TILE(INT8_FEW)
#define INT8_FEW_NAME(m) int8_few_##m,
static few_rows_fn *const int8_few_of[] = {FOR_EACH_X_TILE(INT8_FEW_NAME)};

enum { RUN_GROUPS = IL16_BLOCK / 32 };

/* A run of groups of a tile, decoded once and used for all rows. */
struct int8_run {
    vi code[RUN_GROUPS][4][CODES_A_LINE];
    vf w_scale[RUN_GROUPS][HALVES];
};

struct int8_args {
    const struct int8_run *run;
    int n_groups;                   /* of the run */
    const int32_t *x;               /* [groups][4][m][2] */
    const struct fast_group *group; /* of the first row; the others' are `stride` apart */
    size_t stride;
    float *y; /* 16 sums of row i at y + i*ldy */
    size_t ldy;
};

ALWAYS_INLINE void int8_rows(const struct int8_args *a, const int m)
{
    const int32_t *x = a->x;
    for (int b = 0; b < a->n_groups; b++) {
        vi acc[X_TILE * HALVES];
        int8_begin(a->group + b, a->stride, m, acc);
        UNROLL
        for (int l = 0; l < 4; l++, x += 2 * m)
            add_paired(a->run->code[b][l], x, m, HALVES, acc);
        int8_join(acc, a->run->w_scale[b], a->group + b, a->stride, m, a->y, a->ldy);
    }
}

#define INT8_ROWS(m) \
    static NO_INLINE void int8_rows_##m(const struct int8_args *a) { int8_rows(a, m); }
FOR_EACH_X_TILE(INT8_ROWS)
#define INT8_NAME(m) int8_rows_##m,
static void (*const int8_rows_of[])(const struct int8_args *) = {FOR_EACH_X_TILE(INT8_NAME)};

static void int8_decode(const struct il16 *w, int tile, int b0, int n, struct int8_run *r)
{
    size_t n_groups = (size_t)(w->cols_padded / 32);
    const uint8_t *line = w->data + (size_t)tile * w->tile_bytes + (size_t)b0 * 4 * IL16_LINE;
    const uint8_t *scale = w->scale8 + ((size_t)tile * n_groups + (size_t)b0) * 16;
    for (int l = 0; l < 4 * n; l++)
        int8_codes_of(line + l * IL16_LINE, true, r->code[l / 4][l % 4]);
    for (int i = 0; i < n * HALVES; i++)
        r->w_scale[i / HALVES][i % HALVES] = fp4_scales(scale + i * LANES);
}

/* Groups b0 .. b0+n-1 of nt tiles with every row. */
static NO_INLINE void int8_run_many(const struct il16 *w, int tile0, int nt, int b0, int n, const struct fast_x *x, float *y,
                                    size_t ldy)
{
    struct int8_run run[FAST_STRIP];
    size_t n_groups = (size_t)(w->cols_padded / 32);
    for (int t = 0; t < nt; t++)
        int8_decode(w, tile0 + t, b0, n, &run[t]);
    for (int i = 0; i < x->n; i += x->tile) {
        int m = tile_rows(x, i);
        struct int8_args a = {.n_groups = n, .stride = n_groups, .ldy = ldy};
        a.x = (const int32_t *)x->data + ((size_t)i * n_groups + (size_t)(b0 * m)) * 8;
        a.group = x->group + (size_t)i * n_groups + (size_t)b0;
        for (int t = 0; t < nt; t++) {
            a.run = &run[t];
            a.y = y + (size_t)i * ldy + t * 16;
            int8_rows_of[m - 1](&a);
        }
    }
}

static void int8_many(const struct il16 *w, int tile0, int n_tiles, const struct fast_x *x, float *y, size_t ldy)
{
    clear(x->n, n_tiles, y, ldy);
    int n_groups = w->cols_padded / 32;
    for (int b = 0; b < n_groups; b += RUN_GROUPS)
        int8_run_many(w, tile0, n_tiles, b, n_groups - b < RUN_GROUPS ? n_groups - b : RUN_GROUPS, x, y, ldy);
}

static void int8_matmul(const struct il16 *w, int tile0, int n_tiles, const struct fast_x *x, float *y, size_t ldy)
{
    strip(int8_one_four, int8_one_single, int8_few_of, int8_many, w, tile0, n_tiles, x, y, ldy);
}
