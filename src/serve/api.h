/* api: one neutral request and one neutral stream of events between the dialects and the engine.
 *
 * Idea: a dialect is one file, or a small group with a header of its own, that reads a JSON body into a struct
 * api_req and writes a struct api_answer, whole or event by event. It knows nothing of HTTP, threads, the engine or
 * other dialects. docs/ADD_A_DIALECT.md shows how to add one. / */
#ifndef HADAL_SERVE_API_H
#define HADAL_SERVE_API_H

#include "engine/engine.h"
#include "serve/json_out.h"

/* ---------------------------------------------------------------- what can go wrong */

enum api_kind {
    API_FINE,
    API_BAD,       /* the request asks for something that is not possible */
    API_SYNTAX,    /* the body is no JSON */
    API_TYPE,      /* a field has the wrong type or is missing */
    API_OVERFLOW,  /* the prompt does not fit the context: n_tokens, max_tokens */
    API_KEY,       /* no key or a wrong one */
    API_BALANCE,   /* the key's budget is used up */
    API_NOT_FOUND, /* path or model */
    API_METHOD,
    API_TOO_LARGE,
    API_BUSY,      /* the queue is full */
    API_LOADING,
    API_CLOSING,
    API_TIMEOUT,   /* it took longer than the key allows */
    API_INTERNAL,
};

struct api_error {
    enum api_kind kind;
    char msg[1024];
    int64_t n_tokens, max_tokens;
};
/* The first error wins; returns -1. */
int api_fail(struct api_error *e, enum api_kind kind, const char *fmt, ...) PRINTF_LIKE(3, 4);

/* ---------------------------------------------------------------- the request */

/* What dialects know of the server. */
struct api_env {
    const char *model;       /* the name it serves under */
    const char *fingerprint;
    int64_t context_tokens;
    bool strict_replay;      /* reasoning of earlier turns must come back, as the official API demands */
    bool free_sampling;      /* temperature and top_p mean what they say in thinking mode too */
    bool any_model;          /* every model name is taken */
    int64_t created;         /* of the model, for listings */
    const struct tokenizer *tokenizer; /* for prompts that are no conversations; set before a request is read */
};

struct api_req {
    json_t *gen;        /* in the form of request_parse (engine.h), owned */
    json_t *echo;       /* what the dialect repeats in its answer, owned; may be NULL */
    bool stream;
    bool include_usage; /* chat: every chunk has a usage key */
    bool include_cost, include_cache_reason; /* what the answer's usage says beyond the dialect's own fields */
    bool thinking;
    bool has_tools;
    bool omits_thinking; /* Messages: the answer's thinking blocks have no text */
    bool for_count;     /* set before reading: only the prompt counts */
    int n_top_logprobs;
    bool logprobs;
};
void api_req_free(struct api_req *q);

/* ---------------------------------------------------------------- the answer */

enum api_part_kind { PART_REASONING, PART_TEXT, PART_CALL };

/* In the order of the reply. */
struct api_part {
    enum api_part_kind kind;
    struct buf text;  /* of a call: its arguments */
    struct buf tokens; /* of text: its logprobs, as in the answer's */
    char *name;       /* of a call */
    char id[40];      /* of a call */
    int i_call;
    bool broken;      /* a call that was not completed */
};

enum { API_ID_MAX = 64 };

struct api_answer {
    const struct api_env *env;
    const struct api_req *req;
    char id[API_ID_MAX]; /* of the dialect's form */
    uint64_t random;     /* for ids of parts */
    int64_t created;     /* seconds since 1970 */

    struct api_part *parts;
    int n_parts, cap_parts, n_calls;
    struct buf tokens[2]; /* JSON objects of logprobs, comma-separated: answer, reasoning */
    size_t n_in_parts;    /* bytes of tokens[0] that parts have */
    struct buf broken;    /* markup of a broken call: becomes text unless the reply was cut */

    enum finish finish;
    char *why;            /* of FINISH_ERROR */
    char *stop;           /* the stop string that ended it, or NULL */
    struct gen_usage usage;
    bool has_cost, has_cache_reason; /* to be said in the usage: once both are known, when asked for */
    double cost;          /* dollars */

    /* of the dialect's stream */
    int64_t sequence;
    int i_block;          /* index of the open block or item, from 0 */
    bool in_block;
    enum api_part_kind block;
};

enum api_event_kind {
    API_BEGIN,      /* usage.prompt_tokens and reused_tokens are known */
    API_REASONING,  /* text */
    API_TEXT,       /* text */
    API_CALL_BEGIN, /* part->name, part->id */
    API_CALL_ARGS,  /* text */
    API_CALL_END,
    API_CALL_BROKEN, /* the call will not be completed */
    API_END,
};

struct api_event {
    enum api_event_kind kind;
    const char *text;
    size_t n;
    const struct api_part *part; /* it belongs to; NULL for API_BEGIN and API_END */
    const struct buf *tokens;    /* logprobs since the last event with text (JSON objects), NULL when none */
    bool tokens_reasoning;
};

struct dialect {
    const char *name;
    /* Reads a request; 0 or -1. */
    int (*read)(struct api_req *q, const json_t *body, const struct api_env *env, struct api_error *e);
    void (*make_id)(struct api_answer *a, const uint64_t random[2]);
    void (*event)(struct api_answer *a, const struct api_event *ev, struct buf *out); /* as server-sent events */
    void (*whole)(const struct api_answer *a, struct buf *out);                       /* the body of one answer */
    int (*status)(const struct api_error *e);
    void (*error)(const struct api_error *e, const char *request_id, struct buf *out); /* the body of an error */
    void (*error_event)(struct api_answer *a, const struct api_error *e, struct buf *out);
    const char *ping; /* what is sent while nothing comes, after API_BEGIN */
    bool knows_aborted; /* an answer can say that the server cut it off; for the others that is an error */
};

extern const struct dialect dialect_deepseek, dialect_completions, dialect_anthropic, dialect_responses;

/* form.c: what the dialects of DeepSeek's own service share */
void form_id(struct api_answer *a, const uint64_t random[2]);
void form_usage(const struct api_answer *a, struct buf *out);
int form_status(const struct api_error *e);
/* {"error": {...}} as DeepSeek's and OpenAI's services write it. */
void form_error_body(const char *message, const char *type, const char *code, struct buf *out);
void form_error(const struct api_error *e, const char *request_id, struct buf *out);
void form_error_event(struct api_answer *a, const struct api_error *e, struct buf *out);

/* answer.c */
typedef void (*api_event_fn)(struct api_answer *a, const struct api_event *ev, struct buf *out);
void api_answer_init(struct api_answer *a, const struct api_env *env, const struct api_req *q);
void api_answer_free(struct api_answer *a);
/* Takes an event of the engine: adds to the parts and, when fn is not NULL, tells it. True at the end. */
bool api_answer_take(struct api_answer *a, const struct gen_event *ev, const struct tokenizer *t, api_event_fn fn,
                     struct buf *out);
/* Tells API_END, once everything that the last event carries is known. */
void api_answer_end(struct api_answer *a, api_event_fn fn, struct buf *out);
/* Members of a usage object that go beyond the dialects: cost, cache_reason, as the request asked. */
void api_usage_extras(const struct api_answer *a, struct buf *out);
/* All text of a kind, in order. */
void api_answer_text(const struct api_answer *a, enum api_part_kind kind, struct buf *out);

/* names.c: the model names that are taken; think: what a name says about thinking (0 nothing, 1 on, -1 off). */
bool api_model_known(const struct api_env *env, const char *name, int *think);

/* ---------------------------------------------------------------- rules that dialects share (rules.c) */

/* All over requests in the engine's form: chat messages and tools as in the chat completions API. */
int rules_tools(const json_t *tools, struct api_error *e);
/* The chat format gives a system message at the end no reply: such messages are put before the last turn of the
 * user. */
void rules_last_turn(json_t *messages);
int rules_pairing(const json_t *messages, struct api_error *e);
/* With tools and thinking, every earlier reply must carry its reasoning; text is the refusal. */
int rules_replay(const json_t *messages, const char *text, struct api_error *e);
/* temperature, top_p, top_k, min_p, seed: checked, and clamped as the official service does. */
int rules_sampling(struct api_req *q, const json_t *body, const struct api_env *env, struct api_error *e);
int rules_max_tokens(struct api_req *q, const json_t *body, const char *key, struct api_error *e);
int rules_stop(struct api_req *q, const json_t *body, const char *key, struct api_error *e);
int rules_user(struct api_req *q, const json_t *user, struct api_error *e);
/* A user's name in a dialect that takes any text: one that rules_user would not take stands under its hash. */
void rules_user_text(struct api_req *q, const char *user, size_t n);
/* frequency_penalty, presence_penalty: numbers without effect. */
int rules_penalties(const json_t *body, struct api_error *e);
/* A choice in the engine's form ("required" or a named function) that forces a call: refused while thinking, as
 * officially. Takes the reference. */
int rules_forced_call(struct api_req *q, json_t *choice, struct api_error *e);
/* A choice among some of the tools; mode: auto or required. Takes the reference of the list, each in chat's form. */
int rules_allowed_tools(struct api_req *q, const char *mode, json_t *tools, struct api_error *e);
/* The answer's form: a schema (borrowed) under a name. */
int rules_schema(struct api_req *q, const json_t *schema, const char *where, struct api_error *e);
/* The field `model`: taken or refused; *think as api_model_known says. */
int rules_model(const json_t *body, const struct api_env *env, int *think, struct api_error *e);

/* ---------------------------------------------------------------- reading fields (field.c) */

/* The value of a field, NULL when absent or null. */
json_t *field_get(const json_t *o, const char *key);
bool field_is_text(const json_t *v);
/* Each leaves *out alone when the field is absent and refuses another type: "path: invalid type: X, expected Y". */
int field_bool(const json_t *o, const char *key, bool *out, struct api_error *e);
/* Fields of ours that every dialect takes: include_cost, include_cache_reason. */
int field_extras(const json_t *body, struct api_req *q, struct api_error *e);
int field_int(const json_t *o, const char *key, int64_t *out, bool *given, struct api_error *e);
int field_real(const json_t *o, const char *key, double *out, bool *given, struct api_error *e);
int field_text(const json_t *o, const char *key, const json_t **out, struct api_error *e);
int field_object(const json_t *o, const char *key, const json_t **out, struct api_error *e);
int field_type_error(struct api_error *e, const char *path, const json_t *v, const char *expected);
int field_missing(struct api_error *e, const char *path, const char *key);
/* Copies a field of another name into the engine's request when it is given. */
void field_copy(json_t *to, const char *to_key, const json_t *from, const char *key);

/* Random bits of the operating system. */
void api_random(uint64_t *out, int n);
/* Text of n base-62 digits, from a random number. */
void api_base62(char *to, uint64_t random, int n);

#endif
