/* The part of YAML that scenarios are written in: documents (of a scenario: one) of plain mappings, lists and scalars,
 * UTF-8. Anchors, aliases, tags, duplicate keys, keys that are no scalars, NUL and directives are refused with a
 * position, as is what is larger than the limits below. The tree keeps where everything stood. The only user of
 * libyaml. */
#ifndef CONTROLLER_SCENARIO_YAML_H
#define CONTROLLER_SCENARIO_YAML_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>

#include "scenario/diag.h"

#define SQ_YAML_MAX_BYTES ((size_t)1024 * 1024)
#define SQ_YAML_MAX_DEPTH 32
#define SQ_YAML_MAX_NODES 20000
#define SQ_YAML_MAX_KEY 128
#define SQ_YAML_MAX_SCALAR 65536

enum sq_node_kind { SQ_N_SCALAR, SQ_N_LIST, SQ_N_MAP };

struct sq_node {
    enum sq_node_kind kind;
    bool plain; /* a scalar without quotes: may be a number, true, false or null */
    struct sq_pos pos;
    char *text;             /* scalar: owned, never NULL, no NUL inside */
    size_t n;               /* LIST: items; MAP: pairs */
    struct sq_node **keys;  /* MAP: scalars */
    struct sq_node **items; /* LIST: items; MAP: values */
};

/* Parse LEN bytes. 0 and *out (free with sq_node_free), or -errno with at least one error in D. */
int sq_yaml_parse(const char *text, size_t len, struct sq_node **out, struct sq_diags *d);
/* The same for the file D->file; never reads more than SQ_YAML_MAX_BYTES + 1. */
int sq_yaml_read(struct sq_node **out, struct sq_diags *d);
/* The same for files of several documents: at most MAX (> 0) of them into DOCS, *n of them; none after an error. */
int sq_yaml_parse_all(const char *text, size_t len, size_t max, struct sq_node **docs, size_t *n, struct sq_diags *d);
int sq_yaml_read_all(size_t max, struct sq_node **docs, size_t *n, struct sq_diags *d);
void sq_node_free(struct sq_node *n);

/* The value of KEY in a mapping; NULL when N is NULL, no mapping, or has no such key. */
struct sq_node *sq_node_get(const struct sq_node *n, const char *key);
/* The key itself, for its position. */
const struct sq_node *sq_node_key(const struct sq_node *n, const char *key);
bool sq_node_is_null(const struct sq_node *n);
/* As JSON: plain scalars that look like numbers (as JSON writes them), true, false, null or ~ become what they look
 * like, everything else a string. New reference; NULL: no memory, or an integer that does not fit 64 bits. */
json_t *sq_node_json(const struct sq_node *n);

#endif
