#include "reply_bits.h"

#include <string.h>

void reply_bits_take(struct job *j, struct reply_bits *r)
{
    struct gen_event ev;
    memset(r, 0, sizeof *r);
    while (engine_next(j, &ev, -1) == 1) {
        if (ev.kind == GEN_TOKEN && r->n < REPLY_BITS_TOKENS) {
            r->token[r->n] = ev.token;
            r->logprob[r->n][0] = ev.logprob;
            for (int k = 0; k < REPLY_BITS_TOP; k++) {
                r->logprob[r->n][1 + k] = ev.top[k].logprob;
                r->top[r->n][k] = ev.top[k].id;
            }
            r->n++;
        }
        if (ev.kind == GEN_END)
            r->reused = ev.usage.reused_tokens;
    }
    engine_release(&j);
}
