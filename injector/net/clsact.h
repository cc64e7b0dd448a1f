/* Direct-action BPF filters of ours in the clsact qdisc of an interface, by rtnetlink, in the network namespace of the
 * calling thread: for kernels without tcx. Ours have a preference and a name of their own; nothing else is touched, and
 * an `ingress` qdisc in clsact's place is refused (a filter for egress would be taken there, and run on ingress). */
#ifndef SQUALL_CLSACT_H
#define SQUALL_CLSACT_H

#include <stdbool.h>

#include "squall/err.h"

#define SQ_CLSACT_PREF 0x5c1a
#define SQ_CLSACT_NAME "squall"

/* 1: the interface has a clsact qdisc; 0: none; -EEXIST (SQ_C_CONFLICT): an `ingress` qdisc is there. */
int sq_clsact_there(int ifindex, struct sq_err *e);
/* Makes the qdisc, too, if there is none. */
int sq_clsact_add(int ifindex, bool egress, int prog_fd, struct sq_err *e);
/* Success when there is none of ours, or no such interface. */
int sq_clsact_del(int ifindex, bool egress, struct sq_err *e);
/* 1: ours is there; 0: it is not. */
int sq_clsact_has(int ifindex, bool egress, struct sq_err *e);
/* Both directions of ours; then the qdisc, if MADE (by us) and there is no filter in it. */
int sq_clsact_clean(int ifindex, bool made, struct sq_err *e);

#endif
