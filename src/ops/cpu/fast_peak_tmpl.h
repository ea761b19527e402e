/* Part of fast_tmpl.h: what the machine can do at best, for the benchmark. */

static NO_INLINE double burn(int turns)
{
    enum { CHAINS = 12 };
    vf acc[CHAINS], half = vf_set(0.5f);
    UNROLL
    for (int i = 0; i < CHAINS; i++)
        acc[i] = vf_set((float)i);
    for (int t = 0; t < turns; t++) {
        UNROLL
        for (int i = 0; i < CHAINS; i++)
            acc[i] = step(W_BF16, half, half, acc[i]);
    }
    UNROLL
    for (int i = 1; i < CHAINS; i++)
        acc[0] = vf_fma(half, acc[i], acc[0]);
    KEEP(acc[0]);
    return 2.0 * LANES * CHAINS * turns * step_columns(W_BF16);
}

/* As many chains as hide a product and its sum (four cycles or five, two pairs a cycle), and no more vectors than there are
 * registers. */
static NO_INLINE double burn_bytes(int turns)
{
    enum { CHAINS = 12, CODES = 2 };
    vi acc[CHAINS], code[CODES];
    UNROLL
    for (int i = 0; i < CHAINS; i++)
        acc[i] = vi_set32((uint32_t)i); /* equal chains would be computed once */
    UNROLL
    for (int i = 0; i < CODES; i++)
        code[i] = vi_set32((uint32_t)(i + 1) * 0x01010101u);
    for (int t = 0; t < turns; t++) {
        UNROLL
        for (int i = 0; i < CHAINS; i++)
            acc[i] = vi_products(acc[i], code[i % CODES], acc[i]);
    }
    UNROLL
    for (int i = 1; i < CHAINS; i++)
        acc[0] = vi_add32(acc[0], acc[i]);
    KEEP(acc[0]);
    return 2.0 * PRODUCTS * CHAINS * turns;
}

static NO_INLINE void read_all(const void *p, size_t bytes)
{
    const uint8_t *at = p;
    size_t quarter = bytes / 4 / 64 * 64; /* four streams, as the kernels read */
    vi sum[4];
    UNROLL
    for (int i = 0; i < 4; i++)
        sum[i] = vi_set32(0);
    for (size_t k = 0; k < quarter; k += HALF_BYTES) {
        UNROLL
        for (int i = 0; i < 4; i++)
            sum[i] = vi_add32(sum[i], vi_load(at + (size_t)i * quarter + k));
    }
    sum[0] = vi_add32(vi_add32(sum[0], sum[1]), vi_add32(sum[2], sum[3]));
    KEEP(sum[0]);
}
