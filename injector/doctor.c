#include "doctor.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>

#include "cgroup.h"
#include "faults/fault.h"
#include "faults/network.h"
#include "run.h"
#include "squall/cleanup.h"

struct check {
    const char *name;
    const char *how;   /* when it works */
    bool without_root; /* could it work for an ordinary user? */
};

static void add(json_t *checks, const struct check *c, int rc, struct sq_err *e)
{
    if (rc < 0)
        sq_err_sys(e, rc, "%s", c->name);
    json_t *o = json_pack("{s:s,s:b,s:s,s:s,s:s,s:b}", "name", c->name, "ok", rc >= 0, "how", rc >= 0 ? c->how : "",
                          "why", rc < 0 ? e->msg : "", "hint", rc < 0 ? e->hint : "", "without_root", c->without_root);
    json_array_append_new(checks, o);
}

static const char *how_of(enum sq_target t)
{
    switch (t) {
    case SQ_T_PROCESS:
        return "pidfd";
    case SQ_T_EDGE:
        return sq_intercept_check_bpf(NULL) == 0 ? "cgroup-BPF" : "seccomp notification";
    case SQ_T_NETWORK:
        return "by a backend that works here: netem, else packet";
    case SQ_T_PARTITION:
        return "nftables";
    }
    return "";
}

/* Kinds of one family share their check, and one can take a quarter of a second (BPF programs are verified by the
 * kernel): done once for each, or the keeper would take this for a hang. */
static void add_kinds(struct sq_engine *eng, json_t *checks)
{
    bool seccomp = sq_intercept_check_seccomp(NULL) == 0;
    const char *how = "";
    int (*done)(struct sq_engine *, struct sq_err *) = NULL;
    struct sq_err e = {0};
    int rc = 0;
    size_t n;
    const struct sq_fault_entry *k = sq_fault_kinds(&n);
    for (size_t i = 0; i < n; i++) {
        enum sq_target t = k[i].spec->target;
        if (!done || k[i].ops->check != done) {
            sq_err_clear(&e);
            done = k[i].ops->check;
            rc = done ? done(eng, &e) : 0;
            how = how_of(t);
        }
        struct check c = {k[i].spec->name, how, t == SQ_T_PROCESS || (t == SQ_T_EDGE && seccomp)};
        add(checks, &c, rc, &e);
    }
}

static int check_root(struct sq_err *e)
{
    if (geteuid() == 0)
        return 0;
    sq_err_cls(e, SQ_C_UNSUPPORTED, -EPERM, "not root");
    sq_err_hint(e,
                "root adds: calls taken by cgroup-BPF (also of programs that escape seccomp), the connect delayed too, "
                "services in cgroups of their own, network faults, and other users' processes as targets");
    return -EPERM;
}

static int check_cgroup(struct sq_err *e)
{
    char path[512];
    return sq_cgroup_root(path, sizeof(path), e);
}

static int check_keeper(const struct sq_engine *eng, struct sq_err *e)
{
    if (eng->o.keeper_fd >= 0)
        return 0;
    return sq_err(e, -ESRCH, "no keeper: faults would not outlive a kill of squalld cleanly");
}

json_t *sq_doctor(struct sq_engine *eng)
{
    json_t *checks = json_array();
    if (!checks)
        return NULL;
    add_kinds(eng, checks);
    struct sq_err e = {0};
    add(checks, &(struct check){"root", "uid 0", false}, check_root(&e), &e);
    sq_err_clear(&e);
    add(checks, &(struct check){"netem", "network faults by the kernel: htb, netem, a BPF classifier", false},
        sq_netfault_backend_check(eng, "netem", &e), &e);
    sq_err_clear(&e);
    add(checks, &(struct check){"packet", "network faults by Squall in user space, where netem can't", false},
        sq_netfault_backend_check(eng, "packet", &e), &e);
    sq_err_clear(&e);
    add(checks, &(struct check){"cgroup2", "services in cgroups of their own, frozen and killed as a whole", false},
        check_cgroup(&e), &e);
    sq_err_clear(&e);
    add(checks, &(struct check){"bpf", "connects redirected by cgroup-BPF", false}, sq_intercept_check_bpf(&e), &e);
    sq_err_clear(&e);
    add(checks, &(struct check){"seccomp", "calls of launched programs, Unix sockets too", true},
        sq_intercept_check_seccomp(&e), &e);
    sq_err_clear(&e);
    add(checks, &(struct check){"synhold", "latency delays the connect too", false}, sq_intercept_check_synhold(&e),
        &e);
    sq_err_clear(&e);
    add(checks, &(struct check){"keeper", "takes everything back if squalld is killed", true}, check_keeper(eng, &e),
        &e);
    return json_pack("{s:o}", "checks", checks);
}
