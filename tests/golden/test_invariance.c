/* The same bits whatever the chunking, the thread count, the company, the history: `exact` and `reference` over a golden
 * checkpoint, every comparison bitwise. The base line is one prefill of the whole sequence with all logits. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "golden_data.h"
#include "model/kv.h"
#include "model/model.h"
#include "model/model_impl.h"
#include "ops/cpu/il16.h"

enum { T = 600, ROWS = 608 };

struct world {
    const char *name;
    struct model *m;
    size_t vocab;
    int32_t tokens[T];
    float *base; /* [T][V] logits of one prefill */
    float *base_mtp; /* [T-1][V] MTP logits of the same run */
};

static struct model *open_layout(const char *name, enum numerics n, int threads, enum cpu_isa isa, bool native)
{
    struct model_options o;
    struct err e = {0};
    struct model *m;
    model_options_init(&o);
    o.numerics = n;
    o.n_threads = threads;
    o.isa = isa;
    o.max_rows = ROWS;
    o.tail_share = 0.8;
    o.native = native;
    if (model_open(&m, golden_dir(name), &o, NULL, &e) != HD_OK)
        fail_msg("%s", e.msg);
    return m;
}

static struct model *open_model(const char *name, enum numerics n, int threads, enum cpu_isa isa)
{
    return open_layout(name, n, threads, isa, false);
}

static struct kv_seq *open_seq(struct model *m)
{
    struct err e = {0};
    struct kv_seq *s;
    if (kv_seq_open(&s, m, 2048, &e) != HD_OK)
        fail_msg("%s", e.msg);
    return s;
}

static void step(struct model *m, const struct step_item *items, int n, struct step_result *r)
{
    struct err e = {0};
    if (model_step(m, items, n, r, &e) != HD_OK)
        fail_msg("%s", e.msg);
}

/* Feeds tokens [from, to) in chunks and compares every row of logits with the base line. */
static void feed(const struct world *w, struct model *m, struct kv_seq *s, int from, int to, int chunk)
{
    for (int at = from; at < to; at += chunk) {
        int n = to - at < chunk ? to - at : chunk;
        struct step_item it = {s, w->tokens + at, n, n, false, -1, NULL, false};
        struct step_result r;
        step(m, &it, 1, &r);
        for (int k = 0; k < n; k++)
            if (memcmp(r.logits + (size_t)k * w->vocab, w->base + (size_t)(at + k) * w->vocab,
                       w->vocab * sizeof(float)) != 0)
                fail_msg("logits at position %d differ (chunk of %d from %d)", at + k, n, at);
    }
}

static struct world *world_open(const char *name, enum numerics n)
{
    struct world *w = xcalloc(1, sizeof *w);
    w->name = name;
    w->m = open_model(name, n, 2, cpu_isa_best());
    w->vocab = (size_t)model_config(w->m)->vocab_size;
    struct rng r = {7};
    for (int i = 0; i < T; i++)
        w->tokens[i] = (int32_t)rng_below(&r, (uint32_t)w->vocab);
    w->base = xcalloc(T * w->vocab, sizeof(float));
    w->base_mtp = xcalloc(T * w->vocab, sizeof(float));
    struct kv_seq *s = open_seq(w->m);
    bool mtp = model_has_mtp(w->m);
    struct step_item it = {s, w->tokens, T, T, mtp, -1, NULL, false};
    struct step_result res;
    step(w->m, &it, 1, &res);
    memcpy(w->base, res.logits, T * w->vocab * sizeof(float));
    if (mtp) {
        assert_int_equal(res.n_mtp, T - 1);
        memcpy(w->base_mtp, res.mtp_logits, (T - 1) * w->vocab * sizeof(float));
    }
    kv_seq_close(&s);
    return w;
}

static void world_close(struct world *w)
{
    free(w->base);
    free(w->base_mtp);
    model_close(&w->m);
    free(w);
}

static int setup_exact(void **st)
{
    *st = world_open("f32-tiny", NUM_EXACT);
    return 0;
}

static int setup_reference(void **st)
{
    *st = world_open("q-tiny", NUM_REFERENCE);
    return 0;
}

static int setup_fast(void **st)
{
    *st = world_open("q-tiny", NUM_FAST);
    return 0;
}

static int setup_int8(void **st)
{
    *st = world_open("q-tiny", NUM_INT8);
    return 0;
}

static int teardown(void **st)
{
    world_close(*st);
    return 0;
}

/* ---------------------------------------------------------------- chunks */

static void test_fixed_chunks(void **st)
{
    struct world *w = *st;
    static const int chunks[] = {1, 3, 64, 127, 128, 129, 256};
    for (size_t i = 0; i < COUNT_OF(chunks); i++) {
        struct kv_seq *s = open_seq(w->m);
        feed(w, w->m, s, 0, T, chunks[i]);
        kv_seq_close(&s);
    }
}

static void test_random_chunks(void **st)
{
    struct world *w = *st;
    struct rng r = {99};
    for (int round = 0; round < 6; round++) {
        struct kv_seq *s = open_seq(w->m);
        for (int at = 0; at < T;) {
            int n = 1 + (int)rng_below(&r, round % 2 ? 12 : 200);
            n = n < T - at ? n : T - at;
            feed(w, w->m, s, at, at + n, n);
            at += n;
        }
        kv_seq_close(&s);
    }
}

/* Prefill of n tokens, then one decoded token: for every n around each boundary, and every n with a stride elsewhere, so
 * that each residue modulo 4 and each side of a window is met. `make nightly` takes every n from 1 to 600. */
static void test_prefill_then_decode(void **st)
{
    struct world *w = *st;
    bool all = getenv("HADAL_ALL_PREFIXES") != NULL;
    struct kv_seq *s = open_seq(w->m);
    for (int n = 1; n < T; n++) {
        bool near = n % 128 <= 3 || n % 128 >= 125 || n <= 12 || n % 37 == 0;
        if (!near && !all)
            continue;
        kv_seq_clear(s);
        struct step_item it = {s, w->tokens, n, 1, false, -1, NULL, false};
        struct step_result r;
        step(w->m, &it, 1, &r);
        if (memcmp(r.logits, w->base + (size_t)(n - 1) * w->vocab, w->vocab * sizeof(float)) != 0)
            fail_msg("prefill of %d tokens differs", n);
        feed(w, w->m, s, n, n + 1, 1);
    }
    kv_seq_close(&s);
}

/* ---------------------------------------------------------------- threads, instruction sets */

static void test_threads_and_isa(void **st)
{
    struct world *w = *st;
    enum numerics n = model_numerics(w->m);
    const char *name = n == NUM_EXACT ? "f32-tiny" : "q-tiny";
    static const int threads[] = {1, 2, 3, 8};
    for (size_t i = 0; i < COUNT_OF(threads); i++) {
        struct model *m = open_model(name, n, threads[i], cpu_isa_best());
        struct kv_seq *s = open_seq(m);
        feed(w, m, s, 0, T, 200);
        kv_seq_close(&s);
        model_close(&m);
    }
    for (int isa = ISA_REF; isa <= (int)cpu_isa_best() && !numerics_fast(n); isa++) {
        struct err e = {0};
        enum cpu_isa level;
        if (cpu_isa_parse(cpu_isa_name((enum cpu_isa)isa), &level, &e) != HD_OK)
            continue; /* a level of another processor family */
        struct model *m = open_model(name, n, 2, level);
        struct kv_seq *s = open_seq(m);
        feed(w, m, s, 0, 300, 150);
        kv_seq_close(&s);
        model_close(&m);
    }
}

/* ---------------------------------------------------------------- company */

/* Three sequences of other lengths and speeds run in the same steps; ours must not notice, nor must theirs. */
static void test_other_sequences(void **st)
{
    struct world *w = *st;
    enum { N = 4 };
    struct kv_seq *s[N];
    int at[N] = {0}, speed[N] = {5, 1, 17, 128};
    for (int i = 0; i < N; i++)
        s[i] = open_seq(w->m);
    while (at[1] < 150) {
        struct step_item it[N];
        struct step_result r;
        int n = 0, of[N];
        for (int i = 0; i < N; i++) {
            int k = at[i] + speed[i] <= T ? speed[i] : T - at[i];
            if (k == 0)
                continue;
            of[n] = i;
            it[n++] = (struct step_item){s[i], w->tokens + at[i], k, 1, false, -1, NULL, false};
        }
        step(w->m, it, n, &r);
        for (int k = 0; k < n; k++) {
            at[of[k]] += it[k].n_tokens;
            if (memcmp(r.logits + (size_t)k * w->vocab, w->base + (size_t)(at[of[k]] - 1) * w->vocab,
                       w->vocab * sizeof(float)) != 0)
                fail_msg("sequence %d differs at position %d in company", of[k], at[of[k]] - 1);
        }
    }
    for (int i = 0; i < N; i++)
        kv_seq_close(&s[i]);
    assert_int_equal(model_pages_free(w->m), model_pages_total(w->m));
}

static void test_new_after_longer(void **st)
{
    struct world *w = *st;
    struct kv_seq *s = open_seq(w->m);
    for (int n = 1; n <= 6; n++) { /* shorter than an overlap window: old state must not leak in */
        kv_seq_clear(s);
        int32_t other[300];
        for (int i = 0; i < 300; i++)
            other[i] = w->tokens[T - 1 - i];
        struct step_item it = {s, other, 300, 0, false, -1, NULL, false};
        struct step_result r;
        step(w->m, &it, 1, &r);
        kv_seq_clear(s);
        feed(w, w->m, s, 0, n, n);
        feed(w, w->m, s, n, n + 140, 1 + n);
    }
    kv_seq_close(&s);
}

/* ---------------------------------------------------------------- save, restore, take back */

static void test_save_restore(void **st)
{
    struct world *w = *st;
    static const int at[] = {1, 3, 4, 5, 127, 128, 129, 130, 255, 256, 257, 383, 384, 385, 511, 512, 513};
    struct kv_seq *other = open_seq(w->m); /* alive beside it, and must survive */
    feed(w, w->m, other, 0, 77, 77);
    struct kv_seq *a = open_seq(w->m);
    for (size_t i = 0; i < COUNT_OF(at); i++) {
        struct buf saved = {0};
        struct err e = {0};
        feed(w, w->m, a, (int)kv_seq_tokens(a), at[i], 50);
        assert_int_equal(kv_seq_save(a, &saved, &e), HD_OK);
        struct kv_seq *b = open_seq(w->m);
        feed(w, w->m, b, 0, 9, 9); /* load replaces what was there */
        if (kv_seq_load(b, saved.data, saved.len, &e) != HD_OK)
            fail_msg("%s", e.msg);
        assert_int_equal(kv_seq_tokens(b), at[i]);
        feed(w, w->m, b, at[i], at[i] + 20 < T ? at[i] + 20 : T, 1);
        kv_seq_close(&b);
        buf_free(&saved);
    }
    feed(w, w->m, other, 77, 160, 1);
    kv_seq_close(&a);
    kv_seq_close(&other);
}

/* A model whose weights stay as they are stored has the same logits, saves the same bytes and goes on with what one with
 * packed weights saved, and the other way round. */
static void test_layouts(void **st)
{
    const struct world *w = *st;
    struct model *m[2];
    struct kv_seq *s[2];
    struct buf saved[2] = {{0}};
    for (int i = 0; i < 2; i++) {
        struct err e = {0};
        m[i] = open_layout(w->name, model_numerics(w->m), 2, cpu_isa_best(), i == 1);
        const struct il16 *lines = m[i]->layers[0].wq_a.packed;
        assert_true(numerics_fast(m[i]->numerics) ? (lines->stored != NULL) == (i == 1) : lines == NULL);
        s[i] = open_seq(m[i]);
        feed(w, m[i], s[i], 0, 517, 100);
        assert_int_equal(kv_seq_save(s[i], &saved[i], &e), HD_OK);
    }
    assert_true(model_fingerprint(m[0]) == model_fingerprint(m[1]));
    assert_int_equal(saved[0].len, saved[1].len);
    assert_memory_equal(saved[0].data, saved[1].data, saved[0].len);
    for (int i = 0; i < 2; i++) {
        struct err e = {0};
        assert_int_equal(kv_seq_load(s[i], saved[1 - i].data, saved[1 - i].len, &e), HD_OK);
        feed(w, m[i], s[i], 517, T, 7);
    }
    for (int i = 0; i < 2; i++) {
        buf_free(&saved[i]);
        kv_seq_close(&s[i]);
        model_close(&m[i]);
    }
}

static void test_damaged_save(void **st)
{
    struct world *w = *st;
    struct kv_seq *s = open_seq(w->m), *t = open_seq(w->m);
    struct buf saved = {0};
    struct err e = {0};
    feed(w, w->m, s, 0, 140, 140);
    assert_int_equal(kv_seq_save(s, &saved, &e), HD_OK);
    for (size_t cut = 0; cut < saved.len; cut += saved.len / 7 + 1) {
        struct err bad = {0};
        assert_int_equal(kv_seq_load(t, saved.data, cut, &bad), HD_EFORMAT);
        assert_int_equal(kv_seq_tokens(t), 0);
    }
    for (size_t i = 0; i < saved.len; i += saved.len / 23 + 1) {
        struct err bad = {0};
        saved.data[i] ^= 1;
        assert_int_equal(kv_seq_load(t, saved.data, saved.len, &bad), HD_EFORMAT);
        saved.data[i] ^= 1;
    }
    assert_int_equal(kv_seq_load(t, saved.data, saved.len, &e), HD_OK);
    buf_free(&saved);
    kv_seq_close(&s);
    kv_seq_close(&t);
}

/* Every count 1..8 taken back at every residue of 128 (and so of 4), after that many wrong tokens were appended. */
static void test_take_back(void **st)
{
    struct world *w = *st;
    struct kv_seq *s = open_seq(w->m);
    struct err e = {0};
    feed(w, w->m, s, 0, 120, 120);
    for (int p = 120; p < 120 + KV_PAGE_TOKENS; p++) {
        for (int back = 1; back <= KV_ROLLBACK; back++) {
            int32_t draft[KV_ROLLBACK];
            for (int i = 0; i < back; i++)
                draft[i] = w->tokens[(p * 31 + i * 7) % T];
            struct step_item it = {s, draft, back, 0, false, -1, NULL, false};
            struct step_result r;
            step(w->m, &it, 1, &r);
            if (kv_seq_truncate(s, p, &e) != HD_OK)
                fail_msg("%s", e.msg);
        }
        feed(w, w->m, s, p, p + 1, 1);
    }
    kv_seq_close(&s);
}

/* All counts at each residue of 8, right after a long chunk. */
static void test_take_back_every_count(void **st)
{
    struct world *w = *st;
    struct err e = {0};
    struct kv_seq *s = open_seq(w->m);
    for (int back = 1; back <= KV_ROLLBACK; back++)
        for (int n = 252; n < 260; n++) {
            kv_seq_clear(s);
            feed(w, w->m, s, 0, n, n);
            assert_int_equal(kv_seq_truncate(s, n - back, &e), HD_OK);
            feed(w, w->m, s, n - back, n + 6, 1);
        }
    struct err refused = {0};
    int64_t have = kv_seq_tokens(s);
    assert_int_equal(kv_seq_truncate(s, have - KV_ROLLBACK - 1, &refused), HD_EARG);
    assert_int_equal(kv_seq_tokens(s), have);
    kv_seq_close(&s);
}

/* ---------------------------------------------------------------- sharing: tails, resumed sequences, forks */

enum { N_TAILS = 4 };

/* Prefill with tails kept at each page end, whatever the chunking, then go on from every page end in a new sequence. */
static void test_resume_at_page_ends(void **st)
{
    struct world *w = *st;
    static const int chunks[] = {600, 512, 200, 128, 127, 1};
    struct err e = {0};
    for (size_t i = 0; i < COUNT_OF(chunks); i++) {
        struct kv_seq *s = open_seq(w->m);
        int32_t tails[N_TAILS];
        for (int k = 0; k < N_TAILS; k++)
            assert_true((tails[k] = kv_tail_take(w->m)) >= 0);
        for (int at = 0; at < T; at += chunks[i]) {
            int n = T - at < chunks[i] ? T - at : chunks[i];
            struct step_item it = {.seq = s, .tokens = w->tokens + at, .n_tokens = n, .next_token = -1,
                                   .tails = tails + at / KV_PAGE_TOKENS};
            struct step_result r;
            step(w->m, &it, 1, &r);
        }
        int32_t pages[N_TAILS];
        for (int k = 0; k < N_TAILS; k++)
            pages[k] = kv_seq_page(s, k);
        for (int k = 1; k <= N_TAILS; k++) {
            struct kv_seq *b = open_seq(w->m);
            int from = k * KV_PAGE_TOKENS;
            if (kv_seq_resume(b, pages, k, tails[k - 1], &e) != HD_OK)
                fail_msg("%s", e.msg);
            assert_int_equal(kv_seq_tokens(b), from);
            feed(w, w->m, b, from, from + 88, 1 + 29 * (k % 2));
            struct err refused = {0};
            assert_int_equal(kv_seq_truncate(b, from - 1, &refused), HD_EARG);
            kv_seq_close(&b);
        }
        kv_seq_close(&s);
        for (int k = 0; k < N_TAILS; k++)
            kv_tail_give(w->m, tails[k]);
        assert_int_equal(model_pages_free(w->m), model_pages_total(w->m));
        assert_int_equal(model_tails_free(w->m), model_tails_total(w->m));
    }
}

/* A fork costs one page; both branches go on, take tokens back across the shared page, and never see each other. */
static void test_fork(void **st)
{
    struct world *w = *st;
    static const int at[] = {3, 127, 128, 129, 131, 255, 256, 300};
    struct err e = {0};
    for (size_t i = 0; i < COUNT_OF(at); i++) {
        struct kv_seq *a = open_seq(w->m), *b = open_seq(w->m);
        feed(w, w->m, a, 0, at[i], at[i]);
        int64_t before = model_pages_free(w->m);
        assert_int_equal(kv_seq_fork(b, a, &e), HD_OK);
        assert_int_equal(before - model_pages_free(w->m), at[i] % KV_PAGE_TOKENS != 0);
        int back = at[i] < 6 ? 1 : 6;
        int32_t other[40];
        for (int k = 0; k < 40; k++)
            other[k] = w->tokens[T - 1 - k];
        struct step_item it = {.seq = b, .tokens = other, .n_tokens = 40, .next_token = -1};
        struct step_result r;
        assert_int_equal(kv_seq_truncate(b, at[i] - back, &e), HD_OK);
        step(w->m, &it, 1, &r); /* the other branch writes where the first one's history is */
        feed(w, w->m, a, at[i], at[i] + 60, 7);
        kv_seq_close(&a);
        kv_seq_close(&b);
    }
    assert_int_equal(model_pages_free(w->m), model_pages_total(w->m));
}

/* ---------------------------------------------------------------- MTP */

static void check_mtp(const struct world *w, const struct step_result *r)
{
    for (int k = 0; k < r->n_mtp; k++)
        if (memcmp(r->mtp_logits + (size_t)k * w->vocab, w->base_mtp + (size_t)r->mtp_pos[k] * w->vocab,
                   w->vocab * sizeof(float)) != 0)
            fail_msg("MTP logits at position %lld differ", (long long)r->mtp_pos[k]);
}

/* Chunks with and without naming the next token, wrong guesses of it, and tokens taken back. */
static void test_mtp(void **st)
{
    struct world *w = *st;
    struct kv_seq *s = open_seq(w->m);
    struct rng rng = {5};
    struct err e = {0};
    int seen = 0;
    for (int at = 0; at < 400;) {
        int n = 1 + (int)rng_below(&rng, 40), how = (int)rng_below(&rng, 3);
        int32_t next = how == 0 ? -1 : how == 1 ? w->tokens[at + n] : (w->tokens[at + n] + 1) % (int32_t)w->vocab;
        struct step_item it = {s, w->tokens + at, n, n, true, next, NULL, false};
        struct step_result r;
        step(w->m, &it, 1, &r);
        r.n_mtp -= how == 2; /* the last row used the wrong guess */
        check_mtp(w, &r);
        seen += r.n_mtp;
        at += n;
        int back = (int)rng_below(&rng, 4);
        if (back < n && back > 0) {
            assert_int_equal(kv_seq_truncate(s, at - back, &e), HD_OK);
            at -= back;
        }
    }
    assert_true(seen > 300);
    kv_seq_close(&s);
}

/* ---------------------------------------------------------------- refusals leave everything as it was */

static void test_refused_steps(void **st)
{
    struct world *w = *st;
    struct kv_seq *s = open_seq(w->m);
    struct step_result r;
    feed(w, w->m, s, 0, 130, 130);
    int32_t bad[2] = {w->tokens[130], (int32_t)w->vocab};
    struct step_item it = {s, bad, 2, 1, false, -1, NULL, false};
    struct err e = {0};
    int64_t free_before = model_pages_free(w->m);
    assert_int_equal(model_step(w->m, &it, 1, &r, &e), HD_EARG);
    assert_non_null(strstr(e.msg, "outside the vocabulary"));
    struct step_item none = {s, bad, 0, 0, false, -1, NULL, false};
    struct err e2 = {0};
    assert_int_equal(model_step(w->m, &none, 1, &r, &e2), HD_EARG);
    assert_int_equal(kv_seq_tokens(s), 130);
    assert_int_equal(model_pages_free(w->m), free_before);
    feed(w, w->m, s, 130, 140, 1);
    kv_seq_close(&s);
}

static void test_pages_run_out(void **st)
{
    (void)st;
    struct model_options o;
    struct err e = {0}, full = {0};
    struct model *m;
    model_options_init(&o);
    o.numerics = NUM_EXACT;
    if (model_open(&m, golden_dir("f32-tiny"), &o, NULL, &e) != HD_OK)
        fail_msg("%s", e.msg);
    o.kv_budget_bytes = 2 * model_page_bytes(m);
    model_close(&m);
    assert_int_equal(model_open(&m, golden_dir("f32-tiny"), &o, NULL, &e), HD_OK);
    struct kv_seq *a = open_seq(m), *b = open_seq(m);
    int32_t tokens[200] = {0};
    struct step_item it[2] = {{a, tokens, 128, 0, false, -1, NULL, false}, {b, tokens, 200, 0, false, -1, NULL, false}};
    struct step_result r;
    assert_int_equal(model_step(m, it, 2, &r, &full), HD_ENOMEM);
    assert_non_null(strstr(full.msg, "KV cache is full"));
    assert_int_equal(kv_seq_tokens(a), 0);
    assert_int_equal(model_pages_free(m), 2);
    assert_int_equal(model_step(m, it, 1, &r, &e), HD_OK);
    kv_seq_close(&a);
    kv_seq_close(&b);
    assert_int_equal(model_pages_free(m), 2);
    model_close(&m);
}

/* HADAL_TEST_FILTER runs only the tests of that name (a cmocka pattern): the mutation run uses it. */
int main(void)
{
    const char *filter = getenv("HADAL_TEST_FILTER");
    if (filter != NULL)
        cmocka_set_test_filter(filter);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_fixed_chunks),     cmocka_unit_test(test_random_chunks),   cmocka_unit_test(test_prefill_then_decode),
        cmocka_unit_test(test_threads_and_isa),  cmocka_unit_test(test_other_sequences), cmocka_unit_test(test_new_after_longer),
        cmocka_unit_test(test_save_restore),     cmocka_unit_test(test_damaged_save),    cmocka_unit_test(test_take_back),
        cmocka_unit_test(test_take_back_every_count), cmocka_unit_test(test_mtp), cmocka_unit_test(test_layouts),
        cmocka_unit_test(test_refused_steps), cmocka_unit_test(test_resume_at_page_ends), cmocka_unit_test(test_fork),
        cmocka_unit_test(test_pages_run_out),
    };
    int bad = cmocka_run_group_tests_name("exact, f32-tiny", tests, setup_exact, teardown);
    bad += cmocka_run_group_tests_name("reference, q-tiny", tests, setup_reference, teardown);
    bad += cmocka_run_group_tests_name("fast, q-tiny", tests, setup_fast, teardown);
    bad += cmocka_run_group_tests_name("int8, q-tiny", tests, setup_int8, teardown);
    return bad;
}
