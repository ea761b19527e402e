/* Opening a cache folder: which files can be used, and what their record headers say. */
#include "engine/spill_disk.h"
#include "engine/spill_impl.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { HEADS_AT_ONCE = 64 };

/* A sound record header that was found. */
struct found {
    struct spill_key key, parent;
    uint64_t sequence;
    int32_t depth;
    enum spill_kind kind;
    struct spill_slot slot;
};

struct scan {
    struct spill *s;
    struct spill_foreign *names; /* files that are ours by name */
    int32_t n_names, cap_names;
    struct found *found;
    size_t n_found, cap_found;
    uint8_t *blocks; /* HEADS_AT_ONCE of them */
    bool failed;     /* no memory */
};

/* ---------------------------------------------------------------- files */

static bool number_of(const char *name, uint64_t *number)
{
    char again[SPILL_NAME_BYTES];
    *number = strncmp(name, "seg-", 4) == 0 ? strtoull(name + 4, NULL, 16) : 0;
    snprintf(again, sizeof again, "seg-%010" PRIx64 ".hkv", *number);
    return strcmp(name, again) == 0;
}

static void on_file(void *arg, const char *name, uint64_t bytes)
{
    struct scan *c = arg;
    uint64_t number;
    if (c->failed || !number_of(name, &number))
        return;
    if (c->n_names == c->cap_names) {
        int32_t cap = c->cap_names == 0 ? 64 : 2 * c->cap_names;
        struct spill_foreign *more = realloc(c->names, (size_t)cap * sizeof *more);
        c->failed = more == NULL;
        if (c->failed)
            return;
        c->names = more;
        c->cap_names = cap;
    }
    struct spill_foreign *f = &c->names[c->n_names++];
    snprintf(f->name, sizeof f->name, "%s", name);
    f->bytes = bytes;
    c->s->next_number = number >= c->s->next_number ? number + 1 : c->s->next_number;
}

static int by_name(const void *a, const void *b)
{
    return strcmp(((const struct spill_foreign *)a)->name, ((const struct spill_foreign *)b)->name);
}

static int read_blocks(struct scan *c, int file, uint64_t offset, uint32_t n)
{
    struct spill_transfer t = {file, false, c->blocks, (size_t)n * SPILL_ALIGN, offset, 0};
    c->s->disk->transfer(c->s->disk->self, &t, 1);
    return t.error;
}

/* ---------------------------------------------------------------- records */

static bool add_found(struct scan *c, const struct spill_record *r, struct spill_slot slot)
{
    if (c->n_found == c->cap_found) {
        size_t cap = c->cap_found == 0 ? 1024 : 2 * c->cap_found;
        struct found *more = realloc(c->found, cap * sizeof *more);
        if (more == NULL)
            return false;
        c->found = more;
        c->cap_found = cap;
    }
    c->found[c->n_found++] = (struct found){r->key, r->parent, r->sequence, (int32_t)r->depth, r->kind, slot};
    return true;
}

/* What cannot be used is a free slot. */
static int take_slot(struct scan *c, const struct spill_record *r, struct spill_slot slot, int32_t *n_damaged)
{
    struct spill_file *f = &c->s->files[slot.file];
    if (!spill_record_sound(r, f->head.kind, f->head.payload_bytes)) {
        *n_damaged += !spill_record_empty(r);
        spill_slot_give(c->s, f->head.kind, slot);
        return 0;
    }
    if (!add_found(c, r, slot))
        c->failed = true;
    return 0;
}

static void read_records(struct scan *c, int32_t i_file)
{
    struct spill_file *f = &c->s->files[i_file];
    int32_t n_damaged = 0;
    int error = 0;
    for (uint32_t at = 0; at < f->head.n_slots && !c->failed; at += HEADS_AT_ONCE) {
        uint32_t n = f->head.n_slots - at < HEADS_AT_ONCE ? f->head.n_slots - at : HEADS_AT_ONCE;
        int once = read_blocks(c, f->file, spill_head_at(at), n);
        error = once != 0 ? once : error;
        c->s->stats.read_errors += once != 0;
        for (uint32_t k = 0; k < n; k++) {
            struct spill_slot slot = {i_file, at + k};
            if (once != 0)
                spill_slot_give(c->s, f->head.kind, slot);
            else
                take_slot(c, (const struct spill_record *)(const void *)(c->blocks + (size_t)k * SPILL_ALIGN), slot,
                          &n_damaged);
        }
    }
    f->told = n_damaged > 0 || error != 0;
    c->s->stats.damaged += (uint64_t)n_damaged;
    if (error != 0)
        spill_say(c->s, "%s/%s cannot be read (%s): what could not be is left out", c->s->disk->dir, f->name,
                  strerror(error));
    else if (n_damaged > 0)
        spill_say(c->s, "%s/%s: %d damaged records are left out", c->s->disk->dir, f->name, n_damaged);
}

/* ---------------------------------------------------------------- one file */

static void keep_away(struct scan *c, const struct spill_foreign *f, const char *why)
{
    struct spill *s = c->s;
    spill_say(s, "%s/%s %s: skipped", s->disk->dir, f->name, why);
    s->foreign[s->n_foreign++] = *f;
    s->foreign_bytes += f->bytes;
}

static const char *head_problem(struct scan *c, const struct spill_foreign *n, struct spill_file *f)
{
    const struct spill *s = c->s;
    uint64_t bytes = 0;
    int error = s->disk->open(s->disk->self, n->name, false, &bytes, &f->file);
    if (error != 0)
        return strerror(error);
    const char *why = bytes < SPILL_ALIGN ? "is truncated" : NULL;
    if (why == NULL && (error = read_blocks(c, f->file, 0, 1)) != 0)
        why = strerror(error);
    if (why == NULL) {
        memcpy(&f->head, c->blocks, sizeof f->head);
        why = spill_segment_check(&f->head, bytes, s->o.fingerprint);
    }
    if (why == NULL && f->head.payload_bytes != s->part[f->head.kind].payload_bytes)
        why = "has records of another size";
    if (why != NULL)
        s->disk->close_file(s->disk->self, f->file);
    return why;
}

/* Files beyond the limit (it was greater once) go at once. */
static void take_file(struct scan *c, const struct spill_foreign *n)
{
    struct spill *s = c->s;
    struct spill_file f = {.file = -1};
    const char *why = head_problem(c, n, &f);
    if (why != NULL) {
        keep_away(c, n, why);
        return;
    }
    snprintf(f.name, sizeof f.name, "%s", n->name);
    struct spill_part *p = &s->part[f.head.kind];
    if (p->taken_bytes + n->bytes > p->share_bytes) {
        s->disk->close_file(s->disk->self, f.file);
        if (s->disk->remove(s->disk->self, f.name) != 0)
            keep_away(c, n, "is beyond the limit and cannot be removed");
        return;
    }
    spill_file_add(s, &f);
    read_records(c, s->n_files - 1);
}

/* ---------------------------------------------------------------- the index of what was found */

/* Parents before children; of two records of a key the one written last. */
static int by_depth(const void *a, const void *b)
{
    const struct found *x = a, *y = b;
    if (x->depth != y->depth)
        return x->depth < y->depth ? -1 : 1;
    return x->sequence != y->sequence ? (x->sequence > y->sequence ? -1 : 1) : 0;
}

static void index_one(struct spill *s, const struct found *f)
{
    int32_t parent = SPILL_NONE, i = spill_find(s, f->key);
    bool wrong = i != SPILL_NONE && (s->entries[i].depth != f->depth || s->entries[i].slot[f->kind].file != SPILL_NONE);
    if (!wrong && f->depth > 1) {
        parent = spill_entry_get(s, f->parent, f->depth - 1);
        wrong = parent == SPILL_NONE || s->entries[parent].depth != f->depth - 1;
    }
    i = wrong ? SPILL_NONE : spill_entry_get(s, f->key, f->depth);
    if (i == SPILL_NONE || i == parent) {
        spill_slot_give(s, f->kind, f->slot);
        if (parent != SPILL_NONE)
            spill_entry_tidy(s, parent);
        return;
    }
    struct spill_entry *x = &s->entries[i];
    spill_entry_link(s, i, parent);
    x->slot[f->kind] = f->slot;
    x->last_use = f->sequence > x->last_use ? f->sequence : x->last_use;
    s->clock = f->sequence > s->clock ? f->sequence : s->clock;
    s->part[f->kind].n_stored++;
    spill_entry_weigh(s, i);
}

static bool make_arrays(struct scan *c)
{
    struct spill *s = c->s;
    uint64_t n = (uint64_t)c->n_names + 4;
    for (int k = 0; k < SPILL_KINDS; k++)
        n += s->part[k].file_bytes == 0 ? 0 : s->part[k].share_bytes / s->part[k].file_bytes;
    s->cap_files = n > INT32_MAX ? INT32_MAX : (int32_t)n;
    s->cap_foreign = c->n_names;
    s->files = calloc((size_t)s->cap_files, sizeof *s->files);
    s->foreign = calloc((size_t)c->n_names + 1, sizeof *s->foreign);
    c->blocks = aligned_alloc(SPILL_ALIGN, (size_t)HEADS_AT_ONCE * SPILL_ALIGN);
    return s->files != NULL && s->foreign != NULL && c->blocks != NULL;
}

int spill_scan(struct spill *s, struct err *e)
{
    struct scan c = {.s = s};
    int rc = HD_OK, error = s->disk->list(s->disk->self, on_file, &c);
    if (error != 0)
        rc = err_sys(e, error, "cannot list the cache folder %s", s->disk->dir);
    if (rc == HD_OK && !c.failed && make_arrays(&c)) {
        if (c.n_names > 0)
            qsort(c.names, (size_t)c.n_names, sizeof *c.names, by_name);
        for (int32_t i = 0; i < c.n_names && !c.failed; i++)
            take_file(&c, &c.names[i]);
        if (c.n_found > 0)
            qsort(c.found, c.n_found, sizeof *c.found, by_depth);
        for (size_t i = 0; i < c.n_found; i++)
            index_one(s, &c.found[i]);
    } else if (rc == HD_OK) {
        c.failed = true;
    }
    if (c.failed)
        rc = err_set(e, HD_ENOMEM, "no memory for the list of what the cache folder %s holds", s->disk->dir);
    free(c.names);
    free(c.found);
    free(c.blocks);
    return rc;
}
