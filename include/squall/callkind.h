/* Which call faults make sense on an edge, by its protocol: the same answer for `squall check` and for the injector. */
#ifndef SQUALL_CALLKIND_H
#define SQUALL_CALLKIND_H

#include <jansson.h>
#include <stdbool.h>

#include "squall/err.h"

/* "udp" and "dns": each message is a call; all others are streams. */
bool sq_protocol_dgram(const char *protocol);
/* The fault USES (call/...) with WITH (normalized) on an edge of PROTOCOL. 0, or -EINVAL with why; *key (may be NULL)
 * is the parameter that is wrong, "" when it is the fault itself. */
int sq_call_suits(const char *uses, const char *protocol, const json_t *with, const char **key, struct sq_err *e);

#endif
