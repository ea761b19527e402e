/* Row kernels under test: one table for the check, its truths in double, and the bench. */
#ifndef CHECK_ROW_H
#define CHECK_ROW_H

#include "check.h"

enum { ROW_SLOTS_MAX = 128, ROW_ITERS = 20, ROW_SQUARE = -1 /* step: n = m * m */ };
#define ROW_FACTOR 0.37f

enum row_out { ROW_OUT_FLOATS, ROW_OUT_STREAMS, ROW_OUT_FP8, ROW_OUT_FP4, ROW_OUT_IDS };

struct row_case {
    const struct row_kern *k;
    int n, m, kind; /* values; block, streams, slots or choices; data (N_DATA_KINDS: any bits) */
    float param;    /* of the operation: limit, or a flag */
    bool round;     /* to bf16 */
    float *in[3];
    size_t floats[3];
    uint8_t *out;
    size_t out_bytes;
};

struct row_op {
    const char *name;
    void (*call)(void *);
    bool (*truth)(const struct row_case *c, const uint8_t *out);
    int step;      /* lengths are multiples of it; 0: powers of two */
    int floats[3]; /* of each input per value */
    int m[4];      /* values of m, taken in turn */
    bool streams[3], in_place, weights, counts; /* weights: in[2] is [m] and [m][m]; counts: in[2] is [ROW_BINS] */
    enum row_out out;
    float param;
    bool round;
    int bench_n;
};
extern const struct row_op row_ops[];
extern const int n_row_ops;

void row_case_open(struct row_case *c, const struct row_op *o, struct rng *r, int n, int m, int kind);
void row_case_close(struct row_case *c);
void bench_rows(void);
void bench_attn(void);
/* Of check_bench.c: CPU seconds of this thread, and a median that sorts v. */
double bench_seconds(void);
double bench_median(double *v, int n);

/* Which row is the k-th of m in a sum. */
static inline int32_t row_summed(int k, int m)
{
    return (2 * k + 1) % m;
}

/* check_row_truth.c: is the reference's result what double arithmetic says, within the error of its own? */
bool true_scale(const struct row_case *c, const uint8_t *out);
bool true_rotate(const struct row_case *c, const uint8_t *out);
bool true_fp8(const struct row_case *c, const uint8_t *out);
bool true_fp8_put(const struct row_case *c, const uint8_t *out);
bool true_hadamard(const struct row_case *c, const uint8_t *out);
bool true_fp4(const struct row_case *c, const uint8_t *out);
bool true_fp4_put(const struct row_case *c, const uint8_t *out);
bool true_swiglu(const struct row_case *c, const uint8_t *out);
bool true_sum(const struct row_case *c, const uint8_t *out);
bool true_mix(const struct row_case *c, const uint8_t *out);
bool true_collapse(const struct row_case *c, const uint8_t *out);
bool true_sinkhorn(const struct row_case *c, const uint8_t *out);
bool true_pool(const struct row_case *c, const uint8_t *out);
bool true_experts(const struct row_case *c, const uint8_t *out);
bool true_top_k(const struct row_case *c, const uint8_t *out);

#endif
