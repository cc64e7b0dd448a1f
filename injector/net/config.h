/* What is configured in a network namespace that a fault of ours could have changed. */
#ifndef SQUALL_NET_CONFIG_H
#define SQUALL_NET_CONFIG_H

#include <jansson.h>

/* Of the calling thread's namespace: {"qdiscs", "classes", "filters", "tables"}, in the kernel's order; what can't be
 * read is left out. Two of an untouched namespace are equal: no counter or age is in it. `options` is a digest of what
 * tc calls options, of the kinds that have no counter among them. A table's `digest` is one of its rules, by handle (a
 * rule that is changed gets another one). `filters` has the BPF programs of tcx, too. New reference; NULL: no memory.
 */
json_t *sq_net_config(void);

#endif
