/* The rows of `hadal bench` as a table, CSV and JSON. */
#include <jansson.h>
#include <stdio.h>

#include "bin/bench.h"

static double rate(double work, const struct bench_row *r)
{
    return r->seconds > 0 ? work / r->seconds * 1e-9 : 0;
}

static double operations(const struct bench_row *r)
{
    return r->work.flops + r->work.index_flops + r->work.int8_flops;
}

void bench_print_table(const struct bench *b)
{
    printf("%s\n\n%-32s %12s %-9s %9s %7s %10s %9s %9s %11s\n", b->about, "", "", "", "roofline", "summed", "ms",
           "GB/s", "GFLOP/s", b->full[0] != '\0' ? "full depth" : "");
    for (int i = 0; i < b->n_rows; i++) {
        const struct bench_row *r = &b->rows[i];
        printf("%-32s %12.*f %-9s", r->name, r->value < 10 ? 3 : 1, r->value, r->unit);
        if (r->roofline >= 0)
            printf(" %8.2f  %7.2f %10.3f %9.1f %9.1f", r->roofline, r->roofline_sum, r->seconds * 1e3,
                   rate(r->work.bytes, r), rate(operations(r), r));
        if (r->projected > 0)
            printf(" %11.3g", r->projected);
        printf("\n");
    }
    printf("\nroofline: least time that the peaks allow for the bytes and operations, overlapped, over the time taken; "
           "summed: with\nthe indexer's arithmetic after the reading. Of each round by the peaks around it; medians. "
           "Contexts hold made-up KV state.\n");
    if (b->full[0] != '\0')
        printf("full depth: %s at the same fraction of its own summed roofline, all of it in memory.\n", b->full);
}

void bench_print_csv(const struct bench *b)
{
    printf("name,value,unit,roofline,roofline_sum,seconds,rounds,context,batch,chunk,bytes,flops,index_ops,int8_ops,"
           "gb_per_s,gflop_per_s,projected_full_depth\n");
    for (int i = 0; i < b->n_rows; i++) {
        const struct bench_row *r = &b->rows[i];
        printf("%s,%.6g,%s,", r->name, r->value, r->unit);
        if (r->roofline < 0) {
            printf(",,,,,,,,,,,,,\n");
            continue;
        }
        printf("%.4f,%.4f,%.6g,%d,%lld,%d,%d,%.0f,%.0f,%.0f,%.0f,%.4g,%.4g,", r->roofline, r->roofline_sum, r->seconds,
               r->rounds, (long long)r->context, r->batch, r->chunk, r->work.bytes, r->work.flops, r->work.index_flops,
               r->work.int8_flops, rate(r->work.bytes, r), rate(operations(r), r));
        if (r->projected > 0)
            printf("%.6g", r->projected);
        printf("\n");
    }
}

/* Every peak measured between the row's rounds, as it was. */
static json_t *peaks_json(const struct bench_row *r)
{
    json_t *read = json_array(), *flops = json_array(), *int8 = json_array();
    for (int i = 0; i <= r->rounds; i++) {
        json_array_append_new(read, json_real(r->peaks[i].read * 1e-9));
        json_array_append_new(flops, json_real(r->peaks[i].flops * 1e-9));
        json_array_append_new(int8, json_real(r->peaks[i].int8_ops * 1e-9));
    }
    return json_pack("{s:o, s:o, s:o}", "read_gb_per_s", read, "bf16_gflop_per_s", flops, "int8_gop_per_s", int8);
}

static json_t *row_json(const struct bench *b, const struct bench_row *r)
{
    json_t *o = json_pack("{s:s, s:f, s:s}", "name", r->name, "value", r->value, "unit", r->unit);
    if (r->roofline < 0) {
        json_object_set_new(o, "roofline", json_null());
        return o;
    }
    json_t *more = json_pack("{s:f, s:f, s:f, s:i, s:I, s:i, s:i}", "roofline", r->roofline, "roofline_sum",
                             r->roofline_sum, "seconds", r->seconds, "rounds", r->rounds, "context",
                             (json_int_t)r->context, "batch", r->batch, "chunk", r->chunk);
    json_object_update(o, more);
    json_decref(more);
    more = json_pack("{s:f, s:f, s:f, s:f, s:f, s:f}", "bytes", r->work.bytes, "flops", r->work.flops, "index_ops",
                     r->work.index_flops, "int8_ops", r->work.int8_flops, "gb_per_s", rate(r->work.bytes, r), "gflop_per_s",
                     rate(operations(r), r));
    json_object_update(o, more);
    json_decref(more);
    json_object_set_new(o, "peaks", peaks_json(r));
    if (r->projected > 0) {
        json_object_set_new(o, "projected_full_depth", json_real(r->projected));
        json_object_set_new(o, "projected_how",
                            json_sprintf("%s, at the same fraction of its own summed roofline", b->full));
    }
    return o;
}

void bench_print_json(const struct bench *b)
{
    json_t *rows = json_array();
    for (int i = 0; i < b->n_rows; i++)
        json_array_append_new(rows, row_json(b, &b->rows[i]));
    json_dumpf(rows, stdout, JSON_INDENT(1) | JSON_REAL_PRECISION(7));
    printf("\n");
    json_decref(rows);
}
