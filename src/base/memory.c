/* What this machine's memory holds and how fast it reads. */
#include "base/base.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

/* ---------------------------------------------------------------- how much */

/* The first number after `key` in a small text file; -1 when there is none. */
static int64_t number_in_file(const char *path, const char *key)
{
    char text[4096];
    FILE *f = fopen(path, "r");
    if (f == NULL)
        return -1;
    size_t n = fread(text, 1, sizeof text - 1, f);
    fclose(f);
    text[n] = '\0';
    const char *at = strstr(text, key);
    if (at == NULL)
        return -1;
    char *end;
    const char *start = at + strlen(key);
    long long v = strtoll(start, &end, 10);
    return end == start ? -1 : (int64_t)v;
}

uint64_t memory_available_bytes(void)
{
    int64_t kib = number_in_file("/proc/meminfo", "MemAvailable:");
    int64_t available = kib < 0 ? 0 : kib * 1024;
    int64_t limit = number_in_file("/sys/fs/cgroup/memory.max", "");
    int64_t used = number_in_file("/sys/fs/cgroup/memory.current", "");
    if (limit >= 0 && used >= 0) {
        int64_t left = limit > used ? limit - used : 0;
        available = available == 0 || left < available ? left : available;
    }
    return (uint64_t)available;
}

/* ---------------------------------------------------------------- how fast */

enum { CHUNK_BYTES = 8 << 20, CHUNKS_MIN = 8, CHUNKS_MAX = 96 };

struct reading {
    const uint64_t *data;
    uint64_t sums[CHUNKS_MAX];
};

static void read_chunk(void *arg, int i_task, int i_thread)
{
    (void)i_thread;
    struct reading *r = arg;
    enum { WORDS = CHUNK_BYTES / 8, LANES = 16 };
    const uint64_t *x = r->data + (size_t)i_task * WORDS;
    uint64_t lane[LANES] = {0};
    for (size_t i = 0; i < WORDS; i += LANES)
        for (size_t k = 0; k < LANES; k++)
            lane[k] += x[i + k];
    uint64_t sum = 0;
    for (size_t k = 0; k < LANES; k++)
        sum += lane[k];
    r->sums[i_task] = sum;
}

static void fill_chunk(void *arg, int i_task, int i_thread)
{
    (void)i_thread;
    memset((char *)arg + (size_t)i_task * CHUNK_BYTES, i_task + 1, CHUNK_BYTES);
}

static double best_pass(struct pool *p, const void *data, int n_chunks, double seconds)
{
    struct reading r = {.data = data};
    double best = 0;
    uint64_t start = now_ns();
    do {
        uint64_t t0 = now_ns();
        pool_run(p, n_chunks, read_chunk, &r);
        double speed = (double)n_chunks * CHUNK_BYTES / ((double)(now_ns() - t0) * 1e-9);
        best = speed > best ? speed : best;
    } while ((double)(now_ns() - start) * 1e-9 < seconds);
    return best;
}

int memory_read_bandwidth(int n_threads, double seconds, double *bytes_per_s, struct err *e)
{
    uint64_t n = memory_available_bytes() / 4 / CHUNK_BYTES;
    int n_chunks = n > CHUNKS_MAX ? CHUNKS_MAX : n < CHUNKS_MIN ? CHUNKS_MIN : (int)n;
    size_t bytes = (size_t)n_chunks * CHUNK_BYTES;
    struct pool *p;
    int rc = pool_open(&p, n_threads, e);
    if (rc != HD_OK)
        return rc;
    void *data = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (data == MAP_FAILED) {
        pool_close(&p);
        return err_set(e, HD_ENOMEM, "no memory for a buffer of %zu bytes to measure its speed", bytes);
    }
    madvise(data, bytes, MADV_HUGEPAGE); /* a wish: without it the measurement is only lower */
    pool_run(p, n_chunks, fill_chunk, data);
    *bytes_per_s = best_pass(p, data, n_chunks, seconds);
    munmap(data, bytes);
    pool_close(&p);
    return HD_OK;
}
