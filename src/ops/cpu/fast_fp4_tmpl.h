/* Part of fast_tmpl.h: FP4 weights times activations of two signed bytes, exact sums of 32 columns. */

#ifndef vi_nibble_codes
/* The codes of the bytes' low nibbles. */
ALWAYS_INLINE vi vi_nibble_codes(vi v)
{
    return vi_lookup(vi_table16(fp4_offset_codes), vi_and(v, vi_set32(0x0f0f0f0f)));
}
#endif
#ifndef vi_high_codes
#define vi_high_codes(v) vi_nibble_codes(vi_srl16_4(v))
#endif

/* The code vectors of one line of one half: low nibbles, high nibbles, as 0..24. */
ALWAYS_INLINE void fp4_codes(const uint8_t *line, vi *code)
{
    vi v = vi_load(line);
    code[0] = vi_nibble_codes(v);
    code[1] = vi_high_codes(v);
}

/* The fp32 scales of 16 rows' e8m0 bytes (none of them 0), one half. */
ALWAYS_INLINE vf fp4_scales(const uint8_t *bytes)
{
    return vf_from_bits(vi_sll32_23(vi_widen8(bytes)));
}

/* The exact dots of a group with a rest, from the sums of its digits and the lines of one half. Seldom needed: a function of
 * its own where its registers would be the others', inline where a call would have to save those. */
REST_INLINE void fp4_line_rest(const uint8_t *line, const int32_t *rest, const struct fast_group *g, vi *total)
{
    vi acc = vi_set32((uint32_t)g->start[2]);
    NO_UNROLL
    for (int l = 0; l < 4; l++, line += IL16_LINE, rest += 2) {
        vi code[2];
        fp4_codes(line, code);
        acc = vi_digit_add(acc, code[0], vi_set32((uint32_t)rest[0]));
        acc = vi_digit_add(acc, code[1], vi_set32((uint32_t)rest[1]));
    }
    *total = vi_add32(vi_sllv32(*total, vi_set32((uint32_t)g->shift)), vi_digit_sum(acc));
}

ALWAYS_INLINE vi fp4_half_rest(const uint8_t *line, vi total, const int32_t *rest, const struct fast_group *g)
{
    fp4_line_rest(line, rest, g, &total);
    return total;
}

/* A group of one tile with one row: digit words x [4][d0, d1][2], total the sums of their products. */
ALWAYS_INLINE void fp4_group_sums(const uint8_t *line, const int32_t *x, const struct fast_group *g, uintptr_t early,
                                  vi *total)
{
    vi acc[HALVES * 2];
    UNROLL
    for (int i = 0; i < HALVES * 2; i++)
        acc[i] = vi_set32((uint32_t)g->start[i % 2]);
    UNROLL
    for (int l = 0; l < 4; l++, x += 4) {
        vi code[HALVES * 2];
        __builtin_prefetch((const void *)((uintptr_t)line + early + (size_t)l * IL16_LINE), 0, 3);
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
}

ALWAYS_INLINE void fp4_group_end(const uint8_t *scale, vf x_scale, const vi *total, vf *sum)
{
    UNROLL
    for (int h = 0; h < HALVES; h++)
        sum[h] = vf_fma(vf_mul(fp4_scales(scale + h * LANES), x_scale), vf_from_i32(total[h]), sum[h]);
}

/* The same for a tile's scales, a sixteenth of its bytes. */
ALWAYS_INLINE struct ahead scales_ahead_of(const struct il16 *w, const struct fast_x *x)
{
    uintptr_t tile = (uintptr_t)(w->cols_padded / 32) * 16;
    return (struct ahead){AHEAD, tile, (uintptr_t)(x->next_strip - 1) * tile};
}

/* Where one row's walk over some tiles is. */
struct fp4_walk {
    const uint8_t *line, *scale; /* of this group, in the first tile; of others `tile_bytes` and `scale_bytes` further */
    size_t tile_bytes, scale_bytes;
    uintptr_t early, early_scale; /* distance of what is fetched early */
};

/* This group of nt tiles. */
ALWAYS_INLINE void fp4_group(const struct fp4_walk *at, const int nt, const int32_t *digits, const int32_t *rest,
                             const struct fast_group *g, vf *sum)
{
    const uint8_t *line = at->line, *scale = at->scale;
    GROUP_UNROLL
    for (int t = 0; t < nt; t++, line += at->tile_bytes, scale += at->scale_bytes, sum += HALVES) {
        vi total[HALVES];
        __builtin_prefetch((const void *)((uintptr_t)scale + at->early_scale), 0, 3);
        fp4_group_sums(line, digits, g, at->early, total);
        if (__builtin_expect(g->shift != 0, 0))
            for (int h = 0; h < HALVES; h++)
                fp4_line_rest(line + h * HALF_BYTES, rest, g, &total[h]);
        fp4_group_end(scale, vf_set(g->scale), total, sum);
    }
}

ALWAYS_INLINE void fp4_one(const struct il16 *w, int tile, const int nt, const struct fast_x *x, float *y)
{
    int n_groups = w->cols_padded / 32;
    struct fp4_walk at = {.tile_bytes = w->tile_bytes, .scale_bytes = (size_t)n_groups * 16};
    const int32_t *digits = x->data, *rest = x->rest;
    const struct ahead ahead = ahead_of(w, x), scale_ahead = scales_ahead_of(w, x);
    vf sum[FAST_STRIP * HALVES];
    at.line = w->data + (size_t)tile * at.tile_bytes;
    at.scale = w->scale8 + (size_t)tile * at.scale_bytes;
    UNROLL
    for (int i = 0; i < nt * HALVES; i++)
        sum[i] = vf_zero();
    for (int b = 0; b < n_groups; b++, digits += 16, rest += 8) {
        at.early = place_ahead(&ahead, (size_t)b * 4 * IL16_LINE) - (size_t)b * 4 * IL16_LINE;
        at.early_scale = place_ahead(&scale_ahead, (size_t)b * 16) - (size_t)b * 16;
        fp4_group(&at, nt, digits, rest, &x->group[b], sum);
        at.line += 4 * IL16_LINE;
        at.scale += 16;
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

/* One tile (`step` tiles before the next one in work) with the m rows of a row tile, from row i on: lines decoded into
 * registers, a half after the other, to hold its sums in registers. Decoding anew for every few rows costs less than keeping
 * decoded lines would: loads and stores. */
ALWAYS_INLINE void fp4_rows(const struct il16 *w, int tile, int step, const struct fast_x *x, int i, const int m, float *y,
                            size_t ldy)
{
    size_t n_groups = (size_t)(w->cols_padded / 32);
    const uint8_t *line = w->data + (size_t)tile * w->tile_bytes;
    const uint8_t *scale = w->scale8 + (size_t)tile * n_groups * 16;
    const int32_t *digits = (const int32_t *)x->data + (size_t)i * n_groups * 16;
    const struct fast_group *group = x->group + (size_t)i * n_groups;
    const int32_t *rest = x->rest + (size_t)i * n_groups * 8;
    const struct ahead ahead = ahead_by(w, FEW_AHEAD, step);
    clear_few(m, 1, y, ldy);
    for (size_t b = 0; b < n_groups; b++, line += 4 * IL16_LINE, scale += 16, digits += 16 * m) {
        uintptr_t early = place_ahead(&ahead, b * 4 * IL16_LINE) - b * 4 * IL16_LINE;
        NO_UNROLL
        for (int h = 0; h < HALVES; h++) {
            vi acc[D_TILE * 2];
            UNROLL
            for (int r = 0; r < m; r++)
                begin_sums(group[(size_t)r * n_groups + b].start, 2, 1, acc + 2 * r);
            UNROLL
            for (int l = 0; l < 4; l++) {
                vi code[2];
                if (h == 0)
                    __builtin_prefetch((const void *)((uintptr_t)line + early + (size_t)l * IL16_LINE), 0, 3);
                fp4_codes(line + l * IL16_LINE + h * HALF_BYTES, code);
                pair_codes(&code[0], &code[1]);
                add_paired(code, digits + 4 * m * l, 2 * m, 1, acc);
            }
            vf s = fp4_scales(scale + h * LANES);
            UNROLL
            for (int r = 0; r < m; r++) {
                size_t at = (size_t)r * n_groups + b;
                const struct fast_group *g = &group[at];
                vi total = vi_digit_join(sum_of(acc, 2 * r, 0, 1), sum_of(acc, 2 * r + 1, 0, 1));
                if (__builtin_expect(g->shift != 0, 0))
                    total = fp4_half_rest(line + h * HALF_BYTES, total, rest + at * 8, g);
                float *out = y + (size_t)r * ldy + h * LANES;
                vf_store(out, vf_fma(vf_mul(s, vf_set(g->scale)), vf_from_i32(total), vf_load(out)));
            }
        }
    }
}

#define FP4_ROWS(m)                                                                                                  \
    static NO_INLINE void fp4_rows_##m(const struct il16 *w, int tile, int step, const struct fast_x *x, int i,      \
                                       float *y, size_t ldy)                                                         \
    {                                                                                                                \
        fp4_rows(w, tile, step, x, i, m, y, ldy);                                                                    \
    }
FOR_EACH_D_TILE(FP4_ROWS)
#define FP4_ROWS_NAME(m) fp4_rows_##m,
static few_rows_fn *const fp4_rows_of[] = {FOR_EACH_D_TILE(FP4_ROWS_NAME)};

/* Every row tile passes the strip, whose lines stay in the second cache. */
static void fp4_many(const struct il16 *w, int tile0, int n_tiles, const struct fast_x *x, float *y, size_t ldy)
{
    for (int i = 0; i < x->n; i += x->tile) {
        int m = tile_rows(x, i);
        for (int t = 0; t < n_tiles; t++) {
            int step = t + 1 < n_tiles ? 1 : x->next_strip - t;
            fp4_rows_of[m - 1](w, tile0 + t, step, x, i, y + (size_t)i * ldy + t * 16, ldy);
        }
    }
}

static void fp4_matmul(const struct il16 *w, int tile0, int n_tiles, const struct fast_x *x, float *y, size_t ldy)
{
    strip(fp4_one_four, fp4_one_single, NULL, fp4_many, w, tile0, n_tiles, x, y, ldy);
}
