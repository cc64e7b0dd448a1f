/* Network namespaces: finding one, entering it for a moment, recognizing it later. Nothing here keeps a namespace alive
 * for longer than a call: an open descriptor of it would. */
#ifndef SQUALL_NETNS_H
#define SQUALL_NETNS_H

#include <jansson.h>
#include <stdint.h>
#include <sys/types.h>

#include "squall/err.h"

struct sq_netns {
    int fd;           /* owned; -1: the calling process's own */
    uint64_t cookie;  /* SO_NETNS_COOKIE (Linux 5.14): unique for the boot; 0: unknown */
    uint64_t ino;     /* of nsfs */
    char path[256];   /* "/run/netns/x", "/proc/12/ns/net"; "" for our own */
    char name[96];    /* for people: "x", "pid 12", "container 0a1b2c3d4e5f" */
    char resolv[256]; /* resolv.conf that its inhabitants see; where there is none, this host's. Not looked at yet */
};

/* SPEC as in a target's "namespace": a name (ip netns), "pid:N", "container:ID" (at least 6 hex digits of the id, found
 * by the cgroup path of its processes, whatever the runtime), or a path; NULL: our own. -ENOENT, SQ_C_NOTFOUND. */
int sq_netns_open(const char *spec, struct sq_netns *ns, struct sq_err *e);
int sq_netns_open_pid(pid_t pid, struct sq_netns *ns, struct sq_err *e); /* "pid:PID" */
/* The same from FD, which was opened at PATH and is taken over, also on error. */
int sq_netns_adopt(int fd, const char *path, struct sq_netns *ns, struct sq_err *e);
void sq_netns_close(struct sq_netns *ns);
/* For an undo record; and its namespace again, by whatever path leads there now (that path, else any process in it,
 * else any of /run/netns): 0; -ENOENT when it is gone for good (what was in it is gone, too). New reference. */
json_t *sq_netns_record(const struct sq_netns *ns);
int sq_netns_find(const json_t *record, struct sq_netns *ns, struct sq_err *e);
/* Run FN in it on this thread and come back. A thread that can't come back ends the process. Returns what FN returned.
 */
int sq_netns_call(const struct sq_netns *ns, int (*fn)(void *arg, struct sq_err *e), void *arg, struct sq_err *e);

/* The container whose id begins with ID (6 digits or more): its whole id, and the lowest pid in it. */
int sq_container_find(const char *id, char *full, size_t len, pid_t *pid, struct sq_err *e);

#endif
