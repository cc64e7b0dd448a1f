/* A fault that counts calls (first, every, after): did it hit those it was to hit? Judged for each instance of the
 * caller, from its calls alone: the injector's own tally is what is in question. */
#ifndef SQUALL_VERIFY_COUNTED_H
#define SQUALL_VERIFY_COUNTED_H

#include "verify/evidence.h"

/* False: they are as many as asked for, as far as can be told; or the fault of S does not count. PARTLY: not every call
 * takes part (percent, conditions), so that only too many of them are wrong. WHY: one sentence, when true. */
bool sq_counted_wrong(const struct sq_evidence *ev, const struct sq_ev_step *s, bool partly, char *why, size_t len);

#endif
