/* The step thread takes no memory: malloc and its relatives count what is asked for during the engine's rounds, over
 * prompts, replies, hits, copies of running states, cancels, evictions and requests that are put back; over a device
 * without mathematics, and from the first step on with the embedded model, in all numerics and with several threads. */
#include "engine/job.h"
#include "model/plan.h"
#include "fake_device.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define COUNTS 0 /* sanitizers bring their own malloc */
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
#define COUNTS 0
#endif
#endif
#ifndef COUNTS
#define COUNTS 1
#endif

static _Thread_local bool in_round;
static atomic_bool pool_counts; /* the threads of the pool count too: nobody else runs meanwhile */
static atomic_int n_allocations;
static size_t last_bytes, all_bytes;

#if COUNTS
static void count(size_t bytes)
{
    if (in_round || pool_counts) {
        n_allocations++;
        last_bytes = bytes;
        all_bytes += bytes;
    }
}

void *__libc_malloc(size_t n);
void *__libc_calloc(size_t n, size_t bytes);
void *__libc_realloc(void *p, size_t n);
void *__libc_memalign(size_t align, size_t n);

void *malloc(size_t n)
{
    count(n);
    return __libc_malloc(n);
}

void *calloc(size_t n, size_t bytes)
{
    count(n * bytes);
    return __libc_calloc(n, bytes);
}

void *realloc(void *p, size_t n)
{
    count(n);
    return __libc_realloc(p, n);
}

int posix_memalign(void **p, size_t align, size_t n)
{
    count(n);
    *p = __libc_memalign(align, n);
    return *p == NULL ? 12 : 0;
}

void *aligned_alloc(size_t align, size_t n)
{
    count(n);
    return __libc_memalign(align, n);
}
#endif

/* ---------------------------------------------------------------- rounds */

static struct tokenizer *tokenizer;

static void round_counted(struct engine *e)
{
    in_round = true;
    pool_counts = true;
    engine_round(e);
    in_round = false;
    pool_counts = false;
    if (n_allocations > 0)
        fail_msg("%d allocations in a round of the engine, the last of %zu bytes", n_allocations, last_bytes);
}

static struct job *submit(struct engine *e, uint64_t seed, int n_shared, int n_own, int64_t max_tokens, bool raw)
{
    struct gen_request r = {.params = {.max_tokens = max_tokens, .raw = raw, .logprobs = true, .n_top_logprobs = 5}};
    struct rng shared = {7}, own = {seed + 100};
    struct job *j;
    struct err err = {0};
    char user[16];
    sampling_init(&r.params.sampling);
    r.params.sampling.seed = seed;
    r.params.sampling.temperature = 30;
    snprintf(user, sizeof user, "u%d", (int)(seed % 3));
    r.user = xstrdup(user);
    for (int i = 0; i < n_shared; i++)
        ids_add(&r.prompt, 10 + (int32_t)rng_below(&shared, FAKE_VOCAB - 10));
    for (int i = 0; i < n_own; i++)
        ids_add(&r.prompt, 10 + (int32_t)rng_below(&own, FAKE_VOCAB - 10));
    if (engine_submit(e, &r, NULL, NULL, &j, &err) != HD_OK)
        fail_msg("%s", err.msg);
    return j;
}

static bool take(struct job *j)
{
    struct gen_event ev;
    bool ended = false;
    while (engine_next(j, &ev, 0) == 1)
        ended |= ev.kind == GEN_END;
    return ended;
}

/* Requests come, share beginnings, go on from replies, and some are cancelled; each round is counted. */
static void live(struct engine *e, int n_jobs, int n_shared, int64_t max_tokens, bool raw)
{
    enum { AT_ONCE = 6 };
    struct job *jobs[AT_ONCE] = {NULL};
    int n_begun = 0, n_open = 0;
    for (uint64_t round = 0; n_begun < n_jobs || n_open > 0; round++) {
        for (int i = 0; i < AT_ONCE; i++) {
            if (jobs[i] == NULL && n_begun < n_jobs && round % 3 == 0) {
                jobs[i] = submit(e, (uint64_t)n_begun, n_begun % 2 == 0 ? n_shared : n_shared / 2, 3 + 40 * (n_begun % 5),
                                 max_tokens, raw);
                n_begun++;
                n_open++;
                break;
            }
        }
        round_counted(e);
        for (int i = 0; i < AT_ONCE; i++) {
            if (jobs[i] != NULL && take(jobs[i])) {
                engine_release(&jobs[i]);
                n_open--;
            } else if (jobs[i] != NULL && round % 997 == (uint64_t)i)
                engine_cancel(jobs[i]);
        }
    }
}

static void test_counts(void **state)
{
    (void)state;
    void *(*volatile take_memory)(size_t) = malloc; /* or the compiler leaves it out */
    in_round = true;
    void *p = take_memory(10);
    in_round = false;
    free(p);
    assert_int_equal(n_allocations, COUNTS);
    n_allocations = 0;
}

/* What the cache says that it holds is what it asks for. */
static void test_cache_bytes(void **state)
{
    (void)state;
    static struct fake_device device;
    struct cache c;
    fake_device_init(&device, 77, 10, 64);
    struct runner r = fake_runner(&device, 2000);
    all_bytes = 0;
    in_round = true;
    cache_open(&c, &r);
    cache_reserve_users(&c, 9);
    in_round = false;
    assert_true(!COUNTS || all_bytes == cache_bytes(&c));
    n_allocations = 0;
    cache_close(&c);
    fake_device_free(&device);
}

static void test_fake_device(void **state)
{
    (void)state;
    static struct fake_device device;
    struct request_env env = {.tokenizer = tokenizer, .n_vocab = FAKE_VOCAB};
    struct engine_options o = {.max_running = 5, .n_keep = 3};
    struct engine *e;
    fake_device_init(&device, 20, 10, 64);
    assert_int_equal(engine_create(&e, fake_runner(&device, 2000), &env, NULL, 0, &o, NULL), HD_OK);
    live(e, 40, 700, 900, true);
    assert_true(e->cache.n_evicted > 0 && e->cache.n_tails_evicted > 0 && e->counts.reused_tokens > 0);
    assert_true(e->counts.put_back > 0);
    engine_destroy(e);
    fake_device_free(&device);
}

static void try_model(enum numerics numerics, bool native)
{
    struct model_options mo;
    struct model *m;
    struct err err = {0};
    struct engine_options o = {.max_running = 5, .n_keep = 2};
    struct request_env env = {.tokenizer = tokenizer};
    struct engine *e;
    model_options_init(&mo);
    mo.max_rows = 256;
    mo.tail_share = 0.25;
    mo.kv_budget_bytes = 8 << 20;
    mo.n_threads = 3; /* each has its own scratch memory */
    mo.numerics = numerics;
    mo.native = native;
    if (model_open(&m, "models/tiny", &mo, NULL, &err) != HD_OK)
        fail_msg("%s", err.msg);
    uint64_t page = model_page_bytes(m), tail = model_tail_bytes(m);
    uint64_t taken = page * (uint64_t)model_pages_total(m) + tail * (uint64_t)model_tails_total(m);
    assert_true(taken <= mo.kv_budget_bytes && taken + page + tail > mo.kv_budget_bytes); /* the budget, to the last page */
    env.n_vocab = model_config(m)->vocab_size;
    const int32_t eos[1] = {model_config(m)->eos_id};
    assert_int_equal(engine_create(&e, runner_of_model(m), &env, eos, 1, &o, &err), HD_OK);
    uint64_t scratch = model_scratch_bytes(m);
    live(e, 10, 900, 24, false);
    assert_true(e->counts.reused_tokens > 0);
    assert_true(scratch > 0 && model_scratch_bytes(m) == scratch);
    struct engine_memory held = e->counts.memory;
    assert_true(held.kv == taken && held.step == model_step_bytes(m) && held.step > scratch);
    assert_true(held.sequences % model_seq_bytes(m, e->env.context_tokens) == 0 && held.sequences > 0);
    assert_true(held.cache == cache_bytes(&e->cache));
    engine_destroy(e);
}

static void test_model(void **state)
{
    (void)state;
    try_model(NUM_FAST, false);
    try_model(NUM_FAST, true);
    try_model(NUM_INT8, false);
    try_model(NUM_REFERENCE, false);
    try_model(NUM_EXACT, false);
}

/* `hadal plan` knows before there is a model what its steps will work in, to the byte. */
static void plan_of(const char *dir, int n_stages)
{
    enum { LOGITS = 3, THREADS = 3 };
    struct model_options mo;
    struct model *m;
    struct err err = {0};
    uint64_t planned, more;
    model_options_init(&mo);
    mo.kv_budget_bytes = 4 << 20;
    mo.n_threads = THREADS;
    mo.drafter = true;
    if (model_open(&m, dir, &mo, NULL, &err) != HD_OK || model_reserve_logits(m, LOGITS, &err) != HD_OK)
        fail_msg("%s", err.msg);
    int64_t tokens = model_pages_total(m) * KV_PAGE_TOKENS;
    assert_int_equal(model_plan_step(&planned, model_config(m), n_stages, tokens, LOGITS, THREADS, &err), HD_OK);
    assert_int_equal(planned, model_step_bytes(m));
    assert_int_equal(model_plan_step(&more, model_config(m), n_stages, tokens, LOGITS + 1, THREADS, &err), HD_OK);
    assert_int_equal(more - planned, (size_t)model_config(m)->vocab_size * sizeof(float));
    model_close(&m);
}

/* A model is refused for the last byte that its weights, a sequence and its steps need. */
static void test_refused(void **state)
{
    (void)state;
    struct model_options mo;
    struct model *m;
    struct err err = {0}, none = {0};
    struct plan p;
    struct plan_formats f = plan_formats_released;
    int n_stages;
    model_options_init(&mo);
    mo.n_threads = 2;
    assert_int_equal(model_open(&m, "models/tiny", &mo, NULL, &none), HD_OK);
    plan_inspect(&model_weights(m)->ckpt, &f, &n_stages);
    plan_init(&p, model_config(m), &f, n_stages);
    assert_int_equal(model_plan_step(&p.step_bytes, &p.cfg, n_stages, plan_refuse_context(&p), 1, 2, &none), HD_OK);
    model_close(&m);
    mo.memory_bytes = plan_fit(&p, 0, plan_refuse_context(&p), 1).need_bytes - 1;
    assert_true(p.step_bytes > 0 && p.step_bytes < mo.memory_bytes);
    assert_int_equal(model_open(&m, "models/tiny", &mo, NULL, &err), HD_ENOMEM);
    assert_non_null(strstr(err.msg, "the memory of steps"));
    mo.memory_bytes++;
    assert_int_equal(model_open(&m, "models/tiny", &mo, NULL, &none), HD_OK);
    model_close(&m);
}

static void test_plan(void **state)
{
    (void)state;
    plan_of("models/tiny", 1);
    plan_of("models/tiny-dspark", 3);
}

int main(void)
{
    struct err e = {0};
    if (tokenizer_open(&tokenizer, "models/tiny", &e) != HD_OK) {
        printf("not ok 1 - %s\n", e.msg);
        return 1;
    }
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_counts),
        cmocka_unit_test(test_cache_bytes),
        cmocka_unit_test(test_fake_device),
        cmocka_unit_test(test_model),
        cmocka_unit_test(test_plan),
        cmocka_unit_test(test_refused),
    };
    int rc = cmocka_run_group_tests(tests, NULL, NULL);
    tokenizer_close(&tokenizer);
    return rc;
}
