/* The list of models, in the shape that each kind of client reads. */
#include "serve/server.h"

#include <string.h>
#include <time.h>

enum { OUTPUT_TOKENS_MAX = 393216 };

static int64_t output_max(const struct api_env *env)
{
    return env->context_tokens > 0 && env->context_tokens < OUTPUT_TOKENS_MAX ? env->context_tokens : OUTPUT_TOKENS_MAX;
}

static void write_list(struct buf *out, const char *key, const char *text)
{
    out_open(out, key, '[');
    out_str(out, NULL, text);
    out_close(out, ']');
}

/* The official form. */
static void write_model(struct buf *out, const struct api_env *env)
{
    out_open(out, NULL, '{');
    out_str(out, "id", env->model);
    out_str(out, "object", "model");
    out_int(out, "created", env->created);
    out_str(out, "owned_by", "deepseek");
    out_str(out, "name", env->model);
    out_int(out, "context_window", env->context_tokens);
    out_int(out, "max_output_tokens", output_max(env));
    write_list(out, "input_modalities", "text");
    write_list(out, "output_modalities", "text");
    buf_str(out, ",\"effort\":{\"supported_levels\":[\"low\",\"high\",\"max\"],\"default_level\":\"high\"}");
    buf_str(out, ",\"api_capabilities\":{\"anthropic_messages\":{\"system_prompt_update\":\"in-history\"}}}");
}

void models_run(struct exchange *x)
{
    out_open(&x->out, NULL, '{');
    out_str(&x->out, "object", "list");
    out_open(&x->out, "data", '[');
    write_model(&x->out, &x->server->env);
    buf_str(&x->out, "]}");
    exchange_reply_json(x);
}

void models_one_run(struct exchange *x)
{
    int think;
    if (!api_model_known(&x->server->env, x->rest, &think)) {
        struct api_error e = {0};
        api_fail(&e, API_NOT_FOUND, "Model Not Exist");
        exchange_fail(x, &e);
        return;
    }
    write_model(&x->out, &x->server->env);
    exchange_reply_json(x);
}
