/* KV states that were reached. A new job of the same user starts from a copy of the one whose tokens it repeats (complete
 * pages are shared), as far as the state can be taken back: an agent's next turn, or its sub-agents, prefill their new
 * part only. */
#include "engine/job.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

static void kept_remove(struct engine *e, int i)
{
    free(e->kept[i].user);
    ids_free(&e->kept[i].tokens);
    e->kept[i] = e->kept[--e->n_kept];
    e->kept[e->n_kept] = (struct kept){0};
}

bool kept_drop_oldest(struct engine *e)
{
    int oldest = 0;
    if (e->n_kept == 0)
        return false;
    for (int i = 1; i < e->n_kept; i++)
        if (e->kept[i].last_use < e->kept[oldest].last_use)
            oldest = i;
    e->runner.seq_close(e->runner.self, &e->kept[oldest].seq);
    kept_remove(e, oldest);
    return true;
}

/* At least the last token of the prompt is run again: its logits are needed. */
static int64_t common_tokens(const struct ids *kept, const struct job *j)
{
    int64_t n = (int64_t)kept->n < j->n_prompt - 1 ? (int64_t)kept->n : j->n_prompt - 1, i = 0;
    while (i < n && kept->data[i] == j->tokens.data[i])
        i++;
    return i;
}

/* Index of the state that saves most, -1 when none can be taken back far enough. */
static int kept_find(struct engine *e, struct job *j, int64_t *reused)
{
    int best = -1;
    int64_t *differs_at = &generation_usage(j->gen)->differs_at;
    *reused = 0;
    for (int i = 0; i < e->n_kept; i++) {
        if (strcmp(e->kept[i].user, j->user) != 0)
            continue;
        int64_t n = common_tokens(&e->kept[i].tokens, j);
        if (n > *differs_at)
            *differs_at = n;
        if (n > *reused && n >= (int64_t)e->kept[i].tokens.n - e->runner.rollback) {
            *reused = n;
            best = i;
        }
    }
    return best;
}

static int open_new(struct engine *e, struct kv_seq **seq, struct err *err)
{
    for (;;) {
        struct err once = {0};
        int rc = e->runner.seq_open(e->runner.self, seq, e->env.context_tokens, &once);
        if (rc != HD_ENOMEM || !kept_drop_oldest(e))
            return rc == HD_OK ? rc : err_set(err, rc, "%s", once.msg);
    }
}

/* A copy of a state, or NULL when there is no memory for one. */
static struct kv_seq *copy_of(struct engine *e, const struct kv_seq *from)
{
    struct kv_seq *seq = NULL;
    if (e->runner.seq_open(e->runner.self, &seq, e->env.context_tokens, NULL) != HD_OK)
        return NULL;
    if (e->runner.seq_fork(e->runner.self, seq, from, NULL) != HD_OK)
        e->runner.seq_close(e->runner.self, &seq);
    return seq;
}

/* Without memory for a copy the job gets the kept state itself. */
static struct kv_seq *start_from(struct engine *e, int i)
{
    struct kv_seq *seq = copy_of(e, e->kept[i].seq);
    if (seq != NULL) {
        e->kept[i].last_use = ++e->clock;
        return seq;
    }
    seq = e->kept[i].seq;
    kept_remove(e, i);
    return seq;
}

int kept_take(struct engine *e, struct job *j, struct err *err)
{
    int64_t reused;
    int i = kept_find(e, j, &reused);
    if (i >= 0) {
        struct kv_seq *seq = start_from(e, i);
        if (e->runner.seq_truncate(e->runner.self, seq, reused, NULL) == HD_OK) {
            j->seq = seq;
            j->n_fed = reused;
            return HD_OK;
        }
        e->runner.seq_close(e->runner.self, &seq);
    }
    return open_new(e, &j->seq, err);
}

static void put(struct engine *e, struct kv_seq *seq, struct ids tokens, char *user)
{
    if (e->n_kept == e->max_kept)
        kept_drop_oldest(e);
    e->kept[e->n_kept++] = (struct kept){seq, tokens, user, ++e->clock};
}

static bool is_kept(struct engine *e, const int32_t *tokens, int64_t n, const char *user)
{
    for (int i = 0; i < e->n_kept; i++) {
        struct kept *k = &e->kept[i];
        if ((int64_t)k->tokens.n == n && strcmp(k->user, user) == 0 &&
            memcmp(k->tokens.data, tokens, (size_t)n * sizeof *tokens) == 0) {
            k->last_use = ++e->clock;
            return true;
        }
    }
    return false;
}

void kept_copy_prompt(struct engine *e, const struct job *j)
{
    assert(j->n_fed == j->n_prompt);
    if (e->max_kept == 0 || is_kept(e, j->tokens.data, j->n_prompt, j->user))
        return;
    struct kv_seq *seq = copy_of(e, j->seq);
    if (seq == NULL)
        return;
    struct ids tokens = {0};
    for (int64_t i = 0; i < j->n_prompt; i++)
        ids_add(&tokens, j->tokens.data[i]);
    put(e, seq, tokens, xstrdup(j->user));
}

void kept_put(struct engine *e, struct job *j)
{
    if (j->seq == NULL)
        return;
    assert(j->n_fed <= (int64_t)j->tokens.n);
    if (e->max_kept == 0 || j->n_fed == 0 || is_kept(e, j->tokens.data, j->n_fed, j->user)) {
        e->runner.seq_close(e->runner.self, &j->seq);
        return;
    }
    j->tokens.n = (size_t)j->n_fed;
    put(e, j->seq, j->tokens, j->user);
    j->seq = NULL;
    j->tokens = (struct ids){0};
    j->user = NULL;
}
