#include "intercept/attach_seccomp.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "intercept/filters.h"
#include "intercept/inject.h"
#include "intercept/running_int.h"
#include "intercept/supervise.h"
#include "squall/cleanup.h"
#include "squall/door.h"
#include "squall/proc.h"
#include "target.h"

#define TREE_MOST 256 /* processes of one instance */

/* ---- whom ---- */

struct tree {
    pid_t pid[TREE_MOST];
    uint64_t start[TREE_MOST];
    size_t n;
    const pid_t *others;
    size_t n_others;
    struct stat self;
    bool grew;
    size_t over; /* there was no room for so many */
};

static bool in(const pid_t *of, size_t n, pid_t pid)
{
    for (size_t i = 0; i < n; i++)
        if (of[i] == pid)
            return true;
    return false;
}

static int adopt(pid_t pid, void *arg)
{
    struct tree *t = arg;
    struct sq_proc p;

    if (in(t->pid, t->n, pid) || in(t->others, t->n_others, pid) || sq_proc_read(pid, &p, NULL) < 0 || p.state == 'Z' ||
        p.state == 'X' || !in(t->pid, t->n, p.ppid) || sq_target_is_squall(&p, &t->self))
        return 0;
    if (t->n == TREE_MOST) {
        t->over++;
        return 0;
    }
    t->pid[t->n] = pid;
    t->start[t->n++] = p.start;
    t->grew = true;
    return 0;
}

/* True: there are new ones. */
static bool collect(struct tree *t)
{
    size_t before = t->n;

    do {
        t->grew = false;
        t->over = 0;
        (void)sq_proc_each(adopt, t);
    } while (t->grew);
    return t->n > before;
}

/* ---- one process ---- */

static struct sq_supervisor *ours(struct sq_intercept *ic, pid_t pid, uint64_t start)
{
    for (struct sq_supervisor *s = ic->sups; s; s = s->next)
        if (s->pid == pid && s->start == start)
            return s;
    return NULL;
}

int sq_attach_here(struct sq_err *e)
{
#if defined(__x86_64__)
    int rc;

    if (geteuid() == 0)
        return sq_intercept_check_seccomp(e);
    rc = sq_err_cls(e, SQ_C_UNSUPPORTED, -EPERM, "only root may intercept the calls of programs that run already");
    sq_err_hint(e, "run squalld as root");
    return rc;
#else
    return sq_err_cls(e, SQ_C_UNSUPPORTED, -ENOTSUP, "attaching by seccomp works on x86_64 only");
#endif
}

int sq_attach_here_filtered(struct sq_err *e)
{
    int rc = sq_attach_here(e);

    return rc < 0 ? rc : sq_filters_check(e);
}

int sq_attach_check(struct sq_intercept *ic, pid_t pid, uint64_t start, bool *filtered, struct sq_err *e)
{
    const struct sq_supervisor *s = ours(ic, pid, start);

    *filtered = false;
    if (s && s->caller)
        return sq_err_cls(e, SQ_C_CONFLICT, -EBUSY, "process %d is intercepted already, as %s of run %s", (int)pid,
                          s->caller->instance, s->caller->run);
    return s || sq_door_exists(pid, start) ? 0 : sq_inject_check(pid, start, filtered, e);
}

int sq_attach_look(struct sq_intercept *ic, pid_t pid, uint64_t start, bool dgram, struct sq_err *e)
{
    cleanup_free void *filter = NULL;
    bool filtered = false;
    size_t len = 0;
    int rc = sq_attach_check(ic, pid, start, &filtered, e);

    if (rc < 0 || !filtered)
        return rc;
    rc = sq_filter_build(dgram, &filter, &len, e);
    return rc ? rc : sq_inject_look(pid, start, filter, len, e);
}

/* One key a listener: the caller's number, and which of its processes. */
static uint64_t key_of(const struct sq_caller *c, size_t i)
{
    return (uint64_t)c->id | ((uint64_t)(i + 1) << 32);
}

/* From those who answer for it since its injector has ended, one after the other. */
static int take_back(struct sq_caller *c, pid_t pid, uint64_t start, size_t i, struct sq_err *e)
{
    int fd = -1, more = -1, rc = sq_door_knock(pid, start, &fd);

    if (rc == -EBUSY)
        return sq_err_cls(e, SQ_C_CONFLICT, rc, "process %d is intercepted by another injector, which lives", (int)pid);
    if (rc < 0)
        return sq_err_sys(e, rc, "the seccomp listener of process %d can't be taken back", (int)pid);
    rc = sq_supervise(c->ic, c, key_of(c, i), pid, start, fd, e);
    while (rc == 0 && sq_door_knock(pid, start, &more) == 0)
        (void)close(more);
    if (rc == 0)
        sq_supervise_door(c->ic, pid, start);
    return rc;
}

/* A filter can't be taken off, nor another one put beside it. */
static int no_dgrams(pid_t pid, struct sq_err *e)
{
    sq_err_cls(e, SQ_C_CONFLICT, -EBUSY,
               "process %d is under a seccomp filter of an earlier run, which may let datagrams go", (int)pid);
    sq_err_hint(e, "restart it, or leave out the edges with protocol udp or dns");
    return -EBUSY;
}

static int take(struct sq_caller *c, pid_t pid, uint64_t start, size_t i, struct sq_attached *out, struct sq_err *e)
{
    struct sq_supervisor *s = ours(c->ic, pid, start);
    cleanup_free void *filter = NULL;
    struct sq_injected in = {0};
    size_t len = 0;
    bool filtered = false;
    int rc = sq_attach_check(c->ic, pid, start, &filtered, e);

    if (rc < 0)
        return rc;
    if (c->running->dgram && (s ? !s->dgram : sq_door_exists(pid, start)))
        return no_dgrams(pid, e);
    if (s) {
        s->caller = c;
        return 0;
    }
    if (sq_door_exists(pid, start))
        return take_back(c, pid, start, i, e);
    rc = sq_filter_build(c->running->dgram, &filter, &len, e);
    rc = rc ? rc : sq_inject(pid, start, filter, len, &in, e);
    if (rc < 0)
        return rc;
    rc = sq_supervise(c->ic, c, key_of(c, i), pid, start, in.listener, e);
    s = ours(c->ic, pid, start);
    if (rc == 0 && s)
        s->dgram = c->running->dgram;
    if (rc == 0)
        sq_inject_done(&in);
    else
        sq_inject_leave(&in); /* it stays, and lets every call go */
    out->no_new_privs |= in.no_new_privs;
    out->rings |= in.rings;
    return rc;
}

/* A descendant: one that can't be taken is told of, and the others are. One that is under our filter already has it
 * from its parent, and with it the listener. */
static void take_below(struct sq_caller *c, const struct tree *t, size_t i, struct sq_attached *out)
{
    struct sq_err why = {0};
    int rc = take(c, t->pid[i], t->start[i], i, out, &why);

    if (rc == 0 || rc == -EALREADY) {
        out->processes++;
    } else if (why.cls != SQ_C_NOTFOUND) {
        out->missed++;
        (void)snprintf(out->why, sizeof(out->why), "%.250s", why.msg);
    }
}

int sq_attach_tree(struct sq_caller *c, pid_t pid, uint64_t start, const pid_t *others, size_t n,
                   struct sq_attached *out, struct sq_err *e)
{
    cleanup_free struct tree *t = calloc(1, sizeof(*t));
    bool any = false, filtered;
    int rc;

    *out = (struct sq_attached){0};
    if (!t)
        return sq_err(e, -ENOMEM, "out of memory");
    if (stat("/proc/self/exe", &t->self) < 0)
        t->self.st_ino = 0;
    t->others = others;
    t->n_others = n;
    t->pid[0] = pid;
    t->start[0] = start;
    t->n = 1;
    collect(t);
    for (size_t i = 0; i < t->n && !any; i++)
        any = sq_inject_check(t->pid[i], t->start[i], &filtered, NULL) == 0 && filtered;
    rc = take(c, pid, start, 0, out, e);
    if (rc < 0)
        return rc;
    out->processes = 1;
    for (size_t i = 1; i < t->n; i++)
        take_below(c, t, i, out);
    /* Forked meanwhile, by one that had no filter yet. All others are born under it, which those of ANY have to be
     * asked. */
    for (size_t from = t->n; collect(t); from = t->n)
        for (size_t i = from; i < t->n; i++)
            if (sq_inject_check(t->pid[i], t->start[i], &filtered, NULL) == 0 && (any || !filtered))
                take_below(c, t, i, out);
    if (t->over) {
        out->missed += t->over;
        (void)snprintf(out->why, sizeof(out->why), "there are more than %d processes", TREE_MOST);
    }
    return 0;
}
