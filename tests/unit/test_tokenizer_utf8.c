/* UTF-8 stepping and the stream that never emits half a character. */
#include "text/text.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

static void test_next(void **state)
{
    (void)state;
    static const struct {
        const char *bytes;
        enum utf8_kind kind;
        size_t len;
    } cases[] = {
        {"a", UTF8_CHAR, 1},
        {"\xc3\xa9x", UTF8_CHAR, 2},
        {"\xe4\xb8\xad", UTF8_CHAR, 3},
        {"\xf0\x9f\x99\x82", UTF8_CHAR, 4},
        {"\xf4\x8f\xbf\xbf", UTF8_CHAR, 4},
        {"\x80", UTF8_BAD, 1},                 /* continuation alone */
        {"\xc0\x80", UTF8_BAD, 1},             /* overlong */
        {"\xc1\xbf", UTF8_BAD, 1},
        {"\xe0\x80\x80", UTF8_BAD, 1},
        {"\xf0\x80\x80\x80", UTF8_BAD, 1},
        {"\xed\xa0\x80", UTF8_BAD, 1},         /* surrogate */
        {"\xf4\x90\x80\x80", UTF8_BAD, 1},     /* over U+10FFFF */
        {"\xf5\x80\x80\x80", UTF8_BAD, 1},
        {"\xff", UTF8_BAD, 1},
        {"\xe4\xb8x", UTF8_BAD, 2},            /* cut short by another character */
        {"\xf0\x9f\x99x", UTF8_BAD, 3},
        {"\xf0\x9fx", UTF8_BAD, 2},
        {"\xc3x", UTF8_BAD, 1},
        {"\xc3", UTF8_SHORT, 1},
        {"\xe4", UTF8_SHORT, 1},
        {"\xe4\xb8", UTF8_SHORT, 2},
        {"\xf0\x9f\x99", UTF8_SHORT, 3},
    };
    for (size_t i = 0; i < COUNT_OF(cases); i++) {
        size_t len = 99;
        assert_int_equal(utf8_next(cases[i].bytes, strlen(cases[i].bytes), &len), cases[i].kind);
        assert_int_equal(len, cases[i].len);
    }
}

static void test_valid_prefix(void **state)
{
    (void)state;
    assert_int_equal(utf8_valid_prefix("", 0), 0);
    assert_int_equal(utf8_valid_prefix("abcdefghijklmnop", 16), 16);
    assert_int_equal(utf8_valid_prefix("abcdefghijk\xff" "lmnop", 17), 11);
    assert_int_equal(utf8_valid_prefix("abcdefg\xc3\xa9hij\xe4\xb8", 14), 12);
    assert_int_equal(utf8_valid_prefix("a\0b", 3), 3);
}

/* Text, what comes out of it, how much of that before the flush. */
static const struct {
    const char *in, *out;
    size_t n_early;
} streams[] = {
    {"plain", "plain", 5},
    {"\xe4\xb8\xad\xc3\xa9\xf0\x9f\x99\x82", "\xe4\xb8\xad\xc3\xa9\xf0\x9f\x99\x82", 9},
    {"a\xf0\x9f\x99", "a\xef\xbf\xbd", 1},
    {"a\xe4\xb8", "a\xef\xbf\xbd", 1},
    {"\xff\xfe", "\xef\xbf\xbd\xef\xbf\xbd", 6},
    {"\xe4\xb8\xe4\xb8\xad", "\xef\xbf\xbd\xe4\xb8\xad", 6},
    {"\xf0\x9f\x99z", "\xef\xbf\xbdz", 4},
    {"\xed\xa0\x80", "\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd", 9},
    {"\xf0\xf0\x9f\x99\x82", "\xef\xbf\xbd\xf0\x9f\x99\x82", 7},
};

/* The same text comes out however the bytes are cut, and never half a character on the way. */
static void test_stream_every_split(void **state)
{
    (void)state;
    for (size_t i = 0; i < COUNT_OF(streams); i++) {
        size_t n = strlen(streams[i].in);
        for (unsigned cuts = 0; cuts < 1u << (n - 1); cuts++) {
            struct utf8_stream s = {0};
            struct buf out = {0};
            for (size_t a = 0, b = 1; a < n; a = b++) {
                while (b < n && (cuts >> (b - 1) & 1) == 0)
                    b++;
                utf8_stream_add(&s, streams[i].in + a, b - a, &out);
                assert_int_equal(utf8_valid_prefix(out.data ? out.data : "", out.len), out.len);
                assert_in_range(s.n_held, 0, 3);
            }
            assert_int_equal(out.len, streams[i].n_early);
            utf8_stream_flush(&s, &out);
            utf8_stream_flush(&s, &out);
            assert_string_equal(out.data, streams[i].out);
            buf_free(&out);
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_next),
        cmocka_unit_test(test_valid_prefix),
        cmocka_unit_test(test_stream_every_split),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
