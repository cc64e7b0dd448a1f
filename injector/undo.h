/* Taking back by undo record alone: the same for squalld (ENG set), the keeper and a sweep (ENG NULL). A journal record
 * is
 * {"run","fault" or "service","kind","undo":{...}}; kind "service" is a started instance, every other one a fault kind.
 */
#ifndef SQUALL_UNDO_H
#define SQUALL_UNDO_H

#include <jansson.h>

#include "faults/fault.h"
#include "journal.h"
#include "squall/err.h"

#define SQ_KIND_SERVICE "service"

/* Revert, then ask whether it is really gone. 0: gone for sure. -errno: it is not, or nobody can tell ("unknown" is
 * never "recovered"). */
int sq_undo(struct sq_engine *eng, const char *kind, const json_t *undo, struct sq_err *e);
/* "run r1, fault f2 (process/pause): why": for people. */
void sq_undo_describe(const json_t *record, const struct sq_err *e, char *buf, size_t len);

enum sq_undo_which { SQ_UNDO_FAULTS, SQ_UNDO_ALL };
/* Take back what the journal holds, newest first. Returns how many records stay, or -errno; says each on LOG (may be
 * NULL). Blocks: services are given up to 2 s each. */
int sq_undo_journal(struct sq_journal *j, enum sq_undo_which which, void (*log)(void *arg, const char *line), void *arg,
                    struct sq_err *e);

#endif
