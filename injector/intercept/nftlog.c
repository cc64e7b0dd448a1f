/* The connects that nftables refused (call/error), as the kernel logs them (NFLOG): its rules say in a prefix whose. */
#include <arpa/inet.h>
#include <errno.h>
#include <limits.h>
#include <linux/netfilter/nfnetlink_log.h>
#include <netlink/msg.h>
#include <netlink/netlink.h>
#include <netlink/socket.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "intercept/nft_int.h"
#include "squall/clock.h"
#include "squall/rng.h"

#define TRIES 32
#define ROOM (4 * 1024 * 1024) /* of the socket: what does not fit is lost, and told */
#define MOST 65536
#define AT_ONCE 64       /* reads, before the loop does something else */
#define FIRST_GROUP 1024 /* people number theirs from 0 on */

struct sq_natlog {
    struct nl_sock *sk;
    uv_poll_t *poll;
    uint16_t group;
    bool told;
};

static struct sq_edge_fault *fault_of(struct sq_edge *edge, uint32_t number)
{
    for (size_t i = 0; i < SQ_EDGE_FAULTS; i++)
        if (edge->fault[i].rule && edge->fault[i].number == number)
            return &edge->fault[i];
    return NULL;
}

static void count(struct sq_intercept *ic, uint32_t tally, const struct sq_caller *c, bool hit)
{
    struct sq_tally_cell *cell = sq_cell(ic->tallies, tally, c->slot);

    if (!cell)
        return;
    __sync_fetch_and_add(&cell->seen, 1);
    if (hit)
        __sync_fetch_and_add(&cell->hit, 1);
}

static void refused(struct sq_intercept *ic, const char *prefix)
{
    uint32_t caller = 0, id = 0, number = 0;
    struct sq_caller *c;
    struct sq_edge *edge;
    const struct sq_edge_fault *f;

    if (sscanf(prefix, SQ_NAT_PREFIX, &caller, &id, &number) != 3)
        return;
    c = sq_ic_caller(ic, caller);
    edge = sq_ic_edge(ic, id);
    if (!c || !edge || ic->edge[edge->slot] != edge)
        return;
    ic->counts[edge->slot].failed++;
    count(ic, SQ_RULE_TALLIES + edge->slot, c, false);
    f = fault_of(edge, number);
    if (f)
        count(ic, f->tally, c, true);
    sq_incoming_failed(c, edge, sq_mono_ns(), number);
}

static void take(struct sq_intercept *ic, struct nlmsghdr *h, int len)
{
    for (; nlmsg_ok(h, len); h = nlmsg_next(h, &len)) {
        struct nlattr *tb[NFULA_MAX + 1];

        if (h->nlmsg_type == (NFNL_SUBSYS_ULOG << 8 | NFULNL_MSG_PACKET) &&
            nlmsg_parse(h, sizeof(struct nfgenmsg), tb, NFULA_MAX, NULL) == 0 && tb[NFULA_PREFIX])
            refused(ic, nla_get_string(tb[NFULA_PREFIX]));
    }
}

/* At most MOST_READS reads: callers may connect as fast as we read. */
static void drain(struct sq_intercept *ic, unsigned most_reads)
{
    struct sq_natlog *l = ic->natlog;
    static const size_t max = MOST;
    void *buf = l ? malloc(max) : NULL;
    ssize_t n = 1;

    for (unsigned i = 0; buf && n > 0 && i < most_reads; i++) {
        n = recv(nl_socket_get_fd(l->sk), buf, max, MSG_DONTWAIT);
        if (n > 0)
            take(ic, buf, (int)n);
        if (n < 0 && errno == EINTR)
            n = 1;
        if (n < 0 && errno == ENOBUFS) {
            if (!l->told)
                sq_ic_warn(ic, "",
                           "the kernel could not log all connects that were refused: some are missing in the "
                           "evidence");
            l->told = true;
            n = 1;
        }
    }
    free(buf);
}

void sq_natlog_drain(struct sq_intercept *ic)
{
    drain(ic, UINT_MAX);
}

static void on_log(uv_poll_t *p, int status, int events)
{
    (void)status;
    (void)events;
    drain(p->data, AT_ONCE);
}

static int configure(struct nl_sock *sk, uint16_t group, int attr, const void *data, size_t len)
{
    const struct nfgenmsg g = {.nfgen_family = AF_UNSPEC, .version = NFNETLINK_V0, .res_id = htons(group)};
    struct nl_msg *msg = nlmsg_alloc_simple(NFNL_SUBSYS_ULOG << 8 | NFULNL_MSG_CONFIG, 0);
    int rc = msg ? nlmsg_append(msg, (void *)(uintptr_t)&g, sizeof g, NLMSG_ALIGNTO) : -NLE_NOMEM;

    if (rc == 0)
        rc = nla_put(msg, attr, (int)len, data);
    if (rc < 0) {
        nlmsg_free(msg);
        return rc;
    }
    return nl_send_sync(sk, msg); /* frees it */
}

/* Each message is its own, at once, without the packet. */
static int bind_group(struct nl_sock *sk, uint16_t *group)
{
    const struct nfulnl_msg_config_cmd bind_cmd = {.command = NFULNL_CFG_CMD_BIND};
    const struct nfulnl_msg_config_mode mode = {.copy_mode = NFULNL_COPY_META};
    const uint32_t at_once = htonl(1);
    int rc = -NLE_BUSY;

    for (int i = 0; i < TRIES && rc == -NLE_BUSY; i++) { /* somebody else has that one */
        *group = (uint16_t)(FIRST_GROUP + sq_rng_entropy() % (65535 - FIRST_GROUP));
        rc = configure(sk, *group, NFULA_CFG_CMD, &bind_cmd, sizeof bind_cmd);
    }
    rc = rc < 0 ? rc : configure(sk, *group, NFULA_CFG_MODE, &mode, sizeof mode);
    return rc < 0 ? rc : configure(sk, *group, NFULA_CFG_QTHRESH, &at_once, sizeof at_once);
}

int sq_natlog_open(struct sq_intercept *ic, uint16_t *group, struct sq_err *e)
{
    struct sq_natlog *l = ic->natlog;
    int rc;

    if (l) {
        *group = l->group;
        return 0;
    }
    l = calloc(1, sizeof *l);
    if (!l)
        return sq_err(e, -ENOMEM, "out of memory");
    ic->natlog = l;
    l->sk = nl_socket_alloc();
    rc = l->sk ? nl_connect(l->sk, NETLINK_NETFILTER) : -NLE_NOMEM;
    rc = rc < 0 ? rc : nl_socket_set_buffer_size(l->sk, ROOM, 0);
    rc = rc < 0 ? rc : bind_group(l->sk, &l->group);
    if (rc < 0) {
        sq_err_cls(e, SQ_C_UNSUPPORTED, -EOPNOTSUPP, "the kernel can't log the connects that it refuses: %s",
                   nl_geterror(rc));
        sq_err_hint(e, "call/error by nftables needs CONFIG_NETFILTER_NETLINK_LOG and CONFIG_NFT_LOG");
        sq_natlog_close(ic);
        return -EOPNOTSUPP;
    }
    l->poll = sq_ic_poll(ic, nl_socket_get_fd(l->sk), UV_READABLE, on_log, ic);
    if (!l->poll) {
        sq_natlog_close(ic);
        return sq_err(e, -ENOMEM, "out of memory");
    }
    *group = l->group;
    return 0;
}

void sq_natlog_close(struct sq_intercept *ic)
{
    struct sq_natlog *l = ic->natlog;

    ic->natlog = NULL;
    if (!l)
        return;
    if (l->poll)
        sq_ic_unpoll(ic, &l->poll);
    if (l->sk)
        nl_socket_free(l->sk);
    free(l);
}
