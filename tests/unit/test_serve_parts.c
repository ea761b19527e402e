/* The small parts of the server: SHA-256, prices, JSON, ids, model names. */
#include "serve/api.h"
#include "serve/prices.h"
#include "serve/sha256.h"

#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

static void expect_digest(const char *text, const char *wanted)
{
    uint8_t digest[SHA256_BYTES];
    struct buf hex = {0};
    sha256(text, strlen(text), digest);
    for (int i = 0; i < SHA256_BYTES; i++)
        buf_printf(&hex, "%02x", digest[i]);
    assert_string_equal(hex.data, wanted);
    buf_free(&hex);
}

/* The examples of FIPS 180, and lengths around the padding of a block. */
static void test_sha256(void **state)
{
    (void)state;
    expect_digest("", "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
    expect_digest("abc", "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    expect_digest("abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq",
                  "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1");
    expect_digest("aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
                  "9f4390f8d30c2dd92ec9f095b65e2b9ae9b0a925a5258e241c9f1e910f734318");
}

static void test_sha256_equal(void **state)
{
    (void)state;
    uint8_t a[SHA256_BYTES], b[SHA256_BYTES];
    sha256("abc", 3, a);
    memcpy(b, a, sizeof b);
    assert_true(sha256_equal(a, b));
    for (int bit = 0; bit < 8 * SHA256_BYTES; bit++) {
        b[bit / 8] ^= (uint8_t)(1 << bit % 8);
        assert_false(sha256_equal(a, b));
        b[bit / 8] ^= (uint8_t)(1 << bit % 8);
    }
}

/* The first byte differs, and all but the first lie on a page that nobody may read: who gets there reads on. */
static void test_sha256_equal_reads_all(void **state)
{
    (void)state;
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    uint8_t a[SHA256_BYTES] = {0}, *two = mmap(NULL, 2 * page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    assert_true(two != MAP_FAILED);
    for (size_t n = 1; n < SHA256_BYTES; n++) {
        two[page - n] = 1;
        assert_int_equal(mprotect(two + page, page, PROT_NONE), 0);
        pid_t child = fork();
        if (child == 0) {
            signal(SIGSEGV, SIG_DFL);
            _exit(sha256_equal(a, two + page - n) ? 1 : 0);
        }
        int status;
        assert_int_equal(waitpid(child, &status, 0), child);
        assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGSEGV);
    }
    munmap(two, 2 * page);
}

static void expect_price(const struct prices *t, const char *model, int64_t time, double hit, double miss, double output)
{
    struct price p = prices_at(t, model, time);
    assert_true(p.hit == hit && p.miss == miss && p.output == output);
}

static void test_prices(void **state)
{
    (void)state;
    struct prices *t = prices_open_official();
    expect_price(t, "deepseek-v4-flash", 1776988799, 0, 0, 0); /* the day before */
    expect_price(t, "deepseek-v4-flash", 1777000000, 0.028, 0.14, 0.28);
    expect_price(t, "deepseek-v4-pro", 1777205699, 0.145, 1.74, 3.48);
    expect_price(t, "deepseek-v4-pro", 1777205700, 0.003625, 0.435, 0.87);
    expect_price(t, "deepseek-v4-flash", 1786895999, 0.0028, 0.14, 0.28);
    expect_price(t, "deepseek-v4-flash", 1786896000, 0.007, 0.22, 0.66);  /* a Sunday, 16:00 */
    expect_price(t, "deepseek-v4-flash", 1786932000, 0.014, 0.44, 1.32);  /* Monday 02:00 */
    expect_price(t, "deepseek-v4-flash", 1786939200, 0.007, 0.22, 0.66);  /* Monday 04:00 */
    expect_price(t, "deepseek-v4-flash", 1786946400, 0.014, 0.44, 1.32);  /* Monday 06:00 */
    expect_price(t, "deepseek-v4-flash", 1786960800, 0.007, 0.22, 0.66);  /* Monday 10:00 */
    expect_price(t, "deepseek-v4-flash", 1787364000, 0.007, 0.22, 0.66);  /* Saturday 02:00 */
    expect_price(t, "deepseek-flash", 1789012800, 0.003, 0.15, 0.60);     /* Thursday 04:00 */
    expect_price(t, "deepseek-v4-flash", 1789021800, 0.006, 0.30, 1.20);  /* Thursday 06:30 */
    expect_price(t, "V4-Pro-0813", 1790900000, 0.022, 0.66, 1.98);        /* Thursday, 1 October 23:33 */
    expect_price(t, "V4-Pro-0813", 1790820000, 0.022, 0.66, 1.98);        /* 1 October 02:00, a holiday */
    expect_price(t, "V4-Pro-0813", 1791424800, 0.044, 1.32, 3.96);        /* Thursday, 8 October 02:00 */
    expect_price(t, "tiny", 1791424800, 0.006, 0.30, 1.20);
    assert_true(price_cost((struct price){1, 2, 4}, 1000000, 500000, 250000) == 3);
    assert_int_equal(prices_n_lines(t), 4);
    assert_string_equal(prices_line(t, 3)->name, "Claude Opus 4.7");
    assert_true(prices_line(t, 2)->fixed.output == 15 && prices_line(t, 1)->model != NULL);
    prices_close(&t);
}

/* Everything that a price file may have wrong is refused with its place. */
static void test_price_files(void **state)
{
    static const struct {
        const char *text, *why;
    } bad[] = {
        {"[]", "no JSON object"},
        {"{", "no price table"},
        {"{}", "models must be"},
        {"{\"models\": [{\"names\": [\"*\"]}]}", "models[0].prices must be"},
        {"{\"models\": [{\"names\": [], \"prices\": [1]}]}", "models[0].names must be"},
        {"{\"models\": [{\"names\": [\"*\"], \"prices\": [{\"from\": \"soon\"}]}]}", "models[0].prices[0].from must be"},
        {"{\"models\": [{\"names\": [\"*\"], \"prices\": [{\"from\": \"2026-01-01\", \"hit\": 1, \"miss\": -1}]}]}",
         "models[0].prices[0].miss must be"},
        {"{\"models\": [{\"names\": [\"*\"], \"prices\": [{\"from\": \"2026-01-01\", \"hit\": 1, \"miss\": 1, \"output\": 1,"
         "\"peak_hours\": [[4, 1]], \"peak\": {}}]}]}", "peak_hours must be"},
        {"{\"models\": [{\"names\": [\"*\"], \"prices\": [{\"from\": \"2026-01-02\", \"hit\": 1, \"miss\": 1, \"output\": 1},"
         "{\"from\": \"2026-01-01\", \"hit\": 1, \"miss\": 1, \"output\": 1}]}]}", "models[0].prices[1].from must be later"},
        {"{\"holidays\": [1], \"models\": []}", "holidays must be"},
        {"{\"models\": [{\"names\": [\"*\"], \"prices\": [{\"from\": \"2026-01-01\", \"hit\": 1, \"miss\": 1, \"output\": 1}]}],"
         "\"compare\": [{}]}", "compare[0].name must be"},
    };
    (void)state;
    for (size_t i = 0; i < COUNT_OF(bad); i++) {
        struct prices *t = NULL;
        struct err e = {0};
        assert_int_equal(prices_parse(&t, bad[i].text, strlen(bad[i].text), "p.json", &e), HD_EARG);
        assert_null(t);
        if (strncmp(e.msg, "p.json: ", 8) != 0 || strstr(e.msg, bad[i].why) == NULL)
            fail_msg("case %zu: %s", i, e.msg);
    }
}

static void test_json(void **state)
{
    (void)state;
    struct buf b = {0};
    out_open(&b, NULL, '{');
    out_str(&b, "a", "x\"\n{");
    out_open(&b, "b", '[');
    out_int(&b, NULL, -1);
    out_real(&b, NULL, 1);
    out_real(&b, NULL, 0.1);
    out_real(&b, NULL, -9999);
    out_str(&b, NULL, "");
    out_close(&b, ']');
    out_open(&b, "c", '{');
    out_close(&b, '}');
    out_bool(&b, "d", true);
    out_null(&b, "e");
    out_raw(&b, "f", "[1]", 3);
    out_close(&b, '}');
    assert_string_equal(b.data, "{\"a\":\"x\\\"\\n{\",\"b\":[-1,1.0,0.1,-9999.0,\"\"],\"c\":{},\"d\":true,\"e\":null,\"f\":[1]}");
    buf_free(&b);
}

static void test_names(void **state)
{
    (void)state;
    struct api_env env = {.model = "mine"};
    int think;
    assert_true(api_model_known(&env, "mine", &think) && think == 0);
    assert_true(api_model_known(&env, "deepseek-v4-pro[1m]", &think) && think == 0);
    assert_true(api_model_known(&env, "deepseek-chat", &think) && think == -1);
    assert_true(api_model_known(&env, "deepseek-reasoner", &think) && think == 1);
    assert_true(api_model_known(&env, "deepseek-ai/DeepSeek-V4-Flash", &think));
    assert_true(api_model_known(&env, "claude-opus-4-7", &think));
    assert_false(api_model_known(&env, "gpt-5", &think));
    assert_false(api_model_known(&env, "", &think));
    env.any_model = true;
    assert_true(api_model_known(&env, "gpt-5", &think));
}

static void test_ids(void **state)
{
    (void)state;
    char a[32], b[32];
    api_base62(a, 1, 24);
    api_base62(b, 2, 24);
    assert_int_equal(strlen(a), 24);
    assert_string_not_equal(a, b);
    api_base62(b, 1, 24);
    assert_string_equal(a, b);
}

static void test_last_turn(void **state)
{
    (void)state;
    json_t *m = json_loads("[{\"role\": \"user\"}, {\"role\": \"assistant\"}, {\"role\": \"tool\"}, {\"role\": \"user\"},"
                           " {\"role\": \"system\", \"n\": 1}, {\"role\": \"system\", \"n\": 2}]", 0, NULL);
    rules_last_turn(m);
    char *text = json_dumps(m, JSON_COMPACT);
    assert_string_equal(text, "[{\"role\":\"user\"},{\"role\":\"assistant\"},{\"role\":\"system\",\"n\":1},"
                              "{\"role\":\"system\",\"n\":2},{\"role\":\"tool\"},{\"role\":\"user\"}]");
    free(text);
    json_decref(m);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_sha256), cmocka_unit_test(test_sha256_equal), cmocka_unit_test(test_sha256_equal_reads_all),
        cmocka_unit_test(test_prices), cmocka_unit_test(test_price_files), cmocka_unit_test(test_json),
        cmocka_unit_test(test_names),  cmocka_unit_test(test_ids),    cmocka_unit_test(test_last_turn),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
