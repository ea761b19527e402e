/* hadal chat: a conversation. Every turn submits the whole of it; the engine still holds the state of the last turn and
 * runs only what is new. */
#include "bin/bin.h"
#include "bin/chat.h"

#include <ctype.h>
#include <errno.h>
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

static const char help[] =
    "usage: hadal chat [-m DIR] [OPTIONS]\n\n"
    "Holds a conversation, on a terminal with line editing and history, or with lines from a pipe as turns. A line that\n"
    "ends in a backslash goes on in the next one. Ctrl-C ends the reply under way, Ctrl-D the program. When the model\n"
    "calls a tool, the next line is the tool's result.\n\n";

static const char help_commands[] =
    "  -h, --help          this text\n\n"
    "Within the conversation, /help lists the commands: /think, /system, /tools, /save, /load, /stats, /clear, /quit.\n\n"
    "examples:\n"
    "  hadal chat\n"
    "  hadal chat -m DIR --think high --tools tools.json\n"
    "  printf 'Hello\\nWho are you?\\n' | hadal chat --temperature 0\n";

/* ---------------------------------------------------------------- turns */

static void drop_last(struct chat *c)
{
    json_array_remove(c->messages, json_array_size(c->messages) - 1);
}

static void tell_error(struct chat *c, const struct err *e)
{
    fail("chat", e);
    c->failed = true;
}

static void count(struct chat *c, const struct talk_reply *r)
{
    c->last = r->usage;
    c->n_turns++;
    c->total.prompt_tokens += r->usage.prompt_tokens;
    c->total.reused_tokens += r->usage.reused_tokens;
    c->total.completion_tokens += r->usage.completion_tokens;
    c->total.reasoning_tokens += r->usage.reasoning_tokens;
    c->total.prompt_ns += r->usage.prompt_ns;
    c->total.completion_ns += r->usage.completion_ns;
}

/* Runs the conversation as it stands and adds the reply to it. False when there was none: then it is as before. */
static bool reply_once(struct chat *c, struct talk_reply *r)
{
    struct err e = {0};
    struct talk_show show = talk_show_stdout();
    uint64_t seed;
    json_t *request = talk_request(&c->args, c->messages);
    int rc = talk_run(c->engine, request, &show, r, &seed, &e);
    json_decref(request);
    talk_interrupt_clear();
    if (rc != HD_OK) {
        tell_error(c, &e);
        return false;
    }
    count(c, r);
    if (r->finish == FINISH_CANCELLED && r->content.len == 0)
        return false;
    json_array_append_new(c->messages, talk_reply_message(r));
    return true;
}

/* Asks for the results of the reply's calls; false when the person would not give them. */
static bool read_results(struct chat *c, const struct talk_reply *r)
{
    size_t i;
    json_t *call;
    json_array_foreach(r->calls, i, call) {
        const char *name = json_string_value(json_object_get(json_object_get(call, "function"), "name"));
        char *prompt = xasprintf("result of %s> ", name);
        bool interrupted;
        char *line = term_line_read(c->input, prompt, &interrupted);
        free(prompt);
        json_t *text = line == NULL || interrupted ? NULL : json_string(line);
        free(line);
        if (text == NULL)
            return false;
        json_array_append_new(c->messages, json_pack("{s:s, s:O, s:o}", "role", "tool", "tool_call_id",
                                                     json_object_get(call, "id"), "content", text));
    }
    return true;
}

static void take_back(struct chat *c, size_t n_messages)
{
    while (json_array_size(c->messages) > n_messages)
        drop_last(c);
}

void chat_turn(struct chat *c, const char *text)
{
    size_t n_before = json_array_size(c->messages);
    json_t *content = json_string(text);
    bool again = content != NULL;
    if (!again) {
        struct err e = {0};
        err_set(&e, HD_EARG, "the line is not UTF-8 text");
        tell_error(c, &e);
        return;
    }
    json_array_append_new(c->messages, json_pack("{s:s, s:o}", "role", "user", "content", content));
    while (again) {
        struct talk_reply r = {0};
        if (!reply_once(c, &r)) {
            take_back(c, n_before);
            again = false;
        } else if ((again = r.finish == FINISH_TOOL_CALLS) && !read_results(c, &r)) {
            take_back(c, n_before);
            again = false;
        }
        talk_reply_free(&r);
    }
}

/* ---------------------------------------------------------------- the loop */

static bool is_blank(const char *line)
{
    return line[strspn(line, " \t\n")] == '\0';
}

static void greet(const struct chat *c)
{
    if (term_line_is_terminal(c->input))
        printf("/help lists commands, Ctrl-D ends. Context: %lld tokens.\n",
               (long long)engine_env(c->engine)->context_tokens);
}

static void converse(struct chat *c)
{
    bool interrupted;
    greet(c);
    for (char *line; !c->quit && (line = term_line_read(c->input, "> ", &interrupted)) != NULL; free(line)) {
        if (is_blank(line))
            continue;
        if (line[0] == '/')
            chat_command(c, line);
        else
            chat_turn(c, line);
    }
    if (term_line_is_terminal(c->input))
        printf("\n");
}

/* $XDG_STATE_HOME/hadal/history, by default under ~/.local/state; NULL when there is no place. malloc'd. */
static char *history_path(void)
{
    const char *state = getenv("XDG_STATE_HOME"), *home = getenv("HOME");
    if ((state == NULL || state[0] == '\0') && (home == NULL || home[0] == '\0'))
        return NULL;
    char *base = state != NULL && state[0] != '\0' ? xstrdup(state) : path_join(home, ".local/state");
    char *dir = path_join(base, "hadal"), *path = NULL;
    for (char *slash = dir + 1; (slash = strchr(slash, '/')) != NULL; slash++) { /* like mkdir -p, all of it private */
        *slash = '\0';
        mkdir(dir, 0700);
        *slash = '/';
    }
    if (mkdir(dir, 0700) == 0 || errno == EEXIST)
        path = path_join(dir, "history");
    free(base);
    free(dir);
    return path;
}

static int run_chat(struct chat *c)
{
    struct err e = {0};
    talk_interrupt_catch();
    int rc = talk_engine_open(&c->engine, &c->args, &e);
    if (rc == HD_OK) {
        char *path = history_path();
        c->input = term_line_open(path);
        free(path);
        c->messages = json_array();
        converse(c);
        term_line_close(&c->input);
    }
    json_decref(c->messages);
    engine_close(&c->engine);
    if (rc != HD_OK)
        return talk_interrupted() ? EXIT_INTERRUPTED : fail("chat", &e);
    return c->failed ? EXIT_FAILED : EXIT_DONE;
}

static int take_option(struct chat *c, int option)
{
    if (option == 'h') {
        printf("%s%s%s%s%s", help, model_args_help, talk_args_help, cache_args_help, help_commands);
        return EXIT_DONE;
    }
    if (option == '?') {
        fprintf(stderr, "Try 'hadal chat --help'.\n");
        return EXIT_USAGE;
    }
    int taken = talk_args_take(&c->args, "chat", option, optarg);
    if (taken == 0)
        taken = cache_args_take(&c->args.engine, "chat", option, optarg);
    return taken == 1 ? -1 : taken == -2 ? EXIT_FAILED : EXIT_USAGE;
}

int cmd_chat(int argc, char **argv)
{
    static const struct option options[] = {
        TALK_OPTIONS,
        CACHE_OPTIONS,
        {"help", no_argument, NULL, 'h'},
        {NULL, 0, NULL, 0},
    };
    struct chat c = {.last.differs_at = -1};
    talk_args_init(&c.args);
    int rc = -1;
    optind = 1;
    for (int o; rc < 0 && (o = getopt_long(argc, argv, "m:h", options, NULL)) != -1;)
        rc = take_option(&c, o);
    if (rc < 0 && optind < argc)
        rc = usage_error("chat", "'%s' is not an option", argv[optind]);
    if (rc < 0 && !cache_args_check(&c.args.engine, "chat"))
        rc = EXIT_USAGE;
    if (rc < 0)
        rc = run_chat(&c);
    chat_strings_free(&c);
    talk_args_free(&c.args);
    return rc;
}
