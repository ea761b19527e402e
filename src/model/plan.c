#include "model/plan.h"

#include "model/kv.h"

#include <math.h>
#include <stdio.h>

static const char *const part_names[PART_COUNT] = {
    [PART_EXPERTS] = "routed experts",
    [PART_WQ_B] = "wq_b",
    [PART_WO_A] = "wo_a",
    [PART_WO_B] = "wo_b",
    [PART_SHARED] = "shared experts",
    [PART_HEAD] = "output head",
    [PART_COMPRESSOR] = "compressors",
    [PART_WQ_A] = "wq_a",
    [PART_INDEX_WQ_B] = "indexer wq_b",
    [PART_HC] = "hyper-connections",
    [PART_WKV] = "wkv",
    [PART_ROUTER] = "routers",
    [PART_INDEX_COMPRESSOR] = "indexer compressors",
    [PART_SMALL] = "norms, sinks, index weights",
    [PART_EMBED] = "embedding",
    [PART_HASH] = "hash routing tables",
    [PART_DRAFTER] = "drafter",
};

const char *plan_part_name(enum plan_part p)
{
    return part_names[p];
}

const struct plan_formats plan_formats_released = {DT_F8_E4M3, DT_I8, DT_F8_E8M0, DT_BF16};

/* ---------------------------------------------------------------- walking the tensors */

/* Sums of one layer, or of the top level, before they are added to the plan. */
struct tally {
    const struct config *c;
    const struct plan_formats *f;
    struct plan_sum part[PART_COUNT];
};

static uint64_t matrix_bytes(enum dtype t, enum dtype scale, uint64_t rows, uint64_t cols)
{
    if (t == DT_F8_E4M3)
        return rows * cols + (rows + 127) / 128 * ((cols + 127) / 128) * (uint64_t)dtype_bytes(scale);
    if (t == DT_I8)
        return rows * (cols / 2) + rows * (cols / 32) * (uint64_t)dtype_bytes(scale);
    return rows * cols * (uint64_t)dtype_bytes(t);
}

/* `n` matrices of the same shape, of which a token uses n_used. */
static void add_matrices(struct tally *t, enum plan_part part, enum dtype dtype, int rows, int cols, int n, int n_used)
{
    struct plan_sum *s = &t->part[part];
    uint64_t elements = (uint64_t)rows * (uint64_t)cols;
    uint64_t bytes = matrix_bytes(dtype, t->f->scale, (uint64_t)rows, (uint64_t)cols);
    s->params += elements * (uint64_t)n;
    s->bytes += bytes * (uint64_t)n;
    s->read_bytes += bytes * (uint64_t)n_used;
    s->active += elements * (uint64_t)n_used;
}

static void add_matrix(struct tally *t, enum plan_part part, enum dtype dtype, int rows, int cols)
{
    add_matrices(t, part, dtype, rows, cols, 1, 1);
}

static void add_values(struct tally *t, enum plan_part part, enum dtype dtype, int n)
{
    add_matrix(t, part, dtype, 1, n);
}

static void add_attention(struct tally *t)
{
    const struct config *c = t->c;
    int heads_dim = c->n_heads * c->head_dim, low = c->o_groups * c->o_lora_rank;
    add_matrix(t, PART_WQ_A, t->f->linear, c->q_lora_rank, c->hidden_size);
    add_values(t, PART_SMALL, t->f->plain, c->q_lora_rank);
    add_matrix(t, PART_WQ_B, t->f->linear, heads_dim, c->q_lora_rank);
    add_matrix(t, PART_WKV, t->f->linear, c->head_dim, c->hidden_size);
    add_values(t, PART_SMALL, t->f->plain, c->head_dim);
    add_matrix(t, PART_WO_A, t->f->linear, low, heads_dim / c->o_groups);
    add_matrix(t, PART_WO_B, t->f->linear, c->hidden_size, low);
    add_values(t, PART_SMALL, DT_F32, c->n_heads);
}

static void add_compressor(struct tally *t, enum plan_part part, int ratio, int dim)
{
    int width = ratio == 4 ? 2 * dim : dim;
    add_matrices(t, part, t->f->plain, width, t->c->hidden_size, 2, 2);
    add_values(t, part, DT_F32, ratio * width);
    add_values(t, PART_SMALL, t->f->plain, dim);
}

static void add_indexer(struct tally *t)
{
    const struct config *c = t->c;
    add_matrix(t, PART_INDEX_WQ_B, t->f->linear, c->index_n_heads * c->index_head_dim, c->q_lora_rank);
    add_matrix(t, PART_SMALL, t->f->plain, c->index_n_heads, c->hidden_size);
    add_compressor(t, PART_INDEX_COMPRESSOR, 4, c->index_head_dim);
}

static void add_moe(struct tally *t, bool hash)
{
    const struct config *c = t->c;
    add_matrix(t, PART_ROUTER, t->f->plain, c->n_experts, c->hidden_size);
    if (hash) {
        uint64_t entries = (uint64_t)c->vocab_size * (uint64_t)c->n_experts_per_tok;
        t->part[PART_HASH].bytes += entries * 8;
        t->part[PART_HASH].read_bytes += (uint64_t)c->n_experts_per_tok * 8;
    } else {
        add_values(t, PART_ROUTER, DT_F32, c->n_experts);
    }
    add_matrices(t, PART_EXPERTS, t->f->expert, c->expert_dim, c->hidden_size, 2 * c->n_experts,
                 2 * c->n_experts_per_tok);
    add_matrices(t, PART_EXPERTS, t->f->expert, c->hidden_size, c->expert_dim, c->n_experts, c->n_experts_per_tok);
    add_matrices(t, PART_SHARED, t->f->linear, c->expert_dim, c->hidden_size, 2, 2);
    add_matrix(t, PART_SHARED, t->f->linear, c->hidden_size, c->expert_dim);
}

/* Mixers of one sublayer, or (n_out = hc_mult, n_scales = 1) of the head. */
static void add_hc(struct tally *t, int n_out, int n_scales)
{
    add_matrix(t, PART_HC, DT_F32, n_out, t->c->hc_mult * t->c->hidden_size);
    add_values(t, PART_HC, DT_F32, n_out);
    add_values(t, PART_HC, DT_F32, n_scales);
}

static void add_layer(struct tally *t, int ratio, bool hash)
{
    const struct config *c = t->c;
    for (int i = 0; i < 2; i++) {
        add_hc(t, (2 + c->hc_mult) * c->hc_mult, 3);
        add_values(t, PART_SMALL, t->f->plain, c->hidden_size);
    }
    add_attention(t);
    if (ratio != 0)
        add_compressor(t, PART_COMPRESSOR, ratio, c->head_dim);
    if (ratio == 4)
        add_indexer(t);
    add_moe(t, hash);
}

static void add_output(struct tally *t) /* the collapse of the streams and the last norm */
{
    add_hc(t, t->c->hc_mult, 1);
    add_values(t, PART_SMALL, t->f->plain, t->c->hidden_size);
}

static void add_drafter(struct tally *t, int n_stages)
{
    const struct config *c = t->c;
    if (n_stages == 0)
        return;
    for (int i = 0; i < n_stages; i++)
        add_layer(t, 0, false);
    add_output(t);
    if (c->dspark_block == 0) {
        add_matrices(t, PART_SMALL, t->f->linear, c->hidden_size, c->hidden_size, 2, 2);
        add_values(t, PART_SMALL, t->f->plain, 2 * c->hidden_size);
        return;
    }
    add_matrix(t, PART_SMALL, t->f->linear, c->hidden_size, c->n_dspark_targets * c->hidden_size);
    add_values(t, PART_SMALL, t->f->plain, c->hidden_size);
    add_matrices(t, PART_SMALL, t->f->plain, c->vocab_size, c->dspark_markov_rank, 2, 2);
    add_matrix(t, PART_SMALL, t->f->plain, 1, c->hidden_size + c->dspark_markov_rank);
}

static void add_top(struct tally *t)
{
    const struct config *c = t->c;
    add_matrix(t, PART_HEAD, t->f->plain, c->vocab_size, c->hidden_size);
    add_output(t);
    add_matrix(t, PART_EMBED, t->f->plain, c->vocab_size, c->hidden_size);
    t->part[PART_EMBED].active = 0;
    t->part[PART_EMBED].read_bytes = (uint64_t)c->hidden_size * (uint64_t)dtype_bytes(t->f->plain); /* one row */
}

static struct plan_sum sum_add(struct plan_sum a, struct plan_sum b)
{
    return (struct plan_sum){a.params + b.params, a.bytes + b.bytes, a.read_bytes + b.read_bytes, a.active + b.active};
}

int plan_stages_of(const struct config *c)
{
    if (c->dspark_block > 0)
        return c->n_compress_ratios - c->n_layers;
    return c->n_nextn;
}

void plan_inspect(const struct checkpoint *ckpt, struct plan_formats *f, int *n_stages)
{
    static const struct {
        const char *tensor;
        size_t at;
    } probes[] = {
        {"layers.0.attn.wq_a.weight", offsetof(struct plan_formats, linear)},
        {"layers.0.ffn.experts.0.w1.weight", offsetof(struct plan_formats, expert)},
        {"layers.0.ffn.experts.0.w1.scale", offsetof(struct plan_formats, scale)},
        {"embed.weight", offsetof(struct plan_formats, plain)},
    };
    for (size_t i = 0; i < COUNT_OF(probes); i++) {
        const struct tensor *t = checkpoint_find(ckpt, probes[i].tensor);
        if (t != NULL)
            *(enum dtype *)((char *)f + probes[i].at) = t->dtype;
    }
    for (*n_stages = 0; *n_stages < LAYERS_MAX; ++*n_stages) {
        char name[64];
        snprintf(name, sizeof name, "mtp.%d.attn_norm.weight", *n_stages);
        if (checkpoint_find(ckpt, name) == NULL)
            break;
    }
}

void plan_init(struct plan *p, const struct config *c, const struct plan_formats *f, int n_stages)
{
    *p = (struct plan){.cfg = *c, .formats = *f, .n_stages = n_stages};
    struct tally main = {.c = &p->cfg, .f = &p->formats}, drafter = main;
    for (int l = 0; l < c->n_layers; l++) {
        enum layer_kind kind = config_layer_kind(c, l);
        p->n_swa += kind == LAYER_SWA;
        p->n_csa += kind == LAYER_CSA;
        p->n_hca += kind == LAYER_HCA;
        add_layer(&main, c->compress_ratio[l], l < c->n_hash_layers);
    }
    add_top(&main);
    add_drafter(&drafter, n_stages);
    for (int i = 0; i < PART_COUNT; i++) {
        p->part[i] = i == PART_DRAFTER ? p->part[i] : main.part[i];
        p->part[PART_DRAFTER] = sum_add(p->part[PART_DRAFTER], drafter.part[i]);
    }
    p->part[PART_DRAFTER].read_bytes = p->part[PART_DRAFTER].active = 0;
    struct kv_layout kv;
    kv_layout_init(&kv, c, KV_FP8, 0, false);
    p->row_bytes = kv.dims.row_bytes;
    p->index_bytes = kv.dims.index_bytes;
    p->page_bytes = kv.page_bytes;
    p->block_bytes = kv.block_bytes;
}

struct plan_sum plan_total(const struct plan *p, bool drafter)
{
    struct plan_sum s = {0};
    for (int i = 0; i < PART_COUNT; i++)
        if (drafter || i != PART_DRAFTER)
            s = sum_add(s, p->part[i]);
    return s;
}

/* ---------------------------------------------------------------- one decoded token */

static int64_t min64(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

uint64_t plan_visible_rows(const struct plan *p, int64_t context)
{
    int64_t window = min64(context, p->cfg.window);
    return (uint64_t)((p->n_swa + p->n_csa + p->n_hca) * window + p->n_csa * min64(context / 4, p->cfg.index_topk) +
                      p->n_hca * (context / 128));
}

double plan_linear_flops(const struct plan *p)
{
    return 2.0 * (double)plan_total(p, false).active;
}

double plan_attn_flops(const struct plan *p, int64_t context)
{
    /* Per row and head a dot product and a weighted sum of head_dim numbers each. */
    return 4.0 * p->cfg.n_heads * p->cfg.head_dim * (double)plan_visible_rows(p, context);
}

double plan_index_flops(const struct plan *p, int64_t context)
{
    return 2.0 * p->cfg.index_n_heads * p->cfg.index_head_dim * p->n_csa * (double)(context / 4);
}

double plan_flops(const struct plan *p, int64_t context)
{
    return plan_linear_flops(p) + plan_attn_flops(p, context) + plan_index_flops(p, context);
}

uint64_t plan_kv_read_bytes(const struct plan *p, int64_t context)
{
    return plan_visible_rows(p, context) * p->row_bytes + (uint64_t)(p->n_csa * (context / 4)) * p->index_bytes;
}

double plan_prefill_flops(const struct plan *p, int64_t n)
{
    double without_head = 2.0 * (double)(plan_total(p, false).active - p->part[PART_HEAD].active);
    double sum = without_head * (double)n;
    for (int64_t context = 1; context <= n; context++)
        sum += plan_attn_flops(p, context) + plan_index_flops(p, context);
    return sum;
}

double plan_chunk_flops(const struct plan *p, int64_t depth, int64_t n, double *index)
{
    double head = 2.0 * (double)p->part[PART_HEAD].active;
    double sum = (plan_linear_flops(p) - head) * (double)n + head;
    *index = 0;
    for (int64_t context = depth + 1; context <= depth + n; context++) {
        sum += plan_attn_flops(p, context);
        *index += context / 4 > p->cfg.index_topk ? plan_index_flops(p, context) : 0;
    }
    return sum;
}

/* ---------------------------------------------------------------- several sequences */

double plan_distinct_experts(const struct plan *p, int batch)
{
    double n = p->cfg.n_experts, k = p->cfg.n_experts_per_tok;
    return n * (1 - pow(1 - k / n, batch));
}

double plan_step_bytes(const struct plan *p, int batch, int64_t context)
{
    double experts = (double)p->part[PART_EXPERTS].read_bytes / p->cfg.n_experts_per_tok *
                     plan_distinct_experts(p, batch);
    double shared = (double)(plan_total(p, false).read_bytes - p->part[PART_EXPERTS].read_bytes);
    return shared + experts + batch * (double)plan_kv_read_bytes(p, context);
}

/* ---------------------------------------------------------------- KV memory */

double plan_kv_bytes_per_token(const struct plan *p)
{
    return p->n_csa * (double)(p->row_bytes + p->index_bytes) / 4 + p->n_hca * (double)p->row_bytes / 128;
}

uint64_t plan_kv_bytes(const struct plan *p, int64_t context)
{
    return (uint64_t)(p->n_csa * (context / 4)) * (p->row_bytes + p->index_bytes) +
           (uint64_t)(p->n_hca * (context / 128)) * p->row_bytes;
}

uint64_t plan_ring_bytes(const struct plan *p, int spare)
{
    return (uint64_t)(p->n_swa + p->n_csa + p->n_hca) * (uint64_t)(p->cfg.window + spare) * p->row_bytes;
}

uint64_t plan_state_bytes(const struct plan *p, int spare)
{
    /* Two fp32 arrays, kv and gate. Ratio 4 keeps two windows of both halves, and the indexer has its own. */
    uint64_t csa = (uint64_t)(8 + spare) * 2 * (uint64_t)(p->cfg.head_dim + p->cfg.index_head_dim) * 8;
    uint64_t hca = (uint64_t)(128 + spare) * (uint64_t)p->cfg.head_dim * 8;
    return (uint64_t)p->n_csa * csa + (uint64_t)p->n_hca * hca;
}

uint64_t plan_seq_bytes(const struct plan *p, int64_t context)
{
    uint64_t pages = (uint64_t)(context + KV_PAGE_TOKENS - 1) / KV_PAGE_TOKENS;
    return pages * (p->page_bytes + sizeof(uint8_t *) + sizeof(int32_t)) + p->block_bytes;
}

/* ---------------------------------------------------------------- does it fit */

/* Largest n in 0..max for which need(n) <= room; need grows with n. */
static int64_t largest(const struct plan *p, uint64_t room, int64_t max, int64_t fixed, bool by_context)
{
    int64_t low = 0, high = max;
    while (low < high) {
        int64_t mid = low + (high - low + 1) / 2;
        double need = by_context ? (double)fixed * (double)plan_seq_bytes(p, mid)
                                 : (double)mid * (double)plan_seq_bytes(p, fixed);
        if (need <= (double)room)
            low = mid;
        else
            high = mid - 1;
    }
    return low;
}

struct plan_fit plan_fit(const struct plan *p, uint64_t memory_bytes, int64_t context, int batch)
{
    enum { BATCH_MAX = 1 << 20 };
    struct plan_fit f = {.memory_bytes = memory_bytes, .weight_bytes = plan_total(p, false).bytes};
    f.kv_bytes = (uint64_t)batch * plan_seq_bytes(p, context);
    f.need_bytes = f.weight_bytes + f.kv_bytes + p->step_bytes;
    f.fits = f.need_bytes <= memory_bytes;
    f.drafter_fits = f.need_bytes + p->part[PART_DRAFTER].bytes <= memory_bytes;
    f.rest_fits = f.need_bytes - p->part[PART_EXPERTS].bytes <= memory_bytes;
    uint64_t fixed = f.weight_bytes + p->step_bytes, room = memory_bytes > fixed ? memory_bytes - fixed : 0;
    f.context_max = largest(p, room, p->cfg.max_positions, batch, true);
    f.batch_max = largest(p, room, BATCH_MAX, context, false);
    return f;
}

const char *plan_bytes_text(char out[24], double bytes)
{
    static const char *const units[] = {"B", "kB", "MB", "GB", "TB"};
    size_t i = 0;
    for (; bytes >= 999.5 && i + 1 < COUNT_OF(units); i++)
        bytes /= 1000;
    snprintf(out, 24, "%.*f %s", i == 0 || bytes >= 99.95 ? 0 : bytes >= 9.995 ? 1 : 2, bytes, units[i]);
    return out;
}

int64_t plan_refuse_context(const struct plan *p)
{
    return min64(REFUSE_CONTEXT, p->cfg.max_positions);
}

int plan_refuse(const struct plan *p, const char *name, uint64_t memory_bytes, struct err *e)
{
    int64_t context = plan_refuse_context(p);
    struct plan_fit f = plan_fit(p, memory_bytes, context, 1);
    if (f.fits)
        return HD_OK;
    char need[24], have[24], experts[24], rest[24], kv[24], step[24];
    uint64_t expert_bytes = p->part[PART_EXPERTS].bytes;
    return err_set(e, HD_ENOMEM,
                   "%s: does not fit into memory: routed experts %s, the other weights %s, the KV cache of %lld "
                   "tokens %s and the memory of steps %s need %s, there are %s%s; 'hadal plan -m %s' shows every "
                   "component; a machine with more memory, or --memory with a larger number of GB to run from disk, "
                   "very slowly",
                   name, plan_bytes_text(experts, (double)expert_bytes),
                   plan_bytes_text(rest, (double)(f.weight_bytes - expert_bytes)), (long long)context,
                   plan_bytes_text(kv, (double)f.kv_bytes), plan_bytes_text(step, (double)p->step_bytes),
                   plan_bytes_text(need, (double)f.need_bytes), plan_bytes_text(have, (double)memory_bytes),
                   f.rest_fits ? " (all but the routed experts would fit)" : "", name);
}

/* ---------------------------------------------------------------- DeepSeek-V3.2 */

double plan_equivalent_flops(const struct plan *p, int64_t context)
{
    return plan_linear_flops(p) + 2 * plan_attn_flops(p, context) + plan_index_flops(p, context) / 2;
}

/* 61 layers, 37 billion active parameters; attention over 2,048 selected tokens with 128 heads of 576 key and 512 value
 * dims; an FP8 indexer of 64 heads x 128 over every token; 656 bytes of latent and 132 of index key a token and layer.
 * */
double v32_equivalent_flops(int64_t context)
{
    double linear = 2 * 37e9;
    double attention = 61.0 * (double)min64(context, 2048) * 128 * 2 * (576 + 512);
    double indexer = 61.0 * (double)context * 64 * 128 * 2;
    return linear + 2 * attention + indexer;
}

double v32_kv_bytes_per_token(void)
{
    return 61 * (656 + 132);
}
