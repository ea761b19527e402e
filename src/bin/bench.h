/* What `hadal bench` measures (bench_model.c, bench_ops.c, bench_serving.c) and prints (bench_out.c, bench_svg.c). */
#ifndef HADAL_BENCH_H
#define HADAL_BENCH_H

#include "bin/model_args.h"
#include "model/plan.h"
#include "ops/cpu/fast_peak.h"

enum { BENCH_ROUNDS_MAX = 101, BENCH_LIST_MAX = 16 };

/* Work of one call in the units of the peaks. */
struct bench_work {
    double bytes;              /* read from memory */
    double flops, index_flops; /* bf16 (fp32 without it) arithmetic; the indexer's int8 arithmetic */
    double int8_flops;         /* of the routed experts in numerics int8 */
};

/* One speed. The roofline is the least time that the machine's measured peaks allow for the work: traffic and
 * arithmetic overlap at best (roofline), or follow each other as reading weights, keys and rows and scoring keys do in
 * one token's decode (roofline_sum). Both are medians over the rounds of that time, by the peaks measured right before and
 * after the round, over the time that the round took. */
struct bench_row {
    char name[64];
    const char *unit;
    double value;            /* in `unit` */
    double roofline, roofline_sum; /* < 0: does not apply (the peaks themselves) */
    double seconds;
    struct bench_work work;
    double projected;        /* value of the full-depth model; 0: none */
    int rounds;
    int64_t context;         /* tokens before the step; 0 with chunks from the start */
    int batch, chunk;        /* 0: not a step of this kind */
    struct fast_peaks *peaks; /* [rounds + 1], before the first round and after each; freed by bench_close */
};

struct bench {
    struct model_args args;
    const char *dir;
    bool quick, serving, http;
    const char *conversation; /* file of the agent's conversation; NULL: made up */
    const char *only; /* rows whose name begins so; NULL: all */
    int rounds;
    int64_t contexts[BENCH_LIST_MAX], batches[BENCH_LIST_MAX], chunks[BENCH_LIST_MAX], depths[BENCH_LIST_MAX];
    int n_contexts, n_batches, n_chunks, n_depths;
    struct bench_row rows[256];
    int n_rows;
    char about[256]; /* the model that was measured, in words */
    char full[64];   /* of the projection: "flash, 43 layers"; empty: none */
    /* the machine */
    struct pool *pool;
    uint8_t *mem; /* read by the bandwidth measurement */
    size_t mem_bytes;
    uint64_t start_ns;
};

/* Opens the pool and memory of the peak measurements; measures them once into rows. */
int bench_open(struct bench *b, struct err *e);
void bench_close(struct bench *b);

/* Something to time: value = per_call / median seconds of fn. reset (NULL: nothing) runs before each call, outside of
 * the time. The first error code ends the measurement. */
struct bench_task {
    char name[64];
    const char *unit;
    double per_call;
    struct bench_work work, full; /* full: the same step of the full-depth model; all 0: no projection */
    int (*reset)(void *arg, struct err *e);
    int (*fn)(void *arg, struct err *e);
    void *arg;
    int64_t context;
    int batch, chunk;
};
/* Runs it once unmeasured, then a round at a time between measurements of the peaks, and adds a row. A quick bench that
 * has run for half a minute takes one round. */
int bench_time(struct bench *b, const struct bench_task *t, struct err *e);
bool bench_wants(const struct bench *b, const char *name);
/* A value that is no speed (roofline -1). */
void bench_add(struct bench *b, const char *name, const char *unit, double value);

/* Decode and prefill of the model; indexer and attention alone on synthetic state of its widths. */
int bench_model(struct bench *b, struct err *e);
int bench_ops(struct bench *b, const struct config *c, struct err *e);
/* The engine under many requests (bench_serving.c), instead of the others; the prefix has contexts[0] tokens. */
int bench_serving(struct bench *b, struct err *e);
/* Its part about the disk tier (bench_spill.c): a conversation of contexts[0] tokens, in a folder made here and removed. */
int bench_spill(struct bench *b, struct err *e);
/* What the HTTP server adds to the engine (bench_http.c), instead of the others. */
int bench_http(struct bench *b, struct err *e);

/* A small checkpoint of Flash's widths with every kind of layer, in a new temporary folder (malloc'd), and its removal.
 * */
char *bench_slice_make(int n_threads, struct err *e);
void bench_slice_remove(char *dir);

void bench_print_table(const struct bench *b);
void bench_print_csv(const struct bench *b);
void bench_print_json(const struct bench *b);
/* Decode speed by context and by batch, with the rooflines. */
int bench_write_svg(const struct bench *b, const char *path, struct err *e);

#endif
