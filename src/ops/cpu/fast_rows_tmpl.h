/* Part of fast_tmpl.h: one row times FP4 weights as stored, read row by row without making lines. The sum of 32 columns is
 * an exact integer, so their order is free: a vector is 16 bytes - 32 columns, a group - of LANES/4 groups of one row.
 * Products with the group's digits leave four partial sums a group, folded together for four rows at a time; then groups
 * and rows change places, and each group's sums of LANES rows are scaled and added in the order of the groups. */

enum { VECTOR_GROUPS = LANES / 4, RUN_ROWS_GROUPS = 16, RUN_ROWS_BYTES = 16 * RUN_ROWS_GROUPS };

#ifndef vi_digit_first
#define vi_digit_first(code, digit) vi_digit_add(vi_set32(0), code, digit)
#endif

/* Activations in the order of such rows: per vector of groups its even columns and its odd ones, of each digit. */
struct row_digits {
    const uint8_t *vectors; /* [groups / VECTOR_GROUPS][digits][2][VECTOR_BYTES] */
    const int32_t *offset;  /* [groups]: -12 times the sum of a group's activations */
    const struct fast_group *group;
    const int32_t *rest; /* as in fast_x */
};

/* Digit words of 8 columns, four times a group, into vectors: those of a word's place in the eight columns together. */
ALWAYS_INLINE void turn_digits(const int32_t *words, const int digits, uint8_t *out)
{
    const uint8_t *in = (const uint8_t *)words;
    size_t step = 32 * (size_t)digits; /* bytes of a group */
    vi r[4], v[4];
    UNROLL
    for (int i = 0; i < 2 * digits; i++)
        r[i] = vi_load_rows(in + i * 16, step);
    if (digits == 2) {
        v[0] = vi_low32_pairs(r[0], r[1]), v[1] = vi_low32_pairs(r[2], r[3]);
        v[2] = vi_high32_pairs(r[0], r[1]), v[3] = vi_high32_pairs(r[2], r[3]);
        r[0] = vi_low64_pairs(v[0], v[1]), r[1] = vi_high64_pairs(v[0], v[1]);
        r[2] = vi_low64_pairs(v[2], v[3]), r[3] = vi_high64_pairs(v[2], v[3]);
    } else {
        v[0] = vi_low32_pairs(r[0], r[1]), v[1] = vi_high32_pairs(r[0], r[1]);
        r[0] = vi_low32_pairs(v[0], v[1]), r[1] = vi_high32_pairs(v[0], v[1]);
    }
    UNROLL
    for (int i = 0; i < 2 * digits; i++)
        vf_store((float *)(void *)(out + i * VECTOR_BYTES), vf_from_bits(r[i]));
}

ALWAYS_INLINE int32_t first_lane(vi v)
{
    int32_t lanes[LANES];
    vf_store((float *)(void *)lanes, vf_from_bits(v));
    return lanes[0];
}

ALWAYS_INLINE vi join_digits(const int digits, vi low, vi high)
{
    return digits == 2 ? vi_digit_join(low, high) : vi_digit_sum(low);
}

/* Into mem; whole vectors of groups. */
ALWAYS_INLINE struct row_digits row_digits_of(const struct fast_x *x, const int digits, uint8_t *mem)
{
    int groups = x->cols_padded / 32;
    int32_t *offset = (int32_t *)(void *)(mem + (size_t)groups * 32 * (size_t)digits);
    const int32_t *words = x->data;
    for (int b = 0; b < groups; b += VECTOR_GROUPS)
        turn_digits(words + (size_t)b * 8 * (size_t)digits, digits, mem + (size_t)b * 32 * (size_t)digits);
    for (int b = 0; b < groups; b++) {
        const int32_t *start = x->group[b].start;
        offset[b] = first_lane(join_digits(digits, vi_set32((uint32_t)start[0]), vi_set32((uint32_t)start[1])));
    }
    return (struct row_digits){mem, offset, x->group, x->rest};
}

/* Partial sums of a row's vector of groups. */
ALWAYS_INLINE vi row_partials(const uint8_t *row, const int digits, const vi *digit)
{
    vi code[2], sum[2];
    fp4_codes(row, code);
    UNROLL
    for (int p = 0; p < digits; p++)
        sum[p] = vi_digit_add(vi_digit_first(code[0], digit[2 * p]), code[1], digit[2 * p + 1]);
    return join_digits(digits, sum[0], sum[digits - 1]);
}

/* Sums of two rows: each pair of partial sums of a and of b, alternating. */
ALWAYS_INLINE vi fold_alternating(vi a, vi b)
{
    return vi_add32(vi_low32_pairs(a, b), vi_high32_pairs(a, b));
}

/* Sums of LANES rows `stride` apart, a vector for each of VECTOR_GROUPS groups. */
ALWAYS_INLINE void rows_totals(const uint8_t *rows, size_t stride, const int digits, const vi *digit, vi *total)
{
    UNROLL
    for (int q = 0; q < LANES / 4; q++, rows += 4 * stride) {
        vi a = fold_alternating(row_partials(rows, digits, digit), row_partials(rows + stride, digits, digit));
        vi b = fold_alternating(row_partials(rows + 2 * stride, digits, digit),
                                row_partials(rows + 3 * stride, digits, digit));
        total[q] = vi_add32(vi_low64_pairs(a, b), vi_high64_pairs(a, b));
    }
    vi_turn_quarters(total);
}

/* Totals of a group with a rest: x->rest has words of eight columns, even ones then odd ones. Seldom needed. */
static NO_INLINE void rows_rest(const uint8_t *rows, size_t stride, const int32_t *rest, const struct fast_group *g,
                                int group, vi *total)
{
    _Alignas(64) uint8_t words[VECTOR_GROUPS * 32], vectors[2 * VECTOR_BYTES];
    vi digit[2], sums[VECTOR_GROUPS];
    memset(words, 0, sizeof words);
    memcpy(words + group * 32, rest, 32);
    turn_digits((const int32_t *)(const void *)words, 1, vectors);
    digit[0] = vi_load(vectors), digit[1] = vi_load(vectors + VECTOR_BYTES);
    rows_totals(rows, stride, 1, digit, sums);
    vi offset = vi_digit_sum(vi_set32((uint32_t)g->start[2]));
    *total = vi_add32(vi_sllv32(*total, vi_set32((uint32_t)g->shift)), vi_add32(sums[group], offset));
}

/* Groups b0 .. b0+n-1 of LANES rows; scales [n][16]. Every line read asks for one of what comes next. */
ALWAYS_INLINE void rows_run(const uint8_t *rows, size_t stride, const struct row_digits *x, const int digits, int b0, int n,
                            const uint8_t *scale, uintptr_t early, float *y)
{
    vf sum = b0 > 0 ? vf_load(y) : vf_zero();
    for (int b = b0; b < b0 + n; b += VECTOR_GROUPS, rows += VECTOR_BYTES) {
        vi digit[4], total[VECTOR_GROUPS];
        UNROLL
        for (int i = 0; i < VECTOR_BYTES * LANES / IL16_LINE; i++, early += IL16_LINE)
            __builtin_prefetch((const void *)early, 0, 2);
        UNROLL
        for (int i = 0; i < 2 * digits; i++)
            digit[i] = vi_load(x->vectors + (size_t)b * 32 * (size_t)digits + i * VECTOR_BYTES);
        rows_totals(rows, stride, digits, digit, total);
        UNROLL
        for (int i = 0; i < VECTOR_GROUPS; i++, scale += 16) {
            const struct fast_group *g = &x->group[b + i];
            vi t = vi_add32(total[i], vi_set32((uint32_t)x->offset[b + i]));
            if (digits == 2 && __builtin_expect(g->shift != 0, 0))
                rows_rest(rows, stride, x->rest + (size_t)(b + i) * 8, g, i, &t);
            sum = vf_fma(vf_mul(fp4_scales(scale), vf_set(g->scale)), vf_from_i32(t), sum);
        }
    }
    vf_store(y, sum);
}

static void rows_scales(const struct il16 *w, int tile, int b0, int n, uint8_t *out)
{
    size_t stride = (size_t)(w->cols / 32);
    const uint8_t *in = (const uint8_t *)w->stored_scale + (size_t)tile * 16 * stride + b0;
    if (n == RUN_ROWS_GROUPS) {
        turn_bytes(in, stride, out);
        return;
    }
    for (int b = 0; b < n; b++)
        for (int r = 0; r < 16; r++)
            out[b * 16 + r] = in[(size_t)r * stride + (size_t)b];
}

/* nt whole tiles from tile0 on; mem is for the digits. */
ALWAYS_INLINE void rows_strip(const struct il16 *w, int tile0, int nt, const struct fast_x *x, const int digits,
                              uint8_t *mem, float *y)
{
    struct row_digits d = row_digits_of(x, digits, mem);
    size_t stride = (size_t)w->cols / 2;
    int groups = w->cols / 32;
    uint8_t scale[RUN_ROWS_GROUPS * 16];
    for (int t = 0; t < nt; t++, y += 16) {
        int tile = tile0 + t, next = t + 1 < nt ? tile + 1 : tile0 + x->next_strip;
        uintptr_t early = (uintptr_t)w->stored + (size_t)next * 16 * stride;
        for (int b = 0; b < groups; b += RUN_ROWS_GROUPS) {
            int n = groups - b < RUN_ROWS_GROUPS ? groups - b : RUN_ROWS_GROUPS;
            rows_scales(w, tile, b, n, scale);
            for (int h = 0; h < HALVES; h++, early += (size_t)n * 16 * LANES)
                rows_run(w->stored + (size_t)(tile * 16 + h * LANES) * stride + (size_t)b * 16, stride, &d, digits, b, n,
                         scale + h * LANES, early, y + h * LANES);
        }
    }
}

static NO_INLINE void fp4_stored(const struct il16 *w, int tile0, int nt, const struct fast_x *x, void *mem, float *y)
{
    rows_strip(w, tile0, nt, x, 2, mem, y);
}

static NO_INLINE void int8_stored(const struct il16 *w, int tile0, int nt, const struct fast_x *x, void *mem, float *y)
{
    rows_strip(w, tile0, nt, x, 1, mem, y);
}
