/* Main of the kernel harness. See check.h.
 *
 *   check [--seed N] [--bench] [--isa LEVEL] [--rows] [--quick]
 *
 * A failure is repeated by giving its seed. --rows: only the portable and the row kernels; --quick: fewer shapes and data.
 */
#include "check.h"

#include <getopt.h>
#include <setjmp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "ops/cpu/fast_decl.h"

struct level levels[8];
int n_levels;
uint64_t check_seed;
bool check_quick;

static int n_reports, n_failures;

/* ---------------------------------------------------------------- memory */

void guard_open(struct guarded *g, size_t bytes, enum guard_side side)
{
    size_t page = (size_t)sysconf(_SC_PAGESIZE), inner = (bytes / page + 1) * page;
    g->bytes = bytes;
    g->map_bytes = inner + 2 * page;
    g->map = mmap(NULL, g->map_bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (g->map == MAP_FAILED || mprotect((uint8_t *)g->map + page, inner, PROT_READ | PROT_WRITE) != 0) {
        perror("check: mmap");
        exit(1);
    }
    uint8_t *first = (uint8_t *)g->map + page;
    memset(first, 0x99, inner);
    g->data = side == GUARD_AFTER ? first + inner - bytes : first;
}

void guard_close(struct guarded *g)
{
    munmap(g->map, g->map_bytes);
}

/* ---------------------------------------------------------------- crashes */

static sigjmp_buf back;
static volatile sig_atomic_t in_call;

static void on_signal(int number)
{
    if (!in_call) {
        signal(number, SIG_DFL);
        raise(number);
        return;
    }
    siglongjmp(back, number);
}

bool run_caught(void (*fn)(void *), void *arg)
{
    int number = sigsetjmp(back, 1);
    if (number == 0) {
        in_call = 1;
        fn(arg);
        in_call = 0;
        return true;
    }
    in_call = 0;
    printf("# caught signal %d (%s)\n", number, strsignal(number));
    return false;
}

static void catch_signals(void)
{
    static const int caught[] = {SIGSEGV, SIGBUS, SIGILL, SIGFPE};
    struct sigaction a = {.sa_handler = on_signal};
    for (size_t i = 0; i < COUNT_OF(caught); i++)
        sigaction(caught[i], &a, NULL);
}

/* ---------------------------------------------------------------- run */

void report(bool ok, const char *kernel, const char *level, const char *why)
{
    n_reports++;
    n_failures += !ok;
    printf("%s %d - %s %s\n", ok ? "ok" : "not ok", n_reports, kernel, level);
    if (!ok)
        printf("# %s (repeat with --seed %llu)\n", why, (unsigned long long)check_seed);
    fflush(stdout);
}

/* Where AVX-512 has BF16, that level takes the place of the plain one: which runs all the same. */
static void add_plain_avx512(const struct fast_kern *best)
{
#if defined(__x86_64__)
    if (best != &fast_kern_avx512)
        levels[n_levels++] = (struct level){fast_kern_avx512.name, ISA_AVX512, &fast_kern_avx512, kern_for(ISA_AVX512),
                                            row_kern_for(ISA_AVX512), &attn_kern_avx512, true};
#endif
    (void)best;
}

static bool is_level(enum cpu_isa isa, enum cpu_isa top)
{
    return isa == ISA_REF || (isa >= ISA_NEON) == (top >= ISA_NEON);
}

/* Each rung through the product's own ladder, so the choice of tables is under test too. */
static void find_levels(enum cpu_isa top)
{
    const struct fast_kern *last = NULL;
    for (int i = 0; i <= (int)top; i++) {
        enum cpu_isa isa = (enum cpu_isa)i;
        if (!is_level(isa, top))
            continue;
        const struct fast_kern *k = fast_kern_for(isa);
        bool pairs = isa >= ISA_NEON_BF16 || strstr(k->name, "bf16") != NULL;
        if (k != last && isa == ISA_AVX512)
            add_plain_avx512(k);
        if (k != last)
            levels[n_levels++] = (struct level){k->name, isa, k, kern_for(isa), row_kern_for(isa), attn_kern_for(isa),
                                                !pairs};
        last = k;
    }
}

/* A rung's table is its own: named as the rung, with what else the machine has after a space. */
static void check_ladder(enum cpu_isa top)
{
    for (int i = 0; i <= (int)top; i++) {
        const char *want = cpu_isa_name((enum cpu_isa)i), *name = fast_kern_for((enum cpu_isa)i)->name;
        char after = strncmp(name, want, strlen(want)) == 0 ? name[strlen(want)] : '?';
        if (is_level((enum cpu_isa)i, top))
            report(after == 0 || after == ' ', "the table of", want, name);
    }
}

#ifdef CHECK_EMULATED
/* The AVX-512 levels where the machine itself has none: the fast kernels in portable C (emulate/immintrin.h), the others,
 * which are written over vectors of any width, compiled for AVX2. */
extern const struct fast_kern emulated_avx512, emulated_avx512bf16;
extern const struct kern emulated_kern_avx512;
extern const struct row_kern emulated_row_avx512;
extern const struct attn_kern emulated_attn_avx512, emulated_attn_avx512bf16;

static void add_emulated(enum cpu_isa top)
{
    if (top >= ISA_AVX512)
        return;
    levels[n_levels++] = (struct level){"avx512, emulated", top, &emulated_avx512, &emulated_kern_avx512,
                                        &emulated_row_avx512, &emulated_attn_avx512, true};
    levels[n_levels++] = (struct level){"avx512 bf16, emulated", top, &emulated_avx512bf16, &emulated_kern_avx512,
                                        &emulated_row_avx512, &emulated_attn_avx512bf16, false};
}
#else
static void add_emulated(enum cpu_isa top)
{
    (void)top;
}
#endif

int main(int argc, char **argv)
{
    static const struct option options[] = {
        {"seed", required_argument, NULL, 's'}, {"bench", no_argument, NULL, 'b'},
        {"isa", required_argument, NULL, 'i'}, {"rows", no_argument, NULL, 'r'}, {"quick", no_argument, NULL, 'q'},
        {NULL, 0, NULL, 0}};
    bool bench = false, rows = false;
    enum cpu_isa top = cpu_isa_best();
    struct err e = {0};
    check_seed = mix64(now_ns()) % 1000000;
    for (int c; (c = getopt_long(argc, argv, "", options, NULL)) != -1;) {
        if (c == 's') {
            check_seed = strtoull(optarg, NULL, 0);
        } else if (c == 'b') {
            bench = true;
        } else if (c == 'r') {
            rows = true;
        } else if (c == 'q') {
            check_quick = true;
        } else if (c != 'i' || cpu_isa_parse(optarg, &top, &e) != HD_OK) {
            fprintf(stderr, "check: %s\nusage: check [--seed N] [--bench] [--isa LEVEL] [--rows] [--quick]\n", e.msg);
            return 2;
        }
    }
    find_levels(top);
    if (!bench)
        add_emulated(top);
    catch_signals();
    printf("# seed %llu, levels:", (unsigned long long)check_seed);
    for (int i = 0; i < n_levels; i++)
        printf("%s %s", i > 0 ? ";" : "", levels[i].name);
    printf("\n");
    if (bench) {
        bench_kernels();
        return 0;
    }
    check_ladder(top);
    check_portable_kernels();
    check_row_kernels();
    if (!rows) {
        check_packing();
        check_fast_kernels();
        check_index_kernels();
        check_attn_kernels();
    }
    printf("1..%d\n# %d failures\n", n_reports, n_failures);
    return n_failures != 0;
}
