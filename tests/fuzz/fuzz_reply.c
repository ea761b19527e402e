/* Any text through the reply parser: no crash, the same events for any split, complete arguments are JSON objects.
 * Input: a byte of options (bit 0: in thinking, bit 7: which a call ends after half of the text, the rest: size of the
 * pieces), then the text. */
#include "text/text.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

struct seen {
    struct buf events, args;
    int last;
};

static void require(bool ok)
{
    if (!ok)
        abort();
}

static void on_event(void *arg, const struct reply_event *ev)
{
    struct seen *s = arg;
    bool joins = ev->kind == REPLY_REASONING || ev->kind == REPLY_CONTENT || ev->kind == REPLY_TOOL_ARGS;
    require(utf8_valid_prefix(ev->text, ev->n) == ev->n);
    if (!joins || s->last != (int)ev->kind)
        buf_printf(&s->events, "|%d %d:", (int)ev->kind, ev->i_call);
    buf_add(&s->events, ev->text, ev->n);
    s->last = (int)ev->kind;
    if (ev->kind == REPLY_TOOL_START)
        buf_clear(&s->args);
    if (ev->kind == REPLY_TOOL_ARGS)
        buf_add(&s->args, ev->text, ev->n);
    if (ev->kind == REPLY_TOOL_END) {
        struct err e = {0};
        json_t *v = json_load_exact(s->args.data, s->args.len, "arguments", false, &e);
        require(json_is_object(v));
        json_decref(v);
    }
}

static void feed(struct reply_parser *p, const char *text, size_t n, size_t piece)
{
    for (size_t i = 0; i < n; i += piece)
        reply_add(p, text + i, n - i < piece ? n - i : piece);
}

static void parse(struct seen *s, const char *text, size_t n, unsigned options, size_t piece)
{
    s->last = -1;
    struct reply_parser *p = reply_open(options & 1, on_event, s);
    size_t n_held = 0;
    if ((options & 129) == 129) {
        n_held = n / 2;
        reply_hold_thinking(p);
        feed(p, text, n_held, piece);
        reply_end_thinking(p);
    }
    feed(p, text + n_held, n - n_held, piece);
    reply_end(p);
    reply_close(&p);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size < 2)
        return 0;
    const char *text = (const char *)data + 1;
    struct seen whole = {0}, pieces = {0};
    parse(&whole, text, size - 1, data[0], size);
    parse(&pieces, text, size - 1, data[0], 1 + (data[0] >> 1) % 16);
    require(whole.events.len == pieces.events.len && memcmp(whole.events.data, pieces.events.data, whole.events.len) == 0);
    buf_free(&whole.events);
    buf_free(&whole.args);
    buf_free(&pieces.events);
    buf_free(&pieces.args);
    return 0;
}
