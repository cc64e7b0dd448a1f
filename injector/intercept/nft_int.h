/* Inside of callers by nftables (nft.h): what its files share. */
#ifndef SQUALL_INTERCEPT_NFT_INT_H
#define SQUALL_INTERCEPT_NFT_INT_H

#include <stdint.h>

#include "intercept/nft.h"
#include "intercept/running_int.h"
#include "net/nft.h"

#define SQ_NAT_ELEMENTS 16384u /* of one table: destinations x port ranges, as the kernel has them */
#define SQ_NAT_NAME 80
#define SQ_NAT_EDGES "edges"  /* in a table's name: what redirects, */
#define SQ_NAT_HELD "held"    /* and what keeps redirected connections whole (net/config.c knows it, too) */
#define SQ_NAT_SHARE 1000000u /* numgen's modulus: percents to four places */

/* The listeners of one edge for one caller. */
struct sq_nat_edge {
    uint32_t id; /* the edge's number */
    uint32_t slot;
    uint16_t port[2]; /* IPv4 and IPv6, host byte order; 0: there is none */
};

__extension__ typedef unsigned __int128 sq_nat_addr; /* host byte order; IPv4 in the low 32 bits */

/* An interval of destinations and whose it is; all ends inclusive. */
struct sq_nat_element {
    sq_nat_addr lo, hi;
    uint16_t from, to; /* ports */
    uint32_t slot;
};

struct sq_nat_table;

struct sq_nat {
    uint64_t cgroup;
    uint32_t level;
    char path[SQ_CGROUP_MAX];
    struct sq_nft *keep;           /* the table that redirects nobody */
    struct sq_nat_table *in_force; /* owned; NULL: none */
    struct sq_nat_edge *edge;
    size_t n_edges;
};

/* A connect that is refused: a rule of an edge, for one caller. */
struct sq_nat_error {
    uint32_t number;
    uint32_t share; /* of SQ_NAT_SHARE */
};
#define SQ_NAT_PREFIX "c%u e%u r%u" /* caller, edge, rule: what the log says of a refused connect */
/* Those of EDGE that mean C, in their order: so many. */
size_t sq_nat_errors(const struct sq_edge *edge, const struct sq_caller *c, struct sq_nat_error out[SQ_EDGE_RULES]);

/* nft_hold.c */
/* TABLE lives on for as long as the proxy wants, and then until it is dead: what is returned (-errno) is for the proxy,
 * which writes a byte to it and closes it when it needs the table no more. */
int sq_nat_hold(const struct sq_intercept *ic, const struct sq_nft *table, struct sq_err *e);

/* nft_text.c */
/* What is in force for one caller, or shall be. */
struct sq_nat_table {
    const struct sq_caller *c;
    const struct sq_nat *nat;
    char name[SQ_NAT_NAME];
    uint16_t group;               /* of NFLOG; used when some edge has errors */
    struct sq_nat_element *el[2]; /* IPv4, IPv6; owned */
    size_t n[2];
};
/* The elements of a compiled table. -E2BIG. */
int sq_nat_elements(struct sq_nat_table *t, const struct sq_table *from, struct sq_err *e);
/* Commands that fill the table; CGROUP_FD: an open directory of the cgroup. malloc'd; NULL: no memory. */
char *sq_nat_text(const struct sq_nat_table *t, int cgroup_fd);
/* Does the kernel (through NFT) have that? -EBADE. */
int sq_nat_same(const struct sq_nat_table *t, struct sq_nft *nft, struct sq_err *e);
void sq_nat_table_clear(struct sq_nat_table *t);

/* nft_room.c: is the kernel's table of tracked connections half empty? PROC: "/proc". 0, or -ENOSPC and why + hint. */
int sq_nat_room(const char *proc, struct sq_err *e);

#endif
