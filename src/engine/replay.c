/* The store of replies: a hash table by what is visible, a list by last use, an appended file. */
#include "engine/replay_store.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

/* ---------------------------------------------------------------- entries */

static size_t entry_bytes(const struct reply *y)
{
    return sizeof *y + y->n_user + y->n_tokens * sizeof *y->tokens;
}

static struct reply **bucket_of(struct replay *r, struct digest d)
{
    return &r->bucket[d.low & (REPLAY_BUCKETS - 1)];
}

static void unlink_use(struct replay *r, struct reply *y)
{
    *(y->newer != NULL ? &y->newer->older : &r->newest) = y->older;
    *(y->older != NULL ? &y->older->newer : &r->oldest) = y->newer;
    y->newer = y->older = NULL;
}

static void link_newest(struct replay *r, struct reply *y)
{
    y->older = r->newest;
    *(r->newest != NULL ? &r->newest->newer : &r->oldest) = y;
    r->newest = y;
}

static void forget(struct replay *r, struct reply *y)
{
    struct reply **at = bucket_of(r, y->key.visible);
    while (*at != y)
        at = &(*at)->next;
    *at = y->next;
    unlink_use(r, y);
    r->bytes -= (int64_t)entry_bytes(y);
    r->n_replies--;
    free(y);
}

struct reply *reply_alloc(size_t n_user, size_t n_tokens)
{
    struct reply *y = try_alloc(sizeof *y + n_tokens * sizeof *y->tokens + n_user + 1);
    if (y == NULL)
        return NULL;
    y->n_user = n_user;
    y->n_tokens = n_tokens;
    y->tokens = (int32_t *)(y + 1);
    y->user = (char *)(y->tokens + n_tokens);
    return y;
}

static bool same_reply(const struct reply *a, const struct reply *b)
{
    return digest_equal(a->key.visible, b->key.visible) && a->context == b->context && a->key.ids == b->key.ids &&
           a->n_tokens == b->n_tokens && a->opened == b->opened && strcmp(a->user, b->user) == 0 &&
           memcmp(a->tokens, b->tokens, a->n_tokens * sizeof *a->tokens) == 0;
}

bool replay_insert(struct replay *r, struct reply *y)
{
    struct reply **at = bucket_of(r, y->key.visible);
    for (struct reply *other = *at; other != NULL; other = other->next)
        if (same_reply(other, y)) {
            unlink_use(r, other);
            link_newest(r, other);
            free(y);
            return false;
        }
    if ((int64_t)entry_bytes(y) > r->bytes_max) {
        free(y);
        return false;
    }
    y->next = *at;
    *at = y;
    link_newest(r, y);
    r->bytes += (int64_t)entry_bytes(y);
    r->n_replies++;
    while (r->bytes > r->bytes_max)
        forget(r, r->oldest);
    return true;
}

/* ---------------------------------------------------------------- remembering */

static uint64_t context_of(const int32_t *tokens, size_t n)
{
    return XXH3_64bits(tokens, n * sizeof *tokens);
}

void replay_add(struct replay *r, const char *user, const struct replay_text *text, const int32_t *tokens,
                size_t n_prompt, size_t n_tokens)
{
    assert(n_prompt <= n_tokens);
    if (text->broken || text->in_call || n_prompt == 0 || n_tokens == n_prompt)
        return;
    int32_t tag = tokens[n_prompt - 1];
    if (tag < 0 || (tag != r->think && tag != r->think_end) || (tag == r->think_end && text->reasoning.len > 0))
        return;
    struct reply *y = reply_alloc(strlen(user), n_tokens - n_prompt);
    if (y == NULL)
        return;
    memcpy(y->tokens, tokens + n_prompt, y->n_tokens * sizeof *y->tokens);
    memcpy(y->user, user, y->n_user);
    y->opened = tag == r->think;
    for (y->n_reasoning = 0; y->opened && y->n_reasoning < y->n_tokens; y->n_reasoning++)
        if (y->tokens[y->n_reasoning] == r->think_end)
            break;
    if (y->opened && y->n_reasoning++ == y->n_tokens) { /* cut while thinking: the next prompt closes what it left open */
        free(y);
        return;
    }
    y->context = context_of(tokens, n_prompt - 1);
    replay_key_of_text(text, &y->key);
    pthread_mutex_lock(&r->mutex);
    if (replay_insert(r, y)) {
        r->n_remembered++;
        replay_file_append(r, y);
    }
    pthread_mutex_unlock(&r->mutex);
}

/* ---------------------------------------------------------------- finding */

/* How sure we are that this is the reply that the turn means; 0: it is not. */
static int likeness(const struct reply *y, const struct replay_key *k, bool opened, uint64_t context)
{
    enum { TEXT = 1, IDS = 2, CONTEXT = 4 };
    bool has_reasoning = k->reasoning.low != 0 || k->reasoning.high != 0;
    int score = (y->context == context ? CONTEXT : 0) + (k->ids != 0 && y->key.ids == k->ids ? IDS : 0);
    if (opened && !y->opened)
        return 0;
    if (opened && has_reasoning && !digest_equal(y->key.reasoning, k->reasoning))
        return 0;
    bool hides = opened && !has_reasoning && (y->key.reasoning.low != 0 || y->key.reasoning.high != 0);
    return hides ? score : score + TEXT;
}

static const struct reply *find(struct replay *r, const char *user, const struct replay_key *k, bool opened,
                                const struct ids *before)
{
    struct reply *best = NULL;
    int most = 0;
    uint64_t context = 0;
    bool has_context = false;
    for (struct reply *y = *bucket_of(r, k->visible); y != NULL; y = y->next) {
        if (!digest_equal(y->key.visible, k->visible) || strcmp(y->user, user) != 0)
            continue;
        if (!has_context)
            context = context_of(before->data, before->n - 1);
        has_context = true;
        int score = likeness(y, k, opened, context);
        if (score > most) {
            most = score;
            best = y;
        }
    }
    *(best != NULL ? &r->n_found : &r->n_unknown) += 1;
    if (best != NULL) {
        unlink_use(r, best);
        link_newest(r, best);
    }
    return best;
}

/* Appends the tokens of a turn as they were generated; false when they are not known. */
static bool put_remembered(struct replay *r, const char *user, const struct chat_prompt *p, const struct chat_turn *t,
                           struct ids *out)
{
    struct replay_key k;
    if (out->n == 0 || !replay_key_of_turn(p, t, &k))
        return false;
    pthread_mutex_lock(&r->mutex);
    const struct reply *y = find(r, user, &k, t->opened, out);
    for (size_t i = y == NULL || t->opened ? 0 : y->n_reasoning; y != NULL && i < y->n_tokens; i++)
        ids_add(out, y->tokens[i]);
    pthread_mutex_unlock(&r->mutex);
    return y != NULL;
}

int replay_tokens(struct replay *r, const char *user, const struct chat_prompt *p, const struct tokenizer *t,
                  struct ids *out, struct err *e)
{
    size_t at = 0;
    for (size_t i = 0; i < p->n_turns; i++) {
        const struct chat_turn *turn = &p->turns[i];
        int rc = chat_span_tokens(p, t, at, turn->first_span, out, e);
        if (rc != HD_OK)
            return rc;
        at = turn->first_span;
        if (put_remembered(r, user, p, turn, out))
            at = turn->end_span;
    }
    return chat_span_tokens(p, t, at, p->n_spans, out, e);
}

/* ---------------------------------------------------------------- life */

int replay_open(struct replay **out, const struct tokenizer *t, int64_t bytes_max, const char *path, char **warning,
                struct err *e)
{
    struct replay *r = xcalloc(1, sizeof *r);
    r->bytes_max = bytes_max;
    r->fd = -1;
    r->think = tokenizer_id(t, "<think>");
    r->think_end = tokenizer_id(t, "</think>");
    pthread_mutex_init(&r->mutex, NULL);
    *warning = NULL;
    int rc = path == NULL ? HD_OK : replay_file_open(r, t, path, warning, e);
    if (rc != HD_OK) {
        replay_close(&r);
        return rc;
    }
    *out = r;
    return HD_OK;
}

void replay_close(struct replay **pr)
{
    struct replay *r = *pr;
    if (r == NULL)
        return;
    while (r->oldest != NULL)
        forget(r, r->oldest);
    replay_file_close(r);
    pthread_mutex_destroy(&r->mutex);
    free(r);
    *pr = NULL;
}

void replay_read_stats(struct replay *r, struct replay_stats *s)
{
    pthread_mutex_lock(&r->mutex);
    *s = (struct replay_stats){r->n_replies, r->bytes, r->n_remembered, r->n_found, r->n_unknown};
    pthread_mutex_unlock(&r->mutex);
}
