/* TAPs for the packet process, each made in a network namespace of its own and then moved to where it is needed: an
 * open TAP keeps alive the namespace it was made in, and must not keep the target's. When that one ends, or the last
 * descriptor is closed, the TAP is gone. */
#ifndef SQUALL_TAP_H
#define SQUALL_TAP_H

#include <stdbool.h>
#include <stdint.h>

#include "net/netns.h"
#include "squall/err.h"

struct sq_tap_opts {
    char name[16];   /* in NS; -EEXIST when it is taken */
    char alias[128]; /* of the interface: whose it is */
    uint8_t mac[6];
    uint32_t queue; /* packets that wait for the process at most */
    const struct sq_netns *ns;
};

/* Up, without IPv6, with all offloads that the kernel's TUN driver has. *FD (owned by the caller, close-on-exec,
 * nonblocking) gives and takes packets with a struct virtio_net_hdr in front; *ifindex is its number in NS. */
int sq_tap_new(const struct sq_tap_opts *o, int *fd, int *ifindex, struct sq_err *e);
/* Delete the interface NAME of the calling thread's namespace if it has this alias. Success when there is none. */
int sq_tap_del(const char *name, const char *alias, struct sq_err *e);
/* 1: there is an interface NAME with this alias here; 0: there is not. */
int sq_tap_there(const char *name, const char *alias, struct sq_err *e);
/* 1: there is an interface NAME here, with any alias, which is put in ALIAS ("": none); 0: there is not. */
int sq_tap_whose(const char *name, char *alias, size_t len, struct sq_err *e);
/* Does it take GSO packets and partial checksums, as the kernel says? In the calling thread's namespace. */
int sq_tap_offload(const char *name, bool *on, struct sq_err *e);

#endif
