/* The live injector: runs, their leases, their faults, edges and services, on one uv loop and one thread. The API calls
 * it; it calls fault kinds, services and interception, and journals every undo before anything is touched. */
#ifndef SQUALL_ENGINE_H
#define SQUALL_ENGINE_H

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>
#include <uv.h>

#include "faults/fault.h"
#include "intercept/intercept.h"
#include "journal.h"
#include "squall/err.h"

struct sq_services;       /* service.h */
struct sq_packet_devices; /* net/packet_device.h */
struct sq_cuts;           /* net/cut.h */
struct sq_page;           /* page.h */
struct sq_beat_page;

struct sq_engine_opts {
    uv_loop_t *loop;
    const char *dir;  /* RUN/<injector id> */
    const char *self; /* path of the squalld executable */
    bool is_private;
    struct sq_journal *journal; /* borrowed */
    struct sq_page *page;       /* shared with the keeper; borrowed */
    struct sq_beat_page *beats; /* shared with the proxy; borrowed */
    int beat_fd;                /* the memfd of `beats`; borrowed */
    int keeper_fd;              /* our end of the pair to the keeper; borrowed. -1: there is none (fuzzing) */
    void (*quit)(void *arg);    /* somebody asked a private injector to leave (POST /v1/quit) */
    void *arg;
};

int sq_engine_new(const struct sq_engine_opts *o, struct sq_engine **out, struct sq_err *e);
/* End every run; done() when everything is taken back and closed. What could not be taken back is still in the journal.
 * sq_engine_free afterwards. */
void sq_engine_stop(struct sq_engine *eng, void (*done)(void *arg), void *arg);
void sq_engine_free(struct sq_engine *eng);
/* Show the keeper that we live. Whatever works for long on the loop's thread calls it between its steps. */
void sq_engine_beat(struct sq_engine *eng);
/* For what is known to take long (patience.h). */
struct sq_patience *sq_engine_patience(struct sq_engine *eng);

uv_loop_t *sq_engine_loop(struct sq_engine *eng);
struct sq_journal *sq_engine_journal(struct sq_engine *eng);
struct sq_intercept *sq_engine_intercept(struct sq_engine *eng);
struct sq_services *sq_engine_services(struct sq_engine *eng);
struct sq_cuts **sq_engine_cuts(struct sq_engine *eng); /* net/cut.c's own cell */
const char *sq_engine_dir(struct sq_engine *eng);
const char *sq_engine_self(struct sq_engine *eng);
/* An event for the evidence of a run ("" or NULL: all runs). Takes OBJ; adds seq and at (unless "at" is there). */
void sq_engine_event(struct sq_engine *eng, const char *run_id, json_t *obj);
/* A dup of a seccomp listener for the keeper (owned by the callee); fd -1: forget KEY. */
void sq_engine_listener(struct sq_engine *eng, uint64_t key, int fd, int door);

/* What the netem backend knows of the devices it is on: its own (net/netem_shaper.c). */
void **sq_engine_netem(struct sq_engine *eng);
int64_t *sq_engine_looking(struct sq_engine *eng);   /* looking.c: ns that one look at each active fault takes */
uint32_t *sq_engine_backends(struct sq_engine *eng); /* of network faults: bits of those whose check has passed */
/* What F acts on is gone (an interface, a namespace): take it back now, say BY in the event, and forget it. F is freed.
 */
void sq_engine_fault_over(struct sq_fault *f, const char *by);

struct sq_packet_devices *sq_engine_packets(struct sq_engine *eng); /* of the packet backend */
/* The id of the run that the fault with this id belongs to; NULL: there is none. */
const char *sq_engine_run_of(struct sq_engine *eng, const char *fault);

const char *sq_run_id(const struct sq_run *run);
/* A fault of RUN is about to change the network namespace of the record NETNS (net/netns.h), called NAME: how it is
 * now is kept for snapshots, unless one has been in it before. */
void sq_run_touches(struct sq_run *run, const json_t *netns, const char *name);
/* The probe's path as the controller gave it ("probe" of POST /v1/runs), as sq_match_probe makes it of that; borrowed.
 */
const json_t *sq_engine_probe(const struct sq_run *run);
uint64_t sq_run_seed(const struct sq_run *run);
struct sq_run *sq_run_find(struct sq_engine *eng, const char *run_id);

#endif
