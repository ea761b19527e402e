/* Random words of grammars, for tests that judge them with another validator.
 *
 *   grammar_words --tokenizer PATH --seed N --words N <SPECS
 *
 * SPECS: one JSON object a line, {"schema": ..., "json_object": bool, "tools": [...], "forced": NAME, "must_call":
 * bool, "one_call": bool}. For each line: {"words": [TEXT, ...]} of uniformly drawn tokens, null for a word that
 * reached 3,000 tokens, or {"error": SENTENCE}. With {"texts": [...]} in the spec also {"accepted": [bool, ...]}:
 * whether the bytes of each text, control tokens apart, are a whole word. */
#include "text/grammar.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { WORD_TOKENS_MAX = 3000 };

static void die(const char *what)
{
    fprintf(stderr, "grammar_words: %s\n", what);
    exit(1);
}

/* A token of the mask, or the end (-1). Ends are taken as soon as one die in eight says so. */
static int32_t draw(struct grammar_matcher *m, int n_vocab, struct rng *rng)
{
    const uint64_t *bits = grammar_mask(m);
    int n = 0;
    for (int i = 0; i < (n_vocab + 63) / 64; i++)
        n += __builtin_popcountll(bits[i]);
    bool may_end = grammar_may_end(m);
    if (may_end && (n == 0 || rng_below(rng, 8) == 0))
        return -1;
    if (n == 0)
        die("stuck: no token may follow");
    if (grammar_must_end(m))
        die("tokens where only the end may follow");
    int k = (int)rng_below(rng, (uint32_t)n);
    for (int32_t id = 0;; id++)
        if (bits[id >> 6] >> (id & 63) & 1 && k-- == 0)
            return id;
}

static json_t *word_of(struct grammar *g, const struct tokenizer *t, struct rng *rng)
{
    struct grammar_matcher *m = grammar_matcher_open(g);
    struct buf text = {0};
    int n = 0;
    int32_t id;
    while (n++ < WORD_TOKENS_MAX && (id = draw(m, tokenizer_n_vocab(t), rng)) >= 0) {
        size_t n_bytes;
        const char *bytes = tokenizer_bytes(t, id, &n_bytes);
        if (!grammar_accept(m, id))
            die("a token of the mask was not accepted");
        buf_add(&text, bytes, n_bytes);
    }
    json_t *word = n > WORD_TOKENS_MAX ? json_null() : json_stringn(text.len > 0 ? text.data : "", text.len);
    if (word == NULL)
        die("a word that is no UTF-8");
    grammar_matcher_close(&m);
    buf_free(&text);
    return word;
}

static bool accepts(struct grammar *g, const json_t *text)
{
    struct grammar_matcher *m = grammar_matcher_open(g);
    const char *s = json_string_value(text);
    bool ok = true;
    for (size_t i = 0; i < json_string_length(text) && ok; i++)
        ok = grammar_accept_byte(m, (unsigned char)s[i]);
    ok = ok && grammar_may_end(m);
    grammar_matcher_close(&m);
    return ok;
}

static json_t *answer(struct grammar_store *store, const struct tokenizer *t, const json_t *line, int n_words, struct rng *rng)
{
    struct err e = {0};
    struct grammar *g;
    struct grammar_spec spec = {
        .schema = json_object_get(line, "schema"),
        .json_object = json_is_true(json_object_get(line, "json_object")),
        .tools = json_object_get(line, "tools"),
        .forced = json_string_value(json_object_get(line, "forced")),
        .must_call = json_is_true(json_object_get(line, "must_call")),
        .one_call = json_is_true(json_object_get(line, "one_call")),
    };
    if (grammar_take(store, &spec, &g, &e) != HD_OK)
        return json_pack("{s:s}", "error", e.msg);
    json_t *words = json_array(), *accepted = json_array(), *text;
    size_t i;
    for (int k = 0; k < n_words; k++)
        json_array_append_new(words, word_of(g, t, rng));
    json_array_foreach(json_object_get(line, "texts"), i, text)
        json_array_append_new(accepted, json_boolean(accepts(g, text)));
    grammar_release(&g);
    return json_pack("{s:o, s:o}", "words", words, "accepted", accepted);
}

static const char *option(int argc, char **argv, const char *name, const char *otherwise)
{
    for (int i = 1; i + 1 < argc; i++)
        if (strcmp(argv[i], name) == 0)
            return argv[i + 1];
    return otherwise;
}

int main(int argc, char **argv)
{
    struct err e = {0};
    struct tokenizer *t;
    char *line = NULL;
    size_t cap = 0;
    ssize_t n;
    if (tokenizer_open(&t, option(argc, argv, "--tokenizer", "models/tiny"), &e) != HD_OK)
        die(e.msg);
    struct grammar_store *store = grammar_store_open(t, tokenizer_n_vocab(t));
    struct rng rng = {strtoull(option(argc, argv, "--seed", "1"), NULL, 10)};
    int n_words = (int)strtol(option(argc, argv, "--words", "10"), NULL, 10);
    while ((n = getline(&line, &cap, stdin)) > 0) {
        json_t *spec = json_load_exact(line, (size_t)n, "spec", false, &e);
        if (spec == NULL)
            die(e.msg);
        json_t *out = answer(store, t, spec, n_words, &rng);
        char *text = json_dumps(out, JSON_ENSURE_ASCII);
        printf("%s\n", text);
        free(text);
        json_decref(out);
        json_decref(spec);
    }
    free(line);
    grammar_store_close(&store);
    tokenizer_close(&t);
    return 0;
}
