/* What tokens cost at the official prices, by model and time. */
#ifndef HADAL_SERVE_PRICES_H
#define HADAL_SERVE_PRICES_H

#include <stdbool.h>
#include <stdint.h>

struct price {
    double hit, miss, output; /* dollars per million tokens */
};

/* The price of a model at a time (seconds since 1970). Names with "pro" are V4-Pro, "deepseek-flash" is V4.1-Flash, all
 * others are V4-Flash. Peak hours (01:00-04:00 and 06:00-10:00 UTC, Monday to Friday, since August 2026) are dearer;
 * public holidays are not known here. */
struct price price_of(const char *model, int64_t time);
double price_cost(struct price p, int64_t hit, int64_t miss, int64_t output);

#endif
