/* Which path means what. Paths are tried in order; a path in the table with another method is 405, any other 404. */
#include "serve/server.h"

#include <string.h>

static void health_run(struct exchange *x)
{
    struct server *s = x->server;
    bool ready = atomic_load(&s->engine) != NULL && !s->closing;
    out_open(&x->out, NULL, '{');
    out_str(&x->out, "status", s->closing ? "shutting down" : ready ? "ok" : "loading");
    if (!ready && !s->closing)
        out_real(&x->out, "progress", atomic_load(&s->loading_permille) / 1000.0);
    out_close(&x->out, '}');
    x->status = ready ? 200 : 503;
    exchange_reply_json(x);
}

static void completions_outside_beta_run(struct exchange *x)
{
    struct api_error e = {0};
    api_fail(&e, API_BAD, "completions api is only available when using beta api (set "
             "base_url=\"https://api.deepseek.com/beta\")");
    exchange_fail(x, &e);
}

static void files_run(struct exchange *x)
{
    struct api_error e = {0};
    api_fail(&e, API_NOT_FOUND, "Files are not supported: this model reads text only.");
    exchange_fail(x, &e);
}

static void stored_responses_run(struct exchange *x)
{
    struct api_error e = {0};
    api_fail(&e, API_NOT_FOUND, "Responses are neither stored nor compacted here: send the full history to /responses.");
    exchange_fail(x, &e);
}

static const struct route routes[] = {
    {METHOD_GET, "/health", &dialect_deepseek, health_run, true},
    {METHOD_GET, "/metrics", &dialect_deepseek, metrics_run, false},
    {METHOD_GET, "/user/balance", &dialect_deepseek, balance_run, false},
    {METHOD_GET, "/v1/user/balance", &dialect_deepseek, balance_run, false},
    {METHOD_GET, "/beta/user/balance", &dialect_deepseek, balance_run, false},
    {METHOD_POST, "/tokenize", &dialect_deepseek, tokenize_run, false},
    {METHOD_POST, "/detokenize", &dialect_deepseek, detokenize_run, false},
    {METHOD_POST, "/chat/completions", &dialect_deepseek, exchange_generate, false},
    {METHOD_POST, "/v1/chat/completions", &dialect_deepseek, exchange_generate, false},
    {METHOD_POST, "/beta/chat/completions", &dialect_deepseek, exchange_generate, false},
    {METHOD_POST, "/beta/v1/chat/completions", &dialect_deepseek, exchange_generate, false},
    {METHOD_POST, "/completions", &dialect_deepseek, completions_outside_beta_run, false},
    {METHOD_POST, "/v1/completions", &dialect_deepseek, completions_outside_beta_run, false},
    {METHOD_POST, "/beta/completions", &dialect_completions, exchange_generate, false},
    {METHOD_POST, "/beta/v1/completions", &dialect_completions, exchange_generate, false},
    {METHOD_GET, "/models", &dialect_deepseek, models_run, false},
    {METHOD_GET, "/v1/models", &dialect_deepseek, models_run, false},
    {METHOD_GET, "/beta/models", &dialect_deepseek, models_run, false},
    {METHOD_GET, "/models/*", &dialect_deepseek, models_one_run, false},
    {METHOD_GET, "/v1/models/*", &dialect_deepseek, models_one_run, false},
    {METHOD_GET, "/beta/models/*", &dialect_deepseek, models_one_run, false},
    {METHOD_POST, "/v1/messages", &dialect_anthropic, exchange_generate, false},
    {METHOD_POST, "/anthropic/messages", &dialect_anthropic, exchange_generate, false},
    {METHOD_POST, "/anthropic/v1/messages", &dialect_anthropic, exchange_generate, false},
    {METHOD_POST, "/v1/messages/count_tokens", &dialect_anthropic, exchange_count, false},
    {METHOD_POST, "/anthropic/messages/count_tokens", &dialect_anthropic, exchange_count, false},
    {METHOD_POST, "/anthropic/v1/messages/count_tokens", &dialect_anthropic, exchange_count, false},
    {METHOD_GET, "/anthropic/v1/models", &dialect_anthropic, models_run, false},
    {METHOD_GET, "/anthropic/v1/models/*", &dialect_anthropic, models_one_run, false},
    {METHOD_POST, "/responses", &dialect_responses, exchange_generate, false},
    {METHOD_POST, "/v1/responses", &dialect_responses, exchange_generate, false},
    {METHOD_ANY, "/files", &dialect_deepseek, files_run, false},
    {METHOD_ANY, "/files/*", &dialect_deepseek, files_run, false},
    {METHOD_ANY, "/v1/files", &dialect_deepseek, files_run, false},
    {METHOD_ANY, "/v1/files/*", &dialect_deepseek, files_run, false},
    {METHOD_ANY, "/anthropic/v1/files", &dialect_anthropic, files_run, false},
    {METHOD_ANY, "/anthropic/v1/files/*", &dialect_anthropic, files_run, false},
    {METHOD_ANY, "/responses/*", &dialect_responses, stored_responses_run, false},
    {METHOD_ANY, "/v1/responses/*", &dialect_responses, stored_responses_run, false},
};

/* Requests that no route takes. */
static const struct route no_route = {METHOD_GET, "", &dialect_deepseek, NULL, true};
static const struct route no_anthropic_route = {METHOD_GET, "", &dialect_anthropic, NULL, true};

static bool matches(const char *pattern, const char *path, const char **rest)
{
    size_t n = strlen(pattern);
    if (pattern[n - 1] != '*')
        return strcmp(pattern, path) == 0;
    *rest = path + n - 1;
    return strncmp(pattern, path, n - 1) == 0 && path[n - 1] != '\0';
}

const struct route *route_find(const char *method, const char *path, const char **rest, struct api_error *e)
{
    const struct route *other = NULL;
    bool get = strcmp(method, "GET") == 0 || strcmp(method, "HEAD") == 0, post = strcmp(method, "POST") == 0;
    for (size_t i = 0; i < COUNT_OF(routes); i++) {
        if (!matches(routes[i].path, path, rest))
            continue;
        if (routes[i].method == METHOD_ANY || (routes[i].method == METHOD_POST ? post : get))
            return &routes[i];
        other = &routes[i];
    }
    if (other != NULL) {
        api_fail(e, API_METHOD, "Method Not Allowed");
        return other;
    }
    api_fail(e, API_NOT_FOUND, "Not Found");
    return strncmp(path, "/anthropic/", 11) == 0 ? &no_anthropic_route : &no_route;
}
