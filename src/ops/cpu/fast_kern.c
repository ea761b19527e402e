/* The ladder of fast kernel tables, and the shape of packed activations. */
#include "ops/cpu/fast_kern.h"

#include "ops/cpu/fast_decl.h"

const struct fast_kern *fast_kern_for(enum cpu_isa isa)
{
    const struct fast_kern *k = &fast_kern_ref;
#if defined(__x86_64__)
    if (isa >= ISA_AVX2)
        k = &fast_kern_avx2;
    if (isa >= ISA_AVX512)
        k = cpu_has_avx512_bf16() && cpu_has_avx512_vnni() ? &fast_kern_avx512bf16 : &fast_kern_avx512;
#elif defined(__aarch64__)
    if (isa >= ISA_NEON)
        k = &fast_kern_neon;
    if (isa >= ISA_NEON_DOT)
        k = &fast_kern_neondot;
    if (isa >= ISA_NEON_BF16)
        k = &fast_kern_neonbf16;
    if (isa >= ISA_NEON_I8MM)
        k = &fast_kern_neoni8mm;
#endif
    (void)isa;
    return k;
}

enum fast_x_kind fast_x_kind_of(enum numerics n, enum wformat f, bool no_act_quant)
{
    if (f == W_FP4)
        return n == NUM_INT8 ? FX_INT8 : FX_DIGITS;
    if (f == W_FP8)
        return no_act_quant ? FX_SCALED : FX_CODES;
    return f == W_BF16 ? FX_BF16 : FX_PLAIN;
}

fast_matmul_fn *fast_matmul_of(const struct fast_kern *k, enum wformat f, enum fast_x_kind kind)
{
    if (f == W_FP4)
        return kind == FX_INT8 ? k->fp4_int8 : k->fp4;
    return f == W_FP8 ? k->fp8 : f == W_BF16 ? k->bf16 : k->f32;
}

/* Columns go by groups of 32, with a scale and sums of their own. */
static bool has_groups(enum fast_x_kind kind)
{
    return kind == FX_DIGITS || kind == FX_INT8;
}

static size_t round_64(size_t n)
{
    return (n + 63) / 64 * 64;
}

static int columns_of(enum fast_x_kind kind, int cols)
{
    int to = has_groups(kind) ? 32 : 8;
    return (cols + to - 1) / to * to;
}

static size_t data_bytes(enum fast_x_kind kind, int n, int cols)
{
    size_t values = (size_t)n * (size_t)columns_of(kind, cols);
    return round_64(kind == FX_INT8 ? values : kind == FX_DIGITS ? values * 2 : values * 4);
}

static size_t scale_bytes(int n, int cols)
{
    return round_64((size_t)n * (size_t)((cols + IL16_BLOCK - 1) / IL16_BLOCK) * sizeof(float));
}

static size_t group_bytes(enum fast_x_kind kind, int n, int cols)
{
    return has_groups(kind) ? round_64((size_t)n * (size_t)(columns_of(kind, cols) / 32) * sizeof(struct fast_group)) : 0;
}

static size_t rest_bytes(enum fast_x_kind kind, int n, int cols)
{
    return kind == FX_DIGITS ? round_64((size_t)n * (size_t)columns_of(kind, cols)) : 0;
}

size_t fast_x_bytes(const struct fast_kern *k, enum fast_x_kind kind, int n, int cols)
{
    (void)k;
    return data_bytes(kind, n, cols) + scale_bytes(n, cols) + group_bytes(kind, n, cols) + rest_bytes(kind, n, cols);
}

/* As many tiles as rows need, of nearly the same size: a last tile of a row or two would cost as much as a whole one. */
static int rows_of_tile(int n, int most)
{
    int tiles = (n + most - 1) / most;
    return tiles == 0 ? most : (n + tiles - 1) / tiles;
}

void fast_x_init(struct fast_x *x, const struct fast_kern *k, enum fast_x_kind kind, int n, int cols, void *mem)
{
    uint8_t *at = mem;
    *x = (struct fast_x){.kind = kind, .n = n, .cols = cols, .cols_padded = columns_of(kind, cols)};
    x->n_blocks = (cols + IL16_BLOCK - 1) / IL16_BLOCK;
    x->tile = rows_of_tile(n, k->tile[kind]);
    x->next_strip = FAST_STRIP;
    x->data = at;
    at += data_bytes(kind, n, cols);
    x->scale = (float *)(void *)at;
    at += scale_bytes(n, cols);
    x->group = (struct fast_group *)(void *)at;
    at += group_bytes(kind, n, cols);
    x->rest = (int32_t *)(void *)at;
}

int fast_x_tiles(const struct fast_x *x)
{
    return (x->n + x->tile - 1) / x->tile;
}
