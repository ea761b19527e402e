#include "golden_data.h"

#include <stdio.h>
#include <stdlib.h>

#include "base/base.h"

const char *golden_dir(const char *name)
{
    static char dir[512];
    const char *b = getenv("B");
    b = b != NULL ? b : "build";
    snprintf(dir, sizeof dir, "%s/golden/%s", b, name);
    char probe[600], command[1800];
    snprintf(probe, sizeof probe, "%s/expected.safetensors", dir);
    if (file_exists(probe))
        return dir;
    /* Unpacked aside and renamed, so that two tests at once never see half a checkpoint. */
    snprintf(command, sizeof command,
             "mkdir -p %s/golden && t=$(mktemp -d %s/golden/tmp.XXXXXX) && tar -xJf tests/data/golden/%s.tar.xz -C $t && "
             "chmod -R u+w $t && { mv $t/%s %s/golden/ 2>/dev/null || true; } && rm -rf $t",
             b, b, name, name, b);
    if (system(command) != 0 || !file_exists(probe)) {
        fprintf(stderr, "cannot unpack tests/data/golden/%s.tar.xz\n", name);
        abort();
    }
    return dir;
}
