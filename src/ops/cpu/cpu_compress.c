/* Compressor: softmax-pooled entries over windows of 4 (overlapping) or 128 tokens. Inputs of the step are in the
 * projections, earlier ones in the state rings; everything is a function of absolute positions, so chunks of any size give
 * the same entries. */
#include "ops/cpu/cpu.h"

#include <string.h>

#include "base/mutant.h"

struct compress_job {
    struct cpu_dev *c;
    const struct op_compress *o;
    const struct op_seq *s;
    int64_t first_entry;
    int width; /* c * dim: floats per projected row */
};

static struct row_slot slot_of(const struct compress_job *j, int64_t pos, int half)
{
    const struct op_compress *o = j->o;
    const struct kv_view *v = &j->s->kv;
    size_t off = (size_t)half * (size_t)o->dim;
    if (pos >= j->s->pos0) {
        size_t row = (size_t)(j->s->first_row + (pos - j->s->pos0)) * (size_t)j->width + off;
        return (struct row_slot){o->kv + row, o->gate + row};
    }
    size_t row = (size_t)(pos % v->state_rows) * (size_t)j->width + off;
    if (o->index)
        return (struct row_slot){v->istate_kv + row, v->istate_gate + row};
    return (struct row_slot){v->state_kv + row, v->state_gate + row};
}

/* The slots of entry g: ratio 128: its 128 tokens; ratio 4: the previous window's first halves (none for g = 0), then its
 * own window's second halves. */
static int slots_of(const struct compress_job *j, int64_t g, struct row_slot *slots)
{
    int n = 0, ratio = j->o->ratio;
    if (ratio == 4 && g > 0 && !MUTANT(7))
        for (int i = 0; i < 4; i++)
            slots[n++] = slot_of(j, 4 * (g - 1) + i, 0);
    for (int i = 0; i < ratio; i++)
        slots[n++] = slot_of(j, ratio * g + i, ratio == 4 ? 1 : 0);
    return n;
}

static void store_entry(const struct compress_job *j, int64_t g, const float *e)
{
    const struct kv_view *v = &j->s->kv;
    int per_page = KV_PAGE_TOKENS / j->o->ratio;
    uint8_t *page = v->pages[g / per_page];
    size_t row = (size_t)(g % per_page);
    if (j->o->index)
        cpu_kv_index_put(j->c, &j->o->dims, e, page + v->index_offset + row * j->o->dims.index_bytes);
    else
        cpu_kv_row_put(j->c, &j->o->dims, e, page + v->rows_offset + row * j->o->dims.row_bytes);
}

static void entry_task(void *arg, int i, int i_thread)
{
    const struct compress_job *j = arg;
    const struct op_compress *o = j->o;
    struct row_slot slots[KV_PAGE_TOKENS + 8] = {{NULL, NULL}};
    int64_t g = j->first_entry + i;
    float *e = cpu_scratch(j->c, i_thread, (size_t)o->dim);
    int n = slots_of(j, g, slots);
    j->c->row->pool(slots, n, o->dim, cpu_libm(&j->c->base), e);
    cpu_round(j->c, e, (size_t)o->dim);
    cpu_rmsnorm_row(j->c, e, o->norm, o->dim, o->eps, e);
    /* Rotated at the first position of the window (mutant 3: at the entry's own number). */
    cpu_rope_row(j->c, e, o->dim, o->rope_dim, MUTANT(3) ? g : g * o->ratio, o->freq, false);
    if (o->index)
        cpu_hadamard_fp4(j->c, e, o->dim);
    else
        cpu_kv_quant_row(j->c, e, o->dim, o->rope_dim);
    store_entry(j, g, e);
}

/* gate += ape[pos % ratio] for this step's rows. */
static void add_ape(const struct op_compress *o, const struct op_seq *s, int width)
{
    for (int r = 0; r < s->n_rows; r++) {
        const float *ape = o->ape + (size_t)((s->pos0 + r) % o->ratio) * (size_t)width;
        float *gate = o->gate + (size_t)(s->first_row + r) * (size_t)width;
        for (int k = 0; k < width; k++)
            gate[k] += ape[k];
    }
}

/* The last rows of the step into the state rings. */
static void keep_state(const struct op_compress *o, const struct op_seq *s, int width)
{
    const struct kv_view *v = &s->kv;
    float *kv = o->index ? v->istate_kv : v->state_kv, *gate = o->index ? v->istate_gate : v->state_gate;
    int first = s->n_rows > v->state_rows ? s->n_rows - v->state_rows : 0;
    size_t bytes = (size_t)width * sizeof(float);
    for (int r = first; r < s->n_rows; r++) {
        size_t slot = (size_t)((s->pos0 + r) % v->state_rows) * (size_t)width;
        size_t row = (size_t)(s->first_row + r) * (size_t)width;
        memcpy(kv + slot, o->kv + row, bytes);
        memcpy(gate + slot, o->gate + row, bytes);
    }
}

/* First halves of the inputs of the 4 positions before each page end into its tail (ratio 4: the next entry needs them). */
static void keep_tails(const struct compress_job *j)
{
    const struct op_compress *o = j->o;
    const struct op_seq *s = j->s;
    size_t bytes = (size_t)o->dim * sizeof(float);
    int64_t end = (s->pos0 / KV_PAGE_TOKENS + 1) * KV_PAGE_TOKENS;
    for (int k = 0; end <= s->pos0 + s->n_rows; k++, end += KV_PAGE_TOKENS) {
        if (s->tails[k] == NULL)
            continue;
        uint8_t *out = s->tails[k] + (o->index ? s->kv.tail_at.istate : s->kv.tail_at.state);
        for (int i = 0; i < 4; i++) {
            struct row_slot v = slot_of(j, end - 4 + i, 0);
            memcpy(out + (size_t)i * bytes, v.kv, bytes);
            memcpy(out + (size_t)(4 + i) * bytes, v.gate, bytes);
        }
    }
}

void cpu_compress(struct dev *d, const struct op_compress *o)
{
    struct cpu_dev *c = cpu_of(d);
    int width = (o->ratio == 4 ? 2 : 1) * o->dim;
    for (int i = 0; i < o->n_seqs; i++) {
        const struct op_seq *s = &o->seqs[i];
        add_ape(o, s, width);
        struct compress_job j = {c, o, s, s->pos0 / o->ratio, width};
        int64_t n = (s->pos0 + s->n_rows) / o->ratio - j.first_entry;
        cpu_run(c, (int)n, (double)n * o->dim * 40 * (o->ratio == 4 ? 8 : 128), entry_task, &j);
        if (o->ratio == 4 && s->tails != NULL)
            keep_tails(&j);
        keep_state(o, s, width);
    }
}
