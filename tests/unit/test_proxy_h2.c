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

/* However many streams were dropped, and whatever the dependency knows of others. */
static void test_many_dropped(void **state)
{
    enum { DROPPED = 600 };
    struct world w;
    (void)state;
    start(&w, "[{\"fault\":\"a\",\"kind\":\"http_status\",\"match\":{\"path\":\"/a\"},\"http\":{\"body\":\"no\"}}]");
    greet(&w);
    for (uint32_t i = 0; i < DROPPED; i++)
        get(&w, 2 * i + 1, 'a', 5);
    assert_int_equal(w.done, DROPPED);
    get(&w, 2 * DROPPED + 1, 'b', 4);
    size_t before = w.out[0].n;
    for (uint32_t i = 0; i < DROPPED; i++) {
        send_frame(&w, 0, 8, 0, 2 * i + 1, "\0\0\0\2", 4);
        send_frame(&w, 0, 0, 0, 2 * i + 1, "body", 4);
        send_frame(&w, 0, 3, 0, 2 * i + 1, "\0\0\0\10", 4);
    }
    assert_int_equal(w.out[0].n, before);
    assert_int_equal(count(&w.out[1], 8, 0), DROPPED); /* the connection's credit for DATA comes back */
    stop(&w);
}

/* Those above the bound go on in both directions, and are told of; those of them that were dropped stay so. */
static void test_more_streams_than_are_seen(void **state)
{
    enum { SEEN = 1024 };
    struct world w;
    (void)state;
    start(&w, "[{\"fault\":\"a\",\"kind\":\"http_status\",\"match\":{\"path\":\"/a\"},\"http\":{\"body\":\"no\"}}]");
    greet(&w);
    get(&w, 1, 'a', 5);
    for (uint32_t i = 0; i < SEEN; i++)
        get(&w, 2 * i + 3, 'b', 4);
    assert_int_equal(w.unseen, 0);
    assert_int_equal(sq_h2_open(w.h), SEEN);
    uint32_t id = 2 * SEEN + 3;
    get(&w, id, 'a', 4);
    assert_int_equal(w.unseen, 1);
    send_frame(&w, 0, 0, 0, id, "body", 4);
    send_frame(&w, 0, 8, 0, id, "\0\0\0\2", 4);
    send_frame(&w, 0, 8, 0, 1, "\0\0\0\2", 4);
    send_frame(&w, 1, 1, 5, id, "\x88", 1);
    send_frame(&w, 0, 3, 0, id, "\0\0\0\10", 4);
    static const int types[] = {0, 1, 3, 8};
    for (size_t i = 0; i < 4; i++) {
        assert_int_equal(count(&w.out[0], types[i], id), 1);
        assert_int_equal(count(&w.out[0], types[i], 1), 0);
    }
    assert_int_equal(count(&w.out[1], 1, id), 1);
    assert_int_equal(w.done, 1);
    stop(&w);
}

/* A field that its sender wants in no table (RFC 7541, 6.2.3) says so when it is written anew, and others do not. */
static void test_never_indexed(void **state)
{
    static const char block[] = "\x82\x86\x84\x10\x0d"
                                "authorization\x06secret\x00\x01x\x01y";
    struct world w;
    (void)state;
    start(&w, "[{\"fault\":\"a\",\"kind\":\"http_header\",\"http\":{\"of\":\"request\",\"set\":{\"z\":\"1\"}}}]");
    greet(&w);
    send_frame(&w, 0, 1, 5, 1, block, sizeof(block) - 1);
    assert_non_null(memmem(w.out[0].p, w.out[0].n, "\0\1z\0011", 5));
    assert_non_null(memmem(w.out[0].p, w.out[0].n,
                           "\x10\x0d"
                           "authorization\6secret",
                           22));
    assert_non_null(memmem(w.out[0].p, w.out[0].n, "\0\1x\1y", 5));
    stop(&w);
}

/* The dependency ends, and what waits for it to go on before can't any more: that must not hold the end. */
static void test_nothing_waits_behind_the_end(void **state)
{
    struct world w;
    char head[] = {0, 0, 8, 0, 0, 0, 0, 0, 3, 'h'};
    (void)state;
    start(&w, "[{\"fault\":\"a\",\"kind\":\"http_status\",\"match\":{\"path\":\"/a\"},\"http\":{\"body\":\"no\"}}]");
    send_frame(&w, 0, 4, 0, 0, "", 0);
    get(&w, 1, 'a', 5);
    assert_int_equal(w.done, 0);
    assert_false(sq_h2_holds(w.h, 1)); /* it waits for SETTINGS */
    send_frame(&w, 1, 4, 0, 0, "", 0);
    assert_int_equal(w.answered + w.failed, 1);
    get(&w, 3, 'b', 4);
    sq_h2_feed(w.h, 1, head, sizeof(head), 1); /* a part of DATA */
    get(&w, 5, 'a', 5);
    assert_int_equal(count(&w.out[1], 1, 5), -1);
    assert_false(sq_h2_holds(w.h, 1));
    stop(&w);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_nothing_for_an_idle_stream),
        cmocka_unit_test(test_answer_that_will_not_come),
        cmocka_unit_test(test_last_of_two_sets),
        cmocka_unit_test(test_grpc_message),
        cmocka_unit_test(test_many_dropped),
        cmocka_unit_test(test_more_streams_than_are_seen),
        cmocka_unit_test(test_never_indexed),
        cmocka_unit_test(test_nothing_waits_behind_the_end),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
