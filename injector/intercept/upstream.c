/* The real Unix socket behind an edge, connected with the rights of the run's user: the proxy has none of its own, and
 * must not lend squalld's. */
#include <errno.h>
#include <pwd.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "intercept/priv.h"
#include "runas.h"
#include "squall/cleanup.h"

#define NOBODY 65534

struct job {
    struct sockaddr_un addr;
    socklen_t len;
    int fd;
};

/* Non-blocking: a full backlog is EAGAIN at once, and the proxy reports the call as refused. */
static int try_connect(void *arg)
{
    struct job *j = arg;

    return connect(j->fd, (struct sockaddr *)&j->addr, j->len) < 0 ? -errno : 0;
}

static gid_t group_of(uid_t uid)
{
    struct passwd pw, *found = NULL;
    char buf[4096];

    return getpwuid_r(uid, &pw, buf, sizeof(buf), &found) == 0 && found ? found->pw_gid : NOBODY;
}

int sq_upstream_connect(const struct sq_edge *edge, size_t dest)
{
    cleanup_close int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    struct sq_peer peer = {.uid = edge->uid, .gid = edge->uid ? group_of(edge->uid) : 0, .pid = getpid()};
    const struct sq_dest *d = dest < edge->n_dest ? &edge->dest[dest] : NULL;
    struct job j = {.fd = fd};
    int rc;

    if (fd < 0)
        return -errno;
    if (!d || d->kind != SQ_DEST_UNIX)
        return -ENOENT;
    j.addr.sun_family = AF_UNIX;
    memcpy(j.addr.sun_path, d->path, d->path_len);
    j.len = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + d->path_len + (d->path[0] ? 1 : 0));
    rc = edge->uid == geteuid() ? try_connect(&j) : sq_run_as(&peer, try_connect, &j, NULL);
    return rc < 0 ? rc : SQ_TAKE_FD(fd);
}
