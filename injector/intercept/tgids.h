/* Processes that are callers, by thread group id: written by squalld and follow.bpf.c, read by the hooks
 * (caller.bpf.h). */
#ifndef SQUALL_INTERCEPT_TGIDS_H
#define SQUALL_INTERCEPT_TGIDS_H

#include <stdint.h>

#define SQ_TGIDS 32768u /* of one service, with all that they fork */

/* Whose a process is. */
struct sq_tgid {
    uint32_t caller, slot;
};

#endif
