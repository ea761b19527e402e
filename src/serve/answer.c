/* From the engine's events to the parts of an answer, and to the events that dialects write. */
#include "serve/api.h"

#include <stdlib.h>
#include <string.h>

void api_answer_init(struct api_answer *a, const struct api_env *env, const struct api_req *q)
{
    *a = (struct api_answer){.env = env, .req = q, .i_block = -1};
}

void api_answer_free(struct api_answer *a)
{
    for (int i = 0; i < a->n_parts; i++) {
        buf_free(&a->parts[i].text);
        buf_free(&a->parts[i].tokens);
        free(a->parts[i].name);
    }
    free(a->parts);
    buf_free(&a->tokens[0]);
    buf_free(&a->tokens[1]);
    buf_free(&a->broken);
    free(a->why);
    free(a->stop);
    *a = (struct api_answer){0};
}

void api_usage_extras(const struct api_answer *a, struct buf *out)
{
    char why[160];
    if (a->has_cost)
        out_real(out, "cost", a->cost);
    if (!a->has_cache_reason)
        return;
    gen_usage_explain(&a->usage, why, sizeof why);
    out_str(out, "cache_reason", why);
}

void api_answer_text(const struct api_answer *a, enum api_part_kind kind, struct buf *out)
{
    for (int i = 0; i < a->n_parts; i++)
        if (a->parts[i].kind == kind && a->parts[i].text.len > 0)
            buf_add(out, a->parts[i].text.data, a->parts[i].text.len);
}

/* ---------------------------------------------------------------- parts */

static struct api_part *part_add(struct api_answer *a, enum api_part_kind kind)
{
    if (a->n_parts == a->cap_parts) {
        a->cap_parts = a->cap_parts == 0 ? 4 : 2 * a->cap_parts;
        a->parts = xrealloc(a->parts, (size_t)a->cap_parts * sizeof *a->parts);
    }
    struct api_part *p = &a->parts[a->n_parts++];
    *p = (struct api_part){.kind = kind, .i_call = -1};
    return p;
}

static struct api_part *part_of_text(struct api_answer *a, enum api_part_kind kind)
{
    struct api_part *last = a->n_parts > 0 ? &a->parts[a->n_parts - 1] : NULL;
    return last != NULL && last->kind == kind ? last : part_add(a, kind);
}

/* call_NN_ and 24 characters, the last four digits: the official form. */
static void call_id(struct api_answer *a, int i_call, char *id)
{
    char random[32];
    uint64_t r = mix64(a->random + (uint64_t)i_call);
    api_base62(random, r, 20);
    struct buf b = {0};
    buf_printf(&b, "call_%02d_%s%04d", i_call % 100, random, (int)(mix64(r) % 10000));
    memcpy(id, b.data, b.len + 1);
    buf_free(&b);
}

static struct api_part *call_of(struct api_answer *a, int i_call)
{
    for (int i = a->n_parts; i-- > 0;)
        if (a->parts[i].kind == PART_CALL && a->parts[i].i_call == i_call)
            return &a->parts[i];
    return NULL;
}

/* ---------------------------------------------------------------- logprobs */

/* A token as the official API shows it: control tokens with doubled bars, never as the control string itself. */
static void token_text(const struct tokenizer *t, int32_t id, struct buf *out)
{
    size_t n;
    const char *bytes = tokenizer_bytes(t, id, &n);
    static const char bar[] = "\xef\xbd\x9c"; /* U+FF5C */
    if (!tokenizer_is_added(t, id)) {
        buf_add(out, bytes, n);
        return;
    }
    for (size_t i = 0; i < n; i++) {
        if (i + 3 <= n && memcmp(bytes + i, bar, 3) == 0) {
            buf_str(out, bar);
            buf_str(out, bar);
            i += 2;
        } else
            buf_char(out, bytes[i]);
    }
}

static void token_fields(const struct tokenizer *t, int32_t id, float logprob, struct buf *out)
{
    struct buf bytes = {0}, shown = {0};
    struct utf8_stream utf8 = {0};
    token_text(t, id, &bytes);
    utf8_stream_add(&utf8, bytes.len > 0 ? bytes.data : "", bytes.len, &shown);
    utf8_stream_flush(&utf8, &shown);
    out_text(out, "token", shown.data, shown.len);
    out_real(out, "logprob", (double)logprob);
    out_open(out, "bytes", '[');
    for (size_t i = 0; i < bytes.len; i++)
        out_int(out, NULL, (unsigned char)bytes.data[i]);
    out_close(out, ']');
    buf_free(&bytes);
    buf_free(&shown);
}

static void take_token(struct api_answer *a, const struct gen_event *ev, const struct tokenizer *t)
{
    struct buf *out = &a->tokens[ev->reasoning];
    if (out->len > 0)
        buf_char(out, ',');
    buf_char(out, '{');
    token_fields(t, ev->token, ev->logprob, out);
    out_open(out, "top_logprobs", '[');
    for (int i = 0; i < ev->n_top; i++) {
        out_open(out, NULL, '{');
        token_fields(t, ev->top[i].id, ev->top[i].logprob, out);
        out_close(out, '}');
    }
    buf_str(out, "]}");
}

/* ---------------------------------------------------------------- events */

struct telling {
    struct api_answer *a;
    api_event_fn fn;
    struct buf *out;
};

/* In a stream the logprobs go out with the next text of their kind, what remains is there at the last event. */
static void tell(const struct telling *t, struct api_event ev)
{
    if (t->fn == NULL)
        return;
    struct buf *tokens = &t->a->tokens[ev.kind == API_REASONING];
    bool with_tokens = (ev.kind == API_REASONING || ev.kind == API_TEXT) && tokens->len > 0;
    ev.tokens = with_tokens ? tokens : NULL;
    ev.tokens_reasoning = ev.kind == API_REASONING;
    t->fn(t->a, &ev, t->out);
    if (!with_tokens)
        return;
    buf_clear(tokens);
    if (ev.kind == API_TEXT)
        t->a->n_in_parts = 0;
}

/* The logprobs that have come since the last text belong to this one. */
static void add_tokens(struct api_answer *a, struct api_part *p)
{
    size_t from = a->n_in_parts;
    const struct buf *tokens = &a->tokens[0];
    if (tokens->len <= from)
        return;
    if (tokens->data[from] == ',')
        from++;
    if (p->tokens.len > 0)
        buf_char(&p->tokens, ',');
    buf_add(&p->tokens, tokens->data + from, tokens->len - from);
    a->n_in_parts = tokens->len;
}

static void add_text(const struct telling *t, enum api_part_kind kind, const char *text, size_t n)
{
    struct api_part *p = part_of_text(t->a, kind);
    buf_add(&p->text, text, n);
    if (kind == PART_TEXT)
        add_tokens(t->a, p);
    tell(t, (struct api_event){.kind = kind == PART_TEXT ? API_TEXT : API_REASONING, .text = text, .n = n, .part = p});
}

/* The markup of a broken call is text of the reply - unless the reply was cut there: then the call just lacks its end. */
static void settle_broken(const struct telling *t, bool cut)
{
    struct buf text = t->a->broken;
    t->a->broken = (struct buf){0};
    if (!cut && text.len > 0)
        add_text(t, PART_TEXT, text.data, text.len);
    buf_free(&text);
}

/* Where text ends in the beginning of a tag of calls, NULL when it does not. */
static const char *half_tag(const char *text, size_t n)
{
    static const char mark[] = "\xef\xbd\x9c" "DSML\xef\xbd\x9c";
    const char *at = memrchr(text, '<', n);
    if (at == NULL)
        return NULL;
    size_t left = (size_t)(text + n - at) - 1, slash = left > 0 && at[1] == '/';
    return left - slash < sizeof mark && memcmp(at + 1 + slash, mark, left - slash) == 0 ? at : NULL;
}

/* Markup of calls that comes as text waits in the same place: where a reply is cut, half a call is no text. */
static void add_content(const struct telling *t, const char *text, size_t n)
{
    static const char mark[] = "\xef\xbd\x9c" "DSML";
    const char *at = memmem(text, n, mark, sizeof mark - 1);
    if (at == NULL)
        at = half_tag(text, n);
    size_t shown = at == NULL ? n : (size_t)(at - text);
    if (at != NULL) /* the tag's "<" and the newlines before it go with it */
        while (shown > 0 && strchr("</\n", text[shown - 1]) != NULL)
            shown--;
    if (shown > 0)
        add_text(t, PART_TEXT, text, shown);
    buf_add(&t->a->broken, text + shown, n - shown);
}

static void call_begin(const struct telling *t, const struct gen_event *ev)
{
    struct api_part *p = part_add(t->a, PART_CALL);
    p->name = xstrndup(ev->text, ev->n);
    p->i_call = ev->i_call;
    call_id(t->a, ev->i_call, p->id);
    tell(t, (struct api_event){.kind = API_CALL_BEGIN, .part = p});
}

static void call_more(const struct telling *t, const struct gen_event *ev)
{
    struct api_part *p = call_of(t->a, ev->i_call);
    switch (ev->kind) {
    case GEN_TOOL_ARGS:
        buf_add(&p->text, ev->text, ev->n);
        tell(t, (struct api_event){.kind = API_CALL_ARGS, .text = ev->text, .n = ev->n, .part = p});
        break;
    case GEN_TOOL_END:
        t->a->n_calls++;
        tell(t, (struct api_event){.kind = API_CALL_END, .part = p});
        break;
    default:
        p->broken = true;
        buf_add(&t->a->broken, ev->text, ev->n);
        tell(t, (struct api_event){.kind = API_CALL_BROKEN, .part = p});
    }
}

static void take_end(const struct telling *t, const struct gen_event *ev)
{
    struct api_answer *a = t->a;
    a->finish = ev->finish;
    a->usage = ev->usage;
    if (ev->finish == FINISH_ERROR)
        a->why = xstrndup(ev->text, ev->n);
    else if (ev->finish == FINISH_STOP && ev->n > 0)
        a->stop = xstrndup(ev->text, ev->n);
}

bool api_answer_take(struct api_answer *a, const struct gen_event *ev, const struct tokenizer *tokenizer,
                     api_event_fn fn, struct buf *out)
{
    struct telling t = {a, fn, out};
    if (ev->kind != GEN_TOOL_BROKEN && ev->kind != GEN_TOKEN)
        settle_broken(&t, ev->kind == GEN_END && ev->finish != FINISH_STOP && ev->finish != FINISH_TOOL_CALLS);
    switch (ev->kind) {
    case GEN_PROMPT:
        if (a->usage.prompt_tokens == 0) {
            a->usage.prompt_tokens = ev->total;
            a->usage.reused_tokens = ev->reused;
            tell(&t, (struct api_event){.kind = API_BEGIN});
        }
        return false;
    case GEN_REASONING:
        add_text(&t, PART_REASONING, ev->text, ev->n);
        return false;
    case GEN_CONTENT:
        add_content(&t, ev->text, ev->n);
        return false;
    case GEN_TOOL_START:
        call_begin(&t, ev);
        return false;
    case GEN_TOKEN:
        take_token(a, ev, tokenizer);
        return false;
    case GEN_END:
        take_end(&t, ev);
        return true;
    case GEN_TOOL_ARGS:
    case GEN_TOOL_END:
    case GEN_TOOL_BROKEN:
        call_more(&t, ev);
        return false;
    }
    return false;
}

void api_answer_end(struct api_answer *a, api_event_fn fn, struct buf *out)
{
    struct telling t = {a, fn, out};
    tell(&t, (struct api_event){.kind = API_END});
}
