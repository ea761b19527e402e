/* Peaks and timing: the machine is measured before the first and after every round of a row. The highest of them is the
 * row's denominator: a peak is what the machine can do, and one taken in a busy moment would flatter the row. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "bin/bench.h"

enum { READ_BYTES = 128 << 20, QUICK_SECONDS = 30, CALLS_MAX = 5 };
static const double ROUND_SECONDS = 0.25;

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
    else
        free(r->peaks);
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

static void add_peaks(struct bench *b)
{
    struct fast_peaks p = {0};
    for (int i = 0; i < b->rounds; i++)
        p = fast_peaks_max(p, measure_peaks(b));
    bench_add(b, "machine.read", "GB/s", p.read * 1e-9);
    bench_add(b, "machine.bf16", "GFLOP/s", p.flops * 1e-9);
    bench_add(b, "machine.int8", "GOP/s", p.int8_ops * 1e-9);
    bench_add(b, "machine.fp32", "GFLOP/s", p.fp32_flops * 1e-9);
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
    for (int i = 0; i < b->n_rows; i++)
        free(b->rows[i].peaks);
    if (b->mem != NULL)
        munmap(b->mem, b->mem_bytes);
    pool_close(&b->pool);
}

/* ---------------------------------------------------------------- timing */

static double overlapped_seconds(const struct fast_peaks *p, const struct bench_work *w)
{
    double traffic = w->bytes / p->read;
    double arithmetic = w->flops / p->flops + (w->index_flops + w->int8_flops) / p->int8_ops;
    return traffic > arithmetic ? traffic : arithmetic;
}

/* The products of one token hide behind its reading; the scores of keys come on top. */
static double summed_seconds(const struct fast_peaks *p, const struct bench_work *w)
{
    double traffic = w->bytes / p->read, arithmetic = w->flops / p->flops + w->int8_flops / p->int8_ops;
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

/* A round: short calls are repeated and the fastest counts, as of the peaks' short runs. */
static int time_round(const struct bench_task *t, double *seconds, struct err *e)
{
    double spent = 0;
    int rc = HD_OK;
    for (int i = 0; rc == HD_OK && i < CALLS_MAX && spent < ROUND_SECONDS; i++) {
        double s;
        rc = call(t, &s, e);
        *seconds = i == 0 || s < *seconds ? s : *seconds;
        spent += s;
    }
    return rc;
}

/* The rounds and peaks[0 .. rounds]; returns the number of rounds or an error code. */
static int time_rounds(struct bench *b, const struct bench_task *t, double *seconds, struct fast_peaks *peaks, struct err *e)
{
    int n = 0, rc = call(t, seconds, e); /* once outside the count: pages touched, caches as in the later rounds */
    peaks[0] = measure_peaks(b);
    while (rc == HD_OK && n < b->rounds && !(n > 0 && out_of_time(b))) {
        rc = time_round(t, &seconds[n], e);
        peaks[++n] = measure_peaks(b);
    }
    return rc == HD_OK ? n : rc;
}

/* Each round's fraction is of the higher peaks of those measured right before and right after it: other users of the machine
 * come and go between rounds, and take from both. The median of them. */
static double fraction_of(const struct bench_task *t, double (*least)(const struct fast_peaks *, const struct bench_work *),
                          const double *seconds, const struct fast_peaks *peaks, int n)
{
    double fraction[BENCH_ROUNDS_MAX];
    for (int i = 0; i < n; i++) {
        struct fast_peaks around = fast_peaks_max(peaks[i], peaks[i + 1]);
        fraction[i] = least(&around, &t->work) / seconds[i];
    }
    return median(fraction, n);
}

int bench_time(struct bench *b, const struct bench_task *t, struct err *e)
{
    if (!bench_wants(b, t->name))
        return HD_OK;
    double seconds[BENCH_ROUNDS_MAX];
    struct fast_peaks *peaks = xcalloc((size_t)b->rounds + 1, sizeof *peaks), top = {0};
    int n = time_rounds(b, t, seconds, peaks, e);
    if (n < 0) {
        free(peaks);
        return n;
    }
    for (int i = 0; i <= n; i++)
        top = fast_peaks_max(top, peaks[i]);
    double fraction = fraction_of(t, overlapped_seconds, seconds, peaks, n);
    double fraction_sum = fraction_of(t, summed_seconds, seconds, peaks, n), s = median(seconds, n); /* sorts seconds */
    struct bench_row r = {.unit = t->unit, .value = t->per_call / s, .roofline = fraction,
                          .roofline_sum = fraction_sum, .seconds = s, .work = t->work,
                          .rounds = n, .context = t->context, .batch = t->batch, .chunk = t->chunk, .peaks = peaks};
    if (t->full.bytes > 0)
        r.projected = r.value * summed_seconds(&top, &t->work) / summed_seconds(&top, &t->full);
    snprintf(r.name, sizeof r.name, "%s", t->name);
    add_row(b, &r);
    return HD_OK;
}
