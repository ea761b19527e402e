/* The slash commands of hadal chat: one row of the table each. */
#include "bin/bin.h"
#include "bin/chat.h"

#include <ctype.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { CONVERSATION_BYTES_MAX = 256 << 20 };

static void refuse(struct chat *c, const char *fmt, ...) PRINTF_LIKE(2, 3);
static void refuse(struct chat *c, const char *fmt, ...)
{
    va_list ap;
    fprintf(stderr, "hadal chat: ");
    va_start(ap, fmt);
    vfprintf(stderr, fmt, ap);
    va_end(ap);
    fprintf(stderr, "\n");
    c->failed = true;
}

static void set_system(struct chat *c, const char *text)
{
    char *copy = text == NULL || text[0] == '\0' ? NULL : xstrdup(text);
    free(c->system);
    c->args.system = c->system = copy;
}

static void set_think(struct chat *c, const char *level)
{
    char *copy = xstrdup(level);
    free(c->think);
    c->args.think = c->think = copy;
}

void chat_strings_free(struct chat *c)
{
    free(c->think);
    free(c->system);
    c->think = c->system = NULL;
}

/* ---------------------------------------------------------------- settings */

static void on_think(struct chat *c, const char *arg)
{
    if (arg[0] != '\0' && !talk_think_known(arg))
        refuse(c, "/think takes none, low, high or max, not '%s'", arg);
    else if (arg[0] != '\0')
        set_think(c, arg);
    printf("thinking: %s\n", c->args.think);
}

static void on_system(struct chat *c, const char *arg)
{
    json_t *text = json_string(arg);
    if (text == NULL)
        refuse(c, "/system takes UTF-8 text");
    else
        set_system(c, arg);
    json_decref(text);
    printf("system message: %s\n", c->args.system == NULL ? "none" : c->args.system);
}

static void on_tools(struct chat *c, const char *arg)
{
    struct err e = {0};
    json_t *tools = NULL;
    if (arg[0] != '\0' && strcmp(arg, "none") != 0 && talk_tools_read(&tools, arg, &e) != HD_OK) {
        refuse(c, "%s", e.msg);
        return;
    }
    if (arg[0] != '\0') {
        json_decref(c->args.tools);
        c->args.tools = tools;
    }
    printf("tools: %zu\n", json_array_size(c->args.tools));
}

/* ---------------------------------------------------------------- conversations in files */

static void on_save(struct chat *c, const char *arg)
{
    struct err e = {0};
    struct buf text = {0};
    if (arg[0] == '\0') {
        refuse(c, "/save takes a file name");
        return;
    }
    json_t *o = json_pack("{s:s, s:O}", "think", c->args.think, "messages", c->messages);
    if (c->args.system != NULL)
        json_object_set_new(o, "system", json_string(c->args.system));
    if (c->args.tools != NULL)
        json_object_set(o, "tools", c->args.tools);
    json_dump_python(o, &text);
    buf_char(&text, '\n');
    if (file_write_atomic(arg, text.data, text.len, &e) != HD_OK)
        refuse(c, "%s", e.msg);
    else
        printf("saved %zu messages\n", json_array_size(c->messages));
    json_decref(o);
    buf_free(&text);
}

static int check_conversation(const json_t *o, const char *path, struct err *e)
{
    const json_t *think = json_object_get(o, "think"), *system = json_object_get(o, "system");
    const json_t *tools = json_object_get(o, "tools");
    if (!json_is_array(json_object_get(o, "messages")))
        return err_set(e, HD_EARG, "%s: no array of messages", path);
    if (think != NULL && (!json_is_string(think) || !talk_think_known(json_string_value(think))))
        return err_set(e, HD_EARG, "%s: think is not none, low, high or max", path);
    if (system != NULL && !json_is_string(system))
        return err_set(e, HD_EARG, "%s: system is not a text", path);
    if (tools != NULL && !json_is_array(tools))
        return err_set(e, HD_EARG, "%s: tools is not an array", path);
    return HD_OK;
}

static void take_conversation(struct chat *c, const json_t *o)
{
    const char *think = json_string_value(json_object_get(o, "think"));
    json_decref(c->messages);
    c->messages = json_incref(json_object_get(o, "messages"));
    json_decref(c->args.tools);
    c->args.tools = json_incref(json_object_get(o, "tools"));
    set_system(c, json_string_value(json_object_get(o, "system")));
    if (think != NULL)
        set_think(c, think);
    printf("loaded %zu messages\n", json_array_size(c->messages));
}

static void on_load(struct chat *c, const char *arg)
{
    struct err e = {0};
    struct buf text = {0};
    json_t *o = NULL;
    if (arg[0] == '\0') {
        refuse(c, "/load takes a file name");
        return;
    }
    if (file_read(&text, arg, CONVERSATION_BYTES_MAX, &e) == HD_OK)
        o = json_load_exact(text.data == NULL ? "" : text.data, text.len, arg, false, &e);
    if (o != NULL && check_conversation(o, arg, &e) == HD_OK)
        take_conversation(c, o);
    else
        refuse(c, "%s", e.msg);
    json_decref(o);
    buf_free(&text);
}

static void on_clear(struct chat *c, const char *arg)
{
    (void)arg;
    json_array_clear(c->messages);
    printf("the conversation is empty\n");
}

/* ---------------------------------------------------------------- the rest */

static double per_second(int64_t n, uint64_t ns)
{
    return ns == 0 ? 0 : (double)n / ((double)ns * 1e-9);
}

static void on_stats(struct chat *c, const char *arg)
{
    (void)arg;
    const struct gen_usage *l = &c->last, *t = &c->total;
    struct engine_stats s;
    engine_read_stats(c->engine, &s);
    printf("last prompt: %lld tokens, %lld reused, %lld run\n", (long long)l->prompt_tokens,
           (long long)l->reused_tokens, (long long)(l->prompt_tokens - l->reused_tokens));
    if (l->differs_at >= 0 && l->differs_at > l->reused_tokens)
        printf("not reused: the state of the last turn agrees for %lld tokens and cannot be taken back that far\n",
               (long long)l->differs_at);
    printf("last reply: %lld tokens, %lld thinking\n", (long long)l->completion_tokens, (long long)l->reasoning_tokens);
    printf("all %d replies: %lld prompt tokens, %lld reused, run at %.1f tokens/s; %lld tokens at %.1f tokens/s\n",
           c->n_turns, (long long)t->prompt_tokens, (long long)t->reused_tokens,
           per_second(t->prompt_tokens - t->reused_tokens, t->prompt_ns), (long long)t->completion_tokens,
           per_second(t->completion_tokens - c->n_turns, t->completion_ns)); /* a first token is the prompt's work */
    printf("kept: %d states of %lld tokens; context %lld\n", s.n_kept, (long long)s.kept_tokens,
           (long long)engine_env(c->engine)->context_tokens);
}

static void on_quit(struct chat *c, const char *arg)
{
    (void)arg;
    c->quit = true;
}

static void on_help(struct chat *c, const char *arg);

static const struct chat_row {
    const char *name, *argument, *what;
    void (*run)(struct chat *c, const char *arg);
} rows[] = {
    {"/think", "[LEVEL]", "none, low, high or max: how hard the model thinks first", on_think},
    {"/system", "[TEXT]", "sets the system message; without TEXT there is none", on_system},
    {"/tools", "[FILE]", "tools that the model may call, from a JSON file; 'none' takes them away", on_tools},
    {"/save", "FILE", "writes the conversation to a file", on_save},
    {"/load", "FILE", "goes on with a saved conversation", on_load},
    {"/clear", "", "starts a new conversation", on_clear},
    {"/stats", "", "tokens, reuse and speed", on_stats},
    {"/help", "", "this list", on_help},
    {"/quit", "", "ends the program", on_quit},
};

static void on_help(struct chat *c, const char *arg)
{
    (void)c;
    (void)arg;
    for (size_t i = 0; i < COUNT_OF(rows); i++)
        printf("%-8s %-8s %s\n", rows[i].name, rows[i].argument, rows[i].what);
}

void chat_command(struct chat *c, char *line)
{
    size_t n = strcspn(line, " \t");
    char *arg = line + n + strspn(line + n, " \t"), *end = arg + strlen(arg);
    while (end > arg && isspace((unsigned char)end[-1]))
        *--end = '\0';
    for (size_t i = 0; i < COUNT_OF(rows); i++)
        if (strlen(rows[i].name) == n && strncmp(rows[i].name, line, n) == 0) {
            rows[i].run(c, arg);
            fflush(stdout);
            return;
        }
    refuse(c, "'%.*s' is not a command; /help lists them", (int)n, line);
}
