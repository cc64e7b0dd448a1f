/* Patterns from outside: what they match, and that none can take long. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "squall/clock.h"
#include "squall/pattern.h"
#include "squall/units.h"

static int match(const char *pattern, const char *text)
{
    struct sq_pattern *p = NULL;
    int r;

    assert_int_equal(sq_pattern_compile(pattern, &p, NULL), 0);
    r = sq_pattern_match(p, text, sq_mono_ns() + 10 * SQ_S);
    sq_pattern_free(p);
    return r;
}

static void matches_as_grep_does(void **state)
{
    (void)state;
    assert_int_equal(match("^nginx: (worker|master)", "nginx: worker process"), 1);
    assert_int_equal(match("^nginx: (worker|master)", "php nginx: worker"), 0);
    assert_int_equal(match("java.*-Dapp=[[:alnum:]]+ ?$", "/usr/bin/java -Xmx1g -Dapp=shop7"), 1);
    assert_int_equal(match("a{3}", "caab"), 0);
    assert_int_equal(match("shop payments --port 1808[12]$", "/x/shop payments --port 18082"), 1);
}

static void says_what_is_wrong(void **state)
{
    struct sq_pattern *p = NULL;
    struct sq_err e = {0};
    char long_one[SQ_PATTERN_MAX + 2];

    (void)state;
    assert_int_equal(sq_pattern_compile("a(b", &p, &e), -EINVAL);
    assert_int_equal(e.cls, SQ_C_INPUT);
    assert_non_null(strstr(e.msg, "at character 4"));
    assert_int_equal(sq_pattern_compile("", &p, NULL), -EINVAL);
    memset(long_one, 'a', sizeof long_one);
    long_one[sizeof long_one - 1] = '\0';
    assert_int_equal(sq_pattern_compile(long_one, &p, NULL), -EINVAL);
    assert_int_equal(sq_pattern_compile("(((a{255}){255}){255})", &p, NULL), -EINVAL);
    assert_null(p);
}

/* Each of these took glibc, or an unbounded PCRE2, from seconds to for ever. */
static void none_takes_long(void **state)
{
    static const char *const evil[] = {"(a+)+[bc]",
                                       "(a|a)*[bc]",
                                       "(a|b)*a(a|b){30}[cd]$",
                                       "(.*)*(.*)*(.*)*[bc]",
                                       "a?a?a?a?a?a?a?a?(a*)*[bc]",
                                       "(((((a+)+)+)+)+)[bc]"};
    static char text[120000];
    int in_time = 0;

    (void)state;
    memset(text, 'a', sizeof text - 1);
    for (size_t i = 0; i < sizeof evil / sizeof evil[0]; i++) {
        struct sq_pattern *p = NULL;
        int64_t begin = sq_mono_ns(), took;
        int r;

        assert_int_equal(sq_pattern_compile(evil[i], &p, NULL), 0);
        r = sq_pattern_match(p, text, begin + 200 * SQ_MS);
        took = sq_mono_ns() - begin;
        assert_true(r == 0 || r == -ETIMEDOUT);
        assert_true(took < 1500 * SQ_MS); /* a busy machine, sanitizers */
        in_time += r == 0;
        sq_pattern_free(p);
    }
    assert_true(in_time < 6); /* else this shows nothing */
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(matches_as_grep_does),
        cmocka_unit_test(says_what_is_wrong),
        cmocka_unit_test(none_takes_long),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
