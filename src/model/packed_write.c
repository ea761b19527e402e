/* Writing a packed file: matrices in order, each packed by all threads, through a buffer that writes large aligned
 * pieces (the kernel then keeps the file in large pages). The file has no name until it is whole. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "model/model_impl.h"
#include "model/packed.h"

enum { PIECE_BYTES = 8 << 20, DATA_ALIGN = 2 << 20, SECTION_ALIGN = 64 };

struct writer {
    struct dev *d;
    const char *path;
    char *temporary; /* beside path: the file itself, or the name that an unnamed one gets before it is renamed */
    bool unnamed;
    int fd;
    uint8_t *piece, *mem; /* PIECE_BYTES to be written; the packed matrix */
    size_t filled, mem_bytes;
    uint64_t at;          /* of the piece in the file */
    struct packed_section *sections;
    uint64_t i_section, n_sections, done, total;
    const struct progress *p;
    struct err *e;
};

/* ---------------------------------------------------------------- the file */

static char *folder_of(const char *path)
{
    const char *slash = strrchr(path, '/');
    return slash == NULL ? xstrdup(".") : slash == path ? xstrdup("/") : xstrndup(path, (size_t)(slash - path));
}

static int open_file(struct writer *w)
{
    char *folder = folder_of(w->path);
    w->temporary = xasprintf("%s.tmp", w->path);
    w->fd = open(folder, O_TMPFILE | O_RDWR | O_CLOEXEC, 0644);
    w->unnamed = w->fd >= 0;
    if (!w->unnamed) /* a file system that cannot: what a killed process leaves is taken up by the next one */
        w->fd = open(w->temporary, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
    int errnum = errno;
    free(folder);
    return w->fd >= 0 ? HD_OK : err_sys(w->e, errnum, "%s: cannot write", w->path);
}

static int refuse_full(const struct writer *w, int errnum)
{
    if (errnum != ENOSPC && errnum != EDQUOT && errnum != EFBIG)
        return err_sys(w->e, errnum, "%s: cannot write", w->path);
    return err_set(w->e, HD_EIO, "%s: the packed weights need %.1f GB, for which there is no room (%s); make room, "
                   "name another place with 'hadal convert -o FILE', or use --layout native", w->path,
                   (double)w->total * 1e-9, strerror(errnum));
}

/* Takes the room before anything is written. A file that is to be replaced is of no use any more and gives its room. */
static int reserve(struct writer *w)
{
    struct statvfs s;
    unlink(w->path);
    if (fstatvfs(w->fd, &s) == 0 && (uint64_t)s.f_bavail * s.f_frsize < w->total)
        return refuse_full(w, ENOSPC);
    if (fallocate(w->fd, 0, 0, (off_t)w->total) != 0 && errno != EOPNOTSUPP && errno != ENOSYS)
        return refuse_full(w, errno);
    return HD_OK;
}

static int write_at(struct writer *w, const void *data, size_t n, uint64_t at)
{
    for (const uint8_t *p = data; n > 0;) {
        ssize_t k = pwrite(w->fd, p, n, (off_t)at);
        if (k < 0 && errno == EINTR)
            continue;
        if (k < 0)
            return refuse_full(w, errno);
        p += k;
        n -= (size_t)k;
        at += (uint64_t)k;
    }
    return HD_OK;
}

static int flush_piece(struct writer *w)
{
    int rc = write_at(w, w->piece, w->filled, w->at);
    w->at += w->filled;
    w->filled = 0;
    return rc;
}

static int append(struct writer *w, const uint8_t *data, size_t n)
{
    int rc = HD_OK;
    while (n > 0 && rc == HD_OK) {
        size_t k = PIECE_BYTES - w->filled < n ? PIECE_BYTES - w->filled : n;
        memcpy(w->piece + w->filled, data, k);
        w->filled += k;
        data += k;
        n -= k;
        if (w->filled == PIECE_BYTES)
            rc = flush_piece(w);
    }
    return rc;
}

/* Gives the finished file its name. */
static int publish(struct writer *w)
{
    char self[64];
    snprintf(self, sizeof self, "/proc/self/fd/%d", w->fd);
    if (fsync(w->fd) != 0)
        return refuse_full(w, errno);
    if (w->unnamed) {
        unlink(w->temporary);
        if (linkat(AT_FDCWD, self, AT_FDCWD, w->temporary, AT_SYMLINK_FOLLOW) != 0)
            return err_sys(w->e, errno, "%s: cannot write", w->path);
    }
    if (rename(w->temporary, w->path) != 0)
        return err_sys(w->e, errno, "%s: cannot write", w->path);
    char *folder = folder_of(w->path);
    int fd = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd >= 0) {
        fsync(fd);
        close(fd);
    }
    free(folder);
    return HD_OK;
}

/* ---------------------------------------------------------------- matrices */

static int count_one(void *arg, struct matrix *m)
{
    struct writer *w = arg;
    struct wmat v = wmat_of(m);
    size_t bytes = w->d->ops->packed_bytes(w->d, &v);
    w->n_sections++;
    w->total += (bytes + SECTION_ALIGN - 1) / SECTION_ALIGN * SECTION_ALIGN;
    w->mem_bytes = bytes > w->mem_bytes ? bytes : w->mem_bytes;
    return HD_OK;
}

static int write_one(void *arg, struct matrix *m)
{
    static const uint8_t zeros[SECTION_ALIGN];
    struct writer *w = arg;
    struct wmat v = wmat_of(m);
    struct packed_section *s = &w->sections[w->i_section++];
    *s = (struct packed_section){.name = packed_check(m->name, strlen(m->name)), .rows = m->rows, .cols = m->cols,
                                 .dtype = (uint32_t)m->dtype};
    size_t bytes = w->d->ops->packed_bytes(w->d, &v);
    if (progress_tell(w->p, "packing weights", w->done, w->total) != HD_OK)
        return err_set(w->e, HD_ECANCELLED, "%s: packing was stopped", w->path);
    w->done += bytes;
    if (bytes == 0 || !w->d->ops->pack(w->d, &v, w->mem))
        return HD_OK;
    s->at = w->at + w->filled;
    s->bytes = bytes;
    s->check = packed_check(w->mem, bytes);
    matrix_forget(m);
    int rc = append(w, w->mem, bytes);
    return rc != HD_OK || bytes % SECTION_ALIGN == 0 ? rc : append(w, zeros, SECTION_ALIGN - bytes % SECTION_ALIGN);
}

static int write_all(struct writer *w, struct weights *weights)
{
    size_t index_bytes = (size_t)w->n_sections * sizeof *w->sections;
    int rc = weights_each_matrix(weights, write_one, w);
    if (rc == HD_OK)
        rc = flush_piece(w);
    struct packed_head h = {.magic = "HADALPK", .version = PACKED_VERSION, .layout = w->d->ops->layout_version,
                            .source = packed_source(&weights->ckpt), .n_sections = w->n_sections, .file_bytes = w->at};
    h.check = packed_head_check(h, w->sections);
    if (rc == HD_OK)
        rc = write_at(w, w->sections, index_bytes, sizeof h);
    if (rc == HD_OK)
        rc = write_at(w, &h, sizeof h, 0);
    if (rc == HD_OK && ftruncate(w->fd, (off_t)w->at) != 0)
        rc = err_sys(w->e, errno, "%s: cannot write", w->path);
    progress_tell(w->p, "writing to disk", 0, 1);
    if (rc == HD_OK)
        rc = publish(w);
    progress_tell(w->p, "writing to disk", 1, 1);
    return rc;
}

static void *map_memory(size_t bytes)
{
    void *p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (p == MAP_FAILED)
        return NULL;
    madvise(p, bytes, MADV_HUGEPAGE); /* a wish: without it packing is slower */
    return p;
}

int packed_write(struct weights *weights, struct dev *d, const char *path, const struct progress *p, struct err *e)
{
    struct writer w = {.d = d, .path = path, .fd = -1, .p = p, .e = e};
    weights_each_matrix(weights, count_one, &w);
    w.at = sizeof(struct packed_head) + w.n_sections * sizeof *w.sections;
    w.at = (w.at + DATA_ALIGN - 1) / DATA_ALIGN * DATA_ALIGN;
    w.total += w.at;
    w.mem_bytes += PIECE_BYTES;
    w.sections = xcalloc((size_t)w.n_sections, sizeof *w.sections);
    w.piece = map_memory(w.mem_bytes);
    w.mem = w.piece + PIECE_BYTES;
    int rc = HD_OK;
    if (w.piece == NULL)
        rc = err_set(e, HD_ENOMEM, "%s: no memory for a buffer of %zu bytes", path, w.mem_bytes);
    if (rc == HD_OK)
        rc = open_file(&w);
    if (rc == HD_OK)
        rc = reserve(&w);
    if (rc == HD_OK)
        rc = write_all(&w, weights);
    if (rc != HD_OK && w.fd >= 0 && !w.unnamed)
        unlink(w.temporary);
    if (w.fd >= 0)
        close(w.fd);
    if (w.piece != NULL)
        munmap(w.piece, w.mem_bytes);
    free(w.temporary);
    free(w.sections);
    return rc;
}
