/* Speed of the row kernels: bytes in and out over thread CPU time, medians over rounds in which the read peak, the level
 * and the reference alternate. The rows of one operation fit the first caches, as they do in a step. */
#include "check_row.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "ops/cpu/fast_peak.h"

enum { ROUNDS = 5, READ_BYTES = 64 << 20 };

static double seconds_of(const struct row_op *o, struct row_case *c, const struct row_kern *k, int times)
{
    c->k = k;
    if (o->in_place)
        memcpy(c->out, c->in[0], c->out_bytes);
    double t = bench_seconds();
    for (int i = 0; i < times; i++)
        o->call(c);
    return (bench_seconds() - t) / times;
}

static void bench_op(const struct row_op *o, const struct level *l, const uint8_t *mem)
{
    struct rng r = {1};
    struct row_case c;
    row_case_open(&c, o, &r, o->bench_n, o->bench_n > 65536 ? 512 : o->m[0], DATA_NORMAL);
    c.out = xcalloc(c.out_bytes, 1);
    size_t bytes = c.out_bytes;
    for (int i = 0; i < 3; i++)
        bytes += c.floats[i] * sizeof(float);
    double t[ROUNDS], ref[ROUNDS], read[ROUNDS];
    int times = (int)(1 + 2e-3 / seconds_of(o, &c, &row_kern_ref, 3));
    for (int i = 0; i < ROUNDS; i++) {
        read[i] = fast_peak_read(l->isa, mem, READ_BYTES) * 1e-9;
        t[i] = seconds_of(o, &c, l->row, times);
        ref[i] = seconds_of(o, &c, &row_kern_ref, times);
    }
    double time = bench_median(t, ROUNDS), slow = bench_median(ref, ROUNDS), peak = bench_median(read, ROUNDS);
    double rate = (double)bytes / time * 1e-9;
    printf("%-10s %-24s values %6d  %7.2f GB/s (%.2f of read %5.1f)  %9.3f us  %5.1f x reference\n", l->row->name, o->name,
           c.n, rate, rate / peak, peak, time * 1e6, slow / time);
    fflush(stdout);
    free(c.out);
    row_case_close(&c);
}

void bench_rows(void)
{
    uint8_t *mem = aligned_alloc((size_t)2 << 20, READ_BYTES);
    if (mem == NULL) {
        perror("check: bench memory");
        exit(1);
    }
    memset(mem, 1, READ_BYTES);
    for (int l = 1; l < n_levels; l++)
        for (int i = 0; i < n_row_ops && levels[l].row != levels[l - 1].row; i++)
            bench_op(&row_ops[i], &levels[l], mem);
    free(mem);
}
