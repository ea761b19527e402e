/* bin: the program `hadal`. The only floor that reads argv and the environment, prints for people and exits.
 * One file per command, one line per command in the table of main.c. */
#ifndef HADAL_BIN_H
#define HADAL_BIN_H

#include "base/base.h"

/* Exit codes: 0 done; 1 the world refused (one sentence on stderr); 2 wrong usage. */
enum { EXIT_DONE = 0, EXIT_FAILED = 1, EXIT_USAGE = 2 };

/* A command gets argv with argv[0] = its name and returns an exit code. */
struct command {
    const char *name;
    const char *summary; /* one line for `hadal help` */
    int (*run)(int argc, char **argv);
};

int cmd_batch(int argc, char **argv);
int cmd_bench(int argc, char **argv);
int cmd_chat(int argc, char **argv);
int cmd_convert(int argc, char **argv);
int cmd_inspect(int argc, char **argv);
int cmd_logits(int argc, char **argv);
int cmd_synth(int argc, char **argv);
int cmd_run(int argc, char **argv);
int cmd_tokenize(int argc, char **argv);
int cmd_detokenize(int argc, char **argv);
int cmd_encode(int argc, char **argv);
int cmd_plan(int argc, char **argv);
int cmd_keys(int argc, char **argv);
int cmd_serve(int argc, char **argv);
int cmd_usage(int argc, char **argv);

/* Prints "hadal NAME: sentence" on stderr and returns EXIT_FAILED / EXIT_USAGE. */
int fail(const char *command, const struct err *e);
int usage_error(const char *command, const char *fmt, ...) PRINTF_LIKE(2, 3);

/* A progress bar on stderr when that is a terminal, otherwise nothing (see progress.c). */
struct progress progress_bar(void);

/* The same bar for work that writes files: from now on SIGINT and SIGTERM make it ask the work to stop at the next call, so
 * that no partial file stays behind. */
struct progress progress_stoppable(void);

#endif
