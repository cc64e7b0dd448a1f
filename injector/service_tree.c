/* Which processes belong to a launched instance, and how they are ended whoever is left to do it. */
#include "service_tree.h"

#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "service.h"
#include "squall/cleanup.h"
#include "squall/clock.h"
#include "squall/json.h"
#include "squall/proc.h"
#include "squall/units.h"

#define MAX_PROCS 65536

int sq_tree_of(const json_t *undo, struct sq_tree *t, struct sq_err *e)
{
    memset(t, 0, sizeof *t);
    const char *cgroup = sq_json_str_or(undo, "cgroup", ""), *mark = sq_json_str_or(undo, "mark", "");
    int64_t pid = sq_json_int_or(undo, "pid", 0), start = sq_json_int_or(undo, "start", 0);
    int64_t sid = sq_json_int_or(undo, "sid", 0);
    if (strlen(cgroup) >= sizeof t->cgroup || !*mark || strlen(mark) >= sizeof t->mark || pid < 0 || pid > INT32_MAX ||
        start < 0 || sid < 0 || sid > INT32_MAX)
        return sq_err(e, -EINVAL, "not an undo record of a service");
    memcpy(t->cgroup, cgroup, strlen(cgroup) + 1);
    memcpy(t->mark, mark, strlen(mark) + 1);
    t->pid = (pid_t)pid;
    t->start = (uint64_t)start;
    t->sid = (pid_t)sid;
    return 0;
}

/* ---- all processes, once ---- */

struct entry {
    struct sq_proc p;
    bool in;
};

struct table {
    struct entry *v;
    size_t n, cap;
};

static int push(struct table *all, const struct sq_proc *p)
{
    if (all->n == all->cap) {
        size_t cap = all->cap ? all->cap * 2 : 256;
        struct entry *v = cap > MAX_PROCS ? NULL : realloc(all->v, cap * sizeof *v);
        if (!v)
            return -ENOMEM;
        all->v = v;
        all->cap = cap;
    }
    all->v[all->n++] = (struct entry){.p = *p};
    return 0;
}

static int collect(pid_t pid, void *arg)
{
    struct sq_proc p;
    return sq_proc_read(pid, &p, NULL) == 0 ? push(arg, &p) : 0;
}

static int collect_cgroup(pid_t pid, void *arg)
{
    void **a = arg;
    const struct sq_tree *t = a[1];
    struct sq_proc p;
    if (sq_proc_read(pid, &p, NULL) < 0 || !sq_cgroup_has(t->cgroup, pid))
        return 0;
    struct table *all = a[0];
    int r = push(all, &p);
    if (r == 0)
        all->v[all->n - 1].in = true;
    return r;
}

static bool is_leader(const struct sq_tree *t, const struct sq_proc *p)
{
    return t->pid && p->pid == t->pid && p->start == t->start;
}

/* The session counts while its leader is there (a zombie will do: squalld reaps it last), because a session number is
 * the leader's pid and could be another session's after it. */
static void mark_members(const struct sq_tree *t, struct table *all)
{
    bool session = false;
    for (size_t i = 0; i < all->n; i++)
        session |= t->sid && t->sid == t->pid && is_leader(t, &all->v[i].p);
    for (size_t i = 0; i < all->n; i++) {
        struct sq_proc *p = &all->v[i].p;
        if (p->pid <= 2 || p->ppid == 2 ||
            (t->start && p->start < t->start)) /* nobody in it is older than its leader */
            continue;
        all->v[i].in =
            is_leader(t, p) || (session && p->sid == t->sid) || sq_proc_has_env(p->pid, SQ_MARK_NAME, t->mark);
    }
    for (bool more = true; more;) {
        more = false;
        for (size_t i = 0; i < all->n; i++)
            for (size_t k = 0; !all->v[i].in && all->v[i].p.ppid > 1 && k < all->n; k++)
                if (all->v[k].in && all->v[k].p.pid == all->v[i].p.ppid)
                    more = all->v[i].in = true;
    }
}

int sq_tree_list(const struct sq_tree *t, struct sq_member **out, size_t *n, struct sq_err *e)
{
    struct table all = {0};
    void *arg[2] = {&all, (void *)(uintptr_t)t};
    int r = t->cgroup[0] ? sq_cgroup_each(t->cgroup, collect_cgroup, arg) : sq_proc_each(collect, &all);
    if (r == 0 && !t->cgroup[0])
        mark_members(t, &all);
    struct sq_member *m = r == 0 ? calloc(all.n + 1, sizeof *m) : NULL;
    if (!m) {
        free(all.v);
        return sq_err_sys(e, r < 0 ? r : -ENOMEM, "cannot list the processes of %s", t->mark);
    }
    *n = 0;
    pid_t self = getpid(), parent = getppid();
    for (size_t i = 0; i < all.n; i++) {
        const struct sq_proc *p = &all.v[i].p;
        if (!all.v[i].in || p->state == 'Z' || p->state == 'X' || p->pid == self || p->pid == parent)
            continue;
        m[*n] = (struct sq_member){.pid = p->pid, .start = p->start, .state = p->state};
        memcpy(m[(*n)++].comm, p->comm, sizeof p->comm);
    }
    free(all.v);
    *out = m;
    return 0;
}

int sq_tree_signal(const struct sq_tree *t, int sig)
{
    cleanup_free struct sq_member *m = NULL;
    size_t n = 0;
    int got = 0;
    if (sq_tree_list(t, &m, &n, NULL) < 0)
        return 0;
    for (size_t i = 0; i < n; i++) {
        cleanup_close int fd = sq_proc_pidfd(m[i].pid, m[i].start, NULL);
        if (fd >= 0 && sq_pidfd_signal(fd, sig) == 0)
            got++;
    }
    return got;
}

int sq_tree_kill(const struct sq_tree *t)
{
    if (!t->cgroup[0])
        return sq_tree_signal(t, SIGKILL);
    if (sq_cgroup_empty(t->cgroup))
        return 0;
    if (sq_cgroup_kill(t->cgroup, NULL) < 0)
        (void)sq_tree_signal(t, SIGKILL);
    return 1;
}

bool sq_tree_empty(const struct sq_tree *t)
{
    if (t->cgroup[0])
        return sq_cgroup_empty(t->cgroup);
    cleanup_free struct sq_member *m = NULL;
    size_t n = 0;
    return sq_tree_list(t, &m, &n, NULL) == 0 && n == 0;
}

/* ---- undo records ---- */

/* An exec'd command is a person's: it goes back to where it came from and lives on. */
static int send_home(pid_t pid, void *arg)
{
    (void)sq_cgroup_enter(arg, pid, NULL); /* one that is ending cannot be moved */
    return 0;
}

static int revert_exec(const json_t *undo, const struct sq_tree *t, struct sq_err *e)
{
    const char *home = sq_json_str_or(undo, "home", "");
    if (!t->cgroup[0])
        return 0;
    struct sq_err ignored = {0};
    (void)sq_cgroup_freeze(t->cgroup, false, &ignored);
    for (int i = 0; *home && i < 10 && !sq_cgroup_empty(t->cgroup); i++)
        (void)sq_cgroup_each(t->cgroup, send_home, (void *)(uintptr_t)home);
    return sq_cgroup_remove(t->cgroup, e);
}

int sq_service_revert(struct sq_engine *eng, const json_t *undo, struct sq_err *e)
{
    struct sq_tree t;
    if (strcmp(sq_json_str_or(undo, "boot", ""), sq_boot_id()) != 0)
        return 0; /* it ended with that boot */
    int r = sq_tree_of(undo, &t, e);
    if (r < 0)
        return r;
    if (sq_json_bool_or(undo, "exec", false))
        return revert_exec(undo, &t, e);
    int64_t end = sq_mono_ns() + 2 * SQ_S;
    int alive = sq_tree_kill(&t);
    while (!eng && alive && sq_mono_ns() < end) {
        struct timespec nap = {.tv_nsec = 5 * SQ_MS};
        (void)nanosleep(&nap, NULL);
        alive = sq_tree_kill(&t); /* again: one may have forked between the list and the signal */
    }
    if (eng && alive)
        return 0; /* the loop must not wait: sq_service_gone tells */
    if (alive)
        return sq_err(e, -EBUSY, "processes of %s are still there after 2 s of SIGKILL", t.mark);
    return t.cgroup[0] ? sq_cgroup_remove(t.cgroup, e) : 0;
}

int sq_service_gone(struct sq_engine *eng, const json_t *undo, struct sq_err *e)
{
    struct sq_tree t;
    (void)eng;
    if (strcmp(sq_json_str_or(undo, "boot", ""), sq_boot_id()) != 0)
        return 0;
    int r = sq_tree_of(undo, &t, e);
    if (r < 0)
        return r;
    bool exec = sq_json_bool_or(undo, "exec", false);
    cleanup_free struct sq_member *m = NULL;
    size_t n = 0;
    r = sq_tree_list(&t, &m, &n, e);
    if (r < 0)
        return r;
    if (n && (!exec || t.cgroup[0]))
        return sq_err(e, -EBUSY, "%zu process%s of %s left (%s, pid %d)", n, n == 1 ? "" : "es", t.mark, m[0].comm,
                      (int)m[0].pid);
    if (t.cgroup[0] && access(t.cgroup, F_OK) == 0)
        return sq_err(e, -EBUSY, "the cgroup %s is left", t.cgroup);
    return 0;
}
