/* Single operations of the CPU back end: known vectors, ties, extremes. Whole layers are the golden suite's business. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "golden_data.h"
#include "model/model_impl.h"
#include "num/num.h"
#include "ops/ops.h"

static struct dev *open_dev(enum numerics n)
{
    struct dev *d;
    struct err e = {0};
    struct dev_options o = {.numerics = n, .n_threads = 2, .isa = cpu_isa_best()};
    assert_int_equal(dev_open_cpu(&d, &o, &e), HD_OK);
    return d;
}

static void assert_close(float got, double want, double tolerance)
{
    if (!(fabs(got - want) <= tolerance))
        fail_msg("%.9g is not %.9g within %.1e", got, want, tolerance);
}

/* ---------------------------------------------------------------- hyper-connections */

/* The mixing vector of docs/NUMERICS.md: with one-dimensional streams of value 1 the mix m is fn's first column (the norm
 * factor is 1 to 5e-7). */
static void test_hc_mix_vector(void **st)
{
    (void)st;
    static const float m[24] = {.3f, -.7f, 1.1f, 0, -.2f, .8f, .5f, -1.5f, .9f, -.4f, .1f, .3f,
                                -1.2f, .5f, .7f, -.2f, .05f, 1.1f, -.6f, .8f, .2f, -.9f, 1.3f, -.1f};
    static const float scale[3] = {.5f, 1, 2}, first[8] = {.1f, -.1f, .2f, -.2f, 0, .3f, -.3f, .1f};
    static const double pre[4] = {.562177501, .389361766, .679179699, .450167003};
    static const double post_want[4] = {.900332005, 1.500520211, 1.099667995, .395632223};
    static const double comb_want[16] = {.780796807, .018877454, .039756268, .160569264, .01261844,  .551511641,
                                         .301113073, .134755402, .074554063, .419528064, .022965095, .482951518,
                                         .132029689, .010081841, .636164563, .221722816};
    float base[24], fn[24 * 4] = {0}, x[4] = {1, 1, 1, 1}, y, post[4], comb[16];
    for (int i = 0; i < 24; i++) {
        base[i] = i < 8 ? first[i] : (i - 8) % 5 == 0 ? .5f : -.25f;
        fn[i * 4] = m[i];
    }
    struct dev *d = open_dev(NUM_EXACT);
    d->ops->hc_pre(d, &(struct op_hc_pre){.n = 1, .streams = 4, .dim = 1, .sinkhorn_iters = 20, .eps = 1e-6f,
                                          .hc_eps = 1e-6f, .x = x, .fn = fn, .base = base, .scale = scale, .y = &y,
                                          .post = post, .comb = comb});
    assert_close(y, pre[0] + pre[1] + pre[2] + pre[3], 3e-6);
    for (int i = 0; i < 4; i++)
        assert_close(post[i], post_want[i], 2e-6);
    for (int i = 0; i < 16; i++)
        assert_close(comb[i], comb_want[i], 3e-6);
    d->ops->close(&d);
}

static void test_hc_extremes_stay_finite(void **st)
{
    (void)st;
    static const float values[] = {0, 1e30f, -1e30f, 1e-38f, 3e4f};
    struct dev *d = open_dev(NUM_EXACT);
    for (size_t k = 0; k < COUNT_OF(values); k++) {
        float base[24] = {0}, fn[24 * 4] = {0}, scale[3] = {1, 1, 1}, x[4] = {1, -1, 1, -1}, y, post[4], comb[16];
        for (int i = 0; i < 24; i++)
            base[i] = i % 3 == 0 ? values[k] : -values[k];
        d->ops->hc_pre(d, &(struct op_hc_pre){.n = 1, .streams = 4, .dim = 1, .sinkhorn_iters = 20, .eps = 1e-6f,
                                              .hc_eps = 1e-6f, .x = x, .fn = fn, .base = base, .scale = scale,
                                              .y = &y, .post = post, .comb = comb});
        assert_true(isfinite(y));
        for (int i = 0; i < 16; i++)
            assert_true(isfinite(comb[i]) && (i >= 4 || isfinite(post[i])));
    }
    d->ops->close(&d);
}

/* ---------------------------------------------------------------- rotary tables */

static void test_rope_frequencies(void **st)
{
    (void)st;
    static const uint32_t plain[32] = {
        0x3f800000, 0x3f3ff911, 0x3f0ff59a, 0x3ed7e89b, 0x3ea1e89b, 0x3e72d423, 0x3e361887, 0x3e088d77,
        0x3dcccccd, 0x3d99940d, 0x3d6655c2, 0x3d2cba15, 0x3d0186e3, 0x3cc2434f, 0x3c91ad39, 0x3c5a7bf2,
        0x3c23d70a, 0x3bf5b9b0, 0x3bb8449c, 0x3b8a2e77, 0x3b4f3e38, 0x3b1b690d, 0x3ae91528, 0x3aaec98e,
        0x3a83126f, 0x3a44948c, 0x3a136a16, 0x39dd1725, 0x39a5cb60, 0x3978a815, 0x393a7753, 0x390bd472};
    static const uint32_t yarn[32] = {
        0x3f800000, 0x3f300a3a, 0x3ef21c1f, 0x3ea67d01, 0x3e64f92e, 0x3e1d7475, 0x3dd88cb4, 0x3d94e963,
        0x3d4ccccd, 0x3d0cd4fb, 0x3cc1b019, 0x3c8530ce, 0x3c372dbf, 0x3bfbed88, 0x3bad3d5e, 0x3b6e4237,
        0x3b147ae1, 0x3ab714e0, 0x3a5ebdb6, 0x3a0530ce, 0x399bb3af, 0x39305978, 0x38be904d, 0x383e9b5f,
        0x37a3d70c, 0x36b443d0, 0x3677eba6, 0x362a7be8, 0x35ea77ff, 0x35a13bdc, 0x355dbf30, 0x35187c4d};
    struct model_options o;
    struct err e = {0};
    struct model *m;
    model_options_init(&o);
    assert_int_equal(model_open(&m, golden_dir("q-tiny"), &o, NULL, &e), HD_OK);
    for (int i = 0; i < 32; i++) {
        assert_true(abs((int)(f32_bits(m->freq_main[i]) - plain[i])) <= 1);
        assert_true(abs((int)(f32_bits(m->freq_compressed[i]) - yarn[i])) <= 2);
    }
    model_close(&m);
}

/* At 1,048,575 the angle is the fp32 product, then an accurate sine: against long double arithmetic on that product. */
static void test_rope_at_the_last_position(void **st)
{
    (void)st;
    struct dev *d = open_dev(NUM_EXACT);
    for (int i = 0; i < 32; i++) {
        float freq = (float)pow(10000, -2.0 * i / 64), x[2] = {.75f, -.5f};
        int32_t pos = 1048575;
        double a = (double)((float)pos * freq);
        d->ops->rope(d, &(struct op_rope){.n = 1, .heads = 1, .dim = 2, .rope_dim = 2, .pos = &pos, .freq = &freq,
                                          .x = x});
        assert_close(x[0], .75 * cos(a) + .5 * sin(a), 2e-7);
        assert_close(x[1], .75 * sin(a) - .5 * cos(a), 2e-7);
        d->ops->rope(d, &(struct op_rope){.n = 1, .heads = 1, .dim = 2, .rope_dim = 2, .inverse = true, .pos = &pos,
                                          .freq = &freq, .x = x});
        assert_close(x[0], .75, 3e-7);
        assert_close(x[1], -.5, 3e-7);
    }
    d->ops->close(&d);
}

/* ---------------------------------------------------------------- router */

enum { E = 8, K = 3 };

static void route(struct dev *d, const float *z, const float *bias, const int64_t *table, int32_t token, int32_t *ids,
                  float *w)
{
    d->ops->route(d, &(struct op_route){.n = 1, .experts = E, .k = K, .scale = 1.5f, .z = z, .bias = bias,
                                        .tid2eid = table, .tokens = &token, .ids = ids, .weights = w});
}

static void test_route_bias_selects_only(void **st)
{
    (void)st;
    struct dev *d = open_dev(NUM_EXACT);
    float z[E] = {2, 1, 0, -1, 3, -2, .5f, .25f}, bias[E] = {0, 0, 0, 5, 0, 0, 0, 0}, w[K];
    int32_t ids[K];
    route(d, z, bias, NULL, 0, ids, w);
    assert_int_equal(ids[0], 0); /* by score + bias: 3, 4, 0 */
    assert_int_equal(ids[1], 3);
    assert_int_equal(ids[2], 4);
    double s0 = sqrt(log1p(exp(2))), s3 = sqrt(log1p(exp(-1))), s4 = sqrt(log1p(exp(3))), sum = s0 + s3 + s4;
    assert_close(w[0], s0 / sum * 1.5, 1e-6);
    assert_close(w[1], s3 / sum * 1.5, 1e-6);
    assert_close(w[2], s4 / sum * 1.5, 1e-6);
    d->ops->close(&d);
}

static void test_route_ties_and_hash(void **st)
{
    (void)st;
    struct dev *d = open_dev(NUM_EXACT);
    float z[E] = {1, 1, 1, 1, 1, 1, 1, 1}, bias[E] = {0}, w[K];
    int64_t table[2 * K] = {0, 1, 2, 7, 2, 5};
    int32_t ids[K];
    route(d, z, bias, NULL, 0, ids, w);
    for (int i = 0; i < K; i++)
        assert_int_equal(ids[i], i);
    route(d, z, NULL, table, 1, ids, w);
    assert_int_equal(ids[0], 2);
    assert_int_equal(ids[1], 5);
    assert_int_equal(ids[2], 7);
    d->ops->close(&d);
}

static void test_route_extremes(void **st)
{
    (void)st;
    struct dev *d = open_dev(NUM_EXACT);
    float low[E], high[E], bias[E] = {0}, w[K];
    int32_t ids[K];
    for (int i = 0; i < E; i++) {
        low[i] = -1e30f;
        high[i] = 1e30f;
    }
    route(d, low, bias, NULL, 0, ids, w);
    for (int i = 0; i < K; i++)
        assert_close(w[i], .5, 1e-6);
    route(d, high, bias, NULL, 0, ids, w);
    for (int i = 0; i < K; i++)
        assert_close(w[i], .5, 1e-6);
    d->ops->close(&d);
}

/* ---------------------------------------------------------------- indexer */

enum { N_KEYS = 96, ID = 32, TOPK = 5 };

struct keys {
    struct kv_dims dims;
    uint8_t *page[3];
    struct op_seq seq;
};

static void keys_open(struct keys *k, enum kv_row_format f, const float *values /* [N_KEYS][ID] */)
{
    k->dims = kv_dims_of(f, 128, 64, ID);
    for (int p = 0; p < 3; p++)
        k->page[p] = xcalloc(32, k->dims.index_bytes);
    for (int g = 0; g < N_KEYS; g++)
        kv_index_put(&k->dims, values + g * ID, k->page[g / 32] + (size_t)(g % 32) * k->dims.index_bytes);
    k->seq = (struct op_seq){.first_row = 0, .n_rows = 1, .pos0 = 4 * N_KEYS - 1, .kv = {.pages = k->page}};
}

static void keys_close(struct keys *k)
{
    for (int p = 0; p < 3; p++)
        free(k->page[p]);
}

static void select_keys(struct dev *d, const struct keys *k, const float *q, const float *w, int heads, int32_t *ids)
{
    d->ops->index_select(d, &(struct op_index_select){.n_seqs = 1, .heads = heads, .dim = ID, .topk = TOPK,
                                                      .seqs = &k->seq, .dims = k->dims, .q = q, .weights = w,
                                                      .weight_scale = 1, .ids = ids});
}

static void test_topk_ties_go_to_the_lower_entry(void **st)
{
    (void)st;
    struct dev *d = open_dev(NUM_EXACT);
    float *values = xcalloc(N_KEYS * ID, sizeof *values), q[ID] = {1}, w[1] = {1};
    int32_t ids[TOPK];
    for (int g = 0; g < N_KEYS; g++) /* most scores are 0 after the relu; three equal ones, one above them */
        values[g * ID] = g == 70 ? 2.f : g == 20 || g == 33 || g == 90 ? 1.f : g % 2 ? -1.f : 0;
    struct keys k;
    keys_open(&k, KV_F32, values);
    select_keys(d, &k, q, w, 1, ids);
    static const int32_t want[TOPK] = {0, 20, 33, 70, 90};
    assert_memory_equal(ids, want, sizeof want);
    w[0] = -1; /* negative head weights: now the largest are the zeros, lowest numbers first */
    select_keys(d, &k, q, w, 1, ids);
    for (int i = 0; i < TOPK; i++)
        assert_int_equal(ids[i], i);
    keys_close(&k);
    free(values);
    d->ops->close(&d);
}

/* Random scores against a plain sort. */
static void test_topk_against_sort(void **st)
{
    (void)st;
    struct dev *d = open_dev(NUM_FAST);
    enum { HEADS = 8 };
    float *values = xcalloc(N_KEYS * ID, sizeof *values), q[HEADS * ID], w[HEADS];
    struct rng r = {11};
    for (int round = 0; round < 50; round++) {
        for (int i = 0; i < N_KEYS * ID; i++)
            values[i] = e2m1_table[rng_below(&r, 16)] * (float)(1 << rng_below(&r, 3));
        for (int i = 0; i < HEADS * ID; i++)
            q[i] = e2m1_table[rng_below(&r, 16)];
        for (int h = 0; h < HEADS; h++)
            w[h] = bf16_round((float)rng_normal(&r));
        struct keys k;
        keys_open(&k, KV_FP8, values);
        int32_t ids[TOPK], n_better;
        select_keys(d, &k, q, w, HEADS, ids);
        double score[N_KEYS];
        for (int g = 0; g < N_KEYS; g++) {
            float key[ID];
            kv_index_get(&k.dims, k.page[g / 32] + (size_t)(g % 32) * k.dims.index_bytes, key);
            score[g] = 0;
            for (int h = 0; h < HEADS; h++) {
                double dot = 0;
                for (int i = 0; i < ID; i++)
                    dot += (double)q[h * ID + i] * key[i];
                score[g] += (dot > 0 ? dot : 0) * w[h];
            }
        }
        for (int i = 0; i < TOPK; i++) { /* fewer than TOPK entries are clearly better than any chosen one */
            n_better = 0;
            for (int g = 0; g < N_KEYS; g++)
                n_better += score[g] > score[ids[i]] + 1e-4;
            assert_true(n_better < TOPK);
        }
        keys_close(&k);
    }
    free(values);
    d->ops->close(&d);
}

/* ---------------------------------------------------------------- attention */

static void attend(struct dev *d, const float *q, const float *kv, int n, float sink, float *o)
{
    uint8_t ring[136 * 128 * 4];
    struct op_seq s = {.first_row = 0, .n_rows = n, .pos0 = 0, .kv = {.ring = ring, .ring_rows = 136}};
    d->ops->attn(d, &(struct op_attn){.n_seqs = 1, .heads = 1, .window = 128, .seqs = &s,
                                      .dims = kv_dims_of(KV_F32, 4, 2, 32), .scale = .5f, .q = q, .kv = kv,
                                      .sink = &sink, .o = o});
}

/* Two rows against the definition: exp(s - M) / (sum exp(s - M) + exp(sink - M)). */
static void test_attention_sink(void **st)
{
    (void)st;
    struct dev *d = open_dev(NUM_EXACT);
    float q[8] = {1, 2, 0, -1, 1, 2, 0, -1}, kv[8] = {1, 0, 2, 1, -1, 1, 0, 3}, o[8];
    static const float sinks[] = {0, 1, -1e4f, 1e4f};
    for (size_t i = 0; i < COUNT_OF(sinks); i++) {
        attend(d, q, kv, 2, sinks[i], o);
        double s0 = .5 * (1 - 1), s1 = .5 * (-1 + 2 - 3), m = fmax(fmax(s0, s1), sinks[i]);
        double a = exp(s0 - m), b = exp(s1 - m), den = a + b + exp(sinks[i] - m);
        for (int k = 0; k < 4; k++)
            assert_close(o[4 + k], (a * kv[k] + b * kv[4 + k]) / den, 2e-6);
    }
    d->ops->close(&d);
}

static void test_attention_large_scores(void **st)
{
    (void)st;
    struct dev *d = open_dev(NUM_REFERENCE);
    float q[8] = {1e15f, 0, 0, 0, -1e15f, 0, 0, 0}, kv[8] = {1e15f, 1, 0, 0, -1e15f, 1, 0, 0}, o[8];
    attend(d, q, kv, 2, 0, o);
    for (int k = 0; k < 8; k++)
        assert_true(isfinite(o[k]));
    assert_close(o[5], 1, 1e-3);
    d->ops->close(&d);
}

/* The tiles of the fast numerics against the plain path: 7 heads are one tile and three heads by themselves, 150 rows
 * reach over the window; every level. The fast result is rounded to bf16, hence half a unit of 2^-8 and the sums' noise. */
static void test_attention_tiles(void **st)
{
    (void)st;
    enum { HEADS = 7, HD = 96, ROWS = 150 };
    size_t n = (size_t)ROWS * HEADS * HD;
    float *q = xcalloc(n, sizeof *q), *want = xcalloc(n, sizeof *want), *got = xcalloc(n, sizeof *got);
    float *kv = xcalloc((size_t)ROWS * HD, sizeof *kv), sink[HEADS];
    uint8_t *ring = xcalloc(136, HD * 4);
    struct rng r = {21};
    for (size_t i = 0; i < n; i++)
        q[i] = (float)(rng_normal(&r) * (i % 37 == 0 ? 8 : 1));
    for (size_t i = 0; i < (size_t)ROWS * HD; i++)
        kv[i] = (float)rng_normal(&r);
    for (int h = 0; h < HEADS; h++)
        sink[h] = (float)rng_normal(&r);
    struct op_seq s = {.n_rows = ROWS, .kv = {.ring = ring, .ring_rows = 136}};
    struct op_attn o = {.n_seqs = 1, .heads = HEADS, .window = 128, .seqs = &s, .dims = kv_dims_of(KV_F32, HD, 32, 32),
                        .scale = 0.1f, .q = q, .kv = kv, .sink = sink, .o = want};
    struct dev *exact = open_dev(NUM_EXACT);
    exact->ops->attn(exact, &o);
    exact->ops->close(&exact);
    for (int isa = ISA_REF; isa < ISA_COUNT; isa++) {
        struct err e = {0};
        enum cpu_isa level;
        struct dev *fast;
        if (cpu_isa_parse(cpu_isa_name((enum cpu_isa)isa), &level, &e) != HD_OK)
            continue; /* this machine has no such level */
        struct dev_options opt = {.numerics = NUM_FAST, .n_threads = 2, .isa = level};
        assert_int_equal(dev_open_cpu(&fast, &opt, &e), HD_OK);
        o.o = got;
        fast->ops->attn(fast, &o);
        for (size_t i = 0; i < n; i++)
            assert_close(got[i], want[i], fabs(want[i]) * 0x1p-8 + 4e-6);
        fast->ops->close(&fast);
    }
    free(q);
    free(want);
    free(got);
    free(kv);
    free(ring);
}

/* ---------------------------------------------------------------- rows in storage */

/* What went through the FP8 simulation comes back from the 584-byte form bit for bit, FP4 index rows likewise. */
static void test_rows_are_lossless(void **st)
{
    (void)st;
    struct kv_dims d = kv_dims_of(KV_FP8, 512, 64, 128);
    assert_int_equal(d.row_bytes, 584);
    assert_int_equal(d.index_bytes, 68);
    struct rng r = {3};
    for (int round = 0; round < 300; round++) {
        float row[512], back[512], key[128], key_back[128];
        uint8_t stored[584];
        for (int i = 0; i < 512; i++)
            row[i] = bf16_round((float)(rng_normal(&r) * exp(4 * rng_normal(&r))));
        for (int b = 0; b < 448; b += 64)
            act_quant_sim(row + b, 64);
        kv_row_put(&d, row, stored);
        kv_row_get(&d, stored, back);
        assert_memory_equal(row, back, sizeof row);
        for (int i = 0; i < 128; i++)
            key[i] = bf16_round((float)(rng_normal(&r) * exp(3 * rng_normal(&r))));
        for (int b = 0; b < 128; b += 32)
            fp4_quant_sim(key + b, 32);
        kv_index_put(&d, key, stored);
        kv_index_get(&d, stored, key_back);
        for (int i = 0; i < 128; i++)
            assert_true(key[i] == key_back[i]);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_hc_mix_vector),
        cmocka_unit_test(test_hc_extremes_stay_finite),
        cmocka_unit_test(test_rope_frequencies),
        cmocka_unit_test(test_rope_at_the_last_position),
        cmocka_unit_test(test_route_bias_selects_only),
        cmocka_unit_test(test_route_ties_and_hash),
        cmocka_unit_test(test_route_extremes),
        cmocka_unit_test(test_topk_ties_go_to_the_lower_entry),
        cmocka_unit_test(test_topk_against_sort),
        cmocka_unit_test(test_attention_sink),
        cmocka_unit_test(test_attention_large_scores),
        cmocka_unit_test(test_attention_tiles),
        cmocka_unit_test(test_rows_are_lossless),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
