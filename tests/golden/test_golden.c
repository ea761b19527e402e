/* The same numbers as DeepSeek's own code: runs a golden checkpoint folder and compares every quantity it stores.
 *
 *   test_golden [DIR...]     without arguments: the shipped cases
 *
 * One row a quantity: name, largest difference, rms difference (relative rms where marked), limit, ok. Rows are TAP lines.
 * An F32 case (or the _f32 set of a quantised one) is compared in `exact`: every logit within 2e-4, selections equal, in
 * one prefill and token by token. A quantised case is also compared in `reference`: each sub-layer on its stored inputs
 * within the strict limits, end to end within the loose ones (docs/TESTING.md says why). The first layer and sub-layer that
 * differ are named. */
#include <assert.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "golden_data.h"
#include "model/model_impl.h"
#include "num/num.h"

static const double LIMIT_EXACT = 2e-4, LIMIT_STREAM = 2e-4, LIMIT_ATTN = 5e-3, LIMIT_MOE = 2e-3, LIMIT_HC = 2e-3,
                    LIMIT_HEAD = 1e-4, LIMIT_LOOSE_RMS = 0.30, LIMIT_LOOSE_MTP = 0.45,
                    LIMIT_ARGMAX = 0.70;

struct golden {
    const char *name;
    char *dir;
    struct checkpoint ex; /* expected.safetensors */
    struct model *m;
    int n_tokens, n_pos;
    int32_t *tokens;
    int64_t *pos;
    const char *suffix; /* of the expected names: "" or "_f32" */
    int n_rows, n_bad;
    char first_bad[256];
};

/* ---------------------------------------------------------------- expected tensors */

static const struct tensor *expected(const struct golden *g, const char *fmt, int layer)
{
    char name[128];
    snprintf(name, sizeof name, fmt, g->suffix, layer);
    return checkpoint_find(&g->ex, name);
}

static float value_at(const struct tensor *t, size_t i)
{
    if (t->dtype == DT_BF16) {
        uint16_t h;
        memcpy(&h, t->data + 2 * i, 2);
        return f32_from_bf16(h);
    }
    float f;
    assert(t->dtype == DT_F32);
    memcpy(&f, t->data + 4 * i, 4);
    return f;
}

static int64_t int_at(const struct tensor *t, size_t i)
{
    int64_t v;
    assert(t->dtype == DT_I64);
    memcpy(&v, t->data + 8 * i, 8);
    return v;
}

static size_t count_of(const struct tensor *t)
{
    size_t n = 1;
    for (int i = 0; i < t->n_dims; i++)
        n *= (size_t)t->dim[i];
    return n;
}

static float *values_of(const struct tensor *t)
{
    size_t n = count_of(t);
    float *v = xcalloc(n, sizeof *v);
    for (size_t i = 0; i < n; i++)
        v[i] = value_at(t, i);
    return v;
}

/* ---------------------------------------------------------------- reporting */

struct diff {
    double max, rms, rel_rms;
    bool finite;
};

static struct diff diff_of(const float *got, const struct tensor *want, size_t n)
{
    struct diff d = {.finite = true};
    double sum = 0, norm = 0;
    for (size_t i = 0; i < n; i++) {
        double w = value_at(want, i), e = (double)got[i] - w;
        d.finite = d.finite && isfinite(got[i]);
        d.max = fabs(e) > d.max ? fabs(e) : d.max;
        sum += e * e;
        norm += w * w;
    }
    d.rms = sqrt(sum / (double)n);
    d.rel_rms = norm > 0 ? sqrt(sum / norm) : d.rms;
    return d;
}

static void row(struct golden *g, bool ok, const char *what, const char *detail)
{
    g->n_rows++;
    printf("%sok %d - %-12s %-34s %s\n", ok ? "" : "not ", g->n_rows, g->name, what, detail);
    if (!ok && g->n_bad++ == 0)
        snprintf(g->first_bad, sizeof g->first_bad, "%s", what);
    fflush(stdout);
}

static void row_diff(struct golden *g, const char *what, struct diff d, double limit, bool relative)
{
    char detail[160];
    double v = relative ? d.rel_rms : d.max;
    snprintf(detail, sizeof detail, "max %.2e  rms %.2e  relative rms %.2e  limit %s %.0e", d.max, d.rms, d.rel_rms,
             relative ? "relative rms" : "max", limit);
    row(g, d.finite && v <= limit, what, detail);
}

static void row_count(struct golden *g, const char *what, long wrong, long total, double allowed)
{
    char detail[96];
    snprintf(detail, sizeof detail, "%ld of %ld differ  limit %.0f %%", wrong, total, 100 * allowed);
    row(g, (double)wrong <= allowed * (double)total, what, detail);
}

/* ---------------------------------------------------------------- whole runs, watched */

struct capture { /* everything a run says about the listed positions */
    struct golden *g;
    int64_t first_pos; /* position of row 0 of the current step */
    float **stream;    /* [layers][n_pos * S*D] */
    int32_t **topk, **experts;
};

static int listed(const struct golden *g, int64_t pos)
{
    for (int i = 0; i < g->n_pos; i++)
        if (g->pos[i] == pos)
            return i;
    return -1;
}

static void store(const struct capture *c, void *to, const void *from, int n, int dim)
{
    for (int r = 0; r < n; r++) {
        int i = listed(c->g, c->first_pos + r);
        if (i >= 0)
            memcpy((char *)to + (size_t)i * (size_t)dim * 4, (const char *)from + (size_t)r * (size_t)dim * 4,
                   (size_t)dim * 4);
    }
}

static void on_watch(void *arg, enum watch_point p, int layer, const float *v, const int32_t *ints, int n, int dim)
{
    struct capture *c = arg;
    if (layer >= model_config(c->g->m)->n_layers)
        return;
    size_t bytes = (size_t)c->g->n_pos * (size_t)dim;
    if (p == WATCH_STREAM) {
        if (c->stream[layer] == NULL)
            c->stream[layer] = xcalloc(bytes, 4);
        store(c, c->stream[layer], v, n, dim);
    } else if (p == WATCH_TOPK || p == WATCH_EXPERTS) {
        int32_t **to = p == WATCH_TOPK ? &c->topk[layer] : &c->experts[layer];
        if (*to == NULL)
            *to = xcalloc(bytes, 4);
        store(c, *to, ints, n, dim);
    }
}

static struct capture capture_open(struct golden *g)
{
    size_t n = LAYERS_MAX;
    return (struct capture){.g = g, .stream = xcalloc(n, sizeof(float *)), .topk = xcalloc(n, sizeof(int32_t *)),
                            .experts = xcalloc(n, sizeof(int32_t *))};
}

static void capture_close(struct capture *c)
{
    for (int i = 0; i < LAYERS_MAX; i++) {
        free(c->stream[i]);
        free(c->topk[i]);
        free(c->experts[i]);
    }
    free(c->stream);
    free(c->topk);
    free(c->experts);
}

/* Feeds the whole sequence in chunks of `chunk`; logits [n_pos][V] and MTP logits [n_mtp][V] at the listed positions. */
static void run_all(struct golden *g, int chunk, struct capture *c, float *logits, const struct tensor *mtp_pos, float *mtp)
{
    struct kv_seq *s;
    struct err e = {0};
    size_t V = (size_t)model_config(g->m)->vocab_size;
    if (kv_seq_open(&s, g->m, g->n_tokens, &e) != HD_OK)
        abort();
    if (c != NULL)
        model_watch(g->m, (struct watch){on_watch, c});
    for (int at = 0; at < g->n_tokens; at += chunk) {
        int n = g->n_tokens - at < chunk ? g->n_tokens - at : chunk;
        struct step_item it = {.seq = s, .tokens = g->tokens + at, .n_tokens = n, .n_logits = n, .mtp = mtp != NULL,
                               .next_token = -1};
        struct step_result r;
        if (c != NULL)
            c->first_pos = at;
        if (model_step(g->m, &it, 1, &r, &e) != HD_OK) {
            printf("not ok - %s\n", e.msg);
            abort();
        }
        for (int k = 0; k < n; k++) {
            int i = listed(g, at + k);
            if (i >= 0)
                memcpy(logits + (size_t)i * V, r.logits + (size_t)k * V, V * sizeof(float));
        }
        for (int k = 0; mtp != NULL && k < r.n_mtp; k++)
            for (size_t i = 0; i < count_of(mtp_pos); i++)
                if (int_at(mtp_pos, i) == r.mtp_pos[k])
                    memcpy(mtp + i * V, r.mtp_logits + (size_t)k * V, V * sizeof(float));
    }
    model_watch(g->m, (struct watch){NULL, NULL});
    kv_seq_close(&s);
}

static void compare_ids(struct golden *g, const char *what, const int32_t *got, const struct tensor *t, double allowed)
{
    if (t == NULL || got == NULL)
        return;
    long wrong = 0, total = 0;
    size_t k = (size_t)t->dim[1];
    for (size_t i = 0; i < (size_t)t->dim[0]; i++)
        for (size_t a = 0; a < k; a++) { /* sets: count wanted ids that are missing */
            int64_t want = int_at(t, i * k + a);
            bool found = want < 0;
            for (size_t b = 0; b < k && !found; b++)
                found = got[i * k + b] == want;
            total += want >= 0;
            wrong += !found;
        }
    row_count(g, what, wrong, total, allowed);
}

static void compare_capture(struct golden *g, const struct capture *c)
{
    char what[64];
    for (int l = 0; l < model_config(g->m)->n_layers; l++) {
        const struct tensor *t = expected(g, "stream%s.%02d", l);
        if (t != NULL) {
            snprintf(what, sizeof what, "exact stream layer %d", l);
            row_diff(g, what, diff_of(c->stream[l], t, count_of(t)), LIMIT_STREAM, false);
        }
        snprintf(what, sizeof what, "exact selected entries layer %d", l);
        compare_ids(g, what, c->topk[l], expected(g, "topk%s.%02d", l), 0);
        snprintf(what, sizeof what, "exact experts layer %d", l);
        compare_ids(g, what, c->experts[l], expected(g, "experts%s.%02d", l), 0);
    }
}

static void check_exact(struct golden *g)
{
    size_t V = (size_t)model_config(g->m)->vocab_size, n = (size_t)g->n_pos * V;
    const struct tensor *logits = expected(g, "logits%s", 0), *mtp_pos = checkpoint_find(&g->ex, "mtp_positions");
    const struct tensor *mtp = expected(g, "mtp_logits%s", 0);
    bool has_mtp = mtp != NULL && model_has_mtp(g->m);
    float *got = xcalloc(n, sizeof *got), *got_mtp = has_mtp ? xcalloc(count_of(mtp), sizeof *got_mtp) : NULL;
    struct capture c = capture_open(g);
    run_all(g, g->n_tokens, &c, got, mtp_pos, got_mtp);
    compare_capture(g, &c);
    capture_close(&c);
    row_diff(g, "exact logits, one prefill", diff_of(got, logits, n), LIMIT_EXACT, false);
    if (has_mtp)
        row_diff(g, "exact MTP logits", diff_of(got_mtp, mtp, count_of(mtp)), LIMIT_EXACT, false);
    memset(got, 0, n * sizeof *got);
    run_all(g, 1, NULL, got, mtp_pos, got_mtp);
    const struct tensor *decode = expected(g, "logits_decode%s", 0);
    row_diff(g, "exact logits, token by token", diff_of(got, decode != NULL ? decode : logits, n), LIMIT_EXACT, false);
    if (has_mtp)
        row_diff(g, "exact MTP logits, token by token", diff_of(got_mtp, mtp, count_of(mtp)), LIMIT_EXACT, false);
    free(got);
    free(got_mtp);
}

/* ---------------------------------------------------------------- reference: sub-layers on stored inputs */

/* Rows of the workspace stand for the listed positions (n = n_pos) or for the whole sequence. */
static void set_rows(struct golden *g, struct kv_seq *s, int n, bool all)
{
    struct rows *r = &g->m->rows;
    r->n = n;
    r->n_seqs = 1;
    r->owner[0] = s;
    r->seqs[0] = (struct op_seq){.first_row = 0, .n_rows = n, .pos0 = 0};
    for (int i = 0; i < n; i++) {
        r->pos[i] = (int32_t)(all ? i : g->pos[i]);
        r->tokens[i] = g->tokens[r->pos[i]];
    }
}

static void pick_rows(const struct golden *g, const float *all, int dim, float *out)
{
    for (int i = 0; i < g->n_pos; i++)
        memcpy(out + (size_t)i * (size_t)dim, all + (size_t)g->pos[i] * (size_t)dim, (size_t)dim * sizeof *out);
}

struct chosen {
    int32_t *topk, *experts;
};

static void on_chosen(void *arg, enum watch_point p, int layer, const float *v, const int32_t *ints, int n, int dim)
{
    (void)layer;
    (void)v;
    struct chosen *c = arg;
    int32_t **to = p == WATCH_TOPK ? &c->topk : p == WATCH_EXPERTS ? &c->experts : NULL;
    if (to == NULL)
        return;
    free(*to);
    *to = xcalloc((size_t)n * (size_t)dim, sizeof **to);
    memcpy(*to, ints, (size_t)n * (size_t)dim * sizeof **to);
}

static void sub_attention(struct golden *g, int l, const struct tensor *in)
{
    const struct config *c = model_config(g->m);
    size_t D = (size_t)c->hidden_size, k = (size_t)c->index_topk;
    struct kv_seq *s;
    struct err e = {0};
    if (kv_seq_open(&s, g->m, g->n_tokens, &e) != HD_OK || kv_seq_reserve(s, g->n_tokens, &e) != HD_OK)
        abort();
    float *a = values_of(in), *out = xcalloc((size_t)g->n_tokens * D, sizeof *out);
    float *at = xcalloc((size_t)g->n_pos * D, sizeof *at);
    struct chosen ch = {0};
    model_watch(g->m, (struct watch){on_chosen, &ch});
    set_rows(g, s, g->n_tokens, true);
    forward_attention(g->m, &g->m->layers[l], &g->m->rows, a, out);
    pick_rows(g, out, (int)D, at);
    char what[64];
    snprintf(what, sizeof what, "reference attention layer %d", l);
    const struct tensor *want = expected(g, "attn_out%s.%02d", l);
    row_diff(g, what, diff_of(at, want, count_of(want)), LIMIT_ATTN, true);
    if (ch.topk != NULL && expected(g, "topk%s.%02d", l) != NULL) {
        int32_t *sel = xcalloc((size_t)g->n_pos * k, sizeof *sel);
        for (int i = 0; i < g->n_pos; i++)
            memcpy(sel + (size_t)i * k, ch.topk + (size_t)g->pos[i] * k, k * sizeof *sel);
        snprintf(what, sizeof what, "reference entries layer %d", l);
        compare_ids(g, what, sel, expected(g, "topk%s.%02d", l), 0.02);
        free(sel);
    }
    model_watch(g->m, (struct watch){NULL, NULL});
    free(ch.topk);
    free(a);
    free(out);
    free(at);
    kv_seq_close(&s);
}

static void sub_ffn(struct golden *g, int l, const float *f)
{
    const struct tensor *want = expected(g, "ffn_out%s.%02d", l);
    float *out = xcalloc(count_of(want), sizeof *out);
    struct chosen ch = {0};
    char what[64];
    model_watch(g->m, (struct watch){on_chosen, &ch});
    set_rows(g, NULL, g->n_pos, false);
    forward_moe(g->m, &g->m->layers[l], &g->m->rows, f, out);
    model_watch(g->m, (struct watch){NULL, NULL});
    snprintf(what, sizeof what, "reference MoE layer %d", l);
    row_diff(g, what, diff_of(out, want, count_of(want)), LIMIT_MOE, true);
    snprintf(what, sizeof what, "reference experts layer %d", l);
    compare_ids(g, what, ch.experts, expected(g, "experts%s.%02d", l), 0.01);
    free(ch.experts);
    free(out);
}

/* Stored stream before the layer -> attention input; stored outputs -> FFN input and the stream after. */
static void sub_hc(struct golden *g, int l, float *x)
{
    const struct config *c = model_config(g->m);
    const struct layer_ops *lo = &g->m->layers[l];
    int n = g->n_pos;
    size_t D = (size_t)c->hidden_size, size = (size_t)n * D;
    float *a = xcalloc(size, sizeof *a);
    char what[64];
    const struct tensor *in = expected(g, "attn_in%s.%02d", l);
    forward_hc_pre(g->m, &lo->w->hc_attn, &lo->w->attn_norm, n, x, a);
    if (in != NULL) {
        double sum = 0, norm = 0;
        for (int i = 0; i < n; i++)
            for (size_t d = 0; d < D; d++) {
                double w = value_at(in, (size_t)g->pos[i] * D + d), df = a[(size_t)i * D + d] - w;
                sum += df * df;
                norm += w * w;
            }
        snprintf(what, sizeof what, "reference hc_pre + norm layer %d", l);
        row_diff(g, what, (struct diff){.rel_rms = sqrt(sum / norm), .finite = true}, LIMIT_HC, true);
    }
    float *o = values_of(expected(g, "attn_out%s.%02d", l));
    forward_hc_post(g->m, n, o, x);
    free(o);
    forward_hc_pre(g->m, &lo->w->hc_ffn, &lo->w->ffn_norm, n, x, a);
    const struct tensor *f = expected(g, "ffn_in%s.%02d", l), *st = expected(g, "stream%s.%02d", l);
    snprintf(what, sizeof what, "reference hc_post, hc_pre + norm layer %d", l);
    row_diff(g, what, diff_of(a, f, size), LIMIT_HC, true);
    o = values_of(expected(g, "ffn_out%s.%02d", l));
    forward_hc_post(g->m, n, o, x);
    snprintf(what, sizeof what, "reference hc_post layer %d", l);
    row_diff(g, what, diff_of(x, st, count_of(st)), LIMIT_HC, true);
    free(o);
    free(a);
}

static void check_sublayers(struct golden *g)
{
    const struct config *c = model_config(g->m);
    size_t SD = (size_t)c->hc_mult * (size_t)c->hidden_size;
    float *x = xcalloc((size_t)g->n_pos * SD, sizeof *x);
    set_rows(g, NULL, g->n_pos, false);
    g->m->dev->ops->embed(g->m->dev, &(struct op_embed){.n = g->n_pos, .streams = c->hc_mult, .dim = c->hidden_size,
                                                        .tokens = g->m->rows.tokens, .table = g->m->embed, .x = x});
    for (int l = 0; l < c->n_layers; l++) {
        const struct tensor *in = expected(g, "attn_in%s.%02d", l), *f = expected(g, "ffn_in%s.%02d", l);
        sub_hc(g, l, x);
        if (in != NULL)
            sub_attention(g, l, in);
        float *ffn = values_of(f);
        sub_ffn(g, l, ffn);
        free(ffn);
        free(x);
        x = values_of(expected(g, "stream%s.%02d", l));
    }
    const struct tensor *logits = expected(g, "logits%s", 0);
    float *got = xcalloc(count_of(logits), sizeof *got);
    forward_head(g->m, &g->m->w.out, g->n_pos, x, got);
    row_diff(g, "reference head", diff_of(got, logits, count_of(logits)), LIMIT_HEAD, false);
    free(got);
    free(x);
}

static void check_loose(struct golden *g)
{
    const struct tensor *t = expected(g, "logits%s", 0);
    size_t V = (size_t)model_config(g->m)->vocab_size, n = count_of(t);
    float *got = xcalloc(n, sizeof *got);
    const struct tensor *mtp_pos = checkpoint_find(&g->ex, "mtp_positions"), *mtp = expected(g, "mtp_logits%s", 0);
    bool has_mtp = mtp != NULL && model_has_mtp(g->m);
    float *got_mtp = has_mtp ? xcalloc(count_of(mtp), sizeof *got_mtp) : NULL;
    run_all(g, g->n_tokens, NULL, got, mtp_pos, got_mtp);
    struct diff d = diff_of(got, t, n);
    char detail[128];
    if (has_mtp) {
        struct diff dm = diff_of(got_mtp, mtp, count_of(mtp));
        snprintf(detail, sizeof detail, "rms %.3f  limit rms %.2f", dm.rms, LIMIT_LOOSE_MTP);
        row(g, dm.finite && dm.rms <= LIMIT_LOOSE_MTP, "reference MTP logits end to end", detail);
        free(got_mtp);
    }
    snprintf(detail, sizeof detail, "rms %.3f  limit rms %.2f", d.rms, LIMIT_LOOSE_RMS);
    row(g, d.finite && d.rms <= LIMIT_LOOSE_RMS, "reference logits end to end", detail);
    long same = 0;
    for (int i = 0; i < g->n_pos; i++) {
        size_t a = 0, b = 0;
        for (size_t k = 1; k < V; k++) {
            a = got[(size_t)i * V + k] > got[(size_t)i * V + a] ? k : a;
            b = value_at(t, (size_t)i * V + k) > value_at(t, (size_t)i * V + b) ? k : b;
        }
        same += a == b;
    }
    snprintf(detail, sizeof detail, "%ld of %d agree  limit %.0f %%", same, g->n_pos, 100 * LIMIT_ARGMAX);
    row(g, (double)same >= LIMIT_ARGMAX * g->n_pos, "reference argmax end to end", detail);
    free(got);
}

/* ---------------------------------------------------------------- DSpark */

/* A draft after positions 0..p, fed in chunks: the windows of the stages must not depend on them. */
static void draft_after(struct golden *g, int64_t p, int chunk, int32_t next, struct draft *d)
{
    struct kv_seq *s;
    struct err e = {0};
    int rc = kv_seq_open(&s, g->m, g->n_tokens, &e);
    for (int64_t at = 0; at <= p && rc == HD_OK; at += chunk) {
        struct step_item it = {.seq = s, .tokens = g->tokens + at, .n_tokens = p + 1 - at < chunk ? (int)(p + 1 - at) : chunk,
                               .next_token = -1, .dspark = true};
        rc = model_step(g->m, &it, 1, NULL, &e);
    }
    if (rc == HD_OK)
        rc = model_draft(g->m, s, next, d, &e);
    if (rc != HD_OK) {
        printf("not ok - %s\n", e.msg);
        abort();
    }
    kv_seq_close(&s);
}

static void check_drafts(struct golden *g, const struct tensor *positions, int chunk)
{
    const struct tensor *next = checkpoint_find(&g->ex, "dspark_next"), *ids = checkpoint_find(&g->ex, "dspark_ids");
    const struct tensor *logits = checkpoint_find(&g->ex, "dspark_logits");
    const struct tensor *confidence = checkpoint_find(&g->ex, "dspark_confidence");
    size_t n = count_of(positions), block = count_of(ids) / n, row_size = count_of(logits) / n;
    float *got = xcalloc(count_of(logits), sizeof *got), *scores = xcalloc(n * block, sizeof *scores);
    long wrong = 0;
    for (size_t i = 0; i < n; i++) {
        struct draft d;
        draft_after(g, int_at(positions, i), chunk, (int32_t)int_at(next, i), &d);
        assert(d.n == (int)block);
        memcpy(got + i * row_size, d.logits, row_size * sizeof *got);
        memcpy(scores + i * block, d.confidence, block * sizeof *scores);
        for (size_t k = 0; k < block; k++)
            wrong += d.ids[k] != int_at(ids, i * block + k);
    }
    row_count(g, chunk == 1 ? "exact drafts, token by token" : "exact drafts", wrong, (long)(n * block), 0);
    row_diff(g, "exact draft logits", diff_of(got, logits, count_of(logits)), LIMIT_EXACT, false);
    row_diff(g, "exact draft confidence", diff_of(scores, confidence, n * block), LIMIT_EXACT, false);
    free(got);
    free(scores);
}

/* ---------------------------------------------------------------- a case */

static bool open_model(struct golden *g, enum numerics n)
{
    struct model_options o;
    struct err e = {0};
    model_options_init(&o);
    o.numerics = n;
    o.max_rows = g->n_tokens;
    if (model_open(&g->m, g->dir, &o, NULL, &e) == HD_OK)
        return true;
    row(g, false, "open", e.msg);
    return false;
}

static bool read_expected(struct golden *g)
{
    struct err e = {0};
    char *path = path_join(g->dir, "expected.safetensors");
    int rc = checkpoint_open_file(&g->ex, path, true, &e);
    free(path);
    const struct tensor *tok = rc == HD_OK ? checkpoint_find(&g->ex, "tokens") : NULL;
    const struct tensor *pos = rc == HD_OK ? checkpoint_find(&g->ex, "positions") : NULL;
    if (tok == NULL || pos == NULL) {
        row(g, false, "expected.safetensors", rc != HD_OK ? e.msg : "no tensors 'tokens' and 'positions'");
        return false;
    }
    g->n_tokens = (int)count_of(tok);
    g->n_pos = (int)count_of(pos);
    g->tokens = xcalloc((size_t)g->n_tokens, sizeof *g->tokens);
    g->pos = xcalloc((size_t)g->n_pos, sizeof *g->pos);
    for (int i = 0; i < g->n_tokens; i++)
        g->tokens[i] = (int32_t)int_at(tok, (size_t)i);
    for (int i = 0; i < g->n_pos; i++)
        g->pos[i] = int_at(pos, (size_t)i);
    return true;
}

static int run_case(const char *dir, int *n_rows)
{
    const char *slash = strrchr(dir, '/');
    struct golden g = {.name = slash != NULL && slash[1] != '\0' ? slash + 1 : dir, .dir = xstrdup(dir), .suffix = "",
                       .n_rows = *n_rows};
    if (read_expected(&g)) {
        bool quantised = checkpoint_find(&g.ex, "logits_f32") != NULL;
        g.suffix = quantised ? "_f32" : "";
        if (open_model(&g, NUM_EXACT)) {
            check_exact(&g);
            const struct tensor *drafts = checkpoint_find(&g.ex, "dspark_positions");
            if (drafts != NULL) {
                check_drafts(&g, drafts, g.n_tokens);
                check_drafts(&g, drafts, 1);
            }
            model_close(&g.m);
        }
        g.suffix = "";
        if (quantised && open_model(&g, NUM_REFERENCE)) {
            if (checkpoint_find(&g.ex, "attn_out.00") != NULL)
                check_sublayers(&g);
            check_loose(&g);
            model_close(&g.m);
        }
    }
    if (g.n_bad > 0)
        printf("# %s: first difference at: %s\n", g.name, g.first_bad);
    checkpoint_close(&g.ex);
    free(g.tokens);
    free(g.pos);
    free(g.dir);
    *n_rows = g.n_rows;
    return g.n_bad;
}

int main(int argc, char **argv)
{
    static const char *const shipped[] = {"f32-tiny", "q-tiny", "dspark-tiny"};
    int bad = 0, rows = 0;
    for (int i = 1; i < argc; i++)
        bad += run_case(argv[i], &rows);
    for (size_t i = 0; argc == 1 && i < COUNT_OF(shipped); i++)
        bad += run_case(golden_dir(shipped[i]), &rows);
    printf("1..%d\n", rows);
    return bad == 0 ? 0 : 1;
}
