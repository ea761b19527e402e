/* Any JSON as the schema of an answer or the parameters of a strict tool: refused with a sentence, or a grammar that
 * never gets stuck and whose words are JSON. Input: a byte of options (bit 0: a tool; the rest seeds the words),
 * then the schema. */
#include "text/grammar.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { WORD_TOKENS_MAX = 60 };

static void require(bool ok)
{
    if (!ok)
        abort();
}

static int32_t draw(struct grammar_matcher *m, int n_vocab, struct rng *rng)
{
    const uint64_t *bits = grammar_mask(m);
    int n = 0;
    for (int i = 0; i < (n_vocab + 63) / 64; i++)
        n += __builtin_popcountll(bits[i]);
    if (grammar_may_end(m))
        return -1;
    require(n > 0);
    int k = (int)rng_below(rng, (uint32_t)n);
    for (int32_t id = 0;; id++)
        if (bits[id >> 6] >> (id & 63) & 1 && k-- == 0)
            return id;
}

static void walk(struct grammar *g, const struct tokenizer *t, bool is_json, struct rng *rng)
{
    struct grammar_matcher *m = grammar_matcher_open(g);
    struct buf word = {0};
    int32_t id = 0;
    for (int n = 0; n < WORD_TOKENS_MAX && (id = draw(m, tokenizer_n_vocab(t), rng)) >= 0; n++) {
        size_t n_bytes;
        const char *bytes = tokenizer_bytes(t, id, &n_bytes);
        require(grammar_accept(m, id));
        buf_add(&word, bytes, n_bytes);
    }
    if (id < 0 && is_json) {
        json_t *v = json_load_exact(word.data, word.len, "word", false, NULL);
        require(v != NULL);
        json_decref(v);
    }
    grammar_matcher_close(&m);
    buf_free(&word);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct tokenizer *t;
    static struct grammar_store *store;
    if (t == NULL) {
        require(tokenizer_open(&t, "models/tiny", NULL) == HD_OK); /* fuzz programs run at the top of the tree */
        store = grammar_store_open(t, tokenizer_n_vocab(t));
    }
    if (size < 2 || size > 4096)
        return 0;
    json_t *schema = json_load_exact((const char *)data + 1, size - 1, "schema", false, NULL);
    if (schema == NULL)
        return 0;
    bool tool = data[0] & 1;
    json_t *tools = json_pack("[{s:s, s:{s:s, s:b, s:O}}]", "type", "function", "function", "name", "f", "strict", 1,
                              "parameters", schema);
    struct grammar_spec spec = {.schema = tool ? NULL : schema, .tools = tool ? tools : NULL, .must_call = tool};
    struct grammar *g = NULL;
    struct err e = {0};
    struct rng rng = {data[0]};
    int rc = grammar_take(store, &spec, &g, &e);
    require(rc == HD_OK ? g != NULL : e.msg[0] != '\0' && (rc == HD_EARG || rc == HD_EUNSUPPORTED));
    for (int i = 0; i < 3 && g != NULL; i++)
        walk(g, t, !tool, &rng);
    grammar_release(&g);
    json_decref(tools);
    json_decref(schema);
    return 0;
}
