/* hadal inspect: what a checkpoint holds, from its headers alone. */
#include "bin/bin.h"
#include "model/card.h"

#include <getopt.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void print_help(void)
{
    puts("hadal inspect - shows what a checkpoint holds; reads headers only\n\n"
         "usage: hadal inspect [OPTIONS] MODEL\n\n"
         "MODEL is a folder with config.json and *.safetensors.\n\n"
         "  --tensors   list every tensor: dtype, shape, bytes, file\n"
         "  --json      print JSON\n"
         "  --help      show this text\n\n"
         "examples:\n"
         "  hadal inspect ./DeepSeek-V4-Flash\n"
         "  hadal inspect --tensors ./DeepSeek-V4-Flash | grep layers.2.attn\n"
         "  hadal inspect --json ./DeepSeek-V4-Flash");
}

/* 1234 -> "1.23 KB" in out; powers of 1000. */
static const char *human(char out[32], uint64_t n, const char *const unit[5])
{
    double x = (double)n;
    int i = 0;
    for (; x >= 999.995 && i < 4; i++)
        x /= 1000;
    snprintf(out, 32, i == 0 ? "%.0f%s" : "%.2f%s", x, unit[i]);
    return out;
}

static const char *human_bytes(char out[32], uint64_t n)
{
    static const char *const unit[] = {" B", " KB", " MB", " GB", " TB"};
    return human(out, n, unit);
}

static const char *human_count(char out[32], uint64_t n)
{
    static const char *const unit[] = {"", " K", " M", " B", " T"};
    return human(out, n, unit);
}

static const char *shard_name(const struct weights *w, const struct tensor *t)
{
    const char *path = w->ckpt.shards[t->i_shard].path, *slash = strrchr(path, '/');
    return slash != NULL ? slash + 1 : path;
}

static void print_tensors(const struct weights *w)
{
    for (int64_t i = 0; i < w->ckpt.n_tensors; i++) {
        const struct tensor *t = &w->ckpt.tensors[i];
        printf("%-56s %-8s [", t->name, dtype_name(t->dtype));
        for (int k = 0; k < t->n_dims; k++)
            printf("%s%lld", k ? ", " : "", (long long)t->dim[k]);
        printf("] %llu %s\n", (unsigned long long)t->bytes, shard_name(w, t));
    }
}

static void print_components(const struct card *k)
{
    char a[32], b[32], c[32];
    printf("\n  %-28s %12s %12s %14s\n", "component", "parameters", "bytes", "read per token");
    for (int i = 0; i < COMP_COUNT; i++) {
        const struct component_size *s = &k->component[i];
        if (s->n_tensors != 0)
            printf("  %-28s %12s %12s %14s\n", component_name((enum component)i), human_count(a, s->params),
                   human_bytes(b, s->bytes), human_bytes(c, s->token_bytes));
    }
    printf("  %-28s %12s %12s %14s\n\n  %-8s %10s %12s\n", "total", human_count(a, k->params + k->drafter_params),
           human_bytes(b, k->bytes), human_bytes(c, k->token_bytes), "dtype", "tensors", "bytes");
    for (int t = 1; t < DT_COUNT; t++)
        if (k->dtype[t].n_tensors != 0)
            printf("  %-8s %10llu %12s\n", dtype_name((enum dtype)t), (unsigned long long)k->dtype[t].n_tensors,
                   human_bytes(b, k->dtype[t].bytes));
}

static void print_card(const struct weights *w, const struct card *k, const char *path)
{
    const struct config *c = &w->cfg;
    char a[32], b[32];
    printf("%s: DeepSeek-V4 checkpoint, %lld tensors in %d file%s, %s\n\n", path, (long long)w->ckpt.n_tensors,
           w->ckpt.n_shards, w->ckpt.n_shards == 1 ? "" : "s", human_bytes(a, k->bytes));
    printf("  parameters       %s", human_count(a, k->params));
    if (k->drafter != DRAFTER_NONE)
        printf(" + %s in the drafter", human_count(b, k->drafter_params));
    printf("\n  active per token %s\n", human_count(a, k->active_params));
    printf("  layers           %d: %d SWA, %d CSA, %d HCA; the first %d route by hash\n", c->n_layers,
           k->n_layers[LAYER_SWA], k->n_layers[LAYER_CSA], k->n_layers[LAYER_HCA], k->n_hash_layers);
    printf("  width            hidden %d, %d heads of %d, %d experts of %d (%d per token)\n", c->hidden_size,
           c->n_heads, c->head_dim, c->n_experts, c->expert_dim, c->n_experts_per_tok);
    printf("  drafter          %s", drafter_name(k->drafter));
    if (k->drafter == DRAFTER_DSPARK)
        printf(", %d stages, blocks of %d tokens", k->n_drafter_stages, c->dspark_block);
    printf("\n  context          %d tokens (window %d)\n  vocabulary       %d\n", c->max_positions, c->window,
           c->vocab_size);
    print_components(k);
    if (w->n_ignored != 0)
        printf("\n  %lld tensors are not part of the text model and are ignored, for example %s\n",
               (long long)w->n_ignored, w->ignored[0]);
}

/* ---------------------------------------------------------------- JSON */

static json_t *json_u64(uint64_t n)
{
    return json_integer((json_int_t)n);
}

static json_t *json_components(const struct card *k)
{
    json_t *list = json_array();
    for (int i = 0; i < COMP_COUNT; i++) {
        const struct component_size *s = &k->component[i];
        if (s->n_tensors != 0)
            json_array_append_new(list, json_pack("{s:s, s:o, s:o, s:o, s:o}", "name",
                                                  component_name((enum component)i), "tensors",
                                                  json_u64(s->n_tensors), "parameters", json_u64(s->params), "bytes",
                                                  json_u64(s->bytes), "bytes_per_token", json_u64(s->token_bytes)));
    }
    return list;
}

static json_t *json_dtypes(const struct card *k)
{
    json_t *map = json_object();
    for (int t = 1; t < DT_COUNT; t++)
        if (k->dtype[t].n_tensors != 0)
            json_object_set_new(map, dtype_name((enum dtype)t),
                                json_pack("{s:o, s:o}", "tensors", json_u64(k->dtype[t].n_tensors), "bytes",
                                          json_u64(k->dtype[t].bytes)));
    return map;
}

static json_t *json_tensors(const struct weights *w)
{
    json_t *list = json_array();
    for (int64_t i = 0; i < w->ckpt.n_tensors; i++) {
        const struct tensor *t = &w->ckpt.tensors[i];
        json_t *shape = json_array();
        for (int k = 0; k < t->n_dims; k++)
            json_array_append_new(shape, json_integer(t->dim[k]));
        json_array_append_new(list,
                              json_pack("{s:s, s:s, s:o, s:o, s:s}", "name", t->name, "dtype", dtype_name(t->dtype),
                                        "shape", shape, "bytes", json_u64(t->bytes), "file", shard_name(w, t)));
    }
    return list;
}

static void print_json(const struct weights *w, const struct card *k, const char *path, bool tensors)
{
    const struct config *c = &w->cfg;
    json_t *ignored = json_array();
    for (int64_t i = 0; i < w->n_ignored; i++)
        json_array_append_new(ignored, json_string(w->ignored[i]));
    json_t *model = json_string(path); /* NULL when the path is not UTF-8 */
    json_t *root =
        json_pack("{s:o, s:o, s:i, s:o, s:o, s:o, s:o, s:o}", "model", model != NULL ? model : json_null(), "tensors",
                  json_u64(k->n_tensors), "files", w->ckpt.n_shards, "bytes", json_u64(k->bytes), "parameters",
                  json_u64(k->params), "drafter_parameters", json_u64(k->drafter_params), "active_parameters",
                  json_u64(k->active_params), "bytes_per_token", json_u64(k->token_bytes));
    json_object_set_new(root, "layers",
                        json_pack("{s:i, s:i, s:i, s:i, s:i}", "total", c->n_layers, "swa", k->n_layers[LAYER_SWA],
                                  "csa", k->n_layers[LAYER_CSA], "hca", k->n_layers[LAYER_HCA], "hash",
                                  k->n_hash_layers));
    json_object_set_new(root, "drafter",
                        json_pack("{s:s, s:i}", "kind", drafter_name(k->drafter), "stages", k->n_drafter_stages));
    json_object_set_new(root, "context", json_integer(c->max_positions));
    json_object_set_new(root, "vocabulary", json_integer(c->vocab_size));
    json_object_set_new(root, "components", json_components(k));
    json_object_set_new(root, "dtypes", json_dtypes(k));
    json_object_set_new(root, "ignored", ignored);
    if (tensors)
        json_object_set_new(root, "tensor_list", json_tensors(w));
    json_dumpf(root, stdout, JSON_INDENT(2));
    putchar('\n');
    json_decref(root);
}

int cmd_inspect(int argc, char **argv)
{
    static const struct option options[] = {
        {"tensors", no_argument, NULL, 't'},
        {"json", no_argument, NULL, 'j'},
        {"help", no_argument, NULL, 'h'},
        {0},
    };
    bool tensors = false, json = false;
    opterr = 0;
    for (int o; (o = getopt_long(argc, argv, "h", options, NULL)) != -1;) {
        if (o == 'h') {
            print_help();
            return EXIT_DONE;
        }
        if (o == '?')
            return usage_error("inspect", "option %s is not known or lacks its value", argv[optind - 1]);
        tensors |= o == 't';
        json |= o == 'j';
    }
    if (argc - optind != 1)
        return usage_error("inspect", "expected one MODEL folder, got %d", argc - optind);
    const char *path = argv[optind];
    struct weights w;
    struct err e = {0};
    struct progress bar = progress_bar();
    if (weights_open_headers(&w, path, &bar, &e) != HD_OK)
        return fail("inspect", &e);
    struct card card;
    card_count(&card, &w);
    if (json)
        print_json(&w, &card, path, tensors);
    else if (tensors)
        print_tensors(&w);
    else
        print_card(&w, &card, path);
    weights_close(&w);
    return EXIT_DONE;
}
