/* Both ends of what tests/bench/proxy.py measures proxies between.
 *
 * bench_proxy serve: prints the ports of an echo and of an endless source.
 *
 * bench_proxy echo PORT CONNS SECONDS GAP SIZE: messages of SIZE bytes and back on each of CONNS connections, one at a
 * time, every GAP microseconds (0: at once); prints requests a second, p50, p90, p99 and max in microseconds, counted
 * from when each was sent.
 *
 * bench_proxy fresh PORT SECONDS: a connection for each message of 64 bytes; prints how many.
 *
 * bench_proxy bulk PORT SECONDS: reads; prints bytes a second.
 *
 * bench_proxy hold PORT CONNS: opens CONNS, uses each once, says so, holds them until its input ends. */
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "squall/clock.h"
#include "squall/units.h"

#define MUST(c)                                                                                                        \
    do {                                                                                                               \
        if (!(c)) {                                                                                                    \
            (void)fprintf(stderr, "bench_proxy: %s (line %d): %s\n", #c, __LINE__, strerror(errno));                   \
            exit(1);                                                                                                   \
        }                                                                                                              \
    } while (0)
#define BUF (256 * 1024)
#define SAMPLES (8 * 1024 * 1024)

static char buf[BUF];

struct peer {
    int fd;
    int64_t sent, due; /* ns; sent 0: nothing under way */
    size_t got;
};

static int dial(const char *port)
{
    struct sockaddr_in sa = {.sin_family = AF_INET, .sin_port = htons((uint16_t)atoi(port))};
    int one = 1, fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    sa.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    MUST(fd >= 0 && setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one)) == 0);
    MUST(connect(fd, (struct sockaddr *)&sa, sizeof(sa)) == 0);
    return fd;
}

static int bound(void)
{
    struct sockaddr_in sa = {.sin_family = AF_INET};
    socklen_t n = sizeof(sa);
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    sa.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    MUST(fd >= 0 && bind(fd, (struct sockaddr *)&sa, n) == 0 && listen(fd, 4096) == 0);
    MUST(getsockname(fd, (struct sockaddr *)&sa, &n) == 0);
    (void)printf("%d\n", ntohs(sa.sin_port));
    return fd;
}

static void watch(int ep, int fd, uint32_t events)
{
    struct epoll_event ev = {.events = events, .data.fd = fd};
    MUST(epoll_ctl(ep, EPOLL_CTL_ADD, fd, &ev) == 0);
}

static void greet(int ep, int l, uint32_t events)
{
    int one = 1, fd;
    while ((fd = accept4(l, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC)) >= 0) {
        (void)setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
        watch(ep, fd, events);
    }
}

static int serve(void)
{
    struct epoll_event ev[256];
    int ep = epoll_create1(EPOLL_CLOEXEC), echo = bound(), source = bound();
    (void)fflush(stdout);
    watch(ep, echo, EPOLLIN);
    watch(ep, source, EPOLLIN);
    watch(ep, STDIN_FILENO, EPOLLIN);
    for (;;) {
        int n = epoll_wait(ep, ev, 256, -1);
        for (int i = 0; i < n; i++) {
            int fd = ev[i].data.fd;
            if (fd == STDIN_FILENO)
                return 0;
            if (fd == echo || fd == source) {
                greet(ep, fd, fd == echo ? EPOLLIN : EPOLLOUT);
                continue;
            }
            bool writes = ev[i].events & EPOLLOUT;
            ssize_t m = writes ? send(fd, buf, BUF, MSG_NOSIGNAL) : recv(fd, buf, BUF, 0);
            if (m > 0 && !writes)
                m = send(fd, buf, (size_t)m, MSG_NOSIGNAL); /* messages are small: they fit */
            if (m == 0 || (m < 0 && errno != EAGAIN))
                (void)close(fd);
        }
    }
}

static int by_value(const void *a, const void *b)
{
    float x = *(const float *)a, y = *(const float *)b;
    return (x > y) - (x < y);
}

static float *samples;
static size_t n_samples;

static void answered(struct peer *p, int64_t gap)
{
    int64_t now = sq_mono_ns();
    if (n_samples < SAMPLES)
        samples[n_samples++] = (float)(now - p->sent) / 1e3F;
    p->sent = 0;
    p->got = 0;
    p->due = gap > 0 && p->due + gap > now ? p->due + gap : now;
}

/* Send what is due; returns when the next one is. */
static int64_t send_due(struct peer *all, size_t n, size_t size)
{
    int64_t next = INT64_MAX, now = sq_mono_ns();
    for (size_t i = 0; i < n; i++) {
        struct peer *p = &all[i];
        if (p->sent)
            continue;
        if (p->due <= now) {
            p->sent = sq_mono_ns();
            MUST(send(p->fd, buf, size, MSG_NOSIGNAL) == (ssize_t)size);
        } else if (p->due < next) {
            next = p->due;
        }
    }
    return next;
}

static struct peer *dial_all(const char *port, size_t n)
{
    struct peer *all = calloc(n, sizeof(*all));
    MUST(all);
    for (size_t i = 0; i < n; i++)
        all[i].fd = dial(port);
    return all;
}

static int echo(const char *port, size_t n, double seconds, int64_t gap, size_t size)
{
    struct peer *all = dial_all(port, n);
    struct epoll_event ev[256];
    int ep = epoll_create1(EPOLL_CLOEXEC);
    MUST(size > 0 && size <= 65536 && (samples = malloc(SAMPLES * sizeof(*samples))));
    int64_t begin = sq_mono_ns(), end = begin + (int64_t)(seconds * 1e9);
    for (size_t i = 0; i < n; i++) {
        struct epoll_event e = {.events = EPOLLIN, .data.ptr = &all[i]};
        MUST(epoll_ctl(ep, EPOLL_CTL_ADD, all[i].fd, &e) == 0);
        all[i].due = begin + gap * (int64_t)i / (int64_t)n;
    }
    while (sq_mono_ns() < end) {
        int64_t wait = send_due(all, n, size) - sq_mono_ns();
        wait = wait < 0 ? 0 : wait > 50 * SQ_MS ? 50 * SQ_MS : wait;
        struct timespec ts = {.tv_nsec = wait};
        int m = epoll_pwait2(ep, ev, 256, &ts, NULL);
        for (int i = 0; i < m; i++) {
            struct peer *p = ev[i].data.ptr;
            ssize_t k = recv(p->fd, buf, BUF, MSG_DONTWAIT);
            MUST(k > 0 || (k < 0 && errno == EAGAIN));
            p->got += k > 0 ? (size_t)k : 0;
            if (p->got >= size)
                answered(p, gap);
        }
    }
    double took = (double)(sq_mono_ns() - begin) / 1e9;
    MUST(n_samples > 0);
    qsort(samples, n_samples, sizeof(*samples), by_value);
    (void)printf("%.0f %.1f %.1f %.1f %.1f\n", (double)n_samples / took, (double)samples[n_samples / 2],
                 (double)samples[n_samples * 9 / 10], (double)samples[n_samples * 99 / 100],
                 (double)samples[n_samples - 1]);
    return 0;
}

static int bulk(const char *port, double seconds)
{
    int fd = dial(port);
    int64_t begin = sq_mono_ns();
    double bytes = 0;
    while ((double)(sq_mono_ns() - begin) < seconds * 1e9) {
        ssize_t n = recv(fd, buf, BUF, 0);
        MUST(n > 0);
        bytes += (double)n;
    }
    (void)printf("%.0f\n", bytes / ((double)(sq_mono_ns() - begin) / 1e9));
    return 0;
}

/* The end that closes first keeps the port busy (TIME_WAIT), so this one resets. */
static int fresh(const char *port, double seconds)
{
    const struct linger reset = {.l_onoff = 1};
    int64_t begin = sq_mono_ns();
    unsigned long n = 0;
    for (; (double)(sq_mono_ns() - begin) < seconds * 1e9; n++) {
        int fd = dial(port);
        MUST(send(fd, buf, 64, MSG_NOSIGNAL) == 64);
        MUST(recv(fd, buf, 64, MSG_WAITALL) == 64);
        MUST(setsockopt(fd, SOL_SOCKET, SO_LINGER, &reset, sizeof(reset)) == 0);
        (void)close(fd);
    }
    (void)printf("%lu\n", n);
    return 0;
}

static int hold(const char *port, size_t n)
{
    struct peer *all = dial_all(port, n);
    struct pollfd p = {.fd = STDIN_FILENO, .events = POLLIN};
    for (size_t i = 0; i < n; i++) {
        MUST(send(all[i].fd, "x", 1, MSG_NOSIGNAL) == 1);
        MUST(recv(all[i].fd, buf, 1, 0) == 1);
    }
    (void)puts("held");
    (void)fflush(stdout);
    (void)poll(&p, 1, -1);
    return 0;
}

int main(int argc, char **argv)
{
    struct rlimit files = {65536, 65536};
    (void)setrlimit(RLIMIT_NOFILE, &files);
    const char *what = argc > 1 ? argv[1] : "";
    if (argc == 2 && strcmp(what, "serve") == 0)
        return serve();
    if (argc == 7 && strcmp(what, "echo") == 0)
        return echo(argv[2], (size_t)atol(argv[3]), atof(argv[4]), atol(argv[5]) * SQ_US, (size_t)atol(argv[6]));
    if (argc == 4 && strcmp(what, "fresh") == 0)
        return fresh(argv[2], atof(argv[3]));
    if (argc == 4 && strcmp(what, "bulk") == 0)
        return bulk(argv[2], atof(argv[3]));
    if (argc == 4 && strcmp(what, "hold") == 0)
        return hold(argv[2], (size_t)atol(argv[3]));
    (void)puts("tests/bench/proxy.sh uses it");
    return argc > 1 ? 2 : 0;
}
