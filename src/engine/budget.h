/* How many rows of prompts a step may have beside decodes, so that it ends in time.
 *
 * Idea: a step takes the time of its decodes and a time for each row of prompts; both are measured. The rows follow what
 * the last step shows, by at most a half up or down. The target is the given time, or three times that of a step with
 * decodes alone where that is longer: prompts then still get two thirds of a slow machine. There are always some rows, so
 * prompts always advance. */
#ifndef HADAL_ENGINE_BUDGET_H
#define HADAL_ENGINE_BUDGET_H

#include <stdint.h>

enum { BUDGET_ROWS_MIN = 4 };

struct budget {
    double target_ns;  /* 0: no limit of time */
    double decode_ns;  /* of steps with decodes alone, a moving mean; 0: none seen yet */
    double rows;       /* what the next step may have */
    int rows_max;
};

void budget_init(struct budget *b, int rows_max, double target_ms); /* starts with an eighth of rows_max */
int budget_rows(const struct budget *b);
/* A step with these rows took ns. */
void budget_learn(struct budget *b, int n_decodes, int n_prompt_rows, uint64_t ns);

#endif
