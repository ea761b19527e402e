/* Inside of the disk tier's index: what spill.c (records), spill_index.c (entries, slots) and spill_scan.c share. */
#ifndef HADAL_ENGINE_SPILL_IMPL_H
#define HADAL_ENGINE_SPILL_IMPL_H

#include "engine/heap.h"
#include "engine/spill.h"
#include "engine/spill_work.h"

enum { SPILL_NONE = -1 };

struct spill_file {
    struct spill_segment head;
    int file;
    char name[SPILL_NAME_BYTES];
    bool told; /* the log knows that it holds damaged records */
};

/* A file that is ours by name but not to be used: it is removed when its room is needed. */
struct spill_foreign {
    char name[SPILL_NAME_BYTES];
    uint64_t bytes;
};

struct spill_slot {
    int32_t file; /* SPILL_NONE: no slot */
    uint32_t at;
};

struct spill_entry {
    struct spill_key key;
    int32_t parent, n_children, depth;
    int32_t hash_next; /* plus 1; 0: the last of its hash */
    struct spill_slot slot[SPILL_KINDS];
    bool saving[SPILL_KINDS], used;
    int32_t n_readers;
    uint64_t last_use;
};

/* What is the same for all records of a kind. */
struct spill_part {
    uint64_t payload_bytes, share_bytes, file_bytes; /* share: of the limit */
    uint64_t taken_bytes;
    uint32_t slots_per_file;
    struct spill_slot *free;
    int64_t n_free, n_slots, cap_slots, n_stored;
    bool growing, just_failed; /* just_failed to grow: the next record makes do with what is there */
    uint64_t grow_after_ns; /* the disk was full; 0: was not */
};

struct spill {
    struct spill_options o;
    struct spill_disk *disk;
    struct spill_work work;
    struct spill_file *files;
    int32_t n_files, cap_files;
    struct spill_foreign *foreign; /* in the order of removal */
    int32_t n_foreign, cap_foreign;
    uint64_t foreign_bytes, next_number;
    struct spill_part part[SPILL_KINDS];

    struct spill_entry *entries;
    int32_t *bucket; /* first entry of a hash, plus 1 */
    int32_t *unused; /* stack of entries that were used and are not any more */
    int32_t n_unused, n_fresh, cap_entries; /* entries from n_fresh on were never used */
    uint64_t mask, clock;
    struct heap leaves;  /* entries that nothing builds on and nobody works with */
    struct heap tails;   /* entries whose tail nobody works with */

    struct spill_op *ops, grow[SPILL_KINDS];
    void *op_memory, *grow_memory;
    struct spill_op **idle;
    int n_ops, n_idle;
    bool paused;
    uint64_t pause_until_ns;
    struct disk_stats stats;
};

void spill_say(const struct spill *s, const char *fmt, ...) PRINTF_LIKE(2, 3);

/* spill_index.c */
bool spill_index_open(struct spill *s);
void spill_index_free(struct spill *s);
int32_t spill_find(const struct spill *s, struct spill_key key);
/* The entry of a key, made when there is none (evicting another one when all are taken): SPILL_NONE when none can be. */
int32_t spill_entry_get(struct spill *s, struct spill_key key, int32_t depth);
void spill_entry_link(struct spill *s, int32_t i, int32_t parent);
void spill_entry_weigh(struct spill *s, int32_t i); /* after its state changed: can it go, and when? */
/* Frees a slot and, when nothing is left of the entry, the entry and those above that were only kept for it. */
void spill_drop_record(struct spill *s, int32_t i, enum spill_kind kind);
void spill_entry_tidy(struct spill *s, int32_t i);
/* A free slot, evicting what was used least recently; false when there is none. */
bool spill_slot_take(struct spill *s, enum spill_kind kind, bool evict, struct spill_slot *slot);
void spill_slot_give(struct spill *s, enum spill_kind kind, struct spill_slot slot);
void spill_file_add(struct spill *s, const struct spill_file *f); /* its slots are not free yet */

/* spill_scan.c */
int spill_scan(struct spill *s, struct err *e);

#endif
