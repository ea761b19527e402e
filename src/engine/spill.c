/* Records of the disk tier: opening, saving, loading, what the disk refuses. */
#include "engine/spill.h"
#include "engine/spill_disk.h"
#include "engine/spill_impl.h"

#include <assert.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define TAIL_PART 0.3               /* of the limit is for tails */
#define RETRY_NS 10000000000u
enum { FILES_WANTED = 32, OPS_MIN = 8, OPS_MAX = 64, OP_BYTES = 32 << 20 };

void spill_say(const struct spill *s, const char *fmt, ...)
{
    char line[1024];
    va_list ap;
    if (s->o.log == NULL)
        return;
    va_start(ap, fmt);
    vsnprintf(line, sizeof line, fmt, ap);
    va_end(ap);
    s->o.log(s->o.log_arg, line);
}

/* ---------------------------------------------------------------- opening and closing */

static void lay_out(struct spill_part *p, uint64_t payload_bytes, uint64_t share_bytes)
{
    *p = (struct spill_part){.payload_bytes = payload_bytes};
    if (payload_bytes == 0)
        return;
    uint64_t one = SPILL_ALIGN + spill_stride(payload_bytes), n = share_bytes / FILES_WANTED / one;
    p->share_bytes = share_bytes;
    p->slots_per_file = n < 1 ? 1 : n > 1 << 20 ? 1 << 20 : (uint32_t)n;
    p->file_bytes = spill_segment_bytes(p->slots_per_file, payload_bytes);
    p->cap_slots = (int64_t)(share_bytes / one);
}

static int lay_out_parts(struct spill *s, struct err *e)
{
    uint64_t limit = s->o.limit_bytes, for_tails = s->o.tail_bytes == 0 ? 0 : (uint64_t)(TAIL_PART * (double)limit);
    lay_out(&s->part[SPILL_PAGE], s->o.page_bytes, limit - for_tails);
    lay_out(&s->part[SPILL_TAIL], s->o.tail_bytes, for_tails);
    for (int k = 0; k < SPILL_KINDS; k++)
        if (s->part[k].file_bytes > s->part[k].share_bytes)
            return err_set(e, HD_EARG, "a disk cache of %" PRIu64 " bytes is too small: pages of this model have %" PRIu64
                           " bytes, window states %" PRIu64, limit, s->o.page_bytes, s->o.tail_bytes);
    return HD_OK;
}

/* Buffers for records on their way, and one block for each kind's new file. */
static bool make_ops(struct spill *s)
{
    uint64_t most = s->o.page_bytes > s->o.tail_bytes ? s->o.page_bytes : s->o.tail_bytes;
    size_t one = (size_t)(SPILL_ALIGN + spill_stride(most));
    size_t n = OP_BYTES / one;
    s->n_ops = n < OPS_MIN ? OPS_MIN : n > OPS_MAX ? OPS_MAX : (int)n;
    s->ops = calloc((size_t)s->n_ops, sizeof *s->ops);
    s->idle = calloc((size_t)s->n_ops, sizeof(struct spill_op *));
    s->op_memory = aligned_alloc(SPILL_ALIGN, (size_t)s->n_ops * one);
    s->grow_memory = aligned_alloc(SPILL_ALIGN, (size_t)SPILL_KINDS * SPILL_ALIGN);
    if (s->ops == NULL || s->idle == NULL || s->op_memory == NULL || s->grow_memory == NULL)
        return false;
    memset(s->op_memory, 0, (size_t)s->n_ops * one);
    for (int i = 0; i < s->n_ops; i++) {
        uint8_t *at = (uint8_t *)s->op_memory + (size_t)i * one;
        s->ops[i].record = (struct spill_record *)(void *)at;
        s->ops[i].data = at + SPILL_ALIGN;
        s->idle[s->n_idle++] = &s->ops[i];
    }
    for (int k = 0; k < SPILL_KINDS; k++)
        s->grow[k].record = (struct spill_record *)(void *)((uint8_t *)s->grow_memory + (size_t)k * SPILL_ALIGN);
    return true;
}

static void free_all(struct spill *s)
{
    for (int32_t i = 0; i < s->n_files; i++)
        s->disk->close_file(s->disk->self, s->files[i].file);
    if (s->disk->close != NULL)
        s->disk->close(s->disk->self);
    free(s->disk->dir);
    free(s->disk);
    spill_index_free(s);
    free(s->files);
    free(s->foreign);
    free(s->ops);
    free(s->idle);
    free(s->op_memory);
    free(s->grow_memory);
    free(s);
}

static int open_index(struct spill *s, struct err *e)
{
    int rc = lay_out_parts(s, e);
    if (rc == HD_OK && (!spill_index_open(s) || !make_ops(s)))
        rc = err_set(e, HD_ENOMEM, "no memory for the index of the cache folder %s", s->disk->dir);
    if (rc == HD_OK)
        rc = spill_scan(s, e);
    if (rc == HD_OK)
        rc = spill_work_open(&s->work, s->disk, !s->o.no_thread, s->o.wake, s->o.wake_arg, e);
    return rc;
}

int spill_open_disk(struct spill **out, const struct spill_options *o, struct spill_disk *d, struct err *e)
{
    struct spill *s = calloc(1, sizeof *s);
    if (s == NULL) {
        d->close(d->self);
        free(d->dir);
        free(d);
        return err_set(e, HD_ENOMEM, "no memory for the disk cache");
    }
    s->o = *o;
    s->disk = d;
    s->next_number = 1;
    s->o.retry_ns = o->retry_ns == 0 ? RETRY_NS : o->retry_ns;
    int rc = open_index(s, e);
    if (rc != HD_OK) {
        free_all(s);
        return rc;
    }
    s->stats.on = true;
    *out = s;
    return HD_OK;
}

/* A slower way is not taken in silence. */
static void tell_way(const struct spill *s)
{
    if (!s->o.plain && (!s->disk->ring || !s->disk->direct))
        spill_say(s, "cache folder %s: %s%s%s", s->disk->dir, s->disk->ring ? "" : "no io_uring, reads one after another",
                  s->disk->ring || s->disk->direct ? "" : "; ", s->disk->direct ? "" : "no O_DIRECT on this file system");
}

int spill_open(struct spill **out, const struct spill_options *o, struct err *e)
{
    struct spill_disk *d = calloc(1, sizeof *d);
    if (d == NULL)
        return err_set(e, HD_ENOMEM, "no memory for the disk cache");
    int rc = spill_disk_open(d, o->dir, o->plain, e);
    if (rc != HD_OK) {
        free(d);
        return rc;
    }
    rc = spill_open_disk(out, o, d, e);
    if (rc == HD_OK)
        tell_way(*out);
    return rc;
}

void spill_close(struct spill **ps)
{
    struct spill *s = *ps;
    if (s == NULL)
        return;
    s->o.loaded = NULL;
    while (spill_working(s))
        spill_poll(s, true);
    spill_work_close(&s->work);
    for (int32_t i = 0; i < s->n_files; i++)
        s->disk->sync(s->disk->self, s->files[i].file); /* what is not on the disk does not verify later */
    free_all(s);
    *ps = NULL;
}

/* ---------------------------------------------------------------- asking */

bool spill_has(const struct spill *s, struct spill_key key, enum spill_kind kind)
{
    int32_t i = spill_find(s, key);
    return i != SPILL_NONE && s->entries[i].slot[kind].file != SPILL_NONE && !s->entries[i].saving[kind];
}

bool spill_takes(const struct spill *s, struct spill_key key, enum spill_kind kind)
{
    int32_t i = spill_find(s, key);
    return s->part[kind].payload_bytes > 0 && (i == SPILL_NONE || s->entries[i].slot[kind].file == SPILL_NONE);
}

void spill_touch(struct spill *s, struct spill_key key)
{
    int32_t i = spill_find(s, key);
    if (i != SPILL_NONE)
        s->entries[i].last_use = ++s->clock;
}

bool spill_working(const struct spill *s)
{
    return s->n_idle < s->n_ops || s->part[SPILL_PAGE].growing || s->part[SPILL_TAIL].growing;
}

void spill_read_stats(const struct spill *s, struct disk_stats *out)
{
    *out = s->stats;
    out->pages = s->part[SPILL_PAGE].n_stored;
    out->tails = s->part[SPILL_TAIL].n_stored;
    out->bytes = s->part[SPILL_PAGE].taken_bytes + s->part[SPILL_TAIL].taken_bytes + s->foreign_bytes;
    out->limit_bytes = s->o.limit_bytes;
    out->paused = s->paused || s->part[SPILL_PAGE].grow_after_ns != 0 || s->part[SPILL_TAIL].grow_after_ns != 0;
    out->direct = s->disk->direct;
    out->ring = s->disk->ring;
}

/* ---------------------------------------------------------------- more room */

/* Files of others are removed first, one for each new file, the oldest first. */
static void name_victim(struct spill *s, uint64_t bytes, char *name)
{
    uint64_t taken = s->part[SPILL_PAGE].taken_bytes + s->part[SPILL_TAIL].taken_bytes + s->foreign_bytes;
    name[0] = '\0';
    if (s->n_foreign == 0 || taken + bytes <= s->o.limit_bytes)
        return;
    memcpy(name, s->foreign[0].name, SPILL_NAME_BYTES);
    s->foreign_bytes -= s->foreign[0].bytes;
    memmove(&s->foreign[0], &s->foreign[1], (size_t)--s->n_foreign * sizeof *s->foreign);
}

/* Whether a new file is on its way. */
static bool grow(struct spill *s, enum spill_kind kind)
{
    struct spill_part *p = &s->part[kind];
    struct spill_op *op = &s->grow[kind];
    if (p->growing)
        return true;
    if (p->taken_bytes + p->file_bytes > p->share_bytes || s->n_files == s->cap_files ||
        p->n_slots + p->slots_per_file > p->cap_slots || now_ns() < p->grow_after_ns)
        return false;
    if (p->just_failed) {
        p->just_failed = false;
        return false;
    }
    op->act = SPILL_GROW;
    op->kind = kind;
    op->segment = (struct spill_segment){.fingerprint = s->o.fingerprint, .kind = kind, .n_slots = p->slots_per_file,
                                         .payload_bytes = p->payload_bytes, .number = s->next_number};
    spill_segment_seal(&op->segment);
    snprintf(op->name, sizeof op->name, "seg-%010" PRIx64 ".hkv", s->next_number++);
    name_victim(s, p->file_bytes, op->remove);
    p->growing = true;
    spill_work_add(&s->work, op);
    return true;
}

static void grown(struct spill *s, struct spill_op *op)
{
    struct spill_part *p = &s->part[op->kind];
    bool was_full = p->grow_after_ns != 0;
    p->growing = false;
    p->just_failed = op->error != 0;
    p->grow_after_ns = op->error == 0 ? 0 : now_ns() + s->o.retry_ns;
    if (op->error != 0) {
        s->stats.write_errors++;
        if (!was_full)
            spill_say(s, "no room for a new file in the cache folder %s (%s): it stays as large as it is", s->disk->dir,
                      strerror(op->error));
        return;
    }
    if (was_full)
        spill_say(s, "the cache folder %s can grow again", s->disk->dir);
    struct spill_file f = {.head = op->segment, .file = op->file};
    memcpy(f.name, op->name, sizeof f.name);
    spill_file_add(s, &f);
    for (uint32_t i = op->segment.n_slots; i > 0; i--)
        spill_slot_give(s, op->kind, (struct spill_slot){s->n_files - 1, i - 1});
}

/* ---------------------------------------------------------------- saving */

static void fill_record(struct spill_record *r, const struct spill_place *p, enum spill_kind kind, uint64_t payload_bytes)
{
    size_t n = strlen(p->user);
    memset(r, 0, SPILL_ALIGN);
    r->kind = kind;
    r->key = p->key;
    r->parent = p->parent;
    r->payload_bytes = payload_bytes;
    r->depth = (uint32_t)p->depth;
    r->user_bytes = (uint32_t)n;
    memcpy(r->tokens, p->tokens, sizeof r->tokens);
    memcpy(r->user, p->user, n);
}

static void aim(const struct spill *s, struct spill_op *op, int32_t entry, enum spill_kind kind, struct spill_slot slot)
{
    const struct spill_file *f = &s->files[slot.file];
    op->entry = entry;
    op->kind = kind;
    op->i_segment = slot.file;
    op->slot = slot.at;
    op->file = f->file;
    op->head_at = spill_head_at(slot.at);
    op->data_at = spill_data_at(&f->head, slot.at);
    op->data_bytes = spill_stride(f->head.payload_bytes);
}

static enum spill_answer entry_for(struct spill *s, const struct spill_place *p, int32_t *entry)
{
    int32_t parent = p->depth == 1 ? SPILL_NONE : spill_entry_get(s, p->parent, p->depth - 1);
    if (p->depth > 1 && (parent == SPILL_NONE || s->entries[parent].depth != p->depth - 1))
        return SPILL_REFUSED;
    if (parent != SPILL_NONE) {
        s->entries[parent].n_children++; /* so that it stays while room is made */
        spill_entry_weigh(s, parent);
    }
    *entry = spill_entry_get(s, p->key, p->depth);
    bool fits = *entry != SPILL_NONE && s->entries[*entry].depth == p->depth;
    if (fits)
        spill_entry_link(s, *entry, parent);
    if (parent != SPILL_NONE) {
        s->entries[parent].n_children--;
        spill_entry_tidy(s, parent);
    }
    return fits ? SPILL_TAKEN : SPILL_REFUSED;
}

enum spill_answer spill_save(struct spill *s, const struct spill_place *p, enum spill_kind kind, const void *data)
{
    struct spill_slot slot;
    int32_t i;
    assert(spill_takes(s, p->key, kind));
    if (strlen(p->user) > SPILL_USER_BYTES || (s->paused && now_ns() < s->pause_until_ns))
        return SPILL_REFUSED;
    if (s->n_idle == 0 || (s->part[kind].n_free == 0 && grow(s, kind)))
        return SPILL_BUSY;
    if (entry_for(s, p, &i) != SPILL_TAKEN)
        return SPILL_REFUSED;
    struct spill_entry *x = &s->entries[i];
    x->saving[kind] = true; /* it stays while room is made */
    spill_entry_weigh(s, i);
    if (!spill_slot_take(s, kind, true, &slot)) {
        x->saving[kind] = false;
        spill_entry_tidy(s, i);
        return spill_working(s) ? SPILL_BUSY : SPILL_REFUSED;
    }
    struct spill_op *op = s->idle[--s->n_idle];
    x->slot[kind] = slot;
    x->last_use = ++s->clock;
    op->act = SPILL_SAVE;
    op->tag = NULL;
    fill_record(op->record, p, kind, s->part[kind].payload_bytes);
    op->record->sequence = s->clock;
    memcpy(op->data, data, (size_t)s->part[kind].payload_bytes);
    aim(s, op, i, kind, slot);
    spill_work_add(&s->work, op);
    return SPILL_TAKEN;
}

static void saved(struct spill *s, struct spill_op *op)
{
    struct spill_entry *x = &s->entries[op->entry];
    if (op->error != 0) {
        spill_slot_give(s, op->kind, x->slot[op->kind]);
        x->slot[op->kind].file = SPILL_NONE;
        x->saving[op->kind] = false;
        s->stats.write_errors++;
        s->pause_until_ns = now_ns() + s->o.retry_ns;
        if (!s->paused)
            spill_say(s, "cannot write %s/%s (%s): nothing more is saved for now", s->disk->dir,
                      s->files[op->i_segment].name, strerror(op->error));
        s->paused = true;
    } else {
        x->saving[op->kind] = false;
        s->part[op->kind].n_stored++;
        *(op->kind == SPILL_PAGE ? &s->stats.pages_saved : &s->stats.tails_saved) += 1;
        if (s->paused && now_ns() >= s->pause_until_ns) {
            spill_say(s, "the cache folder %s takes pages again", s->disk->dir);
            s->paused = false;
        }
    }
    spill_entry_tidy(s, op->entry);
}

/* ---------------------------------------------------------------- loading */

bool spill_load(struct spill *s, const struct spill_place *p, enum spill_kind kind, void *tag)
{
    int32_t i = spill_find(s, p->key);
    assert(spill_has(s, p->key, kind));
    if (s->n_idle == 0)
        return false;
    struct spill_op *op = s->idle[--s->n_idle];
    struct spill_entry *x = &s->entries[i];
    op->act = SPILL_LOAD;
    op->tag = tag;
    fill_record(op->record, p, kind, s->part[kind].payload_bytes);
    op->want = *op->record;
    aim(s, op, i, kind, x->slot[kind]);
    x->n_readers++;
    x->last_use = ++s->clock;
    spill_entry_weigh(s, i);
    spill_work_add(&s->work, op);
    return true;
}

void spill_forget(struct spill *s, const void *tag)
{
    for (int i = 0; i < s->n_ops; i++)
        if (s->ops[i].tag == tag)
            s->ops[i].tag = NULL;
}

static void tell_bad(struct spill *s, const struct spill_op *op)
{
    struct spill_file *f = &s->files[op->i_segment];
    *(op->error != 0 ? &s->stats.read_errors : &s->stats.damaged) += 1;
    if (!f->told)
        spill_say(s, "%s/%s: %s is left out (%s)", s->disk->dir, f->name,
                  op->kind == SPILL_PAGE ? "a page" : "a window state", op->error != 0 ? strerror(op->error) : "damaged");
    f->told = true;
}

static void loaded(struct spill *s, struct spill_op *op)
{
    struct spill_entry *x = &s->entries[op->entry];
    bool bad = op->error != 0 || op->damaged;
    struct spill_slot slot = {op->i_segment, op->slot};
    x->n_readers--;
    /* Another reader may have found it before; then the slot may hold something else by now. */
    if (bad && x->slot[op->kind].file == slot.file && x->slot[op->kind].at == slot.at && !x->saving[op->kind]) {
        tell_bad(s, op);
        spill_drop_record(s, op->entry, op->kind);
    } else {
        spill_entry_tidy(s, op->entry);
    }
    if (!bad)
        *(op->kind == SPILL_PAGE ? &s->stats.pages_loaded : &s->stats.tails_loaded) += 1;
    if (op->tag != NULL && s->o.loaded != NULL)
        s->o.loaded(s->o.loaded_arg, op->tag, op->kind, !bad, op->data);
    op->tag = NULL;
}

void spill_poll(struct spill *s, bool wait)
{
    struct spill_op *op = spill_work_done(&s->work, wait), *next;
    for (; op != NULL; op = next) {
        next = op->next;
        if (op->act == SPILL_GROW) {
            grown(s, op);
            continue;
        }
        if (op->act == SPILL_SAVE)
            saved(s, op);
        else
            loaded(s, op);
        s->idle[s->n_idle++] = op;
    }
}
