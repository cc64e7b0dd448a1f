/* One rtnetlink request in the calling thread's network namespace, with the kernel's own errno (libnl's codes lose it).
 */
#ifndef SQUALL_RTNL_H
#define SQUALL_RTNL_H

#include <netlink/handlers.h>
#include <netlink/msg.h>
#include <stdbool.h>

/* Send MSG (consumed) and wait for the acknowledgement. 0 or -errno. */
int sq_rtnl_transact(struct nl_msg *msg);
/* Send MSG (consumed), a GET or a dump, and give every answer to FN. 0 or -errno. */
int sq_rtnl_ask(struct nl_msg *msg, nl_recvmsg_msg_cb_t fn, void *arg);

#endif
