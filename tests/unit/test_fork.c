/* Forks of a running request on the embedded model: what they cost in pages, and that each goes on with the bits of the
 * request it was forked from, or of a fresh request with those tokens; at page ends and beside them, in all numerics. */
#include "engine/job.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

enum { N_FORKS = 3, REPLY = 24, BEFORE = 6, MORE = 8 };

static struct tokenizer *tokenizer;

struct said {
    int n;
    int32_t token[REPLY];
    float logprob[REPLY];
    struct gen_event end;
};

static struct engine *open_engine(enum numerics numerics)
{
    struct model_options mo;
    struct model *m;
    struct engine *e;
    struct err err = {0};
    struct engine_options o = {.max_running = 6, .n_keep = -1};
    struct request_env env = {.tokenizer = tokenizer};
    model_options_init(&mo);
    mo.numerics = numerics;
    mo.max_rows = 256;
    mo.tail_share = 0.25;
    mo.kv_budget_bytes = 8 << 20;
    if (model_open(&m, "models/tiny", &mo, NULL, &err) != HD_OK)
        fail_msg("%s", err.msg);
    env.n_vocab = model_config(m)->vocab_size;
    assert_int_equal(engine_create(&e, runner_of_model(m), &env, NULL, 0, &o, &err), HD_OK);
    return e;
}

static struct job *submit(struct engine *e, const int32_t *tokens, int64_t n, uint64_t seed, int64_t max_tokens)
{
    struct gen_request r = {.params = {.max_tokens = max_tokens, .raw = true, .logprobs = true}};
    struct err err = {0};
    struct job *j;
    sampling_init(&r.params.sampling);
    r.params.sampling.seed = seed;
    for (int64_t i = 0; i < n; i++)
        ids_add(&r.prompt, tokens[i]);
    if (engine_submit(e, &r, NULL, NULL, &j, &err) != HD_OK)
        fail_msg("%s", err.msg);
    return j;
}

static bool hear(struct job *j, struct said *s)
{
    struct gen_event ev;
    while (engine_next(j, &ev, 0) == 1) {
        if (ev.kind == GEN_TOKEN) {
            s->token[s->n] = ev.token;
            s->logprob[s->n++] = ev.logprob;
        }
        if (ev.kind == GEN_END)
            s->end = ev;
    }
    return s->end.kind == GEN_END;
}

static void finish(struct engine *e, struct job **j, struct said *s)
{
    while (!hear(*j, s))
        engine_round(e);
    assert_int_equal(s->end.finish, FINISH_LENGTH);
    engine_release(j);
}

static void assert_same(const struct said *a, int from_a, const struct said *b, int from_b, int n)
{
    assert_true(a->n >= from_a + n && b->n >= from_b + n);
    assert_memory_equal(a->token + from_a, b->token + from_b, (size_t)n * sizeof *a->token);
    assert_memory_equal(a->logprob + from_a, b->logprob + from_b, (size_t)n * sizeof *a->logprob);
}

/* A fork costs a copy of the last page, nothing where that is complete; what it writes behind it is its own. */
static void check_cost(struct engine *e, const struct job *from, struct job *const *forks, int64_t length)
{
    int64_t before = e->runner.pages_free(e->runner.self), want = 0;
    engine_round(e);
    for (int i = 0; i < N_FORKS; i++) {
        assert_int_equal(forks[i]->n_fed, length + 1);
        want += (length % CACHE_PAGE != 0) + pages_of(forks[i]->n_fed) - pages_of(length);
        for (int64_t k = 0; k < length / CACHE_PAGE; k++)
            assert_int_equal(e->runner.seq_page(e->runner.self, forks[i]->seq, k),
                             e->runner.seq_page(e->runner.self, from->seq, k));
    }
    want += pages_of(from->n_fed) - pages_of(length);
    assert_int_equal(before - e->runner.pages_free(e->runner.self), want);
}

/* A request that has `length` tokens in its sequence, and several more that go on from there. */
static void fork_at(struct engine *e, struct engine *alone, int64_t length)
{
    struct rng rng = {(uint64_t)length};
    int32_t text[1024];
    struct said parent = {0}, child[N_FORKS] = {{0}}, fresh = {0}, want = {0};
    struct job *forks[N_FORKS], *j;
    for (int i = 0; i < 1024; i++)
        text[i] = 300 + (int32_t)rng_below(&rng, 3000);
    struct job *from = submit(e, text, length - BEFORE, 1, REPLY);
    while (from->n_fed < length) {
        engine_round(e);
        hear(from, &parent);
    }
    assert_true(from->n_fed == length && (int64_t)from->tokens.n == length + 1);
    for (int i = 0; i < N_FORKS; i++)
        assert_int_equal(engine_fork(from, 1 + (uint64_t)i, MORE, NULL, NULL, &forks[i], NULL), HD_OK);
    int64_t n_common = (int64_t)from->tokens.n - (length - BEFORE); /* of the reply, when they part */
    for (int i = 0; i < n_common; i++)
        text[length - BEFORE + i] = from->tokens.data[length - BEFORE + i];
    check_cost(e, from, forks, length);
    for (int i = 0; i < N_FORKS; i++) {
        finish(e, &forks[i], &child[i]);
        assert_int_equal(child[i].end.usage.prompt_tokens, length + 1);
        assert_int_equal(child[i].end.usage.reused_tokens, length);
        assert_int_equal(child[i].end.usage.completion_tokens, MORE);
    }
    finish(e, &from, &parent);
    assert_same(&parent, (int)n_common, &child[0], 0, MORE);
    for (int i = 1; i < N_FORKS; i++) {
        j = submit(alone, text, length + 1, 1 + (uint64_t)i, MORE);
        fresh = (struct said){0};
        finish(alone, &j, &fresh);
        assert_same(&fresh, 0, &child[i], 0, MORE);
    }
    j = submit(alone, text, length - BEFORE, 1, REPLY); /* and the forks changed nothing for the first one */
    finish(alone, &j, &want);
    assert_same(&want, 0, &parent, 0, REPLY);
}

static void check_numerics(enum numerics numerics, const int64_t *lengths, size_t n)
{
    struct engine *e = open_engine(numerics), *alone = open_engine(numerics);
    for (size_t i = 0; i < n; i++)
        fork_at(e, alone, lengths[i]);
    engine_destroy(e);
    engine_destroy(alone);
}

static void test_fast(void **state)
{
    (void)state;
    static const int64_t lengths[] = {40, 127, 128, 129, 130, 255, 256, 257, 513};
    check_numerics(NUM_FAST, lengths, COUNT_OF(lengths));
}

static void test_exact(void **state)
{
    (void)state;
    static const int64_t lengths[] = {127, 128, 130};
    check_numerics(NUM_EXACT, lengths, COUNT_OF(lengths));
    check_numerics(NUM_REFERENCE, lengths, COUNT_OF(lengths));
}

/* What a fork says when there is nothing to go on from, and that the first one may go at once. */
static void test_ends(void **state)
{
    (void)state;
    struct engine *e = open_engine(NUM_FAST);
    struct err err = {0};
    struct said s = {0}, t = {0};
    int32_t text[200];
    struct job *late, *waiting;
    for (int i = 0; i < 200; i++)
        text[i] = 300 + i;
    struct job *from = submit(e, text, 200, 1, REPLY);
    assert_int_equal(engine_fork(from, 2, 0, NULL, NULL, &late, &err), HD_EARG);
    assert_int_equal(engine_fork(from, 2, MORE, NULL, NULL, &waiting, &err), HD_OK); /* it has not begun */
    while (!hear(from, &s))
        engine_round(e);
    assert_int_equal(engine_fork(from, 2, MORE, NULL, NULL, &late, &err), HD_OK);
    engine_release(&from);
    while (!hear(late, &t))
        engine_round(e);
    assert_int_equal(t.end.finish, FINISH_ERROR);
    assert_string_equal(t.end.text, "the request to go on from has ended");
    engine_release(&late);
    t = (struct said){0};
    finish(e, &waiting, &t);
    assert_int_equal(t.end.usage.prompt_tokens, 200);
    from = submit(e, text, 200, 1, REPLY);
    for (s.n = 0; s.n < 4; hear(from, &s))
        engine_round(e);
    assert_int_equal(engine_fork(from, 2, 1000000, NULL, NULL, &late, &err), HD_OK);
    engine_release(&from); /* before the fork was taken in */
    engine_round(e);
    assert_int_equal(late->n_prompt, 204);
    engine_cancel(late);
    t = (struct said){0};
    while (!hear(late, &t))
        engine_round(e);
    assert_int_equal(t.end.finish, FINISH_CANCELLED);
    engine_release(&late);
    engine_destroy(e);
}

int main(void)
{
    struct err e = {0};
    if (tokenizer_open(&tokenizer, "models/tiny", &e) != HD_OK) {
        printf("not ok 1 - %s\n", e.msg);
        return 1;
    }
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_fast),
        cmocka_unit_test(test_exact),
        cmocka_unit_test(test_ends),
    };
    int rc = cmocka_run_group_tests(tests, NULL, NULL);
    tokenizer_close(&tokenizer);
    return rc;
}
