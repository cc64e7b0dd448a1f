/* libuv handles that live on the heap, close their descriptor and free themselves. */
#include <stdlib.h>
#include <unistd.h>

#include "service_int.h"

static void closed(uv_handle_t *h)
{
    struct watch *w = h->data;
    struct sq_services *s = w->s;
    free(w);
    s->handles--;
    if (s->freeing && s->handles == 0) {
        void (*done)(void *) = s->freed;
        void *arg = s->freed_arg;
        free(s);
        if (done)
            done(arg);
    }
}

static void on_poll(uv_poll_t *h, int status, int events)
{
    struct watch *w = h->data;
    (void)status;
    (void)events;
    w->fn(w->owner);
}

static void on_timer(uv_timer_t *h)
{
    struct watch *w = h->data;
    w->fn(w->owner);
}

static struct watch *new_watch(struct sq_services *s, watch_fn *fn, void *owner)
{
    struct watch *w = calloc(1, sizeof *w);
    if (w) {
        w->s = s;
        w->owner = owner;
        w->fn = fn;
        w->fd = -1;
    }
    return w;
}

struct watch *watch_fd(struct sq_services *s, int fd, watch_fn *fn, void *owner)
{
    struct watch *w = new_watch(s, fn, owner);
    if (!w || uv_poll_init(s->loop, &w->h.poll, fd) < 0) {
        close(fd);
        free(w);
        return NULL;
    }
    w->h.any.data = w;
    w->fd = fd;
    s->handles++;
    if (uv_poll_start(&w->h.poll, UV_READABLE | UV_DISCONNECT, on_poll) < 0)
        watch_end(&w);
    return w;
}

struct watch *watch_timer(struct sq_services *s, int64_t after_ns, int64_t every_ns, watch_fn *fn, void *owner)
{
    struct watch *w = new_watch(s, fn, owner);
    if (!w)
        return NULL;
    (void)uv_timer_init(s->loop, &w->h.timer);
    w->h.any.data = w;
    s->handles++;
    uv_update_time(s->loop);
    (void)uv_timer_start(&w->h.timer, on_timer, (uint64_t)((after_ns + SQ_MS - 1) / SQ_MS),
                         (uint64_t)(every_ns / SQ_MS));
    return w;
}

void watch_end(struct watch **w)
{
    struct watch *it = *w;
    *w = NULL;
    if (!it)
        return;
    uv_close(&it->h.any, closed); /* a poll handle leaves epoll here, so its descriptor may go at once */
    if (it->fd >= 0)
        close(it->fd);
}
