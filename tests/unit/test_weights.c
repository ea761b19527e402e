/* Binding: checkpoints of every released form, a checkpoint damaged tensor by tensor, and the decoding of rows. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "model/card.h"
#include "model/synth.h"
#include "num/num.h"
#include "scratch.h"

static void make_deep_model(enum drafter_kind drafter, int n_layers)
{
    struct synth_options o = {.shape = SYNTH_TINY, .n_layers = n_layers, .seed = 3, .drafter = drafter};
    struct err e = {0};
    shell("rm -rf '%s'", scratch_path("model"));
    if (synth_write(&o, scratch_path("model"), NULL, NULL, &e) != HD_OK)
        fail_msg("%s", e.msg);
}

static void make_model(enum drafter_kind drafter)
{
    make_deep_model(drafter, 4);
}

/* ---------------------------------------------------------------- the released checkpoints, headers only */

/* What a decoded token reads, in GB by component (the order of enum component), and parameters in units of 10 million:
 * computed by hand from the released shapes. */
struct expected_card {
    double gb[COMP_SMALL + 1], total_gb;
    uint64_t params, with_drafter, active;
};

static const struct expected_card flash_card = {
    {3.449, 1.443, 1.443, 1.443, 1.082, 1.059, 0.526, 0.180, 0.176, 0.136, 0.090, 0.090, 0.088, 0.012},
    11.218, 28433, 29094, 1327,
};
static const struct expected_card pro_card = {
    {12.845, 6.141, 4.094, 7.164, 4.030, 1.853, 1.345, 0.672, 0.378, 0.336, 0.224, 0.336, 0.220, 0.030},
    39.667, 157299, 159883, 4885,
};

static const struct {
    const char *name, *options;
    int64_t n_tensors, n_ignored;
    uint64_t bytes; /* metadata.total_size of the release; 0: not known */
    enum drafter_kind drafter;
    int n_stages;
    const struct expected_card *card;
} releases[] = {
    {"DeepSeek-V4-Flash", "", 69187, 0, 159609485896, DRAFTER_MTP, 1, &flash_card},
    {"DeepSeek-V4-Flash-0731", "", 72317, 0, 166878536440, DRAFTER_DSPARK, 3, NULL},
    {"DeepSeek-V4-Pro", "", 145116, 0, 864704792696, DRAFTER_MTP, 1, &pro_card},
    {"DeepSeek-V4-Pro-0813", "", 149782, 0, 0, DRAFTER_DSPARK, 3, NULL},
    {"DeepSeek-V4-Flash", "--base", 67612, 0, 0, DRAFTER_NONE, 0, NULL},
    {"DeepSeek-V4-Flash", "--aliases", 69187, 0, 159609485896, DRAFTER_MTP, 1, &flash_card},
    {"DeepSeek-V4-Flash-0731", "--vision", 72317 + 52, 52, 0, DRAFTER_DSPARK, 3, NULL},
};

static void check_card(const struct card *card, const struct expected_card *x)
{
    for (int k = 0; k <= COMP_SMALL; k++)
        if (fabs((double)card->component[k].token_bytes * 1e-9 - x->gb[k]) > 0.00051)
            fail_msg("%s: %llu", component_name((enum component)k), (unsigned long long)card->component[k].token_bytes);
    assert_true(fabs((double)card->token_bytes * 1e-9 - x->total_gb) < 0.001);
    assert_int_equal(card->params / 10000000, x->params);
    assert_int_equal((card->params + card->drafter_params) / 10000000, x->with_drafter);
    assert_int_equal(card->active_params / 10000000, x->active);
}

static void test_releases(void **state)
{
    (void)state;
    for (size_t i = 0; i < COUNT_OF(releases); i++) {
        struct weights w;
        struct card card;
        struct err e = {0};
        shell("python3 tests/fake_checkpoint.py %s '%s' %s", releases[i].name, scratch_path("fake"),
              releases[i].options);
        if (weights_open_headers(&w, scratch_path("fake"), NULL, &e) != HD_OK)
            fail_msg("%s %s: %s", releases[i].name, releases[i].options, e.msg);
        card_count(&card, &w);
        assert_int_equal(w.ckpt.n_tensors, releases[i].n_tensors);
        assert_int_equal(w.n_ignored, releases[i].n_ignored);
        assert_int_equal(w.drafter, releases[i].drafter);
        assert_int_equal(card.n_drafter_stages, releases[i].n_stages);
        assert_true(releases[i].bytes == 0 || releases[i].bytes == card.bytes);
        assert_int_equal(card.n_tensors, w.ckpt.n_tensors);
        assert_null(w.layers[0].wq_a.data);
        if (releases[i].card != NULL)
            check_card(&card, releases[i].card);
        weights_close(&w);
        shell("rm -rf '%s'", scratch_path("fake"));
    }
}

/* ---------------------------------------------------------------- one damage at a time */

struct file {
    char path[256];
    struct buf bytes;
};

static void load_file(struct file *f, const char *path)
{
    struct err e = {0};
    snprintf(f->path, sizeof f->path, "%s", path);
    f->bytes = (struct buf){0};
    assert_int_equal(file_read(&f->bytes, path, SIZE_MAX, &e), HD_OK);
}

static void store_file(const char *path, const void *data, size_t n)
{
    FILE *f = fopen(path, "wb");
    assert_non_null(f);
    assert_int_equal(fwrite(data, 1, n, f), n);
    fclose(f);
}

/* Replaces the first `old` at or after `after` by `new` of the same length in a copy of the file, and stores it. */
static void patch_text(const struct file *f, const char *after, const char *old, const char *new)
{
    struct buf b = {0};
    buf_add(&b, f->bytes.data, f->bytes.len);
    assert_int_equal(strlen(old), strlen(new));
    char *at = memmem(b.data, b.len, after, strlen(after));
    assert_non_null(at);
    at = memmem(at, b.len - (size_t)(at - b.data), old, strlen(old));
    assert_non_null(at);
    memcpy(at, new, strlen(new));
    store_file(f->path, b.data, b.len);
    buf_free(&b);
}

static void refuse_opening(const char *tensor, const char *says)
{
    struct weights w;
    struct err e = {0};
    int rc = weights_open(&w, scratch_path("model"), true, NULL, &e);
    if (rc != HD_EFORMAT || strstr(e.msg, says) == NULL || strstr(e.msg, tensor) == NULL ||
        strstr(e.msg, "model") == NULL)
        fail_msg("code %d, \"%s\", expected \"%s\" and \"%s\"", rc, e.msg, tensor, says);
}

/* The file that holds a tensor, loaded. */
static void file_of(const char *tensor, struct file *f, uint64_t *at)
{
    struct checkpoint c;
    struct err e = {0};
    assert_int_equal(checkpoint_open(&c, scratch_path("model"), false, NULL, &e), HD_OK);
    const struct tensor *t = checkpoint_find(&c, tensor);
    assert_non_null(t);
    load_file(f, c.shards[t->i_shard].path);
    *at = c.shards[t->i_shard].data_start + t->offset;
    checkpoint_close(&c);
}

/* A tensor under another name, in file and index alike: the one that should be there is missing. */
static void test_missing_tensors(void **state)
{
    (void)state;
    static const char *const names[] = {
        "embed.weight",
        "hc_head_scale",
        "layers.0.ffn.gate.tid2eid",
        "layers.3.ffn.gate.bias",
        "layers.1.attn.indexer.compressor.ape",
        "layers.2.ffn.experts.11.w2.scale",
        "layers.0.attn.wq_a.scale",
        "mtp.0.hnorm.weight",
        "mtp.0.attn.wo_b.scale",
    };
    make_model(DRAFTER_MTP);
    for (size_t i = 0; i < COUNT_OF(names); i++) {
        struct file f, index;
        uint64_t at;
        char old[128], new[128], says[256];
        file_of(names[i], &f, &at);
        load_file(&index, scratch_path("model/model.safetensors.index.json"));
        snprintf(old, sizeof old, "\"%s\":", names[i]);
        snprintf(new, sizeof new, "\"%.*sX\":", (int)strlen(names[i]) - 1, names[i]);
        patch_text(&f, old, old, new);
        patch_text(&index, old, old, new);
        snprintf(says, sizeof says, "tensor %s is missing, expected shape [", names[i]);
        refuse_opening(names[i], says);
        store_file(f.path, f.bytes.data, f.bytes.len);
        store_file(index.path, index.bytes.data, index.bytes.len);
        buf_free(&f.bytes);
        buf_free(&index.bytes);
    }
}

static void test_wrong_headers(void **state)
{
    (void)state;
    static const struct {
        const char *tensor, *old, *new, *says;
    } cases[] = {
        {"layers.0.attn.wq_b.weight", "[1024,128]", "[128,1024]", "has shape [128, 1024], expected [1024, 128]"},
        {"layers.0.attn.wq_b.scale", "[8,1]", "[1,8]", "has shape [1, 8], expected [8, 1]"},
        {"layers.1.ffn.experts.3.w1.weight", "[128,128]", "[256,64] ", "has shape [256, 64], expected [128, 128]"},
        {"layers.1.ffn.experts.3.w1.scale", "[128,8]", "[8,128]", "has shape [8, 128], expected [128, 8]"},
        {"layers.1.ffn.experts.3.w1.weight", "I8", "U8", "has dtype U8, expected F8_E4M3, I8"},
        {"layers.1.ffn.experts.3.w1.scale", "F8_E8M0", "F8_E4M3", "has dtype F8_E4M3, expected F8_E8M0 or F32"},
        {"layers.0.attn.attn_sink", "F32", "I32", "has dtype I32, expected F32, BF16 or F16"},
        {"layers.0.ffn.gate.tid2eid", "[384,4]", "[4,384]", "has shape [4, 384], expected [384, 4]"},
        {"layers.0.attn.wkv.weight", "F8_E4M3", "F8_E8M0", "has dtype F8_E8M0, expected F8_E4M3"},
        {"mtp.0.e_proj.weight", "[256,256]", "[512,128]", "has shape [512, 128], expected [256, 256]"},
        {"norm.weight", "[256]", "[128]", "takes 512 bytes, but its dtype and shape need 256"},
    };
    make_model(DRAFTER_MTP);
    for (size_t i = 0; i < COUNT_OF(cases); i++) {
        struct file f;
        uint64_t at;
        char quoted[128];
        file_of(cases[i].tensor, &f, &at);
        snprintf(quoted, sizeof quoted, "\"%s\":", cases[i].tensor);
        patch_text(&f, quoted, cases[i].old, cases[i].new);
        refuse_opening(cases[i].tensor, cases[i].says);
        store_file(f.path, f.bytes.data, f.bytes.len);
        buf_free(&f.bytes);
    }
}

static void test_wrong_data(void **state)
{
    (void)state;
    static const struct {
        const char *tensor;
        size_t at;
        uint8_t bytes[8];
        size_t n;
        const char *says;
    } cases[] = {
        {"layers.3.ffn.experts.11.w2.scale", 1023, {255}, 1,
         "holds a NaN at element 1023, expected scale bytes 0 to 254"},
        {"layers.0.attn.wkv.scale", 0, {255}, 1, "holds a NaN at element 0"},
        {"layers.2.attn.wo_b.weight", 4097, {0x7f}, 1, "holds a NaN at element 4097, expected finite values"},
        {"mtp.0.h_proj.weight", 65535, {0xff}, 1, "holds a NaN at element 65535"},
        {"layers.1.attn_norm.weight", 10, {0xc0, 0x7f}, 2, "not a finite number"},
        {"layers.1.hc_attn_fn", 4000, {0, 0, 0x80, 0x7f}, 4,
         "holds a NaN or an infinity at element 1000, expected finite values"},
        {"layers.0.ffn.gate.tid2eid", 8, {12}, 8, "has expert 12 in row 0, expected distinct ids 0 to 11"},
        {"layers.0.ffn.gate.tid2eid", 96, {255, 255, 255, 255, 255, 255, 255, 255}, 8, "has expert -1 in row 3"},
        {"layers.0.ffn.gate.tid2eid", 0, {0, 0, 0, 0, 1}, 8, "has expert 4294967296 in row 0"},
    };
    make_model(DRAFTER_MTP);
    for (size_t i = 0; i < COUNT_OF(cases); i++) {
        struct file f;
        uint64_t at;
        file_of(cases[i].tensor, &f, &at);
        char saved[8], *p = f.bytes.data + at + cases[i].at;
        memcpy(saved, p, cases[i].n);
        memcpy(p, cases[i].bytes, cases[i].n);
        store_file(f.path, f.bytes.data, f.bytes.len);
        refuse_opening(cases[i].tensor, cases[i].says);
        struct weights w;
        struct err e = {0};
        assert_int_equal(weights_open(&w, scratch_path("model"), false, NULL, &e), HD_OK); /* data not asked for */
        weights_close(&w);
        memcpy(p, saved, cases[i].n);
        store_file(f.path, f.bytes.data, f.bytes.len);
        buf_free(&f.bytes);
    }
}

/* Enough bytes for several threads: of two bad tensors the earlier layer's is named, every time. */
static void test_first_bad_tensor(void **state)
{
    (void)state;
    static const char *const names[] = {"layers.36.attn.wo_b.scale", "layers.9.attn.wq_b.weight"};
    make_deep_model(DRAFTER_NONE, 40);
    for (size_t i = 0; i < COUNT_OF(names); i++) {
        struct file f;
        uint64_t at;
        file_of(names[i], &f, &at);
        f.bytes.data[at] = (char)255;
        store_file(f.path, f.bytes.data, f.bytes.len);
        buf_free(&f.bytes);
        for (int k = 0; k < 5; k++)
            refuse_opening(names[i], "holds a NaN at element 0");
    }
}

static void test_same_expert_twice(void **state)
{
    (void)state;
    struct file f;
    uint64_t at;
    make_model(DRAFTER_NONE);
    file_of("layers.0.ffn.gate.tid2eid", &f, &at);
    memcpy(f.bytes.data + at + 32 * 5, f.bytes.data + at + 32 * 5 + 24, 8);
    store_file(f.path, f.bytes.data, f.bytes.len);
    refuse_opening("layers.0.ffn.gate.tid2eid", "in row 5 twice");
    buf_free(&f.bytes);
}

/* config.json and the tensors disagree. */
static void test_wrong_config(void **state)
{
    (void)state;
    static const struct {
        const char *old, *new, *tensor, *says;
    } cases[] = {
        {"\"hidden_size\": 256", "\"hidden_size\": 512", "embed.weight", "has shape [384, 256], expected [384, 512]"},
        {"\"num_hidden_layers\": 4", "\"num_hidden_layers\": 3", "compress_ratios", "of a drafter layer is 4"},
        {"\"num_hidden_layers\": 4", "\"num_hidden_layers\": 5", "layers.4.hc_attn_fn", "is missing"},
        {"[0, 4, 128, 4, 0]", "[0, 0, 128, 4, 0]", "layers.1.attn.compressor.", "a layer without compressor"},
        {"[0, 4, 128, 4, 0]", "[4, 4, 128, 4, 0]", "layers.0.attn.compressor.wkv.weight", "is missing"},
        {"[0, 4, 128, 4, 0]", "[0, 4, 128, 4, 4]", "compress_ratios", "of a drafter layer is 4, expected 0"},
        {"\"num_hash_layers\": 1", "\"num_hash_layers\": 0", "layers.0.ffn.gate.bias", "is missing"},
        {"\"num_hash_layers\": 1", "\"num_hash_layers\": 2", "layers.1.ffn.gate.tid2eid", "is missing"},
        {"\"n_routed_experts\": 12", "\"n_routed_experts\": 13", "layers.0.ffn.gate.weight", "expected [13, 256]"},
        {"\"index_n_heads\": 16", "\"index_n_heads\": 32", "layers.1.attn.indexer.wq_b.weight", "expected [4096, 128]"},
    };
    struct file f;
    make_model(DRAFTER_MTP);
    load_file(&f, scratch_path("model/config.json"));
    for (size_t i = 0; i < COUNT_OF(cases); i++) {
        struct weights w;
        struct err e = {0};
        patch_text(&f, cases[i].old, cases[i].old, cases[i].new);
        int rc = weights_open(&w, scratch_path("model"), true, NULL, &e);
        if (rc == HD_OK || strstr(e.msg, cases[i].tensor) == NULL || strstr(e.msg, cases[i].says) == NULL)
            fail_msg("%s: code %d, \"%s\"", cases[i].new, rc, e.msg);
    }
    buf_free(&f.bytes);
}

static void test_fewer_layers_than_tensors(void **state)
{
    (void)state;
    struct file f;
    make_model(DRAFTER_NONE);
    load_file(&f, scratch_path("model/config.json"));
    patch_text(&f, "\"num_hidden_layers\": 4", "4", "3");
    refuse_opening("layers.3.", "by config.json this is fewer layers");
    buf_free(&f.bytes);
}

static void test_dspark_needs_config(void **state)
{
    (void)state;
    struct file f;
    make_model(DRAFTER_DSPARK);
    struct weights w;
    struct err e = {0};
    assert_int_equal(weights_open(&w, scratch_path("model"), true, NULL, &e), HD_OK);
    assert_int_equal(w.drafter, DRAFTER_DSPARK);
    assert_int_equal(w.cfg.n_nextn, 1); /* as in the releases: the stages are counted from the tensors */
    assert_int_equal(w.dspark.n_stages, 3);
    assert_int_equal(w.dspark.main_proj.cols, 3 * 256);
    assert_int_equal(w.dspark.confidence.cols, 256 + 32);
    weights_close(&w);
    load_file(&f, scratch_path("model/config.json"));
    patch_text(&f, "dspark_block_size", "dspark_block_size", "dspark_block_sizf");
    refuse_opening("config.json", "the key \"dspark_block_size\" is missing");
    buf_free(&f.bytes);
}

/* A truncated shard is refused by its name and the tensor that it cuts. */
static void test_truncated(void **state)
{
    (void)state;
    struct file f;
    uint64_t at;
    make_model(DRAFTER_NONE);
    file_of("layers.2.attn.wo_b.weight", &f, &at);
    store_file(f.path, f.bytes.data, f.bytes.len - 1);
    refuse_opening(f.path, "truncated or damaged");
    store_file(f.path, f.bytes.data, 100);
    refuse_opening(f.path, "but the file has 100");
    buf_free(&f.bytes);
}

/* ---------------------------------------------------------------- data at odd addresses */

static void compare_matrix(const struct matrix *a, const struct matrix *b)
{
    float x[1024], y[1024];
    assert_int_equal(a->rows, b->rows);
    assert_true(a->cols <= 1024);
    for (int r = 0; r < a->rows; r += 7) {
        matrix_row(a, r, x);
        matrix_row(b, r, y);
        assert_memory_equal(x, y, (size_t)a->cols * 4);
    }
}

static void compare_vec(const struct vec *a, const struct vec *b)
{
    assert_int_equal(a->n, b->n);
    assert_memory_equal(a->data, b->data, (size_t)a->n * 4);
}

/* Every file's header gets one more blank, so that all data move to odd addresses. */
static void test_unaligned(void **state)
{
    (void)state;
    struct weights a, b;
    struct err e = {0};
    make_model(DRAFTER_MTP);
    shell("cp -r '%s' '%s'", scratch_path("model"), scratch_path("odd"));
    assert_int_equal(weights_open(&a, scratch_path("model"), true, NULL, &e), HD_OK);
    for (int i = 0; i < a.ckpt.n_shards; i++) {
        struct file f;
        char path[256];
        snprintf(path, sizeof path, "%s/odd%s", scratch_dir(), strrchr(a.ckpt.shards[i].path, '/'));
        load_file(&f, path);
        uint64_t n;
        struct buf out = {0};
        memcpy(&n, f.bytes.data, 8);
        n++;
        buf_add(&out, &n, 8);
        buf_add(&out, f.bytes.data + 8, n - 1);
        buf_char(&out, ' ');
        buf_add(&out, f.bytes.data + 7 + n, f.bytes.len - 7 - n);
        store_file(path, out.data, out.len);
        buf_free(&out);
        buf_free(&f.bytes);
    }
    if (weights_open(&b, scratch_path("odd"), true, NULL, &e) != HD_OK)
        fail_msg("%s", e.msg);
    compare_matrix(&a.embed, &b.embed);
    for (int l = 0; l < 4; l++) {
        compare_matrix(&a.layers[l].wq_a, &b.layers[l].wq_a);
        compare_matrix(&a.layers[l].gate, &b.layers[l].gate);
        compare_matrix(&a.layers[l].experts[5].w2, &b.layers[l].experts[5].w2);
        compare_vec(&a.layers[l].attn_sink, &b.layers[l].attn_sink);
        compare_vec(&a.layers[l].ffn_norm, &b.layers[l].ffn_norm);
    }
    assert_memory_equal(a.layers[0].tid2eid, b.layers[0].tid2eid, 384 * 4 * 8);
    assert_int_equal((uintptr_t)b.layers[0].tid2eid % 8, 0);
    weights_close(&a);
    weights_close(&b);
}

/* ---------------------------------------------------------------- rows */

static void test_rows_plain(void **state)
{
    (void)state;
    static const float f32[] = {1, -2, 3.5f, 4, 5, 6};
    static const uint16_t bf16[] = {0x3f80, 0xc000, 0x4060, 0, 0x8000, 0x7f7f};
    static const uint16_t f16[] = {0x3c00, 0xc000, 0x4300, 0x0001, 0x8000, 0x7bff};
    float out[3];
    struct matrix m = {.data = f32, .dtype = DT_F32, .rows = 2, .cols = 3};
    matrix_row(&m, 1, out);
    assert_true(out[0] == 4 && out[1] == 5 && out[2] == 6);
    m = (struct matrix){.data = bf16, .dtype = DT_BF16, .rows = 2, .cols = 3};
    matrix_row(&m, 0, out);
    assert_true(out[0] == 1 && out[1] == -2 && out[2] == 3.5f);
    m = (struct matrix){.data = f16, .dtype = DT_F16, .rows = 2, .cols = 3};
    matrix_row(&m, 1, out);
    assert_true(out[0] == 0x1p-24f && out[1] == 0 && signbit(out[1]) && out[2] == 65504);
}

/* 130 x 130: the last block of each direction is two wide. */
static void test_rows_fp8(void **state)
{
    (void)state;
    enum { N = 130 };
    static uint8_t data[N * N];
    static const uint8_t scale[] = {127, 130, 120, 0};
    static const float scale32[] = {1, 8, 0x1p-7f, 0.75f};
    float out[N];
    for (size_t i = 0; i < sizeof data; i++)
        data[i] = (uint8_t)(mix64(i) % 127);
    struct matrix m = {.data = data, .scale = scale, .dtype = DT_F8_E4M3, .scale_dtype = DT_F8_E8M0,
                       .rows = N, .cols = N};
    for (int r = 0; r < N; r++) {
        matrix_row(&m, r, out);
        for (int i = 0; i < N; i++)
            assert_true(out[i] == e4m3_table[data[r * N + i]] * f32_from_e8m0(scale[(r / 128) * 2 + i / 128]));
    }
    m.scale = scale32;
    m.scale_dtype = DT_F32;
    matrix_row(&m, 129, out);
    assert_true(out[127] == e4m3_table[data[129 * N + 127]] * 0x1p-7f);
    assert_true(out[129] == e4m3_table[data[129 * N + 129]] * 0.75f);
}

/* Low nibble = even column; one scale for 32 columns; every code under every scale. */
static void test_rows_fp4(void **state)
{
    (void)state;
    static uint8_t data[255 * 32], scale[255 * 2];
    for (int r = 0; r < 255; r++)
        for (int i = 0; i < 32; i++) {
            data[r * 32 + i] = (uint8_t)((2 * i & 15) | ((2 * i + 1) & 15) << 4);
            scale[r * 2 + i / 16] = (uint8_t)(i < 16 ? r : 254 - r);
        }
    struct matrix m = {.data = data, .scale = scale, .dtype = DT_I8, .scale_dtype = DT_F8_E8M0,
                       .rows = 255, .cols = 64};
    float out[64];
    for (int r = 0; r < 255; r++) {
        matrix_row(&m, r, out);
        for (int i = 0; i < 64; i++) {
            double want = (double)e2m1_table[i & 15] * ldexp(1, (i < 32 ? r : 254 - r) - 127);
            assert_true(out[i] == (float)want && signbit(out[i]) == signbit(e2m1_table[i & 15]));
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_releases, scratch_make, scratch_remove),
        cmocka_unit_test_setup_teardown(test_missing_tensors, scratch_make, scratch_remove),
        cmocka_unit_test_setup_teardown(test_wrong_headers, scratch_make, scratch_remove),
        cmocka_unit_test_setup_teardown(test_wrong_data, scratch_make, scratch_remove),
        cmocka_unit_test_setup_teardown(test_first_bad_tensor, scratch_make, scratch_remove),
        cmocka_unit_test_setup_teardown(test_same_expert_twice, scratch_make, scratch_remove),
        cmocka_unit_test_setup_teardown(test_wrong_config, scratch_make, scratch_remove),
        cmocka_unit_test_setup_teardown(test_fewer_layers_than_tensors, scratch_make, scratch_remove),
        cmocka_unit_test_setup_teardown(test_dspark_needs_config, scratch_make, scratch_remove),
        cmocka_unit_test_setup_teardown(test_truncated, scratch_make, scratch_remove),
        cmocka_unit_test_setup_teardown(test_unaligned, scratch_make, scratch_remove),
        cmocka_unit_test(test_rows_plain),
        cmocka_unit_test(test_rows_fp8),
        cmocka_unit_test(test_rows_fp4),
    };
    return cmocka_run_group_tests_name("weights", tests, NULL, NULL);
}
