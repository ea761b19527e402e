#include "base/base.h"

#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

int file_map(struct file_map *m, const char *path, struct err *e)
{
    *m = (struct file_map){0};
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return err_sys(e, errno, "%s: cannot open", path);
    struct stat st;
    if (fstat(fd, &st) != 0) {
        int rc = err_sys(e, errno, "%s: cannot stat", path);
        close(fd);
        return rc;
    }
    if (!S_ISREG(st.st_mode)) {
        close(fd);
        return err_set(e, HD_EIO, "%s: not a regular file", path);
    }
    if (st.st_size == 0) {
        close(fd);
        m->data = (const uint8_t *)"";
        return HD_OK;
    }
    void *p = mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_SHARED, fd, 0);
    int errnum = errno;
    close(fd);
    if (p == MAP_FAILED)
        return err_sys(e, errnum, "%s: cannot map", path);
    m->data = p;
    m->size = (size_t)st.st_size;
    return HD_OK;
}

void file_unmap(struct file_map *m)
{
    if (m->size != 0)
        munmap((void *)(uintptr_t)m->data, m->size);
    *m = (struct file_map){0};
}

void file_map_forget(const void *p, size_t n)
{
    uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE), first = ((uintptr_t)p + page - 1) / page * page;
    uintptr_t last = ((uintptr_t)p + n) / page * page;
    if (last > first)
        madvise((void *)first, last - first, MADV_DONTNEED);
}

int file_read(struct buf *out, const char *path, size_t max_bytes, struct err *e)
{
    bool is_stdin = strcmp(path, "-") == 0;
    const char *name = is_stdin ? "standard input" : path;
    int fd = is_stdin ? STDIN_FILENO : open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return err_sys(e, errno, "%s: cannot open", name);
    int rc = HD_OK;
    size_t start = out->len;
    for (;;) {
        buf_reserve(out, 65536);
        ssize_t n = read(fd, out->data + out->len, 65536);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            rc = err_sys(e, errno, "%s: cannot read", name);
        if (n <= 0)
            break;
        out->len += (size_t)n;
        if (out->len - start > max_bytes) {
            rc = err_set(e, HD_EFORMAT, "%s: larger than the limit of %zu bytes", name, max_bytes);
            break;
        }
    }
    out->data[out->len] = '\0';
    if (!is_stdin)
        close(fd);
    return rc;
}

static int write_all(int fd, const char *p, size_t n)
{
    while (n != 0) {
        ssize_t k = write(fd, p, n);
        if (k < 0 && errno == EINTR)
            continue;
        if (k < 0)
            return errno;
        p += k;
        n -= (size_t)k;
    }
    return fsync(fd) == 0 ? 0 : errno;
}

int file_write_atomic(const char *path, const void *data, size_t n, struct err *e)
{
    static atomic_uint n_written; /* two threads may write the same path */
    char *tmp = xasprintf("%s.tmp-%ld-%u", path, (long)getpid(), atomic_fetch_add(&n_written, 1));
    int fd = open(tmp, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
    int errnum = fd < 0 ? errno : write_all(fd, data, n);
    if (fd >= 0 && close(fd) != 0 && errnum == 0)
        errnum = errno;
    if (errnum == 0 && rename(tmp, path) != 0)
        errnum = errno;
    if (errnum != 0) {
        if (fd >= 0)
            unlink(tmp);
        free(tmp);
        return err_sys(e, errnum, "%s: cannot write", path);
    }
    free(tmp);
    return HD_OK;
}

bool file_exists(const char *path)
{
    return access(path, F_OK) == 0;
}

bool file_is_dir(const char *path)
{
    struct stat st;
    return stat(path, &st) == 0 && S_ISDIR(st.st_mode);
}

int64_t file_size(const char *path)
{
    struct stat st;
    return stat(path, &st) == 0 ? (int64_t)st.st_size : -1;
}

char *path_join(const char *dir, const char *name)
{
    size_t n = strlen(dir);
    return xasprintf("%s%s%s", dir, n != 0 && dir[n - 1] == '/' ? "" : "/", name);
}
