/* `hadal convert`: packs a model's weights into the file that the fast numerics map, ahead of the first open. */
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>

#include "bin/bin.h"
#include "bin/model_args.h"
#include "model/packed.h"

static const char help[] =
    "usage: hadal convert [-m MODEL] [-o FILE] [--verify]\n"
    "\n"
    "Packs the weights into the layout of the fast kernels, one matrix at a time, so that the model opens at once and\n"
    "memory never holds a matrix twice. The first open of a model does the same by itself. The file is as large as the\n"
    "weights; the checkpoint stays needed. A file that fits the checkpoint already is left alone.\n"
    "\n"
    "  -m, --model DIR     checkpoint folder (default: as in 'hadal run')\n"
    "  -o, --out FILE      the file; name it with --packed FILE to other commands (default: packed.hadal beside the\n"
    "                      model, or below $XDG_CACHE_HOME/hadal when that folder cannot be written: there they find\n"
    "                      it themselves)\n"
    "      --verify        reads the file instead and compares the checksum of every matrix\n"
    "      --threads N     CPU threads (default: one per physical core that this process may use)\n"
    "  -h, --help          this text\n"
    "\n"
    "examples:\n"
    "  hadal convert -m /models/DeepSeek-V4-Flash\n"
    "  hadal convert -m /models/DeepSeek-V4-Flash -o /fast/flash.hadal\n"
    "  hadal run -m /models/DeepSeek-V4-Flash --packed /fast/flash.hadal -p Hello\n";

struct request {
    struct model_args args;
    const char *out;
    bool verify;
};

static int make(const struct request *r, const char *dir, const struct progress *p, struct err *e)
{
    char *path;
    bool made;
    uint64_t t = now_ns();
    int rc = packed_convert(dir, r->out, &r->args.model, p, &path, &made, e);
    if (rc == HD_OK && made)
        printf("%s: %.2f GB in %.1f s\n", path, (double)file_size(path) * 1e-9, (double)(now_ns() - t) * 1e-9);
    else if (rc == HD_OK)
        printf("%s: fits the checkpoint already\n", path);
    free(path);
    return rc;
}

/* The file that an open would use: the one named, else the one beside the model, else the one in the cache. */
static char *file_to_verify(const struct request *r, const char *dir)
{
    if (r->out != NULL)
        return xstrdup(r->out);
    char *beside = packed_path_beside(dir), *cached = packed_path_cached(dir, r->args.model.cache_dir);
    bool use_cached = cached != NULL && !file_exists(beside) && file_exists(cached);
    free(use_cached ? beside : cached);
    return use_cached ? cached : beside;
}

static int verify(const struct request *r, const char *dir, const struct progress *p, struct err *e)
{
    struct weights w;
    int rc = weights_open_headers(&w, dir, p, e);
    if (rc != HD_OK)
        return rc;
    char *path = file_to_verify(r, dir);
    rc = packed_verify(&w, path, p, e);
    if (rc == HD_OK)
        printf("%s: every checksum holds\n", path);
    free(path);
    weights_close(&w);
    return rc;
}

static int run(const struct request *r)
{
    struct err e = {0};
    struct progress p = progress_stoppable();
    char *dir = model_find(r->args.dir, &e);
    if (dir == NULL)
        return fail("convert", &e);
    int rc = r->verify ? verify(r, dir, &p, &e) : make(r, dir, &p, &e);
    free(dir);
    return rc == HD_OK ? EXIT_DONE : fail("convert", &e);
}

int cmd_convert(int argc, char **argv)
{
    static const struct option options[] = {
        {"model", required_argument, NULL, 'm'}, {"out", required_argument, NULL, 'o'},
        {"verify", no_argument, NULL, 'v'},      {"threads", required_argument, NULL, ARG_THREADS},
        {"help", no_argument, NULL, 'h'},        {NULL, 0, NULL, 0},
    };
    struct request r = {0};
    model_args_init(&r.args);
    optind = 1;
    for (int c; (c = getopt_long(argc, argv, "m:o:h", options, NULL)) != -1;) {
        if (c == 'h') {
            fputs(help, stdout);
            return EXIT_DONE;
        }
        if (c == 'o')
            r.out = optarg;
        else if (c == 'v')
            r.verify = true;
        else if (model_args_take(&r.args, "convert", c, optarg) <= 0) {
            if (c == '?')
                fprintf(stderr, "Try 'hadal convert --help'.\n");
            return EXIT_USAGE;
        }
    }
    if (optind < argc)
        return usage_error("convert", "'%s' is not an option", argv[optind]);
    return run(&r);
}
