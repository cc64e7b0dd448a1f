/* The seccomp supervisor: takes notifications from the listeners of launched programs and answers each at once. */
#include "intercept/supervise.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "intercept/agent.h"
#include "page.h"
#include "squall/cleanup.h"
#include "squall/door.h"
#include "squall/guard.h"
#include "squall/json.h"
#include "squall/rng.h"

#ifndef SECCOMP_IOCTL_NOTIF_SET_FLAGS /* Linux 6.6 */
#define SECCOMP_IOCTL_NOTIF_SET_FLAGS SECCOMP_IOW(4, __u64)
#endif
#define SYNC_WAKE_UP 1ul

uint32_t sq_decide_rnd(void)
{
    return (uint32_t)(sq_rng_entropy() >> 32);
}

static void end(struct sq_supervisor *s)
{
    sq_ic_unpoll(s->ic, &s->poll);
    sq_ic_unpoll(s->ic, &s->at_door);
    (void)close(s->fd);
    if (s->door >= 0)
        (void)close(s->door);
    if (s->last_tid)
        (void)close(s->last_pidfd);
    free(s);
}

static void forget(struct sq_supervisor *s)
{
    cleanup_json json_t *msg = json_pack("{s:s,s:I}", "op", "listener", "key", (json_int_t)s->key);
    struct sq_supervisor **p = &s->ic->sups;

    while (*p && *p != s)
        p = &(*p)->next;
    if (*p)
        *p = s->next;
    if (s->ic->o.listener)
        s->ic->o.listener(s->ic->o.arg, s->key, -1, -1);
    (void)sq_link_send(s->ic, msg, NULL, 0, NULL);
    end(s);
}

static void reply(struct sq_supervisor *s, uint64_t id, const struct sq_reply *r)
{
    struct seccomp_notif_resp resp = {.id = id};

    if (r->cont)
        resp.flags = SECCOMP_USER_NOTIF_FLAG_CONTINUE;
    else
        resp.error = r->error;
    resp.val = r->value;
    /* ENOENT: the process was killed meanwhile. */
    (void)ioctl(s->fd, SECCOMP_IOCTL_NOTIF_SEND, &resp);
}

/* What becomes of notification N. In the guard. */
static void decide(struct sq_supervisor *s, const struct seccomp_notif *n, struct sq_reply *r)
{
    struct sq_attempt a;
    int rc;

    if (!s->caller || !n->pid || s->ic->link.dead || sq_dgram_notified(s, n, r))
        return;
    rc = sq_attempt_parse(n, &a);
    if (rc == 1)
        rc = sq_attempt_read(&a);
    if (rc == -EPERM && !s->caller->warned) {
        s->caller->warned = true;
        sq_ic_warn(s->ic, s->caller->run, "%s can't be looked into (ptrace rights, Yama): its calls go past the proxy",
                   s->caller->instance);
    }
    /* What was read is that process's only if the process still waits; its number may have been reused. */
    if (rc == 0 && a.to_len && ioctl(s->fd, SECCOMP_IOCTL_NOTIF_ID_VALID, &n->id) == 0)
        sq_attempt_decide(s, &a, r);
}

/* One guard for all of a call that could wait. -errno: there was none. */
static int serve(struct sq_supervisor *s)
{
    struct sq_reply r = {.cont = true};
    struct seccomp_notif n;
    int rc;

    sq_guard_begin();
    rc = sq_notif_recv_guarded(s->fd, &n);
    if (rc == 0) {
        if (s->seen)
            __atomic_store_n(s->seen, n.id, __ATOMIC_RELEASE);
        decide(s, &n, &r);
    }
    sq_guard_end();
    if (rc == 0 && !r.later)
        reply(s, n.id, &r);
    return rc;
}

/* One at a time: the loop asks for more as cheaply as we could. Receiving when the last process under this filter is
 * gone fails, at once or (before Linux 6.11) by the guard. */
static void on_notify(uv_poll_t *p, int status, int events)
{
    struct sq_supervisor *s = p->data;
    struct pollfd pfd = {.fd = s->fd, .events = POLLIN};

    (void)status;
    (void)events;
    if (serve(s) < 0 && poll(&pfd, 1, 0) > 0 && !(pfd.revents & POLLIN))
        forget(s);
}

static void tell_proxy(struct sq_supervisor *s)
{
    cleanup_json json_t *msg =
        json_pack("{s:s,s:I,s:I}", "op", "listener", "key", (json_int_t)s->key, "seen", sq_link_offset(s->ic, s->seen));

    (void)sq_link_send(s->ic, msg, (int[]){s->fd, s->door}, s->door < 0 ? 1 : 2, NULL);
}

static void hand_over(struct sq_supervisor *s)
{
    int copy = fcntl(s->fd, F_DUPFD_CLOEXEC, 3);

    if (s->ic->o.listener && copy >= 0)
        s->ic->o.listener(s->ic->o.arg, s->key, copy, s->door);
    else if (copy >= 0)
        (void)close(copy);
    if (s->ic->o.seen)
        s->seen = s->ic->o.seen(s->ic->o.arg, s->key);
    tell_proxy(s);
}

void sq_supervise_tell_proxy(struct sq_intercept *ic)
{
    for (struct sq_supervisor *s = ic->sups; s; s = s->next)
        tell_proxy(s);
}

/* Another injector asks. What no run of ours needs is given away, with what keeper and proxy have of it. */
static void on_door(uv_poll_t *p, int status, int events)
{
    struct sq_supervisor *s = p->data;

    (void)status;
    (void)events;
    if (sq_door_give(s->door, s->caller ? -1 : s->fd))
        forget(s);
}

static void open_door(struct sq_supervisor *s)
{
    s->door = s->start ? sq_door_open(s->pid, s->start) : -1;
    s->at_door = s->door >= 0 ? sq_ic_poll(s->ic, s->door, UV_READABLE, on_door, s) : NULL;
}

void sq_supervise_door(struct sq_intercept *ic, pid_t pid, uint64_t start)
{
    for (struct sq_supervisor *s = ic->sups; s; s = s->next)
        if (s->pid == pid && s->start == start && s->door < 0) {
            open_door(s);
            hand_over(s);
        }
}

int sq_supervise(struct sq_intercept *ic, struct sq_caller *c, uint64_t key, pid_t pid, uint64_t start, int listener,
                 struct sq_err *e)
{
    struct sq_supervisor *s = calloc(1, sizeof(*s));

    if (!s) {
        (void)close(listener);
        return sq_err(e, -ENOMEM, "out of memory");
    }
    s->ic = ic;
    s->caller = c;
    s->key = key;
    s->pid = pid;
    s->start = start;
    s->fd = listener;
    s->door = -1;
    /* Without it, supervisor and process wake each other on different processors: 40 us a call instead of 5. */
    (void)ioctl(listener, SECCOMP_IOCTL_NOTIF_SET_FLAGS, SYNC_WAKE_UP);
    s->poll = sq_ic_poll(ic, listener, UV_READABLE, on_notify, s);
    if (!s->poll) {
        (void)close(listener);
        free(s);
        return sq_err(e, -ENOMEM, "out of memory");
    }
    sq_guard_ready();
    s->next = ic->sups;
    ic->sups = s;
    open_door(s);
    hand_over(s);
    return 0;
}

/* Without the proxy, or without the keeper, our parent: the other one should not be the only one to answer. */
static void leave_to_agent(struct sq_intercept *ic)
{
    struct sq_left left[SQ_CALLERS];
    size_t n = 0;

    for (const struct sq_supervisor *s = ic->sups; s && n < SQ_CALLERS; s = s->next)
        left[n++] = (struct sq_left){s->fd, s->door};
    if (n > 0 && (!sq_link_alive(ic) || getppid() != ic->parent))
        (void)sq_agent_start(left, n, ic->o.held, ic->o.held ? SQ_MAX_HELD : 0);
}

/* Keeper and proxy, or an agent, hold theirs, and answer while anybody is left. */
void sq_supervise_end_all(struct sq_intercept *ic)
{
    leave_to_agent(ic);
    for (struct sq_supervisor *s = ic->sups, *next; s; s = next) {
        next = s->next;
        end(s);
    }
    ic->sups = NULL;
}
