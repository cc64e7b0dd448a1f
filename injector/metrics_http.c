/* /metrics on TCP, by libmicrohttpd from the uv loop: one page, nothing is read but the request's first line. */
#include <errno.h>
#include <microhttpd.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "metrics.h"
#include "squall/cleanup.h"
#include "toxiproxy.h"

#define CONNECTIONS 16u
#define IDLE_S 30u

struct sq_metrics_server {
    struct sq_engine *eng;
    struct MHD_Daemon *mhd;
    uv_poll_t poll;
    uv_timer_t timer;
    int handles;
};

static void run_mhd(struct sq_metrics_server *s);

static void on_timer(uv_timer_t *t)
{
    run_mhd(t->data);
}

static void on_poll(uv_poll_t *p, int status, int events)
{
    (void)status;
    (void)events;
    run_mhd(p->data);
}

static void run_mhd(struct sq_metrics_server *s)
{
    MHD_UNSIGNED_LONG_LONG ms;
    if (!s->mhd)
        return;
    MHD_run(s->mhd);
    if (MHD_get_timeout(s->mhd, &ms) == MHD_YES)
        uv_timer_start(&s->timer, on_timer, ms, 0);
    else
        uv_timer_stop(&s->timer);
}

static enum MHD_Result reply(struct MHD_Connection *conn, unsigned status, char *text)
{
    struct MHD_Response *r = MHD_create_response_from_buffer(strlen(text), text, MHD_RESPMEM_MUST_FREE);
    if (!r) {
        free(text);
        return MHD_NO;
    }
    (void)MHD_add_response_header(r, MHD_HTTP_HEADER_CONTENT_TYPE, SQ_METRICS_TYPE);
    enum MHD_Result ok = MHD_queue_response(conn, status, r);
    MHD_destroy_response(r);
    return ok;
}

static enum MHD_Result on_request(void *cls, struct MHD_Connection *conn, const char *url, const char *method,
                                  const char *version, const char *data, size_t *size, void **con_cls)
{
    static char asked;
    struct sq_metrics_server *s = cls;
    char *text;
    (void)version;
    (void)data;
    if (!*con_cls) {
        *con_cls = &asked;
        return MHD_YES;
    }
    if (*size) { /* a body: nothing of it is wanted */
        *size = 0;
        return MHD_YES;
    }
    bool get = strcmp(method, "GET") == 0 || strcmp(method, "HEAD") == 0;
    bool ours = strcmp(url, "/metrics") == 0;
    if (get && ours)
        text = sq_metrics_text(s->eng);
    else
        text = strdup(ours ? "GET it\n" : "there is /metrics only\n");
    return text ? reply(conn, !ours ? 404 : get ? 200 : 405, text) : MHD_NO;
}

static int listen_at(const char *address, struct sq_err *e)
{
    struct sockaddr_storage sa;
    socklen_t n;
    int one = 1;
    if (address[0] == ':' || sq_toxi_sockaddr(address, &sa, &n) != 0)
        return sq_err_cls(e, SQ_C_INPUT, -EINVAL, "--metrics wants an address with a port, as in 127.0.0.1:9464");
    cleanup_close int fd = socket(sa.ss_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return sq_err_sys(e, -errno, "cannot make a socket");
    (void)setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
    if (bind(fd, (const struct sockaddr *)&sa, n) < 0 || listen(fd, 16) < 0)
        return sq_err_sys(e, -errno, "cannot listen on %s for metrics", address);
    return SQ_TAKE_FD(fd);
}

int sq_metrics_server_new(uv_loop_t *loop, struct sq_engine *eng, const char *address, struct sq_metrics_server **out,
                          struct sq_err *e)
{
    struct sq_metrics_server *s = calloc(1, sizeof(*s));
    if (!s)
        return sq_err(e, -ENOMEM, "out of memory");
    int fd = listen_at(address, e);
    if (fd < 0) {
        free(s);
        return fd;
    }
    s->eng = eng;
    s->mhd = MHD_start_daemon(MHD_USE_EPOLL, 0, NULL, NULL, on_request, s, MHD_OPTION_LISTEN_SOCKET, fd,
                              MHD_OPTION_CONNECTION_LIMIT, CONNECTIONS, MHD_OPTION_CONNECTION_TIMEOUT, IDLE_S,
                              MHD_OPTION_END);
    const union MHD_DaemonInfo *di = s->mhd ? MHD_get_daemon_info(s->mhd, MHD_DAEMON_INFO_EPOLL_FD) : NULL;
    if (!di || di->listen_fd < 0) {
        if (s->mhd)
            MHD_stop_daemon(s->mhd);
        else
            (void)close(fd);
        free(s);
        return sq_err(e, -EIO, "the HTTP server for metrics does not start");
    }
    uv_poll_init(loop, &s->poll, di->listen_fd); /* the union's name for an int */
    uv_timer_init(loop, &s->timer);
    s->poll.data = s->timer.data = s;
    s->handles = 2;
    uv_poll_start(&s->poll, UV_READABLE, on_poll);
    *out = s;
    return 0;
}

static void on_closed(uv_handle_t *h)
{
    struct sq_metrics_server *s = h->data;
    if (--s->handles == 0)
        free(s);
}

void sq_metrics_server_free(struct sq_metrics_server *s)
{
    if (!s)
        return;
    struct MHD_Daemon *mhd = SQ_TAKE(s->mhd);
    uv_close((uv_handle_t *)&s->poll, on_closed);
    uv_close((uv_handle_t *)&s->timer, on_closed);
    MHD_stop_daemon(mhd);
}
