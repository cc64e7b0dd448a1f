#include "intercept/nft.h"

#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <netinet/in.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "cgroup.h"
#include "intercept/nft_int.h"
#include "intercept/running.h"
#include "squall/callspec.h"
#include "squall/cleanup.h"
#include "squall/json.h"
#include "squall/proc.h"
#include "squall/rng.h"

/* ---- tables ---- */

static void nft_closep(struct sq_nft **nft)
{
    sq_nft_close(*nft);
}

/* "squall-p-1a2b-edges-90ab12cd": ours, and nobody's before. */
static void name_table(const struct sq_intercept *ic, const char *what, char name[SQ_NAT_NAME])
{
    const char *id = strrchr(ic->dir, '/');
    size_t n;

    id = id ? id + 1 : ic->dir;
    n = strspn(id, "abcdefghijklmnopqrstuvwxyz0123456789-");
    (void)snprintf(name, SQ_NAT_NAME, "squall-%.*s-%s-%08x", n > 24 ? 24 : (int)n, id, what,
                   (unsigned)(sq_rng_entropy() & 0xffffffffu));
}

/* An empty one that ends with its socket. */
static int open_table(const struct sq_netns *ns, const char *name, struct sq_nft **out, struct sq_err *e)
{
    __attribute__((cleanup(nft_closep))) struct sq_nft *nft = NULL;
    bool owner = true;
    int rc = sq_nft_open(ns, &nft, e);

    rc = rc ? rc : sq_nft_create(nft, "inet", name, &owner, e);
    if (rc == 0 && !owner) {
        (void)sq_nft_delete(nft, "inet", name, NULL);
        rc = sq_err_cls(e, SQ_C_UNSUPPORTED, -EOPNOTSUPP,
                        "this kernel's nftables has no tables that end with who made them");
        sq_err_hint(e, "flags owner needs Linux 5.12");
    }
    if (rc == 0)
        *out = SQ_TAKE(nft);
    return rc;
}

/* The chain has the kernel translate addresses, the rule (which nobody gets to) has it track connections. */
static char *inert_text(const char *name)
{
    char *text = NULL;

    if (asprintf(&text,
                 "add chain inet %s nat { type nat hook output priority 100; policy accept; }\n"
                 "add chain inet %s nobody\n"
                 "add rule inet %s nobody ct state new\n",
                 name, name, name) < 0)
        return NULL;
    return text;
}

static int hold_table(const struct sq_netns *ns, const char *name, struct sq_nft **out, struct sq_err *e)
{
    __attribute__((cleanup(nft_closep))) struct sq_nft *nft = NULL;
    cleanup_free char *text = inert_text(name);
    int rc = text ? open_table(ns, name, &nft, e) : sq_err(e, -ENOMEM, "out of memory");

    rc = rc ? rc : sq_nft_text(nft, text, e);
    if (rc == 0)
        *out = SQ_TAKE(nft);
    return rc;
}

/* ---- does it work here? ---- */

/* Descriptor of a network namespace that nobody else is in. */
static int new_netns(struct sq_err *e)
{
    cleanup_close int home = open("/proc/thread-self/ns/net", O_RDONLY | O_CLOEXEC);
    int fd;

    if (home < 0)
        return sq_err_sys(e, -errno, "cannot open our own network namespace");
    if (unshare(CLONE_NEWNET) < 0) {
        int rc = sq_err_cls(e, SQ_C_UNSUPPORTED, -errno, "nftables can't be tried: %s", strerror(errno));

        sq_err_hint(e, "run squalld as root");
        return rc;
    }
    fd = open("/proc/thread-self/ns/net", O_RDONLY | O_CLOEXEC);
    if (setns(home, CLONE_NEWNET) < 0)
        abort(); /* as sq_netns_call: the next thing would be done to the wrong network */
    return fd < 0 ? sq_err_sys(e, -errno, "cannot open a network namespace") : fd;
}

static int try_rules(const struct sq_netns *ns, const char *cgroup, uint32_t level, struct sq_err *e)
{
    __attribute__((cleanup(nft_closep))) struct sq_nft *keep = NULL, *nft = NULL;
    cleanup_close int fd = open(cgroup, O_RDONLY | O_DIRECTORY | O_CLOEXEC), copy = -1;
    char text[1024];
    int rc = hold_table(ns, "held", &keep, e);

    rc = rc ? rc : open_table(ns, "edges", &nft, e);
    (void)snprintf(
        text, sizeof text,
        "add chain inet edges nat { type nat hook output priority -101; policy accept; }\n"
        "add chain inet edges fail { type filter hook output priority -151; policy accept; }\n"
        "add map inet edges m { type ipv4_addr . inet_service : verdict; flags interval; }\n"
        "add rule inet edges nat socket cgroupv2 level %u \"../../../proc/self/fd/%d\" "
        "ip daddr . tcp dport vmap @m\n"
        "add rule inet edges nat meta l4proto tcp redirect to :1\n"
        "add rule inet edges fail meta l4proto tcp numgen random mod 2 < 1 log group 1 reject with tcp reset\n",
        level, fd);
    rc = rc ? rc : sq_nft_text(nft, text, e);
    if (rc == 0) {
        copy = sq_nft_socket(nft, e);
        rc = copy < 0 ? copy : 0;
    }
    return rc < 0 && e && e->cls != SQ_C_DENIED ? (e->cls = SQ_C_UNSUPPORTED, rc) : rc;
}

int sq_nat_check(struct sq_err *e)
{
    struct sq_netns ns = {.fd = -1};
    char path[SQ_CGROUP_MAX];
    uint64_t id;
    uint32_t level = 1;
    int rc = sq_cgroup_of(0, path, sizeof path, e);

    if (rc == 0 &&
        sq_cgroup_id(path, &id, &level, e) == -EINVAL) { /* the root itself: its level is none, any will do */
        sq_err_clear(e);
        level = 1;
    } else if (rc == 0 && e && e->code < 0) {
        rc = e->code;
    }
    if (rc == 0) {
        ns.fd = new_netns(e);
        rc = ns.fd < 0 ? ns.fd : try_rules(&ns, path, level, e);
        if (ns.fd >= 0)
            (void)close(ns.fd);
    }
    return rc < 0 ? sq_err_prefix(e, "nftables") : 0;
}

/* ---- whose cgroup ---- */

struct company {
    const struct sq_pids *with;
    pid_t stranger;
};

static int find_stranger(pid_t pid, void *arg)
{
    struct company *c = arg;

    for (size_t i = 0; i < c->with->n; i++)
        if (c->with->pid[i] == pid)
            return 0;
    c->stranger = pid;
    return 1;
}

static int other_network(const struct sq_pids *p, struct sq_err *e)
{
    struct stat ours, theirs;
    char path[64];

    if (stat("/proc/self/ns/net", &ours) < 0)
        return sq_err_sys(e, -errno, "cannot see our own network namespace");
    for (size_t i = 0; i < p->n; i++) {
        (void)snprintf(path, sizeof path, "/proc/%d/ns/net", (int)p->pid[i]);
        if (stat(path, &theirs) < 0 || (theirs.st_dev == ours.st_dev && theirs.st_ino == ours.st_ino))
            continue;
        sq_err_cls(e, SQ_C_UNSUPPORTED, -EOPNOTSUPP,
                   "process %d is in another network namespace than squalld: nftables takes calls in its own only",
                   (int)p->pid[i]);
        sq_err_hint(e, "run squalld in that network namespace, or where cgroup-BPF works");
        return -EOPNOTSUPP;
    }
    return 0;
}

static int alone(const struct sq_found *f, const struct sq_pids *p, char *path, size_t len, struct sq_err *e)
{
    struct company company = {.with = p};
    uint64_t id;
    uint32_t level;
    int rc;

    if (f->n != 1) {
        sq_err_cls(e, SQ_C_UNSUPPORTED, -EOPNOTSUPP,
                   "%zu processes match: nftables can't tell processes apart, only "
                   "cgroups",
                   f->n);
        sq_err_hint(e, "select their unit, cgroup or container");
        return -EOPNOTSUPP;
    }
    rc = sq_cgroup_of(f->v[0].pid, path, len, e);
    rc = rc ? rc : sq_cgroup_id(path, &id, &level, e);
    if (rc < 0)
        return sq_err_prefix(e, "process %d", (int)f->v[0].pid);
    (void)sq_cgroup_each(path, find_stranger, &company);
    for (size_t i = 0; i < p->n && !company.stranger; i++)
        if (!sq_cgroup_has(path, p->pid[i])) {
            struct sq_proc proc;

            if (sq_proc_read(p->pid[i], &proc, NULL) < 0)
                continue; /* it has ended */
            sq_err_cls(e, SQ_C_UNSUPPORTED, -EOPNOTSUPP,
                       "process %d, a descendant of %d, is outside its cgroup %.200s: nftables can only take whole "
                       "cgroups",
                       (int)p->pid[i], (int)f->v[0].pid, path);
            return -EOPNOTSUPP;
        }
    if (!company.stranger)
        return 0;
    sq_err_cls(e, SQ_C_UNSUPPORTED, -EOPNOTSUPP,
               "process %d shares the cgroup %.200s with others (process %d): nftables can't tell them apart",
               (int)f->v[0].pid, path, (int)company.stranger);
    sq_err_hint(e, "give the program a cgroup of its own (systemd-run --scope), or select the whole cgroup");
    return -EOPNOTSUPP;
}

int sq_nat_cgroup(const struct sq_found *f, char *path, size_t len, struct sq_err *e)
{
    struct sq_pids p = {0};
    uint64_t id;
    uint32_t level;
    int rc = sq_found_family(f, &p, e);

    rc = rc ? rc : other_network(&p, e);
    rc = rc ? rc : sq_nat_room("/proc", e);
    if (rc == 0 && f->cgroup[0]) {
        (void)snprintf(path, len, "%s", f->cgroup);
        rc = sq_cgroup_id(path, &id, &level, e);
    } else if (rc == 0) {
        rc = alone(f, &p, path, len, e);
    }
    free(p.pid);
    return rc;
}

void sq_nat_notes(const char *cgroup, json_t *notes)
{
    static const char *const texts[] = {
        "latency and black holes begin behind the connect, and ECONNREFUSED is the only errno that can fail one",
        "the kernel tracks the connections of everybody in this network namespace meanwhile (nf_conntrack)",
        "a socket that is bound to a device (SO_BINDTODEVICE) can't connect to the edge's destinations meanwhile",
    };

    (void)json_array_append_new(
        notes,
        json_sprintf("calls are taken by nftables, for cgroup-BPF is missing: whoever is in the cgroup %s", cgroup));
    for (size_t i = 0; i < SQ_COUNT(texts); i++)
        (void)json_array_append_new(notes, json_string(texts[i]));
}

/* ---- what is in force ---- */

static int tell(const struct sq_caller *c, bool keep, int fd, struct sq_err *e)
{
    cleanup_json json_t *msg = json_pack("{s:s,s:I,s:b}", "op", "nat", "caller", (json_int_t)c->id, "keep", keep);

    return sq_link_send(c->ic, msg, &fd, fd < 0 ? 0 : 1, e);
}

static void forget_table(struct sq_nat *nat)
{
    if (nat->in_force)
        sq_nat_table_clear(nat->in_force);
    free(nat->in_force);
    nat->in_force = NULL;
}

static void free_nat(struct sq_nat *nat)
{
    forget_table(nat);
    sq_nft_close(nat->keep);
    free(nat->edge);
    free(nat);
}

static int send_hold(const struct sq_caller *c, struct sq_err *e)
{
    cleanup_close int fd = sq_nat_hold(c->ic, c->nat->keep, e);

    return fd < 0 ? fd : tell(c, true, fd, e);
}

static int send_socket(const struct sq_caller *c, const struct sq_nft *nft, struct sq_err *e)
{
    cleanup_close int fd = sq_nft_socket(nft, e);

    return fd < 0 ? fd : tell(c, false, fd, e);
}

int sq_nat_attach(struct sq_caller *c, const char *cgroup, struct sq_err *e)
{
    const struct sq_netns own = {.fd = -1};
    struct sq_nat *nat = c->nat ? c->nat : calloc(1, sizeof *nat);
    char name[SQ_NAT_NAME];
    int rc;

    if (!nat)
        return sq_err(e, -ENOMEM, "out of memory");
    c->nat = nat;
    (void)snprintf(nat->path, sizeof nat->path, "%s", cgroup);
    rc = sq_cgroup_id(cgroup, &nat->cgroup, &nat->level, e);
    rc = rc ? rc : sq_ic_tell_caller(c, NULL, 0, e);
    if (rc == 0 && !nat->keep) {
        name_table(c->ic, SQ_NAT_HELD, name);
        rc = hold_table(&own, name, &nat->keep, e);
    }
    rc = rc ? rc : send_hold(c, e);
    return rc ? rc : sq_nat_push(c, e);
}

void sq_nat_detach(struct sq_caller *c)
{
    if (c->nat)
        free_nat(c->nat);
    c->nat = NULL;
}

int sq_nat_edge(struct sq_caller *c, const struct sq_edge *edge, struct sq_err *e)
{
    struct sq_nat *nat = c->nat;
    struct sq_nat_edge *grown = realloc(nat->edge, (nat->n_edges + 1) * sizeof *grown);
    cleanup_close int four = -1, six = -1;
    cleanup_json json_t *msg = NULL;
    uint16_t port = 0, port6 = 0;
    int rc;

    if (!grown)
        return sq_err(e, -ENOMEM, "out of memory");
    nat->edge = grown;
    rc = sq_listen_lo(false, &four, &port, e);
    if (rc < 0)
        return rc;
    if (sq_listen_lo6(false, &six, &port6) < 0)
        port6 = 0;
    msg = json_pack("{s:s,s:I,s:I,s:I}", "op", "nft", "edge", (json_int_t)edge->id, "caller", (json_int_t)c->id,
                    "tally", (json_int_t)(SQ_RULE_TALLIES + edge->slot));
    rc = sq_link_send(c->ic, msg, (int[]){four, six}, six < 0 ? 1 : 2, e);
    if (rc == 0)
        nat->edge[nat->n_edges++] =
            (struct sq_nat_edge){.id = edge->id, .slot = edge->slot, .port = {ntohs(port), ntohs(port6)}};
    return rc;
}

size_t sq_nat_errors(const struct sq_edge *edge, const struct sq_caller *c, struct sq_nat_error out[SQ_EDGE_RULES])
{
    size_t n = 0;

    for (size_t i = 0; i < SQ_EDGE_FAULTS && n < SQ_EDGE_RULES; i++) {
        const struct sq_edge_fault *f = &edge->fault[i];
        double percent = sq_json_num_or(f->rule, "percent", 100.0);

        if (!f->rule || strcmp(sq_json_str_or(f->rule, "kind", ""), "error") != 0 || !sq_edge_fault_hits(f, c))
            continue;
        out[n++] = (struct sq_nat_error){.number = f->number,
                                         .share = percent >= 100.0 ? SQ_NAT_SHARE
                                                  : percent <= 0.0 ? 0
                                                                   : (uint32_t)lround(percent / 100.0 * SQ_NAT_SHARE)};
    }
    return n;
}

static const struct sq_edge *any_edge(const struct sq_caller *c)
{
    for (size_t i = 0; i < c->nat->n_edges; i++)
        if (c->ic->edge[c->nat->edge[i].slot])
            return c->ic->edge[c->nat->edge[i].slot];
    return NULL;
}

static bool errors_any(const struct sq_caller *c)
{
    struct sq_nat_error unused[SQ_EDGE_RULES];

    for (size_t i = 0; i < c->nat->n_edges; i++) {
        const struct sq_edge *edge = c->ic->edge[c->nat->edge[i].slot];

        if (edge && sq_nat_errors(edge, c, unused))
            return true;
    }
    return false;
}

/* What the caller's edges take now, as elements. */
static int compile(const struct sq_caller *c, struct sq_nat_table *t, struct sq_err *e)
{
    const struct sq_edge *edge = any_edge(c);
    cleanup_free struct sq_table *from = malloc(sizeof *from);
    int rc = from ? 0 : sq_err(e, -ENOMEM, "out of memory");

    t->c = c;
    t->nat = c->nat;
    if (!edge || rc < 0)
        return rc;
    rc = sq_edge_own_table(edge, from, e);
    return rc ? rc : sq_nat_elements(t, from, e);
}

/* Made whole, looked at, and handed to the proxy, which lets go of the one before. */
static int bring(const struct sq_caller *c, struct sq_nat_table *t, struct sq_err *e)
{
    const struct sq_netns own = {.fd = -1};
    __attribute__((cleanup(nft_closep))) struct sq_nft *nft = NULL;
    cleanup_close int cgroup = open(c->nat->path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    cleanup_free char *text = NULL;
    struct stat st;
    int rc = 0;

    if (cgroup < 0 || fstat(cgroup, &st) < 0 || st.st_ino != c->nat->cgroup)
        return sq_err_cls(e, SQ_C_NOTFOUND, -ENOENT, "the cgroup %.200s is gone", c->nat->path);
    if (errors_any(c))
        rc = sq_natlog_open(c->ic, &t->group, e);
    name_table(c->ic, SQ_NAT_EDGES, t->name);
    if (rc == 0) {
        text = sq_nat_text(t, cgroup);
        rc = text ? open_table(&own, t->name, &nft, e) : sq_err(e, -ENOMEM, "out of memory");
    }
    rc = rc ? rc : sq_nft_text(nft, text, e);
    rc = rc ? rc : sq_nat_same(t, nft, e);
    return rc ? rc : send_socket(c, nft, e);
}

int sq_nat_push(struct sq_caller *c, struct sq_err *e)
{
    struct sq_nat *nat = c->nat;
    struct sq_nat_table *t;
    int rc;

    if (!nat)
        return 0;
    t = calloc(1, sizeof *t);
    rc = t ? compile(c, t, e) : sq_err(e, -ENOMEM, "out of memory");
    if (rc == 0)
        rc = t->n[0] + t->n[1] ? bring(c, t, e) : tell(c, false, -1, e);
    if (rc < 0 || t->n[0] + t->n[1] == 0) {
        if (t)
            sq_nat_table_clear(t);
        free(t);
        if (rc == 0)
            forget_table(nat);
        return rc;
    }
    forget_table(nat);
    nat->in_force = t;
    return 0;
}

static bool is_of(const struct sq_caller *c, const struct sq_edge *edge)
{
    return sq_edge_calls(c, edge) && c->nat;
}

int sq_nat_push_all(const struct sq_edge *edge, struct sq_err *e)
{
    int rc = 0;

    for (uint32_t i = 0; i < SQ_CALLERS && edge->nft && rc == 0; i++)
        if (is_of(edge->ic->caller[i], edge))
            rc = sq_nat_push(edge->ic->caller[i], e);
    return rc;
}

void sq_nat_unedge(const struct sq_edge *edge)
{
    for (uint32_t i = 0; i < SQ_CALLERS && edge->nft; i++) {
        struct sq_caller *c = edge->ic->caller[i];

        if (!is_of(c, edge))
            continue;
        for (size_t k = 0; k < c->nat->n_edges; k++)
            if (c->nat->edge[k].id == edge->id)
                c->nat->edge[k--] = c->nat->edge[--c->nat->n_edges];
        if (sq_nat_push(c, NULL) < 0) /* rather none of its calls than one into nothing */
            (void)tell(c, false, -1, NULL);
    }
}

int sq_nat_compare(const struct sq_edge *edge, struct sq_err *e)
{
    const struct sq_netns own = {.fd = -1};
    __attribute__((cleanup(nft_closep))) struct sq_nft *nft = NULL;
    int rc = edge->nft ? sq_nft_open(&own, &nft, e) : 0;

    for (uint32_t i = 0; i < SQ_CALLERS && edge->nft && rc == 0; i++) {
        const struct sq_caller *c = edge->ic->caller[i];

        if (!is_of(c, edge))
            continue;
        rc = c->nat->in_force ? sq_nat_same(c->nat->in_force, nft, e)
                              : sq_err(e, -EBADE, "no call of %s is taken: it has no nftables table", c->instance);
    }
    return rc;
}

int sq_nat_fits(const struct sq_edge *edge, const char *kind, const json_t *target, const json_t *with,
                struct sq_err *e)
{
    int64_t err = sq_json_int_or(with, "errno", 0);

    if (!edge->nft || strcmp(kind, "call/error") != 0)
        return 0;
    if (sq_call_counts(target)) {
        sq_err_cls(e, SQ_C_UNSUPPORTED, -EOPNOTSUPP,
                   "edge %s: its calls are taken by nftables, which refuses a share of connects, but can't count them "
                   "(first, every, after)",
                   edge->name);
        sq_err_hint(e, "use percent, or a fault behind the connect (call/reset, call/http_status)");
        return -EOPNOTSUPP;
    }
    if (err == ECONNREFUSED)
        return 0;
    sq_err_cls(e, SQ_C_UNSUPPORTED, -EOPNOTSUPP,
               "edge %s: its calls are taken by nftables, by which a connect can fail with ECONNREFUSED only",
               edge->name);
    sq_err_hint(e, "an ICMP answer to a connect that is still in its system call is taken a second later, and with "
                   "another errno for IPv4 than for IPv6; say errno: ECONNREFUSED, or use call/blackhole");
    return -EOPNOTSUPP;
}

/* Its sockets are closed, and all that they had to say has been sent: nobody's connection needs NAT any more. */
void sq_nat_proxy_died(struct sq_intercept *ic)
{
    for (uint32_t i = 0; i < SQ_CALLERS; i++) {
        struct sq_caller *c = ic->caller[i];

        if (c && c->nat) {
            forget_table(c->nat);
            sq_nft_close(c->nat->keep);
            c->nat->keep = NULL;
        }
    }
}
