#include "events.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "squall/cleanup.h"
#include "squall/clock.h"

/* Kept as text: smaller than a tree, of known size, and an answer is mere concatenation. */
struct event {
    char *text;
    size_t len;
};

struct sq_events {
    struct event *ring;
    size_t cap;     /* a power of two */
    size_t head, n; /* oldest, how many */
    size_t bytes;
    uint64_t next; /* seq of the next event */
};

struct sq_events *sq_events_new(void)
{
    struct sq_events *ev = calloc(1, sizeof(*ev));
    if (ev)
        ev->next = 1;
    return ev;
}

static struct event *at(const struct sq_events *ev, size_t i)
{
    return &ev->ring[(ev->head + i) & (ev->cap - 1)];
}

static void drop_oldest(struct sq_events *ev)
{
    struct event *x = at(ev, 0);
    ev->bytes -= x->len;
    free(x->text);
    ev->head = (ev->head + 1) & (ev->cap - 1);
    ev->n--;
}

void sq_events_free(struct sq_events *ev)
{
    if (!ev)
        return;
    while (ev->n)
        drop_oldest(ev);
    free(ev->ring);
    free(ev);
}

static int grow(struct sq_events *ev)
{
    size_t cap = ev->cap ? ev->cap * 2 : 256;
    struct event *ring = calloc(cap, sizeof(*ring));
    if (!ring)
        return -1;
    for (size_t i = 0; i < ev->n; i++)
        ring[i] = *at(ev, i);
    free(ev->ring);
    ev->ring = ring;
    ev->cap = cap;
    ev->head = 0;
    return 0;
}

void sq_events_add(struct sq_events *ev, json_t *obj)
{
    uint64_t seq = ev->next++; /* one that is lost for want of memory shows as a gap */
    json_object_set_new(obj, "seq", json_integer((json_int_t)seq));
    if (!json_object_get(obj, "at"))
        json_object_set_new(obj, "at", json_integer(sq_mono_ns()));
    char *text = json_dumps(obj, JSON_COMPACT);
    json_decref(obj);
    size_t len = text ? strlen(text) : 0;
    while (ev->n && (!text || ev->n >= SQ_EVENTS_MOST || ev->bytes + len > SQ_EVENTS_BYTES))
        drop_oldest(ev);
    if (!text || (ev->n == ev->cap && grow(ev) < 0)) {
        while (ev->n) /* what is kept is always the newest without a gap */
            drop_oldest(ev);
        free(text);
        return;
    }
    ev->bytes += len;
    *at(ev, ev->n++) = (struct event){text, len};
}

char *sq_events_read(struct sq_events *ev, uint64_t after, size_t *len)
{
    uint64_t first = ev->next - ev->n; /* seq of the oldest kept */
    char lost[192] = "";
    if (after + 1 < first)
        (void)snprintf(lost, sizeof(lost),
                       "{\"type\":\"warning\",\"text\":\"%" PRIu64 " events were lost: they were not fetched in time\","
                       "\"seq\":%" PRIu64 ",\"at\":%" PRId64 "}",
                       first - 1 - after, first - 1, sq_mono_ns());
    uint64_t from = after + 1 > first ? after + 1 : first;
    size_t i = from >= ev->next ? ev->n : (size_t)(from - first);
    size_t size = 64 + strlen(lost), k = 0;
    while (i + k < ev->n && k < SQ_EVENTS_READ && size < SQ_EVENTS_READ_BYTES)
        size += at(ev, i + k++)->len + 1;
    char *out = malloc(size);
    if (!out)
        return NULL;
    char *w = stpcpy(stpcpy(out, "{\"events\":["), lost);
    for (size_t m = 0; m < k; m++) {
        const struct event *x = at(ev, i + m);
        if (w[-1] != '[')
            *w++ = ',';
        memcpy(w, x->text, x->len);
        w += x->len;
    }
    uint64_t next = from >= ev->next ? ev->next - 1 : from + k - 1;
    w += sprintf(w, "],\"next\":%" PRIu64 "}", next);
    *len = (size_t)(w - out);
    return out;
}
