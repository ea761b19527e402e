/* Any text as a request: refused with a sentence, or prompt and parameters within their limits. */
#include "engine/engine.h"

#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void require(bool ok)
{
    if (!ok)
        abort();
}

static const struct request_env *env_once(void)
{
    static struct tokenizer *tokenizer;
    static struct request_env env;
    if (tokenizer == NULL) {
        require(tokenizer_open(&tokenizer, "models/tiny", NULL) == HD_OK);
        env = (struct request_env){.tokenizer = tokenizer, .n_vocab = tokenizer_n_vocab(tokenizer), .context_tokens = 2000};
        sampling_init(&env.defaults);
        env.grammars = grammar_store_open(tokenizer, env.n_vocab);
    }
    return &env;
}

static void check(const struct gen_request *r, const struct request_env *env)
{
    require(r->prompt.n >= 1 && (int64_t)r->prompt.n < env->context_tokens && r->params.max_tokens >= 1);
    require((int64_t)r->prompt.n + r->params.max_tokens <= env->context_tokens);
    require(sampling_check(&r->params.sampling, NULL) == HD_OK && r->params.n_stop <= STOP_STRINGS_MAX && r->user != NULL);
    for (size_t i = 0; i < r->prompt.n; i++)
        require(r->prompt.data[i] >= 0 && r->prompt.data[i] < env->n_vocab);
    for (int i = 0; i < r->params.n_stop; i++)
        require(r->params.stop[i] != NULL && r->params.stop[i][0] != '\0');
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const struct request_env *env = env_once();
    struct gen_request r;
    struct err e = {0};
    json_t *body = json_load_exact((const char *)data, size, "request", false, &e);
    if (body == NULL)
        return 0;
    if (request_parse(&r, body, env, &e) == HD_OK)
        check(&r, env);
    else
        require(e.code < 0 && e.msg[0] != '\0');
    gen_request_free(&r);
    json_decref(body);
    return 0;
}
