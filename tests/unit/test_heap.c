/* The heap of evictable things against a search through all of them. */
#include "base/base.h"
#include "engine/heap.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

enum { N = 50 };

static uint64_t now[N];

static uint64_t key_now(const void *arg, int32_t i)
{
    (void)arg;
    return now[i];
}

static void check_top(struct heap *h, const bool *in)
{
    uint64_t least = UINT64_MAX;
    for (int i = 0; i < N; i++)
        if (in[i] && now[i] < least)
            least = now[i];
    int32_t top = heap_top(h, key_now, NULL);
    if (least == UINT64_MAX)
        assert_int_equal(top, HEAP_NONE);
    else
        assert_true(in[top] && now[top] == least);
}

static void test_against_search(void **state)
{
    (void)state;
    struct heap h;
    struct rng r = {1};
    bool in[N] = {false};
    assert_true(heap_init(&h, N));
    for (int k = 0; k < 20000; k++) {
        int32_t i = (int32_t)rng_below(&r, N);
        switch (rng_below(&r, 4)) {
        case 0:
            heap_drop(&h, i);
            in[i] = false;
            break;
        case 1: /* used: the heap is not told */
            now[i] += rng_below(&r, 100);
            break;
        default:
            now[i] = rng_below(&r, 1000);
            heap_put(&h, i, now[i]);
            in[i] = true;
        }
        check_top(&h, in);
    }
    heap_free(&h);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_against_search)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
