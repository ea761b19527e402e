/* The grammar of one reply. The grammar knows nothing of end tokens and thinking; both are added to its masks here. */
#include "engine/form.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

struct form {
    struct grammar *grammar; /* held by the matcher */
    struct grammar_matcher *matcher;
    int32_t eos[EOS_IDS_MAX];
    int n_eos;
    size_t n_words;
    uint64_t *bits; /* [n_words] */
};

struct form *form_open(struct grammar *g, int n_vocab, const int32_t *eos, int n_eos)
{
    struct form *f = calloc(1, sizeof *f);
    if (f == NULL)
        return NULL;
    f->grammar = g;
    f->matcher = grammar_matcher_open(g);
    memcpy(f->eos, eos, (size_t)n_eos * sizeof *eos);
    f->n_eos = n_eos;
    f->n_words = ((size_t)n_vocab + 63) / 64;
    f->bits = calloc(f->n_words, sizeof *f->bits);
    if (f->matcher == NULL || f->bits == NULL)
        form_close(&f);
    return f;
}

struct grammar *form_grammar(const struct form *f)
{
    return f->grammar;
}

void form_close(struct form **f)
{
    if (*f == NULL)
        return;
    grammar_matcher_close(&(*f)->matcher);
    free((*f)->bits);
    free(*f);
    *f = NULL;
}

const uint64_t *form_mask(struct form *f, bool thinking)
{
    bool may_end = !thinking && grammar_may_end(f->matcher);
    if (thinking)
        memset(f->bits, 0xFF, f->n_words * sizeof *f->bits);
    else
        memcpy(f->bits, grammar_mask(f->matcher), f->n_words * sizeof *f->bits);
    for (int i = 0; i < f->n_eos; i++) {
        uint64_t bit = (uint64_t)1 << (f->eos[i] & 63), *word = &f->bits[f->eos[i] >> 6];
        *word = may_end ? *word | bit : *word & ~bit;
    }
    return f->bits;
}

void form_accept(struct form *f, int32_t token)
{
    bool fits = grammar_accept(f->matcher, token);
    assert(fits && "a token outside of the mask");
    (void)fits;
}

bool form_must_end(struct form *f)
{
    return grammar_must_end(f->matcher);
}
