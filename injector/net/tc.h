/* Traffic control by rtnetlink, in the calling thread's network namespace: qdiscs, classes and filters, one request at
 * a time, with the kernel's own words (extended acks) in the error. Each call opens and closes its own socket. */
#ifndef SQUALL_TC_H
#define SQUALL_TC_H

#include <linux/pkt_sched.h>
#include <linux/rtnetlink.h>
#include <netlink/attr.h>
#include <netlink/msg.h>
#include <stdint.h>

#include "squall/err.h"

#define SQ_TC_CREATE (NLM_F_CREATE | NLM_F_EXCL)

/* Appends the request's attributes. 0 or -errno. */
typedef int sq_tc_put(struct nl_msg *msg, void *arg, struct sq_err *e);
/* One object of a dump; TB up to TCA_MAX (and IFLA_MAX for links, HEAD a struct ifinfomsg). 0: on; other: stop. */
typedef int sq_tc_each(const void *head, struct nlattr **tb, void *arg);

/* TYPE: RTM_NEWQDISC ... Returns 0 or -errno as the kernel said it; E says "cannot WHAT: ..." with its words. */
int sq_tc_request(int type, int flags, const struct tcmsg *tc, sq_tc_put *put, void *arg, const char *what,
                  struct sq_err *e);
int sq_tc_link_request(int type, int flags, int ifindex, unsigned up, sq_tc_put *put, void *arg, const char *what,
                       struct sq_err *e);
/* TYPE: RTM_GETQDISC, RTM_GETTCLASS, RTM_GETTFILTER (of the parent TC names) or RTM_GETLINK (TC NULL). Only objects of
 * tc->tcm_ifindex. Returns what EACH stopped with, 0, or -errno. A dump that the kernel calls inconsistent is
 * repeated. */
int sq_tc_dump(int type, const struct tcmsg *tc, sq_tc_each *each, void *arg, struct sq_err *e);

#endif
