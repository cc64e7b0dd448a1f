/* Seccomp listeners in the keeper. While squalld lives they are only held: a listener whose last descriptor closes
 * makes every trapped call fail with ENOSYS for ever, and one that is held but not served makes it hang, so from
 * squalld's death on each notification is answered with "continue", which makes the call what it is without us
 * (seccomp_unotify(2)). */
#include <errno.h>
#include <linux/seccomp.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "keeper.h"
#include "squall/cleanup.h"
#include "squall/door.h"
#include "squall/fds.h"
#include "squall/guard.h"

#define AT_ONCE 64 /* notifications answered per wake-up of one listener */

struct listener {
    uint64_t key;
    uint32_t slot;
    int fd;
    int door; /* -1: none */
    bool scanned;
};

struct sq_listeners {
    const struct sq_beat_page *beats;
    unsigned n;
    struct listener of[SQ_MAX_LISTENERS];
};

struct sq_listeners *sq_listeners_new(const struct sq_beat_page *beats)
{
    struct sq_listeners *l = calloc(1, sizeof(*l));
    if (l)
        l->beats = beats;
    return l;
}

static void drop(struct sq_listeners *l, unsigned i)
{
    (void)close(l->of[i].fd);
    if (l->of[i].door >= 0)
        (void)close(l->of[i].door);
    l->of[i] = l->of[--l->n];
}

void sq_listeners_free(struct sq_listeners *l)
{
    if (!l)
        return;
    while (l->n)
        drop(l, 0);
    free(l);
}

unsigned sq_listeners_count(const struct sq_listeners *l)
{
    return l->n;
}

static void drop_fds(const int fd[2])
{
    for (int i = 0; i < 2; i++)
        if (fd[i] >= 0)
            (void)close(fd[i]);
}

/* FD: the listener and its door. */
static void take(struct sq_listeners *l, const struct sq_keeper_msg *m, int fd[2])
{
    for (unsigned i = 0; i < l->n; i++)
        if (l->of[i].key == m->key) {
            drop(l, i);
            break;
        }
    if (fd[0] < 0)
        return;
    if (!m->add || m->slot >= SQ_MAX_LISTENERS || l->n == SQ_MAX_LISTENERS) {
        drop_fds(fd);
        return;
    }
    l->of[l->n++] = (struct listener){.key = m->key, .slot = m->slot, .fd = fd[0], .door = fd[1]};
}

int sq_listeners_receive(struct sq_listeners *l, int sock)
{
    for (;;) {
        struct sq_keeper_msg m;
        int fd[2] = {-1, -1};
        size_t fds = 2;
        ssize_t n = sq_fds_recv(sock, &m, sizeof(m), fd, &fds, MSG_DONTWAIT);
        if (n == -EMSGSIZE)
            continue;
        if (n <= 0)
            return n == -EAGAIN ? 0 : -EPIPE;
        if (n == (ssize_t)sizeof(m))
            take(l, &m, fd);
        else
            drop_fds(fd);
    }
}

unsigned sq_listeners_poll(struct sq_listeners *l, struct pollfd *pfd, unsigned n, bool answering)
{
    unsigned k = 0;
    for (; k < l->n && 2 * k + 1 < n; k++) {
        pfd[2 * k] = (struct pollfd){.fd = l->of[k].fd, .events = answering ? POLLIN : 0};
        pfd[2 * k + 1] = (struct pollfd){.fd = answering ? l->of[k].door : -1, .events = POLLIN};
    }
    return 2 * k;
}

static int resume(int fd, uint64_t id)
{
    struct seccomp_notif_resp resp = {.id = id, .flags = SECCOMP_USER_NOTIF_FLAG_CONTINUE};
    return ioctl(fd, SECCOMP_IOCTL_NOTIF_SEND, &resp) < 0 ? -errno : 0;
}

static void answer(struct listener *li)
{
    for (int i = 0; i < AT_ONCE; i++) {
        struct pollfd p = {.fd = li->fd, .events = POLLIN};
        if (poll(&p, 1, 0) <= 0 || !(p.revents & POLLIN))
            return;
        struct seccomp_notif n;
        if (sq_notif_recv(li->fd, &n) < 0)
            return; /* the caller died meanwhile, or the proxy, which answers too, was faster */
        (void)resume(li->fd, n.id);
        if (!li->scanned) {
            li->scanned = true; /* one that squalld never noted an id for: this one is as near */
            sq_notif_release(li->fd, n.id, NULL, 0);
        }
    }
}

void sq_listeners_serve(struct sq_listeners *l, const struct pollfd *pfd, unsigned n, bool answering)
{
    for (unsigned k = n / 2; k-- > 0;) { /* backwards: drop() moves the last one down */
        const struct pollfd *own = &pfd[2 * k], *door = own + 1;
        if (k >= l->n || l->of[k].fd != own->fd)
            continue;
        if (answering && (own->revents & POLLIN))
            answer(&l->of[k]);
        if (own->revents & (POLLHUP | POLLERR | POLLNVAL))
            drop(l, k);
        else if (answering && door->fd >= 0 && (door->revents & POLLIN) && sq_door_give(door->fd, own->fd))
            drop(l, k); /* another injector has it now */
    }
}

void sq_listeners_take_over(struct sq_listeners *l)
{
    for (unsigned i = 0; i < l->n; i++) {
        uint64_t last = SQ_GET(l->beats->seen[l->of[i].slot]);
        l->of[i].scanned = last != 0;
        sq_notif_release(l->of[i].fd, last, l->beats->held, SQ_MAX_HELD);
    }
}
