/* Reports: pure functions from evidence and verdict to a document. A format is one file, report/<name>.c, which defines
 * `const struct sq_report sq_report_<name>`, and one line in formats.def. */
#ifndef SQUALL_REPORT_H
#define SQUALL_REPORT_H

#include <jansson.h>
#include <stdbool.h>
#include <stdio.h>

#include "squall/err.h"
#include "verify/evidence.h"

struct sq_report_in {
    const struct sq_evidence *ev;
    const json_t *verdict; /* verdict.json of EVIDENCE.md */
    bool colour;           /* these two only the terminal's format looks at */
    unsigned width;        /* columns; 0: 100 */
};

struct sq_report {
    const char *name;
    const char *file; /* its usual name in a run's folder; NULL: none */
    const char *doc;
    int (*write)(FILE *out, const struct sq_report_in *in, struct sq_err *e);
};

size_t sq_reports(const struct sq_report *const **out);
const struct sq_report *sq_report_find(const char *name);
/* Into PATH (through a temporary file: whole or not at all), "-": standard output. Folders on the way are made. */
int sq_report_to(const struct sq_report *r, const char *path, const struct sq_report_in *in, struct sq_err *e);
/* Every format that has a usual file name, into the run's folder DIR. */
int sq_report_all(const char *dir, const struct sq_report_in *in, struct sq_err *e);

#endif
