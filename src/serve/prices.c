/* The official price list, April to November 2026. */
#include "serve/prices.h"

#include "base/base.h"

#include <string.h>

enum model_class { CLASS_FLASH, CLASS_PRO, CLASS_V41_FLASH };

static const struct period {
    enum model_class model;
    int64_t from; /* seconds since 1970 */
    struct price price;
    bool peaks; /* twice the price in peak hours */
} periods[] = {
    {CLASS_FLASH, 0, {0.028, 0.14, 0.28}, false},
    {CLASS_FLASH, 1777205700, {0.0028, 0.14, 0.28}, false},  /* 2026-04-26 12:15 */
    {CLASS_FLASH, 1786896000, {0.007, 0.22, 0.66}, true},    /* 2026-08-16 16:00 */
    {CLASS_FLASH, 1789012800, {0.003, 0.15, 0.60}, true},    /* 2026-09-10 04:00, served by V4.1 */
    {CLASS_PRO, 0, {0.145, 1.74, 3.48}, false},
    {CLASS_PRO, 1777205700, {0.003625, 0.435, 0.87}, false}, /* with the discount that stayed */
    {CLASS_PRO, 1786896000, {0.022, 0.66, 1.98}, true},
    {CLASS_V41_FLASH, 0, {0.003, 0.15, 0.60}, true},
};

static enum model_class class_of(const char *model)
{
    if (strcasestr(model, "pro") != NULL)
        return CLASS_PRO;
    return strcmp(model, "deepseek-flash") == 0 ? CLASS_V41_FLASH : CLASS_FLASH;
}

static bool is_peak(int64_t time)
{
    int64_t day = time / 86400, hour = time % 86400 / 3600;
    int64_t weekday = (day + 4) % 7; /* 1970-01-01 was a Thursday; Sunday is 0 */
    return weekday >= 1 && weekday <= 5 && ((hour >= 1 && hour < 4) || (hour >= 6 && hour < 10));
}

struct price price_of(const char *model, int64_t time)
{
    const struct period *found = NULL;
    enum model_class wanted = class_of(model);
    for (size_t i = 0; i < COUNT_OF(periods); i++)
        if (periods[i].model == wanted && periods[i].from <= time)
            found = &periods[i];
    struct price p = found == NULL ? (struct price){0} : found->price;
    if (found != NULL && found->peaks && is_peak(time))
        p = (struct price){2 * p.hit, 2 * p.miss, 2 * p.output};
    return p;
}

double price_cost(struct price p, int64_t hit, int64_t miss, int64_t output)
{
    return ((double)hit * p.hit + (double)miss * p.miss + (double)output * p.output) / 1e6;
}
