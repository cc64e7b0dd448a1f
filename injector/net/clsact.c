#include "net/clsact.h"

#include <errno.h>
#include <linux/if_ether.h>
#include <linux/pkt_cls.h>
#include <linux/pkt_sched.h>
#include <linux/rtnetlink.h>
#include <string.h>

#include <arpa/inet.h>

#include "net/rtnl.h"

static struct nl_msg *request(int type, int flags, const struct tcmsg *tc)
{
    struct nl_msg *msg = nlmsg_alloc_simple(type, flags);

    if (msg && nlmsg_append(msg, (void *)(uintptr_t)tc, sizeof *tc, NLMSG_ALIGNTO) < 0) {
        nlmsg_free(msg);
        return NULL;
    }
    return msg;
}

static uint32_t parent(bool egress)
{
    return TC_H_MAKE(TC_H_CLSACT, egress ? TC_H_MIN_EGRESS : TC_H_MIN_INGRESS);
}

/* ---- the qdisc ---- */

struct qdisc {
    int ifindex;
    bool clsact, ingress;
};

static int on_qdisc(struct nl_msg *msg, void *arg)
{
    struct qdisc *q = arg;
    struct nlattr *tb[TCA_MAX + 1];
    const struct tcmsg *tc = nlmsg_data(nlmsg_hdr(msg));

    if (nlmsg_hdr(msg)->nlmsg_type != RTM_NEWQDISC || tc->tcm_ifindex != q->ifindex || tc->tcm_parent != TC_H_CLSACT ||
        nlmsg_parse(nlmsg_hdr(msg), sizeof *tc, tb, TCA_MAX, NULL) < 0 || !tb[TCA_KIND])
        return NL_OK;
    q->clsact = q->clsact || nla_strcmp(tb[TCA_KIND], "clsact") == 0;
    q->ingress = q->ingress || nla_strcmp(tb[TCA_KIND], "ingress") == 0;
    return NL_OK;
}

int sq_clsact_there(int ifindex, struct sq_err *e)
{
    const struct tcmsg tc = {.tcm_ifindex = ifindex};
    struct nl_msg *msg = request(RTM_GETQDISC, NLM_F_DUMP, &tc);
    struct qdisc q = {.ifindex = ifindex};
    int rc = msg ? sq_rtnl_ask(msg, on_qdisc, &q) : -ENOMEM;

    if (rc < 0)
        return sq_err_sys(e, rc, "cannot list the qdiscs of interface %d", ifindex);
    if (q.ingress) {
        sq_err_cls(e, SQ_C_CONFLICT, -EEXIST,
                   "interface %d has an ingress qdisc where clsact would have to be, and this kernel has no tcx",
                   ifindex);
        sq_err_hint(e, "make it a clsact (which takes the same filters), or use Linux 6.6");
        return -EEXIST;
    }
    return q.clsact;
}

static int put_qdisc(int type, int flags, int ifindex)
{
    const struct tcmsg tc = {
        .tcm_ifindex = ifindex, .tcm_handle = TC_H_MAKE(TC_H_CLSACT, 0), .tcm_parent = TC_H_CLSACT};
    struct nl_msg *msg = request(type, flags, &tc);

    if (!msg || nla_put_string(msg, TCA_KIND, "clsact") < 0) {
        nlmsg_free(msg);
        return -ENOMEM;
    }
    return sq_rtnl_transact(msg);
}

static int need_qdisc(int ifindex, struct sq_err *e)
{
    int rc = sq_clsact_there(ifindex, e);

    if (rc != 0)
        return rc < 0 ? rc : 0;
    rc = put_qdisc(RTM_NEWQDISC, NLM_F_CREATE | NLM_F_EXCL, ifindex);
    if (rc == -EEXIST)
        rc = sq_clsact_there(ifindex, e) == 1 ? 0 : -EEXIST;
    if (rc == -ENOENT || rc == -EOPNOTSUPP) {
        sq_err_cls(e, SQ_C_UNSUPPORTED, rc, "this kernel has neither tcx nor clsact");
        sq_err_hint(
            e, "it needs Linux 6.6, or CONFIG_NET_SCH_INGRESS and CONFIG_NET_CLS_BPF (modprobe sch_ingress cls_bpf)");
        return rc;
    }
    return rc < 0 ? sq_err_sys(e, rc, "cannot add clsact to interface %d", ifindex) : 0;
}

/* ---- filters ---- */

struct filters {
    int ifindex;
    bool ours;
    unsigned n;
};

static int on_filter(struct nl_msg *msg, void *arg)
{
    struct filters *f = arg;
    struct nlattr *tb[TCA_MAX + 1], *o[TCA_BPF_MAX + 1];
    const struct tcmsg *tc = nlmsg_data(nlmsg_hdr(msg));

    if (nlmsg_hdr(msg)->nlmsg_type != RTM_NEWTFILTER || tc->tcm_ifindex != f->ifindex ||
        nlmsg_parse(nlmsg_hdr(msg), sizeof *tc, tb, TCA_MAX, NULL) < 0 || !tb[TCA_KIND])
        return NL_OK;
    f->n++;
    if (TC_H_MAJ(tc->tcm_info) >> 16 != SQ_CLSACT_PREF || nla_strcmp(tb[TCA_KIND], "bpf") != 0 || !tb[TCA_OPTIONS] ||
        nla_parse_nested(o, TCA_BPF_MAX, tb[TCA_OPTIONS], NULL) < 0 || !o[TCA_BPF_NAME])
        return NL_OK;
    f->ours = f->ours || nla_strcmp(o[TCA_BPF_NAME], SQ_CLSACT_NAME) == 0;
    return NL_OK;
}

static int list(int ifindex, bool egress, struct filters *f)
{
    const struct tcmsg tc = {.tcm_ifindex = ifindex, .tcm_parent = parent(egress)};
    struct nl_msg *msg = request(RTM_GETTFILTER, NLM_F_DUMP, &tc);
    int rc;

    *f = (struct filters){.ifindex = ifindex};
    rc = msg ? sq_rtnl_ask(msg, on_filter, f) : -ENOMEM;
    return rc == -ENODEV || rc == -EINVAL || rc == -ENOENT ? 0 : rc; /* no such interface, no such qdisc */
}

int sq_clsact_has(int ifindex, bool egress, struct sq_err *e)
{
    struct filters f;
    int rc = sq_clsact_there(ifindex, NULL);

    if (rc <= 0)
        return rc == -EEXIST ? 0 : rc;
    rc = list(ifindex, egress, &f);
    return rc < 0 ? sq_err_sys(e, rc, "cannot list the filters of interface %d", ifindex) : f.ours;
}

static struct nl_msg *filter(int type, int flags, int ifindex, bool egress)
{
    const struct tcmsg tc = {.tcm_ifindex = ifindex,
                             .tcm_parent = parent(egress),
                             .tcm_handle = type == RTM_NEWTFILTER ? 1 : 0,
                             .tcm_info = TC_H_MAKE(SQ_CLSACT_PREF << 16, htons(ETH_P_ALL))};
    struct nl_msg *msg = request(type, flags, &tc);

    if (msg && nla_put_string(msg, TCA_KIND, "bpf") < 0) {
        nlmsg_free(msg);
        return NULL;
    }
    return msg;
}

int sq_clsact_add(int ifindex, bool egress, int prog_fd, struct sq_err *e)
{
    int rc = need_qdisc(ifindex, e);
    struct nlattr *nest;
    struct nl_msg *msg;

    if (rc < 0)
        return rc;
    msg = filter(RTM_NEWTFILTER, NLM_F_CREATE | NLM_F_EXCL, ifindex, egress);
    nest = msg ? nla_nest_start(msg, TCA_OPTIONS) : NULL;
    if (!nest || nla_put_u32(msg, TCA_BPF_FD, (uint32_t)prog_fd) < 0 ||
        nla_put_string(msg, TCA_BPF_NAME, SQ_CLSACT_NAME) < 0 ||
        nla_put_u32(msg, TCA_BPF_FLAGS, TCA_BPF_FLAG_ACT_DIRECT) < 0) {
        nlmsg_free(msg);
        return sq_err(e, -ENOMEM, "out of memory");
    }
    (void)nla_nest_end(msg, nest);
    rc = sq_rtnl_transact(msg);
    return rc < 0 ? sq_err_sys(e, rc, "cannot add our filter to interface %d", ifindex) : 0;
}

int sq_clsact_del(int ifindex, bool egress, struct sq_err *e)
{
    int rc = sq_clsact_has(ifindex, egress, e);
    struct nl_msg *msg;

    if (rc <= 0)
        return rc;
    msg = filter(RTM_DELTFILTER, 0, ifindex, egress);
    rc = msg ? sq_rtnl_transact(msg) : -ENOMEM;
    if (rc == -ENOENT || rc == -ENODEV || rc == -EINVAL)
        rc = 0;
    return rc < 0 ? sq_err_sys(e, rc, "cannot delete our filter of interface %d", ifindex) : 0;
}

int sq_clsact_clean(int ifindex, bool made, struct sq_err *e)
{
    struct filters in, out;
    int rc = sq_clsact_del(ifindex, true, e);

    rc = rc ? rc : sq_clsact_del(ifindex, false, e);
    if (rc < 0 || !made || sq_clsact_there(ifindex, NULL) != 1)
        return rc;
    rc = list(ifindex, true, &out);
    rc = rc ? rc : list(ifindex, false, &in);
    if (rc == 0 && in.n + out.n == 0)
        rc = put_qdisc(RTM_DELQDISC, 0, ifindex);
    if (rc == -ENOENT || rc == -ENODEV || rc == -EINVAL)
        rc = 0;
    return rc < 0 ? sq_err_sys(e, rc, "cannot delete our clsact of interface %d", ifindex) : 0;
}
