/* The row kernels: every level gives the reference level's bits, on any length, with guard pages on both sides; and the
 * reference is within the error of its arithmetic of the same thing in double (check_row_truth.c). */
#include "check_row.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---------------------------------------------------------------- calls: inputs in[], result in out */

static float *floats_of(const struct row_case *c)
{
    return (float *)(void *)c->out;
}

static void call_scale(void *arg)
{
    const struct row_case *c = arg;
    c->k->scale(c->in[0], c->param > 0 ? c->in[1] : NULL, ROW_FACTOR, c->n, c->round, floats_of(c));
}

static void call_rotate(void *arg)
{
    const struct row_case *c = arg;
    c->k->rotate(floats_of(c), c->in[1], c->in[2], c->n, c->round);
}

static void call_fp8_sim(void *arg)
{
    const struct row_case *c = arg;
    c->k->fp8_sim(floats_of(c), c->n, c->m);
}

static void call_fp8_put(void *arg)
{
    const struct row_case *c = arg;
    c->k->fp8_put(c->in[0], c->n, c->m, c->out, c->out + c->n);
}

static void call_hadamard(void *arg)
{
    const struct row_case *c = arg;
    c->k->hadamard(floats_of(c), c->n);
}

static void call_fp4_sim(void *arg)
{
    const struct row_case *c = arg;
    c->k->fp4_sim(floats_of(c), c->n);
}

static void call_fp4_put(void *arg)
{
    const struct row_case *c = arg;
    c->k->fp4_put(c->in[0], c->n, c->out, c->out + c->n / 2);
}

static void call_swiglu(void *arg)
{
    const struct row_case *c = arg;
    c->k->swiglu(c->in[0], c->in[1], c->n, c->param, ROW_FACTOR, floats_of(c));
}

static void call_sum(void *arg)
{
    const struct row_case *c = arg;
    int32_t row[ROW_SLOTS_MAX];
    for (int k = 0; k < c->m; k++)
        row[k] = row_summed(k, c->m);
    c->k->sum_rows(c->in[0], row, c->m, c->n, c->round, floats_of(c));
}

static void call_mix(void *arg)
{
    const struct row_case *c = arg;
    c->k->mix_streams(c->in[1], c->in[2], c->in[2] + c->m, c->m, c->n, c->round, floats_of(c));
}

static void call_collapse(void *arg)
{
    const struct row_case *c = arg;
    c->k->collapse(c->in[0], c->in[1], c->m, c->n, c->round, floats_of(c));
}

static void call_sinkhorn(void *arg)
{
    const struct row_case *c = arg;
    c->k->sinkhorn(floats_of(c), c->m, ROW_ITERS, 1e-6f);
}

static void call_pool(void *arg)
{
    const struct row_case *c = arg;
    struct row_slot slots[ROW_SLOTS_MAX];
    for (int s = 0; s < c->m; s++)
        slots[s] = (struct row_slot){c->in[0] + s * c->n, c->in[1] + s * c->n};
    c->k->pool(slots, c->m, c->n, c->param > 0, floats_of(c));
}

static void call_experts(void *arg)
{
    const struct row_case *c = arg;
    c->k->top_experts(c->in[0], c->param > 0 ? c->in[1] : NULL, c->n, c->m, (int32_t *)(void *)c->out);
}

static void call_top_k(void *arg)
{
    const struct row_case *c = arg;
    int32_t *count = (int32_t *)(void *)c->in[2];
    memset(count, 0, ROW_BINS * sizeof *count);
    c->k->count_scores(c->in[0], c->n, count);
    c->k->top_k(c->in[0], c->n, c->m, count, (uint32_t *)(void *)c->in[1], (int32_t *)(void *)c->out);
}

const struct row_op row_ops[] = {
    {"norm scale", call_scale, true_scale, 1, {1, 1, 0}, .param = 1, .bench_n = 4096},
    {"norm scale, rounded", call_scale, true_scale, 1, {1, 1, 0}, .param = 1, .round = true, .bench_n = 4096},
    {"norm scale without weight", call_scale, true_scale, 1, {1, 0, 0}, .bench_n = 512},
    {"rotation", call_rotate, true_rotate, 2, {1, 1, 1}, .in_place = true, .bench_n = 64},
    {"rotation, rounded", call_rotate, true_rotate, 2, {1, 1, 1}, .in_place = true, .round = true, .bench_n = 64},
    {"fp8 1x128 activations", call_fp8_sim, true_fp8, 1, {1, 0, 0}, .m = {128}, .in_place = true, .bench_n = 4096},
    {"fp8 1x64 rows", call_fp8_sim, true_fp8, 1, {1, 0, 0}, .m = {64}, .in_place = true, .bench_n = 448},
    {"fp8 1x64 rows as codes", call_fp8_put, true_fp8_put, 1, {1, 0, 0}, .m = {64}, .out = ROW_OUT_FP8, .bench_n = 448},
    {"hadamard", call_hadamard, true_hadamard, 0, {1, 0, 0}, .in_place = true, .bench_n = 128},
    {"fp4 1x32 rows", call_fp4_sim, true_fp4, 32, {1, 0, 0}, .in_place = true, .bench_n = 128},
    {"fp4 1x32 rows as codes", call_fp4_put, true_fp4_put, 32, {1, 0, 0}, .out = ROW_OUT_FP4, .bench_n = 128},
    {"swiglu", call_swiglu, true_swiglu, 1, {1, 1, 0}, .param = 10, .bench_n = 2048},
    {"rows summed", call_sum, true_sum, 1, {1, 0, 0}, .m = {7, 1, 3, 9}, .streams = {true}, .bench_n = 4096},
    {"rows summed, rounded", call_sum, true_sum, 1, {1, 0, 0}, .m = {7, 1, 3, 9}, .streams = {true}, .round = true,
     .bench_n = 4096},
    {"swiglu without clamp", call_swiglu, true_swiglu, 1, {1, 1, 0}, .bench_n = 2048},
    {"streams mixed", call_mix, true_mix, 1, {1, 1, 0}, .m = {4, 1, 3, 8}, .streams = {true}, .in_place = true, .round = true,
     .weights = true, .out = ROW_OUT_STREAMS, .bench_n = 4096},
    {"streams mixed, fp32", call_mix, true_mix, 1, {1, 1, 0}, .m = {4, 1, 3, 8}, .streams = {true}, .in_place = true,
     .weights = true, .out = ROW_OUT_STREAMS, .bench_n = 4096},
    {"streams collapsed", call_collapse, true_collapse, 1, {1, 1, 0}, .m = {4, 1, 3, 8}, .streams = {true, true}, .round = true,
     .bench_n = 4096},
    {"sinkhorn", call_sinkhorn, true_sinkhorn, ROW_SQUARE, {1, 0, 0}, .m = {4, 1, 3, 8}, .in_place = true, .bench_n = 16},
    {"pooling", call_pool, true_pool, 1, {1, 1, 0}, .m = {8, 4, 1, 128}, .streams = {true, true}, .bench_n = 512},
    {"pooling, libm", call_pool, true_pool, 1, {1, 1, 0}, .m = {8, 4, 1, 128}, .streams = {true, true}, .param = 1,
     .bench_n = 512},
    {"experts chosen", call_experts, true_experts, 1, {1, 1, 0}, .m = {6, 1, 2, 8}, .param = 1, .out = ROW_OUT_IDS,
     .bench_n = 256},
    {"top-k", call_top_k, true_top_k, 1, {1, 1, 0}, .m = {1, 5, 64, 512}, .out = ROW_OUT_IDS, .counts = true,
     .bench_n = 262144},
};
const int n_row_ops = (int)COUNT_OF(row_ops);

/* ---------------------------------------------------------------- data */

static float any_bits(struct rng *r)
{
    return f32_from_bits((uint32_t)rng_u64(r));
}

static void fill(struct rng *r, int kind, float *x, size_t n)
{
    if (kind < N_DATA_KINDS)
        fill_activations(r, (enum data_kind)kind, x, (int)n);
    for (size_t i = 0; i < n && kind >= N_DATA_KINDS; i++)
        x[i] = any_bits(r);
    for (size_t i = 0; i < n && kind == DATA_NORMAL; i++) /* not only what bf16 holds */
        x[i] = (float)rng_normal(r);
}

static size_t out_bytes(const struct row_op *o, const struct row_case *c)
{
    size_t n = (size_t)c->n;
    switch (o->out) {
    case ROW_OUT_FP8: return n + (n + (size_t)c->m - 1) / (size_t)c->m;
    case ROW_OUT_FP4: return n / 2 + n / 32;
    case ROW_OUT_STREAMS: return n * (size_t)c->m * sizeof(float);
    case ROW_OUT_IDS: return (size_t)c->m * sizeof(int32_t);
    default: return n * sizeof(float);
    }
}

/* A cosine twice, -sine and sine, as rotate wants them. */
static void fill_angles(struct rng *r, struct row_case *c)
{
    for (int i = 0; i < c->n; i += 2) {
        double angle = (double)rng_below(r, 1000000);
        c->in[1][i] = c->in[1][i + 1] = (float)cos(angle);
        c->in[2][i + 1] = (float)sin(angle);
        c->in[2][i] = -c->in[2][i + 1];
    }
}

void row_case_open(struct row_case *c, const struct row_op *o, struct rng *r, int n, int m, int kind)
{
    *c = (struct row_case){.n = n, .m = m, .param = o->param, .round = o->round, .kind = kind};
    if (o->step == 0)
        for (c->n = 1; c->n < n;)
            c->n *= 2;
    else if (o->step == ROW_SQUARE)
        c->n = m * m;
    else
        c->n = (n + o->step - 1) / o->step * o->step;
    if (o->out == ROW_OUT_IDS)
        c->m = m < c->n ? m : c->n;
    for (int i = 0; i < 3; i++) {
        size_t floats = (size_t)o->floats[i] * (size_t)c->n * (o->streams[i] ? (size_t)c->m : 1);
        if (i == 2 && o->weights)
            floats = (size_t)(c->m + c->m * c->m);
        if (i == 2 && o->counts)
            floats = ROW_BINS;
        c->floats[i] = floats;
        c->in[i] = xcalloc(floats + 1, sizeof(float));
        fill(r, kind, c->in[i], floats);
    }
    if (o->call == call_rotate)
        fill_angles(r, c);
    for (int i = 0; o->step == ROW_SQUARE && kind < N_DATA_KINDS && i < c->n; i++) /* as a softmax leaves it */
        c->in[0][i] = fabsf(c->in[0][i]) / (fabsf(c->in[0][i]) + 1) + 1e-6f;
    c->out_bytes = out_bytes(o, c);
}

void row_case_close(struct row_case *c)
{
    for (int i = 0; i < 3; i++)
        free(c->in[i]);
}

/* ---------------------------------------------------------------- runs */

/* Runs the case on level k with every buffer flush against a guard page; the result goes to `result`. */
static bool run_guarded(const struct row_op *o, const struct row_case *c, const struct row_kern *k, enum guard_side side,
                        uint8_t *result)
{
    struct row_case call = *c;
    struct guarded in[3], out;
    for (int i = 0; i < 3; i++) {
        guard_open(&in[i], c->floats[i] * sizeof(float), side);
        memcpy(in[i].data, c->in[i], in[i].bytes);
        call.in[i] = (float *)(void *)in[i].data;
    }
    guard_open(&out, c->out_bytes, side);
    call.out = out.data;
    call.k = k;
    if (o->in_place)
        memcpy(out.data, c->in[0], c->out_bytes);
    bool ok = run_caught(o->call, &call);
    memcpy(result, out.data, c->out_bytes);
    for (int i = 0; i < 3; i++)
        guard_close(&in[i]);
    guard_close(&out);
    return ok;
}

static bool same_values(const struct row_op *o, const struct row_case *c, const uint8_t *a, const uint8_t *b)
{
    if (memcmp(a, b, c->out_bytes) == 0)
        return true;
    if (o->out != ROW_OUT_FLOATS && o->out != ROW_OUT_STREAMS)
        return false;
    const float *x = (const float *)(const void *)a, *y = (const float *)(const void *)b;
    for (size_t i = 0; i < c->out_bytes / sizeof(float); i++) /* one NaN is as good as another */
        if (f32_bits(x[i]) != f32_bits(y[i]) && (x[i] == x[i] || y[i] == y[i]))
            return false;
    return true;
}

static const char *fault_of(const struct row_op *o, const struct row_case *c, const struct row_kern *k)
{
    static uint8_t truth[1 << 18], result[1 << 18];
    if (!run_guarded(o, c, &row_kern_ref, GUARD_AFTER, truth))
        return "the reference crashed";
    if (c->kind < N_DATA_KINDS && !o->truth(c, truth))
        return "the reference is outside its error bound";
    for (int side = GUARD_AFTER; side <= GUARD_BEFORE; side++) {
        if (!run_guarded(o, c, k, (enum guard_side)side, result))
            return "crashed";
        if (!same_values(o, c, truth, result))
            return "other bits than the reference level";
    }
    return NULL;
}

static void check_op(const struct row_op *o, const struct row_kern *k, const char *level)
{
    static const int lengths[] = {1, 2, 3, 7, 8, 9, 15, 16, 17, 31, 32, 33, 63, 64, 65, 100, 127, 128, 129, 200, 448, 640};
    struct rng r = {check_seed};
    char text[160] = "", name[80];
    const char *why = NULL;
    for (size_t i = 0; why == NULL && i < COUNT_OF(lengths); i++)
        for (int kind = 0; why == NULL && kind <= N_DATA_KINDS; kind++) {
            struct row_case c;
            if (check_quick && (int)i % (N_DATA_KINDS + 1) != kind)
                continue;
            int m = o->m[(i + (size_t)kind) % 4];
            row_case_open(&c, o, &r, lengths[i], m != 0 ? m : o->m[0], kind);
            why = fault_of(o, &c, k);
            if (why != NULL)
                snprintf(text, sizeof text, "%d values, %d, %s data: %s", c.n, c.m,
                         kind < N_DATA_KINDS ? data_names[kind] : "any", why);
            row_case_close(&c);
        }
    snprintf(name, sizeof name, "row: %s", o->name);
    report(why == NULL, name, level, text);
}

void check_row_kernels(void)
{
    for (int l = 0; l < n_levels; l++)
        for (int i = 0; i < n_row_ops && (l == 0 || levels[l].row != levels[l - 1].row); i++)
            check_op(&row_ops[i], levels[l].row, levels[l].name);
}
