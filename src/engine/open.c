/* Opening a model folder: checkpoint, tokenizer, and what generation_config.json says about sampling and end tokens. */
#include "engine/job.h"

#include <stdlib.h>

/* Part of the KV memory that holds window and compressor state at page ends, unless the caller says otherwise. */
#define TAIL_SHARE 0.25

enum { CONFIG_BYTES_MAX = 1 << 20 };

static int bad_key(struct err *e, const char *path, const char *key, const char *expected)
{
    return err_set(e, HD_EFORMAT, "%s: %s is not %s", path, key, expected);
}

static int get_number(const json_t *o, const char *path, const char *key, double *out, struct err *e)
{
    const json_t *v = json_object_get(o, key);
    if (v == NULL || json_is_null(v))
        return HD_OK;
    if (!json_is_number(v))
        return bad_key(e, path, key, "a number");
    *out = json_number_value(v);
    return HD_OK;
}

static int get_sampling(const json_t *o, const char *path, struct sampling *s, struct err *e)
{
    double top_k = s->top_k;
    if (get_number(o, path, "temperature", &s->temperature, e) != HD_OK ||
        get_number(o, path, "top_p", &s->top_p, e) != HD_OK || get_number(o, path, "min_p", &s->min_p, e) != HD_OK ||
        get_number(o, path, "top_k", &top_k, e) != HD_OK)
        return HD_EFORMAT;
    if (!(top_k >= 0 && top_k <= INT32_MAX))
        return bad_key(e, path, "top_k", "0 or more");
    s->top_k = (int)top_k;
    if (json_is_false(json_object_get(o, "do_sample")))
        s->temperature = 0;
    struct err why = {0};
    if (sampling_check(s, &why) != HD_OK)
        return err_set(e, HD_EFORMAT, "%s: %s", path, why.msg);
    return HD_OK;
}

static int get_eos(const json_t *o, const char *path, int32_t *eos, int *n_eos, struct err *e)
{
    const json_t *v = json_object_get(o, "eos_token_id");
    size_t n = json_is_array(v) ? json_array_size(v) : v == NULL || json_is_null(v) ? 0 : 1;
    if (n > EOS_IDS_MAX)
        return bad_key(e, path, "eos_token_id", "a list of at most 8 ids");
    for (size_t i = 0; i < n; i++) {
        const json_t *id = json_is_array(v) ? json_array_get(v, i) : v;
        if (!json_is_integer(id) || json_integer_value(id) < 0 || json_integer_value(id) > INT32_MAX)
            return bad_key(e, path, "eos_token_id", "an id or a list of ids");
        eos[i] = (int32_t)json_integer_value(id);
    }
    if (n > 0)
        *n_eos = (int)n;
    return HD_OK;
}

/* The file is optional: without it sampling is at temperature 1 and config.json's eos_token_id ends a reply. */
static int read_generation_config(const char *dir, struct sampling *s, int32_t *eos, int *n_eos, struct err *e)
{
    char *path = path_join(dir, "generation_config.json");
    struct buf text = {0};
    int rc = HD_OK;
    if (file_exists(path)) {
        json_error_t why;
        json_t *o = NULL;
        rc = file_read(&text, path, CONFIG_BYTES_MAX, e);
        if (rc == HD_OK && (o = json_loadb(text.data, text.len, JSON_REJECT_DUPLICATES, &why)) == NULL)
            rc = err_set(e, HD_EFORMAT, "%s: line %d: %s", path, why.line, why.text);
        if (rc == HD_OK)
            rc = get_sampling(o, path, s, e);
        if (rc == HD_OK)
            rc = get_eos(o, path, eos, n_eos, e);
        json_decref(o);
    }
    buf_free(&text);
    free(path);
    return rc;
}

int engine_open(struct engine **e, const char *dir, const struct engine_options *o, const struct progress *p,
                struct err *err)
{
    struct model *m = NULL;
    struct tokenizer *t = NULL;
    struct request_env env = {0};
    int32_t eos[EOS_IDS_MAX] = {0};
    int n_eos = 1;
    sampling_init(&env.defaults);
    struct model_options mo = o->model;
    if (mo.tail_share == 0 && !o->no_cache)
        mo.tail_share = TAIL_SHARE;
    int rc = tokenizer_open(&t, dir, err);
    if (rc == HD_OK)
        rc = model_open(&m, dir, &mo, p, err);
    if (rc == HD_OK) {
        eos[0] = model_config(m)->eos_id;
        rc = read_generation_config(dir, &env.defaults, eos, &n_eos, err);
    }
    if (rc == HD_OK && o->context_tokens > model_config(m)->max_positions)
        rc = err_set(err, HD_EARG, "a context of %lld tokens is asked for; %s was made for %d", (long long)o->context_tokens,
                     dir, model_config(m)->max_positions);
    if (rc != HD_OK) {
        if (m != NULL)
            model_close(&m);
        tokenizer_close(&t);
        return rc;
    }
    env.tokenizer = t;
    env.n_vocab = model_config(m)->vocab_size;
    env.profile = chat_profile_of(dir);
    rc = engine_open_runner(e, runner_of_model(m), &env, eos, n_eos, o, err);
    if (rc != HD_OK) {
        tokenizer_close(&t);
        return rc;
    }
    (*e)->model = m;
    (*e)->tokenizer = t;
    return HD_OK;
}
