/* Text inside of a grammar: characters of UTF-8, raw or as they stand in a JSON string, and never the markup of a
 * call.
 *
 * The reply parser reads "DSML" behind '<', '/' or a bar as markup, whatever tokens spell it. So text is a little
 * automaton that remembers how much of that it has seen, and does not write the L. */
#include "text/grammar_impl.h"

#include <string.h>

enum { N_TEXT = 5 }; /* nothing seen; an opener; then D, S, M */

static int32_t tails(struct grammar *g, int n, int32_t next)
{
    while (n-- > 0)
        next = node_range(g, 0x80, 0xBF, next);
    return next;
}

/* Characters of two and more bytes. The fullwidth bar EF BD 9C goes to `bar`, all others to next. */
static int32_t wide_chars(struct grammar *g, int32_t next, int32_t bar)
{
    struct byte_set third = {0}, lead3 = {0};
    int32_t c1 = tails(g, 1, next), c2 = tails(g, 2, next), c3 = tails(g, 3, next);
    set_add(&third, 0x80, 0xBF);
    set_remove(&third, 0x9C);
    int32_t bd = node_either(g, node_bytes(g, &third, next), node_byte(g, '\x9C', bar));
    struct byte_set second = {0};
    set_add(&second, 0x80, 0xBF);
    set_remove(&second, 0xBD);
    int32_t ef = node_either(g, node_bytes(g, &second, c1), node_byte(g, '\xBD', bd));
    set_add(&lead3, 0xE1, 0xEC);
    set_add(&lead3, 0xEE, 0xEE);
    int32_t node = node_range(g, 0xC2, 0xDF, c1);
    node = node_either(g, node, node_byte(g, '\xE0', node_range(g, 0xA0, 0xBF, c1)));
    node = node_either(g, node, node_bytes(g, &lead3, c2));
    node = node_either(g, node, node_byte(g, '\xED', node_range(g, 0x80, 0x9F, c1)));
    node = node_either(g, node, node_byte(g, '\xEF', ef));
    node = node_either(g, node, node_byte(g, '\xF0', node_range(g, 0x90, 0xBF, c2)));
    node = node_either(g, node, node_range(g, 0xF1, 0xF3, c3));
    return node_either(g, node, node_byte(g, '\xF4', node_range(g, 0x80, 0x8F, c2)));
}

/* Escapes of JSON but \/: the short ones, and \uXXXX that is no surrogate. */
static int32_t escapes(struct grammar *g, int32_t next)
{
    struct byte_set letters = {0}, hex = {0}, no_d = {0}, low = {0};
    for (const char *c = "\"\\bfnrt"; *c != '\0'; c++)
        set_add(&letters, (unsigned char)*c, (unsigned char)*c);
    set_add(&hex, '0', '9');
    set_add(&hex, 'a', 'f');
    set_add(&hex, 'A', 'F');
    no_d = hex;
    set_remove(&no_d, 'd');
    set_remove(&no_d, 'D');
    set_add(&low, '0', '7');
    int32_t h1 = node_bytes(g, &hex, next), h2 = node_bytes(g, &hex, h1), h3 = node_bytes(g, &hex, h2);
    int32_t d = node_bytes(g, &low, h2);
    int32_t four = node_either(g, node_bytes(g, &no_d, h3), node_either(g, node_byte(g, 'd', d), node_byte(g, 'D', d)));
    return node_byte(g, '\\', node_either(g, node_bytes(g, &letters, next), node_byte(g, 'u', four)));
}

/* Single bytes that stand for themselves. */
static struct byte_set plain_bytes(bool json)
{
    struct byte_set s = {0};
    set_add(&s, 0x20, 0x7F);
    if (json) {
        set_remove(&s, '"');
        set_remove(&s, '\\');
    } else {
        set_add(&s, '\t', '\n');
        set_add(&s, '\r', '\r');
    }
    return s;
}

int32_t text_char(struct grammar *g, bool json, int32_t next)
{
    struct byte_set s = plain_bytes(json);
    int32_t node = node_either(g, node_bytes(g, &s, next), wide_chars(g, next, next));
    if (json)
        node = node_either(g, node, node_either(g, escapes(g, next), node_str(g, "\\/", next)));
    return node;
}

static void split_openers(struct byte_set *plain, struct byte_set *openers)
{
    for (const char *c = "</|"; *c != '\0'; c++) {
        set_remove(plain, (unsigned char)*c);
        set_add(openers, (unsigned char)*c, (unsigned char)*c);
    }
}

/* What every place in text shares: wide characters and escapes, and openers. */
static int32_t common(struct grammar *g, bool json, int32_t plain, int32_t opener)
{
    int32_t node = wide_chars(g, plain, opener);
    return json ? node_either(g, node, node_either(g, escapes(g, plain), node_str(g, "\\/", opener))) : node;
}

/* A '<' leads to the exit too. */
static int32_t openers_node(struct grammar *g, struct byte_set openers, int32_t opener, int32_t exit)
{
    if (exit == AT_FAIL)
        return node_bytes(g, &openers, opener);
    set_remove(&openers, '<');
    return node_either(g, node_bytes(g, &openers, opener), node_byte(g, '<', node_either(g, opener, exit)));
}

/* The first word of a reply is not <think>: one place for each letter of it. */
static int32_t start_node(struct grammar *g, const int32_t *at, const struct byte_set *plain, int32_t others, int32_t exit)
{
    static const char word[] = "<think>";
    int32_t next = AT_FAIL; /* after the last letter */
    for (size_t k = sizeof word - 2; k >= 1; k--) {
        struct byte_set s = *plain;
        set_remove(&s, (unsigned char)word[k]);
        if (k == 1)
            set_remove(&s, 'D');
        int32_t node = node_either(g, node_bytes(g, &s, at[0]), others);
        if (k == 1)
            node = node_either(g, node, node_either(g, node_byte(g, 'D', at[2]), exit));
        next = node_either(g, node_either(g, node, node_byte(g, word[k], next)), AT_RETURN);
    }
    struct byte_set s = *plain, openers = {0};
    split_openers(&s, &openers);
    set_remove(&openers, '<');
    int32_t first = node_either(g, node_bytes(g, plain, at[0]), node_bytes(g, &openers, at[1]));
    first = node_either(g, first, node_either(g, wide_chars(g, at[0], at[1]), node_byte(g, '<', next)));
    return node_either(g, first, AT_RETURN);
}

int32_t text_rule(struct grammar *g, bool json, int32_t exit, bool at_start)
{
    static const char seen[N_TEXT] = {'\0', 'D', 'S', 'M', 'L'};
    struct byte_set plain = plain_bytes(json), openers = {0};
    int32_t at[N_TEXT];
    split_openers(&plain, &openers);
    for (int i = 0; i < N_TEXT; i++)
        at[i] = node_hole(g);
    int32_t shared = node_either(g, common(g, json, at[0], at[1]), openers_node(g, openers, at[1], exit));
    for (int i = 0; i < N_TEXT; i++) {
        struct byte_set s = plain;
        if (i > 0)
            set_remove(&s, (unsigned char)seen[i]);
        int32_t node = node_either(g, node_bytes(g, &s, at[0]), shared);
        if (i > 0 && i + 1 < N_TEXT)
            node = node_either(g, node, node_byte(g, seen[i], at[i + 1]));
        node_fill(g, at[i], node, AT_RETURN);
    }
    return at_start ? start_node(g, at, &plain, shared, exit) : at[0];
}

int32_t blank_rule(struct grammar *g)
{
    enum { INDENT_MAX = 40 };
    struct byte_set s = {0};
    int32_t node = AT_RETURN;
    set_add(&s, ' ', ' ');
    set_add(&s, '\t', '\t');
    for (int i = 0; i < INDENT_MAX; i++)
        node = node_either(g, node_bytes(g, &s, node), AT_RETURN);
    node = node_byte(g, '\n', node);
    node = node_either(g, node, node_byte(g, '\r', node));
    return node_either(g, node_either(g, node, node_byte(g, ' ', AT_RETURN)), AT_RETURN);
}
