/* Which processes running callers are now. */
#include <errno.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/stat.h>

#include "intercept/follow.h"
#include "intercept/running.h"
#include "intercept/running_int.h"
#include "squall/proc.h"

static int push(struct sq_pids *p, pid_t pid)
{
    if (p->n == p->cap) {
        size_t cap = p->cap ? p->cap * 2 : 64;
        pid_t *more = realloc(p->pid, cap * sizeof *more);

        if (!more)
            return -ENOMEM;
        p->pid = more;
        p->cap = cap;
    }
    p->pid[p->n++] = pid;
    return 0;
}

static void push_followed(pid_t pid, const struct sq_tgid *whose, void *arg)
{
    (void)whose;
    (void)push(arg, pid);
}

static int push_member(pid_t pid, void *arg)
{
    return push(arg, pid);
}

#define PASSES 8                /* over /proc, until one finds nobody new: who forks for ever is not waited for */
#define PIDS (4u * 1024 * 1024) /* PID_MAX_LIMIT, include/linux/threads.h */

/* The processes and all their descendants as they are now, without asking BPF. */
struct family {
    struct sq_pids p;
    uint64_t *in; /* the same, a bit for each number */
    struct stat self;
    size_t found;
};

static bool in(const struct family *f, pid_t pid)
{
    uint32_t n = (uint32_t)pid % PIDS;

    return f->in[n / 64] >> (n % 64) & 1;
}

static int enter(pid_t pid, void *arg)
{
    struct family *f = arg;
    uint32_t n = (uint32_t)pid % PIDS;

    f->in[n / 64] |= UINT64_C(1) << (n % 64);
    return push(&f->p, pid);
}

static int adopt(pid_t pid, void *arg)
{
    struct family *f = arg;
    struct sq_proc p;

    if (in(f, pid) || sq_proc_read(pid, &p, NULL) < 0 || p.state == 'Z' || p.state == 'X' || !in(f, p.ppid) ||
        sq_target_is_squall(&p, &f->self))
        return 0;
    f->found++;
    return enter(pid, f);
}

int sq_found_family(const struct sq_found *found, struct sq_pids *out, struct sq_err *e)
{
    struct family f = {.in = calloc(PIDS / 64, sizeof *f.in)};
    int rc = f.in ? 0 : -ENOMEM;

    if (stat("/proc/self/exe", &f.self) < 0)
        f.self.st_ino = 0;
    for (size_t i = 0; i < found->n && rc == 0; i++)
        rc = enter(found->v[i].pid, &f);
    if (rc == 0 && found->cgroup[0])
        rc = sq_cgroup_each(found->cgroup, enter, &f);
    for (int i = 0; i < PASSES && rc == 0 && !found->cgroup[0] && (i == 0 || f.found); i++) {
        f.found = 0;
        rc = sq_proc_each(adopt, &f);
    }
    free(f.in);
    if (rc < 0) {
        free(f.p.pid);
        return sq_err(e, rc, "out of memory");
    }
    *out = f.p;
    return 0;
}

int sq_running_processes(const struct sq_running *r, pid_t **out, size_t *n, struct sq_err *e)
{
    struct sq_found now = {0};
    struct sq_pids p = {0};
    int rc = 0;

    if (r->follow)
        sq_follow_each(r->follow, push_followed, &p);
    else if (!r->seccomp)
        (void)sq_cgroup_each(r->cgroup, push_member, &p);
    else
        now.v = calloc(r->n + 1, sizeof *now.v);
    for (size_t i = 0; now.v && i < r->n; i++)
        if (r->one[i].pidfd >= 0)
            now.v[now.n++].pid = r->one[i].pid;
    if (r->seccomp)
        rc = now.v ? sq_found_family(&now, &p, e) : sq_err(e, -ENOMEM, "out of memory");
    free(now.v);
    if (rc == 0 && !p.pid)
        p.pid = calloc(1, sizeof *p.pid);
    if (rc < 0 || !p.pid)
        return rc < 0 ? rc : sq_err(e, -ENOMEM, "out of memory");
    *out = p.pid;
    *n = p.n;
    return 0;
}
