/* What is said of running callers. */
#include <stdlib.h>
#include <string.h>

#include "intercept/follow.h"
#include "intercept/running.h"
#include "intercept/running_int.h"
#include "squall/cleanup.h"
#include "squall/proc.h"

struct tally {
    const struct sq_running *r;
    size_t *n; /* by instance */
};

static void count_one(pid_t pid, const struct sq_tgid *whose, void *arg)
{
    struct tally *t = arg;
    const struct sq_caller *c = whose->slot < SQ_CALLERS ? t->r->ic->caller[whose->slot] : NULL;

    (void)pid;
    for (size_t i = 0; c && i < t->r->n; i++)
        if (strcmp(t->r->one[i].instance, c->instance) == 0)
            t->n[i]++;
}

static int count_member(pid_t pid, void *arg)
{
    (void)pid;
    ++*(size_t *)arg;
    return 0;
}

json_t *sq_running_describe(const struct sq_running *r)
{
    cleanup_free size_t *n = calloc(r->n, sizeof *n);
    json_t *list = json_array();

    if (n && r->follow)
        sq_follow_each(r->follow, count_one, &(struct tally){r, n});
    else if (n && !r->seccomp)
        (void)sq_cgroup_each(r->cgroup, count_member, &n[0]);
    for (size_t i = 0; n && i < r->n; i++) {
        const struct sq_running_one *o = &r->one[i];

        if (r->seccomp)
            n[i] = o->processes;
        json_t *j = json_pack("{s:s,s:i,s:I}", "name", o->instance, "pid", (int)o->pid, "processes", (json_int_t)n[i]);

        if (r->cgroup[0])
            (void)json_object_set_new(j, "cgroup", json_string(r->cgroup));
        if (json_object_set_new(j, "cmd", json_string(o->cmd)) < 0) /* not UTF-8 */
            (void)json_object_set_new(j, "cmd", json_string(""));
        (void)json_array_append_new(list, j);
    }
    return list;
}

static const char *state_of(const struct sq_running *r, const struct sq_running_one *o)
{
    struct sq_proc p;

    if (r->cgroup[0])
        return sq_cgroup_empty(r->cgroup) ? "exited" : "running";
    if (o->pidfd < 0 || sq_proc_read(o->pid, &p, NULL) < 0 || p.start != o->start)
        return "exited";
    return p.state == 'T' ? "stopped" : "running";
}

void sq_running_list(struct sq_intercept *ic, const char *run, json_t *instances)
{
    for (const struct sq_running *r = ic->running; r; r = r->next) {
        json_t *list, *v;
        size_t i;

        if (strcmp(r->run, run) != 0)
            continue;
        list = sq_running_describe(r);
        json_array_foreach(list, i, v)
        {
            (void)json_object_set_new(v, "service", json_string(r->service));
            (void)json_object_set_new(v, "state", json_string(state_of(r, &r->one[i])));
            (void)json_object_set_new(v, "restarts", json_integer(0));
            (void)json_object_set_new(v, "exit", json_null());
            (void)json_array_append(instances, v);
        }
        json_decref(list);
    }
}
