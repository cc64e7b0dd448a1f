#include "net/tc.h"

#include <errno.h>
#include <netlink/netlink.h>
#include <netlink/socket.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

#include "net/netem.h"

#define DUMP_TRIES 5

struct answer {
    int error; /* of the kernel, -errno */
    char text[160];
};

/* The kernel's words follow the request that it echoes (Documentation/userspace-api/netlink/intro.rst). */
static void words(const struct nlmsghdr *h, const struct nlmsgerr *err, char *buf, size_t len)
{
    size_t skip = sizeof *err, total = h->nlmsg_len - NLMSG_HDRLEN;
    struct nlattr *a;
    int rest;

    if (!(h->nlmsg_flags & NLM_F_ACK_TLVS))
        return;
    if (!(h->nlmsg_flags & NLM_F_CAPPED))
        skip += err->msg.nlmsg_len - NLMSG_HDRLEN;
    skip = NLMSG_ALIGN(skip);
    if (skip >= total)
        return;
    nla_for_each_attr(a, (struct nlattr *)(void *)((char *)nlmsg_data(h) + skip), (int)(total - skip),
                      rest) if (nla_type(a) == NLMSGERR_ATTR_MSG && nla_len(a) > 0)(void)
        snprintf(buf, len, "%.*s", nla_len(a), nla_get_string(a));
}

static int on_error(struct sockaddr_nl *from, struct nlmsgerr *err, void *arg)
{
    struct answer *a = arg;
    const struct nlmsghdr *h = (const struct nlmsghdr *)(const void *)((const char *)err - NLMSG_HDRLEN);

    (void)from;
    a->error = err->error;
    words(h, err, a->text, sizeof a->text);
    return NL_STOP;
}

static int open_socket(struct nl_sock **out, struct sq_err *e)
{
    struct nl_sock *sk = nl_socket_alloc();
    int r, on = 1;

    if (!sk)
        return sq_err(e, -ENOMEM, "out of memory");
    r = nl_connect(sk, NETLINK_ROUTE);
    if (r < 0) {
        nl_socket_free(sk);
        return sq_err(e, -EIO, "cannot talk to the kernel's routing netlink: %s", nl_geterror(r));
    }
    (void)setsockopt(nl_socket_get_fd(sk), SOL_NETLINK, NETLINK_EXT_ACK, &on, sizeof on);
    (void)setsockopt(nl_socket_get_fd(sk), SOL_NETLINK, NETLINK_CAP_ACK, &on, sizeof on);
    *out = sk;
    return 0;
}

static int transact(struct nl_msg *msg, const char *what, struct sq_err *e)
{
    struct answer a = {0};
    struct nl_sock *sk = NULL;
    int r = open_socket(&sk, e);

    if (r < 0)
        return r;
    nl_socket_disable_auto_ack(sk);
    (void)nl_socket_modify_err_cb(sk, NL_CB_CUSTOM, on_error, &a);
    nlmsg_hdr(msg)->nlmsg_flags |= NLM_F_ACK;
    r = nl_send_auto(sk, msg);
    if (r >= 0)
        r = nl_wait_for_ack(sk);
    nl_socket_free(sk);
    if (a.error < 0)
        return a.text[0] ? sq_err(e, a.error, "cannot %s: %s (%s)", what, strerror(-a.error), a.text)
                         : sq_err_sys(e, a.error, "cannot %s", what);
    return r < 0 ? sq_err(e, -EIO, "cannot %s: %s", what, nl_geterror(r)) : 0;
}

static int request(int type, int flags, const void *head, size_t len, sq_tc_put *put, void *arg, const char *what,
                   struct sq_err *e)
{
    struct nl_msg *msg = nlmsg_alloc_size(SQ_NETEM_MSG);
    void *p;
    int r = 0;

    if (!msg || !nlmsg_put(msg, NL_AUTO_PORT, NL_AUTO_SEQ, type, 0, flags | NLM_F_REQUEST) ||
        !(p = nlmsg_reserve(msg, len, NLMSG_ALIGNTO)))
        r = sq_err(e, -ENOMEM, "out of memory");
    if (r == 0) {
        memcpy(p, head, len);
        r = put ? put(msg, arg, e) : 0;
    }
    if (r == 0)
        r = transact(msg, what, e);
    nlmsg_free(msg);
    return r;
}

int sq_tc_request(int type, int flags, const struct tcmsg *tc, sq_tc_put *put, void *arg, const char *what,
                  struct sq_err *e)
{
    return request(type, flags, tc, sizeof *tc, put, arg, what, e);
}

int sq_tc_link_request(int type, int flags, int ifindex, unsigned up, sq_tc_put *put, void *arg, const char *what,
                       struct sq_err *e)
{
    struct ifinfomsg l = {.ifi_index = ifindex, .ifi_flags = up, .ifi_change = up};

    return request(type, flags, &l, sizeof l, put, arg, what, e);
}

struct dump {
    const struct tcmsg *tc;
    sq_tc_each *each;
    void *arg;
    int stop;
};

static int on_object(struct nl_msg *msg, void *arg)
{
    struct dump *d = arg;
    struct nlattr *tb[(TCA_MAX > IFLA_MAX ? TCA_MAX : IFLA_MAX) + 1];
    const struct tcmsg *tc = nlmsg_data(nlmsg_hdr(msg));
    int head = d->tc ? (int)sizeof(struct tcmsg) : (int)sizeof(struct ifinfomsg);

    if (d->stop || nlmsg_parse(nlmsg_hdr(msg), head, tb, d->tc ? TCA_MAX : IFLA_MAX, NULL) < 0)
        return NL_OK;
    if (d->tc && d->tc->tcm_ifindex && tc->tcm_ifindex != d->tc->tcm_ifindex)
        return NL_OK;
    d->stop = d->each(tc, tb, d->arg);
    return NL_OK;
}

static int dump_once(int type, struct dump *d, struct sq_err *e)
{
    struct ifinfomsg link = {0};
    struct answer a = {0};
    struct nl_sock *sk = NULL;
    int r = open_socket(&sk, e);

    if (r < 0)
        return r;
    nl_socket_set_msg_buf_size(sk, 65536);
    nl_socket_modify_cb(sk, NL_CB_VALID, NL_CB_CUSTOM, on_object, d);
    (void)nl_socket_modify_err_cb(sk, NL_CB_CUSTOM, on_error, &a);
    if (d->tc) {
        struct tcmsg copy = *d->tc;

        r = nl_send_simple(sk, type, NLM_F_DUMP, &copy, sizeof copy);
    } else {
        r = nl_send_simple(sk, type, NLM_F_DUMP, &link, sizeof link);
    }
    if (r >= 0)
        r = nl_recvmsgs_default(sk);
    nl_socket_free(sk);
    if (a.error < 0)
        return a.error;
    return r == -NLE_DUMP_INTR ? -EAGAIN : r < 0 ? -EIO : 0;
}

int sq_tc_dump(int type, const struct tcmsg *tc, sq_tc_each *each, void *arg, struct sq_err *e)
{
    struct dump d = {tc, each, arg, 0};
    int r = -EAGAIN;

    /* EACH sees an object again when the dump is repeated: it collects by key, or stops at the first hit. */
    for (int i = 0; i < DUMP_TRIES && r == -EAGAIN && !d.stop; i++)
        r = dump_once(type, &d, e);
    if (d.stop)
        return d.stop;
    return r < 0 ? sq_err_sys(e, r, "cannot list what is configured on interface %d", tc ? tc->tcm_ifindex : 0) : 0;
}
