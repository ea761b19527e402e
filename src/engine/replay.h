/* Exact replay: the tokens of replies, remembered under what their readers saw of them.
 *
 * A client sends a conversation back as text: with other spacing in the arguments of its tool calls, their keys in
 * another order, 1 for 1.0, without the reasoning. Encoded anew these are other tokens than the model generated, and its
 * state does not fit them. So the reply's own tokens take the place of such a text when it says the same:
 *   - the same user;
 *   - the same content but for white space at its ends, and the same calls: names, and arguments equal as JSON values;
 *   - the same reasoning, or none given. Reasoning that was not given is put back only where the tokens before the reply
 *     are those it was generated after, or where the ids of its calls are those that it was given;
 *   - thinking on or off as it was, except that a conversation that drops reasoning gets the tokens after </think>.
 * What the model sees is then what it generated, never anything else. Everything else is encoded from its text.
 *
 * The store is bounded in bytes, forgets what was used least recently, and may have a file behind it. Any thread may
 * call. */
#ifndef HADAL_ENGINE_REPLAY_H
#define HADAL_ENGINE_REPLAY_H

#include "text/text.h"

struct replay;
struct gen_event;

struct replay_stats {
    int64_t n_replies, bytes;
    uint64_t n_remembered, n_found, n_unknown; /* replies kept; replies in prompts that were found, and that were not */
};

/* path (NULL: memory only): a file of remembered replies, read now, appended to later, readable by its owner only. One that
 * is damaged is used up to the damage, one of another vocabulary or version not at all; *warning then gets a sentence (to
 * be freed; NULL: all is well). Errors: the file cannot be opened. */
int replay_open(struct replay **r, const struct tokenizer *t, int64_t bytes_max, const char *path, char **warning,
                struct err *e);
void replay_close(struct replay **r);
void replay_read_stats(struct replay *r, struct replay_stats *s);

/* The tokens of a prompt, remembered replies in it as they were generated. Linear in the prompt, and in the tokens before
 * a reply for every one that is found. */
int replay_tokens(struct replay *r, const char *user, const struct chat_prompt *p, const struct tokenizer *t,
                  struct ids *out, struct err *e);

/* A reply as its reader sees it, while it comes in. Zero is empty. */
struct replay_text {
    struct buf reasoning, content, calls, name, arguments, ids;
    bool broken, in_call; /* nothing to be remembered; a call is not complete */
};
void replay_text_add(struct replay_text *t, const struct gen_event *ev);
void replay_text_id(struct replay_text *t, const char *id); /* the id that the last call is known by */
void replay_text_free(struct replay_text *t);

/* Remembers a complete reply: tokens[n_prompt .. n_tokens) after the prompt before them, end token not included. */
void replay_add(struct replay *r, const char *user, const struct replay_text *text, const int32_t *tokens,
                size_t n_prompt, size_t n_tokens);

#endif
