/* The public C interface (include/hadal.h) over the engine: names and types are translated, nothing is decided. */
#include "engine/engine.h"
#include "hadal.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

struct hadal {
    struct engine *engine;
};

struct hadal_request {
    struct job *job;
    struct gen_event ev;
    hadal_logprob top[TOP_LOGPROBS_MAX];
};

static_assert(HADAL_EARG == (int)HD_EARG && HADAL_EFORMAT == (int)HD_EFORMAT && HADAL_EIO == (int)HD_EIO &&
                  HADAL_ENOMEM == (int)HD_ENOMEM && HADAL_EUNSUPPORTED == (int)HD_EUNSUPPORTED &&
                  HADAL_ECANCELLED == (int)HD_ECANCELLED,
              "public and internal error codes are the same numbers");

static int give_error(hadal_error *e, int rc, const struct err *err)
{
    if (rc != HD_OK && e != NULL) {
        e->code = rc;
        memcpy(e->message, err->msg, sizeof e->message);
    }
    return rc;
}

const char *hadal_version(void)
{
    return HADAL_VERSION;
}

/* ---------------------------------------------------------------- a model */

void hadal_options_init(hadal_options *o)
{
    memset(o, 0, sizeof *o);
    o->size = sizeof *o;
    o->numerics = "fast";
}

static int read_layout(struct model_options *to, const char *layout, struct err *e)
{
    const char *name = layout == NULL ? "packed" : layout;
    to->native = strcmp(name, "native") == 0;
    to->pack_in_memory = strcmp(name, "memory") == 0;
    if (to->native || to->pack_in_memory || strcmp(name, "packed") == 0)
        return HD_OK;
    return err_set(e, HD_EARG, "hadal_options.layout is \"%.40s\", expected packed, memory or native", name);
}

static int read_options(struct engine_options *to, const hadal_options *o, struct err *e)
{
    engine_options_init(to);
    if (o == NULL)
        return HD_OK;
    if (o->size != sizeof *o)
        return err_set(e, HD_EARG, "hadal_options has %zu bytes, this library expects %zu: call hadal_options_init",
                       o->size, sizeof *o);
    if (o->threads < 0 || o->step_tokens < 0 || o->context_tokens < 0 || o->max_running < 0 || o->max_waiting < 0 ||
        o->max_waiting_user < 0)
        return err_set(e, HD_EARG, "a number in hadal_options is negative");
    int rc = numerics_parse(o->numerics == NULL ? "fast" : o->numerics, &to->model.numerics, e);
    if (rc == HD_OK && o->isa != NULL)
        rc = cpu_isa_parse(o->isa, &to->model.isa, e);
    if (rc == HD_OK)
        rc = read_layout(&to->model, o->layout, e);
    to->model.cache_dir = o->cache_dir;
    to->cache_dir = o->state_dir;
    to->cache_disk_bytes = o->state_dir_bytes;
    to->model.n_threads = o->threads;
    to->model.max_rows = o->step_tokens;
    to->model.kv_budget_bytes = o->kv_bytes;
    to->context_tokens = o->context_tokens;
    to->max_running = o->max_running;
    to->max_waiting = o->max_waiting;
    to->max_waiting_user = o->max_waiting_user;
    to->max_step_ms = o->max_step_ms;
    to->n_keep = o->keep;
    return rc;
}

int hadal_open(hadal **h, const char *model_dir, const hadal_options *o, hadal_error *e)
{
    struct err err = {0};
    struct engine_options options;
    struct engine *engine = NULL;
    *h = NULL;
    int rc = read_options(&options, o, &err);
    if (rc == HD_OK) {
        struct progress p = {o == NULL ? NULL : o->progress, o == NULL ? NULL : o->progress_arg};
        rc = engine_open(&engine, model_dir, &options, &p, &err);
    }
    if (rc == HD_OK) {
        *h = xcalloc(1, sizeof **h);
        (*h)->engine = engine;
    }
    return give_error(e, rc, &err);
}

void hadal_close(hadal **h)
{
    if (*h == NULL)
        return;
    engine_close(&(*h)->engine);
    free(*h);
    *h = NULL;
}

int64_t hadal_context_tokens(const hadal *h)
{
    return engine_env(h->engine)->context_tokens;
}

int hadal_vocabulary_size(const hadal *h)
{
    return engine_env(h->engine)->n_vocab;
}

/* ---------------------------------------------------------------- text and tokens */

static int give_ids(int rc, struct ids *v, int32_t **ids, size_t *n_ids)
{
    if (rc != HD_OK) {
        ids_free(v);
        *ids = NULL;
        *n_ids = 0;
        return rc;
    }
    *ids = v->data != NULL ? v->data : xcalloc(1, sizeof **ids);
    *n_ids = v->n;
    return HD_OK;
}

int hadal_tokenize(const hadal *h, const char *text, size_t text_bytes, int match_special, int32_t **ids, size_t *n_ids,
                   hadal_error *e)
{
    struct err err = {0};
    struct ids v = {0};
    int rc = tokenizer_encode(engine_env(h->engine)->tokenizer, text, text_bytes, match_special != 0, &v, &err);
    return give_error(e, give_ids(rc, &v, ids, n_ids), &err);
}

int hadal_detokenize(const hadal *h, const int32_t *ids, size_t n_ids, char **text, size_t *text_bytes, hadal_error *e)
{
    struct err err = {0};
    struct buf out = {0};
    const struct request_env *env = engine_env(h->engine);
    *text = NULL;
    *text_bytes = 0;
    for (size_t i = 0; i < n_ids; i++)
        if (ids[i] < 0 || ids[i] >= env->n_vocab)
            return give_error(e, err_set(&err, HD_EARG, "ids[%zu] is %d; the vocabulary has 0 to %d", i, ids[i],
                                         env->n_vocab - 1), &err);
    tokenizer_decode(env->tokenizer, ids, n_ids, false, &out);
    *text = out.data != NULL ? out.data : xcalloc(1, 1);
    *text_bytes = out.len;
    return HADAL_OK;
}

static int parse_request(const hadal *h, const char *request_json, struct gen_request *r, struct err *err)
{
    *r = (struct gen_request){0};
    json_t *body = json_load_exact(request_json, strlen(request_json), "request", false, err);
    if (body == NULL)
        return err->code;
    int rc = request_parse(r, body, engine_env(h->engine), err);
    json_decref(body);
    return rc;
}

int hadal_encode(const hadal *h, const char *request_json, int32_t **ids, size_t *n_ids, hadal_error *e)
{
    struct err err = {0};
    struct gen_request r;
    int rc = parse_request(h, request_json, &r, &err);
    struct ids v = r.prompt;
    r.prompt = (struct ids){0};
    gen_request_free(&r);
    return give_error(e, give_ids(rc, &v, ids, n_ids), &err);
}

void hadal_free(void *p)
{
    free(p);
}

/* ---------------------------------------------------------------- requests */

static int make_request(hadal_request **r, struct err *e)
{
    *r = calloc(1, sizeof **r);
    return *r != NULL ? HD_OK : err_set(e, HD_ENOMEM, "no memory for a request");
}

static int give_request(hadal_request **r, hadal_error *e, int rc, const struct err *err)
{
    if (rc != HD_OK) {
        free(*r);
        *r = NULL;
    }
    return give_error(e, rc, err);
}

int hadal_submit(hadal *h, const char *request_json, void (*notify)(void *arg), void *arg, hadal_request **r,
                 hadal_error *e)
{
    struct err err = {0};
    struct gen_request parsed;
    int rc = make_request(r, &err);
    if (rc == HD_OK)
        rc = parse_request(h, request_json, &parsed, &err);
    if (rc == HD_OK)
        rc = engine_submit(h->engine, &parsed, notify, arg, &(*r)->job, &err);
    return give_request(r, e, rc, &err);
}

int hadal_fork(hadal_request *from, uint64_t seed, int64_t max_tokens, void (*notify)(void *arg), void *arg,
               hadal_request **r, hadal_error *e)
{
    struct err err = {0};
    int rc = make_request(r, &err);
    if (rc == HD_OK)
        rc = engine_fork(from->job, seed, max_tokens, notify, arg, &(*r)->job, &err);
    return give_request(r, e, rc, &err);
}

static hadal_event_kind public_kind(enum gen_event_kind k)
{
    switch (k) {
    case GEN_PROMPT:
        return HADAL_EVENT_PROMPT;
    case GEN_REASONING:
        return HADAL_EVENT_REASONING;
    case GEN_CONTENT:
        return HADAL_EVENT_CONTENT;
    case GEN_TOOL_START:
        return HADAL_EVENT_TOOL_START;
    case GEN_TOOL_ARGS:
        return HADAL_EVENT_TOOL_ARGS;
    case GEN_TOOL_END:
        return HADAL_EVENT_TOOL_END;
    case GEN_TOOL_BROKEN:
        return HADAL_EVENT_TOOL_BROKEN;
    case GEN_TOKEN:
        return HADAL_EVENT_TOKEN;
    case GEN_END:
        break;
    }
    return HADAL_EVENT_END;
}

static void give_token(hadal_request *r, hadal_event *ev)
{
    ev->token = r->ev.token;
    ev->is_reasoning = r->ev.reasoning;
    ev->logprob = r->ev.logprob;
    ev->n_top = r->ev.n_top;
    ev->top = r->top;
    for (int i = 0; i < r->ev.n_top; i++)
        r->top[i] = (hadal_logprob){r->ev.top[i].id, r->ev.top[i].logprob};
}

static void give_end(const struct gen_event *from, hadal_event *ev)
{
    ev->finish = (hadal_finish)from->finish;
    ev->prompt_tokens = from->usage.prompt_tokens;
    ev->reused_tokens = from->usage.reused_tokens;
    ev->completion_tokens = from->usage.completion_tokens;
    ev->reasoning_tokens = from->usage.reasoning_tokens;
    ev->prompt_seconds = (double)from->usage.prompt_ns * 1e-9;
    ev->completion_seconds = (double)from->usage.completion_ns * 1e-9;
}

static_assert((int)HADAL_FINISH_STOP == FINISH_STOP && (int)HADAL_FINISH_LENGTH == FINISH_LENGTH &&
                  (int)HADAL_FINISH_TOOL_CALLS == FINISH_TOOL_CALLS &&
                  (int)HADAL_FINISH_CANCELLED == FINISH_CANCELLED && (int)HADAL_FINISH_ERROR == FINISH_ERROR,
              "public and internal finish reasons are the same numbers");

int hadal_next(hadal_request *r, hadal_event *ev, int timeout_ms)
{
    memset(ev, 0, sizeof *ev);
    if (!engine_next(r->job, &r->ev, timeout_ms))
        return 0;
    ev->kind = public_kind(r->ev.kind);
    ev->text = r->ev.text;
    ev->text_bytes = r->ev.n;
    ev->call = r->ev.i_call;
    ev->prompt_done = r->ev.done;
    ev->prompt_total = r->ev.total;
    if (r->ev.kind == GEN_TOKEN)
        give_token(r, ev);
    else if (r->ev.kind == GEN_END)
        give_end(&r->ev, ev);
    return 1;
}

void hadal_cancel(hadal_request *r)
{
    engine_cancel(r->job);
}

void hadal_release(hadal_request **r)
{
    if (*r == NULL)
        return;
    engine_release(&(*r)->job);
    free(*r);
    *r = NULL;
}
