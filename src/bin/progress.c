/* The progress bar: one line on a terminal's stderr, redrawn at most ten times a second, with the time that the rest will
 * take at the speed so far once that is known. */
#include "bin/bin.h"

#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

/* Seconds left of this piece of work, or -1 in its first second. */
static double seconds_left(const char *what, uint64_t now, uint64_t done, uint64_t total)
{
    static char current[32];
    static uint64_t start_ns, start_done;
    if (strncmp(current, what, sizeof current - 1) != 0) {
        snprintf(current, sizeof current, "%s", what);
        start_ns = now;
        start_done = done;
    }
    if (now - start_ns < 1000000000u || done <= start_done || done > total)
        return -1;
    return (double)(now - start_ns) * 1e-9 * (double)(total - done) / (double)(done - start_done);
}

static int draw(void *arg, const char *what, uint64_t done, uint64_t total)
{
    (void)arg;
    static uint64_t last_ns;
    uint64_t now = now_ns();
    bool end = done >= total;
    double left = seconds_left(what, now, done, total);
    if (!end && now - last_ns < 100000000u)
        return 0;
    last_ns = now;
    enum { WIDTH = 30 };
    int n = total == 0 ? WIDTH : (int)((double)done / (double)total * WIDTH);
    fprintf(stderr, "\r%-20s [%.*s%*s] %3d%%", what, n, "##############################", WIDTH - n, "",
            total == 0 ? 100 : (int)(100.0 * (double)done / (double)total));
    if (left >= 0)
        fprintf(stderr, " %d:%02d left\033[K", (int)left / 60, (int)left % 60);
    fprintf(stderr, end ? "\r\033[K" : "");
    fflush(stderr);
    return 0;
}

struct progress progress_bar(void)
{
    return isatty(STDERR_FILENO) ? (struct progress){draw, NULL} : (struct progress){NULL, NULL};
}

static volatile sig_atomic_t stop_asked;

static void on_interrupt(int sig)
{
    (void)sig;
    stop_asked = 1;
}

static int draw_or_stop(void *arg, const char *what, uint64_t done, uint64_t total)
{
    if (isatty(STDERR_FILENO))
        draw(arg, what, done, total);
    return stop_asked;
}

struct progress progress_stoppable(void)
{
    signal(SIGINT, on_interrupt);
    signal(SIGTERM, on_interrupt);
    return (struct progress){draw_or_stop, NULL};
}
