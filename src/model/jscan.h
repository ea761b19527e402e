/* jscan: a pull scanner over JSON text for the two big files of a checkpoint, the safetensors header and the shard
 * index (together some 30 MB of JSON for 150,000 tensors, read at every start). It builds no tree: the caller asks
 * for what must come next. Small files go through jansson instead. */
#ifndef HADAL_MODEL_JSCAN_H
#define HADAL_MODEL_JSCAN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { JSCAN_DEPTH_MAX = 64 };

struct jscan {
    const char *start, *p, *end;
    bool failed; /* sticky; p then points near the offence */
};

void jscan_init(struct jscan *j, const char *text, size_t n);
size_t jscan_at(const struct jscan *j); /* byte offset, for errors */

/* Each call skips white space first and returns false (and sets failed) when something else comes. */
bool jscan_char(struct jscan *j, char c);
bool jscan_u64(struct jscan *j, uint64_t *out);
/* Decodes a string of printable ASCII (escapes allowed) into out, NUL-terminated; *len excludes the NUL.
 * Fails on other characters and on strings of cap bytes or more. */
bool jscan_text(struct jscan *j, char *out, size_t cap, size_t *len);
bool jscan_skip(struct jscan *j); /* any value, nested at most JSCAN_DEPTH_MAX deep */
bool jscan_at_end(struct jscan *j);

/* Iterates a container after its opening bracket was taken: true when another member follows (the comma is taken),
 * false at the closing bracket (taken) or on an error. *first starts true. */
bool jscan_more(struct jscan *j, char close, bool *first);

#endif
