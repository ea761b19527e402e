/* Jobs inside the engine: a request on its way, its event queue, and the KV states kept after jobs end.
 *
 * Who may touch what: `mutex` of the engine guards every job's queue and the fields so marked; all the rest of a job and
 * the kept states belong to the step thread once the job is queued. */
#ifndef HADAL_ENGINE_JOB_H
#define HADAL_ENGINE_JOB_H

#include "engine/engine.h"

#include <pthread.h>

struct queued_event {
    struct gen_event ev; /* its text points to `text` */
    struct queued_event *next;
    char text[];
};

struct job {
    struct engine *engine;
    struct generation *gen;
    char *user;
    struct ids tokens;  /* the prompt, then every accepted token */
    int64_t n_prompt;
    struct kv_seq *seq; /* NULL until the job starts */
    int64_t n_fed;      /* tokens[0 .. n_fed) are in seq */
    uint64_t submit_ns, start_ns, first_ns;
    void (*notify)(void *arg);
    void *arg;
    struct queued_event *end; /* GEN_END waits until the job's sequence is given back */
    struct job *next;   /* in the engine's waiting list */

    /* guarded */
    struct queued_event *head, *tail;
    struct queued_event *taken; /* what the consumer looks at */
    pthread_cond_t more;
    bool cancelled, released, retired, notifying;
};

/* A state that was reached: the end of a prompt or of a reply. */
struct kept {
    struct kv_seq *seq;
    struct ids tokens; /* that seq holds */
    char *user;
    uint64_t last_use;
};

struct engine {
    struct runner runner;
    struct model *model;          /* NULL over another runner */
    struct tokenizer *tokenizer;  /* owned when opened from a folder */
    struct request_env env;
    int32_t eos[EOS_IDS_MAX];
    int n_eos, max_running, max_waiting;
    struct sampler *sampler;
    pthread_t thread;

    /* of the step thread */
    struct job **running;         /* in order of arrival */
    int n_running, cap_running;
    struct step_item *items;      /* [max_rows], with the job of each */
    struct job **item_job;
    struct kept *kept;
    int n_kept, max_kept;
    uint64_t clock;

    pthread_mutex_t mutex;
    pthread_cond_t work;
    /* guarded */
    struct job *waiting, **waiting_end;
    int n_waiting;
    bool closing;
    struct engine_stats stats;
};

/* job.c */
void job_push(struct job *j, const struct gen_event *ev); /* copies; wakes the consumer */
void job_on_event(void *job, const struct gen_event *ev);
void job_retire(struct job *j); /* gives the end event out; from here on the job belongs to its consumer */
void job_free(struct job *j);

/* kept.c */
/* Gives the job a sequence: a copy of a kept one that shares its beginning, or an empty one. Drops kept ones when memory
 * is short. */
int kept_take(struct engine *e, struct job *j, struct err *err);
void kept_put(struct engine *e, struct job *j); /* keeps the job's sequence, or closes it */
/* Keeps a copy of the job's state at the end of its prompt: the next turn of a conversation that thinks has another text
 * from there on. Does nothing when memory is short. */
void kept_copy_prompt(struct engine *e, const struct job *j);
bool kept_drop_oldest(struct engine *e);        /* false when there was none */

/* step.c */
void engine_step(struct engine *e); /* one pass over the running jobs; ends those that are done */

#endif
