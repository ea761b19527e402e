/* The disk tier's store: what was saved comes back, what is not whole or not ours does not, in memory and in a real folder. */
#include "engine/spill.h"
#include "engine/spill_disk.h"
#include "engine/spill_impl.h"
#include "fake_disk.h"
#include "scratch.h"

#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

enum { PAGE = 5000, TAIL = 9000, LIMIT = 1 << 20 };

static char lines[64][256];
static int n_lines;

static void on_log(void *arg, const char *line)
{
    (void)arg;
    snprintf(lines[n_lines++ % 64], sizeof lines[0], "%s", line);
}

/* What the last load brought. */
static struct {
    int n;
    bool ok;
    uint8_t data[TAIL];
} got;

static void on_loaded(void *arg, void *tag, enum spill_kind kind, bool ok, const void *data)
{
    (void)arg;
    (void)tag;
    got.n++;
    got.ok = ok;
    memcpy(got.data, data, kind == SPILL_PAGE ? PAGE : TAIL);
}

static struct spill_options options(void)
{
    n_lines = 0;
    return (struct spill_options){.limit_bytes = LIMIT, .fingerprint = 1, .page_bytes = PAGE, .tail_bytes = TAIL,
                                  .no_thread = true, .log = on_log, .loaded = on_loaded, .retry_ns = 1};
}

static struct spill *open_over(struct fake_disk *d, const struct spill_options *o)
{
    struct spill *s = NULL;
    struct err e = {0};
    if (spill_open_disk(&s, o, fake_disk_open(d), &e) != HD_OK)
        fail_msg("%s", e.msg);
    spill_check(s);
    return s;
}

/* ---------------------------------------------------------------- records of made-up sequences */

/* The page at depth (from 1) of text n of a user; each token says where it is. */
static struct spill_place place(const char *user, int n, int depth, int32_t *tokens)
{
    struct spill_key key = spill_key_of_user(user), parent = key;
    for (int d = 1; d <= depth; d++) {
        for (int i = 0; i < KV_PAGE_TOKENS; i++)
            tokens[i] = (int32_t)(((uint32_t)n * 1000003 + (uint32_t)(d * 131 + i)) & INT32_MAX);
        parent = key;
        key = spill_key_next(key, tokens);
    }
    return (struct spill_place){key, parent, depth, user, tokens};
}

static void fill(uint8_t *data, size_t n_bytes, const struct spill_place *p, enum spill_kind kind)
{
    struct rng r = {p->key.low ^ (uint64_t)kind};
    for (size_t i = 0; i < n_bytes; i++)
        data[i] = (uint8_t)rng_u64(&r);
}

static enum spill_answer save_one(struct spill *s, const char *user, int n, int depth, enum spill_kind kind)
{
    int32_t tokens[KV_PAGE_TOKENS];
    uint8_t data[TAIL];
    struct spill_place p = place(user, n, depth, tokens);
    enum spill_answer a = SPILL_BUSY;
    fill(data, kind == SPILL_PAGE ? PAGE : TAIL, &p, kind);
    if (!spill_takes(s, p.key, kind))
        return SPILL_TAKEN;
    while ((a = spill_save(s, &p, kind, data)) == SPILL_BUSY)
        spill_poll(s, true);
    return a;
}

static void save(struct spill *s, const char *user, int n, int depth, enum spill_kind kind)
{
    assert_int_equal(save_one(s, user, n, depth, kind), SPILL_TAKEN);
}

static void settle(struct spill *s)
{
    while (spill_working(s))
        spill_poll(s, true);
    spill_check(s);
}

enum outcome { ABSENT, LOST, RIGHT };

/* Never something else. */
static enum outcome load(struct spill *s, const char *user, int n, int depth, enum spill_kind kind)
{
    int32_t tokens[KV_PAGE_TOKENS];
    uint8_t data[TAIL];
    size_t n_bytes = kind == SPILL_PAGE ? PAGE : TAIL;
    struct spill_place p = place(user, n, depth, tokens);
    if (!spill_has(s, p.key, kind))
        return ABSENT;
    int before = got.n;
    while (!spill_load(s, &p, kind, &got))
        spill_poll(s, true);
    settle(s);
    assert_int_equal(got.n, before + 1);
    fill(data, n_bytes, &p, kind);
    if (got.ok)
        assert_memory_equal(got.data, data, n_bytes);
    return got.ok ? RIGHT : LOST;
}

/* ---------------------------------------------------------------- coming back */

static void test_comes_back(void **state)
{
    (void)state;
    struct fake_disk d;
    struct spill_options o = options();
    fake_disk_init(&d, 1);
    struct spill *s = open_over(&d, &o);
    for (int depth = 1; depth <= 5; depth++)
        save(s, "a", 0, depth, SPILL_PAGE);
    save(s, "a", 0, 5, SPILL_TAIL);
    settle(s);
    for (int round = 0; round < 2; round++) { /* at once, and after a restart */
        for (int depth = 1; depth <= 5; depth++)
            assert_int_equal(load(s, "a", 0, depth, SPILL_PAGE), RIGHT);
        assert_int_equal(load(s, "a", 0, 5, SPILL_TAIL), RIGHT);
        assert_int_equal(load(s, "a", 0, 4, SPILL_TAIL), ABSENT);
        assert_int_equal(load(s, "b", 0, 1, SPILL_PAGE), ABSENT); /* another user, the same tokens */
        assert_int_equal(load(s, "a", 1, 1, SPILL_PAGE), ABSENT);
        spill_close(&s);
        s = open_over(&d, &o);
    }
    spill_close(&s);
    assert_int_equal(n_lines, 0);
    fake_disk_free(&d);
}

/* Records of one key with the contents of another: found by name, refused by contents. */
static void test_contents_decide(void **state)
{
    (void)state;
    struct spill_record r = {.kind = SPILL_PAGE, .depth = 1, .payload_bytes = PAGE, .user_bytes = 1, .user = "a"}, w;
    uint8_t data[PAGE] = {1};
    spill_record_seal(&r, data);
    assert_true(spill_record_is(&r, &r, data));
    w = r;
    w.tokens[127] = 1;
    assert_false(spill_record_is(&r, &w, data));
    w = r;
    w.user[0] = 'b';
    assert_false(spill_record_is(&r, &w, data));
    w = r;
    w.parent.high = 1;
    assert_false(spill_record_is(&r, &w, data));
    w = r;
    data[PAGE - 1] = 1;
    assert_false(spill_record_is(&r, &w, data));
    data[PAGE - 1] = 0;
    r.user[0] = 'b'; /* not sealed again */
    assert_false(spill_record_is(&r, &r, data));
}

/* ---------------------------------------------------------------- the limit */

static void test_least_recently_used_goes(void **state)
{
    (void)state;
    struct fake_disk d;
    struct spill_options o = options();
    struct disk_stats st;
    fake_disk_init(&d, 1);
    struct spill *s = open_over(&d, &o);
    int32_t tokens[KV_PAGE_TOKENS];
    for (int n = 0; n < 200; n++) {
        save(s, "a", n, 1, SPILL_PAGE);
        save(s, "a", n, 2, SPILL_PAGE);
        spill_touch(s, place("a", 0, 1, tokens).key);
        settle(s);
    }
    spill_read_stats(s, &st);
    assert_true(st.bytes <= LIMIT && st.bytes > LIMIT / 2 && st.evicted > 0);
    assert_int_equal(load(s, "a", 0, 1, SPILL_PAGE), RIGHT); /* used all along */
    assert_int_equal(load(s, "a", 0, 2, SPILL_PAGE), ABSENT);
    assert_int_equal(load(s, "a", 1, 1, SPILL_PAGE), ABSENT);
    assert_int_equal(load(s, "a", 199, 2, SPILL_PAGE), RIGHT);
    for (int n = 0; n < 200; n++) /* nothing is there without what it builds on */
        if (load(s, "a", n, 2, SPILL_PAGE) == RIGHT)
            assert_int_equal(load(s, "a", n, 1, SPILL_PAGE), RIGHT);
    spill_close(&s);
    o.limit_bytes = LIMIT / 4; /* smaller from now on */
    s = open_over(&d, &o);
    spill_read_stats(s, &st);
    assert_true(st.bytes <= LIMIT / 4 && d.taken <= LIMIT / 4);
    spill_close(&s);
    struct err e = {0};
    o.limit_bytes = 20000;
    assert_int_equal(spill_open_disk(&s, &o, fake_disk_open(&d), &e), HD_EARG);
    assert_non_null(strstr(e.msg, "too small"));
    fake_disk_free(&d);
}

/* ---------------------------------------------------------------- what cannot be used */

static int first_file(struct fake_disk *d)
{
    for (int i = 0; i < FAKE_FILES_MAX; i++)
        if (d->files[i].name[0] != '\0')
            return i;
    return -1;
}

struct bad_file {
    const char *what, *line;
    size_t at;      /* byte that is changed */
    bool truncate, other_model;
};

static void test_skipped_with_one_line(void **state)
{
    (void)state;
    static const struct bad_file cases[] = {
        {"magic", "is no cache file", 0, false, false},
        {"byte order", "byte order", 8, false, false},
        {"version", "another version", 12, false, false},
        {"header", "damaged header", 16, false, false},
        {"truncated", "is truncated", 0, true, false},
        {"model", "another model", 0, false, true},
    };
    for (size_t i = 0; i < COUNT_OF(cases); i++) {
        struct fake_disk d;
        struct spill_options o = options();
        fake_disk_init(&d, 1);
        struct spill *s = open_over(&d, &o);
        save(s, "a", 0, 1, SPILL_PAGE);
        spill_close(&s);
        struct fake_file *f = &d.files[first_file(&d)];
        if (cases[i].truncate)
            f->bytes -= 4096;
        else if (!cases[i].other_model)
            f->data[cases[i].at] ^= 1;
        o.fingerprint = cases[i].other_model ? 2 : 1;
        s = open_over(&d, &o);
        assert_int_equal(n_lines, 1);
        if (strstr(lines[0], cases[i].line) == NULL || strstr(lines[0], f->name) == NULL)
            fail_msg("%s: %s", cases[i].what, lines[0]);
        assert_int_equal(load(s, "a", 0, 1, SPILL_PAGE), ABSENT);
        for (int n = 0; n < 300; n++) /* its room is taken when it is needed, and not before */
            save(s, "a", n, 1, SPILL_PAGE);
        for (int n = 0; n < 100; n++) {
            save(s, "a", 299, 1, SPILL_PAGE);
            save(s, "t", n, 1, SPILL_PAGE);
            save(s, "t", n, 1, SPILL_TAIL);
        }
        settle(s);
        spill_close(&s);
        assert_true(d.taken <= LIMIT);
        fake_disk_free(&d);
    }
}

/* Any bit of any file may turn: what is loaded is right or lost. */
static void test_damage(void **state)
{
    (void)state;
    int n_lost = 0;
    for (uint64_t seed = 1; seed <= 60; seed++) {
        struct fake_disk d;
        struct spill_options o = options();
        fake_disk_init(&d, seed);
        struct spill *s = open_over(&d, &o);
        for (int n = 0; n < 8; n++) {
            save(s, "a", n, 1, SPILL_PAGE);
            save(s, "a", n, 1, SPILL_TAIL);
        }
        settle(s);
        if (seed % 2 == 0)
            spill_close(&s);
        for (int k = 0; k < 20; k++)
            fake_disk_damage(&d);
        if (s == NULL)
            s = open_over(&d, &o);
        for (int n = 0; n < 8; n++)
            n_lost += (load(s, "a", n, 1, SPILL_PAGE) != RIGHT) + (load(s, "a", n, 1, SPILL_TAIL) != RIGHT);
        for (int n = 0; n < 8; n++) { /* and can be saved again */
            save(s, "a", n, 1, SPILL_PAGE);
            settle(s);
            assert_int_equal(load(s, "a", n, 1, SPILL_PAGE), RIGHT);
        }
        spill_close(&s);
        fake_disk_free(&d);
    }
    assert_true(n_lost > 20);
}

/* ---------------------------------------------------------------- a disk that refuses */

static void test_full_disk(void **state)
{
    (void)state;
    struct fake_disk d;
    struct spill_options o = options();
    struct disk_stats st;
    fake_disk_init(&d, 1);
    d.capacity = 60000;
    struct spill *s = open_over(&d, &o);
    for (int n = 0; n < 30; n++) {
        save_one(s, "a", n, 1, SPILL_PAGE);
        settle(s);
    }
    assert_int_equal(n_lines, 1);
    assert_non_null(strstr(lines[0], "no room"));
    assert_int_equal(load(s, "a", 29, 1, SPILL_PAGE), RIGHT); /* within what it has */
    spill_read_stats(s, &st);
    assert_true(st.paused && st.write_errors > 0 && d.taken <= d.capacity);
    d.capacity = 0;
    for (int n = 30; n < 60; n++)
        save(s, "a", n, 1, SPILL_PAGE);
    settle(s);
    spill_read_stats(s, &st);
    assert_int_equal(n_lines, 2);
    assert_non_null(strstr(lines[1], "can grow again"));
    assert_true(!st.paused && st.pages > 30);
    spill_close(&s);
    fake_disk_free(&d);
}

static void test_failing_disk(void **state)
{
    (void)state;
    struct fake_disk d;
    struct spill_options o = options();
    fake_disk_init(&d, 3);
    struct spill *s = open_over(&d, &o);
    save(s, "a", 0, 1, SPILL_PAGE);
    settle(s);
    d.fail_one_in = 1;
    assert_int_equal(load(s, "a", 0, 1, SPILL_PAGE), LOST);
    assert_int_equal(load(s, "a", 0, 1, SPILL_PAGE), ABSENT);
    save_one(s, "a", 1, 1, SPILL_PAGE);
    settle(s);
    save_one(s, "a", 2, 1, SPILL_PAGE);
    settle(s);
    assert_int_equal(load(s, "a", 1, 1, SPILL_PAGE), ABSENT);
    int n = n_lines;
    assert_int_equal(n, 2); /* the page that was lost; that nothing is saved */
    d.fail_one_in = 0;
    save(s, "a", 3, 1, SPILL_PAGE);
    settle(s);
    assert_int_equal(n_lines, 3);
    assert_non_null(strstr(lines[2], "takes pages again"));
    assert_int_equal(load(s, "a", 3, 1, SPILL_PAGE), RIGHT);
    spill_close(&s);
    fake_disk_free(&d);
}

/* A process that is killed at its n-th write, n = 0, 1, ..., that write half done. */
static void test_killed_anywhere(void **state)
{
    (void)state;
    int n_right = 0;
    for (int64_t at = 0; at < 70; at++) {
        struct fake_disk d;
        struct spill_options o = options();
        fake_disk_init(&d, (uint64_t)at + 1);
        o.limit_bytes = LIMIT / 8; /* slots are written over */
        struct spill *s = open_over(&d, &o);
        d.writes_to_death = at;
        for (int n = 0; n < 20; n++) {
            save_one(s, "a", n, 1, SPILL_PAGE);
            save_one(s, "a", n, 1, SPILL_TAIL);
        }
        spill_close(&s);
        d.dead = false;
        d.writes_to_death = -1;
        s = open_over(&d, &o);
        for (int n = 0; n < 20; n++)
            n_right += (load(s, "a", n, 1, SPILL_PAGE) == RIGHT) + (load(s, "a", n, 1, SPILL_TAIL) == RIGHT);
        spill_close(&s);
        fake_disk_free(&d);
    }
    assert_true(n_right > 200);
}

/* ---------------------------------------------------------------- a real folder */

static void test_folder(void **state)
{
    (void)state;
    for (int plain = 0; plain < 2; plain++) {
        struct spill_options o = options();
        struct disk_stats st;
        struct err e = {0};
        struct spill *s = NULL, *other = NULL;
        scratch_make_on_disk();
        o.dir = scratch_dir();
        o.no_thread = false;
        o.plain = plain;
        for (int round = 0; round < 2; round++) {
            assert_int_equal(spill_open(&s, &o, &e), HD_OK);
            spill_read_stats(s, &st);
            if (plain) /* the fallback is asked for, and says so */
                assert_false(st.direct || st.ring);
            for (int n = 0; n < 40; n++) {
                if (round == 1)
                    assert_int_equal(load(s, "a", n, 1, SPILL_PAGE), RIGHT);
                else
                    save(s, "a", n, 1, SPILL_PAGE);
            }
            assert_int_equal(spill_open(&other, &o, &e), HD_EARG);
            assert_non_null(strstr(e.msg, "in use by another process"));
            e = (struct err){0};
            spill_close(&s);
        }
        struct stat info;
        char *path = path_join(scratch_dir(), "seg-0000000001.hkv");
        assert_int_equal(stat(path, &info), 0);
        assert_int_equal(info.st_mode & 0777, 0600);
        free(path);
        assert_int_equal(chmod(scratch_dir(), 0755), 0);
        assert_int_equal(spill_open(&s, &o, &e), HD_EARG);
        assert_non_null(strstr(e.msg, "open to others"));
        scratch_remove(NULL);
    }
}

/* A writer is killed by the system at a random moment, twenty times over; what is there afterwards is right. */
static void write_for_ever(const struct spill_options *o, int from, int told)
{
    struct spill *s = NULL;
    if (spill_open(&s, o, NULL) != HD_OK)
        _exit(1);
    for (int n = from;; n++) {
        if (save_one(s, "a", n % 50, 1, SPILL_PAGE) != SPILL_TAKEN || save_one(s, "b", n, 1, SPILL_PAGE) != SPILL_TAKEN)
            _exit(1);
        spill_poll(s, false);
        if (write(told, "", 1) != 1)
            _exit(1);
    }
}

static void test_killed_by_the_system(void **state)
{
    (void)state;
    struct rng r = {5};
    int n_right = 0, n_lost = 0;
    struct spill_options o = options();
    scratch_make_on_disk();
    o.dir = scratch_dir();
    o.no_thread = false;
    o.limit_bytes = 8 * LIMIT;
    for (int round = 0; round < 20; round++) {
        int told[2];
        char byte;
        assert_int_equal(pipe(told), 0);
        pid_t child = fork();
        assert_true(child >= 0);
        if (child == 0)
            write_for_ever(&o, round * 1000, told[1]);
        close(told[1]); /* so that a child that fails ends the reading below */
        for (uint32_t k = 5 + rng_below(&r, 60); k > 0; k--) /* it has begun, however slow the machine is */
            assert_int_equal(read(told[0], &byte, 1), 1);
        usleep(rng_below(&r, 3000));
        kill(child, SIGKILL);
        close(told[0]);
        int status;
        assert_int_equal(waitpid(child, &status, 0), child);
        assert_true(WIFSIGNALED(status));
        struct spill *s = NULL;
        struct err e = {0};
        if (spill_open(&s, &o, &e) != HD_OK)
            fail_msg("%s", e.msg);
        for (int n = 0; n < 50; n++) {
            enum outcome x = load(s, "a", n, 1, SPILL_PAGE);
            n_right += x == RIGHT;
            n_lost += x == LOST;
        }
        spill_check(s);
        spill_close(&s);
    }
    printf("# killed 20 times: %d pages came back, %d did not verify\n", n_right, n_lost);
    assert_true(n_right > 0);
    scratch_remove(NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_comes_back),
        cmocka_unit_test(test_contents_decide),
        cmocka_unit_test(test_least_recently_used_goes),
        cmocka_unit_test(test_skipped_with_one_line),
        cmocka_unit_test(test_damage),
        cmocka_unit_test(test_full_disk),
        cmocka_unit_test(test_failing_disk),
        cmocka_unit_test(test_killed_anywhere),
        cmocka_unit_test(test_folder),
        cmocka_unit_test(test_killed_by_the_system),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
