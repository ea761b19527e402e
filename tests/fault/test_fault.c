/* Every allocation, read, write and other call to the system that the engine makes with a disk tier fails once: the first, the
 * second, and so on until a run makes no more of them. The fake device's tokens tell right from wrong.
 *
 * A run is a process of its own: it opens an engine over a cache folder that holds something, asks, closes, and asks again
 * without failures. Right: every reply has the right tokens or ends with a sentence; opening may refuse with a sentence;
 * small allocations that nothing can go on without end the process with the one sentence of base.h; those that a request
 * sizes or its submission makes never do: that request is refused or ends, and the others, which run meanwhile, have the
 * right tokens. Under
 * AddressSanitizer what is lost is found too. STRIDE=N tries every N-th call only (1: all; without it a few of each). */
#include "engine/engine.h"
#include "engine/job.h"
#include "fake_device.h"

#include <errno.h>
#include <fcntl.h>
#include <liburing.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

/* ---------------------------------------------------------------- calls that fail */

enum call { NO_CALL, ALLOCATION, REQUEST, SUBMITTING, READ, WRITE, OPENING, ALLOTTING, SYNC, LOCK, THREAD, RING, SUBMIT, COMPLETION,
            N_CALLS };
static const char *const names[N_CALLS] = {"", "allocation", "allocation for a request",
                                           "allocation of a submission beside others", "pread", "pwrite", "open",
                                           "fallocate", "fdatasync", "flock", "thread", "io_uring set-up",
                                           "io_uring submit", "io_uring completion"};

static enum call failing;
static atomic_long countdown; /* the call that makes it 0 fails */
static atomic_bool failed;
static bool no_ring;
static _Thread_local bool submitting;

static bool fails(enum call c)
{
    if (c != failing || atomic_fetch_sub(&countdown, 1) != 1)
        return false;
    failed = true;
    return true;
}

enum { N_TEXTS = 4, N_TOKENS = 400, N_REPLY = 3, N_LONG_REPLY = 60, PAGES = 10 };

/* The sizes of tokens and events of a request, which nothing else here has. */
static bool of_request(size_t n)
{
    return n == (N_TOKENS + N_REPLY) * sizeof(int32_t) || n == (N_TOKENS + N_LONG_REPLY) * sizeof(int32_t) ||
           n == sizeof(struct queued_event) + EVENT_TEXT + 1 || n == sizeof(struct queued_event) + STOP_BYTES_MAX + 1;
}

static bool no_memory(size_t n)
{
    return fails(ALLOCATION) || (of_request(n) && fails(REQUEST)) || (submitting && fails(SUBMITTING));
}

/* The linker sends the calls here (--wrap in the Makefile). */
#define WRAP(type, name, ...) type __real_##name(__VA_ARGS__); type __wrap_##name(__VA_ARGS__); \
    type __wrap_##name(__VA_ARGS__)

WRAP(void *, malloc, size_t n)
{
    return no_memory(n) ? NULL : __real_malloc(n);
}
WRAP(void *, calloc, size_t n, size_t size)
{
    return no_memory(n * size) ? NULL : __real_calloc(n, size);
}
WRAP(void *, realloc, void *p, size_t n)
{
    return no_memory(n) ? NULL : __real_realloc(p, n);
}
WRAP(void *, aligned_alloc, size_t align, size_t n)
{
    return no_memory(n) ? NULL : __real_aligned_alloc(align, n);
}
WRAP(int, posix_memalign, void **p, size_t align, size_t n)
{
    return no_memory(n) ? ENOMEM : __real_posix_memalign(p, align, n);
}
WRAP(ssize_t, pread, int fd, void *p, size_t n, off_t at)
{
    errno = EIO;
    return fails(READ) ? -1 : __real_pread(fd, p, n, at);
}
WRAP(ssize_t, pwrite, int fd, const void *p, size_t n, off_t at)
{
    errno = ENOSPC;
    return fails(WRITE) ? -1 : __real_pwrite(fd, p, n, at);
}
WRAP(int, posix_fallocate, int fd, off_t at, off_t n)
{
    return fails(ALLOTTING) ? ENOSPC : __real_posix_fallocate(fd, at, n);
}
WRAP(int, fdatasync, int fd)
{
    errno = EIO;
    return fails(SYNC) ? -1 : __real_fdatasync(fd);
}
WRAP(int, flock, int fd, int what)
{
    errno = ENOLCK;
    return fails(LOCK) ? -1 : __real_flock(fd, what);
}
WRAP(int, openat, int dir, const char *path, int flags, ...)
{
    va_list ap;
    va_start(ap, flags);
    mode_t mode = flags & O_CREAT ? va_arg(ap, mode_t) : 0;
    va_end(ap);
    errno = EMFILE;
    return fails(OPENING) ? -1 : __real_openat(dir, path, flags, mode);
}
WRAP(int, pthread_create, pthread_t *t, const pthread_attr_t *a, void *(*fn)(void *), void *arg)
{
    return fails(THREAD) ? EAGAIN : __real_pthread_create(t, a, fn, arg);
}
WRAP(int, io_uring_queue_init, unsigned n, struct io_uring *r, unsigned flags)
{
    return no_ring || fails(RING) ? -ENOSYS : __real_io_uring_queue_init(n, r, flags);
}
WRAP(int, io_uring_submit, struct io_uring *r)
{
    return fails(SUBMIT) ? -EIO : __real_io_uring_submit(r);
}
WRAP(int, __io_uring_get_cqe, struct io_uring *r, struct io_uring_cqe **c, unsigned submit, unsigned wait, sigset_t *s)
{
    int rc = __real___io_uring_get_cqe(r, c, submit, wait, s);
    if (rc == 0 && *c != NULL && fails(COMPLETION))
        (*c)->res = -EIO;
    return rc;
}

/* ---------------------------------------------------------------- one run */

enum { RIGHT = 10, REFUSED, WRONG, SILENT };

static struct tokenizer *tokenizer;
static int32_t texts[N_TEXTS][N_TOKENS];
static char folder[64];
static atomic_int n_lines;

static void on_log(void *arg, const char *line)
{
    (void)arg;
    n_lines += line[0] != '\0';
}

static int open_engine(struct engine **e, struct fake_device *d, struct err *err)
{
    static const int32_t eos[1] = {FAKE_EOS};
    struct request_env env = {.tokenizer = tokenizer, .n_vocab = FAKE_VOCAB};
    struct engine_options o = {.cache_dir = folder, .cache_disk_bytes = 1 << 20, .max_running = 2, .max_waiting = 100,
                               .n_keep = -1, .log = on_log};
    fake_device_init(d, PAGES, PAGES, 64);
    return engine_open_runner(e, fake_runner(d, 1024), &env, eos, 1, &o, err);
}

/* The first one has more events than are ready for it. */
static int64_t reply_tokens(int i)
{
    return i == 0 ? N_LONG_REPLY : N_REPLY;
}

static struct job *submit(struct engine *e, int i, struct err *err)
{
    struct gen_request r = {.params = {.max_tokens = reply_tokens(i), .raw = true, .logprobs = true}};
    struct job *j = NULL;
    r.user = xstrdup(i % 2 == 0 ? "a" : "b");
    sampling_init(&r.params.sampling);
    r.params.sampling.temperature = 0;
    for (int k = 0; k < N_TOKENS; k++)
        ids_add(&r.prompt, texts[i][k]);
    submitting = true;
    engine_submit(e, &r, NULL, NULL, &j, err);
    submitting = false;
    return j;
}

static int check_reply(struct job *j, int i)
{
    struct ids all = {0};
    struct gen_event ev;
    int rc = RIGHT;
    for (int k = 0; k < N_TOKENS; k++)
        ids_add(&all, texts[i][k]);
    while (engine_next(j, &ev, -1) == 1) {
        if (ev.kind == GEN_TOKEN) {
            rc = ev.token == fake_next(all.data, (int64_t)all.n) ? rc : WRONG;
            ids_add(&all, ev.token);
        }
        if (ev.kind == GEN_END && ev.finish == FINISH_ERROR)
            rc = ev.n > 0 ? REFUSED : SILENT;
    }
    engine_release(&j);
    ids_free(&all);
    return rc;
}

/* A reader that looks when all is over. */
static void wait_for_end(struct engine *e)
{
    struct engine_stats s = {.n_waiting = 1};
    for (struct timespec t = {0, 1000000}; s.n_running + s.n_waiting > 0; engine_read_stats(e, &s))
        nanosleep(&t, NULL);
}

/* All at once: what one is refused does nothing to those that run meanwhile. */
static int use_together(struct engine *e)
{
    struct job *jobs[N_TEXTS];
    int n_refused = 0, worst = RIGHT;
    for (int i = 0; i < N_TEXTS; i++) {
        struct err err = {0};
        jobs[i] = submit(e, i, &err);
        n_refused += jobs[i] == NULL;
        worst = jobs[i] == NULL && err.msg[0] == '\0' ? SILENT : worst;
    }
    for (int i = 0; i < N_TEXTS; i++)
        if (jobs[i] != NULL && check_reply(jobs[i], i) != RIGHT)
            worst = WRONG;
    return worst != RIGHT ? worst : n_refused > 1 ? WRONG : n_refused == 1 ? REFUSED : RIGHT;
}

static int use(struct fake_device *d)
{
    struct engine *e = NULL;
    struct err err = {0};
    int worst = RIGHT;
    if (open_engine(&e, d, &err) != HD_OK)
        return err.msg[0] != '\0' && strchr(err.msg, '\n') == NULL ? REFUSED : SILENT;
    if (failing == SUBMITTING)
        worst = use_together(e);
    for (int i = 0; i < N_TEXTS && failing != SUBMITTING; i++) {
        struct job *j = submit(e, i, &err);
        if (i == 0 && j != NULL)
            wait_for_end(e);
        int rc = j != NULL ? check_reply(j, i) : err.msg[0] != '\0' ? REFUSED : SILENT;
        worst = rc > worst ? rc : worst;
    }
    engine_close(&e);
    return worst;
}

/* RIGHT or REFUSED, and 0x40 with it when the call was made. */
static int run(enum call c, long n)
{
    static struct fake_device d;
    countdown = n;
    failing = c;
    int first = use(&d);
    failing = NO_CALL;
    fake_device_free(&d);
    if (n_lines > 2) /* one for the failure, one that it is over */
        return SILENT;
    int second = use(&d); /* what the failure left behind does no harm */
    fake_device_free(&d);
    tokenizer_close(&tokenizer);
    return (second == RIGHT ? first : second) | (failed ? 0x40 : 0);
}

/* ---------------------------------------------------------------- all runs */

struct tally {
    int n_right, n_refused, n_ended, n_bad;
    bool more; /* the last run still made the call */
};

static void one(enum call c, long n, struct tally *t)
{
    int status, out[2];
    char said[256] = "";
    fflush(stdout);
    if (pipe(out) != 0)
        return;
    pid_t child = fork();
    if (child == 0) {
        dup2(out[1], STDERR_FILENO);
        exit(run(c, n));
    }
    close(out[1]);
    size_t n_said = 0;
    for (ssize_t k; n_said < sizeof said - 1 && (k = read(out[0], said + n_said, sizeof said - 1 - n_said)) > 0;)
        n_said += (size_t)k;
    close(out[0]);
    if (child < 0 || waitpid(child, &status, 0) != child)
        return;
    int code = WIFEXITED(status) ? WEXITSTATUS(status) : 0;
    bool memory = WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT && strstr(said, "out of memory asking for") != NULL;
    t->more = (code & 0x40) != 0 || memory;
    t->n_ended += memory;
    t->n_right += (code & ~0x40) == RIGHT;
    t->n_refused += (code & ~0x40) == REFUSED;
    if (memory || (code & ~0x40) == RIGHT || (code & ~0x40) == REFUSED)
        return;
    t->n_bad++;
    t->more = t->n_bad < 3;
    printf("# %s %ld: exit status %d, signal %d, said: %s\n", names[c], n, code, WIFSIGNALED(status) ? WTERMSIG(status) : 0,
           said);
}

static void empty_folder(void)
{
    char *command = xasprintf("rm -f '%s'/seg-* '%s'/replies", folder, folder);
    if (system(command) != 0)
        printf("# %s cannot be emptied\n", folder);
    free(command);
}

/* Over a folder that holds what is asked for, and over an empty one. */
static void sweep(int number, enum call c, long stride, bool plain)
{
    struct tally t = {0};
    long n = 1, most = 0;
    no_ring = plain;
    for (int empty = 0; empty < 2; empty++)
        for (n = 1, t.more = true; t.more; n += stride > 0 ? stride : 1 + n / 4) {
            if (empty)
                empty_folder();
            one(c, n, &t);
            most = n > most ? n : most;
        }
    bool good = t.n_bad == 0 && most > 1 && ((c != REQUEST && c != SUBMITTING) || (t.n_ended == 0 && t.n_refused > 0));
    printf("%sok %d - failing %s: %d right, %d refused with a sentence, %d ended with the sentence of no memory\n",
           good ? "" : "not ", number, names[c], t.n_right, t.n_refused, t.n_ended);
}

int main(void)
{
    const char *stride = getenv("STRIDE"), *build = getenv("B");
    struct rng rng = {9};
    struct err e = {0};
    static struct fake_device d;
    if (tokenizer_open(&tokenizer, "models/tiny", &e) != HD_OK) {
        printf("not ok 1 - %s\n", e.msg);
        return 1;
    }
    for (int i = 0; i < N_TEXTS; i++)
        for (int k = 0; k < N_TOKENS; k++)
            texts[i][k] = 10 + (int32_t)rng_below(&rng, FAKE_VOCAB - 10);
    snprintf(folder, sizeof folder, "%s/fault-XXXXXX", build != NULL ? build : "build");
    if (mkdtemp(folder) == NULL || use(&d) != RIGHT) {
        printf("not ok 1 - the run without failures\n");
        return 1;
    }
    fake_device_free(&d);
    for (enum call c = ALLOCATION; c < N_CALLS; c++)
        sweep((int)c, c, stride != NULL ? atol(stride) : 0, c == READ || c == WRITE);
    tokenizer_close(&tokenizer);
    char *command = xasprintf("rm -rf '%s'", folder);
    int rc = system(command);
    free(command);
    return rc;
}
