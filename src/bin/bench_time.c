/* Peaks and timing: every round measures the machine before and after, so that a busy moment weighs on both sides of a
 * ratio. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "bin/bench.h"

enum { READ_BYTES = 128 << 20, QUICK_SECONDS = 30 };

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

void bench_add(struct bench *b, const char *name, const char *unit, double value)
{
    struct bench_row r = {.unit = unit, .value = value, .roofline = -1, .roofline_sum = -1};
    snprintf(r.name, sizeof r.name, "%s", name);
    if (bench_wants(b, name))
        add_row(b, &r);
}

bool bench_wants(const struct bench *b, const char *name)
{
    return b->only == NULL || strncmp(name, b->only, strlen(b->only)) == 0;
}

/* ---------------------------------------------------------------- peaks */

static struct fast_peaks measure_peaks(const struct bench *b)
{
    return fast_peaks_measure(b->pool, b->args.model.isa, b->mem, b->mem_bytes);
}

static struct fast_peaks mean(struct fast_peaks a, struct fast_peaks b)
{
    return (struct fast_peaks){(a.read + b.read) / 2, (a.flops + b.flops) / 2, (a.int8_ops + b.int8_ops) / 2,
                               (a.fp32_flops + b.fp32_flops) / 2};
}

static void add_peaks(struct bench *b)
{
    double v[4][BENCH_ROUNDS_MAX];
    for (int i = 0; i < b->rounds; i++) {
        struct fast_peaks p = measure_peaks(b);
        v[0][i] = p.read * 1e-9;
        v[1][i] = p.flops * 1e-9;
        v[2][i] = p.int8_ops * 1e-9;
        v[3][i] = p.fp32_flops * 1e-9;
    }
    static const char *const names[] = {"machine.read", "machine.bf16", "machine.int8", "machine.fp32"};
    static const char *const units[] = {"GB/s", "GFLOP/s", "GOP/s", "GFLOP/s"};
    for (int i = 0; i < 4; i++)
        bench_add(b, names[i], units[i], median(v[i], b->rounds));
}

int bench_open(struct bench *b, struct err *e)
{
    b->start_ns = now_ns();
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

/* ---------------------------------------------------------------- timing */

static double overlapped_seconds(const struct fast_peaks *p, const struct bench_work *w)
{
    double traffic = w->bytes / p->read, arithmetic = w->flops / p->flops + w->index_flops / p->int8_ops;
    return traffic > arithmetic ? traffic : arithmetic;
}

/* The products of one token hide behind its reading; the scores of keys come on top. */
static double summed_seconds(const struct fast_peaks *p, const struct bench_work *w)
{
    double traffic = w->bytes / p->read, arithmetic = w->flops / p->flops;
    return (traffic > arithmetic ? traffic : arithmetic) + w->index_flops / p->int8_ops;
}

static bool out_of_time(const struct bench *b)
{
    return b->quick && now_ns() - b->start_ns > (uint64_t)QUICK_SECONDS * 1000000000u;
}

static int call(const struct bench_task *t, double *seconds, struct err *e)
{
    int rc = t->reset == NULL ? HD_OK : t->reset(t->arg, e);
    uint64_t start = now_ns();
    if (rc == HD_OK)
        rc = t->fn(t->arg, e);
    *seconds = (double)(now_ns() - start) * 1e-9;
    return rc;
}

int bench_time(struct bench *b, const struct bench_task *t, struct err *e)
{
    double seconds[BENCH_ROUNDS_MAX], roof[BENCH_ROUNDS_MAX], sum[BENCH_ROUNDS_MAX], full[BENCH_ROUNDS_MAX];
    if (!bench_wants(b, t->name))
        return HD_OK;
    int n = 0, rc = call(t, seconds, e); /* once outside the count: pages touched, caches as in the later rounds */
    struct fast_peaks after = measure_peaks(b);
    while (rc == HD_OK && n < b->rounds && !(n > 0 && out_of_time(b))) {
        struct fast_peaks before = after;
        rc = call(t, &seconds[n], e);
        after = measure_peaks(b);
        struct fast_peaks p = mean(before, after);
        roof[n] = overlapped_seconds(&p, &t->work) / seconds[n];
        sum[n] = summed_seconds(&p, &t->work) / seconds[n];
        full[n] = summed_seconds(&p, &t->work) / summed_seconds(&p, &t->full);
        n++;
    }
    if (rc != HD_OK)
        return rc;
    double s = median(seconds, n);
    struct bench_row r = {.unit = t->unit, .value = t->per_call / s, .roofline = median(roof, n),
                          .roofline_sum = median(sum, n), .seconds = s, .work = t->work, .rounds = n,
                          .context = t->context, .batch = t->batch, .chunk = t->chunk};
    if (t->full.bytes > 0)
        r.projected = r.value * median(full, n);
    snprintf(r.name, sizeof r.name, "%s", t->name);
    add_row(b, &r);
    return HD_OK;
}
