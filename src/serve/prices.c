/* Price tables: reading a file, and which price holds when. */
#include "serve/prices.h"

#include <fnmatch.h>
#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { PEAKS_MAX = 8, FILE_BYTES_MAX = 4 << 20 };

struct period {
    int64_t from; /* seconds since 1970 */
    struct price price, peak;
    int peak_hours[PEAKS_MAX][2]; /* UTC, from and to */
    int n_peaks;
};

struct price_list {
    json_t *names;
    struct period *periods; /* by time */
    int n_periods;
};

struct prices {
    json_t *root; /* owns the names */
    struct price_list *lists;
    int n_lists;
    int64_t *holidays; /* days since 1970 */
    int n_holidays;
    struct price_line *lines;
    int n_lines;
};

double price_cost(struct price p, int64_t hit, int64_t miss, int64_t output)
{
    return ((double)hit * p.hit + (double)miss * p.miss + (double)output * p.output) / 1e6;
}

/* ---------------------------------------------------------------- reading */

struct place {
    const char *file;
    struct err *e;
    char field[96];
};

static int refuse(const struct place *at, const char *key, const char *expected)
{
    const char *dot = at->field[0] != '\0' ? "." : "";
    return err_set(at->e, HD_EARG, "%s: %s%s%s must be %s", at->file, at->field, dot, key, expected);
}

/* 2026-08-16, 2026-08-16T16:00Z or 2026-08-16T16:00:00Z; false when it is none. */
static bool read_time(const json_t *v, int64_t *out)
{
    static const char *const forms[] = {"%Y-%m-%d", "%Y-%m-%dT%H:%MZ", "%Y-%m-%dT%H:%M:%SZ"};
    const char *text = json_string_value(v);
    for (size_t i = 0; text != NULL && i < COUNT_OF(forms); i++) {
        struct tm tm = {0};
        const char *end = strptime(text, forms[i], &tm);
        if (end == NULL || *end != '\0')
            continue;
        *out = timegm(&tm);
        return true;
    }
    return false;
}

static int read_price(const struct place *at, const json_t *o, struct price *p)
{
    const char *const keys[] = {"hit", "miss", "output"};
    double *const to[] = {&p->hit, &p->miss, &p->output};
    for (int i = 0; i < 3; i++) {
        const json_t *v = json_object_get(o, keys[i]);
        if (!json_is_number(v) || !(json_number_value(v) >= 0) || !isfinite(json_number_value(v)))
            return refuse(at, keys[i], "dollars per million tokens");
        *to[i] = json_number_value(v);
    }
    return HD_OK;
}

static bool read_hours(const json_t *v, int hours[2])
{
    for (size_t i = 0; i < 2; i++) {
        const json_t *h = json_array_get(v, i);
        if (!json_is_integer(h) || json_integer_value(h) < 0 || json_integer_value(h) > 24)
            return false;
        hours[i] = (int)json_integer_value(h);
    }
    return json_array_size(v) == 2 && hours[0] < hours[1];
}

static int read_peaks(const struct place *at, const json_t *o, struct period *p)
{
    const json_t *peak = json_object_get(o, "peak"), *hours = json_object_get(o, "peak_hours");
    if (peak == NULL && hours == NULL)
        return HD_OK;
    if (!json_is_array(hours) || json_array_size(hours) > PEAKS_MAX)
        return refuse(at, "peak_hours", "a list of at most 8 pairs of hours");
    for (size_t i = 0; i < json_array_size(hours); i++)
        if (!read_hours(json_array_get(hours, i), p->peak_hours[p->n_peaks++]))
            return refuse(at, "peak_hours", "pairs of hours (UTC), the smaller first");
    return read_price(at, peak, &p->peak);
}

static int read_list(struct place *at, const json_t *o, struct price_list *l)
{
    const json_t *prices = json_object_get(o, "prices");
    size_t i;
    json_t *v;
    l->names = json_object_get(o, "names");
    if (!json_is_array(l->names) || json_array_size(l->names) == 0)
        return refuse(at, "names", "a list of model names");
    json_array_foreach(l->names, i, v) if (!json_is_string(v)) return refuse(at, "names", "a list of model names");
    if (!json_is_array(prices) || json_array_size(prices) == 0)
        return refuse(at, "prices", "a list of periods");
    l->periods = xcalloc(json_array_size(prices), sizeof *l->periods);
    size_t stem = strlen(at->field);
    json_array_foreach((json_t *)(uintptr_t)prices, i, v) {
        struct period *p = &l->periods[i];
        snprintf(at->field + stem, sizeof at->field - stem, ".prices[%zu]", i);
        if (!read_time(json_object_get(v, "from"), &p->from))
            return refuse(at, "from", "a date like 2026-08-16 or 2026-08-16T16:00Z");
        if (i > 0 && p->from <= p[-1].from)
            return refuse(at, "from", "later than that of the period before");
        if (read_price(at, v, &p->price) != HD_OK || read_peaks(at, v, p) != HD_OK)
            return HD_EARG;
        l->n_periods++;
    }
    return HD_OK;
}

static int read_lists(struct place *at, struct prices *p)
{
    const json_t *lists = json_object_get(p->root, "models");
    if (!json_is_array(lists) || json_array_size(lists) == 0)
        return refuse(at, "models", "a list of price lists");
    p->lists = xcalloc(json_array_size(lists), sizeof *p->lists);
    for (size_t i = 0; i < json_array_size(lists); i++) {
        snprintf(at->field, sizeof at->field, "models[%zu]", i);
        p->n_lists++;
        if (read_list(at, json_array_get(lists, i), &p->lists[i]) != HD_OK)
            return HD_EARG;
    }
    at->field[0] = '\0';
    return HD_OK;
}

static int read_holidays(const struct place *at, struct prices *p)
{
    const json_t *days = json_object_get(p->root, "holidays");
    if (days == NULL)
        return HD_OK;
    if (!json_is_array(days))
        return refuse(at, "holidays", "a list of dates");
    p->holidays = xcalloc(json_array_size(days) + 1, sizeof *p->holidays);
    for (size_t i = 0; i < json_array_size(days); i++) {
        int64_t time;
        if (!read_time(json_array_get(days, i), &time))
            return refuse(at, "holidays", "a list of dates like 2026-10-01");
        p->holidays[p->n_holidays++] = time / 86400;
    }
    return HD_OK;
}

static int read_lines(struct place *at, struct prices *p)
{
    const json_t *lines = json_object_get(p->root, "compare");
    if (lines == NULL)
        return HD_OK;
    if (!json_is_array(lines))
        return refuse(at, "compare", "a list");
    p->lines = xcalloc(json_array_size(lines) + 1, sizeof *p->lines);
    for (size_t i = 0; i < json_array_size(lines); i++) {
        const json_t *o = json_array_get(lines, i);
        struct price_line *l = &p->lines[i];
        snprintf(at->field, sizeof at->field, "compare[%zu]", i);
        l->name = json_string_value(json_object_get(o, "name"));
        l->model = json_string_value(json_object_get(o, "model"));
        if (l->name == NULL)
            return refuse(at, "name", "a text");
        if (l->model == NULL && read_price(at, o, &l->fixed) != HD_OK)
            return HD_EARG;
        p->n_lines++;
    }
    return HD_OK;
}

int prices_parse(struct prices **out, const char *text, size_t n, const char *name, struct err *e)
{
    json_error_t why;
    struct place at = {.file = name, .e = e};
    json_t *root = json_loadb(text, n, JSON_REJECT_DUPLICATES, &why);
    if (!json_is_object(root)) {
        json_decref(root);
        return err_set(e, HD_EARG, "%s: is no price table: %s", name, root == NULL ? why.text : "it is no JSON object");
    }
    struct prices *p = xcalloc(1, sizeof *p);
    p->root = root;
    int rc = read_holidays(&at, p);
    if (rc == HD_OK)
        rc = read_lists(&at, p);
    if (rc == HD_OK)
        rc = read_lines(&at, p);
    if (rc != HD_OK)
        prices_close(&p);
    *out = p;
    return rc;
}

int prices_open(struct prices **p, const char *path, struct err *e)
{
    struct buf text = {0};
    int rc = file_read(&text, path, FILE_BYTES_MAX, e);
    if (rc == HD_OK)
        rc = prices_parse(p, text.len > 0 ? text.data : "", text.len, path, e);
    buf_free(&text);
    return rc;
}

struct prices *prices_open_official(void)
{
    struct prices *p = NULL;
    struct err e = {0};
    if (prices_parse(&p, prices_official, strlen(prices_official), "the official price list", &e) != HD_OK)
        abort(); /* it is part of the program */
    return p;
}

void prices_close(struct prices **out)
{
    struct prices *p = *out;
    *out = NULL;
    if (p == NULL)
        return;
    for (int i = 0; i < p->n_lists; i++)
        free(p->lists[i].periods);
    free(p->lists);
    free(p->holidays);
    free(p->lines);
    json_decref(p->root);
    free(p);
}

/* ---------------------------------------------------------------- which price */

static bool has_name(const struct price_list *l, const char *model)
{
    size_t i;
    json_t *v;
    json_array_foreach(l->names, i, v) if (fnmatch(json_string_value(v), model, FNM_CASEFOLD) == 0) return true;
    return false;
}

static bool is_working_day(const struct prices *p, int64_t day)
{
    int64_t weekday = (day + 4) % 7; /* 1970-01-01 was a Thursday; Sunday is 0 */
    for (int i = 0; i < p->n_holidays; i++)
        if (p->holidays[i] == day)
            return false;
    return weekday >= 1 && weekday <= 5;
}

static bool is_peak(const struct prices *p, const struct period *q, int64_t time)
{
    int64_t hour = time % 86400 / 3600;
    if (!is_working_day(p, time / 86400))
        return false;
    for (int i = 0; i < q->n_peaks; i++)
        if (hour >= q->peak_hours[i][0] && hour < q->peak_hours[i][1])
            return true;
    return false;
}

struct price prices_at(const struct prices *p, const char *model, int64_t time)
{
    const struct price_list *l = p->lists, *end = p->lists + p->n_lists;
    const struct period *found = NULL;
    while (l < end && !has_name(l, model))
        l++;
    for (int i = 0; l < end && i < l->n_periods; i++)
        if (l->periods[i].from <= time)
            found = &l->periods[i];
    if (found == NULL)
        return (struct price){0};
    return is_peak(p, found, time) ? found->peak : found->price;
}

int prices_n_lines(const struct prices *p)
{
    return p->n_lines;
}

const struct price_line *prices_line(const struct prices *p, int i)
{
    return &p->lines[i];
}
