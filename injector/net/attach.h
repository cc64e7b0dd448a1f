/* The programs of packet/redirect.bpf.c on one device in one direction and on its TAP: loaded, attached, and what
 * squalld reads and writes of them. By tcx links where the kernel has them (6.6): they end with their last descriptor.
 * Else by a direct-action filter in clsact, which stays behind and lets everything pass when its TAP is gone: deleted
 * by sq_attach_detach, and by record with sq_clsact_clean. */
#ifndef SQUALL_ATTACH_H
#define SQUALL_ATTACH_H

#include <stdbool.h>
#include <stdint.h>

#include "net/classifier.h"
#include "net/netns.h"
#include "packet/redirect.h"
#include "squall/err.h"

struct sq_attach;

struct sq_attach_opts {
    const struct sq_netns *ns;
    int device, tap; /* ifindex in NS */
    bool egress;
    bool clsact;                       /* not by tcx */
    bool loopback;                     /* the device is: every frame is for us */
    int heartbeat;                     /* sq_attach_heartbeat's, borrowed; -1: one of its own */
    const struct sq_classify_env *env; /* what this kernel's BPF can: sq_classify_look() */
};
/* The map in which a device's process vouches for itself, for both directions: a descriptor, or -errno. */
int sq_attach_heartbeat(struct sq_err *e);
/* May be called in several threads at a time. */
int sq_attach_new(const struct sq_attach_opts *o, struct sq_attach **out, struct sq_err *e);
void sq_attach_free(struct sq_attach *a); /* does not detach filters */

struct sq_attach_fds {
    int heartbeat, device, tap; /* borrowed. device, tap: links; -1 with clsact */
};
struct sq_attach_fds sq_attach_fds(const struct sq_attach *a);
void sq_attach_close_links(struct sq_attach *a); /* somebody else has them now */
const struct sq_classify_maps *sq_attach_maps(const struct sq_attach *a);
/* Take the filter away, in the namespace of the calling thread; links: nothing. */
int sq_attach_detach(struct sq_attach *a, struct sq_err *e);

/* Of the target and the TAP: is it still there (not deleted, not moved to another namespace)? */
bool sq_attach_has(const struct sq_attach *a, enum sq_redirect_device which);
/* Is the program still attached to its target? -ENOENT: no. In the namespace of the calling thread. */
int sq_attach_holds(const struct sq_attach *a, struct sq_err *e);
/* A fault that is random loss and nothing else: carried out in BPF; percent < 0: it is not. */
int sq_attach_loss(struct sq_attach *a, int bit, double percent, struct sq_err *e);
int sq_attach_loss_read(const struct sq_attach *a, int bit, double *percent, struct sq_err *e); /* < 0: none */

/* Does the kernel have tcx? Asked with a program on the loopback of the calling thread's namespace. */
bool sq_attach_has_tcx(void);

#endif
