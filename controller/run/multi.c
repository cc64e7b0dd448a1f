#include "run/multi.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

struct sq_multi {
    uv_loop_t *loop;
    CURLM *curl;
    uv_timer_t timer;
    unsigned handles; /* uv handles that are not closed yet */
    bool closing;
    sq_multi_done *done;
    void (*closed)(void *arg);
    void *closed_arg;
};

/* One socket that curl wants watched. */
struct watch {
    struct sq_multi *multi;
    curl_socket_t fd;
    uv_poll_t poll;
};

static void handle_gone(struct sq_multi *m)
{
    if (--m->handles > 0)
        return;
    void (*closed)(void *) = m->closed;
    void *arg = m->closed_arg;
    free(m);
    if (closed)
        closed(arg);
}

/* done() may have closed it, and then it only waits for its handles: curl is gone. */
static void drive(struct sq_multi *m, curl_socket_t fd, int bits)
{
    CURLMsg *msg;
    int n;

    curl_multi_socket_action(m->curl, fd, bits, &n);
    while (!m->closing && (msg = curl_multi_info_read(m->curl, &n))) {
        CURLcode code = msg->data.result; /* msg dies with the handle */
        CURL *easy = msg->easy_handle;
        void *request = NULL;

        if (msg->msg != CURLMSG_DONE)
            continue;
        curl_easy_getinfo(easy, CURLINFO_PRIVATE, (char **)&request);
        curl_multi_remove_handle(m->curl, easy);
        m->done(request, code);
    }
}

static void on_timer(uv_timer_t *t)
{
    drive(t->data, CURL_SOCKET_TIMEOUT, 0);
}

static void on_poll(uv_poll_t *p, int status, int events)
{
    struct watch *w = p->data;

    drive(w->multi, w->fd,
          (status < 0 ? CURL_CSELECT_ERR : 0) | (events & UV_READABLE ? CURL_CSELECT_IN : 0) |
              (events & UV_WRITABLE ? CURL_CSELECT_OUT : 0));
}

static int want_timer(CURLM *curl, long ms, void *arg)
{
    struct sq_multi *m = arg;

    (void)curl;
    if (m->closing)
        return 0;
    if (ms < 0)
        uv_timer_stop(&m->timer);
    else
        uv_timer_start(&m->timer, on_timer, (uint64_t)ms, 0);
    return 0;
}

static void watch_closed(uv_handle_t *h)
{
    struct watch *w = h->data;
    struct sq_multi *m = w->multi;

    free(w);
    handle_gone(m);
}

static int want_socket(CURL *easy, curl_socket_t fd, int what, void *arg, void *sockp)
{
    struct sq_multi *m = arg;
    struct watch *w = sockp;

    (void)easy;
    if (what == CURL_POLL_REMOVE) {
        if (w) {
            uv_poll_stop(&w->poll);
            uv_close((uv_handle_t *)&w->poll, watch_closed);
            curl_multi_assign(m->curl, fd, NULL);
        }
        return 0;
    }
    if (!w) {
        w = calloc(1, sizeof(*w));
        if (!w || uv_poll_init(m->loop, &w->poll, fd)) {
            free(w);
            return -1;
        }
        w->multi = m;
        w->fd = fd;
        w->poll.data = w;
        m->handles++;
        curl_multi_assign(m->curl, fd, w);
    }
    int events = (what != CURL_POLL_OUT ? UV_READABLE : 0) | (what != CURL_POLL_IN ? UV_WRITABLE : 0);
    return uv_poll_start(&w->poll, events, on_poll) ? -1 : 0;
}

int sq_multi_new(uv_loop_t *loop, sq_multi_done *done, struct sq_multi **out, struct sq_err *e)
{
    struct sq_multi *m = calloc(1, sizeof(*m));

    if (!m || curl_global_init(CURL_GLOBAL_DEFAULT)) {
        free(m);
        return sq_err(e, -ENOMEM, "libcurl does not start");
    }
    m->curl = curl_multi_init();
    if (!m->curl) {
        curl_global_cleanup();
        free(m);
        return sq_err(e, -ENOMEM, "no memory");
    }
    m->loop = loop;
    m->done = done;
    uv_timer_init(loop, &m->timer);
    m->timer.data = m;
    m->handles = 1;
    curl_multi_setopt(m->curl, CURLMOPT_SOCKETFUNCTION, want_socket);
    curl_multi_setopt(m->curl, CURLMOPT_SOCKETDATA, m);
    curl_multi_setopt(m->curl, CURLMOPT_TIMERFUNCTION, want_timer);
    curl_multi_setopt(m->curl, CURLMOPT_TIMERDATA, m);
    *out = m;
    return 0;
}

int sq_multi_add(struct sq_multi *m, CURL *easy, void *request, struct sq_err *e)
{
    curl_easy_setopt(easy, CURLOPT_PRIVATE, request);
    CURLMcode code = curl_multi_add_handle(m->curl, easy);
    return code == CURLM_OK ? 0 : sq_err(e, -EPROTO, "libcurl: %s", curl_multi_strerror(code));
}

void sq_multi_remove(struct sq_multi *m, CURL *easy)
{
    curl_multi_remove_handle(m->curl, easy);
}

static void timer_closed(uv_handle_t *h)
{
    handle_gone(h->data);
}

void sq_multi_close(struct sq_multi *m, void (*closed)(void *arg), void *arg)
{
    m->closing = true;
    m->closed = closed;
    m->closed_arg = arg;
    curl_multi_cleanup(m->curl); /* closes kept connections: want_socket(REMOVE) for each that is watched */
    curl_global_cleanup();
    uv_close((uv_handle_t *)&m->timer, timer_closed);
}

static size_t on_data(char *data, size_t size, size_t n, void *arg)
{
    struct sq_answer *a = arg;
    size_t add = size * n;

    if (add > a->most - a->len) {
        a->too_big = true;
        return 0;
    }
    if (a->len + add > a->cap) {
        size_t cap = a->cap ? a->cap : 4096;

        while (cap < a->len + add)
            cap *= 2;
        char *p = realloc(a->data, cap);
        if (!p)
            return 0;
        a->data = p;
        a->cap = cap;
    }
    memcpy(a->data + a->len, data, add);
    a->len += add;
    return add;
}

void sq_multi_read_into(CURL *easy, struct sq_answer *a)
{
    curl_easy_setopt(easy, CURLOPT_WRITEFUNCTION, on_data);
    curl_easy_setopt(easy, CURLOPT_WRITEDATA, a);
}
