/* Within the classifier: what a fault's match becomes, before and in the maps. */
#ifndef SQUALL_CLASSIFIER_PRIV_H
#define SQUALL_CLASSIFIER_PRIV_H

#include "net/classifier.h"

/* Sorted keys of one set of a trie; without duplicates. */
struct sq_clset {
    uint32_t number; /* 0: any */
    size_t n;
    union {
        void *any;
        struct sq_prefix_key *prefix;
        struct sq_port_key *port;
    } key; /* owned */
};

/* A group as it is in the maps: one rule for each cgroup of the fault, and its sets. */
struct sq_clgroup {
    struct sq_rule rule; /* without ON; `cgroup` and `level` as the rule at `index` says */
    uint32_t index;      /* in the map */
    bool owns;           /* the sets: the group's first rule; its others share them */
    struct sq_clset hosts, ports, locals;
};

/* All groups of M as rules of the fault BIT, with sets numbered from *next_set on, not in the maps yet. *out is owned.
 */
int sq_clgroups_build(uint32_t *next_set, const struct sq_match *m, int bit, struct sq_clgroup **out, size_t *n,
                      struct sq_err *e);
void sq_clgroups_free(struct sq_clgroup *g, size_t n);
/* The error R: no room for more WHAT, or it can't be written. */
int sq_classifier_full(struct sq_err *e, int r, const char *what);

#endif
