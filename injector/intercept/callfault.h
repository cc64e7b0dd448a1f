/* What the call/ kinds have in common: a rule on an edge. */
#ifndef SQUALL_INTERCEPT_CALLFAULT_H
#define SQUALL_INTERCEPT_CALLFAULT_H

#include <stdbool.h>

#include "faults/fault.h"

/* The operations of struct sq_fault_ops; the kind of rule is what follows "call/" in the fault's name. */
int sq_call_check(struct sq_engine *eng, struct sq_err *e);
int sq_call_resolve(struct sq_fault *f, struct sq_err *e);
int sq_call_undo(struct sq_fault *f, json_t *records, struct sq_err *e);
int sq_call_apply(struct sq_fault *f, struct sq_err *e);
int sq_call_readback(struct sq_fault *f, json_t **out, struct sq_err *e);
int sq_call_change(struct sq_fault *f, json_t *with, struct sq_err *e);
int sq_call_revert(struct sq_engine *eng, const json_t *undo, struct sq_err *e);
int sq_call_gone(struct sq_engine *eng, const json_t *undo, struct sq_err *e);

json_t *sq_call_felt(struct sq_fault *f); /* {"seen","hits"} (calls); of those on bytes also {"acts","bytes"} */
/* latency.c: what only call/latency has. Its delay, jitter and table (of a recording: read with the rights of whoever
 * asked) go into RULE; HAVE, what is in force, is told by name and by value. */
int sq_latency_rule(const struct sq_fault *f, const json_t *with, json_t *rule, struct sq_err *e);
int sq_latency_same(const json_t *with, const json_t *asked, json_t *have, struct sq_err *e);
/* bytefault.c: what only those on bytes have. WITH is checked, then said in RULE as the proxy reads it (wire.h). */
bool sq_is_byte_fault(const char *name);
int sq_byte_check(const char *name, const json_t *with, struct sq_err *e);
int sq_byte_rule(const char *name, const json_t *with, json_t *rule, struct sq_err *e);
/* -EBADE: HAVE is not what RULE asked for. */
int sq_byte_same(const json_t *rule, const json_t *have, struct sq_err *e);

#define SQ_CALL_OPS                                                                                                    \
    {                                                                                                                  \
        .check = sq_call_check, .resolve = sq_call_resolve, .undo = sq_call_undo, .apply = sq_call_apply,              \
        .readback = sq_call_readback, .change = sq_call_change, .felt = sq_call_felt, .revert = sq_call_revert,        \
        .gone = sq_call_gone,                                                                                          \
    }

#endif
