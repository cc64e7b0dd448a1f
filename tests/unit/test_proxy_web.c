/* Rules on HTTP/1: heads and bodies written anew whatever the bytes are cut into, and whose answer comes when. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdio.h>

#include "proxy/h2.h"
#include "unit/web_rig.h"

static void up(struct rig *r, const char *s)
{
    rig_feed(r, CALLER, s, strlen(s));
}

static void down(struct rig *r, const char *s)
{
    rig_feed(r, DEP, s, strlen(s));
}

static void expect(const struct sq_out *o, const char *want)
{
    if (o->n == strlen(want) && memcmp(o->p ? o->p : "", want, o->n) == 0)
        return;
    print_error("got:\n%.*s\nnot:\n%s\n", (int)o->n, o->p ? o->p : "", want);
    fail();
}

#define REQUEST "\"http\":{\"of\":\"request\","
#define ANSWER "\"http\":{"
#define RULE(kind, http) "[{\"fault\":\"a\",\"kind\":\"" kind "\"," http "}]"
#define GET "GET /a HTTP/1.1\r\nHost: x\r\n\r\n"
#define CHUNKED "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n5;x=y\r\nhello\r\n2\r\n, \r\n0\r\nT: u\r\n\r\n"

/* What the caller sends, the dependency says to it, and what comes out at each. */
static const struct {
    const char *name, *rule, *up, *down, *to_dep, *to_caller;
} CASES[] = {
    {"a field set in the request", RULE("http_header", REQUEST "\"set\":{\"X\":\"new\"},\"remove\":[\"host\"]}"),
     "GET / HTTP/1.1\r\nx: old\r\nHost: a\r\n folded\r\nY: 1\r\n\r\n" GET, "",
     "GET / HTTP/1.1\r\nY: 1\r\nX: new\r\n\r\nGET /a HTTP/1.1\r\nX: new\r\n\r\n", ""},
    {"a field set in the answer, not in the 1xx", RULE("http_header", ANSWER "\"set\":{\"X\":\"1\"}}"), GET,
     "HTTP/1.1 103 Early\r\nL: m\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", GET,
     "HTTP/1.1 103 Early\r\nL: m\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\nX: 1\r\n\r\nok"},
    {"a field set in the answer to HEAD", RULE("http_header", ANSWER "\"set\":{\"X\":\"1\"}}"),
     "HEAD / HTTP/1.1\r\n\r\n" GET, "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nHTTP/1.1 204 No\r\n\r\n",
     "HEAD / HTTP/1.1\r\n\r\n" GET,
     "HTTP/1.1 200 OK\r\nContent-Length: 9\r\nX: 1\r\n\r\nHTTP/1.1 204 No\r\nX: 1\r\n\r\n"},
    {"a chunked request cut", RULE("http_body", REQUEST "\"truncate\":6}"), CHUNKED GET, "", NULL, ""},
    {"a request with two framings replaced", RULE("http_body", REQUEST "\"replace\":\"r\"}"),
     "POST / HTTP/1.1\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n" GET, "",
     "POST / HTTP/1.1\r\nContent-Length: 1\r\n\r\nr" GET, ""},
    {"an answer patched", RULE("http_body", ANSWER "\"patch\":{\"a\":2}}"), GET GET,
     "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\n{\"a\"\r\n3\r\n:1}\r\n0\r\n\r\n"
     "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nno!",
     GET GET, "HTTP/1.1 200 OK\r\nContent-Length: 7\r\n\r\n{\"a\":2}HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nno!"},
    {"an answer to the end of the connection, with a coding, cut", RULE("http_body", ANSWER "\"truncate\":4}"), GET,
     "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\nabcdefgh", GET,
     "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\nabcd"},
    {"a status for one of two", RULE("http_status", "\"match\":{\"path\":\"/a\"}," ANSWER "\"body\":\"no\"}"),
     GET "GET /b HTTP/1.1\r\n\r\n", "HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nb", "GET /b HTTP/1.1\r\n\r\n",
     "HTTP/1.1 503 Service Unavailable\r\nContent-Length: 2\r\n\r\nno"
     "HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nb"},
    {"a status behind an answer", RULE("http_status", "\"match\":{\"path\":\"/a\"}," ANSWER "\"status\":500}"),
     "GET /b HTTP/1.1\r\n\r\nPOST /a HTTP/1.1\r\nContent-Length: 4\r\n\r\nbody",
     "HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nb", "GET /b HTTP/1.1\r\n\r\n",
     "HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nb"
     "HTTP/1.1 500 Internal Server Error\r\nContent-Length: 0\r\n\r\n"},
    {"a CR that some take for the end of a line", RULE("http_body", ANSWER "\"replace\":\"r\"}"), GET,
     "HTTP/1.1 200 OK\rTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n", GET,
     "HTTP/1.1 200 OK\rTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"},
    {"bare line ends", RULE("http_header", REQUEST "\"set\":{\"X\":\"1\"}}"), "GET / HTTP/1.1\nHost: x\n\n", "", NULL,
     ""},
};

static void feed_cut(struct rig *r, int from, const char *s, size_t cut)
{
    size_t n = strlen(s);
    if (cut == 0) { /* byte by byte */
        for (size_t i = 0; i < n; i++)
            rig_feed(r, from, s + i, 1);
        return;
    }
    cut = cut < n ? cut : n;
    rig_feed(r, from, s, cut);
    rig_feed(r, from, s + cut, n - cut);
}

/* What the dependency gets as a cut body depends on where it was cut: what it reads must not. */
static void check_chunked(const struct sq_out *o)
{
    static const char rest[] = GET;
    struct sq_http h;
    enum sq_http_ev ev;
    size_t at = 0;
    sq_http_init(&h);
    while (at < o->n) {
        at += sq_http_up(&h, o->p + at, o->n - at, &ev);
        assert_int_not_equal(ev, SQ_HTTP_OPAQUE);
    }
    assert_int_equal(h.requests, 2);
    assert_false(h.up_open);
    assert_true(o->n > strlen(rest) && memcmp(o->p + o->n - strlen(rest), rest, strlen(rest)) == 0);
    assert_null(memmem(o->p, o->n, ", ", 2));
    sq_http_free(&h);
}

static void test_every_cut(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof(CASES) / sizeof(CASES[0]); i++) {
        size_t n = strlen(CASES[i].up) > strlen(CASES[i].down) ? strlen(CASES[i].up) : strlen(CASES[i].down);
        for (size_t cut = 0; cut <= n; cut++) {
            struct rig r;
            assert_true(rig_start(&r, CASES[i].rule));
            feed_cut(&r, CALLER, CASES[i].up, cut);
            feed_cut(&r, DEP, CASES[i].down, cut);
            rig_eof(&r, DEP);
            if (CASES[i].to_dep)
                expect(&r.out[UP], CASES[i].to_dep);
            else if (strstr(CASES[i].up, "chunked"))
                check_chunked(&r.out[UP]);
            expect(&r.out[DOWN], CASES[i].to_caller);
            assert_false(r.reset);
            rig_stop(&r);
            if (i == sizeof(CASES) / sizeof(CASES[0]) - 1 && cut == n)
                print_message("%zu cases\n", i + 1);
        }
    }
}

/* The answer to the call behind the one that is aborted must not become its answer, however long the ones before it
 * take to go out. */
static void test_abort_waits_for_its_turn(void **state)
{
    struct rig r;
    struct sq_chunk held = {.len = 1};
    (void)state;
    assert_true(rig_start(&r, RULE("http_abort", "\"match\":{\"path\":\"/a\"}," ANSWER "}")));
    up(&r, "GET /first HTTP/1.1\r\n\r\n");
    r.holds = true;
    r.conn.lane[DOWN].head = &held;
    down(&r, "HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n1");
    up(&r, GET "GET /third HTTP/1.1\r\n\r\n");
    down(&r, "HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n3");
    expect(&r.out[DOWN], "HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n1");
    assert_int_equal(r.conn.state, PX_OPEN);
    r.holds = false;
    r.conn.lane[DOWN].head = NULL;
    px_pump(&r.conn);
    assert_int_equal(r.conn.state, PX_CLOSED);
    assert_true(r.reset);
    assert_int_equal(r.answered, 1);
    rig_stop(&r);
}

/* A black hole that begins meanwhile swallows our answer as it would the dependency's: in its turn. */
static void test_hole_keeps_the_order(void **state)
{
    static const char status[] =
        "{\"fault\":\"a\",\"kind\":\"http_status\",\"match\":{\"path\":\"/a\"},\"http\":{\"body\":\"no\"}}";
    struct rig r;
    char rules[512];
    (void)state;
    (void)snprintf(rules, sizeof(rules), "[%s]", status);
    assert_true(rig_start(&r, rules));
    up(&r, "POST /a HTTP/1.1\r\nContent-Length: 4\r\n\r\nbo");
    (void)snprintf(rules, sizeof(rules), "[%s,{\"fault\":\"b\",\"kind\":\"blackhole\"}]", status);
    assert_true(rig_rules(&r, rules));
    up(&r, "dyGET /b HTTP/1.1\r\n\r\n");
    down(&r, "HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nb");
    expect(&r.out[DOWN], "HTTP/1.1 503 Service Unavailable\r\nContent-Length: 2\r\n\r\nno"
                         "HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nb");
    rig_stop(&r);
}

/* What the caller sent could have become HTTP/2's preface, and the dependency speaks, no HTTP. */
static void test_first_bytes_like_http2(void **state)
{
    static const char *const begun[] = {"P", "PRI *"};
    (void)state;
    for (size_t i = 0; i < 2; i++) {
        struct rig r;
        assert_true(rig_start(&r, "[]"));
        up(&r, begun[i]);
        expect(&r.out[UP], "");
        down(&r, "\xff\xff");
        expect(&r.out[UP], begun[i]);
        up(&r, "more");
        assert_memory_equal(r.out[UP].p + strlen(begun[i]), "more", 4);
        expect(&r.out[DOWN], "\xff\xff");
        rig_stop(&r);
    }
}

/* What looks like HTTP/2 on one side, and ends before it can be: nothing of it is lost. */
static void test_no_h2_after_all(void **state)
{
    static const char settings[] = "\0\0\x0c\4\0\0\0\0\0\1\2", preface[] = SQ_H2_PREFACE "\0\0\x08\1\5\0\0\0\1ab";
    struct rig r;
    (void)state;
    assert_true(rig_start(&r, "[]"));
    rig_feed(&r, DEP, settings, 11);
    rig_eof(&r, DEP);
    assert_int_equal(r.out[1].n, 11);
    assert_memory_equal(r.out[1].p, settings, 11);
    rig_stop(&r);
    assert_true(rig_start(&r, "[]"));
    rig_feed(&r, CALLER, preface, sizeof(preface) - 1);
    rig_eof(&r, CALLER);
    assert_int_equal(r.out[0].n, sizeof(preface) - 1);
    assert_memory_equal(r.out[0].p, preface, sizeof(preface) - 1);
    rig_stop(&r);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_cut),
        cmocka_unit_test(test_abort_waits_for_its_turn),
        cmocka_unit_test(test_hole_keeps_the_order),
        cmocka_unit_test(test_first_bytes_like_http2),
        cmocka_unit_test(test_no_h2_after_all),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
