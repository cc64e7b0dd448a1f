/* Whose traffic: from a target's `of` to cgroup2s that hold exactly those processes. A socket belongs to the cgroup
 * that it was made in; a cgroup with somebody else in it is refused, so that no bystander is hit. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cgroup.h"
#include "net/match.h"
#include "select.h"
#include "squall/cleanup.h"
#include "squall/json.h"
#include "squall/proc.h"
#include "target.h"

#define ANCESTORS 64

static int add_of(struct sq_match *m, const char *path, struct sq_err *e)
{
    struct sq_of of = {0}, *all;
    int r = sq_cgroup_id(path, &of.id, &of.level, e);

    if (r < 0)
        return r;
    (void)snprintf(of.path, sizeof of.path, "%s", path);
    all = realloc(m->of, (m->n_of + 1) * sizeof *all);
    if (!all)
        return sq_err(e, -ENOMEM, "out of memory");
    m->of = all;
    all[m->n_of++] = of;
    return 0;
}

static bool is_known(const struct sq_match *m, const char *path)
{
    for (size_t i = 0; i < m->n_of; i++)
        if (strcmp(m->of[i].path, path) == 0)
            return true;
    return false;
}

/* ---- nobody else ---- */

struct members {
    const pid_t *pid; /* sorted */
    size_t n;
    size_t strangers;
    char who[300]; /* some of them */
};

static int by_pid(const void *a, const void *b)
{
    pid_t x = *(const pid_t *)a, y = *(const pid_t *)b;

    return x < y ? -1 : x > y;
}

/* One of them, or a descendant. */
static bool is_of(const struct members *s, pid_t pid)
{
    struct sq_proc p;

    for (int i = 0; i < ANCESTORS && pid > 1; i++) {
        if (bsearch(&pid, s->pid, s->n, sizeof pid, by_pid))
            return true;
        if (sq_proc_read(pid, &p, NULL) < 0)
            return i == 0; /* gone meanwhile: nobody */
        pid = p.ppid;
    }
    return false;
}

static int look(pid_t pid, void *arg)
{
    struct members *s = arg;
    size_t used = strlen(s->who);
    char cmd[64] = "?";

    if (is_of(s, pid))
        return 0;
    (void)sq_proc_cmdline(pid, cmd, sizeof cmd);
    if (s->strangers++ < 3)
        (void)snprintf(s->who + used, sizeof s->who - used, "%spid %d (%s)", used ? ", " : "", (int)pid, cmd);
    return 0;
}

static int nobody_else(const char *path, const pid_t *pid, size_t n, struct sq_err *e)
{
    struct members s = {.pid = pid, .n = n};

    (void)sq_cgroup_each(path, look, &s);
    if (!s.strangers)
        return 0;
    sq_err_cls(e, SQ_C_CONFLICT, -EBUSY, "the cgroup %.200s holds others, too, whose traffic can't be told apart: %s%s",
               path, s.who, s.strangers > 3 ? ", ..." : "");
    sq_err_hint(e,
                "start it in a cgroup of its own (a service of the scenario, a systemd unit, a container), or name the "
                "cgroup if all in it are meant");
    return -EBUSY;
}

/* ---- the ways to say it ---- */

static int of_processes(struct sq_fault *f, const json_t *of, struct sq_match *m, json_t *hit, struct sq_err *e)
{
    cleanup_json json_t *target = json_deep_copy(of);
    struct sq_fault one = *f;
    struct sq_victim *v = NULL;
    cleanup_free pid_t *pid = NULL;
    char path[SQ_CGROUP_MAX];
    size_t n = 0;
    int r;

    if (!target || json_object_set_new(target, "count", json_string("all")) < 0)
        return sq_err(e, -ENOMEM, "out of memory");
    one.target = target;
    one.hit = json_array();
    r = sq_target_resolve(&one, &v, &n, e);
    pid = calloc(n + 1, sizeof *pid);
    if (!pid)
        r = r ? r : sq_err(e, -ENOMEM, "out of memory");
    for (size_t i = 0; r == 0 && i < n; i++)
        pid[i] = v[i].pid;
    if (r == 0)
        qsort(pid, n, sizeof *pid, by_pid);
    for (size_t i = 0; r == 0 && i < n; i++) {
        bool ours = v[i].cgroup[0] != '\0'; /* made for this instance alone */

        if (ours)
            (void)snprintf(path, sizeof path, "%s", v[i].cgroup);
        else
            r = sq_cgroup_of(v[i].pid, path, sizeof path, e);
        if (r < 0 || is_known(m, path))
            continue;
        r = ours ? 0 : nobody_else(path, pid, n, e);
        r = r ? r : add_of(m, path, e);
    }
    if (r == 0 && hit)
        (void)json_array_extend(hit, one.hit);
    json_decref(one.hit);
    sq_victims_free(v, n);
    return r;
}

static int of_cgroup(const json_t *of, struct sq_match *m, json_t *hit, struct sq_err *e)
{
    char path[SQ_CGROUP_MAX];
    json_t *what = NULL;
    int r = sq_select_cgroup(of, path, sizeof path, &what, e);

    if (r == 0 && hit && what)
        (void)json_array_append(hit, what);
    json_decref(what);
    return r ? r : add_of(m, path, e);
}

int sq_match_of(struct sq_fault *f, struct sq_match *m, json_t *hit, json_t *notes, struct sq_err *e)
{
    const json_t *of = json_object_get(f->target, "of");
    int r;

    if (!of)
        return 0;
    free(m->of);
    m->of = NULL;
    m->n_of = 0;
    r = sq_select_is_cgroup(of) ? of_cgroup(of, m, hit, e) : of_processes(f, of, m, hit, e);
    for (size_t i = 0; r == 0 && notes && i < m->n_of; i++)
        (void)json_array_append_new(notes, json_sprintf("only sockets made in the cgroup %s", m->of[i].path));
    return r < 0 ? sq_err_prefix(e, "of") : 0;
}
