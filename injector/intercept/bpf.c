/* The cgroup-BPF side: maps shared by all callers, one loaded object per caller. The links go to the proxy and are
 * closed here: they end with it. */
#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "intercept/follow.h"
#include "intercept/priv.h"
#include "squall/cleanup.h"
#include "squall/json.h"

#include "edge.skel.h"

#define N_PROGS 4

struct sq_bpf_caller {
    struct edge *skel;
};

static int quiet(enum libbpf_print_level level, const char *fmt, va_list ap)
{
    (void)level;
    (void)fmt;
    (void)ap;
    return 0;
}

static int refuse(struct sq_err *e, int rc, const char *what)
{
    if (rc == -EPERM || rc == -EACCES) {
        rc = sq_err_cls(e, SQ_C_UNSUPPORTED, rc, "cgroup-BPF: %s: not permitted", what);
        sq_err_hint(e, "run squalld as root, or give it CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON");
        return rc;
    }
    rc = sq_err_cls(e, SQ_C_UNSUPPORTED, rc, "cgroup-BPF: %s: %s", what, strerror(-rc));
    sq_err_hint(e, "it needs Linux 5.18 with CONFIG_CGROUP_BPF and /sys/kernel/btf/vmlinux");
    return rc;
}

void sq_bpf_quiet(void)
{
    (void)libbpf_set_print(quiet);
}

int sq_bpf_try(struct sq_err *e)
{
    struct edge *skel;
    int rc;

    sq_bpf_quiet();
    skel = edge__open();
    if (!skel)
        return refuse(e, -errno, "cannot open the programs");
    (void)bpf_map__set_max_entries(skel->maps.flows, 1); /* only whether it loads is asked */
    (void)bpf_map__set_max_entries(skel->maps.peers, 64);
    (void)bpf_map__set_max_entries(skel->maps.tallies, 1);
    (void)bpf_map__set_max_entries(skel->maps.tgids, 1);
    rc = edge__load(skel);
    edge__destroy(skel);
    return rc < 0 ? refuse(e, rc, "cannot load the programs") : 0;
}

static int on_hook(void *arg, void *data, size_t len)
{
    struct sq_hook_event ev;

    if (len < sizeof(ev))
        return 0;
    memcpy(&ev, data, sizeof(ev));
    sq_incoming_hook(arg, &ev);
    return 0;
}

void sq_bpf_drain(struct sq_intercept *ic)
{
    if (ic->bpf.ring)
        (void)ring_buffer__consume(ic->bpf.ring);
}

static void on_ring(uv_poll_t *p, int status, int events)
{
    (void)status;
    (void)events;
    sq_bpf_drain(p->data);
}

static int make_map(enum bpf_map_type type, const char *name, uint32_t key, uint32_t value, uint32_t n, uint32_t flags)
{
    const struct bpf_map_create_opts o = {.sz = sizeof(o), .map_flags = flags};
    int fd = bpf_map_create(type, name, key, value, n, &o);

    return fd < 0 ? -errno : fd;
}

static int make_maps(struct sq_bpf *b)
{
    const uint32_t mm = BPF_F_MMAPABLE;

    b->fd[SQ_M_EDGES] = make_map(BPF_MAP_TYPE_ARRAY, "sq_edges", 4, sizeof(struct sq_edge_cfg), SQ_EDGES, mm);
    b->fd[SQ_M_FLOWS] = make_map(BPF_MAP_TYPE_ARRAY, "sq_flows", 4, sizeof(struct sq_flow), 2 * SQ_FLOWS, mm);
    b->fd[SQ_M_NEXT_FLOW] = make_map(BPF_MAP_TYPE_ARRAY, "sq_next_flow", 4, 4, 1, 0);
    b->fd[SQ_M_COUNTS] = make_map(BPF_MAP_TYPE_ARRAY, "sq_counts", 4, sizeof(struct sq_edge_counts), SQ_EDGES, mm);
    b->fd[SQ_M_HOOKS] = make_map(BPF_MAP_TYPE_RINGBUF, "sq_hooks", 0, 0, 1 << 18, 0);
    b->fd[SQ_M_PEERS] = make_map(BPF_MAP_TYPE_LRU_HASH, "sq_peers", 8, sizeof(struct sq_peer_addr), SQ_FLOWS, 0);
    b->fd[SQ_M_TALLIES] = make_map(BPF_MAP_TYPE_ARRAY, "sq_tallies", 4, sizeof(struct sq_tally), SQ_TALLIES, mm);
    b->fd[SQ_M_DFLOWS] = make_map(BPF_MAP_TYPE_ARRAY, "sq_dflows", 4, sizeof(struct sq_flow), SQ_FLOWS, mm);
    b->fd[SQ_M_NEXT_DFLOW] = make_map(BPF_MAP_TYPE_ARRAY, "sq_next_dflow", 4, 4, 1, 0);
    b->fd[SQ_M_SPACES] = make_map(BPF_MAP_TYPE_HASH, "sq_spaces", sizeof(struct sq_space_key),
                                  sizeof(struct sq_space_ports), SQ_SPACE_PORTS, BPF_F_NO_PREALLOC);
    b->fd[SQ_M_DDESTS] = make_map(BPF_MAP_TYPE_LRU_HASH, "sq_ddests", sizeof(struct sq_dgram_dest), 4, SQ_FLOWS, 0);
    for (size_t i = 0; i < SQ_MAPS; i++)
        if (b->fd[i] < 0)
            return b->fd[i];
    return 0;
}

static void *map_memory(int fd, size_t len)
{
    void *p = mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);

    return p == MAP_FAILED ? NULL : p;
}

int sq_bpf_open(struct sq_intercept *ic, struct sq_err *e)
{
    struct sq_bpf *b = &ic->bpf;
    long page = sysconf(_SC_PAGESIZE);
    size_t mask = (size_t)page - 1;
    void *cfg, *counts, *tallies;
    int rc;

    rc = make_maps(b);
    if (rc < 0) {
        sq_bpf_close(ic);
        return refuse(e, rc, "cannot make the maps");
    }
    ic->cfg_len = (SQ_EDGES * sizeof(struct sq_edge_cfg) + mask) & ~mask;
    ic->counts_len = (SQ_EDGES * sizeof(struct sq_edge_counts) + mask) & ~mask;
    cfg = map_memory(b->fd[SQ_M_EDGES], ic->cfg_len);
    counts = map_memory(b->fd[SQ_M_COUNTS], ic->counts_len);
    ic->tallies_len = SQ_TALLIES * sizeof(struct sq_tally); /* whole pages */
    tallies = map_memory(b->fd[SQ_M_TALLIES], ic->tallies_len);
    b->ring = ring_buffer__new(b->fd[SQ_M_HOOKS], on_hook, ic, NULL);
    if (b->ring)
        b->poll = sq_ic_poll(ic, ring_buffer__epoll_fd(b->ring), UV_READABLE, on_ring, ic);
    if (!cfg || !counts || !tallies || !b->poll) {
        if (cfg)
            (void)munmap(cfg, ic->cfg_len);
        if (counts)
            (void)munmap(counts, ic->counts_len);
        if (tallies)
            (void)munmap(tallies, ic->tallies_len);
        sq_bpf_close(ic);
        return refuse(e, -ENOMEM, "cannot map the maps");
    }
    ic->cfg = cfg;
    ic->counts = counts;
    ic->tallies = tallies;
    return 0;
}

void sq_bpf_close(struct sq_intercept *ic)
{
    struct sq_bpf *b = &ic->bpf;

    if (b->poll)
        sq_ic_unpoll(ic, &b->poll);
    if (b->ring)
        ring_buffer__free(b->ring);
    b->ring = NULL;
    for (size_t i = 0; i < SQ_MAPS; i++) {
        if (b->fd[i] >= 0)
            (void)close(b->fd[i]);
        b->fd[i] = -1;
    }
}

static int reuse(struct edge *s, const struct sq_bpf *b)
{
    int rc = bpf_map__reuse_fd(s->maps.edges, b->fd[SQ_M_EDGES]);

    rc = rc ? rc : bpf_map__reuse_fd(s->maps.flows, b->fd[SQ_M_FLOWS]);
    rc = rc ? rc : bpf_map__reuse_fd(s->maps.next_flow, b->fd[SQ_M_NEXT_FLOW]);
    rc = rc ? rc : bpf_map__reuse_fd(s->maps.counts, b->fd[SQ_M_COUNTS]);
    rc = rc ? rc : bpf_map__reuse_fd(s->maps.hooks, b->fd[SQ_M_HOOKS]);
    rc = rc ? rc : bpf_map__reuse_fd(s->maps.tallies, b->fd[SQ_M_TALLIES]);
    rc = rc ? rc : bpf_map__reuse_fd(s->maps.spaces, b->fd[SQ_M_SPACES]);
    return rc ? rc : bpf_map__reuse_fd(s->maps.peers, b->fd[SQ_M_PEERS]);
}

static int load(struct sq_intercept *ic, struct sq_caller *c, const struct sq_follow *f, struct sq_err *e)
{
    struct edge *s = edge__open();
    int rc;

    if (!s)
        return refuse(e, -errno, "cannot open the programs");
    c->bpf->skel = s;
    s->rodata->caller_id = c->id;
    s->rodata->caller_slot = c->slot;
    s->rodata->netns_cookie = ic->netns_cookie;
    s->rodata->by_tgid = f != NULL;
    rc = reuse(s, &ic->bpf);
    if (rc == 0)
        rc = f ? bpf_map__reuse_fd(s->maps.tgids, sq_follow_map(f)) : bpf_map__set_max_entries(s->maps.tgids, 1);
    rc = rc ? rc : edge__load(s);
    return rc < 0 ? refuse(e, rc, "cannot load the programs") : 0;
}

static int link_all(struct edge *s, int cgroup_fd, struct bpf_link **links, struct sq_err *e)
{
    struct bpf_program *progs[N_PROGS] = {s->progs.sq_getpeer4, s->progs.sq_getpeer6, s->progs.sq_connect4,
                                          s->progs.sq_connect6};

    for (size_t i = 0; i < N_PROGS; i++) {
        links[i] = bpf_program__attach_cgroup(progs[i], cgroup_fd);
        if (!links[i])
            return refuse(e, -errno, "cannot attach to the instance's cgroup");
    }
    return 0;
}

int sq_bpf_attach(struct sq_intercept *ic, struct sq_caller *c, int cgroup_fd, const struct sq_follow *f,
                  struct sq_err *e)
{
    struct bpf_link *links[N_PROGS] = {0};
    int fds[N_PROGS + SQ_FOLLOW_LINKS], rc;
    size_t n_fds = N_PROGS;

    c->bpf = calloc(1, sizeof(*c->bpf));
    if (!c->bpf)
        return sq_err(e, -ENOMEM, "out of memory");
    rc = load(ic, c, f, e);
    if (rc == 0) {
        c->tables = &c->bpf->skel->bss->tables;
        rc = sq_edge_table(c, false, c->tables, e);
    }
    if (rc == 0)
        rc = link_all(c->bpf->skel, cgroup_fd, links, e);
    if (rc == 0) {
        for (size_t i = 0; i < N_PROGS; i++)
            fds[i] = bpf_link__fd(links[i]);
        if (f) {
            sq_follow_links(f, fds + N_PROGS);
            n_fds += SQ_FOLLOW_LINKS;
        }
        rc = sq_ic_tell_caller(c, fds, n_fds, e);
    }
    for (size_t i = 0; i < N_PROGS; i++)
        (void)bpf_link__destroy(links[i]); /* ours only: the proxy has its own descriptors now */
    rc = rc ? rc : sq_dgram_attach(ic, c, cgroup_fd, f, e);
    if (rc == 0 && !f)
        sq_exec_watch(c, cgroup_fd);
    if (rc < 0)
        sq_bpf_detach(c);
    return rc;
}

void sq_bpf_detach(struct sq_caller *c)
{
    sq_dgram_detach(c);
    sq_exec_unwatch(c);
    if (!c->bpf)
        return;
    c->tables = NULL;
    /* The proxy closes the links when it gets to it: until then they pass everything by. */
    if (c->bpf->skel && c->bpf->skel->bss)
        sq_tables_clear(&c->bpf->skel->bss->tables);
    if (c->bpf->skel)
        edge__destroy(c->bpf->skel);
    free(c->bpf);
    c->bpf = NULL;
}

int sq_bpf_read(struct sq_intercept *ic, uint32_t slot, struct sq_edge_cfg *out, struct sq_err *e)
{
    if (bpf_map_lookup_elem(ic->bpf.fd[SQ_M_EDGES], &slot, out) < 0)
        return sq_err_sys(e, -errno, "cannot read the rules back from the BPF map");
    return 0;
}
