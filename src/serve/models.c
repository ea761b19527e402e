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

/* 2026-11-25T00:00:00Z */
static void write_date(struct buf *out, const char *key, int64_t seconds)
{
    char text[32];
    time_t t = (time_t)seconds;
    struct tm tm;
    strftime(text, sizeof text, "%Y-%m-%dT%H:%M:%SZ", gmtime_r(&t, &tm));
    out_str(out, key, text);
}

/* Anthropic's form. */
static void write_anthropic_model(struct buf *out, const struct api_env *env)
{
    out_open(out, NULL, '{');
    out_str(out, "type", "model");
    out_str(out, "id", env->model);
    out_str(out, "display_name", env->model);
    write_date(out, "created_at", env->created);
    out_int(out, "max_input_tokens", env->context_tokens);
    out_int(out, "max_tokens", output_max(env));
    out_close(out, '}');
}

static void write_anthropic_list(struct buf *out, const struct api_env *env)
{
    out_open(out, NULL, '{');
    out_open(out, "data", '[');
    write_anthropic_model(out, env);
    out_close(out, ']');
    out_bool(out, "has_more", false);
    out_str(out, "first_id", env->model);
    out_str(out, "last_id", env->model);
    out_close(out, '}');
}

/* What Codex asks for, beside the list of the others. */
static void write_codex(struct buf *out, const struct api_env *env)
{
    out_open(out, "models", '[');
    out_open(out, NULL, '{');
    out_str(out, "slug", env->model);
    out_str(out, "display_name", env->model);
    out_str(out, "description", env->model);
    out_str(out, "default_reasoning_level", "high");
    buf_str(out, ",\"supported_reasoning_levels\":[{\"effort\":\"low\",\"description\":\"low\"},"
                 "{\"effort\":\"high\",\"description\":\"high\"},{\"effort\":\"max\",\"description\":\"max\"}]");
    out_str(out, "shell_type", "shell_command");
    out_str(out, "visibility", "list");
    out_str(out, "minimal_client_version", "0.0.1");
    out_bool(out, "supported_in_api", true);
    out_int(out, "priority", 0);
    out_null(out, "upgrade");
    out_str(out, "base_instructions", "");
    out_bool(out, "supports_reasoning_summaries", false);
    out_bool(out, "support_verbosity", false);
    out_null(out, "default_verbosity");
    out_null(out, "apply_patch_tool_type");
    buf_str(out, ",\"truncation_policy\":{\"mode\":\"bytes\",\"limit\":10000}");
    out_bool(out, "supports_parallel_tool_calls", true);
    out_int(out, "context_window", env->context_tokens);
    buf_str(out, ",\"experimental_supported_tools\":[]}]");
}

static bool is_for_anthropic(const struct exchange *x)
{
    return x->route->dialect == &dialect_anthropic || http_header(x, "anthropic-version") != NULL;
}

void models_run(struct exchange *x)
{
    if (is_for_anthropic(x)) {
        write_anthropic_list(&x->out, &x->server->env);
        exchange_reply_json(x);
        return;
    }
    out_open(&x->out, NULL, '{');
    out_str(&x->out, "object", "list");
    out_open(&x->out, "data", '[');
    write_model(&x->out, &x->server->env);
    out_close(&x->out, ']');
    if (http_argument(x, "client_version") != NULL)
        write_codex(&x->out, &x->server->env);
    out_close(&x->out, '}');
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
    (is_for_anthropic(x) ? write_anthropic_model : write_model)(&x->out, &x->server->env);
    exchange_reply_json(x);
}
