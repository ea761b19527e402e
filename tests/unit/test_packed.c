/* Packed weights: the same bits as packing in memory, and what happens when file, checkpoint or disk are not as they
 * should. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "model/packed.h"
#include "model/synth.h"
#include "scratch.h"

static int make_model(void **state)
{
    (void)state;
    struct synth_options o = {.shape = SYNTH_TINY, .n_layers = 4, .seed = 3, .drafter = DRAFTER_MTP};
    struct err e = {0};
    return scratch_make(NULL) != 0 || synth_write(&o, scratch_path("model"), NULL, NULL, &e) != HD_OK;
}

static struct model_options options(void)
{
    struct model_options o;
    model_options_init(&o);
    o.n_threads = 2;
    o.max_rows = 16;
    return o;
}

/* Makes or keeps the file; whether it was made. */
static bool convert(const char *out)
{
    struct model_options o = options();
    struct err e = {0};
    char *path;
    bool made;
    if (packed_convert(scratch_path("model"), out, &o, NULL, &path, &made, &e) != HD_OK)
        fail_msg("%s", e.msg);
    free(path);
    return made;
}

static float *logits_with(const struct model_options *o, bool mapped, size_t *n)
{
    static const int32_t tokens[] = {1, 2, 3, 5, 8, 13, 21, 34, 55};
    struct model *m;
    struct kv_seq *s = NULL;
    struct step_result r;
    struct err e = {0};
    if (model_open(&m, scratch_path("model"), o, NULL, &e) != HD_OK || kv_seq_open(&s, m, 64, &e) != HD_OK)
        fail_msg("%s", e.msg);
    assert_int_equal(model_weights(m)->layers[0].wq_a.packed != NULL, mapped); /* the path that this test is about */
    struct step_item it = {.seq = s, .tokens = tokens, .n_tokens = COUNT_OF(tokens), .n_logits = COUNT_OF(tokens)};
    if (model_step(m, &it, 1, &r, &e) != HD_OK)
        fail_msg("%s", e.msg);
    *n = (size_t)r.n_logits * (size_t)model_config(m)->vocab_size * sizeof(float);
    float *copy = xcalloc(1, *n);
    memcpy(copy, r.logits, *n);
    kv_seq_close(&s);
    model_close(&m);
    return copy;
}

static void test_same_bits(void **state)
{
    (void)state;
    struct model_options memory = options(), file = options();
    size_t n, n_file;
    memory.pack_in_memory = true;
    char *path = xstrdup(scratch_path("out.hadal"));
    file.packed_file = path;
    assert_true(convert(file.packed_file));
    float *want = logits_with(&memory, false, &n);
    for (int i = 0; i < 2; i++) { /* opened, and opened again */
        float *got = logits_with(&file, true, &n_file);
        assert_int_equal(n, n_file);
        assert_memory_equal(got, want, n);
        free(got);
    }
    assert_false(convert(file.packed_file));
    file.isa = ISA_REF; /* one file serves every instruction set */
    memory.isa = ISA_REF;
    float *ref = logits_with(&memory, false, &n), *got = logits_with(&file, true, &n_file);
    assert_memory_equal(got, ref, n);
    free(got);
    free(ref);
    free(want);
    free(path);
}

/* Opening with the file as it is now must fail with this text; nothing must crash. */
static void expect_refused(const char *file, const char *text)
{
    struct model_options o = options();
    struct model *m;
    struct err e = {0};
    o.packed_file = file;
    assert_int_not_equal(model_open(&m, scratch_path("model"), &o, NULL, &e), HD_OK);
    if (strstr(e.msg, text) == NULL)
        fail_msg("no '%s' in '%s'", text, e.msg);
}

static void poke(const char *file, long at, int byte)
{
    FILE *f = fopen(file, "r+b");
    assert_non_null(f);
    fseek(f, at, SEEK_SET);
    fputc(byte, f);
    fclose(f);
}

static void test_damage(void **state)
{
    (void)state;
    char *file = xstrdup(scratch_path("damaged.hadal"));
    assert_true(convert(file));
    poke(file, 0, 'h');
    expect_refused(file, "does not hold packed weights");
    assert_true(convert(file));
    poke(file, 60, 77);
    expect_refused(file, "the checksum of its index differs");
    assert_true(convert(file));
    poke(file, 12, 99);
    expect_refused(file, "checksum");
    assert_true(convert(file));
    shell("truncate -s -1 '%s'", file);
    expect_refused(file, "truncated?");
    shell("truncate -s 20 '%s'", file);
    expect_refused(file, "too few");
    shell("rm '%s'", file);
    expect_refused(file, "cannot open");
    free(file);
}

/* A byte of a matrix is found by reading everything, which opening does not do. */
static void test_verify(void **state)
{
    (void)state;
    char *file = xstrdup(scratch_path("verified.hadal"));
    struct weights w;
    struct err e = {0};
    assert_true(convert(file));
    assert_int_equal(weights_open_headers(&w, scratch_path("model"), NULL, &e), HD_OK);
    assert_int_equal(packed_verify(&w, file, NULL, &e), HD_OK);
    long at = (2 << 20) + 1000;
    FILE *f = fopen(file, "rb");
    fseek(f, at, SEEK_SET);
    int byte = fgetc(f);
    fclose(f);
    poke(file, at, byte ^ 1);
    assert_int_equal(packed_verify(&w, file, NULL, &e), HD_EFORMAT);
    assert_non_null(strstr(e.msg, "the checksum of layers.0.attn."));
    weights_close(&w);
    free(file);
}

/* packed_get with the usual places; whether the file is there afterwards. */
static void get(const char *cache)
{
    struct model_options o = options();
    struct dev_options d = {NUM_FAST, 1, o.isa, false};
    struct dev *dev;
    struct weights w;
    struct file_map map;
    struct err e = {0};
    o.cache_dir = cache;
    assert_int_equal(dev_open_cpu(&dev, &d, &e), HD_OK);
    assert_int_equal(weights_open(&w, scratch_path("model"), false, NULL, &e), HD_OK);
    if (packed_get(&map, &w, dev, scratch_path("model"), &o, NULL, &e) != HD_OK)
        fail_msg("%s", e.msg);
    assert_non_null(w.head.packed);
    weights_close(&w);
    dev->ops->close(&dev);
    file_unmap(&map);
}

static uint64_t inode_of(const char *path)
{
    struct stat s;
    return stat(path, &s) == 0 ? (uint64_t)s.st_ino : 0;
}

static void test_made_when_needed(void **state)
{
    (void)state;
    char *file = xstrdup(scratch_path("model/packed.hadal"));
    assert_false(file_exists(file));
    get(NULL);
    uint64_t first = inode_of(file);
    assert_true(first != 0);
    get(NULL);
    assert_true(inode_of(file) == first); /* fits: used as it is */
    shell("touch '%s'", scratch_path("model/model-00001-of-00006.safetensors"));
    get(NULL);
    uint64_t second = inode_of(file);
    shell("truncate -s -64 '%s'", file);
    get(NULL);
    assert_true(second != 0 && file_size(file) % 64 == 0);
    struct weights w;
    struct err e = {0};
    assert_int_equal(weights_open_headers(&w, scratch_path("model"), NULL, &e), HD_OK);
    assert_int_equal(packed_verify(&w, file, NULL, &e), HD_OK);
    weights_close(&w);
    shell("rm '%s'", file);
    free(file);
}

/* A folder that cannot be written. Permissions do not bind root, who drops them in a child. */
static void test_user_cache(void **state)
{
    (void)state;
    shell("chmod 755 '%s'; mkdir -p '%s' && chmod 777 '%s' && chmod 555 '%s'", scratch_dir(), scratch_path("user"),
          scratch_path("user"), scratch_path("model"));
    pid_t child = fork();
    if (child == 0) {
        if (geteuid() == 0 && setuid(65534) != 0)
            _exit(2);
        get(scratch_path("user/a/cache"));
        _exit(file_exists(scratch_path("model/packed.hadal")));
    }
    int status = 0;
    waitpid(child, &status, 0);
    shell("chmod 755 '%s'", scratch_path("model"));
    assert_int_equal(status, 0);
    shell("test $(ls '%s' | wc -l) = 1", scratch_path("user/a/cache"));
}

static int die_half_way(void *arg, const char *what, uint64_t done, uint64_t total)
{
    (void)arg;
    if (strcmp(what, "packing weights") == 0 && done > total / 2)
        kill(getpid(), SIGKILL);
    return 0;
}

static void test_kill_leaves_nothing(void **state)
{
    (void)state;
    shell("mkdir '%s'", scratch_path("killed"));
    pid_t child = fork();
    if (child == 0) {
        struct progress p = {die_half_way, NULL};
        struct model_options o = options();
        char *path;
        bool made;
        packed_convert(scratch_path("model"), scratch_path("killed/out.hadal"), &o, &p, &path, &made, NULL);
        _exit(0);
    }
    int status = 0;
    waitpid(child, &status, 0);
    assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
    shell("test ! -e '%s'", scratch_path("killed/out.hadal"));
    assert_true(convert(scratch_path("killed/out.hadal"))); /* whatever was left is not in the way */
    shell("test $(ls -A '%s' | wc -l) = 1", scratch_path("killed"));
}

static void test_full_disk(void **state)
{
    (void)state;
    struct rlimit before, small;
    struct model_options o = options();
    struct err e = {0};
    char *path;
    bool made;
    signal(SIGXFSZ, SIG_IGN);
    getrlimit(RLIMIT_FSIZE, &before);
    small = before;
    small.rlim_cur = 3 << 20;
    setrlimit(RLIMIT_FSIZE, &small);
    int rc = packed_convert(scratch_path("model"), scratch_path("full.hadal"), &o, NULL, &path, &made, &e);
    setrlimit(RLIMIT_FSIZE, &before);
    free(path);
    assert_int_equal(rc, HD_EIO);
    assert_non_null(strstr(e.msg, "for which there is no room"));
    shell("test -z \"$(ls '%s' | grep full)\"", scratch_dir());
}

/* Two processes at once: one makes the file, the other waits and finds it. */
static void test_two_at_once(void **state)
{
    (void)state;
    pid_t child[2];
    int made = 0;
    for (int i = 0; i < 2; i++)
        if ((child[i] = fork()) == 0)
            _exit(convert(NULL));
    for (int i = 0; i < 2; i++) {
        int status = 0;
        waitpid(child[i], &status, 0);
        assert_true(WIFEXITED(status) && WEXITSTATUS(status) <= 1);
        made += WEXITSTATUS(status);
    }
    assert_int_equal(made, 1);
    shell("rm '%s'", scratch_path("model/packed.hadal"));
}

static void test_too_large(void **state)
{
    (void)state;
    struct model_options o = options();
    struct model *m;
    struct err e = {0};
    o.memory_bytes = 100000;
    assert_int_equal(model_open(&m, scratch_path("model"), &o, NULL, &e), HD_ENOMEM);
    assert_non_null(strstr(e.msg, "does not fit into memory: routed experts"));
    assert_non_null(strstr(e.msg, "there are 100 kB"));
    assert_false(file_exists(scratch_path("model/packed.hadal")));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_same_bits),
        cmocka_unit_test(test_damage),
        cmocka_unit_test(test_verify),
        cmocka_unit_test(test_made_when_needed),
        cmocka_unit_test(test_user_cache),
        cmocka_unit_test(test_kill_leaves_nothing),
        cmocka_unit_test(test_full_disk),
        cmocka_unit_test(test_two_at_once),
        cmocka_unit_test(test_too_large),
    };
    return cmocka_run_group_tests(tests, make_model, scratch_remove);
}
