/* The progress bar: one line on a terminal's stderr, redrawn at most ten times a second. */
#include "bin/bin.h"

#include <stdio.h>
#include <unistd.h>

static int draw(void *arg, const char *what, uint64_t done, uint64_t total)
{
    (void)arg;
    static uint64_t last_ns;
    uint64_t now = now_ns();
    bool end = done >= total;
    if (!end && now - last_ns < 100000000u)
        return 0;
    last_ns = now;
    enum { WIDTH = 30 };
    int n = total == 0 ? WIDTH : (int)((double)done / (double)total * WIDTH);
    fprintf(stderr, "\r%-20s [%.*s%*s] %3d%%", what, n, "##############################", WIDTH - n, "",
            total == 0 ? 100 : (int)(100.0 * (double)done / (double)total));
    fprintf(stderr, end ? "\r\033[K" : "");
    fflush(stderr);
    return 0;
}

struct progress progress_bar(void)
{
    return isatty(STDERR_FILENO) ? (struct progress){draw, NULL} : (struct progress){NULL, NULL};
}
