/* The DSpark drafter: blocks of window layers that guess several tokens at once. Each stage keeps a window of rows made from
 * the main model's streams at some layers; a draft's positions see that window and each other, and a low-rank term of the
 * token before (the Markov head) is added to their logits one after another. Model specification 6.2. */
#include <stdlib.h>
#include <string.h>

#include "model/model_impl.h"

struct dspark {
    int n_stages, n_block, rank;
    struct layer_ops *stages;   /* in the model's list, after the main layers */
    struct wmat main_proj, markov_w1, markov_w2, confidence;
    float *hidden;              /* [max_rows][targets*D] mean streams after the target layers */
    float *main_x;              /* [max_rows][D] what the stages' windows are made of */
    struct rows rows;           /* of a draft */
    struct op_seq *seqs;        /* shares of a step whose sequences draft */
    struct kv_seq **owners;
    float *y, *logits, *term;   /* [block][D], [block][V], [V] */
    float *joint;               /* [D+rank] a position's y, then the Markov row */
    int32_t *ids;               /* [block] */
    float *scores;              /* [block] */
};

/* ---------------------------------------------------------------- opening */

static int alloc_all(struct model *m, struct dspark *s, struct err *e)
{
    const struct config *c = &m->w.cfg;
    size_t N = (size_t)m->max_rows, D = (size_t)c->hidden_size, G = (size_t)s->n_block, V = (size_t)c->vocab_size;
    struct {
        void **at;
        size_t n;
    } needs[] = {
        {(void **)&s->hidden, N * D * (size_t)c->n_dspark_targets},
        {(void **)&s->main_x, N * D},
        {(void **)&s->rows.tokens, G},
        {(void **)&s->rows.pos, G},
        {(void **)&s->y, G * D},
        {(void **)&s->logits, G * V},
        {(void **)&s->term, V},
        {(void **)&s->joint, D + (size_t)s->rank},
        {(void **)&s->ids, G},
        {(void **)&s->scores, G},
    };
    for (size_t i = 0; i < COUNT_OF(needs); i++) {
        *needs[i].at = m->dev->ops->alloc(m->dev, needs[i].n * sizeof(float));
        if (*needs[i].at == NULL)
            return err_set(e, HD_ENOMEM, "no memory for the DSpark stages (%zu values)", needs[i].n);
    }
    return HD_OK;
}

int dspark_open(struct model *m, struct layer_ops *stages, struct err *e)
{
    const struct dspark_weights *w = &m->w.dspark;
    struct dspark *s = m->dspark = xcalloc(1, sizeof *s);
    s->n_stages = w->n_stages;
    s->n_block = m->w.cfg.dspark_block;
    s->rank = m->w.cfg.dspark_markov_rank;
    s->stages = stages;
    s->main_proj = wmat_of(&w->main_proj);
    s->markov_w1 = wmat_of(&w->markov_w1);
    s->markov_w2 = wmat_of(&w->markov_w2);
    s->confidence = wmat_of(&w->confidence);
    s->rows.seqs = xcalloc(1, sizeof *s->rows.seqs);
    s->rows.owner = xcalloc(1, sizeof *s->rows.owner);
    s->seqs = xcalloc((size_t)m->max_rows, sizeof *s->seqs);
    s->owners = xcalloc((size_t)m->max_rows, sizeof *s->owners);
    if (s->n_block > m->max_rows)
        return err_set(e, HD_EARG, "drafts of %d positions do not fit steps of %d rows", s->n_block, m->max_rows);
    return alloc_all(m, s, e);
}

void dspark_close(struct model *m)
{
    struct dspark *s = m->dspark;
    if (s == NULL)
        return;
    void *all[] = {s->hidden, s->main_x, s->rows.tokens, s->rows.pos, s->y, s->logits, s->term, s->joint, s->ids,
                   s->scores};
    for (size_t i = 0; i < COUNT_OF(all); i++)
        m->dev->ops->release(m->dev, all[i]);
    free(s->rows.seqs);
    free(s->rows.owner);
    free(s->seqs);
    free(s->owners);
    free(s);
    m->dspark = NULL;
}

/* ---------------------------------------------------------------- the windows, with every step */

void dspark_take_layer(struct model *m, int layer)
{
    const struct config *c = &m->w.cfg;
    int dim = c->hidden_size;
    for (int i = 0; m->dspark != NULL && i < c->n_dspark_targets; i++)
        if (c->dspark_target[i] == layer)
            m->dev->ops->stream_mean(m->dev, &(struct op_stream_mean){.n = m->rows.n, .streams = c->hc_mult, .dim = dim,
                                                                      .stride = dim * c->n_dspark_targets,
                                                                      .x = m->ws.x,
                                                                      .y = m->dspark->hidden + (size_t)i * (size_t)dim});
}

/* The shares of this step whose sequences draft; they keep their places in the step's rows. */
static int drafting(struct model *m, const struct step_item *items, int n_items)
{
    struct dspark *s = m->dspark;
    int n = 0;
    for (int i = 0; i < n_items; i++)
        if (items[i].dspark) {
            s->seqs[n] = m->rows.seqs[i];
            s->seqs[n].tails = NULL;
            s->owners[n++] = items[i].seq;
        }
    return n;
}

int dspark_check(const struct model *m, const struct step_item *it, struct err *e)
{
    if (it->dspark && m->dspark == NULL)
        return err_set(e, HD_EUNSUPPORTED, "%s: no DSpark stages are prepared", m->w.ckpt.dir);
    if (it->dspark && it->seq->n_dspark != it->seq->n_tokens)
        return err_set(e, HD_EARG, "the DSpark stages have seen %lld of %lld tokens: ask for them from the first step on",
                       (long long)it->seq->n_dspark, (long long)it->seq->n_tokens);
    return HD_OK;
}

void dspark_step(struct model *m, const struct step_item *items, int n_items)
{
    struct dspark *s = m->dspark;
    const struct config *c = &m->w.cfg;
    const struct ops *ops = m->dev->ops;
    int n_seqs = s == NULL ? 0 : drafting(m, items, n_items), n = m->rows.n;
    if (n_seqs == 0)
        return;
    ops->linear(m->dev, &(struct op_linear){.n = n, .w = s->main_proj, .x = s->hidden, .y = s->main_x});
    ops->rmsnorm(m->dev, &(struct op_rmsnorm){.n = n, .dim = c->hidden_size, .eps = c->rms_norm_eps, .x = s->main_x,
                                              .w = m->w.dspark.main_norm.data, .y = s->main_x});
    for (int k = 0; k < s->n_stages; k++) {
        forward_window_rows(m, &s->stages[k], &m->rows, s->main_x);
        for (int i = 0; i < n_seqs; i++)
            s->seqs[i].kv = kv_seq_view(s->owners[i], s->stages[k].index);
        ops->kv_put(m->dev, &(struct op_kv_put){.n_seqs = n_seqs, .window = c->window, .seqs = s->seqs,
                                                .dims = m->kv.dims, .kv = m->ws.kv});
    }
    for (int i = 0; i < n_items; i++)
        if (items[i].dspark)
            items[i].seq->n_dspark = items[i].seq->n_tokens + items[i].n_tokens;
}

/* ---------------------------------------------------------------- a draft */

static void lay_out(struct model *m, struct kv_seq *seq, int32_t next)
{
    struct dspark *s = m->dspark;
    struct rows *r = &s->rows;
    r->n = s->n_block;
    r->n_seqs = 1;
    r->block = true;
    r->owner[0] = seq;
    r->seqs[0] = (struct op_seq){.n_rows = r->n, .pos0 = seq->n_tokens};
    for (int i = 0; i < r->n; i++) {
        r->tokens[i] = i == 0 ? next : m->w.cfg.dspark_noise_id;
        r->pos[i] = (int32_t)(seq->n_tokens + i);
    }
}

static int32_t best_of(const float *x, int n)
{
    int best = 0;
    for (int i = 1; i < n; i++)
        best = x[i] > x[best] ? i : best;
    return best;
}

/* The Markov row of the token before goes into the logits of position i and into its confidence. */
static void finish_position(struct model *m, int i, int32_t before)
{
    struct dspark *s = m->dspark;
    const struct config *c = &m->w.cfg;
    const struct ops *ops = m->dev->ops;
    size_t dim = (size_t)c->hidden_size, n_vocab = (size_t)c->vocab_size;
    float *row = s->joint + dim, *logits = s->logits + (size_t)i * n_vocab;
    memcpy(s->joint, s->y + (size_t)i * dim, dim * sizeof *s->joint);
    ops->embed(m->dev, &(struct op_embed){.n = 1, .streams = 1, .dim = s->rank, .tokens = &before,
                                          .table = s->markov_w1, .x = row});
    ops->linear(m->dev, &(struct op_linear){.n = 1, .w = s->markov_w2, .keep_f32 = true, .x = row, .y = s->term});
    for (size_t v = 0; v < n_vocab; v++)
        logits[v] += s->term[v];
    ops->linear(m->dev, &(struct op_linear){.n = 1, .w = s->confidence, .keep_f32 = true, .x = s->joint,
                                            .y = &s->scores[i]});
    s->ids[i] = best_of(logits, c->vocab_size);
}

static int check_draft(const struct model *m, const struct kv_seq *seq, int32_t next, struct err *e)
{
    if (m->dspark == NULL)
        return err_set(e, HD_EUNSUPPORTED, "%s: no DSpark stages are prepared", m->w.ckpt.dir);
    if (seq->n_tokens < 1 || seq->n_dspark != seq->n_tokens)
        return err_set(e, HD_EARG, "no draft: the DSpark stages have seen %lld of %lld tokens", (long long)seq->n_dspark,
                       (long long)seq->n_tokens);
    if (next < 0 || next >= m->w.cfg.vocab_size)
        return err_set(e, HD_EARG, "next token id %d is outside the vocabulary of %d", next, m->w.cfg.vocab_size);
    return HD_OK;
}

int model_draft(struct model *m, struct kv_seq *seq, int32_t next, struct draft *d, struct err *e)
{
    const struct config *c = &m->w.cfg;
    int rc = check_draft(m, seq, next, e);
    if (rc != HD_OK)
        return rc;
    struct dspark *s = m->dspark;
    lay_out(m, seq, next);
    m->dev->ops->embed(m->dev, &(struct op_embed){.n = s->n_block, .streams = c->hc_mult, .dim = c->hidden_size,
                                                  .tokens = s->rows.tokens, .table = m->embed, .x = m->ws.x});
    for (int k = 0; k < s->n_stages; k++)
        forward_layer(m, &s->stages[k], &s->rows, m->ws.x);
    forward_hc_head(m, &m->w.dspark.head, s->n_block, m->ws.x);
    memcpy(s->y, m->ws.head_y, (size_t)s->n_block * (size_t)c->hidden_size * sizeof *s->y);
    forward_unembed(m, &m->w.dspark.head, s->n_block, s->logits);
    for (int i = 0; i < s->n_block; i++)
        finish_position(m, i, i == 0 ? next : s->ids[i - 1]);
    *d = (struct draft){s->n_block, s->ids, s->logits, s->scores};
    return m->dev->ops->sync(m->dev, e);
}
