/* engine: from a request to a stream of events. Sampling, stop rules, reply parsing, and the loop that steps many
 * sequences through the model.
 *
 * Idea: three layers, each usable without the next.
 *   sampler     a pure function: (logits, sampling, position) -> token. No generator state anywhere.
 *   generation  one sequence's rules: chooses and accepts tokens, stops, parses the reply, emits events. No model, no
 *               thread; a scheduler owns as many as it likes and feeds each its own logits.
 *   engine      a model, its step thread, running and waiting jobs, and a prefix cache of the KV state of all of them.
 *
 * Threads: engine_submit, engine_next, engine_cancel and engine_release may be called from any thread (one thread at a
 * time per job); the model is touched by the step thread only.
 */
#ifndef HADAL_ENGINE_ENGINE_H
#define HADAL_ENGINE_ENGINE_H

#include "engine/replay.h"
#include "model/model.h"
#include "text/grammar.h"
#include "text/text.h"

/* ---------------------------------------------------------------- sampling (sample.c) */

/* How a token is drawn from p = softmax(logits / temperature). The kept tokens are a prefix of the order "more likely
 * first, lower id first among equals": at most top_k of them; of those the shortest prefix whose renormalised sum
 * reaches top_p; and of those only tokens with p >= min_p * (p of the most likely one). At least one is kept. */
struct sampling {
    double temperature; /* 0: greedy, ties to the lower id */
    double top_p;       /* (0, 1]; 1: off */
    double min_p;       /* [0, 1]; 0: off */
    int top_k;          /* 0: off */
    uint64_t seed;
};
void sampling_init(struct sampling *s); /* temperature 1, no filter, seed 0 */
int sampling_check(const struct sampling *s, struct err *e); /* HD_EARG names the field out of range */

/* Scratch of one thread for vocabularies of n_vocab tokens. */
struct sampler;
int sampler_open(struct sampler **s, int n_vocab, struct err *e);
void sampler_close(struct sampler **s);

/* `mask` (NULL: all) holds the tokens that may be chosen, bit i % 64 of word i / 64; the others count as minus
 * infinity.
 *
 * The token for `position` (its index in the sequence, prompt included): the kept token of highest logit /
 * temperature + g, g Gumbel noise computed from (seed, position, token id) by Philox4x32-10. So it depends on
 * logits, mask, sampling and position only, whatever was drawn before - the same with and without speculation. NaN
 * counts as minus infinity; plus infinity wins. -1 when no logit is above minus infinity. */
int32_t sampler_choose(struct sampler *s, const float *logits, const uint64_t *mask, const struct sampling *p,
                       int64_t position);

enum { TOP_LOGPROBS_MAX = 20 };
struct token_logprob {
    int32_t id;
    float logprob;
};
/* Natural log of softmax(logits)[id]: of the model's own distribution, before temperature and filters. Also the n_top
 * (<= TOP_LOGPROBS_MAX) most likely tokens, best first, ties to the lower id. Minus infinity is reported as -9999. */
float logprobs_of(const float *logits, int n_vocab, int32_t id, struct token_logprob *top, int n_top);

/* ---------------------------------------------------------------- stop strings (stop.c) */

enum { STOP_STRINGS_MAX = 16, STOP_BYTES_MAX = 4096 };

/* Finds the first stop string in a stream of text, however it is cut into pieces. Text that could be the beginning of a
 * stop string is held back. Linear time. */
struct stop_rule {
    char *text;
    size_t n;
    uint16_t *fail; /* [n] length of the longest border of each prefix (Knuth-Morris-Pratt) */
    size_t matched; /* length of the prefix that the stream ends with */
};
struct stop_filter {
    struct stop_rule rule[STOP_STRINGS_MAX];
    int n_rules;
    struct buf held;
    bool hit;
};
/* n <= STOP_STRINGS_MAX, none empty. False, and the filter empty: no memory. */
bool stop_filter_init(struct stop_filter *f, char *const *stops, int n);
/* Appends to out what may be shown; true once a stop string is complete (it and what follows are never shown). */
bool stop_filter_add(struct stop_filter *f, const char *text, size_t n, struct buf *out);
void stop_filter_flush(struct stop_filter *f, struct buf *out); /* the text goes no further: shows what was held */
void stop_filter_free(struct stop_filter *f);

/* ---------------------------------------------------------------- generation (generate.c) */

enum finish {
    FINISH_NONE,       /* still running */
    FINISH_STOP,       /* end token or stop string */
    FINISH_LENGTH,     /* max_tokens or the context is full */
    FINISH_TOOL_CALLS, /* end token after at least one tool call */
    FINISH_CANCELLED,
    FINISH_ERROR,
};
const char *finish_name(enum finish f); /* "stop", "length", "tool_calls", "cancelled", "error" */

enum { EOS_IDS_MAX = 8 };

struct gen_params {
    struct sampling sampling;
    int64_t max_tokens; /* >= 1, reasoning included */
    char **stop;        /* looked for in the visible answer (in raw mode: in everything) */
    int n_stop;
    bool logprobs;      /* emit GEN_TOKEN */
    int n_top_logprobs;
    bool raw;           /* no reply parsing: everything is content, control tokens as literal text */
    bool in_thinking;   /* the prompt ended inside <think> */
    struct grammar *grammar; /* what the reply must look like behind its thinking part; NULL: anything. Held by the
                                generation too; masks what may be sampled */
};

enum gen_event_kind {
    GEN_PROMPT,    /* done of total prompt tokens are processed; reused of them came from an earlier job */
    GEN_REASONING, /* text */
    GEN_CONTENT,   /* text */
    GEN_TOOL_START, /* text: name of call i_call (from 0) */
    GEN_TOOL_ARGS, /* text: a piece of its arguments (JSON text) */
    GEN_TOOL_END,  /* its arguments are complete and a valid JSON object */
    GEN_TOOL_BROKEN, /* it will not be completed; text: its markup as the model wrote it */
    GEN_TOKEN,     /* a token was accepted; its text follows when it can be shown */
    GEN_END,       /* last event: finish, usage; text: with FINISH_ERROR why, with FINISH_STOP the stop string (or "") */
};

struct gen_usage {
    int64_t prompt_tokens, reused_tokens; /* reused <= prompt */
    int64_t differs_at;        /* first token of the prompt that no state of this user has; -1: the user has no state */
    int64_t completion_tokens; /* end token not counted */
    int64_t reasoning_tokens;  /* </think> not counted */
    uint64_t queue_ns, prompt_ns, completion_ns;
};

struct gen_event {
    enum gen_event_kind kind;
    const char *text; /* UTF-8; GEN_TOKEN: the token's bytes */
    size_t n;
    int i_call;
    int32_t token;    /* GEN_TOKEN */
    float logprob;
    struct token_logprob top[TOP_LOGPROBS_MAX];
    int n_top;
    bool reasoning;   /* GEN_TOKEN: of the thinking part, </think> included */
    int64_t done, total, reused; /* GEN_PROMPT */
    enum finish finish;          /* GEN_END */
    struct gen_usage usage;
};
/* text is valid during the call only. */
typedef void (*gen_fn)(void *arg, const struct gen_event *ev);

struct generation;
/* tokenizer and eos ids must outlive it; params are copied. With a grammar: inside the thinking part only the end is
 * forbidden; then no token is chosen that does not fit, the end not before the form is complete, and where nothing may
 * follow the reply ends without an end token. One thread steps all generations of one grammar. NULL: no memory. */
struct generation *generation_open(const struct tokenizer *t, int n_vocab, const int32_t *eos, int n_eos,
                                   const struct gen_params *p, gen_fn fn, void *arg);
void generation_close(struct generation **g);
/* Another one with the same settings but for these, as new; from any thread. NULL: no memory. */
struct generation *generation_again(const struct generation *g, uint64_t seed, int64_t max_tokens, gen_fn fn, void *arg);
/* Takes tokens that one with the same settings has accepted, without events and not counted: the reply goes on behind
 * them, with at most max_tokens more. */
void generation_follow(struct generation *g, const int32_t *tokens, int64_t n, int64_t max_tokens);
/* The token that belongs at `position`, -1 when the logits are unusable. Changes nothing. */
int32_t generation_choose(const struct generation *g, struct sampler *s, const float *logits, int64_t position);
/* Takes a token (and the logits it was chosen from, needed for logprobs only): emits its events. False when the
 * generation is over; GEN_END was then emitted. logits NULL: no GEN_TOKEN. */
bool generation_accept(struct generation *g, int32_t token, const float *logits);
/* Ends it from outside: FINISH_CANCELLED, FINISH_LENGTH (context full) or FINISH_ERROR with a sentence. */
void generation_end(struct generation *g, enum finish f, const char *why);
enum finish generation_finish(const struct generation *g);
struct gen_usage *generation_usage(struct generation *g); /* the owner fills the prompt's part before the end */

/* ---------------------------------------------------------------- requests (request.c) */

struct gen_request {
    struct ids prompt;
    struct gen_params params;
    char *user; /* state is reused among requests of the same user only; "" by default */
    int priority;         /* waiting requests of higher priority start first, whoever they belong to */
    double weight;        /* share of its user among users with work; 0: 1 */
    uint64_t deadline_ns; /* by now_ns(); 0: none. Past it the request ends with FINISH_ERROR */
    int64_t pin_tokens;   /* so many first tokens (a system prompt) are evicted after everything else */
};
void gen_request_free(struct gen_request *r);

/* What a request needs to know about the model. */
struct request_env {
    const struct tokenizer *tokenizer;
    struct grammar_store *grammars; /* of the tokenizer; NULL: requests that need a grammar are refused */
    int n_vocab;
    enum chat_profile profile;
    struct sampling defaults; /* of generation_config.json */
    int64_t context_tokens;
    struct replay *replay;  /* what stands for earlier replies in messages; NULL: their text */
    const char *user_scope; /* NULL: none; stands before every user_id, so that ids of two owners differ */
};

/* Reads a request in the form of the chat API:
 *   messages (array) or prompt (text) or tokens (ids); tools, tool_choice ("auto" | "none" | "required" | {"type":
 *   "function", "function": {"name": NAME}}), parallel_tool_calls, response_format ({"type": "text" | "json_object"} or
 *   {"type": "json_schema", "json_schema": {"name", "schema", "strict"}});
 *   thinking {"type": "enabled" | "disabled"} (default enabled), reasoning_effort (default high);
 *   max_tokens, temperature, top_p, top_k, min_p, seed, stop, logprobs, top_logprobs, user_id;
 *   profile ("preview" | "official"), keep_thinking, match_added_tokens (booleans);
 *   priority (-100 to 100), timeout_ms (from now on; then it ends with FINISH_ERROR).
 * Earlier replies in messages become the tokens they were generated as, where replay.h knows them (not with
 * match_added_tokens). A field of another name is refused: nothing that a caller asks for is silently ignored.
 * max_tokens defaults to the official 8,192 (65,536 thinking, 131,072 at effort max), and is cut to what the context
 * leaves. Without seed a random one is drawn. Errors HD_EARG name the field. */
int request_parse(struct gen_request *r, const json_t *body, const struct request_env *env, struct err *e);

/* ---------------------------------------------------------------- engine (engine.c) */

/* What the engine needs of a model; the calls mean what those of model.h mean. Tests and the scripted server put
 * something without mathematics behind it. */
struct runner {
    void *self;
    int n_vocab, max_rows, rollback;
    int64_t max_tokens;
    int (*seq_open)(void *self, struct kv_seq **s, int64_t max_tokens, struct err *e);
    void (*seq_close)(void *self, struct kv_seq **s);
    int (*seq_truncate)(void *self, struct kv_seq *s, int64_t n_tokens, struct err *e);
    int (*seq_fork)(void *self, struct kv_seq *s, const struct kv_seq *from, struct err *e);
    int (*step)(void *self, const struct step_item *items, int n_items, struct step_result *r, struct err *e);
    int (*reserve)(void *self, int n_logits, struct err *e); /* for so many rows of logits in a step; may be NULL */
    uint64_t (*step_bytes)(void *self); /* what steps work in; may be NULL */
    uint64_t (*seq_bytes)(void *self, int64_t max_tokens); /* of an open sequence beside its pages; may be NULL */
    void (*close)(void *self); /* may be NULL */

    /* Sharing of state; without it (pages_total 0) there is no prefix cache and the calls below may be NULL. */
    int64_t pages_total, tails_total;
    int64_t (*pages_free)(void *self);
    void (*seq_clear)(void *self, struct kv_seq *s);
    int (*seq_resume)(void *self, struct kv_seq *s, const int32_t *pages, int64_t n_pages, int32_t tail, struct err *e);
    int32_t (*seq_page)(void *self, const struct kv_seq *s, int64_t i);
    void (*page_ref)(void *self, int32_t page);
    void (*page_unref)(void *self, int32_t page);
    int32_t (*tail_take)(void *self);
    void (*tail_give)(void *self, int32_t tail);

    /* For the disk tier; without it (page_bytes 0) the calls may be NULL. */
    uint64_t page_bytes, tail_bytes, fingerprint;
    int32_t (*page_take)(void *self); /* with one reference, to be filled; -1: none */
    uint8_t *(*page_at)(void *self, int32_t page);
    uint8_t *(*tail_at)(void *self, int32_t tail);
};
struct runner runner_of_model(struct model *m); /* close closes the model */

struct spill_disk;

struct engine_options {
    struct model_options model; /* tail_share 0: a quarter of the KV memory */
    int64_t context_tokens; /* longest sequence; 0: what the model was made for; more is refused */
    int max_running;        /* jobs stepped together; 0: 16 */
    int max_waiting;        /* submit refuses beyond; 0: 256 */
    int n_keep;             /* KV states kept for reuse, up to two a job (end of prompt, end of reply); -1: none, 0: 8 */
    int max_waiting_user;   /* submit refuses a user's requests beyond; 0: as max_waiting */
    int prefill_rows;       /* most prompt rows in a step beside decodes; 0: half of the model's rows */
    int max_step_ms;        /* longer steps have fewer prompt rows beside decodes (budget.h); 0: 50, -1: no limit */
    bool no_cache;          /* no prefix cache */
    /* The disk tier (docs/SERVING.md): state that memory has no room for, and what outlives the process. */
    const char *cache_dir;     /* a folder of one engine at a time, made when missing; NULL: none */
    uint64_t cache_disk_bytes; /* of it; 0: 16 GiB */
    struct spill_disk *cache_disk; /* instead of a folder, for tests: of this disk, without a thread */
    void (*log)(void *arg, const char *line); /* a sentence about files in it now and then; any thread; may be NULL */
    void *log_arg;
    int64_t replay_bytes;   /* of remembered replies (replay.h); 0: 64 MiB, -1: none */
    const char *replay_path; /* file behind them; NULL: `replies` in cache_dir, without one memory only */
};
void engine_options_init(struct engine_options *o);

struct engine;
struct job;

/* Opens the model folder (checkpoint, tokenizer, generation_config.json) and starts the step thread. */
int engine_open(struct engine **e, const char *dir, const struct engine_options *o, const struct progress *p,
                struct err *err);
/* Over any runner; the engine owns it from here (also when this fails). Only the engine's own options are used. */
int engine_open_runner(struct engine **e, struct runner r, const struct request_env *env, const int32_t *eos, int n_eos,
                       const struct engine_options *o, struct err *err);
/* Cancels what runs, waits for the step thread, frees everything. No job may be in use. */
void engine_close(struct engine **e);

const struct request_env *engine_env(const struct engine *e);
const struct model *engine_model(const struct engine *e); /* NULL over another runner */

/* Queues a request and takes its contents over (r is empty afterwards, on errors too). notify (may be NULL) is called
 * without locks from the step thread whenever an event was queued; it must not block or call into the engine.
 * HD_EARG: prompt empty, outside the vocabulary or too long; HD_ENOMEM: the queue is full, or this user's part of it. */
int engine_submit(struct engine *e, struct gen_request *r, void (*notify)(void *arg), void *arg, struct job **j,
                  struct err *err);
/* Another reply that goes on from where the request `from` is now: when this is taken in, before the next step, it gets
 * the prompt and the reply of `from` so far as its prompt, and continues with the same settings but for the seed and at
 * most max_tokens tokens more. Its events begin behind what is common. It is of the same user, priority, weight and
 * deadline. Beside a running request it costs one page: complete pages are shared, the last one is copied. `from` may be
 * released right after the call. It ends with FINISH_ERROR when `from` has ended before. Errors as engine_submit. */
int engine_fork(struct job *from, uint64_t seed, int64_t max_tokens, void (*notify)(void *arg), void *arg,
                struct job **j, struct err *err);
/* 1: *ev is the next event (its text valid until the next call); 0: none within timeout_ms (negative: waits for ever)
 * or the last event was already taken. */
int engine_next(struct job *j, struct gen_event *ev, int timeout_ms);
/* The id under which the reader knows the tool call that GEN_TOOL_START last announced; before GEN_END is taken. */
void engine_name_call(struct job *j, const char *id);
void engine_cancel(struct job *j);   /* GEN_END with FINISH_CANCELLED follows within one step */
void engine_release(struct job **j); /* cancels when still running; no events after that */

struct disk_stats {
    int64_t pages, tails;         /* on disk */
    uint64_t bytes, limit_bytes;  /* taken by files, of at most */
    uint64_t pages_saved, tails_saved, pages_loaded, tails_loaded, tokens_loaded, evicted;
    uint64_t dropped;             /* pages and tails that left memory before they could be saved */
    uint64_t damaged;             /* records that did not verify */
    uint64_t read_errors, write_errors;
    bool on, paused;              /* paused: the disk is full or refuses, nothing is saved for now */
    bool direct, ring;            /* O_DIRECT and io_uring are in use; otherwise the page cache, pread and pwrite */
};

/* Memory that the engine holds from its start on, in bytes. Not in it: the weights, what single requests hold (taken when
 * they are submitted), remembered replies (replay.bytes) and grammars. */
struct engine_memory {
    uint64_t kv;        /* pages and tails, the budget */
    uint64_t sequences; /* rings, compressor state and page tables */
    uint64_t step;      /* workspace, logits, kernel scratch */
    uint64_t cache;     /* the prefix cache's nodes, tokens and heaps */
};

struct engine_stats {
    int n_running, n_waiting, n_kept;
    int64_t kept_tokens;
    int64_t pages_total, pages_free, pages_cached, tails_cached;
    uint64_t steps, prompt_tokens, reused_tokens, completion_tokens;
    uint64_t recomputed_tokens; /* of requests that had to give their pages up and went on later */
    uint64_t put_back, pages_evicted, tails_evicted;
    /* Requests that started, by where the longest part of their beginning came from. */
    uint64_t hits_memory, hits_disk, misses;
    struct disk_stats disk; /* all 0 without a disk tier */
    struct replay_stats replay;
    struct engine_memory memory;
};
void engine_read_stats(struct engine *e, struct engine_stats *s);
/* Why a request reused no more than it did, as a sentence for the log and the API. */
void gen_usage_explain(const struct gen_usage *u, char *out, size_t n);

#endif
