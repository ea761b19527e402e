/* Cache hits on the embedded model: a request that goes on from cached pages gives the bits of a fresh one, at every kind
 * of boundary, alone and in company, in all numerics. */
#include "engine/engine.h"
#include "reply_bits.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

enum { N_COMPANY = 3, T_MAX = 2100 };

static const int lengths[] = {129, 257, 512, 127, 128, 130, 255, 256, 511, 513, 2047, 2048, 2049, 2050, 2051, 2052, 2053};

static int32_t text[T_MAX];

static struct engine *open_engine(enum numerics n, bool cache)
{
    struct engine_options o;
    struct engine *e;
    struct err err = {0};
    engine_options_init(&o);
    o.model.numerics = n;
    o.no_cache = !cache;
    o.n_keep = -1;
    if (engine_open(&e, "models/tiny", &o, NULL, &err) != HD_OK)
        fail_msg("%s", err.msg);
    return e;
}

/* The first n tokens of the text, then `more` others that depend on the seed. */
static struct job *submit(struct engine *e, int n, int more, uint64_t seed, int max_tokens)
{
    struct gen_request r = {.params = {.max_tokens = max_tokens, .raw = true, .logprobs = true,
                                       .n_top_logprobs = REPLY_BITS_TOP}};
    struct rng rng = {seed};
    struct job *j;
    struct err err = {0};
    sampling_init(&r.params.sampling);
    r.params.sampling.seed = 7;
    for (int i = 0; i < n; i++)
        ids_add(&r.prompt, text[i]);
    for (int i = 0; i < more; i++)
        ids_add(&r.prompt, 300 + (int32_t)rng_below(&rng, 3000));
    if (engine_submit(e, &r, NULL, NULL, &j, &err) != HD_OK)
        fail_msg("%s", err.msg);
    return j;
}

/* The sanitizers look for bad memory, not for wrong numbers, and make this slow: fewer lengths for them. */
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
static const size_t n_slow = 3;
#else
static const size_t n_slow = COUNT_OF(lengths);
#endif

static void check_numerics(enum numerics n, size_t n_lengths)
{
    struct engine *fresh = open_engine(n, false), *cached = open_engine(n, true);
    for (size_t i = 0; i < n_lengths; i++) {
        struct reply_bits want, got, ignored;
        int64_t whole_pages = (lengths[i] - 1) / KV_PAGE_TOKENS * KV_PAGE_TOKENS;
        struct job *j = submit(fresh, lengths[i], 0, 0, REPLY_BITS_TOKENS), *company[N_COMPANY];
        reply_bits_take(j, &want);
        assert_int_equal(want.reused, 0);
        j = submit(cached, lengths[i], 40, (uint64_t)lengths[i], 1);
        reply_bits_take(j, &ignored);
        for (int k = 0; k < N_COMPANY; k++) /* decodes and prompts beside it */
            company[k] = submit(cached, 30 * k, 50, 1000 + (uint64_t)k, 20);
        j = submit(cached, lengths[i], 0, 0, REPLY_BITS_TOKENS);
        reply_bits_take(j, &got);
        for (int k = 0; k < N_COMPANY; k++)
            reply_bits_take(company[k], &ignored);
        assert_int_equal(got.reused, whole_pages);
        got.reused = 0;
        if (memcmp(&want, &got, sizeof want) != 0)
            fail_msg("%s: a prompt of %d tokens after %lld from the cache differs", numerics_name(n), lengths[i],
                     (long long)whole_pages);
    }
    engine_close(&fresh);
    engine_close(&cached);
}

static void test_fast(void **state)
{
    (void)state;
    check_numerics(NUM_FAST, COUNT_OF(lengths));
}

static void test_int8(void **state)
{
    (void)state;
    check_numerics(NUM_INT8, COUNT_OF(lengths));
}

static void test_reference(void **state)
{
    (void)state;
    check_numerics(NUM_REFERENCE, n_slow);
}

static void test_exact(void **state)
{
    (void)state;
    check_numerics(NUM_EXACT, n_slow);
}

int main(void)
{
    struct rng rng = {3};
    for (int i = 0; i < T_MAX; i++)
        text[i] = 300 + (int32_t)rng_below(&rng, 3000);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_fast),
        cmocka_unit_test(test_int8),
        cmocka_unit_test(test_reference),
        cmocka_unit_test(test_exact),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
