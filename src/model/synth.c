/* Writing a synthetic checkpoint: one shard at a time, chunks made and written by all threads, nothing kept. */
#include "model/synth.h"

#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

enum { BATCH_CHUNKS = 128 };

/* A piece of one tensor. */
struct chunk {
    const struct synth_item *item;
    uint64_t at;
    size_t n;
};

struct writer {
    struct synth_plan plan;
    struct synth_tables tables;
    const char *dir;
    struct pool *pool;
    const struct progress *progress;
    struct err *e;
    uint64_t done;
    bool made_dir;
    int fd; /* of the shard being written */
    off_t data_start;
    uint8_t **scratch; /* one chunk a thread */
    struct chunk chunks[BATCH_CHUNKS];
    int n_chunks;
    atomic_int errnum; /* the first failure of a thread */
};

static char *shard_path(const struct writer *w, int i)
{
    char name[64];
    snprintf(name, sizeof name, "model-%05d-of-%05d.safetensors", i + 1, w->plan.n_shards);
    return path_join(w->dir, name);
}

static int pwrite_all(int fd, const void *data, size_t n, off_t at)
{
    for (const char *p = data; n != 0;) {
        ssize_t k = pwrite(fd, p, n, at);
        if (k < 0 && errno == EINTR)
            continue;
        if (k < 0)
            return errno;
        p += k;
        n -= (size_t)k;
        at += k;
    }
    return 0;
}

static void write_chunk(void *arg, int i_task, int i_thread)
{
    struct writer *w = arg;
    const struct chunk *c = &w->chunks[i_task];
    if (atomic_load(&w->errnum) != 0)
        return;
    synth_fill(&w->plan, &w->tables, c->item, c->at, c->n, w->scratch[i_thread]);
    int errnum = pwrite_all(w->fd, w->scratch[i_thread], c->n, w->data_start + (off_t)(c->item->offset + c->at));
    int none = 0;
    if (errnum != 0)
        atomic_compare_exchange_strong(&w->errnum, &none, errnum);
}

/* Writes the chunks collected so far. */
static int flush(struct writer *w, const char *path)
{
    pool_run(w->pool, w->n_chunks, write_chunk, w);
    for (int i = 0; i < w->n_chunks; i++)
        w->done += w->chunks[i].n;
    w->n_chunks = 0;
    int errnum = atomic_load(&w->errnum);
    if (errnum != 0)
        return err_sys(w->e, errnum, "%s: cannot write, so the files of this checkpoint were removed again", path);
    if (progress_tell(w->progress, "writing weights", w->done, w->plan.bytes) != HD_OK)
        return err_set(w->e, HD_ECANCELLED, "%s: stopped, and the files of this checkpoint were removed again",
                       w->dir);
    return HD_OK;
}

static void shard_header(const struct synth_item *item, int64_t n, struct buf *out)
{
    buf_str(out, "{\"__metadata__\":{\"format\":\"pt\"}");
    for (int64_t i = 0; i < n; i++, item++) {
        buf_printf(out, ",\"%s\":{\"dtype\":\"%s\",\"shape\":[%lld", item->name, dtype_name(item->dtype),
                   (long long)item->rows);
        if (item->n_dims == 2)
            buf_printf(out, ",%lld", (long long)item->cols);
        buf_printf(out, "],\"data_offsets\":[%llu,%llu]}", (unsigned long long)item->offset,
                   (unsigned long long)(item->offset + item->bytes));
    }
    buf_char(out, '}');
    while (out->len % 8 != 0)
        buf_char(out, ' ');
}

/* The length and the header; also asks the file system for the whole size at once, so that a full disk shows early.
 */
static int start_shard(struct writer *w, const struct synth_item *items, int64_t n)
{
    struct buf header = {0};
    uint8_t length[8];
    shard_header(items, n, &header);
    for (int i = 0; i < 8; i++)
        length[i] = (uint8_t)((uint64_t)header.len >> (8 * i));
    w->data_start = (off_t)(8 + header.len);
    off_t size = w->data_start + (off_t)(items[n - 1].offset + items[n - 1].bytes);
    int errnum =
        fallocate(w->fd, 0, 0, size) != 0 && (errno == ENOSPC || errno == EFBIG || errno == EDQUOT) ? errno : 0;
    if (errnum == 0)
        errnum = pwrite_all(w->fd, length, sizeof length, 0);
    if (errnum == 0)
        errnum = pwrite_all(w->fd, header.data, header.len, 8);
    buf_free(&header);
    return errnum;
}

static int write_items(struct writer *w, const struct synth_item *items, int64_t n, const char *path)
{
    int rc = HD_OK;
    for (int64_t i = 0; i < n; i++) {
        uint64_t step = synth_chunk_bytes(&items[i]);
        for (uint64_t at = 0; at < items[i].bytes && rc == HD_OK; at += step) {
            uint64_t left = items[i].bytes - at;
            w->chunks[w->n_chunks++] = (struct chunk){&items[i], at, (size_t)(left < step ? left : step)};
            if (w->n_chunks == BATCH_CHUNKS)
                rc = flush(w, path);
        }
    }
    return rc == HD_OK ? flush(w, path) : rc;
}

static int write_shard(struct writer *w, const struct synth_item *items, int64_t n)
{
    char *path = shard_path(w, items->i_shard);
    w->fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
    int errnum = w->fd < 0 ? errno : start_shard(w, items, n);
    int rc = errnum == 0 ? write_items(w, items, n, path) : HD_EIO;
    if (w->fd >= 0 && close(w->fd) != 0 && errnum == 0 && rc == HD_OK)
        errnum = errno;
    if (errnum != 0)
        rc = err_sys(w->e, errnum, "%s: cannot write, so the files of this checkpoint were removed again", path);
    free(path);
    return rc;
}

static int write_index(struct writer *w)
{
    const struct synth_plan *p = &w->plan;
    struct buf b = {0};
    buf_printf(&b, "{\n  \"metadata\": {\n    \"total_size\": %llu\n  },\n  \"weight_map\": {",
               (unsigned long long)p->bytes);
    for (int64_t i = 0; i < p->n_items; i++)
        buf_printf(&b, "%s\n    \"%s\": \"model-%05d-of-%05d.safetensors\"", i ? "," : "", p->items[i].name,
                   p->items[i].i_shard + 1, p->n_shards);
    buf_str(&b, "\n  }\n}\n");
    char *path = path_join(w->dir, "model.safetensors.index.json");
    int rc = file_write_atomic(path, b.data, b.len, w->e);
    free(path);
    buf_free(&b);
    return rc;
}

/* Small vocabularies go without. */
static int write_tokenizer(struct writer *w)
{
    struct buf b = {0};
    char *path = path_join(w->dir, "tokenizer.json");
    int rc = HD_OK;
    if (synth_tokenizer_json(w->plan.cfg.vocab_size, &b))
        rc = file_write_atomic(path, b.data, b.len, w->e);
    free(path);
    buf_free(&b);
    return rc;
}

/* Last: a folder with config.json is a finished checkpoint. */
static int write_config(struct writer *w)
{
    struct buf b = {0};
    synth_config_json(&w->plan, &b);
    char *path = path_join(w->dir, "config.json");
    int rc = file_write_atomic(path, b.data, b.len, w->e);
    free(path);
    buf_free(&b);
    return rc;
}

/* Makes the folder and sees that it is free and large enough. */
static int prepare_dir(struct writer *w)
{
    char *config = path_join(w->dir, "config.json"), *index = path_join(w->dir, "model.safetensors.index.json");
    bool taken = file_exists(config) || file_exists(index);
    free(config);
    free(index);
    if (taken)
        return err_set(w->e, HD_EARG, "%s: already holds a checkpoint, expected a new or empty folder", w->dir);
    w->made_dir = mkdir(w->dir, 0755) == 0;
    if (!w->made_dir && errno != EEXIST)
        return err_sys(w->e, errno, "%s: cannot make the folder", w->dir);
    struct statvfs fs;
    if (statvfs(w->dir, &fs) != 0)
        return err_sys(w->e, errno, "%s: cannot be used", w->dir);
    uint64_t free_bytes = (uint64_t)fs.f_bavail * fs.f_frsize;
    if (free_bytes >= w->plan.bytes)
        return HD_OK;
    if (w->made_dir)
        rmdir(w->dir);
    return err_set(w->e, HD_EIO, "%s: the checkpoint takes %.2f GB, but the disk has only %.2f GB free", w->dir,
                   (double)w->plan.bytes * 1e-9, (double)free_bytes * 1e-9);
}

static void remove_files(const struct writer *w)
{
    for (int i = 0; i < w->plan.n_shards; i++) {
        char *path = shard_path(w, i);
        unlink(path);
        free(path);
    }
    static const char *const others[] = {"model.safetensors.index.json", "tokenizer.json"};
    for (size_t i = 0; i < COUNT_OF(others); i++) {
        char *path = path_join(w->dir, others[i]);
        unlink(path);
        free(path);
    }
    if (w->made_dir)
        rmdir(w->dir);
}

static int write_all(struct writer *w)
{
    const struct synth_plan *p = &w->plan;
    int rc = prepare_dir(w);
    if (rc != HD_OK)
        return rc;
    for (int64_t i = 0, n; i < p->n_items && rc == HD_OK; i += n) {
        for (n = 1; i + n < p->n_items && p->items[i + n].i_shard == p->items[i].i_shard; n++)
            ;
        rc = write_shard(w, p->items + i, n);
    }
    if (rc == HD_OK)
        rc = write_index(w);
    if (rc == HD_OK)
        rc = write_tokenizer(w);
    if (rc == HD_OK)
        rc = write_config(w);
    if (rc != HD_OK)
        remove_files(w);
    return rc;
}

int synth_write(const struct synth_options *o, const char *dir, struct pool *pool, const struct progress *p,
                struct err *e)
{
    struct writer *w = xcalloc(1, sizeof *w);
    *w = (struct writer){.dir = dir, .pool = pool, .progress = p, .e = e};
    int rc = synth_plan_make(&w->plan, o, e);
    if (rc == HD_OK) {
        int n_threads = pool == NULL ? 1 : pool_threads(pool);
        synth_tables_init(&w->tables);
        w->scratch = xcalloc((size_t)n_threads, sizeof *w->scratch);
        for (int i = 0; i < n_threads; i++)
            w->scratch[i] = xcalloc(1, 1 << 20);
        rc = write_all(w);
        for (int i = 0; i < n_threads; i++)
            free(w->scratch[i]);
        free(w->scratch);
    }
    synth_plan_free(&w->plan);
    free(w);
    return rc;
}
