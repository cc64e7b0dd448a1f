/* Where datagrams come from and go to: of callers by 127.3.x.y, or by ::1 from an address that says x.y (wire.h). */
#ifndef SQUALL_PROXY_UDPADDR_H
#define SQUALL_PROXY_UDPADDR_H

#include <sys/types.h>

#include "proxy/addr.h"

/* A datagram: LOCAL is the 127.3.x.y that it was sent to, or says; 0: none. -1 and errno, as recvmsg(2). */
ssize_t px_addr_read(int fd, void *buf, size_t len, union px_addr *peer, struct in_addr *local);
/* Send it from there. As sendmsg(2); never waits. */
ssize_t px_addr_answer(int fd, struct in_addr local, const union px_addr *peer, const void *p, size_t len);

#endif
