/* The packed file's head and index: checking bytes that come from a disk. */
#include <string.h>
#include <xxhash.h>

#include "model/packed.h"

_Static_assert(sizeof(struct packed_head) == 48 && sizeof(struct packed_section) == 48, "as in the file");

uint64_t packed_check(const void *data, size_t n)
{
    return XXH3_64bits(data, n);
}

uint64_t packed_head_check(struct packed_head h, const void *sections)
{
    h.check = 0;
    uint64_t head = packed_check(&h, sizeof h);
    return XXH3_64bits_withSeed(sections, (size_t)h.n_sections * sizeof(struct packed_section), head);
}

struct packed_section packed_section_of(const struct packed_index *x, uint64_t i)
{
    struct packed_section s;
    memcpy(&s, x->sections + i * sizeof s, sizeof s);
    return s;
}

int packed_parse(struct packed_index *x, const uint8_t *data, size_t n, const char *path, struct err *e)
{
    struct packed_head *h = &x->head;
    if (n < sizeof *h)
        return err_set(e, HD_EFORMAT, "%s: %zu bytes are too few for packed weights", path, n);
    memcpy(h, data, sizeof *h);
    x->sections = data + sizeof *h;
    if (memcmp(h->magic, "HADALPK", 8) != 0)
        return err_set(e, HD_EFORMAT, "%s: does not hold packed weights", path);
    if (h->version != PACKED_VERSION)
        return err_set(e, HD_EFORMAT, "%s: has format version %u, expected %d", path, h->version, PACKED_VERSION);
    if (h->file_bytes != n)
        return err_set(e, HD_EFORMAT, "%s: has %zu bytes, its head says %llu (truncated?)", path, n,
                       (unsigned long long)h->file_bytes);
    if (h->n_sections > (n - sizeof *h) / sizeof(struct packed_section))
        return err_set(e, HD_EFORMAT, "%s: claims %llu sections, more than it has room for", path,
                       (unsigned long long)h->n_sections);
    if (packed_head_check(*h, x->sections) != h->check)
        return err_set(e, HD_EFORMAT, "%s: damaged: the checksum of its index differs", path);
    uint64_t first = sizeof *h + h->n_sections * sizeof(struct packed_section);
    for (uint64_t i = 0; i < h->n_sections; i++) {
        struct packed_section s = packed_section_of(x, i);
        if (s.bytes != 0 && (s.at % 64 != 0 || s.at < first || s.at > n || s.bytes > n - s.at))
            return err_set(e, HD_EFORMAT, "%s: section %llu lies outside of the file", path, (unsigned long long)i);
    }
    return HD_OK;
}
