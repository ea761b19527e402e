/* base: errors, memory, buffers, files, randomness, progress, instruction-set names. */
#include "base/base.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

/* ---------------------------------------------------------------- a scratch folder for each test */

static int folder_open(void **state)
{
    char *dir = xstrdup("/tmp/hadal-base-XXXXXX");
    if (mkdtemp(dir) == NULL)
        return -1;
    *state = dir;
    return 0;
}

static int folder_close(void **state)
{
    char *command = xasprintf("rm -r '%s'", (char *)*state);
    FILE *f = popen(command, "r");
    int rc = f == NULL ? -1 : pclose(f);
    free(command);
    free(*state);
    return rc;
}

static void write_file(const char *path, const void *data, size_t n)
{
    FILE *f = fopen(path, "wb");
    assert_non_null(f);
    assert_int_equal(fwrite(data, 1, n, f), n);
    assert_int_equal(fclose(f), 0);
}

/* ---------------------------------------------------------------- errors */

static void first_error_wins(void **state)
{
    (void)state;
    struct err e = {0};
    assert_int_equal(err_set(&e, HD_EFORMAT, "file %s: %d", "x", 7), HD_EFORMAT);
    assert_int_equal(err_set(&e, HD_EIO, "later"), HD_EIO);
    assert_int_equal(err_sys(&e, ENOENT, "later still"), HD_EIO);
    assert_int_equal(e.code, HD_EFORMAT);
    assert_string_equal(e.msg, "file x: 7");
    assert_int_equal(err_set(NULL, HD_EARG, "nobody listens"), HD_EARG);
    assert_int_equal(err_sys(NULL, EIO, "nobody listens"), HD_EIO);
}

static void system_error_is_named(void **state)
{
    (void)state;
    struct err e = {0};
    err_sys(&e, ENOENT, "a/b: cannot open");
    assert_string_equal(e.msg, "a/b: cannot open: No such file or directory");
}

static void long_error_is_cut(void **state)
{
    (void)state;
    char *long_name = xcalloc(5000, 1);
    memset(long_name, 'x', 4999);
    struct err e = {0}, s = {0};
    err_set(&e, HD_EIO, "%s", long_name);
    err_sys(&s, ENOENT, "%s", long_name);
    assert_int_equal(strlen(e.msg), sizeof e.msg - 1);
    assert_int_equal(strlen(s.msg), sizeof s.msg - 1);
    free(long_name);
}

/* ---------------------------------------------------------------- memory */

static void allocations(void **state)
{
    (void)state;
    static const size_t sizes[] = {0, 1, 63, 64, 65, 100000};
    for (size_t i = 0; i < COUNT_OF(sizes); i++) {
        uint8_t *p = try_alloc(sizes[i]);
        assert_non_null(p);
        assert_int_equal((uintptr_t)p % 64, 0);
        size_t rounded = (sizes[i] + 63) / 64 * 64;
        for (size_t k = 0; k < rounded; k++)
            assert_int_equal(p[k], 0);
        free(p);
    }
    assert_null(try_alloc(SIZE_MAX));
    assert_null(try_alloc(SIZE_MAX / 2));
    char *s = xstrndup("abcdef", 3);
    assert_string_equal(s, "abc");
    free(s);
    s = xasprintf("%s-%d", "n", 42);
    assert_string_equal(s, "n-42");
    free(s);
}

/* ---------------------------------------------------------------- buffer */

static void buffer_grows_and_ends_in_nul(void **state)
{
    (void)state;
    struct buf b = {0};
    char *want = xcalloc(200001, 1);
    for (size_t i = 0; i < 100000; i++) {
        want[2 * i] = (char)('a' + i % 26);
        want[2 * i + 1] = '.';
        buf_char(&b, want[2 * i]);
        buf_str(&b, ".");
        assert_int_equal(b.data[b.len], 0);
        assert_true(b.len < b.cap);
    }
    assert_int_equal(b.len, 200000);
    assert_memory_equal(b.data, want, 200000);
    buf_clear(&b);
    assert_int_equal(b.len, 0);
    assert_string_equal(b.data, "");
    buf_printf(&b, "%05d|%s", 42, "x");
    buf_printf(&b, "%s", "");
    assert_string_equal(b.data, "00042|x");
    buf_add(&b, "\0y", 2);
    assert_int_equal(b.len, 9);
    assert_memory_equal(b.data, "00042|x\0y", 10);
    buf_free(&b);
    assert_null(b.data);
    buf_free(&b);
    free(want);
}

static void empty_buffer(void **state)
{
    (void)state;
    struct buf b = {0};
    buf_clear(&b);
    assert_null(b.data);
    buf_add(&b, NULL, 0);
    assert_string_equal(b.data, "");
    buf_free(&b);
}

/* ---------------------------------------------------------------- files */

static void map_reads_a_file(void **state)
{
    char *path = path_join(*state, "f");
    char *data = xcalloc(10000, 1);
    for (int i = 0; i < 10000; i++)
        data[i] = (char)(i * 7);
    write_file(path, data, 10000);
    struct file_map m;
    struct err e = {0};
    assert_int_equal(file_map(&m, path, &e), HD_OK);
    assert_int_equal(m.size, 10000);
    assert_memory_equal(m.data, data, 10000);
    assert_int_equal(file_size(path), 10000);
    file_unmap(&m);
    assert_null(m.data);
    write_file(path, "", 0);
    assert_int_equal(file_map(&m, path, &e), HD_OK);
    assert_int_equal(m.size, 0);
    assert_non_null(m.data);
    file_unmap(&m);
    free(data);
    free(path);
}

static void map_refuses_with_the_name(void **state)
{
    struct file_map m;
    struct err e = {0}, d = {0};
    char *path = path_join(*state, "missing");
    assert_int_equal(file_map(&m, path, &e), HD_EIO);
    assert_non_null(strstr(e.msg, path));
    assert_non_null(strstr(e.msg, "No such file"));
    assert_int_equal(file_map(&m, *state, &d), HD_EIO);
    assert_non_null(strstr(d.msg, "not a regular file"));
    assert_int_equal(file_size(path), -1);
    free(path);
}

static void read_appends_and_limits(void **state)
{
    char *path = path_join(*state, "f");
    char *data = xcalloc(200000, 1);
    memset(data, 'q', 200000);
    write_file(path, data, 200000);
    struct buf b = {0};
    struct err e = {0};
    buf_str(&b, "head:");
    assert_int_equal(file_read(&b, path, 200000, &e), HD_OK);
    assert_int_equal(b.len, 200005);
    assert_memory_equal(b.data, "head:qqq", 8);
    assert_int_equal(b.data[b.len], 0);
    buf_clear(&b);
    assert_true(file_read(&b, path, 199999, &e) < 0);
    assert_non_null(strstr(e.msg, path));
    struct err missing = {0};
    buf_clear(&b);
    char *no = path_join(*state, "missing");
    assert_int_equal(file_read(&b, no, 10, &missing), HD_EIO);
    assert_non_null(strstr(missing.msg, no));
    buf_free(&b);
    free(no);
    free(data);
    free(path);
}

static int count_entries(const char *dir)
{
    char *command = xasprintf("ls -A '%s' | wc -l", dir);
    FILE *f = popen(command, "r");
    int n = -1;
    assert_non_null(f);
    assert_int_equal(fscanf(f, "%d", &n), 1);
    pclose(f);
    free(command);
    return n;
}

static void atomic_write_replaces_or_leaves(void **state)
{
    char *path = path_join(*state, "f");
    struct err e = {0};
    struct buf b = {0};
    assert_int_equal(file_write_atomic(path, "one", 3, &e), HD_OK);
    assert_int_equal(file_write_atomic(path, "two!", 4, &e), HD_OK);
    assert_int_equal(file_read(&b, path, 100, &e), HD_OK);
    assert_string_equal(b.data, "two!");
    assert_int_equal(count_entries(*state), 1);
    assert_int_equal(file_write_atomic(path, NULL, 0, &e), HD_OK);
    assert_int_equal(file_size(path), 0);
    /* A folder in the way: the rename fails, nothing is left beside it. */
    char *taken = path_join(*state, "taken"), *inside = path_join(taken, "x");
    assert_int_equal(mkdir(taken, 0755), 0);
    write_file(inside, "x", 1);
    assert_int_equal(file_write_atomic(taken, "no", 2, &e), HD_EIO);
    assert_non_null(strstr(e.msg, taken));
    assert_int_equal(count_entries(*state), 2);
    struct err nowhere = {0};
    char *deep = path_join(*state, "no/such/folder");
    assert_int_equal(file_write_atomic(deep, "no", 2, &nowhere), HD_EIO);
    assert_non_null(strstr(nowhere.msg, deep));
    free(deep);
    free(inside);
    free(taken);
    buf_free(&b);
    free(path);
}

static void path_questions(void **state)
{
    char *a = path_join("dir", "name"), *b = path_join("dir/", "name"), *c = path_join("", "name");
    assert_string_equal(a, "dir/name");
    assert_string_equal(b, "dir/name");
    assert_string_equal(c, "/name");
    free(a);
    free(b);
    free(c);
    char *path = path_join(*state, "f");
    assert_false(file_exists(path));
    write_file(path, "x", 1);
    assert_true(file_exists(path));
    assert_false(file_is_dir(path));
    assert_true(file_is_dir(*state));
    free(path);
}

/* ---------------------------------------------------------------- time and randomness */

static void time_goes_forward(void **state)
{
    (void)state;
    uint64_t last = now_ns();
    for (int i = 0; i < 10000; i++) {
        uint64_t now = now_ns();
        assert_true(now >= last);
        last = now;
    }
}

static void generator_is_splitmix64(void **state)
{
    (void)state;
    /* First outputs for seed 1234567 as published with the algorithm. */
    static const uint64_t want[] = {6457827717110365317u, 3203168211198807973u, 9817491932198370423u,
                                    4593380528125082431u, 16408922859458223821u};
    struct rng r = {1234567};
    for (size_t i = 0; i < COUNT_OF(want); i++)
        assert_true(rng_u64(&r) == want[i]);
}

static void generator_ranges_and_moments(void **state)
{
    (void)state;
    enum { N = 200000 };
    struct rng r = {7};
    double sum = 0, squares = 0;
    int count[10] = {0};
    for (int i = 0; i < N; i++) {
        double u = rng_unit(&r);
        assert_true(u >= 0 && u < 1);
        double z = rng_normal(&r);
        sum += z;
        squares += z * z;
        uint32_t k = rng_below(&r, 10);
        assert_true(k < 10);
        count[k]++;
    }
    assert_true(sum / N > -0.015 && sum / N < 0.015);
    assert_true(squares / N > 0.98 && squares / N < 1.02);
    for (int k = 0; k < 10; k++)
        assert_true(count[k] > N / 10 - 800 && count[k] < N / 10 + 800);
    assert_int_equal(rng_below(&r, 1), 0);
}

/* ---------------------------------------------------------------- progress */

static int stop_at_half(void *arg, const char *what, uint64_t done, uint64_t total)
{
    ++*(int *)arg;
    assert_string_equal(what, "work");
    return done * 2 >= total;
}

static void progress_can_stop(void **state)
{
    (void)state;
    int calls = 0;
    struct progress p = {stop_at_half, &calls};
    assert_int_equal(progress_tell(&p, "work", 1, 4), HD_OK);
    assert_int_equal(progress_tell(&p, "work", 2, 4), HD_ECANCELLED);
    assert_int_equal(calls, 2);
    assert_int_equal(progress_tell(NULL, "work", 1, 4), HD_OK);
    assert_int_equal(progress_tell(&(struct progress){0}, "work", 1, 4), HD_OK);
}

/* ---------------------------------------------------------------- CPU */

static void isa_names(void **state)
{
    (void)state;
    enum cpu_isa best = cpu_isa_best(), isa = ISA_COUNT;
    struct err e = {0};
    assert_int_equal(cpu_isa_parse("reference", &isa, &e), HD_OK);
    assert_int_equal(isa, ISA_REF);
    assert_int_equal(cpu_isa_parse(cpu_isa_name(best), &isa, &e), HD_OK);
    assert_int_equal(isa, best);
    for (int i = 0; i < ISA_COUNT; i++) {
        struct err refused = {0};
        isa = ISA_COUNT;
        int rc = cpu_isa_parse(cpu_isa_name((enum cpu_isa)i), &isa, &refused);
        if (rc == HD_OK) {
            assert_int_equal(isa, i);
            continue;
        }
        /* Only what this machine lacks is refused, with both names. */
        assert_int_equal(rc, HD_EUNSUPPORTED);
        assert_int_not_equal(i, ISA_REF);
        assert_int_equal(isa, ISA_COUNT);
        assert_non_null(strstr(refused.msg, cpu_isa_name((enum cpu_isa)i)));
        assert_non_null(strstr(refused.msg, cpu_isa_name(best)));
    }
#if defined(__x86_64__)
    assert_true(cpu_isa_parse("neon", &isa, NULL) == HD_EUNSUPPORTED);
#endif
    struct err unknown = {0};
    assert_int_equal(cpu_isa_parse("sse9", &isa, &unknown), HD_EARG);
    assert_non_null(strstr(unknown.msg, "sse9"));
    assert_int_equal(cpu_isa_parse("", &isa, NULL), HD_EARG);
}

static void memory_is_measured(void **state)
{
    (void)state;
    assert_true(memory_available_bytes() > 1 << 20);
    double speed = 0;
    struct err e = {0};
    assert_int_equal(memory_read_bandwidth(2, 0, &speed, &e), HD_OK);
    assert_true(speed > 1e7 && speed < 1e13);
    assert_int_equal(memory_read_bandwidth(-1, 0, &speed, &e), HD_EARG);
}

static void cpu_counts(void **state)
{
    (void)state;
    if (cpu_has_avx512_bf16() || cpu_has_avx512_vnni())
        assert_int_equal(cpu_isa_best(), ISA_AVX512);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(first_error_wins),
        cmocka_unit_test(system_error_is_named),
        cmocka_unit_test(long_error_is_cut),
        cmocka_unit_test(allocations),
        cmocka_unit_test(buffer_grows_and_ends_in_nul),
        cmocka_unit_test(empty_buffer),
        cmocka_unit_test_setup_teardown(map_reads_a_file, folder_open, folder_close),
        cmocka_unit_test_setup_teardown(map_refuses_with_the_name, folder_open, folder_close),
        cmocka_unit_test_setup_teardown(read_appends_and_limits, folder_open, folder_close),
        cmocka_unit_test_setup_teardown(atomic_write_replaces_or_leaves, folder_open, folder_close),
        cmocka_unit_test_setup_teardown(path_questions, folder_open, folder_close),
        cmocka_unit_test(time_goes_forward),
        cmocka_unit_test(generator_is_splitmix64),
        cmocka_unit_test(generator_ranges_and_moments),
        cmocka_unit_test(progress_can_stop),
        cmocka_unit_test(isa_names),
        cmocka_unit_test(memory_is_measured),
        cmocka_unit_test(cpu_counts),
    };
    return cmocka_run_group_tests_name("base", tests, NULL, NULL);
}
