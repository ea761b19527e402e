/* The dialect of text completions under /beta: raw text, or text to be filled into a gap. No chat format, no thinking. */
#include "serve/api.h"

#include <string.h>

enum { OUTPUT_TOKENS_MAX = 4096 }; /* the official limit, and the default */

/* ---------------------------------------------------------------- the prompt */

static int add_text(struct ids *ids, const json_t *text, const struct api_env *env, struct api_error *e)
{
    struct err why = {0};
    if (tokenizer_encode(env->tokenizer, json_string_value(text), json_string_length(text), false, ids, &why) != HD_OK)
        return api_fail(e, API_INTERNAL, "%s", why.msg);
    return 0;
}

static int add_control(struct ids *ids, const char *token, const struct api_env *env, struct api_error *e)
{
    int32_t id = tokenizer_id(env->tokenizer, token);
    if (id < 0)
        return api_fail(e, API_BAD, "suffix: this model's vocabulary has no tokens for filling in");
    ids_add(ids, id);
    return 0;
}

/* <begin of sentence> text, or <begin of sentence> <fim begin> text <fim hole> suffix <fim end>; the texts are only text. */
static int make_prompt(struct ids *ids, const json_t *prompt, const json_t *suffix, const struct api_env *env,
                       struct api_error *e)
{
    int32_t bos = tokenizer_id(env->tokenizer, "<\xef\xbd\x9c" "begin\xe2\x96\x81of\xe2\x96\x81sentence\xef\xbd\x9c>");
    if (bos >= 0)
        ids_add(ids, bos);
    if (suffix == NULL)
        return add_text(ids, prompt, env, e);
    if (add_control(ids, "<\xef\xbd\x9c" "fim\xe2\x96\x81" "begin\xef\xbd\x9c>", env, e) != 0 ||
        add_text(ids, prompt, env, e) != 0 ||
        add_control(ids, "<\xef\xbd\x9c" "fim\xe2\x96\x81hole\xef\xbd\x9c>", env, e) != 0 ||
        add_text(ids, suffix, env, e) != 0)
        return -1;
    return add_control(ids, "<\xef\xbd\x9c" "fim\xe2\x96\x81" "end\xef\xbd\x9c>", env, e);
}

static int read_prompt(struct api_req *q, const json_t *body, const struct api_env *env, struct api_error *e)
{
    const json_t *prompt = NULL, *suffix = NULL;
    struct ids ids = {0};
    bool repeats = false;
    if (field_text(body, "prompt", &prompt, e) != 0 || field_text(body, "suffix", &suffix, e) != 0 ||
        field_bool(body, "echo", &repeats, e) != 0)
        return -1;
    if (prompt == NULL)
        return field_missing(e, "", "prompt");
    if (repeats && suffix != NULL)
        return api_fail(e, API_BAD, "echo and suffix do not go together");
    if (repeats)
        q->echo = json_incref((json_t *)(uintptr_t)prompt);
    int rc = make_prompt(&ids, prompt, suffix, env, e);
    json_t *tokens = json_array();
    for (size_t i = 0; i < ids.n; i++)
        json_array_append_new(tokens, json_integer(ids.data[i]));
    json_object_set_new(q->gen, "tokens", tokens);
    ids_free(&ids);
    return rc;
}

/* ---------------------------------------------------------------- the rest of a request */

static int read_stream(struct api_req *q, const json_t *body, struct api_error *e)
{
    const json_t *o = field_get(body, "stream_options");
    if (field_bool(body, "stream", &q->stream, e) != 0)
        return -1;
    if (o != NULL && !json_is_object(o))
        return field_type_error(e, "stream_options", o, "struct StreamOptions");
    if (o != NULL && !q->stream)
        return api_fail(e, API_BAD, "stream_options should be set along with stream = true");
    return field_bool(o, "include_usage", &q->include_usage, e);
}

/* A number of alternatives; 0: the chosen tokens alone. */
static int read_logprobs(struct api_req *q, const json_t *body, struct api_error *e)
{
    int64_t n = 0;
    if (field_int(body, "logprobs", &n, &q->logprobs, e) != 0)
        return -1;
    if (n < 0 || n > TOP_LOGPROBS_MAX)
        return api_fail(e, API_BAD, "Invalid logprobs value, the valid range of logprobs is [0, %d]", TOP_LOGPROBS_MAX);
    if (q->logprobs && q->echo != NULL)
        return api_fail(e, API_BAD, "echo and logprobs do not go together: a prompt has no logprobs here");
    if (q->logprobs) {
        json_object_set_new(q->gen, "logprobs", json_true());
        json_object_set_new(q->gen, "top_logprobs", json_integer(n));
    }
    return 0;
}

static int read_max_tokens(struct api_req *q, const json_t *body, struct api_error *e)
{
    if (rules_max_tokens(q, body, "max_tokens", e) != 0)
        return -1;
    const json_t *n = json_object_get(q->gen, "max_tokens");
    if (n == NULL)
        json_object_set_new(q->gen, "max_tokens", json_integer(OUTPUT_TOKENS_MAX));
    else if (json_integer_value(n) > OUTPUT_TOKENS_MAX)
        return api_fail(e, API_BAD, "Invalid max_tokens value, the valid range of max_tokens is [1, %d]", OUTPUT_TOKENS_MAX);
    return 0;
}

static int completions_read(struct api_req *q, const json_t *body, const struct api_env *env, struct api_error *e)
{
    struct api_env free_env = *env; /* temperature and top_p mean here what they say */
    int64_t n = 1, best_of = 1;
    bool given;
    int think;
    free_env.free_sampling = true;
    q->gen = json_object();
    if (rules_model(body, env, &think, e) != 0 || read_prompt(q, body, env, e) != 0 || read_stream(q, body, e) != 0 ||
        field_int(body, "n", &n, &given, e) != 0 || field_int(body, "best_of", &best_of, &given, e) != 0 ||
        rules_penalties(body, e) != 0 || read_logprobs(q, body, e) != 0 ||
        rules_sampling(q, body, &free_env, e) != 0 || read_max_tokens(q, body, e) != 0 ||
        rules_stop(q, body, "stop", e) != 0 || field_extras(body, q, e) != 0)
        return -1;
    if (n != 1)
        return api_fail(e, API_BAD, "Invalid n value (currently only n = 1 is supported)");
    if (best_of != 1)
        return api_fail(e, API_BAD, "best_of is not supported: one completion is made");
    if (json_object_size(field_get(body, "logit_bias")) > 0)
        return api_fail(e, API_BAD, "logit_bias is not supported");
    return 0;
}

/* ---------------------------------------------------------------- the answer */

/* Characters that begin in a token: their bytes but those that go on with a character. */
static int64_t n_chars(const json_t *bytes)
{
    int64_t n = 0;
    size_t i;
    json_t *b;
    json_array_foreach((json_t *)(uintptr_t)bytes, i, b)
        n += (json_integer_value(b) & 0xC0) != 0x80;
    return n;
}

static void write_alternatives(const json_t *token, struct buf *out)
{
    size_t i;
    json_t *one;
    out_open(out, NULL, '{');
    json_array_foreach(json_object_get(token, "top_logprobs"), i, one)
        out_real(out, json_string_value(json_object_get(one, "token")), json_number_value(json_object_get(one, "logprob")));
    out_close(out, '}');
}

/* The older form of logprobs: one list for each kind of thing. Returns where the next token's text begins. */
static int64_t write_logprobs(const struct buf *tokens, int64_t offset, struct buf *out)
{
    struct buf text = {0};
    size_t i;
    json_t *token;
    buf_printf(&text, "[%s]", tokens != NULL && tokens->len > 0 ? tokens->data : "");
    json_t *list = json_load_exact(text.data, text.len, "tokens", false, NULL);
    out_open(out, "logprobs", '{');
    out_open(out, "tokens", '[');
    json_array_foreach(list, i, token)
        out_text(out, NULL, json_string_value(json_object_get(token, "token")),
                 json_string_length(json_object_get(token, "token")));
    out_close(out, ']');
    out_open(out, "token_logprobs", '[');
    json_array_foreach(list, i, token)
        out_real(out, NULL, json_number_value(json_object_get(token, "logprob")));
    out_close(out, ']');
    out_open(out, "top_logprobs", '[');
    json_array_foreach(list, i, token)
        write_alternatives(token, out);
    out_close(out, ']');
    out_open(out, "text_offset", '[');
    json_array_foreach(list, i, token) {
        out_int(out, NULL, offset);
        offset += n_chars(json_object_get(token, "bytes"));
    }
    buf_str(out, "]}");
    json_decref(list);
    buf_free(&text);
    return offset;
}

/* offset: of the text's first character; NULL: the beginning. */
static void write_body(const struct api_answer *a, const char *text, size_t n, bool ends, const struct buf *tokens,
                       int64_t *offset, struct buf *out)
{
    int64_t start = 0;
    offset = offset != NULL ? offset : &start;
    out_open(out, NULL, '{');
    out_str(out, "id", a->id);
    out_str(out, "object", "text_completion");
    out_int(out, "created", a->created);
    out_str(out, "model", a->env->model);
    out_str(out, "system_fingerprint", a->env->fingerprint);
    out_open(out, "choices", '[');
    out_open(out, NULL, '{');
    out_text(out, "text", text, n);
    out_int(out, "index", 0);
    if (a->req->logprobs)
        *offset = write_logprobs(tokens, *offset, out);
    else
        out_null(out, "logprobs");
    if (ends)
        out_str(out, "finish_reason", a->finish == FINISH_STOP ? "stop" : a->finish == FINISH_LENGTH ? "length" : "aborted");
    else
        out_null(out, "finish_reason");
    buf_str(out, "}]");
    if (ends)
        form_usage(a, out);
    else if (a->req->include_usage)
        out_null(out, "usage");
    out_close(out, '}');
}

static void completions_whole(const struct api_answer *a, struct buf *out)
{
    struct buf text = {0};
    if (a->req->echo != NULL)
        buf_add(&text, json_string_value(a->req->echo), json_string_length(a->req->echo));
    api_answer_text(a, PART_TEXT, &text);
    write_body(a, text.data, text.len, true, &a->tokens[0], NULL, out);
    buf_free(&text);
}

static void completions_event(struct api_answer *a, const struct api_event *ev, struct buf *out)
{
    const json_t *echo = ev->kind == API_BEGIN ? a->req->echo : NULL;
    struct buf one = {0};
    if (ev->kind == API_BEGIN && echo == NULL)
        return;
    if (echo != NULL)
        write_body(a, json_string_value(echo), json_string_length(echo), false, NULL, &a->sequence, &one);
    else
        write_body(a, ev->text, ev->n, ev->kind == API_END, ev->kind == API_END ? &a->tokens[0] : ev->tokens, &a->sequence,
                   &one);
    buf_str(out, "data: ");
    buf_add(out, one.data, one.len);
    buf_str(out, ev->kind == API_END ? "\n\ndata: [DONE]\n\n" : "\n\n");
    buf_free(&one);
}

const struct dialect dialect_completions = {
    .name = "completions",
    .read = completions_read,
    .make_id = form_id,
    .event = completions_event,
    .whole = completions_whole,
    .status = form_status,
    .error = form_error,
    .error_event = form_error_event,
    .ping = ": keep-alive\n\n",
    .knows_aborted = true,
};
