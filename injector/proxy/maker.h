/* A process of nobody's that lives in a network namespace and makes sockets there, for the proxy, which can't enter it.
 *
 * On a SOCK_SEQPACKET pair: struct px_make asks, and is answered by one packet: the same struct, N descriptors and,
 * when there are less than were asked for, the errno. It ends with the other end of its socket, whoever had it. */
#ifndef SQUALL_PROXY_MAKER_H
#define SQUALL_PROXY_MAKER_H

#include <stdint.h>

#define PX_MAKE_MOST 32

struct px_make {
    uint16_t n;    /* 1..PX_MAKE_MOST */
    uint16_t kind; /* px_make_kind */
    int32_t error; /* of an answer; 0: none */
};

enum px_make_kind { PX_MAKE_TCP4, PX_MAKE_TCP6, PX_MAKE_UDP4, PX_MAKE_UDP6, PX_MAKE_KINDS };

/* Its life. Returns its exit status. */
int px_maker_run(int fd);

#endif
