/* The HTTP call tracker: where calls begin and end, whatever the bytes are cut into. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdio.h>
#include <string.h>

#include "proxy/http.h"

struct seen {
    struct sq_http h;
    unsigned begun, ended; /* requests */
    unsigned answers;      /* begun */
    unsigned n;            /* calls answered */
    unsigned status[256];
    char trace[256][33];
    bool opaque;
};

static void start(struct seen *s)
{
    memset(s, 0, sizeof(*s));
    sq_http_init(&s->h);
}

static void feed(struct seen *s, int down, const char *p, size_t len)
{
    while (len > 0 && !s->opaque) {
        enum sq_http_ev ev;
        size_t used = down ? sq_http_down(&s->h, p, len, &ev) : sq_http_up(&s->h, p, len, &ev);
        assert_true(used <= len);
        p += used;
        len -= used;
        s->begun += !down && ev == SQ_HTTP_BEGIN;
        s->ended += !down && ev == SQ_HTTP_END;
        s->answers += down && ev == SQ_HTTP_BEGIN;
        s->opaque = ev == SQ_HTTP_OPAQUE;
        struct sq_call *c = down && ev == SQ_HTTP_END ? sq_http_ended(&s->h) : NULL;
        if (!c || s->n == 256)
            continue;
        s->status[s->n] = c->status;
        memcpy(s->trace[s->n++], c->trace, sizeof(c->trace));
    }
}

static void up(struct seen *s, const char *text)
{
    feed(s, 0, text, strlen(text));
}

static void down(struct seen *s, const char *text)
{
    feed(s, 1, text, strlen(text));
}

static const struct {
    const char *name, *up, *down;
    unsigned status[4]; /* of the calls that are answered */
    bool eof;           /* the last one by the end of the connection */
} CASES[] = {
    {"length", "GET / HTTP/1.1\r\nHost: x\r\n\r\n", "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello", {200}, false},
    {"post",
     "POST / HTTP/1.1\r\nContent-Length: 4\r\n\r\nbody",
     "HTTP/1.1 201 C\r\nContent-Length: 0\r\n\r\n",
     {201},
     false},
    {"head",
     "HEAD / HTTP/1.1\r\n\r\nGET / HTTP/1.1\r\n\r\n",
     "HTTP/1.1 200 OK\r\nContent-Length: 999\r\n\r\nHTTP/1.1 404 N\r\nContent-Length: 1\r\n\r\nx",
     {200, 404},
     false},
    {"chunked",
     "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n3;e=1\r\nabc\r\n0\r\nTrailer: x\r\n\r\n",
     "HTTP/1.1 500 E\r\nTransfer-Encoding: chunked\r\n\r\na\r\n0123456789\r\n0\r\n\r\n",
     {500},
     false},
    {"no body",
     "GET /1 HTTP/1.1\r\n\r\nGET /2 HTTP/1.1\r\n\r\n",
     "HTTP/1.1 204 N\r\n\r\nHTTP/1.1 304 N\r\n\r\n",
     {204, 304},
     false},
    {"interim",
     "PUT / HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 1\r\n\r\nx",
     "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early\r\nLink: x\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
     {200},
     false},
    {"close", "GET / HTTP/1.0\r\n\r\n", "HTTP/1.0 200 OK\r\n\r\nuntil it ends", {200}, true},
    {"upgrade refused",
     "GET / HTTP/1.1\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\nGET / HTTP/1.1\r\n\r\n",
     "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nokHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
     {200, 200},
     false},
    {"connect refused",
     "CONNECT a:1 HTTP/1.1\r\n\r\nGET / HTTP/1.1\r\n\r\n",
     "HTTP/1.1 405 N\r\nContent-Length: 2\r\n\r\nnoHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
     {405, 200},
     false},
    {"blank lines",
     "\r\n\r\nGET / HTTP/1.1\r\n\r\n\r\n\r\n",
     "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n\r\n",
     {200},
     false},
};

static unsigned expected(unsigned c)
{
    unsigned n = 0;
    while (n < 4 && CASES[c].status[n])
        n++;
    return n;
}

static void check(struct seen *s, unsigned c)
{
    unsigned n = expected(c);
    if (CASES[c].eof) {
        assert_true(sq_http_down_eof(&s->h));
        assert_int_equal(sq_http_ended(&s->h)->status, CASES[c].status[n - 1]);
        n--;
    } else {
        assert_false(sq_http_down_eof(&s->h));
    }
    if (s->n != n || s->begun != expected(c) || s->ended != expected(c) || s->opaque)
        fail_msg("%s: %u answered, %u begun, %u ended", CASES[c].name, s->n, s->begun, s->ended);
    for (unsigned i = 0; i < n; i++)
        assert_int_equal(s->status[i], CASES[c].status[i]);
    sq_http_free(&s->h);
}

static void whole(void **state)
{
    (void)state;
    for (unsigned c = 0; c < sizeof(CASES) / sizeof(CASES[0]); c++) {
        struct seen s;
        start(&s);
        up(&s, CASES[c].up);
        down(&s, CASES[c].down);
        check(&s, c);
    }
}

/* Every way to cut both directions into two pieces, and into single bytes. */
static void cut(void **state)
{
    (void)state;
    for (unsigned c = 0; c < sizeof(CASES) / sizeof(CASES[0]); c++) {
        const char *u = CASES[c].up, *d = CASES[c].down;
        for (size_t at = 0; at <= strlen(u) + strlen(d); at++) {
            struct seen s;
            size_t a = at < strlen(u) ? at : strlen(u), b = at - a;
            start(&s);
            feed(&s, 0, u, a);
            feed(&s, 0, u + a, strlen(u) - a);
            feed(&s, 1, d, b);
            feed(&s, 1, d + b, strlen(d) - b);
            check(&s, c);
        }
        struct seen s;
        start(&s);
        for (size_t i = 0; i < strlen(u); i++)
            feed(&s, 0, u + i, 1);
        for (size_t i = 0; i < strlen(d); i++)
            feed(&s, 1, d + i, 1);
        check(&s, c);
    }
}

static void offsets(void **state)
{
    (void)state;
    struct sq_http h;
    enum sq_http_ev ev;
    sq_http_init(&h);
    static const char U[] = "\r\nGET / HTTP/1.1\r\n\r\nGET";
    assert_int_equal(sq_http_up(&h, U, sizeof(U) - 1, &ev), 2);
    assert_int_equal(ev, SQ_HTTP_BEGIN);
    assert_int_equal(sq_http_up(&h, U + 2, sizeof(U) - 3, &ev), 18);
    assert_int_equal(ev, SQ_HTTP_END);
    assert_int_equal(sq_http_up(&h, U + 20, 3, &ev), 0);
    assert_int_equal(ev, SQ_HTTP_BEGIN);
    assert_int_equal(h.n, 2);
    static const char D[] = "HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nxH";
    assert_int_equal(sq_http_down(&h, D, sizeof(D) - 1, &ev), 0);
    assert_int_equal(ev, SQ_HTTP_BEGIN);
    assert_int_equal(sq_http_down(&h, D, sizeof(D) - 1, &ev), sizeof(D) - 2);
    assert_int_equal(ev, SQ_HTTP_END);
    assert_true(sq_http_at(&h, 0)->done);
    assert_false(sq_http_at(&h, 1)->done);
    assert_ptr_equal(sq_http_oldest(&h), sq_http_at(&h, 1));
    sq_http_pop(&h);
    assert_int_equal(h.n, 1);
    sq_http_free(&h);
}

#define TRACE "0af7651916cd43dd8448eb211c80319c"

static void traces(void **state)
{
    (void)state;
    static const struct {
        const char *line, *want;
    } T[] = {
        {"traceparent: 00-" TRACE "-b7ad6b7169203331-01", TRACE},
        {"TraceParent:00-" TRACE "-b7ad6b7169203331-00", TRACE},
        {"traceparent: 00-0AF7651916CD43DD8448EB211C80319C-b7ad6b7169203331-01", ""},
        {"traceparent: 00-0af765", ""},
        {"traceparent: ", ""},
        {"traceparentx: 00-" TRACE "-b7ad6b7169203331-01", ""},
        {"x-traceparent: 00-" TRACE "-b7ad6b7169203331-01", ""},
        {"traceparen: 00-" TRACE "-b7ad6b7169203331-01", ""},
        {"traceparent: 00-" TRACE "\", \"evil\": \"", TRACE},
    };
    for (unsigned i = 0; i < sizeof(T) / sizeof(T[0]); i++) {
        char q[256];
        int n = snprintf(q, sizeof(q), "GET / HTTP/1.1\r\nA: b\r\n%s\r\nTracestate: x=y\r\n\r\n", T[i].line);
        for (int at = 0; at <= n; at++) {
            struct seen s;
            start(&s);
            feed(&s, 0, q, (size_t)at);
            feed(&s, 0, q + at, (size_t)(n - at));
            down(&s, "HTTP/1.1 204 N\r\n\r\n");
            assert_int_equal(s.n, 1);
            assert_string_equal(s.trace[0], T[i].want);
            sq_http_free(&s.h);
        }
    }
}

/* A dependency that answers before it has read the request: what is told of the call then is whole, or not there. */
static void early_answer(void **state)
{
    (void)state;
    static const char REST[] = "-b7ad6b7169203331-01\r\n\r\n";
    for (unsigned cut = 0; cut <= 32; cut++) {
        struct seen s;
        start(&s);
        up(&s, "GET / HTTP/1.1\r\ntraceparent: 00-");
        feed(&s, 0, TRACE, cut);
        down(&s, "HTTP/1.1 503 N\r\ncontent-length: 0\r\n\r\n");
        assert_int_equal(s.n, 1);
        assert_string_equal(s.trace[0], "");
        up(&s, TRACE + cut);
        up(&s, REST);
        assert_int_equal(s.ended, 1);
        sq_http_free(&s.h);
    }
    struct seen s; /* a trailer is no header, and one request's is not the next one's */
    start(&s);
    up(&s, "POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n0\r\ntraceparent: 00-" TRACE
           "-b7ad6b7169203331-01\r\n\r\n");
    down(&s, "HTTP/1.1 204 N\r\n\r\n");
    up(&s, "GET / HTTP/1.1\r\n\r\n");
    down(&s, "HTTP/1.1 204 N\r\n\r\n");
    assert_int_equal(s.n, 2);
    assert_string_equal(s.trace[0], "");
    assert_string_equal(s.trace[1], "");
    sq_http_free(&s.h);
}

static void switching(void **state)
{
    (void)state;
    struct seen s;
    start(&s);
    up(&s, "GET / HTTP/1.1\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n");
    down(&s, "HTTP/1.1 101 Switching\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n\x81\x05hello");
    assert_int_equal(s.n, 1);
    assert_int_equal(s.status[0], 101);
    assert_true(s.opaque && s.h.opaque && s.h.switched && !sq_http_never(&s.h));
    sq_http_free(&s.h);
    start(&s);
    up(&s, "CONNECT a:1 HTTP/1.1\r\n\r\n");
    down(&s, "HTTP/1.1 200 OK\r\n\r\nbytes");
    assert_int_equal(s.n, 1);
    assert_true(s.h.opaque);
    sq_http_free(&s.h);
}

static void not_http(void **state)
{
    (void)state;
    static const char *const UP[] = {"\x16\x03\x01\x02",
                                     "EHLO x\r\n",
                                     "*1\r\n$4\r\nPING\r\n",
                                     "GET / HTTQ/1.1\r\n",
                                     "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
                                     "{}"};
    for (unsigned i = 0; i < sizeof(UP) / sizeof(UP[0]); i++) {
        struct seen s;
        start(&s);
        up(&s, UP[i]);
        assert_true(s.opaque && sq_http_never(&s.h));
        assert_int_equal(s.h.n, 0);
        sq_http_free(&s.h);
    }
    struct seen s;
    start(&s);
    down(&s, "220 smtp\r\n");
    assert_true(s.opaque && sq_http_never(&s.h));
    sq_http_free(&s.h);
    /* after a request it is not the same: the call stays, and ends with the connection */
    start(&s);
    up(&s, "GET / HTTP/1.1\r\n\r\n\x01\x02");
    assert_true(s.opaque && !sq_http_never(&s.h));
    assert_true(s.h.n >= 1);
    sq_http_free(&s.h);
}

static void bounded(void **state)
{
    (void)state;
    struct seen s;
    start(&s);
    for (int i = 0; i < SQ_HTTP_PIPELINE; i++)
        up(&s, "GET / HTTP/1.1\r\n\r\n");
    assert_false(s.opaque);
    assert_int_equal(s.h.n, SQ_HTTP_PIPELINE);
    for (int i = 0; i < SQ_HTTP_PIPELINE; i++)
        down(&s, "HTTP/1.1 204 N\r\n\r\n");
    assert_int_equal(s.n, SQ_HTTP_PIPELINE);
    while (s.h.n)
        sq_http_pop(&s.h);
    for (int i = 0; i <= SQ_HTTP_PIPELINE; i++)
        up(&s, "GET / HTTP/1.1\r\n\r\n");
    assert_true(s.opaque && !sq_http_never(&s.h));
    sq_http_free(&s.h);
}

/* An answer that nobody asked for (a server's 408 on an idle connection) is nobody's; one that comes early is its
 * call's. */
static void out_of_turn(void **state)
{
    (void)state;
    struct seen s;
    start(&s);
    up(&s, "GET / HTTP/1.1\r\n\r\n");
    down(&s, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
    sq_http_pop(&s.h);
    down(&s, "HTTP/1.1 408 Timeout\r\nContent-Length: 0\r\n\r\n");
    assert_int_equal(s.n, 1);
    assert_false(s.opaque);
    up(&s, "POST / HTTP/1.1\r\nContent-Length: 10\r\n\r\n12345");
    down(&s, "HTTP/1.1 413 Big\r\nContent-Length: 0\r\n\r\n");
    assert_int_equal(s.n, 2);
    sq_http_pop(&s.h);
    up(&s, "67890GET / HTTP/1.1\r\n\r\n");
    assert_int_equal(s.h.n, 1);
    down(&s, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
    assert_int_equal(s.n, 3);
    sq_http_free(&s.h);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(whole),    cmocka_unit_test(cut),          cmocka_unit_test(offsets),
        cmocka_unit_test(traces),   cmocka_unit_test(early_answer), cmocka_unit_test(switching),
        cmocka_unit_test(not_http), cmocka_unit_test(bounded),      cmocka_unit_test(out_of_turn),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
