/* The MTP block: position t combines the main stream at t with the embedding of token t+1 and predicts token t+2. A row runs
 * as soon as token t+1 is known: within a step for all but the last row, for the last row in the next step (its stream is
 * kept in the sequence's stream ring) or at once when the caller names the next token. */
#include <assert.h>
#include <string.h>

#include "model/model_impl.h"

#include "base/mutant.h"

int mtp_check(const struct model *m, const struct step_item *it, struct err *e)
{
    if (!it->mtp)
        return HD_OK;
    const struct kv_seq *s = it->seq;
    if (!m->mtp)
        return err_set(e, HD_EUNSUPPORTED, "%s: no MTP block is prepared", m->w.ckpt.dir);
    if (it->next_token >= m->w.cfg.vocab_size)
        return err_set(e, HD_EARG, "next token id %d is outside the vocabulary of %d", it->next_token,
                       m->w.cfg.vocab_size);
    if (s->n_tokens - s->n_mtp >= STREAM_RING)
        return err_set(e, HD_EARG, "the MTP block has seen %lld of %lld tokens: ask for it from the first step on",
                       (long long)s->n_mtp, (long long)s->n_tokens);
    return HD_OK;
}

/* The last row may have been run with a guessed next token; when another one came, it runs again. */
static void settle_guess(const struct step_item *it)
{
    struct kv_seq *s = it->seq;
    if (s->n_mtp == s->n_tokens && s->n_mtp > 0 && s->mtp_next != it->tokens[0])
        s->n_mtp--;
}

/* Position after the last MTP row that this step can run. */
static int64_t mtp_end(const struct step_item *it)
{
    return it->seq->n_tokens + it->n_tokens - (it->next_token >= 0 ? 0 : 1);
}

/* Streams of earlier positions come from the ring, this step's from ws.x. */
static const float *stream_at(const struct model *m, const struct op_seq *s, const struct kv_seq *seq, int64_t pos)
{
    size_t dim = (size_t)m->kv.stream_dim;
    if (pos < s->pos0)
        return kv_seq_stream(seq, pos);
    return m->ws.x + (size_t)(s->first_row + (pos - s->pos0)) * dim;
}

static int32_t token_after(const struct step_item *it, int64_t pos)
{
    int64_t i = pos + 1 - it->seq->n_tokens;
    return i < it->n_tokens ? it->tokens[i] : it->next_token;
}

/* At most max_rows rows a pass; MTP rows of one step can exceed the step's rows by the rows left over before. */
struct cursor {
    int i_item;
    int64_t pos;
};

/* Fills mtp_rows and x_mtp with the streams of the next rows; false when none is left. */
static bool take_rows(struct model *m, const struct step_item *items, int n_items, struct cursor *at)
{
    struct rows *r = &m->mtp_rows;
    size_t bytes = (size_t)m->kv.stream_dim * sizeof(float);
    r->n = r->n_seqs = 0;
    for (; at->i_item < n_items && r->n < m->max_rows; at->i_item++, at->pos = -1) {
        const struct step_item *it = &items[at->i_item];
        if (!it->mtp)
            continue;
        int64_t end = mtp_end(it), pos = at->pos >= 0 ? at->pos : it->seq->n_mtp;
        int first = r->n;
        for (; pos < end && r->n < m->max_rows; pos++, r->n++) {
            m->dev->ops->download(m->dev, m->ws.x_mtp + (size_t)r->n * (size_t)m->kv.stream_dim,
                                  stream_at(m, &m->rows.seqs[at->i_item], it->seq, MUTANT(20) && pos > 0 ? pos - 1 : pos),
                                  bytes);
            r->tokens[r->n] = token_after(it, MUTANT(21) && pos > it->seq->n_tokens ? pos - 1 : pos);
            r->pos[r->n] = (int32_t)pos;
            m->mtp_pos[r->n] = pos;
            m->mtp_item[r->n] = at->i_item;
        }
        if (r->n > first) {
            r->owner[r->n_seqs] = it->seq;
            r->seqs[r->n_seqs++] = (struct op_seq){.first_row = first, .n_rows = r->n - first,
                                                   .pos0 = m->mtp_pos[first]};
        }
        if (pos < end) {
            at->pos = pos;
            break;
        }
    }
    return r->n > 0;
}

/* x = e_proj(norm(embed(next))) + h_proj(norm(stream)), the first term for all streams alike; then one block. */
static void mtp_block(struct model *m)
{
    const struct config *c = &m->w.cfg;
    const struct mtp_weights *w = &m->w.mtp;
    const struct ops *ops = m->dev->ops;
    struct rows *r = &m->mtp_rows;
    int n = r->n, streams = c->hc_mult, dim = c->hidden_size;
    ops->embed(m->dev, &(struct op_embed){.n = n, .streams = 1, .dim = dim, .tokens = r->tokens, .table = m->embed,
                                          .x = m->ws.y});
    ops->rmsnorm(m->dev, &(struct op_rmsnorm){.n = n, .dim = dim, .eps = c->rms_norm_eps, .x = m->ws.y,
                                              .w = w->enorm.data, .y = m->ws.y});
    ops->linear(m->dev, &(struct op_linear){.n = n, .w = m->mtp_e, .x = m->ws.y, .y = m->ws.a});
    ops->rmsnorm(m->dev, &(struct op_rmsnorm){.n = n * streams, .dim = dim, .eps = c->rms_norm_eps, .x = m->ws.x_mtp,
                                              .w = w->hnorm.data, .y = m->ws.x_mtp});
    ops->linear(m->dev, &(struct op_linear){.n = n * streams, .w = m->mtp_h, .x = m->ws.x_mtp, .y = m->ws.mtp_h});
    ops->add_rows(m->dev, &(struct op_add_rows){.n = n, .streams = streams, .dim = dim, .a = m->ws.a,
                                                .b = m->ws.mtp_h, .y = m->ws.x_mtp});
    forward_layer(m, &m->layers[c->n_layers], r, m->ws.x_mtp);
}

/* Streams that the next step may still need. */
static void keep_streams(struct model *m, const struct step_item *it, const struct op_seq *s)
{
    int first = s->n_rows > STREAM_RING ? s->n_rows - STREAM_RING : 0;
    for (int k = first; k < s->n_rows; k++)
        memcpy(kv_seq_stream(it->seq, s->pos0 + k), m->ws.x + (size_t)(s->first_row + k) * (size_t)m->kv.stream_dim,
               (size_t)m->kv.stream_dim * sizeof(float));
}

/* Appends the logits of this pass's rows that belong to the last n_logits (+1 left over) of their item. */
static void mtp_logits(struct model *m, const struct step_item *items, struct step_result *res)
{
    const struct config *c = &m->w.cfg;
    int n = 0;
    for (int i = 0; i < m->mtp_rows.n; i++) {
        const struct step_item *it = &items[m->mtp_item[i]];
        if (m->mtp_pos[i] < it->seq->n_tokens + it->n_tokens - it->n_logits - 1)
            continue;
        m->ws.pick[n] = i;
        m->mtp_out_pos[res->n_mtp + n] = m->mtp_pos[i];
        m->mtp_out_item[res->n_mtp + n++] = m->mtp_item[i];
    }
    if (n == 0)
        return;
    m->dev->ops->gather(m->dev, &(struct op_gather){.n = n, .dim = c->hc_mult * c->hidden_size, .rows = m->ws.pick,
                                                    .x = m->ws.x_mtp, .y = m->ws.head_x});
    forward_head(m, &m->w.mtp.head, n, m->ws.head_x,
                 m->ws.mtp_logits + (size_t)res->n_mtp * (size_t)c->vocab_size);
    res->mtp_logits = m->ws.mtp_logits;
    res->mtp_pos = m->mtp_out_pos;
    res->mtp_item = m->mtp_out_item;
    res->n_mtp += n;
}

int mtp_step(struct model *m, const struct step_item *items, int n_items, struct step_result *res, struct err *e)
{
    size_t n_logits = 0;
    for (int i = 0; i < n_items; i++)
        if (items[i].mtp) {
            n_logits += (size_t)items[i].n_logits + 1;
            settle_guess(&items[i]);
        }
    if (n_logits == 0)
        return HD_OK;
    int rc = model_logits_room(m, &m->ws.mtp_logits, &m->ws.n_mtp_cap, n_logits, e);
    if (rc != HD_OK)
        return rc;
    struct cursor at = {0, -1};
    while (take_rows(m, items, n_items, &at)) {
        mtp_block(m);
        mtp_logits(m, items, res);
    }
    for (int i = 0; i < n_items; i++)
        if (items[i].mtp) {
            keep_streams(m, &items[i], &m->rows.seqs[i]);
            items[i].seq->n_mtp = mtp_end(&items[i]);
            items[i].seq->mtp_next = items[i].next_token;
        }
    return HD_OK;
}
