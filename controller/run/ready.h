/* Is a service ready? Tries again every 50 ms until it is or its time is up. Asynchronous, on the run loop. */
#ifndef CONTROLLER_RUN_READY_H
#define CONTROLLER_RUN_READY_H

#include <stdbool.h>
#include <stdint.h>
#include <uv.h>

#include "squall/err.h"

enum sq_ready_how {
    SQ_READY_TCP,  /* something accepts on the port of 127.0.0.1 or ::1 */
    SQ_READY_HTTP, /* ... and answers GET <path> with 200 to 399 */
    SQ_READY_UNIX, /* something accepts on the socket <path> */
};

/* Has somebody PORT of 127.0.0.1 already? Privileged ports can't be tried: false. */
bool sq_port_taken(uint16_t port);

struct sq_ready_opts {
    enum sq_ready_how how;
    uint16_t port;
    const char *path; /* copied */
    const char *name; /* for messages: "checkout.0"; copied */
    int64_t within_ns;
};

struct sq_ready;

/* E NULL: ready; else -ETIMEDOUT with the last attempt's reason. The check is freed by itself right after. */
typedef void sq_ready_done(void *arg, const struct sq_err *e);

/* DONE is called once, from the loop, unless sq_ready_cancel comes first. */
int sq_ready_start(uv_loop_t *loop, const struct sq_ready_opts *o, sq_ready_done *done, void *arg,
                   struct sq_ready **out, struct sq_err *e);
void sq_ready_cancel(struct sq_ready *r);

#endif
