/* hadal logits: the numbers of a forward pass over given token ids, as text that round-trips. */
#include "bin/bin.h"
#include "bin/model_args.h"
#include "text/text.h"

#include <ctype.h>
#include <errno.h>
#include <getopt.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char help[] =
    "usage: hadal logits [-m DIR] --tokens IDS|FILE [OPTIONS]\n\n"
    "Runs token ids as they are (no token is added) through the model and prints the logits after them.\n\n"
    "  --tokens IDS|FILE   ids separated by commas or white space, or a file of such ids ('-': standard input)\n"
    "  --positions LIST    0-based positions, such as 0,5, or all (default: the last one)\n"
    "  --mtp               also the MTP block's logits: the row of position t predicts token t+2, so that the last\n"
    "                      position has none\n"
    "  --dspark            also the DSpark stages' greedy draft after each position and the given token that follows it:\n"
    "                      ids of the tokens after that one, and their confidence\n"
    "  --stream-after L    also the residual streams after layer L (from 0), flattened, one row a position\n"
    "  --chunk N           tokens per pass (default 512); the numbers do not depend on it\n"
    "  --json              an object of positions, logits, mtp_positions, mtp_logits, draft_positions, drafts,\n"
    "                      draft_confidence and streams instead of a table of the most likely tokens\n";

static const char examples[] =
    "  -h, --help          this text\n\n"
    "examples:\n"
    "  hadal logits -m models/tiny --tokens 0,5,17,301\n"
    "  hadal logits -m DIR --tokens ids.txt --positions all --numerics exact --mtp --json > out.json\n";

enum { OPT_TOKENS = 256, OPT_POSITIONS, OPT_MTP, OPT_DSPARK, OPT_STREAM, OPT_CHUNK, OPT_JSON };
enum { IDS_BYTES_MAX = 1 << 28, TOP_SHOWN = 8 };

struct logits_job {
    struct model_args args;
    const char *tokens_arg, *positions_arg;
    bool mtp, dspark, json;
    int64_t chunk, stream_layer; /* -1: none */

    struct ids tokens;
    int64_t *positions; /* ascending */
    size_t n_positions;

    struct model *model;
    struct kv_seq *seq;
    struct tokenizer *tokenizer; /* NULL: the folder has none; texts are left out */
    int64_t pos0;                /* first position of the chunk at hand */
    bool first_row;
    /* JSON pieces that are printed after the logits */
    struct buf mtp_positions, mtp_rows, streams, draft_positions, drafts, confidence;
};

/* ---------------------------------------------------------------- numbers in */

/* Appends the whole numbers of a text; they are separated by commas or white space. */
static int parse_ids(const char *text, const char *what, struct ids *out, struct err *e)
{
    for (const char *p = text; *p != '\0';) {
        if (*p == ',' || isspace((unsigned char)*p)) {
            p++;
            continue;
        }
        char *end;
        errno = 0;
        long v = strtol(p, &end, 10);
        bool ends = *end == '\0' || *end == ',' || isspace((unsigned char)*end);
        if (errno != 0 || end == p || v < 0 || v > INT32_MAX || !ends)
            return err_set(e, HD_EARG, "%s: number %zu is not a whole number of at most 31 bits", what, out->n + 1);
        ids_add(out, (int32_t)v);
        p = end;
    }
    return HD_OK;
}

static int read_tokens(struct logits_job *j, struct err *e)
{
    struct buf text = {0};
    int rc;
    if (strspn(j->tokens_arg, "0123456789, \t\n") == strlen(j->tokens_arg)) {
        rc = parse_ids(j->tokens_arg, "--tokens", &j->tokens, e);
    } else {
        rc = file_read(&text, j->tokens_arg, IDS_BYTES_MAX, e);
        if (rc == HD_OK && text.len > 0)
            rc = parse_ids(text.data, j->tokens_arg, &j->tokens, e);
        buf_free(&text);
    }
    if (rc == HD_OK && j->tokens.n == 0)
        rc = err_set(e, HD_EARG, "%s: no token ids", j->tokens_arg);
    return rc;
}

static int compare_positions(const void *a, const void *b)
{
    int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
    return (x > y) - (x < y);
}

static int read_positions(struct logits_job *j, struct err *e)
{
    struct ids list = {0};
    int64_t n = (int64_t)j->tokens.n;
    bool all = j->positions_arg != NULL && strcmp(j->positions_arg, "all") == 0;
    int rc = HD_OK;
    if (all)
        for (int64_t i = 0; i < n; i++)
            ids_add(&list, (int32_t)i);
    else if (j->positions_arg == NULL)
        ids_add(&list, (int32_t)(n - 1));
    else
        rc = parse_ids(j->positions_arg, "--positions", &list, e);
    j->positions = xcalloc(list.n + 1, sizeof *j->positions);
    for (size_t i = 0; i < list.n && rc == HD_OK; i++) {
        if (list.data[i] >= n)
            rc = err_set(e, HD_EARG, "--positions: %d is not below the number of tokens, %" PRId64, list.data[i], n);
        j->positions[i] = list.data[i];
    }
    qsort(j->positions, list.n, sizeof *j->positions, compare_positions);
    for (size_t i = 0; i < list.n; i++) /* each once */
        if (i == 0 || j->positions[i] != j->positions[j->n_positions - 1])
            j->positions[j->n_positions++] = j->positions[i];
    ids_free(&list);
    return rc;
}

static bool is_wanted(const struct logits_job *j, int64_t position)
{
    return bsearch(&position, j->positions, j->n_positions, sizeof position, compare_positions) != NULL;
}

/* ---------------------------------------------------------------- numbers out */

static void add_row(struct buf *b, const float *x, int n)
{
    buf_char(b, '[');
    for (int i = 0; i < n; i++)
        if (isfinite(x[i]))
            buf_printf(b, i == 0 ? "%.9g" : ", %.9g", (double)x[i]);
        else
            buf_str(b, i == 0 ? "null" : ", null"); /* JSON has no other word for it */
    buf_char(b, ']');
}

static void add_separated_row(struct buf *b, const float *x, int n)
{
    if (b->len > 0)
        buf_str(b, ",\n ");
    add_row(b, x, n);
}

static void show_top(const struct logits_job *j, int64_t position, const float *x, int n)
{
    printf("position %" PRId64 " (after token %d)\n", position, j->tokens.data[position]);
    int shown[TOP_SHOWN], n_shown = 0;
    for (int k = 0; k < TOP_SHOWN && k < n; k++) {
        int best = -1;
        for (int i = 0; i < n; i++) {
            bool seen = false;
            for (int s = 0; s < n_shown; s++)
                seen = seen || shown[s] == i;
            if (!seen && (best < 0 || x[i] > x[best]))
                best = i;
        }
        shown[n_shown++] = best;
        struct buf text = {0}, quoted = {0};
        if (j->tokenizer != NULL)
            tokenizer_decode(j->tokenizer, &(int32_t){best}, 1, false, &text);
        if (text.len > 0)
            json_quote_python(text.data, text.len, &quoted);
        printf("  %7d %12.6f  %s\n", best, (double)x[best], quoted.data == NULL ? "" : quoted.data);
        buf_free(&text);
        buf_free(&quoted);
    }
}

static void give_logits(struct logits_job *j, int64_t position, const float *x, int n)
{
    if (!j->json) {
        show_top(j, position, x, n);
        return;
    }
    struct buf row = {0};
    buf_str(&row, j->first_row ? "" : ",\n ");
    j->first_row = false;
    add_row(&row, x, n);
    fwrite(row.data, 1, row.len, stdout);
    buf_free(&row);
}

static void give_mtp(struct logits_job *j, const struct step_result *r, int n_vocab)
{
    for (int i = 0; i < r->n_mtp; i++) {
        if (!is_wanted(j, r->mtp_pos[i]))
            continue;
        buf_printf(&j->mtp_positions, "%s%" PRId64, j->mtp_positions.len > 0 ? ", " : "", r->mtp_pos[i]);
        add_separated_row(&j->mtp_rows, r->mtp_logits + (size_t)i * (size_t)n_vocab, n_vocab);
    }
}

/* The draft after the last position of a chunk, when that is a wanted one. */
static int give_draft(struct logits_job *j, int64_t end, struct err *e)
{
    if (end >= (int64_t)j->tokens.n || !is_wanted(j, end - 1))
        return HD_OK;
    struct draft d;
    int rc = model_draft(j->model, j->seq, j->tokens.data[end], &d, e);
    if (rc != HD_OK)
        return rc;
    struct buf ids = {0};
    for (int i = 0; i < d.n; i++)
        buf_printf(&ids, "%s%d", i > 0 ? ", " : "", d.ids[i]);
    if (!j->json)
        printf("draft after token %d: %s\n", j->tokens.data[end], ids.data);
    buf_printf(&j->draft_positions, "%s%" PRId64, j->draft_positions.len > 0 ? ", " : "", end - 1);
    buf_printf(&j->drafts, "%s[%s]", j->drafts.len > 0 ? ", " : "", ids.data);
    add_separated_row(&j->confidence, d.confidence, d.n);
    buf_free(&ids);
    return HD_OK;
}

static void on_watch(void *arg, enum watch_point point, int layer, const float *values, const int32_t *ints, int n, int dim)
{
    struct logits_job *j = arg;
    (void)ints; /* streams are floats */
    if (point != WATCH_STREAM || layer != j->stream_layer)
        return;
    for (int i = 0; i < n; i++)
        if (is_wanted(j, j->pos0 + i))
            add_separated_row(&j->streams, values + (size_t)i * (size_t)dim, dim);
}

static void print_head(const struct logits_job *j)
{
    printf("{\"positions\": [");
    for (size_t i = 0; i < j->n_positions; i++)
        printf("%s%" PRId64, i > 0 ? ", " : "", j->positions[i]);
    printf("],\n\"logits\": [");
}

static const char *text_of(const struct buf *b)
{
    return b->data == NULL ? "" : b->data;
}

static void print_tail(const struct logits_job *j)
{
    printf("]");
    if (j->mtp)
        printf(",\n\"mtp_positions\": [%s],\n\"mtp_logits\": [%s]", text_of(&j->mtp_positions), text_of(&j->mtp_rows));
    if (j->dspark)
        printf(",\n\"draft_positions\": [%s],\n\"drafts\": [%s],\n\"draft_confidence\": [%s]",
               text_of(&j->draft_positions), text_of(&j->drafts), text_of(&j->confidence));
    if (j->stream_layer >= 0)
        printf(",\n\"streams\": [%s]", text_of(&j->streams));
    printf("}\n");
}

/* ---------------------------------------------------------------- the pass */

/* Rows from the first wanted position of the chunk to its end: logits are asked for a chunk's tail. */
static int tail_wanted(const struct logits_job *j, int n_tokens)
{
    for (int i = 0; i < n_tokens; i++)
        if (is_wanted(j, j->pos0 + i))
            return n_tokens - i;
    return 0;
}

static int run_chunk(struct logits_job *j, int n_tokens, struct err *e)
{
    int64_t end = j->pos0 + n_tokens, n_vocab = model_config(j->model)->vocab_size;
    struct step_item item = {.seq = j->seq, .tokens = j->tokens.data + j->pos0, .n_tokens = n_tokens, .mtp = j->mtp,
                             .n_logits = tail_wanted(j, n_tokens), .dspark = j->dspark,
                             .next_token = end < (int64_t)j->tokens.n ? j->tokens.data[end] : -1};
    struct step_result r = {0};
    int rc = model_step(j->model, &item, 1, &r, e);
    if (rc != HD_OK)
        return rc;
    for (int i = 0; i < item.n_logits; i++) {
        int64_t position = end - item.n_logits + i;
        if (is_wanted(j, position))
            give_logits(j, position, r.logits + i * n_vocab, (int)n_vocab);
    }
    if (j->mtp)
        give_mtp(j, &r, (int)n_vocab);
    return j->dspark ? give_draft(j, end, e) : HD_OK;
}

/* Tokens of the next pass: a draft is made at the end of one, so with --dspark it ends at the next wanted position. */
static int next_chunk(const struct logits_job *j)
{
    int64_t left = (int64_t)j->tokens.n - j->pos0, n = left < j->chunk ? left : j->chunk;
    for (size_t i = 0; j->dspark && i < j->n_positions; i++)
        if (j->positions[i] >= j->pos0)
            return j->positions[i] + 1 - j->pos0 < n ? (int)(j->positions[i] + 1 - j->pos0) : (int)n;
    return (int)n;
}

static int run_all(struct logits_job *j, struct err *e)
{
    struct progress p = progress_bar();
    int64_t n = (int64_t)j->tokens.n;
    while (j->pos0 < n) {
        int chunk = next_chunk(j), rc = run_chunk(j, chunk, e);
        if (rc != HD_OK)
            return rc;
        j->pos0 += chunk;
        progress_tell(&p, "tokens", (uint64_t)j->pos0, (uint64_t)n);
    }
    return HD_OK;
}

static int check_model(const struct logits_job *j, const char *dir, struct err *e)
{
    const struct config *c = model_config(j->model);
    if (j->mtp && !model_has_mtp(j->model))
        return err_set(e, HD_EARG, "%s has no MTP block", dir);
    if (j->dspark && !model_has_dspark(j->model))
        return err_set(e, HD_EARG, "%s has no DSpark stages", dir);
    if (j->stream_layer >= c->n_layers)
        return err_set(e, HD_EARG, "--stream-after %" PRId64 ": %s has %d layers", j->stream_layer, dir, c->n_layers);
    for (size_t i = 0; i < j->tokens.n; i++)
        if (j->tokens.data[i] >= c->vocab_size)
            return err_set(e, HD_EARG, "token %zu has id %d; %s knows 0 to %d", i, j->tokens.data[i], dir,
                           c->vocab_size - 1);
    return HD_OK;
}

static int open_all(struct logits_job *j, const char *dir, struct err *e)
{
    struct progress p = progress_bar();
    j->args.model.drafter = j->mtp || j->dspark;
    j->args.model.max_rows = (int)j->chunk;
    int rc = model_open(&j->model, dir, &j->args.model, &p, e);
    if (rc == HD_OK)
        rc = check_model(j, dir, e);
    if (rc == HD_OK)
        rc = kv_seq_open(&j->seq, j->model, (int64_t)j->tokens.n, e);
    if (rc == HD_OK && !j->json && tokenizer_open(&j->tokenizer, dir, NULL) != HD_OK)
        j->tokenizer = NULL;
    if (rc == HD_OK && j->stream_layer >= 0)
        model_watch(j->model, (struct watch){on_watch, j});
    return rc;
}

static int run_job(struct logits_job *j)
{
    struct err e = {0};
    int rc = read_tokens(j, &e);
    if (rc == HD_OK)
        rc = read_positions(j, &e);
    char *dir = rc == HD_OK ? model_find(j->args.dir, &e) : NULL;
    if (dir != NULL && open_all(j, dir, &e) == HD_OK) {
        if (j->json)
            print_head(j);
        j->first_row = true;
        if (run_all(j, &e) == HD_OK && j->json)
            print_tail(j);
    }
    free(dir);
    if (e.code == HD_OK && fflush(stdout) != 0)
        err_sys(&e, errno, "cannot write to standard output");
    return e.code == HD_OK ? EXIT_DONE : fail("logits", &e);
}

static void free_job(struct logits_job *j)
{
    if (j->seq != NULL)
        kv_seq_close(&j->seq);
    if (j->model != NULL)
        model_close(&j->model);
    tokenizer_close(&j->tokenizer);
    ids_free(&j->tokens);
    free(j->positions);
    buf_free(&j->mtp_positions);
    buf_free(&j->mtp_rows);
    buf_free(&j->streams);
    buf_free(&j->draft_positions);
    buf_free(&j->drafts);
    buf_free(&j->confidence);
}

/* -1 to go on, otherwise the exit code. */
static int take_option(struct logits_job *j, int c)
{
    switch (c) {
    case OPT_TOKENS:
        j->tokens_arg = optarg;
        return -1;
    case OPT_POSITIONS:
        j->positions_arg = optarg;
        return -1;
    case OPT_MTP:
        j->mtp = true;
        return -1;
    case OPT_DSPARK:
        j->dspark = true;
        return -1;
    case OPT_STREAM:
        return parse_int_arg("logits", "--stream-after", optarg, 0, LAYERS_MAX, &j->stream_layer) ? -1 : EXIT_USAGE;
    case OPT_CHUNK:
        return parse_int_arg("logits", "--chunk", optarg, 1, 1 << 20, &j->chunk) ? -1 : EXIT_USAGE;
    case OPT_JSON:
        j->json = true;
        return -1;
    case 'h':
        printf("%s%s%s", help, model_args_help, examples);
        return EXIT_DONE;
    default:
        if (model_args_take(&j->args, "logits", c, optarg) > 0)
            return -1;
        if (c == '?')
            fprintf(stderr, "Try 'hadal logits --help'.\n");
        return EXIT_USAGE;
    }
}

int cmd_logits(int argc, char **argv)
{
    static const struct option options[] = {
        MODEL_OPTIONS,
        {"tokens", required_argument, NULL, OPT_TOKENS},
        {"positions", required_argument, NULL, OPT_POSITIONS},
        {"mtp", no_argument, NULL, OPT_MTP},
        {"dspark", no_argument, NULL, OPT_DSPARK},
        {"stream-after", required_argument, NULL, OPT_STREAM},
        {"chunk", required_argument, NULL, OPT_CHUNK},
        {"json", no_argument, NULL, OPT_JSON},
        {"help", no_argument, NULL, 'h'},
        {NULL, 0, NULL, 0},
    };
    struct logits_job j = {.chunk = 512, .stream_layer = -1, .first_row = true};
    model_args_init(&j.args);
    int rc = -1;
    optind = 1;
    for (int c; rc < 0 && (c = getopt_long(argc, argv, "m:h", options, NULL)) != -1;)
        rc = take_option(&j, c);
    if (rc < 0 && optind < argc)
        rc = usage_error("logits", "'%s' is not an option", argv[optind]);
    if (rc < 0 && j.tokens_arg == NULL)
        rc = usage_error("logits", "--tokens IDS|FILE is missing");
    if (rc < 0)
        rc = run_job(&j);
    free_job(&j);
    return rc;
}
