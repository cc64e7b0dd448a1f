#include "net/qdisc.h"

#include <errno.h>
#include <linux/pkt_sched.h>
#include <linux/rtnetlink.h>
#include <net/if.h>
#include <netlink/netlink.h>
#include <netlink/socket.h>
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <sys/utsname.h>

/* libnl's own codes back to errno, as far as rtnetlink can cause them (netlink/errno.h). */
static int errno_of(int nl)
{
    switch (-nl) {
    case NLE_OBJ_NOTFOUND:
        return -ENOENT;
    case NLE_EXIST:
        return -EEXIST;
    case NLE_PERM:
    case NLE_NOACCESS:
        return -EPERM;
    case NLE_NODEV:
        return -ENODEV;
    case NLE_NOMEM:
        return -ENOMEM;
    case NLE_OPNOTSUPP:
        return -EOPNOTSUPP;
    case NLE_INVAL:
        return -EINVAL;
    case NLE_RANGE:
        return -ERANGE;
    default:
        return -EIO;
    }
}

static int open_socket(struct nl_sock **out, struct sq_err *e)
{
    struct nl_sock *sk = nl_socket_alloc();
    int r;

    if (!sk)
        return sq_err(e, -ENOMEM, "out of memory");
    r = nl_connect(sk, NETLINK_ROUTE);
    if (r < 0) {
        nl_socket_free(sk);
        return sq_err(e, errno_of(r), "cannot talk to the kernel's routing netlink: %s", nl_geterror(r));
    }
    *out = sk;
    return 0;
}

/* Send one request and wait for the kernel's acknowledgement. Returns a libnl code. Consumes MSG. */
static int transact(struct nl_msg *msg, struct sq_err *e)
{
    struct nl_sock *sk = NULL;
    int r = open_socket(&sk, e);

    if (r < 0) {
        nlmsg_free(msg);
        return -NLE_FAILURE;
    }
    r = nl_send_sync(sk, msg); /* frees msg */
    nl_socket_free(sk);
    return r;
}

static struct nl_msg *request(int type, int flags, int ifindex, uint32_t handle)
{
    struct tcmsg tc = {.tcm_ifindex = ifindex, .tcm_handle = handle, .tcm_parent = TC_H_ROOT};
    struct nl_msg *msg = nlmsg_alloc_size(SQ_NETEM_MSG);

    if (msg && !nlmsg_put(msg, NL_AUTO_PORT, NL_AUTO_SEQ, type, 0, flags)) {
        nlmsg_free(msg);
        return NULL;
    }
    if (msg && nlmsg_append(msg, &tc, sizeof tc, NLMSG_ALIGNTO) < 0) {
        nlmsg_free(msg);
        return NULL;
    }
    return msg;
}

struct lookup {
    int ifindex;
    struct sq_qdisc *q;
    struct sq_err *e;
    int result;
};

static int on_qdisc(struct nl_msg *msg, void *arg)
{
    struct lookup *l = arg;
    struct nlattr *tb[TCA_MAX + 1];
    struct tcmsg *tc = nlmsg_data(nlmsg_hdr(msg));

    if (nlmsg_hdr(msg)->nlmsg_type != RTM_NEWQDISC || tc->tcm_ifindex != l->ifindex || tc->tcm_parent != TC_H_ROOT)
        return NL_OK;
    if (nlmsg_parse(nlmsg_hdr(msg), sizeof *tc, tb, TCA_MAX, NULL) < 0 || !tb[TCA_KIND])
        return NL_OK;
    (void)snprintf(l->q->kind, sizeof l->q->kind, "%s", nla_get_string(tb[TCA_KIND]));
    l->q->handle = tc->tcm_handle;
    if (strcmp(l->q->kind, "netem") == 0)
        l->result = sq_netem_parse(tb[TCA_OPTIONS], &l->q->netem, l->e);
    return NL_OK;
}

int sq_qdisc_root(int ifindex, struct sq_qdisc *q, struct sq_err *e)
{
    struct lookup l = {.ifindex = ifindex, .q = q, .e = e};
    struct tcmsg tc = {.tcm_ifindex = ifindex};
    struct nl_sock *sk = NULL;
    int r = open_socket(&sk, e);

    memset(q, 0, sizeof *q);
    if (r < 0)
        return r;
    nl_socket_modify_cb(sk, NL_CB_VALID, NL_CB_CUSTOM, on_qdisc, &l);
    r = nl_send_simple(sk, RTM_GETQDISC, NLM_F_DUMP, &tc, sizeof tc);
    if (r >= 0)
        r = nl_recvmsgs_default(sk);
    nl_socket_free(sk);
    if (r < 0)
        return sq_err(e, errno_of(r), "cannot list the qdiscs of interface %d: %s", ifindex, nl_geterror(r));
    return l.result;
}

static int no_netem(struct sq_err *e)
{
    struct utsname u;

    (void)uname(&u);
    sq_err_cls(e, SQ_C_UNSUPPORTED, -EOPNOTSUPP, "this kernel (%s) has no sch_netem", u.release);
    sq_err_hint(e,
                "Debian: linux-image-amd64 has it (modprobe sch_netem); Ubuntu: install linux-modules-extra-%.64s; "
                "RHEL, Fedora: kernel-modules-extra-%.64s",
                u.release, u.release);
    return -EOPNOTSUPP;
}

static int put_netem(int ifindex, const struct sq_impair *im, int flags, struct sq_err *e)
{
    struct nl_msg *msg = request(RTM_NEWQDISC, flags, ifindex, SQ_QDISC_HANDLE);
    int r;

    if (!msg)
        return sq_err(e, -ENOMEM, "out of memory");
    r = sq_netem_put(msg, im, !(flags & NLM_F_CREATE), e);
    if (r < 0) {
        nlmsg_free(msg);
        return r;
    }
    r = transact(msg, e);
    if (r == -NLE_OBJ_NOTFOUND)
        return no_netem(e);
    if (r < 0)
        return sq_err(e, errno_of(r), "the kernel refused netem on interface %d: %s", ifindex, nl_geterror(r));
    return 0;
}

int sq_qdisc_add_netem(int ifindex, const struct sq_impair *im, struct sq_err *e)
{
    return put_netem(ifindex, im, NLM_F_CREATE | NLM_F_EXCL, e);
}

int sq_qdisc_change_netem(int ifindex, const struct sq_impair *im, struct sq_err *e)
{
    return put_netem(ifindex, im, 0, e);
}

int sq_qdisc_del(int ifindex, struct sq_err *e)
{
    struct sq_qdisc q;
    struct nl_msg *msg;
    int r = sq_qdisc_root(ifindex, &q, e);

    if (r < 0)
        return r;
    if (q.handle != SQ_QDISC_HANDLE)
        return 0;
    msg = request(RTM_DELQDISC, 0, ifindex, SQ_QDISC_HANDLE);
    if (!msg)
        return sq_err(e, -ENOMEM, "out of memory");
    r = transact(msg, e);
    /* Gone in between, or the interface with it: that is what was wanted. */
    if (r < 0 && r != -NLE_OBJ_NOTFOUND && r != -NLE_NODEV)
        return sq_err(e, errno_of(r), "cannot delete our qdisc on interface %d: %s", ifindex, nl_geterror(r));
    return 0;
}

struct trial {
    struct sq_err *e;
    int result;
};

static void *try_netem(void *arg)
{
    static const struct sq_impair some = {.delay = 1000000};
    struct trial *t = arg;

    if (unshare(CLONE_NEWNET) < 0) {
        t->result = sq_err_cls(t->e, SQ_C_DENIED, -errno, "changing qdiscs needs root (CAP_NET_ADMIN)");
        sq_err_hint(t->e, "run as root");
        return NULL;
    }
    t->result = sq_qdisc_add_netem(1, &some, t->e); /* lo is always interface 1 */
    return NULL;
}

int sq_qdisc_check_netem(struct sq_err *e)
{
    struct trial t = {.e = e};
    pthread_t thread;

    /* A namespace belongs to a thread: this one takes it away when it ends. */
    if (pthread_create(&thread, NULL, try_netem, &t) != 0)
        return sq_err(e, -EAGAIN, "cannot start a thread");
    (void)pthread_join(thread, NULL);
    return t.result;
}
