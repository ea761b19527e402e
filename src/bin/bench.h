/* What `hadal bench` measures (bench_model.c, bench_ops.c) and prints (cmd_bench.c). */
#ifndef HADAL_BENCH_H
#define HADAL_BENCH_H

#include "model/plan.h"
#include "bin/model_args.h"
#include "ops/cpu/fast_peak.h"

enum { BENCH_ROUNDS_MAX = 101 };

/* One speed. `roof` is the least time that the machine's measured peaks allow for its bytes and operations, so
 * roofline = roof / seconds, both medians over rounds in which the peaks were measured too. */
struct bench_row {
    char name[64];
    const char *unit;
    double value;    /* in `unit` */
    double roofline; /* < 0: does not apply (the peaks themselves) */
    double seconds, bytes, flops;
};

struct bench {
    struct model_args args;
    const char *dir;
    bool quick, serving;
    const char *only; /* rows whose name begins so; NULL: all */
    int rounds;
    int64_t contexts[16], batches[16], chunks[16];
    int n_contexts, n_batches, n_chunks;
    struct bench_row rows[256];
    int n_rows;
    /* the machine */
    struct pool *pool;
    uint8_t *mem; /* read by the bandwidth measurement */
    size_t mem_bytes;
    struct fast_peaks peaks; /* of the last round */
};

/* Opens the pool and memory of the peak measurements; measures them once into rows. */
int bench_open(struct bench *b, struct err *e);
void bench_close(struct bench *b);

/* Work of one call in the units of the peaks. */
struct bench_work {
    double bytes;             /* read from memory */
    double flops, index_flops; /* fp32 or bf16 arithmetic; indexer arithmetic */
};

/* Runs fn(arg) once per round after measuring the peaks, and adds a row: value = per_call / median seconds. fn returns an
 * error code; the first one ends the measurement. */
int bench_time(struct bench *b, const char *name, const char *unit, double per_call, const struct bench_work *w,
               int (*fn)(void *arg, struct err *e), void *arg, struct err *e);

/* Decode and prefill of the model; indexer and attention alone on synthetic state of its widths. */
int bench_model(struct bench *b, struct err *e);
int bench_ops(struct bench *b, const struct config *c, struct err *e);
/* The engine under many requests (bench_serving.c), instead of the others; the prefix has contexts[0] tokens. */
int bench_serving(struct bench *b, struct err *e);

#endif
