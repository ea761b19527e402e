/* A disk in memory that fails as it is told: full, failing reads and writes, half done writes, bits that turn, a process that
 * is killed. It outlives the engines that open it. */
#ifndef HADAL_TEST_FAKE_DISK_H
#define HADAL_TEST_FAKE_DISK_H

#include "engine/spill_disk.h"

enum { FAKE_FILES_MAX = 256, FAKE_NAME_BYTES = 64 };

struct fake_file {
    char name[FAKE_NAME_BYTES]; /* "": free */
    uint8_t *data;
    uint64_t bytes;
    int n_open;
};

struct fake_disk {
    struct fake_file files[FAKE_FILES_MAX];
    uint64_t capacity, taken; /* bytes; 0: no end */
    struct rng rng;
    uint32_t fail_one_in, late_one_in; /* transfers that fail; polls at which work is not done yet; 0: none */
    bool dead;                 /* the process was killed: nothing reaches the disk any more */
    int64_t writes_to_death;   /* so many more, the last one half; negative: none */
    uint64_t n_failed, n_reads, n_writes;
};

void fake_disk_init(struct fake_disk *d, uint64_t seed);
void fake_disk_free(struct fake_disk *d);
/* For spill_open_disk or engine_options.cache_disk, which own it. */
struct spill_disk *fake_disk_open(struct fake_disk *d);
bool fake_disk_damage(struct fake_disk *d); /* turns one bit somewhere; false when there is no file */
/* A file of these contents; replaces one of this name. */
void fake_disk_put(struct fake_disk *d, const char *name, const void *data, uint64_t bytes);

#endif
