/* Whose request it is and what it costs. */
#include "serve/server.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>
#include <time.h>
#include <unistd.h>

/* Authorization wins over x-api-key, as in the official service. */
static const char *presented_key(const struct exchange *x)
{
    const char *bearer = http_header(x, "Authorization"), *plain = http_header(x, "x-api-key");
    if (bearer != NULL)
        return strncasecmp(bearer, "Bearer ", 7) == 0 ? bearer + 7 : "";
    return plain == NULL ? "" : plain;
}

int account_check(struct exchange *x, struct api_error *e)
{
    struct ledger_key k;
    if (x->server->o.ledger == NULL)
        return 0;
    if (!ledger_find(x->server->o.ledger, presented_key(x), &k))
        return api_fail(e, API_KEY, "Authentication Fails, Your api key is invalid");
    x->key_id = k.id;
    x->limits = k.limits;
    bool pays = x->route->method == METHOD_POST;
    if (pays && k.limits.dollars >= 0 && k.spent >= k.limits.dollars)
        return api_fail(e, API_BALANCE, "Insufficient Balance");
    return 0;
}

int account_room(struct exchange *x, struct api_error *e)
{
    int64_t n = 0;
    if (x->limits.requests <= 0)
        return 0;
    for (const struct exchange *o = x->server->running; o != NULL; o = o->next)
        n += o->key_id == x->key_id;
    if (n < x->limits.requests)
        return 0;
    x->server->metrics.refused_key++;
    return api_fail(e, API_BUSY, "This key has %" PRId64 " requests at work, as many as it may have. Please retry later.",
                    n);
}

static void write_row(struct exchange *x, double now)
{
    const struct api_answer *a = &x->answer;
    struct err e = {0};
    struct ledger_row r = {.request = x->request_id, .user = x->user, .model = x->server->o.model,
                           .api = x->route->dialect->name, .finish = finish_name(a->finish), .key_id = x->key_id,
                           .hit = a->usage.reused_tokens, .miss = a->usage.prompt_tokens - a->usage.reused_tokens,
                           .completion = a->usage.completion_tokens, .reasoning = a->usage.reasoning_tokens,
                           .cost = a->cost, .started = x->start_s, .ended = now};
    if (ledger_add_row(x->server->o.ledger, &r, &e) != HD_OK)
        dprintf(x->server->o.log_fd, "hadal serve: request %s is not in the ledger: %s\n", x->request_id, e.msg);
}

void account_finish(struct exchange *x)
{
    struct api_answer *a = &x->answer;
    struct timespec t;
    clock_gettime(CLOCK_REALTIME, &t);
    a->cost = price_cost(prices_at(x->server->prices, x->server->o.model, (int64_t)x->start_s), a->usage.reused_tokens,
                         a->usage.prompt_tokens - a->usage.reused_tokens, a->usage.completion_tokens);
    a->has_cost = x->req.include_cost;
    a->has_cache_reason = x->req.include_cache_reason;
    if (x->server->o.ledger != NULL)
        write_row(x, (double)t.tv_sec + (double)t.tv_nsec / 1e9);
}

/* A key without a limit has no balance to show. */
void balance_run(struct exchange *x)
{
    struct ledger_key k = {.limits.dollars = -1};
    char text[32];
    if (x->server->o.ledger != NULL)
        ledger_find(x->server->o.ledger, presented_key(x), &k);
    double left = k.limits.dollars > k.spent ? k.limits.dollars - k.spent : 0;
    out_open(&x->out, NULL, '{');
    out_bool(&x->out, "is_available", k.limits.dollars < 0 || left > 0);
    out_open(&x->out, "balance_infos", '[');
    if (k.limits.dollars >= 0) {
        snprintf(text, sizeof text, "%.2f", left);
        out_open(&x->out, NULL, '{');
        out_str(&x->out, "currency", "USD");
        out_str(&x->out, "total_balance", text);
        out_str(&x->out, "granted_balance", "0.00");
        out_str(&x->out, "topped_up_balance", text);
        out_close(&x->out, '}');
    }
    out_close(&x->out, ']');
    out_close(&x->out, '}');
    exchange_reply_json(x);
}
