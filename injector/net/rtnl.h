/* rtnetlink in the calling thread's network namespace: links, qdiscs, classes, filters and routes, one request at a
 * time on a socket of its own, with the kernel's own errno (libnl's codes lose it) and words (extended acks) in the
 * error. */
#ifndef SQUALL_RTNL_H
#define SQUALL_RTNL_H

#include <linux/pkt_sched.h>
#include <linux/rtnetlink.h>
#include <netlink/attr.h>
#include <netlink/handlers.h>
#include <netlink/msg.h>
#include <stdint.h>

#include "squall/err.h"

#define SQ_RTNL_CREATE (NLM_F_CREATE | NLM_F_EXCL)

/* Appends the request's attributes. 0 or -errno. */
typedef int sq_rtnl_put(struct nl_msg *msg, void *arg, struct sq_err *e);
/* One object of a dump; TB up to TCA_MAX (IFLA_MAX for links, whose HEAD is a struct ifinfomsg). 0: on; other: stop. */
typedef int sq_rtnl_each(const void *head, struct nlattr **tb, void *arg);

/* TYPE: RTM_NEWQDISC ... Returns 0 or -errno as the kernel said it; E says "cannot WHAT: ..." with its words. */
int sq_rtnl_tc(int type, int flags, const struct tcmsg *tc, sq_rtnl_put *put, void *arg, const char *what,
               struct sq_err *e);
/* FLAGS_ON: IFF_* to set. */
int sq_rtnl_link(int type, int flags, int ifindex, unsigned flags_on, sq_rtnl_put *put, void *arg, const char *what,
                 struct sq_err *e);
/* TYPE: RTM_GETQDISC, RTM_GETTCLASS, RTM_GETTFILTER (of the parent TC names) or RTM_GETLINK (TC NULL). Only objects of
 * tc->tcm_ifindex (0: of all). Returns what EACH stopped with, 0, or -errno. A dump that the kernel calls inconsistent
 * is repeated. */
int sq_rtnl_dump(int type, const struct tcmsg *tc, sq_rtnl_each *each, void *arg, struct sq_err *e);

/* For what the above don't cover. MSG is consumed (NULL: no memory for it). Send it and wait for the acknowledgement: 0
 * or -errno. */
int sq_rtnl_transact(struct nl_msg *msg, const char *what, struct sq_err *e);
/* A GET of one object: every answer to FN. 0 or -errno. */
int sq_rtnl_ask(struct nl_msg *msg, nl_recvmsg_msg_cb_t fn, void *arg);

#endif
