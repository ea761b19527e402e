/* Tags of tool-call markup as models write them: <｜DSML｜tool_calls>, <｜DSML｜invoke name="..">,
 * <｜DSML｜parameter name=".." string="true|false"> and their closing tags, with the deviations that were seen. */
#include "text/reply_tag.h"

#include <string.h>

enum { N_BARS_MAX = 4 };

static const struct {
    const char *name;
    enum tag_kind kind;
} names[] = {
    {"tool_calls", TAG_CALLS}, {"toolcalls", TAG_CALLS}, {"function_calls", TAG_CALLS},
    {"calls", TAG_CALLS},      {"invoke", TAG_INVOKE},   {"parameter", TAG_PARAMETER},
};

enum tag_match literal_match(const char *text, size_t n, const char *literal, bool at_end)
{
    size_t k = strlen(literal);
    if (memcmp(text, literal, n < k ? n : k) != 0)
        return TAG_NO;
    return n >= k ? TAG_YES : at_end ? TAG_NO : TAG_PARTIAL;
}

static bool is_space(char c)
{
    return c == ' ' || c == '\n' || c == '\t' || c == '\r';
}

/* The text of a tag and how far it has been read; `ended` when reading ran out of text. */
struct reader {
    const char *s;
    size_t n, i;
    bool ended;
};

static bool read_char(struct reader *r, char c)
{
    if (r->i == r->n) {
        r->ended = true;
        return false;
    }
    if (r->s[r->i] != c)
        return false;
    r->i++;
    return true;
}

static int read_bars(struct reader *r)
{
    static const char wide[] = "｜";
    int n_bars = 0;
    while (n_bars < N_BARS_MAX) {
        size_t left = r->n - r->i;
        if (read_char(r, '|')) {
            n_bars++;
            continue;
        }
        enum tag_match m = literal_match(r->s + r->i, left, wide, false);
        if (m != TAG_YES) {
            r->ended |= m == TAG_PARTIAL;
            break;
        }
        r->i += strlen(wide);
        n_bars++;
    }
    return n_bars;
}

/* Bars, DSML, bars. Leaves has_dsml false for a bare tag; false when this is no tag (or `ended`). */
static bool read_marker(struct reader *r, bool *has_dsml)
{
    int n_bars = read_bars(r);
    if (r->ended)
        return false;
    enum tag_match m = literal_match(r->s + r->i, r->n - r->i, "DSML", false);
    r->ended = m == TAG_PARTIAL;
    *has_dsml = m == TAG_YES;
    if (m != TAG_YES)
        return m == TAG_NO && n_bars == 0;
    r->i += 4;
    n_bars += read_bars(r);
    if (!r->ended && r->i < r->n && r->s[r->i] == ' ')
        r->i++;
    return !r->ended && n_bars > 0;
}

/* The kind whose name the text is, or (is_prefix) begins. */
static bool find_kind(const char *text, size_t n, bool is_prefix, enum tag_kind *kind)
{
    for (size_t i = 0; i < COUNT_OF(names); i++) {
        if (strncmp(names[i].name, text, n) == 0 && (is_prefix || names[i].name[n] == '\0')) {
            *kind = names[i].kind;
            return true;
        }
    }
    return false;
}

/* After the name of a closing tag: '>', or what shows that it was forgotten. */
static enum tag_match end_close(struct reader *r, size_t n_name, bool at_end, struct tag *t)
{
    size_t after_name = r->i;
    while (r->i < r->n && (r->s[r->i] == ' ' || r->s[r->i] == '\t'))
        r->i++;
    if (read_char(r, '>'))
        return t->n = r->i, TAG_YES;
    if (r->ended && !at_end)
        return TAG_PARTIAL;
    bool is_cut = r->ended || is_space(r->s[after_name]) || r->s[after_name] == '<';
    if (!is_cut || n_name == 0 || t->is_bare)
        return TAG_NO;
    t->n = r->ended ? r->n : after_name;
    return TAG_YES;
}

enum tag_match tag_match(const char *text, size_t n, bool at_end, struct tag *t)
{
    struct reader r = {text, n, 0, false};
    enum tag_match more = at_end ? TAG_NO : TAG_PARTIAL;
    bool has_dsml = false;
    *t = (struct tag){0};
    if (!read_char(&r, '<'))
        return r.ended ? more : TAG_NO;
    t->is_close = read_char(&r, '/');
    if (r.ended || !read_marker(&r, &has_dsml))
        return r.ended ? more : TAG_NO;
    t->is_bare = !has_dsml;
    const char *name = text + r.i;
    while (r.i < n && ((text[r.i] >= 'a' && text[r.i] <= 'z') || text[r.i] == '_'))
        r.i++;
    size_t n_name = (size_t)(text + r.i - name);
    if (!find_kind(name, n_name, true, &t->kind))
        return TAG_NO;
    if (r.i == n && !at_end)
        return TAG_PARTIAL;
    bool is_exact = find_kind(name, n_name, false, &t->kind);
    if (t->is_close && has_dsml && n_name == 0)
        t->kind = TAG_NAMELESS;
    else if (!is_exact && (!t->is_close || !has_dsml))
        return TAG_NO;
    if (t->is_close)
        return end_close(&r, n_name, at_end, t);
    if (t->kind == TAG_CALLS && !read_char(&r, '>'))
        return TAG_NO;
    t->n = r.i;
    return TAG_YES;
}

/* ---------------------------------------------------------------- attributes */

/* Bytes of the quotation mark at text, 0 when there is none. */
static size_t quote_size(const char *text, size_t n)
{
    static const char *const marks[] = {"\"", "'", "“", "”", "‘", "’", "＂"};
    for (size_t i = 0; i < COUNT_OF(marks); i++)
        if (literal_match(text, n, marks[i], true) == TAG_YES)
            return strlen(marks[i]);
    return 0;
}

/* Bytes of the quotation mark that ends at text + n. */
static size_t quote_size_before(const char *text, size_t n)
{
    if (n >= 1 && quote_size(text + n - 1, 1) == 1)
        return 1;
    return n >= 3 && quote_size(text + n - 3, 3) == 3 ? 3 : 0;
}

static size_t trim_end(const char *text, size_t n)
{
    while (n > 0 && is_space(text[n - 1]))
        n--;
    return n;
}

static bool has_quote(const char *text, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (quote_size(text + i, n - i) != 0)
            return true;
    return false;
}

/* WORD = QUOTE at text: bytes up to behind the quotation mark, 0 when it is not there. */
static size_t attribute_size(const char *text, size_t n, const char *word)
{
    size_t i = 0, k = strlen(word);
    while (i < n && is_space(text[i]))
        i++;
    if (n - i < k || memcmp(text + i, word, k) != 0)
        return 0;
    i += k;
    while (i < n && is_space(text[i]))
        i++;
    if (i == n || text[i] != '=')
        return 0;
    i++;
    while (i < n && is_space(text[i]))
        i++;
    size_t quote = quote_size(text + i, n - i);
    return quote != 0 ? i + quote : 0;
}

bool tag_head_may_start(const char *text, size_t n)
{
    size_t i = 0;
    while (i < n && is_space(text[i]))
        i++;
    return literal_match(text + i, n - i, "name", false) != TAG_NO;
}

/* Finds `" string="VALUE` at the end of text (its last quotation mark is already gone): the bytes before it. */
static bool cut_string_attribute(const char *text, size_t *n, enum param_type *type)
{
    size_t value = *n;
    while (value > 0 && quote_size_before(text, value) == 0)
        value--;
    for (size_t start = value; start-- > 0;) {
        size_t quote = quote_size(text + start, *n - start), behind = start + quote;
        size_t attribute = quote != 0 && behind < value ? attribute_size(text + behind, *n - behind, "string") : 0;
        if (attribute == 0 || behind + attribute != value)
            continue;
        bool is_true = *n - value == 4 && strncasecmp(text + value, "true", 4) == 0;
        *type = is_true ? PARAM_STRING : PARAM_JSON;
        *n = start;
        return true;
    }
    return false;
}

bool tag_head_read(const char *text, size_t n, enum tag_kind kind, struct tag_head *h)
{
    size_t start = attribute_size(text, n, "name");
    size_t end = trim_end(text, n - 1);
    size_t quote = quote_size_before(text, end);
    if (start == 0 || quote == 0 || end - quote < start)
        return false;
    const char *name = text + start;
    size_t n_name = end - quote - start;
    h->type = PARAM_JSON;
    bool has_type = kind == TAG_PARAMETER && cut_string_attribute(name, &n_name, &h->type);
    h->name = name;
    h->n_name = n_name;
    return has_type || !has_quote(name, n_name);
}
