#include "run/evlog.h"

#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "squall/cleanup.h"
#include "squall/paths.h"

#define FLUSH_MS 500
#define BUFFER (64 * 1024)
#define RESERVE ((off_t)4 * 1024 * 1024)
#define RESERVE_LOW ((off_t)1024 * 1024)

struct sq_evlog {
    uv_timer_t timer;
    uv_loop_t *loop;
    int fd;
    int64_t start_ns;
    char *buf;
    size_t len, cap;
    off_t size;     /* of the file */
    off_t reserved; /* blocks are ours up to here */
    bool no_reserve;
    bool syncing, sync_again, closed;
    uv_work_t work;
    int sync_rc;
    struct sq_err err;
    void (*on_error)(void *arg);
    void *on_error_arg;
};

static void fail(struct sq_evlog *ev, int code, const char *what)
{
    if (ev->err.code)
        return;
    sq_err_sys(&ev->err, code, "the evidence log %s", what);
    if (code == -ENOSPC || code == -EDQUOT)
        sq_err_hint(&ev->err, "free some space, or choose another place with --out");
    if (ev->on_error)
        ev->on_error(ev->on_error_arg);
}

/* Keep blocks allocated beyond the end of the file, so that "the disk is full" is learnt while there is still room to
 * say so in the log itself. */
static void reserve(struct sq_evlog *ev)
{
    if (ev->no_reserve || ev->err.code || ev->reserved - ev->size >= RESERVE_LOW)
        return;
    if (fallocate(ev->fd, FALLOC_FL_KEEP_SIZE, ev->size, RESERVE) == 0) {
        ev->reserved = ev->size + RESERVE;
        return;
    }
    if (errno == EOPNOTSUPP || errno == ENOSYS)
        ev->no_reserve = true;
    else
        fail(ev, -errno, "cannot grow");
}

static int write_out(struct sq_evlog *ev)
{
    size_t off = 0;
    while (off < ev->len) {
        ssize_t n = write(ev->fd, ev->buf + off, ev->len - off);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0) {
            int rc = -errno;
            memmove(ev->buf, ev->buf + off, ev->len - off);
            ev->len -= off;
            fail(ev, rc, "cannot be written");
            return rc;
        }
        off += (size_t)n;
        ev->size += n;
    }
    ev->len = 0;
    return 0;
}

static void flush(struct sq_evlog *ev)
{
    reserve(ev);
    write_out(ev);
}

static void on_timer(uv_timer_t *t)
{
    flush(t->data);
}

int sq_evlog_open(uv_loop_t *loop, const char *dir, int64_t start_ns, struct sq_evlog **out, struct sq_err *e)
{
    char path[4096];
    int rc = sq_path_join(path, sizeof(path), dir, "evidence.jsonl", e);
    if (rc)
        return rc;
    struct sq_evlog *ev = calloc(1, sizeof(*ev));
    if (!ev || !(ev->buf = malloc(BUFFER))) {
        free(ev);
        return sq_err(e, -ENOMEM, "no memory");
    }
    ev->cap = BUFFER;
    ev->loop = loop;
    ev->start_ns = start_ns;
    ev->fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_APPEND | O_CLOEXEC, 0644);
    if (ev->fd < 0) {
        rc = sq_err_sys(e, -errno, "cannot create %s", path);
    } else {
        reserve(ev);
        if (ev->err.code) {
            if (e && !e->code)
                *e = ev->err;
            rc = ev->err.code;
        }
    }
    if (rc) {
        if (ev->fd >= 0)
            close(ev->fd);
        free(ev->buf);
        free(ev);
        return rc;
    }
    uv_timer_init(loop, &ev->timer);
    ev->timer.data = ev;
    uv_timer_start(&ev->timer, on_timer, FLUSH_MS, FLUSH_MS);
    *out = ev;
    return 0;
}

static int append(struct sq_evlog *ev, const char *s, size_t n)
{
    if (ev->len + n > ev->cap) {
        size_t cap = ev->cap;
        while (cap < ev->len + n)
            cap *= 2;
        char *p = realloc(ev->buf, cap);
        if (!p)
            return -ENOMEM;
        ev->buf = p;
        ev->cap = cap;
    }
    memcpy(ev->buf + ev->len, s, n);
    ev->len += n;
    return 0;
}

void sq_evlog_put(struct sq_evlog *ev, const char *type, int64_t at_ns, json_t *rec)
{
    double t = (double)(at_ns - ev->start_ns) / 1e9;
    char head[128];
    cleanup_free char *body = rec ? json_dumps(rec, JSON_COMPACT | JSON_REAL_PRECISION(15)) : NULL;
    json_decref(rec);
    if (!body) {
        fail(ev, -ENOMEM, "lost a record");
        return;
    }
    /* t and type first, for people who read the log. */
    int n = snprintf(head, sizeof(head), "{\"t\":%.6f,\"type\":\"%s\"%s", t, type, strcmp(body, "{}") == 0 ? "" : ",");
    if (append(ev, head, (size_t)n) || append(ev, body + 1, strlen(body + 1)) || append(ev, "\n", 1))
        fail(ev, -ENOMEM, "lost a record");
    if (ev->len >= BUFFER)
        flush(ev);
}

static void sync_work(uv_work_t *w)
{
    struct sq_evlog *ev = w->data;
    ev->sync_rc = fdatasync(ev->fd) ? -errno : 0;
}

static void sync_done(uv_work_t *w, int status);

static void sync_start(struct sq_evlog *ev)
{
    ev->work.data = ev;
    ev->syncing = uv_queue_work(ev->loop, &ev->work, sync_work, sync_done) == 0;
}

static void destroy(struct sq_evlog *ev)
{
    free(ev->buf);
    free(ev);
}

static void timer_closed(uv_handle_t *h)
{
    destroy(h->data);
}

static void sync_done(uv_work_t *w, int status)
{
    struct sq_evlog *ev = w->data;
    ev->syncing = false;
    if (ev->closed) {
        close(ev->fd);
        uv_close((uv_handle_t *)&ev->timer, timer_closed);
        return;
    }
    if (status == 0 && ev->sync_rc && ev->sync_rc != -EINVAL) /* EINVAL: a pipe or a special file */
        fail(ev, ev->sync_rc, "cannot be synced");
    if (ev->sync_again) {
        ev->sync_again = false;
        sync_start(ev);
    }
}

void sq_evlog_put_durable(struct sq_evlog *ev, const char *type, int64_t at_ns, json_t *rec)
{
    sq_evlog_put(ev, type, at_ns, rec);
    flush(ev);
    if (ev->syncing)
        ev->sync_again = true;
    else
        sync_start(ev);
}

const struct sq_err *sq_evlog_error(const struct sq_evlog *ev)
{
    return ev->err.code ? &ev->err : NULL;
}

void sq_evlog_on_error(struct sq_evlog *ev, void (*fn)(void *arg), void *arg)
{
    ev->on_error = fn;
    ev->on_error_arg = arg;
}

int sq_evlog_close(struct sq_evlog *ev, struct sq_err *e)
{
    if (!ev)
        return 0;
    ev->on_error = NULL;
    int rc = write_out(ev);
    if (!ev->no_reserve && ftruncate(ev->fd, ev->size)) /* gives the reserve back; harmless when it can't */
        ev->no_reserve = true;
    if (fdatasync(ev->fd) && errno != EINVAL)
        fail(ev, -errno, "cannot be synced");
    if (ev->err.code) {
        rc = ev->err.code;
        if (e && !e->code)
            *e = ev->err;
    }
    ev->closed = true;
    if (!ev->syncing) {
        close(ev->fd);
        uv_close((uv_handle_t *)&ev->timer, timer_closed);
    }
    return rc;
}
