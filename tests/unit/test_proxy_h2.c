/* Calls of HTTP/2: what of a dropped stream goes on, and what never may. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "h2_rig.h"

/* To the dependency the stream is idle: not a frame for it may come. */
static void test_nothing_for_an_idle_stream(void **state)
{
    static const char *const rules[] = {
        "[{\"fault\":\"a\",\"kind\":\"http_status\",\"match\":{\"path\":\"/a\"},\"http\":{\"body\":\"no\"}}]",
        "[{\"fault\":\"a\",\"kind\":\"http_abort\",\"match\":{\"path\":\"/a\"},\"http\":{}}]",
    };
    (void)state;
    for (size_t i = 0; i < 2; i++) {
        struct world w;
        start(&w, rules[i]);
        greet(&w);
        get(&w, 1, 'a', 5);
        assert_int_equal(w.done, 1);
        send_frame(&w, 0, 8, 0, 1, "\0\0\0\2", 4); /* credit for what it read */
        send_frame(&w, 0, 3, 0, 1, "\0\0\0\10", 4);
        for (int type = 0; type < 10; type++)
            assert_int_equal(count(&w.out[0], type, 1), 0);
        get(&w, 3, 'b', 5);
        send_frame(&w, 0, 8, 0, 3, "\0\0\0\2", 4);
        assert_int_equal(count(&w.out[0], 1, 3), 1);
        assert_int_equal(count(&w.out[0], 8, 3), 1);
        stop(&w);
    }
}

/* Its edge is dropped while the caller still sends a request that the dependency has not seen: it must not wait. */
static void test_answer_that_will_not_come(void **state)
{
    struct world w;
    (void)state;
    start(&w, "[{\"fault\":\"a\",\"kind\":\"http_status\",\"match\":{\"path\":\"/a\"},\"http\":{\"body\":\"no\"}}]");
    greet(&w);
    get(&w, 1, 'a', 4);
    assert_int_equal(count(&w.out[1], 1, 1), 0);
    sq_h2_end(w.h, SQ_OUT_OPEN, 2);
    assert_int_equal(w.done, 1);
    send_frame(&w, 0, 0, 1, 1, "body", 4);
    assert_int_equal(count(&w.out[1], 3, 1), 1); /* RST_STREAM */
    assert_int_equal(sq_h2_open(w.h), 0);
    assert_int_equal(w.done, 1);
    stop(&w);
}

/* As with HTTP/1: of several rules that set a field the last one counts. */
static void test_last_of_two_sets(void **state)
{
    struct world w;
    (void)state;
    start(&w, "[{\"fault\":\"a\",\"kind\":\"http_header\",\"http\":{\"of\":\"request\",\"set\":{\"x\":\"first\"}}},"
              "{\"fault\":\"b\",\"kind\":\"http_header\",\"http\":{\"of\":\"request\",\"set\":{\"X\":\"last\"}}}]");
    greet(&w);
    get(&w, 1, 'a', 5);
    assert_null(memmem(w.out[0].p, w.out[0].n, "first", 5));
    assert_non_null(memmem(w.out[0].p, w.out[0].n, "\1x\4last", 7));
    stop(&w);
}

/* What a message of gRPC may hold goes through a field (gRPC over HTTP/2: Percent-Encoded). */
static void test_grpc_message(void **state)
{
    struct world w;
    char block[] = "\x83\x86\x04\x02/a\x0f\x10\x10"
                   "application/grpc";
    (void)state;
    start(&w, "[{\"fault\":\"a\",\"kind\":\"http_status\",\"http\":{\"grpc_status\":14,\"body\":\"a\\nb %\"}}]");
    greet(&w);
    send_frame(&w, 0, 1, 4, 1, block, sizeof(block) - 1);
    assert_null(memmem(w.out[1].p, w.out[1].n, "a\nb", 3));
    assert_non_null(memmem(w.out[1].p, w.out[1].n, "a%0Ab %25", 9));
    stop(&w);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_nothing_for_an_idle_stream),
        cmocka_unit_test(test_answer_that_will_not_come),
        cmocka_unit_test(test_last_of_two_sets),
        cmocka_unit_test(test_grpc_message),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
