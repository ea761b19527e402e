/* Requests: JSON in the form of the chat API to prompt tokens and generation parameters. One row of the table a field. */
#include "engine/engine.h"

#include <assert.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

struct reading {
    struct gen_request *r;
    const struct request_env *env;
    struct err *e;
    const json_t *messages, *prompt, *tokens, *tools, *allowed, *response_format; /* borrowed */
    struct grammar_spec form;
    struct chat_options chat;
    bool has_max_tokens, has_seed, thinking_off, tools_off, match_added;
    const char *chat_field; /* a field was given that goes with messages only */
};

static int refuse(struct reading *p, const char *field, const char *expected)
{
    return err_set(p->e, HD_EARG, "request field '%s' must be %s", field, expected);
}

/* ---------------------------------------------------------------- values */

/* A number too large for a C number is a string for jansson (json_load_exact); it is no text here. */
static bool is_text(const json_t *v)
{
    return json_is_string(v) && json_exact_number(v) == NULL;
}

/* A text that becomes a C string: no NUL in it. */
static bool is_c_text(const json_t *v, size_t bytes_max)
{
    return is_text(v) && json_string_length(v) <= bytes_max && strlen(json_string_value(v)) == json_string_length(v);
}

static int read_bool(struct reading *p, const char *field, const json_t *v, bool *out)
{
    if (!json_is_boolean(v))
        return refuse(p, field, "true or false");
    *out = json_is_true(v);
    return HD_OK;
}

static int read_int(struct reading *p, const char *field, const json_t *v, int64_t min, int64_t max, int64_t *out)
{
    if (!json_is_integer(v) || json_integer_value(v) < min || json_integer_value(v) > max)
        return err_set(p->e, HD_EARG, "request field '%s' must be an integer from %" PRId64 " to %" PRId64, field, min,
                       max);
    *out = json_integer_value(v);
    return HD_OK;
}

static int read_number(struct reading *p, const char *field, const json_t *v, double *out)
{
    if (!json_is_number(v))
        return refuse(p, field, "a number");
    *out = json_number_value(v);
    return HD_OK;
}

/* ---------------------------------------------------------------- fields */

static int on_messages(struct reading *p, const json_t *v)
{
    p->messages = v;
    return json_is_array(v) && json_array_size(v) > 0 ? HD_OK : refuse(p, "messages", "an array that is not empty");
}

static int on_prompt(struct reading *p, const json_t *v)
{
    p->prompt = v;
    return is_text(v) ? HD_OK : refuse(p, "prompt", "a text");
}

static int on_tokens(struct reading *p, const json_t *v)
{
    p->tokens = v;
    return json_is_array(v) ? HD_OK : refuse(p, "tokens", "an array of token ids");
}

static int on_tools(struct reading *p, const json_t *v)
{
    p->tools = v;
    return json_is_array(v) ? HD_OK : refuse(p, "tools", "an array");
}

/* The prompt shows all tools, so that what is kept of it serves; the grammar has these alone. */
static int on_allowed_tools(struct reading *p, const json_t *v)
{
    const char *mode = json_string_value(json_object_get(v, "mode"));
    p->allowed = json_object_get(v, "tools");
    p->form.limited = true;
    p->form.must_call = mode != NULL && strcmp(mode, "required") == 0;
    if (json_array_size(p->allowed) == 0 || mode == NULL || (!p->form.must_call && strcmp(mode, "auto") != 0))
        return refuse(p, "tool_choice.allowed_tools", "a mode, auto or required, and a list of tools");
    return HD_OK;
}

static int on_tool_choice(struct reading *p, const json_t *v)
{
    const char *s = json_string_value(v);
    if (json_object_get(v, "allowed_tools") != NULL)
        return on_allowed_tools(p, json_object_get(v, "allowed_tools"));
    const json_t *name = json_object_get(json_object_get(v, "function"), "name");
    p->tools_off = s != NULL && strcmp(s, "none") == 0;
    p->form.must_call = s != NULL && strcmp(s, "required") == 0;
    p->form.forced = json_string_value(name);
    if (!p->tools_off && !p->form.must_call && p->form.forced == NULL && (s == NULL || strcmp(s, "auto") != 0))
        return refuse(p, "tool_choice", "\"auto\", \"none\", \"required\" or a named function");
    return HD_OK;
}

static int on_parallel_tool_calls(struct reading *p, const json_t *v)
{
    bool parallel = true;
    int rc = read_bool(p, "parallel_tool_calls", v, &parallel);
    p->form.one_call = !parallel;
    return rc;
}

static int on_response_format(struct reading *p, const json_t *v)
{
    const char *type = json_string_value(json_object_get(v, "type"));
    p->form.json_object = type != NULL && strcmp(type, "json_object") == 0;
    if (type != NULL && strcmp(type, "json_schema") == 0)
        p->form.schema = json_object_get(json_object_get(v, "json_schema"), "schema");
    if (type == NULL || (strcmp(type, "text") != 0 && !p->form.json_object && p->form.schema == NULL))
        return refuse(p, "response_format", "of type text, json_object, or json_schema with a json_schema.schema");
    p->response_format = strcmp(type, "text") == 0 ? NULL : v;
    return HD_OK;
}

static int on_thinking(struct reading *p, const json_t *v)
{
    const char *type = json_string_value(json_object_get(v, "type"));
    if (type == NULL || (strcmp(type, "enabled") != 0 && strcmp(type, "disabled") != 0))
        return refuse(p, "thinking", "{\"type\": \"enabled\"} or {\"type\": \"disabled\"}");
    p->thinking_off = strcmp(type, "disabled") == 0;
    return HD_OK;
}

static int on_reasoning_effort(struct reading *p, const json_t *v)
{
    if (!is_text(v) || !chat_effort_parse(json_string_value(v), &p->chat.effort))
        return refuse(p, "reasoning_effort", "one of none, low, high, max");
    return HD_OK;
}

static int on_max_tokens(struct reading *p, const json_t *v)
{
    p->has_max_tokens = true;
    return read_int(p, "max_tokens", v, 1, INT64_MAX, &p->r->params.max_tokens);
}

static int on_temperature(struct reading *p, const json_t *v)
{
    return read_number(p, "temperature", v, &p->r->params.sampling.temperature);
}

static int on_top_p(struct reading *p, const json_t *v)
{
    return read_number(p, "top_p", v, &p->r->params.sampling.top_p);
}

static int on_min_p(struct reading *p, const json_t *v)
{
    return read_number(p, "min_p", v, &p->r->params.sampling.min_p);
}

static int on_top_k(struct reading *p, const json_t *v)
{
    int64_t k = 0;
    int rc = read_int(p, "top_k", v, 0, INT32_MAX, &k);
    p->r->params.sampling.top_k = (int)k;
    return rc;
}

static int on_seed(struct reading *p, const json_t *v)
{
    if (!json_is_integer(v)) /* the bits count: negative seeds are seeds too */
        return refuse(p, "seed", "an integer of 64 bits");
    p->r->params.sampling.seed = (uint64_t)json_integer_value(v);
    p->has_seed = true;
    return HD_OK;
}

static int add_stop(struct reading *p, const json_t *v)
{
    if (!is_c_text(v, STOP_BYTES_MAX) || json_string_length(v) == 0)
        return refuse(p, "stop", "a text or an array of texts of 1 to 4096 bytes");
    p->r->params.stop[p->r->params.n_stop++] = xstrdup(json_string_value(v));
    return HD_OK;
}

static int on_stop(struct reading *p, const json_t *v)
{
    size_t n = json_is_array(v) ? json_array_size(v) : 1;
    if (n > STOP_STRINGS_MAX)
        return refuse(p, "stop", "at most 16 texts");
    p->r->params.stop = xcalloc(n, sizeof *p->r->params.stop);
    if (!json_is_array(v))
        return add_stop(p, v);
    for (size_t i = 0; i < n; i++) {
        int rc = add_stop(p, json_array_get(v, i));
        if (rc != HD_OK)
            return rc;
    }
    return HD_OK;
}

static int on_logprobs(struct reading *p, const json_t *v)
{
    return read_bool(p, "logprobs", v, &p->r->params.logprobs);
}

static int on_top_logprobs(struct reading *p, const json_t *v)
{
    int64_t n = 0;
    int rc = read_int(p, "top_logprobs", v, 0, TOP_LOGPROBS_MAX, &n);
    p->r->params.n_top_logprobs = (int)n;
    return rc;
}

static char *user_of(const struct request_env *env, const char *id)
{
    return xasprintf("%s%s", env->user_scope != NULL ? env->user_scope : "", id);
}

static int on_user_id(struct reading *p, const json_t *v)
{
    if (!is_c_text(v, 512))
        return refuse(p, "user_id", "a text of at most 512 bytes");
    free(p->r->user);
    p->r->user = user_of(p->env, json_string_value(v));
    return HD_OK;
}

static int on_profile(struct reading *p, const json_t *v)
{
    const char *s = json_string_value(v);
    if (s == NULL || (strcmp(s, "preview") != 0 && strcmp(s, "official") != 0))
        return refuse(p, "profile", "\"preview\" or \"official\"");
    p->chat.profile = strcmp(s, "official") == 0 ? CHAT_OFFICIAL : CHAT_PREVIEW;
    return HD_OK;
}

static int on_keep_thinking(struct reading *p, const json_t *v)
{
    return read_bool(p, "keep_thinking", v, &p->chat.keep_thinking);
}

static int on_match_added_tokens(struct reading *p, const json_t *v)
{
    return read_bool(p, "match_added_tokens", v, &p->match_added);
}

static int on_priority(struct reading *p, const json_t *v)
{
    int64_t n = 0;
    int rc = read_int(p, "priority", v, -100, 100, &n);
    p->r->priority = (int)n;
    return rc;
}

static int on_timeout_ms(struct reading *p, const json_t *v)
{
    int64_t ms = 0;
    int rc = read_int(p, "timeout_ms", v, 1, INT32_MAX, &ms);
    p->r->deadline_ns = now_ns() + (uint64_t)ms * UINT64_C(1000000);
    return rc;
}

static const struct field {
    const char *name;
    int (*read)(struct reading *p, const json_t *v);
    bool chat_only; /* means something with messages only */
} fields[] = {
    {"messages", on_messages, false},
    {"prompt", on_prompt, false},
    {"tokens", on_tokens, false},
    {"tools", on_tools, true},
    {"tool_choice", on_tool_choice, true},
    {"parallel_tool_calls", on_parallel_tool_calls, true},
    {"response_format", on_response_format, true},
    {"thinking", on_thinking, true},
    {"reasoning_effort", on_reasoning_effort, true},
    {"max_tokens", on_max_tokens, false},
    {"temperature", on_temperature, false},
    {"top_p", on_top_p, false},
    {"top_k", on_top_k, false},
    {"min_p", on_min_p, false},
    {"seed", on_seed, false},
    {"stop", on_stop, false},
    {"logprobs", on_logprobs, false},
    {"top_logprobs", on_top_logprobs, false},
    {"user_id", on_user_id, false},
    {"profile", on_profile, true},
    {"keep_thinking", on_keep_thinking, true},
    {"match_added_tokens", on_match_added_tokens, false},
    {"priority", on_priority, false},
    {"timeout_ms", on_timeout_ms, false},
};

static int read_fields(struct reading *p, const json_t *body)
{
    const char *key;
    json_t *v;
    json_object_foreach((json_t *)(uintptr_t)body, key, v) {
        size_t i = 0;
        while (i < COUNT_OF(fields) && strcmp(key, fields[i].name) != 0)
            i++;
        if (i == COUNT_OF(fields))
            return err_set(p->e, HD_EARG, "request field '%s' is not known", key);
        if (json_is_null(v)) /* means not given */
            continue;
        int rc = fields[i].read(p, v);
        if (rc != HD_OK)
            return rc;
        if (fields[i].chat_only)
            p->chat_field = fields[i].name;
    }
    if ((p->messages != NULL) + (p->prompt != NULL) + (p->tokens != NULL) != 1)
        return err_set(p->e, HD_EARG, "a request needs one of the fields 'messages', 'prompt' and 'tokens'");
    if (p->r->params.n_top_logprobs > 0 && !p->r->params.logprobs)
        return refuse(p, "logprobs", "true when top_logprobs is given");
    return sampling_check(&p->r->params.sampling, p->e);
}

/* ---------------------------------------------------------------- the prompt */

/* A token is at least a byte. What is never written costs no memory. */
static int reserve_tokens(struct reading *p, size_t n)
{
    if (ids_try_reserve(&p->r->prompt, n))
        return HD_OK;
    return err_set(p->e, HD_ENOMEM, "no memory for up to %zu tokens of the prompt", n);
}

static int prompt_of_messages(struct reading *p)
{
    struct chat_prompt prompt = {0};
    p->chat.thinking = !p->thinking_off && p->chat.effort != EFFORT_NONE;
    int rc = chat_encode(&prompt, p->messages, p->tools_off ? NULL : p->tools, p->response_format, &p->chat, p->e);
    if (rc == HD_OK)
        rc = reserve_tokens(p, prompt.text.len);
    if (rc == HD_OK && p->env->replay != NULL && !p->match_added)
        rc = replay_tokens(p->env->replay, p->r->user, &prompt, p->env->tokenizer, &p->r->prompt, p->e);
    else if (rc == HD_OK)
        rc = chat_tokens(&prompt, p->env->tokenizer, p->match_added, &p->r->prompt, p->e);
    chat_prompt_free(&prompt);
    return rc;
}

static int prompt_of_tokens(struct reading *p)
{
    size_t i;
    json_t *v;
    if (reserve_tokens(p, json_array_size(p->tokens)) != HD_OK)
        return p->e->code;
    json_array_foreach((json_t *)(uintptr_t)p->tokens, i, v) {
        if (!json_is_integer(v) || json_integer_value(v) < 0 || json_integer_value(v) >= p->env->n_vocab)
            return err_set(p->e, HD_EARG, "tokens[%zu] is not an id from 0 to %d", i, p->env->n_vocab - 1);
        ids_add(&p->r->prompt, (int32_t)json_integer_value(v));
    }
    return HD_OK;
}

static int read_prompt(struct reading *p)
{
    if (p->messages != NULL)
        return prompt_of_messages(p);
    p->r->params.raw = true;
    if (p->chat_field != NULL) /* it would be ignored */
        return err_set(p->e, HD_EARG, "request field '%s' goes with 'messages' only", p->chat_field);
    if (p->tokens != NULL && p->match_added)
        return err_set(p->e, HD_EARG, "request field 'match_added_tokens' goes with text only");
    if (p->tokens != NULL)
        return prompt_of_tokens(p);
    return tokenizer_encode(p->env->tokenizer, json_string_value(p->prompt), json_string_length(p->prompt),
                            p->match_added, &p->r->prompt, p->e);
}

/* The reply begins inside the thinking part when <think> is the last of the two tags in the prompt. */
static bool ends_in_thinking(const struct tokenizer *t, const struct ids *prompt)
{
    int32_t begin = tokenizer_id(t, "<think>"), end = tokenizer_id(t, "</think>");
    for (size_t i = prompt->n; begin >= 0 && i-- > 0;) {
        if (prompt->data[i] == begin)
            return true;
        if (prompt->data[i] == end)
            return false;
    }
    return false;
}

static bool has_tool(const json_t *tools, const char *name)
{
    size_t i;
    json_t *tool;
    json_array_foreach((json_t *)(uintptr_t)tools, i, tool) {
        const char *s = json_string_value(json_object_get(json_object_get(tool, "function"), "name"));
        if (s != NULL && strcmp(s, name) == 0)
            return true;
    }
    return false;
}

/* The tools that may be called, in the order of the request; NULL: one of them is no tool. */
static json_t *allowed_tools(const struct reading *p)
{
    size_t i;
    json_t *tool, *list = json_array();
    json_array_foreach((json_t *)(uintptr_t)p->tools, i, tool) {
        const char *s = json_string_value(json_object_get(json_object_get(tool, "function"), "name"));
        if (s != NULL && has_tool(p->allowed, s))
            json_array_append(list, tool);
    }
    if (json_array_size(list) == json_array_size(p->allowed))
        return list;
    json_decref(list);
    return NULL;
}

static int take_grammar(struct reading *p)
{
    struct grammar_spec *f = &p->form;
    if ((f->must_call || f->forced != NULL) && f->tools == NULL)
        return refuse(p, "tool_choice", "auto or none when there are no tools");
    if (f->forced != NULL && !has_tool(f->tools, f->forced))
        return refuse(p, "tool_choice", "the name of one of the tools");
    if (!grammar_is_needed(f))
        return HD_OK;
    if (p->env->grammars == NULL)
        return err_set(p->e, HD_EUNSUPPORTED, "this program cannot enforce the form of a reply");
    return grammar_take(p->env->grammars, f, &p->r->params.grammar, p->e);
}

/* The grammar of what the request asks of its reply. */
static int read_form(struct reading *p)
{
    struct grammar_spec *f = &p->form;
    f->tools = p->tools_off || json_array_size(p->tools) == 0 ? NULL : p->tools;
    if (!f->limited)
        return take_grammar(p);
    json_t *some = allowed_tools(p);
    f->tools = some;
    int rc = some == NULL ? refuse(p, "tool_choice.allowed_tools", "names of the tools, each once") : take_grammar(p);
    json_decref(some);
    f->tools = NULL;
    return rc;
}

static int64_t default_max_tokens(const struct reading *p)
{
    if (p->messages == NULL || !p->chat.thinking)
        return 8192;
    return p->chat.effort == EFFORT_MAX ? 131072 : 65536;
}

static int fit_context(struct reading *p)
{
    int64_t room = p->env->context_tokens - (int64_t)p->r->prompt.n;
    if (p->r->prompt.n == 0)
        return err_set(p->e, HD_EARG, "the prompt has no tokens");
    if (room < 1)
        return err_set(p->e, HD_EARG, "the prompt has %zu tokens; the context of %" PRId64 " leaves no room for a reply",
                       p->r->prompt.n, p->env->context_tokens);
    if (!p->has_max_tokens)
        p->r->params.max_tokens = default_max_tokens(p);
    if (p->r->params.max_tokens > room)
        p->r->params.max_tokens = room;
    return HD_OK;
}

static int draw_seed(uint64_t *seed, struct err *e)
{
    if (getrandom(seed, sizeof *seed, 0) != (ssize_t)sizeof *seed)
        return err_set(e, HD_EIO, "the operating system gave no random seed");
    *seed &= ((uint64_t)1 << 53) - 1; /* a JSON number that every client reads exactly */
    return HD_OK;
}

int request_parse(struct gen_request *r, const json_t *body, const struct request_env *env, struct err *e)
{
    *r = (struct gen_request){.params.sampling = env->defaults, .user = user_of(env, "")};
    struct reading p = {.r = r, .env = env, .e = e, .chat = {.effort = EFFORT_HIGH, .profile = env->profile}};
    int rc = json_is_object(body) ? read_fields(&p, body) : err_set(e, HD_EARG, "a request must be a JSON object");
    if (rc == HD_OK)
        rc = read_prompt(&p);
    if (rc == HD_OK)
        rc = read_form(&p);
    if (rc == HD_OK)
        rc = fit_context(&p);
    if (rc == HD_OK && !p.has_seed)
        rc = draw_seed(&r->params.sampling.seed, e);
    if (rc != HD_OK) {
        gen_request_free(r);
        return rc;
    }
    r->params.in_thinking = !r->params.raw && ends_in_thinking(env->tokenizer, &r->prompt);
    return HD_OK;
}

void gen_request_free(struct gen_request *r)
{
    ids_free(&r->prompt);
    for (int i = 0; i < r->params.n_stop; i++)
        free(r->params.stop[i]);
    free(r->params.stop);
    grammar_release(&r->params.grammar);
    free(r->user);
    *r = (struct gen_request){0};
}
