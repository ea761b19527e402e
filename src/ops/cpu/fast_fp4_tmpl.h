/* Part of fast_tmpl.h: FP4 weights times activations of two signed bytes, exact sums of 32 columns. */

/* The code vectors of one line of one half: low nibbles, high nibbles, as 0..24. */
ALWAYS_INLINE void fp4_codes(const uint8_t *line, vi *code)
{
    vi table = vi_table16(fp4_offset_codes), low = vi_set32(0x0f0f0f0f), v = vi_load(line);
    code[0] = vi_lookup(table, vi_and(v, low));
    code[1] = vi_lookup(table, vi_and(vi_srl16_4(v), low));
}

/* The fp32 scales of 16 rows' e8m0 bytes (none of them 0), one half. */
ALWAYS_INLINE vf fp4_scales(const uint8_t *bytes)
{
    return vf_from_bits(vi_sll32_23(vi_widen8(bytes)));
}

/* The exact dots of a group with a rest from the sums of its digits: code vectors of four lines, `step` apart. */
ALWAYS_INLINE vi fp4_add_rest(vi total, const vi *code, int step, const int32_t *rest, const struct fast_group *g)
{
    vi acc = vi_set32((uint32_t)g->start[2]);
    NO_UNROLL
    for (int l = 0; l < 4; l++, code += step, rest += 2) {
        acc = vi_digit_add(acc, code[0], vi_set32((uint32_t)rest[0]));
        acc = vi_digit_add(acc, code[1], vi_set32((uint32_t)rest[1]));
    }
    return vi_add32(vi_sllv32(total, vi_set32((uint32_t)g->shift)), vi_digit_sum(acc));
}

/* The same from the lines of one half. Out of line: seldom needed, and its registers are not to be the others'. */
static NO_INLINE void fp4_line_rest(const uint8_t *line, const int32_t *rest, const struct fast_group *g, vi *total)
{
    vi code[8];
    for (int l = 0; l < 4; l++)
        fp4_codes(line + l * IL16_LINE, code + 2 * l);
    *total = fp4_add_rest(*total, code, 2, rest, g);
}

ALWAYS_INLINE vi fp4_half_rest(const uint8_t *line, vi total, const int32_t *rest, const struct fast_group *g)
{
    fp4_line_rest(line, rest, g, &total);
    return total;
}

/* One line's products with m rows: digit words x [m][d0, d1][2]. */
ALWAYS_INLINE void digit_line(const vi *code, const int32_t *x, const int m, vi *acc)
{
    UNROLL
    for (int i = 0; i < m * 2; i++) {
        acc[i] = vi_digit_add(acc[i], code[0], vi_set32((uint32_t)x[2 * i]));
        acc[i] = vi_digit_add(acc[i], code[1], vi_set32((uint32_t)x[2 * i + 1]));
    }
}

/* A group of one tile with one row: digit words x [4][d0, d1][2]. */
ALWAYS_INLINE void fp4_group(const uint8_t *line, const uint8_t *scale, const int32_t *x, const int32_t *rest,
                             const struct fast_group *g, uintptr_t early, vf *sum)
{
    vi acc[HALVES * 2], total[HALVES];
    UNROLL
    for (int i = 0; i < HALVES * 2; i++)
        acc[i] = vi_set32((uint32_t)g->start[i % 2]);
    UNROLL
    for (int l = 0; l < 4; l++, x += 4) {
        vi code[HALVES * 2];
        __builtin_prefetch((const void *)(early + (size_t)l * IL16_LINE), 0, 2);
        UNROLL
        for (int h = 0; h < HALVES; h++)
            fp4_codes(line + l * IL16_LINE + h * HALF_BYTES, code + 2 * h);
        UNROLL
        for (int p = 0; p < 2; p++) { /* a digit for both halves: few registers hold activations */
            vi low = vi_set32((uint32_t)x[2 * p]), high = vi_set32((uint32_t)x[2 * p + 1]);
            UNROLL
            for (int h = 0; h < HALVES; h++) {
                acc[2 * h + p] = vi_digit_add(acc[2 * h + p], code[2 * h], low);
                acc[2 * h + p] = vi_digit_add(acc[2 * h + p], code[2 * h + 1], high);
            }
        }
    }
    UNROLL
    for (int h = 0; h < HALVES; h++)
        total[h] = vi_digit_join(acc[2 * h], acc[2 * h + 1]);
    if (__builtin_expect(g->shift != 0, 0))
        for (int h = 0; h < HALVES; h++)
            fp4_line_rest(line + h * HALF_BYTES, rest, g, &total[h]);
    vf xs = vf_set(g->scale);
    UNROLL
    for (int h = 0; h < HALVES; h++)
        sum[h] = vf_fma(vf_mul(fp4_scales(scale + h * LANES), xs), vf_from_i32(total[h]), sum[h]);
}

/* The same for a tile's scales, a sixteenth of its bytes. Those of lines made of a stored matrix are in the cache. */
ALWAYS_INLINE struct ahead scales_ahead_of(const struct il16 *w, const struct fast_x *x)
{
    uintptr_t tile = (uintptr_t)(w->cols_padded / 32) * 16;
    if (w->ahead != 0)
        return (struct ahead){.end = UINTPTR_MAX};
    return (struct ahead){AHEAD, tile, (uintptr_t)(x->next_strip - 1) * tile};
}

ALWAYS_INLINE void fp4_one(const struct il16 *w, int tile, const int nt, const struct fast_x *x, float *y)
{
    int n_groups = w->cols_padded / 32;
    const uint8_t *tiles = w->data + (size_t)tile * w->tile_bytes, *line = tiles;
    size_t scale_bytes = (size_t)n_groups * 16; /* of a tile */
    const uint8_t *scales = w->scale8 + (size_t)tile * scale_bytes, *scale = scales;
    const int32_t *digits = x->data, *rest = x->rest;
    const struct ahead ahead = ahead_of(w, x), scale_ahead = scales_ahead_of(w, x);
    vf sum[FAST_STRIP * HALVES];
    UNROLL
    for (int i = 0; i < nt * HALVES; i++)
        sum[i] = x->resume ? vf_load(y + i * LANES) : vf_zero();
    for (int b = 0; b < n_groups; b++, line += 4 * IL16_LINE, scale += 16, digits += 16, rest += 8) {
        uintptr_t early = (uintptr_t)tiles + place_ahead(&ahead, (size_t)b * 4 * IL16_LINE);
        uintptr_t early_scale = (uintptr_t)scales + place_ahead(&scale_ahead, (size_t)b * 16);
        NO_UNROLL /* one tile's group unrolled is as much as the registers and the decoded instructions have room for */
        for (int t = 0; t < nt; t++) {
            __builtin_prefetch((const void *)(early_scale + (size_t)t * scale_bytes), 0, 2);
            fp4_group(line + (size_t)t * w->tile_bytes, scale + (size_t)t * scale_bytes, digits, rest, &x->group[b],
                      early + (size_t)t * w->tile_bytes, sum + t * HALVES);
        }
    }
    UNROLL
    for (int i = 0; i < nt * HALVES; i++)
        vf_store(y + i * LANES, sum[i]);
}

static NO_INLINE void fp4_one_four(const struct il16 *w, int tile, const struct fast_x *x, float *y)
{
    fp4_one(w, tile, FAST_STRIP, x, y);
}

static NO_INLINE void fp4_one_single(const struct il16 *w, int tile, const struct fast_x *x, float *y)
{
    fp4_one(w, tile, 1, x, y);
}

/* One tile with all m = x->n rows, lines decoded into registers: a half after the other, to hold its sums in registers. */
ALWAYS_INLINE void fp4_few(const struct il16 *w, int tile, const struct fast_x *x, const int m, float *y, size_t ldy)
{
    int n_groups = w->cols_padded / 32;
    const uint8_t *line = w->data + (size_t)tile * w->tile_bytes;
    const uint8_t *scale = w->scale8 + (size_t)tile * (size_t)n_groups * 16;
    const int32_t *digits = x->data;
    clear(x, 1, y, ldy);
    for (int b = 0; b < n_groups; b++, line += 4 * IL16_LINE, scale += 16, digits += 16 * m) {
        NO_UNROLL
        for (int h = 0; h < HALVES; h++) {
            vi acc[D_TILE * 2], code[8];
            UNROLL
            for (int i = 0; i < m * 2; i++)
                acc[i] = vi_set32((uint32_t)x->group[(size_t)(i / 2) * (size_t)n_groups + (size_t)b].start[i % 2]);
            UNROLL
            for (int l = 0; l < 4; l++) {
                fp4_codes(line + l * IL16_LINE + h * HALF_BYTES, code + 2 * l);
                digit_line(code + 2 * l, digits + 4 * m * l, m, acc);
            }
            vf s = fp4_scales(scale + h * LANES);
            UNROLL
            for (int i = 0; i < m; i++) {
                size_t at = (size_t)i * (size_t)n_groups + (size_t)b;
                const struct fast_group *g = &x->group[at];
                vi total = vi_digit_join(acc[2 * i], acc[2 * i + 1]);
                if (__builtin_expect(g->shift != 0, 0))
                    total = fp4_half_rest(line + h * HALF_BYTES, total, x->rest + at * 8, g);
                float *out = y + (size_t)i * ldy + h * LANES;
                vf_store(out, vf_fma(vf_mul(s, vf_set(g->scale)), vf_from_i32(total), vf_load(out)));
            }
        }
    }
}

#define FP4_FEW(m)                                                                                                   \
    static NO_INLINE void fp4_few_##m(const struct il16 *w, int tile0, const struct fast_x *x, float *y, size_t ldy) \
    {                                                                                                                \
        for (int t = 0; t < FEW_TILES(x->n); t++)                                                                    \
            fp4_few(w, tile0 + t, x, m, y + t * 16, ldy);                                                            \
    }
FOR_EACH_FEW(FP4_FEW)
#define FP4_FEW_NAME(m) fp4_few_##m,
static few_rows_fn *const fp4_few_of[] = {FOR_EACH_FEW(FP4_FEW_NAME)};

/* A run of groups, decoded once and used for all rows. */
enum { RUN_GROUPS = IL16_BLOCK / 32 };

struct digit_args {
    const vi *code;    /* [groups][8] of this half */
    const vf *w_scale; /* [groups] */
    int n_groups;
    const int32_t *x;                       /* [groups][4][m][d0, d1][2] */
    const struct fast_group *group[D_TILE]; /* [groups] of each row */
    const int32_t *rest[D_TILE];            /* [groups][8] */
    float *y; /* LANES sums of row i at y + i*ldy */
    size_t ldy;
};

ALWAYS_INLINE void digit_rows(const struct digit_args *a, const int m)
{
    const int32_t *x = a->x;
    const vi *code = a->code;
    for (int b = 0; b < a->n_groups; b++, code += 8) {
        vi acc[D_TILE * 2];
        UNROLL
        for (int i = 0; i < m * 2; i++)
            acc[i] = vi_set32((uint32_t)a->group[i / 2][b].start[i % 2]);
        UNROLL
        for (int l = 0; l < 4; l++, x += 4 * m)
            digit_line(code + 2 * l, x, m, acc);
        UNROLL
        for (int i = 0; i < m; i++) {
            const struct fast_group *g = &a->group[i][b];
            vi total = vi_digit_join(acc[2 * i], acc[2 * i + 1]);
            if (__builtin_expect(g->shift != 0, 0))
                total = fp4_add_rest(total, code, 2, a->rest[i] + 8 * b, g);
            float *y = a->y + (size_t)i * a->ldy;
            vf_store(y, vf_fma(vf_mul(a->w_scale[b], vf_set(g->scale)), vf_from_i32(total), vf_load(y)));
        }
    }
}

#define DIGIT_ROWS(m) \
    static NO_INLINE void digit_rows_##m(const struct digit_args *a) { digit_rows(a, m); }
FOR_EACH_D_TILE(DIGIT_ROWS)
#define DIGIT_NAME(m) digit_rows_##m,
static void (*const digit_rows_of[])(const struct digit_args *) = {FOR_EACH_D_TILE(DIGIT_NAME)};

struct code_run {
    vi code[RUN_GROUPS][8];
    vf w_scale[RUN_GROUPS];
};

static void decode_run(const struct il16 *w, int tile, int h, int b0, int n, struct code_run *r)
{
    int n_groups = w->cols_padded / 32;
    const uint8_t *line = w->data + (size_t)tile * w->tile_bytes + (size_t)b0 * 4 * IL16_LINE + h * HALF_BYTES;
    for (int l = 0; l < 4 * n; l++)
        fp4_codes(line + l * IL16_LINE, &r->code[l / 4][2 * (l % 4)]);
    for (int b = 0; b < n; b++)
        r->w_scale[b] = fp4_scales(w->scale8 + ((size_t)tile * (size_t)n_groups + (size_t)(b0 + b)) * 16 + h * LANES);
}

/* Groups b0 .. b0+n-1 of nt tiles with every row. */
static NO_INLINE void fp4_run_many(const struct il16 *w, int tile0, int nt, int b0, int n, const struct fast_x *x, float *y,
                                   size_t ldy)
{
    struct code_run run[FAST_STRIP * HALVES];
    size_t n_groups = (size_t)(w->cols_padded / 32);
    for (int t = 0; t < nt * HALVES; t++)
        decode_run(w, tile0 + t / HALVES, t % HALVES, b0, n, &run[t]);
    for (int t = 0; t < nt; t++)
        fetch_tile(w, x, tile0 + t, (size_t)(b0 + RUN_GROUPS) * 4 * IL16_LINE, RUN_GROUPS * 4 * IL16_LINE);
    for (int i = 0; i < x->n; i += D_TILE) {
        int m = x->n - i < D_TILE ? x->n - i : D_TILE;
        struct digit_args a = {.n_groups = n, .ldy = ldy};
        a.x = (const int32_t *)x->data + ((size_t)i * n_groups + (size_t)(b0 * m)) * 16;
        for (int r = 0; r < m; r++) {
            size_t at = (size_t)(i + r) * n_groups + (size_t)b0;
            a.group[r] = x->group + at;
            a.rest[r] = x->rest + at * 8;
        }
        for (int t = 0; t < nt * HALVES; t++) {
            a.code = run[t].code[0];
            a.w_scale = run[t].w_scale;
            a.y = y + (size_t)i * ldy + t * LANES;
            digit_rows_of[m - 1](&a);
        }
    }
}

static void fp4_many(const struct il16 *w, int tile0, int n_tiles, const struct fast_x *x, float *y, size_t ldy)
{
    clear(x, n_tiles, y, ldy);
    int n_groups = w->cols_padded / 32;
    for (int b = 0; b < n_groups; b += RUN_GROUPS)
        fp4_run_many(w, tile0, n_tiles, b, n_groups - b < RUN_GROUPS ? n_groups - b : RUN_GROUPS, x, y, ldy);
}

static void fp4_matmul(const struct il16 *w, int tile0, int n_tiles, const struct fast_x *x, float *y, size_t ldy)
{
    strip(fp4_one_four, fp4_one_single, fp4_few_of, fp4_many, w, tile0, n_tiles, x, y, ldy);
}
