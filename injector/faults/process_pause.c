/* process/pause: processes stand still until the fault ends. SIGSTOP with the rights of the peer that asked, or the
 * cgroup freezer where a service's whole tree is in a cgroup of its own. What was standing still before stays so. */
#include "faults/fault.h"

static const struct sq_param with[] = {
    {"method", SQ_P_ENUM, 0, "auto", "auto|signal|freezer",
     "signal: SIGSTOP to the process; freezer: the whole cgroup of a service; auto: the freezer where it can"},
    SQ_PARAM_DOSE,
    SQ_PARAM_END,
};

const struct sq_fault_spec sq_spec_process_pause = {
    .name = "process/pause",
    .doc = "Stops the chosen processes (SIGSTOP or the cgroup freezer) and lets them go on at its end.",
    .target = SQ_T_PROCESS,
    .with = with,
};

#ifndef SQ_SPEC_ONLY

#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "cgroup.h"
#include "engine.h"
#include "runas.h"
#include "service_tree.h"
#include "squall/cleanup.h"
#include "squall/clock.h"
#include "squall/json.h"
#include "squall/proc.h"
#include "squall/units.h"
#include "target.h"

#define READBACK_NS (200 * SQ_MS)
#define MAX_TREE 64 /* processes of one service without a cgroup: their prior states must fit one record */

struct one { /* a process to stop */
    pid_t pid;
    uint64_t start;
    int pidfd;
    bool was; /* it was stopped before */
};

struct group { /* what one record undoes */
    const struct sq_victim *v;
    bool freezer, was; /* was: the cgroup was frozen before */
    struct one *p;
    size_t n;
};

struct pause {
    struct sq_victim *v;
    struct group *g;
    size_t n;
    bool control; /* nothing is stopped: all is taken for stopped before, so that nothing is let go on either */
};

static void forget(struct pause *p)
{
    for (size_t i = 0; p->g && i < p->n; i++) {
        for (size_t k = 0; k < p->g[i].n; k++)
            if (p->g[i].p[k].pidfd >= 0)
                close(p->g[i].p[k].pidfd);
        free(p->g[i].p);
    }
    free(p->g);
    sq_victims_free(p->v, p->n);
    memset(p, 0, sizeof *p);
}

static int resolve(struct sq_fault *f, struct sq_err *e)
{
    struct pause *p = f->priv ? f->priv : calloc(1, sizeof *p);
    if (!p)
        return sq_err(e, -ENOMEM, "out of memory");
    f->priv = p;
    forget(p);
    int r = sq_target_dose(f, &p->control, e);
    if (r == 0)
        r = sq_target_resolve(f, &p->v, &p->n, e);
    if (r < 0)
        return r;
    p->g = calloc(p->n ? p->n : 1, sizeof *p->g);
    if (!p->g)
        return sq_err(e, -ENOMEM, "out of memory");
    const char *method = sq_json_str_or(f->with, "method", "auto");
    for (size_t i = 0; i < p->n; i++) {
        p->g[i].v = &p->v[i];
        p->g[i].freezer = strcmp(method, "signal") != 0 && p->v[i].cgroup[0];
        if (strcmp(method, "freezer") == 0 && !p->g[i].freezer) {
            sq_err_cls(e, SQ_C_UNSUPPORTED, -ENOTSUP, "process %d (%s) has no cgroup of its own to freeze",
                       (int)p->v[i].pid, p->v[i].cmd);
            sq_err_hint(e, "only services that Squall starts as root have one; method: signal works without");
            return -ENOTSUP;
        }
    }
    return 0;
}

/* ---- the record ---- */

static bool is_control(const struct sq_fault *f)
{
    return ((const struct pause *)f->priv)->control;
}

static int probe(void *arg)
{
    return sq_pidfd_signal(*(const int *)arg, 0);
}

static int denied(const struct sq_fault *f, pid_t pid, const char *cmd, struct sq_err *e)
{
    sq_err_cls(e, SQ_C_DENIED, -EPERM, "uid %u may not stop process %d (%s)", (unsigned)f->peer.uid, (int)pid, cmd);
    sq_err_hint(e, "it belongs to another user: ask as that user or as root");
    return -EPERM;
}

/* The undo has our rights, not the peer's: what the peer may not signal must not even get into a record. */
static int add_process(struct sq_fault *f, struct group *g, pid_t pid, uint64_t start, struct sq_err *e)
{
    struct sq_proc p;
    cleanup_close int fd = sq_proc_pidfd(pid, start, e);
    if (fd < 0)
        return fd;
    int r = sq_proc_read(pid, &p, e);
    if (r == 0)
        r = sq_run_as(&f->peer, probe, &fd, e);
    if (r == -EPERM)
        return denied(f, pid, g->v->cmd, e);
    if (r < 0)
        return sq_err_sys(e, r, "cannot stop process %d (%s)", (int)pid, g->v->cmd);
    struct one *v = realloc(g->p, (g->n + 1) * sizeof *v);
    if (!v)
        return sq_err(e, -ENOMEM, "out of memory");
    g->p = v;
    g->p[g->n++] =
        (struct one){.pid = pid, .start = start, .pidfd = SQ_TAKE_FD(fd), .was = p.state == 'T' || is_control(f)};
    return 0;
}

/* A service without a cgroup is paused as a whole, too: its session, its marked processes and their children. */
static int add_tree(struct sq_fault *f, struct group *g, struct sq_err *e)
{
    const char *dir = sq_engine_dir(f->engine), *base = strrchr(dir, '/');
    struct sq_tree t = {.pid = g->v->pid, .start = g->v->start, .sid = g->v->pid};
    (void)snprintf(t.mark, sizeof t.mark, "%s/%s@%s", sq_run_id(f->run), g->v->instance, base ? base + 1 : dir);
    cleanup_free struct sq_member *m = NULL;
    size_t n = 0;
    int r = sq_tree_list(&t, &m, &n, e);
    if (r < 0)
        return r;
    if (n > MAX_TREE)
        return sq_err(e, -E2BIG, "%s has %zu processes and no cgroup: at most %d can be paused", g->v->instance, n,
                      MAX_TREE);
    for (size_t i = 0; i < n; i++)
        if (m[i].pid != g->v->pid && r == 0 && add_process(f, g, m[i].pid, m[i].start, e) == -EPERM)
            r = -EPERM; /* anything else: it may have ended meanwhile */
    if (r == 0)
        sq_err_clear(e);
    return r;
}

static json_t *processes(const struct group *g)
{
    json_t *a = json_array();
    for (size_t i = 1; i < g->n; i++)
        json_array_append_new(a, json_pack("[i,I,b]", (int)g->p[i].pid, (json_int_t)g->p[i].start, (int)g->p[i].was));
    return a;
}

struct members {
    const struct sq_fault *f;
    struct sq_err *e;
};

/* kill(2), told from the outside: the freezer asks nobody for the right to. */
static int is_the_peers(pid_t pid, void *arg)
{
    const struct members *m = arg;
    uid_t uid = m->f->peer.uid;
    struct sq_proc p;
    if (sq_proc_read(pid, &p, NULL) < 0 || p.ruid == uid || p.suid == uid)
        return 0;
    return denied(m->f, pid, p.comm, m->e);
}

static int describe_cgroup(struct sq_fault *f, struct group *g, struct sq_err *e)
{
    struct members m = {f, e};
    int r = f->peer.uid ? sq_cgroup_each(g->v->cgroup, is_the_peers, &m) : 0;
    r = r < 0 ? r : sq_cgroup_frozen(g->v->cgroup, &g->was, e);
    g->was = g->was || is_control(f);
    return r;
}

static int describe(struct sq_fault *f, struct group *g, json_t *records, struct sq_err *e)
{
    const struct sq_victim *v = g->v;
    int r = 0;
    if (g->freezer) {
        r = describe_cgroup(f, g, e);
    } else {
        r = add_process(f, g, v->pid, v->start, e);
        if (r == 0 && v->instance[0])
            r = add_tree(f, g, e);
    }
    if (r < 0)
        return r;
    bool was = g->freezer ? g->was : g->p[0].was;
    json_t *o = json_pack("{s:s,s:i,s:I,s:s,s:s,s:s,s:s}", "boot", sq_boot_id(), "pid", (int)v->pid, "start",
                          (json_int_t)v->start, "was", was ? "T" : "R", "method", g->freezer ? "freezer" : "signal",
                          "run", v->instance[0] ? sq_run_id(f->run) : "", "instance", v->instance);
    if (!o)
        return sq_err(e, -ENOMEM, "out of memory");
    json_object_set_new(o, "cgroup", g->freezer ? json_string(v->cgroup) : json_null());
    if (g->n > 1)
        json_object_set_new(o, "more", processes(g));
    return json_array_append_new(records, o) < 0 ? sq_err(e, -ENOMEM, "out of memory") : 0;
}

static int undo(struct sq_fault *f, json_t *records, struct sq_err *e)
{
    struct pause *p = f->priv;
    for (size_t i = 0; i < p->n; i++) {
        int r = describe(f, &p->g[i], records, e);
        if (r < 0)
            return r;
    }
    return 0;
}

/* ---- doing it ---- */

static int stop(void *arg)
{
    return sq_pidfd_signal(*(const int *)arg, SIGSTOP);
}

static int stop_one(struct sq_fault *f, const struct sq_victim *v, struct one *p, struct sq_err *e)
{
    int r = p->was ? 0 : sq_run_as(&f->peer, stop, &p->pidfd, e);
    if (r == -EPERM) {
        r = denied(f, p->pid, v->cmd, e);
    } else if (r == -ESRCH) {
        sq_err_cls(e, SQ_C_NOTFOUND, r, "process %d (%s) ended before it could be stopped", (int)p->pid, v->cmd);
    } else if (r < 0) {
        sq_err_sys(e, r, "cannot stop process %d (%s)", (int)p->pid, v->cmd);
    }
    return r;
}

static int apply(struct sq_fault *f, struct sq_err *e)
{
    struct pause *p = f->priv;
    for (size_t i = 0; i < p->n; i++) {
        struct group *g = &p->g[i];
        int r = g->freezer && !g->was ? sq_cgroup_freeze(g->v->cgroup, true, e) : 0;
        for (size_t k = 0; r == 0 && k < g->n; k++) {
            r = stop_one(f, g->v, &g->p[k], e);
            if (r == -ESRCH && k > 0) { /* a child may come and go */
                sq_err_clear(e);
                r = 0;
            }
        }
        if (r < 0)
            return r;
    }
    return 0;
}

/* Do all of its threads stand still? (A stopped process's state is shown for each thread.) */
static bool all_stopped(pid_t pid)
{
    char path[64], file[128];
    (void)snprintf(path, sizeof path, "/proc/%d/task", (int)pid);
    DIR *d = opendir(path);
    if (!d)
        return false;
    bool stopped = true, any = false;
    for (const struct dirent *de; stopped && (de = readdir(d));) {
        if (!isdigit((unsigned char)de->d_name[0]))
            continue;
        char text[512];
        (void)snprintf(file, sizeof file, "/proc/%d/task/%.20s/stat", (int)pid, de->d_name);
        cleanup_close int fd = open(file, O_RDONLY | O_CLOEXEC);
        ssize_t n = fd < 0 ? -1 : read(fd, text, sizeof text - 1);
        if (n <= 0)
            continue; /* the thread ended */
        text[n] = '\0';
        const char *paren = strrchr(text, ')');
        any = true;
        stopped = paren && paren[1] == ' ' && paren[2] == 'T';
    }
    closedir(d);
    return any && stopped;
}

static bool still(const struct group *g, size_t k)
{
    if (g->freezer) {
        bool frozen = false;
        return sq_cgroup_frozen(g->v->cgroup, &frozen, NULL) == 0 && frozen;
    }
    cleanup_close int same = sq_proc_pidfd(g->p[k].pid, g->p[k].start, NULL);
    return (same < 0 && k > 0) || (same >= 0 && all_stopped(g->p[k].pid));
}

/* Blocks for at most 200 ms; a process stops as soon as it leaves the kernel. */
static int readback(struct sq_fault *f, json_t **out, struct sq_err *e)
{
    const struct pause *p = f->priv;
    int64_t until = sq_mono_ns() + READBACK_NS;
    json_t *list = json_array();
    int r = 0;
    for (size_t i = 0; i < p->n; i++) {
        const struct group *g = &p->g[i];
        bool ok = true;
        for (size_t k = 0; k < (p->control ? 0 : g->freezer ? 1 : g->n); k++) {
            bool now = still(g, k);
            while (!now && sq_mono_ns() < until) {
                struct timespec nap = {.tv_nsec = SQ_MS};
                (void)nanosleep(&nap, NULL);
                now = still(g, k);
            }
            ok = ok && now;
        }
        json_array_append_new(list, json_pack("{s:i,s:s,s:s,s:b}", "pid", (int)g->v->pid, "state",
                                              p->control ? "spared"
                                              : ok       ? "stopped"
                                                         : "running",
                                              "method", g->freezer ? "freezer" : "signal", "was_stopped",
                                              g->freezer ? (int)g->was : (int)(g->n && g->p[0].was)));
        if (!ok && r == 0)
            r = sq_err(e, -EBADE, "process %d (%s) did not stop within 200 ms", (int)g->v->pid, g->v->cmd);
    }
    *out = json_pack("{s:o}", "processes", list);
    return r;
}

/* ---- taking it back ---- */

/* Each process of the record that was running before. */
static int each_process(const json_t *rec, int (*fn)(pid_t pid, uint64_t start, struct sq_err *e), struct sq_err *e)
{
    int r = 0;
    if (strcmp(sq_json_str_or(rec, "was", "R"), "T") != 0)
        r = fn((pid_t)sq_json_int_or(rec, "pid", 0), (uint64_t)sq_json_int_or(rec, "start", 0), e);
    const json_t *more = json_object_get(rec, "more"), *one;
    size_t i;
    json_array_foreach(more, i, one)
    {
        if (json_is_true(json_array_get(one, 2)))
            continue;
        int k = fn((pid_t)json_integer_value(json_array_get(one, 0)),
                   (uint64_t)json_integer_value(json_array_get(one, 1)), e);
        r = r < 0 ? r : k;
    }
    return r;
}

static int resume(pid_t pid, uint64_t start, struct sq_err *e)
{
    cleanup_close int fd = pid > 0 ? sq_proc_pidfd(pid, start, NULL) : -ESRCH;
    if (fd == -ESRCH)
        return 0; /* it is gone, or another one has its number */
    int r = fd < 0 ? fd : sq_pidfd_signal(fd, SIGCONT);
    return r == -ESRCH || r == 0 ? 0 : sq_err_sys(e, r, "cannot continue process %d", (int)pid);
}

static int running(pid_t pid, uint64_t start, struct sq_err *e)
{
    struct sq_proc p;
    if (sq_proc_read(pid, &p, NULL) < 0 || p.start != start || p.state != 'T')
        return 0;
    return sq_err(e, -EBUSY, "process %d (%s) is still stopped", (int)pid, p.comm);
}

static bool is_freezer(const json_t *rec)
{
    return strcmp(sq_json_str_or(rec, "method", ""), "freezer") == 0;
}

static int thaw(const json_t *rec, struct sq_err *e)
{
    const char *cgroup = sq_json_str_or(rec, "cgroup", "");
    if (strcmp(sq_json_str_or(rec, "was", "R"), "T") == 0 || access(cgroup, F_OK) < 0)
        return 0;
    return sq_cgroup_freeze(cgroup, false, e);
}

static int revert(struct sq_engine *eng, const json_t *rec, struct sq_err *e)
{
    (void)eng;
    if (strcmp(sq_json_str_or(rec, "boot", ""), sq_boot_id()) != 0)
        return 0; /* it ended with that boot */
    return is_freezer(rec) ? thaw(rec, e) : each_process(rec, resume, e);
}

static int gone(struct sq_engine *eng, const json_t *rec, struct sq_err *e)
{
    (void)eng;
    if (strcmp(sq_json_str_or(rec, "boot", ""), sq_boot_id()) != 0)
        return 0;
    if (!is_freezer(rec))
        return each_process(rec, running, e);
    const char *cgroup = sq_json_str_or(rec, "cgroup", "");
    bool frozen = false;
    if (strcmp(sq_json_str_or(rec, "was", "R"), "T") == 0 || access(cgroup, F_OK) < 0)
        return 0;
    int r = sq_cgroup_frozen(cgroup, &frozen, e);
    return r < 0 ? r : frozen ? sq_err(e, -EBUSY, "the cgroup %s is still frozen", cgroup) : 0;
}

static void release(struct sq_fault *f)
{
    struct pause *p = f->priv;
    if (!p)
        return;
    forget(p);
    free(p);
    f->priv = NULL;
}

const struct sq_fault_ops sq_ops_process_pause = {
    .check = sq_target_check,
    .resolve = resolve,
    .undo = undo,
    .apply = apply,
    .readback = readback,
    .revert = revert,
    .gone = gone,
    .free = release,
};

#endif
