/* Merging against the plainest way to do it, on random sets of rules: short and long pieces, ranks in any order. */
#include "text/tokenizer_impl.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

enum { N_RULES = 60, TOKEN_BYTES_MAX = 12, FIRST_ID = 256 };

static int32_t token_of(const struct vocab *v, const char *bytes, size_t n)
{
    for (int32_t id = 0; id < v->n; id++)
        if (v->tokens[id].n == n && memcmp(vocab_bytes(v, id), bytes, n) == 0)
            return id;
    return -1;
}

/* A token of one of four letters or one that an earlier rule made. */
static int32_t token_pick(const struct vocab *v, struct rng *r)
{
    uint32_t k = rng_below(r, 4 + (uint32_t)(v->n - FIRST_ID));
    return k < 4 ? 'a' + (int32_t)k : FIRST_ID + (int32_t)k - 4;
}

/* in_order: a rule comes behind those that make its parts, as in trained sets; otherwise ranks are shuffled. */
static struct tokenizer *rules_make(struct rng *r, bool in_order)
{
    struct tokenizer *t = xcalloc(1, sizeof *t);
    struct vocab *v = &t->vocab;
    for (int32_t b = 0; b < FIRST_ID; b++)
        vocab_put(v, b, (const char[]){(char)b}, 1, 0);
    int32_t ranks[N_RULES];
    for (int32_t i = 0; i < N_RULES; i++) {
        uint32_t k = rng_below(r, (uint32_t)i + 1);
        ranks[i] = i;
        if (!in_order) {
            ranks[i] = ranks[k];
            ranks[k] = i;
        }
    }
    for (int32_t i = 0; i < N_RULES; i++) {
        int32_t left = token_pick(v, r), right = token_pick(v, r);
        char bytes[2 * TOKEN_BYTES_MAX];
        size_t n = v->tokens[left].n + v->tokens[right].n;
        if (n > TOKEN_BYTES_MAX)
            continue;
        memcpy(bytes, vocab_bytes(v, left), v->tokens[left].n);
        memcpy(bytes + v->tokens[left].n, vocab_bytes(v, right), v->tokens[right].n);
        int32_t id = token_of(v, bytes, n);
        if (id < 0)
            vocab_put(v, id = v->n, bytes, n, 0);
        merges_put(&t->merges, left, right, ranks[i], id);
    }
    assert_int_equal(tokenizer_index(t, "test", NULL), HD_OK);
    return t;
}

/* Merges the leftmost pair of smallest rank until there is none. */
static size_t merge_plainly(const struct tokenizer *t, int32_t *ids, size_t n)
{
    for (;;) {
        const struct merge *best = NULL;
        size_t at = 0;
        for (size_t i = 0; i + 1 < n; i++) {
            const struct merge *rule = merges_find(&t->merges, ids[i], ids[i + 1]);
            if (rule != NULL && (best == NULL || rule->rank < best->rank)) {
                best = rule;
                at = i;
            }
        }
        if (best == NULL)
            return n;
        ids[at] = best->id;
        memmove(ids + at + 1, ids + at + 2, (n - at - 2) * sizeof *ids);
        n--;
    }
}

static void expect_same(const struct tokenizer *t, struct bpe_work *w, const char *piece, size_t n)
{
    int32_t *plain = xcalloc(n, sizeof *plain);
    for (size_t i = 0; i < n; i++)
        plain[i] = (unsigned char)piece[i];
    size_t n_plain = merge_plainly(t, plain, n);
    struct ids ids = {0};
    assert_int_equal(bpe_encode(t, w, piece, n, &ids, NULL), HD_OK);
    assert_int_equal(ids.n, n_plain);
    assert_memory_equal(ids.data, plain, n_plain * sizeof *plain);
    ids_free(&ids);
    free(plain);
}

static void check_rules(uint64_t seed, bool in_order, size_t n_bytes, int n_pieces)
{
    struct rng r = {seed};
    struct tokenizer *t = rules_make(&r, in_order);
    struct bpe_work w = {0};
    char *piece = xcalloc(n_bytes, 1);
    for (int k = 0; k < n_pieces; k++) {
        size_t n = n_bytes - rng_below(&r, (uint32_t)n_bytes / 4);
        uint32_t n_letters = 1 + rng_below(&r, 4); /* one letter: runs of the same pair */
        for (size_t i = 0; i < n; i++)
            piece[i] = (char)('a' + (int)rng_below(&r, n_letters));
        expect_same(t, &w, piece, n);
    }
    bpe_work_free(&w);
    free(piece);
    tokenizer_close(&t);
}

static void test_short(void **state)
{
    (void)state;
    for (uint64_t seed = 1; seed <= 200; seed++)
        check_rules(seed, seed % 2 == 0, 40, 20);
}

static void test_long_in_order(void **state)
{
    (void)state;
    for (uint64_t seed = 1; seed <= 6; seed++)
        check_rules(seed, true, 6000, 2);
}

static void test_long_any_order(void **state)
{
    (void)state;
    for (uint64_t seed = 101; seed <= 106; seed++)
        check_rules(seed, false, 6000, 2);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_short),
        cmocka_unit_test(test_long_in_order),
        cmocka_unit_test(test_long_any_order),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
