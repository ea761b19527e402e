/* Attention over the sliding window and compressed entries. Keys and values are the same row, shared by all heads. Online
 * softmax over blocks of 64 slots: window rows first (oldest first), then from slot W on the compressed entries in
 * ascending order - the order of the official kernel. */
#include "ops/cpu/attn_kern.h"
#include "ops/cpu/cpu.h"

#include <math.h>
#include <string.h>

#include "base/mutant.h"
#include "num/num.h"

enum { SLOT_BLOCK = ATTN_KEYS };

struct attn_job {
    struct cpu_dev *c;
    const struct op_attn *o;
    const struct op_seq *s;
    /* one row shared out by heads: */
    int i_row, n_window, n_entries, heads_per_task;
    const float *keys; /* NULL: tiles load their own */
};

/* Rows that row i of the sequence's share sees. */
static int window_rows(const struct attn_job *j, int i)
{
    int64_t n = j->s->pos0 + (j->o->block ? j->s->n_rows : i + 1);
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

/* Where keys go: fp32 values one after the other, or a block of the kernel's form. */
struct key_sink {
    void *keys;
    bool block;
};

static void put_values(const struct attn_job *j, const struct key_sink *to, int k, const float *row)
{
    int hd = j->o->dims.head_dim;
    if (to->block)
        j->c->tile->put_key(row, hd, to->keys, k);
    else
        memcpy((float *)to->keys + (size_t)k * (size_t)hd, row, (size_t)hd * sizeof *row);
}

static void put_stored(const struct attn_job *j, const struct key_sink *to, int k, const uint8_t *in)
{
    if (to->block)
        j->c->tile->put_stored(&j->o->dims, in, to->keys, k);
    else
        j->c->tile->kv_row(&j->o->dims, in, (float *)to->keys + (size_t)k * (size_t)j->o->dims.head_dim);
}

/* Rows from .. to-1 of the n_window window rows of row i, oldest first. */
static void load_window(const struct attn_job *j, int i, int n_window, int from, int to, const struct key_sink *sink)
{
    const struct op_attn *o = j->o;
    const struct kv_view *v = &j->s->kv;
    size_t hd = (size_t)o->dims.head_dim;
    int64_t first = j->s->pos0 + (o->block ? j->s->n_rows : i + 1) - n_window;
    for (int k = from; k < to; k++) {
        int64_t pos = first + k;
        if (pos >= j->s->pos0)
            put_values(j, sink, k - from, o->kv + (size_t)(j->s->first_row + (pos - j->s->pos0)) * hd);
        else /* mutant 8: rows of earlier chunks forgotten */
            put_stored(j, sink, k - from, v->ring + (MUTANT(8) ? 0 : (size_t)(pos % v->ring_rows)) * o->dims.row_bytes);
    }
}

static const uint8_t *entry_row(const struct op_attn *o, const struct kv_view *v, int64_t g)
{
    int per_page = KV_PAGE_TOKENS / o->ratio;
    return v->pages[g / per_page] + v->rows_offset + (size_t)(g % per_page) * o->dims.row_bytes;
}

/* Entries from .. to-1 of row i as keys k0 and on. */
static void load_entries(const struct attn_job *j, int i, int from, int to, const struct key_sink *sink, int k0)
{
    const struct op_attn *o = j->o;
    const struct kv_view *v = &j->s->kv;
    const int32_t *ids = o->ids == NULL || MUTANT(12) ? NULL : o->ids + (size_t)(j->s->first_row + i) * (size_t)o->topk;
    if (from >= to) /* also when the layer has no entries at all: ratio 0 */
        return;
    for (int k = from; k < to; k++)
        put_stored(j, sink, k0 + k - from, entry_row(o, v, ids == NULL ? k : ids[k]));
}

/* Entries from .. to-1 of row i as what the next block takes. */
static struct attn_ahead entries_ahead(const struct attn_job *j, int i, int from, int to)
{
    const struct op_attn *o = j->o;
    const int32_t *ids = o->ids == NULL ? NULL : o->ids + (size_t)(j->s->first_row + i) * (size_t)o->topk;
    struct attn_ahead a = {.bytes = o->dims.row_bytes};
    for (int k = from; k < to; k++)
        a.row[a.n++] = entry_row(o, &j->s->kv, ids == NULL ? k : ids[k]);
    return a;
}

/* Keys from .. to-1 of row i, window rows before entries. */
static void load_keys(const struct attn_job *j, int i, int n_window, int from, int to, const struct key_sink *sink)
{
    int middle = from > n_window ? from : to < n_window ? to : n_window;
    load_window(j, i, n_window, from, middle, sink);
    load_entries(j, i, middle - n_window, to - n_window, sink, middle - from);
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

/* The block of slots b .. b+63: window rows sit in slots 0 .. n_window-1, entries from slot W on, both contiguous among the
 * keys. When W is not a multiple of 64 the first entries share a block with the window's place, as in the official kernel.
 * Returns the number of keys, *first the number of the first. */
static int block_keys(const struct op_attn *o, int b, int n_window, int n_entries, int *first)
{
    int end = b + SLOT_BLOCK, total = o->window + n_entries;
    int w1 = n_window < end ? n_window : end, n = w1 > b ? w1 - b : 0;
    int e0 = b > o->window ? b : o->window, e1 = total < end ? total : end;
    *first = n > 0 ? b : n_window + e0 - o->window;
    return n + (e1 > e0 ? e1 - e0 : 0);
}

static void finish_head(const struct attn_job *j, int h, struct softmax_state st, float *acc)
{
    int hd = j->o->dims.head_dim;
    float den = st.den + (MUTANT(16) ? 0 : expf(j->o->sink[h] - st.top));
    for (int e = 0; e < hd; e++)
        acc[e] /= den;
    cpu_round(j->c, acc, (size_t)hd);
}

static void attend_head(const struct attn_job *j, int i, int h, int n_window, int n_entries, const float *keys)
{
    const struct op_attn *o = j->o;
    int hd = o->dims.head_dim;
    size_t at = ((size_t)(j->s->first_row + i) * (size_t)o->heads + (size_t)h) * (size_t)hd;
    float *acc = o->o + at, scale = MUTANT(2) ? o->scale * 1.277f : o->scale;
    struct softmax_state st = {-INFINITY, 0};
    memset(acc, 0, (size_t)hd * sizeof *acc);
    for (int b = 0; b < o->window + n_entries; b += SLOT_BLOCK) {
        int first, n = block_keys(o, b, n_window, n_entries, &first);
        if (n > 0)
            attend_block(j->c, o->q + at, keys + (size_t)first * (size_t)hd, n, hd, scale, &st, acc);
    }
    finish_head(j, h, st, acc);
}

static struct softmax_state head_state(const struct attn_tile *t, int k)
{
    return (struct softmax_state){t->top[k], t->den[k]};
}

static bool uses_tiles(const struct cpu_dev *c, int heads, int head_dim)
{
    return numerics_fast(c->base.numerics) && head_dim % 32 == 0 && heads % ATTN_HEADS == 0;
}

/* Of a thread: queries of the tiles and a block of keys, or all keys. Shared: all keys. */
size_t cpu_attn_floats(const struct cpu_dev *c, int heads, int head_dim, size_t keys, bool shared)
{
    if (uses_tiles(c, heads, head_dim))
        return shared ? 0 : attn_query_floats(head_dim) + attn_keys_floats(head_dim);
    return keys * (size_t)head_dim;
}

/* Tiles of heads from head h on, on the fast kernel: a block of keys is loaded for all of them at once. */
static void attend_tiles(const struct attn_job *j, int i, int h, int n_tiles, int n_window, int n_entries, float *query)
{
    const struct op_attn *o = j->o;
    const struct attn_kern *kern = j->c->tile;
    size_t hd = (size_t)o->dims.head_dim, n_q = (size_t)n_tiles * ATTN_HEADS * hd;
    size_t at = ((size_t)(j->s->first_row + i) * (size_t)o->heads + (size_t)h) * hd;
    struct key_sink keys = {query + attn_query_floats((int)hd), true};
    struct attn_tile st[ATTN_TILES];
    for (int t = 0; t < n_tiles; t++)
        st[t] = (struct attn_tile){.top = {-INFINITY, -INFINITY, -INFINITY, -INFINITY}};
    kern->put_query(o->q + at, n_tiles, (int)hd, o->scale, query);
    memset(o->o + at, 0, n_q * sizeof(float));
    for (int b = 0; b < o->window + n_entries; b += SLOT_BLOCK) {
        int first, n = block_keys(o, b, n_window, n_entries, &first);
        if (n == 0)
            continue;
        load_keys(j, i, n_window, first, first + n, &keys);
        int next = first + n - n_window, end = next + SLOT_BLOCK < n_entries ? next + SLOT_BLOCK : n_entries;
        struct attn_ahead ahead = entries_ahead(j, i, next > 0 ? next : 0, end);
        kern->block(query, n_tiles, o->scale, keys.keys, n, (int)hd, &ahead, st, o->o + at);
    }
    for (int k = 0; k < n_tiles * ATTN_HEADS; k++)
        finish_head(j, h + k, head_state(&st[k / ATTN_HEADS], k % ATTN_HEADS), o->o + at + (size_t)k * hd);
}

/* Heads h0 .. h1-1 of row i, without `keys` in tiles: those are cut at multiples of ATTN_HEADS, so a head always sits in the
 * same place. mem: cpu_attn_floats. */
static void attend_heads(const struct attn_job *j, int i, int h0, int h1, int n_window, int n_entries, const float *keys,
                         float *mem)
{
    for (int h = h0; keys == NULL && h < h1; h += ATTN_TILES * ATTN_HEADS) {
        int n = (h1 - h) / ATTN_HEADS;
        attend_tiles(j, i, h, n < ATTN_TILES ? n : ATTN_TILES, n_window, n_entries, mem);
    }
    for (int h = h0; keys != NULL && h < h1; h++)
        attend_head(j, i, h, n_window, n_entries, keys);
}

static void row_task(void *arg, int i, int i_thread)
{
    const struct attn_job *j = arg;
    const struct op_attn *o = j->o;
    int nw = window_rows(j, i), ne = entry_rows(j, i);
    bool tiles = uses_tiles(j->c, o->heads, o->dims.head_dim);
    float *mem = cpu_scratch(j->c, i_thread,
                             cpu_attn_floats(j->c, o->heads, o->dims.head_dim, (size_t)(nw + ne), false));
    if (!tiles)
        load_keys(j, i, nw, 0, nw + ne, &(struct key_sink){mem, false});
    attend_heads(j, i, 0, o->heads, nw, ne, tiles ? NULL : mem, mem);
}

static void heads_task(void *arg, int i_task, int i_thread)
{
    const struct attn_job *j = arg;
    int first = i_task * j->heads_per_task, last = first + j->heads_per_task;
    float *mem = cpu_scratch(j->c, i_thread, cpu_attn_floats(j->c, j->o->heads, j->o->dims.head_dim, 0, false));
    attend_heads(j, j->i_row, first, last < j->o->heads ? last : j->o->heads, j->n_window, j->n_entries, j->keys, mem);
}

/* Few rows: the heads of each row are shared out, in whole tiles and a task a thread, since each loads all keys. */
static void attend_by_heads(struct attn_job *j)
{
    const struct op_attn *o = j->o;
    size_t hd = (size_t)o->dims.head_dim;
    int tiles = (o->heads + ATTN_HEADS - 1) / ATTN_HEADS, tasks = pool_threads(j->c->pool);
    j->heads_per_task = (tiles + tasks - 1) / tasks * ATTN_HEADS;
    for (int i = 0; i < j->s->n_rows; i++) {
        j->i_row = i;
        j->n_window = window_rows(j, i);
        j->n_entries = entry_rows(j, i);
        int n = j->n_window + j->n_entries;
        if (!uses_tiles(j->c, o->heads, o->dims.head_dim)) {
            float *keys = cpu_shared_scratch(j->c, cpu_attn_floats(j->c, o->heads, o->dims.head_dim, (size_t)n, true));
            load_keys(j, i, j->n_window, 0, n, &(struct key_sink){keys, false});
            j->keys = keys;
        }
        cpu_run(j->c, (o->heads + j->heads_per_task - 1) / j->heads_per_task, (double)n * o->heads * (double)hd * 2,
                heads_task, j);
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
