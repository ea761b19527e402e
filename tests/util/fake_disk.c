#include "fake_disk.h"

#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static bool one_in(struct fake_disk *d, uint32_t n)
{
    return n > 0 && rng_below(&d->rng, n) == 0;
}

static int find(const struct fake_disk *d, const char *name)
{
    for (int i = 0; i < FAKE_FILES_MAX; i++)
        if (strcmp(d->files[i].name, name) == 0)
            return i;
    return -1;
}

/* ---------------------------------------------------------------- the calls */

static int disk_list(void *self, void (*fn)(void *arg, const char *name, uint64_t bytes), void *arg)
{
    struct fake_disk *d = self;
    for (int i = 0; i < FAKE_FILES_MAX; i++)
        if (d->files[i].name[0] != '\0')
            fn(arg, d->files[i].name, d->files[i].bytes);
    return 0;
}

static int create(struct fake_disk *d, const char *name, uint64_t bytes)
{
    int i = find(d, "");
    assert(find(d, name) < 0 && i >= 0 && strlen(name) < FAKE_NAME_BYTES);
    if (d->capacity > 0 && d->taken + bytes > d->capacity)
        return -ENOSPC;
    struct fake_file *f = &d->files[i];
    snprintf(f->name, sizeof f->name, "%s", name);
    f->data = xcalloc(1, bytes);
    f->bytes = bytes;
    d->taken += bytes;
    return i;
}

static int disk_open(void *self, const char *name, bool make, uint64_t *bytes, int *file)
{
    struct fake_disk *d = self;
    if (make && d->dead)
        return EIO;
    if (one_in(d, d->fail_one_in)) {
        d->n_failed++;
        return make ? ENOSPC : EIO;
    }
    int i = make ? create(d, name, *bytes) : find(d, name);
    if (i < 0)
        return i == -1 ? ENOENT : -i;
    *bytes = d->files[i].bytes;
    d->files[i].n_open++;
    *file = i;
    return 0;
}

/* Half of a failing or last write is done all the same. */
static void move(struct fake_disk *d, struct spill_transfer *t)
{
    struct fake_file *f = &d->files[t->file];
    assert(f->n_open > 0 && t->offset % 4096 == 0 && t->bytes % 4096 == 0 && (uintptr_t)t->data % 4096 == 0);
    assert(t->offset + t->bytes <= f->bytes);
    bool fails = one_in(d, d->fail_one_in), dies = t->write && d->writes_to_death == 0;
    size_t n = fails || dies ? rng_below(&d->rng, (uint32_t)t->bytes) : t->bytes;
    d->writes_to_death -= t->write && d->writes_to_death >= 0;
    d->n_reads += !t->write;
    d->n_writes += t->write;
    if (d->dead) {
        t->error = t->write ? 0 : EIO;
        return;
    }
    if (t->write)
        memcpy(f->data + t->offset, t->data, n);
    else
        memcpy(t->data, f->data + t->offset, n);
    d->n_failed += fails;
    t->error = fails ? (t->write && one_in(d, 2) ? ENOSPC : EIO) : 0;
    d->dead = d->dead || dies;
}

static void disk_transfer(void *self, struct spill_transfer *t, int n)
{
    assert(n <= SPILL_TRANSFERS_MAX);
    for (int i = 0; i < n; i++)
        move(self, &t[i]);
}

static int disk_sync(void *self, int file)
{
    struct fake_disk *d = self;
    assert(d->files[file].n_open > 0);
    return one_in(d, d->fail_one_in) ? EIO : 0;
}

static void disk_close_file(void *self, int file)
{
    struct fake_disk *d = self;
    assert(d->files[file].n_open > 0);
    d->files[file].n_open--;
}

static int disk_remove(void *self, const char *name)
{
    struct fake_disk *d = self;
    int i = find(d, name);
    if (i < 0)
        return ENOENT;
    if (d->dead || one_in(d, d->fail_one_in))
        return EIO;
    d->taken -= d->files[i].bytes;
    free(d->files[i].data);
    d->files[i] = (struct fake_file){0};
    return 0;
}

static void disk_close(void *self)
{
    struct fake_disk *d = self;
    for (int i = 0; i < FAKE_FILES_MAX; i++)
        assert(d->files[i].n_open == 0);
}

static bool disk_ready(void *self)
{
    return !one_in(self, ((struct fake_disk *)self)->late_one_in);
}

/* ---------------------------------------------------------------- the disk */

void fake_disk_init(struct fake_disk *d, uint64_t seed)
{
    *d = (struct fake_disk){.rng = {seed}, .writes_to_death = -1};
}

void fake_disk_free(struct fake_disk *d)
{
    for (int i = 0; i < FAKE_FILES_MAX; i++)
        free(d->files[i].data);
    *d = (struct fake_disk){0};
}

struct spill_disk *fake_disk_open(struct fake_disk *d)
{
    struct spill_disk *s = xcalloc(1, sizeof *s);
    s->self = d;
    s->dir = xstrdup("fake");
    s->list = disk_list;
    s->open = disk_open;
    s->transfer = disk_transfer;
    s->sync = disk_sync;
    s->close_file = disk_close_file;
    s->remove = disk_remove;
    s->close = disk_close;
    s->ready = disk_ready;
    return s;
}

bool fake_disk_damage(struct fake_disk *d)
{
    int from = (int)rng_below(&d->rng, FAKE_FILES_MAX);
    for (int k = 0; k < FAKE_FILES_MAX; k++) {
        struct fake_file *f = &d->files[(from + k) % FAKE_FILES_MAX];
        if (f->name[0] == '\0' || f->bytes == 0)
            continue;
        f->data[rng_u64(&d->rng) % f->bytes] ^= (uint8_t)(1u << rng_below(&d->rng, 8));
        return true;
    }
    return false;
}

void fake_disk_put(struct fake_disk *d, const char *name, const void *data, uint64_t bytes)
{
    int i = find(d, name);
    if (i < 0)
        i = create(d, name, bytes);
    assert(i >= 0);
    free(d->files[i].data);
    d->files[i].data = xcalloc(1, bytes + 1);
    memcpy(d->files[i].data, data, bytes);
    d->taken += bytes - d->files[i].bytes;
    d->files[i].bytes = bytes;
}
