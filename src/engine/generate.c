/* One sequence's way from tokens to events: end tokens and lengths, bytes to UTF-8, reply parsing, stop strings. */
#include "engine/form.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

enum { TEXT_BYTES = 2 * STOP_BYTES_MAX };

struct generation {
    const struct tokenizer *tokenizer;
    int n_vocab;
    int32_t eos[EOS_IDS_MAX];
    int n_eos;
    int32_t think_end; /* id of </think>, -1 when the vocabulary has none */
    struct gen_params params; /* stop strings live in the filter; nothing here changes */
    int64_t most_tokens;      /* of the reply */
    gen_fn fn;
    void *arg;

    struct utf8_stream utf8;
    struct reply_parser *reply; /* NULL in raw mode */
    struct form *form;          /* NULL: the reply is free */
    struct stop_filter stop;
    struct buf text;  /* what one token completed */
    struct buf shown; /* what the stop filter let through */
    bool thinking;    /* the next token belongs to the thinking part */
    enum finish finish;
    struct gen_usage usage;
};

static void emit_text(struct generation *g, enum gen_event_kind kind, const char *text, size_t n, int i_call)
{
    if (n == 0 && kind != GEN_TOOL_START && kind != GEN_TOOL_END && kind != GEN_TOOL_BROKEN)
        return;
    struct gen_event ev = {.kind = kind, .text = text, .n = n, .i_call = i_call};
    g->fn(g->arg, &ev);
}

static void emit_end(struct generation *g, enum finish f, const char *text, size_t n)
{
    assert(g->finish == FINISH_NONE && f != FINISH_NONE);
    g->finish = f;
    struct gen_event ev = {.kind = GEN_END, .finish = f, .usage = g->usage, .text = text, .n = n};
    g->fn(g->arg, &ev);
}

/* ---------------------------------------------------------------- text */

static void content(struct generation *g, const char *text, size_t n)
{
    buf_clear(&g->shown);
    bool hit = stop_filter_add(&g->stop, text, n, &g->shown);
    emit_text(g, GEN_CONTENT, g->shown.data, g->shown.len, 0);
    if (hit) /* what is held back is the stop string */
        emit_end(g, FINISH_STOP, g->stop.held.data, g->stop.held.len);
}

static void content_flush(struct generation *g)
{
    buf_clear(&g->shown);
    stop_filter_flush(&g->stop, &g->shown);
    emit_text(g, GEN_CONTENT, g->shown.data, g->shown.len, 0);
}

static void on_reply(void *arg, const struct reply_event *ev)
{
    struct generation *g = arg;
    if (g->finish != FINISH_NONE) /* after a stop string nothing more is shown */
        return;
    if (ev->kind == REPLY_CONTENT) {
        content(g, ev->text, ev->n);
        return;
    }
    content_flush(g);
    switch (ev->kind) {
    case REPLY_REASONING:
        emit_text(g, GEN_REASONING, ev->text, ev->n, 0);
        break;
    case REPLY_TOOL_START:
        emit_text(g, GEN_TOOL_START, ev->text, ev->n, ev->i_call);
        break;
    case REPLY_TOOL_ARGS:
        emit_text(g, GEN_TOOL_ARGS, ev->text, ev->n, ev->i_call);
        break;
    case REPLY_TOOL_END:
        emit_text(g, GEN_TOOL_END, "", 0, ev->i_call);
        break;
    case REPLY_TOOL_BROKEN:
        emit_text(g, GEN_TOOL_BROKEN, ev->text, ev->n, ev->i_call);
        break;
    case REPLY_CONTENT:
    case REPLY_END:
        break;
    }
}

static void feed(struct generation *g)
{
    if (g->text.len == 0)
        return;
    if (g->params.raw)
        content(g, g->text.data, g->text.len);
    else
        reply_add(g->reply, g->text.data, g->text.len);
}

/* No more tokens will come: everything held back is decided now. */
static void finish(struct generation *g, enum finish f, const char *why)
{
    buf_clear(&g->text);
    if (f == FINISH_STOP) /* half a character where a reply is cut off is no character, and would damage a tag */
        utf8_stream_flush(&g->utf8, &g->text);
    feed(g);
    if (g->finish == FINISH_NONE && !g->params.raw)
        reply_end(g->reply);
    if (g->finish != FINISH_NONE) /* what was held back completed a stop string */
        return;
    content_flush(g);
    if (f == FINISH_STOP && !g->params.raw && reply_n_calls(g->reply) > 0)
        f = FINISH_TOOL_CALLS;
    emit_end(g, f, why, strlen(why));
}

/* ---------------------------------------------------------------- the public calls */

static bool take_memory(struct generation *g, const struct gen_params *p)
{
    if (!stop_filter_init(&g->stop, p->stop, p->n_stop) || !buf_try_reserve(&g->text, TEXT_BYTES) ||
        !buf_try_reserve(&g->shown, TEXT_BYTES) || !buf_try_reserve(&g->stop.held, TEXT_BYTES))
        return false;
    if (!p->raw && (g->reply = reply_open(p->in_thinking, on_reply, g)) == NULL)
        return false;
    return p->grammar == NULL || (g->form = form_open(p->grammar, g->n_vocab, g->eos, g->n_eos)) != NULL;
}

struct generation *generation_open(const struct tokenizer *t, int n_vocab, const int32_t *eos, int n_eos,
                                   const struct gen_params *p, gen_fn fn, void *arg)
{
    assert(n_eos <= EOS_IDS_MAX && p->max_tokens >= 1);
    struct generation *g = calloc(1, sizeof *g);
    if (g == NULL)
        return NULL;
    g->tokenizer = t;
    g->n_vocab = n_vocab;
    memcpy(g->eos, eos, (size_t)n_eos * sizeof *eos);
    g->n_eos = n_eos;
    g->think_end = tokenizer_id(t, "</think>");
    g->params = *p;
    g->params.stop = NULL;
    g->fn = fn;
    g->arg = arg;
    g->thinking = p->in_thinking && !p->raw;
    g->usage.differs_at = -1;
    g->params.grammar = NULL; /* the form holds it */
    g->most_tokens = p->max_tokens;
    if (!take_memory(g, p))
        generation_close(&g);
    else if (g->thinking)
        reply_hold_thinking(g->reply);
    return g;
}

struct generation *generation_again(const struct generation *g, uint64_t seed, int64_t max_tokens, gen_fn fn, void *arg)
{
    struct gen_params p = g->params;
    char *stops[STOP_STRINGS_MAX];
    for (int i = 0; i < g->stop.n_rules; i++)
        stops[i] = g->stop.rule[i].text;
    p.stop = stops;
    p.n_stop = g->stop.n_rules;
    p.sampling.seed = seed;
    p.max_tokens = max_tokens;
    p.grammar = g->form == NULL ? NULL : form_grammar(g->form);
    return generation_open(g->tokenizer, g->n_vocab, g->eos, g->n_eos, &p, fn, arg);
}

void generation_close(struct generation **g)
{
    if (*g == NULL)
        return;
    reply_close(&(*g)->reply);
    form_close(&(*g)->form);
    stop_filter_free(&(*g)->stop);
    buf_free(&(*g)->text);
    buf_free(&(*g)->shown);
    free(*g);
    *g = NULL;
}

int32_t generation_choose(const struct generation *g, struct sampler *s, const float *logits, int64_t position)
{
    const uint64_t *mask = g->form != NULL ? form_mask(g->form, g->thinking) : NULL;
    return sampler_choose(s, logits, mask, &g->params.sampling, position);
}

static bool is_eos(const struct generation *g, int32_t token)
{
    for (int i = 0; i < g->n_eos; i++)
        if (token == g->eos[i])
            return true;
    return false;
}

static void emit_token(struct generation *g, int32_t token, const float *logits)
{
    struct gen_event ev = {.kind = GEN_TOKEN, .token = token, .reasoning = g->thinking};
    ev.text = tokenizer_bytes(g->tokenizer, token, &ev.n);
    ev.n_top = g->params.n_top_logprobs < g->n_vocab ? g->params.n_top_logprobs : g->n_vocab;
    ev.logprob = logprobs_of(logits, g->n_vocab, token, ev.top, ev.n_top);
    g->fn(g->arg, &ev);
}

/* The control token alone ends the thinking, for the parser, the form and the counts; spelled in others it is text. */
static void end_thinking(struct generation *g)
{
    g->thinking = false;
    buf_clear(&g->text);
    utf8_stream_flush(&g->utf8, &g->text);
    feed(g);
    reply_end_thinking(g->reply);
}

/* Takes a token's bytes. */
static void add_bytes(struct generation *g, int32_t token)
{
    size_t n;
    const char *bytes = tokenizer_bytes(g->tokenizer, token, &n);
    buf_clear(&g->text);
    utf8_stream_add(&g->utf8, bytes, n, &g->text);
    feed(g);
}

bool generation_accept(struct generation *g, int32_t token, const float *logits)
{
    assert(g->finish == FINISH_NONE && token >= 0 && token < g->n_vocab);
    if (is_eos(g, token)) {
        finish(g, FINISH_STOP, "");
        return false;
    }
    if (g->params.logprobs && logits != NULL)
        emit_token(g, token, logits);
    g->usage.completion_tokens++;
    if (g->form != NULL && !g->thinking)
        form_accept(g->form, token);
    if (g->thinking && token == g->think_end) {
        end_thinking(g);
    } else {
        g->usage.reasoning_tokens += g->thinking;
        add_bytes(g, token);
    }
    if (g->finish == FINISH_NONE && g->form != NULL && !g->thinking && form_must_end(g->form))
        finish(g, FINISH_STOP, "");
    if (g->finish == FINISH_NONE && g->usage.completion_tokens >= g->most_tokens)
        finish(g, FINISH_LENGTH, "");
    return g->finish == FINISH_NONE;
}

static void ignore(void *arg, const struct gen_event *ev)
{
    (void)arg;
    (void)ev;
}

void generation_follow(struct generation *g, const int32_t *tokens, int64_t n, int64_t max_tokens)
{
    struct gen_usage before = g->usage;
    gen_fn fn = g->fn;
    g->fn = ignore;
    g->most_tokens = INT64_MAX;
    for (int64_t i = 0; i < n; i++) {
        bool goes_on = generation_accept(g, tokens[i], NULL);
        assert(goes_on && "the other one went on here");
        (void)goes_on;
    }
    g->fn = fn;
    g->usage = before;
    g->most_tokens = max_tokens;
}

void generation_end(struct generation *g, enum finish f, const char *why)
{
    if (g->finish == FINISH_NONE)
        finish(g, f, why);
}

enum finish generation_finish(const struct generation *g)
{
    return g->finish;
}

struct gen_usage *generation_usage(struct generation *g)
{
    return &g->usage;
}

const char *finish_name(enum finish f)
{
    static const char *const names[] = {"running", "stop", "length", "tool_calls", "cancelled", "error"};
    return names[f];
}
