/* grammar: what a reply must look like, and which tokens may come next so that it does.
 *
 * Idea: a reply's form (JSON of a schema, calls of given tools) is compiled to a push-down automaton over bytes and
 * control tokens: rules that call each other. Where several ways are open all are followed at once, so a state is a
 * set of (place, stack); stacks are shared, states are numbered, and what a byte does to a state is computed once.
 * The tokens that may follow are found by walking the vocabulary as a trie of bytes from the state, and kept as a
 * bit mask with the state. An automaton never gets stuck: ways that could not be finished within the limit of
 * nesting are not entered.
 *
 * Threads: compiling and releasing from any; a grammar's states belong to the one thread that steps its matchers. / */
#ifndef HADAL_TEXT_GRAMMAR_H
#define HADAL_TEXT_GRAMMAR_H

#include "text/text.h"

struct grammar;

/* What a reply after its thinking part must be. Nothing set: no grammar is needed. */
struct grammar_spec {
    const json_t *schema; /* of the content, a JSON value; NULL: not asked for */
    bool json_object;     /* the content is any JSON object */
    const json_t *tools;  /* as in the chat API, each {"type": "function", "function": {...}}; NULL: no calls */
    const char *forced;   /* the one tool that is called */
    bool limited;         /* tools are not all of those that the prompt shows */
    bool must_call;       /* a call, no text */
    bool one_call;        /* at most one */
};
/* Whether a request needs a grammar at all: calls of tools that are neither strict nor forced do not. */
bool grammar_is_needed(const struct grammar_spec *s);

/* ---------------------------------------------------------------- all grammars of a vocabulary (grammar_store.c) */

/* Keeps the vocabulary's trie (built at the first grammar) and the latest grammars with what they have learned, so
 * that a schema that comes again costs nothing. */
struct grammar_store;
struct grammar_store *grammar_store_open(const struct tokenizer *t, int n_vocab); /* t must outlive it */
void grammar_store_close(struct grammar_store **s); /* all its grammars must have been released */
/* The grammar of a spec; the caller releases it. HD_EARG names the place in the schema and the keyword that cannot be
 * enforced, HD_EUNSUPPORTED a schema that is too large or allows no finite value. */
int grammar_take(struct grammar_store *s, const struct grammar_spec *spec, struct grammar **g, struct err *e);
void grammar_release(struct grammar **g);

/* ---------------------------------------------------------------- one reply (grammar_match.c) */

struct grammar_matcher;
struct grammar_matcher *grammar_matcher_open(struct grammar *g); /* holds the grammar; NULL: no memory */
void grammar_matcher_close(struct grammar_matcher **m);
/* Tokens that may come next: bit i % 64 of word i / 64. Valid until a token is accepted. End
 * tokens are not in it. */
const uint64_t *grammar_mask(struct grammar_matcher *m);
bool grammar_may_end(struct grammar_matcher *m);
/* Nothing but the end may follow. */
bool grammar_must_end(struct grammar_matcher *m);
/* Takes a token; false when it does not fit, and the matcher is then of no more use. */
bool grammar_accept(struct grammar_matcher *m, int32_t token);
/* The same for a byte of text: for tests, which need no vocabulary. */
bool grammar_accept_byte(struct grammar_matcher *m, unsigned char byte);

#endif
