/* The folder of the disk tier: files of a fixed size, blocks in and out. Behind a table, so that tests put a disk there
 * that fails as they say. */
#ifndef HADAL_ENGINE_SPILL_DISK_H
#define HADAL_ENGINE_SPILL_DISK_H

#include "base/base.h"

/* One movement of whole blocks between memory (aligned to a block) and a file. */
struct spill_transfer {
    int file;
    bool write;
    void *data;
    size_t bytes;
    uint64_t offset;
    int error; /* out: 0 or an errno; a short movement is EIO */
};

/* Calls return 0 or an errno. One thread at a time. */
struct spill_disk {
    void *self;
    char *dir; /* for sentences; owned */
    bool direct;       /* O_DIRECT */
    _Atomic bool ring; /* io_uring; false from the moment it fails */
    int (*list)(void *self, void (*fn)(void *arg, const char *name, uint64_t bytes), void *arg);
    /* create: a new file whose bytes are allocated. Otherwise *bytes is set. */
    int (*open)(void *self, const char *name, bool create, uint64_t *bytes, int *file);
    void (*transfer)(void *self, struct spill_transfer *t, int n); /* at most SPILL_TRANSFERS_MAX, all at once */
    int (*sync)(void *self, int file);
    void (*close_file)(void *self, int file);
    int (*remove)(void *self, const char *name);
    void (*close)(void *self);
    bool (*ready)(void *self); /* without a thread: whether work that was asked for is done now; NULL: yes */
};

enum { SPILL_TRANSFERS_MAX = 32 };

/* Opens (and makes, for its owner only) the folder and locks it against other processes; the lock ends with the process.
 * d must stay where it is. plain: neither O_DIRECT nor io_uring. Errors HD_EIO, HD_EARG name the folder: in use, open to
 * others, no folder. */
int spill_disk_open(struct spill_disk *d, const char *dir, bool plain, struct err *e);

#endif
