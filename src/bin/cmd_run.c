/* hadal run: one prompt, one reply. */
#include "bin/bin.h"
#include "bin/talk.h"

#include <errno.h>
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const char help[] =
    "usage: hadal run [-m DIR] [-p TEXT] [-f FILE] [OPTIONS]\n\n"
    "Answers one prompt: TEXT, the contents of FILE, both with an empty line between, or else standard input. The reply\n"
    "streams to standard output; reasoning is dim on a terminal and stands between <think> and </think> elsewhere. The\n"
    "last line, on standard error, counts tokens and tokens per second. Ctrl-C ends the reply and the program (130).\n\n"
    "  -p, --prompt TEXT   the prompt\n"
    "  -f, --file FILE     the prompt from a file ('-': standard input)\n";

static const char help_output[] =
    "  --raw               no chat format: the model continues the text as it is, control tokens in it are matched, and\n"
    "                      the first token is put before it when it is missing\n"
    "  --json              one JSON object at the end instead of a stream\n"
    "  --logprobs          log-probabilities of the tokens: in the JSON, otherwise on standard error at the end\n"
    "  --top-logprobs N    with --logprobs, also of the N most likely tokens (0 to 20)\n"
    "  -h, --help          this text\n\n"
    "examples:\n"
    "  hadal run -p 'Who are you?'\n"
    "  hadal run --think high --temperature 0 -p 'What is 17 + 25?'\n"
    "  hadal run -m DIR -p 'Summarise this page.' -f page.txt --max-tokens 500\n"
    "  git diff | hadal run --json --seed 7\n";

enum { OPT_RAW = 256, OPT_JSON, OPT_LOGPROBS, OPT_TOP_LOGPROBS };
enum { PROMPT_BYTES_MAX = 1 << 30 };

struct run_job {
    struct talk_args args;
    const char *prompt, *file;
    bool raw, json, logprobs;
    int64_t top_logprobs; /* -1: not given */
};

/* ---------------------------------------------------------------- the prompt */

static int read_prompt(const struct run_job *j, struct buf *text, struct err *e)
{
    const char *file = j->file != NULL ? j->file : j->prompt == NULL ? "-" : NULL;
    if (j->prompt != NULL)
        buf_str(text, j->prompt);
    if (j->prompt != NULL && file != NULL)
        buf_str(text, "\n\n");
    int rc = file != NULL ? file_read(text, file, PROMPT_BYTES_MAX, e) : HD_OK;
    if (rc == HD_OK && text->len == 0)
        rc = err_set(e, HD_EARG, "the prompt is empty");
    return rc;
}

/* The first token of every sequence is the model's begin token, as its literal text. */
static void put_begin_token(struct buf *text, const struct engine *e)
{
    size_t n;
    const char *bos = tokenizer_bytes(engine_env(e)->tokenizer, model_config(engine_model(e))->bos_id, &n);
    if (text->len >= n && memcmp(text->data, bos, n) == 0)
        return;
    struct buf with = {0};
    buf_add(&with, bos, n);
    buf_add(&with, text->data, text->len);
    buf_free(text);
    *text = with;
}

static json_t *make_request(const struct run_job *j, struct buf *text, const struct engine *e, struct err *err)
{
    if (j->raw)
        put_begin_token(text, e);
    json_t *prompt = json_stringn(text->data, text->len), *request;
    if (prompt == NULL) {
        err_set(err, HD_EARG, "the prompt is not UTF-8 text");
        return NULL;
    }
    if (j->raw) {
        request = json_copy(j->args.fields);
        json_object_set_new(request, "prompt", prompt);
        json_object_set_new(request, "match_added_tokens", json_true());
    } else {
        json_t *messages = json_pack("[{s:s, s:o}]", "role", "user", "content", prompt);
        request = talk_request(&j->args, messages);
        json_decref(messages);
    }
    if (j->logprobs)
        json_object_set_new(request, "logprobs", json_true());
    if (j->top_logprobs >= 0)
        json_object_set_new(request, "top_logprobs", json_integer(j->top_logprobs));
    return request;
}

/* ---------------------------------------------------------------- the reply */

static void show_logprobs(const json_t *list)
{
    size_t i, k;
    json_t *token, *top;
    json_array_foreach((json_t *)(uintptr_t)list, i, token) {
        struct buf line = {0};
        const json_t *text = json_object_get(token, "token");
        buf_printf(&line, "%7lld %10.4f  ", (long long)json_integer_value(json_object_get(token, "id")),
                   json_number_value(json_object_get(token, "logprob")));
        json_dump_python(text, &line);
        json_array_foreach(json_object_get(token, "top_logprobs"), k, top) {
            buf_str(&line, k == 0 ? "   of " : ", ");
            json_dump_python(json_object_get(top, "token"), &line);
            buf_printf(&line, " %.4f", json_number_value(json_object_get(top, "logprob")));
        }
        fprintf(stderr, "%s\n", line.data);
        buf_free(&line);
    }
}

static void print_json(const struct talk_reply *r, uint64_t seed)
{
    struct buf text = {0};
    json_t *o = talk_reply_json(r, seed);
    json_dump_python(o, &text);
    printf("%s\n", text.data);
    json_decref(o);
    buf_free(&text);
}

static int answer(const struct run_job *j, struct engine *e, const json_t *request, struct err *err)
{
    struct talk_show show = talk_show_stdout();
    struct talk_reply reply = {0};
    uint64_t seed = 0;
    int rc = talk_run(e, request, j->json ? NULL : &show, &reply, &seed, err);
    if (rc == HD_OK && j->json)
        print_json(&reply, seed);
    if (rc == HD_OK && !j->json && reply.logprobs != NULL)
        show_logprobs(reply.logprobs);
    if (fflush(stdout) != 0)
        rc = err_sys(err, errno, "cannot write to standard output");
    if (rc == HD_OK)
        talk_show_stats(&reply);
    if (rc == HD_OK && reply.finish == FINISH_CANCELLED)
        rc = HD_ECANCELLED;
    talk_reply_free(&reply);
    return rc;
}

static int run_job(struct run_job *j)
{
    struct err e = {0};
    struct buf text = {0};
    struct engine *engine = NULL;
    json_t *request = NULL;
    int rc = read_prompt(j, &text, &e);
    talk_interrupt_catch();
    if (rc == HD_OK)
        rc = talk_engine_open(&engine, &j->args, &e);
    if (rc == HD_OK) {
        request = make_request(j, &text, engine, &e);
        rc = request == NULL ? e.code : answer(j, engine, request, &e);
    }
    json_decref(request);
    engine_close(&engine);
    buf_free(&text);
    if (talk_interrupted())
        return EXIT_INTERRUPTED;
    return rc == HD_OK ? EXIT_DONE : fail("run", &e);
}

/* ---------------------------------------------------------------- options */

static int take_option(struct run_job *j, int c)
{
    switch (c) {
    case 'p':
        j->prompt = optarg;
        return -1;
    case 'f':
        j->file = optarg;
        return -1;
    case OPT_RAW:
        j->raw = true;
        return -1;
    case OPT_JSON:
        j->json = true;
        return -1;
    case OPT_LOGPROBS:
        j->logprobs = true;
        return -1;
    case OPT_TOP_LOGPROBS:
        return parse_int_arg("run", "--top-logprobs", optarg, 0, TOP_LOGPROBS_MAX, &j->top_logprobs) ? -1 : EXIT_USAGE;
    case 'h':
        printf("%s%s%s%s", help, model_args_help, talk_args_help, help_output);
        return EXIT_DONE;
    case '?':
        fprintf(stderr, "Try 'hadal run --help'.\n");
        return EXIT_USAGE;
    default:
        break;
    }
    int taken = talk_args_take(&j->args, "run", c, optarg);
    return taken == 1 ? -1 : taken == -2 ? EXIT_FAILED : EXIT_USAGE;
}

static int check_options(const struct run_job *j, int n_rest, const char *rest)
{
    if (n_rest > 0)
        return usage_error("run", "'%s' is not an option; a prompt is given with -p", rest);
    if (j->prompt == NULL && j->file == NULL && isatty(STDIN_FILENO))
        return usage_error("run", "no prompt: use -p TEXT, -f FILE or a pipe; 'hadal chat' holds a conversation");
    if (j->top_logprobs >= 0 && !j->logprobs)
        return usage_error("run", "--top-logprobs needs --logprobs");
    if (j->raw && (j->args.system != NULL || j->args.tools != NULL || strcmp(j->args.think, "none") != 0))
        return usage_error("run", "--raw has no chat format, so no --system, --tools or --think");
    return -1;
}

int cmd_run(int argc, char **argv)
{
    static const struct option options[] = {
        TALK_OPTIONS,
        {"prompt", required_argument, NULL, 'p'},
        {"file", required_argument, NULL, 'f'},
        {"raw", no_argument, NULL, OPT_RAW},
        {"json", no_argument, NULL, OPT_JSON},
        {"logprobs", no_argument, NULL, OPT_LOGPROBS},
        {"top-logprobs", required_argument, NULL, OPT_TOP_LOGPROBS},
        {"help", no_argument, NULL, 'h'},
        {NULL, 0, NULL, 0},
    };
    struct run_job j = {.top_logprobs = -1};
    talk_args_init(&j.args);
    int rc = -1;
    optind = 1;
    for (int c; rc < 0 && (c = getopt_long(argc, argv, "m:p:f:h", options, NULL)) != -1;)
        rc = take_option(&j, c);
    if (rc < 0)
        rc = check_options(&j, argc - optind, argv[optind]);
    if (rc < 0)
        rc = run_job(&j);
    talk_args_free(&j.args);
    return rc;
}
