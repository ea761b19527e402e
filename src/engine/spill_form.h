/* What a cache file looks like (docs/SERVING.md has the drawing).
 *
 * A segment is one file of a fixed size for records of one kind: its header, then the record headers, then the payloads, all
 * in blocks of 4 KiB so that O_DIRECT can move them. A record is written payload first, header last; the header holds the
 * checksum of both. So a record is either whole or does not verify, whenever the process or the machine stops. Numbers
 * are little-endian, as all machines are that Hadal runs on; a mark says so. */
#ifndef HADAL_ENGINE_SPILL_FORM_H
#define HADAL_ENGINE_SPILL_FORM_H

#include "base/base.h"
#include "ops/ops.h"

enum { SPILL_ALIGN = 4096, SPILL_VERSION = 1, SPILL_USER_BYTES = 1024, SPILL_NAME_BYTES = 32 };

/* Names a beginning of a token sequence of one user: a hash over the user's id and all tokens up to a page end. */
struct spill_key {
    uint64_t low, high;
};
struct spill_key spill_key_of_user(const char *user);
struct spill_key spill_key_next(struct spill_key before, const int32_t *page_tokens);
bool spill_key_equal(struct spill_key a, struct spill_key b);

enum spill_kind { SPILL_PAGE, SPILL_TAIL, SPILL_KINDS };

struct spill_segment {
    char magic[8];
    uint32_t order, version; /* order: 0x01020304 in the writer's byte order */
    uint64_t fingerprint;    /* of model, weights, numerics and formats */
    uint32_t kind, n_slots;
    uint64_t payload_bytes, number;
    uint64_t sum;            /* of what is before it */
};

struct spill_record {
    uint32_t magic, kind;
    struct spill_key key, parent;
    uint64_t sequence;       /* of writing: the greater one of two records of a key counts */
    uint64_t payload_sum, payload_bytes;
    uint32_t depth, user_bytes;
    int32_t tokens[KV_PAGE_TOKENS];
    char user[SPILL_USER_BYTES];
    uint64_t sum;            /* of what is before it */
};

/* Bytes between payloads; bytes of a segment; where things lie in it. */
uint64_t spill_stride(uint64_t payload_bytes);
uint64_t spill_segment_bytes(uint64_t n_slots, uint64_t payload_bytes);
uint64_t spill_head_at(uint32_t slot);
uint64_t spill_data_at(const struct spill_segment *s, uint32_t slot);

void spill_segment_seal(struct spill_segment *s); /* magic, order, version, sum */
/* NULL when the file can be used by an engine of this fingerprint, otherwise why not, as the end of a sentence. */
const char *spill_segment_check(const struct spill_segment *s, uint64_t file_bytes, uint64_t fingerprint);

void spill_record_seal(struct spill_record *r, const void *payload); /* magic, sums */
bool spill_record_empty(const struct spill_record *r);               /* never written */
bool spill_record_sound(const struct spill_record *r, enum spill_kind kind, uint64_t payload_bytes);
/* A sound record that holds exactly what is wanted: the same user, tokens, place and kind, and a payload that verifies. */
bool spill_record_is(const struct spill_record *r, const struct spill_record *want, const void *payload);

#endif
