/* A backend of network faults: carries out one impairment for the packets that match, on one device in one direction.
 * Two exist: netem (net/netem_shaper.c: HTB + netem in the kernel) and packet (net/packet_shaper.c: Squall's own
 * process in user space). faults/network.c chooses (`backend: auto` = netem where the kernel has it, else packet),
 * builds one sq_shape for each direction, and calls the backend as the engine calls the fault (faults/fault.h). */
#ifndef SQUALL_SHAPER_H
#define SQUALL_SHAPER_H

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

#include "net/impair.h"
#include "net/match.h"
#include "net/netns.h"
#include "squall/err.h"

struct sq_engine;

struct sq_shape {
    struct sq_engine *engine;
    char fault[16];      /* id, for messages */
    struct sq_netns *ns; /* borrowed; open only during a call */
    int ifindex;
    char ifname[16];
    bool ingress;
    bool insert;                    /* `insert: classful`: below a root qdisc that is somebody else's */
    const struct sq_impair *impair; /* borrowed, valid while the shape lives */
    const struct sq_match *match;   /* borrowed; addresses resolved */
    void *priv;                     /* the backend's; freed by ops->free */
};

struct sq_shaper_ops {
    const char *name; /* "netem", "packet" */
    /* Can this kernel and process do it at all? Tried for real in a namespace of its own. Cached by the caller. */
    int (*check)(struct sq_engine *eng, struct sq_err *e);
    /* Can it do IMPAIR on this device now? Touches nothing; -EEXIST (SQ_C_CONFLICT) when somebody else's configuration
     * is in the way. NOTES (array) gets what the plan should say. */
    int (*plan)(const struct sq_shape *s, json_t *notes, struct sq_err *e);
    /* One undo record (object) for this shape; the caller adds "backend", "boot", "netns", "ifindex", "interface",
     * "ingress". Decides what will be taken (class number, bit), so that the record says all. */
    int (*undo)(struct sq_shape *s, json_t *record, struct sq_err *e);
    int (*apply)(struct sq_shape *s, struct sq_err *e);
    /* From the kernel (or the packet process) by value; a difference is -EBADE. Adds members to OUT. */
    int (*readback)(struct sq_shape *s, json_t *out, struct sq_err *e);
    /* s->impair and/or s->match have new values: no packet that is held is lost, none is held for nothing. */
    int (*change)(struct sq_shape *s, struct sq_err *e);
    int (*count)(struct sq_shape *s, uint64_t *packets, uint64_t *bytes, struct sq_err *e);
    /* By the record alone, inside its namespace (entered by the caller). ENG NULL in keeper and sweep. Idempotent. */
    int (*revert)(struct sq_engine *eng, const json_t *record, struct sq_err *e);
    int (*gone)(struct sq_engine *eng, const json_t *record, struct sq_err *e);
    void (*free)(struct sq_shape *s);
};

extern const struct sq_shaper_ops sq_shaper_netem, sq_shaper_packet;

#endif
