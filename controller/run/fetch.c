#include "run/fetch.h"

#include <curl/curl.h>
#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "squall/units.h"

struct fetch_request {
    struct sq_fetch *fetch;
    struct fetch_request *prev, *next;
    CURL *easy;
    sq_fetch_done *done;
    void *arg;
    char *body;
    size_t len, cap;
    bool too_big;
    char text[CURL_ERROR_SIZE];
    char url[600];
};

struct sq_fetch {
    uv_loop_t *loop;
    CURLM *multi;
    uv_timer_t timer;
    struct fetch_request *requests;
    unsigned handles; /* uv handles that are not closed yet */
    bool closing;
};

struct watch {
    struct sq_fetch *fetch;
    curl_socket_t fd;
    uv_poll_t poll;
};

static void handle_gone(struct sq_fetch *f)
{
    if (--f->handles == 0 && f->closing)
        free(f);
}

static void request_free(struct fetch_request *r)
{
    if (r->prev)
        r->prev->next = r->next;
    else
        r->fetch->requests = r->next;
    if (r->next)
        r->next->prev = r->prev;
    curl_easy_cleanup(r->easy);
    free(r->body);
    free(r);
}

static void complete(struct fetch_request *r, CURLcode code)
{
    struct sq_err e = {0};
    long status = 0;

    if (r->too_big)
        sq_err(&e, -EMSGSIZE, "%s answered more than %u MiB", r->url, SQ_FETCH_MAX_BODY >> 20);
    else if (code == CURLE_OPERATION_TIMEDOUT)
        sq_err(&e, -ETIMEDOUT, "%s did not answer in time", r->url);
    else if (code != CURLE_OK)
        sq_err(&e, -EPROTO, "%s: %s", r->url, r->text[0] ? r->text : curl_easy_strerror(code));
    else
        curl_easy_getinfo(r->easy, CURLINFO_RESPONSE_CODE, &status);
    r->done(r->arg, (int)status, r->body ? r->body : "", r->len, e.code ? &e : NULL);
    request_free(r);
}

static void drive(struct sq_fetch *f, curl_socket_t fd, int bits)
{
    CURLMsg *m;
    int n;

    curl_multi_socket_action(f->multi, fd, bits, &n);
    while (!f->closing && (m = curl_multi_info_read(f->multi, &n))) {
        struct fetch_request *r = NULL;
        CURLcode code = m->data.result; /* m dies with the handle */

        if (m->msg != CURLMSG_DONE)
            continue;
        curl_easy_getinfo(m->easy_handle, CURLINFO_PRIVATE, (char **)&r);
        curl_multi_remove_handle(f->multi, r->easy);
        complete(r, code);
    }
}

static void on_timer(uv_timer_t *t)
{
    drive(t->data, CURL_SOCKET_TIMEOUT, 0);
}

static void on_poll(uv_poll_t *p, int status, int events)
{
    struct watch *w = p->data;

    drive(w->fetch, w->fd,
          (status < 0 ? CURL_CSELECT_ERR : 0) | (events & UV_READABLE ? CURL_CSELECT_IN : 0) |
              (events & UV_WRITABLE ? CURL_CSELECT_OUT : 0));
}

static int want_timer(CURLM *multi, long ms, void *arg)
{
    struct sq_fetch *f = arg;

    (void)multi;
    if (f->closing)
        return 0;
    if (ms < 0)
        uv_timer_stop(&f->timer);
    else
        uv_timer_start(&f->timer, on_timer, (uint64_t)ms, 0);
    return 0;
}

static void watch_closed(uv_handle_t *h)
{
    struct watch *w = h->data;
    struct sq_fetch *f = w->fetch;

    free(w);
    handle_gone(f);
}

static int want_socket(CURL *easy, curl_socket_t fd, int what, void *arg, void *sockp)
{
    struct sq_fetch *f = arg;
    struct watch *w = sockp;

    (void)easy;
    if (what == CURL_POLL_REMOVE) {
        if (w) {
            uv_poll_stop(&w->poll);
            uv_close((uv_handle_t *)&w->poll, watch_closed);
            curl_multi_assign(f->multi, fd, NULL);
        }
        return 0;
    }
    if (!w) {
        w = calloc(1, sizeof(*w));
        if (!w || uv_poll_init(f->loop, &w->poll, fd)) {
            free(w);
            return -1;
        }
        w->fetch = f;
        w->fd = fd;
        w->poll.data = w;
        f->handles++;
        curl_multi_assign(f->multi, fd, w);
    }
    int events = (what != CURL_POLL_OUT ? UV_READABLE : 0) | (what != CURL_POLL_IN ? UV_WRITABLE : 0);
    return uv_poll_start(&w->poll, events, on_poll) ? -1 : 0;
}

static size_t on_data(char *data, size_t size, size_t n, void *arg)
{
    struct fetch_request *r = arg;
    size_t add = size * n;

    if (add > SQ_FETCH_MAX_BODY - r->len) {
        r->too_big = true;
        return 0;
    }
    if (r->len + add > r->cap) {
        size_t cap = r->cap ? r->cap : 4096;

        while (cap < r->len + add)
            cap *= 2;
        char *p = realloc(r->body, cap);
        if (!p)
            return 0;
        r->body = p;
        r->cap = cap;
    }
    memcpy(r->body + r->len, data, add);
    r->len += add;
    return add;
}

int sq_fetch_new(uv_loop_t *loop, struct sq_fetch **out, struct sq_err *e)
{
    struct sq_fetch *f = calloc(1, sizeof(*f));

    if (!f || curl_global_init(CURL_GLOBAL_DEFAULT)) {
        free(f);
        return sq_err(e, -ENOMEM, "libcurl does not start");
    }
    f->multi = curl_multi_init();
    if (!f->multi) {
        curl_global_cleanup();
        free(f);
        return sq_err(e, -ENOMEM, "no memory");
    }
    f->loop = loop;
    uv_timer_init(loop, &f->timer);
    f->timer.data = f;
    f->handles = 1;
    curl_multi_setopt(f->multi, CURLMOPT_SOCKETFUNCTION, want_socket);
    curl_multi_setopt(f->multi, CURLMOPT_SOCKETDATA, f);
    curl_multi_setopt(f->multi, CURLMOPT_TIMERFUNCTION, want_timer);
    curl_multi_setopt(f->multi, CURLMOPT_TIMERDATA, f);
    *out = f;
    return 0;
}

static void set_up(struct fetch_request *r, const char *form, int64_t timeout_ns)
{
    CURL *h = r->easy;

    curl_easy_setopt(h, CURLOPT_PRIVATE, r);
    curl_easy_setopt(h, CURLOPT_URL, r->url);
    curl_easy_setopt(h, CURLOPT_PROXY, "");
    curl_easy_setopt(h, CURLOPT_PROTOCOLS_STR, "http,https");
    curl_easy_setopt(h, CURLOPT_NOSIGNAL, 1L);
    curl_easy_setopt(h, CURLOPT_WRITEFUNCTION, on_data);
    curl_easy_setopt(h, CURLOPT_WRITEDATA, r);
    curl_easy_setopt(h, CURLOPT_ERRORBUFFER, r->text);
    curl_easy_setopt(h, CURLOPT_TIMEOUT_MS, (long)(timeout_ns / SQ_MS > 0 ? timeout_ns / SQ_MS : 1));
    curl_easy_setopt(h, CURLOPT_COPYPOSTFIELDS, form);
}

int sq_fetch_post(struct sq_fetch *f, const char *url, const char *form, int64_t timeout_ns, sq_fetch_done *done,
                  void *arg, struct sq_err *e)
{
    struct fetch_request *r = f->closing ? NULL : calloc(1, sizeof(*r));

    if (!r || !(r->easy = curl_easy_init())) {
        free(r);
        return sq_err(e, -ENOMEM, "no memory for a request");
    }
    if ((size_t)snprintf(r->url, sizeof(r->url), "%s", url) >= sizeof(r->url)) {
        curl_easy_cleanup(r->easy);
        free(r);
        return sq_err(e, -ENAMETOOLONG, "the address is too long: %.80s", url);
    }
    r->fetch = f;
    r->done = done;
    r->arg = arg;
    set_up(r, form, timeout_ns);
    r->next = f->requests;
    if (r->next)
        r->next->prev = r;
    f->requests = r;
    CURLMcode m = curl_multi_add_handle(f->multi, r->easy);
    if (m == CURLM_OK)
        return 0;
    request_free(r);
    return sq_err(e, -EPROTO, "libcurl: %s", curl_multi_strerror(m));
}

static void timer_closed(uv_handle_t *h)
{
    handle_gone(h->data);
}

void sq_fetch_close(struct sq_fetch *f)
{
    if (!f)
        return;
    f->closing = true;
    while (f->requests) {
        curl_multi_remove_handle(f->multi, f->requests->easy);
        request_free(f->requests);
    }
    curl_multi_cleanup(f->multi); /* want_socket(REMOVE) for each that is watched */
    curl_global_cleanup();
    uv_close((uv_handle_t *)&f->timer, timer_closed);
}

char *sq_fetch_escape(const char *text)
{
    char *curls = curl_easy_escape(NULL, text, 0), *mine = curls ? strdup(curls) : NULL;

    curl_free(curls);
    return mine;
}
