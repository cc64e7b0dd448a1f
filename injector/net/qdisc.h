/* The root qdisc of an interface in the calling thread's network namespace, by rtnetlink. Ours carry the handle
 * SQ_QDISC_HANDLE; nothing else is ever replaced or deleted. Each call opens and closes its own socket. */
#ifndef SQUALL_QDISC_H
#define SQUALL_QDISC_H

#include <stdint.h>

#include "net/netem.h"
#include "squall/err.h"

#define SQ_QDISC_HANDLE 0x5c1a0000u /* 5c1a: in tc's notation */

struct sq_qdisc {
    char kind[32];          /* "noqueue", "netem"; "" when there is none */
    uint32_t handle;        /* 0: the kernel's own default */
    struct sq_impair netem; /* when kind is netem; nothing to clear */
};

int sq_qdisc_root(int ifindex, struct sq_qdisc *q, struct sq_err *e);
/* -EEXIST when the root is somebody's; -EOPNOTSUPP, with how to get it, when the kernel has no sch_netem. */
int sq_qdisc_add_netem(int ifindex, const struct sq_impair *im, struct sq_err *e);
/* Change ours in place: no packet that is queued is lost. */
int sq_qdisc_change_netem(int ifindex, const struct sq_impair *im, struct sq_err *e);
/* Delete the root if it is ours; success when it is gone, or the interface is. The kernel's default comes back. */
int sq_qdisc_del(int ifindex, struct sq_err *e);
/* Can this kernel and this process do netem? Tried for real, on the loopback of a namespace that ends with the call. */
int sq_qdisc_check_netem(struct sq_err *e);

#endif
