/* An address and port, of either family. */
#ifndef SQUALL_PROXY_ADDR_H
#define SQUALL_PROXY_ADDR_H

#include <netinet/in.h>
#include <stdbool.h>
#include <stddef.h>
#include <string.h>

union px_addr {
    struct sockaddr sa;
    struct sockaddr_in in;
    struct sockaddr_in6 in6;
};
_Static_assert(offsetof(struct sockaddr_in, sin_port) == offsetof(struct sockaddr_in6, sin6_port),
               "one place for both");

/* Flow label and scope are no part of it. */
static inline bool px_addr_same(const union px_addr *a, const union px_addr *b)
{
    if (a->sa.sa_family != b->sa.sa_family || a->in.sin_port != b->in.sin_port)
        return false;
    if (a->sa.sa_family == AF_INET)
        return a->in.sin_addr.s_addr == b->in.sin_addr.s_addr;
    return memcmp(&a->in6.sin6_addr, &b->in6.sin6_addr, sizeof(a->in6.sin6_addr)) == 0;
}

static inline socklen_t px_addr_len(const union px_addr *a)
{
    return a->sa.sa_family == AF_INET ? sizeof(a->in) : sizeof(a->in6);
}

#endif
