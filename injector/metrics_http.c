/* /metrics on TCP, by libmicrohttpd from the uv loop: one page, nothing is read but the request's first line. */
#include <errno.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "httpd.h"
#include "metrics.h"

#define CONNECTIONS 32u /* at once */
#define KEEP 16u        /* before a new one costs the oldest its place */
#define IDLE_S 30u

struct sq_metrics_server {
    struct sq_engine *eng;
    struct sq_httpd http;
    struct MHD_Connection *conn[CONNECTIONS]; /* the oldest first */
    size_t n;
};

/* Whoever can connect can hold connections, but nobody can keep others out: a page is answered at once, so that the
 * oldest connection is one that waits for nothing. MHD sees that it has ended, and closes it. */
static void end_one(struct MHD_Connection *conn)
{
    const union MHD_ConnectionInfo *i = MHD_get_connection_info(conn, MHD_CONNECTION_INFO_CONNECTION_FD);
    if (i)
        (void)shutdown(i->connect_fd, SHUT_RDWR);
}

static void on_connection(void *cls, struct MHD_Connection *conn, void **ctx, enum MHD_ConnectionNotificationCode what)
{
    struct sq_metrics_server *s = cls;
    size_t i = 0;
    (void)ctx;
    if (what == MHD_CONNECTION_NOTIFY_STARTED) {
        if (s->n >= KEEP)
            end_one(s->conn[s->n - KEEP]); /* those before it are on their way out */
        if (s->n < CONNECTIONS)
            s->conn[s->n++] = conn;
        return;
    }
    while (i < s->n && s->conn[i] != conn)
        i++;
    if (i < s->n)
        memmove(&s->conn[i], &s->conn[i + 1], (--s->n - i) * sizeof(s->conn[0]));
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
        text = sq_metrics_text(s->eng, NULL);
    else
        text = strdup(ours ? "GET it\n" : "there is /metrics only\n");
    return text ? reply(conn, !ours ? 404 : get ? 200 : 405, text) : MHD_NO;
}

int sq_metrics_server_new(uv_loop_t *loop, struct sq_engine *eng, const char *address, struct sq_metrics_server **out,
                          struct sq_err *e)
{
    struct sq_metrics_server *s = calloc(1, sizeof(*s));
    if (!s)
        return sq_err(e, -ENOMEM, "out of memory");
    int fd = sq_httpd_listen(address, "--metrics", "127.0.0.1:9464", "metrics", 16, e);
    if (fd < 0) {
        free(s);
        return fd;
    }
    s->eng = eng;
    struct MHD_Daemon *mhd =
        MHD_start_daemon(MHD_USE_EPOLL, 0, NULL, NULL, on_request, s, MHD_OPTION_LISTEN_SOCKET, fd,
                         MHD_OPTION_NOTIFY_CONNECTION, on_connection, s, MHD_OPTION_CONNECTION_LIMIT, CONNECTIONS,
                         MHD_OPTION_CONNECTION_TIMEOUT, IDLE_S, MHD_OPTION_END);
    if (sq_httpd_drive(&s->http, loop, mhd, fd) < 0) {
        free(s);
        return sq_err(e, -EIO, "the HTTP server for metrics does not start");
    }
    *out = s;
    return 0;
}

static void on_closed(struct sq_httpd *h)
{
    free((char *)h - offsetof(struct sq_metrics_server, http));
}

void sq_metrics_server_free(struct sq_metrics_server *s)
{
    if (s)
        sq_httpd_close(&s->http, on_closed);
}
