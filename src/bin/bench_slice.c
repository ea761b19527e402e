/* A small checkpoint to measure when no model is given: the widths of Flash, so that kernels run at their real shapes,
 * few layers and experts, so that it is made in seconds. */
#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "bin/bench.h"
#include "bin/bin.h"
#include "model/synth.h"

char *bench_slice_make(int n_threads, struct err *e)
{
    struct synth_options o = {.shape = SYNTH_FLASH, .n_layers = 4, .n_experts = 8, .vocab_size = 8192, .seed = 1};
    struct progress bar = progress_bar();
    struct pool *pool = NULL;
    const char *base = getenv("TMPDIR");
    char *dir = xasprintf("%s/hadal-bench-XXXXXX", base != NULL && base[0] == '/' ? base : "/tmp");
    int rc = mkdtemp(dir) == NULL ? err_set(e, HD_EIO, "%s: cannot make a temporary folder", dir) : HD_OK;
    if (rc == HD_OK)
        rc = pool_open(&pool, n_threads, e);
    if (rc == HD_OK)
        rc = synth_write(&o, dir, pool, &bar, e);
    pool_close(&pool);
    if (rc == HD_OK)
        return dir;
    bench_slice_remove(dir);
    return NULL;
}

void bench_slice_remove(char *dir)
{
    DIR *d = dir == NULL ? NULL : opendir(dir);
    for (struct dirent *f; d != NULL && (f = readdir(d)) != NULL;) {
        char *path = path_join(dir, f->d_name);
        if (f->d_name[0] != '.')
            unlink(path);
        free(path);
    }
    if (d != NULL)
        closedir(d);
    if (dir != NULL)
        rmdir(dir);
    free(dir);
}
