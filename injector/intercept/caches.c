/* Caches of names refuse a caller whose name queries are an edge's (caches.bpf.c; under seccomp: redirect.c). */
#include "intercept/caches.h"

#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <errno.h>
#include <string.h>
#include <unistd.h>

#include "intercept/follow.h"
#include "intercept/priv.h"
#include "squall/cleanup.h"

#include "caches.skel.h"

#define UNIX_CONNECT ((enum bpf_attach_type)49) /* BPF_CGROUP_UNIX_CONNECT, Linux 6.7 */

static const char *const sockets[] = {SQ_NSCD, SQ_RESOLVED};

bool sq_caches_is(const char *path)
{
    for (size_t i = 0; i < SQ_COUNT(sockets); i++)
        if (strcmp(path, sockets[i]) == 0)
            return true;
    return false;
}

static bool sees_names(const struct sq_edge *edge)
{
    return strcmp(edge->protocol, "dns") == 0;
}

bool sq_caches_wanted(const struct sq_intercept *ic, const struct sq_caller *c)
{
    for (uint32_t i = 0; i < SQ_EDGES; i++)
        if (sq_edge_calls(c, ic->edge[i]) && sees_names(ic->edge[i]))
            return true;
    return false;
}

static int load(struct caches **out, const struct sq_follow *f)
{
    struct caches *s = caches__open();
    int rc;

    *out = s;
    if (!s)
        return -errno;
    s->rodata->by_tgid = f != NULL;
    (void)bpf_program__set_type(s->progs.sq_cache, BPF_PROG_TYPE_CGROUP_SOCK_ADDR);
    (void)bpf_program__set_expected_attach_type(s->progs.sq_cache, UNIX_CONNECT);
    rc = f ? bpf_map__reuse_fd(s->maps.tgids, sq_follow_map(f)) : bpf_map__set_max_entries(s->maps.tgids, 1);
    return rc ? rc : caches__load(s);
}

int sq_caches_attach(struct sq_caller *c, int cgroup_fd, const struct sq_follow *f, struct sq_err *e)
{
    struct caches *s = NULL;
    struct bpf_link *link;
    int fd, rc;

    if (c->caches || !sq_caches_wanted(c->ic, c))
        return 0;
    link = load(&s, f) == 0 ? bpf_program__attach_cgroup(s->progs.sq_cache, cgroup_fd) : NULL;
    caches__destroy(s); /* the link keeps the program */
    if (!link)          /* told by sq_caches_tell */
        return 0;
    fd = bpf_link__fd(link);
    rc = sq_ic_tell_caller(c, &fd, 1, e);
    c->caches = rc == 0;
    (void)bpf_link__destroy(link); /* ours only: the proxy has its own descriptor now */
    return rc;
}

static bool can_refuse(struct sq_intercept *ic)
{
    struct caches *s = NULL;

    if (ic->bpf_ok && !ic->caches_asked) {
        ic->caches_ok = load(&s, NULL) == 0;
        ic->caches_asked = true;
        caches__destroy(s);
    }
    return !ic->bpf_ok || ic->caches_ok;
}

void sq_caches_tell(const struct sq_edge *edge)
{
    for (size_t i = 0; i < SQ_COUNT(sockets) && sees_names(edge); i++) {
        if (access(sockets[i], F_OK) != 0)
            continue;
        if (can_refuse(edge->ic))
            sq_ic_warn(edge->ic, edge->run,
                       "edge %s: %s refuses %s meanwhile, so that it asks for names itself; what it has mapped of "
                       "nscd's it finds there",
                       edge->name, sockets[i], edge->from);
        else
            sq_ic_warn(edge->ic, edge->run,
                       "edge %s: names that %s asks for through %s are no queries of its own, and not hit (to refuse "
                       "it that takes Linux 6.7)",
                       edge->name, edge->from, sockets[i]);
    }
}
