/* squalld's messages to a packet process (wire.h), read. It is trusted, but nothing it sends may make the process
 * crash: it would take the network's faults, and what is held, with it. */
#ifndef SQUALL_PACKET_CONTROL_H
#define SQUALL_PACKET_CONTROL_H

#include <stddef.h>

#include "packet/wire.h"
#include "squall/err.h"

struct sq_impair;

#define SQ_PACKET_MESSAGE_MAX (sizeof(struct sq_packet_set) + 1024 + 2 * (4 + 2 * 16384))

/* A SET: HEAD and IM, whose tables are the caller's then; every number is checked. */
int sq_packet_set_read(const void *buf, size_t len, struct sq_packet_set *head, struct sq_impair *im, struct sq_err *e);
/* For squalld: the message; free() it. NULL: no memory. */
void *sq_packet_set_write(const struct sq_packet_set *head, const struct sq_impair *im, size_t *len);

#endif
