/* Destinations of an edge, as people write them:
 * "10.0.0.1:80", "10.0.0.0/8:5432", "127.0.0.1:8000-8010", "[::1]:80", "[fd00::/8]:80-90", "db.staging:5432",
 * "unix:/run/db.sock", "unix:@abstract". Used by the scenario's reader and by squalld. */
#ifndef SQUALL_DEST_H
#define SQUALL_DEST_H

#include <netinet/in.h>
#include <stddef.h>
#include <stdint.h>

#include "squall/err.h"

#define SQ_DESTS 256u /* of one edge, and as many exceptions */

enum sq_dest_kind { SQ_DEST_ADDRESS, SQ_DEST_NAME, SQ_DEST_UNIX };

struct sq_dest {
    enum sq_dest_kind kind;
    struct in6_addr addr; /* ADDRESS: already masked; IPv4 as ::ffff:a.b.c.d */
    uint8_t bits;         /* 0..128 of it; IPv4: 96..128 */
    uint16_t from, to;    /* ports, inclusive; not of UNIX */
    char name[254];       /* NAME: a host name (RFC 1123) */
    char path[108];       /* UNIX: as in sun_path; an abstract name begins with NUL */
    size_t path_len;      /* bytes of path, without the final NUL of a file name */
};

/* -EINVAL (SQ_C_INPUT) with what is wrong and, as hint, what would be right. */
int sq_dest_parse(const char *s, struct sq_dest *d, struct sq_err *e);

#endif
