/* The one case that cannot be left to the kernel: a blocking connect that waits, on a socket with SO_SNDTIMEO. Begun
 * without waiting and then let go, it would end with EALREADY instead of the EINPROGRESS that a program with such a
 * timeout looks for. So it is done here, blocking, in a thread of its own, which the socket's own timeout ends. */
#include <errno.h>
#include <fcntl.h>
#include <linux/seccomp.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "intercept/supervise.h"
#include "page.h"
#include "squall/cleanup.h"

#define STACK (64 * 1024)

struct wait {
    struct sq_waits *waits;
    int listener, fd;
    uint64_t id;
    volatile uint64_t *held; /* NULL: nowhere */
    struct sockaddr_storage to;
    socklen_t len;
};

void sq_wait_leave(struct sq_waits *waits)
{
    if (waits && atomic_fetch_sub(&waits->n, 1) == 1)
        free(waits);
}

static void *wait_main(void *arg)
{
    struct wait *w = arg;
    struct seccomp_notif_resp resp = {.id = w->id};
    struct sq_waits *waits = w->waits;

    resp.error = connect(w->fd, (struct sockaddr *)&w->to, w->len) < 0 ? -errno : 0;
    (void)ioctl(w->listener, SECCOMP_IOCTL_NOTIF_SEND, &resp);
    if (w->held)
        __atomic_store_n(w->held, 0, __ATOMIC_RELEASE);
    (void)close(w->fd);
    (void)close(w->listener);
    free(w);
    sq_wait_leave(waits);
    return NULL;
}

static int start(struct wait *w)
{
    pthread_attr_t attr;
    pthread_t thread;
    int rc = -pthread_attr_init(&attr);

    if (rc < 0)
        return rc;
    (void)pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED);
    (void)pthread_attr_setstacksize(&attr, STACK);
    rc = -pthread_create(&thread, &attr, wait_main, w);
    (void)pthread_attr_destroy(&attr);
    return rc;
}

/* Noted for those who answer when we are killed. */
static volatile uint64_t *hold(volatile uint64_t *held, uint64_t id)
{
    for (int i = 0; held && i < SQ_MAX_HELD; i++)
        if (!held[i]) { /* only this thread takes a free one */
            __atomic_store_n(&held[i], id, __ATOMIC_RELEASE);
            return &held[i];
        }
    return NULL;
}

int sq_wait_connect(struct sq_supervisor *s, uint64_t id, int fd, const struct sockaddr *sa, socklen_t len)
{
    struct wait *w = calloc(1, sizeof(*w));
    int rc = -ENOMEM;

    if (!w || atomic_load(&s->ic->waits->n) > SQ_MAX_HELD) {
        free(w);
        return -EAGAIN;
    }
    w->waits = s->ic->waits;
    w->id = id;
    w->len = len;
    memcpy(&w->to, sa, len);
    w->fd = fcntl(fd, F_DUPFD_CLOEXEC, 3);
    w->listener = fcntl(s->fd, F_DUPFD_CLOEXEC, 3);
    atomic_fetch_add(&w->waits->n, 1);
    w->held = hold(s->ic->o.held, id);
    if (w->fd >= 0 && w->listener >= 0)
        rc = start(w);
    if (rc < 0) {
        if (w->held)
            *w->held = 0;
        sq_wait_leave(w->waits);
        if (w->fd >= 0)
            (void)close(w->fd);
        if (w->listener >= 0)
            (void)close(w->listener);
        free(w);
    }
    return rc;
}
