/* One step: decoding jobs get their row first, then prompts fill the rest of the step in order of arrival. */
#include "engine/job.h"

#include <assert.h>
#include <inttypes.h>

static int64_t rest_of(const struct job *j)
{
    return (int64_t)j->tokens.n - j->n_fed;
}

static bool in_prompt(const struct job *j)
{
    return j->n_fed < j->n_prompt;
}

static void add_item(struct engine *e, int *n_items, struct job *j, int n_tokens)
{
    e->item_job[*n_items] = j;
    e->items[(*n_items)++] = (struct step_item){
        .seq = j->seq,
        .tokens = j->tokens.data + j->n_fed,
        .n_tokens = n_tokens,
        .n_logits = n_tokens == rest_of(j),
        .next_token = -1,
    };
}

static int plan_step(struct engine *e)
{
    int n_items = 0, rows = e->runner.max_rows;
    for (int pass = 0; pass < 2; pass++) /* first those that decode */
        for (int i = 0; i < e->n_running && rows > 0; i++) {
            struct job *j = e->running[i];
            if (generation_finish(j->gen) != FINISH_NONE || in_prompt(j) != (pass == 1))
                continue;
            int n = rest_of(j) < rows ? (int)rest_of(j) : rows;
            add_item(e, &n_items, j, n);
            rows -= n;
        }
    return n_items;
}

/* Fails the job that came last; the others then have its memory. */
static void fail_youngest(struct engine *e, const char *why)
{
    for (int i = e->n_running - 1; i >= 0; i--)
        if (generation_finish(e->running[i]->gen) == FINISH_NONE) {
            generation_end(e->running[i]->gen, FINISH_ERROR, why);
            e->runner.seq_close(e->runner.self, &e->running[i]->seq);
            return;
        }
}

static void step_failed(struct engine *e, const struct err *err)
{
    if (err->code == HD_ENOMEM) {
        if (!kept_drop_oldest(e))
            fail_youngest(e, err->msg);
        return;
    }
    for (int i = 0; i < e->n_running; i++) { /* their states may be half advanced: not to be kept */
        generation_end(e->running[i]->gen, FINISH_ERROR, err->msg);
        e->runner.seq_close(e->runner.self, &e->running[i]->seq);
    }
}

static void take_token(struct engine *e, struct job *j, const float *logits)
{
    struct gen_usage *u = generation_usage(j->gen);
    uint64_t now = now_ns();
    if (j->first_ns == 0) {
        j->first_ns = now;
        u->prompt_ns = now - j->start_ns;
    }
    u->completion_ns = now - j->first_ns;
    int64_t position = (int64_t)j->tokens.n;
    int32_t token = generation_choose(j->gen, e->sampler, logits, position);
    if (token < 0) {
        struct err err = {0};
        err_set(&err, HD_EFORMAT, "the model gave no finite logit for position %" PRId64, position);
        generation_end(j->gen, FINISH_ERROR, err.msg);
        e->runner.seq_close(e->runner.self, &j->seq); /* not to be kept */
        return;
    }
    if (generation_accept(j->gen, token, logits))
        ids_add(&j->tokens, token);
}

static void tell_prompt(struct job *j)
{
    struct gen_event ev = {.kind = GEN_PROMPT, .done = j->n_fed, .total = j->n_prompt};
    ev.reused = generation_usage(j->gen)->reused_tokens;
    job_push(j, &ev);
}

static void take_results(struct engine *e, int n_items, const struct step_result *r)
{
    const float *logits = r->logits;
    for (int i = 0; i < n_items; i++) {
        struct job *j = e->item_job[i];
        bool was_prompt = in_prompt(j);
        j->n_fed += e->items[i].n_tokens;
        if (was_prompt)
            tell_prompt(j);
        if (e->items[i].n_logits == 0)
            continue;
        take_token(e, j, logits);
        if (was_prompt && generation_finish(j->gen) == FINISH_NONE)
            kept_copy_prompt(e, j);
        logits += e->runner.n_vocab;
    }
}

static void count_step(struct engine *e, int n_items)
{
    uint64_t prompt = 0, completion = 0;
    for (int i = 0; i < n_items; i++) {
        if (in_prompt(e->item_job[i]))
            prompt += (uint64_t)e->items[i].n_tokens;
        completion += (uint64_t)e->items[i].n_logits;
    }
    pthread_mutex_lock(&e->mutex);
    e->stats.steps++;
    e->stats.prompt_tokens += prompt;
    e->stats.completion_tokens += completion;
    pthread_mutex_unlock(&e->mutex);
}

void engine_step(struct engine *e)
{
    struct step_result r = {0};
    struct err err = {0};
    int n_items = plan_step(e);
    if (n_items == 0)
        return;
    if (e->runner.step(e->runner.self, e->items, n_items, &r, &err) != HD_OK) {
        step_failed(e, &err);
        return;
    }
    count_step(e, n_items);
    take_results(e, n_items, &r);
}
