/* The request log: one line of JSON a request, when its connection is done with it. No text of prompts or answers unless
 * asked; of a path only the route it took, of a key only its number. */
#include "serve/server.h"

#include <errno.h>
#include <time.h>
#include <unistd.h>

static void write_line(const struct server *s, struct buf *line)
{
    buf_str(line, "}\n");
    for (size_t done = 0; done < line->len;) {
        ssize_t n = write(s->o.log_fd, line->data + done, line->len - done);
        if (n < 0 && errno != EINTR)
            break; /* nobody reads it any more */
        done += n > 0 ? (size_t)n : 0;
    }
    buf_free(line);
}

static void begin_line(struct buf *line)
{
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    out_open(line, NULL, '{');
    out_real(line, "time", (double)now.tv_sec + (double)(now.tv_nsec / 1000000) / 1000);
}

static void write_ms(struct buf *line, const char *key, uint64_t ns)
{
    out_real(line, key, (double)(ns / 1000) / 1000);
}

/* What came of a generation. */
static void write_answer(struct buf *line, const struct exchange *x)
{
    const struct api_answer *a = &x->answer;
    char why[160];
    gen_usage_explain(&a->usage, why, sizeof why);
    out_bool(line, "stream", x->req.stream);
    out_int(line, "prompt_tokens", a->usage.prompt_tokens);
    out_int(line, "cached_tokens", a->usage.reused_tokens);
    out_str(line, "cache", why);
    out_int(line, "completion_tokens", a->usage.completion_tokens);
    out_int(line, "reasoning_tokens", a->usage.reasoning_tokens);
    out_real(line, "cost", a->cost);
    out_str(line, "finish", finish_name(a->finish));
    write_ms(line, "queue_ms", a->usage.queue_ns);
    write_ms(line, "first_ms", x->first_ns == 0 ? 0 : x->first_ns - x->start_ns);
    if (a->why != NULL)
        out_str(line, "error", a->why);
}

/* The refusal's sentence may quote the request, its kind does not. */
static void write_refusal(struct buf *line, const struct exchange *x)
{
    static const char *const kinds[] = {
        [API_BAD] = "bad request", [API_SYNTAX] = "no JSON", [API_TYPE] = "wrong type", [API_OVERFLOW] = "context overflow",
        [API_KEY] = "wrong key", [API_BALANCE] = "no balance", [API_NOT_FOUND] = "not found", [API_METHOD] = "wrong method",
        [API_TOO_LARGE] = "too large", [API_BUSY] = "busy", [API_LOADING] = "loading", [API_CLOSING] = "shutting down",
        [API_TIMEOUT] = "deadline", [API_INTERNAL] = "internal",
    };
    out_str(line, "refused", kinds[x->refusal.kind]);
    if (x->server->o.log_text)
        out_str(line, "error", x->refusal.msg);
}

/* Any bytes as JSON text. */
static void write_text(struct buf *line, const char *key, const struct buf *bytes)
{
    struct utf8_stream utf8 = {0};
    struct buf text = {0};
    if (bytes->len > 0)
        utf8_stream_add(&utf8, bytes->data, bytes->len, &text);
    utf8_stream_flush(&utf8, &text);
    out_text(line, key, text.len > 0 ? text.data : "", text.len);
    buf_free(&text);
}

static void write_texts(struct buf *line, const struct exchange *x)
{
    struct buf text = {0};
    write_text(line, "body", &x->kept_body);
    api_answer_text(&x->answer, PART_REASONING, &text);
    write_text(line, "reasoning", &text);
    buf_clear(&text);
    api_answer_text(&x->answer, PART_TEXT, &text);
    write_text(line, "answer", &text);
    buf_free(&text);
}

void log_request(const struct exchange *x)
{
    struct buf line = {0};
    begin_line(&line);
    out_str(&line, "request", x->request_id);
    out_str(&line, "method", x->method);
    out_str(&line, "path", x->route->path);
    out_str(&line, "api", x->route->dialect->name);
    out_int(&line, "status", x->status);
    out_int(&line, "key", x->key_id);
    if (x->user != NULL)
        out_str(&line, "user", x->user);
    if (x->answer.finish != FINISH_NONE)
        write_answer(&line, x);
    if (x->refusal.kind != API_FINE)
        write_refusal(&line, x);
    if (x->server->o.log_text)
        write_texts(&line, x);
    write_ms(&line, "total_ms", now_ns() - x->start_ns);
    write_line(x->server, &line);
}
