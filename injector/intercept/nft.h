/* Callers that run already, where cgroup-BPF is missing: their connects are led to the proxy by nftables. One table a
 * caller, of squalld's own network namespace: what is sent from its cgroup to a destination of its edges, and begins a
 * TCP connection, is redirected to a listener of the proxy for that edge and caller, which asks the kernel for the
 * original destination (SO_ORIGINAL_DST).
 *
 * The table has `flags owner`, and its netlink socket is the proxy's alone: it ends with the proxy, and the proxy
 * closes it when squalld dies. It is never changed, but another one takes its place. A second one, which leads nobody
 * anywhere, keeps the kernel's NAT and connection tracking for the connections that were redirected: without it they
 * would hang (measured). It stays until the last of them has closed.
 *
 * What is different from cgroup-BPF: a caller is a whole cgroup; only ECONNREFUSED can fail a connect; latency and
 * black holes begin behind the connect. */
#ifndef SQUALL_INTERCEPT_NFT_H
#define SQUALL_INTERCEPT_NFT_H

#include <jansson.h>
#include <stdbool.h>
#include <sys/types.h>

#include "intercept/priv.h"
#include "squall/err.h"

struct sq_fault;
struct sq_found;

/* Can it be done here? Tried in a network namespace made for it. 0, or -errno and why + hint. */
int sq_nat_check(struct sq_err *e);
/* The cgroup that holds exactly who is meant: FOUND's, or that of its one process, if nobody else is in it or below it.
 * All in squalld's network namespace. Touches nothing. */
int sq_nat_cgroup(const struct sq_found *f, char *path, size_t len, struct sq_err *e);
/* What a plan says of it: strings are appended. */
void sq_nat_notes(const char *cgroup, json_t *notes);

/* C's connects can be redirected from here on; none is yet. */
int sq_nat_attach(struct sq_caller *c, const char *cgroup, struct sq_err *e);
int sq_nat_edge(struct sq_caller *c, const struct sq_edge *edge, struct sq_err *e); /* its listeners, in the proxy */
/* What C's edges take, and which errors they give, comes into force; the kernel was asked whether it does. */
int sq_nat_push(struct sq_caller *c, struct sq_err *e);
int sq_nat_push_all(const struct sq_edge *edge, struct sq_err *e); /* of all callers of that edge */
/* Nobody's connect goes over EDGE any more: before its listeners are closed. */
void sq_nat_unedge(const struct sq_edge *edge);
void sq_nat_detach(struct sq_caller *c); /* the proxy was told to forget C. Nothing to do is fine */
/* The kernel still has what was pushed. -EBADE: what is different. */
int sq_nat_compare(const struct sq_edge *edge, struct sq_err *e);
/* Can that fault be on such an edge? 0, or why not (SQ_C_UNSUPPORTED). */
int sq_nat_fits(const struct sq_edge *edge, const char *kind, const json_t *target, const json_t *with,
                struct sq_err *e);
void sq_nat_proxy_died(struct sq_intercept *ic);

/* nftlog.c: the kernel says which connects it refused */
/* A group of NFLOG of our own: *GROUP, until sq_natlog_close. */
int sq_natlog_open(struct sq_intercept *ic, uint16_t *group, struct sq_err *e);
void sq_natlog_drain(struct sq_intercept *ic);
void sq_natlog_close(struct sq_intercept *ic);

#endif
