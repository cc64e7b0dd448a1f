/* What the kernel knows of the other end of a loopback connection (sock_diag(7)). Needs no privilege. */
#ifndef SQUALL_PROXY_DIAG_H
#define SQUALL_PROXY_DIAG_H

#include <stdint.h>

#include "proxy/addr.h"

enum px_peer { PX_PEER_UNKNOWN, PX_PEER_HERE, PX_PEER_CONNECTING, PX_PEER_LEFT };

int px_diag_open(void); /* -1: there is none */
/* Of the TCP socket whose own address is FROM and whose peer's is TO, on loopback. UNKNOWN also when DIAG is -1. */
enum px_peer px_diag(int diag, const union px_addr *from, const union px_addr *to);
/* Is any UDP socket connected to this port (network byte order) of 127.3.0.0/16? 1, 0, or -1: not known. */
int px_diag_connected(int diag, uint16_t port);
/* The cookie (SO_COOKIE) of that socket; 0: unknown. */
uint64_t px_diag_cookie(int diag, const union px_addr *from, const union px_addr *to);

#endif
