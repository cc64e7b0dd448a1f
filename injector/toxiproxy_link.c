/* The process that carries the connections of Toxiproxy's proxies, and what is said to it (proxy/wire.h). Listening
 * sockets are kept here, too: when the process dies, connects wait for the next one instead of being refused. */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "intercept/intercept.h"
#include "proxy/wire.h"
#include "squall/cleanup.h"
#include "squall/clock.h"
#include "squall/fds.h"
#include "squall/json.h"
#include "squall/proc.h"
#include "squall/units.h"
#include "toxiproxy.h"

#define ANSWER_NS SQ_S
#define MESSAGES_AT_ONCE 64 /* then others have their turn */
#define BACKLOG 4096
#define AGAIN_MS 200 /* after it died */

struct sq_toxi_link {
    uv_loop_t *loop;
    const char *self;
    struct sq_toxi *t;
    int fd, pidfd;   /* -1: no process */
    uv_poll_t *poll; /* NULL: none */
    uv_timer_t again;
    char *buf; /* SQ_WIRE_MAX bytes */
};

/* ---- messages ---- */

static int send_message(struct sq_toxi_link *l, const json_t *msg, int fd, struct sq_err *e)
{
    cleanup_free char *text = msg ? json_dumps(msg, JSON_COMPACT) : NULL;
    int64_t until = sq_mono_ns() + ANSWER_NS;
    int rc;
    if (!text)
        return sq_err(e, -ENOMEM, "out of memory");
    if (strlen(text) > SQ_WIRE_MAX)
        return sq_err(e, -EMSGSIZE, "a message to the proxy is too long");
    while ((rc = sq_fds_send(l->fd, text, strlen(text), &fd, fd >= 0, MSG_DONTWAIT)) < 0) {
        struct pollfd p = {.fd = l->fd, .events = POLLOUT};
        if (rc != -EAGAIN || sq_mono_ns() >= until)
            return sq_err_sys(e, rc, "cannot tell the proxy");
        (void)poll(&p, 1, 10);
    }
    return 0;
}

/* One message: 1, 0: none there, -EPIPE: the other end is gone. *OUT may be NULL afterwards: not JSON. */
static int receive(struct sq_toxi_link *l, json_t **out)
{
    ssize_t n = recv(l->fd, l->buf, SQ_WIRE_MAX, MSG_DONTWAIT | MSG_TRUNC);
    *out = NULL;
    if (n < 0 && (errno == EAGAIN || errno == EINTR))
        return 0;
    if (n <= 0)
        return -EPIPE;
    if ((size_t)n <= SQ_WIRE_MAX)
        (void)sq_json_parse(l->buf, (size_t)n, out, NULL);
    return 1;
}

/* The answer about proxy ID. *ACK is the caller's. */
static int wait_ack(struct sq_toxi_link *l, uint32_t id, json_t **ack, struct sq_err *e)
{
    int64_t until = sq_mono_ns() + ANSWER_NS;
    for (;;) {
        json_t *msg = NULL;
        int rc = receive(l, &msg);
        if (rc == -EPIPE)
            return sq_err(e, rc, "the proxy process died");
        if (strcmp(sq_json_str_or(msg, "op", ""), "ack") == 0 && sq_json_int_or(msg, "edge", -1) == id) {
            *ack = msg;
            return 0;
        }
        json_decref(msg);
        int64_t left = until - sq_mono_ns();
        struct pollfd p = {.fd = l->fd, .events = POLLIN};
        if (left <= 0)
            return sq_err(e, -ETIMEDOUT, "the proxy process did not answer within a second");
        if (rc == 0)
            (void)poll(&p, 1, (int)(left / SQ_MS) + 1);
    }
}

/* Takes MSG. */
static int ask(struct sq_toxi_link *l, json_t *msg, uint32_t id, int fd, json_t **ack, struct sq_err *e)
{
    json_t *own = NULL;
    int rc = send_message(l, msg, fd, e);
    json_decref(msg);
    rc = rc ? rc : wait_ack(l, id, &own, e);
    const char *error = rc ? NULL : sq_json_str_or(own, "error", NULL);
    if (error)
        rc = sq_err(e, -EPROTO, "the proxy refused: %.200s", error);
    if (rc == 0 && ack)
        *ack = json_incref(own);
    json_decref(own);
    return rc;
}

/* ---- the process ---- */

static void on_poll_closed(uv_handle_t *h)
{
    free(h);
}

static void hang_up(struct sq_toxi_link *l)
{
    siginfo_t si;
    if (l->poll)
        uv_close((uv_handle_t *)SQ_TAKE(l->poll), on_poll_closed);
    if (l->fd >= 0)
        (void)close(SQ_TAKE_FD(l->fd));
    if (l->pidfd < 0)
        return;
    struct pollfd p = {.fd = l->pidfd, .events = POLLIN};
    (void)sq_pidfd_signal(l->pidfd, SIGKILL); /* one that does not answer is of no use */
    (void)poll(&p, 1, 200);
    (void)waitid(P_PIDFD, (id_t)l->pidfd, &si, WEXITED | WNOHANG);
    (void)close(SQ_TAKE_FD(l->pidfd));
}

static void on_again(uv_timer_t *t);

static void lost(struct sq_toxi_link *l)
{
    hang_up(l);
    uv_timer_start(&l->again, on_again, AGAIN_MS, 0);
}

static void on_readable(uv_poll_t *h, int status, int events)
{
    struct sq_toxi_link *l = h->data;
    int rc = status < 0 ? -EPIPE : 1;
    (void)events;
    for (int i = 0; i < MESSAGES_AT_ONCE && rc == 1; i++) { /* its statistics are nobody's */
        json_t *msg = NULL;
        rc = receive(l, &msg);
        json_decref(msg);
    }
    if (rc != -EPIPE)
        return;
    (void)fprintf(stderr, "squalld: the process that carries Toxiproxy's connections died; starting another one\n");
    lost(l);
}

static int watch(struct sq_toxi_link *l, struct sq_err *e)
{
    uv_poll_t *h = calloc(1, sizeof(*h));
    int rc = h ? uv_poll_init(l->loop, h, l->fd) : -ENOMEM;
    if (rc < 0) {
        free(h);
        return sq_err_sys(e, rc, "cannot watch the proxy process");
    }
    h->data = l;
    l->poll = h;
    (void)uv_poll_start(h, UV_READABLE, on_readable);
    return 0;
}

static int spawn(struct sq_toxi_link *l, struct sq_err *e)
{
    int sv[2], size = 1 << 20;
    pid_t pid;
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, sv) < 0)
        return sq_err_sys(e, -errno, "cannot make a socket pair");
    for (int i = 0; i < 2; i++)
        (void)setsockopt(sv[i], SOL_SOCKET, SO_SNDBUF, &size, sizeof(size));
    l->fd = sv[0];
    int rc = sq_proxy_spawn(l->self, true, sv[1], &pid, &l->pidfd, e);
    (void)close(sv[1]);
    rc = rc ? rc : watch(l, e);
    if (rc < 0)
        hang_up(l);
    return rc;
}

/* ---- proxies ---- */

static int send_rules(struct sq_toxi_link *l, struct sq_toxi_proxy *p, struct sq_err *e)
{
    return ask(l,
               json_pack("{s:s,s:I,s:I,s:o}", "op", "rules", "edge", (json_int_t)p->id, "epoch",
                         (json_int_t)(++p->epoch & INT32_MAX), "rules", sq_toxi_rules(p, l->t->seed)),
               p->id, -1, NULL, e);
}

static int send_proxy(struct sq_toxi_link *l, struct sq_toxi_proxy *p, struct sq_err *e)
{
    char host[SQ_TOXI_TEXT];
    uint16_t port;
    if (sq_toxi_split(p->upstream, host, &port) != 0 || port == 0)
        return sq_err(e, -EINVAL, "upstream %.200s: not host:port", p->upstream);
    json_t *msg = json_pack("{s:s,s:I,s:s,s:i}", "op", "plain", "id", (json_int_t)p->id, "host",
                            *host ? host : "localhost", "port", (int)port);
    int rc = ask(l, msg, p->id, p->fd, NULL, e);
    return rc < 0 || TAILQ_EMPTY(&p->toxics) ? rc : send_rules(l, p, e);
}

/* There is a process, and it has all that it should have. */
static int ensure(struct sq_toxi_link *l, struct sq_err *e)
{
    struct sq_toxi_proxy *p;
    int rc = 0;
    if (l->fd >= 0)
        return 0;
    rc = spawn(l, e);
    TAILQ_FOREACH(p, &l->t->proxies, link)
    {
        if (rc == 0 && p->enabled)
            rc = send_proxy(l, p, e);
    }
    if (rc < 0)
        lost(l);
    return rc;
}

static void on_again(uv_timer_t *t)
{
    struct sq_toxi_link *l = t->data;
    struct sq_err e = {0};
    if (ensure(l, &e) < 0)
        (void)fprintf(stderr, "squalld: Toxiproxy: %s; trying again\n", e.msg);
}

/* A process that is gone or does not answer is replaced; what it said no to is not. */
static int checked(struct sq_toxi_link *l, int rc)
{
    if (rc == -EPIPE || rc == -ETIMEDOUT)
        lost(l);
    return rc;
}

static int say_address(struct sq_toxi_proxy *p, struct sq_err *e)
{
    struct sockaddr_storage sa = {0};
    socklen_t n = sizeof(sa);
    char host[INET6_ADDRSTRLEN] = "", text[INET6_ADDRSTRLEN + 16];
    const struct sockaddr_in *v4 = (const struct sockaddr_in *)&sa;
    const struct sockaddr_in6 *v6 = (const struct sockaddr_in6 *)&sa;
    bool six = getsockname(p->fd, (struct sockaddr *)&sa, &n) == 0 && sa.ss_family == AF_INET6;
    (void)inet_ntop(sa.ss_family, six ? (const void *)&v6->sin6_addr : (const void *)&v4->sin_addr, host, sizeof(host));
    (void)snprintf(text, sizeof(text), six ? "[%s]:%u" : "%s:%u", host, ntohs(six ? v6->sin6_port : v4->sin_port));
    char *own = strdup(text);
    if (!own)
        return sq_err(e, -ENOMEM, "out of memory");
    free(p->listen);
    p->listen = own;
    return 0;
}

static int listen_at(struct sq_toxi_proxy *p, struct sq_err *e)
{
    struct sockaddr_storage sa;
    socklen_t n;
    int one = 1, none = 0;
    if (sq_toxi_sockaddr(p->listen, &sa, &n) != 0)
        return sq_err(e, -EINVAL, "listen tcp: %.200s: neither address:port nor localhost:port", p->listen);
    cleanup_close int fd = socket(sa.ss_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return sq_err_sys(e, -errno, "listen tcp %.200s", p->listen);
    (void)setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
    if (sa.ss_family == AF_INET6)
        (void)setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &none, sizeof(none));
    if (bind(fd, (const struct sockaddr *)&sa, n) < 0 || listen(fd, BACKLOG) < 0)
        return sq_err_sys(e, -errno, "listen tcp %.200s", p->listen);
    p->fd = SQ_TAKE_FD(fd);
    return 0;
}

static void forget(struct sq_toxi_proxy *p)
{
    if (p->fd >= 0)
        (void)close(SQ_TAKE_FD(p->fd));
}

static void op_stop(void *arg, struct sq_toxi_proxy *p)
{
    struct sq_toxi_link *l = arg;
    forget(p);
    if (l->fd >= 0)
        (void)checked(l,
                      ask(l, json_pack("{s:s,s:I}", "op", "unplain", "id", (json_int_t)p->id), p->id, -1, NULL, NULL));
}

static int op_start(void *arg, struct sq_toxi_proxy *p, struct sq_err *e)
{
    struct sq_toxi_link *l = arg;
    int rc = listen_at(p, e);
    rc = rc ? rc : ensure(l, e);
    rc = rc ? rc : checked(l, send_proxy(l, p, e));
    rc = rc ? rc : say_address(p, e);
    if (rc < 0)
        op_stop(l, p); /* the process may have taken it already */
    return rc;
}

static int op_rules(void *arg, struct sq_toxi_proxy *p, struct sq_err *e)
{
    struct sq_toxi_link *l = arg;
    if (l->fd < 0)
        return ensure(l, e); /* which says the rules, too */
    return checked(l, send_rules(l, p, e));
}

static int op_count(void *arg, struct sq_toxi_proxy *p, uint64_t read[2], uint64_t sent[2])
{
    struct sq_toxi_link *l = arg;
    cleanup_json json_t *ack = NULL;
    int rc =
        l->fd < 0
            ? -EPIPE
            : checked(l, ask(l, json_pack("{s:s,s:I}", "op", "ask", "edge", (json_int_t)p->id), p->id, -1, &ack, NULL));
    for (size_t i = 0; rc == 0 && i < 2; i++) {
        read[i] = (uint64_t)json_integer_value(json_array_get(json_object_get(ack, "read"), i));
        sent[i] = (uint64_t)json_integer_value(json_array_get(json_object_get(ack, "sent"), i));
    }
    return rc;
}

/* ---- beginning and end ---- */

int sq_toxi_link_new(uv_loop_t *loop, const char *self, struct sq_toxi *t, struct sq_toxi_link **out, struct sq_err *e)
{
    static const struct sq_toxi_ops ops = {op_start, op_stop, op_rules, op_count};
    struct sq_toxi_link *l = calloc(1, sizeof(*l));
    if (l)
        l->buf = malloc(SQ_WIRE_MAX);
    if (!l || !l->buf) {
        free(l);
        return sq_err(e, -ENOMEM, "out of memory");
    }
    l->loop = loop;
    l->self = self;
    l->t = t;
    l->fd = l->pidfd = -1;
    uv_timer_init(loop, &l->again);
    l->again.data = l;
    sq_toxi_init(t, &ops, l);
    *out = l;
    return 0;
}

static void on_timer_closed(uv_handle_t *h)
{
    struct sq_toxi_link *l = h->data;
    free(l->buf);
    free(l);
}

void sq_toxi_link_free(struct sq_toxi_link *l)
{
    hang_up(l); /* with all connections */
    sq_toxi_clear(l->t);
    uv_close((uv_handle_t *)&l->again, on_timer_closed);
}
