/* What `hadal run` and `hadal chat` share: options of a generation, a reply as it is collected and shown, Ctrl-C. */
#ifndef HADAL_TALK_H
#define HADAL_TALK_H

#include "bin/cache_args.h"
#include "bin/model_args.h"
#include "engine/engine.h"

/* ---------------------------------------------------------------- options (talk_args.c) */

struct talk_args {
    struct model_args model;
    struct engine_options engine; /* its part about the disk cache */
    const char *think;    /* none low high max */
    const char *system;   /* NULL: none */
    json_t *tools;        /* array, or NULL */
    json_t *fields;       /* request fields that were given: temperature, max_tokens, stop, ... */
};

extern const char talk_args_help[];

enum { ARG_THINK = 1100, ARG_SYSTEM, ARG_TOOLS, ARG_MAX_TOKENS, ARG_TEMPERATURE, ARG_TOP_P, ARG_TOP_K, ARG_MIN_P, ARG_STOP,
       ARG_SEED };

/* Their rows of a getopt_long table. */
#define TALK_OPTIONS                                                                                                    \
    MODEL_OPTIONS, CONTEXT_OPTION, {"think", required_argument, NULL, ARG_THINK},                                      \
        {"system", required_argument, NULL, ARG_SYSTEM}, {"tools", required_argument, NULL, ARG_TOOLS},                \
        {"max-tokens", required_argument, NULL, ARG_MAX_TOKENS},                                                       \
        {"temperature", required_argument, NULL, ARG_TEMPERATURE}, {"top-p", required_argument, NULL, ARG_TOP_P},      \
        {"top-k", required_argument, NULL, ARG_TOP_K}, {"min-p", required_argument, NULL, ARG_MIN_P},                  \
        {"stop", required_argument, NULL, ARG_STOP}, {"seed", required_argument, NULL, ARG_SEED}

void talk_args_init(struct talk_args *a);
void talk_args_free(struct talk_args *a);
/* Takes option c, those of model_args too: 1 taken, 0 not one of them, -1 wrong usage (message printed). */
int talk_args_take(struct talk_args *a, const char *command, int c, const char *arg);
bool talk_think_known(const char *name);
/* Tools from a file: an array as in the chat API, or an object with such an array under "tools". */
int talk_tools_read(json_t **tools, const char *path, struct err *e);
/* A chat request over these messages (borrowed); the caller decrefs it. */
json_t *talk_request(const struct talk_args *a, json_t *messages);
int talk_engine_open(struct engine **e, const struct talk_args *a, struct err *err);

/* ---------------------------------------------------------------- a reply, collected (talk_reply.c) */

struct talk_reply {
    struct buf content, reasoning, error;
    json_t *calls; /* as in the chat API, with ids */
    struct buf call_args;
    json_t *logprobs; /* array of the chat API's items, NULL when none came */
    enum finish finish;
    struct gen_usage usage;
};
void talk_reply_add(struct talk_reply *r, const struct gen_event *ev, const struct tokenizer *t);
void talk_reply_free(struct talk_reply *r);
/* The assistant message that a conversation goes on with. */
json_t *talk_reply_message(const struct talk_reply *r);
/* Everything about the reply as one JSON object. */
json_t *talk_reply_json(const struct talk_reply *r, uint64_t seed);

/* ---------------------------------------------------------------- a reply, shown (talk_show.c) */

enum talk_part { PART_NONE, PART_REASONING, PART_CONTENT, PART_TOOL };
struct talk_show {
    bool terminal; /* dim reasoning, colours, control characters made visible; otherwise plain text */
    bool line_open; /* the last line is not ended */
    enum talk_part part;
};
struct talk_show talk_show_stdout(void);
void talk_show_event(struct talk_show *s, const struct gen_event *ev);
void talk_show_stats(const struct talk_reply *r); /* the last line, on stderr */

/* ---------------------------------------------------------------- running (talk_run.c) */

/* From here on Ctrl-C sets a flag instead of ending the program; a second one ends it. */
void talk_interrupt_catch(void);
bool talk_interrupted(void);
void talk_interrupt_clear(void);
/* A progress bar that Ctrl-C stops. */
struct progress talk_progress(void);

/* Runs a request (JSON as request_parse reads it) to its end. show may be NULL. */
int talk_run(struct engine *e, const json_t *request, struct talk_show *show, struct talk_reply *reply, uint64_t *seed,
             struct err *err);

enum { EXIT_INTERRUPTED = 130 };

#endif
