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
    const struct fast_kern *k;
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

static void product_of(const struct bench_set *s, const struct il16 *m, int tile, fast_matmul_fn *fn,
                       const struct fast_x *x, float *y)
{
    int nt = m->n_tiles - tile < FAST_STRIP ? m->n_tiles - tile : FAST_STRIP;
    if (m->stored != NULL)
        fast_stored_strip(s->k, fn, m, tile, nt, x, s->strip, y, (size_t)m->rows);
    else
        fn(m, tile, nt, x, y, (size_t)m->rows);
}

static double seconds_of(const struct bench_set *s, int n_use, fast_matmul_fn *fn, const struct fast_x *x, float *y)
{
    double t = bench_seconds();
    for (int i = 0; i < n_use; i++)
        for (int tile = 0; tile < s->m[i].n_tiles; tile += FAST_STRIP)
            product_of(s, &s->m[i], tile, fn, x, y);
    return bench_seconds() - t;
}

static void bench_one(const struct level *l, enum wformat f, enum fast_x_kind kind, const char *name, int n, bool stored)
{
    struct rng r = {1};
    int rows = 2048, cols = 4096;
    struct wmat w = matrix_random(&r, DATA_NORMAL, f, rows, cols);
    struct bench_set s;
    s.k = l->fast;
    set_open(&s, &w, stored);
    fast_matmul_fn *fn = fast_matmul_of(l->fast, f, kind);
    float *x = xcalloc((size_t)n * (size_t)cols, sizeof *x), *y = xcalloc((size_t)n * (size_t)rows, sizeof *y);
    fill_activations(&r, DATA_NORMAL, x, n * cols);
    struct fast_x fx;
    void *mem = try_alloc(fast_x_bytes(l->fast, kind, n, cols));
    fast_x_init(&fx, l->fast, kind, n, cols, mem);
    fx.in_order = stored;
    double pack = bench_seconds();
    l->fast->pack(&fx, x, (size_t)cols, 0, n);
    pack = bench_seconds() - pack;
    double best[ROUNDS], peak[ROUNDS], read[ROUNDS];
    int n_use = n == 1 ? s.n : n < 32 ? 4 : 1;
    for (int i = 0; i < ROUNDS; i++) {
        read[i] = fast_peak_read(l->isa, s.mem, s.bytes / 256 * 256) * 1e-9;
        peak[i] = fast_peak_flops(l->isa) * 1e-9;
        best[i] = seconds_of(&s, n_use, fn, &fx, y) / n_use;
    }
    double t = bench_median(best, ROUNDS), bytes = (double)s.bytes / s.n, flops = 2.0 * n * rows * cols;
    double rate = bytes / t * 1e-9, speed = flops / t * 1e-9, top_read = bench_median(read, ROUNDS), top = bench_median(peak, ROUNDS);
    printf("%-10s %-14s rows %4d  %7.2f GB/s (%.2f of read %5.1f)  %7.1f GFLOP/s (%.2f of fp32 peak %5.1f)  pack %.1f us\n",
           l->name, name, n, rate, rate / top_read, top_read, speed, speed / top, top, pack * 1e6);
    fflush(stdout);
    free(mem);
    free(x);
    free(y);
    free(s.mem);
    free(s.strip);
    matrix_free(&w);
}

void bench_kernels(void)
{
    bench_rows();
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
