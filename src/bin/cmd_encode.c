/* hadal encode: the prompt that a chat request becomes, as text or token ids. */
#include "bin/bin.h"
#include "text/text.h"

#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char help[] =
    "usage: hadal encode [OPTIONS] FILE|-\n\n"
    "Prints the prompt text that the DeepSeek-V4 chat format gives for FILE: a JSON array of messages, or a request\n"
    "{\"messages\", \"tools\", \"thinking\", \"reasoning_effort\", \"response_format\", \"profile\"}.\n\n"
    "  --tokenizer PATH   a checkpoint folder, a tokenizer.json or a rank file\n"
    "  --ids              print token ids instead of text (needs --tokenizer)\n"
    "  --special          match control tokens in user text too, as the reference does (default: they stay text)\n"
    "  --jsonl            one request a line in, one {\"prompt\", \"ids\"} a line out (ids with --tokenizer only)\n"
    "  --profile NAME     preview or official: the reasoning-effort texts (default: what the checkpoint folder\n"
    "                     given as --tokenizer says, otherwise preview)\n"
    "  --thinking         thinking mode for requests that do not say\n"
    "  --effort NAME      none low high max, for requests that do not say; without one no effort text\n"
    "  --keep-thinking    keep the reasoning of earlier turns\n"
    "  --no-bos           leave out the first token\n\n"
    "examples:\n"
    "  echo '[{\"role\": \"user\", \"content\": \"Hi\"}]' | hadal encode --thinking -\n"
    "  hadal encode --tokenizer models/tiny --jsonl < requests.jsonl\n";

enum { OPT_TOKENIZER = 256, OPT_IDS, OPT_SPECIAL, OPT_JSONL, OPT_PROFILE, OPT_THINKING, OPT_EFFORT, OPT_KEEP, OPT_BOS };

struct encode_job {
    struct chat_options chat; /* for what a request does not say */
    struct tokenizer *tokenizer;
    const char *tokenizer_path, *profile, *path;
    bool prints_ids, matches_special, is_jsonl;
};

static bool profile_parse(const char *name, enum chat_profile *out)
{
    *out = strcmp(name, "official") == 0 ? CHAT_OFFICIAL : CHAT_PREVIEW;
    return strcmp(name, "official") == 0 || strcmp(name, "preview") == 0;
}

/* thinking: true, false or {"type": "enabled" | "disabled"}. */
static int read_thinking(const json_t *v, struct chat_options *o, struct err *e)
{
    const char *type = json_string_value(json_object_get(v, "type"));
    if (json_is_boolean(v))
        o->thinking = json_is_true(v);
    else if (type != NULL && (strcmp(type, "enabled") == 0 || strcmp(type, "disabled") == 0))
        o->thinking = type[0] == 'e';
    else
        return err_set(e, HD_EARG, "thinking: must be true, false or {\"type\": \"enabled\" or \"disabled\"}");
    return HD_OK;
}

/* An effort asks for thinking unless the request decides that itself; "none" is thinking off. */
static int read_effort(const char *name, bool decides, struct chat_options *o, struct err *e)
{
    if (name == NULL || !chat_effort_parse(name, &o->effort))
        return err_set(e, HD_EARG, "reasoning_effort: must be none, low, high or max");
    if (o->effort == EFFORT_NONE)
        o->thinking = false;
    else if (!decides)
        o->thinking = true;
    return HD_OK;
}

static const json_t *get_given(const json_t *request, const char *field)
{
    const json_t *v = json_object_get(request, field);
    return json_is_null(v) ? NULL : v;
}

static int read_options(const json_t *request, struct chat_options *o, struct err *e)
{
    const json_t *thinking = get_given(request, "thinking"), *effort = get_given(request, "reasoning_effort");
    const json_t *profile = get_given(request, "profile");
    int rc = thinking != NULL ? read_thinking(thinking, o, e) : HD_OK;
    if (rc == HD_OK && effort != NULL)
        rc = read_effort(json_string_value(effort), thinking != NULL, o, e);
    const char *name = json_string_value(profile);
    if (rc == HD_OK && profile != NULL && (name == NULL || !profile_parse(name, &o->profile)))
        rc = err_set(e, HD_EARG, "profile: must be preview or official");
    return rc;
}

static void print_json(const struct chat_prompt *p, const struct ids *ids, bool with_ids)
{
    struct buf line = {0};
    buf_str(&line, "{\"prompt\": \"");
    json_quote_python(p->text.len ? p->text.data : "", p->text.len, &line);
    buf_char(&line, '"');
    if (with_ids)
        buf_str(&line, ", \"ids\": [");
    for (size_t i = 0; with_ids && i < ids->n; i++)
        buf_printf(&line, i != 0 ? ", %d" : "%d", (int)ids->data[i]);
    buf_str(&line, with_ids ? "]}\n" : "}\n");
    fwrite(line.data, 1, line.len, stdout);
    buf_free(&line);
}

static void print_plain(const struct encode_job *job, const struct chat_prompt *p, const struct ids *ids)
{
    if (!job->prints_ids) {
        fwrite(p->text.data, 1, p->text.len, stdout);
        return;
    }
    for (size_t i = 0; i < ids->n; i++)
        printf(i != 0 ? " %d" : "%d", (int)ids->data[i]);
    putchar('\n');
}

static int encode_request(const struct encode_job *job, const json_t *request, struct err *e)
{
    struct chat_options o = job->chat;
    bool is_list = json_is_array(request);
    if (!is_list && !json_is_object(request))
        return err_set(e, HD_EARG, "must be an array of messages or an object with `messages`");
    int rc = is_list ? HD_OK : read_options(request, &o, e);
    if (rc != HD_OK)
        return rc;
    struct chat_prompt p;
    rc = chat_encode(&p, is_list ? request : json_object_get(request, "messages"), get_given(request, "tools"),
                     get_given(request, "response_format"), &o, e);
    struct ids ids = {0};
    if (rc == HD_OK && job->tokenizer != NULL)
        rc = chat_tokens(&p, job->tokenizer, job->matches_special, &ids, e);
    if (rc == HD_OK && job->is_jsonl)
        print_json(&p, &ids, job->tokenizer != NULL);
    else if (rc == HD_OK)
        print_plain(job, &p, &ids);
    ids_free(&ids);
    chat_prompt_free(&p);
    return rc;
}

static int encode_text(const struct encode_job *job, const char *text, size_t n, const char *name, struct err *e)
{
    json_t *request = json_load_exact(text, n, name, false, e);
    if (request == NULL)
        return e->code;
    struct err why = {0};
    int rc = encode_request(job, request, &why);
    if (rc != HD_OK)
        err_set(e, rc, "%s: %s", name, why.msg);
    json_decref(request);
    return rc;
}

static int encode_lines(const struct encode_job *job, FILE *f, const char *file_name, struct err *e)
{
    char *line = NULL;
    size_t cap = 0, i_line = 0;
    int rc = HD_OK;
    for (ssize_t n; rc == HD_OK && (n = getline(&line, &cap, f)) >= 0;) {
        i_line++;
        if (strspn(line, " \t\r\n") == (size_t)n)
            continue;
        char *name = xasprintf("%s: line %zu", file_name, i_line);
        rc = encode_text(job, line, (size_t)n, name, e);
        free(name);
    }
    free(line);
    return rc;
}

static int encode_file(const struct encode_job *job, struct err *e)
{
    bool is_stdin = strcmp(job->path, "-") == 0;
    const char *name = is_stdin ? "standard input" : job->path;
    if (job->is_jsonl) {
        FILE *f = is_stdin ? stdin : fopen(job->path, "r");
        if (f == NULL)
            return err_set(e, HD_EIO, "%s: cannot open", name);
        int rc = encode_lines(job, f, name, e);
        if (!is_stdin)
            fclose(f);
        return rc;
    }
    struct buf text = {0};
    int rc = file_read(&text, job->path, (size_t)1 << 30, e);
    if (rc == HD_OK)
        rc = encode_text(job, text.data, text.len, name, e);
    buf_free(&text);
    return rc;
}

static int run_job(struct encode_job *job)
{
    struct err e = {0};
    if (job->profile == NULL && job->tokenizer_path != NULL && file_is_dir(job->tokenizer_path))
        job->chat.profile = chat_profile_of(job->tokenizer_path);
    int rc = HD_OK;
    if (job->tokenizer_path != NULL)
        rc = tokenizer_open(&job->tokenizer, job->tokenizer_path, &e);
    if (rc == HD_OK)
        rc = encode_file(job, &e);
    if (rc == HD_OK && fflush(stdout) != 0)
        rc = err_set(&e, HD_EIO, "standard output: cannot write");
    if (job->tokenizer != NULL)
        tokenizer_close(&job->tokenizer);
    return rc == HD_OK ? EXIT_DONE : fail("encode", &e);
}

/* Takes one option; false when its argument is wrong. */
static bool take_option(struct encode_job *job, int opt, const char *arg)
{
    struct err e = {0};
    switch (opt) {
    case OPT_TOKENIZER: job->tokenizer_path = arg; return true;
    case OPT_IDS: job->prints_ids = true; return true;
    case OPT_SPECIAL: job->matches_special = true; return true;
    case OPT_JSONL: job->is_jsonl = true; return true;
    case OPT_PROFILE: job->profile = arg; return profile_parse(arg, &job->chat.profile);
    case OPT_THINKING: job->chat.thinking = true; return true;
    case OPT_EFFORT: return read_effort(arg, true, &job->chat, &e) == HD_OK;
    case OPT_KEEP: job->chat.keep_thinking = true; return true;
    case OPT_BOS: job->chat.no_bos = true; return true;
    default: return false;
    }
}

int cmd_encode(int argc, char **argv)
{
    static const struct option options[] = {
        {"tokenizer", required_argument, NULL, OPT_TOKENIZER}, {"ids", no_argument, NULL, OPT_IDS},
        {"special", no_argument, NULL, OPT_SPECIAL},           {"jsonl", no_argument, NULL, OPT_JSONL},
        {"profile", required_argument, NULL, OPT_PROFILE},     {"thinking", no_argument, NULL, OPT_THINKING},
        {"effort", required_argument, NULL, OPT_EFFORT},       {"keep-thinking", no_argument, NULL, OPT_KEEP},
        {"no-bos", no_argument, NULL, OPT_BOS},                {"help", no_argument, NULL, 'h'},
        {NULL, 0, NULL, 0},
    };
    struct encode_job job = {0};
    opterr = 0;
    for (int opt; (opt = getopt_long(argc, argv, "h", options, NULL)) != -1;) {
        if (opt == 'h') {
            fputs(help, stdout);
            return EXIT_DONE;
        }
        if (opt == '?')
            return usage_error("encode", "'%s' is unknown or lacks its value", argv[optind - 1]);
        if (!take_option(&job, opt, optarg))
            return usage_error("encode", "'%s' is not a value that this option takes", optarg);
    }
    if (optind < argc - 1 || (optind == argc && !job.is_jsonl))
        return usage_error("encode", "needs one FILE (or - for standard input)");
    if (job.prints_ids && job.tokenizer_path == NULL)
        return usage_error("encode", "--ids needs --tokenizer");
    job.path = optind < argc ? argv[optind] : "-";
    return run_job(&job);
}
