/* The HTTP client against a small server on a Unix socket that answers as the test says, badly included. */
#include <errno.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <cmocka.h>

#include "run/client.h"
#include "squall/json.h"
#include "squall/units.h"

struct server {
    char dir[64], path[100];
    int fd;
    pthread_t thread;
    char last[8192]; /* the last request, as it came */
    unsigned connections;
};

/* One request: headers, and as much body as Content-Length says. */
static bool read_request(int fd, char *buf, size_t cap)
{
    size_t len = 0, want = 0;
    for (;;) {
        ssize_t n = read(fd, buf + len, cap - 1 - len);
        if (n <= 0)
            return false;
        len += (size_t)n;
        buf[len] = '\0';
        const char *end = strstr(buf, "\r\n\r\n"), *cl = strcasestr(buf, "content-length:");
        if (!end)
            continue;
        want = (size_t)(end - buf) + 4 + (cl && cl < end ? strtoul(cl + 15, NULL, 10) : 0);
        if (len >= want)
            return true;
    }
}

static void answer(int fd, const char *status, const char *body)
{
    char out[4096];
    int n = snprintf(out, sizeof(out), "HTTP/1.1 %s\r\nContent-Type: application/json\r\nContent-Length: %zu\r\n\r\n%s",
                     status, strlen(body), body);
    assert_int_equal(write(fd, out, (size_t)n), n);
}

/* True: keep the connection. */
static bool serve_one(const char *request, int fd)
{
    if (strstr(request, "/v1/ok")) {
        answer(fd, "200 OK", "{\"run\":\"r1\",\"n\":7}");
    } else if (strstr(request, "/v1/none")) {
        assert_true(write(fd, "HTTP/1.1 204 No Content\r\n\r\n", 27) == 27);
    } else if (strstr(request, "/v1/gone")) {
        answer(fd, "404 Not Found",
               "{\"error\":{\"message\":\"no run r9\",\"hint\":\"it ended\",\"errno\":\"ESRCH\"}}");
    } else if (strstr(request, "/v1/denied")) {
        answer(fd, "403 Forbidden", "{\"error\":{\"message\":\"not yours\",\"errno\":\"EPERM\"}}");
    } else if (strstr(request, "/v1/odd")) {
        answer(fd, "500 Oops", "it broke");
    } else if (strstr(request, "/v1/junk")) {
        answer(fd, "200 OK", "{\"run\":");
    } else if (strstr(request, "/v1/cut")) {
        assert_true(write(fd, "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{", 40) > 0);
        return false;
    } else if (strstr(request, "/v1/huge")) {
        char block[65536];
        int n = snprintf(block, sizeof(block), "HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\n");
        memset(block + n, ' ', sizeof(block) - (size_t)n);
        while (write(fd, block, sizeof(block)) > 0)
            memset(block, ' ', sizeof(block));
        return false;
    } else if (strstr(request, "/v1/hang")) {
        char c;
        while (read(fd, &c, 1) > 0) /* until the client gives up */
            continue;
        return false;
    } else { /* /v1/drop */
        return false;
    }
    return true;
}

static void *connection(void *arg)
{
    struct {
        struct server *s;
        int fd;
    } c;
    memcpy(&c, arg, sizeof(c));
    free(arg);
    char request[sizeof(c.s->last)]; /* one's own: connections are served side by side */
    bool more = true;
    while (more && read_request(c.fd, request, sizeof(request))) {
        memcpy(c.s->last, request, sizeof(request));
        more = serve_one(request, c.fd);
    }
    close(c.fd);
    return NULL;
}

static void *serve(void *arg)
{
    struct server *s = arg;
    int fd;
    while ((fd = accept(s->fd, NULL, NULL)) >= 0) {
        struct {
            struct server *s;
            int fd;
        } *c = malloc(sizeof(*c));
        pthread_t t;
        c->s = s;
        c->fd = fd;
        s->connections++;
        if (pthread_create(&t, NULL, connection, c))
            abort();
        pthread_detach(t);
    }
    return NULL;
}

static int start(void **state)
{
    static struct server the_server; /* its connections' threads may outlive the tests */
    struct server *s = &the_server;
    struct sockaddr_un sa = {.sun_family = AF_UNIX};
    signal(SIGPIPE, SIG_IGN);
    strcpy(s->dir, "/tmp/squall-test-XXXXXX");
    if (!mkdtemp(s->dir))
        return -1;
    snprintf(s->path, sizeof(s->path), "%s/api.sock", s->dir);
    snprintf(sa.sun_path, sizeof(sa.sun_path), "%.100s", s->path);
    s->fd = socket(AF_UNIX, SOCK_STREAM, 0);
    if (bind(s->fd, (struct sockaddr *)&sa, sizeof(sa)) || listen(s->fd, 128))
        return -1;
    *state = s;
    return pthread_create(&s->thread, NULL, serve, s);
}

static int stop(void **state)
{
    struct server *s = *state;
    shutdown(s->fd, SHUT_RDWR);
    pthread_join(s->thread, NULL);
    close(s->fd);
    unlink(s->path);
    rmdir(s->dir);
    return 0;
}

static int ask(struct server *s, const char *method, const char *path, json_t *body, json_t **out, struct sq_err *e)
{
    memset(e, 0, sizeof(*e));
    return sq_client_ask(s->path, method, path, body, 5 * SQ_S, out, e);
}

static void answers(void **state)
{
    struct server *s = *state;
    struct sq_err e;
    json_t *out = NULL;
    assert_int_equal(ask(s, "GET", "/v1/ok", NULL, &out, &e), 200);
    assert_int_equal(e.code, 0);
    assert_int_equal(sq_json_int_or(out, "n", 0), 7);
    assert_non_null(strstr(s->last, "GET /v1/ok HTTP/1.1\r\n"));
    json_decref(out);
    assert_int_equal(ask(s, "DELETE", "/v1/none", NULL, &out, &e), 204);
    assert_null(out);
    assert_non_null(strstr(s->last, "DELETE /v1/none"));
}

static void sends_a_body(void **state)
{
    struct server *s = *state;
    struct sq_err e;
    assert_int_equal(ask(s, "POST", "/v1/ok", json_pack("{s:s}", "lease", "10s"), NULL, &e), 200);
    assert_non_null(strstr(s->last, "POST /v1/ok"));
    assert_non_null(strstr(s->last, "\r\n\r\n{\"lease\":\"10s\"}"));
    assert_null(strstr(s->last, "Expect"));
    assert_int_equal(ask(s, "POST", "/v1/ok", NULL, NULL, &e), 200);
    assert_non_null(strstr(s->last, "Content-Length: 0"));
}

static void carries_refusals(void **state)
{
    struct server *s = *state;
    struct sq_err e;
    assert_int_equal(ask(s, "POST", "/v1/gone", NULL, NULL, &e), 404);
    assert_int_equal(e.code, -ESRCH);
    assert_int_equal(e.cls, SQ_C_NOTFOUND);
    assert_string_equal(e.msg, "no run r9");
    assert_string_equal(e.hint, "it ended");
    assert_int_equal(ask(s, "GET", "/v1/denied", NULL, NULL, &e), 403);
    assert_int_equal(e.cls, SQ_C_DENIED);
    assert_int_equal(ask(s, "GET", "/v1/odd", NULL, NULL, &e), 500);
    assert_int_equal(e.cls, SQ_C_INTERNAL);
    assert_non_null(strstr(e.msg, "HTTP 500"));
    assert_int_equal(ask(s, "GET", "/v1/junk", NULL, NULL, &e), 200);
    assert_int_equal(e.code, -EPROTO);
}

static void says_why_there_is_no_answer(void **state)
{
    struct server *s = *state;
    struct sq_err e;
    assert_int_equal(ask(s, "GET", "/v1/drop", NULL, NULL, &e), -ECONNRESET);
    assert_int_equal(ask(s, "GET", "/v1/cut", NULL, NULL, &e), -ECONNRESET);
    assert_int_equal(ask(s, "GET", "/v1/huge", NULL, NULL, &e), -EMSGSIZE);
    memset(&e, 0, sizeof(e));
    assert_int_equal(sq_client_ask(s->path, "GET", "/v1/hang", NULL, 100 * SQ_MS, NULL, &e), -ETIMEDOUT);
    memset(&e, 0, sizeof(e));
    assert_true(sq_client_ask("/tmp/squall-test-no-such.sock", "GET", "/v1/ok", NULL, SQ_S, NULL, &e) < 0);
    assert_non_null(strstr(e.msg, "no-such.sock"));
    char longer[300];
    memset(longer, 'a', sizeof(longer) - 1);
    longer[0] = '/';
    longer[sizeof(longer) - 1] = '\0';
    memset(&e, 0, sizeof(e));
    assert_int_equal(sq_client_ask(longer, "GET", "/v1/ok", NULL, SQ_S, NULL, &e), -ENAMETOOLONG);
}

static void ignores_proxies_of_the_environment(void **state)
{
    struct server *s = *state;
    struct sq_err e;
    setenv("http_proxy", "http://127.0.0.1:9", 1);
    assert_int_equal(ask(s, "GET", "/v1/ok", NULL, NULL, &e), 200);
    unsetenv("http_proxy");
}

struct seen {
    unsigned done, failed;
    int code;
    struct sq_client *again; /* ask once more from within the callback */
};

static void on_done(void *arg, int status, json_t *body, const struct sq_err *e)
{
    struct seen *n = arg;
    (void)body;
    n->done++;
    if (status != 200) {
        n->failed++;
        n->code = e ? e->code : 0;
    }
    if (n->again) {
        struct sq_client *c = n->again;
        n->again = NULL;
        sq_client_call(c, "GET", "/v1/ok", NULL, 10 * SQ_S, on_done, n);
    }
}

static void many_side_by_side(void **state)
{
    struct server *s = *state;
    uv_loop_t loop;
    struct sq_client *c = NULL;
    struct seen n = {0};
    assert_int_equal(uv_loop_init(&loop), 0);
    assert_int_equal(sq_client_new(&loop, s->path, &c, NULL), 0);
    n.again = c;
    sq_client_call(c, "GET", "/v1/hang", NULL, 3 * SQ_S, on_done, &n); /* must not hold up the others */
    for (int i = 0; i < 20; i++)
        sq_client_call(c, "GET", "/v1/ok", NULL, 5 * SQ_S, on_done, &n);
    assert_int_equal(sq_client_busy(c), 21);
    assert_int_equal(n.done, 0); /* never from within the call */
    while (n.done < 21)
        uv_run(&loop, UV_RUN_ONCE);
    assert_int_equal(n.failed, 0);
    while (n.done < 22)
        uv_run(&loop, UV_RUN_ONCE);
    assert_int_equal(n.failed, 1);
    assert_int_equal(n.code, -ETIMEDOUT);
    unsigned before = s->connections;
    sq_client_call(c, "GET", "/v1/ok", NULL, 10 * SQ_S, on_done, &n);
    while (n.done < 23)
        uv_run(&loop, UV_RUN_ONCE);
    assert_int_equal(s->connections, before); /* kept alive */
    sq_client_close(c, NULL, NULL);
    uv_run(&loop, UV_RUN_DEFAULT);
    assert_int_equal(uv_loop_close(&loop), 0);
}

static void on_closed(void *arg)
{
    *(bool *)arg = true;
}

static void closing_cancels(void **state)
{
    struct server *s = *state;
    uv_loop_t loop;
    struct sq_client *c = NULL;
    struct seen n = {0};
    bool closed = false;
    char path[300];
    uv_loop_init(&loop);
    assert_int_equal(sq_client_new(&loop, s->path, &c, NULL), 0);
    sq_client_call(c, "GET", "/v1/hang", NULL, 5 * SQ_S, on_done, &n);
    for (int i = 0; i < 20; i++)
        uv_run(&loop, UV_RUN_NOWAIT);
    sq_client_call(c, "GET", "/v1/hang", NULL, 5 * SQ_S, on_done, &n);
    sq_client_close(c, on_closed, &closed);
    assert_int_equal(n.done, 2);
    assert_int_equal(n.code, -ECANCELED);
    uv_run(&loop, UV_RUN_DEFAULT);
    assert_true(closed);

    /* What can't be sent is told from the loop, not from the call. */
    memset(path, 'x', sizeof(path) - 1);
    path[sizeof(path) - 1] = '\0';
    n = (struct seen){0};
    assert_int_equal(sq_client_new(&loop, s->path, &c, NULL), 0);
    sq_client_call(c, "GET", path, NULL, SQ_S, on_done, &n);
    sq_client_call(c, "GET", "/v1/ok", NULL, 10 * SQ_S, on_done, &n);
    assert_int_equal(n.done, 0);
    while (n.done < 2)
        uv_run(&loop, UV_RUN_ONCE);
    assert_int_equal(n.failed, 1);
    assert_int_equal(n.code, -ENAMETOOLONG);
    sq_client_close(c, NULL, NULL);
    uv_run(&loop, UV_RUN_DEFAULT);
    assert_int_equal(uv_loop_close(&loop), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(answers),
        cmocka_unit_test(sends_a_body),
        cmocka_unit_test(carries_refusals),
        cmocka_unit_test(says_why_there_is_no_answer),
        cmocka_unit_test(ignores_proxies_of_the_environment),
        cmocka_unit_test(many_side_by_side),
        cmocka_unit_test(closing_cancels),
    };
    return cmocka_run_group_tests(tests, start, stop);
}
