/* POST /tokenize and /detokenize: text to ids and back, in the shapes of llama.cpp's and vLLM's servers. */
#include "serve/server.h"

static const struct tokenizer *tokenizer_of(const struct exchange *x)
{
    return engine_env(atomic_load(&x->server->engine))->tokenizer;
}

/* The rest happens in a worker. */
static void give(struct exchange *x, void (*work)(struct exchange *x))
{
    struct api_error e = {0};
    if (exchange_ready(x, &e))
        exchange_work(x, work);
    else
        exchange_fail(x, &e);
}

static void write_ids(struct buf *out, const struct ids *ids)
{
    out_open(out, NULL, '{');
    out_open(out, "tokens", '[');
    for (size_t i = 0; i < ids->n; i++)
        out_int(out, NULL, ids->data[i]);
    out_close(out, ']');
    out_int(out, "count", (int64_t)ids->n);
    out_close(out, '}');
}

/* The text of "content" (llama.cpp) or "prompt" (vLLM); parse_special: control tokens in it become themselves. */
static int text_to_ids(struct exchange *x, const struct tokenizer *t, const json_t *body, struct ids *ids,
                       struct api_error *e)
{
    const json_t *text = NULL;
    bool special = false;
    struct err why = {0};
    if (field_text(body, "content", &text, e) != 0 ||
        (text == NULL && field_text(body, "prompt", &text, e) != 0) ||
        field_bool(body, "parse_special", &special, e) != 0)
        return -1;
    if (text == NULL)
        return field_missing(e, "", "content");
    if (tokenizer_encode(t, json_string_value(text), json_string_length(text), special, ids, &why) != HD_OK)
        return api_fail(e, API_INTERNAL, "%s", why.msg);
    write_ids(&x->out, ids);
    return 0;
}

/* With "messages" the ids of the prompt that a chat request becomes. */
static int chat_to_ids(struct exchange *x, const json_t *body, struct api_error *e)
{
    struct gen_request g = {0};
    if (!exchange_read(x, body, &g, true, e))
        return -1;
    write_ids(&x->out, &g.prompt);
    gen_request_free(&g);
    return 0;
}

static void tokenize(struct exchange *x)
{
    struct api_error e = {0};
    struct ids ids = {0};
    const struct tokenizer *t = tokenizer_of(x);
    json_t *body = exchange_json(x, &e);
    if (body != NULL && field_get(body, "messages") != NULL)
        chat_to_ids(x, body, &e);
    else if (body != NULL)
        text_to_ids(x, t, body, &ids, &e);
    json_decref(body);
    ids_free(&ids);
    if (e.kind != API_FINE)
        exchange_fail(x, &e);
    else
        exchange_reply_json(x);
}

static int read_ids(const json_t *body, int n_vocab, struct ids *ids, struct api_error *e)
{
    const json_t *list = field_get(body, "tokens"), *v;
    size_t i;
    if (list == NULL)
        return field_missing(e, "", "tokens");
    if (!json_is_array(list))
        return field_type_error(e, "tokens", list, "a sequence");
    json_array_foreach((json_t *)(uintptr_t)list, i, v) {
        if (!json_is_integer(v) || json_integer_value(v) < 0 || json_integer_value(v) >= n_vocab)
            return api_fail(e, API_BAD, "tokens[%zu] is not an id from 0 to %d", i, n_vocab - 1);
        ids_add(ids, (int32_t)json_integer_value(v));
    }
    return 0;
}

static void detokenize(struct exchange *x)
{
    struct api_error e = {0};
    struct ids ids = {0};
    struct buf bytes = {0}, text = {0};
    struct utf8_stream utf8 = {0};
    const struct tokenizer *t = tokenizer_of(x);
    json_t *body = exchange_json(x, &e);
    if (body != NULL && read_ids(body, tokenizer_n_vocab(t), &ids, &e) == 0) {
        tokenizer_decode(t, ids.data, ids.n, false, &bytes);
        utf8_stream_add(&utf8, bytes.len > 0 ? bytes.data : "", bytes.len, &text);
        utf8_stream_flush(&utf8, &text);
        out_open(&x->out, NULL, '{');
        out_text(&x->out, "content", text.data, text.len);
        out_text(&x->out, "prompt", text.data, text.len);
        out_close(&x->out, '}');
    }
    json_decref(body);
    ids_free(&ids);
    buf_free(&bytes);
    buf_free(&text);
    if (e.kind != API_FINE)
        exchange_fail(x, &e);
    else
        exchange_reply_json(x);
}

void tokenize_run(struct exchange *x)
{
    give(x, tokenize);
}

void detokenize_run(struct exchange *x)
{
    give(x, detokenize);
}
