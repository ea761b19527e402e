/* Packed activations against the scalar quantisers of num/, value by value, in the layout that fast_kern.h states. Tiles are
 * packed last to first, so that one which writes into its neighbour shows. */
#include "check.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct packing {
    const struct fast_kern *k;
    enum fast_x_kind kind;
    int n, cols;
    bool in_order;
    const float *source; /* [n][cols] */
    const int32_t *index;
    struct fast_x x;
    void *mem;
    char text[200];
};

static void call_pack(void *arg)
{
    struct packing *p = arg;
    fast_x_init(&p->x, p->k, p->kind, p->n, p->cols, p->mem);
    p->x.in_order = p->in_order;
    for (int t = fast_x_tiles(&p->x) - 1; t >= 0; t--)
        p->k->pack(&p->x, p->source, (size_t)p->cols, p->index, t);
}

static const float *row_of(const struct packing *p, int i)
{
    return p->source + (size_t)(p->index != NULL ? p->index[i] : i) * (size_t)p->cols;
}

static bool has_pairs(const struct packing *p)
{
    return p->kind != FX_PLAIN && p->k->x_bytes[p->kind] == 2;
}

/* Unit u of row i of a tile, units of `bytes` bytes, `units` of them a row. */
static const uint8_t *unit_at(const struct packing *p, int i, size_t u, size_t units, size_t bytes)
{
    int first = i / p->x.tile * p->x.tile, m = p->n - first < p->x.tile ? p->n - first : p->x.tile;
    return (const uint8_t *)p->x.data + ((size_t)first * units + u * (size_t)m + (size_t)(i - first)) * bytes;
}

/* Column k of row i as packed. */
static float value_at(const struct packing *p, int i, int k)
{
    size_t columns = has_pairs(p) ? 2 : 1;
    const uint8_t *unit = unit_at(p, i, (size_t)k / columns, (size_t)p->x.cols_padded / columns, 4);
    float v;
    uint16_t h;
    memcpy(&v, unit, 4);
    memcpy(&h, unit + 2 * (k % 2), 2);
    return has_pairs(p) ? f32_from_bf16(h) : v;
}

/* What it should be, and its block's scale. */
static float true_value(const struct packing *p, const float *row, int k, float *scale)
{
    int first = k / IL16_BLOCK * IL16_BLOCK, n = p->cols - first < IL16_BLOCK ? p->cols - first : IL16_BLOCK;
    float in = k < p->cols ? row[k] : 0, top = 0;
    if (p->kind == FX_CODES) {
        int e = act_quant(row + first, n, NULL);
        *scale = pow2f(has_pairs(p) ? e : e + 2);
        return e4m3_table[e4m3_from_f32(in * pow2f(-e))] * (has_pairs(p) ? 1 : 0x1p118f);
    }
    if (p->kind == FX_SCALED && !has_pairs(p)) {
        for (int i = first; i < first + n; i++)
            top = fmaxf(top, fabsf(row[i]));
        int e = top < 0x1p-7f ? -7 : ilogbf(top);
        *scale = pow2f(e);
        return in * pow2f(120 - e);
    }
    *scale = 1;
    return has_pairs(p) ? bf16_round(in) : in;
}

static bool values_right(struct packing *p)
{
    bool scaled = p->kind == FX_CODES || p->kind == FX_SCALED;
    for (int i = 0; i < p->n; i++)
        for (int k = 0; k < p->x.cols_padded; k++) {
            float scale, truth = true_value(p, row_of(p, i), k, &scale), v = value_at(p, i, k);
            float own = p->x.scale[i * p->x.n_blocks + k / IL16_BLOCK];
            if (f32_bits(v) != f32_bits(truth) || (scaled && own != scale)) {
                snprintf(p->text, sizeof p->text, "x[%d][%d] = %.9g times %.9g, truly %.9g times %.9g", i, k, (double)v,
                         (double)own, (double)truth, (double)scale);
                return false;
            }
        }
    return true;
}

/* Integer of column k of row i, in units of its group's scale. */
static int32_t integer_at(const struct packing *p, int i, int k, const struct fast_group *g)
{
    size_t lines = (size_t)p->x.cols_padded / 8, line = (size_t)k / 8;
    int j = k % 8, place = p->in_order ? 4 * (j % 2) + j / 2 : 4 * (j % 4 / 2) + 2 * (j % 2) + j / 4;
    const int8_t *d = (const int8_t *)unit_at(p, i, line, lines, p->kind == FX_INT8 ? 8 : 16);
    const int8_t *rest = (const int8_t *)(p->x.rest + ((size_t)i * lines + line) * 2);
    if (p->kind == FX_INT8)
        return d[place];
    return (d[place] + 256 * d[8 + place]) * (1 << g->shift) + (g->shift != 0 ? rest[place] : 0);
}

/* Twice the value: codes enter a product with a weight's doubled. */
static double true_double(const struct packing *p, const float *row, int k)
{
    int size = p->kind == FX_INT8 ? 32 : IL16_BLOCK, first = k / size * size;
    int n = p->cols - first < size ? p->cols - first : size;
    if (p->kind == FX_INT8) {
        int8_t codes[32];
        float scale = int8_quant(row + first, n, codes);
        return (double)scale * codes[k - first];
    }
    int e = act_quant(row + first, n, NULL);
    return ldexp((double)e4m3_table[e4m3_from_f32(row[k] * pow2f(-e))], e);
}

static bool integers_right(struct packing *p)
{
    for (int i = 0; i < p->n; i++)
        for (int k = 0; k < p->cols; k++) {
            const struct fast_group *g = &p->x.group[(size_t)i * (size_t)(p->cols / 32) + (size_t)k / 32];
            int32_t v = integer_at(p, i, k, g);
            double own = 2 * (double)g->scale * v, truth = true_double(p, row_of(p, i), k);
            if (own != truth) {
                snprintf(p->text, sizeof p->text, "x[%d][%d] = %d of %.9g = %.9g, truly %.9g", i, k, v, (double)g->scale, own,
                         truth);
                return false;
            }
        }
    return true;
}

static bool packs(struct packing *p, struct rng *r, enum data_kind data, enum guard_side side)
{
    struct guarded source, mem;
    size_t values = (size_t)p->n * (size_t)p->cols;
    int32_t *index = xcalloc((size_t)p->n, sizeof *index);
    for (int i = 0; i < p->n; i++)
        index[i] = (int32_t)rng_below(r, (uint32_t)p->n);
    guard_open(&source, values * sizeof(float), side);
    guard_open(&mem, fast_x_bytes(p->k, p->kind, p->n, p->cols), side);
    fill_activations(r, data, (float *)(void *)source.data, (int)values);
    p->source = (const float *)(const void *)source.data;
    p->index = rng_below(r, 2) != 0 ? index : NULL;
    p->mem = mem.data;
    bool ok = run_caught(call_pack, p);
    if (!ok)
        snprintf(p->text, sizeof p->text, "crashed");
    ok = ok && (p->kind == FX_DIGITS || p->kind == FX_INT8 ? integers_right(p) : values_right(p));
    free(index);
    guard_close(&source);
    guard_close(&mem);
    return ok;
}

static void check_kind(const struct level *l, enum fast_x_kind kind)
{
    static const char *const names[FX_KINDS] = {[FX_PLAIN] = "plain", [FX_BF16] = "bf16", [FX_CODES] = "fp8 codes",
                                                [FX_SCALED] = "scaled", [FX_DIGITS] = "digits", [FX_INT8] = "int8"};
    static const int columns[] = {1, 7, 8, 33, 127, 128, 160, 1000, 1056};
    struct rng r = {check_seed};
    struct packing p = {.k = l->fast, .kind = kind};
    bool ok = true, groups = kind == FX_DIGITS || kind == FX_INT8;
    char why[280] = "", name[64];
    for (size_t c = 0; ok && c < COUNT_OF(columns); c++)
        for (int n = 1; ok && n <= 25; n += check_quick ? 5 : 1) {
            int data = (n + (int)c) % N_DATA_KINDS;
            p.n = n;
            p.cols = groups ? (columns[c] + 31) / 32 * 32 : columns[c];
            p.in_order = n % 2 == 0;
            ok = packs(&p, &r, (enum data_kind)data, n % 4 / 2 == 0 ? GUARD_AFTER : GUARD_BEFORE);
            if (!ok)
                snprintf(why, sizeof why, "%d rows of %d, %s data: %s", n, p.cols, data_names[data], p.text);
        }
    snprintf(name, sizeof name, "packing: %s", names[kind]);
    report(ok, name, l->name, why);
}

void check_packing(void)
{
    for (int l = 0; l < n_levels; l++)
        for (int kind = 0; kind < FX_KINDS; kind++)
            check_kind(&levels[l], (enum fast_x_kind)kind);
}
