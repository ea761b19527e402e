/* Inside of grammars; only grammar*.c and schema*.c include this. */
#ifndef HADAL_TEXT_GRAMMAR_IMPL_H
#define HADAL_TEXT_GRAMMAR_IMPL_H

#include "text/grammar.h"

#include <stdatomic.h>

/* ---------------------------------------------------------------- the automaton (grammar_nodes.c) */

enum node_kind {
    NODE_RETURN, /* the end of a rule, or of everything */
    NODE_FAIL,
    NODE_BYTES,  /* a byte of set `arg`, then next */
    NODE_TOKEN,  /* control token `arg`, then next */
    NODE_EITHER, /* next or `arg` */
    NODE_CALL,   /* the rule that starts at `arg`, then next */
};
enum { AT_RETURN = 0, AT_FAIL = 1, NODES_MAX = 1 << 17, STACK_MAX = 96 };

struct node {
    int32_t next, arg;
    uint8_t kind;
    uint8_t need; /* least number of stacked returns with which it can be finished; NEED_NEVER */
};
enum { NEED_NEVER = 255 };

struct byte_set {
    uint64_t w[4];
};
static inline void set_add(struct byte_set *s, unsigned char lo, unsigned char hi)
{
    for (int c = lo; c <= hi; c++)
        s->w[c >> 6] |= (uint64_t)1 << (c & 63);
}
static inline void set_remove(struct byte_set *s, unsigned char c)
{
    s->w[c >> 6] &= ~((uint64_t)1 << (c & 63));
}
static inline bool set_has(const struct byte_set *s, unsigned char c)
{
    return s->w[c >> 6] >> (c & 63) & 1;
}

struct place { /* where the automaton is: a node, and the stack of returns under it */
    int32_t node, frame;
};
struct frame {
    int32_t node, parent, depth;
};
struct state {
    size_t first; /* its places, sorted */
    int32_t n;
    int32_t *next;  /* [256] state after a byte: 0 none, -1 not known yet; NULL: none known */
    int32_t mask;   /* index, -1: not computed */
};

/* A hash table from hashes to numbers; what is equal is the caller's business. */
struct index {
    int32_t *slots; /* number + 1, 0: empty */
    size_t n, mask;
};

struct vocab_trie;

struct grammar {
    atomic_int n_refs;
    const struct tokenizer *tokenizer;
    const struct vocab_trie *trie;

    struct node *nodes;
    int32_t n_nodes, cap_nodes, start;
    struct byte_set *sets;
    int32_t n_sets, cap_sets;
    bool too_large;

    /* learned while matching; all of it is forgotten when it grows too large, and the epoch goes up */
    uint64_t epoch;
    struct frame *frames; /* [0]: the empty stack */
    int32_t n_frames, cap_frames;
    struct index frame_index;
    struct place *places;
    size_t n_places, cap_places;
    struct state *states; /* [0]: the dead one, [1]: the first */
    int32_t n_states, cap_states;
    struct index state_index;
    struct place *work; /* of the closure */
    int32_t n_work, cap_work;
    uint64_t **masks;
    int32_t n_masks, cap_masks;
    size_t bytes; /* of rows and masks */
};

struct grammar *grammar_new(const struct tokenizer *t, const struct vocab_trie *trie);
/* Nodes are made from the end to the beginning: each takes what follows it. */
int32_t node_bytes(struct grammar *g, const struct byte_set *set, int32_t next);
int32_t node_range(struct grammar *g, unsigned char lo, unsigned char hi, int32_t next);
int32_t node_byte(struct grammar *g, char c, int32_t next);
int32_t node_text(struct grammar *g, const char *text, size_t n, int32_t next);
int32_t node_str(struct grammar *g, const char *text, int32_t next);
int32_t node_either(struct grammar *g, int32_t a, int32_t b);
int32_t node_call(struct grammar *g, int32_t rule, int32_t next);
/* A control token by its text; spelled in bytes where the vocabulary has none. */
int32_t node_control(struct grammar *g, const char *token, int32_t next);
/* A place that is filled later: for loops and recursion. */
int32_t node_hole(struct grammar *g);
void node_fill(struct grammar *g, int32_t hole, int32_t a, int32_t b);
/* One of n texts (sorted by this call). */
int32_t node_texts(struct grammar *g, struct buf *texts, size_t n, int32_t next);
/* A character from lo to hi, as UTF-8. */
int32_t node_chars(struct grammar *g, uint32_t lo, uint32_t hi, int32_t next);
/* Computes what every node needs; false when the start can never be finished within the limits. */
bool grammar_settle(struct grammar *g);

/* ---------------------------------------------------------------- states (grammar_state.c) */

int32_t state_start(struct grammar *g);
int32_t state_after_byte(struct grammar *g, int32_t state, unsigned char byte); /* 0: none */
int32_t state_after_token(struct grammar *g, int32_t state, int32_t token);
bool state_may_end(const struct grammar *g, int32_t state);
void states_forget(struct grammar *g);
void states_trim(struct grammar *g); /* forgets when too much is known */

/* ---------------------------------------------------------------- vocabulary (grammar_trie.c) */

/* All tokens that are text, as a trie in preorder. */
struct vocab_trie {
    int n_vocab;
    int32_t n_nodes;
    unsigned char *byte; /* of each node */
    uint8_t *depth;      /* 1: first byte */
    int32_t *skip;       /* the first node that is not below it */
    int32_t *token;      /* that ends here, -1: none */
    int32_t *same;       /* [n_vocab] the next token of the same bytes, -1: none */
};
struct vocab_trie *vocab_trie_open(const struct tokenizer *t, int n_vocab);
void vocab_trie_close(struct vocab_trie **t);
const uint64_t *state_mask(struct grammar *g, int32_t state);

/* ---------------------------------------------------------------- forms (grammar_text.c, grammar_calls.c,
 * schema*.c) */

/* Text without the markup of calls (any of the spellings that the reply parser reads), to AT_RETURN at any
 * character; json: as it stands between the quotes of a JSON string. exit: another way out after a '<', or AT_FAIL.
 * at_start: and no <think> as its first word. */
int32_t text_rule(struct grammar *g, bool json, int32_t exit, bool at_start);
/* One character of text, then next. */
int32_t text_char(struct grammar *g, bool json, int32_t next);
/* Blanks between tokens of JSON: nothing, a space, or a new line with a bounded indent. */
int32_t blank_rule(struct grammar *g);

enum json_type {
    TYPE_NULL = 1, TYPE_BOOL = 2, TYPE_INT = 4, TYPE_NUM = 8, TYPE_STR = 16, TYPE_ARR = 32, TYPE_OBJ = 64,
};
enum { TYPES_ALL = 127 };

struct schema_rule {
    const json_t *schema;
    unsigned types;
    bool raw;
    int32_t node;
};

/* One schema document on its way into a grammar. */
struct schema_reader {
    struct grammar *g;
    const json_t *root;
    struct err *e;
    const char *name; /* of the document, for errors */
    struct buf path;  /* inside of it */
    int32_t blank;    /* rule */
    struct schema_rule *rules;
    int n_rules, cap_rules, depth;
};
void schema_reader_init(struct schema_reader *r, struct grammar *g, const json_t *root, const char *name, struct err *e);
void schema_reader_free(struct schema_reader *r);
/* The rule of a schema restricted to `types`; raw: a string without quotes and escapes. Returns AT_FAIL when there
 * is no such value, -1 with *e filled when the schema cannot be enforced. schema NULL: any value. */
int32_t schema_rule(struct schema_reader *r, const json_t *schema, unsigned types, bool raw);
/* Follows $ref as long as it is all there is; NULL with *e filled. */
const json_t *schema_resolve(struct schema_reader *r, const json_t *schema);
int schema_refuse(struct schema_reader *r, const char *fmt, ...) PRINTF_LIKE(2, 3);
size_t schema_enter(struct schema_reader *r, const char *segment); /* returns what schema_leave takes */
void schema_leave(struct schema_reader *r, size_t mark);
/* Objects and arrays (schema_object.c), strings (schema_string.c), numbers (schema_number.c): each from its opening
 * byte to AT_RETURN. */
int32_t schema_object(struct schema_reader *r, const json_t *schema);
int32_t schema_array(struct schema_reader *r, const json_t *schema);
int32_t schema_string(struct schema_reader *r, const json_t *schema, bool raw);
int32_t schema_number(struct schema_reader *r, const json_t *schema, bool integer);
/* What an object's other keys are: NULL: any, json_false: none. */
const json_t *schema_extra(const json_t *schema);
/* The keyword that is not enforced, NULL when there is none; and types that a schema allows. */
int schema_check(struct schema_reader *r, const json_t *schema);
unsigned schema_types(struct schema_reader *r, const json_t *schema);
/* oneOf is taken only where no value can match two of its schemas. */
bool schema_disjoint(struct schema_reader *r, const json_t *a, const json_t *b);
/* The characters of a regular expression (ECMA 262 as far as it goes), then AT_RETURN; -1 when it cannot be
 * enforced. */
int32_t pattern_rule(struct schema_reader *r, const char *pattern, bool raw);

/* Calls of tools, to AT_RETURN: the block alone; -1 with *e filled. */
int32_t calls_block(struct grammar *g, const struct grammar_spec *s, struct err *e);

#endif
