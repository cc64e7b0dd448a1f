/* From evidence to the verdict of a run. */
#ifndef SQUALL_VERIFY_VERDICT_H
#define SQUALL_VERIFY_VERDICT_H

#include <jansson.h>

#include "squall/err.h"
#include "verify/evidence.h"

/* Run the checks that the scenario names, and conclude: *verdict (new reference) is verdict.json of EVIDENCE.md, with
 * "exit" the exit code (enum sq_exit). Pure. */
int sq_verify(const struct sq_evidence *ev, json_t **verdict, struct sq_err *e);
/* The same for DIR/evidence.jsonl. Writes nothing. */
int sq_verify_run_dir(const char *dir, json_t **verdict, struct sq_err *e);
/* Write DIR/verdict.json: whole or not at all. */
int sq_verdict_write(const char *dir, const json_t *verdict, struct sq_err *e);

#endif
