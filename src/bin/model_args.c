/* Options that every command over a model has. */
#include "bin/model_args.h"
#include "bin/bin.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

const char model_args_help[] =
    "  -m, --model DIR     checkpoint folder (default: $HADAL_MODEL, else models/tiny here or beside the program)\n"
    "  --numerics NAME     fast (default), reference (DeepSeek's rounding points), exact (fp32, nothing quantised) or int8\n"
    "                      (as fast, but FP4 weights meet 8-bit integers: faster prompts, not DeepSeek's numbers)\n"
    "  --isa NAME          instruction set: reference, avx2, avx512, neon, neon-dot, neon-bf16, neon-i8mm\n"
    "                      (default: the best one)\n"
    "  --layout NAME       how fast numerics keep weights: packed (default: repacked once into a file beside the model, or\n"
    "                      in $XDG_CACHE_HOME/hadal when that folder cannot be written; small models in memory), memory\n"
    "                      (repacked in memory at every start) or native (as stored: no disk, starts at once, slower)\n"
    "  --packed FILE       the file of packed weights to use, made by 'hadal convert'\n"
    "  --memory GB         refuse a model that needs more (default: the memory that is left here)\n"
    "  --threads N         CPU threads (default: one per physical core that this process may use)\n";

/* $XDG_CACHE_HOME/hadal, else ~/.cache/hadal; NULL when neither is known. Lives as long as the program. */
static const char *cache_dir(void)
{
    static char path[4096];
    const char *cache = getenv("XDG_CACHE_HOME"), *home = getenv("HOME");
    if (cache != NULL && cache[0] == '/')
        snprintf(path, sizeof path, "%s/hadal", cache);
    else if (home != NULL && home[0] == '/')
        snprintf(path, sizeof path, "%s/.cache/hadal", home);
    return path[0] == '\0' ? NULL : path;
}

void model_args_init(struct model_args *a)
{
    *a = (struct model_args){0};
    model_options_init(&a->model);
    a->model.cache_dir = cache_dir();
}

bool parse_int_arg(const char *command, const char *option, const char *text, int64_t min, int64_t max, int64_t *out)
{
    char *end;
    errno = 0;
    long long v = strtoll(text, &end, 10);
    if (errno != 0 || end == text || *end != '\0' || v < min || v > max) {
        usage_error(command, "%s must be a whole number from %" PRId64 " to %" PRId64 ", not '%s'", option, min, max,
                    text);
        return false;
    }
    *out = v;
    return true;
}

/* Tokens, with an optional K or M (1024 and 1024^2). */
static bool parse_context(const char *command, const char *text, int64_t *out)
{
    char *end;
    errno = 0;
    long long v = strtoll(text, &end, 10);
    int shift = *end == 'K' || *end == 'k' ? 10 : *end == 'M' || *end == 'm' ? 20 : 0;
    if (errno != 0 || end == text || end[shift > 0] != '\0' || v < 1 || v > INT64_MAX >> 20 || (v << shift) < 2) {
        usage_error(command, "--ctx must be a number of tokens from 2, such as 5000, 64K or 1M, not '%s'", text);
        return false;
    }
    *out = v << shift;
    return true;
}

bool parse_real_arg(const char *command, const char *option, const char *text, double *out)
{
    char *end;
    *out = strtod(text, &end);
    if (end == text || *end != '\0' || *out != *out) {
        usage_error(command, "%s must be a number, not '%s'", option, text);
        return false;
    }
    return true;
}

static int take_name(const char *command, int rc, const struct err *e)
{
    if (rc == HD_OK)
        return 1;
    usage_error(command, "%s", e->msg);
    return -1;
}

static int take_layout(struct model_args *a, const char *command, const char *arg)
{
    a->model.native = strcmp(arg, "native") == 0;
    a->model.pack_in_memory = strcmp(arg, "memory") == 0;
    if (a->model.native || a->model.pack_in_memory || strcmp(arg, "packed") == 0)
        return 1;
    usage_error(command, "--layout must be packed, memory or native, not '%s'", arg);
    return -1;
}

int model_args_take(struct model_args *a, const char *command, int c, const char *arg)
{
    struct err e = {0};
    int64_t n = 0;
    double gb;
    switch (c) {
    case 'm':
        a->dir = arg;
        return 1;
    case ARG_NUMERICS:
        return take_name(command, numerics_parse(arg, &a->model.numerics, &e), &e);
    case ARG_ISA:
        return take_name(command, cpu_isa_parse(arg, &a->model.isa, &e), &e);
    case ARG_LAYOUT:
        return take_layout(a, command, arg);
    case ARG_PACKED:
        a->model.packed_file = arg;
        return 1;
    case ARG_MEMORY:
        if (!parse_real_arg(command, "--memory", arg, &gb))
            return -1;
        if (gb <= 0 || gb > 1e9)
            return usage_error(command, "--memory must be a positive number of GB, not '%s'", arg), -1;
        a->model.memory_bytes = (uint64_t)(gb * 1e9);
        return 1;
    case ARG_THREADS:
        if (!parse_int_arg(command, "--threads", arg, 1, 4096, &n))
            return -1;
        a->model.n_threads = (int)n;
        return 1;
    case ARG_CTX:
        return parse_context(command, arg, &a->context_tokens) ? 1 : -1;
    default:
        return 0;
    }
}

/* The folder of the running program, malloc'd; NULL when the system does not tell. */
static char *program_dir(void)
{
    char path[4096];
    ssize_t n = readlink("/proc/self/exe", path, sizeof path - 1);
    if (n <= 0)
        return NULL;
    path[n] = '\0';
    char *slash = strrchr(path, '/');
    if (slash == NULL)
        return NULL;
    *slash = '\0';
    return xstrdup(path);
}

static char *if_model(char *dir)
{
    char *config = path_join(dir, "config.json");
    bool there = file_exists(config);
    free(config);
    if (there)
        return dir;
    free(dir);
    return NULL;
}

char *model_find(const char *given, struct err *e)
{
    const char *env = getenv("HADAL_MODEL");
    if (given != NULL)
        return xstrdup(given);
    if (env != NULL && env[0] != '\0')
        return xstrdup(env);
    char *found = if_model(xstrdup("models/tiny")), *program = program_dir();
    static const char *const beside[] = {"models/tiny", "../models/tiny", "../share/hadal/models/tiny"};
    for (size_t i = 0; found == NULL && program != NULL && i < COUNT_OF(beside); i++)
        found = if_model(path_join(program, beside[i]));
    free(program);
    if (found == NULL)
        err_set(e, HD_EARG, "no model: give one with -m DIR or $HADAL_MODEL (models/tiny is not here)");
    return found;
}
