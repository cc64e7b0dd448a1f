/* Who may change which network through squalld. Whoever may open its socket can ask it for faults, and must not get
 * more rights by that: what the kernel would refuse them, we do. */
#ifndef SQUALL_PERMIT_H
#define SQUALL_PERMIT_H

#include "faults/fault.h"
#include "net/netns.h"
#include "squall/err.h"

/* May PEER change the network NS? Root may, and who runs this squalld; else whoever has CAP_NET_ADMIN there by
 * capabilities(7) and user_namespaces(7): in its ambient set (nothing else proves that it was given to the peer, and
 * not to a program with more rights that it has become since it asked), or as the owner of the user namespace that the
 * network belongs to (rootless containers). 0; -EPERM, SQ_C_DENIED. */
int sq_net_permitted(const struct sq_peer *peer, const struct sq_netns *ns, struct sq_err *e);
/* sq_netns_open for PEER: a path is opened with the peer's rights, and the peer may change what was found. */
int sq_netns_open_for(const struct sq_peer *peer, const char *spec, struct sq_netns *ns, struct sq_err *e);

#endif
