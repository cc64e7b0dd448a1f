#include "proxy/maker.h"

#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "squall/fds.h"

static int make(uint16_t kind)
{
    int family = kind == PX_MAKE_TCP4 || kind == PX_MAKE_UDP4 ? AF_INET : AF_INET6;
    int type = kind == PX_MAKE_TCP4 || kind == PX_MAKE_TCP6 ? SOCK_STREAM : SOCK_DGRAM;
    int fd = socket(family, type | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    return fd < 0 ? -errno : fd;
}

static int serve(int with, struct px_make *m)
{
    int fds[PX_MAKE_MOST], rc = 0;
    uint16_t wanted = m->n < PX_MAKE_MOST ? m->n : PX_MAKE_MOST;
    m->n = 0;
    m->error = m->kind < PX_MAKE_KINDS ? 0 : EINVAL;
    while (m->n < wanted && !m->error) {
        fds[m->n] = make(m->kind);
        if (fds[m->n] < 0)
            m->error = -fds[m->n];
        else
            m->n++;
    }
    rc = sq_fds_send(with, m, sizeof(*m), fds, m->n, 0);
    for (uint16_t i = 0; i < m->n; i++)
        (void)close(fds[i]);
    return rc;
}

static int receive(int from, struct px_make *m)
{
    ssize_t n;
    do
        n = recv(from, m, sizeof(*m), 0);
    while (n < 0 && errno == EINTR);
    return n == (ssize_t)sizeof(*m) ? 1 : n < 0 ? -errno : 0;
}

int px_maker_run(int fd)
{
    struct px_make m;
    int rc;
    do {
        rc = receive(fd, &m);
        rc = rc > 0 ? serve(fd, &m) : 1;
    } while (rc == 0);
    return 0;
}
