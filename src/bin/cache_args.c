#include "bin/cache_args.h"
#include "bin/bin.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

const char cache_args_help[] =
    "  --cache-dir DIR     keep state of conversations in DIR: what memory has no room for, and what outlives the program.\n"
    "                      One process at a time; made when missing, for you alone (mode 0700)\n"
    "  --cache-disk SIZE   of it at most: 500M, 16G, 2T (default: 16G)\n";

static void tell(void *arg, const char *line)
{
    (void)arg;
    fprintf(stderr, "hadal: %s\n", line);
}

static bool parse_size(const char *command, const char *text, uint64_t *out)
{
    static const char units[] = "KMGT";
    char *end;
    errno = 0;
    double v = strtod(text, &end);
    const char *unit = *end == '\0' ? NULL : strchr(units, *end);
    int shift = unit == NULL ? 0 : 10 * (int)(unit - units + 1);
    bool ends = *end == '\0' || (unit != NULL && end[1] == '\0');
    if (end == text || !ends || errno != 0 || !(v > 0) || v * (double)((uint64_t)1 << shift) > 1e18) {
        usage_error(command, "--cache-disk must be a size such as 500M, 16G or 2T, not '%s'", text);
        return false;
    }
    *out = (uint64_t)(v * (double)((uint64_t)1 << shift));
    return true;
}

int cache_args_take(struct engine_options *o, const char *command, int c, const char *arg)
{
    o->log = tell;
    if (c == ARG_CACHE_DIR) {
        o->cache_dir = arg;
        return 1;
    }
    return c != ARG_CACHE_DISK ? 0 : parse_size(command, arg, &o->cache_disk_bytes) ? 1 : -1;
}

bool cache_args_check(const struct engine_options *o, const char *command)
{
    if (o->cache_dir != NULL || o->cache_disk_bytes == 0)
        return true;
    usage_error(command, "--cache-disk needs --cache-dir");
    return false;
}
