/* The interface that routes lead to, in the calling thread's network namespace. */
#ifndef SQUALL_ROUTE_H
#define SQUALL_ROUTE_H

#include "net/match.h"

/* Its index: by which all hosts of M (names resolved) are reached, or where it has none, that of the default route.
 * -ENETUNREACH: there is no route; -EINVAL (SQ_C_INPUT): there are several. */
int sq_route_interface(const struct sq_match *m, struct sq_err *e);

#endif
