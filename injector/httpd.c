#include "httpd.h"

#include <errno.h>
#include <unistd.h>

#include "squall/cleanup.h"
#include "toxiproxy.h"

static void run(struct sq_httpd *h);

static void on_timer(uv_timer_t *t)
{
    run(t->data);
}

static void on_poll(uv_poll_t *p, int status, int events)
{
    (void)status;
    (void)events;
    run(p->data);
}

static void run(struct sq_httpd *h)
{
    MHD_UNSIGNED_LONG_LONG ms;
    if (!h->mhd)
        return;
    MHD_run(h->mhd);
    if (MHD_get_timeout(h->mhd, &ms) == MHD_YES)
        uv_timer_start(&h->timer, on_timer, ms, 0);
    else
        uv_timer_stop(&h->timer);
}

int sq_httpd_listen(const char *address, const char *option, const char *example, const char *what, int backlog,
                    struct sq_err *e)
{
    struct sockaddr_storage sa;
    socklen_t n;
    int one = 1;
    if (address[0] == ':' || sq_toxi_sockaddr(address, &sa, &n) != 0)
        return sq_err_cls(e, SQ_C_INPUT, -EINVAL, "%s wants an address with a port, as in %s", option, example);
    cleanup_close int fd = socket(sa.ss_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return sq_err_sys(e, -errno, "cannot make a socket");
    (void)setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
    if (bind(fd, (const struct sockaddr *)&sa, n) < 0 || listen(fd, backlog) < 0)
        return sq_err_sys(e, -errno, "cannot listen on %s for %s", address, what);
    return SQ_TAKE_FD(fd);
}

int sq_httpd_drive(struct sq_httpd *h, uv_loop_t *loop, struct MHD_Daemon *mhd, int fd)
{
    const union MHD_DaemonInfo *di = mhd ? MHD_get_daemon_info(mhd, MHD_DAEMON_INFO_EPOLL_FD) : NULL;
    if (!di || di->listen_fd < 0) {
        if (mhd)
            MHD_stop_daemon(mhd);
        else
            (void)close(fd);
        return -EIO;
    }
    h->mhd = mhd;
    uv_poll_init(loop, &h->poll, di->listen_fd); /* the union's name for an int */
    uv_timer_init(loop, &h->timer);
    h->poll.data = h->timer.data = h;
    h->handles = 2;
    uv_poll_start(&h->poll, UV_READABLE, on_poll);
    return 0;
}

static void on_closed(uv_handle_t *handle)
{
    struct sq_httpd *h = handle->data;
    if (--h->handles == 0)
        h->closed(h);
}

void sq_httpd_close(struct sq_httpd *h, void (*closed)(struct sq_httpd *h))
{
    struct MHD_Daemon *mhd = SQ_TAKE(h->mhd);
    h->closed = closed;
    uv_close((uv_handle_t *)&h->poll, on_closed);
    uv_close((uv_handle_t *)&h->timer, on_closed);
    MHD_stop_daemon(mhd);
}
