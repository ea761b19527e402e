/* Lines from a person (libedit: editing, history) or from a pipe. */
#ifndef HADAL_TERM_LINE_H
#define HADAL_TERM_LINE_H

#include <stdbool.h>

struct term_line;

/* history_path: where lines are remembered between runs, NULL for nowhere. Only used on a terminal. */
struct term_line *term_line_open(const char *history_path);
void term_line_close(struct term_line **t); /* saves the history */
bool term_line_is_terminal(const struct term_line *t);

/* The next line without its newline, malloc'd; NULL at the end of input. A line that ends in a backslash goes on in the
 * next one. *interrupted (never by a pipe): Ctrl-C was typed and the line thrown away, "" is returned. */
char *term_line_read(struct term_line *t, const char *prompt, bool *interrupted);

#endif
