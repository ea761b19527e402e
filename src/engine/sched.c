/* Who runs, and how many rows each gets in a step.
 *
 * Admission: of the waiting requests, those put back first, then by priority, then the user that had least work by its
 * weight, then by arrival. The first one in that order starts when there is room for its pages (all of its prompt and a
 * stretch of reply), for those of the running ones, and a place; nobody overtakes it. A request whose beginning a running
 * one is just computing waits for that instead of computing it again.
 *
 * A step: every decoding request has one row in every step, so it is never delayed by more than the rows beside it:
 * what the budget of time allows (budget.h), at most prefill_rows. Prompts share the rest. There are at most
 * max_rows / 2 running requests, so the rest is at least min(BUDGET_ROWS_MIN, prefill_rows, max_rows / 2): an eighth of it
 * goes to the prompt that has waited longest for rows (a prompt thus advances at least once in as many steps as there are
 * running requests, however many others come), the other rows in the order of admission. */
#include "engine/job.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

enum { REPLY_RESERVE_TOKENS = 256, OLDEST_SHARE = 8 };

/* ---------------------------------------------------------------- lists */

void job_list_reserve(struct job_list *l, int n)
{
    l->cap = n;
    l->at = xrealloc(l->at, (size_t)n * sizeof *l->at);
}

void job_list_add(struct job_list *l, struct job *j)
{
    assert(l->n < l->cap);
    l->at[l->n++] = j;
}

void job_list_remove(struct job_list *l, int i)
{
    l->n--;
    memmove(&l->at[i], &l->at[i + 1], (size_t)(l->n - i) * sizeof *l->at);
}

/* ---------------------------------------------------------------- admission */

static bool comes_before(const struct engine *e, const struct job *a, const struct job *b)
{
    if (a->put_back != b->put_back)
        return a->put_back;
    if (a->priority != b->priority)
        return a->priority > b->priority;
    double ca = e->users.list[a->user].clock, cb = e->users.list[b->user].clock;
    return ca != cb ? ca < cb : a->number < b->number;
}

/* Complete pages that both begin with. Equal hashes of equal users; the cache compares tokens before anything is used. */
static int64_t common_pages(const struct job *a, const struct job *b)
{
    int64_t low = 0, high = a->n_hashes < b->n_hashes ? a->n_hashes : b->n_hashes;
    while (low < high) {
        int64_t mid = (low + high + 1) / 2;
        if (a->hashes[mid - 1] == b->hashes[mid - 1])
            low = mid;
        else
            high = mid - 1;
    }
    return low;
}

static bool waits_for_load(const struct engine *e, const struct job *j)
{
    for (int i = 0; i < e->loading.n; i++) {
        const struct job *r = e->loading.at[i];
        int64_t common = r->user == j->user ? common_pages(r, j) : 0;
        if ((common < r->load.target ? common : r->load.target) > r->load.from)
            return true;
    }
    return false;
}

static bool waits_for_prefix(const struct engine *e, const struct job *j)
{
    if (waits_for_load(e, j))
        return true;
    for (int i = 0; i < e->running.n && engine_shares(e); i++) {
        const struct job *r = e->running.at[i];
        if (r->user != j->user || generation_finish(r->gen) != FINISH_NONE)
            continue;
        int64_t common = common_pages(r, j), useful = ((int64_t)j->tokens.n - 1) / CACHE_PAGE;
        if (j->is_fork && common > useful) /* all but its last token is there already */
            common = useful;
        if (common > r->n_fed / CACHE_PAGE)
            return true;
    }
    return false;
}

/* Pages that it will hold: its tokens so far and a stretch of reply. */
static int64_t goal_pages(const struct engine *e, const struct job *j)
{
    int64_t made = (int64_t)j->tokens.n - j->n_prompt, rest = j->max_tokens - made;
    int64_t goal = (int64_t)j->tokens.n + (rest < REPLY_RESERVE_TOKENS ? rest : REPLY_RESERVE_TOKENS);
    return pages_of(goal < e->env.context_tokens ? goal : e->env.context_tokens);
}

static bool has_room(const struct engine *e, const struct job *j)
{
    if (e->running.n + e->loading.n == 0)
        return true;
    if (j->held_back && j->put_back_at == e->n_retired)
        return false;
    if (!engine_shares(e))
        return true;
    struct cache_hit hit = cache_find(&e->cache, j->user, j->tokens.data, (int64_t)j->tokens.n - 1, j->hashes);
    int64_t have = hit.node == CACHE_NONE ? 0 : e->cache.nodes[hit.node].depth, n_running;
    state_running(e, j, &n_running);
    have = n_running / CACHE_PAGE > have ? n_running / CACHE_PAGE : have;
    int64_t need = goal_pages(e, j) - have;
    for (int i = 0; i < e->running.n; i++) {
        int64_t more = goal_pages(e, e->running.at[i]) - pages_of(e->running.at[i]->n_fed);
        need += more > 0 ? more : 0;
    }
    for (int i = 0; i < e->loading.n; i++)
        need += goal_pages(e, e->loading.at[i]) - e->loading.at[i]->load.depth;
    int64_t free_pages = e->runner.pages_free(e->runner.self) + e->cache.n_inactive;
    return need <= free_pages - cache_inactive_on_path(&e->cache, hit.node);
}

static int next_waiting(const struct engine *e)
{
    int best = -1;
    for (int i = 0; i < e->waiting.n; i++)
        if ((best < 0 || comes_before(e, e->waiting.at[i], e->waiting.at[best])) &&
            !waits_for_prefix(e, e->waiting.at[i]))
            best = i;
    return best;
}

static void start(struct engine *e, struct job *j)
{
    bool loads = tier_begin(e, j);
    job_list_add(loads ? &e->loading : &e->running, j);
    if (!loads)
        job_start(e, j);
}

void sched_admit(struct engine *e)
{
    while (e->running.n + e->loading.n < e->max_running) {
        int i = next_waiting(e);
        if (i < 0)
            return;
        struct job *j = e->waiting.at[i];
        while (!has_room(e, j))
            if (!state_drop_kept(e))
                return;
        job_list_remove(&e->waiting, i);
        start(e, j);
    }
}

void sched_start_loaded(struct engine *e)
{
    for (int i = 0; i < e->loading.n;) {
        struct job *j = e->loading.at[i];
        if (!tier_ready(e, j)) {
            i++;
            continue;
        }
        job_list_remove(&e->loading, i);
        job_list_add(&e->running, j);
        job_start(e, j);
        tier_end(e, j);
    }
}

static void wait_for_another_end(struct engine *e, struct job *j)
{
    j->held_back = true;
    j->put_back_at = e->n_retired;
    job_list_add(&e->waiting, j);
}

bool sched_put_back_loading(struct engine *e)
{
    if (e->loading.n == 0)
        return false;
    struct job *j = e->loading.at[e->loading.n - 1];
    job_list_remove(&e->loading, e->loading.n - 1);
    tier_end(e, j);
    wait_for_another_end(e, j);
    return true;
}

bool sched_put_back_youngest(struct engine *e)
{
    int last = -1, n_alive = 0;
    for (int i = 0; i < e->running.n; i++) {
        if (generation_finish(e->running.at[i]->gen) != FINISH_NONE)
            continue;
        n_alive++;
        if (last < 0 || e->running.at[i]->number > e->running.at[last]->number)
            last = i;
    }
    if (n_alive < 2)
        return false;
    struct job *j = e->running.at[last];
    job_list_remove(&e->running, last);
    state_drop(e, j);
    j->n_fed = 0;
    j->put_back = true;
    wait_for_another_end(e, j);
    e->counts.put_back++;
    return true;
}

/* ---------------------------------------------------------------- rows of a step */

static int64_t rest_of(const struct job *j)
{
    return (int64_t)j->tokens.n - j->n_fed;
}

static bool takes_part(const struct job *j)
{
    return j->seq != NULL && generation_finish(j->gen) == FINISH_NONE;
}

bool job_decodes(const struct job *j)
{
    return rest_of(j) == 1 && j->n_fed >= j->n_prompt;
}

/* Gives it at most n more rows; returns how many it took. */
static int give_rows(struct job *j, int n)
{
    int64_t most = rest_of(j) - j->n_rows;
    n = n < most ? n : (int)most;
    j->n_rows += n;
    return n;
}

static int plan_decodes(struct engine *e)
{
    int n = 0;
    for (int i = 0; i < e->running.n; i++) {
        struct job *j = e->running.at[i];
        j->n_rows = 0;
        if (takes_part(j) && job_decodes(j))
            n += give_rows(j, 1);
    }
    return n;
}

static bool wants_rows(const struct job *j)
{
    return takes_part(j) && !job_decodes(j) && j->n_rows < rest_of(j);
}

static struct job *longest_waiting(const struct engine *e)
{
    struct job *best = NULL;
    for (int i = 0; i < e->running.n; i++)
        if (wants_rows(e->running.at[i]) && (best == NULL || e->running.at[i]->last_step < best->last_step))
            best = e->running.at[i];
    return best;
}

static struct job *next_prefill(const struct engine *e)
{
    struct job *best = NULL;
    for (int i = 0; i < e->running.n; i++)
        if (wants_rows(e->running.at[i]) && (best == NULL || comes_before(e, e->running.at[i], best)))
            best = e->running.at[i];
    return best;
}

void sched_plan(struct engine *e)
{
    int n_decodes = plan_decodes(e), rows = e->runner.max_rows - n_decodes;
    assert(rows >= 0);
    if (n_decodes > 0 && rows > budget_rows(&e->budget))
        rows = budget_rows(&e->budget);
    struct job *j = rows > 0 ? longest_waiting(e) : NULL;
    if (j != NULL)
        rows -= give_rows(j, rows < OLDEST_SHARE ? 1 : rows / OLDEST_SHARE);
    while (rows > 0 && (j = next_prefill(e)) != NULL)
        rows -= give_rows(j, rows);
}
