/* ask: requests in, answers out, through the library's public interface only.
 *
 *     ask MODEL_DIR < requests.jsonl > answers.jsonl
 *
 * A line of input is a request as hadal_submit takes it; a line of output is its answer, in the same order: content,
 * reasoning_content, calls [{name, arguments (text)}], n_broken (tool calls that did not parse), finish, prompt_tokens,
 * completion_tokens, ids (of the reply, with "logprobs": true) and prompt_ids. A refused request answers {"error": ...}. */
#include <hadal.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/types.h>

enum { IN_FLIGHT = 16 };

struct text {
    char *data;
    size_t len;
};

static void add(struct text *t, const char *s, size_t n)
{
    t->data = realloc(t->data, t->len + n + 1);
    if (t->data == NULL)
        abort();
    memcpy(t->data + t->len, s, n);
    t->len += n;
    t->data[t->len] = '\0';
}

static void add_escaped(struct text *t, const char *s, size_t n)
{
    char u[8];
    for (size_t i = 0; i < n; i++) {
        unsigned char c = (unsigned char)s[i];
        if (c < 0x20)
            add(t, u, (size_t)snprintf(u, sizeof u, "\\u%04x", c));
        else if (c == '"' || c == '\\')
            add(t, u, (size_t)snprintf(u, sizeof u, "\\%c", c));
        else
            add(t, s + i, 1);
    }
}

struct answer {
    hadal_request *request; /* NULL: refused, error says why */
    struct text error, prompt_ids;
};

static void add_id(struct text *t, int32_t id)
{
    char s[16];
    add(t, s, (size_t)snprintf(s, sizeof s, t->len > 0 ? ", %d" : "%d", id));
}

static void take(struct answer *a, hadal *h, const char *line)
{
    hadal_error e;
    int32_t *ids = NULL;
    size_t n = 0;
    if (hadal_encode(h, line, &ids, &n, &e) != HADAL_OK || hadal_submit(h, line, NULL, NULL, &a->request, &e) != HADAL_OK)
        add_escaped(&a->error, e.message, strlen(e.message));
    for (size_t i = 0; i < n; i++)
        add_id(&a->prompt_ids, ids[i]);
    hadal_free(ids);
}

static const char *const finish_names[] = {"", "stop", "length", "tool_calls", "cancelled", "error"};

static void print_answer(struct answer *a)
{
    struct text content = {0}, reasoning = {0}, calls = {0}, ids = {0}, one = {0};
    hadal_event ev = {0}, end = {0};
    int n_broken = 0;
    while (hadal_next(a->request, &ev, -1)) {
        if (ev.kind == HADAL_EVENT_CONTENT)
            add_escaped(&content, ev.text, ev.text_bytes);
        else if (ev.kind == HADAL_EVENT_REASONING)
            add_escaped(&reasoning, ev.text, ev.text_bytes);
        else if (ev.kind == HADAL_EVENT_TOKEN)
            add_id(&ids, ev.token);
        else if (ev.kind == HADAL_EVENT_TOOL_START) {
            one.len = 0;
            add(&one, "{\"name\": \"", 10);
            add_escaped(&one, ev.text, ev.text_bytes);
            add(&one, "\", \"arguments\": \"", 17);
        } else if (ev.kind == HADAL_EVENT_TOOL_ARGS)
            add_escaped(&one, ev.text, ev.text_bytes);
        else if (ev.kind == HADAL_EVENT_TOOL_END) {
            add(&one, "\"}", 2);
            add(&calls, ", ", calls.len > 0 ? 2 : 0);
            add(&calls, one.data, one.len);
        } else if (ev.kind == HADAL_EVENT_TOOL_BROKEN)
            n_broken++;
        else if (ev.kind == HADAL_EVENT_END)
            end = ev;
    }
    printf("{\"content\": \"%s\", \"reasoning_content\": \"%s\", \"calls\": [%s], \"n_broken\": %d, \"finish\": \"%s\", "
           "\"prompt_tokens\": %lld, \"completion_tokens\": %lld, \"prompt_ids\": [%s], \"ids\": [%s]}\n",
           content.len > 0 ? content.data : "", reasoning.len > 0 ? reasoning.data : "", calls.len > 0 ? calls.data : "",
           n_broken, finish_names[end.finish], (long long)end.prompt_tokens, (long long)end.completion_tokens,
           a->prompt_ids.data, ids.len > 0 ? ids.data : "");
    free(content.data);
    free(reasoning.data);
    free(calls.data);
    free(ids.data);
    free(one.data);
}

static void give(struct answer *a)
{
    if (a->request == NULL)
        printf("{\"error\": \"%s\"}\n", a->error.data);
    else
        print_answer(a);
    fflush(stdout);
    hadal_release(&a->request);
    free(a->error.data);
    free(a->prompt_ids.data);
    memset(a, 0, sizeof *a);
}

int main(int argc, char **argv)
{
    struct answer ring[IN_FLIGHT] = {{0}};
    size_t n_taken = 0, n_given = 0, room = 0;
    char *line = NULL;
    hadal *h;
    hadal_error e;
    if (argc != 2 && argc != 3)
        return fprintf(stderr, "usage: ask MODEL_DIR [NUMERICS] < requests.jsonl > answers.jsonl\n"), 2;
    hadal_options options;
    hadal_options_init(&options);
    options.numerics = argc == 3 ? argv[2] : options.numerics;
    if (hadal_open(&h, argv[1], &options, &e) != HADAL_OK)
        return fprintf(stderr, "ask: %s\n", e.message), 1;
    while (getline(&line, &room, stdin) > 0) {
        if (n_taken - n_given == IN_FLIGHT)
            give(&ring[n_given++ % IN_FLIGHT]);
        take(&ring[n_taken++ % IN_FLIGHT], h, line);
    }
    while (n_given < n_taken)
        give(&ring[n_given++ % IN_FLIGHT]);
    free(line);
    hadal_close(&h);
    return 0;
}
