/* A partition between two groups of hosts as nftables rules: what they are (pure), and whether the kernel has them.
 *
 * One table. Base chains at input, output and forward (after NAT has shown the real addresses, before everybody's
 * filters) hand what goes from one group to the other to `cut_out` (first group to second) or `cut_in` (back), which
 * count it in a counter of the same name and drop or reject it. Nothing else is judged. Neighbour discovery passes, as
 * ARP does: without it a partition in one direction would cut both. */
#ifndef SQUALL_PARTITION_H
#define SQUALL_PARTITION_H

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

#include "net/match.h"
#include "net/spans.h"
#include "squall/err.h"

enum sq_cut_how { SQ_CUT_DROP, SQ_CUT_REJECT_ICMP, SQ_CUT_REJECT_RST };

struct sq_ports {
    const struct sq_range *v; /* sorted, merged */
    size_t n;
};

struct sq_partition {
    const char *family; /* "inet" or "bridge" */
    char table[64];
    bool self;            /* the first group has this host (namespace) itself */
    struct sq_spans a[2]; /* the first group's other hosts; [0] IPv4, [1] IPv6; owned */
    struct sq_spans b[2]; /* the second group; owned */
    bool out, in;         /* from the first to the second, and back */
    bool keep;            /* TCP connections that exist go on */
    enum sq_cut_how how;
    uint8_t protocol;            /* IPPROTO_*; 0: any */
    struct sq_range *port;       /* of the second group; owned */
    struct sq_range *local_port; /* of the first; owned */
    size_t n_port, n_local_port;
    const struct sq_match *spare; /* borrowed; its `except` groups pass; NULL: none */
};

struct sq_cut_counts {
    uint64_t packets[2], bytes[2]; /* [0] out, [1] in */
};

/* Set the groups from resolved ones; what was there before is freed. */
int sq_partition_groups(struct sq_partition *p, const struct sq_group *a, const struct sq_group *b, struct sq_err *e);
/* Direction, how, existing, protocol and ports, from a normalized `with`. On error P is as it was. */
int sq_partition_with(struct sq_partition *p, const json_t *with, struct sq_err *e);
void sq_partition_clear(struct sq_partition *p);

/* {"nftables":[...]} to fill an empty table; the same for changed rules (one transaction, counters go on); and for
 * changed groups alone, element by element (NULL: nothing to do). New references. */
json_t *sq_partition_fill(const struct sq_partition *p);
json_t *sq_partition_change(const struct sq_partition *p);
int sq_partition_move(const struct sq_partition *from, const struct sq_partition *to, json_t **out, struct sq_err *e);

#define SQ_PARTITION_PRIORITY (-10)               /* NAT's are -100 and 100, filters' 0 (linux/netfilter_ipv4.h) */
extern const char *const sq_partition_sets[2][2]; /* [group][family] */
extern const char *const sq_partition_cuts[2];    /* chains and counters: out, in */
/* Every rule, in the form in which libnftables lists it: [{"chain","expr"}, ...]. New reference. */
json_t *sq_partition_rules(const struct sq_partition *p);

/* What to list (sq_nft_list) for sq_partition_compare, and for sq_partition_count. */
extern const char *const sq_partition_objects[], *const sq_partition_counters[];
/* Is OBJECTS (sq_nft_list) what P asks for? -EBADE with the first difference. COUNTS may be NULL. */
int sq_partition_compare(const struct sq_partition *p, const json_t *objects, struct sq_cut_counts *counts,
                         struct sq_err *e);
/* False: there are no counters of its table. */
bool sq_partition_count(const struct sq_partition *p, const json_t *objects, struct sq_cut_counts *counts);

#endif
