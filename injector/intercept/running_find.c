/* From the selector of a running caller to whom it means. */
#include <errno.h>

#include "intercept/running.h"
#include "intercept/running_int.h"
#include "select.h"
#include "squall/cleanup.h"
#include "squall/json.h"

void sq_found_free(struct sq_found *f)
{
    sq_victims_free(f->v, f->n);
}

static int by_processes(struct sq_engine *eng, struct sq_run *run, const struct sq_peer *peer, const json_t *select,
                        struct sq_found *out, struct sq_err *e)
{
    cleanup_json json_t *target = json_deep_copy(select);
    struct sq_fault f = {.engine = eng, .run = run, .peer = *peer, .target = target, .hit = json_array()};
    int rc;

    if (!target || !f.hit || json_object_set_new(target, "count", json_string("all")) < 0) {
        json_decref(f.hit);
        return sq_err(e, -ENOMEM, "out of memory");
    }
    rc = sq_target_resolve(&f, &out->v, &out->n, e);
    json_decref(f.hit);
    if (rc == 0 && out->n > SQ_RUNNING_MOST) {
        rc = sq_err_cls(e, SQ_C_INPUT, -E2BIG, "%zu processes match, %d are the most", out->n, SQ_RUNNING_MOST);
        sq_err_hint(e, "say more exactly which, or select their unit, cgroup or container");
    }
    return rc;
}

static int note_pid(pid_t pid, void *arg)
{
    *(pid_t *)arg = pid;
    return 1;
}

static int by_cgroup(const struct sq_peer *peer, const json_t *select, struct sq_found *out, struct sq_err *e)
{
    pid_t any = 0, ours[] = {getpid(), getppid(), peer->pid};
    int rc = sq_select_cgroup(select, out->cgroup, sizeof out->cgroup, NULL, e);

    if (rc < 0)
        return rc;
    for (size_t i = 0; i < SQ_COUNT(ours); i++)
        if (ours[i] > 0 && sq_cgroup_has(out->cgroup, ours[i])) {
            sq_err_cls(e, SQ_C_CONFLICT, -EBUSY, "the cgroup %.200s holds Squall itself, or who asks (pid %d)",
                       out->cgroup, (int)ours[i]);
            sq_err_hint(e, "select the program by pid, pattern or port, or give it a cgroup of its own");
            return -EBUSY;
        }
    if (sq_cgroup_each(out->cgroup, note_pid, &any) == 0)
        return sq_err_cls(e, SQ_C_NOTFOUND, -ESRCH, "there is no process in the cgroup %.200s", out->cgroup);
    return 0;
}

int sq_found_by(struct sq_engine *eng, struct sq_run *run, const struct sq_peer *peer, const json_t *select,
                struct sq_found *out, struct sq_err *e)
{
    static const char *const ways[] = {"pid", "pattern", "port", "unit", "cgroup", "container"};
    size_t given = 0;

    for (size_t i = 0; i < SQ_COUNT(ways); i++)
        given += json_object_get(select, ways[i]) != NULL;
    if (given != 1 || json_object_size(select) != 1) {
        sq_err_cls(e, SQ_C_INPUT, -EINVAL,
                   "\"select\" must be exactly one of pid, pattern, port, unit, cgroup and "
                   "container");
        return -EINVAL;
    }
    if (peer->uid != 0) {
        sq_err_cls(e, SQ_C_DENIED, -EPERM, "only root may intercept the calls of programs that run already");
        sq_err_hint(e, "let the scenario start the caller (command), or run squall as root");
        return -EPERM;
    }
    return sq_select_is_cgroup(select) ? by_cgroup(peer, select, out, e) : by_processes(eng, run, peer, select, out, e);
}
