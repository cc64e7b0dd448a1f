/* The shape of a scenario as tables: what every mapping takes. Validation, defaults, `squall explain` and completion
 * read them. What no table can say (references, sums, ranges that depend on others) is in services.c, steps.c and
 * semantic.c. */
#ifndef CONTROLLER_SCENARIO_SCHEMA_H
#define CONTROLLER_SCENARIO_SCHEMA_H

#include "scenario/diag.h"
#include "scenario/yaml.h"
#include "squall/spec.h"

struct sq_norm; /* normalize.h */
struct sq_section;

enum sq_shape {
    SQ_F_VALUE,      /* a value of the type p.type */
    SQ_F_TEXTS,      /* a scalar or a list of scalars -> list of strings */
    SQ_F_TEXTMAP,    /* a mapping of scalars -> object of strings */
    SQ_F_SECTION,    /* a mapping as `section` says */
    SQ_F_NAMED,      /* a mapping of names to such mappings */
    SQ_F_LIST,       /* a list of such mappings */
    SQ_F_THRESHOLDS, /* a list of thresholds ("p(95)<500ms") -> list of objects (EVIDENCE.md) */
    SQ_F_STATUS,     /* an HTTP status or a list of them -> list of integers */
    SQ_F_LATER,      /* any; the section's finish() reads it */
};

struct sq_field {
    struct sq_param p; /* name, flags, def, doc of every shape; type and values of SQ_F_VALUE */
    enum sq_shape shape;
    const struct sq_section *section;
    double min, max; /* of numbers, ns, per second, percent, items; max 0: no limits */
};

struct sq_section {
    const char *name; /* "service": in messages and for `squall explain` */
    const char *doc;
    const struct sq_field *fields; /* ends with p.name NULL */
    /* After the fields: checks among them and what is read later. LABEL names the mapping in messages ("service shop").
     * Reports to the diagnostics of the context; O is the normalized object. */
    void (*finish)(struct sq_norm *c, const char *label, const struct sq_node *n, json_t *o);
};

extern const struct sq_section sq_section_scenario;
/* Every section by name; *n of them. */
const struct sq_section *const *sq_sections(size_t *n);
const struct sq_section *sq_section_find(const char *name);
/* What a field takes, for people: "duration", "list of stages". Writes at most len bytes, returns buf. */
char *sq_field_type(const struct sq_field *f, char *buf, size_t len);

#endif
