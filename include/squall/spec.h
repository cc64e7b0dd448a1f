/* Schemas: what a fault, a target or a check takes. Declared as tables in the file of the thing itself; validation,
 * `squall explain`, completion and the docs read them. A value arrives as people write it ("200ms", "30%") and leaves
 * normalized: durations as integer nanoseconds, percentages 0..100 and rates per second as reals, errno and signals as
 * integers, everything else unchanged. */
#ifndef SQUALL_SPEC_H
#define SQUALL_SPEC_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>

#include "squall/err.h"

enum sq_ptype {
    SQ_P_STRING,
    SQ_P_BOOL,
    SQ_P_INT,
    SQ_P_NUMBER,
    SQ_P_DURATION, /* "200ms" -> 200000000 */
    SQ_P_RATE,     /* "60/s" -> 60.0 */
    SQ_P_PERCENT,  /* "30%" or 30 -> 30.0 */
    SQ_P_ERRNO,    /* "ECONNREFUSED" -> 111 */
    SQ_P_SIGNAL,   /* "KILL" -> 9 */
    SQ_P_COUNT,    /* 1 | "30%" | "all", kept as a string */
    SQ_P_ENUM,     /* one of `values`, separated by '|' */
    SQ_P_STRINGS,  /* a string or a list of strings -> list */
    SQ_P_MAP,      /* a mapping: by `fields`, or (NULL) checked by whoever reads it */
    SQ_P_MAPS,     /* a mapping or a list of mappings -> list, each by `fields` */
};

#define SQ_REQUIRED 1u

struct sq_param {
    const char *name;
    enum sq_ptype type;
    unsigned flags;
    const char *def;               /* as a person would write it; NULL: none */
    const char *values;            /* SQ_P_ENUM: "a|b|c" */
    const char *doc;               /* one sentence */
    const struct sq_param *fields; /* SQ_P_MAP, SQ_P_MAPS: what is in it; ends with SQ_PARAM_END */
};
#define SQ_PARAM_END                                                                                                   \
    {                                                                                                                  \
        NULL, SQ_P_STRING, 0, NULL, NULL, NULL                                                                         \
    }

/* Of faults whose dose can be set. 0 is a control step: everything is done but the harm. */
#define SQ_PARAM_DOSE                                                                                                  \
    {                                                                                                                  \
        "dose", SQ_P_PERCENT, 0, NULL, NULL,                                                                           \
            "how much of it (default 100%); 0% does everything but the harm: a control"                                \
    }

/* What a fault acts on. */
enum sq_target { SQ_T_PROCESS, SQ_T_EDGE, SQ_T_NETWORK, SQ_T_PARTITION };

struct sq_fault_spec {
    const char *name; /* "process/kill" */
    const char *doc;  /* one sentence: what it does to whom */
    enum sq_target target;
    const struct sq_param *with; /* ends with SQ_PARAM_END */
};

/* All fault kinds, from injector/faults/kinds.def. */
size_t sq_fault_specs(const struct sq_fault_spec *const **out);
const struct sq_fault_spec *sq_fault_spec_find(const char *name); /* NULL: no such kind */
/* The parameters of a target type. */
const struct sq_param *sq_target_params(enum sq_target t);

/* Check IN (object or NULL), written by a person, against PARAMS and give the normalized object with defaults filled in
 * (new reference). Unknown keys are errors with a hint for the nearest known one. `what` names the thing in messages
 * ("call/latency"). *bad_key (may be NULL) is the offending key (borrowed from IN or PARAMS), *bad_is_key 1 when the
 * key itself is wrong (unknown), 0 when its value is, so that a caller who knows positions can point at it. */
int sq_spec_check(const char *what, const struct sq_param *params, const json_t *in, json_t **out, const char **bad_key,
                  int *bad_is_key, struct sq_err *e);
/* The same for programs: what is normalized already (integer nanoseconds, rates per second) is taken as it is. */
int sq_spec_normalize(const char *what, const struct sq_param *params, const json_t *in, json_t **out,
                      struct sq_err *e);
const char *sq_ptype_name(enum sq_ptype t); /* "duration" */
/* call/http_...: what its schema can't say of WITH (normalized) and of `match` in TARGET, and that no other kind has a
 * `match`. -EINVAL or -E2BIG, class SQ_C_INPUT; WHERE: "target/match" or "with/KEY". */
bool sq_is_http_fault(const char *name);
int sq_http_check(const char *name, const json_t *target, const json_t *with, char *where, size_t size,
                  struct sq_err *e);
/* The candidate nearest to WORD (Damerau-Levenshtein distance <= 2 and < half its length); NULL: none. */
const char *sq_nearest(const char *word, const char *const *candidates, size_t n);

#endif
