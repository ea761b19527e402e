/* The scheduler's promises, one round at a time over the fake device: who waits how long for what. */
#include "engine/job.h"
#include "fake_device.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static struct tokenizer *tokenizer;
static struct fake_device device;

static struct engine *open_engine(int n_pages, int max_rows, const struct engine_options *o)
{
    static const int32_t eos[1] = {2}; /* never made: replies end by length */
    struct request_env env = {.tokenizer = tokenizer, .n_vocab = FAKE_VOCAB};
    struct engine_options none = {0};
    struct engine *e;
    fake_device_init(&device, n_pages, n_pages, max_rows);
    struct runner r = fake_runner(&device, (int64_t)n_pages * KV_PAGE_TOKENS);
    assert_int_equal(engine_create(&e, r, &env, eos, 1, o == NULL ? &none : o, NULL), HD_OK);
    return e;
}

static void close_engine(struct engine *e)
{
    while (e->waiting.n + e->running.n > 0 || e->incoming != NULL)
        engine_round(e);
    assert_int_equal(device.n_out_of_pages, 0);
    engine_destroy(e);
    assert_true(device.closed);
    fake_device_free(&device);
}

/* A prompt of n tokens; equal seeds begin alike. */
static struct gen_request request(uint64_t seed, int n, int64_t max_tokens, const char *user)
{
    struct gen_request r = {.params = {.max_tokens = max_tokens, .raw = true, .logprobs = true}, .user = xstrdup(user)};
    struct rng rng = {seed};
    sampling_init(&r.params.sampling);
    r.params.sampling.temperature = 0;
    for (int i = 0; i < n; i++)
        ids_add(&r.prompt, 10 + (int32_t)rng_below(&rng, FAKE_VOCAB - 10));
    return r;
}

static struct job *submit(struct engine *e, struct gen_request r)
{
    struct job *j = NULL;
    struct err err = {0};
    if (engine_submit(e, &r, NULL, NULL, &j, &err) != HD_OK)
        fail_msg("%s", err.msg);
    return j;
}

struct outcome {
    int n_tokens;
    bool ended;
    struct gen_event end;
    char text[128];
};

static void poll_job(struct job *j, struct outcome *o)
{
    struct gen_event ev;
    while (engine_next(j, &ev, 0) == 1) {
        o->n_tokens += ev.kind == GEN_TOKEN;
        if (ev.kind != GEN_END)
            continue;
        o->ended = true;
        o->end = ev;
        snprintf(o->text, sizeof o->text, "%.*s", (int)ev.n, ev.text);
    }
}

/* Rounds until it ends; how many. */
static int run_to_end(struct engine *e, struct job *j, struct outcome *o)
{
    int n = 0;
    for (poll_job(j, o); !o->ended; poll_job(j, o), n++) {
        engine_round(e);
        assert_true(n < 100000);
    }
    return n;
}

/* ---------------------------------------------------------------- decodes and prompts */

/* A running reply gets a token in every step while long prompts come in, and no step is longer than agreed. */
static void test_decode_is_never_starved(void **state)
{
    (void)state;
    struct engine_options o = {.max_running = 8, .prefill_rows = 40};
    struct engine *e = open_engine(200, 64, &o);
    struct outcome a = {0};
    struct job *j = submit(e, request(1, 10, 300, "a")), *others[6];
    engine_round(e);
    for (uint64_t i = 0; i < 6; i++)
        others[i] = submit(e, request(10 + i, 2000, 5, "b"));
    for (int n = 1; n <= 200; n++) {
        uint64_t rows = device.n_rows;
        engine_round(e);
        poll_job(j, &a);
        assert_int_equal(a.n_tokens, n + 1);
        assert_true(device.n_rows - rows <= 40 + 8);
    }
    for (int i = 0; i < 6; i++)
        engine_release(&others[i]);
    engine_release(&j);
    close_engine(e);
}

/* A long prompt advances at least once in as many steps as there are running requests, however many short ones of other
 * users come, and by an eighth of the prompts' rows. */
static void test_long_prompt_always_advances(void **state)
{
    (void)state;
    struct engine_options o = {.max_running = 4, .max_waiting = 64, .prefill_rows = 16, .max_step_ms = -1};
    struct engine *e = open_engine(400, 64, &o);
    struct gen_request r = request(1, 4000, 1, "long");
    r.weight = 0.001; /* last in every order */
    struct job *j = submit(e, r), *others[32] = {NULL};
    engine_round(e);
    int64_t fed = j->n_fed;
    int since = 0;
    for (uint64_t n = 0; n < 600; n++) {
        char user[16];
        snprintf(user, sizeof user, "u%llu", (unsigned long long)n);
        engine_release(&others[n % 32]);
        others[n % 32] = submit(e, request(100 + n, 100, 2, user));
        engine_round(e);
        since = j->n_fed == fed ? since + 1 : 0;
        assert_true(since < 4);
        assert_true(j->n_fed == fed || j->n_fed - fed >= 16 / 8 || j->n_fed == 4000);
        fed = j->n_fed;
    }
    for (int i = 0; i < 32; i++)
        engine_release(&others[i]);
    engine_release(&j);
    close_engine(e);
}

/* A machine on which a step takes `decode` and `row` for each prompt row: where do the rows go? */
static int settled_rows(struct budget *b, double decode_ns, double row_ns, double *longest_ns)
{
    *longest_ns = 0;
    for (int i = 0; i < 4; i++)
        budget_learn(b, 2, 0, (uint64_t)decode_ns);
    for (int i = 0; i < 100; i++) {
        int rows = budget_rows(b);
        double ns = decode_ns + row_ns * rows;
        assert_true(rows >= 1 && rows <= b->rows_max);
        budget_learn(b, 2, rows, (uint64_t)ns);
        if (i >= 50 && ns > *longest_ns)
            *longest_ns = ns;
    }
    return budget_rows(b);
}

static void test_step_time(void **state)
{
    (void)state;
    struct budget b;
    double longest;
    budget_init(&b, 256, 50);
    assert_in_range(settled_rows(&b, 4e6, 1e6, &longest), 40, 47); /* 50 ms less the decodes' 4, 1 ms a row */
    assert_true(longest <= 51e6);
    assert_int_equal(settled_rows(&b, 4e6, 1e4, &longest), 256);   /* a quick machine: as many as there may be */
    assert_int_equal(settled_rows(&b, 4e6, 1e8, &longest), BUDGET_ROWS_MIN); /* a slow one: some, always */
    budget_init(&b, 256, 50);
    assert_in_range(settled_rows(&b, 100e6, 2e6, &longest), 95, 101); /* slow decodes: three times as long */
    budget_init(&b, 256, 50);
    settled_rows(&b, 4e6, 1e6, &longest);
    int before = budget_rows(&b);
    budget_learn(&b, 2, before, 5000000000); /* the machine slept */
    assert_int_equal(budget_rows(&b), before / 2);
    budget_learn(&b, 2, 1, 5000000); /* few rows were there: says nothing of more */
    assert_int_equal(budget_rows(&b), before / 2);
    assert_in_range(settled_rows(&b, 4e6, 1e6, &longest), 40, 47);
    budget_init(&b, 256, 0);
    assert_int_equal(settled_rows(&b, 4e6, 1e8, &longest), 256); /* no limit of time */
    budget_init(&b, 2, 50);
    assert_int_equal(settled_rows(&b, 4e6, 1e8, &longest), 2);
}

/* The engine asks the budget: rows beside decodes are as it says in every step. */
static void test_budget_rules(void **state)
{
    (void)state;
    struct engine_options o = {.max_running = 4, .max_step_ms = -1};
    struct engine *e = open_engine(200, 64, &o);
    struct job *j = submit(e, request(1, 10, 300, "a")), *other;
    engine_round(e);
    other = submit(e, request(2, 3000, 5, "b"));
    for (int rows = 1; rows <= 32; rows++) {
        uint64_t before = device.n_rows;
        e->budget.rows = rows;
        engine_round(e);
        assert_int_equal(device.n_rows - before, rows + 1);
    }
    engine_release(&other);
    engine_release(&j);
    close_engine(e);
}

/* ---------------------------------------------------------------- the queue */

static int refusal(struct engine *e, uint64_t seed, const char *user, struct err *err)
{
    struct gen_request r = request(seed, 50, 5, user);
    struct job *j = NULL;
    *err = (struct err){0};
    int rc = engine_submit(e, &r, NULL, NULL, &j, err);
    assert_true((rc == HD_OK) == (j != NULL));
    engine_release(&j); /* what was taken is cancelled, and waits until the next round */
    return rc;
}

static void test_queue_limits(void **state)
{
    (void)state;
    struct engine_options o = {.max_running = 1, .max_waiting = 5, .max_waiting_user = 2, .n_keep = -1};
    struct engine *e = open_engine(50, 64, &o);
    struct err err;
    for (int again = 0; again < 3; again++) { /* places are free again each time */
        assert_int_equal(refusal(e, 1, "a", &err), HD_OK);
        assert_int_equal(refusal(e, 2, "a", &err), HD_OK);
        assert_int_equal(refusal(e, 3, "a", &err), HD_ENOMEM);
        assert_string_equal(err.msg, "2 requests of this user are waiting already; the queue holds no more of one user");
        assert_int_equal(refusal(e, 4, "b", &err), HD_OK);
        assert_int_equal(refusal(e, 5, "b", &err), HD_OK);
        assert_int_equal(refusal(e, 6, "c", &err), HD_OK);
        assert_int_equal(refusal(e, 7, "d", &err), HD_ENOMEM);
        assert_string_equal(err.msg, "5 requests are waiting already; the queue holds no more");
        engine_round(e);
    }
    struct job *running = submit(e, request(8, 50, 20, "a"));
    engine_round(e);
    for (uint64_t i = 0; i < 2; i++) /* what runs does not wait */
        assert_int_equal(refusal(e, 20 + i, "a", &err), HD_OK);
    assert_int_equal(refusal(e, 30, "a", &err), HD_ENOMEM);
    engine_release(&running);
    close_engine(e);
}

/* ---------------------------------------------------------------- sharing */

/* Thirty-two requests over one prefix: it is computed once, by the first, and the others wait for it. */
static void test_swarm(void **state)
{
    (void)state;
    enum { N = 32, PREFIX = 10 * KV_PAGE_TOKENS };
    struct engine_options o = {.max_running = 16, .max_waiting = 64, .n_keep = -1};
    struct engine *e = open_engine(300, 64, &o);
    struct job *jobs[N];
    for (uint64_t i = 0; i < N; i++) {
        struct gen_request r = request(1, PREFIX, 5, "swarm"), tail = request(100 + i, 20, 5, "");
        for (int k = 0; k < 20; k++)
            ids_add(&r.prompt, tail.prompt.data[k]);
        gen_request_free(&tail);
        jobs[i] = submit(e, r);
    }
    for (int i = 0; i < N; i++) {
        struct outcome out = {0};
        run_to_end(e, jobs[i], &out);
        assert_int_equal(out.end.finish, FINISH_LENGTH);
        assert_int_equal(out.end.usage.reused_tokens, i == 0 ? 0 : PREFIX);
        engine_release(&jobs[i]);
    }
    struct engine_stats s;
    engine_read_stats(e, &s);
    assert_int_equal(s.prompt_tokens, PREFIX + N * 20);
    assert_int_equal(s.pages_cached, 10);
    close_engine(e);
}

/* Part of all prompt tokens that came from earlier turns, over a conversation of 40 turns with results of tools. */
static double hit_rate(int n_keep)
{
    struct engine_options o = {.n_keep = n_keep};
    struct engine *e = open_engine(300, 128, &o);
    struct gen_request talk = request(1, 2500, 1, "agent");
    int64_t prompts = 0, reused = 0;
    for (uint64_t turn = 0; turn < 40; turn++) {
        struct gen_request r = request(0, 0, 30, "agent"), more = request(100 + turn, 50 + (int)(turn * 37 % 200), 1, "");
        for (size_t i = 0; i < more.prompt.n; i++)
            ids_add(&talk.prompt, more.prompt.data[i]);
        for (size_t i = 0; i < talk.prompt.n; i++)
            ids_add(&r.prompt, talk.prompt.data[i]);
        struct job *j = submit(e, r);
        struct outcome out = {0};
        run_to_end(e, j, &out);
        prompts += turn == 0 ? 0 : out.end.usage.prompt_tokens;
        reused += out.end.usage.reused_tokens;
        for (int64_t i = 0; i < 30; i++)
            ids_add(&talk.prompt, fake_next(talk.prompt.data, (int64_t)talk.prompt.n));
        gen_request_free(&more);
        engine_release(&j);
    }
    gen_request_free(&talk);
    close_engine(e);
    return (double)reused / (double)prompts;
}

static void test_agent_replay(void **state)
{
    (void)state;
    double pages = hit_rate(-1), kept = hit_rate(0);
    printf("# of the prompt tokens of 40 turns, %.4f were known from pages, %.4f with kept states\n", pages, kept);
    assert_true(pages >= 0.95 && kept > pages);
}

/* The one that computes is cancelled: a waiting one goes on from what is there. */
static void test_cancelled_leader(void **state)
{
    (void)state;
    struct engine_options o = {.max_running = 8, .n_keep = -1};
    struct engine *e = open_engine(100, 64, &o);
    struct job *a = submit(e, request(1, 1000, 3, "x")), *b = submit(e, request(1, 1000, 3, "x"));
    struct outcome oa = {0}, ob = {0};
    for (int i = 0; i < 8; i++)
        engine_round(e);
    assert_int_equal(e->running.n, 1);
    engine_cancel(a);
    run_to_end(e, a, &oa);
    run_to_end(e, b, &ob);
    assert_int_equal(ob.end.finish, FINISH_LENGTH);
    assert_int_equal(ob.end.usage.reused_tokens, 8 * 64 / KV_PAGE_TOKENS * KV_PAGE_TOKENS);
    engine_release(&a);
    engine_release(&b);
    close_engine(e);
}

static void test_reasons(void **state)
{
    (void)state;
    struct engine *e = open_engine(100, 64, NULL);
    struct outcome o = {0}, p = {0};
    char why[128];
    struct job *j = submit(e, request(1, 400, 3, "x"));
    run_to_end(e, j, &o);
    gen_usage_explain(&o.end.usage, why, sizeof why);
    assert_string_equal(why, "no state of this user is kept");
    engine_release(&j);
    struct gen_request r = request(1, 400, 3, "x");
    r.prompt.data[300] = r.prompt.data[300] == 10 ? 11 : 10;
    j = submit(e, r);
    run_to_end(e, j, &p);
    assert_int_equal(p.end.usage.reused_tokens, 256);
    gen_usage_explain(&p.end.usage, why, sizeof why);
    assert_string_equal(why, "first differing token at position 300");
    engine_release(&j);
    close_engine(e);
}

/* ---------------------------------------------------------------- order, limits, ends */

/* A user with many requests and one with a single one: the single one does not wait for the many. */
static void test_fair_users(void **state)
{
    (void)state;
    struct engine_options o = {.max_running = 1, .max_waiting = 64};
    struct engine *e = open_engine(100, 64, &o);
    struct job *many[10], *one;
    struct outcome a = {0}, b = {0};
    for (uint64_t i = 0; i < 10; i++)
        many[i] = submit(e, request(i, 100, 10, "many"));
    engine_round(e);
    one = submit(e, request(50, 100, 10, "one"));
    run_to_end(e, one, &a);
    assert_true(a.ended);
    poll_job(many[2], &b);
    assert_false(b.ended);
    assert_int_equal(e->waiting.n + e->running.n, 9);
    for (int i = 0; i < 10; i++)
        engine_release(&many[i]);
    engine_release(&one);
    close_engine(e);
}

/* Weight 3 gets three times the work of weight 1 while both have plenty to do. */
static void test_weights(void **state)
{
    (void)state;
    struct engine_options o = {.max_running = 1, .max_waiting = 200, .n_keep = -1};
    struct engine *e = open_engine(100, 64, &o);
    struct job *jobs[160];
    for (uint64_t i = 0; i < 160; i++) {
        struct gen_request r = request(i, 50, 10, i % 2 == 0 ? "light" : "heavy");
        r.weight = i % 2 == 0 ? 1 : 3;
        jobs[i] = submit(e, r);
    }
    int n[2] = {0};
    while (n[0] + n[1] < 80) {
        engine_round(e);
        n[0] = n[1] = 0;
        for (int i = 0; i < 160; i++)
            n[i % 2] += jobs[i]->retired;
    }
    assert_in_range(n[1], 57, 63);
    for (int i = 0; i < 160; i++)
        engine_release(&jobs[i]);
    close_engine(e);
}

static void test_priority(void **state)
{
    (void)state;
    struct engine_options o = {.max_running = 1};
    struct engine *e = open_engine(100, 64, &o);
    struct job *low[4];
    struct outcome a = {0};
    for (uint64_t i = 0; i < 4; i++)
        low[i] = submit(e, request(i, 100, 10, "x"));
    engine_round(e);
    struct gen_request r = request(9, 100, 1, "x");
    r.priority = 1;
    struct job *high = submit(e, r);
    run_to_end(e, high, &a);
    assert_int_equal(e->waiting.n, 3);
    for (int i = 0; i < 4; i++)
        engine_release(&low[i]);
    engine_release(&high);
    close_engine(e);
}

/* By pages, not by count: what does not fit waits, is not overtaken, and starts when room is there. */
static void test_admission_by_pages(void **state)
{
    (void)state;
    struct engine_options o = {.max_running = 8, .n_keep = -1};
    struct engine *e = open_engine(20, 64, &o);
    struct outcome a = {0}, b = {0}, c = {0};
    struct job *first = submit(e, request(1, 12 * KV_PAGE_TOKENS, 3, "a"));
    struct job *big = submit(e, request(2, 15 * KV_PAGE_TOKENS, 3, "b"));
    struct job *small = submit(e, request(3, 10, 3, "c"));
    engine_round(e);
    assert_int_equal(e->running.n, 1);
    run_to_end(e, first, &a);
    poll_job(small, &c);
    assert_int_equal(c.n_tokens, 0);
    engine_round(e);
    assert_int_equal(e->running.n, 2);
    run_to_end(e, big, &b);
    assert_int_equal(b.end.finish, FINISH_LENGTH);
    engine_release(&first);
    engine_release(&big);
    engine_release(&small);
    close_engine(e);
}

/* Replies outgrow the pages: the youngest is put back, and goes on with the same tokens later. */
static void test_put_back(void **state)
{
    (void)state;
    struct engine_options o = {.max_running = 4, .n_keep = -1};
    struct engine *e = open_engine(16, 64, &o);
    struct job *jobs[3];
    for (uint64_t i = 0; i < 3; i++)
        jobs[i] = submit(e, request(i, 200, 1200, "x"));
    for (uint64_t i = 0; i < 3; i++) {
        struct outcome out = {0};
        run_to_end(e, jobs[i], &out);
        assert_int_equal(out.end.finish, FINISH_LENGTH);
        assert_int_equal(out.end.usage.completion_tokens, 1200);
        engine_release(&jobs[i]);
    }
    struct engine_stats s;
    engine_read_stats(e, &s);
    assert_true(s.put_back > 0 && s.recomputed_tokens > 0);
    assert_int_equal(s.prompt_tokens, 600);
    assert_int_equal(s.completion_tokens, 3600);
    close_engine(e);
}

/* Everything of a cancelled request is free after one round: its own pages, and its place. */
static void test_cancel_in_one_round(void **state)
{
    (void)state;
    struct engine_options o = {.max_running = 1, .n_keep = -1};
    struct engine *e = open_engine(50, 64, &o);
    struct outcome a = {0};
    struct job *j = submit(e, request(1, 2000, 3, "x"));
    for (int i = 0; i < 5; i++)
        engine_round(e);
    engine_cancel(j);
    engine_round(e);
    poll_job(j, &a);
    assert_int_equal(a.end.finish, FINISH_CANCELLED);
    assert_int_equal(e->running.n, 0);
    assert_int_equal(device.n_free + e->cache.n_inactive, 50);
    engine_release(&j);
    close_engine(e);
}

static void test_deadline(void **state)
{
    (void)state;
    struct engine *e = open_engine(50, 64, NULL);
    struct outcome a = {0};
    struct gen_request r = request(1, 200, 3, "x");
    r.deadline_ns = 1;
    struct job *j = submit(e, r);
    run_to_end(e, j, &a);
    assert_int_equal(a.end.finish, FINISH_ERROR);
    assert_non_null(strstr(a.text, "deadline"));
    assert_int_equal(a.end.usage.completion_tokens, 0);
    engine_release(&j);
    close_engine(e);
}

static int open_tokenizer(void **state)
{
    (void)state;
    return tokenizer_open(&tokenizer, "models/tiny", NULL) == HD_OK ? 0 : -1;
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
        cmocka_unit_test(test_decode_is_never_starved), cmocka_unit_test(test_long_prompt_always_advances),
        cmocka_unit_test(test_step_time),      cmocka_unit_test(test_budget_rules),
        cmocka_unit_test(test_queue_limits),
        cmocka_unit_test(test_swarm),          cmocka_unit_test(test_cancelled_leader),
        cmocka_unit_test(test_agent_replay),
        cmocka_unit_test(test_reasons),        cmocka_unit_test(test_fair_users),
        cmocka_unit_test(test_weights),        cmocka_unit_test(test_priority),
        cmocka_unit_test(test_admission_by_pages), cmocka_unit_test(test_put_back),
        cmocka_unit_test(test_cancel_in_one_round), cmocka_unit_test(test_deadline),
    };
    return cmocka_run_group_tests(tests, open_tokenizer, close_tokenizer);
}
