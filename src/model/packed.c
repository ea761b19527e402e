/* Packed weights: finding the file that fits a checkpoint, mapping it, making it when there is none. */
#include "model/packed.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>
#include <xxhash.h>

#include "model/model_impl.h"

/* ---------------------------------------------------------------- which checkpoint */

static void add_file(XXH3_state_t *st, const struct shard *s)
{
    struct stat info = {0};
    const char *slash = strrchr(s->path, '/'), *name = slash == NULL ? s->path : slash + 1;
    XXH3_64bits_update(st, name, strlen(name) + 1);
    stat(s->path, &info); /* 0 when it cannot be told: the file was open a moment ago */
    int64_t facts[] = {(int64_t)s->file_bytes, (int64_t)info.st_mtim.tv_sec, (int64_t)info.st_mtim.tv_nsec};
    XXH3_64bits_update(st, facts, sizeof facts);
}

uint64_t packed_source(const struct checkpoint *c)
{
    XXH3_state_t *st = XXH3_createState();
    XXH3_64bits_reset(st);
    for (int i = 0; i < c->n_shards; i++)
        add_file(st, &c->shards[i]);
    for (int64_t i = 0; i < c->n_tensors; i++) {
        const struct tensor *t = &c->tensors[i];
        uint64_t facts[] = {(uint64_t)t->i_shard, (uint64_t)t->dtype, t->offset, t->bytes};
        XXH3_64bits_update(st, t->name, strlen(t->name) + 1);
        XXH3_64bits_update(st, facts, sizeof facts);
    }
    uint64_t h = XXH3_64bits_digest(st);
    XXH3_freeState(st);
    return h;
}

char *packed_path_beside(const char *dir)
{
    return path_join(dir, "packed.hadal");
}

/* NAME-HASH.hadal, of the folder's own name and its whole path: one file a folder, replaced when the folder changes. */
char *packed_path_cached(const char *dir, const char *cache_dir)
{
    if (cache_dir == NULL)
        return NULL;
    char *real = realpath(dir, NULL);
    const char *whole = real == NULL ? dir : real, *slash = strrchr(whole, '/');
    char *file = xasprintf("%s/%.100s-%016llx.hadal", cache_dir, slash == NULL ? whole : slash + 1,
                           (unsigned long long)packed_check(whole, strlen(whole)));
    free(real);
    return file;
}

/* ---------------------------------------------------------------- attaching */

struct attaching {
    const struct packed_index *x;
    const uint8_t *data;
    struct dev *d;
    const char *path;
    uint64_t i;
    struct err *e;
    bool adopt; /* false: compare only */
};

static int attach_one(void *arg, struct matrix *m)
{
    struct attaching *a = arg;
    if (a->i == a->x->head.n_sections)
        return err_set(a->e, HD_EFORMAT, "%s: has no section for %s", a->path, m->name);
    struct packed_section s = packed_section_of(a->x, a->i++);
    struct wmat v = wmat_of(m);
    if (s.name != packed_check(m->name, strlen(m->name)) || s.rows != m->rows || s.cols != m->cols ||
        s.dtype != (uint32_t)m->dtype || (s.bytes != 0 && s.bytes != a->d->ops->packed_bytes(a->d, &v)))
        return err_set(a->e, HD_EFORMAT, "%s: its section %llu is not for %s", a->path, (unsigned long long)a->i - 1,
                       m->name);
    if (!a->adopt || s.bytes == 0)
        return HD_OK;
    if (!a->d->ops->adopt(a->d, &v, a->data + s.at))
        return a->d->ops->sync(a->d, a->e);
    m->packed = v.packed;
    return HD_OK;
}

static int check_head(const struct packed_index *x, const struct weights *w, const struct dev *d, const char *path,
                      struct err *e)
{
    if (x->head.layout != d->ops->layout_version)
        return err_set(e, HD_EFORMAT, "%s: holds layout version %u, this program uses %u; 'hadal convert' makes it "
                       "anew", path, x->head.layout, d->ops->layout_version);
    if (x->head.source != packed_source(&w->ckpt))
        return err_set(e, HD_EFORMAT, "%s: was made from other files than those in %s; 'hadal convert' makes it anew",
                       path, w->ckpt.dir);
    return HD_OK;
}

int packed_attach(struct file_map *map, struct weights *w, struct dev *d, const char *path, struct err *e)
{
    struct packed_index x;
    int rc = file_map(map, path, e);
    if (rc != HD_OK)
        return rc;
    struct attaching a = {.x = &x, .data = map->data, .d = d, .path = path, .e = e};
    rc = packed_parse(&x, map->data, map->size, path, e);
    if (rc == HD_OK)
        rc = check_head(&x, w, d, path, e);
    if (rc == HD_OK)
        rc = weights_each_matrix(w, attach_one, &a);
    if (rc == HD_OK && a.i != x.head.n_sections)
        rc = err_set(e, HD_EFORMAT, "%s: has more sections than %s has matrices", path, w->ckpt.dir);
    a.i = 0;
    a.adopt = true;
    if (rc == HD_OK)
        rc = weights_each_matrix(w, attach_one, &a);
    if (rc != HD_OK) {
        file_unmap(map);
        return rc;
    }
    madvise((void *)(uintptr_t)map->data, map->size, MADV_HUGEPAGE); /* a wish: large pages where the file has them */
    return HD_OK;
}

/* ---------------------------------------------------------------- verifying */

struct verifying {
    const struct packed_index *x;
    const uint8_t *data;
    const char *path;
    const struct progress *p;
    uint64_t i;
    struct err *e;
};

static int verify_one(void *arg, struct matrix *m)
{
    struct verifying *v = arg;
    struct packed_section s = packed_section_of(v->x, v->i++);
    if (progress_tell(v->p, "verifying", s.at, v->x->head.file_bytes) != HD_OK)
        return err_set(v->e, HD_ECANCELLED, "%s: verifying was stopped", v->path);
    if (s.bytes != 0 && packed_check(v->data + s.at, s.bytes) != s.check)
        return err_set(v->e, HD_EFORMAT, "%s: damaged: the checksum of %s differs; delete it, and it is made anew",
                       v->path, m->name);
    file_map_forget(v->data + s.at, s.bytes);
    return HD_OK;
}

int packed_verify(struct weights *w, const char *path, const struct progress *p, struct err *e)
{
    struct packed_index x;
    struct file_map map;
    int rc = file_map(&map, path, e);
    if (rc != HD_OK)
        return rc;
    struct verifying v = {.x = &x, .data = map.data, .path = path, .p = p, .e = e};
    rc = packed_parse(&x, map.data, map.size, path, e);
    if (rc == HD_OK)
        rc = weights_each_matrix(w, verify_one, &v);
    progress_tell(p, "verifying", 1, 1);
    file_unmap(&map);
    return rc;
}

/* ---------------------------------------------------------------- making */

static int make_folders(const char *path)
{
    char *copy = xstrdup(path);
    int rc = 0;
    for (char *at = copy + 1; rc == 0; at++) {
        bool end = *at == '\0';
        if (*at != '/' && !end)
            continue;
        *at = '\0';
        rc = mkdir(copy, 0755) == 0 || errno == EEXIST ? 0 : errno;
        if (end)
            break;
        *at = '/';
    }
    free(copy);
    return rc;
}

/* Where a new file goes; NULL with an error when there is no place. */
static char *choose_place(const char *dir, const char *cache_dir, struct err *e)
{
    if (access(dir, W_OK) == 0)
        return packed_path_beside(dir);
    if (cache_dir == NULL || make_folders(cache_dir) != 0 || access(cache_dir, W_OK) != 0) {
        err_set(e, HD_EIO, "%s: neither this folder nor the cache folder (%s) can be written, so the weights cannot be "
                "packed into a file; use --layout memory or native, or 'hadal convert -o FILE' and --packed FILE", dir,
                cache_dir == NULL ? "none is known" : cache_dir);
        return NULL;
    }
    return packed_path_cached(dir, cache_dir);
}

/* Whether one of the usual files fits; the reasons why not are of no interest, since it is made anew. */
static char *attach_usual(struct file_map *map, struct weights *w, struct dev *d, const char *dir,
                          const char *cache_dir)
{
    char *paths[] = {packed_path_beside(dir), packed_path_cached(dir, cache_dir)};
    char *found = NULL;
    for (size_t i = 0; i < COUNT_OF(paths); i++) {
        struct err why = {0};
        if (found == NULL && paths[i] != NULL && packed_attach(map, w, d, paths[i], &why) == HD_OK)
            found = paths[i];
        else
            free(paths[i]);
    }
    return found;
}

/* The folder of the checkpoint, locked against others who pack it; -1 where it cannot be locked, which costs double
 * work at worst. */
static int lock_folder(const char *dir, const struct progress *p)
{
    int fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd >= 0 && flock(fd, LOCK_EX | LOCK_NB) != 0) {
        progress_tell(p, "waiting for another process", 0, 1);
        flock(fd, LOCK_EX);
    }
    return fd;
}

static int write_checked(struct weights *w, struct dev *d, const char *dir, const char *path,
                         const struct model_options *o, const struct progress *p, struct err *e)
{
    if (o->check_data) {
        weights_close(w);
        int rc = weights_open(w, dir, true, p, e);
        if (rc != HD_OK)
            return rc;
    }
    return packed_write(w, d, path, p, e);
}

int packed_get(struct file_map *map, struct weights *w, struct dev *d, const char *dir, const struct model_options *o,
               const struct progress *p, struct err *e)
{
    if (o->packed_file != NULL)
        return packed_attach(map, w, d, o->packed_file, e);
    char *path = attach_usual(map, w, d, dir, o->cache_dir);
    int rc = HD_OK, lock = -1;
    if (path == NULL) {
        lock = lock_folder(dir, p);
        path = attach_usual(map, w, d, dir, o->cache_dir); /* another process may have been faster */
    }
    if (path == NULL) {
        path = choose_place(dir, o->cache_dir, e);
        rc = path == NULL ? e->code : write_checked(w, d, dir, path, o, p, e);
        if (rc == HD_OK)
            rc = packed_attach(map, w, d, path, e);
    }
    if (lock >= 0)
        close(lock);
    free(path);
    return rc;
}

int packed_convert(const char *dir, const char *out, const struct model_options *o, const struct progress *p,
                   char **path, bool *made, struct err *e)
{
    struct dev_options options = {NUM_FAST, o->n_threads, o->isa, false};
    struct file_map map = {0};
    struct weights w;
    struct dev *d;
    struct err why = {0};
    *path = NULL;
    *made = false;
    int rc = dev_open_cpu(&d, &options, e);
    if (rc != HD_OK)
        return rc;
    rc = weights_open(&w, dir, false, p, e);
    if (rc == HD_OK) {
        int lock = lock_folder(dir, p);
        *path = out != NULL ? xstrdup(out) : attach_usual(&map, &w, d, dir, o->cache_dir);
        if (*path == NULL)
            *path = choose_place(dir, o->cache_dir, e);
        *made = map.size == 0 && *path != NULL && packed_attach(&map, &w, d, *path, &why) != HD_OK;
        rc = *path == NULL ? e->code : *made ? write_checked(&w, d, dir, *path, o, p, e) : HD_OK;
        file_unmap(&map);
        if (lock >= 0)
            close(lock);
        weights_close(&w);
    }
    d->ops->close(&d);
    return rc;
}
