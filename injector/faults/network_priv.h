/* Within network.c and network_watch.c. */
#ifndef SQUALL_NETWORK_PRIV_H
#define SQUALL_NETWORK_PRIV_H

#include <net/if.h>
#include <stdbool.h>

#include "faults/network.h"
#include "looking.h"
#include "net/netns.h"
#include "net/shaper.h"

/* The state of a fault network/...: sq_fault.priv. */
struct sq_netfault {
    const struct sq_shaper_ops *ops;
    struct sq_impair impair;
    struct sq_match match;
    json_t *ns_record;
    struct sq_netns ns; /* open only during a call */
    char ifname[IF_NAMESIZE];
    int ifindex;
    char why[384]; /* this backend */
    struct sq_shape shape[2];
    size_t n;
    struct sq_netwatch *watch; /* NULL: not active */
    struct sq_looking looking; /* at what is in the kernel */
    unsigned looks;
    bool down, differs; /* said already */
    uint64_t packets;   /* said last */
    struct sq_resolving *resolving;
};

/* FN in the fault's namespace, with its `ns` open; -ENOENT when that is gone. */
typedef int sq_netfault_fn(struct sq_fault *f, void *arg, struct sq_err *e);
int sq_netfault_inside(struct sq_fault *f, sq_netfault_fn *fn, void *arg, struct sq_err *e);
sq_netfault_fn sq_netfault_change_inside; /* the kernel follows `impair` and `match` */

/* Looks at an active fault every second: its interface, namespace, names, counters, and what the kernel has. */
int sq_netwatch_begin(struct sq_fault *f, struct sq_err *e);
void sq_netwatch_end(struct sq_fault *f);

#endif
