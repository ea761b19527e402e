/* Attention over the sliding window and compressed entries. Keys and values are the same row, shared by all heads. Online
 * softmax over blocks of 64 slots: window rows first (oldest first), then from slot W on the compressed entries in
 * ascending order - the order of the official kernel. */
#include "ops/cpu/cpu.h"

#include <math.h>
#include <string.h>

#include "base/mutant.h"
#include "num/num.h"

enum { SLOT_BLOCK = 64, HEADS_PER_TASK = 4 };

struct attn_job {
    struct cpu_dev *c;
    const struct op_attn *o;
    const struct op_seq *s;
    /* one row shared out by heads: */
    int i_row, n_window, n_entries;
    const float *keys;
};

/* Rows that row i of the sequence's share sees. */
static int window_rows(const struct attn_job *j, int i)
{
    int64_t n = j->s->pos0 + i + 1;
    return n < j->o->window ? (int)n : j->o->window;
}

static int entry_rows(const struct attn_job *j, int i)
{
    const struct op_attn *o = j->o;
    int64_t visible = o->ratio == 0 ? 0 : (j->s->pos0 + i + 1) / o->ratio;
    if (o->ids == NULL)
        return (int)visible;
    return visible < o->topk ? (int)visible : o->topk;
}

static void load_window(const struct attn_job *j, int i, int n, float *keys)
{
    const struct op_attn *o = j->o;
    const struct kv_view *v = &j->s->kv;
    size_t hd = (size_t)o->dims.head_dim;
    int64_t first = j->s->pos0 + i + 1 - n;
    for (int k = 0; k < n; k++, keys += hd) {
        int64_t pos = first + k;
        if (pos >= j->s->pos0) {
            memcpy(keys, o->kv + (size_t)(j->s->first_row + (pos - j->s->pos0)) * hd, hd * sizeof *keys);
        } else if (MUTANT(8)) { /* rows of earlier chunks forgotten */
            memset(keys, 0, hd * sizeof *keys);
        } else {
            kv_row_get(&o->dims, v->ring + (size_t)(pos % v->ring_rows) * o->dims.row_bytes, keys);
        }
    }
}

static void load_entries(const struct attn_job *j, int i, int n, float *keys)
{
    const struct op_attn *o = j->o;
    const struct kv_view *v = &j->s->kv;
    const int32_t *ids = o->ids == NULL || MUTANT(12) ? NULL : o->ids + (size_t)(j->s->first_row + i) * (size_t)o->topk;
    if (n == 0) /* also when the layer has no entries at all: ratio 0 */
        return;
    int per_page = KV_PAGE_TOKENS / o->ratio;
    for (int k = 0; k < n; k++, keys += o->dims.head_dim) {
        int64_t g = ids == NULL ? k : ids[k];
        kv_row_get(&o->dims, v->pages[g / per_page] + v->rows_offset + (size_t)(g % per_page) * o->dims.row_bytes, keys);
    }
}

struct softmax_state {
    float top, den;
};

/* One block of keys: scores, running maximum, numerators (bf16 for the values, fp32 for the denominator in the
 * reference), accumulation into acc [hd]. */
static void attend_block(const struct cpu_dev *c, const float *q, const float *keys, int n, int hd, float scale,
                         struct softmax_state *st, float *acc)
{
    float s[SLOT_BLOCK], top = st->top;
    c->kern->dot_many(keys, (size_t)hd, n, q, hd, s, 1);
    for (int k = 0; k < n; k++) {
        s[k] *= scale;
        top = s[k] > top ? s[k] : top;
    }
    float back = expf(st->top - top);
    st->den *= back;
    for (int e = 0; e < hd; e++)
        acc[e] *= back;
    float sum = 0;
    for (int k = 0; k < n; k++) {
        float p = expf(s[k] - top);
        sum += p;
        c->kern->axpy(c->base.numerics == NUM_REFERENCE ? bf16_round(p) : p, keys + (size_t)k * (size_t)hd, hd, acc);
    }
    st->den += sum;
    st->top = top;
}

static void attend_head(const struct attn_job *j, int i, int h, int n_window, int n_entries, const float *keys)
{
    const struct op_attn *o = j->o;
    int hd = o->dims.head_dim;
    size_t at = ((size_t)(j->s->first_row + i) * (size_t)o->heads + (size_t)h) * (size_t)hd;
    float *acc = o->o + at, scale = MUTANT(2) ? o->scale * 1.277f : o->scale;
    struct softmax_state st = {-INFINITY, 0};
    memset(acc, 0, (size_t)hd * sizeof *acc);
    /* Slots: the window occupies 0 .. n_window-1, entries start at slot W; blocks of 64 slots, empty ones skipped. When
     * W is not a multiple of 64 the first entries share a block with the window's place, as in the official kernel. */
    int total = o->window + n_entries;
    for (int b = 0; b < total; b += SLOT_BLOCK) {
        int end = b + SLOT_BLOCK, w1 = n_window < end ? n_window : end;
        int n = w1 > b ? w1 - b : 0;
        const float *first = n > 0 ? keys + (size_t)b * (size_t)hd : NULL;
        int e0 = b > o->window ? b : o->window, e1 = total < end ? total : end;
        if (e1 > e0) {
            const float *entry = keys + (size_t)(n_window + e0 - o->window) * (size_t)hd;
            first = first == NULL ? entry : first; /* window rows and entries are contiguous in keys */
            n += e1 - e0;
        }
        if (n > 0)
            attend_block(j->c, o->q + at, first, n, hd, scale, &st, acc);
    }
    float den = st.den + (MUTANT(16) ? 0 : expf(o->sink[h] - st.top));
    for (int e = 0; e < hd; e++)
        acc[e] /= den;
    cpu_round(j->c, acc, (size_t)hd);
}

static void row_task(void *arg, int i, int i_thread)
{
    const struct attn_job *j = arg;
    const struct op_attn *o = j->o;
    int nw = window_rows(j, i), ne = entry_rows(j, i);
    size_t hd = (size_t)o->dims.head_dim;
    float *keys = cpu_scratch(j->c, i_thread, (size_t)(nw + ne) * hd);
    load_window(j, i, nw, keys);
    load_entries(j, i, ne, keys + (size_t)nw * hd);
    for (int h = 0; h < o->heads; h++)
        attend_head(j, i, h, nw, ne, keys);
}

static void heads_task(void *arg, int i_task, int i_thread)
{
    (void)i_thread;
    const struct attn_job *j = arg;
    int last = (i_task + 1) * HEADS_PER_TASK < j->o->heads ? (i_task + 1) * HEADS_PER_TASK : j->o->heads;
    for (int h = i_task * HEADS_PER_TASK; h < last; h++)
        attend_head(j, j->i_row, h, j->n_window, j->n_entries, j->keys);
}

/* Few rows: the heads of each row are shared out. */
static void attend_by_heads(struct attn_job *j)
{
    const struct op_attn *o = j->o;
    size_t hd = (size_t)o->dims.head_dim;
    for (int i = 0; i < j->s->n_rows; i++) {
        j->i_row = i;
        j->n_window = window_rows(j, i);
        j->n_entries = entry_rows(j, i);
        size_t n = (size_t)(j->n_window + j->n_entries);
        float *keys = cpu_shared_scratch(j->c, n * hd);
        load_window(j, i, j->n_window, keys);
        load_entries(j, i, j->n_entries, keys + (size_t)j->n_window * hd);
        j->keys = keys;
        cpu_run(j->c, (o->heads + HEADS_PER_TASK - 1) / HEADS_PER_TASK, (double)n * o->heads * (double)hd * 2, heads_task,
                j);
    }
}

void cpu_attn(struct dev *d, const struct op_attn *o)
{
    struct cpu_dev *c = cpu_of(d);
    for (int i = 0; i < o->n_seqs; i++) {
        struct attn_job j = {.c = c, .o = o, .s = &o->seqs[i]};
        int n_rows = j.s->n_rows;
        if (n_rows < 2 * pool_threads(c->pool))
            attend_by_heads(&j);
        else
            cpu_run(c, n_rows, (double)n_rows * o->heads * o->dims.head_dim * o->window, row_task, &j);
    }
}
