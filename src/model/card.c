#include "model/card.h"

#include <string.h>

static const char *const component_names[COMP_COUNT] = {
    [COMP_ROUTED] = "routed experts",
    [COMP_WQ_B] = "wq_b",
    [COMP_WO_A] = "wo_a",
    [COMP_WO_B] = "wo_b",
    [COMP_SHARED] = "shared expert",
    [COMP_HEAD] = "lm head",
    [COMP_COMPRESSOR] = "main compressors",
    [COMP_WQ_A] = "wq_a",
    [COMP_INDEX_WQ_B] = "indexer wq_b",
    [COMP_HC] = "mHC fn",
    [COMP_WKV] = "wkv",
    [COMP_ROUTER] = "router",
    [COMP_INDEX_COMPRESSOR] = "indexer compressors",
    [COMP_SMALL] = "weights_proj, norms, sinks",
    [COMP_EMBED] = "embedding",
    [COMP_HASH_TABLE] = "hash routing tables",
    [COMP_DRAFTER] = "drafter",
    [COMP_IGNORED] = "ignored tensors",
};

const char *component_name(enum component k)
{
    return component_names[k];
}

const char *drafter_name(enum drafter_kind k)
{
    static const char *const names[] = {"none", "MTP", "DSpark"};
    return names[k];
}

/* Beginnings of names after "layers.N."; the first match wins. */
static const struct {
    const char *begin;
    enum component k;
} layer_parts[] = {
    {"ffn.experts.", COMP_ROUTED},
    {"ffn.shared_experts.", COMP_SHARED},
    {"ffn.gate.tid2eid", COMP_HASH_TABLE},
    {"ffn.gate.", COMP_ROUTER},
    {"attn.wq_a.", COMP_WQ_A},
    {"attn.wq_b.", COMP_WQ_B},
    {"attn.wkv.", COMP_WKV},
    {"attn.wo_a.", COMP_WO_A},
    {"attn.wo_b.", COMP_WO_B},
    {"attn.compressor.", COMP_COMPRESSOR},
    {"attn.indexer.wq_b.", COMP_INDEX_WQ_B},
    {"attn.indexer.compressor.", COMP_INDEX_COMPRESSOR},
    {"hc_", COMP_HC},
};

static enum component component_of(const char *name)
{
    if (strncmp(name, "mtp.", 4) == 0)
        return COMP_DRAFTER;
    if (strncmp(name, "embed.", 6) == 0)
        return COMP_EMBED;
    if (strncmp(name, "head.", 5) == 0)
        return COMP_HEAD;
    if (strncmp(name, "hc_head_", 8) == 0)
        return COMP_HC;
    if (strncmp(name, "layers.", 7) != 0)
        return COMP_SMALL;
    const char *part = strchr(name + 7, '.') + 1;
    for (size_t i = 0; i < COUNT_OF(layer_parts); i++)
        if (strncmp(part, layer_parts[i].begin, strlen(layer_parts[i].begin)) == 0)
            return layer_parts[i].k;
    return COMP_SMALL;
}

static bool ends_with(const char *s, const char *end)
{
    size_t n = strlen(s), k = strlen(end);
    return n >= k && strcmp(s + n - k, end) == 0;
}

static uint64_t params_of(const struct tensor *t)
{
    bool is_scale = ends_with(t->name, ".scale"), is_table = t->dtype == DT_I64 || t->dtype == DT_I32;
    if (is_scale || is_table)
        return 0;
    return t->dtype == DT_I8 ? 2 * t->bytes : t->bytes / (uint64_t)dtype_bytes(t->dtype);
}

static void count_tensor(struct card *card, const struct config *c, const struct tensor *t, enum component k)
{
    struct component_size *s = &card->component[k];
    uint64_t params = params_of(t);
    s->n_tensors++;
    s->bytes += t->bytes;
    s->params += params;
    card->n_tensors++;
    card->bytes += t->bytes;
    card->dtype[t->dtype].n_tensors++;
    card->dtype[t->dtype].bytes += t->bytes;
    if (k == COMP_EMBED || k == COMP_HASH_TABLE) { /* one row */
        s->token_bytes += t->bytes / (uint64_t)c->vocab_size;
    } else if (k != COMP_DRAFTER && k != COMP_IGNORED) {
        s->token_bytes += t->bytes;
        s->token_params += params;
    }
}

void card_count(struct card *card, const struct weights *w)
{
    const struct config *c = &w->cfg;
    *card = (struct card){.drafter = w->drafter, .n_hash_layers = c->n_hash_layers};
    card->n_drafter_stages = w->drafter == DRAFTER_DSPARK ? w->dspark.n_stages : w->drafter == DRAFTER_MTP;
    for (int64_t i = 0, i_ignored = 0; i < w->ckpt.n_tensors; i++) { /* both lists are sorted by name */
        const struct tensor *t = &w->ckpt.tensors[i];
        bool ignored = i_ignored < w->n_ignored && strcmp(w->ignored[i_ignored], t->name) == 0;
        i_ignored += ignored;
        count_tensor(card, c, t, ignored ? COMP_IGNORED : component_of(t->name));
    }
    struct component_size *routed = &card->component[COMP_ROUTED];
    routed->token_bytes = routed->bytes / (uint64_t)c->n_experts * (uint64_t)c->n_experts_per_tok;
    routed->token_params = routed->params / (uint64_t)c->n_experts * (uint64_t)c->n_experts_per_tok;
    for (int k = 0; k < COMP_COUNT; k++) {
        const struct component_size *s = &card->component[k];
        card->token_bytes += s->token_bytes;
        card->active_params += s->token_params;
        card->params += k == COMP_DRAFTER || k == COMP_IGNORED ? 0 : s->params;
    }
    card->drafter_params = card->component[COMP_DRAFTER].params;
    for (int l = 0; l < c->n_layers; l++)
        card->n_layers[config_layer_kind(c, l)]++;
}
