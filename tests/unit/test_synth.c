/* synth: the plan has the tensors of the released models, the bytes depend on the options alone, the weights are as
 * wild as promised and legal, and a checkpoint that cannot be finished leaves nothing behind. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "model/synth.h"
#include "num/num.h"
#include "scratch.h"

/* ---------------------------------------------------------------- the plan */

static int by_name(const void *a, const void *b)
{
    return strcmp(((const struct synth_item *)a)->name, ((const struct synth_item *)b)->name);
}

/* Every line of the released list is in the plan, with its dtype and shape, and nothing else is. */
static void compare_with_list(const char *name, struct synth_plan *p)
{
    char command[256], line[512];
    snprintf(command, sizeof command,
             "python3 -c 'import lzma, sys; "
             "sys.stdout.write(lzma.open(\"tests/data/checkpoints/%s.tsv.xz\", \"rt\").read())'",
             name);
    FILE *f = popen(command, "r");
    assert_non_null(f);
    qsort(p->items, (size_t)p->n_items, sizeof *p->items, by_name);
    int64_t n = 0;
    for (; fgets(line, sizeof line, f) != NULL; n++) {
        char tensor[256], dtype[16], shape[64], want[64];
        assert_int_equal(sscanf(line, "%255s %15s %63s", tensor, dtype, shape), 3);
        struct synth_item key = {.name = tensor};
        const struct synth_item *item = bsearch(&key, p->items, (size_t)p->n_items, sizeof key, by_name);
        if (item == NULL)
            fail_msg("%s: no tensor %s", name, tensor);
        if (item->n_dims == 1)
            snprintf(want, sizeof want, "%lld", (long long)item->rows);
        else
            snprintf(want, sizeof want, "%lldx%lld", (long long)item->rows, (long long)item->cols);
        if (strcmp(dtype, dtype_name(item->dtype)) != 0 || strcmp(shape, want) != 0)
            fail_msg("%s: %s is %s %s, expected %s %s", name, tensor, dtype_name(item->dtype), want, dtype, shape);
    }
    assert_int_equal(pclose(f), 0);
    assert_int_equal(n, p->n_items);
}

static void test_released_shapes(void **state)
{
    (void)state;
    static const struct {
        const char *name;
        struct synth_options o;
    } cases[] = {
        {"DeepSeek-V4-Flash", {.shape = SYNTH_FLASH, .n_layers = 43, .drafter = DRAFTER_MTP}},
        {"DeepSeek-V4-Flash-0731", {.shape = SYNTH_FLASH, .n_layers = 43, .drafter = DRAFTER_DSPARK}},
        {"DeepSeek-V4-Pro", {.shape = SYNTH_PRO, .n_layers = 61, .drafter = DRAFTER_MTP}},
        {"DeepSeek-V4-Pro-0813", {.shape = SYNTH_PRO, .n_layers = 61, .drafter = DRAFTER_DSPARK}},
    };
    for (size_t i = 0; i < COUNT_OF(cases); i++) {
        struct synth_plan p;
        struct err e = {0};
        assert_int_equal(synth_plan_make(&p, &cases[i].o, &e), HD_OK);
        compare_with_list(cases[i].name, &p);
        synth_plan_free(&p);
    }
}

/* The configuration of a full-depth plan is the released one. */
static void test_released_configs(void **state)
{
    (void)state;
    static const struct {
        const char *name;
        struct synth_options o;
    } cases[] = {
        {"DeepSeek-V4-Flash", {.shape = SYNTH_FLASH, .n_layers = 43, .drafter = DRAFTER_MTP}},
        {"DeepSeek-V4-Pro-0813", {.shape = SYNTH_PRO, .n_layers = 61, .drafter = DRAFTER_DSPARK}},
    };
    for (size_t i = 0; i < COUNT_OF(cases); i++) {
        struct synth_plan p;
        struct config released, ours;
        struct buf text = {0}, json = {0};
        struct err e = {0};
        char path[128];
        snprintf(path, sizeof path, "tests/data/configs/%s.json", cases[i].name);
        assert_int_equal(file_read(&text, path, 1 << 20, &e), HD_OK);
        assert_int_equal(config_parse(&released, text.data, text.len, path, &e), HD_OK);
        assert_int_equal(synth_plan_make(&p, &cases[i].o, &e), HD_OK);
        synth_config_json(&p, &json);
        if (config_parse(&ours, json.data, json.len, "ours", &e) != HD_OK)
            fail_msg("%s", e.msg);
        assert_memory_equal(&ours, &released, sizeof ours);
        assert_memory_equal(&p.cfg, &released, sizeof ours);
        synth_plan_free(&p);
        buf_free(&text);
        buf_free(&json);
    }
}

static void test_slices(void **state)
{
    (void)state;
    static const struct {
        enum synth_shape shape;
        int ratios[5]; /* of 4 layers and the drafter */
    } cases[] = {
        {SYNTH_TINY, {0, 4, 128, 4, 0}},
        {SYNTH_FLASH, {0, 0, 4, 128, 0}},
        {SYNTH_PRO, {128, 128, 4, 128, 0}},
    };
    for (size_t i = 0; i < COUNT_OF(cases); i++) {
        struct synth_options o = {.shape = cases[i].shape, .n_layers = 4};
        struct synth_plan p;
        struct err e = {0};
        assert_int_equal(synth_plan_make(&p, &o, &e), HD_OK);
        assert_memory_equal(p.cfg.compress_ratio, cases[i].ratios, sizeof cases[i].ratios);
        synth_plan_free(&p);
    }
}

static void test_bad_options(void **state)
{
    (void)state;
    static const struct {
        struct synth_options o;
        const char *says;
    } cases[] = {
        {{.n_layers = 0}, "number of layers is 0"},
        {{.n_layers = 1000}, "number of layers is 1000"},
        {{.n_layers = 4, .n_experts = 3}, "number of experts is 3, expected 4"},
        {{.shape = SYNTH_FLASH, .n_layers = 4, .n_experts = 5}, "number of experts is 5, expected 6"},
        {{.n_layers = 4, .vocab_size = 2}, "vocabulary is 2"},
    };
    for (size_t i = 0; i < COUNT_OF(cases); i++) {
        struct synth_plan p;
        struct err e = {0};
        assert_int_equal(synth_plan_make(&p, &cases[i].o, &e), HD_EARG);
        assert_non_null(strstr(e.msg, cases[i].says));
        synth_plan_free(&p);
    }
    enum synth_shape shape;
    struct err e = {0};
    assert_int_equal(synth_shape_parse("huge", &shape, &e), HD_EARG);
    assert_int_equal(synth_shape_parse("pro", &shape, &e), HD_OK);
    assert_int_equal(shape, SYNTH_PRO);
}

/* ---------------------------------------------------------------- the bytes */

static void write_model(const char *name, struct synth_options o, struct pool *pool)
{
    struct err e = {0};
    if (synth_write(&o, scratch_path(name), pool, NULL, &e) != HD_OK)
        fail_msg("%s", e.msg);
}

static bool same_files(const char *a, const char *b)
{
    char command[600];
    snprintf(command, sizeof command, "diff -r -q '%s' '%s' >/dev/null", scratch_path(a), scratch_path(b));
    return system(command) == 0;
}

static void test_same_bytes(void **state)
{
    (void)state;
    struct synth_options o = {.shape = SYNTH_TINY, .n_layers = 4, .seed = 5, .drafter = DRAFTER_MTP};
    struct pool *pool;
    struct err e = {0};
    assert_int_equal(pool_open(&pool, 3, &e), HD_OK);
    write_model("one", o, NULL);
    write_model("three", o, pool);
    assert_true(same_files("one", "three"));
    o.seed = 6;
    write_model("other", o, pool);
    assert_false(same_files("one", "other"));
    pool_close(&pool);
}

/* Layer 1 of five is the same as layer 1 of four: depth does not change what is there. */
static void test_depth_keeps_layers(void **state)
{
    (void)state;
    struct synth_options o = {.shape = SYNTH_TINY, .n_layers = 4, .seed = 5};
    struct weights a, b;
    struct err e = {0};
    write_model("four", o, NULL);
    o.n_layers = 5;
    write_model("five", o, NULL);
    assert_int_equal(weights_open(&a, scratch_path("four"), true, NULL, &e), HD_OK);
    assert_int_equal(weights_open(&b, scratch_path("five"), true, NULL, &e), HD_OK);
    assert_memory_equal(a.layers[1].wq_b.data, b.layers[1].wq_b.data, 1024 * 128);
    weights_close(&a);
    weights_close(&b);
}

static void count_codes(const struct matrix *m, uint64_t count[256])
{
    size_t n = (size_t)m->rows * (size_t)(m->dtype == DT_I8 ? m->cols / 2 : m->cols);
    for (size_t i = 0; i < n; i++)
        count[((const uint8_t *)m->data)[i]]++;
}

static void test_codes(void **state)
{
    (void)state;
    struct synth_options o = {.shape = SYNTH_TINY, .n_layers = 4, .seed = 1};
    struct weights w;
    struct err e = {0};
    uint64_t fp8[256] = {0}, fp4[256] = {0}, nibble[16] = {0}, tiny_scales = 0;
    write_model("model", o, NULL);
    assert_int_equal(weights_open(&w, scratch_path("model"), true, NULL, &e), HD_OK); /* no NaN, distinct hash ids */
    for (int l = 0; l < 4; l++) {
        count_codes(&w.layers[l].wq_b, fp8);
        count_codes(&w.layers[l].shared.w1, fp8);
        for (int i = 0; i < 12; i++) {
            const struct matrix *m = &w.layers[l].experts[i].w1;
            count_codes(m, fp4);
            for (int k = 0; k < m->rows * m->cols / 32; k++)
                tiny_scales += ((const uint8_t *)m->scale)[k] < 110;
        }
    }
    for (int i = 0; i < 256; i++) {
        nibble[i & 15] += fp4[i];
        nibble[i >> 4] += fp4[i];
    }
    for (int i = 0; i < 16; i++)
        assert_true(nibble[i] > 1000); /* every FP4 code, -0 among them */
    assert_true(fp8[0x7e] > 0 && fp8[0xfe] > 0); /* saturated */
    assert_true(fp8[0x7f] == 0 && fp8[0xff] == 0);
    assert_true(tiny_scales > 10);
    weights_close(&w);
}

/* Rows decode to the size that the plan wants, with tails. */
static void test_sizes(void **state)
{
    (void)state;
    struct synth_options o = {.shape = SYNTH_TINY, .n_layers = 4, .seed = 1};
    struct weights w;
    struct err e = {0};
    write_model("model", o, NULL);
    assert_int_equal(weights_open(&w, scratch_path("model"), true, NULL, &e), HD_OK);
    const struct matrix *list[] = {&w.layers[0].wq_a, &w.layers[1].wo_b, &w.layers[2].experts[3].w1, &w.layers[3].wkv};
    for (size_t i = 0; i < COUNT_OF(list); i++) {
        double sum = 0, max = 0;
        float row[1024];
        for (int r = 0; r < list[i]->rows; r++) {
            matrix_row(list[i], r, row);
            for (int k = 0; k < list[i]->cols; k++) {
                assert_true(isfinite(row[k]));
                sum += (double)row[k] * (double)row[k];
                max = fmax(max, fabs((double)row[k]));
            }
        }
        double rms = sqrt(sum / list[i]->rows / list[i]->cols), want = 1 / sqrt(list[i]->cols);
        if (rms < want / 2 || rms > want * 2 || max < 4 * rms)
            fail_msg("%s: rms %g, expected about %g; max %g", list[i]->name, rms, want, max);
    }
    weights_close(&w);
}

/* ---------------------------------------------------------------- what goes wrong */

static int stop_at_half(void *arg, const char *what, uint64_t done, uint64_t total)
{
    (void)arg;
    (void)what;
    return done > total / 2;
}

static int stop_at_once(void *arg, const char *what, uint64_t done, uint64_t total)
{
    (void)arg;
    (void)what;
    (void)done;
    (void)total;
    return 1;
}

static void test_stopped(void **state)
{
    (void)state;
    struct synth_options o = {.shape = SYNTH_TINY, .n_layers = 8};
    struct progress p = {stop_at_half, NULL};
    struct err e = {0};
    assert_int_equal(synth_write(&o, scratch_path("model"), NULL, &p, &e), HD_ECANCELLED);
    assert_non_null(strstr(e.msg, "stopped"));
    assert_false(file_exists(scratch_path("model")));
}

static void test_occupied(void **state)
{
    (void)state;
    struct synth_options o = {.shape = SYNTH_TINY, .n_layers = 1};
    struct err e = {0};
    write_model("model", o, NULL);
    assert_int_equal(synth_write(&o, scratch_path("model"), NULL, NULL, &e), HD_EARG);
    assert_non_null(strstr(e.msg, "already holds a checkpoint"));
    assert_true(file_exists(scratch_path("model/config.json")));
    e = (struct err){0};
    assert_int_equal(synth_write(&o, scratch_path("a/b/c"), NULL, NULL, &e), HD_EIO);
    assert_non_null(strstr(e.msg, "a/b/c: cannot make the folder"));
}

/* 7 TB: refused before anything is written (and stopped at once where a disk does hold that). */
static void test_too_large(void **state)
{
    (void)state;
    struct synth_options o = {.shape = SYNTH_PRO, .n_layers = 100, .n_experts = 2048};
    struct progress p = {stop_at_once, NULL};
    struct err e = {0};
    assert_int_equal(synth_write(&o, scratch_path("model"), NULL, &p, &e), HD_EIO);
    assert_non_null(strstr(e.msg, "GB free"));
    assert_false(file_exists(scratch_path("model")));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_released_shapes),
        cmocka_unit_test(test_released_configs),
        cmocka_unit_test(test_slices),
        cmocka_unit_test(test_bad_options),
        cmocka_unit_test_setup_teardown(test_same_bytes, scratch_make, scratch_remove),
        cmocka_unit_test_setup_teardown(test_depth_keeps_layers, scratch_make, scratch_remove),
        cmocka_unit_test_setup_teardown(test_codes, scratch_make, scratch_remove),
        cmocka_unit_test_setup_teardown(test_sizes, scratch_make, scratch_remove),
        cmocka_unit_test_setup_teardown(test_stopped, scratch_make, scratch_remove),
        cmocka_unit_test_setup_teardown(test_occupied, scratch_make, scratch_remove),
        cmocka_unit_test_setup_teardown(test_too_large, scratch_make, scratch_remove),
    };
    return cmocka_run_group_tests_name("synth", tests, NULL, NULL);
}
