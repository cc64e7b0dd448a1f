/* The pieces of netem's tree on one device, in the calling thread's network namespace.
 *
 *   root htb 5c1a: ── class 5c1a:1, without a limit ── a leaf like the queue that was there before
 *                  ├─ class 5c1a:SBB ── netem 4xxx:      one a fault: slot S of its injector (1..31), bit BB (00..7f)
 *                  └─ filter pref S, bpf, "squall-..."   one an injector: the classifier that chooses the class
 *
 * With `insert: classful` the same classes hang below somebody else's HTB, as M:CSBB. An injector's slot has a class as
 * long as it has a fault there, so that whoever takes the last fault of all back can tell from the kernel alone. */
#ifndef SQUALL_TREE_H
#define SQUALL_TREE_H

#include <stdbool.h>
#include <stdint.h>

#include "net/impair.h"
#include "squall/err.h"

#define SQ_TREE_HANDLE 0x5c1a0000u /* 5c1a: in tc's notation */
#define SQ_TREE_SLOTS 31
#define SQ_TREE_FOREIGN 0xc000u /* or'ed to our minors below a foreign root */
#define SQ_TREE_INGRESS 0xfffffff2u
#define SQ_TREE_PREF_INGRESS                                                                                           \
    65000u /* + slot: behind all filters of others, which the kernel numbers from 49152 down                           \
            */

static inline uint32_t sq_tree_minor(unsigned slot, unsigned bit)
{
    return slot << 8 | bit;
}
static inline uint32_t sq_tree_leaf(unsigned slot, unsigned bit)
{
    return (0x4000u | slot << 7 | bit) << 16;
}

/* What is at the root of a device, and at its ingress. */
struct sq_tree {
    char kind[32];    /* of the root; "" when there is none */
    uint32_t handle;  /* 0: the kernel's own default */
    char queue[32];   /* a queue that packets pass today: the root's kind, or of the first one below mq */
    char ingress[32]; /* "clsact", "ingress" or "" */
    bool leaf;        /* there are queues that drain below the root */
    uint32_t backlog; /* packets in all of them */
};
int sq_tree_look(int ifindex, struct sq_tree *t, struct sq_err *e);

/* Our root, its default class and leaf (QUEUE as sq_tree_look gave it); success when it is there already. */
int sq_tree_root_add(int ifindex, const char *queue, struct sq_err *e);
int sq_tree_root_del(int ifindex, struct sq_err *e); /* nothing when it is not ours, or gone */
int sq_tree_clsact_add(int ifindex, struct sq_err *e);
int sq_tree_clsact_del(int ifindex, struct sq_err *e);

struct sq_tree_filter {
    char name[64];
    uint32_t prog;   /* id of the BPF program; 0: no bpf filter */
    uint32_t parent; /* as asked */
    uint16_t pref;
    unsigned all;    /* filters at this parent */
    unsigned others; /* those of others than netem faults */
    uint16_t least;  /* their smallest preference; 0: none */
};
/* PREF's filter at PARENT (SQ_TREE_INGRESS or a qdisc's handle): -ENOENT when there is none (others is filled). */
int sq_tree_filter_find(int ifindex, uint32_t parent, uint16_t pref, struct sq_tree_filter *f, struct sq_err *e);
#define SQ_TREE_DIRECT (-1) /* the program itself says what becomes of a packet */
/* REDIRECT: the ifb that matching packets go to; 0: none, the program chooses a class; or SQ_TREE_DIRECT. */
int sq_tree_filter_add(int ifindex, uint32_t parent, uint16_t pref, int prog_fd, const char *name, int redirect,
                       struct sq_err *e);
int sq_tree_filter_del(int ifindex, uint32_t parent, uint16_t pref, struct sq_err *e);

int sq_tree_class_add(int ifindex, uint32_t classid, struct sq_err *e); /* without a limit, a child of the root */
int sq_tree_class_del(int ifindex, uint32_t classid, struct sq_err *e); /* with its leaf; success when it is gone */
struct sq_tree_classes {
    unsigned slot, others; /* classes of the slot; of other slots (not the default class) */
    bool it;               /* the very class is there */
    bool foreign;          /* a class in our range below a foreign root that has no leaf of ours: somebody else's */
};
int sq_tree_classes(int ifindex, uint32_t classid, struct sq_tree_classes *c, struct sq_err *e);

struct sq_tree_netem {
    struct sq_impair im; /* nothing to clear */
    uint64_t bytes, packets;
    uint32_t held, dropped;
};
/* CHANGE: in place; no packet that is held is lost. */
int sq_tree_netem_put(int ifindex, uint32_t classid, uint32_t handle, const struct sq_impair *im, bool change,
                      struct sq_err *e);
int sq_tree_netem_read(int ifindex, uint32_t classid, uint32_t handle, struct sq_tree_netem *n, struct sq_err *e);

/* Our ifb for what comes in by IFINDEX: up, of a link group that says whose it is. Its index, or -errno. CLSACT: we
 * made the device's clsact and shall remove it. */
int sq_ifb_add(int ifindex, bool clsact, struct sq_err *e);
/* 0: none. */
int sq_ifb_find(int ifindex, bool *clsact, struct sq_err *e);
int sq_ifb_del(int ifb, struct sq_err *e);

#endif
