/* Line input. During editing the terminal sends no signals: Ctrl-C is a key that throws the line away. */
#include "bin/term_line.h"

#include "base/base.h"

#include <histedit.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { HISTORY_LINES = 1000 };

struct term_line {
    EditLine *el; /* NULL: not a terminal */
    History *history;
    char *history_path;
    const char *prompt;
    bool interrupted;
};

static const char *give_prompt(EditLine *el)
{
    struct term_line *t = NULL;
    el_get(el, EL_CLIENTDATA, &t);
    return t->prompt;
}

static unsigned char on_interrupt(EditLine *el, int key)
{
    struct term_line *t = NULL;
    (void)key;
    el_get(el, EL_CLIENTDATA, &t);
    t->interrupted = true;
    return CC_EOF;
}

static void open_editor(struct term_line *t)
{
    HistEvent ev;
    t->history = history_init();
    history(t->history, &ev, H_SETSIZE, HISTORY_LINES);
    history(t->history, &ev, H_SETUNIQUE, 1);
    if (t->history_path != NULL)
        history(t->history, &ev, H_LOAD, t->history_path);
    el_set(t->el, EL_CLIENTDATA, t);
    el_set(t->el, EL_PROMPT, give_prompt);
    el_set(t->el, EL_EDITOR, "emacs");
    el_set(t->el, EL_HIST, history, t->history);
    el_set(t->el, EL_ADDFN, "hadal-interrupt", "throw the line away", on_interrupt);
    el_set(t->el, EL_BIND, "^C", "hadal-interrupt", NULL);
    el_set(t->el, EL_SETTY, "-d", "-isig", NULL);
}

struct term_line *term_line_open(const char *history_path)
{
    struct term_line *t = xcalloc(1, sizeof *t);
    if (isatty(STDIN_FILENO) != 1 || isatty(STDOUT_FILENO) != 1)
        return t;
    t->history_path = history_path == NULL ? NULL : xstrdup(history_path);
    t->el = el_init("hadal", stdin, stdout, stderr);
    if (t->el != NULL)
        open_editor(t);
    return t;
}

void term_line_close(struct term_line **t)
{
    HistEvent ev;
    struct term_line *p = *t;
    if (p->history != NULL && p->history_path != NULL) {
        mode_t before = umask(077); /* what one typed is one's own business */
        history(p->history, &ev, H_SAVE, p->history_path);
        umask(before);
    }
    if (p->el != NULL)
        el_end(p->el);
    if (p->history != NULL)
        history_end(p->history);
    free(p->history_path);
    free(p);
    *t = NULL;
}

bool term_line_is_terminal(const struct term_line *t)
{
    return t->el != NULL;
}

/* One physical line appended to out; false at the end of input. */
static bool read_terminal(struct term_line *t, struct buf *out)
{
    int n = 0;
    /* Before the prompt shows, so that a Ctrl-C typed at once is a key already and no signal. */
    el_set(t->el, EL_PREP_TERM, 1);
    const char *line = el_gets(t->el, &n);
    if (t->interrupted) {
        fputs("^C\n", stdout);
        return true;
    }
    if (line == NULL || n <= 0)
        return false;
    HistEvent ev;
    if (strspn(line, " \t\n") < (size_t)n)
        history(t->history, &ev, H_ENTER, line);
    buf_add(out, line, (size_t)n);
    return true;
}

static bool read_pipe(struct buf *out)
{
    char *line = NULL;
    size_t cap = 0;
    ssize_t n = getline(&line, &cap, stdin);
    if (n > 0)
        buf_add(out, line, (size_t)n);
    free(line);
    return n > 0;
}

static bool read_physical(struct term_line *t, struct buf *out)
{
    return t->el != NULL ? read_terminal(t, out) : read_pipe(out);
}

char *term_line_read(struct term_line *t, const char *prompt, bool *interrupted)
{
    struct buf line = {0};
    bool more = true, any = false;
    t->prompt = prompt;
    t->interrupted = false;
    while (more && read_physical(t, &line)) {
        any = true;
        while (line.len > 0 && (line.data[line.len - 1] == '\n' || line.data[line.len - 1] == '\r'))
            line.data[--line.len] = '\0';
        more = !t->interrupted && line.len > 0 && line.data[line.len - 1] == '\\';
        if (more)
            line.data[line.len - 1] = '\n';
        t->prompt = "... ";
    }
    *interrupted = t->interrupted;
    if (t->interrupted)
        buf_clear(&line);
    if (!any)
        buf_free(&line);
    else
        buf_str(&line, ""); /* an empty line is a text too */
    return line.data;
}
