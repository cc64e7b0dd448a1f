#include "net/rtnl.h"

#include <errno.h>
#include <netlink/netlink.h>
#include <netlink/socket.h>

struct state {
    int error; /* -errno of the kernel's */
    bool done;
};

static int on_error(struct sockaddr_nl *from, struct nlmsgerr *err, void *arg)
{
    struct state *s = arg;

    (void)from;
    s->error = err->error;
    s->done = true;
    return NL_STOP;
}

static int on_done(struct nl_msg *msg, void *arg)
{
    (void)msg;
    ((struct state *)arg)->done = true;
    return NL_STOP;
}

static int exchange(struct nl_msg *msg, nl_recvmsg_msg_cb_t fn, void *arg)
{
    struct nl_sock *sk = nl_socket_alloc();
    struct state s = {0};
    int rc = sk ? nl_connect(sk, NETLINK_ROUTE) : -NLE_NOMEM;

    if (rc >= 0) {
        struct nl_cb *cb = nl_socket_get_cb(sk);

        (void)nl_cb_err(cb, NL_CB_CUSTOM, on_error, &s);
        (void)nl_cb_set(cb, NL_CB_ACK, NL_CB_CUSTOM, on_done, &s);
        (void)nl_cb_set(cb, NL_CB_FINISH, NL_CB_CUSTOM, on_done, &s);
        if (fn)
            (void)nl_cb_set(cb, NL_CB_VALID, NL_CB_CUSTOM, fn, arg);
        rc = nl_send_auto(sk, msg);
        while (rc >= 0 && !s.done)
            rc = nl_recvmsgs(sk, cb);
        nl_cb_put(cb);
    }
    nlmsg_free(msg);
    nl_socket_free(sk);
    return s.error ? s.error : rc == -NLE_NOMEM ? -ENOMEM : rc < 0 ? -EIO : 0;
}

int sq_rtnl_transact(struct nl_msg *msg)
{
    return exchange(msg, NULL, NULL);
}

int sq_rtnl_ask(struct nl_msg *msg, nl_recvmsg_msg_cb_t fn, void *arg)
{
    nlmsg_hdr(msg)->nlmsg_flags |= NLM_F_ACK; /* a GET of one object ends with it, a dump with its own end */
    return exchange(msg, fn, arg);
}
