/* spill: pages and tails on disk, found by what they are the state of.
 *
 * Idea: an index in memory over fixed slots in a few files of fixed size. An entry is a page end of some token sequence of
 * some user; it may have a page and a tail on disk, and knows the entry before it. A slot is free, or holds a record, or
 * is just being written; what has no free slot takes that of the entry used least recently that no other one builds on.
 * Opening reads the record headers of all files, so the index is never stored and can never be wrong about them; what a
 * load brings is checked against the tokens that were asked for. Belongs to one thread; the work is done by another. */
#ifndef HADAL_ENGINE_SPILL_H
#define HADAL_ENGINE_SPILL_H

#include "engine/engine.h"
#include "engine/spill_form.h"

struct spill;
struct spill_disk;

struct spill_options {
    const char *dir;
    uint64_t limit_bytes, fingerprint, page_bytes, tail_bytes; /* tail_bytes 0: no tails */
    uint64_t retry_ns;  /* after the disk refused; 0: 10 s */
    bool plain;         /* neither O_DIRECT nor io_uring */
    bool no_thread;     /* work is done by spill_poll (simulation) */
    void (*log)(void *arg, const char *line); /* may be NULL */
    void *log_arg;
    void (*wake)(void *arg); /* from the working thread: spill_poll has something; may be NULL */
    void *wake_arg;
    /* From spill_poll: what spill_load asked for, or ok false when it could not be had. */
    void (*loaded)(void *arg, void *tag, enum spill_kind kind, bool ok, const void *data);
    void *loaded_arg;
};

/* Opens the folder and reads what is there. Files that cannot be used are left alone, with a line in the log, until their
 * room is needed. Errors: those of spill_disk_open, HD_EARG when the limit is below what a few records need. */
int spill_open(struct spill **s, const struct spill_options *o, struct err *e);
/* Over a disk of the caller's (dir unused); closes it in the end, when this fails too. */
int spill_open_disk(struct spill **s, const struct spill_options *o, struct spill_disk *d, struct err *e);
void spill_close(struct spill **s); /* waits for what is under way, syncs */

/* What a record is the state of. */
struct spill_place {
    struct spill_key key, parent; /* parent of the first page: spill_key_of_user */
    int32_t depth;                /* pages up to its end, from 1 */
    const char *user;             /* of at most SPILL_USER_BYTES */
    const int32_t *tokens;        /* of its page */
};

bool spill_has(const struct spill *s, struct spill_key key, enum spill_kind kind); /* can be loaded now */
bool spill_takes(const struct spill *s, struct spill_key key, enum spill_kind kind); /* not there and not on its way */
void spill_touch(struct spill *s, struct spill_key key); /* it was used */
/* Copies the data and saves it later. SPILL_BUSY: no buffer or slot at this moment; spill_poll will give one.
 * SPILL_REFUSED: the disk refuses for now, or the user's id is too long. */
enum spill_answer { SPILL_TAKEN, SPILL_BUSY, SPILL_REFUSED };
enum spill_answer spill_save(struct spill *s, const struct spill_place *p, enum spill_kind kind, const void *data);
/* Asks for a record that spill_has; false when no buffer is free now. `loaded` follows, in the order of asking. */
bool spill_load(struct spill *s, const struct spill_place *p, enum spill_kind kind, void *tag);
void spill_forget(struct spill *s, const void *tag); /* no `loaded` for it any more */
bool spill_working(const struct spill *s);           /* something is under way */
/* Takes in what was done. wait: until something was, unless nothing is under way. */
void spill_poll(struct spill *s, bool wait);
void spill_read_stats(const struct spill *s, struct disk_stats *out);

/* Asserts that counts, links and slots agree (tests). */
void spill_check(const struct spill *s);

#endif
