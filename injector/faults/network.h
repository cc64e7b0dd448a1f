/* What the kinds network/... share: one impairment (net/impair.h) of the packets that match (net/match.h) on one
 * interface, in one direction or both, carried out by a backend (net/shaper.h). */
#ifndef SQUALL_FAULT_NETWORK_H
#define SQUALL_FAULT_NETWORK_H

#include "faults/fault.h"

int sq_netfault_check(struct sq_engine *eng, struct sq_err *e);
int sq_netfault_resolve(struct sq_fault *f, struct sq_err *e);
int sq_netfault_undo(struct sq_fault *f, json_t *records, struct sq_err *e);
int sq_netfault_apply(struct sq_fault *f, struct sq_err *e);
int sq_netfault_readback(struct sq_fault *f, json_t **out, struct sq_err *e);
int sq_netfault_change(struct sq_fault *f, json_t *with, struct sq_err *e);
json_t *sq_netfault_felt(struct sq_fault *f);
int sq_netfault_revert(struct sq_engine *eng, const json_t *undo, struct sq_err *e);
int sq_netfault_gone(struct sq_engine *eng, const json_t *undo, struct sq_err *e);
void sq_netfault_free(struct sq_fault *f);

/* How a backend fares here, for `doctor`: 0 or why not. */
int sq_netfault_backend_check(struct sq_engine *eng, const char *name, struct sq_err *e);

/* The initializer of a kind's sq_fault_ops. */
#define SQ_NETWORK_OPS                                                                                                 \
    {                                                                                                                  \
        .check = sq_netfault_check, .resolve = sq_netfault_resolve, .undo = sq_netfault_undo,                          \
        .apply = sq_netfault_apply, .readback = sq_netfault_readback, .change = sq_netfault_change,                    \
        .felt = sq_netfault_felt, .revert = sq_netfault_revert, .gone = sq_netfault_gone, .free = sq_netfault_free,    \
    }

#endif
