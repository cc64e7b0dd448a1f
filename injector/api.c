/* HTTP on a Unix socket by libmicrohttpd, driven from the uv loop through its epoll descriptor: no thread of its own.
 */
#include "api.h"

#include <errno.h>
#include <grp.h>
#include <microhttpd.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "metrics.h"
#include "patience.h"
#include "squall/cleanup.h"

#define MAX_CONNECTIONS 256u
#define IDLE_S 60u /* a connection on which nothing happens */
#define TARGET_MAX 4096u

struct sq_api {
    struct sq_engine *eng;
    struct MHD_Daemon *mhd;
    uv_loop_t *loop;
    uv_poll_t poll;
    uv_timer_t timer;
    uv_idle_t kick; /* MHD has work that no descriptor shows (a resumed connection) */
    int handles;
    char path[sizeof(((struct sockaddr_un *)0)->sun_path)];
    void (*done)(void *arg);
    void *arg;
};

struct call {
    struct sq_api *api;
    struct MHD_Connection *conn;
    char target[TARGET_MAX];
    bool too_long; /* the target */
    bool begun;
    char *body;
    size_t len, cap;
    bool too_big;
    bool asked;
    bool in_handler; /* the answer came before sq_api_handle returned */
    bool suspended;
    bool answered;
    bool gone; /* MHD has forgotten the connection: only the answer is still to come */
    int status;
    char *text;
    size_t text_len;
};

static void call_free(struct call *c)
{
    free(c->body);
    free(c->text);
    free(c);
}

/* ---- the loop ---- */

static void arm_timer(struct sq_api *api);

static void run_mhd(struct sq_api *api)
{
    if (!api->mhd)
        return;
    MHD_run(api->mhd);
    if (api->mhd)
        arm_timer(api);
}

static void on_timer(uv_timer_t *t)
{
    run_mhd(t->data);
}

static void on_kick(uv_idle_t *h)
{
    uv_idle_stop(h);
    run_mhd(h->data);
}

static void on_poll(uv_poll_t *p, int status, int events)
{
    (void)status;
    (void)events;
    run_mhd(p->data);
}

static void arm_timer(struct sq_api *api)
{
    MHD_UNSIGNED_LONG_LONG ms;
    if (MHD_get_timeout(api->mhd, &ms) != MHD_YES)
        uv_timer_stop(&api->timer);
    else if (ms == 0)
        uv_idle_start(&api->kick, on_kick);
    else
        uv_timer_start(&api->timer, on_timer, ms, 0);
}

/* ---- one request ---- */

static int peer_of(struct MHD_Connection *conn, struct sq_peer *peer)
{
    const union MHD_ConnectionInfo *ci = MHD_get_connection_info(conn, MHD_CONNECTION_INFO_CONNECTION_FD);
    struct ucred cred;
    socklen_t len = sizeof(cred);
    if (!ci || getsockopt(ci->connect_fd, SOL_SOCKET, SO_PEERCRED, &cred, &len) < 0)
        return -EPERM;
    *peer = (struct sq_peer){.uid = cred.uid, .gid = cred.gid, .pid = cred.pid};
    return 0;
}

static enum MHD_Result queue_answer(struct call *c)
{
    static const char none[] = "{\"error\":{\"message\":\"no memory\",\"hint\":\"\",\"errno\":\"ENOMEM\"}}";
    const char *answer = c->text;
    struct MHD_Response *r;
    if (c->text) {
        r = MHD_create_response_from_buffer(c->text_len, c->text, MHD_RESPMEM_MUST_FREE);
        if (r)
            c->text = NULL;
    } else {
        c->status = 500;
        r = MHD_create_response_from_buffer(sizeof(none) - 1, (void *)(uintptr_t)none, MHD_RESPMEM_PERSISTENT);
    }
    if (!r)
        return MHD_NO;
    /* All answers are JSON objects, but for one page. */
    bool json = !answer || answer[0] == '{';
    (void)MHD_add_response_header(r, MHD_HTTP_HEADER_CONTENT_TYPE, json ? "application/json" : SQ_METRICS_TYPE);
    enum MHD_Result ok = MHD_queue_response(c->conn, (unsigned)c->status, r);
    MHD_destroy_response(r);
    return ok;
}

static void on_answer(void *arg, int status, char *text, size_t len)
{
    struct call *c = arg;
    if (c->gone) {
        free(text);
        call_free(c);
        return;
    }
    c->answered = true;
    c->status = status;
    c->text = text;
    c->text_len = len;
    if (c->in_handler || !c->suspended)
        return;
    c->suspended = false;
    MHD_resume_connection(c->conn);
    uv_idle_start(&c->api->kick, on_kick);
}

static enum MHD_Result refuse(struct call *c, enum sq_class cls, int code, const char *why)
{
    struct sq_err e = {0};
    sq_err_cls(&e, cls, code, "%s", why);
    c->text = sq_api_error(&e, &c->status, &c->text_len);
    return queue_answer(c);
}

static enum MHD_Result ask(struct call *c, const char *method)
{
    struct sq_peer peer;
    c->asked = true;
    if (c->too_long)
        return refuse(c, SQ_C_INPUT, -ENAMETOOLONG, "the request target is too long");
    if (c->too_big)
        return refuse(c, SQ_C_INPUT, -E2BIG, "the body is larger than 1 MiB");
    if (peer_of(c->conn, &peer) < 0)
        return refuse(c, SQ_C_DENIED, -EPERM, "who asks? (SO_PEERCRED)");
    struct sq_patience *patience = sq_engine_patience(c->api->eng);
    sq_patience_begin(patience, SQ_PATIENCE_NS);
    c->in_handler = true;
    sq_api_handle(c->api->eng, &peer, method, c->target, c->body ? c->body : "", c->len, on_answer, c);
    c->in_handler = false;
    sq_patience_end(patience);
    if (c->answered)
        return queue_answer(c);
    c->suspended = true;
    MHD_suspend_connection(c->conn);
    return MHD_YES;
}

static int append(struct call *c, const char *data, size_t len)
{
    if (c->len + len > SQ_BODY_MAX) {
        c->too_big = true; /* read on and throw away, so that the answer reaches a client that is still sending */
        return 0;
    }
    if (c->len + len > c->cap) {
        size_t cap = c->cap ? c->cap * 2 : 4096;
        while (cap < c->len + len)
            cap *= 2;
        char *p = realloc(c->body, cap);
        if (!p)
            return -ENOMEM;
        c->body = p;
        c->cap = cap;
    }
    memcpy(c->body + c->len, data, len);
    c->len += len;
    return 0;
}

static enum MHD_Result on_request(void *cls, struct MHD_Connection *conn, const char *url, const char *method,
                                  const char *version, const char *data, size_t *size, void **con_cls)
{
    struct call *c = *con_cls;
    (void)cls;
    (void)url;
    (void)version;
    if (!c)
        return MHD_NO;
    if (!c->begun) {
        c->begun = true;
        c->conn = conn;
        return MHD_YES;
    }
    if (*size) {
        int rc = append(c, data, *size);
        *size = 0;
        return rc < 0 ? MHD_NO : MHD_YES;
    }
    if (!c->asked)
        return ask(c, method);
    return c->answered ? queue_answer(c) : MHD_YES;
}

/* The raw target, before anything is decoded: its copy is where a request begins. */
static void *on_uri(void *cls, const char *uri, struct MHD_Connection *conn)
{
    struct call *c = calloc(1, sizeof(*c));
    (void)conn;
    if (!c)
        return NULL;
    c->api = cls;
    c->too_long = (size_t)snprintf(c->target, sizeof(c->target), "%s", uri) >= sizeof(c->target);
    return c;
}

static void on_completed(void *cls, struct MHD_Connection *conn, void **con_cls, enum MHD_RequestTerminationCode how)
{
    struct call *c = *con_cls;
    (void)cls;
    (void)conn;
    (void)how;
    *con_cls = NULL;
    if (!c)
        return;
    if (c->asked && c->suspended && !c->answered)
        c->gone = true; /* on_answer frees it */
    else
        call_free(c);
}

/* ---- beginning and end ---- */

static int own_socket(const char *path, const char *group, struct sq_err *e)
{
    const struct group *g = group && group[0] && geteuid() == 0 ? getgrnam(group) : NULL;
    if (g && chown(path, (uid_t)-1, g->gr_gid) < 0)
        return sq_err_sys(e, -errno, "cannot give %s to group %s", path, group);
    if (chmod(path, g ? 0660 : 0600) < 0)
        return sq_err_sys(e, -errno, "cannot set the mode of %s", path);
    return 0;
}

static int listen_on(const char *path, const char *group, struct sq_err *e)
{
    struct sockaddr_un sa = {.sun_family = AF_UNIX};
    int n = snprintf(sa.sun_path, sizeof(sa.sun_path), "%s", path);
    if (n < 0 || (size_t)n >= sizeof(sa.sun_path))
        return sq_err_cls(e, SQ_C_INPUT, -ENAMETOOLONG, "the path of the socket is too long (unix(7)): %s", path);
    cleanup_close int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0)
        return sq_err_sys(e, -errno, "cannot make a socket");
    mode_t old = umask(0177); /* nobody else between bind and chmod */
    int rc = bind(fd, (const struct sockaddr *)&sa, sizeof(sa)) < 0 ? -errno : 0;
    (void)umask(old);
    if (rc < 0)
        return sq_err_sys(e, rc, "cannot bind %s", path);
    rc = own_socket(path, group, e);
    if (rc < 0)
        return rc;
    if (listen(fd, 128) < 0)
        return sq_err_sys(e, -errno, "cannot listen on %s", path);
    return SQ_TAKE_FD(fd);
}

static int start_mhd(struct sq_api *api, int fd, struct sq_err *e)
{
    api->mhd = MHD_start_daemon(MHD_USE_EPOLL | MHD_ALLOW_SUSPEND_RESUME, 0, NULL, NULL, on_request, api,
                                MHD_OPTION_LISTEN_SOCKET, fd, MHD_OPTION_URI_LOG_CALLBACK, on_uri, api,
                                MHD_OPTION_NOTIFY_COMPLETED, on_completed, api, MHD_OPTION_CONNECTION_LIMIT,
                                MAX_CONNECTIONS, MHD_OPTION_CONNECTION_TIMEOUT, IDLE_S, MHD_OPTION_END);
    if (!api->mhd)
        return sq_err(e, -EIO, "the HTTP server does not start");
    const union MHD_DaemonInfo *di = MHD_get_daemon_info(api->mhd, MHD_DAEMON_INFO_EPOLL_FD);
    if (!di || di->listen_fd < 0) {
        MHD_stop_daemon(api->mhd);
        return sq_err(e, -EIO, "the HTTP server has no epoll descriptor");
    }
    uv_poll_init(api->loop, &api->poll, di->listen_fd); /* the union's name for an int */
    uv_timer_init(api->loop, &api->timer);
    uv_idle_init(api->loop, &api->kick);
    api->poll.data = api->timer.data = api->kick.data = api;
    api->handles = 3;
    uv_poll_start(&api->poll, UV_READABLE, on_poll);
    return 0;
}

int sq_api_new(uv_loop_t *loop, struct sq_engine *eng, const char *path, const char *group, struct sq_api **out,
               struct sq_err *e)
{
    struct sq_api *api = calloc(1, sizeof(*api));
    if (!api)
        return sq_err(e, -ENOMEM, "no memory");
    api->loop = loop;
    api->eng = eng;
    int fd = listen_on(path, group, e);
    int rc = fd < 0 ? fd : start_mhd(api, fd, e);
    if (rc < 0) {
        if (fd >= 0)
            (void)close(fd);
        free(api);
        return rc;
    }
    snprintf(api->path, sizeof(api->path), "%s", path);
    *out = api;
    return 0;
}

void sq_api_quiesce(struct sq_api *api)
{
    (void)unlink(api->path);
    int fd = MHD_quiesce_daemon(api->mhd);
    if (fd >= 0)
        (void)close(fd);
}

static void handle_closed(uv_handle_t *h)
{
    struct sq_api *api = h->data;
    if (--api->handles > 0)
        return;
    void (*done)(void *) = api->done;
    void *arg = api->arg;
    free(api);
    done(arg);
}

void sq_api_free(struct sq_api *api, void (*done)(void *arg), void *arg)
{
    api->done = done;
    api->arg = arg;
    MHD_run(api->mhd); /* the last answers */
    struct MHD_Daemon *mhd = SQ_TAKE(api->mhd);
    uv_close((uv_handle_t *)&api->poll, handle_closed);
    uv_close((uv_handle_t *)&api->timer, handle_closed);
    uv_close((uv_handle_t *)&api->kick, handle_closed);
    MHD_stop_daemon(mhd);
}
