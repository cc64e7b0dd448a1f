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
    struct sq_prefix *host; /* owned; n_host 0 and !named: any */
    size_t n_host;
    char **name; /* owned host names as written: sq_match_resolve fills `host` with their addresses, too */
    size_t n_name;
    struct sq_range *port, *local_port;
    size_t n_port, n_local_port;
    uint8_t protocol; /* IPPROTO_*; 0: any */
    int16_t dscp;     /* 0..63; -1: any */
    int16_t vlan;     /* 1..4094; -1: any (tagged or not) */
};

struct sq_match {
    struct sq_group *match, *except; /* owned */
    size_t n_match, n_except;
    uint64_t cgroup; /* cgroup2 id; 0: everybody's traffic */
};

/* From the normalized target (see above). Names are kept, not resolved. sq_match_clear afterwards, always. */
int sq_match_read(const json_t *target, struct sq_match *m, struct sq_err *e);
void sq_match_clear(struct sq_match *m);
bool sq_match_named(const struct sq_match *m); /* does it have host names? */
/* Resolve all names (A and AAAA) in the network namespace NETNS_FD (-1: ours) with the resolver configuration of that
 * namespace (/etc/netns/NAME/resolv.conf, or the container's own). Every name must give at least one address:
 * -EHOSTUNREACH, SQ_C_NOTFOUND. Blocks (at most 5 s): run it in a worker or a child. *changed: the addresses differ
 * from before. */
int sq_match_resolve(struct sq_match *m, int netns_fd, bool *changed, struct sq_err *e);
/* What spare_control adds: ports and peers of the sshd sessions, of the asking controller, of the probe (given as JSON
 * by the controller in the run's "probe": ["addr:port", ...]) as `except` groups; NOTES gets one line each for the
 * plan. */
int sq_match_spare(struct sq_match *m, const json_t *run_probe, json_t *notes, struct sq_err *e);
/* For people: "tcp to 10.0.0.0/8:5432 except port 22". */
char *sq_match_text(const struct sq_match *m, char *buf, size_t len);

#endif
