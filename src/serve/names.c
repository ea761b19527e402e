/* Model names. One model is served; clients call it by many names. */
#include "serve/api.h"

#include <string.h>
#include <strings.h>

static bool is_one_of(const char *name, size_t n, const char *const *list, size_t n_list)
{
    for (size_t i = 0; i < n_list; i++)
        if (strlen(list[i]) == n && strncasecmp(name, list[i], n) == 0)
            return true;
    return false;
}

static bool begins_with(const char *name, const char *prefix)
{
    return strncasecmp(name, prefix, strlen(prefix)) == 0;
}

bool api_model_known(const struct api_env *env, const char *name, int *think)
{
    static const char *const official[] = {"deepseek-v4-pro", "deepseek-v4-flash", "deepseek-flash", "deepseek-chat",
                                           "deepseek-reasoner"};
    size_t n = strlen(name);
    if (n > 4 && strcmp(name + n - 4, "[1m]") == 0) /* a context size that some clients keep in the name */
        n -= 4;
    *think = 0;
    if (is_one_of(name, n, &official[3], 1))
        *think = -1;
    else if (is_one_of(name, n, &official[4], 1))
        *think = 1;
    return env->any_model || is_one_of(name, n, official, COUNT_OF(official)) || is_one_of(name, n, &env->model, 1) ||
           begins_with(name, "deepseek-ai/deepseek-v4") || begins_with(name, "claude");
}
