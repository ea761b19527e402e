/* Work of the disk tier beside the step thread: records written and read, files made, checksums.
 *
 * Idea: an operation owns the buffers that its blocks move through; there are a few of them, so memory is bounded and a
 * page can be used again as soon as it was copied. Reads go before writes. One thread does it, several operations at a time;
 * without a thread (simulation) the owner's call to spill_work_done does. */
#ifndef HADAL_ENGINE_SPILL_WORK_H
#define HADAL_ENGINE_SPILL_WORK_H

#include "engine/spill_disk.h"
#include "engine/spill_form.h"

#include <pthread.h>

enum spill_act { SPILL_SAVE, SPILL_LOAD, SPILL_GROW };

struct spill_op {
    struct spill_op *next;
    enum spill_act act;
    int file;
    uint64_t head_at, data_at;
    struct spill_record *record; /* a block; saved as it is, sealed on the way */
    struct spill_record want;    /* of a load: what must come */
    uint8_t *data;               /* whole blocks */
    size_t data_bytes;
    struct spill_segment segment; /* of a grow: the new file */
    char name[SPILL_NAME_BYTES], remove[SPILL_NAME_BYTES]; /* its name; of a file to be removed before, or "" */
    int error;                   /* out: errno */
    bool damaged;                /* out: of a load: something else was there */
    /* the owner's */
    int32_t entry, i_segment;
    uint32_t slot;
    enum spill_kind kind;
    void *tag;
    bool out; /* between spill_work_add and its return */
};

struct spill_work {
    struct spill_disk *disk;
    bool threaded, stop;
    pthread_t thread;
    pthread_mutex_t mutex;
    pthread_cond_t more, less;
    struct spill_op *loads, *saves, *done; /* queues, oldest first */
    int n_out;
    void (*wake)(void *arg); /* from the thread, when something is done; may be NULL */
    void *wake_arg;
};

/* disk must outlive it. HD_EIO when the thread cannot be started. */
int spill_work_open(struct spill_work *w, struct spill_disk *disk, bool threaded, void (*wake)(void *arg), void *arg,
                    struct err *e);
void spill_work_close(struct spill_work *w); /* after everything that was added */
void spill_work_add(struct spill_work *w, struct spill_op *op);
/* All operations that ended since, in the order they were added among their kind. wait: at least one, unless none is out. */
struct spill_op *spill_work_done(struct spill_work *w, bool wait);

#endif
