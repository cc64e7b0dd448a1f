#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <unistd.h>

#include <cmocka.h>

#include "page.h"
#include "patience.h"
#include "squall/clock.h"
#include "squall/units.h"

static volatile int64_t beat;

static void wait_until(int64_t when)
{
    while (sq_mono_ns() < when)
        (void)usleep(10000);
}

static int start(void **state)
{
    struct sq_patience *p = NULL;

    beat = 0;
    if (sq_patience_new(&beat, &p, NULL) < 0)
        return -1;
    *state = p;
    return 0;
}

static int stop(void **state)
{
    sq_patience_free(*state);
    return 0;
}

static void beats_meanwhile_only(void **state)
{
    int64_t now = sq_mono_ns();

    wait_until(now + 2 * SQ_BEAT_NS);
    assert_int_equal(SQ_GET(beat), 0);
    sq_patience_begin(*state, 60 * SQ_S);
    for (int64_t end = sq_mono_ns() + 10 * SQ_S; SQ_GET(beat) == 0 && sq_mono_ns() < end;)
        (void)usleep(10000);
    assert_true(SQ_GET(beat) > now + 2 * SQ_BEAT_NS);
    sq_patience_end(*state);
    (void)usleep(100000); /* it may be between looking and writing */
    int64_t last = SQ_GET(beat);
    wait_until(sq_mono_ns() + 3 * SQ_BEAT_NS);
    assert_int_equal(SQ_GET(beat), last);
}

static void not_for_ever(void **state)
{
    int64_t until = sq_mono_ns() + 2 * SQ_BEAT_NS;

    sq_patience_begin(*state, 2 * SQ_BEAT_NS);
    wait_until(until + 3 * SQ_BEAT_NS);
    assert_true(SQ_GET(beat) > 0);
    assert_true(SQ_GET(beat) < until + 10 * SQ_MS);
}

static void nobody_is_patient(void **state)
{
    (void)state;
    sq_patience_begin(NULL, SQ_S);
    sq_patience_end(NULL);
    sq_patience_free(NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(beats_meanwhile_only, start, stop),
        cmocka_unit_test_setup_teardown(not_for_ever, start, stop),
        cmocka_unit_test(nobody_is_patient),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
