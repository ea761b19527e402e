/* `hadal plan`: what a model asks of a machine, what fits and why not, and how fast memory lets it decode. */
#include "bin/bin.h"
#include "model/model.h"
#include "model/plan.h"
#include "model/shape.h"

#include <errno.h>
#include <getopt.h>
#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char help[] =
    "usage: hadal plan [-m MODEL | --shape flash|pro] [OPTIONS]\n"
    "\n"
    "Says what a model needs: bytes by component, KV cache, bytes and FLOPs per decoded token, the tokens\n"
    "per second that memory allows, and whether it fits. Reads headers only. GB is 10^9 bytes.\n"
    "\n"
    "  -m, --model MODEL     a checkpoint folder; config.json alone is enough\n"
    "  -s, --shape SHAPE     a released width instead: flash or pro\n"
    "  -d, --dspark          the shape with its DSpark drafter instead of MTP\n"
    "  -c, --ctx N           tokens of context for each sequence (64K, 1M, ...; default 64K)\n"
    "  -b, --batch N         sequences decoded together (default 1)\n"
    "      --memory GB       memory to fit into (default: what is available here)\n"
    "      --bandwidth GB/s  memory read bandwidth (default: measured, about a second)\n"
    "  -t, --threads N       threads of that measurement (default: all usable CPUs)\n"
    "      --compare v3.2    single-token FLOPs and KV cache at 1M tokens against DeepSeek-V3.2\n"
    "  -j, --json            the same as JSON\n"
    "  -h, --help            this text\n"
    "\n"
    "examples:\n"
    "  hadal plan --shape flash --ctx 128K --memory 192\n"
    "  hadal plan -m models/tiny --json\n"
    "  hadal plan --shape pro --compare v3.2\n";

static const int64_t table_contexts[] = {4096, 65536, 131072, 1048576};
enum { V32_CONTEXT = 1048576, CONTEXT_DEFAULT = 65536, BATCH_MAX = 1 << 20 };

struct request {
    const char *model, *shape, *name;
    bool dspark, json, compare;
    int64_t context, batch, threads;
    double memory_bytes, bandwidth;
    bool measured;
    uint64_t stored_bytes; /* of the checkpoint's tensors; 0 when only the configuration is known */
};

/* ---------------------------------------------------------------- options */

static const struct option options[] = {
    {"model", required_argument, NULL, 'm'},   {"shape", required_argument, NULL, 's'},
    {"dspark", no_argument, NULL, 'd'},        {"ctx", required_argument, NULL, 'c'},
    {"batch", required_argument, NULL, 'b'},   {"memory", required_argument, NULL, 'M'},
    {"bandwidth", required_argument, NULL, 'B'}, {"threads", required_argument, NULL, 't'},
    {"compare", required_argument, NULL, 'C'}, {"json", no_argument, NULL, 'j'},
    {"help", no_argument, NULL, 'h'},          {NULL, 0, NULL, 0},
};

/* 1 to max, with an optional K or M (1024 and 1024^2). */
static bool read_count(const char *text, int64_t max, int64_t *out)
{
    char *end;
    errno = 0;
    long long v = strtoll(text, &end, 10);
    if (end == text || errno != 0 || v < 1 || v > max)
        return false;
    int shift = *end == 'K' || *end == 'k' ? 10 : *end == 'M' || *end == 'm' ? 20 : 0;
    end += shift != 0;
    if (*end != '\0' || v > max >> shift)
        return false;
    *out = (int64_t)v << shift;
    return true;
}

static bool read_giga(const char *text, double *out)
{
    char *end;
    double v = strtod(text, &end);
    if (end == text || *end != '\0' || !isfinite(v) || v <= 0 || v > 1e9)
        return false;
    *out = v * 1e9;
    return true;
}

/* Returns -1 to go on, else the exit code. */
static int read_option(struct request *r, int c)
{
    bool good = true;
    switch (c) {
    case 'm': r->model = optarg; break;
    case 's': r->shape = optarg; break;
    case 'd': r->dspark = true; break;
    case 'j': r->json = true; break;
    case 'c': good = read_count(optarg, (int64_t)1 << 30, &r->context); break;
    case 'b': good = read_count(optarg, BATCH_MAX, &r->batch); break;
    case 't': good = read_count(optarg, 1024, &r->threads); break;
    case 'M': good = read_giga(optarg, &r->memory_bytes); break;
    case 'B': good = read_giga(optarg, &r->bandwidth); break;
    case 'C': r->compare = good = strcmp(optarg, "v3.2") == 0; break;
    case 'h': fputs(help, stdout); return EXIT_DONE;
    default: fprintf(stderr, "Try 'hadal plan --help'.\n"); return EXIT_USAGE;
    }
    return good ? -1 : usage_error("plan", "'%s' is no value for this option", optarg);
}

static int read_options(struct request *r, int argc, char **argv)
{
    optind = 1;
    for (int c; (c = getopt_long(argc, argv, "m:s:dc:b:t:jh", options, NULL)) != -1;) {
        int rc = read_option(r, c);
        if (rc >= 0)
            return rc;
    }
    if (optind < argc)
        return usage_error("plan", "'%s' is not an option", argv[optind]);
    if ((r->model != NULL) == (r->shape != NULL))
        return usage_error("plan", "give either --model or --shape");
    if (r->dspark && r->shape == NULL)
        return usage_error("plan", "--dspark goes with --shape; a model says itself what it has");
    return -1;
}

/* ---------------------------------------------------------------- what to plan for */

static bool has_weights(const char *dir)
{
    static const char *const names[] = {"model.safetensors.index.json", "model.safetensors"};
    bool found = false;
    for (size_t i = 0; i < COUNT_OF(names); i++) {
        char *path = path_join(dir, names[i]);
        found = found || file_exists(path);
        free(path);
    }
    return found;
}

static int load_model(struct request *r, struct plan *p, struct err *e)
{
    struct config c;
    struct plan_formats f = plan_formats_released;
    int rc = config_load(&c, r->model, e);
    if (rc != HD_OK)
        return rc;
    int n_stages = plan_stages_of(&c);
    if (has_weights(r->model)) {
        struct checkpoint ckpt;
        rc = checkpoint_open(&ckpt, r->model, false, NULL, e);
        if (rc != HD_OK)
            return rc;
        plan_inspect(&ckpt, &f, &n_stages);
        r->stored_bytes = ckpt.total_bytes;
        checkpoint_close(&ckpt);
    }
    plan_init(p, &c, &f, n_stages);
    return HD_OK;
}

static int load_shape(const struct request *r, struct plan *p, struct err *e)
{
    struct config c;
    int rc = config_shape(&c, r->shape, r->dspark, e);
    if (rc == HD_OK)
        plan_init(p, &c, &plan_formats_released, plan_stages_of(&c));
    return rc;
}

static int find_machine(struct request *r, struct err *e)
{
    if (r->memory_bytes == 0)
        r->memory_bytes = (double)memory_available_bytes();
    if (r->memory_bytes == 0)
        return err_set(e, HD_EUNSUPPORTED, "this machine does not say how much memory it has; use --memory");
    r->measured = r->bandwidth == 0;
    return r->measured ? memory_read_bandwidth((int)r->threads, 0.7, &r->bandwidth, e) : HD_OK;
}

/* ---------------------------------------------------------------- as text */

static const char *count_text(char out[24], uint64_t n)
{
    bool big = n >= 1000000000;
    snprintf(out, 24, "%.2f %s", (double)n / (big ? 1e9 : 1e6), big ? "billion" : "million");
    return out;
}

static void print_head(const struct request *r, const struct plan *p)
{
    char a[24], b[24];
    struct plan_sum s = plan_total(p, false);
    printf("%s: %d layers (%d SWA, %d CSA, %d HCA), %s parameters, %s active", r->name, p->cfg.n_layers, p->n_swa,
           p->n_csa, p->n_hca, count_text(a, s.params), count_text(b, s.active));
    if (p->n_stages > 0)
        printf(", drafter of %d layer%s", p->n_stages, p->n_stages == 1 ? "" : "s");
    printf("\n");
}

static void print_weights(const struct request *r, const struct plan *p)
{
    char a[24], b[24];
    printf("\n%-28s %12s %12s\n", "weights", "resident", "read/token");
    for (int i = 0; i < PART_COUNT; i++)
        if (p->part[i].bytes != 0)
            printf("  %-26s %12s %12s\n", plan_part_name((enum plan_part)i),
                   plan_bytes_text(a, (double)p->part[i].bytes),
                   p->part[i].read_bytes == 0 ? "-" : plan_bytes_text(b, (double)p->part[i].read_bytes));
    struct plan_sum s = plan_total(p, true);
    printf("  %-26s %12s %12s\n", "total", plan_bytes_text(a, (double)s.bytes),
           plan_bytes_text(b, (double)s.read_bytes));
    if (r->stored_bytes != 0 && r->stored_bytes != s.bytes)
        printf("  %-26s %12s\n", "stored in the checkpoint", plan_bytes_text(a, (double)r->stored_bytes));
}

static void print_kv(const struct request *r, const struct plan *p)
{
    char a[24], b[24];
    printf("\nKV cache: %.0f bytes per token; one sequence of %lld tokens: %s in pages and a constant %s\n",
           plan_kv_bytes_per_token(p), (long long)r->context,
           plan_bytes_text(a, (double)(plan_seq_bytes(p, r->context) - p->block_bytes)),
           plan_bytes_text(b, (double)p->block_bytes));
    printf("steps work in %s (workspace of %d rows, logits, kernel scratch)\n", plan_bytes_text(a, (double)p->step_bytes),
           MODEL_ROWS_DEFAULT);
}

static void print_decode(const struct request *r, const struct plan *p)
{
    char a[24], b[24], batch[32];
    printf("\n%-10s %12s %12s %10s %12s", "decode at", "weights", "KV read", "GFLOP", "tokens/s");
    snprintf(batch, sizeof batch, "batch %lld", (long long)r->batch);
    printf(r->batch > 1 ? " %14s\n" : "\n", batch);
    for (size_t i = 0; i < COUNT_OF(table_contexts); i++) {
        int64_t n = table_contexts[i];
        if (n > p->cfg.max_positions)
            continue;
        printf("%-10lld %12s %12s %10.3g %12.4g", (long long)n,
               plan_bytes_text(a, (double)plan_total(p, false).read_bytes),
               plan_bytes_text(b, (double)plan_kv_read_bytes(p, n)),
               plan_flops(p, n) / 1e9, r->bandwidth / plan_step_bytes(p, 1, n));
        if (r->batch > 1)
            printf(" %14.4g", (double)r->batch * r->bandwidth / plan_step_bytes(p, (int)r->batch, n));
        printf("\n");
    }
    printf("tokens/s: what reading these bytes once at %.1f GB/s (%s) allows; GFLOP: per token\n", r->bandwidth / 1e9,
           r->measured ? "measured now" : "given");
}

/* One sentence: fits, or why not. */
static char *verdict(const struct request *r, const struct plan *p, const struct plan_fit *f)
{
    char need[24], memory[24], weights[24], kv[24], step[24], part[24];
    plan_bytes_text(need, (double)f->need_bytes);
    plan_bytes_text(memory, (double)f->memory_bytes);
    plan_bytes_text(weights, (double)f->weight_bytes);
    plan_bytes_text(kv, (double)f->kv_bytes);
    plan_bytes_text(step, (double)p->step_bytes);
    const char *drafter = p->n_stages == 0 ? "" : f->drafter_fits ? ", with its drafter" : ", without its drafter";
    if (f->fits)
        return xasprintf("fits%s: weights %s, KV %s and the memory of steps %s are %s of %s; up to %lld tokens at this "
                         "batch, up to %lld sequences at this context", drafter, weights, kv, step, need, memory,
                         (long long)f->context_max, (long long)f->batch_max);
    char *why = xasprintf("does not fit: weights %s, KV %s (%lld x %lld tokens) and the memory of steps %s need %s, "
                          "there are %s; ", weights, kv, (long long)r->batch, (long long)r->context, step, need, memory);
    char *rest;
    if (f->weight_bytes <= f->memory_bytes && f->context_max > 0)
        rest = xasprintf("up to %lld tokens at this batch would fit, up to %lld sequences at this context",
                         (long long)f->context_max, (long long)f->batch_max);
    else if (f->weight_bytes <= f->memory_bytes)
        rest = xasprintf("the weights alone fit, no sequence does beside them at this batch");
    else if (f->rest_fits)
        rest = xasprintf("all but the routed experts (%s) would fit",
                         plan_bytes_text(part, (double)p->part[PART_EXPERTS].bytes));
    else
        rest = xasprintf("even without the routed experts it needs %s",
                         plan_bytes_text(part, (double)(f->need_bytes - p->part[PART_EXPERTS].bytes)));
    char *all = xasprintf("%s%s", why, rest);
    free(why);
    free(rest);
    return all;
}

static void print_compare(const struct plan *p)
{
    double flops = plan_equivalent_flops(p, V32_CONTEXT), kv = plan_kv_bytes_per_token(p);
    double v32_flops = v32_equivalent_flops(V32_CONTEXT), v32_kv = v32_kv_bytes_per_token();
    printf("\nagainst DeepSeek-V3.2 at 1M tokens   this model        V3.2    ratio\n");
    printf("  equivalent FP8 GFLOP per token   %12.1f %11.1f  %5.1f %%\n", flops / 1e9, v32_flops / 1e9,
           100 * flops / v32_flops);
    printf("  KV bytes per token               %12.0f %11.0f  %5.1f %%\n", kv, v32_kv, 100 * kv / v32_kv);
    printf("  (bf16 attention counts twice, FP8 once, the FP4 indexer half)\n");
}

static void print_text(const struct request *r, const struct plan *p)
{
    struct plan_fit f = plan_fit(p, (uint64_t)r->memory_bytes, r->context, (int)r->batch);
    char *words = verdict(r, p, &f);
    print_head(r, p);
    print_weights(r, p);
    print_kv(r, p);
    print_decode(r, p);
    printf("\n%s\n", words);
    if (r->compare)
        print_compare(p);
    free(words);
}

/* ---------------------------------------------------------------- as JSON */

static json_t *integer(uint64_t v)
{
    return json_integer((json_int_t)v);
}

static json_t *weights_json(const struct plan *p)
{
    json_t *list = json_array();
    for (int i = 0; i < PART_COUNT; i++)
        json_array_append_new(list, json_pack("{s:s, s:o, s:o, s:o}", "part", plan_part_name((enum plan_part)i),
                                              "bytes", integer(p->part[i].bytes), "read_bytes_per_token",
                                              integer(p->part[i].read_bytes), "parameters",
                                              integer(p->part[i].params)));
    return list;
}

static json_t *decode_json(const struct request *r, const struct plan *p)
{
    json_t *list = json_array();
    for (size_t i = 0; i < COUNT_OF(table_contexts); i++) {
        int64_t n = table_contexts[i];
        if (n > p->cfg.max_positions)
            continue;
        json_t *row = json_pack("{s:o, s:o, s:o}", "context", integer((uint64_t)n), "weight_bytes",
                                integer(plan_total(p, false).read_bytes), "kv_bytes",
                                integer(plan_kv_read_bytes(p, n)));
        json_object_set_new(row, "flops", json_real(plan_flops(p, n)));
        json_object_set_new(row, "attention_flops", json_real(plan_attn_flops(p, n)));
        json_object_set_new(row, "indexer_flops", json_real(plan_index_flops(p, n)));
        json_object_set_new(row, "tokens_per_s", json_real(r->bandwidth / plan_step_bytes(p, 1, n)));
        json_object_set_new(row, "batch_tokens_per_s",
                            json_real((double)r->batch * r->bandwidth / plan_step_bytes(p, (int)r->batch, n)));
        json_array_append_new(list, row);
    }
    return list;
}

static json_t *fit_json(const struct request *r, const struct plan *p)
{
    struct plan_fit f = plan_fit(p, (uint64_t)r->memory_bytes, r->context, (int)r->batch);
    char *words = verdict(r, p, &f);
    json_t *o = json_pack("{s:b, s:s, s:o, s:o, s:b, s:o, s:o}", "fits", f.fits, "verdict", words, "memory_bytes",
                          integer(f.memory_bytes), "need_bytes", integer(f.need_bytes), "drafter_fits",
                          f.drafter_fits, "context_max", integer((uint64_t)f.context_max), "batch_max",
                          integer((uint64_t)f.batch_max));
    free(words);
    return o;
}

static json_t *compare_json(const struct plan *p)
{
    double flops = plan_equivalent_flops(p, V32_CONTEXT), kv = plan_kv_bytes_per_token(p);
    double v32_flops = v32_equivalent_flops(V32_CONTEXT), v32_kv = v32_kv_bytes_per_token();
    return json_pack("{s:s, s:i, s:f, s:f, s:f, s:f, s:f, s:f}", "with", "v3.2", "context", V32_CONTEXT,
                     "equivalent_flops", flops, "v32_equivalent_flops", v32_flops, "flops_ratio", flops / v32_flops,
                     "kv_bytes_per_token", kv, "v32_kv_bytes_per_token", v32_kv, "kv_ratio", kv / v32_kv);
}

static void print_json(const struct request *r, const struct plan *p)
{
    struct plan_sum s = plan_total(p, false), all = plan_total(p, true);
    json_t *o = json_pack("{s:s, s:o, s:o, s:{s:i, s:i, s:i, s:i}}", "model", r->name, "parameters", integer(s.params),
                          "active_parameters", integer(s.active), "layers", "swa", p->n_swa, "csa", p->n_csa, "hca",
                          p->n_hca, "drafter", p->n_stages);
    json_object_set_new(o, "weight_bytes", integer(all.bytes));
    json_object_set_new(o, "weights", weights_json(p));
    json_object_set_new(o, "context", integer((uint64_t)r->context));
    json_object_set_new(o, "batch", integer((uint64_t)r->batch));
    json_object_set_new(o, "kv_bytes_per_token", json_real(plan_kv_bytes_per_token(p)));
    json_object_set_new(o, "kv_bytes", integer(plan_kv_bytes(p, r->context)));
    json_object_set_new(o, "page_bytes", integer(p->page_bytes));
    json_object_set_new(o, "step_bytes", integer(p->step_bytes));
    json_object_set_new(o, "sequence_bytes", integer(plan_seq_bytes(p, r->context)));
    json_object_set_new(o, "bandwidth_bytes_per_s", json_real(r->bandwidth));
    json_object_set_new(o, "bandwidth_measured", json_boolean(r->measured));
    json_object_set_new(o, "decode", decode_json(r, p));
    json_object_set_new(o, "fit", fit_json(r, p));
    if (r->stored_bytes != 0)
        json_object_set_new(o, "stored_bytes", integer(r->stored_bytes));
    if (r->compare)
        json_object_set_new(o, "compare", compare_json(p));
    json_dumpf(o, stdout, JSON_INDENT(2) | JSON_REAL_PRECISION(12));
    printf("\n");
    json_decref(o);
}

int cmd_plan(int argc, char **argv)
{
    struct request r = {.batch = 1};
    struct plan p;
    struct err e = {0};
    int rc = read_options(&r, argc, argv);
    if (rc >= 0)
        return rc;
    r.name = r.model != NULL ? r.model : r.shape;
    if ((r.model != NULL ? load_model(&r, &p, &e) : load_shape(&r, &p, &e)) != HD_OK)
        return e.code == HD_EARG ? usage_error("plan", "%s", e.msg) : fail("plan", &e);
    if (r.context == 0)
        r.context = p.cfg.max_positions < CONTEXT_DEFAULT ? p.cfg.max_positions : CONTEXT_DEFAULT;
    if (r.context > p.cfg.max_positions)
        return usage_error("plan", "--ctx: this model has at most %d positions", p.cfg.max_positions);
    if (find_machine(&r, &e) != HD_OK)
        return fail("plan", &e);
    if (model_plan_step(&p.step_bytes, &p.cfg, p.n_stages, r.context, (int)r.batch, (int)r.threads, &e) != HD_OK)
        return fail("plan", &e);
    if (r.json)
        print_json(&r, &p);
    else
        print_text(&r, &p);
    return EXIT_DONE;
}
