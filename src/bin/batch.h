/* batch: requests from a file, answers into another, restartable.
 *
 *   batch_file.c   both files: lines, ids, what is done already, results appended whole
 *   batch_run.c    the order of requests, those under way, progress
 *   cmd_batch.c    options
 */
#ifndef HADAL_BATCH_H
#define HADAL_BATCH_H

#include "serve/api.h"

struct batch_line {
    char *id;             /* custom_id */
    const char *text;     /* in the mapping */
    size_t n;
    int number;           /* from 1 */
    bool done;
    uint64_t *key;        /* hashes of the prompt's pages: equal beginnings sort together */
    int n_key;
    int64_t n_prompt;
};

struct batch {
    const char *in_path, *out_path;
    struct file_map in;
    struct batch_line *lines;
    int n, n_done;
    int out_fd;           /* locked; -1: not open */
};

/* Reads the requests. HD_EFORMAT names the line that is no request, lacks a custom_id or repeats one. */
int batch_open(struct batch *b, const char *in_path, struct err *e);
/* Opens the results and marks what they hold. A last line without its end is cut off: that request runs again. Refuses
 * results of another batch (HD_EFORMAT) and a file that another process writes (HD_EIO). */
int batch_resume(struct batch *b, const char *out_path, struct err *e);
/* Appends one result; on the disk when it returns. */
int batch_write(struct batch *b, struct batch_line *l, int status, const struct buf *body, struct err *e);
void batch_close(struct batch *b);
/* The request of a line as JSON, NULL when it is none. */
json_t *batch_line_json(const struct batch *b, const struct batch_line *l, struct err *e);

struct engine;
/* Runs what is not done, n_together at a time, until *stop. HD_ECANCELLED when it was stopped. */
int batch_run(struct batch *b, struct engine *engine, const struct api_env *env, int n_together, bool progress,
              const volatile int *stop, struct err *e);

#endif
