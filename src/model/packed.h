/* packed: a file that holds a checkpoint's matrices in the device's own layout, made once and mapped from then on, so
 * that memory never holds a matrix twice and the next open reads nothing but headers.
 *
 *   head      magic, format and layout versions, fingerprint of the checkpoint, counts, checksum (XXH3) of head and
 *   index index     one section a matrix, in the order of weights_each_matrix: hash of its name, shape, place, checksum
 *   sections  each 64-byte aligned, as ops->pack wrote it; a section of 0 bytes says: runs as it is stored
 *
 * Numbers are little-endian. A file fits a checkpoint whose files have the names, sizes, times and tensors that the
 * fingerprint was taken of. It is written without a name (or under a temporary one), synced and renamed, so there is
 * the whole file or none. Opening checks the file's size, head, index and shapes; packed_verify reads everything.
 */
#ifndef HADAL_MODEL_PACKED_H
#define HADAL_MODEL_PACKED_H

#include "model/model.h"

/* Checkpoints below this many bytes are packed in memory at every open: about as fast as reading a file. */
#define PACKED_FROM_BYTES ((uint64_t)512 << 20)

enum { PACKED_VERSION = 1 };

struct packed_head {
    char magic[8]; /* "HADALPK" and a NUL */
    uint32_t version, layout;
    uint64_t source, n_sections, file_bytes;
    uint64_t check; /* XXH3 of head, with 0 here, and index */
};

struct packed_section {
    uint64_t name; /* XXH3 */
    uint64_t at, bytes, check;
    int32_t rows, cols;
    uint32_t dtype, zero;
};

struct packed_index {
    struct packed_head head;
    const uint8_t *sections; /* [n_sections] of struct packed_section, unaligned; in the file's bytes */
};

/* Takes apart the bytes of a whole file. HD_EFORMAT when they are not one, or damaged outside of the sections'
 * contents. Exposed for the fuzzer. */
int packed_parse(struct packed_index *x, const uint8_t *data, size_t n, const char *path, struct err *e);
struct packed_section packed_section_of(const struct packed_index *x, uint64_t i);
/* Checksum of head and index, and of a section's contents. */
uint64_t packed_head_check(struct packed_head h, const void *sections);
uint64_t packed_check(const void *data, size_t n);

/* What a packed file of this checkpoint must say of its source. */
uint64_t packed_source(const struct checkpoint *c);

/* Maps the file and gives every matrix of w its packed form (matrix.packed). The mapping must outlive the weights' use.
 * On error nothing is mapped and w is as before. */
int packed_attach(struct file_map *map, struct weights *w, struct dev *d, const char *path, struct err *e);
/* Writes the file, one matrix at a time. HD_EIO names the bytes when the disk is short. */
int packed_write(struct weights *w, struct dev *d, const char *path, const struct progress *p, struct err *e);
/* Reads every section and compares its checksum; HD_EFORMAT names the first matrix that differs. */
int packed_verify(struct weights *w, const char *path, const struct progress *p, struct err *e);

/* Where the packed file of the checkpoint in `dir` is looked for and made: beside it, else in cache_dir (NULL: nowhere
 * else). malloc'd. */
char *packed_path_beside(const char *dir);
char *packed_path_cached(const char *dir, const char *cache_dir);
/* Attaches the file named by o->packed_file, else the one beside the checkpoint or in o->cache_dir, which it makes when
 * there is none that fits. w was opened without data checks; before a file is made they run, when o asks for them. One
 * process at a time makes one; others wait for it. */
int packed_get(struct file_map *map, struct weights *w, struct dev *d, const char *dir, const struct model_options *o,
               const struct progress *p, struct err *e);
/* `hadal convert`: makes the file (out NULL: where packed_get would) unless it fits already; *path is malloc'd. */
int packed_convert(const char *dir, const char *out, const struct model_options *o, const struct progress *p,
                   char **path, bool *made, struct err *e);

#endif
