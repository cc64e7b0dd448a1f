/* squalld's messages to a packet process (wire.h), read. It is trusted, but nothing it sends may make the process
 * crash: it would take the network's faults, and what is held, with it. */
#ifndef SQUALL_PACKET_CONTROL_H
#define SQUALL_PACKET_CONTROL_H

#include <stddef.h>

#include "net/impair.h"
#include "packet/wire.h"
#include "squall/err.h"

#define SQ_PACKET_MESSAGE_MAX (sizeof(struct sq_packet_set) + 1024 + 2 * (4 + 2 * 16384))

/* A SET: HEAD and IM, whose tables are the caller's then; every number is checked. */
int sq_packet_set_read(const void *buf, size_t len, struct sq_packet_set *head, struct sq_impair *im, struct sq_err *e);
/* For squalld: the message; free() it. NULL: no memory. */
void *sq_packet_set_write(const struct sq_packet_set *head, const struct sq_impair *im, size_t *len);

/* The answer to a GET: what the stage carries out, by value; of its tables how long they are and a checksum. */
struct sq_packet_got {
    uint32_t op, bit, ingress, seq;
    uint32_t on;      /* there is a stage at this bit */
    uint32_t offload; /* its direction's TAP lets GSO and partial checksums in */
    uint32_t n_table, n_slot_table;
    uint64_t table_sum, slot_table_sum;
    struct sq_impair im; /* no tables; `limit` as it is in force, never 0 */
};
void sq_packet_got_fill(struct sq_packet_got *got, const struct sq_impair *im, uint32_t limit);
/* Does the direction of a fault with these parameters need GSO and partial checksums kept out? */
bool sq_packet_plain_only(const struct sq_impair *im);
/* The name of the first parameter in which GOT differs from what was asked; NULL: it is that. */
const char *sq_packet_differs(const struct sq_packet_got *got, const struct sq_impair *asked);

#endif
