/* The network namespaces that callers are in: the proxy's own, and others, where squalld made its listeners, and a
 * maker (maker.h) makes the sockets to the dependencies. */
#ifndef SQUALL_PROXY_SPACE_H
#define SQUALL_PROXY_SPACE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/queue.h>

#include "proxy/maker.h"

#define PX_POOL (2 * PX_MAKE_MOST)

struct px;
struct hold;

enum px_ip { PX_IPV4, PX_IPV6, PX_IPS };

/* Sockets that were made ahead. */
struct px_pool {
    unsigned n;
    bool asked; /* more are on their way */
    int fd[PX_POOL];
};

struct px_space {
    TAILQ_ENTRY(px_space) link;
    struct px *px;
    uint32_t id;               /* 0: our own */
    unsigned users;            /* listeners, connections, sockets of datagrams */
    bool left;                 /* it goes with its last user, for it keeps the namespace alive */
    struct hold *hold[PX_IPS]; /* NULL: connects can't be held there */
    int diag;                  /* sock_diag socket; -1 */
    int maker;                 /* -1: our own, or it is gone */
    struct px_pool pool[PX_MAKE_KINDS];
};

void px_space_home(struct px *px);
struct px_space *px_space_find(struct px *px, uint32_t id); /* not one that is left */
/* FDS: maker, sock_diag, and as px_hold_open wants them; takes them: sets them to -1. */
int px_space_add(struct px *px, uint32_t id, int *fds, size_t nfds);
void px_space_leave(struct px_space *s);
void px_spaces_leave(struct px *px);      /* all but our own */
void px_space_unused(struct px_space *s); /* one user less */
void px_spaces_close(struct px *px);      /* at the end of the process */
/* A socket that does not block, in the namespace; -errno. */
int px_space_socket(struct px_space *s, int family, int type);

#endif
