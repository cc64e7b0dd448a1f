/* Loopback as a target of the packet backend: its packets lose their route on the way through the process, and IPv4
 * takes 127.0.0.0/8 and our own addresses from a device only with route_localnet and accept_local on lo
 * (Documentation/networking/ip-sysctl.rst). Set while a fault is there; what they were is in the undo record. All of it
 * in the network namespace of the calling thread. */
#ifndef SQUALL_LOOPBACK_H
#define SQUALL_LOOPBACK_H

#include "squall/err.h"

#define SQ_LOOPBACK_KNOBS 2
int sq_loopback_read(int was[SQ_LOOPBACK_KNOBS], struct sq_err *e);
int sq_loopback_write(const int values[SQ_LOOPBACK_KNOBS], struct sq_err *e);

#endif
