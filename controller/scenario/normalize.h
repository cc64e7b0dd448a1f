/* Inside the reader of scenarios: from nodes with positions to normalized JSON. */
#ifndef CONTROLLER_SCENARIO_NORMALIZE_H
#define CONTROLLER_SCENARIO_NORMALIZE_H

#include "scenario/schema.h"

struct sq_norm {
    struct sq_diags *d;
    const char *folder; /* absolute, of the scenario's file */
};

/* All of these report to c->d and go on, so that several errors are found in one go; the result is a new reference,
 * NULL only without memory. */

/* The mapping N (may be NULL: all defaults; positions are then AT) by a section. */
json_t *sq_norm_section(struct sq_norm *c, const struct sq_section *s, const char *label, const struct sq_node *n);
/* The mapping N (may be NULL) by a table of parameters; `skip` (may be NULL) is a key that is not looked at. */
json_t *sq_norm_params(struct sq_norm *c, const char *label, const struct sq_param *params, const struct sq_node *n,
                       struct sq_pos at, const char *skip);
/* A list of threshold strings. */
json_t *sq_norm_thresholds(struct sq_norm *c, const char *label, const struct sq_node *n);
/* One threshold, "p(95)<500ms" (EVIDENCE.md); 0 or -EINVAL with E. */
int sq_threshold_parse(const char *text, json_t **out, struct sq_err *e);
/* Reports and returns false when NAME can't be a name of services, endpoints and steps ([a-z0-9][a-z0-9._-]{0,62};
 * edges also two of them with -> between). */
bool sq_norm_name(struct sq_norm *c, const char *what, const struct sq_node *at, bool edge);
/* Reports when TEXT is no extended regular expression, or one that would take regcomp(3) for ever. */
void sq_norm_regex(struct sq_norm *c, const char *label, struct sq_pos at, const char *text);
/* PATH as seen from the folder BASE: malloc'd, absolute. */
char *sq_norm_path(const char *base, const char *path);
/* For lists of names in hints: "a, b, c". */
char *sq_norm_keys(const json_t *o, char *buf, size_t len);
/* `no service "x"` with the nearest or all of the names that object O has. */
void sq_norm_no_such(struct sq_norm *c, struct sq_pos at, const char *what, const char *name, const json_t *o);

/* finish() of sections, by file. */
void sq_finish_service(struct sq_norm *c, const char *label, const struct sq_node *n, json_t *o);
void sq_finish_ready(struct sq_norm *c, const char *label, const struct sq_node *n, json_t *o);
void sq_finish_select(struct sq_norm *c, const char *label, const struct sq_node *n, json_t *o);
void sq_finish_edge(struct sq_norm *c, const char *label, const struct sq_node *n, json_t *o);
void sq_finish_endpoint(struct sq_norm *c, const char *label, const struct sq_node *n, json_t *o);
void sq_finish_request(struct sq_norm *c, const char *label, const struct sq_node *n, json_t *o);
void sq_finish_tls(struct sq_norm *c, const char *label, const struct sq_node *n, json_t *o);
void sq_finish_capture(struct sq_norm *c, const char *label, const struct sq_node *n, json_t *o);
void sq_finish_step_request(struct sq_norm *c, const char *label, const struct sq_node *n, json_t *o);
void sq_finish_step(struct sq_norm *c, const char *label, const struct sq_node *n, json_t *o);
void sq_finish_check(struct sq_norm *c, const char *label, const struct sq_node *n, json_t *o);
void sq_finish_alerts(struct sq_norm *c, const char *label, const struct sq_node *n, json_t *o);
void sq_finish_compare(struct sq_norm *c, const char *label, const struct sq_node *n, json_t *o);
void sq_finish_abort(struct sq_norm *c, const char *label, const struct sq_node *n, json_t *o);

/* Whatever needs the whole scenario: references, port clashes, sums, sizes of samples. ROOT is what DOC was made from.
 */
void sq_semantic_check(struct sq_norm *c, const struct sq_node *root, json_t *doc);
void sq_semantic_verify(struct sq_norm *c, const struct sq_node *spec_node, json_t *spec);

#endif
