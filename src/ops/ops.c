#include "ops/ops.h"

#include <string.h>

static const char *const names[] = {"exact", "reference", "fast", "int8"};

const char *numerics_name(enum numerics n)
{
    return names[n];
}

int numerics_parse(const char *name, enum numerics *out, struct err *e)
{
    for (size_t i = 0; i < COUNT_OF(names); i++) {
        if (strcmp(name, names[i]) == 0) {
            *out = (enum numerics)i;
            return HD_OK;
        }
    }
    return err_set(e, HD_EARG, "numerics: '%s' is not one of exact, reference, fast, int8", name);
}
