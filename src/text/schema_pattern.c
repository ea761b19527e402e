/* Patterns: the regular expressions of ECMA 262 without look-around, back references and word borders. Read to a
 * tree, then made into nodes from the end. As JSON Schema has it, a pattern may match anywhere in the string unless
 * it is anchored. */
#include "text/grammar_impl.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

enum { REPEAT_MAX = 1024, RANGES_MAX = 64, DEPTH_MAX = 50 };

enum part_kind { PART_EMPTY, PART_SET, PART_CAT, PART_ALT, PART_REPEAT };

struct range {
    uint32_t lo, hi;
};

struct part {
    enum part_kind kind;
    struct range *ranges; /* of a set, owned */
    int n_ranges, min, max; /* max -1: any number */
    int left, right;      /* parts */
};

struct pattern {
    struct schema_reader *r;
    const char *at;
    struct part *parts;
    int n, cap, depth;
    bool bad;
};

static int refuse(struct pattern *p, const char *what)
{
    if (!p->bad)
        schema_refuse(p->r, "pattern: %s is not supported", what);
    p->bad = true;
    return 0;
}

static int part_add(struct pattern *p, struct part part)
{
    if (p->n == p->cap) {
        p->cap = p->cap == 0 ? 32 : 2 * p->cap;
        p->parts = xrealloc(p->parts, (size_t)p->cap * sizeof *p->parts);
    }
    p->parts[p->n] = part;
    return p->n++;
}

/* ---------------------------------------------------------------- sets of characters */

struct set {
    struct range at[RANGES_MAX];
    int n;
};

static void set_put(struct pattern *p, struct set *s, uint32_t lo, uint32_t hi)
{
    if (s->n == RANGES_MAX)
        refuse(p, "a class of so many ranges");
    else
        s->at[s->n++] = (struct range){lo, hi};
}

static int compare_ranges(const void *a, const void *b)
{
    const struct range *x = a, *y = b;
    return (x->lo > y->lo) - (x->lo < y->lo);
}

static void set_turn(struct pattern *p, struct set *s)
{
    struct set out = {.n = 0};
    uint32_t from = 0;
    qsort(s->at, (size_t)s->n, sizeof *s->at, compare_ranges);
    for (int i = 0; i < s->n; i++) {
        if (s->at[i].lo > from)
            set_put(p, &out, from, s->at[i].lo - 1);
        if (s->at[i].hi + 1 > from)
            from = s->at[i].hi + 1;
    }
    if (from <= 0x10FFFF)
        set_put(p, &out, from, 0x10FFFF);
    *s = out;
}

/* \d, \w, \s and their opposites; false for another letter. */
static bool set_class(struct pattern *p, char letter, struct set *to)
{
    struct set s = {.n = 0};
    switch (letter | 0x20) {
    case 'd':
        set_put(p, &s, '0', '9');
        break;
    case 'w':
        set_put(p, &s, '0', '9');
        set_put(p, &s, 'A', 'Z');
        set_put(p, &s, '_', '_');
        set_put(p, &s, 'a', 'z');
        break;
    case 's':
        set_put(p, &s, '\t', '\r');
        set_put(p, &s, ' ', ' ');
        break;
    default:
        return false;
    }
    if (!(letter & 0x20))
        set_turn(p, &s);
    for (int i = 0; i < s.n; i++)
        set_put(p, to, s.at[i].lo, s.at[i].hi);
    return true;
}

static uint32_t read_hex(struct pattern *p, int n)
{
    uint32_t v = 0;
    for (int i = 0; i < n; i++) {
        static const char digits[] = "0123456789abcdef";
        char c = *p->at >= 'A' && *p->at <= 'F' ? (char)(*p->at | 0x20) : *p->at;
        const char *d = c != '\0' ? strchr(digits, c) : NULL;
        if (d == NULL)
            return (uint32_t)refuse(p, "an escape without its digits");
        v = v * 16 + (uint32_t)(d - digits);
        p->at++;
    }
    return v;
}

static uint32_t read_char(struct pattern *p)
{
    size_t n;
    if (utf8_next(p->at, strlen(p->at), &n) != UTF8_CHAR)
        return (uint32_t)refuse(p, "invalid UTF-8");
    uint32_t c = (unsigned char)*p->at;
    if (n > 1)
        c &= 0xFFu >> (n + 1);
    for (size_t i = 1; i < n; i++)
        c = c << 6 | ((unsigned char)p->at[i] & 0x3F);
    p->at += n;
    return c;
}

/* Behind a backslash: a character, or a class that goes to s (then true). */
static bool read_escape(struct pattern *p, struct set *s, uint32_t *c)
{
    static const char letters[] = "tnrvf", values[] = "\t\n\r\v\f";
    char letter = *p->at;
    if (letter != '\0' && set_class(p, letter, s)) {
        p->at++;
        return true;
    }
    const char *at = letter != '\0' ? strchr(letters, letter) : NULL;
    if (at != NULL) {
        p->at++;
        *c = (unsigned char)values[at - letters];
    } else if (letter == 'x' || letter == 'u') {
        p->at++;
        *c = read_hex(p, letter == 'x' ? 2 : 4);
    } else if ((letter >= '0' && letter <= '9') || ((letter | 0x20) >= 'a' && (letter | 0x20) <= 'z') || letter == '\0') {
        refuse(p, "this escape");
    } else {
        *c = read_char(p);
    }
    return false;
}

static int set_part(struct pattern *p, const struct set *s)
{
    struct part part = {.kind = PART_SET, .n_ranges = s->n};
    part.ranges = xcalloc((size_t)s->n + 1, sizeof *part.ranges);
    memcpy(part.ranges, s->at, (size_t)s->n * sizeof *s->at);
    return part_add(p, part);
}

/* A character of a class; false when it is a class itself, which is then in s. */
static bool read_member(struct pattern *p, struct set *s, uint32_t *c)
{
    if (*p->at != '\\') {
        *c = read_char(p);
        return true;
    }
    p->at++;
    if (*p->at == 'b') /* a backspace, only here */
        refuse(p, "this escape");
    return !read_escape(p, s, c);
}

/* Behind '['. */
static int read_class(struct pattern *p)
{
    struct set s = {.n = 0};
    bool turn = *p->at == '^';
    p->at += turn;
    while (*p->at != ']' && !p->bad) {
        uint32_t lo = 0, hi;
        if (*p->at == '\0')
            return refuse(p, "a class without its end");
        if (!read_member(p, &s, &lo))
            continue;
        hi = lo;
        if (*p->at == '-' && p->at[1] != ']') {
            p->at++;
            if (*p->at == '\0' || !read_member(p, &s, &hi) || hi < lo)
                return refuse(p, "this range");
        }
        set_put(p, &s, lo, hi);
    }
    p->at++;
    if (turn)
        set_turn(p, &s);
    return set_part(p, &s);
}

/* ---------------------------------------------------------------- reading */

static int read_alternatives(struct pattern *p);

static int read_group(struct pattern *p)
{
    if (*p->at == '?') {
        if (p->at[1] == ':')
            p->at += 2;
        else if (p->at[1] == '<' && p->at[2] != '=' && p->at[2] != '!' && strchr(p->at, '>') != NULL)
            p->at = strchr(p->at, '>') + 1;
        else
            return refuse(p, "look-around");
    }
    int part = read_alternatives(p);
    if (*p->at != ')')
        return refuse(p, "a group without its end");
    p->at++;
    return part;
}

static int read_atom(struct pattern *p)
{
    struct set s = {.n = 0};
    uint32_t c = 0;
    switch (*p->at) {
    case '(':
        p->at++;
        return read_group(p);
    case '[':
        p->at++;
        return read_class(p);
    case '.':
        p->at++;
        set_put(p, &s, '\n', '\n');
        set_put(p, &s, '\r', '\r');
        set_turn(p, &s);
        return set_part(p, &s);
    case '\\':
        p->at++;
        if (!read_escape(p, &s, &c))
            set_put(p, &s, c, c);
        return set_part(p, &s);
    case '^':
    case '$':
        return refuse(p, "an anchor inside of the pattern");
    case '*':
    case '+':
    case '?':
    case '{':
        return refuse(p, "a repetition of nothing");
    default:
        c = read_char(p);
        set_put(p, &s, c, c);
        return set_part(p, &s);
    }
}

static int read_number(struct pattern *p)
{
    int n = 0;
    if (*p->at < '0' || *p->at > '9')
        return refuse(p, "this repetition");
    while (*p->at >= '0' && *p->at <= '9' && n <= REPEAT_MAX)
        n = n * 10 + (*p->at++ - '0');
    return n > REPEAT_MAX ? refuse(p, "a repetition of more than 1024 times") : n;
}

/* An atom and what says how often it comes. */
static int read_repeated(struct pattern *p)
{
    int atom = read_atom(p);
    while (!p->bad && *p->at != '\0' && strchr("*+?{", *p->at) != NULL) {
        struct part part = {.kind = PART_REPEAT, .left = atom, .max = -1};
        char c = *p->at++;
        part.min = c == '+';
        if (c == '?')
            part.max = 1;
        if (c == '{') {
            part.min = part.max = read_number(p);
            if (*p->at == ',')
                part.max = *++p->at == '}' ? -1 : read_number(p);
            if (*p->at++ != '}' || (part.max >= 0 && part.max < part.min))
                return refuse(p, "this repetition");
        }
        if (*p->at == '?') /* how greedy it is does not change what matches */
            p->at++;
        atom = part_add(p, part);
    }
    return atom;
}

static int read_sequence(struct pattern *p)
{
    int node = part_add(p, (struct part){.kind = PART_EMPTY});
    while (!p->bad && *p->at != '\0' && *p->at != '|' && *p->at != ')' && !(*p->at == '$' && p->at[1] == '\0')) {
        int one = read_repeated(p);
        node = part_add(p, (struct part){.kind = PART_CAT, .left = node, .right = one});
    }
    return node;
}

static int read_alternatives(struct pattern *p)
{
    if (++p->depth > DEPTH_MAX)
        return refuse(p, "groups nested so deep");
    int node = read_sequence(p);
    while (!p->bad && *p->at == '|') {
        p->at++;
        int one = read_sequence(p);
        node = part_add(p, (struct part){.kind = PART_ALT, .left = node, .right = one});
    }
    p->depth--;
    return node;
}

/* ---------------------------------------------------------------- making nodes */

/* A character below 0x80 as it stands in a string. */
static int32_t ascii_node(struct grammar *g, unsigned c, bool raw, int32_t next)
{
    static const char specials[] = "\"\\\b\f\n\r\t", letters[] = "\"\\bfnrt";
    char text[8] = "\\u00";
    const char *at = c != 0 ? strchr(specials, (int)c) : NULL;
    if (raw)
        return c == '\t' || c == '\n' || c == '\r' || c >= 0x20 ? node_byte(g, (char)c, next) : AT_FAIL;
    if (at == NULL && c >= 0x20)
        return node_byte(g, (char)c, next);
    if (at != NULL)
        return node_byte(g, '\\', node_byte(g, letters[at - specials], next));
    text[4] = (char)('0' + (c >> 4));
    text[5] = "0123456789abcdef"[c & 15];
    return node_str(g, text, next);
}

static int32_t set_node(struct grammar *g, const struct part *part, bool raw, int32_t next)
{
    struct byte_set plain = {0};
    int32_t node = AT_FAIL;
    bool has[0x20] = {false}, quote = false, slash = false;
    for (int i = 0; i < part->n_ranges; i++) {
        struct range x = part->ranges[i];
        for (uint32_t c = x.lo; c <= x.hi && c < 0x80; c++) {
            if (c < 0x20)
                has[c] = true;
            else if (!raw && c == '"')
                quote = true;
            else if (!raw && c == '\\')
                slash = true;
            else
                set_add(&plain, (unsigned char)c, (unsigned char)c);
        }
        if (x.hi >= 0x80)
            node = node_either(g, node, node_chars(g, x.lo > 0x80 ? x.lo : 0x80, x.hi, next));
    }
    for (unsigned c = 0; c < 0x20; c++)
        if (has[c])
            node = node_either(g, node, ascii_node(g, c, raw, next));
    if (quote)
        node = node_either(g, node, ascii_node(g, '"', raw, next));
    if (slash)
        node = node_either(g, node, ascii_node(g, '\\', raw, next));
    return node_either(g, node, node_bytes(g, &plain, next));
}

static int32_t make(struct pattern *p, int i, bool raw, int32_t next)
{
    struct grammar *g = p->r->g;
    const struct part *part = &p->parts[i];
    int32_t node = next;
    if (g->too_large)
        return AT_FAIL;
    switch (part->kind) {
    case PART_EMPTY:
        return next;
    case PART_SET:
        return set_node(g, part, raw, next);
    case PART_CAT:
        return make(p, part->left, raw, make(p, part->right, raw, next));
    case PART_ALT:
        return node_either(g, make(p, part->left, raw, next), make(p, part->right, raw, next));
    case PART_REPEAT:
        break;
    }
    if (part->max < 0) {
        node = node_hole(g);
        node_fill(g, node, make(p, part->left, raw, node), next);
    }
    for (int k = part->max; k > part->min; k--)
        node = node_either(g, make(p, part->left, raw, node), next);
    for (int k = 0; k < part->min; k++)
        node = make(p, part->left, raw, node);
    return node;
}

int32_t pattern_rule(struct schema_reader *r, const char *pattern, bool raw)
{
    struct pattern p = {.r = r, .at = pattern};
    bool from_start = *pattern == '^';
    p.at += from_start;
    int root = read_alternatives(&p);
    bool to_end = *p.at == '$';
    bool is_list = !p.bad && p.parts[root].kind == PART_ALT;
    p.at += to_end && !p.bad;
    if (!p.bad && *p.at != '\0')
        refuse(&p, "this place of a sign");
    if (is_list && (from_start || to_end)) /* the anchor belongs to one alternative only */
        refuse(&p, "an anchor beside '|' outside of a group");
    int32_t node = -1;
    if (!p.bad) {
        int32_t any = text_rule(r->g, !raw, AT_FAIL, false), one = text_char(r->g, !raw, AT_RETURN);
        node = make(&p, root, raw, to_end ? AT_RETURN : any);
        if (!from_start) {
            int32_t again = node_hole(r->g);
            node_fill(r->g, again, node_call(r->g, one, again), node);
            node = again;
        }
    }
    for (int i = 0; i < p.n; i++)
        free(p.parts[i].ranges);
    free(p.parts);
    return node;
}
