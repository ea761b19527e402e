#include "engine/spill_form.h"

#include <assert.h>
#include <string.h>
#include <xxhash.h>

enum { ORDER_MARK = 0x01020304, RECORD_MAGIC = 0x4b56524d };
static const char segment_magic[8] = "HADALSPL";

static_assert(sizeof(struct spill_record) <= SPILL_ALIGN && sizeof(struct spill_segment) <= SPILL_ALIGN,
              "headers fit into a block");

/* ---------------------------------------------------------------- keys */

static struct spill_key key_of(const void *p, size_t n)
{
    XXH128_hash_t h = XXH3_128bits(p, n);
    return (struct spill_key){h.low64, h.high64};
}

struct spill_key spill_key_of_user(const char *user)
{
    return key_of(user, strlen(user));
}

struct spill_key spill_key_next(struct spill_key before, const int32_t *page_tokens)
{
    struct {
        struct spill_key before;
        int32_t tokens[KV_PAGE_TOKENS];
    } all = {.before = before};
    memcpy(all.tokens, page_tokens, sizeof all.tokens);
    return key_of(&all, sizeof all);
}

bool spill_key_equal(struct spill_key a, struct spill_key b)
{
    return a.low == b.low && a.high == b.high;
}

/* ---------------------------------------------------------------- places */

uint64_t spill_stride(uint64_t payload_bytes)
{
    return (payload_bytes + SPILL_ALIGN - 1) / SPILL_ALIGN * SPILL_ALIGN;
}

uint64_t spill_segment_bytes(uint64_t n_slots, uint64_t payload_bytes)
{
    return SPILL_ALIGN + n_slots * (SPILL_ALIGN + spill_stride(payload_bytes));
}

uint64_t spill_head_at(uint32_t slot)
{
    return SPILL_ALIGN * (uint64_t)(slot + 1);
}

uint64_t spill_data_at(const struct spill_segment *s, uint32_t slot)
{
    return SPILL_ALIGN * ((uint64_t)s->n_slots + 1) + slot * spill_stride(s->payload_bytes);
}

/* ---------------------------------------------------------------- segments */

void spill_segment_seal(struct spill_segment *s)
{
    memcpy(s->magic, segment_magic, sizeof s->magic);
    s->order = ORDER_MARK;
    s->version = SPILL_VERSION;
    s->sum = XXH3_64bits(s, offsetof(struct spill_segment, sum));
}

const char *spill_segment_check(const struct spill_segment *s, uint64_t file_bytes, uint64_t fingerprint)
{
    if (memcmp(s->magic, segment_magic, sizeof s->magic) != 0)
        return "is no cache file of Hadal";
    if (s->order != ORDER_MARK)
        return "was written in another byte order";
    if (s->version != SPILL_VERSION)
        return "has the format of another version of Hadal";
    if (s->sum != XXH3_64bits(s, offsetof(struct spill_segment, sum)))
        return "has a damaged header";
    if (s->fingerprint != fingerprint)
        return "belongs to another model or other numerics";
    if (s->kind >= SPILL_KINDS || s->n_slots == 0 || s->n_slots > INT32_MAX || s->payload_bytes == 0 ||
        s->payload_bytes > UINT32_MAX)
        return "has a damaged header";
    if (file_bytes != spill_segment_bytes(s->n_slots, s->payload_bytes))
        return "is truncated";
    return NULL;
}

/* ---------------------------------------------------------------- records */

void spill_record_seal(struct spill_record *r, const void *payload)
{
    r->magic = RECORD_MAGIC;
    r->payload_sum = XXH3_64bits(payload, r->payload_bytes);
    r->sum = XXH3_64bits(r, offsetof(struct spill_record, sum));
}

bool spill_record_empty(const struct spill_record *r)
{
    return r->magic == 0 && r->sum == 0;
}

bool spill_record_sound(const struct spill_record *r, enum spill_kind kind, uint64_t payload_bytes)
{
    return r->magic == RECORD_MAGIC && r->sum == XXH3_64bits(r, offsetof(struct spill_record, sum)) &&
           r->kind == kind && r->payload_bytes == payload_bytes && r->depth >= 1 && r->depth <= INT32_MAX &&
           r->user_bytes <= SPILL_USER_BYTES;
}

bool spill_record_is(const struct spill_record *r, const struct spill_record *want, const void *payload)
{
    return spill_record_sound(r, want->kind, want->payload_bytes) && spill_key_equal(r->key, want->key) &&
           spill_key_equal(r->parent, want->parent) && r->depth == want->depth && r->user_bytes == want->user_bytes &&
           memcmp(r->user, want->user, want->user_bytes) == 0 &&
           memcmp(r->tokens, want->tokens, sizeof r->tokens) == 0 &&
           r->payload_sum == XXH3_64bits(payload, r->payload_bytes);
}
