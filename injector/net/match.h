/* Which packets a network fault means: groups of conditions (all of a group hold: AND; any group matches: OR), and
 * exceptions. Directions are the target's view: "host" and "port" are always the other side's, "local_port" ours.
 *
 * Normalized target of a network fault (SQ_T_NETWORK):
 *   {"interface": "eth0" | "auto", "direction": "egress" | "ingress" | "both",
 *    "namespace": "name" | "pid:N" | "container:ID" | "/path" (absent: squalld's own),
 *    "match":  [{"host": ["10.0.0.0/8", "db.stg", "2001:db8::/32"], "port": ["5432", "8000-8100"], "local_port": [...],
 *                "protocol": "tcp|udp|icmp|sctp|any", "dscp": N, "vlan": N}, ...]   (absent: every packet),
 *    "except": [ same groups ],
 *    "of": {"service"|"pid"|"pattern"|"port"|"cgroup"|"container": ...}  only the traffic of that process tree,
 *    "spare_control": true (default): SSH, the controller's and the API's connections and the probe's path are
 * excepted}
 */
#ifndef SQUALL_MATCH_H
#define SQUALL_MATCH_H

#include <jansson.h>
#include <netinet/in.h>
#include <stdbool.h>
#include <stdint.h>

#include "net/classify.h"
#include "squall/err.h"

struct sq_prefix {
    struct in6_addr addr; /* IPv4 as ::ffff:a.b.c.d */
    uint8_t len;          /* 0..128 */
};
struct sq_range {
    uint16_t from, to; /* inclusive */
};

struct sq_group {
    struct sq_prefix *host; /* owned; n_host 0 and n_name 0: any */
    size_t n_host;
    size_t n_resolved; /* the last so many of them are the addresses of names */
    char **name;       /* owned host names as written: sq_match_resolve fills `host` with their addresses, too */
    size_t n_name;
    struct sq_range *port, *local_port;
    size_t n_port, n_local_port;
    uint8_t protocol; /* IPPROTO_*; 0: any */
    int16_t dscp;     /* 0..63; -1: any */
    int16_t vlan;     /* 1..4094; -1: any (tagged or not) */
};

/* A cgroup2 whose sockets' traffic is meant, with all below it. */
struct sq_of {
    uint64_t id;
    uint32_t level; /* below the root of the hierarchy: 1.. */
    char path[512]; /* its directory */
};

struct sq_match {
    struct sq_group *match, *except; /* owned */
    size_t n_match, n_except;
    struct sq_of *of; /* owned; any of them */
    size_t n_of;      /* 0: everybody's traffic */
};

/* From the normalized target (see above). Names are kept, not resolved; `of` is not looked at (sq_match_of).
 * sq_match_clear afterwards, always. */
int sq_match_read(const json_t *target, struct sq_match *m, struct sq_err *e);
void sq_match_clear(struct sq_match *m);
bool sq_match_named(const struct sq_match *m); /* does it have host names? */
/* The "of" of F's target, if there is one: resolved to cgroup2s that hold nobody else; -EBUSY (SQ_C_CONFLICT) says who
 * else is there. HIT (array, may be NULL) gets {"pid","cmd",...} of the processes, NOTES (may be NULL) what the plan
 * should say. */
struct sq_fault;
int sq_match_of(struct sq_fault *f, struct sq_match *m, json_t *hit, json_t *notes, struct sq_err *e);
/* Resolve all names (A and AAAA) as the inhabitants of NS do (its network, its resolv.conf, /etc/hosts beside that).
 * Every name must give at least one address: -EHOSTUNREACH, SQ_C_NOTFOUND. Blocks, at most 5 s. *changed (may be NULL):
 * the addresses differ from before. Names that fail keep the addresses that they have. */
struct sq_netns;
int sq_match_resolve(struct sq_match *m, const struct sq_netns *ns, bool *changed, struct sq_err *e);

/* The same without blocking, for the time after that: a child resolves, the loop polls. */
struct sq_resolving;
/* Starts; *FD (the pipe, borrowed) is readable when sq_resolving_end may be called without blocking. NS is not kept. */
int sq_resolving_begin(const struct sq_match *m, const struct sq_netns *ns, struct sq_resolving **out, int *fd,
                       struct sq_err *e);
/* Reads what there is: -EAGAIN when the child is not through (call again when readable, or after a while: it ends with
 * its time limit, whatever the child does); else as sq_match_resolve, into M, which must have the groups that it had;
 * -EALREADY when that has been said before. */
int sq_resolving_end(struct sq_resolving *r, struct sq_match *m, bool *changed, struct sq_err *e);
/* Ends the child, frees *R and makes it NULL. What can't be killed now (a file system whose server is dead holds it)
 * stays in *R, for another try: so no more than one of a fault's children hangs. */
void sq_resolving_drop(struct sq_resolving **r);
void sq_resolving_free(struct sq_resolving *r); /* never blocks: what can't be killed now is reaped when it dies */

/* The "probe" of POST /v1/runs, checked: [{"to": "addr:port", "from": "addr"}], with the address that the probe sends
 * from. New reference; NULL: E. */
json_t *sq_match_probe(const json_t *probe, struct sq_err *e);
/* What spare_control adds: ports of the sshd of this network namespace and of its sessions, and the probe's path (what
 * sq_match_probe gave) as `except` groups; NOTES gets one line each for the plan. Call it in the namespace of the fault
 * (sq_netns_call). */
int sq_match_spare(struct sq_match *m, const json_t *run_probe, json_t *notes, struct sq_err *e);
/* For people: "tcp to 10.0.0.0/8:5432 except port 22". */
char *sq_match_text(const struct sq_match *m, char *buf, size_t len);

#endif
