#include "net/tree.h"

#include <arpa/inet.h>
#include <errno.h>
#include <linux/gen_stats.h>
#include <linux/if_ether.h>
#include <linux/pkt_cls.h>
#include <linux/tc_act/tc_mirred.h>
#include <stdio.h>
#include <string.h>
#include <sys/utsname.h>

#include "net/netem.h"
#include "net/rtnl.h"

#define UNLIMITED (UINT64_C(1) << 40)      /* bytes/s: a 64 KiB packet costs 60 ns of tokens */
#define BUFFER_TICKS (1000000u / 64u * 10) /* 10 ms */
#define QUANTUM 60000u
#define DEFAULT_MINOR 1u
#define LEAST_QUEUE 1000u

/* ---- looking ---- */

static int see_qdisc(const void *head, struct nlattr **tb, void *arg)
{
    const struct tcmsg *tc = head;
    struct sq_tree *t = arg;
    struct tc_stats s;

    if (!tb[TCA_KIND])
        return 0;
    const char *kind = nla_get_string(tb[TCA_KIND]);
    if (tc->tcm_parent == TC_H_INGRESS || tc->tcm_parent == TC_H_CLSACT) {
        (void)snprintf(t->ingress, sizeof t->ingress, "%s", kind);
        return 0;
    }
    if (tb[TCA_STATS] && nla_len(tb[TCA_STATS]) >= (int)sizeof s) {
        memcpy(&s, nla_data(tb[TCA_STATS]), sizeof s);
        t->backlog += s.qlen;
    }
    if (tc->tcm_parent == TC_H_ROOT) {
        (void)snprintf(t->kind, sizeof t->kind, "%s", kind);
        t->handle = tc->tcm_handle;
    } else if (!t->queue[0]) {
        (void)snprintf(t->queue, sizeof t->queue, "%s", kind);
    }
    return 0;
}

int sq_tree_look(int ifindex, struct sq_tree *t, struct sq_err *e)
{
    struct tcmsg tc = {.tcm_ifindex = ifindex};

    memset(t, 0, sizeof *t);
    int r = sq_rtnl_dump(RTM_GETQDISC, &tc, see_qdisc, t, e);
    if (strcmp(t->kind, "mq") != 0)
        (void)snprintf(t->queue, sizeof t->queue, "%s", t->kind);
    return r;
}

/* ---- the root ---- */

static int put_htb(struct nl_msg *msg, void *arg, struct sq_err *e)
{
    struct tc_htb_glob g = {.version = 3, .rate2quantum = 10, .defcls = DEFAULT_MINOR};
    struct nlattr *o;

    (void)arg;
    if (nla_put_string(msg, TCA_KIND, "htb") < 0 || !(o = nla_nest_start(msg, TCA_OPTIONS)) ||
        nla_put(msg, TCA_HTB_INIT, sizeof g, &g) < 0)
        return sq_err(e, -EMSGSIZE, "the netlink message is too small");
    nla_nest_end(msg, o);
    return 0;
}

static int put_class(struct nl_msg *msg, void *arg, struct sq_err *e)
{
    struct tc_htb_opt o = {
        .rate = {.linklayer = TC_LINKLAYER_ETHERNET, .rate = UINT32_MAX},
        .ceil = {.linklayer = TC_LINKLAYER_ETHERNET, .rate = UINT32_MAX},
        .buffer = BUFFER_TICKS,
        .cbuffer = BUFFER_TICKS,
        .quantum = QUANTUM,
    };
    struct nlattr *n;

    (void)arg;
    if (nla_put_string(msg, TCA_KIND, "htb") < 0 || !(n = nla_nest_start(msg, TCA_OPTIONS)) ||
        nla_put(msg, TCA_HTB_PARMS, sizeof o, &o) < 0 || nla_put_u64(msg, TCA_HTB_RATE64, UNLIMITED) < 0 ||
        nla_put_u64(msg, TCA_HTB_CEIL64, UNLIMITED) < 0)
        return sq_err(e, -EMSGSIZE, "the netlink message is too small");
    nla_nest_end(msg, n);
    return 0;
}

int sq_tree_class_add(int ifindex, uint32_t classid, struct sq_err *e)
{
    struct tcmsg tc = {.tcm_ifindex = ifindex, .tcm_handle = classid, .tcm_parent = TC_H_MAJ(classid)};

    return sq_rtnl_tc(RTM_NEWTCLASS, SQ_RTNL_CREATE, &tc, put_class, NULL, "add a class of our own", e);
}

/* As the kernel's default: a queue of the device's length. A kind without options of ours gets the kernel's. */
static int put_queue(struct nl_msg *msg, void *arg, struct sq_err *e)
{
    const char *kind = arg;
    struct tc_fifo_qopt o = {.limit = LEAST_QUEUE};

    if (nla_put_string(msg, TCA_KIND, kind) < 0 ||
        (strcmp(kind, "pfifo") == 0 && nla_put(msg, TCA_OPTIONS, sizeof o, &o) < 0))
        return sq_err(e, -EMSGSIZE, "the netlink message is too small");
    return 0;
}

static int add_queue(int ifindex, const char *queue, struct sq_err *e)
{
    struct tcmsg tc = {
        .tcm_ifindex = ifindex, .tcm_handle = 0x4001u << 16, .tcm_parent = SQ_TREE_HANDLE | DEFAULT_MINOR};
    char kind[32];
    bool plain = !queue[0] || strcmp(queue, "noqueue") == 0 || strcmp(queue, "mq") == 0;

    (void)snprintf(kind, sizeof kind, "%s", plain ? "pfifo" : queue);
    if (!plain && sq_rtnl_tc(RTM_NEWQDISC, SQ_RTNL_CREATE, &tc, put_queue, kind, "add a queue", NULL) == 0)
        return 0;
    (void)snprintf(kind, sizeof kind, "pfifo");
    return sq_rtnl_tc(RTM_NEWQDISC, SQ_RTNL_CREATE, &tc, put_queue, kind, "add a queue", e);
}

int sq_tree_root_del(int ifindex, struct sq_err *e)
{
    struct tcmsg tc = {.tcm_ifindex = ifindex, .tcm_handle = SQ_TREE_HANDLE, .tcm_parent = TC_H_ROOT};
    struct sq_tree t;
    int r = sq_tree_look(ifindex, &t, e);

    if (r < 0)
        return r == -ENODEV ? 0 : r;
    if (t.handle != SQ_TREE_HANDLE)
        return 0;
    struct sq_err why = {0};
    r = sq_rtnl_tc(RTM_DELQDISC, 0, &tc, NULL, NULL, "delete our root qdisc", &why);
    if (r == 0 || r == -ENOENT || r == -ENODEV) /* gone in between, or the interface with it */
        return 0;
    return sq_err(e, r, "%s", why.msg);
}

int sq_tree_root_add(int ifindex, const char *queue, struct sq_err *e)
{
    struct tcmsg tc = {.tcm_ifindex = ifindex, .tcm_handle = SQ_TREE_HANDLE, .tcm_parent = TC_H_ROOT};
    struct sq_tree t;
    int r = sq_tree_look(ifindex, &t, e);

    if (r < 0 || t.handle == SQ_TREE_HANDLE)
        return r;
    if (t.handle)
        return sq_err_cls(e, SQ_C_CONFLICT, -EEXIST, "its root qdisc is %s %x: of somebody else", t.kind,
                          t.handle >> 16);
    r = sq_rtnl_tc(RTM_NEWQDISC, SQ_RTNL_CREATE, &tc, put_htb, NULL, "make htb the root qdisc", e);
    /* Until the default class is there, htb sends everything directly. */
    if (r == 0)
        r = sq_tree_class_add(ifindex, SQ_TREE_HANDLE | DEFAULT_MINOR, e);
    if (r == 0)
        r = add_queue(ifindex, queue, e);
    if (r < 0)
        (void)sq_tree_root_del(ifindex, NULL);
    return r;
}

/* ---- clsact ---- */

static int put_clsact(struct nl_msg *msg, void *arg, struct sq_err *e)
{
    (void)arg;
    return nla_put_string(msg, TCA_KIND, "clsact") < 0 ? sq_err(e, -EMSGSIZE, "the netlink message is too small") : 0;
}

int sq_tree_clsact_add(int ifindex, struct sq_err *e)
{
    struct tcmsg tc = {.tcm_ifindex = ifindex, .tcm_handle = TC_H_CLSACT & TC_H_MAJ_MASK, .tcm_parent = TC_H_CLSACT};

    return sq_rtnl_tc(RTM_NEWQDISC, SQ_RTNL_CREATE, &tc, put_clsact, NULL, "add clsact", e);
}

int sq_tree_clsact_del(int ifindex, struct sq_err *e)
{
    struct tcmsg tc = {.tcm_ifindex = ifindex, .tcm_handle = TC_H_CLSACT & TC_H_MAJ_MASK, .tcm_parent = TC_H_CLSACT};
    struct sq_err why = {0};
    int r = sq_rtnl_tc(RTM_DELQDISC, 0, &tc, NULL, NULL, "delete our clsact", &why);

    return r == 0 || r == -ENOENT || r == -EINVAL || r == -ENODEV ? 0 : sq_err(e, r, "%s", why.msg);
}

/* ---- filters ---- */

struct filters {
    struct sq_tree_filter *f;
    bool found;
};

static int see_filter(const void *head, struct nlattr **tb, void *arg)
{
    const struct tcmsg *tc = head;
    struct filters *w = arg;
    struct nlattr *o[TCA_BPF_MAX + 1] = {NULL};
    uint16_t pref = (uint16_t)(tc->tcm_info >> 16);

    if (tb[TCA_KIND] && strcmp(nla_get_string(tb[TCA_KIND]), "bpf") == 0 && tb[TCA_OPTIONS])
        (void)nla_parse_nested(o, TCA_BPF_MAX, tb[TCA_OPTIONS], NULL);
    const char *name = o[TCA_BPF_NAME] ? nla_get_string(o[TCA_BPF_NAME]) : "";
    w->f->all += tc->tcm_handle != 0; /* handle 0: the preference itself, without a filter */
    if (strncmp(name, "squall-", 7) != 0 && tc->tcm_handle) {
        w->f->others++;
        w->f->least = w->f->least == 0 || pref < w->f->least ? pref : w->f->least;
    }
    if (pref != w->f->pref || !tc->tcm_handle)
        return 0;
    (void)snprintf(w->f->name, sizeof w->f->name, "%s", name);
    w->f->prog = o[TCA_BPF_ID] ? nla_get_u32(o[TCA_BPF_ID]) : 0;
    w->found = true;
    return 0;
}

int sq_tree_filter_find(int ifindex, uint32_t parent, uint16_t pref, struct sq_tree_filter *f, struct sq_err *e)
{
    struct tcmsg tc = {.tcm_ifindex = ifindex, .tcm_parent = parent};
    struct filters w = {f, false};

    memset(f, 0, sizeof *f);
    f->pref = pref;
    f->parent = parent;
    struct sq_err why = {0};
    int r = sq_rtnl_dump(RTM_GETTFILTER, &tc, see_filter, &w, &why);
    if (r == -EINVAL || r == -ENODEV) /* no such parent */
        return -ENOENT;
    if (r < 0)
        return sq_err(e, r, "%s", why.msg);
    return w.found ? 0 : -ENOENT;
}

struct new_filter {
    int prog_fd, redirect;
    const char *name;
};

static int put_redirect(struct nl_msg *msg, int ifb)
{
    struct tc_mirred m = {.action = TC_ACT_STOLEN, .eaction = TCA_EGRESS_REDIR, .ifindex = (uint32_t)ifb};
    struct nlattr *acts = nla_nest_start(msg, TCA_BPF_ACT), *act = acts ? nla_nest_start(msg, 1) : NULL, *o;

    if (!act || nla_put_string(msg, TCA_ACT_KIND, "mirred") < 0 || !(o = nla_nest_start(msg, TCA_ACT_OPTIONS)) ||
        nla_put(msg, TCA_MIRRED_PARMS, sizeof m, &m) < 0)
        return -EMSGSIZE;
    nla_nest_end(msg, o);
    nla_nest_end(msg, act);
    nla_nest_end(msg, acts);
    return 0;
}

static int put_filter(struct nl_msg *msg, void *arg, struct sq_err *e)
{
    const struct new_filter *f = arg;
    struct nlattr *o;

    if (nla_put_string(msg, TCA_KIND, "bpf") < 0 || !(o = nla_nest_start(msg, TCA_OPTIONS)) ||
        nla_put_u32(msg, TCA_BPF_FD, (uint32_t)f->prog_fd) < 0 || nla_put_string(msg, TCA_BPF_NAME, f->name) < 0 ||
        (f->redirect == SQ_TREE_DIRECT && nla_put_u32(msg, TCA_BPF_FLAGS, TCA_BPF_FLAG_ACT_DIRECT) < 0) ||
        (f->redirect > 0 && put_redirect(msg, f->redirect) < 0))
        return sq_err(e, -EMSGSIZE, "the netlink message is too small");
    nla_nest_end(msg, o);
    return 0;
}

int sq_tree_filter_add(int ifindex, uint32_t parent, uint16_t pref, int prog_fd, const char *name, int redirect,
                       struct sq_err *e)
{
    struct tcmsg tc = {
        .tcm_ifindex = ifindex, .tcm_parent = parent, .tcm_info = (uint32_t)pref << 16 | htons(ETH_P_ALL)};
    struct new_filter f = {prog_fd, redirect, name};

    return sq_rtnl_tc(RTM_NEWTFILTER, SQ_RTNL_CREATE, &tc, put_filter, &f, "add our classifier", e);
}

int sq_tree_filter_del(int ifindex, uint32_t parent, uint16_t pref, struct sq_err *e)
{
    struct tcmsg tc = {
        .tcm_ifindex = ifindex, .tcm_parent = parent, .tcm_info = (uint32_t)pref << 16 | htons(ETH_P_ALL)};
    struct sq_err why = {0};
    int r = sq_rtnl_tc(RTM_DELTFILTER, 0, &tc, NULL, NULL, "delete our classifier", &why);

    return r == 0 || r == -ENOENT || r == -EINVAL || r == -ENODEV ? 0 : sq_err(e, r, "%s", why.msg);
}

/* ---- classes ---- */

int sq_tree_class_del(int ifindex, uint32_t classid, struct sq_err *e)
{
    struct tcmsg tc = {.tcm_ifindex = ifindex, .tcm_handle = classid, .tcm_parent = TC_H_MAJ(classid)};
    struct sq_err why = {0};
    int r = sq_rtnl_tc(RTM_DELTCLASS, 0, &tc, NULL, NULL, "delete our class", &why);

    return r == 0 || r == -ENOENT || r == -EINVAL || r == -ENODEV ? 0 : sq_err(e, r, "%s", why.msg);
}

struct classes {
    struct sq_tree_classes *c;
    uint32_t classid;
};

static int see_class(const void *head, struct nlattr **tb, void *arg)
{
    const struct tcmsg *tc = head;
    struct classes *w = arg;
    uint32_t minor = TC_H_MIN(tc->tcm_handle), base = TC_H_MIN(w->classid) & SQ_TREE_FOREIGN;

    (void)tb;
    if (TC_H_MAJ(tc->tcm_handle) != TC_H_MAJ(w->classid) || (minor & SQ_TREE_FOREIGN) != base ||
        (!base && minor == DEFAULT_MINOR))
        return 0;
    w->c->it = w->c->it || tc->tcm_handle == w->classid;
    /* Our leaves lie in 4080: to 4fff: (sq_tree_leaf); a class with another leaf, or none, is not ours. */
    if (base && (tc->tcm_info >> 16 < 0x4080 || tc->tcm_info >> 16 > 0x4fff)) {
        w->c->foreign = true;
        return 0;
    }
    if (minor >> 8 == TC_H_MIN(w->classid) >> 8)
        w->c->slot++;
    else
        w->c->others++;
    return 0;
}

int sq_tree_classes(int ifindex, uint32_t classid, struct sq_tree_classes *c, struct sq_err *e)
{
    struct tcmsg tc = {.tcm_ifindex = ifindex};
    struct classes w = {c, classid};

    memset(c, 0, sizeof *c);
    return sq_rtnl_dump(RTM_GETTCLASS, &tc, see_class, &w, e);
}

/* ---- netem ---- */

struct new_netem {
    const struct sq_impair *im;
    bool change;
};

static int put_netem(struct nl_msg *msg, void *arg, struct sq_err *e)
{
    const struct new_netem *n = arg;

    return sq_netem_put(msg, n->im, n->change, e);
}

int sq_tree_netem_put(int ifindex, uint32_t classid, uint32_t handle, const struct sq_impair *im, bool change,
                      struct sq_err *e)
{
    struct tcmsg tc = {.tcm_ifindex = ifindex, .tcm_handle = handle, .tcm_parent = classid};
    struct new_netem n = {im, change};
    struct sq_err why = {0};
    int r = sq_rtnl_tc(RTM_NEWQDISC, change ? 0 : SQ_RTNL_CREATE, &tc, put_netem, &n, "add netem", &why);

    if (r == -ENOENT && !change) {
        struct utsname u;

        (void)uname(&u);
        sq_err_cls(e, SQ_C_UNSUPPORTED, -EOPNOTSUPP, "this kernel (%s) has no sch_netem", u.release);
        sq_err_hint(e,
                    "Debian: linux-image-amd64 has it (modprobe sch_netem); Ubuntu: install linux-modules-extra-%.64s; "
                    "RHEL, Fedora: kernel-modules-extra-%.64s; or say backend: packet",
                    u.release, u.release);
        return -EOPNOTSUPP;
    }
    if (r == -EINVAL && im->duplicate > 0) {
        sq_err_cls(e, SQ_C_UNSUPPORTED, -EOPNOTSUPP, "%s", why.msg);
        sq_err_hint(e, "this kernel takes no netem that duplicates beside another one on the same device: apply one at "
                       "a time, or say backend: packet");
        return -EOPNOTSUPP;
    }
    if (r < 0)
        sq_err_cls(e, why.cls, r, "%s", why.msg);
    return r;
}

struct read_netem {
    uint32_t classid, handle;
    struct sq_tree_netem *n;
    struct sq_err *e;
};

static void counters(struct nlattr *stats2, struct sq_tree_netem *n)
{
    struct nlattr *s[TCA_STATS_MAX + 1];
    struct gnet_stats_basic b;
    struct gnet_stats_queue q;

    if (!stats2 || nla_parse_nested(s, TCA_STATS_MAX, stats2, NULL) < 0)
        return;
    if (s[TCA_STATS_BASIC] && nla_len(s[TCA_STATS_BASIC]) >= 12) {
        memcpy(&b, nla_data(s[TCA_STATS_BASIC]), 12);
        n->bytes = b.bytes;
        n->packets = b.packets;
    }
    if (s[TCA_STATS_QUEUE] && nla_len(s[TCA_STATS_QUEUE]) >= (int)sizeof q) {
        memcpy(&q, nla_data(s[TCA_STATS_QUEUE]), sizeof q);
        n->held = q.qlen;
        n->dropped = q.drops;
    }
}

static int see_netem(const void *head, struct nlattr **tb, void *arg)
{
    const struct tcmsg *tc = head;
    struct read_netem *w = arg;

    if (tc->tcm_parent != w->classid || tc->tcm_handle != w->handle || !tb[TCA_KIND] ||
        strcmp(nla_get_string(tb[TCA_KIND]), "netem") != 0)
        return 0;
    counters(tb[TCA_STATS2], w->n);
    int r = sq_netem_parse(tb[TCA_OPTIONS], &w->n->im, w->e);
    return r < 0 ? r : 1;
}

int sq_tree_netem_read(int ifindex, uint32_t classid, uint32_t handle, struct sq_tree_netem *n, struct sq_err *e)
{
    struct tcmsg tc = {.tcm_ifindex = ifindex};
    struct read_netem w = {classid, handle, n, e};
    int r;

    memset(n, 0, sizeof *n);
    r = sq_rtnl_dump(RTM_GETQDISC, &tc, see_netem, &w, e);
    if (r == 0)
        return sq_err(e, -EBADE, "our netem %x: is not below the class %x:%x", handle >> 16, classid >> 16,
                      TC_H_MIN(classid));
    return r < 0 ? r : 0;
}
