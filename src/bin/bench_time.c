/* Peaks and timing: every round measures the machine first, so that a busy moment weighs on both sides of a ratio. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "bin/bench.h"

enum { READ_BYTES = 128 << 20 };

static int compare(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return x < y ? -1 : x > y;
}

static double median(double *v, int n)
{
    qsort(v, (size_t)n, sizeof *v, compare);
    return n % 2 != 0 ? v[n / 2] : (v[n / 2 - 1] + v[n / 2]) / 2;
}

static void add_row(struct bench *b, const struct bench_row *r)
{
    if (b->n_rows < (int)COUNT_OF(b->rows))
        b->rows[b->n_rows++] = *r;
}

static void measure_peaks(struct bench *b)
{
    b->peaks = fast_peaks_measure(b->pool, b->args.model.isa, b->mem, b->mem_bytes);
}

static void add_peaks(struct bench *b)
{
    double read[BENCH_ROUNDS_MAX], flops[BENCH_ROUNDS_MAX], ops[BENCH_ROUNDS_MAX];
    for (int i = 0; i < b->rounds; i++) {
        measure_peaks(b);
        read[i] = b->peaks.read * 1e-9;
        flops[i] = b->peaks.flops * 1e-9;
        ops[i] = b->peaks.int8_ops * 1e-9;
    }
    const struct bench_row rows[] = {
        {"machine.read", "GB/s", median(read, b->rounds), -1, 0, 0, 0},
        {"machine.multiply_add", "GFLOP/s", median(flops, b->rounds), -1, 0, 0, 0},
        {"machine.int8", "GOP/s", median(ops, b->rounds), -1, 0, 0, 0},
    };
    for (size_t i = 0; i < COUNT_OF(rows); i++)
        add_row(b, &rows[i]);
}

int bench_open(struct bench *b, struct err *e)
{
    int rc = pool_open(&b->pool, b->args.model.n_threads, e);
    if (rc != HD_OK)
        return rc;
    b->mem_bytes = READ_BYTES;
    void *p = mmap(NULL, b->mem_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (p == MAP_FAILED)
        return err_set(e, HD_ENOMEM, "no memory for a buffer of %zu bytes to measure its speed", b->mem_bytes);
    madvise(p, b->mem_bytes, MADV_HUGEPAGE);
    memset(p, 1, b->mem_bytes);
    b->mem = p;
    add_peaks(b);
    return HD_OK;
}

void bench_close(struct bench *b)
{
    if (b->mem != NULL)
        munmap(b->mem, b->mem_bytes);
    pool_close(&b->pool);
}

/* Memory traffic and arithmetic overlap at best; the indexer's arithmetic has its own peak and comes on top of the rest. */
static double roof_seconds(const struct fast_peaks *p, const struct bench_work *w)
{
    double traffic = w->bytes / p->read, arithmetic = w->flops / p->flops + w->index_flops / p->int8_ops;
    return traffic > arithmetic ? traffic : arithmetic;
}

int bench_time(struct bench *b, const char *name, const char *unit, double per_call, const struct bench_work *w,
               int (*fn)(void *arg, struct err *e), void *arg, struct err *e)
{
    double seconds[BENCH_ROUNDS_MAX], roof[BENCH_ROUNDS_MAX];
    if (b->only != NULL && strncmp(name, b->only, strlen(b->only)) != 0)
        return HD_OK;
    int rc = fn(arg, e); /* once outside the count: pages touched, caches as in the later rounds */
    for (int i = 0; i < b->rounds && rc == HD_OK; i++) {
        measure_peaks(b);
        uint64_t t = now_ns();
        rc = fn(arg, e);
        seconds[i] = (double)(now_ns() - t) * 1e-9;
        roof[i] = roof_seconds(&b->peaks, w) / seconds[i];
    }
    if (rc != HD_OK)
        return rc;
    double s = median(seconds, b->rounds);
    struct bench_row r = {.unit = unit, .value = per_call / s, .roofline = median(roof, b->rounds), .seconds = s,
                          .bytes = w->bytes, .flops = w->flops + w->index_flops};
    snprintf(r.name, sizeof r.name, "%s", name);
    add_row(b, &r);
    return HD_OK;
}
