#include "scratch.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

static char dir[256];

static bool make_below(const char *above)
{
    snprintf(dir, sizeof dir, "%s/hadal-test-XXXXXX", above);
    return mkdtemp(dir) != NULL;
}

int scratch_make(void **state)
{
    (void)state;
    return make_below("/tmp") ? 0 : -1;
}

void scratch_make_on_disk(void)
{
    const char *build = getenv("B");
    assert_true(make_below(build != NULL ? build : "build"));
}

int scratch_remove(void **state)
{
    (void)state;
    shell("rm -rf '%s'", dir);
    return 0;
}

const char *scratch_dir(void)
{
    return dir;
}

char *scratch_path(const char *name)
{
    static char path[4][512];
    static int i;
    i = (i + 1) % 4;
    snprintf(path[i], sizeof path[i], "%s/%s", dir, name);
    return path[i];
}

void shell(const char *fmt, ...)
{
    char command[1024];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(command, sizeof command, fmt, ap);
    va_end(ap);
    if (system(command) != 0)
        fail_msg("%s", command);
}
