/* hadal chat: the conversation (cmd_chat.c) and its slash commands (chat_commands.c). */
#ifndef HADAL_CHAT_H
#define HADAL_CHAT_H

#include "bin/talk.h"
#include "bin/term_line.h"

struct chat {
    struct talk_args args;
    struct engine *engine;
    struct term_line *input;
    json_t *messages;      /* without the system message, which is an option */
    char *think, *system;  /* what /think and /system set; args points to them */
    struct gen_usage last, total;
    int n_turns;
    bool quit, failed;     /* failed: some turn or command was refused */
};

void chat_turn(struct chat *c, const char *text); /* one line of the person, to the end of the reply */
void chat_command(struct chat *c, char *line);    /* line begins with '/' */
void chat_strings_free(struct chat *c);

#endif
