/* names: storage for tensor names and their canonical spelling. */
#ifndef HADAL_MODEL_NAMES_H
#define HADAL_MODEL_NAMES_H

#include <stddef.h>

/* A list of blocks that own many small strings; freed as a whole. */
struct name_block {
    struct name_block *next;
    size_t used;
    char text[1 << 18];
};

/* A copy of name (n bytes, n < TENSOR_NAME_MAX) that lives as long as the list. */
const char *name_store(struct name_block **list, const char *name, size_t n);
void names_free(struct name_block **list);

/* Rewrites name in place to the runtime spelling (see struct tensor); returns the new length, never longer. */
size_t name_canonical(char *name, size_t n);

#endif
