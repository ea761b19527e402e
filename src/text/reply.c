/* The reply parser: a state machine over text that arrives in pieces. Each state consumes what it can decide and leaves the
 * rest in `in`; what a block has consumed is kept in `raw` until its call is complete, so that it can be given back. */
#include "text/reply_tag.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

enum { HEAD_BYTES_MAX = 1024, LOOKAHEAD_SPACE_MAX = 8 };

enum reply_state {
    AT_START,
    IN_THINKING,
    IN_CONTENT,
    IN_BLOCK,  /* between calls */
    IN_HEAD,   /* in the attributes of an invoke or parameter tag */
    IN_CALL,   /* between parameters */
    IN_STRING, /* in the value of a string parameter, which is passed on as it comes */
    IN_VALUE,  /* in any other value, which is kept until it is complete */
    AFTER_BLOCK,
};

struct reply_parser {
    reply_fn fn;
    void *arg;
    enum reply_state state;
    bool in_thinking, has_ended;
    bool is_held; /* thinking, which a call will end */

    struct buf in; /* text that is not consumed yet, from pos */
    size_t pos;
    bool at_end;

    struct buf raw;    /* what the block consumed since its last complete call */
    size_t i_raw_tag;  /* where in raw the last opening invoke tag starts */
    bool has_calls;    /* the block's own tag is used up by a complete call */
    bool is_text_in_block; /* content between calls of a block */

    enum tag_kind head_kind;
    size_t n_head_seen; /* bytes of the attributes in which no end was found */

    bool has_call, is_open; /* a call was read; it was announced */
    struct buf name, value;
    int n_started, n_complete;

    enum reply_event_kind kind; /* of the text in piece */
    struct buf piece;           /* text that goes out as one event */
    struct utf8_stream utf8;
};

/* ---------------------------------------------------------------- events */

static bool is_call_event(enum reply_event_kind kind)
{
    return kind != REPLY_REASONING && kind != REPLY_CONTENT && kind != REPLY_END;
}

static void send(struct reply_parser *p, enum reply_event_kind kind, const struct buf *text)
{
    struct reply_event ev = {.kind = kind, .text = "", .i_call = is_call_event(kind) ? p->n_started - 1 : -1};
    if (text != NULL && text->len != 0) {
        ev.text = text->data;
        ev.n = text->len;
    }
    p->fn(p->arg, &ev);
}

static void send_piece(struct reply_parser *p)
{
    if (p->piece.len != 0)
        send(p, p->kind, &p->piece);
    buf_clear(&p->piece);
}

static void set_kind(struct reply_parser *p, enum reply_event_kind kind)
{
    if (p->kind != kind)
        send_piece(p);
    p->kind = kind;
}

/* Text of the model; a character cut in two is completed by the next call. */
static void put_text(struct reply_parser *p, enum reply_event_kind kind, const char *text, size_t n)
{
    if (n == 0)
        return;
    set_kind(p, kind);
    utf8_stream_add(&p->utf8, text, n, &p->piece);
}

/* A tag follows: a character that is still incomplete stays so. */
static void end_text(struct reply_parser *p)
{
    utf8_stream_flush(&p->utf8, &p->piece);
}

static void put_args(struct reply_parser *p, const char *json)
{
    set_kind(p, REPLY_TOOL_ARGS);
    buf_str(&p->piece, json);
}

/* Text of the model inside a JSON string. */
static void put_args_text(struct reply_parser *p, const char *text, size_t n)
{
    struct buf clean = {0};
    utf8_stream_add(&p->utf8, text, n, &clean);
    set_kind(p, REPLY_TOOL_ARGS);
    json_quote_python(clean.len ? clean.data : "", clean.len, &p->piece);
    buf_free(&clean);
}

static void end_args_text(struct reply_parser *p)
{
    set_kind(p, REPLY_TOOL_ARGS);
    utf8_stream_flush(&p->utf8, &p->piece);
}

static void send_clean(struct reply_parser *p, enum reply_event_kind kind, const struct buf *text)
{
    struct buf clean = {0};
    struct utf8_stream utf8 = {0};
    if (text->len != 0)
        utf8_stream_add(&utf8, text->data, text->len, &clean);
    utf8_stream_flush(&utf8, &clean);
    send_piece(p);
    send(p, kind, &clean);
    buf_free(&clean);
}

/* ---------------------------------------------------------------- input */

static const char *ahead(const struct reply_parser *p)
{
    return p->in.data + p->pos;
}

static size_t n_ahead(const struct reply_parser *p)
{
    return p->in.len - p->pos;
}

static bool is_space(char c)
{
    return c == ' ' || c == '\n' || c == '\t' || c == '\r';
}

/* Consumes n bytes as markup of the block. */
static void keep_raw(struct reply_parser *p, size_t n)
{
    buf_add(&p->raw, ahead(p), n);
    p->pos += n;
}

enum look { LOOK_TEXT, LOOK_WAIT, LOOK_TAG, LOOK_STOP };

static enum look look_at_tag(const struct reply_parser *p, size_t skip, struct tag *t)
{
    const char *s = ahead(p) + skip;
    size_t n = n_ahead(p) - skip;
    enum tag_match m = literal_match(s, n, "<｜end▁of▁sentence｜>", false);
    if (m == TAG_YES && n == strlen("<｜end▁of▁sentence｜>"))
        return p->at_end ? LOOK_STOP : LOOK_WAIT; /* only as the very last text it ends the reply */
    if (m == TAG_PARTIAL && !p->at_end)
        return LOOK_WAIT;
    m = tag_match(s, n, p->at_end, t);
    return m == TAG_YES ? LOOK_TAG : m == TAG_PARTIAL ? LOOK_WAIT : LOOK_TEXT;
}

/* ---------------------------------------------------------------- calls */

static void begin_block(struct reply_parser *p, size_t n)
{
    end_text(p);
    buf_clear(&p->raw);
    keep_raw(p, n);
    p->has_calls = p->is_text_in_block = false;
    p->state = IN_BLOCK;
}

static void end_block(struct reply_parser *p, size_t n)
{
    p->pos += n;
    buf_clear(&p->raw);
    p->is_text_in_block = false;
    p->state = AFTER_BLOCK;
}

static void announce_call(struct reply_parser *p)
{
    if (p->is_open)
        return;
    send_piece(p);
    p->is_open = true;
    p->n_started++;
    send_clean(p, REPLY_TOOL_START, &p->name);
    put_args(p, "{");
}

/* n_raw: bytes at the end of raw that belong to what comes next. */
static void complete_call(struct reply_parser *p, size_t n_raw)
{
    announce_call(p);
    put_args(p, "}");
    send_piece(p);
    send(p, REPLY_TOOL_END, NULL);
    p->n_complete++;
    p->has_call = p->is_open = false;
    p->has_calls = true;
    memmove(p->raw.data, p->raw.data + p->raw.len - n_raw, n_raw);
    p->raw.len = n_raw;
    p->state = IN_BLOCK;
}

/* Gives back what is not part of a complete call; what follows is content. */
static void give_up(struct reply_parser *p)
{
    if (p->is_open) {
        send_clean(p, REPLY_TOOL_BROKEN, &p->raw);
        p->utf8 = (struct utf8_stream){0};
    } else if (p->raw.len != 0) {
        put_text(p, REPLY_CONTENT, p->raw.data, p->raw.len);
    }
    buf_clear(&p->raw);
    p->has_call = p->is_open = false;
    p->is_text_in_block = p->has_calls;
    p->state = IN_CONTENT;
}

static void begin_head(struct reply_parser *p, const struct tag *t)
{
    if (t->kind == TAG_INVOKE)
        p->i_raw_tag = p->raw.len;
    keep_raw(p, t->n);
    p->head_kind = t->kind;
    p->n_head_seen = 0;
    p->state = IN_HEAD;
}

static void begin_call(struct reply_parser *p, const struct tag_head *h)
{
    bool is_repeated = p->has_call && !p->is_open && p->name.len == h->n_name &&
                       memcmp(p->name.data, h->name, h->n_name) == 0;
    if (p->has_call && !is_repeated)
        complete_call(p, p->raw.len - p->i_raw_tag);
    buf_clear(&p->name);
    buf_add(&p->name, h->name, h->n_name);
    p->has_call = true;
    p->state = IN_CALL;
}

static void begin_parameter(struct reply_parser *p, const struct tag_head *h)
{
    bool is_first = !p->is_open;
    announce_call(p);
    if (!is_first)
        put_args(p, ", ");
    put_args(p, "\"");
    put_args_text(p, h->name, h->n_name);
    end_args_text(p);
    if (h->type == PARAM_STRING) {
        put_args(p, "\": \"");
        p->state = IN_STRING;
    } else {
        put_args(p, "\": ");
        buf_clear(&p->value);
        p->state = IN_VALUE;
    }
}

static void put_value(struct reply_parser *p, const char *text, size_t n)
{
    if (p->state == IN_STRING)
        put_args_text(p, text, n);
    else
        buf_add(&p->value, text, n);
    keep_raw(p, n);
}

/* A value that is JSON goes out as the model wrote it; around it comes one more level. */
static void end_value(struct reply_parser *p)
{
    if (p->state == IN_VALUE) {
        const char *text = p->value.len != 0 ? p->value.data : "";
        json_t *v = json_load_exact(text, p->value.len, "value", false, NULL);
        bool is_json = v != NULL && !json_depth_over(v, JSON_DEPTH_MAX - 1);
        json_decref(v);
        if (is_json) {
            set_kind(p, REPLY_TOOL_ARGS);
            buf_add(&p->piece, text, p->value.len);
            p->state = IN_CALL;
            return;
        }
        put_args(p, "\"");
        put_args_text(p, text, p->value.len);
    }
    end_args_text(p);
    put_args(p, "\"");
    p->state = IN_CALL;
}

/* ---------------------------------------------------------------- states: each returns false when it needs more text */

static bool step_start(struct reply_parser *p)
{
    enum tag_match m = literal_match(ahead(p), n_ahead(p), "<think>", p->at_end);
    if (m == TAG_PARTIAL)
        return false;
    if (m == TAG_YES)
        p->pos += strlen("<think>");
    p->state = m == TAG_YES || p->in_thinking ? IN_THINKING : IN_CONTENT;
    return true;
}

static bool step_thinking(struct reply_parser *p)
{
    size_t n = n_ahead(p);
    const char *tag = memchr(ahead(p), '<', n);
    size_t before = tag != NULL ? (size_t)(tag - ahead(p)) : n;
    put_text(p, REPLY_REASONING, ahead(p), before);
    p->pos += before;
    if (tag == NULL)
        return false;
    struct tag t;
    enum tag_match m = p->is_held ? TAG_NO : literal_match(tag, n - before, "</think>", p->at_end);
    if (m == TAG_YES) {
        end_text(p);
        p->pos += strlen("</think>");
        p->state = IN_CONTENT;
        return true;
    }
    if (m == TAG_PARTIAL)
        return false;
    enum tag_match stop = literal_match(tag, n - before, "<｜end▁of▁sentence｜>", p->at_end);
    enum look look = stop == TAG_NO ? LOOK_TEXT : look_at_tag(p, 0, &t);
    if (look == LOOK_WAIT)
        return false;
    if (look == LOOK_STOP) {
        p->pos = p->in.len;
        return true;
    }
    put_text(p, REPLY_REASONING, tag, 1);
    p->pos++;
    return true;
}

static void put_content(struct reply_parser *p, size_t n)
{
    put_text(p, REPLY_CONTENT, ahead(p), n);
    p->pos += n;
}

/* A tag in content, behind n_lines newlines: begins a block, or goes on with one whose calls had text between them. */
static bool take_content_tag(struct reply_parser *p, size_t n_lines, const struct tag *t)
{
    if (t->is_bare)
        return false;
    if (t->kind == TAG_CALLS && !t->is_close) {
        begin_block(p, n_lines + t->n);
        return true;
    }
    if (!p->is_text_in_block)
        return false;
    bool is_invoke = t->kind == TAG_INVOKE && !t->is_close, is_end = t->kind == TAG_CALLS && t->is_close;
    if (!is_invoke && !is_end)
        return false;
    end_text(p);
    if (is_end) {
        end_block(p, n_lines + t->n);
    } else {
        keep_raw(p, n_lines);
        begin_head(p, t);
    }
    return true;
}

static bool step_content(struct reply_parser *p)
{
    size_t n = n_ahead(p), i = 0;
    while (i < n && ahead(p)[i] != '<' && ahead(p)[i] != '\n')
        i++;
    put_content(p, i);
    n -= i;
    size_t n_lines = 0;
    while (n_lines < n && ahead(p)[n_lines] == '\n')
        n_lines++;
    if (n_lines > 2) {
        put_content(p, n_lines - 2);
        n -= n_lines - 2;
        n_lines = 2;
    }
    if (n == n_lines) {
        if (p->at_end)
            put_content(p, n_lines);
        return false;
    }
    struct tag t = {0};
    enum look look = ahead(p)[n_lines] == '<' ? look_at_tag(p, n_lines, &t) : LOOK_TEXT;
    if (look == LOOK_WAIT)
        return false;
    if (look == LOOK_STOP) {
        put_content(p, n_lines);
        p->pos = p->in.len;
    } else if (look != LOOK_TAG || !take_content_tag(p, n_lines, &t)) {
        put_content(p, n_lines + 1);
    }
    return true;
}

/* Tags between calls. */
static void take_block_tag(struct reply_parser *p, const struct tag *t)
{
    if (t->kind == TAG_INVOKE && !t->is_close)
        begin_head(p, t);
    else if (t->is_close && (t->kind == TAG_CALLS || t->kind == TAG_NAMELESS))
        end_block(p, t->n);
    else if (!t->is_close && t->kind == TAG_PARAMETER)
        give_up(p);
    else if (p->has_calls) /* a stray closing tag, or the block's tag again */
        p->pos += t->n;
    else
        keep_raw(p, t->n);
}

/* Tags between parameters. */
static void take_call_tag(struct reply_parser *p, const struct tag *t)
{
    if (!t->is_close && t->kind != TAG_CALLS) {
        begin_head(p, t);
    } else if (!t->is_close) {
        give_up(p);
    } else if (t->kind == TAG_PARAMETER) {
        keep_raw(p, t->n);
    } else if (t->kind == TAG_CALLS) { /* the call's own closing tag is missing */
        complete_call(p, 0);
    } else {
        p->pos += t->n;
        complete_call(p, 0);
    }
}

/* Passes white space and looks at what follows it; LOOK_WAIT when more text is needed. */
static enum look look_past_space(struct reply_parser *p, struct tag *t)
{
    size_t n = n_ahead(p), i = 0;
    while (i < n && is_space(ahead(p)[i]))
        i++;
    keep_raw(p, i);
    if (i == n)
        return LOOK_WAIT;
    return *ahead(p) == '<' ? look_at_tag(p, 0, t) : LOOK_TEXT;
}

/* Between tags only white space is well formed. */
static bool step_between(struct reply_parser *p)
{
    struct tag t;
    enum look look = look_past_space(p, &t);
    if (look == LOOK_WAIT)
        return false;
    if (look == LOOK_STOP)
        p->pos = p->in.len;
    else if (look == LOOK_TEXT && p->at_end && *ahead(p) == '<' &&
             tag_match(ahead(p), n_ahead(p), false, &t) == TAG_PARTIAL)
        keep_raw(p, n_ahead(p)); /* the reply is cut off inside a tag */
    else if (look == LOOK_TEXT)
        give_up(p);
    else if (p->state == IN_BLOCK)
        take_block_tag(p, &t);
    else
        take_call_tag(p, &t);
    return true;
}

static bool step_head(struct reply_parser *p)
{
    struct tag_head h;
    size_t n = n_ahead(p);
    for (size_t i = p->n_head_seen; i < n && i < HEAD_BYTES_MAX; i++) {
        if (ahead(p)[i] != '>' || !tag_head_read(ahead(p), i + 1, p->head_kind, &h))
            continue;
        keep_raw(p, i + 1); /* h points into `in`, which stays where it is */
        if (p->head_kind == TAG_INVOKE)
            begin_call(p, &h);
        else
            begin_parameter(p, &h);
        return true;
    }
    p->n_head_seen = n;
    if (n >= HEAD_BYTES_MAX || !tag_head_may_start(ahead(p), n)) {
        give_up(p);
        return true;
    }
    if (p->at_end)
        keep_raw(p, n);
    return false;
}

/* </parameter> without the DSML token may be text; what follows tells. */
static enum look look_behind_bare(const struct reply_parser *p, size_t n_before)
{
    const char *s = ahead(p) + n_before;
    size_t n = n_ahead(p) - n_before, i = 0;
    while (i < n && i < LOOKAHEAD_SPACE_MAX && is_space(s[i]))
        i++;
    struct tag t;
    enum tag_match m = tag_match(s + i, n - i, p->at_end, &t);
    if (m == TAG_PARTIAL)
        return LOOK_WAIT;
    bool goes_on = m == TAG_YES && !t.is_bare && (t.kind != TAG_CALLS || t.is_close) &&
                   (t.kind != TAG_PARAMETER || !t.is_close);
    return goes_on ? LOOK_TAG : LOOK_TEXT;
}

/* At '<' in a value, behind n_lines (0 or 1) newlines. */
static enum look take_value_tag(struct reply_parser *p, size_t n_lines)
{
    struct tag t;
    enum look look = look_at_tag(p, n_lines, &t);
    if (look != LOOK_TAG)
        return look;
    if (!t.is_close || (t.is_bare && t.kind != TAG_PARAMETER))
        return LOOK_TEXT;
    if (t.is_bare)
        look = look_behind_bare(p, n_lines + t.n);
    if (look != LOOK_TAG)
        return look;
    bool closes_value = t.kind == TAG_PARAMETER || t.kind == TAG_NAMELESS;
    if (closes_value)
        put_value(p, ahead(p), n_lines);
    else
        keep_raw(p, n_lines); /* the closing tag of the call: the value's own is missing, the newline is not part of it */
    end_value(p);
    if (closes_value)
        keep_raw(p, t.n);
    return LOOK_TAG;
}

static bool step_value(struct reply_parser *p)
{
    size_t n = n_ahead(p), i = 0;
    while (i < n && ahead(p)[i] != '<' && (ahead(p)[i] != '\n' || (i + 1 < n && ahead(p)[i + 1] != '<')))
        i++;
    put_value(p, ahead(p), i);
    n -= i;
    if (n == 0)
        return false;
    size_t n_lines = *ahead(p) == '\n' ? 1 : 0;
    enum look look = n == n_lines ? (p->at_end ? LOOK_TEXT : LOOK_WAIT) : take_value_tag(p, n_lines);
    if (look == LOOK_WAIT)
        return false;
    if (look == LOOK_STOP) {
        keep_raw(p, n_lines);
        p->pos = p->in.len;
    } else if (look == LOOK_TEXT) {
        put_value(p, ahead(p), n == n_lines ? n_lines : n_lines + 1);
    }
    return true;
}

/* What follows a block is content, with the white space between. */
static void leave_block(struct reply_parser *p)
{
    p->has_calls = false;
    give_up(p);
}

static bool step_after(struct reply_parser *p)
{
    struct tag t;
    enum look look = look_past_space(p, &t);
    if (look == LOOK_WAIT)
        return false;
    if (look == LOOK_STOP)
        p->pos = p->in.len;
    else if (look == LOOK_TAG && !t.is_bare && t.is_close)
        p->pos += t.n;
    else if (look == LOOK_TAG && !t.is_bare && t.kind == TAG_CALLS)
        begin_block(p, t.n);
    else
        leave_block(p);
    return true;
}

static bool step(struct reply_parser *p)
{
    if (n_ahead(p) == 0)
        return false;
    switch (p->state) {
    case AT_START: return step_start(p);
    case IN_THINKING: return step_thinking(p);
    case IN_CONTENT: return step_content(p);
    case IN_BLOCK:
    case IN_CALL: return step_between(p);
    case IN_HEAD: return step_head(p);
    case IN_STRING:
    case IN_VALUE: return step_value(p);
    case AFTER_BLOCK: return step_after(p);
    }
    return false;
}

/* ---------------------------------------------------------------- the parser as others see it */

/* What usual replies need, so that their parsing takes no more memory. */
static bool reserve(struct reply_parser *p)
{
    enum { TEXT_BYTES = 2048, CALL_BYTES = 8192 };
    return buf_try_reserve(&p->in, TEXT_BYTES) && buf_try_reserve(&p->piece, TEXT_BYTES) &&
           buf_try_reserve(&p->name, HEAD_BYTES_MAX) && buf_try_reserve(&p->raw, CALL_BYTES) &&
           buf_try_reserve(&p->value, CALL_BYTES);
}

struct reply_parser *reply_open(bool in_thinking, reply_fn fn, void *arg)
{
    struct reply_parser *p = calloc(1, sizeof *p);
    if (p == NULL)
        return NULL;
    p->fn = fn;
    p->arg = arg;
    p->in_thinking = in_thinking;
    if (!reserve(p))
        reply_close(&p);
    return p;
}

void reply_add(struct reply_parser *p, const char *bytes, size_t n)
{
    assert(!p->has_ended);
    if (n == 0)
        return;
    buf_add(&p->in, bytes, n);
    while (step(p))
        continue;
    send_piece(p);
    memmove(p->in.data, p->in.data + p->pos, p->in.len - p->pos);
    p->in.len -= p->pos;
    p->pos = 0;
}

void reply_hold_thinking(struct reply_parser *p)
{
    assert(p->in_thinking && p->state == AT_START && p->in.len == 0);
    p->is_held = true;
}

/* What was held back as the beginning of a tag was none. */
void reply_end_thinking(struct reply_parser *p)
{
    assert(p->is_held && !p->has_ended && p->pos == 0);
    put_text(p, REPLY_REASONING, p->in.data, p->in.len);
    buf_clear(&p->in);
    end_text(p);
    send_piece(p);
    p->is_held = false;
    p->state = IN_CONTENT;
}

static bool is_blank(const struct buf *b)
{
    for (size_t i = 0; i < b->len; i++)
        if (!is_space(b->data[i]))
            return false;
    return true;
}

void reply_end(struct reply_parser *p)
{
    assert(!p->has_ended);
    p->has_ended = p->at_end = true;
    while (step(p))
        continue;
    bool is_done = p->state == AFTER_BLOCK || (p->state == IN_BLOCK && p->has_calls); /* at most its end is missing */
    if (!is_done || !is_blank(&p->raw))
        give_up(p);
    end_text(p);
    send_piece(p);
    send(p, REPLY_END, NULL);
}

int reply_n_calls(const struct reply_parser *p)
{
    return p->n_complete;
}

void reply_close(struct reply_parser **p)
{
    struct reply_parser *q = *p;
    if (q == NULL)
        return;
    buf_free(&q->in);
    buf_free(&q->raw);
    buf_free(&q->name);
    buf_free(&q->value);
    buf_free(&q->piece);
    free(q);
    *p = NULL;
}
