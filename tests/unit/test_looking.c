/* However many faults, and however long one look takes: all looks together get a fifth of the time. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "looking.h"
#include "run.h"
#include "squall/cleanup.h"
#include "squall/clock.h"
#include "squall/units.h"

#define EVERY (5 * SQ_S)

static void share(void **state)
{
    static struct sq_page page;
    static struct sq_engine eng = {.o.page = &page};
    static struct sq_looking l[50];
    const int64_t took = 100 * SQ_MS;
    int64_t now = 0;

    (void)state;
    assert_false(sq_looking_begin(&l[0], EVERY)); /* just applied, and read back */
    assert_true(l[0].due >= sq_mono_ns() + EVERY - SQ_S);
    for (int round = 0; round < 3; round++)
        for (size_t i = 0; i < SQ_COUNT(l); i++) {
            l[i].due = 1;
            assert_true(sq_looking_begin(&l[i], EVERY));
            l[i].begun -= took;
            sq_looking_end(&eng, &l[i], EVERY);
            now = sq_mono_ns();
            assert_true(SQ_GET(page.squalld_beat) > now - SQ_S);
        }
    /* A round of all takes 5 s: each comes again after 25. */
    assert_true(l[49].due >= now + 24 * SQ_S && l[49].due <= now + 50 * SQ_S);
    for (size_t i = 1; i < SQ_COUNT(l); i++)
        sq_looking_over(&eng, &l[i]);
    l[0].due = 1;
    assert_true(sq_looking_begin(&l[0], EVERY));
    sq_looking_end(&eng, &l[0], EVERY);
    assert_true(l[0].due <= sq_mono_ns() + EVERY);
    sq_looking_over(&eng, &l[0]);
    assert_true(*sq_engine_looking(&eng) == 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(share)};

    return cmocka_run_group_tests(tests, NULL, NULL);
}
