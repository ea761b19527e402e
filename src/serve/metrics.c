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
static const double token_bounds[HISTOGRAM_BUCKETS] = {1,    2,    5,     10,    20,    50,     100,    200,
                                                       500,  1000, 2000,  5000,  10000, 50000, 200000, 1000000};

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
    histogram_add(&m->prefill_s, seconds(u->prompt_ns), long_bounds);
    histogram_add(&m->decode_s, seconds(u->completion_ns), long_bounds);
    histogram_add(&m->prompt_n, (double)u->prompt_tokens, token_bounds);
    histogram_add(&m->completion_n, (double)u->completion_tokens, token_bounds);
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

static void labelled(struct buf *out, const struct server *s, const char *name, const char *label, const char *value,
                     uint64_t n)
{
    buf_printf(out, "%s{%s=\"%s\",model_name=\"%s\"} %" PRIu64 "\n", name, label, value, s->o.model, n);
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

static void write_engine(struct buf *out, const struct server *s, const struct engine_stats *st)
{
    double used = st->pages_total == 0 ? 0 : 1 - (double)(st->pages_free + st->pages_cached) / (double)st->pages_total;
    one(out, s, "vllm:num_requests_running", "gauge", "Requests that are stepped.", st->n_running);
    one(out, s, "vllm:num_requests_waiting", "gauge", "Requests in the queue.", st->n_waiting);
    one(out, s, "vllm:kv_cache_usage_perc", "gauge", "Part of the KV pages that running requests hold alone, 0 to 1.",
        used < 0 ? 0 : used);
    one(out, s, "vllm:num_preemptions_total", "counter", "Requests put back because pages ran out.", (double)st->put_back);
    one(out, s, "hadal:kv_pages", "gauge", "KV pages in all.", (double)st->pages_total);
    one(out, s, "hadal:kv_pages_free", "gauge", "KV pages that hold nothing.", (double)st->pages_free);
    one(out, s, "hadal:kv_pages_cached", "gauge", "KV pages that the prefix cache knows.", (double)st->pages_cached);
    one(out, s, "hadal:kv_pages_evicted_total", "counter", "Pages the prefix cache gave up.", (double)st->pages_evicted);
    one(out, s, "hadal:recomputed_tokens_total", "counter", "Tokens computed again after a request was put back.",
        (double)st->recomputed_tokens);
    one(out, s, "hadal:kept_states", "gauge", "Finished sequences whose state is kept.", st->n_kept);
    one(out, s, "hadal:kept_tokens", "gauge", "Tokens in kept states.", (double)st->kept_tokens);
    head(out, "hadal:memory_bytes", "gauge", "Memory that the engine holds from its start on, weights aside.");
    labelled(out, s, "hadal:memory_bytes", "part", "kv", st->memory.kv);
    labelled(out, s, "hadal:memory_bytes", "part", "sequences", st->memory.sequences);
    labelled(out, s, "hadal:memory_bytes", "part", "step", st->memory.step);
    labelled(out, s, "hadal:memory_bytes", "part", "cache", st->memory.cache);
    labelled(out, s, "hadal:memory_bytes", "part", "replies", (uint64_t)st->replay.bytes);
    one(out, s, "hadal:steps_total", "counter", "Passes through the model.", (double)st->steps);
}

/* Where the beginnings of requests came from. */
static void write_cache(struct buf *out, const struct server *s, const struct engine_stats *st)
{
    const struct metrics *m = &s->metrics;
    uint64_t disk = st->disk.tokens_loaded, all = st->reused_tokens > disk ? st->reused_tokens : disk;
    one(out, s, "vllm:prefix_cache_queries_total", "counter", "Prompt tokens looked up in kept states.",
        (double)m->prompt_tokens);
    one(out, s, "vllm:prefix_cache_hits_total", "counter", "Prompt tokens taken from kept states.",
        (double)m->cached_tokens);
    head(out, "hadal:cache_hit_tokens_total", "counter", "Prompt tokens taken from kept states, by where those were.");
    labelled(out, s, "hadal:cache_hit_tokens_total", "tier", "memory", all - disk);
    labelled(out, s, "hadal:cache_hit_tokens_total", "tier", "disk", disk);
    head(out, "hadal:cache_lookups_total", "counter", "Requests that started, by where their beginning was.");
    labelled(out, s, "hadal:cache_lookups_total", "found", "memory", st->hits_memory);
    labelled(out, s, "hadal:cache_lookups_total", "found", "disk", st->hits_disk);
    labelled(out, s, "hadal:cache_lookups_total", "found", "nowhere", st->misses);
    one(out, s, "hadal:cache_disk_bytes", "gauge", "Bytes of the disk tier's files.", (double)st->disk.bytes);
    one(out, s, "hadal:cache_disk_pages", "gauge", "KV pages on disk.", (double)st->disk.pages);
    one(out, s, "hadal:cache_disk_errors_total", "counter", "Records that did not verify, reads and writes that failed.",
        (double)(st->disk.damaged + st->disk.read_errors + st->disk.write_errors));
}

static void write_server(struct buf *out, const struct server *s)
{
    const struct metrics *m = &s->metrics;
    one(out, s, "vllm:prompt_tokens_total", "counter", "Prompt tokens of requests.", (double)m->prompt_tokens);
    one(out, s, "vllm:generation_tokens_total", "counter", "Generated tokens.", (double)m->completion_tokens);
    one(out, s, "hadal:reasoning_tokens_total", "counter", "Generated tokens of thinking parts.",
        (double)m->reasoning_tokens);
    one(out, s, "hadal:cost_dollars_total", "counter", "What the tokens cost at the price table.", m->cost);
    one(out, s, "hadal:connections", "gauge", "Open connections.", s->n_conns);
    one(out, s, "hadal:request_body_bytes", "gauge", "Bytes of bodies that are being read.", (double)s->bodies_bytes);
    one(out, s, "hadal:dropped_slow_readers_total", "counter", "Requests ended because their client did not read.",
        (double)m->dropped_slow);
    one(out, s, "hadal:refused_memory_total", "counter", "Requests turned away for want of memory for bodies.",
        (double)m->refused_memory);
    one(out, s, "hadal:refused_key_limit_total", "counter", "Requests turned away because their key had enough at work.",
        (double)m->refused_key);
}

static void write_histograms(struct buf *out, const struct server *s)
{
    const struct metrics *m = &s->metrics;
    histogram(out, s, "vllm:time_to_first_token_seconds", "From the request to its first token.", &m->ttft_s, ttft_bounds);
    histogram(out, s, "vllm:time_per_output_token_seconds", "Mean time between tokens of a request.", &m->tpot_s,
              tpot_bounds);
    histogram(out, s, "vllm:e2e_request_latency_seconds", "From the request to its end.", &m->e2e_s, long_bounds);
    histogram(out, s, "vllm:request_queue_time_seconds", "Time in the queue.", &m->queue_s, long_bounds);
    histogram(out, s, "vllm:request_prefill_time_seconds", "Time of the prompt.", &m->prefill_s, long_bounds);
    histogram(out, s, "vllm:request_decode_time_seconds", "Time of the reply.", &m->decode_s, long_bounds);
    histogram(out, s, "vllm:request_prompt_tokens", "Prompt tokens of a request.", &m->prompt_n, token_bounds);
    histogram(out, s, "vllm:request_generation_tokens", "Generated tokens of a request.", &m->completion_n, token_bounds);
}

static void write_metrics(struct buf *out, struct server *s)
{
    struct engine_stats st = {0};
    if (atomic_load(&s->engine) != NULL)
        engine_read_stats(atomic_load(&s->engine), &st);
    write_engine(out, s, &st);
    write_cache(out, s, &st);
    write_server(out, s);
    write_histograms(out, s);
    by_label(out, s);
}

void metrics_run(struct exchange *x)
{
    write_metrics(&x->out, x->server);
    x->status = 200;
    x->content_type = "text/plain; version=0.0.4; charset=utf-8";
    x->whole = true;
}
