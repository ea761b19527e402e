/* `hadal tokenize` and `hadal detokenize`: text to token ids and back. */
#include "bin/bin.h"
#include "text/text.h"

#include <errno.h>
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { INPUT_BYTES_MAX = 1 << 30 };

static const char help_tokenize[] =
    "usage: hadal tokenize --tokenizer PATH [OPTIONS] [TEXT | -f FILE]\n"
    "\n"
    "Prints the token ids of TEXT, of FILE or of standard input.\n"
    "\n"
    "  -t, --tokenizer PATH  a checkpoint folder, a tokenizer.json or a rank file\n"
    "  -s, --special         added tokens written in the text (<think>, ...) become their ids;\n"
    "                        without it they are plain text\n"
    "  -p, --pieces          one token a line: its id, a tab, its text as a JSON string\n"
    "                        (with --jsonl: [id, text] instead of an id)\n"
    "  -j, --jsonl           read a JSON string a line, print a JSON array of ids a line\n"
    "  -f, --file FILE       read FILE ('-' is standard input)\n"
    "  -h, --help            this text\n"
    "\n"
    "examples:\n"
    "  hadal tokenize -t models/tiny 'The capital of France is'\n"
    "  hadal tokenize -t tokenizer.json --pieces -f notes.txt\n"
    "  echo '\"caf\\u00e9\\n\"' | hadal tokenize -t tokenizer.json --jsonl\n";

static const char help_detokenize[] =
    "usage: hadal detokenize --tokenizer PATH [OPTIONS] [ID... | -f FILE]\n"
    "\n"
    "Prints the text of token ids, which are separated by spaces or commas.\n"
    "\n"
    "  -t, --tokenizer PATH  a checkpoint folder, a tokenizer.json or a rank file\n"
    "  -S, --skip-special    leave out special added tokens\n"
    "  -j, --jsonl           read a JSON array of ids a line, print a JSON string a line\n"
    "                        (bytes that are no UTF-8 become U+FFFD; without it they come out as they are)\n"
    "  -f, --file FILE       read FILE ('-' is standard input)\n"
    "  -h, --help            this text\n"
    "\n"
    "examples:\n"
    "  hadal detokenize -t models/tiny 671 6102 294 8760 344\n"
    "  hadal tokenize -t models/tiny -f a.txt | hadal detokenize -t models/tiny\n";

struct job {
    const char *command;
    const char *tokenizer_path, *file; /* file NULL: standard input, or the arguments */
    bool special, skip_special, pieces, jsonl;
    struct tokenizer *t;
    struct err e;
    struct ids ids;
    struct buf text, out;
};

/* ---------------------------------------------------------------- options */

static const struct option options_tokenize[] = {
    {"tokenizer", required_argument, NULL, 't'}, {"special", no_argument, NULL, 's'},
    {"pieces", no_argument, NULL, 'p'},          {"jsonl", no_argument, NULL, 'j'},
    {"file", required_argument, NULL, 'f'},      {"help", no_argument, NULL, 'h'},
    {NULL, 0, NULL, 0},
};

static const struct option options_detokenize[] = {
    {"tokenizer", required_argument, NULL, 't'}, {"skip-special", no_argument, NULL, 'S'},
    {"jsonl", no_argument, NULL, 'j'},           {"file", required_argument, NULL, 'f'},
    {"help", no_argument, NULL, 'h'},            {NULL, 0, NULL, 0},
};

/* Returns -1 to go on, else the exit code. */
static int options_read(struct job *job, int argc, char **argv, const char *letters, const struct option *options,
                        const char *help)
{
    job->command = argv[0];
    optind = 1;
    for (int c; (c = getopt_long(argc, argv, letters, options, NULL)) != -1;) {
        switch (c) {
        case 't': job->tokenizer_path = optarg; break;
        case 's': job->special = true; break;
        case 'S': job->skip_special = true; break;
        case 'p': job->pieces = true; break;
        case 'j': job->jsonl = true; break;
        case 'f': job->file = optarg; break;
        case 'h': fputs(help, stdout); return EXIT_DONE;
        default: fprintf(stderr, "Try 'hadal %s --help'.\n", job->command); return EXIT_USAGE;
        }
    }
    if (job->tokenizer_path == NULL)
        return usage_error(job->command, "--tokenizer PATH is missing");
    if (optind < argc && job->file != NULL)
        return usage_error(job->command, "either arguments or --file, not both");
    if (optind < argc && job->jsonl)
        return usage_error(job->command, "--jsonl reads standard input or --file, not arguments");
    return -1;
}

/* ---------------------------------------------------------------- input and output */

static int out_write(struct job *job)
{
    if (fwrite(job->out.data, 1, job->out.len, stdout) != job->out.len || fflush(stdout) != 0)
        return err_sys(&job->e, errno, "cannot write to standard output");
    buf_clear(&job->out);
    return HD_OK;
}

typedef int (*line_fn)(struct job *job, const json_t *line);

/* fn on the JSON value of one line. The answer leaves at once, so that a script may hold a conversation. */
static int line_run(struct job *job, line_fn fn, const char *line, size_t n, const char *name, long i_line)
{
    if (strspn(line, " \t\r\n") == n)
        return HD_OK;
    json_error_t why;
    json_t *value = json_loadb(line, n, JSON_DECODE_ANY | JSON_ALLOW_NUL, &why);
    int rc = value != NULL ? fn(job, value) : err_set(&job->e, HD_EARG, "not JSON: %s", why.text);
    json_decref(value);
    if (rc == HD_OK)
        return out_write(job);
    struct err inner = job->e;
    job->e = (struct err){0};
    return err_set(&job->e, rc, "%s: line %ld: %s", name, i_line, inner.msg);
}

/* fn on every line that is not empty. */
static int lines_run(struct job *job, line_fn fn)
{
    bool is_stdin = job->file == NULL || strcmp(job->file, "-") == 0;
    const char *name = is_stdin ? "standard input" : job->file;
    FILE *f = is_stdin ? stdin : fopen(name, "r");
    if (f == NULL)
        return err_sys(&job->e, errno, "%s: cannot open", name);
    char *line = NULL;
    size_t cap = 0;
    int rc = HD_OK;
    ssize_t n;
    for (long i_line = 1; rc == HD_OK && (n = getline(&line, &cap, f)) >= 0; i_line++)
        rc = line_run(job, fn, line, (size_t)n, name, i_line);
    if (rc == HD_OK && ferror(f))
        rc = err_sys(&job->e, errno, "%s: cannot read", name);
    free(line);
    if (!is_stdin)
        fclose(f);
    return rc;
}

/* The arguments with spaces between, or the file. */
static int input_read(struct job *job, int argc, char **argv)
{
    if (optind == argc)
        return file_read(&job->text, job->file != NULL ? job->file : "-", INPUT_BYTES_MAX, &job->e);
    for (int i = optind; i < argc; i++) {
        if (i > optind)
            buf_char(&job->text, ' ');
        buf_str(&job->text, argv[i]);
    }
    return HD_OK;
}

/* bytes as a JSON string; U+FFFD where they are no UTF-8. */
static void json_string_add(struct buf *out, const char *bytes, size_t n)
{
    struct buf text = {0};
    struct utf8_stream stream = {0};
    utf8_stream_add(&stream, bytes, n, &text);
    utf8_stream_flush(&stream, &text);
    json_t *value = json_stringn(text.data != NULL ? text.data : "", text.len);
    char *dump = json_dumps(value, JSON_ENCODE_ANY);
    buf_str(out, dump);
    free(dump);
    json_decref(value);
    buf_free(&text);
}

static void piece_add(struct job *job, int32_t id)
{
    size_t n;
    const char *bytes = tokenizer_bytes(job->t, id, &n);
    json_string_add(&job->out, bytes, n);
}

/* ---------------------------------------------------------------- tokenize */

static int line_tokenize(struct job *job, const json_t *line)
{
    if (!json_is_string(line))
        return err_set(&job->e, HD_EARG, "expected a JSON string");
    job->ids.n = 0;
    int rc = tokenizer_encode(job->t, json_string_value(line), json_string_length(line), job->special, &job->ids,
                              &job->e);
    if (rc != HD_OK)
        return rc;
    buf_char(&job->out, '[');
    for (size_t i = 0; i < job->ids.n; i++) {
        buf_str(&job->out, i != 0 ? ", " : "");
        buf_printf(&job->out, job->pieces ? "[%d, " : "%d", (int)job->ids.data[i]);
        if (job->pieces) {
            piece_add(job, job->ids.data[i]);
            buf_char(&job->out, ']');
        }
    }
    buf_str(&job->out, "]\n");
    return HD_OK;
}

static int text_tokenize(struct job *job, int argc, char **argv)
{
    int rc = input_read(job, argc, argv);
    if (rc == HD_OK)
        rc = tokenizer_encode(job->t, job->text.data != NULL ? job->text.data : "", job->text.len, job->special,
                              &job->ids, &job->e);
    if (rc != HD_OK)
        return rc;
    for (size_t i = 0; i < job->ids.n; i++) {
        buf_str(&job->out, i == 0 || job->pieces ? "" : " ");
        buf_printf(&job->out, "%d", (int)job->ids.data[i]);
        if (job->pieces) {
            buf_char(&job->out, '\t');
            piece_add(job, job->ids.data[i]);
            buf_char(&job->out, '\n');
        }
    }
    if (!job->pieces)
        buf_char(&job->out, '\n');
    return out_write(job);
}

/* ---------------------------------------------------------------- detokenize */

static int id_check(struct job *job, int64_t id)
{
    size_t n;
    if (id >= 0 && id < tokenizer_n_vocab(job->t) && (tokenizer_bytes(job->t, (int32_t)id, &n), n != 0))
        return HD_OK;
    return err_set(&job->e, HD_EARG, "%lld is not a token id of %s", (long long)id, job->tokenizer_path);
}

static int line_detokenize(struct job *job, const json_t *line)
{
    if (!json_is_array(line))
        return err_set(&job->e, HD_EARG, "expected a JSON array of ids");
    job->ids.n = 0;
    for (size_t i = 0; i < json_array_size(line); i++) {
        const json_t *id = json_array_get(line, i);
        if (!json_is_integer(id))
            return err_set(&job->e, HD_EARG, "element %zu is not an integer", i);
        int rc = id_check(job, json_integer_value(id));
        if (rc != HD_OK)
            return rc;
        ids_add(&job->ids, (int32_t)json_integer_value(id));
    }
    buf_clear(&job->text);
    tokenizer_decode(job->t, job->ids.data, job->ids.n, job->skip_special, &job->text);
    json_string_add(&job->out, job->text.data, job->text.len);
    buf_char(&job->out, '\n');
    return HD_OK;
}

static int ids_parse(struct job *job)
{
    const char separators[] = " ,\t\r\n";
    char *at = job->text.data != NULL ? job->text.data : "";
    for (at += strspn(at, separators); *at != '\0'; at += strspn(at, separators)) {
        size_t n = strcspn(at, separators);
        char *end;
        errno = 0;
        long long id = strtoll(at, &end, 10);
        if (end != at + n || errno != 0)
            return err_set(&job->e, HD_EARG, "'%.*s' is not a token id", n < 40 ? (int)n : 40, at);
        int rc = id_check(job, id);
        if (rc != HD_OK)
            return rc;
        ids_add(&job->ids, (int32_t)id);
        at = end;
    }
    return HD_OK;
}

static int text_detokenize(struct job *job, int argc, char **argv)
{
    int rc = input_read(job, argc, argv);
    if (rc == HD_OK)
        rc = ids_parse(job);
    if (rc != HD_OK)
        return rc;
    tokenizer_decode(job->t, job->ids.data, job->ids.n, job->skip_special, &job->out);
    /* The bytes exactly; a line end only for a person's eyes. */
    if (isatty(STDOUT_FILENO))
        buf_char(&job->out, '\n');
    return out_write(job);
}

/* ---------------------------------------------------------------- commands */

static int job_open(struct job *job)
{
    int rc = tokenizer_open(&job->t, job->tokenizer_path, &job->e);
    if (rc == HD_OK && tokenizer_warning(job->t) != NULL)
        fprintf(stderr, "hadal %s: warning: %s\n", job->command, tokenizer_warning(job->t));
    return rc;
}

static int job_end(struct job *job, int rc)
{
    tokenizer_close(&job->t);
    ids_free(&job->ids);
    buf_free(&job->text);
    buf_free(&job->out);
    return rc == HD_OK ? EXIT_DONE : fail(job->command, &job->e);
}

int cmd_tokenize(int argc, char **argv)
{
    struct job job = {0};
    int code = options_read(&job, argc, argv, "t:spjf:h", options_tokenize, help_tokenize);
    if (code >= 0)
        return code;
    int rc = job_open(&job);
    if (rc == HD_OK)
        rc = job.jsonl ? lines_run(&job, line_tokenize) : text_tokenize(&job, argc, argv);
    return job_end(&job, rc);
}

int cmd_detokenize(int argc, char **argv)
{
    struct job job = {0};
    int code = options_read(&job, argc, argv, "t:Sjf:h", options_detokenize, help_detokenize);
    if (code >= 0)
        return code;
    int rc = job_open(&job);
    if (rc == HD_OK)
        rc = job.jsonl ? lines_run(&job, line_detokenize) : text_detokenize(&job, argc, argv);
    return job_end(&job, rc);
}
