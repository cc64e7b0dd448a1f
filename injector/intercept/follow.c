#include "intercept/follow.h"

#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "intercept/priv.h"
#include "squall/cleanup.h"
#include "squall/proc.h"
#include "target.h"

#include "follow.skel.h"

#define PASSES 8                /* over /proc, until one finds nobody new */
#define INIT_PID_NS 0xEFFFFFFCu /* PROC_PID_INIT_INO, include/linux/proc_ns.h */

struct sq_follow {
    struct follow *skel;
    struct bpf_link *link[SQ_FOLLOW_LINKS];
};

static int refuse(struct sq_err *e, int rc, const char *what)
{
    rc = sq_err_cls(e, SQ_C_UNSUPPORTED, rc, "children of processes can't be followed: %s: %s", what, strerror(-rc));
    sq_err_hint(e,
                "it needs root and Linux 5.18 with CONFIG_DEBUG_INFO_BTF and tracepoints; a unit, cgroup or container "
                "can be selected without");
    return rc;
}

/* The programs know processes by their numbers in the first namespace. */
static int check_namespace(struct sq_err *e)
{
    struct stat st;

    if (stat("/proc/self/ns/pid", &st) == 0 && st.st_ino == INIT_PID_NS)
        return 0;
    sq_err_cls(e, SQ_C_UNSUPPORTED, -EOPNOTSUPP,
               "squalld is in a pid namespace of its own: it can't tell which process "
               "calls");
    sq_err_hint(e, "run squalld on the host, or select a cgroup");
    return -EOPNOTSUPP;
}

static int load(struct sq_follow *f, struct sq_err *e)
{
    int rc = check_namespace(e);

    if (rc < 0)
        return rc;
    sq_bpf_quiet();
    f->skel = follow__open();
    if (!f->skel)
        return refuse(e, -errno, "cannot open the programs");
    rc = follow__load(f->skel);
    return rc < 0 ? refuse(e, rc, "cannot load the programs") : 0;
}

int sq_follow_check(struct sq_err *e)
{
    struct sq_follow f = {0};
    int rc = load(&f, e);

    follow__destroy(f.skel);
    return rc;
}

int sq_follow_open(struct sq_follow **out, struct sq_err *e)
{
    struct sq_follow *f = calloc(1, sizeof *f);
    int rc = f ? load(f, e) : sq_err(e, -ENOMEM, "out of memory");

    if (rc == 0) {
        f->link[0] = bpf_program__attach(f->skel->progs.sq_exit);
        f->link[1] = f->link[0] ? bpf_program__attach(f->skel->progs.sq_fork) : NULL;
        rc = f->link[1] ? 0 : refuse(e, -errno, "cannot attach the programs");
    }
    if (rc < 0) {
        sq_follow_close(f);
        return rc;
    }
    *out = f;
    return 0;
}

void sq_follow_unlink(struct sq_follow *f)
{
    for (size_t i = 0; i < SQ_FOLLOW_LINKS; i++) {
        (void)bpf_link__destroy(f->link[i]);
        f->link[i] = NULL;
    }
}

void sq_follow_close(struct sq_follow *f)
{
    if (!f)
        return;
    sq_follow_unlink(f);
    follow__destroy(f->skel);
    free(f);
}

int sq_follow_map(const struct sq_follow *f)
{
    return bpf_map__fd(f->skel->maps.tgids);
}

void sq_follow_links(const struct sq_follow *f, int fds[SQ_FOLLOW_LINKS])
{
    for (size_t i = 0; i < SQ_FOLLOW_LINKS; i++)
        fds[i] = bpf_link__fd(f->link[i]);
}

uint64_t sq_follow_lost(const struct sq_follow *f)
{
    return f->skel->bss->lost;
}

bool sq_follow_has(const struct sq_follow *f, pid_t pid, struct sq_tgid *whose)
{
    uint32_t key = (uint32_t)pid;

    return bpf_map_lookup_elem(sq_follow_map(f), &key, whose) == 0;
}

void sq_follow_each(const struct sq_follow *f, void (*fn)(pid_t pid, const struct sq_tgid *whose, void *arg), void *arg)
{
    uint32_t key, *at = NULL;
    struct sq_tgid whose;

    /* Keys come and go meanwhile; the kernel then begins anew, so the number of steps is bounded. */
    for (uint32_t n = 0; n < 2 * SQ_TGIDS && bpf_map_get_next_key(sq_follow_map(f), at, &key) == 0; n++) {
        if (bpf_map_lookup_elem(sq_follow_map(f), &key, &whose) == 0)
            fn((pid_t)key, &whose, arg);
        at = &key;
    }
}

/* A fork may have entered it meanwhile: what that said stands. */
static int put(struct sq_follow *f, pid_t pid, const struct sq_tgid *whose, struct sq_err *e)
{
    uint32_t key = (uint32_t)pid;

    if (bpf_map_update_elem(sq_follow_map(f), &key, whose, BPF_ANY) == 0)
        return 0;
    if (errno != E2BIG)
        return sq_err_sys(e, -errno, "cannot follow process %d", (int)pid);
    return sq_err_cls(e, SQ_C_CONFLICT, -E2BIG, "more than %u processes are meant", SQ_TGIDS);
}

int sq_follow_add(struct sq_follow *f, pid_t pid, uint32_t caller, uint32_t slot, struct sq_err *e)
{
    return put(f, pid, &(struct sq_tgid){.caller = caller, .slot = slot}, e);
}

/* ---- descendants ---- */

struct scan {
    struct sq_follow *f;
    struct stat self;
    size_t found;
    struct sq_err *e;
};

static int adopt(pid_t pid, void *arg)
{
    struct scan *s = arg;
    struct sq_proc p, again;
    struct sq_tgid whose;
    int rc;

    if (sq_follow_has(s->f, pid, &whose) || sq_proc_read(pid, &p, NULL) < 0 || p.state == 'Z' || p.state == 'X')
        return 0;
    if (!sq_follow_has(s->f, p.ppid, &whose) || sq_target_is_squall(&p, &s->self))
        return 0;
    rc = put(s->f, pid, &whose, s->e);
    if (rc < 0)
        return rc;
    s->found++;
    if (sq_proc_read(pid, &again, NULL) < 0 || again.start != p.start) { /* it was another one's number by then */
        uint32_t key = (uint32_t)pid;

        (void)bpf_map_delete_elem(sq_follow_map(s->f), &key);
    }
    return 0;
}

int sq_follow_descendants(struct sq_follow *f, struct sq_err *e)
{
    struct scan s = {.f = f, .e = e};
    int rc = 0;

    if (stat("/proc/self/exe", &s.self) < 0)
        s.self.st_ino = 0;
    for (int i = 0; i < PASSES && rc == 0; i++) {
        s.found = 0;
        rc = sq_proc_each(adopt, &s);
        if (s.found == 0)
            break;
    }
    return rc;
}
