#include "net/permit.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <linux/nsfs.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "runas.h"
#include "squall/cleanup.h"
#include "squall/proc.h"

#define STATUS_MAX 8192
#define DEEPEST 33 /* user namespaces nest 32 deep */

static bool same_file(int fd, const char *path)
{
    struct stat a, b;

    return fstat(fd, &a) == 0 && stat(path, &b) == 0 && a.st_dev == b.st_dev && a.st_ino == b.st_ino;
}

/* ---- the peer's process ---- */

/* Is it there, still the peer's (a program with other rights would have other uids), and in our user namespace (in its
 * own, it is root and has every capability)? *ambient: its ambient capabilities. The namespace comes last, of the same
 * process (whose directory is held): one that is in ours then has always been, for there is no way back. */
static bool read_peer(const struct sq_peer *peer, uint64_t *ambient)
{
    char path[64], text[STATUS_MAX];
    unsigned uid[4];
    const char *at;

    *ambient = 0;
    (void)snprintf(path, sizeof path, "/proc/%d", (int)peer->pid);
    cleanup_close int dir = open(path, O_PATH | O_DIRECTORY | O_CLOEXEC);
    cleanup_close int ours = open("/proc/self/ns/user", O_RDONLY | O_CLOEXEC);
    if (dir < 0 || ours < 0)
        return false;
    (void)snprintf(path, sizeof path, "/proc/self/fd/%d/status", dir);
    if (sq_proc_slurp(path, text, sizeof text) <= 0)
        return false;
    (void)snprintf(path, sizeof path, "/proc/self/fd/%d/ns/user", dir);
    if (!same_file(ours, path))
        return false;
    at = strstr(text, "\nUid:");
    if (!at || sscanf(at, "\nUid: %u %u %u %u", &uid[0], &uid[1], &uid[2], &uid[3]) != 4)
        return false;
    for (size_t i = 0; i < SQ_COUNT(uid); i++)
        if (uid[i] != peer->uid)
            return false;
    at = strstr(text, "\nCapAmb:");
    *ambient = at ? strtoull(at + 8, NULL, 16) : 0;
    return true;
}

/* ---- whose network it is ---- */

/* Has UID made, from ours, the user namespace that NS belongs to, directly or by way of others? (cap_capable() of
 * security/commoncap.c: one that was made within somebody else's gives no rights to that uid out here.) */
static bool owns(uid_t uid, const struct sq_netns *ns)
{
    cleanup_close int own = ns->fd < 0 ? open("/proc/thread-self/ns/net", O_RDONLY | O_CLOEXEC) : -1;
    cleanup_close int user = ioctl(ns->fd < 0 ? own : ns->fd, NS_GET_USERNS);
    bool owned = false;

    for (int i = 0; i < DEEPEST && user >= 0 && !same_file(user, "/proc/self/ns/user"); i++) {
        uid_t owner;
        int parent = ioctl(user, NS_GET_PARENT); /* EPERM: beyond our own */

        if (parent >= 0 && same_file(parent, "/proc/self/ns/user"))
            owned = ioctl(user, NS_GET_OWNER_UID, &owner) == 0 && owner == uid;
        (void)close(user);
        user = parent;
    }
    return owned;
}

int sq_net_permitted(const struct sq_peer *peer, const struct sq_netns *ns, struct sq_err *e)
{
    uint64_t ambient;

    if (peer->uid == 0 || peer->uid == geteuid())
        return 0;
    if (read_peer(peer, &ambient) && (ambient & UINT64_C(1) << CAP_NET_ADMIN || owns(peer->uid, ns)))
        return 0;
    sq_err_cls(e, SQ_C_DENIED, -EPERM, "uid %u may not change the network of %s", (unsigned)peer->uid,
               ns->fd < 0 ? "this host" : ns->name);
    sq_err_hint(e, "ask as root, or with CAP_NET_ADMIN as an ambient capability (setpriv --inh-caps +net_admin "
                   "--ambient-caps +net_admin, AmbientCapabilities= of systemd), or name a namespace of your own");
    return -EPERM;
}

/* ---- finding it for the peer ---- */

struct opening {
    const char *path;
    int fd;
};

static int open_it(void *arg)
{
    struct opening *o = arg;

    o->fd = open(o->path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    return o->fd < 0 ? -errno : 0;
}

int sq_netns_open_for(const struct sq_peer *peer, const char *spec, struct sq_netns *ns, struct sq_err *e)
{
    struct opening o = {spec, -1};
    int r;

    if (spec && spec[0] == '/' && peer->uid != 0 && peer->uid != geteuid()) {
        *ns = (struct sq_netns){.fd = -1};
        r = sq_run_as(peer, open_it, &o, e);
        if (r < 0)
            return sq_err_cls(e, r == -ENOENT ? SQ_C_NOTFOUND : SQ_C_DENIED, r,
                              "uid %u cannot open the network namespace %.200s: %s", (unsigned)peer->uid, spec,
                              strerror(-r));
        r = sq_netns_adopt(o.fd, spec, ns, e);
    } else {
        r = sq_netns_open(spec, ns, e);
    }
    r = r ? r : sq_net_permitted(peer, ns, e);
    if (r < 0)
        sq_netns_close(ns);
    return r;
}
