#include "engine/spill_disk.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <liburing.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

enum { BLOCK = 4096 };

struct folder {
    struct spill_disk *owner;
    int dir, lock, flags; /* flags: O_DIRECT or 0 */
    bool has_ring;
    struct io_uring ring;
};

/* ---------------------------------------------------------------- files */

static int folder_list(void *self, void (*fn)(void *arg, const char *name, uint64_t bytes), void *arg)
{
    struct folder *f = self;
    int fd = openat(f->dir, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *d = fd < 0 ? NULL : fdopendir(fd);
    if (d == NULL) {
        int error = errno;
        if (fd >= 0)
            close(fd);
        return error;
    }
    struct stat st;
    for (struct dirent *x; (x = readdir(d)) != NULL;)
        if (fstatat(f->dir, x->d_name, &st, AT_SYMLINK_NOFOLLOW) == 0 && S_ISREG(st.st_mode))
            fn(arg, x->d_name, (uint64_t)st.st_size);
    closedir(d);
    return 0;
}

static int folder_remove(void *self, const char *name)
{
    return unlinkat(((struct folder *)self)->dir, name, 0) == 0 ? 0 : errno;
}

static int folder_open(void *self, const char *name, bool create, uint64_t *bytes, int *file)
{
    struct folder *f = self;
    struct stat st;
    int flags = O_RDWR | O_CLOEXEC | O_NOFOLLOW | f->flags, error = 0;
    int fd = openat(f->dir, name, create ? flags | O_CREAT | O_EXCL : flags, 0600);
    if (fd < 0)
        return errno;
    if (create)
        error = posix_fallocate(fd, 0, (off_t)*bytes);
    else if (fstat(fd, &st) != 0)
        error = errno;
    else
        *bytes = (uint64_t)st.st_size;
    if (error != 0) {
        close(fd);
        if (create)
            folder_remove(f, name);
        return error;
    }
    *file = fd;
    return 0;
}

static int folder_sync(void *self, int file)
{
    (void)self;
    return fdatasync(file) == 0 ? 0 : errno;
}

static void folder_close_file(void *self, int file)
{
    (void)self;
    close(file);
}

/* ---------------------------------------------------------------- blocks */

/* What is left after `done` bytes, one call after another. */
static void move_plainly(struct spill_transfer *t, size_t done)
{
    while (done < t->bytes && t->error == 0) {
        void *p = (char *)t->data + done;
        off_t at = (off_t)(t->offset + done);
        ssize_t n = t->write ? pwrite(t->file, p, t->bytes - done, at) : pread(t->file, p, t->bytes - done, at);
        if (n > 0)
            done += (size_t)n;
        else if (n == 0)
            t->error = EIO;
        else if (errno != EINTR)
            t->error = errno;
    }
}

static void finish(struct spill_transfer *t, int result)
{
    if (result == -EINTR || result == -EAGAIN)
        result = 0;
    t->error = result < 0 ? -result : 0;
    if (t->error == 0 && (size_t)result < t->bytes)
        move_plainly(t, (size_t)result);
}

static int submit_all(struct folder *f, int n)
{
    int n_taken = 0;
    while (n_taken < n) {
        int rc = io_uring_submit(&f->ring);
        if (rc < 0 && rc != -EINTR && rc != -EAGAIN && rc != -EBUSY)
            break;
        n_taken += rc > 0 ? rc : 0;
    }
    return n_taken;
}

/* A ring that refuses is given up for good; what it did not take is moved plainly. */
static void give_up_ring(struct folder *f, struct spill_transfer *t, int from, int n)
{
    io_uring_queue_exit(&f->ring);
    f->has_ring = false;
    f->owner->ring = false;
    for (int i = from; i < n; i++)
        move_plainly(&t[i], 0);
}

/* All of them are on their way at once. */
static void move_by_ring(struct folder *f, struct spill_transfer *t, int n)
{
    for (int i = 0; i < n; i++) {
        struct io_uring_sqe *s = io_uring_get_sqe(&f->ring);
        if (t[i].write)
            io_uring_prep_write(s, t[i].file, t[i].data, (unsigned)t[i].bytes, t[i].offset);
        else
            io_uring_prep_read(s, t[i].file, t[i].data, (unsigned)t[i].bytes, t[i].offset);
        io_uring_sqe_set_data64(s, (unsigned)i);
        t[i].error = EIO; /* unless it ends */
    }
    int n_taken = submit_all(f, n), rc = 0;
    for (int i = 0; i < n_taken && rc == 0; i++) {
        struct io_uring_cqe *c;
        while ((rc = io_uring_wait_cqe(&f->ring, &c)) == -EINTR)
            ;
        if (rc < 0)
            break;
        finish(&t[c->user_data], c->res);
        io_uring_cqe_seen(&f->ring, c);
    }
    if (n_taken < n || rc < 0) {
        for (int i = n_taken; i < n; i++)
            t[i].error = 0;
        give_up_ring(f, t, n_taken, n);
    }
}

static void folder_transfer(void *self, struct spill_transfer *t, int n)
{
    struct folder *f = self;
    for (int i = 0; i < n; i++)
        t[i].error = 0;
    if (f->has_ring) {
        move_by_ring(f, t, n);
        return;
    }
    for (int i = 0; i < n; i++)
        move_plainly(&t[i], 0);
}

/* ---------------------------------------------------------------- opening */

static void folder_close(void *self)
{
    struct folder *f = self;
    if (f->has_ring)
        io_uring_queue_exit(&f->ring);
    if (f->lock >= 0)
        close(f->lock);
    if (f->dir >= 0)
        close(f->dir);
    free(f);
}

static int open_dir(struct folder *f, const char *dir, struct err *e)
{
    struct stat st;
    if (mkdir(dir, 0700) != 0 && errno != EEXIST)
        return err_sys(e, errno, "cannot make the cache folder %s", dir);
    f->dir = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (f->dir < 0 || fstat(f->dir, &st) != 0)
        return err_sys(e, errno, "cannot open the cache folder %s", dir);
    if ((st.st_mode & 077) != 0 || st.st_uid != geteuid())
        return err_set(e, HD_EARG, "the cache folder %s is open to others: it must be yours with mode 0700", dir);
    return HD_OK;
}

static int lock_dir(struct folder *f, const char *dir, struct err *e)
{
    f->lock = openat(f->dir, "lock", O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (f->lock < 0)
        return err_sys(e, errno, "cannot make %s/lock", dir);
    if (flock(f->lock, LOCK_EX | LOCK_NB) != 0)
        return errno == EWOULDBLOCK ? err_set(e, HD_EARG, "the cache folder %s is in use by another process", dir)
                                    : err_sys(e, errno, "cannot lock %s/lock", dir);
    return HD_OK;
}

/* Whether the file system takes O_DIRECT for writing and reading, tried on a file. */
static bool takes_direct(struct folder *f)
{
    void *block = NULL;
    if (posix_memalign(&block, BLOCK, BLOCK) != 0)
        return false;
    memset(block, 0, BLOCK);
    unlinkat(f->dir, "probe", 0);
    int fd = openat(f->dir, "probe", O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC | O_DIRECT, 0600);
    bool yes = fd >= 0 && pwrite(fd, block, BLOCK, 0) == BLOCK && pread(fd, block, BLOCK, 0) == BLOCK;
    if (fd >= 0)
        close(fd);
    unlinkat(f->dir, "probe", 0);
    free(block);
    return yes;
}

int spill_disk_open(struct spill_disk *d, const char *dir, bool plain, struct err *e)
{
    struct folder *f = calloc(1, sizeof *f);
    char *name = f == NULL ? NULL : strdup(dir);
    if (name == NULL) {
        free(f);
        return err_set(e, HD_ENOMEM, "no memory for the cache folder %s", dir);
    }
    f->owner = d;
    f->dir = f->lock = -1;
    int rc = open_dir(f, dir, e);
    if (rc == HD_OK)
        rc = lock_dir(f, dir, e);
    if (rc != HD_OK) {
        folder_close(f);
        free(name);
        return rc;
    }
    f->flags = !plain && takes_direct(f) ? O_DIRECT : 0;
    f->has_ring = !plain && io_uring_queue_init(SPILL_TRANSFERS_MAX, &f->ring, 0) == 0;
    *d = (struct spill_disk){.self = f, .dir = name, .direct = f->flags != 0, .ring = f->has_ring, .list = folder_list,
                             .open = folder_open, .transfer = folder_transfer, .sync = folder_sync,
                             .close_file = folder_close_file, .remove = folder_remove, .close = folder_close};
    return HD_OK;
}
