#include "doctor.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cgroup.h"
#include "faults/fault.h"
#include "faults/network.h"
#include "intercept/attach_seccomp.h"
#include "intercept/nft.h"
#include "intercept/running.h"
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

/* Which backend `auto` takes here, and why not the kernel's own. */
static void say_network(struct sq_engine *eng, char *text, size_t len)
{
    struct sq_err e = {0};

    if (sq_netfault_backend_check(eng, "netem", &e) == 0)
        (void)snprintf(text, len, "the kernel's netem");
    else
        (void)snprintf(text, len, "the packet backend, in user space (netem: %.200s)", e.msg);
}

static const char *how_of(enum sq_target t, bool bpf, const char *how_network)
{
    switch (t) {
    case SQ_T_PROCESS:
        return "pidfd";
    case SQ_T_EDGE:
        return bpf ? "cgroup-BPF" : "seccomp notification";
    case SQ_T_NETWORK:
        return how_network;
    case SQ_T_PARTITION:
        return "nftables";
    }
    return "";
}

/* What a check said. Many kinds share one, and one can take a quarter of a second (the kernel verifies BPF programs).
 */
struct said {
    int (*check)(struct sq_engine *, struct sq_err *);
    int rc;
    struct sq_err e;
};

static struct said *ask(struct sq_engine *eng, struct said *said, size_t *n,
                        int (*check)(struct sq_engine *, struct sq_err *))
{
    for (size_t i = 0; i < *n; i++)
        if (said[i].check == check)
            return &said[i];
    struct said *s = &said[(*n)++];
    s->check = check;
    s->rc = check ? check(eng, &s->e) : 0;
    return s;
}

static int add_kinds(struct sq_engine *eng, bool bpf, json_t *checks)
{
    bool seccomp = sq_intercept_check_seccomp(NULL) == 0;
    size_t n, n_said = 0;
    const struct sq_fault_entry *k = sq_fault_kinds(&n);
    cleanup_free struct said *said = calloc(n, sizeof *said);
    char how_network[256];

    if (!said)
        return -ENOMEM;
    say_network(eng, how_network, sizeof how_network);
    for (size_t i = 0; i < n; i++) {
        enum sq_target t = k[i].spec->target;
        struct said *s = ask(eng, said, &n_said, k[i].ops->check);
        struct check c = {k[i].spec->name, how_of(t, bpf, how_network),
                          t == SQ_T_PROCESS || (t == SQ_T_EDGE && seccomp)};
        add(checks, &c, s->rc, &s->e);
    }
    return 0;
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
    struct sq_err e = {0}, bpf = {0};
    int bpf_rc = sq_intercept_check_bpf(&bpf);

    if (!checks || add_kinds(eng, bpf_rc == 0, checks) < 0) {
        json_decref(checks);
        return NULL;
    }
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
    add(checks, &(struct check){"bpf", "connects redirected by cgroup-BPF", false}, bpf_rc, &bpf);
    add(checks,
        &(struct check){"running", "calls of programs that run already: by pid, pattern, port; children followed",
                        false},
        sq_running_check_processes(&e), &e);
    sq_err_clear(&e);
    add(checks,
        &(struct check){"running-cgroup", "calls of whoever is in a systemd unit, a container, a cgroup", false},
        sq_running_check(&e), &e);
    sq_err_clear(&e);
    add(checks,
        &(struct check){"running-nft",
                        "the same by nftables, where cgroup-BPF is missing: cgroups, and processes alone in theirs",
                        false},
        sq_nat_check(&e), &e);
    sq_err_clear(&e);
    add(checks, &(struct check){"seccomp", "calls of launched programs, Unix sockets and datagrams too", true},
        sq_intercept_check_seccomp(&e), &e);
    sq_err_clear(&e);
    add(checks,
        &(struct check){"attach", "attach: seccomp takes programs that run already, by ptrace: Unix sockets too",
                        false},
        sq_attach_here(&e), &e);
    sq_err_clear(&e);
    add(checks,
        &(struct check){"attach-filtered",
                        "attach: seccomp takes those, too, that have seccomp filters (containers), if these let it",
                        false},
        sq_attach_here_filtered(&e), &e);
    sq_err_clear(&e);
    add(checks, &(struct check){"synhold", "latency delays the connect too", false}, sq_intercept_check_synhold(&e),
        &e);
    sq_err_clear(&e);
    add(checks, &(struct check){"keeper", "takes everything back if squalld is killed", true}, check_keeper(eng, &e),
        &e);
    return json_pack("{s:o}", "checks", checks);
}
