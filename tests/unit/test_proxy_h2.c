/* Calls of HTTP/2: what of a dropped stream goes on, and what never may. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdio.h>
#include <string.h>

#include "proxy/h2.h"

struct world {
    struct sq_rules rules;
    struct sq_names names;
    struct sq_out out[2];
    struct sq_h2 *h;
    unsigned done, failed;
};

static void on_out(void *arg, int lane, char *p, size_t len)
{
    struct world *w = arg;
    sq_out_put(&w->out[lane], p, len);
}

static void on_request(void *arg, struct sq_call *call, const struct sq_head *h)
{
    struct world *w = arg;
    call->hits = sq_rules_matching(&w->rules, w->rules.http, h);
}

static int64_t on_delay(void *arg, struct sq_call *call)
{
    struct world *w = arg;
    return sq_rules_delay(&w->rules, call->hits);
}

static void on_done(void *arg, struct sq_call *call, enum sq_call_outcome outcome, int64_t end)
{
    struct world *w = arg;
    (void)call;
    (void)end;
    w->done++;
    w->failed += outcome == SQ_OUT_FAILED;
}

static void start(struct world *w, const char *rules)
{
    uint32_t gone, fresh;
    memset(w, 0, sizeof(*w));
    w->rules.names = &w->names;
    json_t *j = json_loads(rules, 0, NULL);
    assert_non_null(j);
    assert_int_equal(sq_rules_replace(&w->rules, 1, j, &gone, &fresh, NULL), 0);
    json_decref(j);
    struct sq_h2_ops ops = {w, on_out, on_request, on_delay, on_done, &w->rules};
    w->h = sq_h2_new(&ops);
    assert_non_null(w->h);
}

static void stop(struct world *w)
{
    sq_h2_free(w->h);
    sq_out_free(&w->out[0]);
    sq_out_free(&w->out[1]);
    sq_rules_none(&w->rules);
    sq_names_free(&w->names);
}

/* A frame of one of the ends (lane 0: of the caller). */
static void send_frame(struct world *w, int lane, uint8_t type, uint8_t flags, uint32_t id, const char *p, size_t n)
{
    char buf[300] = {0, (char)(n >> 8), (char)n, (char)type, (char)flags, 0, 0, (char)(id >> 8), (char)id};
    memcpy(buf + 9, p, n);
    sq_h2_feed(w->h, lane, buf, 9 + n, 1);
    assert_false(sq_h2_broken(w->h));
    assert_false(sq_h2_blind(w->h));
}

/* :method GET, :scheme http, :path /X as a literal */
static void get(struct world *w, uint32_t id, char x, uint8_t flags)
{
    char block[] = {(char)0x82, (char)0x86, 0x04, 2, '/', x};
    send_frame(w, 0, 1, flags, id, block, sizeof(block));
}

static void greet(struct world *w)
{
    send_frame(w, 0, 4, 0, 0, "", 0);
    send_frame(w, 1, 4, 0, 0, "", 0);
}

/* How many frames of a type, for a stream, are in what came out? -1: what came out is no row of frames. */
static int count(const struct sq_out *o, int type, uint32_t id)
{
    int n = 0;
    size_t at = 0;
    while (at + 9 <= o->n) {
        const unsigned char *u = (const unsigned char *)o->p + at;
        n += u[3] == type && ((uint32_t)u[7] << 8 | u[8]) == id;
        at += 9 + ((size_t)u[0] << 16 | (size_t)u[1] << 8 | u[2]);
    }
    return at == o->n ? n : -1;
}

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
