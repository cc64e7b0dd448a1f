/* What is put into a connection of HTTP/2, changed and held on it: windows, whole frames, bounds. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "h2_rig.h"

enum { CALLER = 0, DEP = 1 };
enum { DATA = 0, HEADERS = 1, RST = 3, SETTINGS = 4, CREDIT = 8 };

static void data(struct world *w, int lane, uint32_t id, size_t n, uint8_t flags)
{
    char *p = calloc(1, n + 1);
    assert_non_null(p);
    memset(p, 'd', n);
    send_frame(w, lane, DATA, flags, id, p, n);
    free(p);
}

static void credit(struct world *w, int lane, uint32_t id, uint32_t n)
{
    char p[4] = {(char)(n >> 24), (char)(n >> 16), (char)(n >> 8), (char)n};
    send_frame(w, lane, CREDIT, 0, id, p, 4);
}

/* Sum over the frames of that type and stream: of DATA the payload, of WINDOW_UPDATE the credit. */
static size_t sum(const struct sq_out *o, int type, uint32_t id)
{
    size_t n = 0, at = 0;
    while (at + 9 <= o->n) {
        const unsigned char *u = (const unsigned char *)o->p + at;
        size_t len = (size_t)u[0] << 16 | (size_t)u[1] << 8 | u[2];
        if (u[3] == type && ((uint32_t)u[7] << 8 | u[8]) == id)
            n += type == DATA ? len : (size_t)u[9] << 24 | (size_t)u[10] << 16 | (size_t)u[11] << 8 | u[12];
        at += 9 + len;
    }
    return n;
}

static bool ends(const struct sq_out *o, uint32_t id)
{
    bool end = false;
    for (size_t at = 0; at + 9 <= o->n;) {
        const unsigned char *u = (const unsigned char *)o->p + at;
        if (((uint32_t)u[7] << 8 | u[8]) == id && u[3] <= HEADERS)
            end = end || (u[4] & 1);
        at += 9 + ((size_t)u[0] << 16 | (size_t)u[1] << 8 | u[2]);
    }
    return end;
}

/* :status 200, content-length N as two digits */
static void answer(struct world *w, uint32_t id, const char *length, uint8_t flags)
{
    char block[] = {(char)0x88, 0x0f, 0x0d, 2, length[0], length[1]};
    send_frame(w, DEP, HEADERS, flags, id, block, sizeof(block));
}

/* One rule, whose WHAT is N bytes; the ends have greeted. */
static void start_with(struct world *w, const char *kind, const char *path, const char *what, size_t n)
{
    char *text = NULL, *body = malloc(n + 1);
    assert_non_null(body);
    memset(body, 'R', n);
    body[n] = '\0';
    assert_true(asprintf(&text,
                         "[{\"fault\":\"a\",\"kind\":\"%s\",\"match\":{\"path\":\"%s\"},\"http\":{\"%s\":\"%s\"}}]",
                         kind, path, what, body) > 0);
    free(body);
    start(w, text);
    free(text);
    greet(w);
}

/* What is ours never lands inside a frame that passes in pieces, in neither direction. */
static void test_whole_frames(void **state)
{
    struct world w;
    (void)state;
    start(&w, "[{\"fault\":\"a\",\"kind\":\"http_status\",\"match\":{\"path\":\"/a\"},\"http\":{\"body\":\"no\"}},"
              "{\"fault\":\"b\",\"kind\":\"http_abort\",\"match\":{\"path\":\"/b\"},\"http\":{}}]");
    greet(&w);
    get(&w, 1, 'c', 5);
    answer(&w, 1, "20", 4);
    char half[] = {0, 0, 20, DATA, 1, 0, 0, 0, 1, 'x', 'x', 'x', 'x', 'x'}, rest[] = "yyyyyyyyyyyyyyy";
    sq_h2_feed(w.h, DEP, half, sizeof(half), 1);
    get(&w, 3, 'a', 5);
    get(&w, 5, 'b', 5);
    sq_h2_feed(w.h, DEP, rest, 15, 1);
    assert_int_equal(count(&w.out[DEP], HEADERS, 3), 1);
    assert_int_equal(count(&w.out[DEP], DATA, 3), 1);
    assert_int_equal(count(&w.out[DEP], RST, 5), 1);
    assert_int_equal(sum(&w.out[DEP], DATA, 1), 20);
    assert_non_null(memmem(w.out[DEP].p, w.out[DEP].n, "xxxxxyyyyyyyyyyyyyyy", 20));
    stop(&w);
}

/* An answer of ours waits for the caller's window, and the dependency gets credit only for what it sent itself. */
static void test_our_answer_has_room(void **state)
{
    struct world w;
    (void)state;
    start_with(&w, "http_status", "/a", "body", 60000);
    get(&w, 1, 'a', 5);
    get(&w, 3, 'a', 5);
    assert_int_equal(sum(&w.out[DEP], DATA, 1) + sum(&w.out[DEP], DATA, 3), 65535);
    assert_int_equal(w.done, 1);
    credit(&w, CALLER, 0, 30000);
    assert_int_equal(sum(&w.out[DEP], DATA, 3), 30000 + 5535);
    credit(&w, CALLER, 0, 30000);
    assert_int_equal(sum(&w.out[DEP], DATA, 3), 60000);
    assert_int_equal(w.done, 2);
    assert_int_equal(count(&w.out[CALLER], CREDIT, 0), 0);
    credit(&w, CALLER, 0, 70000);
    assert_int_equal(sum(&w.out[CALLER], CREDIT, 0), 130000 - 120000);
    stop(&w);
}

/* Data of the dependency waits where our bytes took its room, also that of streams that nobody follows. */
static void test_room_of_others(void **state)
{
    struct world w;
    (void)state;
    start_with(&w, "http_status", "/a", "body", 60000);
    get(&w, 1, 'c', 5);
    answer(&w, 1, "99", 4);
    get(&w, 3, 'a', 5);
    data(&w, DEP, 1, 6000, 0);
    assert_int_equal(sum(&w.out[DEP], DATA, 1), 65535 - 60000);
    data(&w, DEP, 2, 300, 0); /* pushed */
    data(&w, DEP, 2, 9000, 0);
    data(&w, DEP, 2, 10, 1);
    assert_int_equal(sum(&w.out[DEP], DATA, 2), 0);
    credit(&w, CALLER, 0, 465 + 400);
    assert_int_equal(sum(&w.out[DEP], DATA, 1) + sum(&w.out[DEP], DATA, 2), 65535 - 60000 + 865);
    assert_false(ends(&w.out[DEP], 2));
    credit(&w, CALLER, 0, 59135);
    assert_int_equal(sum(&w.out[DEP], DATA, 1), 6000);
    assert_int_equal(sum(&w.out[DEP], DATA, 2), 9310);
    assert_true(ends(&w.out[DEP], 2));
    assert_int_equal(count(&w.out[DEP], DATA, 1), 2);
    assert_int_equal(count(&w.out[CALLER], CREDIT, 0), 0);
    stop(&w);
}

/* A frame that is as large as the whole window, and a byte of ours in it: its receiver gets what has room, for it gives
 * no credit before it has anything. */
static void test_large_frame(void **state)
{
    struct world w;
    (void)state;
    start_with(&w, "http_status", "/a", "body", 1);
    get(&w, 1, 'c', 5);
    answer(&w, 1, "99", 4);
    get(&w, 3, 'a', 5);
    data(&w, DEP, 1, 65535, 1);
    assert_int_equal(sum(&w.out[DEP], DATA, 1), 65534);
    assert_false(ends(&w.out[DEP], 1));
    assert_int_equal(w.done, 1);
    credit(&w, CALLER, 0, 40000);
    assert_int_equal(sum(&w.out[DEP], DATA, 1), 65535);
    assert_true(ends(&w.out[DEP], 1));
    assert_int_equal(sum(&w.out[CALLER], CREDIT, 0), 39999);
    assert_int_equal(w.done, 2);
    assert_int_equal(sq_h2_open(w.h), 0);
    stop(&w);
}

/* 1,000 answers of ours that wait for room in the lane take no memory of their own. */
static void test_our_answers_wait_small(void **state)
{
    struct world w;
    (void)state;
    start_with(&w, "http_status", "/a", "body", 50000);
    send_frame(&w, CALLER, SETTINGS, 0, 0, "\0\4\x7f\xff\xff\xff", 6);
    credit(&w, CALLER, 0, 0x70000000);
    w.full = true;
    for (uint32_t i = 0; i < 1000; i++)
        get(&w, 2 * i + 1, 'a', 5);
    assert_int_equal(sum(&w.out[DEP], DATA, 1), 0);
    assert_false(sq_h2_full(w.h, DEP));
    assert_int_equal(w.done, 0);
    assert_true(sq_h2_next(w.h) > 1);
    w.full = false;
    assert_true(sq_h2_next(w.h) <= 1);
    sq_h2_due(w.h, 1);
    assert_int_equal(w.done, 1000);
    assert_int_equal(w.failed, 1000);
    assert_int_equal(sum(&w.out[DEP], DATA, 1999), 50000);
    stop(&w);
}

/* An error is a reset of the stream; a black hole swallows it, and at its end says that it was never begun. */
static void test_calls(void **state)
{
    struct world w;
    (void)state;
    start(&w, "[{\"fault\":\"a\",\"kind\":\"error\",\"percent\":50}]");
    greet(&w);
    get(&w, 1, 'x', 5);
    get(&w, 3, 'c', 5);
    assert_int_equal(count(&w.out[DEP], RST, 1), 1);
    assert_int_equal(count(&w.out[CALLER], HEADERS, 1), 0);
    assert_int_equal(count(&w.out[CALLER], HEADERS, 3), 1);
    assert_int_equal(w.failed, 1);
    stop(&w);
    start(&w, "[{\"fault\":\"a\",\"kind\":\"blackhole\",\"percent\":50}]");
    greet(&w);
    get(&w, 1, 'x', 4);
    data(&w, CALLER, 1, 1000, 0);
    get(&w, 3, 'c', 5);
    answer(&w, 3, "10", 5);
    assert_int_equal(count(&w.out[CALLER], HEADERS, 1) + count(&w.out[CALLER], DATA, 1), 0);
    assert_int_equal(sum(&w.out[DEP], CREDIT, 0), 1000); /* others may send; it has what its window holds */
    assert_int_equal(count(&w.out[DEP], CREDIT, 1), 0);
    assert_int_equal(w.done, 1);
    uint32_t was = w.rules.mask;
    sq_rules_none(&w.rules);
    sq_h2_release(w.h, was, 1);
    assert_true(sq_h2_next(w.h) <= 1);
    sq_h2_due(w.h, 1);
    assert_int_equal(count(&w.out[DEP], RST, 1), 1);
    assert_non_null(memmem(w.out[DEP].p, w.out[DEP].n, "\3\0\0\0\0\1\0\0\0\7", 10)); /* REFUSED_STREAM */
    assert_int_equal(w.failed, 1);
    assert_int_equal(sq_h2_open(w.h), 0);
    stop(&w);
}

static void hit_all(void *arg, struct sq_call *call, int64_t now)
{
    struct world *w = arg;
    call->hits |= sq_rules_calls(&w->rules);
    call->bh_since = now;
}

/* A black hole that begins while an answer is under way holds what is left of it. */
static void test_caught(void **state)
{
    struct world w;
    (void)state;
    start(&w, "[{\"fault\":\"a\",\"kind\":\"blackhole\",\"percent\":50}]");
    greet(&w);
    get(&w, 1, 'c', 5);
    answer(&w, 1, "30", 4);
    data(&w, DEP, 1, 10, 0);
    sq_h2_catch(w.h, hit_all, 1);
    data(&w, DEP, 1, 10, 0);
    data(&w, DEP, 1, 10, 1);
    assert_int_equal(sum(&w.out[DEP], DATA, 1), 10);
    assert_true(sq_h2_holds(w.h, DEP));
    assert_true(sq_h2_next(w.h) == INT64_MAX);
    uint32_t was = w.rules.mask;
    sq_rules_none(&w.rules);
    sq_h2_release(w.h, was, 5);
    sq_h2_due(w.h, 5);
    assert_int_equal(sum(&w.out[DEP], DATA, 1), 30);
    assert_true(ends(&w.out[DEP], 1));
    assert_int_equal(w.answered, 1);
    assert_int_equal(sq_h2_open(w.h), 0);
    stop(&w);
}

/* A call that will be answered by a fault, and is in a black hole while its body comes: it goes on when that ends. */
static void test_caught_before_our_answer(void **state)
{
    struct world w;
    (void)state;
    start(&w, "[{\"fault\":\"a\",\"kind\":\"http_status\",\"match\":{\"path\":\"/a\"},\"http\":{\"body\":\"no\"}},"
              "{\"fault\":\"b\",\"kind\":\"blackhole\",\"percent\":50}]");
    greet(&w);
    get(&w, 1, 'a', 4);
    data(&w, CALLER, 1, 1000, 0);
    assert_int_equal(sum(&w.out[DEP], CREDIT, 1), 1000);
    sq_h2_catch(w.h, hit_all, 1);
    data(&w, CALLER, 1, 60000, 0);
    assert_int_equal(sum(&w.out[DEP], CREDIT, 1), 1000);
    assert_int_equal(sum(&w.out[DEP], CREDIT, 0), 61000);
    sq_h2_release(w.h, sq_rules_of(&w.rules, w.rules.mask, SQ_R_BLACKHOLE), 5);
    sq_h2_due(w.h, 5);
    assert_int_equal(sum(&w.out[DEP], CREDIT, 1), 61000);
    data(&w, CALLER, 1, 10, 1);
    assert_int_equal(count(&w.out[DEP], HEADERS, 1), 1);
    assert_true(ends(&w.out[DEP], 1));
    assert_int_equal(w.done, 1);
    stop(&w);
}

/* Who has answered before it read all of the request stops it with a reset: the call is answered, also when its answer
 * waits. One that is reset in its middle is not. */
static void test_reset_behind_answer(void **state)
{
    (void)state;
    for (int whole = 0; whole < 2; whole++) {
        struct world w;
        start(&w, "[{\"fault\":\"a\",\"kind\":\"latency\",\"delay\":1000}]");
        greet(&w);
        get(&w, 1, 'x', 4);
        answer(&w, 1, "10", whole ? 5 : 4);
        send_frame(&w, DEP, RST, 0, 1, "\0\0\0", 4);
        assert_int_equal(count(&w.out[DEP], HEADERS, 1), 0);
        assert_int_equal(w.done, 0);
        sq_h2_due(w.h, 2000);
        assert_int_equal(count(&w.out[DEP], HEADERS, 1), 1);
        assert_int_equal(count(&w.out[DEP], RST, 1), 1);
        assert_int_equal(w.done, 1);
        assert_int_equal(w.answered, whole);
        assert_int_equal(sq_h2_open(w.h), 0);
        stop(&w);
    }
}

/* A longer body in the place of a short one, in a small window; then trailers. */
static void test_replace(void **state)
{
    struct world w;
    (void)state;
    start_with(&w, "http_body", "/a", "replace", 50000);
    send_frame(&w, CALLER, SETTINGS, 0, 0, "\0\4\0\0\x27\x10", 6); /* 10,000 a stream */
    get(&w, 1, 'a', 5);
    answer(&w, 1, "20", 4);
    data(&w, DEP, 1, 20, 0);
    assert_int_equal(sum(&w.out[DEP], DATA, 1), 10000);
    assert_int_equal(sum(&w.out[CALLER], CREDIT, 0), 20); /* what was dropped */
    assert_int_equal(sum(&w.out[CALLER], CREDIT, 1), 20);
    assert_non_null(memmem(w.out[DEP].p, w.out[DEP].n, "content-length\00550000", 20));
    send_frame(&w, DEP, HEADERS, 5, 1, "\0\1t\1v", 5); /* trailers */
    assert_int_equal(count(&w.out[DEP], HEADERS, 1), 1);
    credit(&w, CALLER, 1, 30000);
    credit(&w, CALLER, 0, 30000);
    assert_int_equal(sum(&w.out[DEP], DATA, 1), 40000);
    assert_int_equal(sum(&w.out[CALLER], CREDIT, 1), 20 + 30000 - 10000);
    credit(&w, CALLER, 1, 20000);
    assert_int_equal(sum(&w.out[DEP], DATA, 1), 50000);
    assert_int_equal(count(&w.out[DEP], HEADERS, 1), 2);
    assert_true(ends(&w.out[DEP], 1));
    assert_int_equal(w.answered, 1);
    stop(&w);
}

static void test_cut_and_patch(void **state)
{
    struct world w;
    (void)state;
    start(&w, "[{\"fault\":\"a\",\"kind\":\"http_body\",\"match\":{\"path\":\"/a\"},\"http\":{\"truncate\":7}},"
              "{\"fault\":\"b\",\"kind\":\"http_body\",\"match\":{\"path\":\"/b\"},\"http\":{\"patch\":{\"k\":1}}},"
              "{\"fault\":\"c\",\"kind\":\"http_body\",\"match\":{\"path\":\"/"
              "d\"},\"http\":{\"of\":\"request\",\"truncate\":7}}]");
    greet(&w);
    get(&w, 1, 'a', 5);
    answer(&w, 1, "20", 4);
    send_frame(&w, DEP, DATA, 8, 1, "\3ddddd\0\0\0", 9); /* padded */
    data(&w, DEP, 1, 15, 1);
    assert_int_equal(sum(&w.out[DEP], DATA, 1), 7);
    assert_true(ends(&w.out[DEP], 1));
    assert_int_equal(sum(&w.out[CALLER], CREDIT, 0), 9 + 15 - 7);
    assert_non_null(memmem(w.out[DEP].p, w.out[DEP].n, "content-length\0017", 16));
    w.out[DEP].n = 0;
    get(&w, 3, 'b', 5);
    answer(&w, 3, "20", 4);
    send_frame(&w, DEP, DATA, 0, 3, "{\"a\":", 5);
    send_frame(&w, DEP, DATA, 0, 3, "[2]}", 4);
    assert_int_equal(sum(&w.out[DEP], DATA, 3), 0);
    assert_int_equal(w.bodies, 9);
    send_frame(&w, DEP, DATA, 1, 3, "", 0);
    assert_int_equal(w.bodies, 0);
    assert_non_null(memmem(w.out[DEP].p, w.out[DEP].n, "{\"a\":[2],\"k\":1}", 15));
    assert_null(memmem(w.out[DEP].p, w.out[DEP].n, "content-length", 14));
    assert_int_equal(w.answered, 2);
    get(&w, 5, 'b', 5);
    answer(&w, 5, "20", 4);
    for (int i = 0; i < 20; i++) /* more than is patched */
        data(&w, DEP, 5, 16384, i == 19);
    assert_int_equal(w.spared, 1);
    assert_int_equal(w.bodies, 0);
    for (int i = 0; i < 20; i++) {
        credit(&w, CALLER, 0, 16384);
        credit(&w, CALLER, 5, 16384);
    }
    assert_int_equal(sum(&w.out[DEP], DATA, 5), 20 * 16384);
    assert_int_equal(w.answered, 3);
    get(&w, 7, 'd', 4);
    data(&w, CALLER, 7, 100, 1);
    assert_int_equal(sum(&w.out[CALLER], DATA, 7), 7);
    assert_int_equal(sum(&w.out[DEP], CREDIT, 0), 93);
    stop(&w);
}

/* However many are collected at once. */
static void test_collected_is_bounded(void **state)
{
    struct world w;
    (void)state;
    start(&w, "[{\"fault\":\"b\",\"kind\":\"http_body\",\"http\":{\"patch\":{\"k\":1}}}]");
    greet(&w);
    for (uint32_t i = 0; i < 200; i++) {
        get(&w, 2 * i + 1, 'a', 5);
        answer(&w, 2 * i + 1, "20", 4);
        data(&w, DEP, 2 * i + 1, 16000, 0);
        assert_true(w.bodies <= SQ_H2_HELD + 16000);
    }
    assert_true(w.spared > 100);
    assert_true(sq_h2_full(w.h, DEP)); /* what was let go waits for the caller: nothing more is read */
    stop(&w);
    assert_int_equal(w.bodies, 0);
}

static void json_of(struct world *w, int lane, uint32_t id)
{
    char body[16000];
    memset(body, ' ', sizeof(body));
    memcpy(body, "{\"a\":\"", 6);
    memcpy(body + sizeof(body) - 2, "\"}", 2);
    send_frame(w, lane, DATA, 1, id, body, sizeof(body));
}

/* Bodies that were collected wait in both directions for credit, which is on its way behind more of them. */
static void test_both_full(void **state)
{
    enum { STREAMS = 100 };
    struct world w;
    (void)state;
    start(&w, "[{\"fault\":\"a\",\"kind\":\"http_body\",\"http\":{\"of\":\"request\",\"patch\":{\"k\":1}}},"
              "{\"fault\":\"b\",\"kind\":\"http_body\",\"http\":{\"patch\":{\"k\":1}}}]");
    greet(&w);
    for (uint32_t id = 1; id < 2 * STREAMS; id += 2) {
        get(&w, id, 'a', 4);
        json_of(&w, CALLER, id);
        answer(&w, id, "20", 4);
        json_of(&w, DEP, id);
    }
    size_t waits = STREAMS * 16000 - 65535;
    assert_true(waits > SQ_H2_HELD);
    assert_false(sq_h2_full(w.h, CALLER));
    assert_false(sq_h2_full(w.h, DEP));
    credit(&w, CALLER, 0, (uint32_t)waits * 2);
    assert_true(w.out[DEP].n > waits);
    assert_false(sq_h2_holds(w.h, DEP));
    assert_true(sq_h2_holds(w.h, CALLER));
    credit(&w, DEP, 0, (uint32_t)waits * 2);
    assert_false(sq_h2_holds(w.h, CALLER));
    assert_int_equal(w.answered, STREAMS);
    stop(&w);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_whole_frames),
        cmocka_unit_test(test_our_answer_has_room),
        cmocka_unit_test(test_room_of_others),
        cmocka_unit_test(test_large_frame),
        cmocka_unit_test(test_our_answers_wait_small),
        cmocka_unit_test(test_calls),
        cmocka_unit_test(test_caught),
        cmocka_unit_test(test_caught_before_our_answer),
        cmocka_unit_test(test_reset_behind_answer),
        cmocka_unit_test(test_replace),
        cmocka_unit_test(test_cut_and_patch),
        cmocka_unit_test(test_collected_is_bounded),
        cmocka_unit_test(test_both_full),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
