/* Pre-tokenisation: "Split, Isolated" steps over PCRE2. Hugging Face tokenizers run these patterns in Oniguruma (Ruby
 * syntax); the translation below keeps the meaning and refuses what would mean something else. */
#include "text/tokenizer_impl.h"

#include <string.h>

/* What PCRE2 gives one match at most: stack of JIT code, patience for backtracking beyond the text's length. */
enum { JIT_STACK_START_BYTES = 32 << 10, JIT_STACK_MAX_BYTES = 8 << 20, MATCH_LIMIT_BASE = 10000000 };
enum { PATTERN_BYTES_MAX = 64 << 10 };

/* ---------------------------------------------------------------- from Oniguruma to PCRE2 */

/* Escapes that the two engines read differently: word characters and boundaries (marks and connectors count in
 * Oniguruma), \h (a hex digit there, a space here). */
static const char escapes_refused[] = "wWbBhHGKRX";

static int escape_translate(char c, struct buf *out, const char *path, const char *field, struct err *e)
{
    if (strchr(escapes_refused, c) != NULL)
        return err_set(e, HD_EUNSUPPORTED, "%s: %s: '\\%c' in a pattern is not supported", path, field, c);
    /* \s of PCRE2 holds U+180E too, which is no white space to Unicode. */
    if (c == 's' || c == 'S') {
        buf_str(out, c == 's' ? "\\p{White_Space}" : "\\P{White_Space}");
        return HD_OK;
    }
    buf_char(out, '\\');
    buf_char(out, c);
    return HD_OK;
}

static int pattern_translate(const char *regex, size_t n, struct buf *out, const char *path, const char *field,
                             struct err *e)
{
    bool in_class = false;
    for (size_t i = 0; i < n; i++) {
        char c = regex[i];
        if (c == '\\' && i + 1 < n && regex[i + 1] != '\0') {
            int rc = escape_translate(regex[++i], out, path, field, e);
            if (rc != HD_OK)
                return rc;
            continue;
        }
        if (in_class && (c == '[' || (c == '&' && i + 1 < n && regex[i + 1] == '&')))
            return err_set(e, HD_EUNSUPPORTED, "%s: %s: '%c' inside a character class must be escaped", path, field, c);
        bool opens = !in_class && c == '[';
        if (opens || c == ']')
            in_class = opens;
        buf_char(out, c);
        /* A ']' right behind the opening is a member of the class. */
        if (opens && i + 1 < n && regex[i + 1] == '^')
            buf_char(out, regex[++i]);
        if (opens && i + 1 < n && regex[i + 1] == ']')
            buf_char(out, regex[++i]);
    }
    return HD_OK;
}

/* ---------------------------------------------------------------- compiling */

static pcre2_code *pattern_compile(const struct buf *pattern, const char *path, const char *field, struct err *e)
{
    pcre2_compile_context *context = pcre2_compile_context_create(NULL);
    if (context == NULL) {
        err_set(e, HD_ENOMEM, "%s: no memory for a pattern", path);
        return NULL;
    }
    pcre2_set_newline(context, PCRE2_NEWLINE_LF);
    pcre2_set_max_pattern_length(context, PATTERN_BYTES_MAX);
    int code;
    PCRE2_SIZE at;
    /* Ruby's ^ and $ work at each line. */
    uint32_t options = PCRE2_UTF | PCRE2_UCP | PCRE2_MULTILINE | PCRE2_NEVER_BACKSLASH_C;
    pcre2_code *re = pcre2_compile((PCRE2_SPTR)pattern->data, pattern->len, options, &code, &at, context);
    pcre2_compile_context_free(context);
    if (re == NULL) {
        PCRE2_UCHAR why[160] = "";
        pcre2_get_error_message(code, why, sizeof why);
        err_set(e, HD_EFORMAT, "%s: %s: bad pattern: %s", path, field, (const char *)why);
    }
    return re;
}

int split_step_open(struct split_step *s, const char *regex, size_t n, const char *path, const char *field,
                    struct err *e)
{
    struct buf pattern = {0};
    buf_reserve(&pattern, n);
    int rc = pattern_translate(regex, n, &pattern, path, field, e);
    if (rc == HD_OK) {
        s->code = pattern_compile(&pattern, path, field, e);
        rc = s->code != NULL ? HD_OK : HD_EFORMAT;
    }
    buf_free(&pattern);
    /* Where the system forbids code made at run time the interpreter does the same, slower. */
    s->jit = rc == HD_OK && pcre2_jit_compile(s->code, PCRE2_JIT_COMPLETE) == 0;
    return rc;
}

void split_step_close(struct split_step *s)
{
    pcre2_code_free(s->code);
}

/* ---------------------------------------------------------------- matching */

int split_work_open(struct split_work *w, size_t text_bytes, struct err *e)
{
    w->match = pcre2_match_data_create(1, NULL);
    w->context = pcre2_match_context_create(NULL);
    w->stack = pcre2_jit_stack_create(JIT_STACK_START_BYTES, JIT_STACK_MAX_BYTES, NULL);
    if (w->match == NULL || w->context == NULL) {
        split_work_close(w);
        return err_set(e, HD_ENOMEM, "tokenizer: no memory to match patterns");
    }
    uint64_t limit = MATCH_LIMIT_BASE + (uint64_t)text_bytes * 4;
    pcre2_set_match_limit(w->context, limit < UINT32_MAX ? (uint32_t)limit : UINT32_MAX);
    if (w->stack != NULL)
        pcre2_jit_stack_assign(w->context, NULL, w->stack);
    return HD_OK;
}

void split_work_close(struct split_work *w)
{
    pcre2_match_data_free(w->match);
    pcre2_match_context_free(w->context);
    pcre2_jit_stack_free(w->stack);
    *w = (struct split_work){0};
}

/* First match at or behind `from`: 1 and its range, 0 when there is none. The text is known to be valid UTF-8: checking
 * it again at each call would make the whole quadratic. */
static int step_find(const struct split_step *s, struct split_work *w, const char *text, size_t n, size_t from,
                     size_t *start, size_t *end, struct err *e)
{
    PCRE2_SPTR subject = (PCRE2_SPTR)text;
    int rc = PCRE2_ERROR_JIT_STACKLIMIT;
    if (s->jit)
        rc = pcre2_jit_match(s->code, subject, n, from, 0, w->match, w->context);
    if (rc == PCRE2_ERROR_JIT_STACKLIMIT)
        rc = pcre2_match(s->code, subject, n, from, PCRE2_NO_UTF_CHECK | PCRE2_NO_JIT, w->match, w->context);
    if (rc == PCRE2_ERROR_NOMATCH)
        return 0;
    if (rc < 0) {
        PCRE2_UCHAR why[160] = "";
        pcre2_get_error_message(rc, why, sizeof why);
        return err_set(e, HD_EUNSUPPORTED, "tokenizer: a pre_tokenizer pattern failed on this text: %s",
                       (const char *)why);
    }
    const PCRE2_SIZE *range = pcre2_get_ovector_pointer(w->match);
    *start = range[0];
    *end = range[1];
    /* \K and lookbehind tricks could move the start back; such a match cuts nothing. */
    if (*start < from || *end < *start)
        *start = *end = from;
    return 1;
}

struct splitter {
    const struct split_step *steps;
    int n_steps;
    struct split_work *work;
    piece_fn fn;
    void *arg;
    struct err *e;
};

static int split_from(const struct splitter *s, int i_step, const char *text, size_t n)
{
    if (n == 0)
        return HD_OK;
    if (i_step == s->n_steps)
        return s->fn(s->arg, text, n);
    size_t done = 0, from = 0;
    int rc = HD_OK;
    while (rc == HD_OK && from < n) {
        size_t start = n, end = n;
        int found = step_find(&s->steps[i_step], s->work, text, n, from, &start, &end, s->e);
        if (found < 0)
            return found;
        if (found == 0)
            break;
        rc = split_from(s, i_step + 1, text + done, start - done);
        if (rc == HD_OK)
            rc = split_from(s, i_step + 1, text + start, end - start);
        done = from = end;
        /* An empty match cuts where it stands; the search goes on behind the next character. */
        if (start == end)
            while (++from < n && ((unsigned char)text[from] & 0xc0) == 0x80)
                continue;
    }
    return rc != HD_OK ? rc : split_from(s, i_step + 1, text + done, n - done);
}

int split_text(const struct split_step *steps, int n_steps, struct split_work *w, const char *text, size_t n,
               piece_fn fn, void *arg, struct err *e)
{
    struct splitter s = {steps, n_steps, w, fn, arg, e};
    return split_from(&s, 0, text, n);
}
