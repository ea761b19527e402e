/* Options of the disk cache, for every command that keeps an engine. */
#ifndef HADAL_CACHE_ARGS_H
#define HADAL_CACHE_ARGS_H

#include "engine/engine.h"

enum { ARG_CACHE_DIR = 1200, ARG_CACHE_DISK };

extern const char cache_args_help[];

/* Their rows of a getopt_long table. */
#define CACHE_OPTIONS                                                                                                   \
    {"cache-dir", required_argument, NULL, ARG_CACHE_DIR}, {"cache-disk", required_argument, NULL, ARG_CACHE_DISK}

/* Takes option c of the rows above: 1 taken, 0 not one of them, -1 refused (message printed). What the disk cache has to
 * say goes to stderr. */
int cache_args_take(struct engine_options *o, const char *command, int c, const char *arg);
/* After all options; false (message printed) when one needs another. */
bool cache_args_check(const struct engine_options *o, const char *command);

#endif
