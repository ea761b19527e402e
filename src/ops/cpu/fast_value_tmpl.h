/* Part of fast_tmpl.h: FP8, BF16 and F32 weights, whose products are sums of fp32 (or bf16 pair) multiply-adds: decoding a
 * line, and one row. */

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
ALWAYS_INLINE void steps_of(enum wformat f, vi v, vf *w)
{
    if (f == W_FP8)
        fp8_steps(v, w);
    else if (f == W_BF16)
        bf16_steps(v, w);
    else
        w[0] = vf_from_bits(v);
}

ALWAYS_INLINE void line_steps(enum wformat f, const uint8_t *line, vf *w)
{
    steps_of(f, vi_load(line), w);
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

/* What a tile's stream fetches early: the line `near` bytes on, and at its end the beginning of the tile that this thread
 * takes after it, which the processor could not foresee. */
struct ahead {
    uintptr_t near, end, jump;
};

/* One row, the processor's own fetching beside it: 256 beside 128, 512 and more: better for FP4, the same within the noise
 * for FP8 and BF16. */
enum { AHEAD = 256 };

/* `step`: tiles from one to the next that takes its place. */
ALWAYS_INLINE struct ahead ahead_by(const struct il16 *w, uintptr_t near, int step)
{
    return (struct ahead){near, w->tile_bytes, (uintptr_t)(step - 1) * w->tile_bytes};
}

ALWAYS_INLINE struct ahead ahead_of(const struct il16 *w, const struct fast_x *x)
{
    return ahead_by(w, AHEAD, x->next_strip);
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
        sum[i] = vf_zero();
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
