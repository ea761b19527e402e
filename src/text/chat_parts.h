/* What the files of the chat encoder share: the conversation after tool messages were merged, and the prompt writer. */
#ifndef HADAL_CHAT_PARTS_H
#define HADAL_CHAT_PARTS_H

#include "text/text.h"

#define TOKEN_BOS "<｜begin▁of▁sentence｜>"
#define TOKEN_EOS "<｜end▁of▁sentence｜>"
#define TOKEN_USER "<｜User｜>"
#define TOKEN_ASSISTANT "<｜Assistant｜>"
#define TOKEN_REMINDER "<｜latest_reminder｜>"
#define TOKEN_THINK "<think>"
#define TOKEN_THINK_END "</think>"
#define TOKEN_DSML "｜DSML｜"

enum turn_role { TURN_SYSTEM, TURN_DEVELOPER, TURN_USER, TURN_REMINDER, TURN_ASSISTANT, TURN_OTHER };

/* A piece of a user turn: text of a user message, or the result of a tool call. */
struct block {
    const json_t *content; /* of the message; NULL when it has none */
    size_t i_msg;
    bool is_result;
    size_t rank; /* results: place of the call among the assistant's calls */
};

/* A message as the format knows it: tool messages have become blocks of a user turn. */
struct turn {
    enum turn_role role;
    size_t i_msg;      /* the message it began with, for error sentences */
    const json_t *msg; /* NULL for a system turn that we inserted and for a user turn that began with a tool result */
    const json_t *tools, *response_format;
    const char *task; /* NULL without one */
    size_t i_block, n_blocks;
};

struct conversation {
    struct turn *turns;
    size_t n_turns;
    struct block *blocks;
    size_t n_blocks;
    ptrdiff_t i_last_user; /* last user or developer turn, -1 without one */
    bool drops_thinking;   /* reasoning before that turn is left out */
};

int conversation_init(struct conversation *c, const json_t *messages, const json_t *tools,
                      const json_t *response_format, const struct chat_options *o, struct err *e);
void conversation_free(struct conversation *c);

/* The prompt writer: control tokens and all other text are kept apart as spans. */
void put_control(struct chat_prompt *p, const char *token);
void put_text(struct chat_prompt *p, const char *text, size_t n);
void put_str(struct chat_prompt *p, const char *text);
/* Text of ours with control tokens in it. */
void put_template(struct chat_prompt *p, const char *text);
void put_json(struct chat_prompt *p, const json_t *value);

/* Writes message content: a string, or an array of parts (texts joined by an empty line, others "[Unsupported type]").
 * if_null is written for null and for no content; NULL there refuses. */
int put_content(struct chat_prompt *p, const json_t *content, size_t i_msg, const char *if_null, struct err *e);
int put_tools(struct chat_prompt *p, const json_t *tools, const char *where, struct err *e);
void put_response_format(struct chat_prompt *p, const json_t *format);
int put_tool_calls(struct chat_prompt *p, const json_t *calls, size_t i_msg, struct err *e);

/* The truth of a JSON value as Python sees it: null, false, 0, "", [] and {} are false. */
bool json_is_truthy(const json_t *value);

#endif
