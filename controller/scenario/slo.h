/* SLO files: what users were promised, apart from any one rehearsal. Two forms: OpenSLO v1 (a subset, several documents
 * a file) and a short one that teams write by hand. SCENARIO.md, "SLO files", has both, and what they become. */
#ifndef CONTROLLER_SCENARIO_SLO_H
#define CONTROLLER_SCENARIO_SLO_H

#include <jansson.h>
#include <stdbool.h>

#include "scenario/diag.h"
#include "scenario/normalize.h"

#define SQ_SLO_MAX_DOCS 100
#define SQ_SLO_MAX_QUERY 4096 /* bytes of one PromQL expression */

/* Read D->file. *out, a new reference, is {"slos": {name: ...}, "budgets": {endpoint: ...}}, normalized; NULL after an
 * error. Names of endpoints are not looked up: that takes a scenario. */
int sq_slo_check(json_t **out, struct sq_diags *d);
/* The same for LEN bytes of text. */
int sq_slo_check_text(const char *text, size_t len, json_t **out, struct sq_diags *d);
/* Does FILE look like one (rather than like a scenario)? False also when it can't be read. */
bool sq_slo_file_is(const char *file);

/* In a scenario: spec.slos, a list of files, becomes the object of all their SLOs, spec.budgets that of their budgets,
 * and what names an SLO (checks, abort_when) gets its values. */
void sq_slo_resolve(struct sq_norm *c, const struct sq_node *spec_node, json_t *spec);

/* ---- between slo_*.c ---- */

extern const struct sq_section sq_section_slo_file, sq_section_objective, sq_section_performance;

/* OpenSLO documents into SLOS (name -> SLO). */
void sq_openslo(struct sq_norm *c, struct sq_node *const *docs, size_t n, json_t *slos);
/* "FILE:line:column" of N as a new string; FILE as the scenario names it. */
json_t *sq_slo_at(const struct sq_norm *c, struct sq_pos pos);
/* Is TEXT fit to be sent as PromQL? Reports when not. */
bool sq_slo_query(struct sq_norm *c, const char *label, struct sq_pos at, const char *text);
/* Is TEXT the address of a Prometheus (http://host:port, perhaps with a path)? Reports when not. */
bool sq_slo_url(struct sq_norm *c, const char *label, struct sq_pos at, const char *text);
/* A target in percent must leave a budget. */
bool sq_slo_target(struct sq_norm *c, const char *label, struct sq_pos at, double percent);

void sq_finish_prometheus(struct sq_norm *c, const char *label, const struct sq_node *n, json_t *o);
void sq_finish_objective(struct sq_norm *c, const char *label, const struct sq_node *n, json_t *o);
void sq_finish_performance(struct sq_norm *c, const char *label, const struct sq_node *n, json_t *o);
void sq_finish_slo_file(struct sq_norm *c, const char *label, const struct sq_node *n, json_t *o);

#endif
