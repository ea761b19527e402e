/* The prefix cache over the fake device: what is found, what is evicted, who sees what. */
#include "engine/cache.h"
#include "fake_device.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

enum { PAGE = CACHE_PAGE, N_PAGES = 12, N_TAILS = 3 };

struct box {
    struct fake_device device;
    struct cache cache;
};

static void open_box(struct box *b)
{
    fake_device_init(&b->device, N_PAGES, N_TAILS, 4);
    struct runner r = fake_runner(&b->device, N_PAGES * PAGE);
    cache_open(&b->cache, &r);
}

static void close_box(struct box *b)
{
    cache_check(&b->cache);
    cache_close(&b->cache);
    assert_int_equal(b->device.n_free, N_PAGES);
    assert_int_equal(b->device.n_tails_free, N_TAILS);
    fake_device_free(&b->device);
}

/* Tokens of a path: page k is filled with letter k. */
static void spell(const char *path, int32_t *tokens, uint64_t *hashes, int user)
{
    uint64_t h = cache_seed(user);
    for (size_t k = 0; path[k] != 0; k++) {
        for (int i = 0; i < PAGE; i++)
            tokens[k * PAGE + (size_t)i] = path[k] * 1000 + i;
        hashes[k] = h = cache_hash(h, tokens + k * PAGE);
    }
}

/* A sequence that computes `path` and leaves; tails where `tails` has an 'x'. */
static int32_t walk(struct box *b, int user, const char *path, const char *tails)
{
    int32_t tokens[8 * PAGE], node = CACHE_NONE;
    uint64_t hashes[8];
    struct runner *r = &b->cache.runner;
    spell(path, tokens, hashes, user);
    for (size_t k = 0; path[k] != 0; k++) {
        int32_t page = 0, tail = CACHE_NONE;
        while (b->device.pages[page].n_refs > 0)
            page++;
        assert_true(page < N_PAGES);
        b->device.pages[page].n_refs = 1; /* the sequence's own reference */
        b->device.n_free--;
        if (k < strlen(tails) && tails[k] == 'x')
            assert_true((tail = cache_take_tail(&b->cache, true)) >= 0);
        node = cache_step_down(&b->cache, user, node, hashes[k], tokens + k * PAGE, page, tail);
        r->page_unref(r->self, page);
        cache_check(&b->cache);
    }
    cache_leave(&b->cache, node);
    cache_touch(&b->cache, node);
    return node;
}

static struct cache_hit find(struct box *b, int user, const char *path, int64_t n)
{
    int32_t tokens[8 * PAGE];
    uint64_t hashes[8];
    spell(path, tokens, hashes, user);
    return cache_find(&b->cache, user, tokens, n, hashes);
}

static int depth(const struct box *b, int32_t node)
{
    return node == CACHE_NONE ? 0 : b->cache.nodes[node].depth;
}

static void test_find(void **state)
{
    (void)state;
    static struct box b;
    open_box(&b);
    assert_int_equal(find(&b, 0, "abc", 3 * PAGE).differs_at, -1);
    walk(&b, 0, "abc", "x.x");
    walk(&b, 0, "abde", "");
    struct cache_hit h = find(&b, 0, "abcz", 4 * PAGE);
    assert_int_equal(depth(&b, h.node), 3);
    assert_int_equal(h.differs_at, 3 * PAGE);
    h = find(&b, 0, "abd", 3 * PAGE); /* known to the end; the last tail on the way is a's */
    assert_int_equal(depth(&b, h.deepest), 3);
    assert_int_equal(depth(&b, h.node), 1);
    h = find(&b, 0, "abc", 3 * PAGE - 1); /* one token short of the page */
    assert_int_equal(depth(&b, h.deepest), 2);
    assert_int_equal(h.differs_at, 3 * PAGE - 1);
    int32_t tokens[8 * PAGE];
    uint64_t hashes[8];
    spell("abc", tokens, hashes, 0);
    tokens[2 * PAGE + 50]++;
    hashes[2] = cache_hash(hashes[1], tokens + 2 * PAGE);
    assert_int_equal(cache_find(&b.cache, 0, tokens, 3 * PAGE, hashes).differs_at, 2 * PAGE + 50);
    spell("abc", tokens, hashes, 0);
    tokens[PAGE + 7]++; /* the same hashes, other tokens: compared, not believed */
    assert_int_equal(depth(&b, cache_find(&b.cache, 0, tokens, 3 * PAGE, hashes).deepest), 1);
    close_box(&b);
}

static void test_users(void **state)
{
    (void)state;
    static struct box b;
    open_box(&b);
    walk(&b, 0, "ab", "xx");
    assert_int_equal(find(&b, 1, "ab", 2 * PAGE).differs_at, -1);
    walk(&b, 1, "ac", "");
    assert_int_equal(depth(&b, find(&b, 1, "ab", 2 * PAGE).deepest), 1);
    assert_int_equal(find(&b, 1, "ab", 2 * PAGE).node, CACHE_NONE);
    assert_int_equal(b.cache.n_nodes - b.cache.n_free, 4); /* nothing is shared */
    close_box(&b);
}

/* Pages of one text are stored once, whoever computed them again. */
static void test_shared(void **state)
{
    (void)state;
    static struct box b;
    open_box(&b);
    walk(&b, 0, "abc", "");
    walk(&b, 0, "abd", "");
    walk(&b, 0, "abc", "");
    assert_int_equal(N_PAGES - b.device.n_free, 4);
    close_box(&b);
}

static bool known(struct box *b, const char *path)
{
    return depth(b, find(b, 0, path, (int64_t)strlen(path) * PAGE).deepest) == (int)strlen(path);
}

static void test_eviction_order(void **state)
{
    (void)state;
    static struct box b;
    open_box(&b);
    walk(&b, 0, "abc", "");
    walk(&b, 0, "abd", "");
    walk(&b, 0, "xy", "");
    walk(&b, 0, "ab", ""); /* used again: but its branches are older than xy */
    assert_true(cache_evict_page(&b.cache));
    assert_true(!known(&b, "abc") && known(&b, "abd") && known(&b, "xy"));
    assert_true(cache_evict_page(&b.cache));
    assert_true(!known(&b, "abd") && known(&b, "ab"));
    assert_true(cache_evict_page(&b.cache) && cache_evict_page(&b.cache));
    assert_true(!known(&b, "x") && known(&b, "ab"));
    close_box(&b);
}

static void test_active_stay(void **state)
{
    (void)state;
    static struct box b;
    open_box(&b);
    int32_t node = walk(&b, 0, "abc", "");
    walk(&b, 0, "ad", "");
    cache_enter(&b.cache, b.cache.nodes[node].parent); /* a sequence stands on ab */
    assert_int_equal(b.cache.n_inactive, 2);
    assert_int_equal(cache_inactive_on_path(&b.cache, node), 1);
    assert_true(cache_evict_page(&b.cache) && cache_evict_page(&b.cache));
    assert_false(cache_evict_page(&b.cache));
    assert_true(known(&b, "ab"));
    cache_leave(&b.cache, find(&b, 0, "ab", 2 * PAGE).deepest);
    close_box(&b);
}

static void test_pinned(void **state)
{
    (void)state;
    static struct box b;
    open_box(&b);
    cache_pin(&b.cache, walk(&b, 0, "ab", "xx"));
    walk(&b, 0, "cd", "x");
    walk(&b, 0, "ef", "");
    for (int i = 0; i < 4; i++)
        assert_true(cache_evict_page(&b.cache));
    assert_true(known(&b, "ab")); /* oldest, and last */
    walk(&b, 0, "mnopqrst", ""); /* at most half of all pages are pinned */
    cache_pin(&b.cache, find(&b, 0, "mnopqrst", 8 * PAGE).deepest);
    assert_int_equal(b.cache.n_pinned, N_PAGES / 2);
    close_box(&b);
}

/* Three tails: inside of chains they go first, then where branches part, ends of chains last; pinned ones never. */
static void test_tails(void **state)
{
    (void)state;
    static struct box b;
    open_box(&b);
    walk(&b, 0, "abc", "xxx");
    walk(&b, 0, "ad", ""); /* a is a branch now */
    assert_int_equal(cache_take_tail(&b.cache, false), CACHE_NONE);
    int32_t t = cache_take_tail(&b.cache, true);
    assert_true(t >= 0);
    assert_int_equal(depth(&b, find(&b, 0, "ab", 2 * PAGE).node), 1); /* b's went */
    assert_int_equal(depth(&b, find(&b, 0, "abc", 3 * PAGE).node), 3);
    int32_t u = cache_take_tail(&b.cache, true);
    assert_int_equal(find(&b, 0, "ab", 2 * PAGE).node, CACHE_NONE); /* then a's */
    cache_pin(&b.cache, find(&b, 0, "abc", 3 * PAGE).deepest);
    assert_int_equal(cache_take_tail(&b.cache, true), CACHE_NONE);
    b.cache.runner.tail_give(&b.device, t);
    b.cache.runner.tail_give(&b.device, u);
    close_box(&b);
}

static void test_step_up(void **state)
{
    (void)state;
    static struct box b;
    open_box(&b);
    int32_t node = walk(&b, 0, "abc", "");
    cache_enter(&b.cache, node);
    node = cache_step_up(&b.cache, node);
    assert_int_equal(b.cache.n_inactive, 1);
    cache_check(&b.cache);
    cache_leave(&b.cache, node);
    close_box(&b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_find),   cmocka_unit_test(test_users),  cmocka_unit_test(test_shared),
        cmocka_unit_test(test_eviction_order), cmocka_unit_test(test_active_stay), cmocka_unit_test(test_pinned),
        cmocka_unit_test(test_tails),  cmocka_unit_test(test_step_up),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
