/* A real HTTP server in a thread, for the probe's tests: one epoll loop, answers by a function of the test's choosing,
 * each after a delay of its own, and a stall of the whole server on command. Everything static: included by one file a
 * binary. */
#ifndef SQUALL_TESTS_PROBE_SERVER_H
#define SQUALL_TESTS_PROBE_SERVER_H

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <sched.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include "squall/clock.h"
#include "squall/units.h"

#define SRV_CONNS 1024

struct srv_reply {
    const char *text; /* NULL: never answer */
    size_t len;       /* 0: strlen(text) */
    int64_t delay;    /* ns */
    size_t piece;     /* send in pieces of that many bytes, a moment apart; 0: at once */
    bool close;       /* close after it */
};

struct srv_conn {
    int fd;
    unsigned served;
    uint64_t number; /* of the request at hand, of all that came: from 0 on */
    size_t in, out;
    int64_t due; /* INT64_MAX: nothing to send */
    struct srv_reply reply;
    char buf[8192];
};

struct srv {
    int fd, epfd, wake;
    pthread_t thread;
    unsigned port;
    char path[108];
    void (*answer)(struct srv *s, struct srv_conn *c, const char *request, struct srv_reply *r);
    void (*sent)(struct srv *s, const struct srv_conn *c); /* NULL, or told when an answer is on its way, whole */
    void *arg;
    uint64_t requests, accepted;  /* read them after srv_stop, or as an estimate */
    int64_t stall_from, stall_to; /* CLOCK_MONOTONIC: does nothing at all meanwhile; atomics */
    bool quit, real_time;         /* real_time: ask for SCHED_FIFO, so that a busy machine does not blur the law */
    struct srv_conn *conn[SRV_CONNS];
};

static const char SRV_OK[] = "HTTP/1.1 200 OK\r\nContent-Length: 13\r\n\r\nhello, world\n";

static inline void srv_drop(struct srv_conn **slot)
{
    (void)close((*slot)->fd);
    free(*slot);
    *slot = NULL;
}

static inline void srv_accept(struct srv *s)
{
    for (;;) {
        int one = 1, fd = accept4(s->fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
        struct epoll_event ev = {.events = EPOLLIN};
        size_t i = 0;

        if (fd < 0)
            return;
        while (i < SRV_CONNS && s->conn[i])
            i++;
        if (i == SRV_CONNS) {
            (void)close(fd);
            continue;
        }
        (void)setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
        s->conn[i] = calloc(1, sizeof **s->conn);
        s->conn[i]->fd = fd;
        s->conn[i]->due = INT64_MAX;
        ev.data.u64 = 2 + i;
        (void)epoll_ctl(s->epfd, EPOLL_CTL_ADD, fd, &ev);
        s->accepted++;
    }
}

/* Bytes of the whole request at the buffer's head; 0: not there yet. */
static inline size_t srv_request_len(const struct srv_conn *c)
{
    const char *end = memmem(c->buf, c->in, "\r\n\r\n", 4), *cl;
    size_t len;

    if (!end)
        return 0;
    len = (size_t)(end - c->buf) + 4;
    cl = memmem(c->buf, len, "content-length: ", 16);
    if (cl)
        len += strtoul(cl + 16, NULL, 10);
    return len <= c->in ? len : 0;
}

static inline void srv_send(struct srv *s, struct srv_conn **slot)
{
    struct srv_conn *c = *slot;
    size_t len = c->reply.len ? c->reply.len : strlen(c->reply.text);
    size_t n = c->reply.piece && c->reply.piece < len - c->out ? c->reply.piece : len - c->out;
    ssize_t sent = n > 0 ? send(c->fd, c->reply.text + c->out, n, MSG_NOSIGNAL) : 0;

    if (sent < 0 && errno != EAGAIN) {
        srv_drop(slot);
        return;
    }
    c->out += sent > 0 ? (size_t)sent : 0;
    if (c->out < len) {
        c->due = sq_mono_ns() + 200 * SQ_US;
        return;
    }
    if (s->sent)
        s->sent(s, c);
    c->due = INT64_MAX;
    c->out = 0;
    if (c->reply.close)
        srv_drop(slot);
}

static inline void srv_read(struct srv *s, struct srv_conn **slot)
{
    struct srv_conn *c = *slot;
    ssize_t n = recv(c->fd, c->buf + c->in, sizeof c->buf - 1 - c->in, 0);
    size_t len;

    if (n <= 0) {
        if (n == 0 || errno != EAGAIN)
            srv_drop(slot);
        return;
    }
    c->in += (size_t)n;
    len = srv_request_len(c);
    if (len == 0)
        return;
    c->buf[c->in] = 0;
    c->served++;
    c->number = s->requests++;
    memset(&c->reply, 0, sizeof c->reply);
    c->reply.text = SRV_OK;
    c->reply.len = sizeof SRV_OK - 1;
    if (s->answer) {
        c->reply.len = 0;
        s->answer(s, c, c->buf, &c->reply);
    }
    memmove(c->buf, c->buf + len, c->in - len);
    c->in -= len;
    if (!c->reply.text)
        return;
    if (c->reply.delay > 0)
        c->due = sq_mono_ns() + c->reply.delay;
    else
        srv_send(s, slot);
}

static inline void srv_stall(struct srv *s)
{
    int64_t now = sq_mono_ns(), from = __atomic_load_n(&s->stall_from, __ATOMIC_ACQUIRE),
            to = __atomic_load_n(&s->stall_to, __ATOMIC_ACQUIRE);
    struct timespec t = {to / SQ_S, to % SQ_S};

    if (to > 0 && now >= from && now < to)
        (void)clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &t, NULL);
}

static inline void *srv_main(void *arg)
{
    struct srv *s = arg;
    struct epoll_event ev[128];
    struct sched_param param = {.sched_priority = 2};

    if (s->real_time)
        (void)pthread_setschedparam(pthread_self(), SCHED_FIFO, &param);

    while (!__atomic_load_n(&s->quit, __ATOMIC_ACQUIRE)) {
        int64_t next = INT64_MAX, now;
        struct timespec wait = {0, 0};
        int n;

        for (size_t i = 0; s->answer && i < SRV_CONNS; i++)
            if (s->conn[i] && s->conn[i]->due < next)
                next = s->conn[i]->due;
        now = sq_mono_ns();
        if (next > now) {
            wait.tv_sec = next == INT64_MAX ? 1 : (next - now) / SQ_S;
            wait.tv_nsec = next == INT64_MAX ? 0 : (next - now) % SQ_S;
        }
        n = epoll_pwait2(s->epfd, ev, 128, &wait, NULL);
        srv_stall(s);
        for (int i = 0; i < n; i++) {
            if (ev[i].data.u64 == 0)
                srv_accept(s);
            else if (ev[i].data.u64 >= 2 && s->conn[ev[i].data.u64 - 2])
                srv_read(s, &s->conn[ev[i].data.u64 - 2]);
        }
        now = sq_mono_ns();
        for (size_t i = 0; s->answer && i < SRV_CONNS; i++)
            if (s->conn[i] && s->conn[i]->due <= now)
                srv_send(s, &s->conn[i]);
    }
    return NULL;
}

static inline void srv_watch(struct srv *s, int fd, uint64_t data)
{
    struct epoll_event ev = {.events = EPOLLIN, .data.u64 = data};

    (void)epoll_ctl(s->epfd, EPOLL_CTL_ADD, fd, &ev);
}

/* path: a Unix socket; NULL: a free TCP port of 127.0.0.1. port: 0, or a certain one. */
static inline int srv_listen(struct srv *s, const char *path, unsigned port)
{
    struct sockaddr_in in = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    struct sockaddr_un un = {.sun_family = AF_UNIX};
    socklen_t len = sizeof in;
    int one = 1, rc;

    in.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    s->fd = socket(path ? AF_UNIX : AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (path) {
        (void)snprintf(un.sun_path, sizeof un.sun_path, "%s", path);
        (void)snprintf(s->path, sizeof s->path, "%s", path);
        (void)unlink(path);
        rc = bind(s->fd, (struct sockaddr *)&un, sizeof un);
    } else {
        (void)setsockopt(s->fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
        rc = bind(s->fd, (struct sockaddr *)&in, sizeof in);
        (void)getsockname(s->fd, (struct sockaddr *)&in, &len);
        s->port = ntohs(in.sin_port);
    }
    return rc == 0 ? listen(s->fd, 1024) : -errno;
}

static inline int srv_start(struct srv *s, const char *path)
{
    int rc = srv_listen(s, path, s->port);

    if (rc != 0)
        return rc;
    s->epfd = epoll_create1(EPOLL_CLOEXEC);
    s->wake = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    srv_watch(s, s->fd, 0);
    srv_watch(s, s->wake, 1);
    s->quit = false;
    return pthread_create(&s->thread, NULL, srv_main, s);
}

static inline void srv_stop(struct srv *s)
{
    uint64_t one = 1;

    __atomic_store_n(&s->quit, true, __ATOMIC_RELEASE);
    (void)!write(s->wake, &one, sizeof one);
    (void)pthread_join(s->thread, NULL);
    for (size_t i = 0; i < SRV_CONNS; i++)
        if (s->conn[i])
            srv_drop(&s->conn[i]);
    (void)close(s->fd);
    (void)close(s->epfd);
    (void)close(s->wake);
    if (s->path[0])
        (void)unlink(s->path);
}

#endif
