/* The contract of a fault kind. A kind is one file, `faults/<symbol>.c`, and one line in kinds.def. The file defines
 *
 *     const struct sq_fault_spec sq_spec_<symbol>;       schema: compiled into libsquall.a too (with -DSQ_SPEC_ONLY)
 *     #ifndef SQ_SPEC_ONLY
 *     const struct sq_fault_ops sq_ops_<symbol>;         what touches the host: squalld only
 *     #endif
 *
 * The engine calls: check, resolve, undo, [journal: fsync], apply, readback ... change ... revert (last in, first out).
 * An undo record is a JSON object that alone says how to take the fault back. `revert` gets nothing else, because the
 * keeper and a later sweep run it too; it is idempotent, and taking back what is already gone is success. */
#ifndef SQUALL_FAULT_H
#define SQUALL_FAULT_H

#include <jansson.h>
#include <stdint.h>
#include <sys/types.h>

#include "squall/err.h"
#include "squall/rng.h"
#include "squall/spec.h"

struct sq_engine;    /* injector/engine.h: the live injector */
struct sq_intercept; /* injector/intercept/intercept.h */
struct sq_run;       /* injector/engine.h: one run, the holder of a lease */

/* Who asked (SO_PEERCRED): signals and launches happen with these rights. */
struct sq_peer {
    uid_t uid;
    gid_t gid;
    pid_t pid;
};

/* One fault of one run, from the request to its end. Owned by the engine. */
struct sq_fault {
    char id[16]; /* "f1", unique within the injector's life */
    const struct sq_fault_spec *spec;
    const struct sq_fault_ops *ops;
    struct sq_run *run;
    struct sq_engine *engine;
    struct sq_peer peer;
    json_t *target;    /* normalized */
    json_t *with;      /* normalized */
    json_t *hit;       /* array, filled by resolve: what exactly will be touched, for people and evidence, e.g.
                          {"pid":12,"start":345,"cmd":"nginx ...","instance":"payments.0"} or {"edge":"checkout->payments"} */
    struct sq_rng rng; /* seeded from the run's seed and the fault's number */
    void *priv;        /* the kind's own; freed by ops->free */
};

struct sq_fault_ops {
    /* Can this host and user do it at all? 0, or -errno with why and (hint) how to get it. For `doctor`. */
    int (*check)(struct sq_engine *eng, struct sq_err *e);
    /* Find the targets and fill f->hit. Touches nothing; zero targets is -ESRCH. Used by `plan` alone, too. */
    int (*resolve)(struct sq_fault *f, struct sq_err *e);
    /* Append the undo records (objects) to RECORDS, in the order of applying. Prior state is read here. */
    int (*undo)(struct sq_fault *f, json_t *records, struct sq_err *e);
    /* Touch the host. On failure the engine reverts every record. */
    int (*apply)(struct sq_fault *f, struct sq_err *e);
    /* Read the applied state back by value into *out (new object); -EBADE when it is not what was asked. */
    int (*readback)(struct sq_fault *f, json_t **out, struct sq_err *e);
    /* New parameters (normalized) while active; NULL: this kind can't. The engine replaces f->with on success. */
    int (*change)(struct sq_fault *f, json_t *with, struct sq_err *e);
    /* What the fault has hit so far, by its own count: {"packets": n, "bytes": n}, said in the event of its end. NULL:
     * this kind does not count, or can't read it now. */
    json_t *(*felt)(struct sq_fault *f);
    /* Take one record back. ENG is NULL in the keeper and in a sweep. */
    int (*revert)(struct sq_engine *eng, const json_t *undo, struct sq_err *e);
    /* Is what this record undoes really gone? 0 yes; else -errno and what is left. Same callers as revert. */
    int (*gone)(struct sq_engine *eng, const json_t *undo, struct sq_err *e);
    void (*free)(struct sq_fault *f);
};

struct sq_fault_entry {
    const struct sq_fault_spec *spec;
    const struct sq_fault_ops *ops;
};
/* All kinds that squalld was built with, from kinds.def; *n entries. */
const struct sq_fault_entry *sq_fault_kinds(size_t *n);
const struct sq_fault_entry *sq_fault_kind_find(const char *name);

#endif
