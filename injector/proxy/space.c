#include "proxy/space.h"

#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#include "proxy/px.h"
#include "squall/clock.h"
#include "squall/fds.h"

#define LOW (PX_MAKE_MOST / 2)
#define PATIENCE                                                                                                       \
    (200 * INT64_C(1000000)) /* for a maker: it answers in microseconds; the loop stands still meanwhile               \
                              */

void px_space_home(struct px *px)
{
    px->home = (struct px_space){.px = px, .diag = px_diag_open(), .maker = -1};
    TAILQ_INSERT_HEAD(&px->spaces, &px->home, link);
}

struct px_space *px_space_find(struct px *px, uint32_t id)
{
    struct px_space *s;
    TAILQ_FOREACH(s, &px->spaces, link)
    {
        if (s->id == id && !s->left)
            return s;
    }
    return NULL;
}

int px_space_add(struct px *px, uint32_t id, int *fds, size_t nfds)
{
    struct px_space *s = px_space_find(px, id) ? NULL : calloc(1, sizeof(*s));
    if (!s)
        return -EEXIST;
    s->px = px;
    s->id = id;
    s->maker = fds[0];
    s->diag = fds[1];
    fds[0] = fds[1] = -1;
    TAILQ_INSERT_TAIL(&px->spaces, s, link);
    px_hold_open(s, fds + 2, nfds - 2);
    return 0;
}

static void shut(struct px_space *s)
{
    px_hold_close(s);
    for (int k = 0; k < PX_MAKE_KINDS; k++)
        while (s->pool[k].n > 0)
            (void)close(s->pool[k].fd[--s->pool[k].n]);
    if (s->maker >= 0)
        (void)close(s->maker);
    if (s->diag >= 0)
        (void)close(s->diag);
    TAILQ_REMOVE(&s->px->spaces, s, link);
    if (s->id != 0)
        free(s);
}

static void look(struct px_space *s)
{
    if (s->id != 0 && s->left && s->users == 0)
        shut(s);
}

void px_space_unused(struct px_space *s)
{
    s->users--;
    look(s);
}

void px_space_leave(struct px_space *s)
{
    s->left = true;
    look(s);
}

void px_spaces_leave(struct px *px)
{
    struct px_space *next;
    for (struct px_space *s = TAILQ_FIRST(&px->spaces); s; s = next) {
        next = TAILQ_NEXT(s, link);
        if (s->id != 0)
            px_space_leave(s);
    }
}

void px_spaces_close(struct px *px)
{
    while (!TAILQ_EMPTY(&px->spaces))
        shut(TAILQ_FIRST(&px->spaces));
}

/* It makes none any more: squalld sends new calls past us. */
static void lost(struct px_space *s)
{
    (void)close(s->maker);
    s->maker = -1;
    px_send_json(s->px, json_pack("{s:s,s:I}", "op", "lost", "space", (json_int_t)s->id));
}

/* One answer. 0: there is none yet. The errno that it may have is of no use here: there are less, or none. */
static int receive(struct px_space *s)
{
    struct px_make m = {0};
    int fds[PX_MAKE_MOST];
    size_t n = PX_MAKE_MOST;
    ssize_t len = sq_fds_recv(s->maker, &m, sizeof(m), fds, &n, MSG_DONTWAIT);
    if (len == -EAGAIN)
        return 0;
    if (len ==
        -EMSGSIZE) { /* we had no room for all of its descriptors: whoever waits gets none, and others ask again */
        for (int k = 0; k < PX_MAKE_KINDS; k++)
            s->pool[k].asked = false;
        return 1;
    }
    bool ok = len == (ssize_t)sizeof(m) && m.kind < PX_MAKE_KINDS;
    struct px_pool *p = ok ? &s->pool[m.kind] : NULL;
    for (size_t i = 0; i < n; i++) {
        if (ok && p->n < PX_POOL)
            p->fd[p->n++] = fds[i];
        else
            (void)close(fds[i]);
    }
    if (!ok)
        return -EPIPE;
    p->asked = false;
    return 1;
}

static int ask(struct px_space *s, uint16_t kind)
{
    const struct px_make m = {.n = PX_MAKE_MOST, .kind = kind};
    if (s->pool[kind].asked)
        return 0;
    if (send(s->maker, &m, sizeof(m), MSG_DONTWAIT | MSG_NOSIGNAL) != (ssize_t)sizeof(m))
        return -EPIPE;
    s->pool[kind].asked = true;
    return 0;
}

/* Until there is one of KIND, or the answer that there is none. */
static int wait_for(struct px_space *s, uint16_t kind)
{
    int64_t until = sq_mono_ns() + PATIENCE;
    int rc = ask(s, kind);
    while (rc >= 0 && s->pool[kind].asked) {
        int64_t left = until - sq_mono_ns();
        struct pollfd p = {.fd = s->maker, .events = POLLIN};
        if (left <= 0)
            return -ETIMEDOUT;
        (void)poll(&p, 1, (int)(left / 1000000) + 1);
        rc = receive(s);
    }
    return rc < 0 ? rc : 0;
}

static uint16_t kind_of(int family, int type)
{
    if (type == SOCK_STREAM)
        return family == AF_INET ? PX_MAKE_TCP4 : PX_MAKE_TCP6;
    return family == AF_INET ? PX_MAKE_UDP4 : PX_MAKE_UDP6;
}

int px_space_socket(struct px_space *s, int family, int type)
{
    if (s->id == 0) {
        int fd = socket(family, type | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
        return fd < 0 ? -errno : fd;
    }
    uint16_t kind = kind_of(family, type);
    struct px_pool *p = &s->pool[kind];
    int rc = 1;
    while (s->maker >= 0 && rc > 0)
        rc = receive(s);
    if (rc == 0 && s->maker >= 0)
        rc = p->n == 0 ? wait_for(s, kind) : 0;
    if (rc == 0 && s->maker >= 0 && p->n <= LOW)
        rc = ask(s, kind);
    if (rc < 0)
        lost(s);
    return p->n > 0 ? p->fd[--p->n] : -ENETDOWN;
}
