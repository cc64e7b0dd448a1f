#ifndef SQUALL_REPORT_CHARTS_H
#define SQUALL_REPORT_CHARTS_H

#include <stdio.h>

#include "squall/err.h"
#include "verify/evidence.h"

/* The timeline of a run: latency, errors, the calls on each edge, breaker states, fault windows shaded in all of them.
 */
int sq_charts(FILE *out, const struct sq_evidence *ev, struct sq_err *e);

#endif
