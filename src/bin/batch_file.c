/* The two files of a batch. */
#include "bin/batch.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <unistd.h>

enum { RESULTS_BYTES_MAX = INT32_MAX };

/* ---------------------------------------------------------------- requests */

static int line_error(struct err *e, const char *path, int number, const char *what)
{
    return err_set(e, HD_EFORMAT, "%s: line %d %s", path, number, what);
}

json_t *batch_line_json(const struct batch *b, const struct batch_line *l, struct err *e)
{
    char *name = xasprintf("%s: line %d", b->in_path, l->number);
    json_t *v = json_load_exact(l->text, l->n, name, false, e);
    free(name);
    return v;
}

static int read_line(struct batch *b, struct batch_line *l, struct err *e)
{
    json_t *v = batch_line_json(b, l, e);
    if (v == NULL)
        return HD_EFORMAT;
    const char *id = json_string_value(json_object_get(v, "custom_id"));
    int rc = HD_OK;
    if (id == NULL || *id == '\0')
        rc = line_error(e, b->in_path, l->number, "has no \"custom_id\"");
    else if (!json_is_object(json_object_get(v, "body")))
        rc = line_error(e, b->in_path, l->number, "has no \"body\"");
    else
        l->id = xstrdup(id);
    json_decref(v);
    return rc;
}

static bool is_blank(const char *text, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (strchr(" \t\r", text[i]) == NULL)
            return false;
    return true;
}

static int split_lines(struct batch *b, struct err *e)
{
    const char *p = (const char *)b->in.data, *end = p + b->in.size;
    int cap = 0, rc = HD_OK;
    for (int number = 1; p < end && rc == HD_OK; number++) {
        const char *stop = memchr(p, '\n', (size_t)(end - p));
        size_t n = (size_t)((stop == NULL ? end : stop) - p);
        if (!is_blank(p, n)) {
            if (b->n == cap) {
                cap = cap == 0 ? 64 : 2 * cap;
                b->lines = xrealloc(b->lines, (size_t)cap * sizeof *b->lines);
            }
            struct batch_line *l = &b->lines[b->n++];
            *l = (struct batch_line){.text = p, .n = n, .number = number};
            rc = read_line(b, l, e);
        }
        p += n + 1;
    }
    return rc;
}

static int by_id(const void *a, const void *b)
{
    return strcmp(((const struct batch_line *)a)->id, ((const struct batch_line *)b)->id);
}

int batch_open(struct batch *b, const char *in_path, struct err *e)
{
    *b = (struct batch){.in_path = in_path, .out_fd = -1};
    int rc = file_map(&b->in, in_path, e);
    if (rc == HD_OK)
        rc = split_lines(b, e);
    if (rc != HD_OK)
        return rc;
    if (b->n == 0)
        return err_set(e, HD_EFORMAT, "%s holds no requests", in_path);
    qsort(b->lines, (size_t)b->n, sizeof *b->lines, by_id);
    for (int i = 1; i < b->n; i++)
        if (strcmp(b->lines[i - 1].id, b->lines[i].id) == 0)
            return err_set(e, HD_EFORMAT, "%s: lines %d and %d have the same custom_id", in_path, b->lines[i - 1].number,
                           b->lines[i].number);
    return HD_OK;
}

/* ---------------------------------------------------------------- results */

static int mark_done(struct batch *b, const char *text, size_t n, int number, struct err *e)
{
    char *name = xasprintf("%s: line %d", b->out_path, number);
    json_t *v = json_load_exact(text, n, name, false, e);
    free(name);
    if (v == NULL)
        return HD_EFORMAT;
    const char *id = json_string_value(json_object_get(v, "custom_id"));
    struct batch_line key = {.id = (char *)(uintptr_t)(id == NULL ? "" : id)};
    struct batch_line *l = bsearch(&key, b->lines, (size_t)b->n, sizeof *b->lines, by_id);
    json_decref(v);
    if (l == NULL)
        return line_error(e, b->out_path, number, "is the result of no request in this batch");
    b->n_done += !l->done;
    l->done = true;
    return HD_OK;
}

/* Complete lines are results; what follows the last line end was being written when the program died. */
static int read_results(struct batch *b, struct err *e)
{
    struct buf text = {0};
    int rc = file_read(&text, b->out_path, RESULTS_BYTES_MAX, e), number = 1;
    size_t at = 0;
    while (rc == HD_OK && at < text.len) {
        const char *stop = memchr(text.data + at, '\n', text.len - at);
        if (stop == NULL)
            break;
        size_t n = (size_t)(stop - text.data) - at;
        rc = mark_done(b, text.data + at, n, number++, e);
        at += n + 1;
    }
    if (rc == HD_OK && at < text.len && ftruncate(b->out_fd, (off_t)at) != 0)
        rc = err_sys(e, errno, "cannot cut the unfinished last line of %s", b->out_path);
    buf_free(&text);
    return rc;
}

int batch_resume(struct batch *b, const char *out_path, struct err *e)
{
    b->out_path = out_path;
    b->out_fd = open(out_path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0666);
    if (b->out_fd < 0)
        return err_sys(e, errno, "cannot open %s", out_path);
    if (flock(b->out_fd, LOCK_EX | LOCK_NB) != 0)
        return err_set(e, HD_EIO, "%s is being written by another process", out_path);
    return read_results(b, e);
}

static int write_all(int fd, const char *p, size_t n)
{
    while (n > 0) {
        ssize_t k = write(fd, p, n);
        if (k < 0 && errno == EINTR)
            continue;
        if (k < 0)
            return -1;
        p += k;
        n -= (size_t)k;
    }
    return fdatasync(fd);
}

int batch_write(struct batch *b, struct batch_line *l, int status, const struct buf *body, struct err *e)
{
    struct buf line = {0};
    char id[24];
    uint64_t random;
    api_random(&random, 1);
    api_base62(id, random, 10);
    id[10] = '\0';
    out_open(&line, NULL, '{');
    char *request = xasprintf("batch_req_%s", id);
    out_str(&line, "id", request);
    out_str(&line, "custom_id", l->id);
    out_open(&line, "response", '{');
    out_int(&line, "status_code", status);
    out_str(&line, "request_id", request);
    out_raw(&line, "body", body->data, body->len);
    out_close(&line, '}');
    out_null(&line, "error");
    out_close(&line, '}');
    buf_char(&line, '\n');
    free(request);
    int rc = write_all(b->out_fd, line.data, line.len) == 0 ? HD_OK : err_sys(e, errno, "cannot write %s", b->out_path);
    buf_free(&line);
    l->done = true;
    b->n_done++;
    return rc;
}

void batch_close(struct batch *b)
{
    for (int i = 0; i < b->n; i++) {
        free(b->lines[i].id);
        free(b->lines[i].key);
    }
    free(b->lines);
    if (b->out_fd >= 0)
        close(b->out_fd);
    file_unmap(&b->in);
    *b = (struct batch){.out_fd = -1};
}
