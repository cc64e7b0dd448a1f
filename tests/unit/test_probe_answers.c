/* What the probe makes of answers of all kinds, what it sends, and what it refuses to send. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "unit/probe_run.h"
#include "unit/probe_server.h"

static void by_path(struct srv *s, struct srv_conn *c, const char *request, struct srv_reply *r)
{
    (void)s;
    (void)c;
    if (strstr(request, "GET /split ")) {
        r->text = "HTTP/1.1 200 OK\r\nX-Mode: fallback, cached\r\nTransfer-Encoding: chunked\r\n\r\n"
                  "4\r\nto\r\n\r\n6;ext=1\r\ntal: 3\r\n0\r\nTrailer: x\r\n\r\n";
        r->piece = 7;
    } else if (strstr(request, "GET /close ")) {
        r->text = "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 5\r\n\r\ntotal"; /* and leaves it open */
    } else if (strstr(request, "GET /extra ")) {
        r->text = "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\ntotalHTTP/1.1 500 No\r\nContent-Length: 0\r\n\r\n";
    } else if (strstr(request, "GET /interim ")) {
        r->text = "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\nHTTP/1.1 200 OK\r\n"
                  "Content-Length: 5\r\n\r\ntotal";
        r->piece = 11;
    } else if (strstr(request, "HEAD /head ") || strstr(request, "GET /304 ")) {
        r->text = strstr(request, "HEAD") ? "HTTP/1.1 200 OK\r\nContent-Length: 5000\r\n\r\n"
                                          : "HTTP/1.1 304 Not Modified\r\nContent-Length: 5000\r\n\r\n";
    } else if (strstr(request, "GET /eof ")) {
        r->text = "HTTP/1.0 200 OK\r\n\r\nthe total";
        r->close = true;
    } else if (strstr(request, "GET /teapot ")) {
        r->text = "HTTP/1.1 418 I'm a teapot\r\nContent-Length: 0\r\n\r\n";
    } else if (strstr(request, "GET /half ")) {
        r->text = "HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\nhalf";
        r->close = true;
    } else if (strstr(request, "GET /junk ")) {
        r->text = "SSH-2.0-OpenSSH_9.2p1 Debian-2\r\n";
    } else if (strstr(request, "GET /drop ")) {
        r->text = "";
        r->close = true;
    } else {
        r->text = SRV_OK;
    }
}

static void one_path(struct srv *s, struct run *r, const char *path, const char *more)
{
    char url[128];

    (void)snprintf(url, sizeof url, "http://127.0.0.1:%u%s", s->port, path);
    run_for(r, load_of(100, url, 3 * SQ_S, 10, more), 300 * SQ_MS);
    assert_int_equal(total(r, "planned"), end_int(r, "done"));
}

static void test_answers(void **state)
{
    static struct srv s = {.answer = by_path};
    struct run r;
    uint64_t before;

    (void)state;
    assert_int_equal(srv_start(&s, NULL), 0);
    one_path(&s, &r, "/split", "{\"expect\":{\"body\":\"to\\r\\ntal\"}}");
    assert_all_good(&r);
    one_path(&s, &r, "/split", "{\"expect\":{\"body\":\"to\\r\\ntall\"}}");
    assert_all_bad(&r, "body");
    before = s.accepted;
    one_path(&s, &r, "/close", "{\"expect\":{\"body\":\"total\"}}");
    assert_int_equal(s.accepted - before, (uint64_t)end_int(&r, "planned")); /* a connection for each */
    assert_all_good(&r);
    before = s.accepted;
    one_path(&s, &r, "/extra", "{\"expect\":{\"body\":\"total\"}}");
    assert_int_equal(s.accepted - before, (uint64_t)end_int(&r, "planned")); /* none can be used again */
    assert_all_good(&r);
    one_path(&s, &r, "/interim", "{\"expect\":{\"status\":[200],\"body\":\"total\"}}");
    assert_all_good(&r);
    before = s.accepted;
    one_path(&s, &r, "/head", "{\"request\":{\"method\":\"HEAD\"}}");
    assert_true(s.accepted - before <= 10); /* no body is waited for, and the connection goes on */
    assert_all_good(&r);
    before = s.accepted;
    one_path(&s, &r, "/304", NULL);
    assert_true(s.accepted - before <= 10);
    assert_all_good(&r);
    one_path(&s, &r, "/eof", "{\"expect\":{\"body\":\"total\"}}");
    assert_all_good(&r);
    one_path(&s, &r, "/teapot", NULL);
    assert_all_bad(&r, "status");
    one_path(&s, &r, "/teapot", "{\"expect\":{\"status\":[\"400-499\"]}}");
    assert_all_good(&r);
    one_path(&s, &r, "/half", NULL);
    assert_all_bad(&r, "reset");
    one_path(&s, &r, "/junk", NULL);
    assert_all_bad(&r, "protocol");
    one_path(&s, &r, "/drop", NULL);
    assert_all_bad(&r, "reset");
    srv_stop(&s);
}

static void check_trace(struct srv *s, struct srv_conn *c, const char *request, struct srv_reply *r)
{
    static char last[56];
    const char *t = strstr(request, "traceparent: ");
    char prefix[17], want[21];
    uint64_t *good = s->arg;

    (void)c;
    r->text = SRV_OK;
    sq_probe_trace_prefix("test", prefix);
    (void)snprintf(want, sizeof want, "00-%s", prefix);
    if (!t || strncmp(t + 13, want, 19) != 0 || strncmp(t + 13, last, 55) == 0)
        return;
    memcpy(last, t + 13, 55);
    if (last[35] == '-' && last[52] == '-' && strncmp(last + 52, "-01", 3) == 0 &&
        strspn(last + 3, "0123456789abcdef") == 32 && strspn(last + 36, "0123456789abcdef") == 16 &&
        strncmp(t + 13 + 55, "\r\n", 2) == 0 && strncmp(request, "POST /p?q=1 HTTP/1.1\r\n", 23 - 1) == 0 &&
        strstr(request, "\r\nx-a: b\r\n") && strstr(request, "\r\nhost: 127.0.0.1:") &&
        strstr(request, "\r\ncontent-length: 5\r\n") && strstr(request, "\r\n\r\nhello"))
        (*good)++;
}

static void test_request_bytes(void **state)
{
    static uint64_t good;
    static struct srv s = {.answer = check_trace, .arg = &good};
    struct run r;

    (void)state;
    assert_int_equal(srv_start(&s, NULL), 0);
    one_path(&s, &r, "/p?q=1", "{\"request\":{\"method\":\"POST\",\"body\":\"hello\",\"headers\":{\"x-a\":\"b\"}}}");
    srv_stop(&s);
    assert_int_equal(good, (uint64_t)end_int(&r, "planned"));
    assert_all_good(&r);
}

static void big_body(struct srv *s, struct srv_conn *c, const char *request, struct srv_reply *r)
{
    (void)c;
    (void)request;
    r->text = s->arg;
}

static void test_matchers(void **state)
{
    static struct srv s = {.answer = by_path};
    struct run r;
    char url[64];
    int64_t n;
    const json_t *m;

    (void)state;
    assert_int_equal(srv_start(&s, NULL), 0);
    (void)snprintf(url, sizeof url, "http://127.0.0.1:%u/split", s.port);
    begin_run(&r, load_of(200, url, 3 * SQ_S, 10, NULL), NULL,
              "[{\"id\":\"a\",\"endpoint\":\"e\",\"match\":{\"status\":200,\"header\":\"x-mode: "
              "cached\",\"body\":\"total\"}},"
              " {\"id\":\"b\",\"match\":{\"header\":\"X-MODE\",\"body\":\"tal: "
              "3\"},\"forbid\":{\"body\":[\"Traceback\",\"tal: 3\"]}},"
              " {\"id\":\"c\",\"match\":{\"status\":[\"5xx\"]},\"forbid\":{\"empty\":true,\"status\":\"500-599\"}},"
              " {\"id\":\"d\",\"endpoint\":\"other\",\"match\":{\"status\":200}}]");
    sleep_until(sq_probe_begin_ns(r.probe) + 300 * SQ_MS);
    end_run(&r, -1);
    srv_stop(&s);
    n = total(&r, "planned");
    m = json_object_get(json_array_get(r.samples, 0), "m");
    assert_int_equal(json_object_size(m), 3);
    assert_int_equal(json_array_size(r.samples), 1);
    assert_int_equal(sq_json_int_or(json_object_get(m, "a"), "n", 0), n);
    assert_int_equal(sq_json_int_or(json_object_get(m, "a"), "match", -1), 0); /* "to\r\ntal" is not "total" */
    assert_int_equal(sq_json_int_or(json_object_get(m, "a"), "forbid", -1), 0);
    assert_int_equal(sq_json_int_or(json_object_get(m, "b"), "match", -1), n);
    assert_int_equal(sq_json_int_or(json_object_get(m, "b"), "forbid", -1), n);
    assert_int_equal(sq_json_int_or(json_object_get(m, "c"), "match", -1), 0);
    assert_int_equal(sq_json_int_or(json_object_get(m, "c"), "forbid", -1), 0);
    free_run(&r);
}

static void test_large_answer(void **state)
{
    static struct srv s = {.answer = big_body};
    struct run r;
    size_t len = 3 << 20;
    char *text = malloc(len + 200), head[100], url[64];
    int n = snprintf(head, sizeof head, "HTTP/1.1 200 OK\r\nContent-Length: %zu\r\n\r\n", len);

    (void)state;
    memset(text, 'x', len + 200);
    memcpy(text, head, (size_t)n);
    memcpy(text + n + (1 << 20) - 6, "needle", 6); /* within the first MiB; "second" is behind it */
    memcpy(text + n + (1 << 20) + 6, "second", 6);
    text[(size_t)n + len] = 0;
    s.arg = text;
    assert_int_equal(srv_start(&s, NULL), 0);
    (void)snprintf(url, sizeof url, "http://127.0.0.1:%u/", s.port);
    begin_run(&r, load_of(10, url, 3 * SQ_S, 2, "{\"expect\":{\"body\":\"needle\"}}"), NULL,
              "[{\"id\":\"m\",\"match\":{\"body\":\"second\"}}]");
    sleep_until(sq_probe_begin_ns(r.probe) + 300 * SQ_MS);
    end_run(&r, -1);
    srv_stop(&s);
    free(text);
    assert_int_equal(total(&r, "ok"), end_int(&r, "planned"));
    assert_int_equal(total(&r, "bytes"), (int64_t)len * end_int(&r, "planned"));
    assert_int_equal(
        sq_json_int_or(json_object_get(json_object_get(json_array_get(r.samples, 0), "m"), "m"), "match", -1), 0);
    free_run(&r);
}

static void test_config_errors(void **state)
{
    static const struct {
        const char *url, *more, *says;
    } bad[] = {
        {"ftp://127.0.0.1/", NULL, "ftp://127.0.0.1/"},
        {"http://no-such-host.invalid/", NULL, "no-such-host.invalid"},
        {"http://127.0.0.1:0/", NULL, "port"},
        {"http://127.0.0.1:70000/", NULL, "port"},
        {"http://127.0.0.1:80x/", NULL, "port"},
        {"http:///x", NULL, "host"},
        {"http://[::1/x", NULL, "]"},
        {"http://u:p@h/x", NULL, "password"},
        {"http://127.0.0.1/a b", NULL, "%XX"},
        {"http://127.0.0.1/a#b", NULL, "fragment"},
        {"unix:relative.sock:/x", NULL, "absolute"},
        {"http://127.0.0.1/", "{\"connections\":0}", "connections"},
        {"http://127.0.0.1/", "{\"connections\":60001}", "connections"},
        {"http://127.0.0.1/", "{\"request\":{\"timeout\":0}}", "timeout"},
        {"http://127.0.0.1/", "{\"request\":{\"method\":\"GE T\"}}", "method"},
        {"http://127.0.0.1/", "{\"request\":{\"headers\":{\"a b\":\"c\"}}}", "a b"},
        {"http://127.0.0.1/", "{\"request\":{\"headers\":{\"a\":\"c\\r\\nx: y\"}}}", "one line"},
        {"http://127.0.0.1/", "{\"request\":{\"headers\":{\"Content-Length\":\"3\"}}}", "Content-Length"},
        {"http://127.0.0.1/", "{\"expect\":{\"status\":[20]}}", "status"},
        {"http://127.0.0.1/", "{\"expect\":{\"status\":[\"300-200\"]}}", "status"},
        {"http://127.0.0.1/", "{\"request\":{\"tls\":{\"ca\":\"/x\"}}}", "https://"},
        {"https://127.0.0.1/", "{\"request\":{\"tls\":{\"ca\":\"/no/such.pem\"}}}", "/no/such.pem"},
        {"https://127.0.0.1/", "{\"request\":{\"tls\":{\"alpn\":[\"\"]}}}", "alpn"},
        {"http://${data.x}/", NULL, "behind the host"},
        {"http://127.0.0.1/${data.x}", NULL, "\"x\""},
        {"http://127.0.0.1/${data.x", NULL, "no end"},
        {"tcp://127.0.0.1", NULL, "port"},
        {"tcp://127.0.0.1:1/x", NULL, "path"},
        {"tcp://127.0.0.1:1", "{\"request\":{\"send\":\"${data.x}\"}}", "HTTP"},
        {"udp://127.0.0.1:1", NULL, "send"},
        {"dns://127.0.0.1", NULL, "name"},
        {"grpc://127.0.0.1", NULL, "port"},
        {"redis://127.0.0.1/1", NULL, "database"},
        {"postgres://a:b@127.0.0.1/", NULL, "password_env"},
        {"exec:", NULL, "program"},
        {"http://127.0.0.1/", "{\"threads\":6}", "threads"},
        {"http://127.0.0.1/", "{\"data\":\"/no/such.csv\"}", "/no/such.csv"},
        {"http://127.0.0.1/", "{\"mix\":[]}", "mix"},
        {"http://127.0.0.1/", "{\"mix\":[{\"weight\":0}]}", "weight"},
        {"http://127.0.0.1/", "{\"session\":[{\"capture\":{\"a\":{}}}]}", "capture a"},
        {"http://127.0.0.1/", "{\"executor\":\"black-friday\",\"baseline\":\"/no/such\"}", "/no/such"},
    };
    struct sq_err e;
    struct sq_probe *p;

    (void)state;
    for (size_t i = 0; i < SQ_COUNT(bad); i++) {
        p = create(load_of(1, bad[i].url, SQ_S, 5, bad[i].more), NULL, NULL, &e);
        if (p || !strstr(e.msg, bad[i].says))
            print_error("%s %s: %s\n", bad[i].url, bad[i].more ? bad[i].more : "", p ? "accepted" : e.msg);
        assert_null(p);
        assert_non_null(strstr(e.msg, bad[i].says));
        assert_non_null(strstr(e.msg, "load: e: "));
        assert_int_equal(e.cls, SQ_C_INPUT);
    }
    assert_null(create(json_object(), NULL, NULL, &e));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_answers),      cmocka_unit_test(test_request_bytes), cmocka_unit_test(test_matchers),
        cmocka_unit_test(test_large_answer), cmocka_unit_test(test_config_errors),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
