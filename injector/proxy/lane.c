#include "proxy/lane.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

void sq_lane_clear(struct sq_lane *l)
{
    struct sq_chunk *c = l->head;
    while (c) {
        struct sq_chunk *next = c->next;
        free(c);
        c = next;
    }
    l->head = l->tail = NULL;
    l->held = 0;
    l->blocked = false;
    l->paced = 0;
}

int sq_lane_stages(struct sq_lane *l, struct sq_rules *rules, uint32_t slots, int64_t now)
{
    l->paced = 0; /* another pace, perhaps */
    return sq_stages_set(&l->stages, rules, slots, now);
}

static bool is_paced(const struct sq_lane *l)
{
    return l->stages && l->stages->paced;
}

/* Returns the bytes written (0: the socket is full) or -errno. */
static ssize_t out(struct sq_lane *l, int fd, const char *p, size_t len)
{
    size_t done = 0;
    while (done < len) {
        ssize_t n = send(fd, p + done, len - done, MSG_NOSIGNAL | MSG_DONTWAIT);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK || errno == ENOBUFS)) {
            l->blocked = true;
            break;
        }
        if (n < 0)
            return -errno;
        done += (size_t)n;
    }
    l->out += done;
    return (ssize_t)done;
}

static int keep(struct sq_lane *l, const char *p, size_t len, int64_t due, uint32_t bh)
{
    struct sq_chunk *c = malloc(sizeof(*c) + len);
    if (!c)
        return -ENOMEM;
    *c = (struct sq_chunk){.due = due, .bh = bh, .len = (uint32_t)len};
    memcpy(c->data, p, len);
    if (l->tail)
        l->tail->next = c;
    else
        l->head = c;
    l->tail = c;
    l->held += sizeof(*c) + len;
    return 0;
}

int sq_lane_put(struct sq_lane *l, int fd, const char *p, size_t len, int64_t due, uint32_t bh, int64_t now)
{
    if (due < l->last_due)
        due = l->last_due;
    l->last_due = due;
    l->in += len;
    if (!l->head && !bh && due <= now && fd >= 0 && !l->blocked && !l->stages) {
        ssize_t n = out(l, fd, p, len);
        if (n < 0)
            return (int)n;
        p += n;
        len -= (size_t)n;
    }
    return len ? keep(l, p, len, due, bh) : 0;
}

int sq_lane_flush(struct sq_lane *l, int fd, int64_t now)
{
    l->blocked = false;
    l->paced = 0;
    while (l->head && !l->head->bh && l->head->due <= now && !l->blocked) {
        struct sq_chunk *c = l->head;
        size_t left = c->len - c->off, some = left;
        if (is_paced(l) && (some = sq_stages_allow(l->stages, c->due, left, now, &l->paced)) == 0)
            break;
        ssize_t n = out(l, fd, c->data + c->off, some);
        if (n < 0)
            return (int)n;
        c->off += (uint32_t)n;
        if (is_paced(l) && n > 0)
            sq_stages_sent(l->stages, c->due, (size_t)n, c->off == c->len && !c->next);
        if (c->off < c->len)
            continue;
        l->held -= sizeof(*c) + c->len;
        l->head = c->next;
        if (!l->head)
            l->tail = NULL;
        free(c);
    }
    return 0;
}

int64_t sq_lane_next(const struct sq_lane *l)
{
    if (l->head)
        return l->head->bh || l->blocked ? INT64_MAX : l->head->due > l->paced ? l->head->due : l->paced;
    if (l->end == SQ_END_NONE || l->end_bh || (l->stages && l->stages->swallows))
        return INT64_MAX;
    int64_t slow = l->lingers ? l->lingers + (l->stages ? sq_stages_linger(l->stages) : 0) : 0;
    return slow > l->end_due ? slow : l->end_due;
}

bool sq_lane_full(const struct sq_lane *l, int64_t now)
{
    bool delayed = l->last_due > now && !(l->head && l->head->bh);
    if (l->end == SQ_END_CLOSE)
        return true;
    if (is_paced(l) && !delayed)
        return l->held >= sq_stages_room(l->stages, SQ_LANE_HIGH, SQ_LANE_DELAY);
    return l->held >= (delayed ? SQ_LANE_DELAY : SQ_LANE_HIGH);
}

bool sq_lane_at_end(struct sq_lane *l, int64_t now)
{
    if (l->end == SQ_END_NONE || l->head || l->end_bh || l->end_due > now)
        return false;
    if (!l->stages)
        return true;
    if (l->stages->swallows && l->end != SQ_END_CLOSE)
        return false;
    if (!l->lingers)
        l->lingers = now;
    return l->lingers + sq_stages_linger(l->stages) <= now;
}

bool sq_lane_release(struct sq_lane *l, uint32_t gone, int64_t now)
{
    bool any = false;
    for (struct sq_chunk *c = l->head; c; c = c->next) {
        if (!(c->bh & gone))
            continue;
        c->bh &= ~gone;
        any = any || !c->bh;
        if (c->due < now && !c->bh)
            c->due = now;
    }
    if (l->end_bh & gone) {
        l->end_bh &= ~gone;
        any = any || !l->end_bh;
    }
    return any;
}
