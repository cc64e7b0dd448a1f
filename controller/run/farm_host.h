/* One host of a farm: its injector, the run there, the agent. Only farm.c looks in here. */
#ifndef CONTROLLER_RUN_FARM_HOST_H
#define CONTROLLER_RUN_FARM_HOST_H

#include "probe/window.h"
#include "run/client.h"
#include "run/farm.h"

struct sq_farm_host {
    struct sq_farm *farm;
    const char *name;
    struct sq_client *client;
    char run[64]; /* "": none yet */
    json_t *load; /* what is sent from here */
    uv_timer_t renew, poll;
    bool timers; /* they are open */
    bool ready, begun, over, gone, deleting, asking, hurry, stop;
    /* ready: the clock is known; over: its last record is here, or will never come; gone: its run has ended there */
    char lost[512]; /* why there will be no more of it; "": all is well */
    int64_t after;
    unsigned questions;                    /* of the clock, still to be asked */
    int64_t asked_ns, offset_ns, error_ns; /* its clock - ours */
    json_t *ends;
    struct sq_window_ring *window;
    int64_t seconds; /* that it has told of */
    struct sq_probe_live live;
};

/* In order: */
int sq_farm_host_open(struct sq_farm_host *h, const char *socket, unsigned window_s, struct sq_err *e);
void sq_farm_host_begin(struct sq_farm_host *h);               /* a run there, and its clock; then sq_farm_ready */
void sq_farm_host_send(struct sq_farm_host *h, json_t *order); /* takes ORDER; then sq_farm_begun */
void sq_farm_host_stop(struct sq_farm_host *h, bool now);
unsigned sq_farm_host_close(struct sq_farm_host *h); /* sq_farm_closed will be called so many times from the loop */
void sq_farm_host_clear(struct sq_farm_host *h);

/* farm.c */
void sq_farm_ready(struct sq_farm *f);
void sq_farm_begun(struct sq_farm *f);
void sq_farm_take(struct sq_farm_host *h, json_t *sample); /* a new reference is made when it is kept */
void sq_farm_lost(struct sq_farm_host *h);
void sq_farm_log(struct sq_farm *f, const char *type, json_t *rec);
const struct sq_farm_opts *sq_farm_options(const struct sq_farm *f);
void sq_farm_closed(struct sq_farm *f);
int64_t sq_farm_zero_ns(const struct sq_farm *f);

#endif
