/* hadal.h - the public C interface of Hadal, an inference engine for DeepSeek-V4 models.
 *
 * A program opens a model, submits requests (JSON, in the form of the chat completions API) and takes events until a
 * request ends. Any number of requests run together; what they share is stepped through the model as one batch.
 *
 *     hadal *h;
 *     hadal_error e;
 *     if (hadal_open(&h, "models/tiny", NULL, &e) != HADAL_OK) { puts(e.message); return 1; }
 *     hadal_request *r;
 *     hadal_submit(h, "{\"messages\": [{\"role\": \"user\", \"content\": \"Hello\"}]}", NULL, NULL, &r, &e);
 *     hadal_event ev;
 *     while (hadal_next(r, &ev, -1))
 *         if (ev.kind == HADAL_EVENT_CONTENT) fwrite(ev.text, 1, ev.text_bytes, stdout);
 *     hadal_release(&r);
 *     hadal_close(&h);
 *
 * Ownership  What hadal_open and hadal_submit give is ended by hadal_close and hadal_release. Texts given to a call are
 *            copied. Texts in an event belong to the request and stay valid until its next hadal_next or hadal_release.
 *            What hadal_tokenize and its siblings allocate is freed with hadal_free.
 * Errors     Calls return HADAL_OK or a negative code and, when e is not NULL, fill it with one sentence that names the
 *            file, tensor or field. The library never exits and prints nothing, except that it aborts with a line on
 *            stderr when memory for small bookkeeping is gone.
 * Threads    A hadal owns one thread that runs the model (and the workers of the arithmetic). All calls may be made
 *            from any thread; hadal_next and hadal_release of one request by one thread at a time, and hadal_close
 *            when no other call is under way and every request was released.
 * Versions   Structures given by the caller begin with their size and grow at the end only; requests and options that
 *            are not known are refused, never ignored.
 */
#ifndef HADAL_H
#define HADAL_H

#include <stddef.h>
#include <stdint.h>

#define HADAL_VERSION "0.1.0"

#if defined(__GNUC__)
#define HADAL_API __attribute__((visibility("default")))
#else
#define HADAL_API
#endif

#ifdef __cplusplus
extern "C" {
#endif

/* ---------------------------------------------------------------- errors */

enum {
    HADAL_OK = 0,
    HADAL_EARG = -1,         /* the request or an option is wrong */
    HADAL_EFORMAT = -2,      /* a file does not hold what it must */
    HADAL_EIO = -3,          /* the operating system refused */
    HADAL_ENOMEM = -4,       /* memory, or room in the queue, ran out */
    HADAL_EUNSUPPORTED = -5, /* well formed, but outside what this build does */
    HADAL_ECANCELLED = -6    /* the progress function asked to stop */
};

typedef struct hadal_error {
    int code;
    char message[1024];
} hadal_error;

HADAL_API const char *hadal_version(void); /* of the library, "MAJOR.MINOR.PATCH" */

/* ---------------------------------------------------------------- a model */

typedef struct hadal hadal;

typedef struct hadal_options {
    size_t size;            /* set by hadal_options_init */
    const char *numerics;   /* "fast" (default), "reference", "exact" or "int8" */
    const char *isa;        /* instruction set of the CPU kernels; NULL: the best one */
    int threads;            /* 0: all usable CPUs */
    int step_tokens;        /* most tokens in one pass through the model; 0: 512 */
    int64_t context_tokens; /* longest sequence; 0: what the model was made for, more than that is refused */
    uint64_t kv_bytes;      /* memory for the state of all sequences; 0: chosen from the model and the machine */
    int max_running;        /* requests stepped together; 0: 16 */
    int max_waiting;        /* hadal_submit refuses beyond; 0: 256 */
    int max_waiting_user;   /* the same of one user_id; 0: as max_waiting */
    int max_step_ms;        /* longer steps give prompts beside replies fewer tokens; 0: 50, -1: no limit */
    int keep;               /* states kept for reuse, up to two a request (after prompt and reply); 0: 8, -1: none */
    /* Called while opening; non-zero stops with HADAL_ECANCELLED. May be NULL. */
    int (*progress)(void *arg, const char *what, uint64_t done, uint64_t total);
    void *progress_arg;
    /* How fast numerics keep weights: "packed" (NULL; repacked once into a file beside a large model, or in cache_dir when
     * that folder cannot be written), "memory" (repacked at every open) or "native" (as stored). */
    const char *layout;
    const char *cache_dir; /* NULL: none */
    /* The disk tier: state of earlier requests, kept beyond hadal_close. A folder of one open model at a time, made when
     * missing, for the owner's eyes only; what other models or numerics left in it is skipped. */
    const char *state_dir;    /* NULL: none */
    uint64_t state_dir_bytes; /* most bytes in it; 0: 16 GiB */
} hadal_options;

HADAL_API void hadal_options_init(hadal_options *o);

/* Opens a checkpoint folder (config.json, *.safetensors, tokenizer.json). o NULL: the defaults. */
HADAL_API int hadal_open(hadal **h, const char *model_dir, const hadal_options *o, hadal_error *e);
/* Cancels what still runs and frees everything; *h becomes NULL. */
HADAL_API void hadal_close(hadal **h);

HADAL_API int64_t hadal_context_tokens(const hadal *h); /* longest sequence */
HADAL_API int hadal_vocabulary_size(const hadal *h);

/* ---------------------------------------------------------------- text and tokens */

/* Token ids of text_bytes bytes. match_special: control tokens written in the text become themselves instead of plain
 * text. *ids is allocated. */
HADAL_API int hadal_tokenize(const hadal *h, const char *text, size_t text_bytes, int match_special, int32_t **ids,
                             size_t *n_ids, hadal_error *e);
/* Text of token ids, control tokens included; *text is allocated and NUL-terminated. */
HADAL_API int hadal_detokenize(const hadal *h, const int32_t *ids, size_t n_ids, char **text, size_t *text_bytes,
                               hadal_error *e);
/* The prompt that hadal_submit would run for a request, as token ids. *ids is allocated. */
HADAL_API int hadal_encode(const hadal *h, const char *request_json, int32_t **ids, size_t *n_ids, hadal_error *e);
HADAL_API void hadal_free(void *p);

/* ---------------------------------------------------------------- requests */

typedef struct hadal_request hadal_request;

typedef enum hadal_event_kind {
    HADAL_EVENT_PROMPT = 1,     /* prompt_done of prompt_total tokens are processed */
    HADAL_EVENT_REASONING = 2,  /* text of the thinking part */
    HADAL_EVENT_CONTENT = 3,    /* text of the answer */
    HADAL_EVENT_TOOL_START = 4, /* text: the function called by call number `call` */
    HADAL_EVENT_TOOL_ARGS = 5,  /* text: a piece of its arguments, JSON text when joined */
    HADAL_EVENT_TOOL_END = 6,   /* its arguments are complete and a valid JSON object */
    HADAL_EVENT_TOOL_BROKEN = 7, /* the call will not be completed: drop it; text is what the model wrote */
    HADAL_EVENT_TOKEN = 8,      /* with logprobs: one token was accepted; its text comes in other events */
    HADAL_EVENT_END = 9         /* the last event: finish, usage */
} hadal_event_kind;

typedef enum hadal_finish {
    HADAL_FINISH_STOP = 1,       /* the model ended its reply, or a stop string came */
    HADAL_FINISH_LENGTH = 2,     /* max_tokens, or the context is full */
    HADAL_FINISH_TOOL_CALLS = 3, /* the model ended its reply and wants tools to be called */
    HADAL_FINISH_CANCELLED = 4,
    HADAL_FINISH_ERROR = 5       /* text says why */
} hadal_finish;

typedef struct hadal_logprob {
    int32_t token;
    float logprob; /* natural logarithm, of the model's distribution before temperature and filters; at least -9999 */
} hadal_logprob;

typedef struct hadal_event {
    hadal_event_kind kind;
    int call;            /* TOOL_*: from 0 */
    const char *text;    /* UTF-8; TOKEN: the token's bytes */
    size_t text_bytes;
    int32_t token;       /* TOKEN */
    int is_reasoning;    /* TOKEN: of the thinking part */
    float logprob;       /* TOKEN */
    const hadal_logprob *top; /* TOKEN: the top_logprobs most likely tokens, best first */
    int n_top;
    int64_t prompt_done, prompt_total; /* PROMPT */
    hadal_finish finish; /* END */
    int64_t prompt_tokens, reused_tokens, completion_tokens, reasoning_tokens; /* END */
    double prompt_seconds, completion_seconds; /* END */
} hadal_event;

/* Queues a request: a JSON object with `messages` (an array as in the chat completions API) or `prompt` (a text) or
 * `tokens` (ids), and any of tools, tool_choice ("auto", "none", "required", a function),
 * parallel_tool_calls, response_format (all enforced: docs/API.md, Forms), thinking, reasoning_effort,
 * max_tokens, temperature, top_p, top_k, min_p, seed, stop, logprobs, top_logprobs, user_id, profile, keep_thinking,
 * match_added_tokens, priority (-100 to 100: higher ones start first), timeout_ms. Another field is an error. State of an
 * earlier request is reused for a request of the same user_id that begins with the same tokens; the reply is the same as
 * without. Earlier replies of this model in messages become the tokens they were generated as.
 * notify (may be NULL) is called from the model's thread whenever an event can be taken: it must return at once and
 * make no calls to the library. */
HADAL_API int hadal_submit(hadal *h, const char *request_json, void (*notify)(void *arg), void *arg, hadal_request **r,
                           hadal_error *e);
/* Another reply that goes on from where `from` is at its next step: the prompt and the reply of `from` so far become its
 * prompt, with the same settings but for the seed and at most max_tokens tokens more; its events begin behind them. While
 * `from` runs this costs one page of state (128 tokens), and nothing is computed again. `from` may be released at once;
 * when it has ended by then, the new one ends with HADAL_FINISH_ERROR. */
HADAL_API int hadal_fork(hadal_request *from, uint64_t seed, int64_t max_tokens, void (*notify)(void *arg), void *arg,
                         hadal_request **r, hadal_error *e);
/* 1: *ev is the next event; 0: none came within timeout_ms (negative: waits for ever), or the last one was taken. */
HADAL_API int hadal_next(hadal_request *r, hadal_event *ev, int timeout_ms);
/* Ends a request early; an END event with HADAL_FINISH_CANCELLED follows, unless it had ended before. */
HADAL_API void hadal_cancel(hadal_request *r);
/* Frees a request (cancels it when it still runs); *r becomes NULL. */
HADAL_API void hadal_release(hadal_request **r);

#ifdef __cplusplus
}
#endif

#endif
