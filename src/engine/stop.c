/* Stop strings: one Knuth-Morris-Pratt automaton a string. The longest current match is what must be held back. */
#include "engine/engine.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

static bool rule_init(struct stop_rule *r, const char *text)
{
    size_t n = strlen(text);
    assert(n > 0 && n <= STOP_BYTES_MAX);
    r->text = malloc(n + 1);
    r->n = n;
    r->fail = calloc(n, sizeof *r->fail);
    if (r->text == NULL || r->fail == NULL)
        return false;
    memcpy(r->text, text, n + 1);
    for (size_t i = 1, k = 0; i < n; i++) {
        while (k > 0 && text[i] != text[k])
            k = r->fail[k - 1];
        if (text[i] == text[k])
            k++;
        r->fail[i] = (uint16_t)k;
    }
    return true;
}

static void rule_step(struct stop_rule *r, char c)
{
    while (r->matched > 0 && r->text[r->matched] != c)
        r->matched = r->fail[r->matched - 1];
    if (r->text[r->matched] == c)
        r->matched++;
}

bool stop_filter_init(struct stop_filter *f, char *const *stops, int n)
{
    assert(n >= 0 && n <= STOP_STRINGS_MAX);
    *f = (struct stop_filter){.n_rules = n};
    bool done = true;
    for (int i = 0; i < n; i++)
        done &= rule_init(&f->rule[i], stops[i]);
    if (!done)
        stop_filter_free(f);
    return done;
}

/* Advances every rule by one byte; the longest match, complete when *hit. A complete match beats longer partial ones:
 * it ends here and they may never complete. */
static size_t filter_step(struct stop_filter *f, char c, bool *hit)
{
    size_t longest = 0, complete = 0;
    for (int i = 0; i < f->n_rules; i++) {
        struct stop_rule *r = &f->rule[i];
        rule_step(r, c);
        if (r->matched == r->n && r->n > complete)
            complete = r->n;
        if (r->matched > longest)
            longest = r->matched;
    }
    *hit = complete > 0;
    return *hit ? complete : longest;
}

bool stop_filter_add(struct stop_filter *f, const char *text, size_t n, struct buf *out)
{
    assert(!f->hit);
    if (f->n_rules == 0) {
        buf_add(out, text, n);
        return false;
    }
    size_t match = 0, used = 0;
    while (used < n && !f->hit)
        match = filter_step(f, text[used++], &f->hit);
    buf_add(&f->held, text, used);
    if (used == 0)
        return false;
    size_t shown = f->held.len - match;
    buf_add(out, f->held.data, shown);
    memmove(f->held.data, f->held.data + shown, match);
    f->held.len = match;
    return f->hit;
}

void stop_filter_flush(struct stop_filter *f, struct buf *out)
{
    if (!f->hit && f->held.len > 0)
        buf_add(out, f->held.data, f->held.len);
    buf_clear(&f->held);
    for (int i = 0; i < f->n_rules; i++)
        f->rule[i].matched = 0;
}

void stop_filter_free(struct stop_filter *f)
{
    for (int i = 0; i < f->n_rules; i++) {
        free(f->rule[i].text);
        free(f->rule[i].fail);
    }
    buf_free(&f->held);
    *f = (struct stop_filter){0};
}
