/* Inside of the tokenizer; only tokenizer*.c include this.
 *
 * A text goes: added tokens (trie) -> valid UTF-8 runs -> split steps (regexes, each on the pieces of the one before)
 * -> byte-pair merges of each piece. Everything below is read-only once open, but for `whole`, a cache of relaxed
 * atomics: many threads may encode with one tokenizer. */
#ifndef HADAL_TEXT_TOKENIZER_IMPL_H
#define HADAL_TEXT_TOKENIZER_IMPL_H

#define PCRE2_CODE_UNIT_WIDTH 8

#include "text/text.h"

#include <pcre2.h>
#include <stdatomic.h>

enum { TOKEN_ID_MAX = (1 << 20) - 1, SPLIT_STEPS_MAX = 16 };

/* ---------------------------------------------------------------- vocabulary (tokenizer_vocab.c) */

enum {
    TOKEN_USED = 1,    /* the id exists */
    TOKEN_LITERAL = 2, /* its text holds characters outside the byte-level alphabet: no merge can reach it */
    TOKEN_ADDED = 4,
    TOKEN_SPECIAL = 8,
};

struct token {
    size_t offset; /* in pool */
    uint32_t n;
    uint32_t flags;
};

struct vocab {
    struct token *tokens; /* by id */
    int32_t n, cap;       /* n: largest id + 1 */
    struct buf pool;      /* bytes of all tokens */
    int32_t *slots;       /* hash table from bytes to id (-1 empty), of tokens that merges can reach */
    size_t mask;
    size_t longest_bytes;
    int32_t byte_id[256];
};

/* Appends the bytes that text in the byte-level alphabet stands for; false, with out as it was, when a character lies
 * outside the alphabet. */
bool alphabet_decode(const char *text, size_t n, struct buf *out);
/* id in 0 .. TOKEN_ID_MAX. */
void vocab_put(struct vocab *v, int32_t id, const char *bytes, size_t n, uint32_t flags);
/* A token given in the byte-level alphabet. */
void vocab_put_mapped(struct vocab *v, int32_t id, const char *text, size_t n);
/* Builds the hash table and byte_id. Returns a byte value that has no token, -1 when every byte has one. */
int vocab_index(struct vocab *v);
int32_t vocab_find(const struct vocab *v, const char *bytes, size_t n); /* -1 when there is none */
static inline const char *vocab_bytes(const struct vocab *v, int32_t id)
{
    return v->pool.data + v->tokens[id].offset;
}
static inline bool vocab_has(const struct vocab *v, int64_t id)
{
    return id >= 0 && id < v->n && (v->tokens[id].flags & TOKEN_USED) != 0;
}
void vocab_free(struct vocab *v);

/* ---------------------------------------------------------------- merges (tokenizer_bpe.c) */

struct merge {
    uint64_t pair; /* left id << 32 | right id; MERGE_NONE: empty slot */
    int32_t rank;  /* lower merges first */
    int32_t id;
};
#define MERGE_NONE UINT64_MAX

struct merges {
    struct merge *slots;
    size_t n, mask;
    size_t n_ranks; /* largest rank + 1 */
};

/* The last put of a pair wins. */
void merges_put(struct merges *m, int32_t left, int32_t right, int32_t rank, int32_t id);
const struct merge *merges_find(const struct merges *m, int32_t left, int32_t right); /* NULL when there is none */
void merges_free(struct merges *m);

/* Candidates, smallest rank first, the leftmost among equals (tokenizer_queue.c). */
struct bpe_queue {
    bool by_rank;
    uint64_t *heap; /* rank << 32 | position, or ranks */
    size_t n_heap, cap_heap;
    uint32_t *head; /* list of each rank: entry + 1, 0: empty */
    size_t n_head;
    struct queue_entry *entries;
    size_t n_entries, cap_entries;
    uint32_t unused; /* list of free entries */
    uint32_t *batch; /* positions of `rank` taken from its list */
    size_t i_batch, n_batch, cap_batch;
    uint32_t rank;
};
/* Empties the queue. by_rank: the way for long pieces; all ranks lie under n_ranks, the same at each call. */
int queue_start(struct bpe_queue *q, bool by_rank, size_t n_ranks);
int queue_push(struct bpe_queue *q, uint32_t rank, uint32_t at);
int queue_pop(struct bpe_queue *q, uint32_t *rank, uint32_t *at); /* 1, 0 when empty, or HD_ENOMEM */
void queue_free(struct bpe_queue *q);

/* Memory of the merging, kept from piece to piece. */
struct bpe_work {
    struct bpe_node *nodes;
    size_t cap_nodes;
    struct bpe_queue queue;
};
void bpe_work_free(struct bpe_work *w);
/* Appends the ids of one piece of n > 0 bytes: O(n log n) at most. */
int bpe_encode(const struct tokenizer *t, struct bpe_work *w, const char *piece, size_t n, struct ids *out,
               struct err *e);

/* ---------------------------------------------------------------- splitting (tokenizer_split.c) */

/* One pre-tokeniser step: matches of the regex and what lies between them become pieces. */
struct split_step {
    pcre2_code *code;
    bool jit;
};

/* Matching state of one tokenizer_encode call. */
struct split_work {
    pcre2_match_data *match;
    pcre2_match_context *context;
    pcre2_jit_stack *stack;
};

/* Compiles an Oniguruma pattern as Hugging Face tokenizers mean it. `field` names it in errors: "FILE: FIELD". */
int split_step_open(struct split_step *s, const char *regex, size_t n, const char *path, const char *field,
                    struct err *e);
void split_step_close(struct split_step *s);
int split_work_open(struct split_work *w, size_t text_bytes, struct err *e);
void split_work_close(struct split_work *w);

typedef int (*piece_fn)(void *arg, const char *piece, size_t n);
/* Cuts valid UTF-8 text with the steps one after another; fn gets the pieces in order and stops by returning non-zero. */
int split_text(const struct split_step *steps, int n_steps, struct split_work *w, const char *text, size_t n,
               piece_fn fn, void *arg, struct err *e);

/* ---------------------------------------------------------------- young characters (tokenizer_unicode.c) */

/* Whether valid UTF-8 text holds characters that PCRE2's tables may lack. */
bool unicode_is_young(const char *text, size_t n);
/* Puts characters of the same category and length in their place. */
void unicode_stand_in(char *text, size_t n);

/* ---------------------------------------------------------------- added tokens (tokenizer_added.c) */

struct trie_node {
    int32_t child, sibling; /* 0: none */
    int32_t id;             /* -1: no token ends here */
    unsigned char byte;
};

struct trie {
    struct trie_node *nodes;
    int32_t n, cap;
    int32_t first[256]; /* nodes of the first bytes, 0: none */
};

/* Returns false when the text is empty or already there. */
bool trie_add(struct trie *t, const char *text, size_t n, int32_t id);
/* Longest token that text starts with: its id and length; -1 when there is none. */
int32_t trie_match(const struct trie *t, const char *text, size_t n, size_t *len);
void trie_free(struct trie *t);

/* ---------------------------------------------------------------- the whole */

/* Whether merging a token's own bytes gives that token alone: found out when first needed. */
enum { WHOLE_UNKNOWN, WHOLE_YES, WHOLE_NO };

struct tokenizer {
    struct vocab vocab;
    struct merges merges;
    atomic_uchar *whole; /* by id, WHOLE_* */
    char *warning;       /* NULL: none */
    bool ignore_merges;  /* a piece that is a token is that token, whatever the merges say */
    struct split_step steps[SPLIT_STEPS_MAX];
    int n_steps;
    struct trie added[2]; /* [0]: matched first, in the raw text; [1]: "normalized", matched in what is left */
};

/* Both fill an empty tokenizer; the caller closes it also after an error. */
int tokenizer_read_json(struct tokenizer *t, const char *json, size_t n, const char *path, struct err *e);
int tokenizer_read_ranks(struct tokenizer *t, const char *path, struct err *e);
/* Indexes the vocabulary once all its tokens are put. */
int tokenizer_index(struct tokenizer *t, const char *path, struct err *e);
/* `field` names the entry in errors. */
int tokenizer_add(struct tokenizer *t, int64_t id, const char *text, size_t n, bool special, bool normalized,
                  const char *path, const char *field, struct err *e);

#endif
