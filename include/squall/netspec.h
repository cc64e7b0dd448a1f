/* The target of a network fault (SQ_T_NETWORK): what its texts mean, and what its tables can't say. Used by the
 * scenario's reader, which knows positions, and by squalld. */
#ifndef SQUALL_NETSPEC_H
#define SQUALL_NETSPEC_H

#include <jansson.h>
#include <netinet/in.h>
#include <stdbool.h>
#include <stdint.h>

#include "squall/err.h"

/* "10.0.0.0/8", "192.0.2.1", "2001:db8::/32": IPv4 as ::ffff:a.b.c.d, *LEN 0..128 (IPv4: 96..128). Host bits below the
 * prefix are an error. -EINVAL. */
int sq_parse_network(const char *s, struct in6_addr *addr, uint8_t *len, struct sq_err *e);
/* Can it be a host name (RFC 1123), and is it no misspelt address? */
bool sq_is_hostname(const char *s);
/* "5432", "8000-8100": 1..65535. */
int sq_parse_ports(const char *s, uint16_t *from, uint16_t *to, struct sq_err *e);
/* IPPROTO_*; 0: "any"; -1: unknown. */
int sq_protocol_number(const char *name);
const char *sq_protocol_name(int protocol); /* "tcp"; "any" */

/* Check a target that its table (sq_target_params) has normalized. On -EINVAL, WHERE (LEN bytes) says which part:
 * "match/0/port/1", "of", "" (all of it). */
int sq_network_check(const json_t *target, char *where, size_t len, struct sq_err *e);
/* The same for the target of a partition (SQ_T_PARTITION): "between/0", "and/1". */
int sq_partition_check(const json_t *target, char *where, size_t len, struct sq_err *e);

/* "10mbit", "125kbps" as tc writes them: bytes a second. */
int sq_parse_bandwidth(const char *s, uint64_t *bytes, struct sq_err *e);
/* The name of a distribution, or file:PATH, hlog:PATH, run:DIR#ENDPOINT; whether the file is there is another matter.
 */
int sq_distribution_check(const char *s, struct sq_err *e);
size_t sq_distribution_path(const char *s); /* where its path begins; 0: it has none */
int sq_preset_check(const char *name, struct sq_err *e);
/* The same as for targets for a normalized `with` of network/latency, loss, impair; and of network/partition. */
int sq_network_with_check(const json_t *with, char *where, size_t len, struct sq_err *e);
int sq_partition_with_check(const json_t *with, char *where, size_t len, struct sq_err *e);

/* What a network fault hit, for people: "eth0 egress by packet", "between self and 10.0.0.0/8". False: HIT is of
 * another kind of fault. Writes at most LEN bytes. */
bool sq_network_hit_text(const json_t *hit, char *buf, size_t len);

#endif
