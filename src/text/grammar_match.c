/* One reply's way through its grammar. A grammar may forget its states between tokens; a matcher keeps its tokens
 * and finds its way again. */
#include "text/grammar_impl.h"

#include <stdlib.h>

struct grammar_matcher {
    struct grammar *g;
    uint64_t epoch;
    int32_t state; /* -1: not begun */
    struct ids taken; /* tokens; a byte alone is -1 - byte */
};

struct grammar_matcher *grammar_matcher_open(struct grammar *g)
{
    struct grammar_matcher *m = calloc(1, sizeof *m);
    if (m == NULL)
        return NULL;
    atomic_fetch_add(&g->n_refs, 1);
    m->g = g;
    m->state = -1;
    return m;
}

void grammar_matcher_close(struct grammar_matcher **m)
{
    if (*m == NULL)
        return;
    grammar_release(&(*m)->g);
    ids_free(&(*m)->taken);
    free(*m);
    *m = NULL;
}

static int32_t step(struct grammar *g, int32_t state, int32_t token)
{
    if (token < 0)
        return state_after_byte(g, state, (unsigned char)(-1 - token));
    if (tokenizer_is_added(g->tokenizer, token))
        return state_after_token(g, state, token);
    size_t n;
    const char *bytes = tokenizer_bytes(g->tokenizer, token, &n);
    if (n == 0)
        return 0;
    for (size_t i = 0; i < n; i++)
        state = state_after_byte(g, state, (unsigned char)bytes[i]);
    return state;
}

/* The state under the matcher, found again when the grammar has forgotten it. */
static int32_t state_of(struct grammar_matcher *m)
{
    int32_t start = state_start(m->g);
    if (m->state >= 0 && m->epoch == m->g->epoch)
        return m->state;
    m->state = start;
    m->epoch = m->g->epoch;
    for (size_t i = 0; i < m->taken.n; i++)
        m->state = step(m->g, m->state, m->taken.data[i]);
    return m->state;
}

const uint64_t *grammar_mask(struct grammar_matcher *m)
{
    return state_mask(m->g, state_of(m));
}

bool grammar_may_end(struct grammar_matcher *m)
{
    return state_may_end(m->g, state_of(m));
}

bool grammar_must_end(struct grammar_matcher *m)
{
    int32_t state = state_of(m);
    return m->g->states[state].n == 1 && state_may_end(m->g, state);
}

static bool take(struct grammar_matcher *m, int32_t token)
{
    states_trim(m->g);
    m->state = step(m->g, state_of(m), token);
    ids_add(&m->taken, token);
    return m->state != 0;
}

bool grammar_accept(struct grammar_matcher *m, int32_t token)
{
    return take(m, token);
}

bool grammar_accept_byte(struct grammar_matcher *m, unsigned char byte)
{
    return take(m, -1 - (int32_t)byte);
}
