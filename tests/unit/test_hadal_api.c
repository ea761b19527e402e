/* The public interface over the embedded model. Nothing here depends on what the weights say: texts are compared with each
 * other, and with a plain loop over the model. */
#include "hadal.h"

#include "model/model.h"

#include <ftw.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include <cmocka.h>

static const char DIR[] = "models/tiny";

static hadal *open_model(int keep)
{
    hadal *h;
    hadal_error e;
    hadal_options o;
    hadal_options_init(&o);
    o.threads = 2;
    o.context_tokens = 3000;
    o.step_tokens = 64;
    o.keep = keep;
    if (hadal_open(&h, DIR, &o, &e) != HADAL_OK)
        fail_msg("%s", e.message);
    return h;
}

static int setup(void **state)
{
    *state = open_model(0);
    return 0;
}

static int teardown(void **state)
{
    hadal *h = *state;
    hadal_close(&h);
    assert_null(h);
    return 0;
}

/* ---------------------------------------------------------------- requests to outcomes */

struct outcome {
    char text[16384]; /* content, reasoning and tool calls as they came */
    int32_t tokens[512];
    int n_tokens, n_prompt_events;
    hadal_event end;
};

static void take_events(hadal_request *r, struct outcome *o)
{
    hadal_event ev;
    size_t n = 0;
    memset(o, 0, sizeof *o);
    while (hadal_next(r, &ev, -1)) {
        if (ev.kind == HADAL_EVENT_TOKEN) {
            assert_true(ev.logprob <= 0 && ev.n_top <= 20 && o->n_tokens < 512);
            for (int i = 1; i < ev.n_top; i++)
                assert_true(ev.top[i].logprob <= ev.top[i - 1].logprob);
            o->tokens[o->n_tokens++] = ev.token;
        } else if (ev.kind == HADAL_EVENT_PROMPT) {
            o->n_prompt_events++;
            assert_true(ev.prompt_done <= ev.prompt_total);
        } else if (ev.kind == HADAL_EVENT_END) {
            o->end = ev;
        } else {
            assert_true(n + ev.text_bytes < sizeof o->text);
            memcpy(o->text + n, ev.text, ev.text_bytes);
            n += ev.text_bytes;
        }
    }
    assert_int_equal(o->end.kind, HADAL_EVENT_END);
    assert_int_equal(hadal_next(r, &ev, 0), 0);
}

static hadal_request *submit(hadal *h, const char *json)
{
    hadal_request *r;
    hadal_error e;
    if (hadal_submit(h, json, NULL, NULL, &r, &e) != HADAL_OK)
        fail_msg("%s", e.message);
    return r;
}

static void run(hadal *h, const char *json, struct outcome *o)
{
    hadal_request *r = submit(h, json);
    take_events(r, o);
    hadal_release(&r);
    assert_null(r);
}

/* {"tokens": [...], EXTRA} */
static char *tokens_request(const int32_t *tokens, int n, const char *extra)
{
    struct buf b = {0};
    buf_str(&b, "{\"tokens\": [");
    for (int i = 0; i < n; i++)
        buf_printf(&b, i == 0 ? "%d" : ", %d", tokens[i]);
    buf_printf(&b, "], %s}", extra);
    return b.data;
}

static int random_prompt(int32_t *tokens, uint64_t seed, int n, int n_vocab)
{
    struct rng r = {seed};
    tokens[0] = 0;
    for (int i = 1; i < n; i++)
        tokens[i] = 10 + (int32_t)rng_below(&r, (uint32_t)n_vocab - 10);
    return n;
}

/* ---------------------------------------------------------------- opening */

static int stop_at_once(void *arg, const char *what, uint64_t done, uint64_t total)
{
    (void)what, (void)done, (void)total;
    ++*(int *)arg;
    return 1;
}

static void test_open_refusals(void **state)
{
    (void)state;
    hadal *h = (hadal *)state; /* must become NULL */
    hadal_error e;
    hadal_options o;
    assert_true(hadal_open(&h, "no/such/model", NULL, &e) < 0);
    assert_null(h);
    assert_non_null(strstr(e.message, "no/such/model"));
    hadal_options_init(&o);
    o.numerics = "sloppy";
    assert_int_equal(hadal_open(&h, DIR, &o, &e), HADAL_EARG);
    assert_non_null(strstr(e.message, "sloppy"));
    hadal_options_init(&o);
    o.layout = "square";
    assert_int_equal(hadal_open(&h, DIR, &o, &e), HADAL_EARG);
    assert_non_null(strstr(e.message, "square"));
    hadal_options_init(&o);
    o.size = 8;
    assert_int_equal(hadal_open(&h, DIR, &o, NULL), HADAL_EARG);
    hadal_options_init(&o);
    o.threads = -1;
    assert_int_equal(hadal_open(&h, DIR, &o, &e), HADAL_EARG);
    int calls = 0;
    hadal_options_init(&o);
    o.progress = stop_at_once;
    o.progress_arg = &calls;
    assert_int_equal(hadal_open(&h, DIR, &o, &e), HADAL_ECANCELLED);
    assert_true(calls > 0 && h == NULL);
    hadal_close(&h); /* of nothing is nothing */
}

static void test_text(void **state)
{
    hadal *h = *state;
    hadal_error e;
    int32_t *ids, *prompt;
    size_t n, n_bytes, n_prompt;
    char *text;
    static const char hello[] = "Hello, caf\xc3\xa9 <think>";
    assert_int_equal(hadal_tokenize(h, hello, strlen(hello), 0, &ids, &n, &e), HADAL_OK);
    assert_int_equal(hadal_detokenize(h, ids, n, &text, &n_bytes, &e), HADAL_OK);
    assert_string_equal(text, hello);
    assert_int_equal(n_bytes, strlen(hello));
    size_t n_plain = n;
    hadal_free(ids);
    hadal_free(text);
    assert_int_equal(hadal_tokenize(h, hello, strlen(hello), 1, &ids, &n, &e), HADAL_OK);
    assert_true(n < n_plain);
    hadal_free(ids);
    assert_int_equal(hadal_tokenize(h, "", 0, 0, &ids, &n, &e), HADAL_OK);
    assert_true(n == 0 && ids != NULL);
    hadal_free(ids);
    int32_t bad = hadal_vocabulary_size(h);
    assert_int_equal(hadal_detokenize(h, &bad, 1, &text, &n_bytes, &e), HADAL_EARG);
    assert_int_equal(hadal_encode(h, "{\"messages\": [{\"role\": \"user\", \"content\": \"Hi\"}],"
                                     "\"thinking\": {\"type\": \"disabled\"}}", &prompt, &n_prompt, &e), HADAL_OK);
    assert_int_equal(hadal_detokenize(h, prompt, n_prompt, &text, &n_bytes, &e), HADAL_OK);
    assert_string_equal(text, "<\uff5cbegin\u2581of\u2581sentence\uff5c><\uff5cUser\uff5c>Hi"
                              "<\uff5cAssistant\uff5c></think>");
    hadal_free(text);
    hadal_free(prompt);
    assert_int_equal(hadal_context_tokens(h), 3000);
    assert_string_equal(hadal_version(), HADAL_VERSION);
}

static void test_submit_refusals(void **state)
{
    hadal *h = *state;
    hadal_request *r = (hadal_request *)state;
    hadal_error e;
    static const char *const bad[][2] = {
        {"", "request"}, {"{", "request"}, {"{}", "messages"}, {"{\"prompt\": \"x\", \"n\": 2}", "'n'"},
        {"{\"prompt\": \"\"}", "no tokens"},
    };
    for (size_t i = 0; i < COUNT_OF(bad); i++) {
        assert_int_equal(hadal_submit(h, bad[i][0], NULL, NULL, &r, &e), HADAL_EARG);
        assert_null(r);
        if (strstr(e.message, bad[i][1]) == NULL)
            fail_msg("'%s' does not name %s", e.message, bad[i][1]);
    }
    struct buf deep = {0};
    for (int i = 0; i < 100000; i++)
        buf_char(&deep, '[');
    assert_true(hadal_submit(h, deep.data, NULL, NULL, &r, &e) < 0); /* no crash */
    buf_free(&deep);
    hadal_release(&r);
}

/* ---------------------------------------------------------------- generating */

/* Greedy decoding by hand: the engine adds nothing and loses nothing. */
static void test_equals_model(void **state)
{
    hadal *h = *state;
    enum { N = 90, NEW = 30 };
    int32_t tokens[N + NEW];
    struct model *m;
    struct kv_seq *s;
    struct model_options mo;
    struct step_result res;
    struct outcome o;
    int n_vocab = hadal_vocabulary_size(h), n = random_prompt(tokens, 5, N, n_vocab);
    model_options_init(&mo);
    mo.n_threads = 1;
    assert_int_equal(model_open(&m, DIR, &mo, NULL, NULL), HD_OK);
    assert_int_equal(kv_seq_open(&s, m, N + NEW, NULL), HD_OK);
    assert_int_equal(model_prefill(m, s, tokens, n, true, NULL, &res, NULL), HD_OK);
    for (; n < N + NEW; n++) {
        int best = 0;
        for (int i = 1; i < n_vocab; i++)
            if (res.logits[i] > res.logits[best])
                best = i;
        tokens[n] = best;
        if (best == model_config(m)->eos_id)
            break;
        struct step_item item = {.seq = s, .tokens = &tokens[n], .n_tokens = 1, .n_logits = 1, .next_token = -1};
        assert_int_equal(model_step(m, &item, 1, &res, NULL), HD_OK);
    }
    kv_seq_close(&s);
    model_close(&m);
    char *json = tokens_request(tokens, N, "\"temperature\": 0, \"max_tokens\": 30, \"logprobs\": true");
    run(h, json, &o);
    assert_int_equal(o.n_tokens, n - N);
    assert_memory_equal(o.tokens, tokens + N, (size_t)o.n_tokens * sizeof *tokens);
    assert_int_equal(o.end.prompt_tokens, N);
    assert_int_equal(o.end.completion_tokens, n - N);
    assert_true(o.n_prompt_events >= 1);
    free(json);
}

static void test_together(void **state)
{
    hadal *h = *state;
    enum { N = 5 };
    static struct outcome alone[N], together[N];
    hadal_request *r[N];
    char *json[N];
    for (int i = 0; i < N; i++)
        json[i] = xasprintf("{\"messages\": [{\"role\": \"user\", \"content\": \"Question %d%s\"}], \"seed\": %d, "
                            "\"top_p\": 0.9, \"max_tokens\": %d, \"logprobs\": true, \"top_logprobs\": 4, "
                            "\"user_id\": \"u%d\"}",
                            i, i == 3 ? " with a longer text, so that prompts and replies are stepped together" : "", i,
                            20 + i, i);
    for (int i = 0; i < N; i++)
        run(h, json[i], &alone[i]);
    hadal_close(&h);
    *state = h = open_model(0); /* no state is left from before */
    for (int i = 0; i < N; i++)
        r[i] = submit(h, json[i]);
    for (int i = N - 1; i >= 0; i--) {
        take_events(r[i], &together[i]);
        hadal_release(&r[i]);
        assert_int_equal(together[i].n_tokens, alone[i].n_tokens);
        assert_memory_equal(together[i].tokens, alone[i].tokens, sizeof alone[i].tokens);
        assert_string_equal(together[i].text, alone[i].text);
        assert_int_equal(together[i].end.finish, alone[i].end.finish);
        free(json[i]);
    }
}

/* A second turn that repeats the first one's tokens: less is run, and the reply is the same as without reuse. */
static void test_reuse(void **state)
{
    hadal *h = *state, *fresh = open_model(-1);
    static struct outcome first, again, alone;
    int32_t tokens[600];
    int n = random_prompt(tokens, 9, 300, hadal_vocabulary_size(h));
    char *json = tokens_request(tokens, n, "\"seed\": 1, \"max_tokens\": 20, \"logprobs\": true, \"user_id\": \"reuse\"");
    run(h, json, &first);
    free(json);
    memcpy(tokens + n, first.tokens, (size_t)first.n_tokens * sizeof *tokens);
    n += first.n_tokens;
    n += random_prompt(tokens + n, 10, 40, hadal_vocabulary_size(h));
    json = tokens_request(tokens, n, "\"seed\": 2, \"max_tokens\": 20, \"logprobs\": true, \"user_id\": \"reuse\"");
    run(h, json, &again);
    run(fresh, json, &alone);
    assert_int_equal(again.end.reused_tokens, 300 + first.n_tokens - (first.end.finish == HADAL_FINISH_LENGTH));
    assert_int_equal(alone.end.reused_tokens, 0);
    assert_int_equal(again.n_tokens, alone.n_tokens);
    assert_memory_equal(again.tokens, alone.tokens, sizeof alone.tokens);
    free(json);

    tokens[299] = tokens[299] == 50 ? 51 : 50; /* another last token than the first prompt's, then something new */
    json = tokens_request(tokens, 340, "\"seed\": 3, \"max_tokens\": 20, \"logprobs\": true, \"user_id\": \"reuse\"");
    run(h, json, &again);
    run(fresh, json, &alone);
    assert_int_equal(again.end.reused_tokens, 299); /* of the state at the end of that prompt */
    assert_int_equal(again.n_tokens, alone.n_tokens);
    assert_memory_equal(again.tokens, alone.tokens, sizeof alone.tokens);
    free(json);
    hadal_close(&fresh);
}

static hadal *open_with_state(const char *dir)
{
    hadal *h;
    hadal_error e;
    hadal_options o;
    hadal_options_init(&o);
    o.threads = 2;
    o.context_tokens = 3000;
    o.state_dir = dir;
    if (hadal_open(&h, DIR, &o, &e) != HADAL_OK)
        fail_msg("%s", e.message);
    return h;
}

static int remove_entry(const char *path, const struct stat *st, int type, struct FTW *at)
{
    (void)st, (void)type, (void)at;
    return remove(path);
}

/* With a state_dir, what was run before hadal_close is not run again after the next hadal_open. */
static void test_state_dir(void **state)
{
    (void)state;
    char dir[] = "/tmp/hadal-state-XXXXXX";
    assert_non_null(mkdtemp(dir));
    static struct outcome first, again;
    int32_t tokens[600];
    hadal *h = open_with_state(dir);
    int n = random_prompt(tokens, 11, 600, hadal_vocabulary_size(h));
    char *json = tokens_request(tokens, n, "\"seed\": 1, \"max_tokens\": 20");
    run(h, json, &first);
    assert_int_equal(first.end.reused_tokens, 0);
    hadal_close(&h);
    h = open_with_state(dir);
    run(h, json, &again);
    hadal_close(&h);
    free(json);
    assert_int_equal(again.end.reused_tokens, 512); /* whole pages of it */
    assert_int_equal(again.n_tokens, first.n_tokens);
    assert_memory_equal(again.tokens, first.tokens, sizeof first.tokens);
    assert_int_equal(nftw(dir, remove_entry, 8, FTW_DEPTH | FTW_PHYS), 0);
}

/* A budget of a few pages is the longest context; what is kept of one request makes room for the next. */
static void test_little_memory(void **state)
{
    (void)state;
    hadal *h;
    hadal_error e;
    hadal_options o;
    static struct outcome small;
    int32_t tokens[1500];
    struct model *m;
    struct model_options mo;
    model_options_init(&mo);
    assert_int_equal(model_open(&m, DIR, &mo, NULL, NULL), HD_OK);
    hadal_options_init(&o);
    o.kv_bytes = 5 * model_page_bytes(m);
    model_close(&m);
    if (hadal_open(&h, DIR, &o, &e) != HADAL_OK)
        fail_msg("%s", e.message);
    int n = random_prompt(tokens, 3, 1500, hadal_vocabulary_size(h));
    char *json = tokens_request(tokens, n, "\"max_tokens\": 5");
    hadal_request *refused;
    assert_int_equal(hadal_submit(h, json, NULL, NULL, &refused, &e), HADAL_EARG);
    assert_non_null(strstr(e.message, "context of 640"));
    free(json);
    for (int i = 0; i < 3; i++) { /* what is kept of one makes room for the next */
        json = tokens_request(tokens + i, 400, "\"max_tokens\": 5");
        run(h, json, &small);
        assert_true(small.end.finish == HADAL_FINISH_LENGTH || small.end.finish == HADAL_FINISH_STOP);
        free(json);
    }
    hadal_close(&h);
}

/* Forks with the seed of the first one say what that says, from where they parted; the first one goes on. */
static void test_fork(void **state)
{
    hadal *h = *state;
    static struct outcome parent, forks[2];
    int32_t tokens[200];
    hadal_request *r[3];
    hadal_error e;
    int n = random_prompt(tokens, 3, 200, hadal_vocabulary_size(h));
    char *json = tokens_request(tokens, n, "\"seed\": 1, \"max_tokens\": 300, \"logprobs\": true, \"temperature\": 2");
    r[2] = submit(h, json);
    assert_int_equal(hadal_fork(r[2], 1, 0, NULL, NULL, &r[0], &e), HADAL_EARG);
    assert_null(r[0]);
    for (int i = 0; i < 2; i++)
        assert_int_equal(hadal_fork(r[2], 1, 20, NULL, NULL, &r[i], &e), HADAL_OK);
    for (int i = 0; i < 2; i++)
        take_events(r[i], &forks[i]);
    take_events(r[2], &parent);
    assert_true(parent.n_tokens > 200);
    for (int i = 0; i < 2; i++) {
        int64_t from = forks[i].end.prompt_tokens - n;
        assert_true(from >= 0 && from + 20 <= parent.n_tokens);
        assert_int_equal(forks[i].n_tokens, 20);
        assert_memory_equal(forks[i].tokens, parent.tokens + from, 20 * sizeof *tokens);
    }
    for (int i = 0; i < 3; i++)
        hadal_release(&r[i]);
    free(json);
}

static void test_cancel(void **state)
{
    hadal *h = *state;
    static struct outcome o;
    hadal_request *r = submit(h, "{\"prompt\": \"a\", \"max_tokens\": 2900, \"temperature\": 1, \"top_k\": 50}");
    hadal_cancel(r);
    take_events(r, &o);
    assert_true(o.end.finish == HADAL_FINISH_CANCELLED || o.end.finish == HADAL_FINISH_STOP);
    hadal_release(&r);
    r = submit(h, "{\"prompt\": \"b\", \"max_tokens\": 2900}");
    hadal_release(&r); /* while it runs; closing waits for it */
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_open_refusals),
        cmocka_unit_test_setup_teardown(test_text, setup, teardown),
        cmocka_unit_test_setup_teardown(test_submit_refusals, setup, teardown),
        cmocka_unit_test_setup_teardown(test_equals_model, setup, teardown),
        cmocka_unit_test_setup_teardown(test_together, setup, teardown),
        cmocka_unit_test_setup_teardown(test_reuse, setup, teardown),
        cmocka_unit_test_setup_teardown(test_fork, setup, teardown),
        cmocka_unit_test_setup_teardown(test_cancel, setup, teardown),
        cmocka_unit_test(test_little_memory),
        cmocka_unit_test(test_state_dir),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
