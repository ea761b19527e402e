/* One step: room for its pages, the planned rows through the model, tokens and page ends taken from the results. */
#include "engine/job.h"

#include <assert.h>
#include <inttypes.h>

/* ---------------------------------------------------------------- starting */

static void tell_prompt(struct job *j)
{
    struct gen_event ev = {.kind = GEN_PROMPT, .done = j->n_fed, .total = j->n_prompt};
    ev.reused = generation_usage(j->gen)->reused_tokens;
    job_push(j, &ev);
}

void job_start(struct engine *e, struct job *j)
{
    struct err err = {0};
    struct gen_usage *u = generation_usage(j->gen);
    j->last_step = e->n_steps;
    engine_leave_queue(e, j);
    if (state_take(e, j, &err) != HD_OK) {
        generation_end(j->gen, FINISH_ERROR, err.msg);
        return;
    }
    if (j->put_back) {
        j->put_back = false;
        return;
    }
    j->start_ns = now_ns();
    u->queue_ns = j->start_ns - j->submit_ns;
    u->reused_tokens = j->n_fed;
    e->counts.reused_tokens += (uint64_t)j->n_fed;
    *(j->n_fed == 0 ? &e->counts.misses : j->load.was ? &e->counts.hits_disk : &e->counts.hits_memory) += 1;
    tell_prompt(j);
}

/* ---------------------------------------------------------------- items */

/* Tails for the page ends that the item reaches. A free one is used anywhere; another node's is taken only for the last
 * page end of the item, for the place where prompts were seen to part, and for where the same prompt again would go on
 * (its last token is always run again). */
static void take_tails(struct engine *e, const struct job *j, int32_t *tails)
{
    int64_t from = j->n_fed / CACHE_PAGE, to = (j->n_fed + j->n_rows) / CACHE_PAGE;
    for (int64_t end = from + 1; end <= to; end++)
        tails[end - from - 1] = cache_take_tail(&e->cache, end == to || end == j->match_depth ||
                                                           end == (j->n_prompt - 1) / CACHE_PAGE);
}

static int make_items(struct engine *e)
{
    int n = 0, n_tails = 0;
    for (int i = 0; i < e->running.n; i++) {
        struct job *j = e->running.at[i];
        if (j->n_rows == 0)
            continue;
        int64_t n_ends = (j->n_fed + j->n_rows) / CACHE_PAGE - j->n_fed / CACHE_PAGE;
        e->item_job[n] = j;
        e->items[n++] = (struct step_item){
            .seq = j->seq,
            .tokens = j->tokens.data + j->n_fed,
            .n_tokens = j->n_rows,
            .n_logits = j->n_fed + j->n_rows == (int64_t)j->tokens.n,
            .next_token = -1,
            .tails = engine_shares(e) ? e->tails + n_tails : NULL,
        };
        if (engine_shares(e))
            take_tails(e, j, e->tails + n_tails);
        n_tails += (int)n_ends;
    }
    return n;
}

static void give_tails_back(struct engine *e, int n_items)
{
    for (int i = 0; i < n_items && engine_shares(e); i++) {
        const struct job *j = e->item_job[i];
        int64_t n_ends = (j->n_fed + j->n_rows) / CACHE_PAGE - j->n_fed / CACHE_PAGE;
        for (int64_t k = 0; k < n_ends; k++)
            if (e->items[i].tails[k] != CACHE_NONE)
                e->runner.tail_give(e->runner.self, e->items[i].tails[k]);
    }
}

/* Pages that the planned rows take, the copy of a shared page included. */
static int64_t pages_of_plan(const struct engine *e)
{
    int64_t n = 0;
    for (int i = 0; i < e->running.n; i++) {
        const struct job *j = e->running.at[i];
        if (j->n_rows > 0)
            n += pages_of(j->n_fed + j->n_rows) - pages_of(j->n_fed) + j->next_is_shared;
    }
    return n;
}

/* Plans rows for which there are pages: evicts what nobody uses, then puts the youngest request back. */
static void plan(struct engine *e)
{
    sched_plan(e);
    while (engine_shares(e) && pages_of_plan(e) > e->runner.pages_free(e->runner.self))
        if (!state_make_room(e)) {
            if (!sched_put_back_loading(e) && !sched_put_back_youngest(e))
                return;
            sched_plan(e);
        }
}

/* ---------------------------------------------------------------- results */

static void fail(struct engine *e, struct job *j, const char *why)
{
    generation_end(j->gen, FINISH_ERROR, why);
    if (j->seq != NULL) { /* not to be used again: may be half advanced */
        cache_leave(&e->cache, j->node);
        j->node = CACHE_NONE;
        e->runner.seq_close(e->runner.self, &j->seq);
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
        fail(e, j, err.msg);
        return;
    }
    if (generation_accept(j->gen, token, logits) || generation_finish(j->gen) == FINISH_LENGTH)
        ids_add(&j->tokens, token);
}

static void count_rows(struct engine *e, const struct job *j, const struct step_item *it)
{
    int64_t from = j->n_fed, to = j->n_fed + it->n_tokens;
    int64_t again = (to < j->n_fed_most ? to : j->n_fed_most) - from;
    e->counts.recomputed_tokens += again > 0 ? (uint64_t)again : 0;
    from = from > j->n_fed_most ? from : j->n_fed_most;
    if (from < j->n_prompt && to > from)
        e->counts.prompt_tokens += (uint64_t)((to < j->n_prompt ? to : j->n_prompt) - from);
    e->counts.completion_tokens += (uint64_t)it->n_logits;
}

static void take_results(struct engine *e, int n_items, const struct step_result *r)
{
    const float *logits = r->logits;
    for (int i = 0; i < n_items; i++) {
        struct job *j = e->item_job[i];
        const struct step_item *it = &e->items[i];
        bool was_prompt = j->n_fed < j->n_prompt && j->first_ns == 0;
        count_rows(e, j, it);
        users_charge(&e->users, j->user, it->n_tokens / j->weight);
        j->n_fed += it->n_tokens;
        j->n_fed_most = j->n_fed > j->n_fed_most ? j->n_fed : j->n_fed_most;
        j->last_step = e->n_steps;
        j->next_is_shared = false;
        state_pass(e, j, it->tails);
        if (was_prompt)
            tell_prompt(j);
        if (it->n_logits == 0)
            continue;
        take_token(e, j, logits);
        if (was_prompt && !j->is_fork && generation_finish(j->gen) == FINISH_NONE)
            state_keep_prompt(e, j);
        logits += e->runner.n_vocab;
    }
}

/* ---------------------------------------------------------------- failures */

static void step_failed(struct engine *e, const struct err *err)
{
    if (err->code == HD_ENOMEM && (state_make_room(e) || state_drop_kept(e) || sched_put_back_loading(e) ||
                                    sched_put_back_youngest(e)))
        return;
    for (int i = 0; i < e->running.n; i++)
        fail(e, e->running.at[i], err->msg);
}

/* What the step took, for the rows of the next ones. */
static void learn(struct engine *e, int n_items, uint64_t ns)
{
    int n_decodes = 0, n_prompt_rows = 0;
    for (int i = 0; i < n_items; i++)
        *(job_decodes(e->item_job[i]) ? &n_decodes : &n_prompt_rows) += e->items[i].n_tokens;
    budget_learn(&e->budget, n_decodes, n_prompt_rows, ns);
}

void engine_step(struct engine *e)
{
    struct step_result r = {0};
    struct err err = {0};
    uint64_t start = now_ns();
    plan(e);
    int n_items = make_items(e);
    if (n_items == 0)
        return;
    if (e->runner.step(e->runner.self, e->items, n_items, &r, &err) != HD_OK) {
        give_tails_back(e, n_items);
        step_failed(e, &err);
        return;
    }
    e->n_steps++;
    learn(e, n_items, now_ns() - start); /* before the results change what decodes */
    take_results(e, n_items, &r);
}
