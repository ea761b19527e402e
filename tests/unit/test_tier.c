/* The disk tier under an engine: after a restart, in order or by kill -9, replies are what they would be without any cache,
 * bit for bit, and most of their prompts come from the disk. */
#include "engine/engine.h"
#include "engine/job.h"
#include "fake_device.h"
#include "reply_bits.h"
#include "scratch.h"

#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

enum { T_MAX = 2100, N_TEXTS = 12 };

static const int lengths[] = {129, 257, 512, 127, 128, 130, 255, 256, 511, 513, 2090};
static int32_t text[T_MAX];
static struct tokenizer *tokenizer;
/* ---------------------------------------------------------------- requests */

static struct job *submit(struct engine *e, const char *user, const int32_t *tokens, int n, uint64_t more_seed,
                          int max_tokens)
{
    struct gen_request r = {.params = {.max_tokens = max_tokens, .raw = true, .logprobs = true,
                                       .n_top_logprobs = REPLY_BITS_TOP}};
    struct rng rng = {more_seed};
    struct job *j;
    struct err err = {0};
    r.user = xstrdup(user);
    sampling_init(&r.params.sampling);
    r.params.sampling.temperature = 0;
    for (int i = 0; i < n; i++)
        ids_add(&r.prompt, tokens[i]);
    for (int i = 0; i < 40 && more_seed != 0; i++)
        ids_add(&r.prompt, 300 + (int32_t)rng_below(&rng, 3000));
    if (engine_submit(e, &r, NULL, NULL, &j, &err) != HD_OK)
        fail_msg("%s", err.msg);
    return j;
}

/* ---------------------------------------------------------------- the embedded model */

static struct engine *open_tiny(enum numerics n, const char *dir)
{
    struct engine_options o;
    struct engine *e;
    struct err err = {0};
    engine_options_init(&o);
    o.model.numerics = n;
    o.no_cache = dir == NULL;
    o.n_keep = -1;
    o.cache_dir = dir;
    o.cache_disk_bytes = 256 << 20;
    if (engine_open(&e, "models/tiny", &o, NULL, &err) != HD_OK)
        fail_msg("%s", err.msg);
    return e;
}

static void check_numerics(enum numerics n, size_t n_lengths)
{
    struct reply_bits want[COUNT_OF(lengths)], got;
    struct engine_stats s;
    scratch_make_on_disk();
    struct engine *e = open_tiny(n, NULL);
    for (size_t i = 0; i < n_lengths; i++)
        reply_bits_take(submit(e, "a", text, lengths[i], 0, REPLY_BITS_TOKENS), &want[i]);
    engine_close(&e);
    e = open_tiny(n, scratch_dir());
    for (size_t i = 0; i < n_lengths; i++)
        reply_bits_take(submit(e, "a", text, lengths[i], (uint64_t)lengths[i], 1), &got);
    engine_close(&e);
    e = open_tiny(n, scratch_dir());
    reply_bits_take(submit(e, "b", text, lengths[n_lengths - 1], 0, 1), &got);
    assert_int_equal(got.reused, 0); /* nobody finds another's */
    for (size_t i = 0; i < n_lengths; i++) {
        int64_t whole = (lengths[i] - 1) / KV_PAGE_TOKENS * KV_PAGE_TOKENS;
        engine_close(&e); /* each from the disk */
        e = open_tiny(n, scratch_dir());
        reply_bits_take(submit(e, "a", text, lengths[i], 0, REPLY_BITS_TOKENS), &got);
        assert_int_equal(got.reused, whole);
        got.reused = 0;
        if (memcmp(&want[i], &got, sizeof got) != 0)
            fail_msg("%s: a prompt of %d tokens after %lld from the disk differs", numerics_name(n), lengths[i],
                     (long long)whole);
        engine_read_stats(e, &s);
        assert_int_equal(s.hits_disk, whole > 0);
        assert_int_equal(s.disk.damaged + s.disk.read_errors + s.disk.write_errors, 0);
    }
    engine_close(&e);
    scratch_remove(NULL);
}

static void test_fast(void **state)
{
    (void)state;
    check_numerics(NUM_FAST, COUNT_OF(lengths));
}

static void test_reference(void **state)
{
    (void)state;
    check_numerics(NUM_REFERENCE, 2);
}

static void test_exact(void **state)
{
    (void)state;
    check_numerics(NUM_EXACT, 2);
}

static void test_int8(void **state)
{
    (void)state;
    check_numerics(NUM_INT8, 2);
}

/* State of other numerics is another model's. */
static void test_other_numerics(void **state)
{
    (void)state;
    static const enum numerics others[] = {NUM_REFERENCE, NUM_INT8};
    struct reply_bits r;
    scratch_make_on_disk();
    struct engine *e = open_tiny(NUM_FAST, scratch_dir());
    reply_bits_take(submit(e, "a", text, 300, 0, 1), &r);
    engine_close(&e);
    for (size_t i = 0; i < COUNT_OF(others); i++) {
        e = open_tiny(others[i], scratch_dir());
        reply_bits_take(submit(e, "a", text, 300, 0, 1), &r);
        assert_int_equal(r.reused, 0);
        engine_close(&e);
    }
    e = open_tiny(NUM_FAST, scratch_dir());
    reply_bits_take(submit(e, "a", text, 300, 0, 1), &r);
    assert_int_equal(r.reused, 256);
    engine_close(&e);
    scratch_remove(NULL);
}

/* ---------------------------------------------------------------- killed */

static int32_t texts[N_TEXTS][800];

static struct engine *open_fake(struct fake_device *d, bool small)
{
    static const int32_t eos[1] = {FAKE_EOS};
    struct request_env env = {.tokenizer = tokenizer, .n_vocab = FAKE_VOCAB};
    struct engine_options o = {.cache_dir = scratch_dir(), .cache_disk_bytes = 4 << 20, .max_running = 4,
                               .max_waiting = 100, .replay_bytes = -1, .n_keep = -1};
    struct engine *e;
    struct err err = {0};
    fake_device_init(d, small ? 24 : 60, 60, 64); /* small: less than the texts need, so pages come and go */
    if (engine_open_runner(&e, fake_runner(d, 1024), &env, eos, 1, &o, &err) != HD_OK)
        fail_msg("%s", err.msg);
    return e;
}

static void check_reply(struct engine *e, int i, int64_t *reused)
{
    struct reply_bits r;
    struct ids all = {0};
    reply_bits_take(submit(e, i % 2 == 0 ? "a" : "b", texts[i], 800, 0, REPLY_BITS_TOKENS), &r);
    for (int k = 0; k < 800; k++)
        ids_add(&all, texts[i][k]);
    for (int k = 0; k < r.n; k++) {
        assert_int_equal(r.token[k], fake_next(all.data, (int64_t)all.n));
        ids_add(&all, r.token[k]);
    }
    *reused += r.reused;
    ids_free(&all);
}

static void work_for_ever(uint64_t seed, int told)
{
    static struct fake_device d;
    struct rng rng = {seed};
    int64_t reused = 0;
    struct engine *e = open_fake(&d, true);
    for (;;) {
        check_reply(e, (int)rng_below(&rng, N_TEXTS), &reused);
        if (write(told, "", 1) != 1)
            _exit(1);
    }
}

/* The same prompt again, of whole pages: its last token is run again, so it goes on a page before its end. */
static void test_whole_pages(void **state)
{
    (void)state;
    static struct fake_device d;
    struct reply_bits r;
    scratch_make_on_disk();
    for (int i = 0; i < 512; i++)
        texts[0][i] = 10 + i % 50;
    for (int round = 0; round < 2; round++) {
        struct engine *e = open_fake(&d, false);
        reply_bits_take(submit(e, "a", texts[0], 512, 0, round == 0 ? 1 : 3), &r);
        assert_int_equal(r.reused, round == 0 ? 0 : 384);
        engine_close(&e);
        fake_device_free(&d);
    }
    scratch_remove(NULL);
}

static void test_killed(void **state)
{
    (void)state;
    enum { ROUNDS = 25 };
    static struct fake_device d;
    struct rng rng = {9};
    int64_t reused = 0, damaged = 0, disk_hits = 0;
    scratch_make_on_disk();
    for (int i = 0; i < N_TEXTS; i++)
        for (int k = 0; k < 800; k++)
            texts[i][k] = 10 + (int32_t)rng_below(&rng, FAKE_VOCAB - 10);
    for (int round = 0; round < ROUNDS; round++) {
        struct engine_stats s;
        int told[2];
        char byte;
        fflush(stdout);
        assert_int_equal(pipe(told), 0);
        pid_t child = fork();
        assert_true(child >= 0);
        if (child == 0)
            work_for_ever((uint64_t)round, told[1]);
        close(told[1]); /* so that a child that fails ends the reading below */
        for (uint32_t k = 2 + rng_below(&rng, 10); k > 0; k--) /* it has begun, however slow the machine is */
            assert_int_equal(read(told[0], &byte, 1), 1);
        usleep(rng_below(&rng, 5000));
        kill(child, SIGKILL);
        close(told[0]);
        int status;
        assert_int_equal(waitpid(child, &status, 0), child);
        assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
        struct engine *e = open_fake(&d, false);
        for (int i = 0; i < N_TEXTS; i += 1 + round % 3)
            check_reply(e, i, &reused);
        engine_read_stats(e, &s);
        damaged += (int64_t)s.disk.damaged;
        disk_hits += (int64_t)s.hits_disk;
        engine_close(&e);
        fake_device_free(&d);
    }
    printf("# killed %d times: %lld requests and %lld tokens from the disk, %lld records did not verify\n", ROUNDS,
           (long long)disk_hits, (long long)reused, (long long)damaged);
    assert_true(disk_hits > ROUNDS);
    scratch_remove(NULL);
}

int main(void)
{
    struct rng rng = {3};
    struct err e = {0};
    for (int i = 0; i < T_MAX; i++)
        text[i] = 300 + (int32_t)rng_below(&rng, 3000);
    if (tokenizer_open(&tokenizer, "models/tiny", &e) != HD_OK) {
        printf("not ok 1 - %s\n", e.msg);
        return 1;
    }
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_whole_pages),
        cmocka_unit_test(test_killed),
        cmocka_unit_test(test_fast),
        cmocka_unit_test(test_reference),
        cmocka_unit_test(test_exact),
        cmocka_unit_test(test_int8),
        cmocka_unit_test(test_other_numerics),
    };
    int rc = cmocka_run_group_tests(tests, NULL, NULL);
    tokenizer_close(&tokenizer);
    return rc;
}
