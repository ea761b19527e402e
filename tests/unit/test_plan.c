/* plan: the built-in shapes equal the released configurations, and the plan reproduces the published sizes to the byte and
 * the known table of bytes and FLOPs to the digits it was printed with. */
#include "model/model.h"
#include "model/plan.h"
#include "model/shape.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "golden_data.h"

static struct plan plan_of(const char *shape, bool dspark)
{
    struct config c;
    struct err e = {0};
    assert_int_equal(config_shape(&c, shape, dspark, &e), HD_OK);
    struct plan p;
    plan_init(&p, &c, &plan_formats_released, plan_stages_of(&c));
    return p;
}

/* `got`, printed with the digits of `want`, is `want`. */
static void assert_prints(const char *what, double got, const char *want)
{
    const char *dot = strchr(want, '.');
    char text[64];
    snprintf(text, sizeof text, "%.*f", dot == NULL ? 0 : (int)strlen(dot + 1), got);
    if (strcmp(text, want) != 0)
        fail_msg("%s: got %s, expected %s", what, text, want);
}

/* ---------------------------------------------------------------- shapes */

static void assert_same_config(const char *path, const char *shape, bool dspark)
{
    struct config file, built;
    struct buf text = {0};
    struct err e = {0};
    memset(&file, 0, sizeof file);
    memset(&built, 0, sizeof built);
    if (file_read(&text, path, 1 << 20, &e) != HD_OK || config_parse(&file, text.data, text.len, path, &e) != HD_OK)
        fail_msg("%s", e.msg);
    buf_free(&text);
    assert_int_equal(config_shape(&built, shape, dspark, &e), HD_OK);
    assert_memory_equal(&file, &built, sizeof file);
}

static void shapes_equal_the_released_configs(void **state)
{
    (void)state;
    assert_same_config("tests/data/configs/DeepSeek-V4-Flash.json", "flash", false);
    assert_same_config("tests/data/configs/DeepSeek-V4-Flash-0731.json", "flash", true);
    assert_same_config("tests/data/configs/DeepSeek-V4-Pro.json", "pro", false);
    assert_same_config("tests/data/configs/DeepSeek-V4-Pro-0813.json", "pro", true);
    struct config c;
    struct err e = {0};
    assert_int_equal(config_shape(&c, "v3", false, &e), HD_EARG);
    assert_non_null(strstr(e.msg, "v3"));
}

/* ---------------------------------------------------------------- weights */

static void weights_equal_the_published_sizes(void **state)
{
    (void)state;
    struct plan flash = plan_of("flash", false), pro = plan_of("pro", false), dspark = plan_of("flash", true);
    struct plan pro_dspark = plan_of("pro", true);
    assert_true(plan_total(&flash, true).bytes == 159609485896u);
    assert_true(plan_total(&pro, true).bytes == 864704792696u);
    assert_true(plan_total(&dspark, true).bytes == 166878536440u);
    assert_prints("Pro with DSpark, GB", (double)plan_total(&pro_dspark, true).bytes / 1e9, "892.7");
    assert_prints("Flash drafter", (double)flash.part[PART_DRAFTER].bytes / 1e9, "3.594");
    assert_prints("Pro drafter", (double)pro.part[PART_DRAFTER].bytes / 1e9, "13.957");
    assert_prints("Flash DSpark", (double)dspark.part[PART_DRAFTER].bytes / 1e9, "10.863");
    assert_prints("Flash routed", (double)flash.part[PART_EXPERTS].bytes / 1e9, "147.17");
    assert_prints("Pro routed", (double)pro.part[PART_EXPERTS].bytes / 1e9, "822.05");
    assert_prints("Flash rest", (double)(plan_total(&flash, false).bytes - flash.part[PART_EXPERTS].bytes) / 1e9, "8.8");
    assert_prints("Pro rest", (double)(plan_total(&pro, false).bytes - pro.part[PART_EXPERTS].bytes) / 1e9, "28.7");
}

/* Any checkpoint: what the plan counts from the configuration is what the files hold. */
static void weights_equal_the_stored_bytes(void **state)
{
    (void)state;
    const char *const dirs[] = {"models/tiny", "f32-tiny", "q-tiny", "dspark-tiny"};
    for (size_t i = 0; i < COUNT_OF(dirs); i++) {
        const char *dir = i == 0 ? dirs[i] : golden_dir(dirs[i]);
        struct config c;
        struct checkpoint ckpt;
        struct plan_formats f = plan_formats_released;
        struct plan p;
        struct err e = {0};
        int n_stages;
        if (config_load(&c, dir, &e) != HD_OK || checkpoint_open(&ckpt, dir, false, NULL, &e) != HD_OK)
            fail_msg("%s", e.msg);
        plan_inspect(&ckpt, &f, &n_stages);
        plan_init(&p, &c, &f, n_stages);
        assert_true(plan_total(&p, true).bytes == ckpt.total_bytes);
        checkpoint_close(&ckpt);
    }
}

static void parameters(void **state)
{
    (void)state;
    struct plan flash = plan_of("flash", false), pro = plan_of("pro", false);
    assert_prints("Flash, 1e9", (double)plan_total(&flash, false).params / 1e9, "284.33");
    assert_prints("Flash with MTP", (double)plan_total(&flash, true).params / 1e9, "290.94");
    assert_prints("Flash active", (double)plan_total(&flash, false).active / 1e9, "13.27");
    assert_prints("Pro", (double)plan_total(&pro, false).params / 1e9, "1573.0");
    assert_prints("Pro with MTP", (double)plan_total(&pro, true).params / 1e9, "1598.8");
    assert_prints("Pro active", (double)plan_total(&pro, false).active / 1e9, "48.85");
}

static void layer_kinds(void **state)
{
    (void)state;
    struct plan flash = plan_of("flash", false), pro = plan_of("pro", true);
    assert_int_equal(flash.n_swa, 2);
    assert_int_equal(flash.n_csa, 21);
    assert_int_equal(flash.n_hca, 20);
    assert_int_equal(flash.n_stages, 1);
    assert_int_equal(pro.n_swa, 0);
    assert_int_equal(pro.n_csa, 30);
    assert_int_equal(pro.n_hca, 31);
    assert_int_equal(pro.n_stages, 3);
}

/* ---------------------------------------------------------------- bytes read per decoded token */

static void weight_bytes_per_token(void **state)
{
    (void)state;
    static const struct { enum plan_part part; const char *flash, *pro; } rows[] = {
        {PART_EXPERTS, "3.449", "12.845"}, {PART_WQ_B, "1.443", "6.141"}, {PART_WO_A, "1.443", "4.094"},
        {PART_WO_B, "1.443", "7.164"}, {PART_SHARED, "1.082", "4.030"}, {PART_HEAD, "1.059", "1.853"},
        {PART_COMPRESSOR, "0.526", "1.345"}, {PART_WQ_A, "0.180", "0.672"}, {PART_INDEX_WQ_B, "0.176", "0.378"},
        {PART_HC, "0.136", "0.336"}, {PART_WKV, "0.090", "0.224"}, {PART_ROUTER, "0.090", "0.336"},
        {PART_INDEX_COMPRESSOR, "0.088", "0.220"}, {PART_SMALL, "0.012", "0.030"},
    };
    struct plan flash = plan_of("flash", false), pro = plan_of("pro", false);
    for (size_t i = 0; i < COUNT_OF(rows); i++) {
        const char *name = plan_part_name(rows[i].part);
        assert_prints(name, (double)flash.part[rows[i].part].read_bytes / 1e9, rows[i].flash);
        assert_prints(name, (double)pro.part[rows[i].part].read_bytes / 1e9, rows[i].pro);
    }
    assert_prints("Flash total", (double)plan_total(&flash, false).read_bytes / 1e9, "11.218");
    assert_prints("Pro total", (double)plan_total(&pro, false).read_bytes / 1e9, "39.667");
}

static const int64_t contexts[] = {4096, 65536, 131072, 1048576};

static void kv_bytes_read_per_token(void **state)
{
    (void)state;
    static const char *const want[2][4] = {{"11", "39", "68", "480"}, {"25", "65", "108", "706"}};
    struct plan p[2] = {plan_of("flash", false), plan_of("pro", false)};
    for (int i = 0; i < 2; i++)
        for (size_t k = 0; k < COUNT_OF(contexts); k++)
            assert_prints("KV MB", (double)plan_kv_read_bytes(&p[i], contexts[k]) / 1e6, want[i][k]);
    assert_prints("Flash index MB", 21 * 262144 * (double)p[0].index_bytes / 1e6, "374");
    assert_prints("Pro index MB", 30 * 262144 * (double)p[1].index_bytes / 1e6, "535");
}

static void distinct_experts_of_a_batch(void **state)
{
    (void)state;
    static const struct { int batch; const char *flash, *pro, *flash_gb; } rows[] = {
        {4, "23", "23", "13.3"}, {16, "81", "86", "46.5"}, {64, "200", "244", "114.9"}, {256, "255", "377", "146.8"},
    };
    struct plan flash = plan_of("flash", false), pro = plan_of("pro", false);
    for (size_t i = 0; i < COUNT_OF(rows); i++) {
        double n = plan_distinct_experts(&flash, rows[i].batch);
        assert_prints("Flash experts", n, rows[i].flash);
        assert_prints("Pro experts", plan_distinct_experts(&pro, rows[i].batch), rows[i].pro);
        assert_prints("Flash routed GB", n / 256 * (double)flash.part[PART_EXPERTS].bytes / 1e9, rows[i].flash_gb);
    }
    assert_true(fabs(plan_distinct_experts(&flash, 1) - 6) < 1e-9);
    /* A batch of one is the single token; a batch reads shared weights once. */
    double one = (double)(plan_total(&flash, false).read_bytes + plan_kv_read_bytes(&flash, 4096));
    assert_true(fabs(plan_step_bytes(&flash, 1, 4096) - one) < 1);
    assert_true(plan_step_bytes(&flash, 4, 4096) < 4 * one);
}

/* ---------------------------------------------------------------- FLOPs */

static void flops_per_token(void **state)
{
    (void)state;
    static const struct { const char *total, *attn, *index; } want[2][4] = {
        {{"29.1", "2.2", "0.35"}, {"35.7", "3.5", "5.6"}, {"42.6", "4.8", "11.3"}, {"140.3", "23.6", "90.2"}},
        {{"108.6", "10.4", "0.50"}, {"120.0", "14.3", "8.1"}, {"132.2", "18.4", "16.1"}, {"303.2", "76.7", "128.8"}},
    };
    struct plan p[2] = {plan_of("flash", false), plan_of("pro", false)};
    assert_prints("Flash linear GF", plan_linear_flops(&p[0]) / 1e9, "26.54");
    assert_prints("Pro linear GF", plan_linear_flops(&p[1]) / 1e9, "97.70");
    for (int i = 0; i < 2; i++)
        for (size_t k = 0; k < COUNT_OF(contexts); k++) {
            assert_prints("GF", plan_flops(&p[i], contexts[k]) / 1e9, want[i][k].total);
            assert_prints("attention GF", plan_attn_flops(&p[i], contexts[k]) / 1e9, want[i][k].attn);
            assert_prints("indexer GF", plan_index_flops(&p[i], contexts[k]) / 1e9, want[i][k].index);
        }
}

static void prefill_flops(void **state)
{
    (void)state;
    static const struct { const char *shape; int64_t n; const char *total, *per_token; double unit; } rows[] = {
        {"flash", 8192, "2.28", "27.9", 1e14}, {"flash", 65536, "2.04", "31.1", 1e15},
        {"flash", 131072, "4.53", "34.6", 1e15}, {"flash", 1048576, "8.75", "83.4", 1e16},
        {"pro", 8192, "8.6", "104.7", 1e14}, {"pro", 65536, "7.3", "111.8", 1e15},
        {"pro", 131072, "1.55", "118.0", 1e16}, {"pro", 1048576, "2.14", "203.6", 1e17},
    };
    for (size_t i = 0; i < COUNT_OF(rows); i++) {
        struct plan p = plan_of(rows[i].shape, false);
        double flops = plan_prefill_flops(&p, rows[i].n);
        assert_prints("prefill", flops / rows[i].unit, rows[i].total);
        assert_prints("prefill GF per token", flops / (double)rows[i].n / 1e9, rows[i].per_token);
    }
}

/* ---------------------------------------------------------------- KV memory */

static void kv_memory(void **state)
{
    (void)state;
    static const struct { size_t row, index; const char *flash, *flash_gb, *pro, *pro_gb; } rows[] = {
        {584, 68, "3514.25", "3.685", "5031.44", "5.276"},
        {584, 132, "3850.25", "4.037", "5511.44", "5.779"},
        {1024, 256, "6880", "7.214", "9848", "10.326"},
    };
    struct plan flash = plan_of("flash", false), pro = plan_of("pro", false);
    assert_int_equal(flash.row_bytes, rows[0].row);
    assert_int_equal(flash.index_bytes, rows[0].index);
    assert_true(plan_kv_bytes_per_token(&flash) <= 3600 && plan_kv_bytes_per_token(&pro) <= 5150);
    for (size_t i = 0; i < COUNT_OF(rows); i++) {
        flash.row_bytes = pro.row_bytes = rows[i].row;
        flash.index_bytes = pro.index_bytes = rows[i].index;
        assert_prints("Flash B/token", plan_kv_bytes_per_token(&flash), rows[i].flash);
        assert_prints("Pro B/token", plan_kv_bytes_per_token(&pro), rows[i].pro);
        assert_prints("Flash GB at 1M", (double)plan_kv_bytes(&flash, 1048576) / 1e9, rows[i].flash_gb);
        assert_prints("Pro GB at 1M", (double)plan_kv_bytes(&pro, 1048576) / 1e9, rows[i].pro_gb);
    }
}

static void constants_of_a_sequence(void **state)
{
    (void)state;
    struct plan flash = plan_of("flash", false), pro = plan_of("pro", false);
    assert_prints("Flash ring MB", (double)plan_ring_bytes(&flash, 0) / 1e6, "3.21");
    assert_prints("Pro ring MB", (double)plan_ring_bytes(&pro, 0) / 1e6, "4.56");
    assert_prints("Flash state MB", (double)plan_state_bytes(&flash, 0) / 1e6, "12.21");
    assert_prints("Pro state MB", (double)plan_state_bytes(&pro, 0) / 1e6, "18.71");
    flash.row_bytes = pro.row_bytes = 1024;
    assert_prints("Flash bf16 ring MB", (double)plan_ring_bytes(&flash, 0) / 1e6, "5.64");
    assert_prints("Pro bf16 ring MB", (double)plan_ring_bytes(&pro, 0) / 1e6, "8.00");
}

/* What the engine really keeps is within the promise, and the plan says the engine's own numbers. */
static void engine_memory(void **state)
{
    (void)state;
    struct plan flash = plan_of("flash", false), pro = plan_of("pro", false), tiny;
    assert_true(flash.page_bytes / KV_PAGE_TOKENS <= 3600 && pro.page_bytes / KV_PAGE_TOKENS <= 5150);
    assert_true(flash.page_bytes >= plan_kv_bytes(&flash, KV_PAGE_TOKENS));
    assert_true(flash.block_bytes >= plan_ring_bytes(&flash, KV_ROLLBACK) + plan_state_bytes(&flash, KV_ROLLBACK));
    struct model *m;
    struct model_options o;
    struct err e = {0};
    model_options_init(&o);
    o.n_threads = 1;
    o.kv_budget_bytes = 1 << 20;
    o.drafter = false;
    if (model_open(&m, "models/tiny", &o, NULL, &e) != HD_OK)
        fail_msg("%s", e.msg);
    plan_init(&tiny, model_config(m), &plan_formats_released, 0);
    assert_int_equal(tiny.page_bytes, model_page_bytes(m));
    assert_int_equal(plan_seq_bytes(&tiny, 5000), model_seq_bytes(m, 5000) + (5000 + 127) / 128 * tiny.page_bytes);
    model_close(&m);
}

/* ---------------------------------------------------------------- V3.2 */

static void against_v32(void **state)
{
    (void)state;
    enum { M1 = 1048576 };
    struct plan flash = plan_of("flash", false), pro = plan_of("pro", false);
    double v32 = v32_equivalent_flops(M1), kv = v32_kv_bytes_per_token();
    assert_prints("V3.2 GF", v32 / 1e9, "1192");
    assert_prints("V3.2 B/token", kv, "48068");
    assert_prints("Pro GF", plan_equivalent_flops(&pro, M1) / 1e9, "315.5");
    assert_prints("Flash GF", plan_equivalent_flops(&flash, M1) / 1e9, "118.8");
    assert_prints("Pro FLOPs %", 100 * plan_equivalent_flops(&pro, M1) / v32, "26.5");
    assert_prints("Flash FLOPs %", 100 * plan_equivalent_flops(&flash, M1) / v32, "10.0");
    assert_prints("Pro KV %", 100 * plan_kv_bytes_per_token(&pro) / kv, "10.5");
    assert_prints("Flash KV %", 100 * plan_kv_bytes_per_token(&flash) / kv, "7.3");
}

/* ---------------------------------------------------------------- fitting */

static void fit_finds_the_limits(void **state)
{
    (void)state;
    struct plan p = plan_of("flash", false);
    uint64_t weights = plan_total(&p, false).bytes, seq = plan_seq_bytes(&p, 65536);
    struct plan_fit f = plan_fit(&p, weights + seq, 65536, 1);
    assert_true(f.fits && !f.drafter_fits && f.rest_fits);
    assert_int_equal(f.batch_max, 1);
    assert_true(f.context_max >= 65536 && f.context_max < 65536 + 128);
    f = plan_fit(&p, weights + seq - 1, 65536, 1);
    assert_false(f.fits);
    assert_int_equal(f.batch_max, 0);
    assert_true(f.context_max < 65536 && f.context_max > 65536 - 256);
    f = plan_fit(&p, weights + 10 * seq + p.part[PART_DRAFTER].bytes, 65536, 10);
    assert_true(f.fits && f.drafter_fits);
    f = plan_fit(&p, 9000000000u, 4096, 1);
    assert_true(!f.fits && f.rest_fits && f.context_max == 0 && f.batch_max == 0);
    f = plan_fit(&p, 1000000, 4096, 1);
    assert_true(!f.fits && !f.rest_fits);
    f = plan_fit(&p, (uint64_t)1 << 60, 4096, 1);
    assert_int_equal(f.context_max, 1048576);
}

/* A prompt in chunks is the prompt: only the head counts once a chunk. */
static void chunk_flops(void **state)
{
    (void)state;
    struct plan p = plan_of("flash", false);
    double index, sum = 0, indexer = 0;
    for (int64_t depth = 0; depth < 8192; depth += 512) {
        sum += plan_chunk_flops(&p, depth, 512, &index) - 2.0 * (double)p.part[PART_HEAD].active;
        assert_true((index > 0) == (depth >= 2048)); /* below, all 512 entries are selected unscored */
        indexer += index;
    }
    double want = plan_prefill_flops(&p, 8192);
    for (int64_t context = 1; context < 2052; context++) /* 2052: the first context of 513 entries */
        want -= plan_index_flops(&p, context);
    assert_true(fabs((sum + indexer) / want - 1) < 1e-12);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(shapes_equal_the_released_configs),
        cmocka_unit_test(weights_equal_the_published_sizes),
        cmocka_unit_test(weights_equal_the_stored_bytes),
        cmocka_unit_test(parameters),
        cmocka_unit_test(layer_kinds),
        cmocka_unit_test(weight_bytes_per_token),
        cmocka_unit_test(kv_bytes_read_per_token),
        cmocka_unit_test(distinct_experts_of_a_batch),
        cmocka_unit_test(flops_per_token),
        cmocka_unit_test(prefill_flops),
        cmocka_unit_test(chunk_flops),
        cmocka_unit_test(kv_memory),
        cmocka_unit_test(constants_of_a_sequence),
        cmocka_unit_test(engine_memory),
        cmocka_unit_test(against_v32),
        cmocka_unit_test(fit_finds_the_limits),
    };
    return cmocka_run_group_tests_name("plan", tests, NULL, NULL);
}
