/* JSON for the chat format: no number is lost, Python's spelling, refusals with their place. */
#include "text/text.h"

#include <stdarg.h>
#include <setjmp.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

static json_t *load(const char *text, bool python, struct err *e)
{
    *e = (struct err){0};
    return json_load_exact(text, strlen(text), "t", python, e);
}

static void check_dump(const char *text, const char *want)
{
    struct err e;
    struct buf out = {0};
    json_t *v = load(text, true, &e);
    if (v == NULL)
        fail_msg("%s: %s", text, e.msg);
    json_dump_python(v, &out);
    assert_string_equal(out.data, want);
    json_decref(v);
    buf_free(&out);
}

/* Each number and what Python's repr prints for it. */
static const struct {
    const char *text, *want;
} reals[] = {
    {"0.00000000000000000e+00", "0.0"},
    {"-0.00000000000000000e+00", "-0.0"},
    {"1.00000000000000000e+00", "1.0"},
    {"1.50000000000000000e+00", "1.5"},
    {"1.00000000000000006e-01", "0.1"},
    {"1.00000000000000000e+05", "100000.0"},
    {"1.00000000000000000e+15", "1000000000000000.0"},
    {"1.00000000000000000e+16", "1e+16"},
    {"1.23456789012345594e+14", "123456789012345.6"},
    {"1.23456789012345675e+15", "1234567890123456.8"},
    {"1.23456789012345680e+16", "1.2345678901234568e+16"},
    {"1.00000000000000000e+22", "1e+22"},
    {"9.99999999999999916e+22", "1e+23"},
    {"1.00000000000000005e-04", "0.0001"},
    {"1.00000000000000008e-05", "1e-05"},
    {"1.20000000000000003e-04", "0.00012"},
    {"1.20000000000000003e-05", "1.2e-05"},
    {"4.94065645841246544e-324", "5e-324"},
    {"2.22507385850720138e-308", "2.2250738585072014e-308"},
    {"1.79769313486231571e+308", "1.7976931348623157e+308"},
    {"9.00719925474099200e+15", "9007199254740992.0"},
    {"5.68434188608080149e-14", "5.684341886080802e-14"},
    {"6.18970019642690137e+26", "6.189700196426902e+26"},
    {"2.22507385850720138e-308", "2.2250738585072014e-308"},
    {"5.31691198313966349e+36", "5.316911983139664e+36"},
    {"9.53674316406250000e-07", "9.5367431640625e-07"},
    {"-9.99999999999999955e-08", "-1e-07"},
    {"3.14158999999999988e+00", "3.14159"},
    {"2.99999999999999989e-01", "0.3"},
    {"3.33333333333333315e-01", "0.3333333333333333"},
    {"6.66666666666666630e-01", "0.6666666666666666"},
    {"1.00000000000000002e+100", "1e+100"},
    {"4.34999999999999964e+00", "4.35"},
    {"9.99999999999999916e+22", "1e+23"},
    {"4.94065645841246544e-324", "5e-324"},
    {"7.90505033345994471e-323", "8e-323"},
    {"1.08646184497421943e-311", "1.086461844974e-311"},
    {"1.18305218616677471e-271", "1.1830521861667747e-271"},
    {"3.05493636349960468e-151", "3.054936363499605e-151"},
    {"3.94430452610505903e-31", "3.944304526105059e-31"},
    {"2.84217094304040074e-14", "2.842170943040401e-14"},
    {"5.96046447753906250e-08", "5.960464477539063e-08"},
    {"1.44115188075855872e+17", "1.4411518807585587e+17"},
    {"1.15292150460684698e+18", "1.152921504606847e+18"},
    {"9.22337203685477581e+18", "9.223372036854776e+18"},
    {"1.84467440737095516e+19", "1.8446744073709552e+19"},
    {"1.51115727451828647e+23", "1.5111572745182865e+23"},
    {"1.26765060022822940e+30", "1.2676506002282294e+30"},
    {"3.27339060789614187e+150", "3.273390607896142e+150"},
    {"1.07150860718626732e+301", "1.0715086071862673e+301"},
    {"8.98846567431157954e+307", "8.98846567431158e+307"},
    {"-3.52334470333675211e-22", "-3.523344703336752e-22"},
    {"-2.10353007153653002e-28", "-2.10353007153653e-28"},
    {"-8.55127426664914492e+03", "-8551.274266649145"},
    {"-8.11739916120634880e+06", "-8117399.161206349"},
    {"-8.84002150450586441e+01", "-88.40021504505864"},
    {"-5.70603638328676526e-26", "-5.706036383286765e-26"},
    {"-1.32708632675228261e-27", "-1.3270863267522826e-27"},
    {"-5.18673999745949986e+04", "-51867.399974595"},
    {"-1.50961621714972076e+21", "-1.5096162171497208e+21"},
    {"1.30907388386159342e+29", "1.3090738838615934e+29"},
    {"-5.53522070785970974e+09", "-5535220707.85971"},
    {"1.65993808920814626e-28", "1.6599380892081463e-28"},
    {"1.54205897234997354e-06", "1.5420589723499735e-06"},
    {"-9.00821373220457111e-17", "-9.008213732204571e-17"},
    {"-9.06834638764487456e+23", "-9.068346387644875e+23"},
    {"-7.33650367116789846e-05", "-7.336503671167898e-05"},
    {"-7.11489833285124878e-24", "-7.114898332851249e-24"},
    {"1.41827379293468784e+04", "14182.737929346878"},
    {"6.32252718240062831e-20", "6.322527182400628e-20"},
    {"-7.93888575112817343e+05", "-793888.5751128173"},
};

static void test_reals(void **state)
{
    (void)state;
    for (size_t i = 0; i < COUNT_OF(reals); i++)
        check_dump(reals[i].text, reals[i].want);
}

/* Every power of two reads back, and its digits cannot be fewer. */
static void test_shortest(void **state)
{
    (void)state;
    for (int k = -1074; k <= 1023; k++) {
        char text[64];
        double v = 1.0;
        for (int i = 0; i < (k < 0 ? -k : k); i++)
            v = k < 0 ? v / 2 : v * 2;
        snprintf(text, sizeof text, "%.17e", v);
        struct err e;
        json_t *j = load(text, false, &e);
        struct buf out = {0};
        json_dump_python(j, &out);
        assert_true(strtod(out.data, NULL) == v);
        json_decref(j);
        buf_free(&out);
    }
}

static void test_values(void **state)
{
    (void)state;
    check_dump(" { \"b\" : [ ] , \"a\" : { } , \"c\":[1,true , false,null] } ",
               "{\"b\": [], \"a\": {}, \"c\": [1, true, false, null]}");
    check_dump("\"\\u0000\\u001f\\b\\t\\n\\f\\r\\\"\\\\\\/\x7f\"", "\"\\u0000\\u001f\\b\\t\\n\\f\\r\\\"\\\\/\x7f\"");
    check_dump("\"\\ud83d\\ude00\\u00e9\\u4e2d\xE2\x80\xA8\"", "\"\xF0\x9F\x98\x80é中\xE2\x80\xA8\"");
    check_dump("{\"a\\u0000b\": 1}", "{\"a\\u0000b\": 1}");
    check_dump("{\"a\": 1, \"b\": 2, \"a\": 3}", "{\"a\": 3, \"b\": 2}");
    check_dump("[9223372036854775807,-9223372036854775808,-0]", "[9223372036854775807, -9223372036854775808, 0]");
    check_dump("[9223372036854775808,-9223372036854775809]", "[9223372036854775808, -9223372036854775809]");
    check_dump("100000000000000000000000000000000000000000000000001", "100000000000000000000000000000000000000000000000001");
    check_dump("[1e400,-1e400,NaN,-Infinity]", "[Infinity, -Infinity, NaN, -Infinity]");
    check_dump("\"\"", "\"\"");
}

static void test_refusals(void **state)
{
    (void)state;
    static const char *const bad[] = {
        "", " ", "{", "[", "[1", "[1,", "[1,]", "{\"a\"", "{\"a\":", "{\"a\":1", "{\"a\":1,", "{\"a\":1,}", "{a:1}", "{1:1}",
        "\"", "\"\\", "\"\\u12", "\"\\x\"", "\"\n\"", "\"\\ud800\"", "\"\\ud800\\u0041\"", "\"\\udc00\"", "\"\xFF\"",
        "\"\xC0\x80\"", "\"\xED\xA0\x80\"", "\"\xF4\x90\x80\x80\"", "\"\xE2\x82", "01", "-", "+1", "1.", ".5", "1e", "1e+",
        "nul", "tru", "NaN", "Infinity", "-Infinity", "1 2", "[1 2]", "{\"a\" 1}", "'a'", ("\xEF\xBB\xBF" "1"),
    };
    for (size_t i = 0; i < COUNT_OF(bad); i++) {
        struct err e;
        json_t *v = load(bad[i], false, &e);
        if (v != NULL || e.code != HD_EARG || strncmp(e.msg, "t: byte ", 8) != 0)
            fail_msg("\"%s\" was taken, or refused with \"%s\"", bad[i], e.msg);
    }
}

static json_t *load_nested(int depth, struct err *e)
{
    struct buf b = {0};
    for (int i = 0; i < depth; i++)
        buf_str(&b, i % 2 ? "[" : "{\"a\":");
    buf_str(&b, "1");
    for (int i = depth; i-- > 0;)
        buf_char(&b, i % 2 ? ']' : '}');
    json_t *v = load(b.data, false, e);
    buf_free(&b);
    return v;
}

static void test_depth(void **state)
{
    (void)state;
    struct err e;
    json_t *v = load_nested(JSON_DEPTH_MAX, &e);
    assert_non_null(v);
    assert_false(json_depth_over(v, JSON_DEPTH_MAX));
    assert_true(json_depth_over(v, JSON_DEPTH_MAX - 1));
    json_decref(v);
    assert_null(load_nested(JSON_DEPTH_MAX + 1, &e));
    assert_int_equal(e.code, HD_EUNSUPPORTED);
    assert_null(load_nested(3000, &e));
    assert_false(json_depth_over(NULL, 0));
    v = json_array();
    assert_true(json_depth_over(v, 0));
    json_decref(v);
}

/* No text of a request can pass for a number. */
static void test_exact_number(void **state)
{
    (void)state;
    struct err e;
    json_t *v = load("[36893488147419103232, \"36893488147419103232\", 1]", false, &e);
    assert_string_equal(json_exact_number(json_array_get(v, 0)), "36893488147419103232");
    assert_null(json_exact_number(json_array_get(v, 1)));
    assert_null(json_exact_number(json_array_get(v, 2)));
    assert_null(json_exact_number(NULL));
    json_decref(v);
    assert_null(load("\"\xFF" "1\"", false, &e));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_reals),    cmocka_unit_test(test_shortest), cmocka_unit_test(test_values),
        cmocka_unit_test(test_refusals), cmocka_unit_test(test_depth),    cmocka_unit_test(test_exact_number),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
