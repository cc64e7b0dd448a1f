#include "net/clsact.h"

#include <errno.h>
#include <linux/pkt_sched.h>
#include <string.h>

#include "net/tree.h"

static uint32_t parent(bool egress)
{
    return TC_H_MAKE(TC_H_CLSACT, egress ? TC_H_MIN_EGRESS : TC_H_MIN_INGRESS);
}

int sq_clsact_there(int ifindex, struct sq_err *e)
{
    struct sq_tree t;
    int rc = sq_tree_look(ifindex, &t, e);

    if (rc < 0)
        return rc;
    if (strcmp(t.ingress, "ingress") == 0) {
        sq_err_cls(e, SQ_C_CONFLICT, -EEXIST,
                   "interface %d has an ingress qdisc where clsact would have to be, and this kernel has no tcx",
                   ifindex);
        sq_err_hint(e, "make it a clsact (which takes the same filters), or use Linux 6.6");
        return -EEXIST;
    }
    return t.ingress[0] != '\0';
}

static int need_qdisc(int ifindex, struct sq_err *e)
{
    struct sq_err why = {0};
    int rc = sq_clsact_there(ifindex, e);

    if (rc != 0)
        return rc < 0 ? rc : 0;
    rc = sq_tree_clsact_add(ifindex, &why);
    if (rc == -EEXIST)
        return sq_clsact_there(ifindex, e) == 1 ? 0 : -EEXIST;
    if (rc == -ENOENT || rc == -EOPNOTSUPP) {
        sq_err_cls(e, SQ_C_UNSUPPORTED, rc, "this kernel has neither tcx nor clsact");
        sq_err_hint(
            e, "it needs Linux 6.6, or CONFIG_NET_SCH_INGRESS and CONFIG_NET_CLS_BPF (modprobe sch_ingress cls_bpf)");
        return rc;
    }
    return rc < 0 ? sq_err_cls(e, why.cls, rc, "%s", why.msg) : 0;
}

/* Ours, and how many there are (f->all). */
static int find(int ifindex, bool egress, struct sq_tree_filter *f, struct sq_err *e)
{
    int rc = sq_tree_filter_find(ifindex, parent(egress), SQ_CLSACT_PREF, f, e);

    if (rc == -ENOENT)
        return 0;
    return rc < 0 ? rc : strcmp(f->name, SQ_CLSACT_NAME) == 0;
}

int sq_clsact_has(int ifindex, bool egress, struct sq_err *e)
{
    struct sq_tree_filter f;
    int rc = sq_clsact_there(ifindex, NULL);

    if (rc <= 0)
        return rc == -EEXIST || rc == -ENODEV ? 0 : rc;
    return find(ifindex, egress, &f, e);
}

int sq_clsact_add(int ifindex, bool egress, int prog_fd, struct sq_err *e)
{
    int rc = need_qdisc(ifindex, e);

    return rc < 0 ? rc
                  : sq_tree_filter_add(ifindex, parent(egress), SQ_CLSACT_PREF, prog_fd, SQ_CLSACT_NAME, SQ_TREE_DIRECT,
                                       e);
}

int sq_clsact_del(int ifindex, bool egress, struct sq_err *e)
{
    int rc = sq_clsact_has(ifindex, egress, e);

    return rc <= 0 ? rc : sq_tree_filter_del(ifindex, parent(egress), SQ_CLSACT_PREF, e);
}

int sq_clsact_clean(int ifindex, bool made, struct sq_err *e)
{
    struct sq_tree_filter in, out;
    int rc = sq_clsact_del(ifindex, true, e);

    rc = rc ? rc : sq_clsact_del(ifindex, false, e);
    if (rc < 0 || !made || sq_clsact_there(ifindex, NULL) != 1)
        return rc;
    rc = find(ifindex, true, &out, e);
    rc = rc < 0 ? rc : find(ifindex, false, &in, e);
    return rc < 0 || in.all + out.all > 0 ? (rc < 0 ? rc : 0) : sq_tree_clsact_del(ifindex, e);
}
