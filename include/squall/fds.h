/* Messages on a Unix socket with descriptors that ride along (unix(7), SCM_RIGHTS). */
#ifndef SQUALL_FDS_H
#define SQUALL_FDS_H

#include <stddef.h>
#include <sys/types.h>

#define SQ_FDS_MAX 64 /* with one message */

/* FLAGS as sendmsg(2)'s; never a SIGPIPE, EINTR is tried again. 0, -EINVAL (more than SQ_FDS_MAX), or what sendmsg
 * says. */
int sq_fds_send(int sock, const void *data, size_t len, const int *fds, size_t n, int flags);

/* The next message: its length (0: the other end is gone), its descriptors in FDS, close-on-exec and the caller's: *N
 * is how many there is room for, and then how many came. More than there is room for are closed. -EMSGSIZE: it was
 * longer than SIZE, and is gone with its descriptors. FLAGS as recvmsg(2)'s; EINTR is tried again. */
ssize_t sq_fds_recv(int sock, void *buf, size_t size, int *fds, size_t *n, int flags);

#endif
