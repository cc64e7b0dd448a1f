/* Seccomp listeners of callers: once squalld is dead somebody must answer, or their calls fail with ENOSYS for ever.
 * Everything is answered with CONTINUE: the call goes where it wanted to go. (seccomp_unotify(2)) */
#include <errno.h>
#include <linux/seccomp.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <time.h>
#include <unistd.h>

#include "proxy/px.h"
#include "squall/door.h"
#include "squall/guard.h"

#define RECEIVE_MAX (20 * 1000000L) /* ns */

struct notify {
    TAILQ_ENTRY(notify) link;
    struct px *px;
    uint64_t key;
    int fd;
    const volatile uint64_t *seen;
    int door; /* squall/door.h; -1: none */
    int open; /* uv handles */
    uv_poll_t poll, at_door;
};

static void on_closed(uv_handle_t *h)
{
    struct notify *l = h->data;
    if (--l->open == 0)
        free(l);
}

static void drop(struct notify *l)
{
    TAILQ_REMOVE(&l->px->listeners, l, link);
    (void)close(l->fd);
    if (l->door >= 0)
        (void)close(l->door);
    if (l->open == 0) {
        free(l);
        return;
    }
    if (l->open > 1)
        uv_close((uv_handle_t *)&l->at_door, on_closed);
    uv_close((uv_handle_t *)&l->poll, on_closed);
}

/* The keeper answers too. When it was faster, receiving would block until the next notification, so a signal ends it.
 */
static int receive(struct px *px, int fd, struct seccomp_notif *n)
{
    struct itimerspec on = {.it_value.tv_nsec = RECEIVE_MAX, .it_interval.tv_nsec = RECEIVE_MAX}, off = {0};
    if (!px->alarm_set || timer_settime(px->alarm, 0, &on, NULL) != 0)
        return -ENOTSUP;
    memset(n, 0, sizeof(*n));
    int rc = ioctl(fd, SECCOMP_IOCTL_NOTIF_RECV, n) == 0 ? 0 : -errno;
    (void)timer_settime(px->alarm, 0, &off, NULL);
    return rc;
}

static void on_notification(uv_poll_t *h, int status, int events)
{
    struct notify *l = h->data;
    struct px *px = l->px;
    (void)events;
    for (int i = 0; i < 64; i++) {
        struct pollfd p = {.fd = l->fd, .events = POLLIN};
        int rc = poll(&p, 1, 0);
        if (rc < 0 || (p.revents & (POLLHUP | POLLERR | POLLNVAL)) || (rc == 0 && status < 0)) {
            drop(l); /* the last process of this filter is gone */
            px_maybe_leave(px);
            return;
        }
        struct seccomp_notif n;
        if (rc == 0 || receive(px, l->fd, &n) != 0)
            return;
        struct seccomp_notif_resp r = {.id = n.id, .flags = SECCOMP_USER_NOTIF_FLAG_CONTINUE};
        (void)ioctl(l->fd, SECCOMP_IOCTL_NOTIF_SEND, &r);
    }
}

/* Another injector takes it over. */
static void on_door(uv_poll_t *h, int status, int events)
{
    struct notify *l = h->data;
    struct px *px = l->px;
    (void)status;
    (void)events;
    if (!sq_door_give(l->door, l->fd))
        return;
    drop(l);
    px_maybe_leave(px);
}

int px_notify_add(struct px *px, uint64_t key, const int fd[2], const volatile uint64_t *seen)
{
    struct notify *l = calloc(1, sizeof(*l));
    if (!l)
        return -ENOMEM;
    px_notify_drop(px, key);
    *l = (struct notify){.px = px, .key = key, .fd = fd[0], .door = fd[1], .seen = seen};
    TAILQ_INSERT_TAIL(&px->listeners, l, link);
    if (px->answering)
        px_notify_start(px);
    return 0;
}

void px_notify_drop(struct px *px, uint64_t key)
{
    struct notify *next;
    for (struct notify *l = TAILQ_FIRST(&px->listeners); l; l = next) {
        next = TAILQ_NEXT(l, link);
        if (l->key == key)
            drop(l);
    }
}

static void on_alarm(int sig)
{
    (void)sig; /* only there to interrupt */
}

void px_notify_start(struct px *px)
{
    struct notify *l, *next;
    px->answering = true;
    if (!px->alarm_set) {
        struct sigaction sa = {.sa_handler = on_alarm};
        struct sigevent ev = {.sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGUSR2};
        px->alarm_set = sigaction(SIGUSR2, &sa, NULL) == 0 && timer_create(CLOCK_MONOTONIC, &ev, &px->alarm) == 0;
    }
    for (l = TAILQ_FIRST(&px->listeners); l; l = next) {
        next = TAILQ_NEXT(l, link);
        if (l->open)
            continue;
        if (uv_poll_init(&px->loop, &l->poll, l->fd) != 0) {
            drop(l);
            continue;
        }
        l->open = 1;
        l->poll.data = l->at_door.data = l;
        sq_notif_release(l->fd, l->seen ? *l->seen : 0, px->held, px->held ? SQ_MAX_HELD : 0);
        (void)uv_poll_start(&l->poll, UV_READABLE, on_notification);
        if (l->door >= 0 && uv_poll_init(&px->loop, &l->at_door, l->door) == 0) {
            l->open = 2;
            (void)uv_poll_start(&l->at_door, UV_READABLE, on_door);
        }
    }
}

bool px_notify_any(const struct px *px)
{
    return !TAILQ_EMPTY(&px->listeners);
}

void px_notify_close(struct px *px)
{
    while (!TAILQ_EMPTY(&px->listeners))
        drop(TAILQ_FIRST(&px->listeners));
    if (px->alarm_set)
        (void)timer_delete(px->alarm);
    px->alarm_set = false;
}
