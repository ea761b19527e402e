/* The chat encoder of DeepSeek-V4: turns to prompt text. */
#include "base/mutant.h"
#include "text/chat_parts.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/mutant.h"

static const char effort_thorough[] =
    "Reasoning Effort: Absolute maximum with no shortcuts permitted.\n"
    "You MUST be very thorough in your thinking and comprehensively decompose the problem to resolve the root cause, "
    "rigorously stress-testing your logic against all potential paths, edge cases, and adversarial scenarios.\n"
    "Explicitly write out your entire deliberation process, documenting every intermediate step, considered "
    "alternative, and rejected hypothesis to ensure absolutely no assumption is left unchecked.\n\n";

static const char effort_beyond[] =
    "Reasoning Effort: Beyond maximum — exhaustive, relentless, and uncompromising.\n"
    "You MUST reason with the utmost depth and rigor, leaving absolutely nothing to chance: exhaustively decompose the "
    "problem into its most fundamental components, trace every causal chain to its root, and resolve the underlying "
    "cause rather than any surface symptom.\n"
    "Do not stop reasoning until you have independently verified the solution from multiple angles and are certain "
    "that no assumption remains unchecked and no error remains undiscovered.\n\n";

/* What stands before the first turn in thinking mode. The preview knows only "max"; since then its text means "high". */
static const char *effort_text(const struct chat_options *o)
{
    if (o->profile == CHAT_PREVIEW)
        return o->effort == EFFORT_MAX ? effort_thorough : "";
    return o->effort == EFFORT_MAX ? effort_beyond : o->effort == EFFORT_HIGH ? effort_thorough : "";
}

/* What one message needs to know beside itself. */
struct scene {
    const struct conversation *c;
    const struct chat_options *o;
    size_t i; /* the turn */
};

static const json_t *field_of(const struct turn *t, const char *name)
{
    const json_t *v = json_object_get(t->msg, name);
    return json_is_null(v) ? NULL : v;
}

static int write_extras(struct chat_prompt *p, const struct turn *t, struct err *e)
{
    if (t->tools != NULL) {
        bool is_own = t->tools == json_object_get(t->msg, "tools");
        char where[64] = "tools";
        if (is_own)
            snprintf(where, sizeof where, "messages[%zu].tools", t->i_msg);
        put_str(p, "\n\n");
        int rc = put_tools(p, t->tools, where, e);
        if (rc != HD_OK)
            return rc;
    }
    if (t->response_format != NULL) {
        put_str(p, "\n\n");
        put_response_format(p, t->response_format);
    }
    return HD_OK;
}

static int write_system(struct chat_prompt *p, const struct turn *t, struct err *e)
{
    int rc = put_content(p, json_object_get(t->msg, "content"), t->i_msg, "", e);
    return rc != HD_OK ? rc : write_extras(p, t, e);
}

static int write_developer(struct chat_prompt *p, const struct turn *t, struct err *e)
{
    const json_t *content = json_object_get(t->msg, "content");
    if (!json_is_truthy(content))
        return err_set(e, HD_EARG, "messages[%zu].content: must not be empty for role developer", t->i_msg);
    put_control(p, TOKEN_USER);
    int rc = put_content(p, content, t->i_msg, NULL, e);
    return rc != HD_OK ? rc : write_extras(p, t, e);
}

static int write_block(struct chat_prompt *p, const struct block *b, struct err *e)
{
    if (!b->is_result)
        return put_content(p, b->content, b->i_msg, b->content == NULL ? "" : NULL, e);
    put_str(p, "<tool_result>");
    /* The reference prints a null result as Python does. */
    int rc = put_content(p, b->content, b->i_msg, b->content == NULL ? "" : "None", e);
    put_str(p, "</tool_result>");
    return rc;
}

static int write_user(struct chat_prompt *p, const struct conversation *c, const struct turn *t, struct err *e)
{
    put_control(p, TOKEN_USER);
    for (size_t i = 0; i < t->n_blocks; i++) {
        if (i != 0)
            put_str(p, "\n\n");
        int rc = write_block(p, &c->blocks[t->i_block + i], e);
        if (rc != HD_OK)
            return rc;
    }
    return HD_OK;
}

/* Reasoning of an assistant turn, closed; only in thinking mode, not in the answer to a task, not where it is dropped. */
static int write_reasoning(struct chat_prompt *p, const struct scene *s, struct err *e)
{
    const struct turn *t = &s->c->turns[s->i];
    const json_t *reasoning = field_of(t, "reasoning_content");
    if (MUTANT(26) && s->o->thinking && reasoning == NULL)
        return err_set(e, HD_EARG, "messages[%zu].reasoning_content: must be passed back", t->i_msg);
    if (reasoning != NULL && (!json_is_string(reasoning) || json_exact_number(reasoning) != NULL))
        return err_set(e, HD_EARG, "messages[%zu].reasoning_content: must be a string", t->i_msg);
    bool answers_task = s->i > 0 && s->c->turns[s->i - 1].task != NULL;
    bool is_kept = !s->c->drops_thinking || (ptrdiff_t)s->i > s->c->i_last_user;
    if (!s->o->thinking || answers_task || !is_kept)
        return HD_OK;
    put_text(p, json_string_value(reasoning), json_string_length(reasoning));
    put_control(p, TOKEN_THINK_END);
    return HD_OK;
}

static bool ends_with(const struct chat_prompt *p, const char *control)
{
    size_t n = strlen(control);
    return p->n_spans != 0 && p->spans[p->n_spans - 1].is_control && p->text.len >= n &&
           memcmp(p->text.data + p->text.len - n, control, n) == 0;
}

static void note_turn(struct chat_prompt *p, struct chat_turn t)
{
    if (p->n_turns == p->cap_turns) {
        p->cap_turns = p->cap_turns * 2 + 16;
        p->turns = xrealloc(p->turns, p->cap_turns * sizeof *p->turns);
    }
    t.end_span = p->n_spans;
    p->turns[p->n_turns++] = t;
}

static int write_assistant(struct chat_prompt *p, const struct scene *s, struct err *e)
{
    const struct turn *t = &s->c->turns[s->i];
    const json_t *calls = json_object_get(t->msg, "tool_calls"), *prefix = field_of(t, "prefix");
    bool is_prefix = json_is_truthy(prefix);
    if (prefix != NULL && !json_is_boolean(prefix))
        return err_set(e, HD_EARG, "messages[%zu].prefix: must be true or false", t->i_msg);
    if (is_prefix && s->i + 1 != s->c->n_turns)
        return err_set(e, HD_EARG, "messages[%zu].prefix: only the last message can be a prefix", t->i_msg);
    struct chat_turn turn = {.message = t->msg, .first_span = p->n_spans, .opened = ends_with(p, TOKEN_THINK)};
    bool after_tag = turn.opened || ends_with(p, TOKEN_THINK_END); /* where the model would have begun */
    int rc = write_reasoning(p, s, e);
    turn.reasoning_end = turn.content_start = p->text.len;
    if (turn.opened && p->n_spans > turn.first_span) /* after </think> */
        turn.reasoning_end -= strlen(TOKEN_THINK_END);
    if (rc == HD_OK)
        rc = put_content(p, json_object_get(t->msg, "content"), t->i_msg, "", e);
    turn.content_end = p->text.len;
    if (rc == HD_OK && json_is_truthy(calls))
        rc = put_tool_calls(p, calls, t->i_msg, e);
    if (rc == HD_OK && !is_prefix && !json_is_truthy(json_object_get(t->msg, "wo_eos"))) {
        if (after_tag)
            note_turn(p, turn);
        put_control(p, TOKEN_EOS);
    }
    return rc;
}

static int write_turn(struct chat_prompt *p, const struct scene *s, struct err *e)
{
    const struct turn *t = &s->c->turns[s->i];
    if (t->role != TURN_ASSISTANT && json_is_truthy(json_object_get(t->msg, "prefix")))
        return err_set(e, HD_EARG, "messages[%zu].prefix: only for role assistant", t->i_msg);
    switch (t->role) {
    case TURN_SYSTEM: return write_system(p, t, e);
    case TURN_DEVELOPER: return write_developer(p, t, e);
    case TURN_USER: return write_user(p, s->c, t, e);
    case TURN_REMINDER:
        put_control(p, TOKEN_REMINDER);
        return put_content(p, json_object_get(t->msg, "content"), t->i_msg, "None", e);
    case TURN_ASSISTANT: return write_assistant(p, s, e);
    case TURN_OTHER: break;
    }
    return err_set(e, HD_EARG, "messages[%zu].role: unknown role", t->i_msg);
}

static void write_task(struct chat_prompt *p, const struct chat_options *o, const char *task)
{
    if (strcmp(task, "action") == 0) {
        put_control(p, TOKEN_ASSISTANT);
        put_control(p, o->thinking ? TOKEN_THINK : TOKEN_THINK_END);
    }
    char token[40];
    snprintf(token, sizeof token, "<｜%s｜>", task);
    put_control(p, token);
}

/* The header of the answer, where one follows: at the end, before an assistant turn and (as the reference has it) before
 * a reminder. */
static void write_transition(struct chat_prompt *p, const struct scene *s)
{
    const struct turn *t = &s->c->turns[s->i];
    if (s->i + 1 < s->c->n_turns && t[1].role != TURN_ASSISTANT && t[1].role != TURN_REMINDER)
        return;
    if (t->task != NULL) {
        write_task(p, s->o, t->task);
    } else if (t->role == TURN_USER || t->role == TURN_DEVELOPER) {
        bool is_open = s->o->thinking && (!s->c->drops_thinking || (ptrdiff_t)s->i >= s->c->i_last_user);
        put_control(p, TOKEN_ASSISTANT);
        if (MUTANT(25) && !is_open) /* an empty thinking block instead of the closing tag alone */
            put_control(p, TOKEN_THINK);
        put_control(p, is_open ? TOKEN_THINK : TOKEN_THINK_END);
    }
}

int chat_encode(struct chat_prompt *out, const json_t *messages, const json_t *tools, const json_t *response_format,
                const struct chat_options *o, struct err *e)
{
    struct conversation c;
    *out = (struct chat_prompt){0};
    int rc = conversation_init(&c, messages, tools, response_format, o, e);
    if (rc != HD_OK)
        return rc;
    if (!o->no_bos)
        put_control(out, TOKEN_BOS);
    if (o->thinking && c.n_turns != 0)
        put_str(out, effort_text(o));
    for (size_t i = 0; i < c.n_turns && rc == HD_OK; i++) {
        struct scene s = {&c, o, i};
        rc = write_turn(out, &s, e);
        if (rc == HD_OK)
            write_transition(out, &s);
    }
    conversation_free(&c);
    out->in_thinking = ends_with(out, TOKEN_THINK);
    if (rc != HD_OK)
        chat_prompt_free(out);
    return rc;
}

void chat_prompt_free(struct chat_prompt *p)
{
    buf_free(&p->text);
    free(p->spans);
    free(p->turns);
    *p = (struct chat_prompt){0};
}

bool chat_effort_parse(const char *name, enum chat_effort *out)
{
    static const struct {
        const char *name;
        enum chat_effort effort;
    } names[] = {
        {"none", EFFORT_NONE}, {"minimal", EFFORT_LOW}, {"low", EFFORT_LOW},  {"medium", EFFORT_HIGH},
        {"high", EFFORT_HIGH}, {"xhigh", EFFORT_HIGH},  {"max", EFFORT_MAX}, {"ultra", EFFORT_MAX},
    };
    for (size_t i = 0; i < COUNT_OF(names); i++) {
        if (strcmp(name, names[i].name) == 0) {
            *out = names[i].effort;
            return true;
        }
    }
    return false;
}
