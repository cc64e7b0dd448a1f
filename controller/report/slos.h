/* The table of SLOs (verdict.json, "slos") as texts, for every format that shows it. Pure. */
#ifndef CONTROLLER_REPORT_SLOS_H
#define CONTROLLER_REPORT_SLOS_H

#include <jansson.h>
#include <stddef.h>

struct sq_slo_row {
    const char *name, *indicator;
    char target[32], observed[32], spent[32], window[32];
    char alerts[400]; /* "page 14.4x (1h and 5m) at 31 s", "none", "can't fire in so short a run", or why nothing is
                         known */
    const char *tone; /* "fail": a page, "warn": a ticket, or something is not known, "pass" */
};
void sq_slo_row_of(const json_t *o, struct sq_slo_row *out);
/* What must be known to read it; "" when there is nothing. */
const char *sq_slo_note(const json_t *slos, char *buf, size_t len);

#endif
