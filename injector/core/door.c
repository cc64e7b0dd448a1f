#include "squall/door.h"

#include <errno.h>
#include <poll.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include "squall/cleanup.h"
#include "squall/clock.h"
#include "squall/fds.h"
#include "squall/guard.h"
#include "squall/units.h"

#define KNOCK_NS (500 * SQ_MS)
#define THANKS_MS                                                                                                      \
    200 /* what was sent is given only when somebody has taken it: it would be lost with the connection                \
         */

static socklen_t name_of(pid_t pid, uint64_t start, struct sockaddr_un *a)
{
    memset(a, 0, sizeof(*a));
    a->sun_family = AF_UNIX;
    int n = snprintf(a->sun_path + 1, sizeof(a->sun_path) - 1, "squall-listener/%d.%llu", (int)pid,
                     (unsigned long long)start);
    return (socklen_t)(offsetof(struct sockaddr_un, sun_path) + 1 + (size_t)n);
}

int sq_door_open(pid_t pid, uint64_t start)
{
    struct sockaddr_un a;
    socklen_t len = name_of(pid, start, &a);
    cleanup_close int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0 || bind(fd, (struct sockaddr *)&a, len) < 0 || listen(fd, 8) < 0)
        return -errno;
    return SQ_TAKE_FD(fd);
}

bool sq_door_exists(pid_t pid, uint64_t start)
{
    cleanup_close int fd = sq_door_open(pid, start);
    return fd == -EADDRINUSE;
}

/* A listening socket has the credentials of who made it listen, a connected one those of its peer (unix(7)). */
static uid_t uid_of(int fd)
{
    struct ucred who;
    socklen_t len = sizeof(who);
    return getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &who, &len) < 0 ? (uid_t)-1 : who.uid;
}

static bool entitled(uid_t who, uid_t owner)
{
    return who != (uid_t)-1 && (who == 0 || who == owner);
}

bool sq_door_give(int door, int listener)
{
    cleanup_close int conn = accept4(door, NULL, NULL, SOCK_CLOEXEC);
    char byte = 'L';
    if (conn < 0 || listener < 0 || !entitled(uid_of(conn), uid_of(door)))
        return false;
    struct pollfd p = {.fd = conn, .events = POLLIN};
    return sq_fds_send(conn, &byte, 1, &listener, 1, MSG_DONTWAIT) == 0 && poll(&p, 1, THANKS_MS) == 1 &&
           recv(conn, &byte, 1, MSG_DONTWAIT) == 1;
}

static int receive(int fd, int64_t until, int *listener)
{
    char byte;
    size_t n = 1;
    struct pollfd p = {.fd = fd, .events = POLLIN};
    int64_t left = until - sq_mono_ns();
    if (poll(&p, 1, left > 0 ? (int)(left / SQ_MS) : 0) <= 0)
        return -EBUSY;
    if (sq_fds_recv(fd, &byte, 1, listener, &n, MSG_DONTWAIT) != 1)
        return -EAGAIN; /* it closed its door, or sent us away */
    if (n != 1)
        return -EPROTO;
    if (sq_notif_is_listener(*listener)) {
        (void)send(fd, &byte, 1, MSG_NOSIGNAL);
        return 0;
    }
    (void)close(*listener);
    return -EPROTO;
}

static int knock_once(pid_t pid, uint64_t start, int64_t until, int *listener)
{
    struct sockaddr_un a;
    socklen_t len = name_of(pid, start, &a);
    cleanup_close int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0)
        return -errno;
    if (connect(fd, (struct sockaddr *)&a, len) < 0)
        return errno == ECONNREFUSED ? -ENOENT : errno == EAGAIN ? -EBUSY : -errno;
    if (!entitled(uid_of(fd), geteuid()))
        return -EACCES; /* somebody else's socket of that name */
    return receive(fd, until, listener);
}

int sq_door_knock(pid_t pid, uint64_t start, int *listener)
{
    const struct timespec nap = {0, 10 * 1000000};
    int64_t until = sq_mono_ns() + KNOCK_NS;
    for (;;) {
        int rc = knock_once(pid, start, until, listener);
        if (rc != -EAGAIN)
            return rc;
        if (sq_mono_ns() > until)
            return -EBUSY;
        (void)nanosleep(&nap, NULL);
    }
}
