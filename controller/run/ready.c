#include "run/ready.h"

#include <errno.h>
#include <netinet/in.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>

#include "squall/cleanup.h"
#include "squall/clock.h"
#include "squall/units.h"

#define AGAIN_MS 50
#define ANSWER_LEN 64 /* enough for a status line */

/* One connection; it outlives the check until its handle is closed. */
struct attempt {
    struct sq_ready *ready; /* NULL: nobody waits for it any more */
    union {
        uv_handle_t handle;
        uv_stream_t stream;
        uv_tcp_t tcp;
        uv_pipe_t pipe;
    } h;
    uv_connect_t connect;
    uv_write_t write;
    char request[512];
    char answer[ANSWER_LEN];
    size_t len;
};

struct sq_ready {
    uv_loop_t *loop;
    uv_timer_t timer;
    struct attempt *attempt;
    enum sq_ready_how how;
    uint16_t port;
    char path[256], name[96];
    int64_t within_ns, deadline;
    unsigned tries;
    sq_ready_done *done;
    void *arg;
    char why[160]; /* of the last attempt */
};

static void on_timer(uv_timer_t *t);

static void attempt_closed(uv_handle_t *h)
{
    free(h->data);
}

static void drop_attempt(struct sq_ready *r)
{
    struct attempt *a = SQ_TAKE(r->attempt);
    if (!a)
        return;
    a->ready = NULL;
    uv_close(&a->h.handle, attempt_closed);
}

static void ready_closed(uv_handle_t *h)
{
    free(h->data);
}

void sq_ready_cancel(struct sq_ready *r)
{
    if (!r)
        return;
    drop_attempt(r);
    uv_close((uv_handle_t *)&r->timer, ready_closed);
}

static void conclude(struct sq_ready *r, const struct sq_err *e)
{
    sq_ready_done *done = r->done;
    void *arg = r->arg;
    sq_ready_cancel(r);
    done(arg, e);
}

/* WHY NULL: what is known already says more. */
static void again(struct sq_ready *r, const char *why)
{
    if (why)
        snprintf(r->why, sizeof(r->why), "%s", why);
    drop_attempt(r);
    uv_timer_start(&r->timer, on_timer, AGAIN_MS, 0);
}

static void on_alloc(uv_handle_t *h, size_t want, uv_buf_t *buf)
{
    struct attempt *a = h->data;
    (void)want;
    buf->base = a->answer + a->len;
    buf->len = sizeof(a->answer) - 1 - a->len;
}

/* "HTTP/1.1 200 ..." */
static int status_of(const char *s)
{
    if (strncmp(s, "HTTP/1.", 7) != 0 || strlen(s) < 12 || s[8] != ' ')
        return -1;
    return (int)strtol(s + 9, NULL, 10);
}

static void on_read(uv_stream_t *st, ssize_t n, const uv_buf_t *buf)
{
    struct attempt *a = st->data;
    (void)buf;
    if (!a->ready || n == 0)
        return;
    if (n > 0) {
        a->len += (size_t)n;
        a->answer[a->len] = '\0';
        if (a->len < 12)
            return;
    }
    int status = status_of(a->answer);
    if (status >= 200 && status < 400) {
        conclude(a->ready, NULL);
        return;
    }
    char why[160];
    if (status > 0)
        snprintf(why, sizeof(why), "GET %.100s answers %d", a->ready->path, status);
    else
        snprintf(why, sizeof(why), "%s", n < 0 ? "the connection ended without an answer" : "the answer is not HTTP/1");
    again(a->ready, why);
}

static void on_written(uv_write_t *w, int status)
{
    struct attempt *a = w->data;
    if (status && a->ready)
        again(a->ready, uv_strerror(status));
}

static void on_connect(uv_connect_t *c, int status)
{
    struct attempt *a = c->data;
    struct sq_ready *r = a->ready;
    if (!r)
        return;
    if (status) { /* that nobody is on ::1 is no news when somebody was on 127.0.0.1 */
        bool six = r->how != SQ_READY_UNIX && r->tries % 2 == 0;
        again(r, six && r->why[0] ? NULL : uv_strerror(status));
        return;
    }
    if (r->how != SQ_READY_HTTP) {
        conclude(r, NULL);
        return;
    }
    int len = snprintf(a->request, sizeof(a->request),
                       "GET %s HTTP/1.1\r\nHost: 127.0.0.1:%u\r\nUser-Agent: squall\r\nConnection: close\r\n\r\n",
                       r->path, r->port);
    uv_buf_t buf = uv_buf_init(a->request, (unsigned)len);
    a->write.data = a;
    int rc = uv_read_start(&a->h.stream, on_alloc, on_read);
    if (!rc)
        rc = uv_write(&a->write, &a->h.stream, &buf, 1, on_written);
    if (rc)
        again(r, uv_strerror(rc));
}

static int attempt_connect(struct sq_ready *r, struct attempt *a)
{
    a->h.handle.data = a; /* uv_*_init leaves it alone */
    a->connect.data = a;
    if (r->how == SQ_READY_UNIX) {
        int rc = uv_pipe_init(r->loop, &a->h.pipe, 0);
        if (!rc)
            uv_pipe_connect(&a->connect, &a->h.pipe, r->path, on_connect);
        return rc;
    }
    struct sockaddr_storage sa = {0};
    bool six = r->tries % 2 == 0; /* every other time: some listen on ::1 alone */
    if (six)
        uv_ip6_addr("::1", r->port, (struct sockaddr_in6 *)&sa);
    else
        uv_ip4_addr("127.0.0.1", r->port, (struct sockaddr_in *)&sa);
    int rc = uv_tcp_init(r->loop, &a->h.tcp);
    if (rc)
        return rc;
    rc = uv_tcp_connect(&a->connect, &a->h.tcp, (const struct sockaddr *)&sa, on_connect);
    if (rc) /* such as no IPv6 here: as good as refused */
        uv_close(&a->h.handle, attempt_closed);
    return rc;
}

static void on_timer(uv_timer_t *t)
{
    struct sq_ready *r = t->data;
    if (sq_mono_ns() >= r->deadline) {
        char took[32];
        struct sq_err e = {0};
        sq_err(&e, -ETIMEDOUT, "%s was not ready within %s: %s", r->name,
               sq_fmt_duration(r->within_ns, took, sizeof(took)), r->why[0] ? r->why : "no answer");
        conclude(r, &e);
        return;
    }
    if (r->attempt) { /* it hangs: the deadline has not come yet */
        again(r, "connected, but no answer within 1 s");
        return;
    }
    struct attempt *a = calloc(1, sizeof(*a));
    if (!a) {
        again(r, "no memory");
        return;
    }
    r->tries++;
    a->ready = r;
    int rc = attempt_connect(r, a);
    if (rc) {
        if (!uv_is_closing(&a->h.handle))
            free(a);
        if (r->tries % 2 == 1 || !r->why[0])
            snprintf(r->why, sizeof(r->why), "%s", uv_strerror(rc));
        uv_timer_start(&r->timer, on_timer, AGAIN_MS, 0);
        return;
    }
    r->attempt = a;
    int64_t left_ms = (r->deadline - sq_mono_ns()) / SQ_MS + 1;
    uv_timer_start(&r->timer, on_timer, (uint64_t)(left_ms < 1 ? 1 : left_ms < 1000 ? left_ms : 1000), 0);
}

int sq_ready_start(uv_loop_t *loop, const struct sq_ready_opts *o, sq_ready_done *done, void *arg,
                   struct sq_ready **out, struct sq_err *e)
{
    struct sq_ready *r = calloc(1, sizeof(*r));
    if (!r)
        return sq_err(e, -ENOMEM, "no memory");
    r->loop = loop;
    r->how = o->how;
    r->port = o->port;
    r->within_ns = o->within_ns;
    r->deadline = sq_mono_ns() + o->within_ns;
    r->done = done;
    r->arg = arg;
    snprintf(r->name, sizeof(r->name), "%s", o->name);
    if ((size_t)snprintf(r->path, sizeof(r->path), "%s", o->path ? o->path : "/") >= sizeof(r->path)) {
        free(r);
        return sq_err_cls(e, SQ_C_INPUT, -ENAMETOOLONG, "the ready check of %s has a path longer than %zu bytes",
                          o->name, sizeof(r->path) - 1);
    }
    if (o->how == SQ_READY_UNIX && strlen(r->path) >= sizeof(((struct sockaddr_un *)NULL)->sun_path)) {
        free(r);
        return sq_err_cls(e, SQ_C_INPUT, -ENAMETOOLONG, "the ready check of %s: %s is too long for a Unix socket",
                          o->name, o->path);
    }
    uv_timer_init(loop, &r->timer);
    r->timer.data = r;
    uv_timer_start(&r->timer, on_timer, 0, 0);
    *out = r;
    return 0;
}

/* Somebody else's server on the port would look like our service, ready at once. */
bool sq_port_taken(uint16_t port)
{
    const int one = 1;
    struct sockaddr_in sa = {.sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    cleanup_close int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0 || setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one)))
        return false;
    return bind(fd, (const struct sockaddr *)&sa, sizeof(sa)) && errno == EADDRINUSE;
}
