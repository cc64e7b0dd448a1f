/* A tool of 48-seccomp-deaths.py: a program that never stops calling 127.0.0.1:PORT (deaths PORT [nowait]), in the ways
 * that a death may catch it: not blocking with a timeout of its own, blocking (not with "nowait": where a connect may
 * take for ever), and blocking with SO_SNDTIMEO. Every 50 ms a line of JSON: how often each errno came of it since the
 * last one (0: a whole answer), and how long the oldest call that is not over has lasted. */
#include <errno.h>
#include <netinet/in.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

#include "squall/clock.h"

enum way { POLLED, BLOCKING, TIMED };
#define ERRNOS 256
#define MINE ETIME /* its own timeout ended it */
#define WRONG 200  /* a blocking connect said EINPROGRESS or EALREADY, though it has no timeout */

static struct sockaddr_in to;
static _Atomic unsigned count[ERRNOS];
static struct worker {
    pthread_t thread;
    enum way way;
    _Atomic int64_t since;
} workers[6];

static int begin(int fd, enum way way)
{
    if (connect(fd, (struct sockaddr *)&to, sizeof to) == 0)
        return 0;
    if (way == TIMED && (errno == EINPROGRESS || errno == EALREADY))
        return MINE;
    if (way == BLOCKING && (errno == EINPROGRESS || errno == EALREADY))
        return WRONG;
    if (way != POLLED || errno != EINPROGRESS)
        return errno;
    struct pollfd p = {.fd = fd, .events = POLLOUT};
    int err = 0;
    socklen_t len = sizeof err;
    if (poll(&p, 1, 300) <= 0)
        return MINE;
    return getsockopt(fd, SOL_SOCKET, SO_ERROR, &err, &len) < 0 ? errno : err;
}

static int exchange(int fd)
{
    static const char ask[] = "GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
    char buf[1024];
    size_t n = 0;
    int64_t began = sq_mono_ns();
    if (send(fd, ask, sizeof ask - 1, MSG_NOSIGNAL) < 0)
        return errno == EAGAIN ? MINE : errno;
    for (;;) {
        struct pollfd p = {.fd = fd, .events = POLLIN};
        if (poll(&p, 1, 100) > 0) {
            ssize_t k = recv(fd, buf + n, sizeof buf - n, MSG_DONTWAIT);
            if (k <= 0)
                return k < 0 ? errno : n >= 4 && memcmp(buf + n - 4, "real", 4) == 0 ? 0 : ECONNRESET;
            n += (size_t)k;
        }
        if (sq_mono_ns() - began > 3000000000)
            return MINE;
    }
}

static void *work(void *arg)
{
    struct worker *w = arg;
    const struct timeval timeout = {0, 300000};
    for (;;) {
        int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | (w->way == POLLED ? SOCK_NONBLOCK : 0), 0);
        if (w->way == TIMED)
            (void)setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &timeout, sizeof timeout);
        w->since = sq_mono_ns();
        int rc = begin(fd, w->way);
        rc = rc ? rc : exchange(fd);
        w->since = 0;
        (void)close(fd);
        count[rc & (ERRNOS - 1)]++;
        (void)usleep(rc ? 2000 : 1000);
    }
    return NULL;
}

int main(int argc, char **argv)
{
    bool nowait = argc > 2;
    to = (struct sockaddr_in){.sin_family = AF_INET,
                              .sin_addr.s_addr = htonl(INADDR_LOOPBACK),
                              .sin_port = htons((uint16_t)(argc > 1 ? atoi(argv[1]) : 0))};
    for (int i = 0; i < 6; i++) {
        workers[i].way = i % 3 == BLOCKING && nowait ? POLLED : (enum way)(i % 3);
        if (pthread_create(&workers[i].thread, NULL, work, &workers[i]) != 0)
            abort();
    }
    for (;;) {
        int64_t now = sq_mono_ns(), oldest = 0;
        for (int i = 0; i < 6; i++) {
            int64_t since = workers[i].since;
            if (since && now - since > oldest)
                oldest = now - since;
        }
        printf("{\"oldest_ms\": %lld, \"got\": {", (long long)oldest / 1000000);
        for (int i = 0, n = 0; i < ERRNOS; i++) {
            unsigned k = atomic_exchange(&count[i], 0);
            if (k)
                printf("%s\"%d\": %u", n++ ? ", " : "", i, k);
        }
        printf("}}\n");
        (void)fflush(stdout);
        (void)usleep(50000);
    }
}
