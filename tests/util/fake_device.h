/* A model without mathematics behind the engine: pages, tails, sequences and their rules are real, numbers are hashes.
 *
 * The token after a history is a hash of all its tokens, computed twice: from the sequence's running state (as the
 * window and compressor state are) and from what its pages hold. A page or tail of another history, one that was freed
 * or written over, or a token lost or doubled, changes what comes next; fake_next says what must come. */
#ifndef HADAL_TEST_FAKE_DEVICE_H
#define HADAL_TEST_FAKE_DEVICE_H

#include "engine/engine.h"

enum { FAKE_EOS = 1, FAKE_ROLLBACK = 8, FAKE_VOCAB = 64, FAKE_PAGES_MAX = 512 };

struct fake_page {
    int n_refs;
    int32_t tokens[KV_PAGE_TOKENS];
};

struct fake_tail {
    bool taken, filled;
    uint64_t state;
    int64_t n_tokens;
};

struct fake_device {
    int n_pages, n_tails, n_free, n_tails_free, n_open;
    struct fake_page pages[FAKE_PAGES_MAX];
    struct fake_tail tails[FAKE_PAGES_MAX];
    float *logits; /* [max_rows][FAKE_VOCAB] */
    int max_rows;
    int fail_code; /* of the next step: an HD_ code, 0: none */
    uint64_t n_steps, n_rows, n_out_of_pages;
    bool closed;
};

struct kv_seq {
    struct fake_device *device;
    int64_t max_tokens, n_tokens, n_high, n_floor, n_pages;
    int32_t pages[FAKE_PAGES_MAX];
    uint64_t state[FAKE_ROLLBACK + 1]; /* after the last tokens, by position modulo */
};

void fake_device_init(struct fake_device *d, int n_pages, int n_tails, int max_rows);
void fake_device_free(struct fake_device *d);
struct runner fake_runner(struct fake_device *d, int64_t max_tokens);
/* The greedy token after n tokens: FAKE_EOS now and then, otherwise 10 or more. */
int32_t fake_next(const int32_t *tokens, int64_t n);

#endif
