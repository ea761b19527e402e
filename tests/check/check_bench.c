/* Speed of the kernels: thread CPU time, medians over rounds in which peaks and kernels alternate. */
#include "check_row.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

#include "ops/cpu/fast.h"
#include "ops/cpu/fast_peak.h"

enum { ROUNDS = 7, SET_BYTES = 192 << 20 };

double bench_seconds(void)
{
    struct timespec t;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static int compare(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return x < y ? -1 : x > y;
}

double bench_median(double *v, int n)
{
    qsort(v, (size_t)n, sizeof *v, compare);
    return v[n / 2];
}

/* Copies of one packed (or stored) matrix, together larger than the caches. */
struct bench_set {
    struct il16 m[512];
    uint8_t *strip; /* lines of a stored one */
    int n;
    uint8_t *mem;
    size_t bytes;
};

static void fill_set(struct bench_set *s, const struct wmat *w, size_t one, bool stored)
{
    if (stored) {
        memcpy(s->mem, w->data, one);
        il16_describe(&s->m[0], w);
        s->m[0].stored = s->mem;
        s->strip = try_alloc(il16_strip_bytes(&s->m[0]));
    } else {
        il16_pack(&s->m[0], w, s->mem);
        s->strip = NULL;
    }
    for (int i = 1; i < s->n; i++) {
        memcpy(s->mem + (size_t)i * one, s->mem, one);
        s->m[i] = s->m[0];
        s->m[i].data += stored ? 0 : (size_t)i * one;
        s->m[i].stored += stored ? (size_t)i * one : 0;
        s->m[i].scale8 += s->m[i].scale8 != NULL ? (size_t)i * one : 0;
    }
}

static void set_open(struct bench_set *s, const struct wmat *w, bool stored)
{
    size_t one = stored ? matrix_bytes(w) : il16_bytes(w);
    s->n = (int)(SET_BYTES / one);
    s->n = s->n > 512 ? 512 : s->n;
    s->bytes = (size_t)s->n * one;
    s->mem = aligned_alloc((size_t)2 << 20, (s->bytes + ((size_t)2 << 20)) >> 21 << 21);
    if (s->mem == NULL) {
        perror("check: bench memory");
        exit(1);
    }
    madvise(s->mem, s->bytes, MADV_HUGEPAGE);
    fill_set(s, w, one, stored);
}

/* A level's kernel and the activations as it wants them. */
struct bench_side {
    const struct fast_kern *k;
    fast_matmul_fn *fn;
    struct fast_x x;
    void *mem;
    double pack; /* seconds */
};

static void side_open(struct bench_side *b, const struct fast_kern *k, const struct bench_set *s, enum fast_x_kind kind,
                      const float *x, int n)
{
    int cols = s->m[0].cols;
    b->k = k;
    b->fn = fast_matmul_of(k, s->m[0].format, kind);
    b->mem = try_alloc(fast_x_bytes(k, kind, n, cols));
    fast_x_init(&b->x, k, kind, n, cols, b->mem);
    b->x.in_order = s->m[0].stored != NULL;
    double t[ROUNDS];
    for (int i = 0; i < ROUNDS; i++) {
        t[i] = bench_seconds();
        for (int tile = 0; tile < fast_x_tiles(&b->x); tile++)
            k->pack(&b->x, x, (size_t)cols, NULL, tile);
        t[i] = bench_seconds() - t[i];
    }
    b->pack = bench_median(t, ROUNDS);
}

static void product_of(const struct bench_set *s, const struct il16 *m, int tile, const struct bench_side *b, float *y)
{
    int nt = m->n_tiles - tile < FAST_STRIP ? m->n_tiles - tile : FAST_STRIP;
    if (m->stored != NULL)
        fast_stored_strip(b->k, b->fn, m, tile, nt, &b->x, s->strip, y, (size_t)m->rows);
    else
        b->fn(m, tile, nt, &b->x, y, (size_t)m->rows);
}

/* Seconds of a whole matrix, from the first n_tiles tiles of n_use of them. */
static double seconds_of(const struct bench_set *s, int n_use, int n_tiles, const struct bench_side *b, float *y)
{
    double t = bench_seconds();
    for (int i = 0; i < n_use; i++)
        for (int tile = 0; tile < n_tiles; tile += FAST_STRIP)
            product_of(s, &s->m[i], tile, b, y);
    return (bench_seconds() - t) / n_use * s->m[0].n_tiles / n_tiles;
}

struct bench_rates {
    double time, reference; /* seconds of one matrix */
    double read, flops;     /* this machine's peaks */
};

/* The reference runs on a part of the tiles: it computes the same for each, and slowly. */
static struct bench_rates measure(const struct level *l, const struct bench_set *s, const struct bench_side *own,
                                  const struct bench_side *reference, float *y)
{
    double time[ROUNDS], ref[ROUNDS], read[ROUNDS], flops[ROUNDS];
    int n = own->x.n, n_use = n == 1 ? s->n : n < 32 ? 4 : 1, part = s->m[0].n_tiles / n / FAST_STRIP * FAST_STRIP;
    for (int i = 0; i < ROUNDS; i++) {
        read[i] = fast_peak_read(l->isa, s->mem, s->bytes / 256 * 256);
        flops[i] = fast_peak_flops(l->isa);
        ref[i] = seconds_of(s, 1, part > 0 ? part : FAST_STRIP, reference, y);
        time[i] = seconds_of(s, n_use, s->m[0].n_tiles, own, y);
    }
    return (struct bench_rates){bench_median(time, ROUNDS), bench_median(ref, ROUNDS), bench_median(read, ROUNDS),
                                bench_median(flops, ROUNDS)};
}

static void bench_one(const struct level *l, enum wformat f, enum fast_x_kind kind, const char *name, int n, bool stored)
{
    struct rng r = {1};
    int rows = 2048, cols = 4096;
    struct wmat w = matrix_random(&r, DATA_NORMAL, f, rows, cols);
    struct bench_set s;
    set_open(&s, &w, stored);
    float *x = xcalloc((size_t)n * (size_t)cols, sizeof *x), *y = xcalloc((size_t)n * (size_t)rows, sizeof *y);
    fill_activations(&r, DATA_NORMAL, x, n * cols);
    struct bench_side own, reference;
    side_open(&own, l->fast, &s, kind, x, n);
    side_open(&reference, levels[0].fast, &s, kind, x, n);
    struct bench_rates m = measure(l, &s, &own, &reference, y);
    double rate = (double)s.bytes / s.n / m.time, flops = 2.0 * n * rows * cols / m.time;
    printf("%-10s %-14s rows %4d  %7.2f GB/s (%.2f of read %5.1f)  %7.1f GFLOP/s (%.2f of fp32 peak %5.1f)  "
           "%6.1f x reference  pack %.1f us\n",
           l->name, name, n, rate * 1e-9, rate / m.read, m.read * 1e-9, flops * 1e-9, flops / m.flops, m.flops * 1e-9,
           m.reference / m.time, own.pack * 1e6);
    fflush(stdout);
    free(own.mem);
    free(reference.mem);
    free(x);
    free(y);
    free(s.mem);
    free(s.strip);
    matrix_free(&w);
}

void bench_kernels(void)
{
    bench_rows();
    bench_attn();
    static const int rows[] = {1, 3, 12, 96};
    for (int l = 1; l < n_levels; l++)
        for (size_t i = 0; i < COUNT_OF(rows); i++) {
            bench_one(&levels[l], W_FP4, FX_DIGITS, "fp4", rows[i], false);
            bench_one(&levels[l], W_FP4, FX_INT8, "fp4 int8", rows[i], false);
            bench_one(&levels[l], W_FP8, FX_CODES, "fp8", rows[i], false);
            bench_one(&levels[l], W_BF16, FX_BF16, "bf16", rows[i], false);
            bench_one(&levels[l], W_F32, FX_PLAIN, "f32", rows[i], false);
        }
    for (int l = 1; l < n_levels; l++) {
        bench_one(&levels[l], W_FP4, FX_DIGITS, "fp4 as stored", 1, true);
        bench_one(&levels[l], W_FP8, FX_CODES, "fp8 as stored", 1, true);
        bench_one(&levels[l], W_BF16, FX_BF16, "bf16 as stored", 1, true);
    }
}
