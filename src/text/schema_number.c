/* Numbers. Without bounds any integer of up to 18 digits, a fraction and a small exponent; with bounds the digits
 * are compared from the first on, and there is no exponent. */
#include "text/grammar_impl.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

enum { DIGITS_MAX = 18, FRACTION_MAX = 17, SHORT_FRACTION_MAX = 6 };
#define WHOLE_MAX INT64_C(999999999999999999)
/* Bounds of a number with a fraction: so many digits and a short fraction keep their order as doubles. */
#define BOUND_MAX INT64_C(999999999)

/* ---------------------------------------------------------------- digits */

/* From 0 to n digits, then next. */
static int32_t digits_up_to(struct grammar *g, int n, int32_t next)
{
    int32_t node = next;
    for (int i = 0; i < n; i++)
        node = node_either(g, node_range(g, '0', '9', node), next);
    return node;
}

/* The digits from `at` on of numbers between two of equal length; low, high: all digits before were those of lo, of
 * hi. */
static int32_t digits_between(struct grammar *g, const char *lo, const char *hi, bool low, bool high, int32_t next)
{
    if (*lo == '\0')
        return next;
    char a = low ? *lo : '0', b = high ? *hi : '9';
    int32_t node = AT_FAIL;
    if (!low && !high) {
        for (size_t n = strlen(lo); n > 0; n--)
            next = node_range(g, '0', '9', next);
        return next;
    }
    if (a == b)
        return node_byte(g, a, digits_between(g, lo + 1, hi + 1, low, high, next));
    char from = low ? (char)(a + 1) : a, to = high ? (char)(b - 1) : b;
    if (low)
        node = node_byte(g, a, digits_between(g, lo + 1, hi + 1, true, false, next));
    if (high)
        node = node_either(g, node, node_byte(g, b, digits_between(g, lo + 1, hi + 1, false, true, next)));
    if (from <= to)
        node = node_either(g, node, node_range(g, (unsigned char)from, (unsigned char)to,
                                               digits_between(g, lo + 1, hi + 1, false, false, next)));
    return node;
}

/* Integers without leading zeros of least to most digits. */
static int32_t integers_of_length(struct grammar *g, int least, int most, int32_t next)
{
    int32_t node = digits_up_to(g, most - least, next);
    for (int i = 1; i < least; i++)
        node = node_range(g, '0', '9', node);
    node = node_range(g, '1', '9', node);
    return least == 1 ? node_either(g, node, node_byte(g, '0', next)) : node;
}

/* The integers lo .. hi without sign, 0 <= lo. Lengths that are allowed as a whole share their digits. */
static int32_t integers(struct grammar *g, int64_t lo, int64_t hi, int32_t next)
{
    int32_t node = AT_FAIL;
    int64_t first = 0, last = 9; /* of n digits */
    int whole_from = 0, whole_to = 0;
    for (int n = 1; n <= DIGITS_MAX; n++) {
        int64_t a = lo > first ? lo : first, b = hi < last ? hi : last;
        char from[32], to[32];
        if (a == first && b == last) {
            whole_from = whole_from == 0 ? n : whole_from;
            whole_to = n;
        } else if (a <= b) {
            snprintf(from, sizeof from, "%" PRId64, a);
            snprintf(to, sizeof to, "%" PRId64, b);
            node = node_either(g, digits_between(g, from, to, true, true, next), node);
        }
        first = last + 1;
        last = n < DIGITS_MAX ? last * 10 + 9 : last;
    }
    return whole_to > 0 ? node_either(g, integers_of_length(g, whole_from, whole_to, next), node) : node;
}

/* ---------------------------------------------------------------- bounds */

struct bounds {
    double lo, hi; /* infinite: none */
    bool lo_out, hi_out; /* the bound itself is not allowed */
};

static int read_bound(struct schema_reader *r, const json_t *schema, const char *key, double *to)
{
    const json_t *v = json_object_get(schema, key);
    if (v == NULL)
        return 0;
    if (!json_is_number(v))
        return schema_refuse(r, "%s must be a number", key);
    *to = json_number_value(v);
    return 1;
}

static int read_bounds(struct schema_reader *r, const json_t *schema, struct bounds *b)
{
    double out = 0;
    *b = (struct bounds){.lo = -INFINITY, .hi = INFINITY};
    if (read_bound(r, schema, "minimum", &b->lo) < 0 || read_bound(r, schema, "maximum", &b->hi) < 0)
        return -1;
    int given = read_bound(r, schema, "exclusiveMinimum", &out);
    if (given > 0 && out >= b->lo) {
        b->lo = out;
        b->lo_out = true;
    }
    int given_hi = given < 0 ? -1 : read_bound(r, schema, "exclusiveMaximum", &out);
    if (given_hi > 0 && out <= b->hi) {
        b->hi = out;
        b->hi_out = true;
    }
    return given_hi < 0 ? -1 : 0;
}

/* A bound as an integer of at most 18 digits. */
static int64_t whole(double x)
{
    return x >= (double)WHOLE_MAX ? WHOLE_MAX : x <= -(double)WHOLE_MAX ? -WHOLE_MAX : (int64_t)x;
}

static int32_t integer_between(struct grammar *g, const struct bounds *b)
{
    double low = ceil(b->lo), high = floor(b->hi);
    int64_t lo = whole(b->lo_out && low == b->lo ? low + 1 : low), hi = whole(b->hi_out && high == b->hi ? high - 1 : high);
    int32_t node = AT_FAIL;
    if (lo > hi)
        return AT_FAIL;
    if (lo < 0)
        node = node_byte(g, '-', integers(g, hi < 0 ? -hi : 1, -lo, AT_RETURN));
    return hi < 0 ? node : node_either(g, integers(g, lo > 0 ? lo : 0, hi, AT_RETURN), node);
}

/* ---------------------------------------------------------------- numbers */

/* A fraction that is not zero: up to so many digits, one of them from 1 to 9. */
static int32_t fraction_above_zero(struct grammar *g)
{
    int32_t node = node_range(g, '1', '9', AT_RETURN);
    for (int i = 1; i < SHORT_FRACTION_MAX; i++)
        node = node_either(g, node_byte(g, '0', node), node_range(g, '1', '9', digits_up_to(g, i, AT_RETURN)));
    return node_byte(g, '.', node);
}

/* Numbers without sign from lo to hi, whole bounds: an integer with any fraction below hi, or hi itself. */
static int32_t positive_between(struct grammar *g, int64_t lo, bool lo_out, int64_t hi, bool hi_out)
{
    int32_t any = node_either(g, AT_RETURN, node_byte(g, '.', node_range(g, '0', '9', digits_up_to(g, SHORT_FRACTION_MAX - 1,
                                                                                                    AT_RETURN))));
    int32_t node = AT_FAIL;
    if (lo > hi || (lo == hi && (lo_out || hi_out)))
        return AT_FAIL;
    if (lo < hi && lo_out)
        node = node_either(g, integers(g, lo, lo, fraction_above_zero(g)), integers(g, lo + 1, hi - 1, any));
    else if (lo < hi)
        node = integers(g, lo, hi - 1, any);
    return hi_out ? node : node_either(g, integers(g, hi, hi, AT_RETURN), node);
}

static int32_t number_between(struct schema_reader *r, const struct bounds *b)
{
    int64_t lo = whole(b->lo), hi = whole(b->hi);
    int32_t node = AT_FAIL;
    bool lo_fits = isinf(b->lo) || ((double)lo == b->lo && lo >= -BOUND_MAX && lo <= BOUND_MAX);
    bool hi_fits = isinf(b->hi) || ((double)hi == b->hi && hi >= -BOUND_MAX && hi <= BOUND_MAX);
    if (!lo_fits || !hi_fits)
        return schema_refuse(r, "a bound of a number must be a whole number of at most 9 digits");
    if (lo < 0) {
        bool below = hi < 0; /* -x lies between -hi and -lo */
        int32_t x = positive_between(r->g, below ? -hi : 0, below ? b->hi_out : true, -lo, b->lo_out);
        node = x == AT_FAIL ? AT_FAIL : node_byte(r->g, '-', x);
    }
    if (hi < 0)
        return node;
    return node_either(r->g, positive_between(r->g, lo > 0 ? lo : 0, lo >= 0 && b->lo_out, hi, b->hi_out), node);
}

static int32_t free_number(struct grammar *g)
{
    int32_t exponent = node_range(g, '0', '9', digits_up_to(g, 1, AT_RETURN));
    exponent = node_either(g, exponent, node_either(g, node_byte(g, '+', exponent), node_byte(g, '-', exponent)));
    exponent = node_either(g, node_byte(g, 'e', exponent), node_byte(g, 'E', exponent));
    int32_t end = node_either(g, exponent, AT_RETURN);
    int32_t fraction = node_byte(g, '.', node_range(g, '0', '9', digits_up_to(g, FRACTION_MAX - 1, end)));
    int32_t n = integers(g, 0, WHOLE_MAX, node_either(g, fraction, end));
    return node_either(g, n, node_byte(g, '-', n));
}

int32_t schema_number(struct schema_reader *r, const json_t *schema, bool integer)
{
    struct bounds b;
    if (read_bounds(r, schema, &b) != 0)
        return -1;
    if (integer)
        return integer_between(r->g, &b);
    return isinf(b.lo) && isinf(b.hi) ? free_number(r->g) : number_between(r, &b);
}
