/* The portable kernels: every level gives the reference level's bits, and those are within the error of their sums. */
#include "check.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const int lengths[] = {1, 2, 15, 16, 17, 31, 32, 33, 64, 100, 127, 128, 129, 448, 512, 1000, 4096};
static const int counts[] = {1, 2, 3, 4, 5, 7, 8, 9};

struct dots {
    const struct kern *k;
    const float *x, *w;
    int n, nx;
    float *y; /* [nx], then dot and sum_squares of row 0 */
};

static void call_dots(void *arg)
{
    const struct dots *d = arg;
    d->k->dot_many(d->x, (size_t)d->n, d->nx, d->w, d->n, d->y, 1);
    d->y[d->nx] = d->k->dot(d->x, d->w, d->n);
    d->y[d->nx + 1] = d->k->sum_squares(d->x, d->n);
}

/* Both sides of every buffer guarded in turn. */
static bool run_dots(struct dots *d, const struct kern *k, const float *x, const float *w, float *out)
{
    bool ok = true;
    for (int side = GUARD_AFTER; ok && side <= GUARD_BEFORE; side++) {
        struct guarded gx, gw, gy;
        guard_open(&gx, (size_t)(d->n * d->nx) * sizeof(float), (enum guard_side)side);
        guard_open(&gw, (size_t)d->n * sizeof(float), (enum guard_side)side);
        guard_open(&gy, (size_t)(d->nx + 2) * sizeof(float), (enum guard_side)side);
        memcpy(gx.data, x, gx.bytes);
        memcpy(gw.data, w, gw.bytes);
        struct dots call = {k, (float *)(void *)gx.data, (float *)(void *)gw.data, d->n, d->nx, (float *)(void *)gy.data};
        ok = run_caught(call_dots, &call);
        memcpy(out, gy.data, gy.bytes);
        guard_close(&gx);
        guard_close(&gw);
        guard_close(&gy);
    }
    return ok;
}

static bool dot_within_bound(const float *x, const float *w, int n, float y)
{
    double sum = 0, size = 0;
    for (int i = 0; i < n; i++) {
        sum += (double)x[i] * (double)w[i];
        size += fabs((double)x[i] * (double)w[i]);
    }
    return fabs((double)y - sum) <= (n / 16 + 6) * 0x1p-24 * size + n * 0x1p-148;
}

static bool dots_pass(const struct level *l, struct rng *r, int n, int nx, enum data_kind kind, const char **why)
{
    float *x = xcalloc((size_t)(n * nx), sizeof *x), *w = xcalloc((size_t)n, sizeof *w);
    float *y = xcalloc((size_t)nx + 2, sizeof *y), *truth = xcalloc((size_t)nx + 2, sizeof *truth);
    fill_activations(r, kind, x, n * nx);
    fill_activations(r, kind, w, n);
    struct dots d = {.n = n, .nx = nx};
    bool ok = run_dots(&d, levels[0].kern, x, w, truth) && run_dots(&d, l->kern, x, w, y);
    *why = ok ? *why : "crashed";
    if (ok && memcmp(y, truth, ((size_t)nx + 2) * sizeof *y) != 0) {
        *why = "other bits than the reference level";
        ok = false;
    }
    for (int i = 0; ok && i < nx; i++)
        if (!dot_within_bound(x + i * n, w, n, y[i]) || f32_bits(y[nx]) != f32_bits(y[0])) {
            *why = "outside the error of the sum, or dot differs from dot_many";
            ok = false;
        }
    free(x);
    free(w);
    free(y);
    free(truth);
    return ok;
}

static void check_dots(const struct level *l)
{
    struct rng r = {check_seed};
    const char *why = "";
    char text[200] = "";
    bool ok = true;
    for (size_t i = 0; ok && i < COUNT_OF(lengths); i++)
        for (int d = 0; ok && d < N_DATA_KINDS; d++) {
            int nx = counts[rng_below(&r, COUNT_OF(counts))];
            ok = dots_pass(l, &r, lengths[i], nx, (enum data_kind)d, &why);
            if (!ok)
                snprintf(text, sizeof text, "%d values, %d vectors, %s data: %s", lengths[i], nx, data_names[d], why);
        }
    report(ok, "portable dot, dot_many, sum_squares", l->name, text);
}

struct decodes {
    const struct kern *k;
    struct wmat w;
    int row, c0, n;
    float *out;
};

static void call_decode(void *arg)
{
    const struct decodes *d = arg;
    d->k->decode(&d->w, d->row, d->c0, d->n, d->out);
}

static bool decode_passes(const struct level *l, struct rng *r, enum wformat f, enum data_kind kind)
{
    static const int rows[] = {1, 130}, cols[] = {64, 416};
    bool ok = true;
    for (int i = 0; ok && i < 4; i++) {
        struct wmat w = matrix_random(r, kind, f, rows[i / 2], cols[i % 2]);
        struct guarded g;
        int c0 = cols[i % 2] > 128 ? 128 : 0, n = cols[i % 2] - c0;
        guard_open(&g, (size_t)n * sizeof(float), GUARD_AFTER);
        struct decodes d = {l->kern, w, rows[i / 2] - 1, c0, n, (float *)(void *)g.data};
        ok = run_caught(call_decode, &d);
        struct il16 m;
        void *mem = try_alloc(il16_bytes(&w));
        il16_pack(&m, &w, mem);
        for (int k = 0; ok && k < n; k++) /* values equal; a zero's sign may differ after scaling by nothing */
            ok = d.out[k] == il16_get(&m, d.row, c0 + k);
        free(mem);
        guard_close(&g);
        matrix_free(&w);
    }
    return ok;
}

static void check_decode(const struct level *l)
{
    static const enum wformat formats[] = {W_F32, W_BF16, W_FP8, W_FP4};
    struct rng r = {check_seed};
    bool ok = true;
    for (size_t f = 0; ok && f < COUNT_OF(formats); f++)
        for (int d = 0; ok && d < N_DATA_KINDS; d++)
            ok = decode_passes(l, &r, formats[f], (enum data_kind)d);
    report(ok, "portable decode", l->name, "a decoded value is not the stored one");
}

static void check_round(const struct level *l)
{
    float x[259], y[259], out[259];
    struct rng r = {check_seed};
    for (int i = 0; i < 259; i++)
        x[i] = y[i] = f32_from_bits((uint32_t)rng_u64(&r));
    l->kern->round_bf16(x, 259, out);
    l->kern->round_bf16(y, 259, y);
    bool ok = true;
    for (int i = 0; i < 259; i++)
        ok = ok && f32_bits(y[i]) == f32_bits(out[i]) &&
             (x[i] != x[i] ? y[i] != y[i] : f32_bits(y[i]) == f32_bits(bf16_round(x[i])));
    report(ok, "portable round_bf16", l->name, "differs from bf16_round");
}

void check_portable_kernels(void)
{
    for (int l = 0; l < n_levels; l++)
        if (l == 0 || levels[l].kern != levels[l - 1].kern) {
            check_dots(&levels[l]);
            check_decode(&levels[l]);
            check_round(&levels[l]);
        }
}
