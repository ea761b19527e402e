/* The disk tier: a conversation that comes back from disk against computing it again, and what saving costs a reply that
 * runs beside it. Ratios within one run. */
#include <dirent.h>
#include <stdlib.h>
#include <unistd.h>

#include "bin/bench.h"
#include "engine/engine.h"

enum { PROMPT = 32, REPLY = 48, RESUMES = 5, SAVED_PART = 16 };

struct disk_bench {
    struct bench *b;
    struct engine *engine;
    const char *dir;
    struct rng rng;
    struct ids text;
};

static int open_engine(struct disk_bench *s, struct err *e)
{
    struct engine_options o;
    engine_options_init(&o);
    o.model = s->b->args.model;
    o.n_keep = -1;
    o.cache_dir = s->dir;
    return engine_open(&s->engine, s->b->dir, &o, NULL, e);
}

static int run(struct disk_bench *s, const struct ids *prompt, int64_t max_tokens, struct gen_usage *u, struct err *e)
{
    struct gen_request r = {.params = {.max_tokens = max_tokens, .raw = true}};
    struct gen_event ev = {0};
    struct job *j;
    sampling_init(&r.params.sampling);
    r.params.sampling.temperature = 1000; /* the reply does not end by itself */
    r.params.sampling.seed = rng_u64(&s->rng);
    for (size_t i = 0; i < prompt->n; i++)
        ids_add(&r.prompt, prompt->data[i]);
    if (engine_submit(s->engine, &r, NULL, NULL, &j, e) != HD_OK)
        return e->code;
    while (engine_next(j, &ev, -1) == 1)
        ;
    engine_release(&j);
    *u = ev.usage;
    return HD_OK;
}

static void add_random(struct disk_bench *s, struct ids *v, int64_t n)
{
    for (int64_t i = 0; i < n; i++)
        ids_add(v, (int32_t)rng_below(&s->rng, (uint32_t)engine_env(s->engine)->n_vocab));
}

static double first_ms(const struct gen_usage *u)
{
    return (double)(u->queue_ns + u->prompt_ns) * 1e-6;
}

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return x < y ? -1 : x > y;
}

static double median(double *v, int n)
{
    qsort(v, (size_t)n, sizeof *v, by_value);
    return v[n / 2];
}

/* Each resume is a new engine over the folder of the one that computed. */
static int measure_resume(struct disk_bench *s, struct err *e)
{
    struct gen_usage u;
    struct disk_stats d = {0};
    double ms[RESUMES];
    if (run(s, &s->text, 1, &u, e) != HD_OK)
        return e->code;
    double computed = first_ms(&u);
    for (int k = 0; k < RESUMES; k++) {
        struct engine_stats st;
        engine_close(&s->engine);
        if (open_engine(s, e) != HD_OK || run(s, &s->text, 1, &u, e) != HD_OK)
            return e->code;
        if (u.reused_tokens < (int64_t)s->text.n - KV_PAGE_TOKENS)
            return err_set(e, HD_EFORMAT, "only %lld of %zu tokens came from the disk", (long long)u.reused_tokens,
                           s->text.n);
        engine_read_stats(s->engine, &st);
        d = st.disk;
        ms[k] = first_ms(&u);
    }
    double resumed = median(ms, RESUMES);
    bench_add(s->b, "serving disk tokens", "tokens", (double)s->text.n);
    bench_add(s->b, "serving disk first token, computed", "ms", computed);
    bench_add(s->b, "serving disk first token, resumed", "ms", resumed);
    bench_add(s->b, "serving disk gain", "x faster", computed / resumed);
    bench_add(s->b, d.direct ? "serving disk with O_DIRECT" : "serving disk through the page cache", "MB",
              (double)d.bytes * 1e-6);
    bench_add(s->b, d.ring ? "serving disk pages by io_uring" : "serving disk pages by pread", "pages",
              (double)d.pages_loaded);
    return HD_OK;
}

static int reply_ms(struct disk_bench *s, double *ms, struct err *e)
{
    struct ids prompt = {0};
    struct gen_usage u;
    add_random(s, &prompt, PROMPT);
    int rc = run(s, &prompt, REPLY, &u, e);
    ids_free(&prompt);
    *ms = rc == HD_OK ? (double)u.completion_ns * 1e-6 / (double)(u.completion_tokens - 1) : 0;
    return rc;
}

/* A prompt ends and its pages are written while a reply runs; then a reply beside a quiet disk. */
static int measure_saving(struct disk_bench *s, struct err *e)
{
    double beside[BENCH_ROUNDS_MAX], quiet[BENCH_ROUNDS_MAX];
    struct engine_stats before, after;
    engine_read_stats(s->engine, &before);
    for (int k = 0; k < s->b->rounds; k++) {
        struct ids prompt = {0};
        struct gen_usage u;
        add_random(s, &prompt, (int64_t)s->text.n / SAVED_PART);
        int rc = run(s, &prompt, 1, &u, e);
        ids_free(&prompt);
        if (rc != HD_OK || reply_ms(s, &beside[k], e) != HD_OK || reply_ms(s, &quiet[k], e) != HD_OK)
            return e->code;
    }
    engine_read_stats(s->engine, &after);
    double a = median(beside, s->b->rounds), b = median(quiet, s->b->rounds);
    bench_add(s->b, "serving disk pages saved", "pages", (double)(after.disk.pages_saved - before.disk.pages_saved));
    bench_add(s->b, "serving disk reply token, saving", "ms", a);
    bench_add(s->b, "serving disk reply token, saving", "x of quiet", a / b);
    return HD_OK;
}

/* It holds files only. */
static void remove_folder(const char *dir)
{
    DIR *d = opendir(dir);
    for (struct dirent *f; d != NULL && (f = readdir(d)) != NULL;) {
        char *path = path_join(dir, f->d_name);
        if (f->d_name[0] != '.')
            unlink(path);
        free(path);
    }
    if (d != NULL)
        closedir(d);
    rmdir(dir);
}

int bench_spill(struct bench *b, struct err *e)
{
    char dir[] = "hadal-bench-cache-XXXXXX"; /* here: the folder's disk is the one that is measured */
    struct disk_bench s = {.b = b, .dir = dir, .rng = {2}};
    if (mkdtemp(dir) == NULL)
        return err_set(e, HD_EIO, "cannot make a folder for the disk cache in the working directory");
    int rc = open_engine(&s, e);
    if (rc == HD_OK) {
        add_random(&s, &s.text, b->contexts[0]);
        rc = measure_resume(&s, e);
    }
    if (rc == HD_OK)
        rc = measure_saving(&s, e);
    engine_close(&s.engine);
    ids_free(&s.text);
    remove_folder(dir);
    return rc;
}
