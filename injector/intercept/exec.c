/* Whose programs begin in another network namespace (exec.bpf.c). It is attached while there is a caller that is a
 * cgroup, and squalld holds it: without it the first call from such a namespace, not the second, goes past the proxy.
 */
#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <errno.h>
#include <sys/stat.h>

#include "intercept/priv.h"

#include "exec.skel.h"

static void end(struct sq_intercept *ic)
{
    exec__destroy(ic->exec);
    ic->exec = NULL;
}

static int begin(struct sq_intercept *ic)
{
    struct exec *s = exec__open();
    int rc;

    if (!s)
        return -errno;
    ic->exec = s;
    s->rodata->netns_cookie = ic->netns_cookie;
    rc = bpf_map__reuse_fd(s->maps.hooks, ic->bpf.fd[SQ_M_HOOKS]);
    rc = rc ? rc : exec__load(s);
    rc = rc ? rc : exec__attach(s);
    if (rc < 0)
        end(ic);
    return rc;
}

void sq_exec_watch(struct sq_caller *c, int cgroup_fd)
{
    struct sq_intercept *ic = c->ic;
    struct stat st;
    uint64_t id;

    if (!ic->netns_cookie || fstat(cgroup_fd, &st) < 0 || (!ic->exec && begin(ic) < 0))
        return;
    id = st.st_ino; /* of a cgroup it is its id */
    if (bpf_map_update_elem(bpf_map__fd(ic->exec->maps.cgroups), &id, &c->id, BPF_ANY) < 0)
        return;
    c->cgroup_id = id;
    ic->n_exec++;
}

void sq_exec_unwatch(struct sq_caller *c)
{
    struct sq_intercept *ic = c->ic;

    if (!c->cgroup_id)
        return;
    (void)bpf_map_delete_elem(bpf_map__fd(ic->exec->maps.cgroups), &c->cgroup_id);
    c->cgroup_id = 0;
    if (--ic->n_exec == 0)
        end(ic);
}

void sq_exec_forget(struct sq_intercept *ic, uint64_t cookie)
{
    for (uint32_t i = 0; ic->exec && i < SQ_CALLERS; i++) {
        const uint64_t key[2] = {cookie, ic->caller[i] ? ic->caller[i]->id : 0}; /* struct told */

        if (key[1])
            (void)bpf_map_delete_elem(bpf_map__fd(ic->exec->maps.told), key);
    }
}
