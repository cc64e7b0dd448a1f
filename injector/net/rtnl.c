#include "net/rtnl.h"

#include <errno.h>
#include <netlink/netlink.h>
#include <netlink/socket.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

#include "net/netem.h"

#define DUMP_TRIES 5
#define DUMP_BUF 65536

struct answer {
    int error; /* the kernel's, -errno */
    bool done;
    char words[160];
};

/* The kernel's words follow the request that it echoes (Documentation/userspace-api/netlink/intro.rst). */
static void read_words(const struct nlmsghdr *h, const struct nlmsgerr *err, char *buf, size_t len)
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
    a->done = true;
    read_words(h, err, a->words, sizeof a->words);
    return NL_STOP;
}

static int on_done(struct nl_msg *msg, void *arg)
{
    (void)msg;
    ((struct answer *)arg)->done = true;
    return NL_STOP;
}

static int open_socket(struct nl_sock **out)
{
    struct nl_sock *sk = nl_socket_alloc();
    int r = sk ? nl_connect(sk, NETLINK_ROUTE) : -NLE_NOMEM, on = 1;

    if (r < 0) {
        nl_socket_free(sk);
        return r == -NLE_NOMEM ? -ENOMEM : -EIO;
    }
    (void)setsockopt(nl_socket_get_fd(sk), SOL_NETLINK, NETLINK_EXT_ACK, &on, sizeof on);
    (void)setsockopt(nl_socket_get_fd(sk), SOL_NETLINK, NETLINK_CAP_ACK, &on, sizeof on);
    nl_socket_set_msg_buf_size(sk, DUMP_BUF);
    *out = sk;
    return 0;
}

/* -EAGAIN: a dump that something changed under. */
static int exchange(struct nl_msg *msg, nl_recvmsg_msg_cb_t fn, void *arg, struct answer *a)
{
    struct nl_sock *sk = NULL;
    struct nl_cb *cb;
    int r = open_socket(&sk);

    *a = (struct answer){0};
    if (r < 0)
        return r;
    cb = nl_socket_get_cb(sk);
    (void)nl_cb_err(cb, NL_CB_CUSTOM, on_error, a);
    (void)nl_cb_set(cb, NL_CB_ACK, NL_CB_CUSTOM, on_done, a);
    (void)nl_cb_set(cb, NL_CB_FINISH, NL_CB_CUSTOM, on_done, a);
    if (fn)
        (void)nl_cb_set(cb, NL_CB_VALID, NL_CB_CUSTOM, fn, arg);
    nlmsg_hdr(msg)->nlmsg_seq = NL_AUTO_SEQ; /* it may have been sent before */
    nlmsg_hdr(msg)->nlmsg_pid = NL_AUTO_PORT;
    r = nl_send_auto(sk, msg); /* asks for an acknowledgement; a dump has its own end */
    while (r >= 0 && !a->done)
        r = nl_recvmsgs(sk, cb);
    nl_cb_put(cb);
    nl_socket_free(sk);
    if (a->error)
        return a->error;
    return r == -NLE_DUMP_INTR ? -EAGAIN : r == -NLE_NOMEM ? -ENOMEM : r < 0 ? -EIO : 0;
}

int sq_rtnl_transact(struct nl_msg *msg, const char *what, struct sq_err *e)
{
    struct answer a;
    int r;

    if (!msg)
        return sq_err(e, -ENOMEM, "out of memory");
    nlmsg_hdr(msg)->nlmsg_flags |= NLM_F_ACK;
    r = exchange(msg, NULL, NULL, &a);
    nlmsg_free(msg);
    if (r < 0 && a.words[0])
        return sq_err(e, r, "cannot %s: %s (%s)", what, strerror(-r), a.words);
    return r < 0 ? sq_err_sys(e, r, "cannot %s", what) : 0;
}

int sq_rtnl_ask(struct nl_msg *msg, nl_recvmsg_msg_cb_t fn, void *arg)
{
    struct answer a;
    int r;

    if (!msg)
        return -ENOMEM;
    nlmsg_hdr(msg)->nlmsg_flags |= NLM_F_ACK;
    r = exchange(msg, fn, arg, &a);
    nlmsg_free(msg);
    return r;
}

static int request(int type, int flags, const void *head, size_t len, sq_rtnl_put *put, void *arg, const char *what,
                   struct sq_err *e)
{
    struct nl_msg *msg = nlmsg_alloc_size(SQ_NETEM_MSG);
    int r = 0;

    if (!msg || !nlmsg_put(msg, NL_AUTO_PORT, NL_AUTO_SEQ, type, 0, flags | NLM_F_REQUEST) ||
        nlmsg_append(msg, (void *)(uintptr_t)head, len, NLMSG_ALIGNTO) < 0)
        r = sq_err(e, -ENOMEM, "out of memory");
    if (r == 0 && put)
        r = put(msg, arg, e);
    if (r == 0)
        return sq_rtnl_transact(msg, what, e);
    nlmsg_free(msg);
    return r;
}

int sq_rtnl_tc(int type, int flags, const struct tcmsg *tc, sq_rtnl_put *put, void *arg, const char *what,
               struct sq_err *e)
{
    return request(type, flags, tc, sizeof *tc, put, arg, what, e);
}

int sq_rtnl_link(int type, int flags, int ifindex, unsigned flags_on, sq_rtnl_put *put, void *arg, const char *what,
                 struct sq_err *e)
{
    struct ifinfomsg l = {.ifi_index = ifindex, .ifi_flags = flags_on, .ifi_change = flags_on};

    return request(type, flags, &l, sizeof l, put, arg, what, e);
}

struct dump {
    const struct tcmsg *tc;
    sq_rtnl_each *each;
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

int sq_rtnl_dump(int type, const struct tcmsg *tc, sq_rtnl_each *each, void *arg, struct sq_err *e)
{
    const struct ifinfomsg link = {0};
    struct dump d = {tc, each, arg, 0};
    struct nl_msg *msg = nlmsg_alloc_simple(type, NLM_F_DUMP);
    struct answer a;
    int r = -EAGAIN;

    if (!msg || nlmsg_append(msg, (void *)(uintptr_t)(tc ? (const void *)tc : &link), tc ? sizeof *tc : sizeof link,
                             NLMSG_ALIGNTO) < 0) {
        nlmsg_free(msg);
        return sq_err(e, -ENOMEM, "out of memory");
    }
    /* EACH sees an object again when the dump is repeated: it collects by key, or stops at the first hit. */
    for (int i = 0; i < DUMP_TRIES && r == -EAGAIN && !d.stop; i++)
        r = exchange(msg, on_object, &d, &a);
    nlmsg_free(msg);
    if (d.stop)
        return d.stop;
    return r < 0 ? sq_err_sys(e, r, "cannot list what is configured on interface %d", tc ? tc->tcm_ifindex : 0) : 0;
}
