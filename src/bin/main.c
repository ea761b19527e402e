#include "bin/bin.h"

#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

static const struct command commands[] = {
    {"batch", "runs the requests of a file", cmd_batch},
    {"bench", "measures this machine and how fast it runs a model", cmd_bench},
    {"chat", "holds a conversation", cmd_chat},
    {"convert", "packs a model's weights into the file that opens at once", cmd_convert},
    {"detokenize", "prints the text of token ids", cmd_detokenize},
    {"encode", "prints the prompt that a chat request becomes", cmd_encode},
    {"inspect", "shows what a checkpoint holds", cmd_inspect},
    {"keys", "says who may use a server", cmd_keys},
    {"logits", "prints the logits of a forward pass", cmd_logits},
    {"plan", "says what a model needs, what fits and how fast memory lets it run", cmd_plan},
    {"run", "answers one prompt", cmd_run},
    {"serve", "answers requests over HTTP", cmd_serve},
    {"synth", "writes a checkpoint with synthetic weights", cmd_synth},
    {"tokenize", "prints the token ids of a text", cmd_tokenize},
    {"usage", "prints what was used and what it costs", cmd_usage},
    {NULL, NULL, NULL},
};

int fail(const char *command, const struct err *e)
{
    fprintf(stderr, "hadal %s: %s\n", command, e->msg);
    return EXIT_FAILED;
}

int usage_error(const char *command, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    fprintf(stderr, "hadal %s: ", command);
    vfprintf(stderr, fmt, ap);
    fprintf(stderr, "\nTry 'hadal %s --help'.\n", command);
    va_end(ap);
    return EXIT_USAGE;
}

static void print_help(FILE *f)
{
    fprintf(f, "hadal - runs DeepSeek-V4 models\n\nusage: hadal COMMAND [OPTIONS]\n\n");
    for (const struct command *c = commands; c->name != NULL; c++)
        fprintf(f, "  %-12s %s\n", c->name, c->summary);
    fprintf(f, "\n'hadal COMMAND --help' shows a command's options and examples.\n");
}

int main(int argc, char **argv)
{
    signal(SIGXFSZ, SIG_IGN); /* a limit of file sizes shows as a write error, which has a sentence */
    if (argc < 2) {
        print_help(stderr);
        return EXIT_USAGE;
    }
    if (strcmp(argv[1], "help") == 0 || strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "-h") == 0) {
        print_help(stdout);
        return EXIT_DONE;
    }
    for (const struct command *c = commands; c->name != NULL; c++)
        if (strcmp(argv[1], c->name) == 0)
            return c->run(argc - 1, argv + 1);
    fprintf(stderr, "hadal: '%s' is not a command. Try 'hadal help'.\n", argv[1]);
    return EXIT_USAGE;
}
