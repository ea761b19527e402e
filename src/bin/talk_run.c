/* Running one request in the foreground: events to the collector and the screen, Ctrl-C to the engine. */
#include "bin/talk.h"
#include "bin/bin.h"

#include <signal.h>
#include <string.h>

static volatile sig_atomic_t interrupted;

static void on_interrupt(int signal_number)
{
    (void)signal_number;
    interrupted = 1;
}

void talk_interrupt_catch(void)
{
    struct sigaction a = {.sa_handler = on_interrupt, .sa_flags = (int)SA_RESETHAND}; /* a second one ends the program */
    sigemptyset(&a.sa_mask);
    sigaction(SIGINT, &a, NULL);
}

bool talk_interrupted(void)
{
    return interrupted != 0;
}

void talk_interrupt_clear(void)
{
    interrupted = 0;
    talk_interrupt_catch();
}

static int tell_progress(void *arg, const char *what, uint64_t done, uint64_t total)
{
    (void)arg;
    struct progress bar = progress_bar();
    return talk_interrupted() ? 1 : progress_tell(&bar, what, done, total);
}

struct progress talk_progress(void)
{
    return (struct progress){tell_progress, NULL};
}

static void on_event(const struct gen_event *ev, struct talk_show *show, struct talk_reply *reply,
                     const struct tokenizer *t)
{
    struct progress bar = progress_bar();
    if (ev->kind == GEN_PROMPT && ev->done > ev->reused)
        progress_tell(&bar, "prompt", (uint64_t)ev->done, (uint64_t)ev->total);
    if (show != NULL)
        talk_show_event(show, ev);
    talk_reply_add(reply, ev, t);
}

int talk_run(struct engine *e, const json_t *request, struct talk_show *show, struct talk_reply *reply, uint64_t *seed,
             struct err *err)
{
    enum { POLL_MS = 50 }; /* how soon Ctrl-C is seen */
    struct gen_request r;
    struct job *job;
    struct gen_event ev;
    bool cancelled = false;
    int rc = request_parse(&r, request, engine_env(e), err);
    if (rc == HD_OK) {
        *seed = r.params.sampling.seed;
        rc = engine_submit(e, &r, NULL, NULL, &job, err);
    }
    if (rc != HD_OK)
        return rc;
    do {
        if (talk_interrupted() && !cancelled) {
            engine_cancel(job);
            cancelled = true;
        }
        if (engine_next(job, &ev, POLL_MS))
            on_event(&ev, show, reply, engine_env(e)->tokenizer);
    } while (reply->finish == FINISH_NONE);
    engine_release(&job);
    if (reply->finish == FINISH_ERROR)
        return err_set(err, HD_EIO, "%s", reply->error.data);
    return HD_OK;
}
