/* Sharded checkpoints: the index, the files, and the sorted list of all tensors. */
#include "model/safetensors.h"

#include "model/jscan.h"
#include "model/names.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { INDEX_BYTES_MAX = 256 << 20 };

/* ---------------------------------------------------------------- one file */

static int read_exactly(int fd, void *out, size_t n, off_t at, const char *path, struct err *e)
{
    for (char *p = out; n != 0;) {
        ssize_t k = pread(fd, p, n, at);
        if (k < 0 && errno == EINTR)
            continue;
        if (k < 0)
            return err_sys(e, errno, "%s: cannot read", path);
        if (k == 0)
            return err_set(e, HD_EIO, "%s: shrank while it was being read", path);
        p += k;
        n -= (size_t)k;
        at += k;
    }
    return HD_OK;
}

static uint64_t u64_le(const uint8_t *b)
{
    uint64_t v = 0;
    for (int i = 7; i >= 0; i--)
        v = v << 8 | b[i];
    return v;
}

static int read_header(struct checkpoint *c, int i_shard, int fd, struct err *e)
{
    struct shard *s = &c->shards[i_shard];
    struct stat st;
    uint8_t prefix[8];
    if (fstat(fd, &st) != 0)
        return err_sys(e, errno, "%s: cannot stat", s->path);
    if (!S_ISREG(st.st_mode))
        return err_set(e, HD_EIO, "%s: not a regular file", s->path);
    s->file_bytes = (uint64_t)st.st_size;
    if (s->file_bytes < sizeof prefix)
        return err_set(e, HD_EFORMAT, "%s: %llu bytes are too few for a safetensors file (truncated?)", s->path,
                       (unsigned long long)s->file_bytes);
    int rc = read_exactly(fd, prefix, sizeof prefix, 0, s->path, e);
    if (rc != HD_OK)
        return rc;
    uint64_t n = u64_le(prefix);
    if (n > HEADER_BYTES_MAX)
        return err_set(e, HD_EFORMAT, "%s: its header claims %llu bytes, expected at most %d", s->path,
                       (unsigned long long)n, HEADER_BYTES_MAX);
    if (n > s->file_bytes - 8)
        return err_set(e, HD_EFORMAT, "%s: its header claims %llu bytes, but the file has %llu (truncated?)", s->path,
                       (unsigned long long)n, (unsigned long long)s->file_bytes);
    s->data_start = 8 + n;
    char *json = malloc((size_t)n + 1);
    if (json == NULL)
        return err_set(e, HD_ENOMEM, "%s: out of memory for its header of %llu bytes", s->path,
                       (unsigned long long)n);
    rc = read_exactly(fd, json, (size_t)n, 8, s->path, e);
    if (rc == HD_OK)
        rc = safetensors_parse_header(c, i_shard, json, (size_t)n, s->file_bytes - s->data_start, s->path, e);
    free(json);
    return rc;
}

static int open_shard(struct checkpoint *c, int i_shard, bool map_data, struct err *e)
{
    struct shard *s = &c->shards[i_shard];
    int64_t begin = c->n_tensors;
    int fd = open(s->path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return err_sys(e, errno, "%s: cannot open", s->path);
    int rc = read_header(c, i_shard, fd, e);
    close(fd);
    if (rc != HD_OK || !map_data)
        return rc;
    rc = file_map(&s->map, s->path, e);
    if (rc == HD_OK && s->map.size < s->file_bytes)
        rc = err_set(e, HD_EIO, "%s: shrank while it was being read", s->path);
    for (int64_t i = begin; rc == HD_OK && i < c->n_tensors; i++)
        c->tensors[i].data = s->map.data + s->data_start + c->tensors[i].offset;
    return rc;
}

/* ---------------------------------------------------------------- the index */

static int index_file(struct shard_index *x, const char *file)
{
    for (int i = x->n_files - 1; i >= 0; i--)
        if (strcmp(x->files[i], file) == 0)
            return i;
    if (x->n_files == SHARDS_MAX)
        return -1;
    x->files = xrealloc(x->files, (size_t)(x->n_files + 1) * sizeof *x->files);
    x->files[x->n_files] = xstrdup(file);
    return x->n_files++;
}

static int index_append(struct shard_index *x, char *name, size_t n, const char *file, const char *path,
                        struct err *e)
{
    if (file[0] == '\0' || file[0] == '.' || strchr(file, '/') != NULL)
        return err_set(e, HD_EFORMAT, "%s: tensor %s is in file \"%.200s\", expected a name inside the folder", path,
                       name, file);
    if (x->n_entries == x->cap_entries) {
        int64_t cap = x->cap_entries + x->cap_entries / 2 + 1024;
        struct index_entry *p = realloc(x->entries, (size_t)cap * sizeof *p);
        if (p == NULL)
            return err_set(e, HD_ENOMEM, "%s: out of memory for the list of tensors", path);
        x->entries = p;
        x->cap_entries = cap;
    }
    int i_file = x->n_entries > 0 && strcmp(x->files[x->entries[x->n_entries - 1].i_file], file) == 0
                     ? x->entries[x->n_entries - 1].i_file
                     : index_file(x, file);
    if (i_file < 0)
        return err_set(e, HD_EUNSUPPORTED, "%s: names more than %d files", path, SHARDS_MAX);
    x->entries[x->n_entries++] = (struct index_entry){name_store(&x->names, name, name_canonical(name, n)), i_file};
    return HD_OK;
}

static int read_weight_map(struct shard_index *x, struct jscan *j, const char *path, struct err *e)
{
    bool first = true;
    if (!jscan_char(j, '{'))
        return HD_OK;
    while (jscan_more(j, '}', &first)) {
        char name[TENSOR_NAME_MAX], file[256];
        size_t n_name, n_file;
        if (!jscan_text(j, name, sizeof name, &n_name) || !jscan_char(j, ':') ||
            !jscan_text(j, file, sizeof file, &n_file))
            return HD_OK;
        int rc = index_append(x, name, n_name, file, path, e);
        if (rc != HD_OK)
            return rc;
    }
    return HD_OK;
}

int safetensors_parse_index(struct shard_index *x, const char *json, size_t n, const char *path, struct err *e)
{
    struct jscan j;
    bool first = true, found = false;
    *x = (struct shard_index){0};
    jscan_init(&j, json, n);
    if (jscan_char(&j, '{'))
        while (jscan_more(&j, '}', &first)) {
            char key[64];
            size_t len;
            if (!jscan_text(&j, key, sizeof key, &len) || !jscan_char(&j, ':'))
                break;
            if (strcmp(key, "weight_map") != 0) {
                jscan_skip(&j);
                continue;
            }
            if (found)
                return err_set(e, HD_EFORMAT, "%s: gives \"weight_map\" twice", path);
            found = true;
            int rc = read_weight_map(x, &j, path, e);
            if (rc != HD_OK)
                return rc;
        }
    if (j.failed || !jscan_at_end(&j))
        return err_set(e, HD_EFORMAT, "%s: not valid JSON, or not of an index's form, near byte %zu", path,
                       jscan_at(&j));
    if (!found || x->n_entries == 0)
        return err_set(e, HD_EFORMAT, "%s: the key \"weight_map\" is missing or empty", path);
    return HD_OK;
}

void shard_index_free(struct shard_index *x)
{
    for (int i = 0; i < x->n_files; i++)
        free(x->files[i]);
    free(x->files);
    free(x->entries);
    names_free(&x->names);
    *x = (struct shard_index){0};
}

static int load_index(struct shard_index *x, const char *path, struct err *e)
{
    struct buf text = {0};
    int rc = file_read(&text, path, INDEX_BYTES_MAX, e);
    if (rc == HD_OK)
        rc = safetensors_parse_index(x, text.data, text.len, path, e);
    buf_free(&text);
    return rc;
}

static int entry_by_name(const void *a, const void *b)
{
    return strcmp(((const struct index_entry *)a)->name, ((const struct index_entry *)b)->name);
}

/* Index and shards must name the same tensors: a merge of two sorted lists. */
static int check_index(const struct checkpoint *c, struct shard_index *x, const char *path, struct err *e)
{
    bool sorted = true;
    for (int64_t i = 1; i < x->n_entries && sorted; i++)
        sorted = entry_by_name(&x->entries[i - 1], &x->entries[i]) < 0;
    if (!sorted)
        qsort(x->entries, (size_t)x->n_entries, sizeof *x->entries, entry_by_name);
    for (int64_t i = 0, k = 0; i < c->n_tensors || k < x->n_entries;) {
        const struct tensor *t = i < c->n_tensors ? &c->tensors[i] : NULL;
        const struct index_entry *entry = k < x->n_entries ? &x->entries[k] : NULL;
        int order = t == NULL ? 1 : entry == NULL ? -1 : strcmp(t->name, entry->name);
        if (order < 0)
            return err_set(e, HD_EFORMAT, "%s: holds tensor %s, which %s does not name", c->shards[t->i_shard].path,
                           t->name, path);
        if (order > 0 || t->i_shard != entry->i_file)
            return err_set(e, HD_EFORMAT, "%s: expected tensor %s, as %s says, but it is not in this file",
                           c->shards[entry->i_file].path, entry->name, path);
        i++, k++;
        if (k < x->n_entries && strcmp(x->entries[k].name, entry->name) == 0)
            return err_set(e, HD_EFORMAT, "%s: names tensor %s twice", path, entry->name);
    }
    return HD_OK;
}

/* ---------------------------------------------------------------- the whole */

static int tensor_by_name(const void *a, const void *b)
{
    return strcmp(((const struct tensor *)a)->name, ((const struct tensor *)b)->name);
}

static int open_shards(struct checkpoint *c, bool map_data, const struct progress *p, struct err *e)
{
    for (int i = 0; i < c->n_shards; i++) {
        int rc = progress_tell(p, "reading headers", (uint64_t)i, (uint64_t)c->n_shards);
        if (rc != HD_OK)
            return err_set(e, rc, "%s: stopped while reading headers", c->dir);
        rc = open_shard(c, i, map_data, e);
        if (rc != HD_OK)
            return rc;
    }
    progress_tell(p, "reading headers", (uint64_t)c->n_shards, (uint64_t)c->n_shards);
    qsort(c->tensors, (size_t)c->n_tensors, sizeof *c->tensors, tensor_by_name);
    for (int64_t i = 0; i < c->n_tensors; i++) {
        const struct tensor *t = &c->tensors[i];
        c->total_bytes += t->bytes;
        if (i > 0 && strcmp(t[-1].name, t->name) == 0)
            return err_set(e, HD_EFORMAT, "%s: tensor %s occurs twice (also in %s)", c->shards[t->i_shard].path,
                           t->name, c->shards[t[-1].i_shard].path);
    }
    return HD_OK;
}

static int open_sharded(struct checkpoint *c, const char *path, bool map_data, const struct progress *p,
                        struct err *e)
{
    struct shard_index x;
    int rc = load_index(&x, path, e);
    if (rc == HD_OK) {
        c->shards = xcalloc((size_t)x.n_files, sizeof *c->shards);
        c->n_shards = x.n_files;
        for (int i = 0; i < x.n_files; i++)
            c->shards[i].path = path_join(c->dir, x.files[i]);
        for (int i = 0; i < x.n_files && rc == HD_OK; i++)
            if (!file_exists(c->shards[i].path))
                rc = err_set(e, HD_EIO, "%s: does not exist, but %s names it", c->shards[i].path, path);
    }
    if (rc == HD_OK)
        rc = open_shards(c, map_data, p, e);
    if (rc == HD_OK)
        rc = check_index(c, &x, path, e);
    shard_index_free(&x);
    return rc;
}

int checkpoint_open_file(struct checkpoint *c, const char *path, bool map_data, struct err *e)
{
    *c = (struct checkpoint){.dir = xstrdup(path), .n_shards = 1};
    c->shards = xcalloc(1, sizeof *c->shards);
    c->shards[0].path = xstrdup(path);
    int rc = open_shards(c, map_data, NULL, e);
    if (rc != HD_OK)
        checkpoint_close(c);
    return rc;
}

int checkpoint_open(struct checkpoint *c, const char *dir, bool map_data, const struct progress *p, struct err *e)
{
    *c = (struct checkpoint){0};
    if (!file_is_dir(dir))
        return err_set(e, HD_EIO, "%s: not a folder", dir);
    char *index = path_join(dir, "model.safetensors.index.json");
    char *single = path_join(dir, "model.safetensors");
    int rc;
    if (file_exists(index)) {
        c->dir = xstrdup(dir);
        rc = open_sharded(c, index, map_data, p, e);
        if (rc != HD_OK)
            checkpoint_close(c);
    } else if (file_exists(single)) {
        rc = checkpoint_open_file(c, single, map_data, e);
    } else {
        rc = err_set(e, HD_EIO, "%s: holds neither model.safetensors nor model.safetensors.index.json", dir);
    }
    free(index);
    free(single);
    return rc;
}

void checkpoint_close(struct checkpoint *c)
{
    for (int i = 0; i < c->n_shards; i++) {
        file_unmap(&c->shards[i].map);
        free(c->shards[i].path);
    }
    free(c->shards);
    free(c->tensors);
    free(c->dir);
    names_free(&c->names);
    *c = (struct checkpoint){0};
}

const struct tensor *checkpoint_find(const struct checkpoint *c, const char *name)
{
    struct tensor key = {.name = strncmp(name, "model.", 6) == 0 ? name + 6 : name};
    return c->n_tensors == 0 ? NULL : bsearch(&key, c->tensors, (size_t)c->n_tensors, sizeof key, tensor_by_name);
}
