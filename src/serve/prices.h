/* What tokens cost, by model and time: the official list, or a file of the same form (docs/SERVING.md).
 *
 * Idea: a table has price lists; a list has names (patterns with *, upper and lower case alike) and periods. The first
 * list one of whose names matches a model is the model's, and of its periods the last one that has begun. */
#ifndef HADAL_SERVE_PRICES_H
#define HADAL_SERVE_PRICES_H

#include "base/base.h"

struct price {
    double hit, miss, output; /* dollars per million tokens */
};
double price_cost(struct price p, int64_t hit, int64_t miss, int64_t output); /* dollars */

struct prices;
/* DeepSeek's list, April to November 2026, as the text of a price file. */
extern const char prices_official[];
struct prices *prices_open_official(void);
/* From a price file; HD_EARG (or file_read's codes) with file and field. */
int prices_open(struct prices **p, const char *path, struct err *e);
/* The same from text; name stands for the file in messages. */
int prices_parse(struct prices **p, const char *text, size_t n, const char *name, struct err *e);
void prices_close(struct prices **p);

/* The price of a model at a time (seconds since 1970); nothing costs anything before the first period, or when no list
 * has the name. */
struct price prices_at(const struct prices *p, const char *model, int64_t time);

/* What `hadal usage --compare` compares with: a line each, as the table's "compare" gives them. */
struct price_line {
    const char *name;
    const char *model; /* a model of the table, priced by the time of each request; NULL: `fixed` */
    struct price fixed;
};
int prices_n_lines(const struct prices *p);
const struct price_line *prices_line(const struct prices *p, int i);

#endif
