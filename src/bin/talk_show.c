/* A reply shown as it comes. On a terminal reasoning is dim, tool calls are coloured, and control characters that a
 * model might print are made visible, so that no text can drive the terminal. */
#include "bin/talk.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

static const char DIM[] = "\033[2m", CYAN[] = "\033[36m", PLAIN[] = "\033[0m";

struct talk_show talk_show_stdout(void)
{
    return (struct talk_show){.terminal = isatty(STDOUT_FILENO) == 1};
}

static void put_visible(const char *text, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        unsigned char c = (unsigned char)text[i], next = i + 1 < n ? (unsigned char)text[i + 1] : 0;
        if ((c < 0x20 && c != '\n' && c != '\t') || c == 0x7f) {
            printf("^%c", c ^ 0x40);
        } else if (c == 0xc2 && next >= 0x80 && next < 0xa0) { /* C1: 8-bit escape codes */
            printf("^[%c", next - 0x40);
            i++;
        } else {
            putchar(c);
        }
    }
}

static void put(struct talk_show *s, const char *text, size_t n)
{
    if (n == 0)
        return;
    if (s->terminal)
        put_visible(text, n);
    else
        fwrite(text, 1, n, stdout);
    s->line_open = text[n - 1] != '\n';
}

static void put_str(struct talk_show *s, const char *text)
{
    fputs(text, stdout);
    if (text[0] != '\0' && text[0] != '\033')
        s->line_open = text[strlen(text) - 1] != '\n';
}

static void end_line(struct talk_show *s)
{
    if (s->line_open)
        put_str(s, "\n");
}

/* Ends one part and begins another. Without a terminal the reasoning stands between its tags. */
static void change(struct talk_show *s, enum talk_part to)
{
    if (s->part == to)
        return;
    if (s->part == PART_REASONING) {
        end_line(s);
        put_str(s, s->terminal ? PLAIN : "</think>\n");
        if (s->terminal)
            put_str(s, "\n");
    }
    if (s->part == PART_TOOL && s->terminal)
        put_str(s, PLAIN);
    if (to == PART_TOOL || s->part == PART_TOOL)
        end_line(s);
    if (to == PART_REASONING)
        put_str(s, s->terminal ? DIM : "<think>\n");
    if (to == PART_TOOL && s->terminal)
        put_str(s, CYAN);
    s->part = to;
}

void talk_show_event(struct talk_show *s, const struct gen_event *ev)
{
    switch (ev->kind) {
    case GEN_REASONING:
        change(s, PART_REASONING);
        put(s, ev->text, ev->n);
        break;
    case GEN_CONTENT:
        change(s, PART_CONTENT);
        put(s, ev->text, ev->n);
        break;
    case GEN_TOOL_START:
        change(s, PART_TOOL);
        put_str(s, "tool call: ");
        put(s, ev->text, ev->n);
        put_str(s, " ");
        break;
    case GEN_TOOL_ARGS:
        put(s, ev->text, ev->n);
        break;
    case GEN_TOOL_END:
        put_str(s, "\n");
        break;
    case GEN_TOOL_BROKEN:
        put_str(s, "\n(the model did not finish this call; it wrote:)\n");
        put(s, ev->text, ev->n);
        break;
    case GEN_END:
        change(s, PART_NONE);
        end_line(s);
        break;
    case GEN_PROMPT:
    case GEN_TOKEN:
        return;
    }
    fflush(stdout);
}

static double rate(int64_t tokens, uint64_t ns)
{
    return ns == 0 ? 0 : (double)tokens / ((double)ns * 1e-9);
}

void talk_show_stats(const struct talk_reply *r)
{
    const struct gen_usage *u = &r->usage;
    int64_t fresh = u->prompt_tokens - u->reused_tokens;
    fprintf(stderr, "prompt %lld tokens", (long long)u->prompt_tokens);
    if (u->reused_tokens > 0)
        fprintf(stderr, " (%lld reused)", (long long)u->reused_tokens);
    fprintf(stderr, ", %.1f tokens/s; reply %lld tokens", rate(fresh, u->prompt_ns), (long long)u->completion_tokens);
    if (u->reasoning_tokens > 0)
        fprintf(stderr, " (%lld thinking)", (long long)u->reasoning_tokens);
    /* The first token comes out of the prompt's pass: the time measured is that of the others. */
    if (u->completion_tokens > 1)
        fprintf(stderr, ", %.1f tokens/s", rate(u->completion_tokens - 1, u->completion_ns));
    fprintf(stderr, "; %s\n", finish_name(r->finish));
}
