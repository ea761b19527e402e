/* Metrics in Prometheus text, under the names that dashboards for vLLM read where they exist. */
#include "serve/server.h"

#include <inttypes.h>
#include <string.h>

static const double ttft_bounds[HISTOGRAM_BUCKETS] = {0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1,
                                                      0.25,  0.5,   0.75, 1,    2.5,  5,    10,   60};
static const double tpot_bounds[HISTOGRAM_BUCKETS] = {0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1,
                                                      0.15,  0.2,    0.3,   0.4,  0.5,   0.75, 1,     2.5};
static const double long_bounds[HISTOGRAM_BUCKETS] = {0.01, 0.05, 0.1, 0.3, 0.5, 1,   2.5, 5,
                                                      10,   15,   30,  60,  120, 300, 900, 3600};

void histogram_add(struct histogram *h, double v, const double *bounds)
{
    int i = 0;
    while (i < HISTOGRAM_BUCKETS && v > bounds[i])
        i++;
    h->count[i]++;
    h->n++;
    h->sum += v;
}

static double seconds(uint64_t ns)
{
    return (double)ns / 1e9;
}

void metrics_finish(struct server *s, const struct exchange *x)
{
    struct metrics *m = &s->metrics;
    const struct gen_usage *u = &x->answer.usage;
    uint64_t now = now_ns();
    m->requests_by_finish[x->answer.finish]++;
    m->prompt_tokens += (uint64_t)u->prompt_tokens;
    m->cached_tokens += (uint64_t)u->reused_tokens;
    m->completion_tokens += (uint64_t)u->completion_tokens;
    m->reasoning_tokens += (uint64_t)u->reasoning_tokens;
    m->cost += x->answer.cost;
    histogram_add(&m->queue_s, seconds(u->queue_ns), long_bounds);
    histogram_add(&m->e2e_s, seconds(now - x->start_ns), long_bounds);
    if (x->first_ns == 0 || u->completion_tokens == 0)
        return;
    histogram_add(&m->ttft_s, seconds(x->first_ns - x->start_ns), ttft_bounds);
    if (u->completion_tokens > 1)
        histogram_add(&m->tpot_s, seconds(now - x->first_ns) / (double)(u->completion_tokens - 1), tpot_bounds);
}

/* ---------------------------------------------------------------- the text */

static void head(struct buf *out, const char *name, const char *type, const char *help)
{
    buf_printf(out, "# HELP %s %s\n# TYPE %s %s\n", name, help, name, type);
}

static void one(struct buf *out, const struct server *s, const char *name, const char *type, const char *help, double v)
{
    head(out, name, type, help);
    buf_printf(out, "%s{model_name=\"%s\"} %.17g\n", name, s->o.model, v);
}

static void histogram(struct buf *out, const struct server *s, const char *name, const char *help,
                      const struct histogram *h, const double *bounds)
{
    uint64_t n = 0;
    head(out, name, "histogram", help);
    for (int i = 0; i < HISTOGRAM_BUCKETS; i++) {
        n += h->count[i];
        buf_printf(out, "%s_bucket{le=\"%g\",model_name=\"%s\"} %" PRIu64 "\n", name, bounds[i], s->o.model, n);
    }
    buf_printf(out, "%s_bucket{le=\"+Inf\",model_name=\"%s\"} %" PRIu64 "\n", name, s->o.model, h->n);
    buf_printf(out, "%s_sum{model_name=\"%s\"} %.17g\n", name, s->o.model, h->sum);
    buf_printf(out, "%s_count{model_name=\"%s\"} %" PRIu64 "\n", name, s->o.model, h->n);
}

static void by_label(struct buf *out, const struct server *s)
{
    const struct metrics *m = &s->metrics;
    head(out, "vllm:request_success_total", "counter", "Requests that ended, by reason.");
    for (int f = FINISH_STOP; f <= FINISH_ERROR; f++)
        buf_printf(out, "vllm:request_success_total{finished_reason=\"%s\",model_name=\"%s\"} %" PRIu64 "\n",
                   finish_name((enum finish)f), s->o.model, m->requests_by_finish[f]);
    head(out, "hadal:http_responses_total", "counter", "HTTP responses, by hundreds of their status.");
    for (int i = 2; i <= 5; i++)
        buf_printf(out, "hadal:http_responses_total{status=\"%dxx\"} %" PRIu64 "\n", i, m->responses[i]);
}

static void write_metrics(struct buf *out, struct server *s)
{
    const struct metrics *m = &s->metrics;
    struct engine_stats st = {0};
    if (atomic_load(&s->engine) != NULL)
        engine_read_stats(atomic_load(&s->engine), &st);
    one(out, s, "vllm:num_requests_running", "gauge", "Requests that are stepped.", st.n_running);
    one(out, s, "vllm:num_requests_waiting", "gauge", "Requests in the queue.", st.n_waiting);
    one(out, s, "vllm:prompt_tokens_total", "counter", "Prompt tokens of requests.", (double)m->prompt_tokens);
    one(out, s, "vllm:generation_tokens_total", "counter", "Generated tokens.", (double)m->completion_tokens);
    one(out, s, "vllm:prefix_cache_queries_total", "counter", "Prompt tokens looked up in kept states.",
        (double)m->prompt_tokens);
    one(out, s, "vllm:prefix_cache_hits_total", "counter", "Prompt tokens taken from kept states.",
        (double)m->cached_tokens);
    one(out, s, "hadal:reasoning_tokens_total", "counter", "Generated tokens of thinking parts.",
        (double)m->reasoning_tokens);
    one(out, s, "hadal:cost_dollars_total", "counter", "What the tokens cost at the official prices.", m->cost);
    one(out, s, "hadal:kept_states", "gauge", "Finished sequences whose state is kept.", st.n_kept);
    one(out, s, "hadal:kept_tokens", "gauge", "Tokens in kept states.", (double)st.kept_tokens);
    one(out, s, "hadal:steps_total", "counter", "Passes through the model.", (double)st.steps);
    histogram(out, s, "vllm:time_to_first_token_seconds", "From the request to its first token.", &m->ttft_s, ttft_bounds);
    histogram(out, s, "vllm:time_per_output_token_seconds", "Mean time between tokens of a request.", &m->tpot_s,
              tpot_bounds);
    histogram(out, s, "vllm:e2e_request_latency_seconds", "From the request to its end.", &m->e2e_s, long_bounds);
    histogram(out, s, "vllm:request_queue_time_seconds", "Time in the queue.", &m->queue_s, long_bounds);
    by_label(out, s);
}

void metrics_run(struct exchange *x)
{
    write_metrics(&x->out, x->server);
    x->status = 200;
    x->content_type = "text/plain; version=0.0.4; charset=utf-8";
    x->whole = true;
}
