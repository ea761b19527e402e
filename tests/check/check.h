/* check: the harness of the CPU kernels. Every level of the instruction-set ladder is held to the last level that passed,
 * over shapes that cross every tile and block edge, with guard pages around inputs and outputs, poisoned outputs and
 * hostile data. A crash counts as a failure of that kernel and the run goes on. Output is TAP; --bench prints speed,
 * the fraction of this machine's peak measured in the same run, and the ratio to the reference level.
 */
#ifndef CHECK_H
#define CHECK_H

#include "num/num.h"
#include "ops/cpu/attn_kern.h"
#include "ops/cpu/fast_kern.h"
#include "ops/cpu/kern.h"
#include "ops/cpu/row_kern.h"

/* ---------------------------------------------------------------- memory */

enum guard_side { GUARD_AFTER, GUARD_BEFORE }; /* which inaccessible page the bytes touch */

/* bytes of memory between two inaccessible pages, flush against one of them, filled with 0x99. */
struct guarded {
    uint8_t *data;
    size_t bytes;
    void *map;
    size_t map_bytes;
};
void guard_open(struct guarded *g, size_t bytes, enum guard_side side);
void guard_close(struct guarded *g);

/* ---------------------------------------------------------------- data */

enum data_kind { DATA_NORMAL, DATA_HEAVY, DATA_EXTREME, DATA_TINY, DATA_ZERO, DATA_TIES, N_DATA_KINDS };
extern const char *const data_names[N_DATA_KINDS];

/* n bf16-representable activations of a kind. */
void fill_activations(struct rng *r, enum data_kind kind, float *x, int n);
/* A random matrix; its data and scale are owned by the caller (matrix_free). */
struct wmat matrix_random(struct rng *r, enum data_kind kind, enum wformat f, int rows, int cols);
void matrix_free(struct wmat *w);
size_t matrix_bytes(const struct wmat *w); /* of its data */

/* ---------------------------------------------------------------- the run */

struct level {
    const char *name;
    enum cpu_isa isa;
    const struct fast_kern *fast;
    const struct kern *kern;
    const struct row_kern *row;
    const struct attn_kern *attn;
    bool same_bits; /* as the reference, by definition */
};
/* Levels this machine can run, reference first. */
extern struct level levels[8];
extern int n_levels;

extern uint64_t check_seed;
/* --quick: every kernel at every level, on a part of the shapes and data: for machines that are emulated. */
extern bool check_quick;

/* Runs fn(arg) catching SIGSEGV, SIGBUS, SIGILL, SIGFPE; false and a note when one came. */
bool run_caught(void (*fn)(void *), void *arg);
/* One TAP line. `why` (may be "") is printed as a comment when not ok. */
void report(bool ok, const char *kernel, const char *level, const char *why);

void check_packing(void);
void check_fast_kernels(void);
void check_index_kernels(void);
void check_attn_kernels(void);
void check_portable_kernels(void);
void check_row_kernels(void);
void bench_kernels(void);

#endif
