/* Descriptor 3: packets from and to squalld. Sending never blocks: what the socket has no room for waits in a bounded
 * queue, and calls beyond it are lost and counted. */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "proxy/px.h"
#include "squall/fds.h"

#define CALL_MAX 320 /* the longest call as text */
static const char HEAD[] = "{\"op\":\"calls\",\"calls\":[";
#define HEAD_LEN (sizeof(HEAD) - 1)

static void close_fds(int *fds, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (fds[i] >= 0)
            (void)close(fds[i]);
}

static void on_wire(uv_poll_t *h, int status, int events)
{
    struct px *px = h->data;
    if (status >= 0 && (events & UV_WRITABLE))
        px_wire_flush(px);
    for (int i = 0; i < 64 && px->wire.fd >= 0; i++) {
        int fds[SQ_WIRE_FDS];
        size_t nfds = SQ_WIRE_FDS;
        char *text = malloc(SQ_WIRE_MAX); /* not px->buf: what a message sets off may read connections */
        if (!text)
            return;
        ssize_t n = sq_fds_recv(px->wire.fd, text, SQ_WIRE_MAX, fds, &nfds, MSG_DONTWAIT);
        if (n > 0) {
            px_control(px, text, (size_t)n, fds, nfds);
            close_fds(fds, nfds);
        }
        free(text);
        if (n == -EAGAIN)
            return;
        if (n == 0 || (n < 0 && n != -EMSGSIZE)) {
            px_orphaned(px);
            return;
        }
    }
}

static void poll_wire(struct px *px)
{
    (void)uv_poll_start(&px->wire.poll, UV_READABLE | (px->wire.writing ? UV_WRITABLE : 0), on_wire);
}

int px_wire_open(struct px *px, int fd)
{
    px->wire.fd = fd;
    STAILQ_INIT(&px->wire.out);
    px->wire.calls = malloc(SQ_WIRE_MAX);
    if (!px->wire.calls)
        return -ENOMEM;
    int rc = uv_poll_init(&px->loop, &px->wire.poll, fd);
    if (rc == 0) {
        px->wire.poll.data = px;
        poll_wire(px);
    }
    return rc;
}

void px_wire_close(struct px *px)
{
    struct msg *m;
    if (px->wire.fd < 0)
        return;
    uv_close((uv_handle_t *)&px->wire.poll, NULL);
    (void)close(px->wire.fd);
    px->wire.fd = -1;
    while ((m = STAILQ_FIRST(&px->wire.out))) {
        STAILQ_REMOVE_HEAD(&px->wire.out, link);
        free(m);
    }
    px->wire.queued = 0;
    px->wire.calls_n = 0;
    px->wire.calls_len = 0;
}

/* 0, or -EAGAIN: no room now. A dead socket swallows everything: its end is seen by on_wire. */
static int transmit(struct wire *w, const char *text, size_t len)
{
    ssize_t n = send(w->fd, text, len, MSG_DONTWAIT | MSG_NOSIGNAL);
    return n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK || errno == ENOBUFS || errno == EINTR) ? -EAGAIN : 0;
}

void px_wire_flush(struct px *px)
{
    struct wire *w = &px->wire;
    struct msg *m;
    while (w->fd >= 0 && (m = STAILQ_FIRST(&w->out))) {
        if (transmit(w, m->text, m->len) != 0)
            break;
        STAILQ_REMOVE_HEAD(&w->out, link);
        w->queued -= m->len;
        free(m);
    }
    bool writing = !STAILQ_EMPTY(&w->out);
    if (w->fd >= 0 && writing != w->writing) {
        w->writing = writing;
        poll_wire(px);
    }
}

/* False: it was lost. Order is kept. */
static bool post(struct px *px, const char *text, size_t len, bool must)
{
    struct wire *w = &px->wire;
    if (w->fd < 0)
        return true;
    if (STAILQ_EMPTY(&w->out) && transmit(w, text, len) == 0)
        return true;
    if (!must && w->queued + len > PX_QUEUE)
        return false;
    struct msg *m = malloc(sizeof(*m) + len);
    if (!m)
        return false;
    m->len = len;
    memcpy(m->text, text, len);
    STAILQ_INSERT_TAIL(&w->out, m, link);
    w->queued += len;
    px_wire_flush(px);
    return true;
}

void px_calls_flush(struct px *px)
{
    struct wire *w = &px->wire;
    if (w->calls_n == 0)
        return;
    memcpy(w->calls + w->calls_len, "]}", 2);
    if (!post(px, w->calls, w->calls_len + 2, false))
        px->lost += w->calls_n;
    w->calls_n = 0;
    w->calls_len = 0;
}

void px_send_json(struct px *px, json_t *o)
{
    char *text = o ? json_dumps(o, JSON_COMPACT) : NULL;
    if (text && strlen(text) <= SQ_WIRE_MAX)
        (void)post(px, text, strlen(text), true);
    free(text);
    json_decref(o);
}

void px_send_upstream(struct px *px, const struct conn *c)
{
    char text[128];
    int n = snprintf(text, sizeof(text), "{\"op\":\"upstream\",\"req\":%u,\"edge\":%u,\"caller\":%u,\"dest\":%u}",
                     c->req, c->edge->id, c->caller, c->dest);
    (void)post(px, text, (size_t)n, true);
}

static uint64_t resident(void)
{
    unsigned long long size, rss = 0;
    FILE *f = fopen("/proc/self/statm", "re");
    if (f && fscanf(f, "%llu %llu", &size, &rss) != 2)
        rss = 0;
    if (f)
        (void)fclose(f);
    return rss * (uint64_t)sysconf(_SC_PAGESIZE);
}

void px_send_stats(struct px *px)
{
    char text[320];
    int n = snprintf(text, sizeof(text),
                     "{\"op\":\"stats\",\"open\":%" PRIu64 ",\"bytes_up\":%" PRIu64 ",\"bytes_down\":%" PRIu64
                     ",\"rss\":%" PRIu64 ",\"lost\":%" PRIu64 ",\"stray\":%" PRIu64 ",\"dropped\":%" PRIu64 "}",
                     px->open, px->bytes[UP], px->bytes[DOWN], resident(), px->lost, px->stray, px->dropped);
    if (STAILQ_EMPTY(&px->wire.out)) /* old figures are no use to one who does not even read the calls */
        (void)post(px, text, (size_t)n, false);
}

void px_call_raw(struct px *px, const struct edge *e, uint32_t caller, enum sq_call_kind kind,
                 enum sq_call_outcome outcome, int status, const struct sq_call *call, int64_t end)
{
    struct wire *w = &px->wire;
    if (w->fd < 0 || !e->counted || e->plain)
        return;
    if (w->calls_len + CALL_MAX + 2 > SQ_WIRE_MAX)
        px_calls_flush(px);
    if (w->calls_n == 0) {
        memcpy(w->calls, HEAD, HEAD_LEN);
        w->calls_len = HEAD_LEN;
    }
    int n = snprintf(w->calls + w->calls_len, CALL_MAX,
                     "%s[%" PRId64 ",%u,%u,%d,%d,%d,%" PRId64 ",%" PRId64 ",\"%s\",\"%s\",%" PRId64 "]",
                     w->calls_n ? "," : "", call->start, caller, e->id, (int)kind, (int)outcome, status,
                     end > call->start ? end - call->start : 0, call->held, sq_name_of(&px->names, call->fault),
                     call->trace, call->answer > call->start ? call->answer - call->start : 0);
    if (n < 0 || n >= CALL_MAX)
        return;
    w->calls_len += (size_t)n;
    w->calls_n++;
}

void px_call(struct conn *c, enum sq_call_kind kind, enum sq_call_outcome outcome, int status,
             const struct sq_call *call, int64_t end)
{
    px_call_raw(c->px, c->edge, c->caller, kind, outcome, status, call, end);
}
