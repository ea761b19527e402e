/* Options that every command over a model has, and where the model is found. */
#ifndef HADAL_MODEL_ARGS_H
#define HADAL_MODEL_ARGS_H

#include "model/model.h"

struct model_args {
    const char *dir; /* as given, or NULL */
    struct model_options model;
    int64_t context_tokens; /* 0: not given */
};

enum { ARG_NUMERICS = 1000, ARG_ISA, ARG_THREADS, ARG_CTX, ARG_LAYOUT, ARG_PACKED, ARG_MEMORY };

extern const char model_args_help[];

/* Their rows of a getopt_long table; the context length for commands that have one. */
#define MODEL_OPTIONS                                                                                                   \
    {"model", required_argument, NULL, 'm'}, {"numerics", required_argument, NULL, ARG_NUMERICS},                      \
        {"isa", required_argument, NULL, ARG_ISA}, {"threads", required_argument, NULL, ARG_THREADS},                  \
        {"layout", required_argument, NULL, ARG_LAYOUT}, {"packed", required_argument, NULL, ARG_PACKED},              \
        {"memory", required_argument, NULL, ARG_MEMORY}
#define CONTEXT_OPTION {"ctx", required_argument, NULL, ARG_CTX}

void model_args_init(struct model_args *a);
/* Takes option c of the rows above ('m' is the model): 1 taken, 0 not one of them, -1 refused (message printed). */
int model_args_take(struct model_args *a, const char *command, int c, const char *arg);

/* The folder to open: the one given, else $HADAL_MODEL, else models/tiny in the working directory, beside the program
 * or under its installation's share/hadal. malloc'd; NULL with an error when there is none. */
char *model_find(const char *given, struct err *e);

/* Whole numbers and reals of the command line; false (message printed) when text is not one within the limits. */
bool parse_int_arg(const char *command, const char *option, const char *text, int64_t min, int64_t max, int64_t *out);
bool parse_real_arg(const char *command, const char *option, const char *text, double *out);

#endif
