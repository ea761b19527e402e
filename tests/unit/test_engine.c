/* The engine over a model without mathematics. Its logits are a hash of every token that a sequence really holds, so a
 * token lost, doubled, or left over from another job changes the text; replay() says what must come out. */
#include "engine/engine.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

enum { EOS = 1, ROLLBACK = 8 };

static struct tokenizer *tokenizer;
static int n_vocab;

/* ---------------------------------------------------------------- the fake model */

struct kv_seq {
    struct ids tokens;
    int64_t max_tokens;
};

struct fake {
    int n_open, n_vocab;
    int64_t n_held, most_held; /* tokens of all sequences; a step that would pass most_held has no memory */
    int fail_step;             /* this step (from 1) reports an I/O error */
    bool no_numbers;           /* logits are NaN */
    atomic_int n_steps;
    int max_items, max_rows_seen;
    float *logits; /* [32 * n_vocab] */
    struct fake **owner; /* cleared when the engine closes it */
};

static uint64_t hash_of(const int32_t *tokens, size_t n)
{
    uint64_t h = 1;
    for (size_t i = 0; i < n; i++)
        h = mix64(h ^ (uint64_t)tokens[i]);
    return h;
}

/* The greedy token after these: never below 10, so that the end comes by length. */
static int32_t next_of(const int32_t *tokens, size_t n)
{
    return 10 + (int32_t)(hash_of(tokens, n) % (uint64_t)(n_vocab - 10));
}

static int fake_open(void *self, struct kv_seq **s, int64_t max_tokens, struct err *e)
{
    struct fake *f = self;
    (void)e;
    f->n_open++;
    *s = xcalloc(1, sizeof **s);
    (*s)->max_tokens = max_tokens;
    return HD_OK;
}

static void fake_close(void *self, struct kv_seq **s)
{
    struct fake *f = self;
    if (*s == NULL)
        return;
    f->n_open--;
    f->n_held -= (int64_t)(*s)->tokens.n;
    ids_free(&(*s)->tokens);
    free(*s);
    *s = NULL;
}

static int fake_truncate(void *self, struct kv_seq *s, int64_t n_tokens, struct err *e)
{
    struct fake *f = self;
    assert_true(n_tokens <= (int64_t)s->tokens.n);
    if (n_tokens < (int64_t)s->tokens.n - ROLLBACK)
        return err_set(e, HD_EARG, "too far back");
    f->n_held -= (int64_t)s->tokens.n - n_tokens;
    s->tokens.n = (size_t)n_tokens;
    return HD_OK;
}

static int fake_fork(void *self, struct kv_seq *s, const struct kv_seq *from, struct err *e)
{
    struct fake *f = self;
    assert_int_equal(s->tokens.n, 0);
    if (f->n_held + (int64_t)from->tokens.n > f->most_held)
        return err_set(e, HD_ENOMEM, "no pages for a copy");
    f->n_held += (int64_t)from->tokens.n;
    for (size_t i = 0; i < from->tokens.n; i++)
        ids_add(&s->tokens, from->tokens.data[i]);
    return HD_OK;
}

static void fake_row(struct fake *f, float *z, const struct ids *tokens)
{
    for (int i = 0; i < f->n_vocab; i++)
        z[i] = f->no_numbers ? NAN : 0;
    z[next_of(tokens->data, tokens->n)] += 10;
}

static int fake_step(void *self, const struct step_item *items, int n_items, struct step_result *r, struct err *e)
{
    struct fake *f = self;
    int rows = 0, n_logits = 0;
    for (int i = 0; i < n_items; i++)
        rows += items[i].n_tokens;
    if (++f->n_steps == f->fail_step)
        return err_set(e, HD_EIO, "the fake device broke");
    if (f->n_held + rows > f->most_held)
        return err_set(e, HD_ENOMEM, "no pages for %d rows", rows);
    f->n_held += rows;
    f->max_items = n_items > f->max_items ? n_items : f->max_items;
    f->max_rows_seen = rows > f->max_rows_seen ? rows : f->max_rows_seen;
    for (int i = 0; i < n_items; i++) {
        const struct step_item *it = &items[i];
        assert_true(it->n_tokens >= 1 && it->n_logits <= 1 && n_logits < 32);
        for (int t = 0; t < it->n_tokens; t++)
            ids_add(&it->seq->tokens, it->tokens[t]);
        assert_true((int64_t)it->seq->tokens.n <= it->seq->max_tokens);
        if (it->n_logits == 1)
            fake_row(f, f->logits + (size_t)n_logits++ * (size_t)f->n_vocab, &it->seq->tokens);
    }
    *r = (struct step_result){.logits = f->logits, .n_logits = n_logits};
    return HD_OK;
}

static void fake_end(void *self)
{
    struct fake *f = self;
    assert_int_equal(f->n_open, 0); /* every sequence was closed */
    assert_int_equal(f->n_held, 0);
    free(f->logits);
    *f->owner = NULL;
    free(f);
}

static struct engine *open_fake(struct fake **f, const struct engine_options *o, int max_rows)
{
    struct request_env env = {.tokenizer = tokenizer, .n_vocab = n_vocab};
    struct engine *e;
    *f = xcalloc(1, sizeof **f);
    **f = (struct fake){.n_vocab = n_vocab, .most_held = 1 << 30, .owner = f,
                        .logits = xcalloc(32 * (size_t)n_vocab, sizeof(float))};
    struct runner r = {.self = *f, .n_vocab = n_vocab, .max_rows = max_rows, .rollback = ROLLBACK, .max_tokens = 4000,
                       .seq_open = fake_open, .seq_close = fake_close, .seq_truncate = fake_truncate, .seq_fork = fake_fork,
                       .step = fake_step, .close = fake_end};
    const int32_t eos[1] = {EOS};
    struct engine_options none = {0};
    assert_int_equal(engine_open_runner(&e, r, &env, eos, 1, o == NULL ? &none : o, NULL), HD_OK);
    return e;
}

/* ---------------------------------------------------------------- requests and what must come of them */

static void add_random(struct ids *v, uint64_t seed, int n)
{
    struct rng r = {seed};
    for (int i = 0; i < n; i++)
        ids_add(v, 10 + (int32_t)rng_below(&r, (uint32_t)n_vocab - 10));
}

static struct job *submit(struct engine *e, const struct ids *prompt, int64_t max_tokens, const char *user)
{
    struct gen_request r = {.params = {.max_tokens = max_tokens, .raw = true, .logprobs = true}, .user = xstrdup(user)};
    struct job *j = NULL;
    struct err err = {0};
    sampling_init(&r.params.sampling);
    r.params.sampling.temperature = 0;
    for (size_t i = 0; i < prompt->n; i++)
        ids_add(&r.prompt, prompt->data[i]);
    if (engine_submit(e, &r, NULL, NULL, &j, &err) != HD_OK)
        fail_msg("submit: %s", err.msg);
    assert_null(r.prompt.data);
    return j;
}

struct outcome {
    struct ids tokens;
    enum finish finish;
    struct gen_usage usage;
    char error[256];
};

static void finish_job(struct job **j, struct outcome *o)
{
    struct gen_event ev = {0};
    *o = (struct outcome){0};
    while (engine_next(*j, &ev, -1))
        if (ev.kind == GEN_TOKEN)
            ids_add(&o->tokens, ev.token);
        else if (ev.kind == GEN_END)
            snprintf(o->error, sizeof o->error, "%.*s", (int)ev.n, ev.text);
    assert_int_equal(ev.kind, GEN_END);
    assert_int_equal(engine_next(*j, &ev, -1), 0); /* nothing comes after the end */
    o->finish = ev.finish;
    o->usage = ev.usage;
    engine_release(j);
}

/* What greedy decoding alone gives. */
static void expect_replay(const struct ids *prompt, const struct outcome *o, int n)
{
    struct ids all = {0};
    for (size_t i = 0; i < prompt->n; i++)
        ids_add(&all, prompt->data[i]);
    assert_int_equal(o->tokens.n, n);
    for (int i = 0; i < n; i++) {
        int32_t id = next_of(all.data, all.n);
        assert_int_equal(o->tokens.data[i], id);
        ids_add(&all, id);
    }
    ids_free(&all);
}

static void check_one(struct engine *e, const struct ids *prompt, int n, const char *user, int64_t reused)
{
    struct outcome o;
    struct job *j = submit(e, prompt, n, user);
    finish_job(&j, &o);
    assert_int_equal(o.finish, FINISH_LENGTH);
    expect_replay(prompt, &o, n);
    assert_int_equal(o.usage.prompt_tokens, prompt->n);
    assert_int_equal(o.usage.completion_tokens, n);
    assert_int_equal(o.usage.reused_tokens, reused);
    ids_free(&o.tokens);
}

/* ---------------------------------------------------------------- cases */

static void test_alone(void **state)
{
    (void)state;
    struct fake *f;
    for (int rows = 1; rows <= 64; rows *= 4) {
        struct engine *e = open_fake(&f, NULL, rows);
        struct ids prompt = {0};
        add_random(&prompt, (uint64_t)rows, 33);
        check_one(e, &prompt, 20, "", 0);
        assert_true(f->max_rows_seen <= rows);
        ids_free(&prompt);
        engine_close(&e);
        assert_null(f);
    }
}

/* Twelve jobs over four places and steps of 16 rows: every one gets what it would have got alone. */
static void test_many(void **state)
{
    (void)state;
    enum { N = 12 };
    struct engine_options o = {.max_running = 4, .n_keep = -1};
    struct fake *f;
    struct engine *e = open_fake(&f, &o, 16);
    struct ids prompt[N] = {0};
    struct job *jobs[N];
    for (int i = 0; i < N; i++) {
        add_random(&prompt[i], 100 + (uint64_t)i, 1 + 7 * i);
        jobs[i] = submit(e, &prompt[i], 5 + i, "");
    }
    for (int i = N - 1; i >= 0; i--) {
        struct outcome out;
        finish_job(&jobs[i], &out);
        expect_replay(&prompt[i], &out, 5 + i);
        assert_int_equal(out.usage.differs_at, -1);
        ids_free(&out.tokens);
        ids_free(&prompt[i]);
    }
    assert_int_equal(f->max_items, 4);
    struct engine_stats s;
    engine_read_stats(e, &s);
    assert_int_equal(s.n_waiting, 0);
    assert_int_equal(s.completion_tokens, 12 * 5 + 66);
    engine_close(&e);
}

static void append_outcome(struct ids *to, struct engine *e, int n)
{
    struct outcome o;
    struct job *j = submit(e, to, n, "");
    finish_job(&j, &o);
    for (size_t i = 0; i < o.tokens.n; i++)
        ids_add(to, o.tokens.data[i]);
    ids_free(&o.tokens);
}

/* A conversation: each turn's prompt is the last one, its reply and something new. */
static void test_reuse(void **state)
{
    (void)state;
    struct fake *f;
    struct engine *e = open_fake(&f, NULL, 16);
    struct ids talk = {0};
    add_random(&talk, 1, 40);
    append_outcome(&talk, e, 10); /* 49 tokens are held: the last one was never run */
    add_random(&talk, 2, 30);
    check_one(e, &talk, 5, "", 49);
    check_one(e, &talk, 5, "someone else", 0);
    check_one(e, &talk, 5, "", (int64_t)talk.n - 1); /* the same again: its last token is run once more */

    for (size_t back = 1; back <= 18; back++) { /* forks: only as far back as a state goes */
        struct ids fork = {0};
        add_random(&fork, 5, 60);
        append_outcome(&fork, e, 6); /* kept: 60 at the end of the prompt, 65 of the reply */
        int64_t held = (int64_t)fork.n - 1;
        fork.n = (size_t)held - back;
        fork.data[fork.n - 1] ^= 1;
        if (fork.data[fork.n - 1] < 10)
            fork.data[fork.n - 1] = 20;
        int64_t common = (int64_t)fork.n - 1;
        add_random(&fork, 6, 3);
        check_one(e, &fork, 4, "", common >= 60 - ROLLBACK ? common : 0);
        ids_free(&fork);
        struct ids other = {0}; /* push the states of this round out */
        for (uint64_t i = 0; i < 8; i++) {
            other.n = 0;
            add_random(&other, 1000 * back + i, 5);
            append_outcome(&other, e, 1);
        }
        ids_free(&other);
    }
    ids_free(&talk);
    engine_close(&e);
}

/* Sub-agents: all start from the state of the first one's prompt, and none is disturbed by the others. */
static void test_swarm(void **state)
{
    (void)state;
    enum { N = 6 };
    struct fake *f;
    struct engine *e = open_fake(&f, NULL, 16);
    struct ids prompt[N] = {0};
    struct job *jobs[N];
    struct outcome o;
    struct ids prefix = {0};
    add_random(&prefix, 77, 200);
    check_one(e, &prefix, 2, "", 0);
    for (uint64_t i = 0; i < N; i++) {
        add_random(&prompt[i], 77, 200);
        add_random(&prompt[i], 300 + i, 10);
        jobs[i] = submit(e, &prompt[i], 12, "");
    }
    for (int i = 0; i < N; i++) {
        finish_job(&jobs[i], &o);
        assert_int_equal(o.usage.reused_tokens, 200);
        expect_replay(&prompt[i], &o, 12);
        ids_free(&o.tokens);
        ids_free(&prompt[i]);
    }
    ids_free(&prefix);
    engine_close(&e);
}

static void test_differs_at(void **state)
{
    (void)state;
    struct fake *f;
    struct engine *e = open_fake(&f, NULL, 16);
    struct ids a = {0};
    struct outcome o;
    add_random(&a, 1, 50);
    append_outcome(&a, e, 2);
    a.data[20] = a.data[20] == 11 ? 12 : 11;
    struct job *j = submit(e, &a, 3, "");
    finish_job(&j, &o);
    assert_int_equal(o.usage.reused_tokens, 0);
    assert_int_equal(o.usage.differs_at, 20);
    expect_replay(&a, &o, 3);
    ids_free(&o.tokens);
    ids_free(&a);
    engine_close(&e);
}

static void test_cancel(void **state)
{
    (void)state;
    struct engine_options opt = {.max_running = 2};
    struct fake *f;
    struct engine *e = open_fake(&f, &opt, 16);
    struct ids prompt = {0};
    struct outcome o;
    struct gen_event ev;
    add_random(&prompt, 9, 20);
    struct job *a = submit(e, &prompt, 3000, ""), *b = submit(e, &prompt, 3000, ""), *c = submit(e, &prompt, 5, "");
    while (engine_next(a, &ev, -1) && ev.kind != GEN_TOKEN)
        ;
    engine_cancel(c); /* while it waits for a place */
    finish_job(&c, &o);
    assert_int_equal(o.finish, FINISH_CANCELLED);
    assert_int_equal(o.tokens.n, 0);
    engine_cancel(a);
    engine_cancel(a);
    finish_job(&a, &o);
    assert_true(o.finish == FINISH_CANCELLED && o.usage.completion_tokens < 3000);
    ids_free(&o.tokens);
    engine_release(&b); /* while it runs */
    check_one(e, &prompt, 4, "x", 0);
    struct job *last = submit(e, &prompt, 3000, "y");
    engine_release(&last);
    engine_close(&e); /* with work left */
    ids_free(&prompt);
}

static void test_out_of_memory(void **state)
{
    (void)state;
    struct fake *f;
    struct engine *e = open_fake(&f, NULL, 16);
    struct ids small = {0}, large = {0};
    struct outcome o;
    add_random(&small, 1, 100);
    add_random(&large, 2, 250);
    f->most_held = 300;
    check_one(e, &small, 3, "", 0);
    check_one(e, &large, 3, "", 0); /* the kept state makes room */
    struct job *a = submit(e, &small, 60, ""), *b = submit(e, &large, 3, "");
    finish_job(&b, &o); /* does not fit beside a: the one that came last is put back and goes on when a has ended */
    assert_int_equal(o.finish, FINISH_LENGTH);
    expect_replay(&large, &o, 3);
    ids_free(&o.tokens);
    finish_job(&a, &o);
    assert_int_equal(o.finish, FINISH_LENGTH);
    expect_replay(&small, &o, 60);
    ids_free(&o.tokens);
    check_one(e, &large, 3, "z", 0);
    f->most_held = 200;
    a = submit(e, &large, 3, "y");
    finish_job(&a, &o); /* does not fit alone: fails with the reason */
    assert_int_equal(o.finish, FINISH_ERROR);
    assert_non_null(strstr(o.error, "no pages"));
    ids_free(&small);
    ids_free(&large);
    engine_close(&e);
}

static void test_device_error(void **state)
{
    (void)state;
    struct fake *f;
    struct engine *e = open_fake(&f, NULL, 16);
    struct ids prompt = {0};
    struct outcome o;
    add_random(&prompt, 1, 40);
    f->fail_step = 2;
    struct job *j = submit(e, &prompt, 5, "");
    finish_job(&j, &o);
    assert_int_equal(o.finish, FINISH_ERROR);
    assert_string_equal(o.error, "the fake device broke");
    check_one(e, &prompt, 5, "", 0); /* nothing of the broken state is used */
    f->no_numbers = true;
    j = submit(e, &prompt, 5, "n");
    finish_job(&j, &o);
    assert_int_equal(o.finish, FINISH_ERROR);
    assert_non_null(strstr(o.error, "position 40"));
    ids_free(&prompt);
    engine_close(&e);
}

static void test_refusals(void **state)
{
    (void)state;
    struct engine_options opt = {.max_running = 1, .max_waiting = 1, .context_tokens = 100};
    struct fake *f;
    struct engine *e = open_fake(&f, &opt, 4);
    struct ids bad = {0};
    struct gen_request r = {0};
    struct job *j;
    struct err err = {0};
    assert_int_equal(engine_submit(e, &r, NULL, NULL, &j, &err), HD_EARG);
    add_random(&bad, 1, 100);
    r = (struct gen_request){.prompt = bad, .params.max_tokens = 1};
    err = (struct err){0};
    assert_int_equal(engine_submit(e, &r, NULL, NULL, &j, &err), HD_EARG);
    assert_non_null(strstr(err.msg, "100"));
    bad = (struct ids){0};
    ids_add(&bad, n_vocab);
    r = (struct gen_request){.prompt = bad, .params.max_tokens = 1};
    err = (struct err){0};
    assert_int_equal(engine_submit(e, &r, NULL, NULL, &j, &err), HD_EARG);
    assert_non_null(strstr(err.msg, "id"));

    struct ids prompt = {0};
    struct gen_event ev;
    struct outcome o;
    add_random(&prompt, 2, 50);
    struct job *a = submit(e, &prompt, 1000000, ""); /* cut to the context */
    while (engine_next(a, &ev, -1) && ev.kind != GEN_TOKEN)
        ;
    struct job *b = submit(e, &prompt, 1, "");
    r = (struct gen_request){.params.max_tokens = 1};
    ids_add(&r.prompt, 5);
    err = (struct err){0};
    if (engine_submit(e, &r, NULL, NULL, &j, &err) == HD_OK) /* a may have ended meanwhile */
        engine_release(&j);
    else
        assert_non_null(strstr(err.msg, "waiting"));
    finish_job(&a, &o);
    assert_int_equal(o.usage.completion_tokens, 50);
    ids_free(&o.tokens);
    finish_job(&b, &o);
    ids_free(&o.tokens);
    ids_free(&prompt);
    engine_close(&e);
}

static void count_up(void *arg)
{
    atomic_fetch_add((atomic_int *)arg, 1);
}

static void test_notify(void **state)
{
    (void)state;
    struct fake *f;
    struct engine *e = open_fake(&f, NULL, 16);
    struct gen_request r = {.params = {.max_tokens = 4, .raw = true}};
    struct job *j;
    struct gen_event ev;
    atomic_int n = 0;
    int seen = 0;
    add_random(&r.prompt, 3, 5);
    sampling_init(&r.params.sampling);
    assert_int_equal(engine_submit(e, &r, count_up, &n, &j, NULL), HD_OK);
    while (engine_next(j, &ev, -1))
        seen++;
    engine_release(&j); /* waits for a call under way */
    assert_true(seen >= 2 && atomic_load(&n) >= seen);
    engine_close(&e);
}

static void test_timeout(void **state)
{
    (void)state;
    struct fake *f;
    struct engine *e = open_fake(&f, NULL, 16);
    struct ids prompt = {0};
    struct gen_event ev;
    add_random(&prompt, 3, 5);
    struct job *j = submit(e, &prompt, 2, "");
    while (!(engine_next(j, &ev, 1) && ev.kind == GEN_END))
        ;
    assert_int_equal(engine_next(j, &ev, 0), 0);
    assert_int_equal(engine_next(j, &ev, 5), 0);
    engine_release(&j);
    ids_free(&prompt);
    engine_close(&e);
}

static int open_tokenizer(void **state)
{
    (void)state;
    if (tokenizer_open(&tokenizer, "models/tiny", NULL) != HD_OK)
        return -1;
    n_vocab = tokenizer_n_vocab(tokenizer);
    return 0;
}

static int close_tokenizer(void **state)
{
    (void)state;
    tokenizer_close(&tokenizer);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_alone),    cmocka_unit_test(test_many),          cmocka_unit_test(test_reuse),
        cmocka_unit_test(test_swarm), cmocka_unit_test(test_differs_at), cmocka_unit_test(test_cancel),
        cmocka_unit_test(test_out_of_memory),
        cmocka_unit_test(test_device_error), cmocka_unit_test(test_refusals),  cmocka_unit_test(test_notify),
        cmocka_unit_test(test_timeout),
    };
    return cmocka_run_group_tests(tests, open_tokenizer, close_tokenizer);
}
