/* base: what every floor stands on - errors, buffers, files, time, threads, CPU features.
 *
 * Rules of the floor
 *   - A bug asserts. The world (file, network, request, memory at start) returns a code and fills `struct err`
 *     with one sentence that names the file, tensor or field.
 *   - x_init/x_free work on the caller's memory, x_open/x_close on ours.
 *   - Nothing here calls exit(), reads the environment or writes to stdout.
 */
#ifndef HADAL_BASE_H
#define HADAL_BASE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#if defined(__GNUC__)
#define PRINTF_LIKE(fmt, args) __attribute__((format(printf, fmt, args)))
#define NO_RETURN __attribute__((noreturn))
#else
#define PRINTF_LIKE(fmt, args)
#define NO_RETURN
#endif

#define COUNT_OF(a) (sizeof(a) / sizeof((a)[0]))

/* ---------------------------------------------------------------- errors */

/* Result codes of every fallible call: 0 or one of these (all negative). */
enum {
    HD_OK = 0,
    HD_EARG = -1,         /* the caller's input is wrong: a request, an option, a field */
    HD_EFORMAT = -2,      /* a file does not hold what it must */
    HD_EIO = -3,          /* the operating system refused */
    HD_ENOMEM = -4,       /* memory ran out */
    HD_EUNSUPPORTED = -5, /* well formed, but outside what this build does */
    HD_ECANCELLED = -6,   /* the caller asked to stop */
};

/* One sentence for a person; the first error wins (later ones are usually its consequence). */
struct err {
    int code;
    char msg[1024];
};

/* Sets `e` (may be NULL) unless it already holds an error; returns `code`. */
int err_set(struct err *e, int code, const char *fmt, ...) PRINTF_LIKE(3, 4);
/* Like err_set, and appends strerror(errnum). */
int err_sys(struct err *e, int errnum, const char *fmt, ...) PRINTF_LIKE(3, 4);

/* ---------------------------------------------------------------- memory */

/* Allocation at start-up: never returns NULL, aborts with a sentence on stderr when memory is gone.
 * Only for small objects whose absence leaves nothing to do; sizes that come from a file or a request use
 * try_alloc. All memory is zeroed. */
void *xcalloc(size_t n, size_t size_bytes);
void *xrealloc(void *p, size_t size_bytes);
char *xstrdup(const char *s);
char *xstrndup(const char *s, size_t n);
char *xasprintf(const char *fmt, ...) PRINTF_LIKE(1, 2);

/* Zeroed, 64-byte aligned; NULL when memory is gone. Free with free(). Size is rounded up to 64. */
void *try_alloc(size_t size_bytes);

/* ---------------------------------------------------------------- growable byte buffer */

/* `data` always ends in a NUL that is not counted in `len` (once anything was added). */
struct buf {
    char *data;
    size_t len;
    size_t cap;
};

void buf_free(struct buf *b); /* also resets to the empty buffer */
void buf_clear(struct buf *b);
void buf_reserve(struct buf *b, size_t extra_bytes);
bool buf_try_reserve(struct buf *b, size_t extra_bytes); /* false when memory is gone; the buffer is as before */
void buf_add(struct buf *b, const void *bytes, size_t n);
void buf_str(struct buf *b, const char *s);
void buf_char(struct buf *b, char c);
void buf_printf(struct buf *b, const char *fmt, ...) PRINTF_LIKE(2, 3);

/* ---------------------------------------------------------------- files */

/* A read-only mapping of a whole file. An empty file maps to size 0 and data "". */
struct file_map {
    const uint8_t *data;
    size_t size;
};

int file_map(struct file_map *m, const char *path, struct err *e);
void file_unmap(struct file_map *m);
/* Drops the whole pages inside n bytes of a mapping from this process's memory; touching them reads the file again. */
void file_map_forget(const void *p, size_t n);

/* Reads a whole file of at most `max_bytes`; appends to `out`. path "-" is standard input. */
int file_read(struct buf *out, const char *path, size_t max_bytes, struct err *e);
/* Writes beside `path`, syncs, then renames over it: after a crash there is the old file or the new one. */
int file_write_atomic(const char *path, const void *data, size_t n, struct err *e);
bool file_exists(const char *path);
bool file_is_dir(const char *path);
int64_t file_size(const char *path); /* -1 when it cannot be told */
/* dir + "/" + name, malloc'd. */
char *path_join(const char *dir, const char *name);

/* ---------------------------------------------------------------- time, randomness */

uint64_t now_ns(void); /* monotonic */

/* One mixing step of splitmix64 (Steele, Lea, Flood 2014): a good 64-bit hash of its argument. */
uint64_t mix64(uint64_t x);

/* Small seeded generator for synthetic weights and tests: splitmix64 over a counter. */
struct rng {
    uint64_t state;
};
uint64_t rng_u64(struct rng *r);
double rng_unit(struct rng *r);                 /* [0, 1) with 53 bits */
double rng_normal(struct rng *r);               /* mean 0, variance 1 */
uint32_t rng_below(struct rng *r, uint32_t n);  /* 0 .. n-1 */

/* ---------------------------------------------------------------- progress */

/* Long work reports through one of these; done == total is the last call. fn may be NULL. Returning non-zero asks
 * the work to stop with HD_ECANCELLED. */
struct progress {
    int (*fn)(void *arg, const char *what, uint64_t done, uint64_t total);
    void *arg;
};
int progress_tell(const struct progress *p, const char *what, uint64_t done, uint64_t total);

/* ---------------------------------------------------------------- thread pool */

/* A fixed set of threads for data-parallel loops. Work is cut into n_tasks numbered tasks; which thread runs a task
 * is not fixed, so a task's result must depend on its number only (that keeps results bit-identical for any thread
 * count). Waiting threads, the caller too, spin for a bounded time, then give way to others, then sleep: on a busy machine
 * a waiting thread never keeps one with work off the CPU. Where memory has several nodes, workers are spread over them and
 * stay on theirs. */
struct pool;

/* n_threads >= 1 counts the caller. 0 means: cpu_usable(). Errors: HD_EARG, HD_EIO, those of topology_open. */
int pool_open(struct pool **p, int n_threads, struct err *e);
void pool_close(struct pool **p);
int pool_threads(const struct pool *p);
struct topology;
const struct topology *pool_topology(const struct pool *p); /* of the machine, as it was when the pool was opened */
/* Runs fn(arg, i_task, i_thread) for i_task = 0 .. n_tasks-1 and returns when all are done. i_thread is in
 * 0 .. pool_threads-1 (for scratch memory). A NULL pool runs in the caller. Not reentrant. */
void pool_run(struct pool *p, int n_tasks, void (*fn)(void *arg, int i_task, int i_thread), void *arg);

/* ---------------------------------------------------------------- topology */

/* A CPU (hardware thread) and its place: `core` and `node` are numbers of the machine's cores and memory nodes, `thread`
 * 0 is the first of its core, `turn` counts CPUs of the same `thread` on the same memory node. */
struct cpu_place {
    int cpu, core, node, thread, turn;
};

/* What hwloc knows of the CPUs that this process may use (affinity of the calling thread, cpuset of the cgroup), in the
 * order in which threads should take them: first one CPU of every core, going round the memory nodes, then second
 * hardware threads. */
struct topology {
    struct cpu_place *places; /* [n_places] */
    int n_places, n_cores;
    struct hwloc_topology *hwloc;
};

/* machine: NULL is this one; otherwise a made-up one, in hwloc's synthetic form ("pack:2 numa:1 core:4 pu:2"). cpus: NULL,
 * or the only CPUs to be used, like "0,4-7". Takes milliseconds, so a pool loads it once. Errors: what hwloc says. */
int topology_open(struct topology **t, const char *machine, const char *cpus, struct err *e);
void topology_close(struct topology **t);
/* Threads worth having: cores, within the quota of CPU time of the cgroup. */
int cpu_usable(const struct topology *t);
/* Where there are several memory nodes, keeps the calling thread on the one of the i_thread-th place. */
void topology_stay(const struct topology *t, int i_thread);
/* Spreads the pages of a mapping not yet touched over the memory nodes of these CPUs; false: there is but one, or the
 * kernel refuses, and pages come where they are first touched. */
bool topology_interleave(const struct topology *t, void *p, size_t bytes);

/* ---------------------------------------------------------------- memory of the machine */

/* Bytes that a process may still take without swapping: MemAvailable, within the limit of its cgroup. 0: not known. */
uint64_t memory_available_bytes(void);
/* Bytes per second that all threads together read from memory: the best of the passes that fit into `seconds` (one pass
 * at least) over a buffer far larger than the caches, in huge pages where the kernel gives them.
 * Errors: HD_ENOMEM, and those of pool_open. */
int memory_read_bandwidth(int n_threads, double seconds, double *bytes_per_s, struct err *e);

/* ---------------------------------------------------------------- CPU features */

/* Instruction-set levels of the kernel ladder; a level implies those before it on the same architecture. */
enum cpu_isa { ISA_REF = 0, ISA_AVX2, ISA_AVX512, ISA_NEON, ISA_NEON_DOT, ISA_NEON_BF16, ISA_NEON_I8MM, ISA_COUNT };

/* Best level that both the CPU and the operating system support (CPUID + XGETBV, HWCAP). */
enum cpu_isa cpu_isa_best(void);
const char *cpu_isa_name(enum cpu_isa isa);               /* "reference", "avx2", ... */
int cpu_isa_parse(const char *name, enum cpu_isa *isa, struct err *e); /* refuses levels this machine lacks */
/* Whether the AVX-512 level may use vdpbf16ps / vpdpbusd. */
bool cpu_has_avx512_bf16(void);
bool cpu_has_avx512_vnni(void);

#endif
