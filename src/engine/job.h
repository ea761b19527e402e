/* Jobs inside the engine: a request on its way, its event queue, and the KV states kept after jobs end.
 *
 * Who may touch what: `mutex` of the engine guards every job's queue and the fields so marked; all the rest of a job, the
 * waiting and running lists, the cache and the kept states belong to the step thread once the job is submitted. */
#ifndef HADAL_ENGINE_JOB_H
#define HADAL_ENGINE_JOB_H

#include "engine/budget.h"
#include "engine/cache.h"
#include "engine/tier.h"
#include "engine/users.h"

#include <pthread.h>

struct queued_event {
    struct gen_event ev; /* its text points to `text` */
    struct queued_event *next;
    size_t cap;          /* bytes of text that fit */
    char text[];
};

/* Each job has EVENTS_SPARE of them from the start; what was taken is used again. More are made when the reader is further
 * behind, or a text is longer. */
enum { EVENTS_SPARE = 48, EVENT_TEXT = 240 };

struct job {
    struct engine *engine;
    struct generation *gen;
    char *user_name, *user_of_list; /* the second one is for the list of users, which may take it */
    struct ids tokens;  /* the prompt, then every accepted token */
    int64_t n_prompt, max_tokens, pin_tokens;
    int64_t n_before;   /* where the reply begins: of a fork inside its prompt, otherwise at its end */
    int64_t most_tokens; /* that there is memory for */
    uint64_t number;    /* in order of arrival */
    bool is_fork;       /* its tokens come from the request of this number when it is taken in */
    uint64_t fork_of;
    uint64_t submit_ns, start_ns, first_ns, deadline_ns;
    int priority;
    double weight;
    int user;
    void (*notify)(void *arg);
    void *arg;
    struct replay_text seen; /* of the consumer's thread: what it was told */
    bool raw;
    struct queued_event *end; /* GEN_END, made at the start, waits until the job's sequence is given back */
    struct job *next;   /* among the incoming */

    struct kv_seq *seq; /* NULL while the job waits */
    int64_t n_fed;      /* tokens[0 .. n_fed) are in seq */
    int64_t n_fed_most; /* before it was put back: rows below are computed again */
    int32_t node;       /* of the cache, at the last page end that seq has passed */
    bool next_is_shared; /* the page that seq writes next is the cache's too: it will be copied */
    int64_t match_depth; /* pages that the cache knew when the job started: where prompts part, a tail is worth most */
    uint64_t *hashes;   /* of its complete pages */
    int64_t n_hashes, cap_hashes;
    uint64_t last_step; /* in which it had rows */
    int n_rows;         /* in the step that is being planned */
    bool put_back;      /* had to give its pages up, waits to go on */
    bool held_back;     /* the same, or it had to stop loading: */
    uint64_t put_back_at; /* n_retired then: it goes on once another job has ended */
    struct tier_load load;

    /* guarded */
    struct queued_event *head, *tail;
    struct queued_event *taken; /* what the consumer looks at */
    struct queued_event *spare; /* none of them in the queue */
    pthread_cond_t more;
    bool cancelled, released, retired, notifying;
    bool starved; /* there was no memory for an event */
    struct queue_part *part; /* while it waits for the first time */
};

/* How many requests of a user wait. */
struct queue_part {
    struct queue_part *next;
    char *user;
    int n;
};

/* A state that was reached: the end of a prompt or of a reply. Its complete pages are in the cache too; what is kept is the
 * rest after them, and the way back. */
struct kept {
    struct kv_seq *seq;
    struct ids tokens; /* that seq holds */
    int user;
    int32_t node;
    uint64_t last_use; /* by the cache's clock */
};

struct job_list {
    struct job **at;
    int n, cap;
};

struct engine {
    struct runner runner;
    struct model *model;          /* NULL over another runner */
    struct tokenizer *tokenizer;  /* owned when opened from a folder */
    struct request_env env;
    int32_t eos[EOS_IDS_MAX];
    int n_eos, max_running, max_waiting, max_waiting_user;
    struct sampler *sampler;
    pthread_t thread;

    /* of the step thread */
    struct users users;
    struct budget budget;         /* of prompt rows beside decodes */
    struct cache cache;
    struct tier tier;
    struct job_list waiting, running; /* in order of arrival */
    struct job_list loading;      /* admitted, but their beginning still comes from the disk */
    struct step_item *items;      /* [max_rows], with the job of each */
    struct job **item_job;
    int32_t *tails, *path;        /* of the step; of a sequence that goes on */
    struct kept *kept;
    int n_kept, max_kept;
    struct kv_seq **idle_seqs;    /* opened once, empty */
    int n_idle, cap_idle;
    uint64_t n_steps, n_retired;
    struct engine_stats counts;   /* published after each round */

    pthread_mutex_t mutex;
    pthread_cond_t work;
    /* guarded */
    struct job *incoming, **incoming_end;
    int n_incoming, n_waiting;    /* n_waiting: of the waiting list, as last published */
    struct queue_part *parts;     /* who waits; those of nobody are used again */
    uint64_t n_submitted;
    bool closing, disk_done;      /* disk_done: tier_receive has something to do */
    struct engine_stats stats;
};

static inline bool engine_shares(const struct engine *e)
{
    return e->runner.pages_total > 0;
}

static inline int64_t pages_of(int64_t n_tokens)
{
    return (n_tokens + CACHE_PAGE - 1) / CACHE_PAGE;
}

/* engine.c */
int engine_create(struct engine **e, struct runner r, const struct request_env *env, const int32_t *eos, int n_eos,
                  const struct engine_options *o, struct err *err); /* without the step thread */
void engine_destroy(struct engine *e);
void engine_round(struct engine *e); /* takes in, ends, admits, steps: what the step thread repeats */

/* submit.c */
void engine_leave_queue(struct engine *e, struct job *j); /* it counts no longer as waiting of its user */
/* A fork gets its tokens, and stands where the other one stands; or it ends with a sentence. */
void job_join(struct engine *e, struct job *j);

/* job.c */
bool job_reserve_events(struct job *j); /* false: no memory */
void job_push(struct job *j, const struct gen_event *ev); /* copies; wakes the consumer */
void job_on_event(void *job, const struct gen_event *ev);
void job_retire(struct job *j); /* gives the end event out; from here on the job belongs to its consumer */
void job_free(struct job *j);

/* state.c: KV state for jobs. */
/* Gives the job a sequence: a copy of a kept one that it continues, one that goes on from the cache, or an empty one. */
int state_take(struct engine *e, struct job *j, struct err *err);
int64_t state_have(struct engine *e, struct job *j); /* tokens that it would not have to compute */
/* The running request with most of its first tokens (*n of them) whose sequence can be copied and taken back to there;
 * NULL: none. */
const struct job *state_running(const struct engine *e, const struct job *j, int64_t *n);
void state_keep(struct engine *e, struct job *j); /* at its end */
/* Keeps a copy of the job's state at the end of its prompt: the next turn of a conversation that thinks has another text
 * from there on. Does nothing when memory is short. */
void state_keep_prompt(struct engine *e, const struct job *j);
void state_drop(struct engine *e, struct job *j); /* its complete pages stay in the cache */
bool state_drop_kept(struct engine *e);  /* the oldest; false when there was none */
/* Frees pages: drops or evicts what was used least recently, at last merges pages. False when nothing is left. */
bool state_make_room(struct engine *e);
void state_hash(struct job *j);          /* page hashes of all its tokens */
/* The sequence has passed page ends: the cache learns the pages. tails: of these page ends, in order. */
void state_pass(struct engine *e, struct job *j, const int32_t *tails);
void states_reserve(struct engine *e); /* opens the sequences that can be in use at a time, while there is memory */
void states_free(struct engine *e);

/* sched.c: who runs, and how many rows. */
bool job_decodes(const struct job *j);
void sched_admit(struct engine *e);
void sched_plan(struct engine *e); /* sets n_rows of the running jobs */
bool sched_put_back_youngest(struct engine *e); /* false when only one runs */
bool sched_put_back_loading(struct engine *e);  /* the youngest; false when there is none */
void sched_start_loaded(struct engine *e);      /* those whose beginning has come */
void job_list_reserve(struct job_list *l, int n); /* never more */
void job_list_add(struct job_list *l, struct job *j);
void job_list_remove(struct job_list *l, int i);

/* step.c */
void engine_step(struct engine *e); /* one pass over the running jobs; ends those that are done */
void job_start(struct engine *e, struct job *j);

#endif
