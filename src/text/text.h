/* text: tokenizer, chat encoding, reply parser - between messages and token ids. No model in here. */
#ifndef HADAL_TEXT_H
#define HADAL_TEXT_H

#include "base/base.h"

#include <jansson.h>

/* ---------------------------------------------------------------- token id lists */

struct ids {
    int32_t *data;
    size_t n, cap;
};
void ids_add(struct ids *v, int32_t id);
void ids_reserve(struct ids *v, size_t n); /* room for n in all */
bool ids_try_reserve(struct ids *v, size_t n); /* the same; false, and nothing changed, when there is no memory */
void ids_free(struct ids *v);

/* ---------------------------------------------------------------- tokenizer (tokenizer.c) */

struct tokenizer;

/* PATH: a checkpoint folder (its tokenizer.json), a tokenizer.json, or a rank file: one "BASE64 ID" a line, BASE64 of the
 * token in the byte-level alphabet (tokenizer_vocab.c), its added tokens in added_tokens.tsv beside it (lines of "id TAB
 * content TAB special"; none when that file is missing), DeepSeek-V4's pre-tokeniser. The caller closes with
 * tokenizer_close. */
int tokenizer_open(struct tokenizer **t, const char *path, struct err *e);
/* From the text of a tokenizer.json (also the fuzz entry). */
int tokenizer_parse(struct tokenizer **t, const char *json, size_t n, const char *path, struct err *e);
void tokenizer_close(struct tokenizer **t);
/* A sentence for a person about a damaged but usable file, NULL when there is none. Owned by the tokenizer. */
const char *tokenizer_warning(const struct tokenizer *t);

/* Appends the ids of n bytes of text. match_added: literal added tokens in the text become their ids (as the reference
 * does); otherwise they are plain text, so a user cannot forge control tokens. Linear time; invalid UTF-8 is encoded
 * byte by byte and round-trips. */
int tokenizer_encode(const struct tokenizer *t, const char *text, size_t n, bool match_added, struct ids *out,
                     struct err *e);
/* Bytes of one token (not NUL-terminated; owned by the tokenizer); n 0 for an unknown id. */
const char *tokenizer_bytes(const struct tokenizer *t, int32_t id, size_t *n);
int32_t tokenizer_id(const struct tokenizer *t, const char *token); /* added or vocabulary token by text, -1 if none */
bool tokenizer_is_added(const struct tokenizer *t, int32_t id);
bool tokenizer_is_special(const struct tokenizer *t, int32_t id);
int tokenizer_n_vocab(const struct tokenizer *t);
/* Appends the bytes of ids (ids outside the vocabulary add nothing); skip_special leaves out special added tokens. */
void tokenizer_decode(const struct tokenizer *t, const int32_t *ids, size_t n, bool skip_special, struct buf *out);

/* One step over UTF-8 text of n > 0 bytes. UTF8_CHAR: a character of len bytes. UTF8_BAD: len bytes that no character
 * can start with (the maximal subpart of the Unicode standard: one U+FFFD stands for it). UTF8_SHORT: all n bytes are
 * the start of a character. */
enum utf8_kind { UTF8_CHAR, UTF8_BAD, UTF8_SHORT };
enum utf8_kind utf8_next(const char *bytes, size_t n, size_t *len);
/* Length of the longest valid start of the text. */
size_t utf8_valid_prefix(const char *bytes, size_t n);

/* Streaming: holds back an incomplete UTF-8 character (at most 3 bytes) until it is complete or flushed; invalid bytes
 * come out as U+FFFD. */
struct utf8_stream {
    unsigned char held[4];
    int n_held;
};
void utf8_stream_add(struct utf8_stream *s, const char *bytes, size_t n, struct buf *out);
void utf8_stream_flush(struct utf8_stream *s, struct buf *out);

/* ---------------------------------------------------------------- chat encoding (chat.c) */

enum chat_profile { CHAT_PREVIEW, CHAT_OFFICIAL }; /* April encoder / since 0731: other reasoning-effort texts */
enum chat_effort { EFFORT_NONE, EFFORT_LOW, EFFORT_HIGH, EFFORT_MAX };

struct chat_options {
    bool thinking;
    enum chat_effort effort;   /* used when thinking */
    enum chat_profile profile;
    bool keep_thinking;        /* never drop reasoning of earlier turns (the encoder's drop_thinking = False) */
    bool no_bos;
};

/* One piece of the prompt: exactly one control token that the format puts there, or the text up to the next one (ours
 * and the user's alike; it is encoded in one piece, since the tokenizer merges across our and their text). */
struct chat_span {
    size_t start, end; /* bytes in the prompt text */
    bool is_control;   /* true: added tokens in it are matched */
};

/* A complete reply of the assistant in the prompt: what stands between the tag that opened it and its end token. */
struct chat_turn {
    const json_t *message;                    /* of the messages that were encoded; borrowed */
    size_t first_span, end_span;              /* spans first_span .. end_span - 1 */
    size_t reasoning_end;                     /* bytes in the text: reasoning is from the first span to here */
    size_t content_start, content_end;        /* bytes in the text */
    bool opened;                              /* by <think>; otherwise by </think> */
};

struct chat_prompt {
    struct buf text; /* the whole prompt, exactly what the official encoder prints */
    struct chat_span *spans;
    size_t n_spans, cap_spans;
    struct chat_turn *turns;
    size_t n_turns, cap_turns;
    bool in_thinking; /* it ends with <think>: the reply begins with reasoning (what reply_open asks for) */
};
void chat_prompt_free(struct chat_prompt *p);

/* Renders messages (a JSON array as in the chat API: role, content, reasoning_content, tool_calls, tool_call_id, tools,
 * response_format, task, prefix, wo_eos) to prompt text, as the official encoder does. tools (may be NULL) and
 * response_format (may be NULL; type "text" is the same as none) are put on messages[0] when that is a system message,
 * otherwise on an empty one before it. Where the encoder would raise, HD_EARG names the message index and the field; and
 *   - content may be an array of parts anywhere: texts joined by an empty line, other parts "[Unsupported TYPE]";
 *   - arguments of a tool call may be an object instead of JSON text;
 *   - the preview profile, which knows no "low", takes it as "high": no text;
 *   - tools, response_format and arguments nested deeper than JSON_DEPTH_MAX are refused.
 * Linear in the size of the messages. On error *out is empty. */
int chat_encode(struct chat_prompt *out, const json_t *messages, const json_t *tools, const json_t *response_format,
                const struct chat_options *o, struct err *e);
/* Token ids of a prompt. match_added_in_user: also match added tokens in user text (as the reference does). */
int chat_tokens(const struct chat_prompt *p, const struct tokenizer *t, bool match_added_in_user, struct ids *out,
                struct err *e);
/* The same of its spans first .. end - 1, without matching in user text. */
int chat_span_tokens(const struct chat_prompt *p, const struct tokenizer *t, size_t first, size_t end, struct ids *out,
                     struct err *e);
/* Profile of a checkpoint folder: its encoding/ file when present (REASONING_EFFORT_PROMPTS = official), otherwise
 * official when config.json has dspark keys, else preview. */
enum chat_profile chat_profile_of(const char *dir);
/* "none" "low" "medium" "high" "xhigh" "max" "minimal" "ultra" as api.md 1.2 maps them; false when unknown. */
bool chat_effort_parse(const char *name, enum chat_effort *out);

/* ---------------------------------------------------------------- JSON as the format needs it (json_*.c) */

enum { JSON_DEPTH_MAX = 128 };

/* Parses JSON text. Like jansson's decoder, but no number is lost (integers beyond 64 bits, reals beyond a double: see
 * json_exact_number), NUL is allowed in strings, and the nesting limit is JSON_DEPTH_MAX. A repeated key keeps its first
 * place and its last value. python: NaN and Infinity are values too, as for json.loads. Refuses invalid UTF-8 and half
 * surrogate pairs. On error NULL and "NAME: byte N: what is wrong": HD_EARG, or HD_EUNSUPPORTED for the nesting. The
 * caller decrefs. */
json_t *json_load_exact(const char *text, size_t n, const char *name, bool python, struct err *e);
/* The text of a number that json_load_exact could not put into a C number; NULL for every other value. Such a value is a
 * JSON string for jansson, with a first byte (0xFF) that no real string has. */
const char *json_exact_number(const json_t *value);
/* json.dumps(value, ensure_ascii=False) of Python: separators ", " and ": ", key order kept, numbers as Python prints
 * them, exact numbers digit for digit. Appends to out. */
void json_dump_python(const json_t *value, struct buf *out);
/* The characters of a JSON string as json.dumps writes them, without the quotes around. May be called piece by piece. */
void json_quote_python(const char *text, size_t n, struct buf *out);
/* Whether a value (NULL: no) nests deeper than limit levels of arrays and objects. */
bool json_depth_over(const json_t *value, int limit);

/* ---------------------------------------------------------------- reply parser (reply*.c) */

enum reply_event_kind {
    REPLY_REASONING,   /* text: a piece of the thinking part */
    REPLY_CONTENT,     /* text: a piece of the visible answer */
    REPLY_TOOL_START,  /* text: the function's name; i_call counts from 0 */
    REPLY_TOOL_ARGS,   /* text: a piece of the arguments as JSON text (Python spacing) */
    REPLY_TOOL_END,    /* i_call's arguments are complete and a valid JSON object */
    REPLY_TOOL_BROKEN, /* i_call will not be completed; text: its markup as the model wrote it */
    REPLY_END,         /* the reply is complete */
};

struct reply_event {
    enum reply_event_kind kind;
    const char *text; /* valid during the callback only; UTF-8, invalid bytes replaced by U+FFFD */
    size_t n;
    int i_call; /* of the TOOL events, otherwise -1 */
};

/* From the text of a reply to events, in linear time.
 *
 * Whatever the split of the input, the same events come with the same concatenated texts. Text that could be the start of
 * a tag is held back, at most about a kilobyte.
 *
 * Reasoning runs to </think>, or, once reply_hold_thinking was called, to reply_end_thinking, and then may spell </think>;
 * tool-call markup in it is reasoning. A reply may begin with <think> whatever the prompt
 * ended with. Content runs to a tool-call block; up to two newlines before the block belong to the block. An end-of-
 * sentence token as the very last text is swallowed; anywhere else it is text, as are other control tokens.
 *
 * A call is announced (START) when its first parameter or its end has been read. String arguments come as they grow,
 * others when complete; a value that claims to be JSON and is not becomes a string, and a repeated parameter a repeated
 * key. Read as if well formed: any number of bars (also ASCII ones) around DSML, a space after them, curly or single quotes,
 * a missing or unknown string="..." (JSON if it parses, otherwise a string), any white space between tags, shortened or
 * nameless closing tags, missing closing tags of a parameter before that of its invoke, of an invoke and of the block,
 * repeated opening tags and stray closing tags inside a block, function_calls / calls / toolcalls for tool_calls, an empty
 * block (no event), several blocks, text between calls and after a block (content).
 *
 * Other markup is malformed. Before the first START of a block the whole block comes back as content, from the newlines
 * before it on, and nothing is lost. After START:
 *   - calls that were completed stand;
 *   - the call that broke gets TOOL_BROKEN instead of TOOL_END. Its arguments were an unfinished JSON text and stay so:
 *     no client can take them for complete. A server that streams leaves the call as it is and may send the event's text
 *     as content; one that answers in one piece drops the call and puts the text into the content;
 *   - what follows is content, until the next block.
 * A reply that is cut off inside a call ends in the same way, its TOOL_BROKEN just before END. */
struct reply_parser;
typedef void (*reply_fn)(void *arg, const struct reply_event *ev);

/* in_thinking: the prompt ended with <think> (chat_prompt.in_thinking). NULL: no memory. */
struct reply_parser *reply_open(bool in_thinking, reply_fn fn, void *arg);
/* bytes: decoded text of the model, control tokens as their literal text. */
void reply_add(struct reply_parser *p, const char *bytes, size_t n);
/* Whoever feeds tokens knows which of them is the control token </think>, and the grammar of a reply begins behind that one:
 * the thinking part then ends with reply_end_thinking alone, called in its stead, whatever the text spells. Before the first
 * reply_add, of a parser that was opened in thinking. */
void reply_hold_thinking(struct reply_parser *p);
void reply_end_thinking(struct reply_parser *p);  /* once */
void reply_end(struct reply_parser *p);           /* flushes what is held back, emits REPLY_END; once */
int reply_n_calls(const struct reply_parser *p);  /* calls that were completed */
void reply_close(struct reply_parser **p);

#endif
