/* The grammars of one vocabulary: a spec becomes a grammar, and the latest ones are kept by the text of their spec. */
#include "text/grammar_impl.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

enum { KEPT_MAX = 16 };

struct kept_grammar {
    struct buf key;
    struct grammar *g;
    uint64_t last_use;
};

struct grammar_store {
    const struct tokenizer *tokenizer;
    int n_vocab;
    pthread_mutex_t mutex; /* guards what follows */
    struct vocab_trie *trie;
    struct kept_grammar kept[KEPT_MAX];
    int n_kept;
    uint64_t clock;
};

struct grammar_store *grammar_store_open(const struct tokenizer *t, int n_vocab)
{
    struct grammar_store *s = xcalloc(1, sizeof *s);
    s->tokenizer = t;
    s->n_vocab = n_vocab;
    pthread_mutex_init(&s->mutex, NULL);
    return s;
}

void grammar_store_close(struct grammar_store **s)
{
    if (*s == NULL)
        return;
    for (int i = 0; i < (*s)->n_kept; i++) {
        buf_free(&(*s)->kept[i].key);
        grammar_release(&(*s)->kept[i].g);
    }
    vocab_trie_close(&(*s)->trie);
    pthread_mutex_destroy(&(*s)->mutex);
    free(*s);
    *s = NULL;
}

void grammar_release(struct grammar **p)
{
    struct grammar *g = *p;
    *p = NULL;
    if (g == NULL || atomic_fetch_sub(&g->n_refs, 1) > 1)
        return;
    states_forget(g);
    free(g->nodes);
    free(g->sets);
    free(g->work);
    free(g->masks);
    free(g);
}

/* ---------------------------------------------------------------- compiling */

static bool is_strict(const json_t *tool)
{
    return json_is_true(json_object_get(json_object_get(tool, "function"), "strict"));
}

bool grammar_is_needed(const struct grammar_spec *s)
{
    size_t i;
    json_t *tool;
    if (s->schema != NULL || s->json_object || s->must_call || s->forced != NULL || s->limited ||
        (s->one_call && s->tools != NULL))
        return true;
    json_array_foreach((json_t *)(uintptr_t)s->tools, i, tool) {
        if (is_strict(tool))
            return true;
    }
    return false;
}

static int32_t content_rule(struct grammar *g, const struct grammar_spec *s, struct err *e)
{
    struct schema_reader r;
    schema_reader_init(&r, g, s->schema, "schema", e);
    int32_t rule = schema_rule(&r, s->schema, s->json_object ? TYPE_OBJ : TYPES_ALL, false);
    schema_reader_free(&r);
    return rule;
}

/* JSON, calls, or both; text and then perhaps calls where no form is asked of the content. */
static int compile(struct grammar *g, const struct grammar_spec *s, struct err *e)
{
    bool json = s->schema != NULL || s->json_object, must_call = s->must_call || s->forced != NULL;
    int32_t block = s->tools != NULL ? calls_block(g, s, e) : AT_FAIL;
    if (block < 0)
        return e->code;
    g->start = must_call ? node_str(g, "\n\n<", block) : AT_FAIL;
    if (!must_call && json) {
        int32_t content = content_rule(g, s, e);
        if (content < 0)
            return e->code;
        g->start = block == AT_FAIL ? content : node_either(g, content, node_str(g, "\n\n<", block));
    } else if (!must_call) {
        g->start = text_rule(g, false, block, true);
    }
    if (g->too_large)
        return err_set(e, HD_EUNSUPPORTED, "the schemas are too large to be enforced: more than %d states", NODES_MAX);
    if (!grammar_settle(g))
        return err_set(e, HD_EUNSUPPORTED, "the schema allows none of the values that are nested less than %d levels deep",
                       STACK_MAX);
    return HD_OK;
}

/* ---------------------------------------------------------------- keeping */

static void write_key(const struct grammar_spec *s, struct buf *key)
{
    buf_printf(key, "%d%d%d%s\n", s->json_object, s->must_call, s->one_call, s->forced != NULL ? s->forced : "");
    if (s->schema != NULL)
        json_dump_python(s->schema, key);
    buf_char(key, '\n');
    if (s->tools != NULL)
        json_dump_python(s->tools, key);
}

static struct grammar *find(struct grammar_store *s, const struct buf *key)
{
    for (int i = 0; i < s->n_kept; i++) {
        struct kept_grammar *k = &s->kept[i];
        if (k->key.len != key->len || memcmp(k->key.data, key->data, key->len) != 0)
            continue;
        k->last_use = ++s->clock;
        atomic_fetch_add(&k->g->n_refs, 1);
        return k->g;
    }
    return NULL;
}

static void keep(struct grammar_store *s, struct buf *key, struct grammar *g)
{
    int at = s->n_kept;
    if (at == KEPT_MAX) {
        at = 0;
        for (int i = 1; i < KEPT_MAX; i++)
            if (s->kept[i].last_use < s->kept[at].last_use)
                at = i;
        buf_free(&s->kept[at].key);
        grammar_release(&s->kept[at].g);
    } else {
        s->n_kept++;
    }
    atomic_fetch_add(&g->n_refs, 1);
    s->kept[at] = (struct kept_grammar){.key = *key, .g = g, .last_use = ++s->clock};
    *key = (struct buf){0};
}

int grammar_take(struct grammar_store *s, const struct grammar_spec *spec, struct grammar **out, struct err *e)
{
    struct buf key = {0};
    struct err why = {0};
    write_key(spec, &key);
    pthread_mutex_lock(&s->mutex);
    *out = find(s, &key);
    if (*out == NULL && s->trie == NULL)
        s->trie = vocab_trie_open(s->tokenizer, s->n_vocab);
    pthread_mutex_unlock(&s->mutex);
    if (*out == NULL) {
        struct grammar *g = grammar_new(s->tokenizer, s->trie);
        if (compile(g, spec, &why) != HD_OK) {
            grammar_release(&g);
            buf_free(&key);
            return err_set(e, why.code, "%s", why.msg);
        }
        pthread_mutex_lock(&s->mutex);
        keep(s, &key, g);
        pthread_mutex_unlock(&s->mutex);
        *out = g;
    }
    buf_free(&key);
    return HD_OK;
}
