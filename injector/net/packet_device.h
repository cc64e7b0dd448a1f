/* The packet backend's devices of one injector: for each interface (namespace cookie and number) with a fault, one
 * process, two TAPs, and the programs that lead packets through them. Made with the first fault, ended with the last:
 * the rules go first, then the process sends on what it still holds, then it leaves. */
#ifndef SQUALL_PACKET_DEVICE_H
#define SQUALL_PACKET_DEVICE_H

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

#include "net/classifier.h"
#include "net/shaper.h"
#include "packet/redirect.h"
#include "packet/wire.h"
#include "squall/err.h"

struct sq_packet_devices;
struct sq_packet_device;

int sq_packet_devices_new(struct sq_engine *eng, struct sq_packet_devices **out, struct sq_err *e);
/* Waits for what drains (a few seconds at most); then DONE. Nothing may be asked of it after this call. */
void sq_packet_devices_free(struct sq_packet_devices *ds, void (*done)(void *arg), void *arg);

/* Whose the TAPs and the process of this injector are: in undo records, interface aliases and command lines. */
const char *sq_packet_owner(const struct sq_packet_devices *ds);
/* Does this kernel attach by clsact (it has no tcx)? */
bool sq_packet_clsact(const struct sq_packet_devices *ds);
/* What its BPF can; looked at once. */
const struct sq_classify_env *sq_packet_env(struct sq_packet_devices *ds);

struct sq_packet_device *sq_packet_find(struct sq_packet_devices *ds, const struct sq_netns *ns, int ifindex);
/* Is there anything in the way of a device for S (somebody else's, or an interface that can't)? Touches nothing. */
int sq_packet_may(struct sq_packet_devices *ds, const struct sq_shape *s, struct sq_err *e);
/* The fault S->fault in S's direction: its rules, and its stage or loss. Makes the device if there is none. */
int sq_packet_add(struct sq_packet_devices *ds, const struct sq_shape *s, struct sq_err *e);
int sq_packet_change(struct sq_packet_device *d, const struct sq_shape *s, struct sq_err *e);
/* The fault with this undo record, if it is there. With its last fault the device ends. */
void sq_packet_remove(struct sq_packet_devices *ds, const json_t *undo);
/* Is the fault in force? -ENOENT: there is no such fault; 0; or why it is not. */
int sq_packet_verify(struct sq_packet_device *d, const struct sq_shape *s, struct sq_err *e);

/* Independent loss and nothing else: carried out in BPF, without a detour through the process. */
bool sq_packet_loss_alone(const struct sq_impair *im);

/* Packets that matched, without asking the process. */
int sq_packet_count(struct sq_packet_device *d, const struct sq_shape *s, struct sq_classify_count *out,
                    struct sq_err *e);

/* What was there before the device that is on this interface now (if there is one). */
bool sq_packet_before(struct sq_packet_devices *ds, const struct sq_netns *ns, int ifindex, bool *clsact_made,
                      int lo_was[2]);

struct sq_packet_info {
    pid_t pid;
    bool clsact;
    char tap[2][16];
};
void sq_packet_info(const struct sq_packet_device *d, struct sq_packet_info *out);
/* All of them, for a snapshot: [{"pid", "interface", "namespace", "state", "taps"}]; state `draining`: without faults,
 * its process leaves when it has sent on what it holds. NULL: no memory. */
json_t *sq_packet_snapshot(const struct sq_packet_devices *ds);

/* By record alone, in the interface's namespace (the calling thread's): for keeper and sweep, when squalld is dead. */
struct sq_packet_left {
    const char *owner;
    uint64_t cookie;
    int ifindex;
    bool clsact_made; /* the record's: there was no clsact before */
};
int sq_packet_take_back(const struct sq_packet_left *l, struct sq_err *e);
int sq_packet_is_gone(const struct sq_packet_left *l, struct sq_err *e);

#endif
