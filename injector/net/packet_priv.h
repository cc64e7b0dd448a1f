/* Inside of the packet backend's devices (net/packet_device.c, packet_make.c, packet_watch.c). */
#ifndef SQUALL_PACKET_PRIV_H
#define SQUALL_PACKET_PRIV_H

#include <uv.h>

#include "net/attach.h"
#include "net/classifier.h"
#include "net/packet_device.h"
#include "net/packet_process.h"
#include "page.h"

enum { EGRESS, INGRESS, DIRECTIONS };

struct sq_packet_slot {
    char fault[16]; /* "": free */
    bool stage;     /* the process has it; else BPF does: loss alone */
};

struct sq_packet_device {
    struct sq_packet_device *next;
    struct sq_packet_devices *ds;
    uint64_t cookie, ino; /* of its namespace */
    int ifindex;
    char ifname[16], ns_name[96];
    char tap[DIRECTIONS][16];
    json_t *ns; /* sq_netns_record */
    struct sq_attach *attach[DIRECTIONS];
    struct sq_classifier *rules[DIRECTIONS];
    struct sq_packet_process process;
    const volatile uint64_t *beat; /* mapped */
    struct sq_watch watch;
    struct sq_packet_slot slot[DIRECTIONS][SQ_CLASSIFY_FAULTS];
    unsigned n_faults;
    bool loopback, clsact_made;
    bool noted;    /* there is something that does not end with the process: filters, sysctls */
    int lo_was[2]; /* sysctls of loopback, see net/loopback.h */
    bool owed;     /* it drains, and `debt` is the journal's slot with the undo record of that */
    unsigned debt;
    enum {
        SQ_PD_LIVE,
        SQ_PD_DRAINING, /* without faults; its process leaves when it holds nothing any more */
        SQ_PD_DEAD,     /* its process died, or its interface is gone: stays until its faults have ended */
    } state;
    int64_t drain_until;
    char why[128]; /* it is dead */
};

struct sq_packet_devices {
    struct sq_engine *eng;
    struct sq_netns home; /* squalld's own: what it makes elsewhere would keep that alive */
    char owner[48];       /* squalld's pid and start: unique for the boot */
    bool clsact;          /* no tcx */
    bool looked;          /* `env` is known */
    struct sq_classify_env env;
    uv_timer_t timer;
    bool closing;
    void (*done)(void *arg);
    void *arg;
    struct sq_packet_device *list;
};

/* packet_make.c */
struct sq_packet_device *sq_packet_make(struct sq_packet_devices *ds, const struct sq_shape *s, struct sq_err *e);
/* Take away what does not end with the process. Once. */
void sq_packet_detach(struct sq_packet_device *d);
/* Nothing of it is left that the journal should know. */
void sq_packet_settle(struct sq_packet_device *d);
/* That, and close everything; the process is ended before, or dead. */
void sq_packet_unmake(struct sq_packet_device *d);
void sq_packet_process_name(char *buf, size_t len, const char *owner, uint64_t cookie, int ifindex);
void sq_packet_alias(char *buf, size_t len, const char *owner);
#define SQ_PACKET_TAPS 4 /* names of an interface's TAPs in one direction: an earlier one may still drain */
void sq_packet_tap_name(char *buf, size_t len, int ifindex, bool ingress, unsigned n);

/* packet_watch.c */
void sq_packet_look(uv_timer_t *t);
void sq_packet_drop(struct sq_packet_device *d); /* out of the list, freed */

#endif
