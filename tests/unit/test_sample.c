/* The sampler against published vectors of its generator, exact probabilities and a plain re-implementation of the
 * filters. Seeds are fixed, so a chi-square limit at p = 1e-6 is a yes or no, not a chance. */
#include "engine/engine.h"
#include "engine/philox.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

/* Known answers of Random123's kat_vectors for philox4x32, 10 rounds: counter, key, result. */
static void test_philox_vectors(void **state)
{
    (void)state;
    static const uint32_t kat[3][10] = {
        {0, 0, 0, 0, 0, 0, 0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8},
        {~0u, ~0u, ~0u, ~0u, ~0u, ~0u, 0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd},
        {0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344, 0xa4093822, 0x299f31d0, 0xd16cfe09, 0x94fdcceb, 0x5001e420,
         0x24126ea1},
    };
    for (size_t i = 0; i < COUNT_OF(kat); i++) {
        uint32_t out[4];
        philox4x32_10(kat[i], kat[i] + 4, out);
        assert_memory_equal(out, kat[i] + 6, sizeof out);
    }
}

static int32_t choose(const float *z, int n, const struct sampling *p, int64_t position)
{
    struct sampler *s;
    assert_int_equal(sampler_open(&s, n, NULL), HD_OK);
    int32_t id = sampler_choose(s, z, NULL, p, position);
    sampler_close(&s);
    return id;
}

/* ---------------------------------------------------------------- exact distribution */

struct ranked {
    int id;
    double p;
};

static int rank_cmp(const void *a, const void *b)
{
    const struct ranked *x = a, *y = b;
    return x->p != y->p ? (x->p < y->p ? 1 : -1) : x->id - y->id;
}

/* What the sampler promises, by sorting everything. prob is 0 for what a filter drops. */
static void exact_probabilities(const float *z, int n, const struct sampling *s, double *prob)
{
    struct ranked *r = xcalloc((size_t)n, sizeof *r);
    double max = -INFINITY, total = 0, sum = 0, kept = 0;
    for (int i = 0; i < n; i++)
        max = fmax(max, (double)z[i]);
    for (int i = 0; i < n; i++)
        r[i] = (struct ranked){i, exp(((double)z[i] - max) / s->temperature)};
    qsort(r, (size_t)n, sizeof *r, rank_cmp);
    int k = s->top_k > 0 && s->top_k < n ? s->top_k : n, n_kept = 0;
    for (int i = 0; i < k; i++)
        total += r[i].p;
    while (n_kept < k && r[n_kept].p >= s->min_p * r[0].p) {
        sum += r[n_kept++].p;
        if (s->top_p < 1 && sum >= s->top_p * total)
            break;
    }
    memset(prob, 0, (size_t)n * sizeof *prob);
    for (int i = 0; i < n_kept; i++)
        kept += r[i].p;
    for (int i = 0; i < n_kept; i++)
        prob[r[i].id] = r[i].p / kept;
    free(r);
}

/* Chi-square value with probability 1e-6 of being exceeded (Wilson and Hilferty's cube approximation). */
static double chi_square_limit(int df)
{
    double h = 2.0 / (9.0 * df), c = 1 - h + 4.753 * sqrt(h);
    return df * c * c * c;
}

static double chi_square(const int *count, const double *prob, int n, int n_draws, int *df)
{
    double x = 0, rest_expected = 0;
    int rest = 0;
    *df = -1;
    for (int i = 0; i < n; i++) {
        double expected = prob[i] * n_draws;
        if (expected < 10) { /* rare tokens share one cell */
            rest_expected += expected;
            rest += count[i];
            continue;
        }
        x += (count[i] - expected) * (count[i] - expected) / expected;
        (*df)++;
    }
    if (rest_expected >= 1) {
        x += (rest - rest_expected) * (rest - rest_expected) / rest_expected;
        (*df)++;
    }
    return x;
}

static void check_distribution(const float *z, int n, const struct sampling *p, int n_draws)
{
    double *prob = xcalloc((size_t)n, sizeof *prob);
    int *count = xcalloc((size_t)n, sizeof *count), df;
    struct sampler *s;
    exact_probabilities(z, n, p, prob);
    assert_int_equal(sampler_open(&s, n, NULL), HD_OK);
    for (int i = 0; i < n_draws; i++) {
        int32_t id = sampler_choose(s, z, NULL, p, i);
        assert_in_range(id, 0, n - 1);
        if (prob[id] == 0)
            fail_msg("drew token %d, which the filters drop (temperature %g top_p %g top_k %d min_p %g)", id,
                     p->temperature, p->top_p, p->top_k, p->min_p);
        count[id]++;
    }
    double x = chi_square(count, prob, n, n_draws, &df);
    if (df > 0 && x > chi_square_limit(df))
        fail_msg("chi-square %.1f over %.1f at %d degrees (temperature %g top_p %g top_k %d min_p %g)", x,
                 chi_square_limit(df), df, p->temperature, p->top_p, p->top_k, p->min_p);
    sampler_close(&s);
    free(prob);
    free(count);
}

static void random_logits(float *z, int n, uint64_t seed, double spread)
{
    struct rng r = {seed};
    for (int i = 0; i < n; i++)
        z[i] = (float)(spread * rng_normal(&r));
}

static void test_distribution(void **state)
{
    (void)state;
    static const struct sampling cases[] = {
        {1, 1, 0, 0, 1},       {0.5, 1, 0, 0, 2},    {2, 1, 0, 0, 3},         {1, 0.9, 0, 0, 4},
        {1, 0.5, 0, 0, 5},     {1, 1, 0.1, 0, 6},    {1, 1, 0, 10, 7},        {1, 0.8, 0, 20, 8},
        {0.7, 0.9, 0.05, 30, 9}, {1.5, 0.99, 0.01, 0, 10}, {1, 1, 0, 1, 11},  {1, 1e-9, 0, 0, 12},
        {1, 1, 1, 0, 13},      {100, 1, 0, 0, 14},   {0.01, 1, 0, 0, 0xffffffffffffffff},
    };
    float z[257];
    for (size_t i = 0; i < COUNT_OF(cases); i++) {
        random_logits(z, (int)COUNT_OF(z), 100 + i, 2);
        check_distribution(z, (int)COUNT_OF(z), &cases[i], 40000);
    }
    float two[2] = {0, -3}, one[1] = {-1e30f};
    struct sampling p = {1, 1, 0, 0, 99};
    check_distribution(two, 2, &p, 40000);
    check_distribution(one, 1, &p, 10);
}

/* Ties across a cut are resolved to the lower id; the filtered set of equal logits is exactly the first ones. */
static void test_ties(void **state)
{
    (void)state;
    float z[64] = {0};
    struct sampling topk = {1, 1, 0, 5, 1}, topp = {1, 0.25, 0, 0, 2}, greedy = {0, 1, 0, 0, 3};
    check_distribution(z, 64, &topk, 20000);
    check_distribution(z, 64, &topp, 20000);
    assert_int_equal(choose(z, 64, &greedy, 0), 0);
    z[7] = z[9] = 1;
    assert_int_equal(choose(z, 64, &greedy, 5), 7);
}

/* Draws at neighbouring positions, seeds and token ids do not depend on each other. */
static void test_independence(void **state)
{
    (void)state;
    enum { N = 4, DRAWS = 40000 };
    float z[N] = {0, 0.5f, 1, 0.2f};
    struct sampling p = {1, 1, 0, 0, 7}, q = p;
    q.seed = 8;
    double one[N], pairs[N * N];
    int next[N * N] = {0}, seeds[N * N] = {0}, df;
    exact_probabilities(z, N, &p, one);
    for (int i = 0; i < N * N; i++)
        pairs[i] = one[i / N] * one[i % N];
    for (int i = 0; i < DRAWS; i++) {
        int64_t position = 2 * i;
        next[choose(z, N, &p, position) * N + choose(z, N, &p, position + 1)]++;
        seeds[choose(z, N, &p, position) * N + choose(z, N, &q, position)]++;
    }
    assert_true(chi_square(next, pairs, N * N, DRAWS, &df) < chi_square_limit(df));
    assert_true(chi_square(seeds, pairs, N * N, DRAWS, &df) < chi_square_limit(df));
}

/* The draw is a function of (logits, seed, position): not of what was drawn before, nor of the vocabulary's tail. */
static void test_no_state(void **state)
{
    (void)state;
    float z[1000];
    random_logits(z, 1000, 3, 2);
    struct sampling p = {0.8, 0.95, 0, 0, 1234};
    struct sampler *s;
    int32_t first[200];
    assert_int_equal(sampler_open(&s, 1000, NULL), HD_OK);
    for (int i = 0; i < 200; i++)
        first[i] = sampler_choose(s, z, NULL, &p, i);
    for (int i = 199; i >= 0; i--)
        assert_int_equal(sampler_choose(s, z, NULL, &p, i), first[i]);
    sampler_close(&s);

    struct sampling open = {1, 1, 0, 0, 5};
    for (int i = 0; i < 1000; i += 3)
        z[i] = -INFINITY;
    for (int64_t i = 0; i < 200; i++)
        assert_int_equal(choose(z, 1000, &open, i), choose(z, 999, &open, i)); /* z[999] cannot win */
    int64_t far = (int64_t)1 << 40; /* positions above 32 bits count */
    int differ = 0;
    for (int64_t i = 0; i < 50; i++)
        differ += choose(z, 1000, &open, i) != choose(z, 1000, &open, i + far);
    assert_true(differ > 10);
}

/* A pinned stream: fails if noise, weights or tie rules ever change, because saved seeds would give other texts.
 * The values were computed apart from this code, as argmax of z - log(-log(1 - u)). */
static void test_pinned(void **state)
{
    (void)state;
    float z[16];
    for (int i = 0; i < 16; i++)
        z[i] = (float)(i % 5) * 0.5f;
    struct sampling p = {1, 1, 0, 0, 42};
    int32_t got[12], want[12] = {11, 4, 3, 12, 12, 8, 8, 2, 11, 14, 4, 3};
    for (int i = 0; i < 12; i++)
        got[i] = choose(z, 16, &p, i);
    for (int i = 0; i < 12; i++)
        if (got[i] != want[i])
            fail_msg("stream is %d %d %d %d %d %d %d %d %d %d %d %d", got[0], got[1], got[2], got[3], got[4], got[5],
                     got[6], got[7], got[8], got[9], got[10], got[11]);
}

static void test_bad_logits(void **state)
{
    (void)state;
    struct sampling p = {1, 1, 0, 0, 1}, f = {1, 0.9, 0.1, 3, 1}, g = {0, 1, 0, 0, 1};
    const struct sampling *all[] = {&p, &f, &g};
    for (int i = 0; i < 3; i++) {
        float none[3] = {NAN, -INFINITY, NAN}, some[4] = {NAN, -INFINITY, 2, NAN}, inf[4] = {1, NAN, INFINITY, INFINITY};
        float huge[3] = {-3e38f, 3e38f, 0};
        assert_int_equal(choose(none, 3, all[i], 0), -1);
        for (int64_t position = 0; position < 50; position++) {
            assert_int_equal(choose(some, 4, all[i], position), 2);
            assert_int_equal(choose(inf, 4, all[i], position), 2);
            assert_int_equal(choose(huge, 3, all[i], position), 1);
        }
    }
    struct sampling cold = {1e-300, 1, 0, 0, 1};
    float z[3] = {1, 1.0000001f, 0};
    assert_int_equal(choose(z, 3, &cold, 0), 1);
}

static void test_check(void **state)
{
    (void)state;
    static const struct {
        struct sampling s;
        const char *field;
    } bad[] = {
        {{-1, 1, 0, 0, 0}, "temperature"}, {{NAN, 1, 0, 0, 0}, "temperature"}, {{1, 0, 0, 0, 0}, "top_p"},
        {{1, 1.5, 0, 0, 0}, "top_p"},      {{1, NAN, 0, 0, 0}, "top_p"},       {{1, 1, -0.1, 0, 0}, "min_p"},
        {{1, 1, 2, 0, 0}, "min_p"},        {{1, 1, 0, -1, 0}, "top_k"},
    };
    for (size_t i = 0; i < COUNT_OF(bad); i++) {
        struct err e = {0};
        assert_int_equal(sampling_check(&bad[i].s, &e), HD_EARG);
        assert_non_null(strstr(e.msg, bad[i].field));
    }
    struct sampling s;
    sampling_init(&s);
    assert_int_equal(sampling_check(&s, NULL), HD_OK);
}

static void test_logprobs(void **state)
{
    (void)state;
    float z[6] = {1, 3, 2, 3, -INFINITY, NAN};
    double sum = exp(1) + 2 * exp(3) + exp(2);
    struct token_logprob top[6];
    float lp = logprobs_of(z, 6, 2, top, 4);
    assert_true(fabs((double)lp - (2 - log(sum))) < 1e-6);
    static const int32_t order[4] = {1, 3, 2, 0};
    for (int i = 0; i < 4; i++) {
        assert_int_equal(top[i].id, order[i]);
        assert_true(fabs((double)top[i].logprob - ((double)z[order[i]] - log(sum))) < 1e-6);
    }
    assert_true(logprobs_of(z, 6, 4, top, 6) == -9999.0f);
    assert_true(logprobs_of(z, 6, 5, NULL, 0) == -9999.0f);
    assert_true(top[5].logprob == -9999.0f);
    float inf[2] = {INFINITY, 0}, none[2] = {NAN, -INFINITY};
    assert_true(logprobs_of(inf, 2, 0, top, 2) == 0 && top[0].id == 0 && top[1].logprob == -9999.0f);
    assert_true(logprobs_of(none, 2, 0, top, 2) == -9999.0f);
}

/* ---------------------------------------------------------------- stop strings */

/* Feeds text in pieces of `step` bytes; what is shown until the stop, and whether it came. */
static bool filter_text(const char *text, size_t step, char *const *stops, int n, struct buf *shown)
{
    struct stop_filter f;
    bool hit = false;
    stop_filter_init(&f, stops, n);
    for (size_t i = 0, len = strlen(text); i < len && !hit; i += step)
        hit = stop_filter_add(&f, text + i, len - i < step ? len - i : step, shown);
    stop_filter_flush(&f, shown);
    stop_filter_free(&f);
    return hit;
}

static void test_stop_strings(void **state)
{
    (void)state;
    static const struct {
        const char *text, *stops[4], *shown;
        bool hit;
    } cases[] = {
        {"one two three", {"two"}, "one ", true},
        {"one two three", {"four"}, "one two three", false},
        {"aaab", {"aab"}, "a", true},
        {"abababac", {"ababac"}, "ab", true},
        {"the end", {"d"}, "the en", true},
        {"the en", {"end"}, "the en", false},       /* held back, then shown */
        {"xSTOPy", {"STOPPED", "TOP"}, "xS", true}, /* complete beats a longer partial match */
        {"xabc", {"c", "abc", "bc"}, "x", true},    /* same end: the earliest start */
        {"STOP", {"STOP"}, "", true},
        {"", {"a"}, "", false},
        {"caf\xc3\xa9 noir", {"\xc3\xa9"}, "caf", true},
        {"no rules", {NULL}, "no rules", false},
    };
    for (size_t i = 0; i < COUNT_OF(cases); i++) {
        char *stops[4];
        int n = 0;
        for (; n < 4 && cases[i].stops[n] != NULL; n++)
            stops[n] = xstrdup(cases[i].stops[n]);
        for (size_t step = 1; step < 16; step++) {
            struct buf shown = {0};
            assert_int_equal(filter_text(cases[i].text, step, stops, n, &shown), cases[i].hit);
            assert_string_equal(shown.data == NULL ? "" : shown.data, cases[i].shown);
            buf_free(&shown);
        }
        for (int j = 0; j < n; j++)
            free(stops[j]);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_philox_vectors), cmocka_unit_test(test_distribution), cmocka_unit_test(test_ties),
        cmocka_unit_test(test_independence),   cmocka_unit_test(test_no_state),     cmocka_unit_test(test_pinned),
        cmocka_unit_test(test_bad_logits),     cmocka_unit_test(test_check),        cmocka_unit_test(test_logprobs),
        cmocka_unit_test(test_stop_strings),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
