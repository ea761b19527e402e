#include "engine/budget.h"

enum { START_PART = 8, SLOW_FACTOR = 3 };

static double clamp(double x, double low, double high)
{
    return x < low ? low : x > high ? high : x;
}

void budget_init(struct budget *b, int rows_max, double target_ms)
{
    *b = (struct budget){.target_ns = target_ms * 1e6, .rows_max = rows_max, .rows = rows_max};
    if (target_ms > 0)
        b->rows = clamp(rows_max / START_PART, rows_max < BUDGET_ROWS_MIN ? rows_max : BUDGET_ROWS_MIN, rows_max);
}

int budget_rows(const struct budget *b)
{
    return (int)b->rows;
}

void budget_learn(struct budget *b, int n_decodes, int n_prompt_rows, uint64_t ns)
{
    double low = b->rows_max < BUDGET_ROWS_MIN ? b->rows_max : BUDGET_ROWS_MIN;
    if (n_decodes > 0 && n_prompt_rows == 0)
        b->decode_ns = b->decode_ns == 0 ? (double)ns : 0.75 * b->decode_ns + 0.25 * (double)ns;
    if (b->target_ns == 0 || n_decodes == 0 || n_prompt_rows == 0)
        return;
    double target = SLOW_FACTOR * b->decode_ns > b->target_ns ? SLOW_FACTOR * b->decode_ns : b->target_ns;
    double beside = (double)ns - b->decode_ns;
    double factor = beside <= 0 ? 1.5 : clamp((target - b->decode_ns) / beside, 0.5, 1.5);
    if (factor < 1 || n_prompt_rows + 1 >= (int)b->rows) /* a step that had fewer rows than it might says nothing of more */
        b->rows = clamp((factor < 1 ? n_prompt_rows : b->rows) * factor, low, b->rows_max);
}
