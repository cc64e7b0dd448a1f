/* The inside of `squall exec`, shared by exec.c and exec_args.c. Not for others. */
#ifndef CONTROLLER_COMMANDS_EXEC_H
#define CONTROLLER_COMMANDS_EXEC_H

#include <jansson.h>
#include <stdint.h>
#include <uv.h>

#include "commands/command.h"
#include "run/session.h"
#include "squall/spec.h"

#define SQ_EXEC_EDGES 64
#define SQ_EXEC_FAULTS 32

struct exec_edge {
    char name[96];
    json_t *to;
    uint64_t calls, hit, refused;
};

struct exec_fault {
    struct exec *x;
    const struct sq_fault_spec *spec;
    json_t *with;
    const char *percent, *on;
    int64_t after_ns, duration_ns; /* -1: not given */
    char id[32];
    uv_timer_t timer;
    bool timed;
};

struct exec {
    struct sq_term *t;
    const struct sq_args *args;
    struct sq_session *s;
    struct exec_edge edges[SQ_EXEC_EDGES];
    size_t n_edges;
    struct exec_fault faults[SQ_EXEC_FAULTS];
    size_t n_faults;
    char run[64];
    uv_timer_t renew, poll;
    uv_signal_t sig[4];
    uv_process_t child;
    bool handles, child_up, child_done, polling, lost;
    int status, term_sig;
    int64_t after;
    unsigned quiet_polls;
    int gate[2]; /* pipe; -1: none */
};

struct exec_edge *sq_exec_edge(struct exec *x, const char *name); /* NULL: no such edge */
/* From x->args to x->edges and x->faults, checked. 0, else the exit code after an error was printed. */
int sq_exec_read(struct exec *x);

#endif
