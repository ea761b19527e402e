/* Options of a generation. What was given becomes fields of the request, so that the engine checks and defaults. */
#include "bin/talk.h"
#include "bin/bin.h"

#include <stdlib.h>
#include <string.h>

enum { TOOLS_BYTES_MAX = 16 << 20 };

const char talk_args_help[] =
    "  --ctx N             longest conversation in tokens: 5000, 64K, 1M (default: what the model was made for)\n"
    "  --think LEVEL       none (default), low, high or max: whether and how hard the model thinks first\n"
    "  --system TEXT       system message\n"
    "  --tools FILE        JSON array of tools that the model may call\n"
    "  --max-tokens N      longest reply, reasoning included (default: 8192, thinking 65536, at max 131072)\n"
    "  --temperature T     0 is greedy (default: what the model's generation_config.json says, usually 1)\n"
    "  --top-p P           keep the most likely tokens whose probabilities add up to P\n"
    "  --top-k K           keep the K most likely tokens\n"
    "  --min-p P           keep tokens of at least P times the probability of the most likely one\n"
    "  --stop TEXT         end the answer before TEXT; may be given up to 16 times\n"
    "  --seed N            the same seed, prompt and options give the same reply\n";

void talk_args_init(struct talk_args *a)
{
    *a = (struct talk_args){.think = "none", .fields = json_object()};
    model_args_init(&a->model);
    engine_options_init(&a->engine);
}

void talk_args_free(struct talk_args *a)
{
    json_decref(a->tools);
    json_decref(a->fields);
    *a = (struct talk_args){0};
}

bool talk_think_known(const char *name)
{
    static const char *const names[] = {"none", "low", "high", "max"};
    for (size_t i = 0; i < COUNT_OF(names); i++)
        if (strcmp(name, names[i]) == 0)
            return true;
    return false;
}

int talk_tools_read(json_t **tools, const char *path, struct err *e)
{
    struct buf text = {0};
    json_t *v = NULL;
    int rc = file_read(&text, path, TOOLS_BYTES_MAX, e);
    if (rc == HD_OK && (v = json_load_exact(text.data == NULL ? "" : text.data, text.len, path, false, e)) == NULL)
        rc = HD_EARG;
    if (rc == HD_OK) {
        json_t *list = json_is_object(v) ? json_object_get(v, "tools") : v;
        *tools = json_is_array(list) ? json_incref(list) : NULL;
        if (*tools == NULL)
            rc = err_set(e, HD_EARG, "%s: neither an array of tools nor an object with one under \"tools\"", path);
    }
    json_decref(v);
    buf_free(&text);
    return rc;
}

static int set(struct talk_args *a, const char *field, json_t *v)
{
    json_object_set_new(a->fields, field, v);
    return 1;
}

static int take_int(struct talk_args *a, const char *command, const char *option, const char *field, const char *arg,
                    int64_t min, int64_t max)
{
    int64_t n;
    return parse_int_arg(command, option, arg, min, max, &n) ? set(a, field, json_integer(n)) : -1;
}

static int take_real(struct talk_args *a, const char *command, const char *option, const char *field, const char *arg,
                     double min, double max)
{
    double x;
    if (!parse_real_arg(command, option, arg, &x))
        return -1;
    if (!(x >= min && x <= max)) {
        usage_error(command, "%s must be from %g to %g, not %s", option, min, max, arg);
        return -1;
    }
    return set(a, field, json_real(x));
}

static int take_stop(struct talk_args *a, const char *command, const char *arg)
{
    json_t *list = json_object_get(a->fields, "stop"), *text = json_string(arg);
    if (arg[0] == '\0' || strlen(arg) > STOP_BYTES_MAX || text == NULL || json_array_size(list) == STOP_STRINGS_MAX) {
        json_decref(text);
        usage_error(command, "--stop takes up to 16 texts of 1 to %d bytes in UTF-8", STOP_BYTES_MAX);
        return -1;
    }
    if (list == NULL) {
        list = json_array();
        json_object_set_new(a->fields, "stop", list);
    }
    json_array_append_new(list, text);
    return 1;
}

static int take_tools(struct talk_args *a, const char *command, const char *path)
{
    struct err e = {0};
    json_decref(a->tools);
    a->tools = NULL;
    if (talk_tools_read(&a->tools, path, &e) == HD_OK)
        return 1;
    fail(command, &e);
    return -2;
}

static int take_think(struct talk_args *a, const char *command, const char *arg)
{
    a->think = arg;
    if (talk_think_known(arg))
        return 1;
    usage_error(command, "--think must be none, low, high or max, not '%s'", arg);
    return -1;
}

int talk_args_take(struct talk_args *a, const char *command, int c, const char *arg)
{
    switch (c) {
    case ARG_THINK:
        return take_think(a, command, arg);
    case ARG_SYSTEM:
        a->system = arg;
        return 1;
    case ARG_TOOLS:
        return take_tools(a, command, arg);
    case ARG_MAX_TOKENS:
        return take_int(a, command, "--max-tokens", "max_tokens", arg, 1, INT32_MAX);
    case ARG_TEMPERATURE:
        return take_real(a, command, "--temperature", "temperature", arg, 0, 100);
    case ARG_TOP_P:
        return take_real(a, command, "--top-p", "top_p", arg, 1e-9, 1);
    case ARG_TOP_K:
        return take_int(a, command, "--top-k", "top_k", arg, 0, INT32_MAX);
    case ARG_MIN_P:
        return take_real(a, command, "--min-p", "min_p", arg, 0, 1);
    case ARG_STOP:
        return take_stop(a, command, arg);
    case ARG_SEED:
        return take_int(a, command, "--seed", "seed", arg, INT64_MIN, INT64_MAX);
    default:
        return model_args_take(&a->model, command, c, arg);
    }
}

json_t *talk_request(const struct talk_args *a, json_t *messages)
{
    json_t *request = json_copy(a->fields), *list = json_array();
    if (a->system != NULL)
        json_array_append_new(list, json_pack("{s:s, s:s}", "role", "system", "content", a->system));
    json_array_extend(list, messages);
    json_object_set_new(request, "messages", list);
    if (strcmp(a->think, "none") == 0)
        json_object_set_new(request, "thinking", json_pack("{s:s}", "type", "disabled"));
    else
        json_object_set_new(request, "reasoning_effort", json_string(a->think));
    if (a->tools != NULL)
        json_object_set(request, "tools", a->tools);
    return request;
}

int talk_engine_open(struct engine **e, const struct talk_args *a, struct err *err)
{
    struct engine_options o = a->engine;
    struct progress p = talk_progress();
    o.model = a->model.model;
    o.context_tokens = a->model.context_tokens;
    char *dir = model_find(a->model.dir, err);
    int rc = dir == NULL ? err->code : engine_open(e, dir, &o, &p, err);
    free(dir);
    return rc;
}
